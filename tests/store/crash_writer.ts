/**
 * The process that crash_test.ts kills: random traffic on one store, and a line on stdout for what
 * is tried and for what was answered. What it says was answered must be there afterwards.
 *   crash_writer.ts <data> <run> <seed> <synchronous> <backup or "">
 */
import { back_up_store, SqliteStore } from "../../core/store/sqlite.ts";
import { random_of } from "../cases/random.ts";
import { message } from "../contract_store.ts";
import { crash_retention, type Line, payload_of } from "./crash_lines.ts";

const [data, run, seed, synchronous, backup] = Deno.args as [
  string,
  string,
  string,
  string,
  string,
];
const random = random_of(Number(seed));
const pick = (n: number) => Math.floor(random() * n);
const encoder = new TextEncoder();
let sequence = 0;

function say(line: Line): void {
  const bytes = encoder.encode(`${JSON.stringify(line)}\n`);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}

const store = await SqliteStore.open(data, {
  synchronous: synchronous === "normal" ? "normal" : "full",
  retention: crash_retention,
});
say({ kind: "open", epoch: store.epoch, head: store.head });

/** Topics: kept for ever, trimmed by retention, or with an expiry of their own. */
function random_message() {
  const [room, expires_ms] = ([
    ["keep", 0],
    ["keep", 0],
    ["trim", 0],
    ["brief", Date.now() + pick(400)],
  ] as const)[pick(4)]!;
  const payload = payload_of(Number(run), ++sequence, pick(100) === 0 ? 20_000 : pick(300));
  return message(`${room}/${pick(20)}`, payload, { expires_ms, retain: pick(20) === 0 });
}

function batch() {
  return Array.from({ length: 1 + (pick(4) === 0 ? pick(100) : pick(4)) }, random_message);
}

const told = (messages: readonly ReturnType<typeof message>[]) =>
  messages.map(({ topic, payload }): [string, string] => [
    topic,
    new TextDecoder().decode(payload).split(" ")[0]!,
  ]);

async function append(): Promise<void> {
  const messages = batch();
  const first = await store.append(messages);
  say({ kind: "appended", first, messages: told(messages) });
}

async function append_once(): Promise<void> {
  const messages = batch();
  const key = `${run}.${sequence}`;
  const { offset } = await store.append_once("tenant", key, messages);
  say({ kind: "appended", first: Number(offset), messages: told(messages), key });
}

let version = Number(run) * 1e6;

async function put_session(): Promise<void> {
  const id = `s${pick(50)}`;
  const state = pick(10) === 0 ? "" : String(++version);
  const tried = { kind: "session", id, version: ++version, state, answered: false } as const;
  const subscriptions = [{ filter: `keep/${id}`, qos: 1, options: 1 }];
  say(tried);
  if (state === "") await store.delete_session(id);
  else await store.put_session({ id, subscriptions, cursor: 0, expires_ms: 0, state });
  say({ ...tried, answered: true });
  if (pick(2) === 0) await store.put_cursor(id, store.head);
}

/** An append and the session that counts it, in one turn: afterwards they must agree. */
async function count_in_session(): Promise<void> {
  const id = `counter ${run}`;
  const payload = payload_of(Number(run), ++sequence, 10);
  const subscriptions = [{ filter: "#", qos: 1, options: 1 }];
  const state = String(++counted);
  const one = message(`keep/${id}`, payload);
  const [first] = await Promise.all([
    store.append([one]),
    store.put_session({ id, subscriptions, cursor: 0, expires_ms: 0, state }),
  ]);
  say({ kind: "appended", first, messages: told([one]) });
}
let counted = 0;

async function publisher(): Promise<void> {
  while (true) {
    const what = pick(20);
    if (what < 10) await append();
    else if (what < 12) await append_once();
    else if (what < 16) await put_session();
    else if (what < 19) await count_in_session();
    else await store.read(["+/1", "keep/#"], pick(store.head + 1), 100);
  }
}

if (backup !== "") {
  const head = store.head;
  back_up_store(data, backup).then(() => say({ kind: "backup", head }));
}
await Promise.all(Array.from({ length: 1 + pick(8) }, publisher));
