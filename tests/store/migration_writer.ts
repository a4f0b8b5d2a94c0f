/**
 * The process that migration_test.ts kills: brings a database through a migration that takes a
 * while.
 *   migration_writer.ts <database>
 */
import { DatabaseSync } from "node:sqlite";
import { type Database, migrate } from "../../core/store/schema.ts";

const db = new DatabaseSync(Deno.args[0]!);
db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
const rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)";
const first = {
  version: 1,
  sql: `CREATE TABLE work (a INTEGER, b TEXT); INSERT INTO work ${rows} SELECT i, 'x' || i FROM n`,
};
const second = { version: 2, sql: "UPDATE work SET a = -a; CREATE INDEX work_b ON work (b)" };
migrate(db as unknown as Database, [first]);
console.log("begins");
migrate(db as unknown as Database, [first, second]);
db.close();
