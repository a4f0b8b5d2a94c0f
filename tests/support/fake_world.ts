/**
 * The service without sockets and disk: the hub, the router and the sessions over a reactor and a
 * store that go on when a test says so, so that it can stop the world between any two steps.
 */
import { MqttDriver } from "../../core/device_mqtt.ts";
import { Hub } from "../../core/hub.ts";
import { Log } from "../../core/log.ts";
import type { Message, Qos, StoredMessage } from "../../core/message.ts";
import {
  type Connect,
  decode_frame,
  encode,
  type Packet,
  type PacketType,
  type Publish,
} from "../../core/protocol/mqtt.ts";
import { Router } from "../../core/router.ts";
import { Sessions } from "../../core/sessions.ts";
import { MemoryStore } from "../../core/store/memory.ts";
import type { Page, StoredSession } from "../../core/store/mod.ts";
import { type FakeConnection, FakeReactor } from "../fake_reactor.ts";
import { payload_text } from "./mqtt_client.ts";

/**
 * A store whose transactions are answered, in order, when a test says so: those that were not are
 * lost with a kill. Writes of one synchronous turn are one transaction, as everywhere.
 */
export class SlowStore extends MemoryStore {
  /** Transactions that wait; null = none is made to. */
  #held: (() => void)[][] | null = null;
  #turn: (() => void)[] | null = null;

  hold(): void {
    this.#held ??= [];
  }

  /** How many transactions wait. */
  get waiting(): number {
    return this.#held?.length ?? 0;
  }

  /** Carries out, and answers, the oldest of those that wait. */
  answer(count = Infinity): void {
    for (const turn of this.#held!.splice(0, count)) for (const write of turn) write();
  }

  /** The process is killed: what waits is lost, and what it would write until it is no more. */
  async lose(end: () => Promise<void>): Promise<void> {
    this.#held = [];
    await Promise.race([end(), breathe()]);
    this.#held = null;
  }

  #write<T>(write: () => T): T {
    if (this.#held === null) return write();
    if (this.#turn === null) {
      this.#held.push(this.#turn = []);
      queueMicrotask(() => this.#turn = null);
    }
    const turn = this.#turn;
    // The base class never makes anybody wait; the contract allows it.
    return new Promise<T>((resolve) => turn.push(() => resolve(write()))) as T;
  }

  /** Reads wait until answer_reads(); null = they do not. */
  #reads: (() => void)[] | null = null;

  /** Called when a page is about to be read. */
  on_read = () => {};

  hold_reads(): void {
    this.#reads = [];
  }

  override read(filters: readonly string[], after: number, limit: number): Page {
    this.on_read();
    const page = super.read(filters, after, limit);
    const reads = this.#reads;
    if (reads === null) return page;
    return new Promise<Page>((resolve) => reads.push(() => resolve(page))) as unknown as Page;
  }

  answer_reads(): void {
    for (const read of this.#reads!.splice(0)) read();
  }

  override get(offset: number): StoredMessage | undefined {
    const reads = this.#reads;
    if (reads === null) return super.get(offset);
    const later = new Promise((resolve) => reads.push(() => resolve(super.get(offset))));
    return later as unknown as StoredMessage;
  }

  override append(messages: readonly Message[]): number {
    return this.#write(() => super.append(messages));
  }

  override put_session(session: StoredSession): void {
    return this.#write(() => super.put_session(session));
  }

  override delete_session(id: string): void {
    return this.#write(() => super.delete_session(id));
  }

  override put_cursor(id: string, cursor: number): void {
    return this.#write(() => super.put_cursor(id, cursor));
  }
}

/** Lets microtasks and timers run. */
export async function breathe(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

/** What a connection has been sent and not read yet. */
export function packets_of({ out }: FakeConnection): Packet[] {
  return out.splice(0).map((frame) => decode_frame(frame, 0, frame.length, 5));
}

/** Of that the PUBLISH packets. */
export function publishes_of(c: FakeConnection): Publish[] {
  return packets_of(c).filter((packet) => packet.type === "publish");
}

/** Payloads, DUP as an apostrophe. */
export function texts_of(c: FakeConnection): string[] {
  return publishes_of(c).map((packet) => payload_text(packet) + (packet.dup ? "'" : ""));
}

const nobody = { appends_pending: 0, published() {}, refused() {} };

export class FakeWorld<S extends MemoryStore = MemoryStore> {
  readonly reactor = new FakeReactor();
  readonly router: Router;
  readonly sessions: Sessions;
  readonly hub: Hub;
  /** How far the service's clock is ahead of ours. */
  ahead_ms = 0;

  constructor(readonly store: S) {
    const now_ms = () => Date.now() + this.ahead_ms;
    this.router = new Router(this.reactor, store, now_ms);
    const log = new Log({
      level: "warn",
      format: "text",
      write: (line) => {
        throw new Error(line);
      },
      now_ms,
    });
    this.sessions = new Sessions(this.store, now_ms, log);
    this.hub = new Hub(this.reactor, this.router, this.sessions, log);
    this.hub.drivers.push(
      new MqttDriver(this.reactor, this.router, this.sessions, this.hub, now_ms),
    );
  }

  /** Begins with what the store has, and starts the clock. */
  async load(): Promise<this> {
    await this.sessions.load(() => this.hub.drivers[0]);
    return this;
  }

  /** A connection that says CONNECT, of a session that is kept. */
  connect(client_id: string, options: Partial<Connect> = {}): FakeConnection {
    const c = this.reactor.connect(0);
    this.say(c, {
      type: "connect",
      version: 5,
      clean_start: false,
      keepalive_s: 0,
      client_id,
      properties: { session_expiry_s: 1000 },
      ...options,
    });
    return c;
  }

  say(c: FakeConnection, ...packets: readonly Packet[]): void {
    for (const packet of packets) this.reactor.from_device(c, encode(packet, 5));
  }

  subscribe(c: FakeConnection, filter: string, qos: Qos, no_local = false): void {
    const plain = { retain_as_published: false, retain_handling: 0 } as const;
    const subscriptions = [{ filter, qos, no_local, ...plain }];
    this.say(c, { type: "subscribe", packet_id: 9, subscriptions });
  }

  /** A back end publishes. */
  publish(topic: string, text: string, qos: Qos = 1): void {
    const payload = new TextEncoder().encode(text);
    const message = { topic, payload, qos, retain: false, time_ms: 0, expires_ms: 0, key: "" };
    this.router.publish(message, nobody, 0, null);
    this.router.end_turn();
  }

  /** Lets the reactor carry out some commands, and the hub hear of it. */
  move(steps: number): void {
    while (steps-- > 0 && this.reactor.step());
    this.reactor.poll(this.hub);
    this.router.end_turn();
  }

  /** Everything said so far is done. */
  settle(): void {
    do this.move(Infinity); while (this.reactor.step());
    this.reactor.poll(this.hub);
    this.router.end_turn();
    this.move(Infinity);
  }

  /** Everything is done, what follows from it too, as far as the store answers. */
  async rest(): Promise<void> {
    for (let round = 0; round < 10; round++) {
      this.settle();
      await breathe();
    }
    this.settle();
  }

  /** Lets the session's replay hand over everything, and the reactor carry out none of it. */
  async hand_over(id: string): Promise<void> {
    while (this.sessions.get(id)!.replay !== null) {
      this.move(0);
      await breathe();
    }
  }

  /** Has one kind of packet come to the connection? Takes what has come. */
  has_come(c: FakeConnection, type: PacketType): boolean {
    return packets_of(c).some((packet) => packet.type === type);
  }
}
