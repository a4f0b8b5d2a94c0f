/**
 * What rests in longwire.db, and how a database of an older version becomes one of this version.
 * Migrations are only ever appended; tests/store/migration_test.ts has a fixture of each version.
 */

/** What this room uses of a database connection; sqlite_worker.ts hands over node:sqlite's. */
export interface Statement {
  run(...values: Value[]): unknown;
  get(...values: Value[]): Row | undefined;
  all(...values: Value[]): Row[];
  iterate(...values: Value[]): Iterable<Row>;
  /** Rows become arrays of columns: half the cost of objects. */
  setReturnArrays(enabled: boolean): void;
}
export interface Database {
  exec(sql: string): void;
  prepare(sql: string): Statement;
  close(): void;
}
export type Value = null | number | string | Uint8Array;
// deno-lint-ignore no-explicit-any -- a row has the columns that its statement names
export type Row = Record<string, any>;

export interface Migration {
  readonly version: number;
  readonly sql: string;
}

/**
 * Version 1. `log` is in offset order, its index in (topic, offset) order: the rowid ends every
 * index entry. The newest row of the log is never deleted, so its offset is the head. `trimmed` is
 * the newest offset of the topic that retention removed (0 = none): where it is above a cursor,
 * there is a gap. Topic ids are never used twice (AUTOINCREMENT), for readers remember them.
 */
const version_1 = `
  CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;

  CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    trimmed INTEGER NOT NULL DEFAULT 0
  ) STRICT;

  CREATE TABLE log (
    offset INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL,
    flags INTEGER NOT NULL,       -- bits 0-1 QoS, bit 2 retain
    time_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,  -- 0 = never
    key TEXT,                     -- NULL = none
    properties TEXT,              -- JSON, NULL = none
    payload BLOB NOT NULL         -- last: what is before it is read without it
  ) STRICT;
  CREATE INDEX log_topic ON log (topic);
  CREATE INDEX log_expires ON log (expires_ms) WHERE expires_ms > 0;

  CREATE TABLE retained (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL UNIQUE,
    offset INTEGER NOT NULL,      -- 0 = was never in the log
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
    subscriptions TEXT NOT NULL,  -- JSON, [filter, QoS, options, filter, ...]
    state TEXT                    -- NULL = none
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE idempotency (
    id INTEGER PRIMARY KEY,       -- in the order of use, which is the order of expiry
    name TEXT NOT NULL UNIQUE,    -- scope, NUL, key
    offset INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
  ) STRICT;
`;

export const migrations: readonly Migration[] = [{ version: 1, sql: version_1 }];

/** The schema version of a database; 0 = it has none yet. */
export function schema_version(db: Database): number {
  const table = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'").get();
  if (table === undefined) return 0;
  return db.prepare("SELECT max(version) AS version FROM schema_version").get()!.version ?? 0;
}

/**
 * Brings a database to the newest version, one transaction per version. Throws when the database is
 * of a version that this program does not know.
 */
export function migrate(db: Database, list = migrations): void {
  const found = schema_version(db);
  const newest = list.at(-1)!.version;
  if (found > newest) {
    throw new Error(`written by a newer Longwire (schema ${found}, this one knows ${newest})`);
  }
  for (const { version, sql } of list) {
    if (version <= found) continue;
    db.exec("BEGIN IMMEDIATE");
    try {
      db.exec(`
        CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, time_ms INTEGER)
      `);
      db.exec(sql);
      db.prepare("INSERT INTO schema_version VALUES (?, ?)").run(version, Date.now());
      db.exec("COMMIT");
    } catch (error) {
      db.exec("ROLLBACK");
      throw error;
    }
  }
}
