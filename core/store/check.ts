/**
 * What `longwire doctor` looks for in a database: damage that SQLite finds, and what must hold
 * beyond it. Reads only; may run while the service does.
 */
import { type Database, migrations, type Row, schema_version } from "./schema.ts";

/** Findings listed of each kind. */
const findings_max = 20;

/** Statements that answer the rows that should not be, and what is wrong with each. */
const rules: readonly [sql: string, finding: (row: Row) => string][] = [
  [
    `SELECT DISTINCT topic FROM log WHERE topic NOT IN (SELECT id FROM topics)`,
    ({ topic }) => `log: messages of topic ${topic}, which is not in topics`,
  ],
  [
    `SELECT offset FROM log WHERE offset < 1 OR flags & ~7 OR flags & 3 = 3`,
    ({ offset }) => `log: the message at offset ${offset} is not valid`,
  ],
  [
    `SELECT offset FROM log WHERE properties IS NOT NULL AND NOT json_valid(properties)`,
    ({ offset }) => `log: the properties at offset ${offset} are not JSON`,
  ],
  [
    `SELECT topic FROM retained WHERE length(payload) = 0`,
    ({ topic }) => `retained: the message of ${topic} is not valid`,
  ],
  [
    `SELECT topic FROM retained WHERE offset > (SELECT ifnull(max(offset), 0) FROM log)`,
    ({ topic }) => `retained: the message of ${topic} is newer than the log`,
  ],
  [
    `SELECT id FROM sessions WHERE NOT json_valid(subscriptions)`,
    ({ id }) => `sessions: the subscriptions of ${id} are not JSON`,
  ],
  [
    `SELECT id FROM sessions WHERE cursor > (SELECT ifnull(max(offset), 0) FROM log)`,
    ({ id }) => `sessions: the cursor of ${id} is beyond the log`,
  ],
  [
    `SELECT name FROM topics WHERE trimmed > (SELECT ifnull(max(offset), 0) FROM log)`,
    ({ name }) => `topics: ${name} was trimmed beyond the log`,
  ],
];

/** Answers one sentence per finding; none = sound. */
export function check_database(db: Database): string[] {
  const findings: string[] = [];
  for (const row of db.prepare(`PRAGMA integrity_check(${findings_max})`).all()) {
    if (row.integrity_check !== "ok") findings.push(`database: ${row.integrity_check}`);
  }
  const newest = migrations.at(-1)!.version;
  const version = schema_version(db);
  if (version !== newest) {
    findings.push(`schema: version ${version}, this Longwire has version ${newest}`);
    return findings;
  }
  if (db.prepare("SELECT 1 FROM meta WHERE name = 'epoch'").get() === undefined) {
    findings.push("meta: the log has no epoch");
  }
  for (const [sql, finding] of rules) {
    for (const row of db.prepare(`${sql} LIMIT ${findings_max}`).all()) {
      findings.push(finding(row));
    }
  }
  return findings;
}
