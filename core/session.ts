/**
 * One device across its connections: who it is, what it subscribed to, how far it has read the
 * log. A million of these are held at once, so fields are few, small and inline; what a session
 * needs only sometimes hangs behind one nullable field.
 */
import type { Inflight, PeerCertificate } from "../ffi/reactor.ts";
import type { Access } from "./access.ts";
import { type Code, codes, Refusal } from "./codes.ts";
import { limits } from "./limits.ts";
import type { Message, Passed, StoredMessage } from "./message.ts";
import type { RetainedPage } from "./store/mod.ts";
import { filter_matches } from "./topic_tree.ts";

/** `conn` of a session that has no connection. */
export const offline = 0x7fffffff;

/**
 * How a connection encodes what it gets: indexes a subscription's wire form. `longwire_zstd`: the
 * device can read bodies that are compressed, with the dictionary and without.
 */
export const Wire = { longwire: 0, mqtt4: 1, mqtt5: 2, longwire_zstd: 3 } as const;
export type Wire = (typeof Wire)[keyof typeof Wire];

/** Whether it is Longwire's own protocol. */
export function is_longwire(wire: Wire): boolean {
  return wire === Wire.longwire || wire === Wire.longwire_zstd;
}

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
  ): number => qos + (retain_as_published ? 4 : 0) + (no_local ? 8 : 0) + identifier * 16,
  with_qos: (options: number, qos: number): number => options - (options & 3) + qos,
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
  /** @param retry_after_ms 0 = nothing better is known than that the code is retryable */
  refused(token: number, code: Code, detail: string, retry_after_ms: number): void;
  /** Not stored, and not refused either; absent = it is told so with codes.not_stored or shed. */
  passed?(token: number, passed: Passed): void;
  /**
   * Called in the turn in which the message is handed to the store: both become durable together.
   */
  appending?(token: number): void;
}

/** How a protocol tells a device what became of its publishes. */
export interface PublishAnswers {
  published(session: Session, token: number, offset: number, audience: number): void;
  refused(
    session: Session,
    token: number,
    code: Code,
    detail: string,
    retry_after_ms: number,
  ): void;
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
  /** How many more messages the connection takes now, and about how many bytes. */
  room: number;
  room_bytes: number;
  /** A read of the store is under way. */
  reading: boolean;
  /** What earlier connections left open goes out first, oldest first. */
  resends: Exchange[];
  /** Offsets of those: after a crash the cursor may stand before them. */
  resent: Set<number> | null;
  /** Retained messages that go out first, filter by filter. */
  retained: RetainedSend[] | null;
  /** Every exchange that goes on with PUBREL is in the store. */
  is_kept: boolean;
  /** The connection has been sent no stored message: none can come back unacknowledged. */
  is_untouched: boolean;
}

/** An exchange with the device that is not over: a message that was sent and not acknowledged. */
export interface Exchange extends Inflight {
  /** The shared subscription that it was sent for, `$share/group/filter`. */
  readonly group?: string;
}

/**
 * The will of a connection, published when it ends without saying goodbye (MQTT 5 section 3.1.2.5).
 */
export interface Will {
  readonly message: Omit<Message, "time_ms" | "expires_ms">;
  readonly delay_s: number;
  /** Message Expiry Interval, counted from its publication; -1 = never. */
  readonly expiry_s: number;
}

/** What an MQTT connection needs only sometimes. */
export interface MqttConnection {
  /** Topic aliases that the client has set [MQTT-3.3.2-8]; index = alias. */
  readonly aliases: string[];
  /** The client asked for Problem Information = 0: no reason strings [MQTT-3.1.2-29]. */
  readonly terse: boolean;
  /** Larger packets are not sent to it [MQTT-3.1.2-24]. */
  readonly packet_bytes_max: number;
}

/**
 * What a subscription was before it was made or changed: a message that is sent late is judged by
 * what held when it was published.
 */
export interface Former {
  /** Messages up to this offset are meant. */
  readonly until: number;
  /** -1 = there was no such subscription. */
  readonly options: number;
}

/**
 * A subscription that is no more. A message that it wanted at a better QoS than what is left wants
 * was not sent then, but left to a replay: it is still to come.
 */
export interface Lapsed extends Former {
  readonly filter: string;
  /** What it was before; ascending. */
  readonly formers: readonly Former[];
}

/** What a device asked for and is done when its publishes before that have their answers. */
interface Deferred {
  /** How many answers are still to come. */
  appends: number;
  readonly steps: (() => void)[];
}

/** Of what it was up to some offset, and is now, what it was for a message of this offset. */
function options_at(formers: readonly Former[] | undefined, now: number, offset: number): number {
  return formers?.find(({ until }) => offset <= until)?.options ?? now;
}

/** What a session has only sometimes: most of a million sessions have none of it. */
interface Rare {
  access: Access | null;
  inflight: Map<number, Exchange> | null;
  over: Set<number> | null;
  replay: Replay | null;
  incoming: Map<number, number> | null;
  mqtt: MqttConnection | null;
  certificate: PeerCertificate | null;
  will: Will | null;
  will_due_ms: number;
  ends_ms: number;
  alarm_tick: number;
  unsure_to: number;
  behind_count: number;
  delivered: number;
  formers: Map<string, readonly Former[]> | null;
  lapsed: readonly Lapsed[] | null;
  deferred: Deferred | null;
  rest: Map<string, number> | null;
}

/** Bits of Session.#flags; above them the listener. */
const Flag = { closing: 1, transient: 2, stored: 4, identified: 8, no_local: 16 } as const;
const wire_shift = 5;
const listener_shift = 7;

/** MQTT 5 section 3.1.2.11.2: the session does not expire. */
export const expiry_never_s = 0xffffffff;

export class Session implements PublishOrigin {
  conn = offline;
  generation = 0;
  /**
   * Nothing up to this offset need be sent again, except what `inflight` lists; of what comes after
   * it, not what `over` lists.
   */
  cursor = 0;
  appends_pending = 0;
  /** Publishes of this connection whose exchange is not over [MQTT-3.3.4-9]. */
  acks_pending = 0;

  /** Small fields in one: closing, transient, stored, identified, no_local, wire, listener. */
  #flags: number;
  /** Seconds, -1 = for ever: that way it is always a small integer. */
  #expiry = 0;
  #first_filter: string | null = null;
  #first_options = 0;
  #rare: Rare | null = null;

  constructor(readonly id: string, wire: Wire, public answers: PublishAnswers) {
    this.#flags = Flag.transient | wire << wire_shift;
  }

  #flag(bit: number, on: boolean): void {
    this.#flags = on ? this.#flags | bit : this.#flags & ~bit;
  }

  #make_rare(): Rare {
    return this.#rare ??= {
      access: null,
      inflight: null,
      over: null,
      replay: null,
      incoming: null,
      mqtt: null,
      certificate: null,
      will: null,
      will_due_ms: 0,
      ends_ms: 0,
      alarm_tick: 0,
      unsure_to: 0,
      behind_count: 0,
      delivered: 0,
      formers: null,
      lapsed: null,
      deferred: null,
      rest: null,
    };
  }

  get wire(): Wire {
    return (this.#flags >> wire_shift & 3) as Wire;
  }

  set wire(wire: Wire) {
    this.#flags = this.#flags & ~(3 << wire_shift) | wire << wire_shift;
  }

  /** Index of the listener, hence of the protocol, of the connection. */
  get listener(): number {
    return this.#flags >> listener_shift;
  }

  set listener(index: number) {
    this.#flags = this.#flags & (1 << listener_shift) - 1 | index << listener_shift;
  }

  /** The connection has been told to go: what it still sends is ignored. */
  get closing(): boolean {
    return (this.#flags & Flag.closing) !== 0;
  }

  set closing(on: boolean) {
    this.#flag(Flag.closing, on);
  }

  /** Ends with its connection (MQTT clean session without expiry, Longwire `clean`). */
  get transient(): boolean {
    return (this.#flags & Flag.transient) !== 0;
  }

  set transient(on: boolean) {
    this.#flag(Flag.transient, on);
  }

  /** One of its subscriptions has a Subscription Identifier: the fan-out treats it apart. */
  get identified(): boolean {
    return (this.#flags & Flag.identified) !== 0;
  }

  set identified(on: boolean) {
    this.#flag(Flag.identified, on);
  }

  /** A subscription has, or had, No Local: its publishes carry who published them. */
  get no_local(): boolean {
    return (this.#flags & Flag.no_local) !== 0;
  }

  set no_local(on: boolean) {
    this.#flag(Flag.no_local, on);
  }

  /**
   * Takes a step of the connection in its turn: after those that were put off, else at once.
   * @param waits puts it off until all publishes that wait for the store have their answers
   */
  in_turn(step: () => void, waits: boolean): void {
    const deferred = this.#rare?.deferred ?? null;
    if (deferred !== null) {
      if (deferred.steps.length >= limits.deferred_steps_max) throw new Refusal(codes.queue_full);
      deferred.steps.push(step);
    } else if (waits && this.appends_pending > 0) {
      this.#make_rare().deferred = { appends: this.appends_pending, steps: [step] };
    } else step();
  }

  /** The connection is gone: what it asked for and was not answered is not done. */
  drop_steps(): void {
    if (this.#rare !== null) this.#rare.deferred = null;
  }

  /** A publish that waited for the store has its answer. */
  #append_over(): void {
    const rare = this.#rare;
    if (rare === null || rare.deferred === null || --rare.deferred.appends > 0) return;
    const { steps } = rare.deferred;
    rare.deferred = null;
    for (const step of steps) step();
  }

  /** The same of one that an earlier session of this id left, which `appends_pending` counts. */
  inherited_append_over(): void {
    this.appends_pending--;
    this.#append_over();
  }

  /** Whether the session itself published the message, as far as No Local has to know. */
  has_published({ properties }: StoredMessage): boolean {
    return properties?.publisher === this.id;
  }

  /** There is a row of it in the store. */
  get stored(): boolean {
    return (this.#flags & Flag.stored) !== 0;
  }

  set stored(on: boolean) {
    this.#flag(Flag.stored, on);
  }

  /** How long the session outlives its connection, seconds; expiry_never_s = for ever. */
  get expiry_s(): number {
    return this.#expiry < 0 ? expiry_never_s : this.#expiry;
  }

  set expiry_s(seconds: number) {
    this.#expiry = seconds === expiry_never_s ? -1 : seconds;
  }

  /**
   * Exchanges that are not over, by packet id, oldest first: what earlier connections left, and of
   * this one the QoS 2 exchanges whose PUBREC came. Never empty.
   */
  get inflight(): Map<number, Exchange> | null {
    return this.#rare === null ? null : this.#rare.inflight;
  }

  set inflight(exchanges: Map<number, Exchange> | null) {
    const some = exchanges === null || exchanges.size === 0 ? null : exchanges;
    if (some !== null || this.#rare !== null) this.#make_rare().inflight = some;
  }

  /**
   * The device has acknowledged the exchange, or it cannot be completed. A QoS 2 message of the log
   * that the cursor does not cover yet is remembered instead: a crash must not send it again.
   */
  exchange_over(packet_id: number): void {
    const { inflight } = this;
    const known = inflight?.get(packet_id);
    if (inflight === null || known === undefined) return;
    inflight.delete(packet_id);
    if (inflight.size === 0) this.inflight = null;
    const { seq, qos, aside } = known;
    if (qos === 2 && !aside && seq > this.cursor) (this.#make_rare().over ??= new Set()).add(seq);
  }

  /**
   * Offsets after the cursor that are done with: of QoS 2 messages that were completed before older
   * ones were acknowledged. Never empty; as many as the in-flight window holds.
   */
  get over(): ReadonlySet<number> | null {
    return this.#rare === null ? null : this.#rare.over;
  }

  set over(offsets: Set<number> | null) {
    const some = offsets === null || offsets.size === 0 ? null : offsets;
    if (some !== null || this.#rare !== null) this.#make_rare().over = some;
  }

  /** Nothing up to this offset need be sent again any more, except what `inflight` lists. */
  move_cursor(offset: number): void {
    this.cursor = offset;
    if (this.#rare === null) return;
    const { over, unsure_to } = this.#rare;
    if (unsure_to <= offset) this.#rare.unsure_to = 0;
    this.#drop_formers(offset);
    if (over === null) return;
    for (const each of over) if (each <= offset) over.delete(each);
    if (over.size === 0) this.over = null;
  }

  /** By filter, what its subscription was for messages that may still come; ascending. */
  get formers(): ReadonlyMap<string, readonly Former[]> | null {
    return this.#rare === null ? null : this.#rare.formers;
  }

  set formers(formers: Map<string, readonly Former[]> | null) {
    const some = formers === null || formers.size === 0 ? null : formers;
    if (some !== null || this.#rare !== null) this.#make_rare().formers = some;
  }

  /** Notes what a subscription was up to an offset; -1 = there was none. */
  add_former(filter: string, until: number, options: number): void {
    const formers = this.#make_rare().formers ??= new Map();
    const before: readonly Former[] = options < 0 ? [] : formers.get(filter) ?? [];
    if (before.length > 0 && before.at(-1)!.until >= until) return; // it never counted
    // What is forgotten first is taken for what came after it.
    const kept = before.slice(1 - limits.subscription_formers_max);
    formers.set(filter, [...kept, { until, options }]);
  }

  /** Subscriptions that are no more, for messages that may still come. Never empty. */
  get lapsed(): readonly Lapsed[] | null {
    return this.#rare === null ? null : this.#rare.lapsed;
  }

  /** Notes that a subscription is no more. What is forgotten first it did not want. */
  add_lapsed(filter: string, until: number, options: number): void {
    const formers = this.formers?.get(filter) ?? [];
    const kept = (this.lapsed ?? []).slice(1 - limits.subscriptions_lapsed_max);
    this.#make_rare().lapsed = [...kept, { filter, until, options, formers }];
  }

  /** At which QoS those wanted a message; `own` = the session itself published it. */
  qos_lapsed({ topic, offset }: StoredMessage, own: boolean): number {
    let qos = 0;
    for (const { filter, until, options, formers } of this.lapsed ?? []) {
      const then = offset > until ? -1 : options_at(formers, options, offset);
      if (then < 0 || own && SubscriptionOptions.no_local(then)) continue; // [MQTT-3.8.3-3]
      if (filter_matches(filter, topic)) qos = Math.max(qos, SubscriptionOptions.qos(then));
    }
    return qos;
  }

  /** Nothing up to this offset comes any more: what subscriptions were then does not matter. */
  #drop_formers(offset: number): void {
    const rare = this.#rare!;
    if (rare.lapsed !== null && rare.lapsed.some(({ until }) => until <= offset)) {
      const kept = rare.lapsed.filter(({ until }) => until > offset);
      rare.lapsed = kept.length === 0 ? null : kept;
    }
    const { formers } = rare;
    if (formers === null) return;
    for (const [filter, list] of formers) {
      const kept = list.filter(({ until }) => until > offset);
      if (kept.length === 0) formers.delete(filter);
      else if (kept.length < list.length) formers.set(filter, kept);
    }
    this.formers = formers;
  }

  /** Options of a subscription as they were for a message of this offset; -1 = it was not there. */
  options_then(filter: string, options: number, offset: number): number {
    return options_at(this.#rare?.formers?.get(filter), options, offset);
  }

  /** Number of the last time that this connection fell behind; 0 = it never did. */
  get behind_count(): number {
    return this.#rare === null ? 0 : this.#rare.behind_count;
  }

  set behind_count(count: number) {
    if (count !== 0 || this.#rare !== null) this.#make_rare().behind_count = count;
  }

  /** Messages handed to this connection alone, those of shared subscriptions aside. */
  get delivered(): number {
    return this.#rare === null ? 0 : this.#rare.delivered;
  }

  set delivered(count: number) {
    if (count !== 0 || this.#rare !== null) this.#make_rare().delivered = count;
  }

  /**
   * Up to this offset a service that was killed may have sent messages that the cursor does not
   * cover: they go out with DUP [MQTT-3.3.1-1]. Holds until the cursor has come there, not only for
   * the first connection, which may end before it has been sent them; 0 = there are none.
   */
  get unsure_to(): number {
    return this.#rare === null ? 0 : this.#rare.unsure_to;
  }

  set unsure_to(offset: number) {
    if (offset !== 0 || this.#rare !== null) this.#make_rare().unsure_to = offset;
  }

  get replay(): Replay | null {
    return this.#rare === null ? null : this.#rare.replay;
  }

  set replay(replay: Replay | null) {
    if (replay !== null || this.#rare !== null) this.#make_rare().replay = replay;
  }

  /**
   * Packet ids of QoS 2 publishes received and not yet released [MQTT-4.3.3-2]: 0 = stored, else
   * the token with which the publish waits for the store.
   */
  get incoming(): Map<number, number> | null {
    return this.#rare === null ? null : this.#rare.incoming;
  }

  set incoming(ids: Map<number, number> | null) {
    const some = ids === null || ids.size === 0 ? null : ids;
    if (some !== null || this.#rare !== null) this.#make_rare().incoming = some;
  }

  get mqtt(): MqttConnection | null {
    return this.#rare === null ? null : this.#rare.mqtt;
  }

  set mqtt(state: MqttConnection | null) {
    if (state !== null || this.#rare !== null) this.#make_rare().mqtt = state;
  }

  /** What the device has shown on this connection, verified; null = nothing, or it is offline. */
  get certificate(): PeerCertificate | null {
    return this.#rare === null ? null : this.#rare.certificate;
  }

  set certificate(certificate: PeerCertificate | null) {
    if (certificate !== null || this.#rare !== null) this.#make_rare().certificate = certificate;
  }

  /** What the connection may do; null = everything, or there is none. */
  get access(): Access | null {
    return this.#rare === null ? null : this.#rare.access;
  }

  set access(access: Access | null) {
    if (access !== null || this.#rare !== null) this.#make_rare().access = access;
  }

  /** Of the connection, or of one that is gone while its delay lasts [MQTT-3.1.2-8]. */
  get will(): Will | null {
    return this.#rare === null ? null : this.#rare.will;
  }

  set will(will: Will | null) {
    if (will !== null || this.#rare !== null) this.#make_rare().will = will;
  }

  /** When the will of a connection that is gone is due, Unix milliseconds; 0 = it is not gone. */
  get will_due_ms(): number {
    return this.#rare === null ? 0 : this.#rare.will_due_ms;
  }

  set will_due_ms(time_ms: number) {
    if (time_ms !== 0 || this.#rare !== null) this.#make_rare().will_due_ms = time_ms;
  }

  /** The tick of Sessions at which the session's times are looked at again; 0 = never. */
  get alarm_tick(): number {
    return this.#rare === null ? 0 : this.#rare.alarm_tick;
  }

  set alarm_tick(tick: number) {
    if (tick !== 0 || this.#rare !== null) this.#make_rare().alarm_tick = tick;
  }

  /** When an offline session ends, Unix milliseconds; 0 = not by time. */
  get ends_ms(): number {
    return this.#rare === null ? 0 : this.#rare.ends_ms;
  }

  set ends_ms(time_ms: number) {
    if (time_ms !== 0 || this.#rare !== null) this.#make_rare().ends_ms = time_ms;
  }

  published(token: number, offset: number, audience: number): void {
    this.#append_over();
    this.answers.published(this, token, offset, audience);
  }

  refused(token: number, code: Code, detail: string, retry_after_ms: number): void {
    this.#append_over();
    this.answers.refused(this, token, code, detail, retry_after_ms);
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
    return (this.#first_filter === null ? 0 : 1) + (this.#rare?.rest?.size ?? 0);
  }

  /** Options of the subscription to this filter; undefined when there is none. */
  options_of(filter: string): number | undefined {
    return filter === this.#first_filter ? this.#first_options : this.#rare?.rest?.get(filter);
  }

  /** Adds a subscription, or replaces the options of the one to the same filter [MQTT-3.8.4-3]. */
  subscribe(filter: string, options: number): void {
    if (this.#first_filter === null || this.#first_filter === filter) {
      if (this.#first_filter === null) this.#rare?.rest?.delete(filter);
      this.#first_filter = filter;
      this.#first_options = options;
    } else {
      (this.#make_rare().rest ??= new Map()).set(filter, options);
    }
  }

  /** Answers whether there was such a subscription. */
  unsubscribe(filter: string): boolean {
    this.#rare?.formers?.delete(filter);
    if (filter !== this.#first_filter) return this.#rare?.rest?.delete(filter) ?? false;
    this.#first_filter = null;
    return true;
  }

  /** Every subscription, in no promised order. */
  *subscriptions(): Generator<[filter: string, options: number]> {
    if (this.#first_filter !== null) yield [this.#first_filter, this.#first_options];
    if (this.#rare?.rest) yield* this.#rare.rest;
  }
}
