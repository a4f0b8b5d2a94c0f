/**
 * A database of each schema version that was ever released, as that version wrote it. What is here
 * is history and never changes: a new version adds a builder and leaves the others alone.
 */
import { DatabaseSync } from "node:sqlite";

export const fixture_epoch = "6f1c2a4e-0000-4000-8000-000000000001";

/** The same content in every version, as far as the version knew it. */
export const fixtures: Readonly<Record<number, (path: string) => void>> = {
  1: (path) => {
    const db = new DatabaseSync(path);
    db.exec(`
      PRAGMA journal_mode = WAL;
      CREATE TABLE schema_version (version INTEGER PRIMARY KEY, time_ms INTEGER);
      CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
      CREATE TABLE topics (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        trimmed INTEGER NOT NULL DEFAULT 0
      ) STRICT;
      CREATE TABLE log (
        offset INTEGER PRIMARY KEY,
        topic INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        key TEXT,
        properties TEXT,
        payload BLOB NOT NULL
      ) STRICT;
      CREATE INDEX log_topic ON log (topic);
      CREATE INDEX log_expires ON log (expires_ms) WHERE expires_ms > 0;
      CREATE TABLE retained (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL UNIQUE,
        offset INTEGER NOT NULL,
        flags INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        key TEXT,
        properties TEXT,
        payload BLOB NOT NULL
      ) STRICT;
      CREATE INDEX retained_expires ON retained (expires_ms) WHERE expires_ms > 0;
      CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        cursor INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        subscriptions TEXT NOT NULL,
        state TEXT
      ) STRICT, WITHOUT ROWID;
      CREATE TABLE idempotency (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        offset INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL
      ) STRICT;

      INSERT INTO schema_version VALUES (1, 1790000000000);
      INSERT INTO meta VALUES ('epoch', '${fixture_epoch}'), ('clean', 1), ('boot_id', ''),
        ('synchronous', 'full'), ('trimmed', 2);
      INSERT INTO topics (name, trimmed) VALUES ('a/b', 2), ('größe', 0);
      INSERT INTO log VALUES
        (3, 1, 1, 1790000000003, 0, NULL, NULL, CAST('three' AS BLOB)),
        (4, 2, 6, 1790000000004, 4000000000000, 'k',
          '{"content_type":"text/plain","user_properties":[["x","y"]],"correlation_data":"AP8="}',
          CAST('four' AS BLOB)),
        (5, 1, 1, 1790000000005, 0, NULL, NULL, CAST('five' AS BLOB));
      INSERT INTO retained (topic, offset, flags, time_ms, expires_ms, payload) VALUES
        ('größe', 4, 6, 1790000000004, 4000000000000, CAST('four' AS BLOB)),
        ('status', 0, 4, 1790000000001, 0, CAST('up' AS BLOB));
      INSERT INTO sessions VALUES
        ('s1', 4, 0, '["a/+",1,17,"größe",2,4294967295]', '{"will":"gone"}'),
        ('s2', 5, 4000000000000, '[]', NULL);
      INSERT INTO idempotency (name, offset, expires_ms) VALUES
        ('tenant' || char(0) || 'key', 5, 4000000000000);
    `);
    db.close();
  },
};
