/**
 * One device across its connections: who it is, what it subscribed to, how far it has read the
 * log. A million of these are held at once, so fields are few, small and inline; what a session
 * needs only sometimes hangs behind one nullable field.
 */
import type { Inflight } from "../ffi/reactor.ts";
import type { Code } from "./codes.ts";
import type { Message } from "./message.ts";
import type { RetainedPage } from "./store/mod.ts";

/** `conn` of a session that has no connection. */
export const offline = 0x7fffffff;

/** How a connection encodes what it gets: indexes a subscription's wire form. */
export const Wire = { longwire: 0, mqtt4: 1, mqtt5: 2 } as const;
export type Wire = (typeof Wire)[keyof typeof Wire];

/**
 * Options of a subscription packed into one number: bits 0-1 maximum QoS, bit 2 Retain As
 * Published, bit 3 No Local, from bit 4 the Subscription Identifier (0 = none). MQTT 5 section
 * 3.8.3.1.
 */
export const SubscriptionOptions = {
  pack: (
    qos: number,
    retain_as_published: boolean,
    no_local: boolean,
    identifier: number,
  ): number => qos | (retain_as_published ? 4 : 0) | (no_local ? 8 : 0) | 0 + identifier * 16,
  qos: (options: number): number => options & 3,
  retain_as_published: (options: number): boolean => (options & 4) !== 0,
  no_local: (options: number): boolean => (options & 8) !== 0,
  identifier: (options: number): number => Math.floor(options / 16),
} as const;

/**
 * Who is told how a publish ended; `token` is whatever the publisher handed over with the message.
 */
export interface PublishOrigin {
  /** Publishes of this origin that wait for the store: later ones queue behind them. Router's. */
  appends_pending: number;
  /** Stored at `offset` (0 = not stored, QoS 0) and sent to `audience` connected subscriptions. */
  published(token: number, offset: number, audience: number, duplicate: boolean): void;
  refused(token: number, code: Code, detail: string): void;
  /**
   * Called in the turn in which the message is handed to the store: both become durable together.
   */
  appending?(token: number): void;
}

/** How a protocol tells a device what became of its publishes. */
export interface PublishAnswers {
  published(session: Session, token: number, offset: number, audience: number): void;
  refused(session: Session, token: number, code: Code, detail: string): void;
  /** The publish is being stored: what its exchange needs to be durable is written now. */
  appending?(session: Session, token: number): void;
}

/** Retained messages on their way to a session that subscribed. */
export interface RetainedSend {
  readonly filter: string;
  readonly options: number;
  page: RetainedPage;
  /** Index in the page of the next one to send. */
  next: number;
}

/** A session that is behind the log, and where its replay stands. */
export interface Replay {
  /** Everything up to this offset has been handed over or is not for this session. */
  after: number;
  /** Up to here only what was in flight is sent again. */
  floor: number;
  /** How many more messages the connection takes now. */
  room: number;
  /** A read of the store is under way. */
  reading: boolean;
  /** Filters that want only what comes after an offset of their own. */
  since: Map<string, number> | null;
  /** Retained messages that go out first, filter by filter. */
  retained: RetainedSend[] | null;
  /** The connection has been sent no stored message: none can come back unacknowledged. */
  is_untouched: boolean;
}

/**
 * The will of a connection, published when it ends without saying goodbye (MQTT 5 section 3.1.2.5).
 */
export interface Will {
  readonly message: Omit<Message, "time_ms" | "expires_ms">;
  readonly delay_s: number;
  /** Message Expiry Interval, counted from its publication; 0 = never. */
  readonly expiry_s: number;
}

/** What an MQTT connection needs only sometimes. */
export interface MqttConnection {
  will: Will | null;
  /** Topic aliases that the client has set [MQTT-3.3.2-8]; index = alias. */
  aliases: string[];
  /** The client asked for Problem Information = 0: no reason strings [MQTT-3.1.2-29]. */
  terse: boolean;
}

export class Session implements PublishOrigin {
  conn = offline;
  generation = 0;
  /** Index of the listener, hence of the protocol, of the connection. */
  listener = 0;
  /** The connection has been told to go: what it still sends is ignored. */
  closing = false;
  /** Nothing up to this offset need be sent again, except what `inflight` lists. */
  cursor = 0;
  /** What the last connection left unacknowledged, oldest first. */
  inflight: readonly Inflight[] | null = null;
  appends_pending = 0;
  /** Ends with its connection (MQTT clean session without expiry, Longwire `clean`). */
  transient = true;
  replay: Replay | null = null;
  /** How long the session outlives its connection, seconds; 0xffffffff = for ever. */
  expiry_s = 0;
  /** When an offline session ends, Unix milliseconds; 0 = not by time. */
  ends_ms = 0;
  /** There is a row of it in the store. */
  stored = false;
  /** Packet ids of QoS 2 publishes received and not yet released [MQTT-4.3.3-2]. */
  incoming: Set<number> | null = null;
  mqtt: MqttConnection | null = null;

  #first_filter: string | null = null;
  #first_options = 0;
  #rest: Map<string, number> | null = null;

  constructor(readonly id: string, public wire: Wire, public answers: PublishAnswers) {}

  published(token: number, offset: number, audience: number): void {
    this.answers.published(this, token, offset, audience);
  }

  refused(token: number, code: Code, detail: string): void {
    this.answers.refused(this, token, code, detail);
  }

  appending(token: number): void {
    this.answers.appending?.(this, token);
  }

  get connected(): boolean {
    return this.conn !== offline;
  }

  /**
   * Tells the connection from others that the session has had, below 2^21. A generation alone does
   * not: each slot counts its own.
   */
  get connection_tag(): number {
    return (this.generation * 8191 + this.conn) % 0x20_0000;
  }

  get subscription_count(): number {
    return (this.#first_filter === null ? 0 : 1) + (this.#rest?.size ?? 0);
  }

  /** Options of the subscription to this filter; undefined when there is none. */
  options_of(filter: string): number | undefined {
    return filter === this.#first_filter ? this.#first_options : this.#rest?.get(filter);
  }

  /** Adds a subscription, or replaces the options of the one to the same filter [MQTT-3.8.4-3]. */
  subscribe(filter: string, options: number): void {
    if (this.#first_filter === null || this.#first_filter === filter) {
      if (this.#first_filter === null) this.#rest?.delete(filter);
      this.#first_filter = filter;
      this.#first_options = options;
    } else {
      (this.#rest ??= new Map()).set(filter, options);
    }
  }

  /** Answers whether there was such a subscription. */
  unsubscribe(filter: string): boolean {
    if (filter !== this.#first_filter) return this.#rest?.delete(filter) ?? false;
    this.#first_filter = null;
    return true;
  }

  /** Every subscription, in no promised order. */
  *subscriptions(): Generator<[filter: string, options: number]> {
    if (this.#first_filter !== null) yield [this.#first_filter, this.#first_options];
    if (this.#rest !== null) yield* this.#rest;
  }
}
