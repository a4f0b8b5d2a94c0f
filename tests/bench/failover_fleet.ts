/**
 * Who lives through the failures: processes full of devices (fleet.c, failover_clients.ts), and
 * back ends that ask again, with their Idempotency-Key, until they are answered 200. What was
 * answered so must reach every device of its topic.
 */
import { Program } from "../support/process.ts";
import { ensure_program } from "./build.ts";

const publish_timeout_ms = 400;
const retry_ms = 25;

/** Numbers of a process, at this moment. */
export interface FleetState {
  readonly subscribed: number;
  /** Got a message within the last second. */
  readonly served: number;
  /** At the server that they began with. */
  readonly home: number;
}

export interface FleetReport {
  /** Messages that came again; of Longwire clients: to the application. */
  readonly repeated: number;
  readonly reconnects: number;
  /** Packets that were malformed or not expected; Longwire clients: gaps they were told of. */
  readonly wrong: number;
  /** The longest silence of each device since `begin`. */
  readonly silences_ms: readonly number[];
}

export interface Lost {
  readonly lost: number;
  /** Some of them: "number of device". */
  readonly examples: readonly string[];
}

export interface FleetOptions {
  readonly kind: "mqtt" | "longwire";
  readonly devices: number;
  readonly topics: number;
  /** host:port of each, in the same order for all kinds. */
  readonly servers: readonly string[];
  readonly token: string;
}

const clients_args = ["run", "--quiet", "--allow-net", "--allow-read", "--allow-env"];

/** A process of devices. */
export class Fleet {
  private constructor(readonly options: FleetOptions, readonly program: Program) {}

  static async start(options: FleetOptions): Promise<Fleet> {
    const { kind, devices, topics, servers, token } = options;
    const prefix = `${kind}${crypto.randomUUID().slice(0, 8)}`;
    const what = [`devices=${devices}`, `topics=${topics}`, `prefix=${prefix}`];
    const args = [...what, `servers=${servers.join(",")}`, `password=${token}`];
    const script = new URL("failover_clients.ts", import.meta.url).pathname;
    const program = kind === "mqtt"
      ? new Program(await ensure_program("fleet"), args, { stdin: "piped" })
      : new Program(Deno.execPath(), [...clients_args, script, ...args], { stdin: "piped" });
    return new Fleet(options, program);
  }

  state(): Promise<FleetState> {
    return this.#ask("state");
  }

  async begin(): Promise<void> {
    await this.#ask("begin");
  }

  report(): Promise<FleetReport> {
    return this.#ask("report");
  }

  async home(): Promise<void> {
    await this.#ask("home");
  }

  /** Which of these numbers did not come, over all devices of the topic. */
  lost(topic: number, first: number, last: number): Promise<Lost> {
    return this.#ask(`lost ${topic} ${first} ${last}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.program.end("SIGKILL");
  }

  async #ask<T>(command: string): Promise<T> {
    await this.program.say(command);
    const line = await this.program.stdout.next();
    if (line !== undefined) return JSON.parse(line);
    throw new Error(`The fleet has ended: ${this.program.stderr.seen.slice(-5).join("\n")}`);
  }
}

/**
 * Publishes numbers to a topic, one after the other, each until it is answered 200: it is stored;
 * or 202: without the log, it went to those who are connected, and is owed to nobody.
 */
export class Publisher {
  /** The newest that was answered; every one before was, too. */
  acknowledged = 0;
  /** Those of them that were not stored. */
  readonly passed = new Set<number>();
  /** How long the slowest took, milliseconds. */
  slowest_ms = 0;
  /** Idempotency keys of other runs are not this one's. */
  readonly #run_id = crypto.randomUUID();
  #closed = false;
  #paused = false;
  readonly #done: Promise<void>;

  /** @param nodes of HTTP; it begins with that of its topic */
  constructor(
    readonly topic: number,
    readonly nodes: readonly string[],
    readonly headers: Readonly<Record<string, string>>,
    readonly interval_ms: number,
  ) {
    this.#done = this.#run();
  }

  /** Publishes nothing for a while. */
  set paused(paused: boolean) {
    this.#paused = paused;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#done;
  }

  /** Stretches of numbers from `first` on that were stored, both ends included. */
  *stored(first: number): Generator<readonly [first: number, last: number]> {
    for (let number = first; number <= this.acknowledged; number++) {
      if (this.passed.has(number)) continue;
      const begin = number;
      while (number < this.acknowledged && !this.passed.has(number + 1)) number++;
      yield [begin, number];
    }
  }

  async #run(): Promise<void> {
    let node = this.topic;
    while (!this.#closed) {
      const begin_ms = performance.now();
      if (!this.#paused) {
        const number = this.acknowledged + 1;
        while (
          !this.#closed && !await this.#publish(this.nodes[node % this.nodes.length]!, number)
        ) {
          node++;
          await new Promise((resolve) => setTimeout(resolve, retry_ms));
        }
        if (this.#closed) return;
        this.acknowledged = number;
        this.slowest_ms = Math.max(this.slowest_ms, performance.now() - begin_ms);
      }
      const rest_ms = this.interval_ms - (performance.now() - begin_ms);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, rest_ms)));
    }
  }

  async #publish(node: string, number: number): Promise<boolean> {
    try {
      const response = await fetch(`${node}/v1/topics/fleet/${this.topic}`, {
        method: "POST",
        body: String(number),
        headers: { ...this.headers, "idempotency-key": `${this.#run_id} ${number}` },
        signal: AbortSignal.timeout(publish_timeout_ms),
      });
      await response.body?.cancel();
      if (response.status === 202) this.passed.add(number);
      return response.status === 200 || response.status === 202;
    } catch {
      return false;
    }
  }
}
