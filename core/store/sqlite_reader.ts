/**
 * The reading half of the SQLite store, inside a worker of its own, so that replay never delays a
 * commit. Every read is bounded in rows, bytes and time, and sees one snapshot. An exact filter is
 * an index range; wildcards become the topics that match and their ranges, or a scan where that is
 * cheaper.
 */
import { limits } from "../limits.ts";
import { filter_matches, has_wildcard } from "../topic_tree.ts";
import { ByteWriter, write_session_row, write_stored_row } from "./codec.ts";
import type { Database, Row } from "./schema.ts";

/** A filter that matches more topics than this, or makes us look at more names, is scanned for. */
const topics_per_filter_max = 1 << 14;
const names_looked_at_max = 1 << 18;
/** Filters whose topics are remembered. */
const expansions_max = 64;
const names_cached_max = 1 << 16;
/** Seeking one topic costs about as much as scanning this many rows. */
const rows_per_seek = 4;
/**
 * Before topics are merged, so many rows are scanned at least: of a dense filter that is enough.
 */
const scan_rows_min = 2048;
/** First stretch of offsets in which topics are merged; doubled while it yields too little. */
const merge_offsets = 1 << 14;
/** Rows are had in chunks: one by one costs twice as much, all at once has no bound in bytes. */
const chunk_rows = 64;
const chunk_scanned = 1024;
/** A merge takes no further stretch after this time. */
const merge_ms = 4;
const session_page = 2048;
/** Sorts after every topic that begins with the text before it. */
const last = "\u{10FFFF}\u{10FFFF}";

/** Topics of a wildcard filter, as far as topic ids go. */
interface Expansion {
  readonly ids: number[];
  /** Newest topic id looked at. */
  upto: number;
  too_many: boolean;
}

/** Where a read starts and ends, and what it may take. */
interface Span {
  readonly after: number;
  readonly upto: number;
  readonly limit: number;
  readonly now_ms: number;
}

function statements(db: Database) {
  const columns = "offset, topic, flags, time_ms, expires_ms, key, properties, payload";
  const living = "(expires_ms = 0 OR expires_ms > ?)";
  const scan = db.prepare(
    `SELECT offset, topic, expires_ms FROM log
     WHERE offset > ? AND offset <= ? ORDER BY offset LIMIT ${chunk_scanned}`,
  );
  scan.setReturnArrays(true);
  return {
    begin: db.prepare("BEGIN"),
    commit: db.prepare("COMMIT"),
    first: db.prepare("SELECT min(offset) AS first FROM log"),
    meta: db.prepare("SELECT value FROM meta WHERE name = ?"),
    topic: db.prepare("SELECT id FROM topics WHERE name = ?"),
    topic_name: db.prepare("SELECT name FROM topics WHERE id = ?"),
    topics_between: db.prepare("SELECT id, name FROM topics WHERE name >= ? AND name < ?"),
    topics_after: db.prepare("SELECT id, name FROM topics WHERE id > ? ORDER BY id"),
    newest_topic: db.prepare("SELECT max(id) AS id FROM topics"),
    trimmed: db.prepare(
      `SELECT 1 FROM topics WHERE id IN (SELECT value FROM json_each(?)) AND trimmed > ? LIMIT 1`,
    ),
    one_topic: db.prepare(
      `SELECT ${columns} FROM log WHERE topic = ? AND offset > ? AND offset <= ? AND ${living}
       ORDER BY offset LIMIT ?`,
    ),
    some_topics: db.prepare(
      `SELECT offset FROM log WHERE topic IN (SELECT value FROM json_each(?))
         AND offset > ? AND offset <= ? AND ${living} ORDER BY offset LIMIT ?`,
    ),
    scan,
    rows: db.prepare(
      `SELECT ${columns} FROM log WHERE offset IN (SELECT value FROM json_each(?))
       ORDER BY offset`,
    ),
    retained: db.prepare(`SELECT ${columns} FROM retained WHERE topic = ? AND ${living}`),
    retained_count: db.prepare("SELECT COUNT(*) AS count FROM retained"),
    retained_between: db.prepare(
      "SELECT topic FROM retained WHERE topic > ? AND topic >= ? AND topic < ? ORDER BY topic",
    ),
    sessions: db.prepare(
      `SELECT id, cursor, expires_ms, subscriptions, state FROM sessions
       WHERE id > ? ORDER BY id LIMIT ${session_page}`,
    ),
  };
}

/** The names between which every topic lies that a filter matches. */
function bounds_of(filter: string): [from: string, to: string] {
  let end = filter.search(/[+#]/);
  // "a/#" matches "a" too.
  if (filter[end] === "#" && end > 0) end--;
  const prefix = filter.slice(0, end);
  return [prefix, prefix + last];
}

/** Rows on their way out: u32 count, rows, and what the caller adds. */
class PageWriter {
  readonly out = new ByteWriter(new Uint8Array(16 << 10));
  rows = 0;

  constructor(readonly limit: number) {
    this.out.u32(0);
  }

  /** Answers true when the page takes no more. */
  add(topic: string, row: Row): boolean {
    write_stored_row(this.out, topic, row);
    return ++this.rows >= this.limit || this.out.size >= limits.page_bytes_max;
  }

  take(): Uint8Array<ArrayBuffer> {
    this.out.set_u32(0, this.rows);
    return this.out.take();
  }
}

export class LogReader {
  readonly #sql: ReturnType<typeof statements>;
  readonly #names = new Map<number, string>();
  readonly #expansions = new Map<string, Expansion>();

  constructor(readonly db: Database) {
    this.#sql = statements(db);
  }

  /** A page: u32 count, rows, f64 next, u8 gap. `upto` is the newest offset that it may hold. */
  read(
    filters: readonly string[],
    after: number,
    limit: number,
    upto: number,
  ): Uint8Array<ArrayBuffer> {
    return this.#snapshot(() => {
      const first = this.#sql.first.get()!.first ?? upto + 1;
      const start = Math.max(after, first - 1);
      const span = { after: start, upto, limit, now_ms: Date.now() };
      const page = new PageWriter(limit);
      const ids = this.#topics_of(filters);
      const next = start >= upto ? upto : this.#fill(page, filters, ids, span);
      const gap = this.#gap(ids, after);
      page.out.f64(next);
      page.out.u8(gap ? 1 : 0);
      return page.take();
    });
  }

  #fill(
    page: PageWriter,
    filters: readonly string[],
    ids: readonly number[] | undefined,
    span: Span,
  ): number {
    if (ids?.length === 0) return span.upto;
    if (ids?.length === 1) return this.#read_topic(page, ids[0]!, span);
    const found: number[] = [];
    const rows_max = limits.read_scan_messages_max;
    const rows = ids === undefined
      ? rows_max
      : Math.min(rows_max, Math.max(scan_rows_min, ids.length * rows_per_seek));
    let next = this.#scan(found, filters, span, rows);
    // A short page is as good as a full one; next to nothing means that scanning is the wrong way.
    if (ids !== undefined && next < span.upto && found.length < span.limit / 4) {
      next = this.#merge(found, ids, { ...span, after: next });
    }
    return this.#add_all(page, found) ?? next;
  }

  #read_topic(page: PageWriter, id: number, { after, upto, limit, now_ms }: Span): number {
    const topic = this.#name(id);
    for (let from = after; page.rows < limit;) {
      const chunk = Math.min(chunk_rows, limit - page.rows);
      const rows = this.#sql.one_topic.all(id, from, upto, now_ms, chunk);
      for (const row of rows) {
        from = row.offset;
        if (page.add(topic, row)) return from;
      }
      if (rows.length < chunk) return upto;
    }
    return after;
  }

  /** Adds offsets of these topics; answers how far it looked. */
  #merge(found: number[], ids: readonly number[], { after, upto, limit, now_ms }: Span): number {
    const list = JSON.stringify(ids);
    const until_ms = performance.now() + merge_ms;
    let stretch = Math.max(merge_offsets, ids.length * rows_per_seek * 4);
    for (let from = after; from < upto; stretch *= 2) {
      const to = Math.min(from + stretch, upto);
      const left = limit - found.length;
      for (const { offset } of this.#sql.some_topics.all(list, from, to, now_ms, left)) {
        found.push(offset);
      }
      if (found.length === limit) return found.at(-1)!;
      from = to;
      if (performance.now() > until_ms) return to;
    }
    return upto;
  }

  /** Adds offsets that match, of at most about `rows_max` rows; answers how far it looked. */
  #scan(
    found: number[],
    filters: readonly string[],
    { after, upto, limit, now_ms }: Span,
    rows_max: number,
  ): number {
    const matches = new Map<number, boolean>();
    let next = after;
    for (let looked_at = 0; next < upto && looked_at < rows_max;) {
      const rows = this.#sql.scan.all(next, upto) as unknown as [number, number, number][];
      for (const [offset, topic, expires_ms] of rows) {
        next = offset;
        let match = matches.get(topic);
        if (match === undefined) {
          const name = this.#name(topic);
          matches.set(topic, match = filters.some((filter) => filter_matches(filter, name)));
        }
        if (!match || expires_ms !== 0 && expires_ms <= now_ms) continue;
        found.push(offset);
        if (found.length === limit) return next;
      }
      if (rows.length < chunk_scanned) return upto;
      looked_at += rows.length;
    }
    return next;
  }

  /** Answers the offset of the last row that found room; undefined when all did. */
  #add_all(page: PageWriter, offsets: readonly number[]): number | undefined {
    for (let at = 0; at < offsets.length; at += chunk_rows) {
      const chunk = JSON.stringify(offsets.slice(at, at + chunk_rows));
      for (const row of this.#sql.rows.all(chunk)) {
        if (page.add(this.#name(row.topic), row)) return row.offset;
      }
    }
    return undefined;
  }

  /** Ids of the topics that match; undefined = too many to say. */
  #topics_of(filters: readonly string[]): readonly number[] | undefined {
    if (filters.length === 1 && has_wildcard(filters[0]!)) {
      const { ids, too_many } = this.#expand(filters[0]!);
      return too_many ? undefined : ids;
    }
    const all = new Set<number>();
    for (const filter of filters) {
      if (has_wildcard(filter)) {
        const { ids, too_many } = this.#expand(filter);
        if (too_many) return undefined;
        for (const id of ids) all.add(id);
      } else {
        const row = this.#sql.topic.get(filter);
        if (row !== undefined) all.add(row.id);
      }
    }
    return [...all];
  }

  /** Topics of a filter: looked up once, then only those that are new. */
  #expand(filter: string): Expansion {
    let known = this.#expansions.get(filter);
    if (known !== undefined) this.#expansions.delete(filter);
    const newest = this.#sql.newest_topic.get()!.id ?? 0;
    if (known === undefined) {
      known = { ids: [], upto: newest, too_many: false };
      this.#add_matching(filter, known, this.#sql.topics_between.iterate(...bounds_of(filter)));
    } else if (newest > known.upto && !known.too_many) {
      this.#add_matching(filter, known, this.#sql.topics_after.iterate(known.upto));
      known.upto = newest;
    }
    this.#expansions.set(filter, known);
    if (this.#expansions.size > expansions_max) {
      this.#expansions.delete(this.#expansions.keys().next().value!);
    }
    return known;
  }

  #add_matching(filter: string, known: Expansion, rows: Iterable<Row>): void {
    let looked_at = 0;
    for (const { id, name } of rows) {
      if (filter_matches(filter, name)) known.ids.push(id);
      known.too_many = known.ids.length > topics_per_filter_max ||
        ++looked_at > names_looked_at_max;
      if (!known.too_many) continue;
      known.ids.length = 0;
      return;
    }
  }

  #gap(ids: readonly number[] | undefined, after: number): boolean {
    const forgotten = this.#sql.meta.get("forgotten")?.value ?? 0;
    if (forgotten > after) return true;
    const trimmed = this.#sql.meta.get("trimmed")?.value ?? 0;
    if (trimmed <= after) return false;
    // Which of very many topics lost messages is not looked up: the page may claim a gap too many.
    return ids === undefined ||
      this.#sql.trimmed.get(JSON.stringify(ids), after) !== undefined;
  }

  #name(id: number): string {
    let name = this.#names.get(id);
    if (name !== undefined) return name;
    name = this.#sql.topic_name.get(id)!.name as string;
    if (this.#names.size >= names_cached_max) {
      this.#names.delete(this.#names.keys().next().value!);
    }
    this.#names.set(id, name);
    return name;
  }

  /** One message or none: u32 count, rows. */
  get(offset: number): Uint8Array<ArrayBuffer> {
    const page = new PageWriter(1);
    const row = this.#sql.rows.get(`[${offset}]`);
    if (row !== undefined) page.add(this.#name(row.topic), row);
    return page.take();
  }

  /** u32 count. */
  retained_count(): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter(new Uint8Array(4));
    out.u32(this.#sql.retained_count.get()!.count as number);
    return out.take();
  }

  /** Retained messages: u32 count, rows, the text `next`. */
  retained(filter: string, after: string): Uint8Array<ArrayBuffer> {
    return this.#snapshot(() => {
      const page = new PageWriter(limits.page_messages_max);
      let next = "";
      if (has_wildcard(filter)) next = this.#retained_matching(page, filter, after);
      else this.#add_retained(page, filter, Date.now());
      page.out.text(next);
      return page.take();
    });
  }

  #retained_matching(page: PageWriter, filter: string, after: string): string {
    const [from, to] = bounds_of(filter);
    const now_ms = Date.now();
    const found: string[] = [];
    let looked_at = 0;
    let next = "";
    for (const { topic } of this.#sql.retained_between.iterate(after, from, to)) {
      if (filter_matches(filter, topic)) found.push(topic);
      if (++looked_at < limits.read_scan_messages_max && found.length < limits.page_messages_max) {
        continue;
      }
      next = topic;
      break;
    }
    for (const topic of found) {
      if (this.#add_retained(page, topic, now_ms) && topic !== found.at(-1)) return topic;
    }
    return next;
  }

  #add_retained(page: PageWriter, topic: string, now_ms: number): boolean {
    const row = this.#sql.retained.get(topic, now_ms);
    return row !== undefined && page.add(topic, row);
  }

  /** Sessions after an id: rows, an empty page at the end. */
  sessions(after: string): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter(new Uint8Array(128 << 10));
    for (const row of this.#sql.sessions.iterate(after)) write_session_row(out, row);
    return out.take();
  }

  #snapshot<T>(read: () => T): T {
    this.#sql.begin.run();
    try {
      return read();
    } finally {
      this.#sql.commit.run();
    }
  }
}
