/**
 * What the store does on this machine: durable publishes per second and their latency with 1, 64
 * and 1000 publishers, batches, the event loop's worst stall meanwhile, and replay. Not a test: run
 * it with
 *   deno run -RW tests/store/bench_store.ts [--seconds=2] [--normal] [name ...]
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

  end(): number {
    clearInterval(this.#timer);
    return this.#worst;
  }
}

function quantile(sorted: readonly number[], q: number): string {
  return (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0).toFixed(2);
}

async function with_store(name: string, run: (store: SqliteStore) => Promise<string>) {
  if (wanted.length > 0 && !wanted.some((one) => name.includes(one))) return;
  const data = Deno.makeTempDirSync({ prefix: "longwire-bench-" });
  const store = await SqliteStore.open(data, { synchronous });
  const stalls = new Stalls();
  try {
    const result = await run(store);
    const disk = Deno.statSync(`${data}/longwire.db`).size / 1048576;
    console.log(`${name}: ${result}; worst stall ${stalls.end().toFixed(1)} ms; ${disk | 0} MiB`);
  } finally {
    stalls.end();
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

await with_store("1 publisher", publish(1, 1, 1000));
await with_store("64 publishers", publish(64, 1, 1000));
await with_store("1000 publishers", publish(1000, 1, 1000));
await with_store("1 publisher of 100", publish(1, 100, 1000));
await with_store("4 publishers of 100", publish(4, 100, 1000));
await with_store("4 publishers of 1000", publish(4, 1000, 1000));
await with_store("4 publishers of 1000, 1000000 topics", publish(4, 1000, 1_000_000));
