/**
 * What the store does on this machine: durable publishes per second and their latency with 1, 64
 * and 1000 publishers, batches, a million sessions, replay to a returning fleet, and the event
 * loop's worst stall meanwhile. Not a test; run it with
 *   deno run -A tests/bench/store.ts [--seconds=2] [--normal] [--sessions=1000000] [name ...]
 * A publisher appends one message of 100 bytes, waits for its commit, and appends the next.
 */
import type { Message } from "../../core/message.ts";
import { SqliteStore } from "../../core/store/sqlite.ts";

const option = (name: string) =>
  Deno.args.find((one) => one.startsWith(`--${name}`))?.split("=")[1];
const seconds = Number(option("seconds") ?? 2);
const synchronous = Deno.args.includes("--normal") ? "normal" : "full";
const wanted = Deno.args.filter((one) => !one.startsWith("--"));

function message(topic: string): Message {
  const payload = new Uint8Array(100);
  const time_ms = Date.now();
  return { topic, payload, qos: 1, retain: false, time_ms, expires_ms: 0, key: "" };
}

/** Milliseconds that the event loop was away, looked at every millisecond. */
class Stalls {
  #last = performance.now();
  readonly #timer = setInterval(() => this.#look(), 1);
  #worst = 0;

  #look(): void {
    const now = performance.now();
    this.#worst = Math.max(this.#worst, now - this.#last - 1);
    this.#last = now;
  }

  /** Ends it; answers the longest. */
  end(): number {
    clearInterval(this.#timer);
    return this.#worst;
  }
}

function quantile(sorted: readonly number[], q: number): string {
  return (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0).toFixed(2);
}

type Step = (store: SqliteStore) => Promise<string>;

/** Runs steps on a new store, and says for each what it came to. */
async function with_store(name: string, ...steps: (Step | "reopen")[]): Promise<void> {
  if (wanted.length > 0 && !wanted.some((one) => name.includes(one))) return;
  const data = Deno.makeTempDirSync({ prefix: "longwire-bench-" });
  let store = await SqliteStore.open(data, { synchronous });
  try {
    for (const step of steps) {
      if (step === "reopen") {
        await store.close();
        store = await SqliteStore.open(data, { synchronous });
        continue;
      }
      const stalls = new Stalls();
      const result = await step(store).finally(() => stalls.end());
      const disk = Deno.statSync(`${data}/longwire.db`).size / 1048576;
      const rss = Deno.memoryUsage().rss / 1048576;
      console.log(
        `${name}: ${result}; worst stall ${stalls.end().toFixed(1)} ms; ` +
          `disk ${disk | 0} MiB, memory ${rss | 0} MiB`,
      );
    }
  } finally {
    await store.close();
    Deno.removeSync(data, { recursive: true });
  }
}

/** `count` publishers, `topics` topics between them. */
function publish(count: number, batch: number, topics: number) {
  return async (store: SqliteStore): Promise<string> => {
    const latencies: number[] = [];
    const started = performance.now();
    const until = started + seconds * 1000;
    let rows = 0;
    let at = 0;
    await Promise.all(Array.from({ length: count }, async () => {
      for (let now = started; now < until; now = performance.now()) {
        const sent = performance.now();
        const messages = [];
        for (let n = 0; n < batch; n++) messages.push(message(`fleet/d${at++ % topics}/telemetry`));
        await store.append(messages);
        rows += batch;
        latencies.push(performance.now() - sent);
      }
    }));
    const rate = rows / (performance.now() - started);
    latencies.sort((a, b) => a - b);
    const [p50, p99, p100] = [0.5, 0.99, 1].map((q) => quantile(latencies, q));
    const { commits } = store.stats();
    return `${rate.toFixed(1)} k/s, p50 ${p50} p99 ${p99} max ${p100} ms, ` +
      `${(rows / commits).toFixed(0)} rows a commit`;
  };
}

const fleet_filter = "fleet/all/news";
const session_count = Number(option("sessions") ?? 1_000_000);
const returning_count = Math.min(20_000, session_count);
const missed_count = 1000;

/** Names without an order, as devices have them. */
function id_of(n: number): string {
  return `device-${(Math.imul(n, 2654435761) >>> 0).toString(16).padStart(8, "0")}`;
}

function took(started: number): string {
  return `${((performance.now() - started) / 1000).toFixed(2)} s`;
}

/** Sessions of one subscription each, put a turn of 1000 at a time. */
async function put_sessions(store: SqliteStore): Promise<string> {
  const subscriptions = [{ filter: fleet_filter, qos: 1, options: 1 }];
  const started = performance.now();
  for (let n = 0; n < session_count; n += 1000) {
    let last: Promise<void> | undefined;
    for (let i = n; i < Math.min(n + 1000, session_count); i++) {
      const id = id_of(i);
      last = store.put_session({ id, subscriptions, cursor: 0, expires_ms: 0, state: "" });
    }
    // Two turns under way: the next is encoded while the last is written.
    if (n % 2000 === 0) await last;
  }
  await store.append([message("after/all/sessions")]);
  return `${session_count} sessions put in ${took(started)}`;
}

async function load_sessions(store: SqliteStore): Promise<string> {
  const started = performance.now();
  let count = 0;
  for await (const _ of store.sessions()) count++;
  return `${count} sessions loaded in ${took(started)}`;
}

async function move_cursors(store: SqliteStore): Promise<string> {
  const started = performance.now();
  let last: Promise<void> | undefined;
  for (let n = 0; n < session_count; n++) {
    last = store.put_cursor(id_of(n), 1);
    if (n % 20_000 === 19_999) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  const waits: number[] = [];
  let over = false;
  const all = last?.then(() => over = true);
  while (!over) {
    const sent = performance.now();
    await store.append([message("live")]);
    waits.push(performance.now() - sent);
  }
  await all;
  waits.sort((a, b) => a - b);
  return `${session_count} cursors moved in ${took(started)}, ` +
    `an append meanwhile p50 ${quantile(waits, 0.5)} max ${quantile(waits, 1)} ms`;
}

async function publish_missed(store: SqliteStore): Promise<string> {
  const started = performance.now();
  for (let n = 0; n < missed_count; n++) await store.append([message(fleet_filter)]);
  return `${missed_count} messages published one by one in ${took(started)}`;
}

/** Each of the fleet reads what it missed, in pages, taking turns. */
async function replay(store: SqliteStore): Promise<string> {
  const started = performance.now();
  const after = new Float64Array(returning_count);
  let delivered = 0;
  let done = 0;
  let turn_ms = performance.now();
  while (done < returning_count) {
    done = 0;
    for (let n = 0; n < returning_count; n++) {
      if (after[n]! >= store.head) {
        done++;
        continue;
      }
      const soon = store.read([fleet_filter], after[n]!, 256);
      const { messages, next } = soon instanceof Promise ? await soon : soon;
      delivered += messages.length;
      after[n] = next;
      if (performance.now() - turn_ms < 4) continue;
      await new Promise((resolve) => setTimeout(resolve, 0));
      turn_ms = performance.now();
    }
  }
  const { reads_hit, reads_missed } = store.stats();
  return `${delivered} messages read by ${returning_count} sessions in ${took(started)} ` +
    `(${reads_hit} pages from memory, ${reads_missed} from disk)`;
}

/** What the disk asks for a commit of one message: 12 KiB appended and synchronised. */
function sync_cost(): void {
  const path = Deno.makeTempFileSync({ prefix: "longwire-bench-" });
  using file = Deno.openSync(path, { write: true });
  const bytes = new Uint8Array(12 << 10);
  const costs: number[] = [];
  for (let n = 0; n < 1000; n++) {
    const started = performance.now();
    file.writeSync(bytes);
    file.syncDataSync();
    costs.push(performance.now() - started);
  }
  Deno.removeSync(path);
  costs.sort((a, b) => a - b);
  console.log(`fdatasync alone: p50 ${quantile(costs, 0.5)} p99 ${quantile(costs, 0.99)} ms`);
}

sync_cost();
await with_store("1 publisher", publish(1, 1, 1000));
await with_store("64 publishers", publish(64, 1, 1000));
await with_store("1000 publishers", publish(1000, 1, 1000));
await with_store("1 publisher of 100", publish(1, 100, 1000));
await with_store("4 publishers of 100", publish(4, 100, 1000));
await with_store("4 publishers of 1000", publish(4, 1000, 1000));
await with_store("4 publishers of 1000, 1000000 topics", publish(4, 1000, 1_000_000));
await with_store("no sessions", publish_missed);
await with_store("sessions", put_sessions, load_sessions, publish_missed, replay, move_cursors);
await with_store("replay cold", publish_missed, "reopen", replay);
