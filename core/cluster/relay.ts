/**
 * Messages of QoS 0 between nodes, over core NATS: at most once, and only to nodes where somebody
 * listens below the same first level. Invariant: a node passes a message on once, whatever
 * subjects it came by.
 */
import type { Msg, NatsConnection, Subscription } from "@nats-io/transport-node";
import { limits } from "../limits.ts";
import type { Message } from "../message.ts";
import { ByteReader, ByteWriter, read_message, write_message } from "../store/codec.ts";
import { subject_of, token_of } from "../store/subjects.ts";

/** First byte of a record: its form. */
const form = 1;
/** Stands for every first level. */
const all = ">";

/** Levels that are longer may be cut (core/store/subjects.ts). */
const level_units_max = 128;

/** What this end needs of the router. */
export interface Listeners {
  passed(message: Message, after: number): void;
  /** One that another node could not store; answers how many hear it here. */
  heard(message: Message): number;
  readonly fanout: { on_interest: (filter: string, is_heard: boolean) => void };
}

export class NatsRelay {
  sent = 0;
  received = 0;
  /** Names this run of the node: nobody else's messages carry it. */
  readonly #run = crypto.getRandomValues(new Uint32Array(1))[0]!;
  #count = 0;
  /** Newest message of each other node's run. */
  readonly #heard = new Map<number, number>();
  /** Filters by the token of their first level. */
  readonly #interest = new Map<string, number>();
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #out = new ByteWriter(new Uint8Array(4096));

  /** @param prefix of subjects, ends with a dot */
  constructor(
    readonly nats: NatsConnection,
    readonly prefix: string,
    readonly listeners: Listeners,
  ) {
    listeners.fanout.on_interest = (filter, is_heard) => this.#count_interest(filter, is_heard);
  }

  send(message: Message, after: number): void {
    const out = this.#out;
    out.size = 0;
    out.u8(form);
    out.u32(this.#run);
    out.f64(++this.#count);
    out.f64(after);
    write_message(out, message);
    if (this.nats.isClosed()) return;
    this.nats.publish(subject_of(this.prefix, message.topic), out.take().slice());
    this.sent++;
  }

  close(): void {
    for (const subscription of this.#subscriptions.values()) subscription.unsubscribe();
    this.#subscriptions.clear();
  }

  #count_interest(filter: string, is_heard: boolean): void {
    const slash = filter.indexOf("/");
    const level = slash < 0 ? filter : filter.slice(0, slash);
    const is_open = level === "#" || level === "+" || level.length > level_units_max;
    const name = is_open ? all : token_of(level);
    const count = (this.#interest.get(name) ?? 0) + (is_heard ? 1 : -1);
    if (count > 0) this.#interest.set(name, count);
    else this.#interest.delete(name);
    if (count === 0 || is_heard && count === 1) this.#follow();
  }

  /** Subscribes to what is wanted: everything, where that is wanted or the levels are too many. */
  #follow(): void {
    const wants_all = this.#interest.has(all) ||
      this.#interest.size > limits.relay_subscriptions_max;
    const wanted = wants_all ? new Set([all]) : new Set(this.#interest.keys());
    // The new ones first: between the two a message may come twice, but is not missed.
    for (const name of wanted) {
      if (this.#subscriptions.has(name)) continue;
      const subject = name === all ? `${this.prefix}>` : `${this.prefix}${name}.>`;
      const callback = (error: Error | null, message: Msg) => {
        if (error === null) this.#receive(message.data as Uint8Array<ArrayBuffer>);
      };
      this.#subscriptions.set(name, this.nats.subscribe(subject, { callback }));
    }
    for (const [name, subscription] of this.#subscriptions) {
      if (wanted.has(name)) continue;
      subscription.unsubscribe();
      this.#subscriptions.delete(name);
    }
  }

  #receive(data: Uint8Array<ArrayBuffer>): void {
    if (data[0] !== form) return; // of a later version
    const source = new ByteReader(data);
    source.at = 1;
    const run = source.u32();
    const count = source.f64();
    if (run === this.#run || count <= (this.#heard.get(run) ?? 0)) return;
    this.#heard.set(run, count);
    if (this.#heard.size > limits.nodes_max) {
      for (const [oldest] of this.#heard) {
        this.#heard.delete(oldest);
        break;
      }
    }
    const after = source.f64();
    const message = read_message(source);
    this.received++;
    this.listeners.passed({ ...message, payload: message.payload.slice() }, after);
  }
}
