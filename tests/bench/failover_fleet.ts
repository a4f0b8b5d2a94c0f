/**
 * Devices and a back end that live through failures: MQTT 3.1.1 devices with kept sessions that go
 * to the next node when their connection ends or says nothing, and a publisher that asks again,
 * with its Idempotency-Key, until it is answered 200. What was answered so must reach every device.
 */
import { Decoder, encode } from "../../core/protocol/mqtt.ts";
import type { Service } from "../support/service.ts";

/** Traffic is steady: a connection that brings nothing for this long is given up by its device. */
const silence_max_ms = 1000;
const connect_timeout_ms = 1000;
/** A node that takes the connection may have to wait for the cluster. */
const connack_timeout_ms = 3000;
const publish_timeout_ms = 400;
const retry_ms = 25;
const topic = "fleet/all";

export class Device {
  /** Numbers of the messages that came, and how many of them came again. */
  readonly seen = new Set<number>();
  repeated = 0;
  /** The longest time that nothing came since begin(), up to now. */
  silence_ms = 0;
  #closed = false;
  #conn: Deno.TcpConn | undefined;
  #subscribed = false;
  /** The connection has its CONNACK. */
  #let_in = false;
  #heard_ms = 0;
  #got_ms = 0;

  /** @param first index of the node that it begins with */
  constructor(readonly id: string, readonly nodes: readonly Service[], first: number) {
    void this.#live(first);
  }

  get ready(): boolean {
    return this.#subscribed;
  }

  /** Whether it has its traffic at this moment. */
  is_served(now_ms: number): boolean {
    return this.#subscribed && now_ms - this.#got_ms < silence_max_ms;
  }

  /** From now on silences count. */
  begin(): void {
    this.silence_ms = 0;
  }

  /** Gives up a connection that says nothing. */
  check(now_ms: number): void {
    if (this.#let_in && now_ms - this.#heard_ms > silence_max_ms) this.#end();
  }

  close(): void {
    this.#closed = true;
    this.#end();
  }

  #end(): void {
    this.#let_in = false;
    try {
      this.#conn?.close();
    } catch {
      // it is closed
    }
    this.#conn = undefined;
  }

  async #live(node: number): Promise<void> {
    for (; !this.#closed; node++) {
      try {
        await this.#connection(this.nodes[node % this.nodes.length]!);
      } catch {
        // the next node
      }
      this.#end();
      await new Promise((resolve) => setTimeout(resolve, retry_ms * Math.random()));
    }
  }

  async #connection({ mqtt: { host, port } }: Service): Promise<void> {
    const signal = AbortSignal.timeout(connect_timeout_ms);
    const conn = await Deno.connect({ hostname: host, port, signal });
    this.#conn = conn;
    conn.setNoDelay(true);
    const decoder = new Decoder(4);
    const room = new Uint8Array(16 << 10);
    const connect = { type: "connect", version: 4, clean_start: false, keepalive_s: 60 } as const;
    await conn.write(encode({ ...connect, client_id: this.id }, 4));
    const timer = setTimeout(() => this.#end(), connack_timeout_ms);
    this.#heard_ms = performance.now();
    for (;;) {
      const size = await conn.read(room);
      if (size === null) return clearTimeout(timer);
      this.#heard_ms = performance.now();
      for (const packet of decoder.feed(room.subarray(0, size))) {
        if (packet.type === "connack") {
          clearTimeout(timer);
          if (packet.reason_code !== 0) return;
          this.#let_in = true;
          if (this.#subscribed && packet.session_present) continue;
          const options = { no_local: false, retain_as_published: false, retain_handling: 0 };
          const subscriptions = [{ filter: topic, qos: 1, ...options }] as never;
          await conn.write(encode({ type: "subscribe", packet_id: 1, subscriptions }, 4));
        } else if (packet.type === "suback") this.#subscribed = true;
        else if (packet.type === "publish") {
          this.#got(Number(new TextDecoder().decode(packet.payload)));
          const { packet_id = 0 } = packet;
          await conn.write(encode({ type: "puback", packet_id, reason_code: 0 }, 4));
        }
      }
    }
  }

  #got(number: number): void {
    if (this.seen.has(number)) this.repeated++;
    this.seen.add(number);
    const now_ms = performance.now();
    this.silence_ms = Math.max(this.silence_ms, now_ms - this.#got_ms);
    this.#got_ms = now_ms;
  }
}

/** Publishes numbers, one after the other, at a steady rate; each until it is answered 200. */
export class Publisher {
  /** Numbers that were answered 200. */
  readonly acknowledged: number[] = [];
  /** How long the slowest took, milliseconds. */
  slowest_ms = 0;
  next = 1;
  /** Idempotency keys of other runs are not this one's. */
  readonly #run_id = crypto.randomUUID();
  #closed = false;
  readonly #done: Promise<void>;

  constructor(readonly nodes: readonly Service[], readonly interval_ms: number) {
    this.#done = this.#run();
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#done;
  }

  async #run(): Promise<void> {
    let node = 0;
    while (!this.#closed) {
      const begin_ms = performance.now();
      const number = this.next++;
      while (!await this.#publish(this.nodes[node % this.nodes.length]!, number)) {
        node++;
        await new Promise((resolve) => setTimeout(resolve, retry_ms));
      }
      this.acknowledged.push(number);
      const took_ms = performance.now() - begin_ms;
      this.slowest_ms = Math.max(this.slowest_ms, took_ms);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, this.interval_ms - took_ms)));
    }
  }

  async #publish({ http }: Service, number: number): Promise<boolean> {
    try {
      const response = await fetch(`${http}/v1/topics/${topic}`, {
        method: "POST",
        body: String(number),
        headers: { "idempotency-key": `${this.#run_id} ${number}` },
        signal: AbortSignal.timeout(publish_timeout_ms),
      });
      await response.body?.cancel();
      return response.status === 200;
    } catch {
      return false;
    }
  }
}
