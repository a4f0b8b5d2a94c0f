/**
 * The writing half of the SQLite store, inside its worker: applies batches, each wholly or not at
 * all, and between them keeps the log within its bounds in steps of about a millisecond. Nothing
 * else writes.
 */
import { default_tenant, is_reserved, plain_name, tenant_of } from "../namespace.ts";
import { filter_matches } from "../topic_tree.ts";
import { ByteReader, type MessageRow, Op, read_message_row, read_session_row } from "./codec.ts";
import type { RetentionRule } from "./mod.ts";
import type { Database, Row } from "./schema.ts";

/** What one step of housekeeping may do: bounds the time that an append waits for it. */
const step_rows_max = 256;
const step_bytes_max = 1 << 20;
/** Rules that one step looks at: each tenant has its own. */
const step_rules_max = 64;
/** Topic ids remembered. */
const topics_cached_max = 1 << 16;
/** Topics without messages whose trimmed offset is remembered. */
const topics_empty_max = 1 << 16;
/** Time from the start of one walk through all topics to the next. */
const sweep_pause_ms = 60_000;

export interface WriterOptions {
  readonly retention: readonly RetentionRule[];
  readonly idempotency_ttl_ms: number;
  /**
   * Trimmed topics are reported by name when they may be within this many of the newest messages.
   */
  readonly tail_messages_max: number;
  /** `topics_empty_max`, where a test makes it smaller. */
  readonly topics_empty_max?: number;
}

/** What a batch came to. */
export interface Applied {
  /** Offset of the first message written; the others follow. */
  readonly first: number;
  /** Offset and whether it is a duplicate (0 or 1), for each append_once of the batch. */
  readonly once: number[];
}

/** What a step of housekeeping removed. */
export interface Removed {
  /** Offset of the oldest message left. */
  first: number;
  trimmed: number;
  expired: number;
  /** Topic and newest trimmed offset, of topics that lost messages at or after `first`. */
  topics: [string, number][];
}

interface Topic {
  readonly id: number;
  /** Index of the rule that governs it; -1 = none. */
  readonly rule: number;
}

/** A rule for all tenants, or, where it bounds count or bytes, for one of them. */
interface RuleState {
  readonly rule: RetentionRule;
  readonly index: number;
  readonly tenant: string;
  /** Everything up to this offset is not this rule's, or gone. */
  floor: number;
  count: number;
  bytes: number;
}

const size_of_row = "octet_length(payload) + ifnull(octet_length(key), 0) + " +
  "ifnull(octet_length(properties), 0) AS size";

function statements(db: Database) {
  const columns = "(offset, topic, flags, time_ms, expires_ms, key, properties, payload)";
  return {
    begin: db.prepare("BEGIN IMMEDIATE"),
    commit: db.prepare("COMMIT"),
    insert: db.prepare(`INSERT INTO log ${columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?)`),
    topic: db.prepare("SELECT id FROM topics WHERE name = ?"),
    topic_name: db.prepare("SELECT name FROM topics WHERE id = ?"),
    add_topic: db.prepare("INSERT INTO topics (name) VALUES (?) RETURNING id"),
    retain: db.prepare(
      `INSERT INTO retained ${columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (topic) DO UPDATE SET offset = excluded.offset, flags = excluded.flags,
         time_ms = excluded.time_ms, expires_ms = excluded.expires_ms, key = excluded.key,
         properties = excluded.properties, payload = excluded.payload`,
    ),
    drop_retained: db.prepare("DELETE FROM retained WHERE topic = ?"),
    known: db.prepare("SELECT offset, expires_ms FROM idempotency WHERE name = ?"),
    forget: db.prepare("DELETE FROM idempotency WHERE name = ?"),
    remember: db.prepare("INSERT INTO idempotency (name, offset, expires_ms) VALUES (?, ?, ?)"),
    put_session: db.prepare(
      `INSERT OR REPLACE INTO sessions (id, cursor, expires_ms, subscriptions, state)
       VALUES (?, ?, ?, ?, ?)`,
    ),
    put_cursor: db.prepare("UPDATE sessions SET cursor = ? WHERE id = ?"),
    delete_session: db.prepare("DELETE FROM sessions WHERE id = ?"),
    bounds: db.prepare(
      "SELECT (SELECT min(offset) FROM log) AS first, (SELECT max(offset) FROM log) AS head",
    ),
    set_meta: db.prepare("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"),
    drop_meta: db.prepare("DELETE FROM meta WHERE name = ?"),
    get_meta: db.prepare("SELECT value FROM meta WHERE name = ?"),
    walk: db.prepare(
      `SELECT offset, topic, time_ms, expires_ms, ${size_of_row} FROM log
       WHERE offset > ? AND offset < ? ORDER BY offset LIMIT ${step_rows_max}`,
    ),
    due: db.prepare(
      `SELECT offset, topic, ${size_of_row} FROM log INDEXED BY log_expires
       WHERE expires_ms > 0 AND expires_ms <= ? AND offset < ?
       ORDER BY expires_ms LIMIT ${step_rows_max}`,
    ),
    delete_range: db.prepare("DELETE FROM log WHERE offset BETWEEN ? AND ?"),
    set_trimmed: db.prepare("UPDATE topics SET trimmed = ? WHERE id = ? AND trimmed < ?"),
    retained_due: db.prepare(
      "SELECT id FROM retained WHERE expires_ms > 0 AND expires_ms <= ? LIMIT 64",
    ),
    delete_retained: db.prepare("DELETE FROM retained WHERE id = ?"),
    keys_due: db.prepare(
      `SELECT id FROM (SELECT id, expires_ms FROM idempotency ORDER BY id LIMIT ${step_rows_max})
       WHERE expires_ms <= ?`,
    ),
    delete_key: db.prepare("DELETE FROM idempotency WHERE id = ?"),
    topics_from: db.prepare(
      `SELECT id, name, trimmed, NOT EXISTS (SELECT 1 FROM log WHERE topic = topics.id) AS empty
       FROM topics WHERE id > ? ORDER BY id LIMIT ${step_rows_max}`,
    ),
    delete_topic: db.prepare("DELETE FROM topics WHERE id = ?"),
  };
}

export class LogWriter {
  head = 0;
  first = 1;

  readonly #sql: ReturnType<typeof statements>;
  readonly #topics = new Map<string, Topic>();
  /** Rule by topic id, for the walks. */
  readonly #rule_of_id = new Map<number, number>();
  /** Those of the default tenant, in the order of the options; then those of other tenants. */
  readonly #rules: RuleState[];
  readonly #rule_of_tenant = new Map<string, number>();
  /** Whose turn to trim is, and how many in a row had nothing to trim. */
  #next_rule = 0;
  #idle_rules = 0;
  /** Whether any rule bounds count or bytes: else nothing needs counting. */
  readonly #counting: boolean;
  /** Rows up to `#counted` and after `#count_end` are in the rules' counts. */
  #counted = 0;
  #count_end = 0;
  /** Newest offset that retention removed anywhere. */
  #trimmed_max: number;
  /**
   * Sweep of topics without messages: where it is, what it found, whether there is cause for one.
   */
  #sweep_at = 0;
  #sweep_empty = 0;
  #sweep_purges = false;
  #sweep_due = true;
  #sweep_from_ms = 0;
  #next_step = 0;

  constructor(readonly db: Database, readonly options: WriterOptions) {
    const sql = this.#sql = statements(db);
    this.#rules = options.retention.map((rule, index) => new_state(rule, index, default_tenant));
    this.#counting = options.retention.some(is_counting);
    this.#read_bounds();
    this.#trimmed_max = Number(sql.get_meta.get("trimmed")?.value ?? 0);
    if (this.#counting) this.#load_counts();
  }

  /** Writes a batch in one transaction; throws SQLite's error when nothing was written. */
  apply(bytes: Uint8Array<ArrayBuffer>): Applied {
    const sql = this.#sql;
    const source = new ByteReader(bytes);
    const first = this.head + 1;
    const once: number[] = [];
    const counts = this.#rules.map(({ count, bytes }) => [count, bytes] as const);
    try {
      sql.begin.run();
      while (!source.done) this.#apply_one(source, once);
      sql.commit.run();
    } catch (error) {
      this.#roll_back();
      this.head = first - 1;
      // A tenant that this batch brought has nothing.
      this.#rules.forEach((state, index) => [state.count, state.bytes] = counts[index] ?? [0, 0]);
      throw error;
    }
    return { first, once };
  }

  #apply_one(source: ByteReader, once: number[]): void {
    const sql = this.#sql;
    switch (source.u8()) {
      case Op.append:
        return this.#append(source, source.u32());
      case Op.append_once:
        return this.#append_once(source, once);
      case Op.retain:
        return this.#retain(read_message_row(source), 0);
      case Op.put_session: {
        const { id, cursor, expires_ms, subscriptions, state } = read_session_row(source);
        sql.put_session.run(id, cursor, expires_ms, subscriptions, state === "" ? null : state);
        return;
      }
      case Op.put_cursor: {
        const id = source.text();
        sql.put_cursor.run(source.f64(), id);
        return;
      }
      case Op.delete_session:
        sql.delete_session.run(source.text());
        return;
      case Op.probe:
        sql.set_meta.run("probe", Date.now());
        return;
      default:
        throw new Error(`store: no such operation at ${source.at - 1}`);
    }
  }

  #append(source: ByteReader, count: number): void {
    const sql = this.#sql;
    for (let index = 0; index < count; index++) {
      const row = read_message_row(source);
      const topic = this.#topic(row.topic);
      const key = row.key === "" ? null : row.key;
      const properties = row.properties === "" ? null : row.properties;
      const { flags, time_ms, expires_ms, payload } = row;
      sql.insert.run(
        ++this.head,
        topic.id,
        flags,
        time_ms,
        expires_ms,
        key,
        properties,
        payload,
      );
      if ((flags & 4) !== 0) this.#retain(row, this.head);
      if (this.#counting && topic.rule >= 0) {
        const state = this.#rules[topic.rule]!;
        state.count++;
        state.bytes += row.size;
      }
    }
  }

  #append_once(source: ByteReader, once: number[]): void {
    const sql = this.#sql;
    const name = `${source.text()}\0${source.text()}`;
    const count = source.u32();
    const now_ms = Date.now();
    const known = sql.known.get(name);
    if (known !== undefined && known.expires_ms > now_ms) {
      for (let index = 0; index < count; index++) read_message_row(source);
      once.push(known.offset, 1);
      return;
    }
    if (known !== undefined) sql.forget.run(name);
    const offset = this.head + 1;
    this.#append(source, count);
    sql.remember.run(name, offset, now_ms + this.options.idempotency_ttl_ms);
    once.push(offset, 0);
  }

  #retain(row: MessageRow, offset: number): void {
    const { topic, flags, time_ms, expires_ms, payload } = row;
    if (payload.length === 0) {
      this.#sql.drop_retained.run(topic);
      return;
    }
    const key = row.key === "" ? null : row.key;
    const properties = row.properties === "" ? null : row.properties;
    this.#sql.retain.run(offset, topic, flags, time_ms, expires_ms, key, properties, payload);
  }

  #topic(name: string): Topic {
    const cached = this.#topics.get(name);
    if (cached !== undefined) return cached;
    const id: number = (this.#sql.topic.get(name) ?? this.#sql.add_topic.get(name))!.id;
    if (this.#topics.size >= topics_cached_max) {
      this.#topics.delete(this.#topics.keys().next().value!);
    }
    const topic = { id, rule: this.#rule_of(name) };
    this.#topics.set(name, topic);
    return topic;
  }

  /** Index of the rule that governs a topic, for its tenant; -1 = none. */
  #rule_of(name: string): number {
    const plain = plain_name(name);
    const { retention } = this.options;
    const index = retention.findIndex(({ filter }) =>
      filter === "#" || filter_matches(filter, plain)
    );
    const rule = retention[index];
    if (rule === undefined || !is_reserved(name) || !is_counting(rule)) return index;
    return this.#rule_of_other(rule, index, tenant_of(name));
  }

  #rule_of_other(rule: RetentionRule, index: number, tenant: string): number {
    const key = `${index} ${tenant}`;
    let at = this.#rule_of_tenant.get(key);
    if (at === undefined) {
      at = this.#rules.push(new_state(rule, index, tenant)) - 1;
      this.#rule_of_tenant.set(key, at);
    }
    return at;
  }

  /** Does one step of housekeeping; answers undefined when there is nothing to do for now. */
  maintain(): Removed | undefined {
    const steps = [this.#count, this.#trim, this.#expire, this.#expire_others, this.#sweep];
    const removed: Removed = { first: this.first, trimmed: 0, expired: 0, topics: [] };
    for (let tried = 0; tried < steps.length; tried++) {
      const step = steps[this.#next_step]!;
      this.#next_step = (this.#next_step + 1) % steps.length;
      if (!step.call(this, removed)) continue;
      removed.first = this.first;
      return removed;
    }
    return undefined;
  }

  /** Runs a step of housekeeping as a transaction. */
  #write(step: () => void): void {
    try {
      this.#sql.begin.run();
      step();
      this.#sql.commit.run();
    } catch (error) {
      this.#roll_back();
      throw error;
    }
  }

  #roll_back(): void {
    // SQLite ends a transaction by itself on some errors: then there is nothing to roll back.
    try {
      this.db.exec("ROLLBACK");
    } catch { /* none open */ }
    this.#topics.clear();
  }

  #read_bounds(): void {
    const { first, head } = this.#sql.bounds.get()!;
    this.head = head ?? 0;
    this.first = first ?? this.head + 1;
  }

  /**
   * After a clean close the counts are in the database; else the log is counted again in steps.
   * They are taken out at once: after a crash they would be those of another log.
   */
  #load_counts(): void {
    const saved = this.#sql.get_meta.get("retention")?.value;
    this.#sql.drop_meta.run("retention");
    const [rules, head, counts] = saved === undefined ? [] : JSON.parse(saved);
    if (rules !== this.#rules_text() || head !== this.head) {
      this.#count_end = this.head;
      return;
    }
    for (const [index, tenant, count, bytes] of counts) {
      const is_default = tenant === default_tenant;
      const rule = this.options.retention[index]!;
      const state = this.#rules[is_default ? index : this.#rule_of_other(rule, index, tenant)]!;
      Object.assign(state, { count, bytes });
    }
  }

  #rules_text(): string {
    return `for each tenant: ${JSON.stringify(this.options.retention)}`;
  }

  /** Saves what a reopening would have to count. */
  save_counts(): void {
    if (!this.#counting || this.#counted < this.#count_end) return;
    const counts = this.#rules.map(({ index, tenant, count, bytes }) => {
      return [index, tenant, count, bytes];
    });
    const saved = [this.#rules_text(), this.head, counts];
    this.#sql.set_meta.run("retention", JSON.stringify(saved));
  }

  #count(_removed: Removed): boolean {
    if (!this.#counting || this.#counted >= this.#count_end) return false;
    const rows = this.#sql.walk.all(this.#counted, this.#count_end + 1);
    for (const row of rows) this.#account(row, 1);
    this.#counted = rows.length < step_rows_max ? this.#count_end : rows.at(-1)!.offset;
    return true;
  }

  #account(row: Row, sign: 1 | -1): void {
    const rule = this.#rule_of_topic(row.topic);
    if (rule < 0) return;
    this.#rules[rule]!.count += sign;
    this.#rules[rule]!.bytes += sign * row.size;
  }

  #is_counted(offset: number): boolean {
    return this.#counting && (offset <= this.#counted || offset > this.#count_end);
  }

  #rule_of_topic(id: number): number {
    // The common case, an age for everything, needs no names.
    const [first] = this.options.retention;
    if (first?.filter === "#" && !is_counting(first)) return 0;
    let rule = this.#rule_of_id.get(id);
    if (rule === undefined) {
      rule = this.#rule_of(this.#sql.topic_name.get(id)?.name ?? "");
      if (this.#rule_of_id.size >= topics_cached_max) {
        this.#rule_of_id.delete(this.#rule_of_id.keys().next().value!);
      }
      this.#rule_of_id.set(id, rule);
    }
    return rule;
  }

  #trim(removed: Removed): boolean {
    const now_ms = Date.now();
    const { length } = this.#rules;
    for (let tried = 0; tried < Math.min(length, step_rules_max); tried++) {
      const index = this.#next_rule % length;
      this.#next_rule = index + 1;
      const { rule } = this.#rules[index]!;
      const is_bounded = rule.age_ms > 0 || is_counting(rule);
      if (is_bounded && this.#trim_rule(index, now_ms, removed)) {
        this.#idle_rules = 0;
        return true;
      }
      this.#idle_rules++;
    }
    if (this.#idle_rules < length) return true; // there are more
    this.#idle_rules = 0;
    return false;
  }

  #trim_rule(index: number, now_ms: number, removed: Removed): boolean {
    const state = this.#rules[index]!;
    const counted = this.#counted >= this.#count_end;
    let { count, bytes } = state;
    let size = 0;
    let floor = state.floor;
    const gone: Row[] = [];
    const ranges: number[] = [];
    let run = false;
    for (const row of this.#sql.walk.iterate(state.floor, this.head)) {
      if (this.#rule_of_topic(row.topic) === index) {
        if (size >= step_bytes_max || !is_due(state.rule, row, count, bytes, counted, now_ms)) {
          break;
        }
        gone.push(row);
        size += row.size;
        count--;
        bytes -= row.size;
        if (run) ranges[ranges.length - 1] = row.offset;
        else ranges.push(row.offset, row.offset);
        run = true;
      } else {
        run = false;
      }
      floor = row.offset;
    }
    if (gone.length > 0) this.#delete_trimmed(gone, ranges, now_ms, removed);
    const moved = floor > state.floor;
    state.floor = floor;
    return moved;
  }

  #delete_trimmed(gone: Row[], ranges: number[], now_ms: number, removed: Removed): void {
    const sql = this.#sql;
    const newest = new Map<number, number>();
    for (const { topic, offset, expires_ms } of gone) {
      // What had expired by itself is not missed.
      if (expires_ms === 0 || expires_ms > now_ms) newest.set(topic, offset);
    }
    const trimmed_max = Math.max(this.#trimmed_max, ...newest.values());
    this.#write(() => {
      for (let at = 0; at < ranges.length; at += 2) {
        sql.delete_range.run(ranges[at]!, ranges[at + 1]!);
      }
      for (const [topic, offset] of newest) sql.set_trimmed.run(offset, topic, offset);
      if (trimmed_max > this.#trimmed_max) sql.set_meta.run("trimmed", trimmed_max);
    });
    this.#trimmed_max = trimmed_max;
    this.#gone(gone);
    removed.trimmed += gone.length;
    const reported = Math.max(this.first, this.head - this.options.tail_messages_max);
    for (const [topic, offset] of newest) {
      if (offset < reported) continue;
      removed.topics.push([sql.topic_name.get(topic)!.name, offset]);
    }
  }

  #gone(rows: Row[]): void {
    for (const row of rows) if (this.#is_counted(row.offset)) this.#account(row, -1);
    this.#sweep_due = true;
    this.#read_bounds();
  }

  #expire(removed: Removed): boolean {
    const rows = this.#sql.due.all(Date.now(), this.head);
    if (rows.length === 0) return false;
    let size = 0;
    const end = rows.findIndex((row) => (size += row.size) >= step_bytes_max);
    const gone = end < 0 ? rows : rows.slice(0, end + 1);
    this.#write(() => {
      for (const { offset } of gone) this.#sql.delete_range.run(offset, offset);
    });
    this.#gone(gone);
    removed.expired += gone.length;
    return true;
  }

  #expire_others(_removed: Removed): boolean {
    const now_ms = Date.now();
    const sql = this.#sql;
    const retained = sql.retained_due.all(now_ms);
    const keys = sql.keys_due.all(now_ms);
    if (retained.length + keys.length === 0) return false;
    this.#write(() => {
      for (const { id } of retained) sql.delete_retained.run(id);
      for (const { id } of keys) sql.delete_key.run(id);
    });
    return true;
  }

  /**
   * Walks the topics for those without messages. What is forgotten with them is how far they were
   * trimmed, so as long as they are few they stay; past that, `forgotten` is a gap for everyone
   * before it.
   */
  #sweep(_removed: Removed): boolean {
    if (this.#sweep_at === 0) {
      const now_ms = performance.now();
      if (!this.#sweep_due || now_ms < this.#sweep_from_ms) return false;
      this.#sweep_from_ms = now_ms + sweep_pause_ms;
      this.#sweep_due = false;
    }
    const rows = this.#sql.topics_from.all(this.#sweep_at);
    const dropped = rows.filter(({ empty, trimmed }) =>
      empty === 1 && (trimmed === 0 || this.#sweep_purges)
    );
    for (const { empty, trimmed } of rows) if (empty === 1 && trimmed > 0) this.#sweep_empty++;
    if (dropped.length > 0) this.#drop_topics(dropped);
    if (rows.length === step_rows_max) {
      this.#sweep_at = rows.at(-1)!.id;
      return true;
    }
    this.#sweep_purges = !this.#sweep_purges &&
      this.#sweep_empty > (this.options.topics_empty_max ?? topics_empty_max);
    if (this.#sweep_purges) {
      this.#sweep_due = true;
      this.#sweep_from_ms = 0;
    }
    this.#sweep_at = this.#sweep_empty = 0;
    return true;
  }

  #drop_topics(rows: Row[]): void {
    const forgotten = Math.max(...rows.map(({ trimmed }) => trimmed));
    this.#write(() => {
      for (const { id } of rows) this.#sql.delete_topic.run(id);
      const known = Number(this.#sql.get_meta.get("forgotten")?.value ?? 0);
      if (forgotten > known) this.#sql.set_meta.run("forgotten", forgotten);
    });
    for (const { id, name } of rows) {
      this.#topics.delete(name);
      this.#rule_of_id.delete(id);
    }
  }
}

function new_state(rule: RetentionRule, index: number, tenant: string): RuleState {
  return { rule, index, tenant, floor: 0, count: 0, bytes: 0 };
}

/** Whether what is left of the rule's messages must be known. */
function is_counting({ count, bytes }: RetentionRule): boolean {
  return count > 0 || bytes > 0;
}

function is_due(
  rule: RetentionRule,
  row: Row,
  count: number,
  bytes: number,
  counted: boolean,
  now_ms: number,
): boolean {
  if (rule.age_ms > 0 && row.time_ms < now_ms - rule.age_ms) return true;
  if (!counted) return false;
  return rule.count > 0 && count > rule.count || rule.bytes > 0 && bytes > rule.bytes;
}
