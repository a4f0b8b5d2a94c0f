/**
 * Promise 1: killed at any instant, nothing that was answered is lost or reordered. A child process
 * (crash_writer.ts) is killed while it writes, trims, backs up and opens; what it said was answered
 * is then looked for. And whatever a torn write leaves of the WAL, what is read is a prefix.
 *   LONGWIRE_TEST_CRASHES=100 [LONGWIRE_TEST_SEED=N] deno test -A tests/store/crash_test.ts
 */
import { assert, assertEquals } from "@std/assert";
import type { StoredMessage } from "../../core/message.ts";
import { check_store, SqliteStore } from "../../core/store/sqlite.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { message, text_of } from "../contract_store.ts";
import { crash_retention, type Line, parse_payload, trimmed_count } from "./crash_lines.ts";

const crashes = Number(Deno.env.get("LONGWIRE_TEST_CRASHES") ?? 12);
/**
 * A directory is used for this many crashes, so that what one leaves is what the next starts from.
 */
const crashes_per_directory = 8;
const sqlite_page_bytes = 4096;

/** All that must be there. */
class Answered {
  epoch = "";
  /** Offset -> topic and `run.sequence`. */
  readonly messages = new Map<number, [string, string]>();
  readonly keys = new Map<string, number>();
  /** Id -> states that it may have: the last that was answered, and those tried after it. */
  readonly sessions = new Map<string, { version: number; state: string }[]>();
  head = 0;

  take(line: Line): void {
    switch (line.kind) {
      case "open":
        if (this.epoch === "") this.epoch = line.epoch;
        assertEquals(line.epoch, this.epoch, "the epoch changed");
        assert(line.head >= this.head, `the log ends at ${line.head}, before ${this.head}`);
        break;
      case "appended":
        line.messages.forEach((one, index) => this.messages.set(line.first + index, one));
        this.head = Math.max(this.head, line.first + line.messages.length - 1);
        if (line.key !== undefined) this.keys.set(line.key, line.first);
        break;
      case "session": {
        const before = this.sessions.get(line.id) ?? [{ version: 0, state: "" }];
        const { version, state, answered } = line;
        const after = answered ? before.filter((one) => one.version >= version) : before;
        this.sessions.set(line.id, answered ? after : [...after, { version, state }]);
        break;
      }
    }
  }
}

/** Runs the writer until it is killed after `delay_ms`; answers what it said. */
async function crash(
  data: string,
  run: number,
  seed: number,
  delay_ms: number,
  backup = "",
  synchronous = "full",
): Promise<Line[]> {
  const script = new URL("./crash_writer.ts", import.meta.url).href;
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "--no-check",
      "-A",
      script,
      data,
      `${run}`,
      `${seed}`,
      synchronous,
      backup,
    ],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const errors = new Response(child.stderr).text();
  let text = "";
  let timer: ReturnType<typeof setTimeout> | undefined;
  // A negative delay counts from the start, so that opening is interrupted too.
  const arm = (ms: number) => timer = setTimeout(() => child.kill("SIGKILL"), ms);
  if (delay_ms < 0) arm(-delay_ms);
  for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
    if (timer === undefined) arm(delay_ms);
    text += part;
  }
  clearTimeout(timer);
  const { signal } = await child.status;
  assertEquals(signal, "SIGKILL", `the writer ended by itself: ${await errors}`);
  await errors;
  return text.slice(0, text.lastIndexOf("\n") + 1).split("\n").filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);
}

async function read_log(store: SqliteStore): Promise<Map<number, StoredMessage>> {
  const found = new Map<number, StoredMessage>();
  for (let after = 0; after < store.head;) {
    const page = await store.read(["#"], after, 4096);
    for (const one of page.messages) found.set(one.offset, one);
    after = page.next;
  }
  return found;
}

/** What is read is whole, and in the order in which it was sent. */
function check_order(log: Map<number, StoredMessage>): void {
  let last = { run: 0, sequence: 0, name: "" };
  for (const [offset, one] of log) {
    const now = parse_payload(text_of(one));
    const later = now.run > last.run || now.run === last.run && now.sequence > last.sequence;
    assert(later, `${now.name} at ${offset} comes after ${last.name}`);
    last = now;
  }
}

/** Every answered message is there, unless retention or its expiry took it. */
function check_messages(log: Map<number, StoredMessage>, answered: Answered): void {
  const trims = [...log.values()].filter(({ topic }) => topic.startsWith("trim/"));
  // Fewer than the bound are left only when fewer were sent.
  const oldest = trims.length < trimmed_count ? 0 : trims[0]!.offset;
  for (const [offset, [topic, name]] of answered.messages) {
    const one = log.get(offset);
    if (one === undefined) {
      if (topic.startsWith("brief/")) continue;
      const what = `${topic} ${name} at ${offset} is lost, ${trims.length} from ${oldest} are left`;
      assert(topic.startsWith("trim/") && offset < oldest, what);
    } else {
      assertEquals([one.topic, parse_payload(text_of(one)).name], [topic, name], `at ${offset}`);
    }
  }
}

async function check_sessions(
  store: SqliteStore,
  log: Map<number, StoredMessage>,
  answered?: Answered,
): Promise<void> {
  const states = new Map<string, string>();
  for await (const { id, state, cursor } of store.sessions()) {
    states.set(id, state);
    assert(cursor <= store.head, `the cursor of ${id} is beyond the log`);
  }
  for (const [id, allowed] of answered?.sessions ?? []) {
    const state = states.get(id) ?? "";
    const is_allowed = allowed.some((one) => one.state === state);
    assert(is_allowed, `${id} is at "${state}", not at ${JSON.stringify(allowed)}`);
  }
  // Written in one turn: both or neither.
  const counts = new Map<string, number>();
  for (const { topic } of log.values()) {
    if (topic.startsWith("keep/counter")) counts.set(topic, (counts.get(topic) ?? 0) + 1);
  }
  for (const [topic, count] of counts) {
    assertEquals(states.get(topic.slice(5)), String(count), `${topic} and its session differ`);
  }
}

async function check_keys(store: SqliteStore, answered: Answered): Promise<void> {
  for (const [key, offset] of [...answered.keys].slice(-20)) {
    const again = await store.append_once("tenant", key, [message("never")]);
    assertEquals(again, { offset, duplicate: true }, `key ${key}`);
  }
}

async function check_after_crash(data: string, answered: Answered): Promise<void> {
  const store = await SqliteStore.open(data, { retention: crash_retention });
  try {
    answered.take({ kind: "open", epoch: store.epoch, head: store.head });
    const log = await read_log(store);
    check_order(log);
    check_messages(log, answered);
    await check_sessions(store, log, answered);
    await check_keys(store, answered);
  } finally {
    await store.close();
  }
  assertEquals(await check_store(data), []);
}

/** A backup that was complete holds everything from before it was begun. */
async function check_backup(file: string, head: number, answered: Answered): Promise<void> {
  const data = Deno.makeTempDirSync({ prefix: "longwire-backup-" });
  Deno.renameSync(file, `${data}/longwire.db`);
  const store = await SqliteStore.open(data, { retention: [] });
  try {
    assert(store.epoch !== answered.epoch, "a copy of the log is another log");
    assert(store.head >= head);
    const log = await read_log(store);
    check_order(log);
    for (const [offset, [topic, name]] of answered.messages) {
      if (offset > head || !topic.startsWith("keep/")) continue;
      assertEquals(parse_payload(text_of(log.get(offset)!)).name, name);
    }
    await check_sessions(store, log);
  } finally {
    await store.close();
    Deno.removeSync(data, { recursive: true });
  }
}

Deno.test(`killed ${crashes} times, the store loses and reorders nothing`, async () => {
  const random = random_of(seed_for("store crashes"));
  const pick = (n: number) => Math.floor(random() * n);
  let data = "";
  let answered = new Answered();
  let backups = 0;
  let total = 0;
  for (let run = 1; run <= crashes; run++) {
    if ((run - 1) % crashes_per_directory === 0) {
      if (data !== "") Deno.removeSync(data, { recursive: true });
      data = Deno.makeTempDirSync({ prefix: "longwire-crash-" });
      total += answered.messages.size;
      answered = new Answered();
    }
    const backup = pick(2) === 0 ? `${data}/backup-${run}` : "";
    const delay_ms = pick(5) === 0 ? -(1 + pick(300)) : pick(400);
    for (const line of await crash(data, run, pick(2 ** 32), delay_ms, backup)) {
      answered.take(line);
      if (line.kind !== "backup") continue;
      await check_backup(backup, line.head, answered);
      backups++;
    }
    await check_after_crash(data, answered);
  }
  Deno.removeSync(data, { recursive: true });
  console.log(`${total + answered.messages.size} answered messages, ${backups} backups checked`);
});

/** First byte of the WAL that no checkpoint has relied on, and the end of what it holds. */
function wal_span(data: string): [from: number, to: number] {
  // https://sqlite.org/walformat.html#the_wal_index_header: mxFrame, nBackfill, nBackfillAttempted
  const index = new DataView(Deno.readFileSync(`${data}/longwire.db-shm`).buffer);
  const frame = (at: number) => 32 + index.getUint32(at, true) * (24 + sqlite_page_bytes);
  return [Math.max(frame(96), frame(128)), frame(16)];
}

/** Opens what a torn write left, and holds it against the whole log; answers where it ends. */
async function check_torn(data: string, log: Map<number, StoredMessage>): Promise<number> {
  const store = await SqliteStore.open(data, { retention: [] });
  try {
    const found = await read_log(store);
    for (const [offset, one] of found) {
      if (log.has(offset)) assertEquals(text_of(one), text_of(log.get(offset)!));
    }
    for (const [offset, { topic }] of log) {
      if (offset > store.head || !topic.startsWith("keep/")) continue;
      assert(found.has(offset), `${offset} of ${store.head} is lost`);
    }
    check_order(found);
    await check_sessions(store, found);
    return store.head;
  } finally {
    await store.close();
  }
}

Deno.test("what a torn write leaves of the WAL is a prefix of the log", async () => {
  const random = random_of(seed_for("torn writes"));
  const pick = (n: number) => Math.floor(random() * n);
  for (let run = 1; run <= Math.max(2, crashes / 6); run++) {
    const data = Deno.makeTempDirSync({ prefix: "longwire-torn-" });
    const copy = `${data}/copy`;
    await crash(data, run, pick(2 ** 32), 200 + pick(200), "", "normal");
    const database = Deno.readFileSync(`${data}/longwire.db`);
    const wal = Deno.readFileSync(`${data}/longwire.db-wal`);
    const [from, to] = wal_span(data);
    const whole = await SqliteStore.open(data, { retention: [] });
    const log = await read_log(whole);
    await whole.close();
    const heads: number[] = [];
    for (let cut = 0; cut < 6; cut++) {
      const torn = wal.slice();
      const at = from + pick(to - from);
      // Cut off, or a sector of something else and the rest as it was.
      if (cut % 2 === 1) torn.fill(pick(256), at, at + 512);
      Deno.mkdirSync(copy);
      Deno.writeFileSync(`${copy}/longwire.db`, database);
      Deno.writeFileSync(`${copy}/longwire.db-wal`, cut % 2 === 0 ? torn.subarray(0, at) : torn);
      heads.push(await check_torn(copy, log));
      assertEquals(await check_store(copy), []);
      Deno.removeSync(copy, { recursive: true });
    }
    console.log(`run ${run}: log of ${whole.head}, torn at ${heads.join(", ")}`);
    Deno.removeSync(data, { recursive: true });
  }
});
