/** How pages are read from the database: ranges, merges and scans must all answer the same. */
import { assert, assertEquals } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { limits } from "../../core/limits.ts";
import type { Message, StoredMessage } from "../../core/message.ts";
import {
  ByteReader,
  ByteWriter,
  Op,
  read_stored_row,
  write_message,
} from "../../core/store/codec.ts";
import { type Database, migrate } from "../../core/store/schema.ts";
import { LogReader } from "../../core/store/sqlite_reader.ts";
import { LogWriter } from "../../core/store/sqlite_writer.ts";
import { filter_matches } from "../../core/topic_tree.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { message, text_of } from "../contract_store.ts";

/** Writer and reader on one database in memory, in this thread. */
class Log {
  readonly db = new DatabaseSync(":memory:") as unknown as Database;
  readonly writer: LogWriter;
  readonly reader: LogReader;

  constructor() {
    migrate(this.db);
    const settings = { retention: [], idempotency_ttl_ms: 1000, tail_messages_max: 1 };
    this.writer = new LogWriter(this.db, settings);
    this.reader = new LogReader(this.db);
  }

  append(messages: readonly Message[]): void {
    const out = new ByteWriter(new Uint8Array(1 << 12));
    out.u8(Op.append);
    out.u32(messages.length);
    for (const one of messages) write_message(out, one);
    this.writer.apply(out.take());
  }

  read(filters: readonly string[], after: number, limit: number) {
    const source = new ByteReader(this.reader.read(filters, after, limit, this.writer.head));
    const messages: StoredMessage[] = [];
    for (let left = source.u32(); left > 0; left--) messages.push(read_stored_row(source));
    return { messages, next: source.f64(), gap: source.u8() === 1 };
  }

  read_all(filters: readonly string[], after: number, limit: number): string[] {
    const texts: string[] = [];
    while (after < this.writer.head) {
      const { messages, next } = this.read(filters, after, limit);
      assert(messages.length <= limit && next > after);
      for (const one of messages) texts.push(text_of(one));
      after = next;
    }
    return texts;
  }
}

Deno.test("every way to read answers the same", () => {
  const random = random_of(seed_for("every way to read answers the same"));
  const pick = (n: number) => Math.floor(random() * n);
  const log = new Log();
  const sent: Message[] = [];
  // Of few topics and many messages, dense filters are scanned and sparse ones merged; from 16384
  // topics on a filter has too many for that.
  for (const [topics, count] of [[10, 10], [300, 9000], [20_000, 20_000]] as const) {
    for (let round = 0; round < 3; round++) {
      const batch = Array.from({ length: count }, (_, n) => {
        // Some topics are much rarer than others.
        const number = Math.floor(topics * random() ** 3);
        const topic = `${"ab"[pick(2)]}/${number}/${"xy"[pick(2)]}`;
        return message(topic, `${sent.length + n}`);
      });
      log.append(batch);
      sent.push(...batch);
      const rare = `+/${topics - 1}/+`;
      for (const filters of [["#"], ["a/+/x"], ["b/#", "a/1/x"], ["a/3/x"], [rare], ["no/+"]]) {
        const after = pick(2) === 0 ? pick(sent.length) : Math.max(0, sent.length - pick(50));
        const expected = sent.slice(after)
          .filter(({ topic }) => filters.some((filter) => filter_matches(filter, topic)));
        const found = log.read_all(filters, after, 1 + pick(3000));
        assertEquals(found, expected.map(text_of), `${filters} after ${after} of ${sent.length}`);
      }
    }
  }
  log.db.close();
});

Deno.test("rare topics are merged in the order of the log, page by page", () => {
  const log = new Log();
  const expected: string[] = [];
  for (let n = 0; n < 60; n++) {
    const rare = message(["a", "a/b", "a/c/d"][n % 3]!, `${n}`);
    expected.push(`${n}`);
    log.append([rare, ...Array.from({ length: 1000 }, (_, i) => message(`filling/${i % 9}`))]);
  }
  for (const limit of [1, 2, 7, 20, 30, 59, 60, 1000]) {
    assertEquals(log.read_all(["a/#"], 0, limit), expected, `limit ${limit}`);
    assertEquals(log.read_all(["a/+", "a", "a/c/#"], 0, limit), expected, `limit ${limit}`);
  }
  log.db.close();
});

Deno.test("a read never looks at more than its share", () => {
  const log = new Log();
  const topics = 17_000;
  log.append(Array.from({ length: topics }, (_, n) => message(`a/${n}`)));
  for (let n = 0; n < 80; n++) log.append(Array.from({ length: 1000 }, () => message("b")));
  log.append([message("a/last")]);
  let after = topics;
  let pages = 0;
  let worst_ms = 0;
  while (after < log.writer.head) {
    const started_ms = performance.now();
    const page = log.read(["a/+"], after, 4096);
    worst_ms = Math.max(worst_ms, performance.now() - started_ms);
    assert(page.next - after <= limits.read_scan_messages_max + 1024);
    assertEquals(page.messages.length, page.next === log.writer.head ? 1 : 0);
    after = page.next;
    pages++;
  }
  assertEquals(pages, 5);
  console.log(`${pages} pages, the slowest in ${worst_ms.toFixed(1)} ms`);
  log.db.close();
});

Deno.test("what lies beyond the asked head is not read", () => {
  const log = new Log();
  log.append([1, 2, 3, 4].map((n) => message("a", `${n}`)));
  const source = new ByteReader(log.reader.read(["a"], 0, 10, 2));
  assertEquals(source.u32(), 2);
  log.db.close();
});
