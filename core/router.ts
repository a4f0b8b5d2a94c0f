/**
 * publish(): check -> store -> fan out -> answer. All publishes of a turn are one append.
 * Invariant: stored messages are dispatched in offset order, so `dispatched` names exactly what
 * live connections have been sent, and a publisher's messages are dispatched in the order in
 * which it published them.
 */
import { setImmediate } from "node:timers";
import type { Reactor } from "../ffi/reactor.ts";
import type { Breaker } from "./cluster/breaker.ts";
import { type Code, codes, Refusal } from "./codes.ts";
import type { FairShare } from "./fair_share.ts";
import { Fanout } from "./fanout.ts";
import { limits } from "./limits.ts";
import { elapsed_us, type Measures } from "./measures.ts";
import type { Message, Passed, StoredMessage } from "./message.ts";
import type { PublishOrigin, Session } from "./session.ts";
import type { Appended, Offsets, RetainedPage, Soon, Store } from "./store/mod.ts";
import type { PublishTrace, Tracing } from "./tracing.ts";

/** Messages that are stored once under an idempotency key, all or none. */
export interface Once {
  /** Whose keys these are. */
  readonly scope: string;
  readonly key: string;
}

interface Pending {
  readonly message: Message;
  /** Why it is not published: said when its turn comes, as answers keep the order of publishes. */
  readonly refusal: Refusal | null;
  readonly origin: PublishOrigin;
  readonly token: number;
  readonly from: Session | null;
  /** Reactor.now_us() of when it came; 0 = nobody measures. */
  readonly came_us: number;
  /** null = it is not traced. */
  readonly trace: PublishTrace | null;
}

/** Neighbours in the order of publication that the store takes with one call. */
interface Segment {
  readonly once: Once | null;
  readonly publishes: Pending[];
}

/** How many publishes of a segment have been answered, and how many of these are stored. */
interface Settled {
  count: number;
  stored: number;
}

/** Answers and deliveries of one commit that go out before everything else has a turn. */
const slice_ms = 4;

/** What the store said of a segment; an offset of 0 belongs to one without stored messages. */
type Outcome = Appended | { readonly error: unknown } | { readonly passed: readonly Passed[] };

/** Holds publishes and connects back while there is too much to do (core/overload.ts). */
export interface Pressure {
  /** null = it goes on, now or a little later; "kept" = it has been answered. */
  take(message: Message, origin: PublishOrigin, token: number, from: Session | null):
    | Refusal
    | "kept"
    | null;
  refusal_of_connect(): Refusal | null;
}

/** Hands messages to the other nodes while the log cannot be reached (core/cluster/outage.ts). */
export interface Outage {
  /** @param audience of it on this node */
  pass(message: Message, audience: number): Promise<Passed>;
  /** Of QoS 0: nobody waits for what became of it. */
  send(message: Message): void;
}

/** Hands messages of QoS 0 to the other nodes. */
export interface Relay {
  /** @param after what the publisher had stored before lies up to here in the log */
  send(message: Message, after: number): void;
}

/** A message of QoS 0 that came before what its publisher had stored before it. */
interface Early {
  readonly message: Message;
  readonly after: number;
}

/** Answers of appends under way are fewer than this: whose audience is remembered until then. */
const audiences_count = 1 << 16;

/** Counters, read at scrape time. */
export interface RouterStats {
  published: [qos0: number, qos1: number, qos2: number];
  /** By code. */
  refused: Map<Code, number>;
  /** Messages of QoS 0 that streams of HTTP had no room for. */
  streams_dropped: number;
  /** Publishes that were wanted, and those that were done. */
  tried: number;
  taken: number;
}

export class Router {
  readonly stats: RouterStats = {
    published: [0, 0, 0],
    refused: new Map(),
    streams_dropped: 0,
    tried: 0,
    taken: 0,
  };
  readonly fanout: Fanout;
  /** Answers for topics that are the service's own; undefined = the filter matches none of them. */
  own_topics: { retained(filter: string): Soon<RetainedPage> | undefined } | null = null;
  /** Refuses everything while what the service depends on is down; null = nobody watches that. */
  breaker: Breaker | null = null;
  /** Shares what waits for the store among tenants; null = there is one. */
  fair: FairShare | null = null;
  /** What operators have stopped; null = nothing. */
  denies: ((topic: string) => Refusal | null) | null = null;
  /** Set while there is too much to do. */
  overload: Pressure | null = null;
  /** Set while the log cannot be reached, and other nodes may be. */
  outage: Outage | null = null;
  /** Replays rest so long after each slice; 0 = not at all. */
  replay_rest_ms = 0;
  /** Other nodes; null = there are none. */
  relay: Relay | null = null;
  /** The session of an id, for No Local; set by whoever knows the sessions. */
  session_of: (id: string) => Session | undefined = () => undefined;
  /** Messages of QoS 0 from other nodes that waited too long for what was stored before them. */
  early_dropped = 0;
  /** Histograms; null = nobody measures. */
  measures: Measures | null = null;
  /** Makes traces of publishes; null = nobody wants any. */
  tracing: Tracing | null = null;
  /** Offset of the newest stored message that has been handed to the reactor. */
  dispatched: number;

  #segments: Segment[] = [];
  /** Settles when every append under way has been answered; null = none is. */
  #tail: Promise<void> | null = null;
  /** Wait for the answers to all that has come. */
  #after_answers: (() => void)[] = [];
  #turn_scheduled = false;
  /** When what the turn publishes was at hand; 0 = nothing has come yet, or nobody measures. */
  #turn_us = 0;
  /** Where several nodes share the log: audiences of the newest offsets, and what came early. */
  readonly #audiences: Uint32Array | null = null;
  #early: Early[] = [];

  constructor(readonly reactor: Reactor, readonly store: Store, readonly now_ms: () => number) {
    this.fanout = new Fanout(reactor, now_ms);
    this.dispatched = store.head;
    if (store.shared === undefined) return;
    this.#audiences = new Uint32Array(audiences_count);
    store.shared.on_stored = (message) => this.#stored(message);
    store.shared.has_room = () => this.#has_room();
  }

  /**
   * Publishes one message. The origin hears how it ended: QoS 0 at once, QoS >= 1 when the store
   * has it.
   * @param from the session that publishes, left out where it asked for No Local; null for back
   * ends
   * @param once store it once only; the same object for all messages that belong together
   */
  publish(
    published: Message,
    origin: PublishOrigin,
    token: number,
    from: Session | null,
    once: Once | null = null,
  ): void {
    const refusal = this.#refusal_of(published);
    if (refusal !== null) {
      this.schedule_turn();
      return this.refuse(published, origin, token, refusal, from);
    }
    this.stats.tried++;
    if (this.overload !== null) {
      const held = this.overload.take(published, origin, token, from);
      if (held === "kept") return;
      if (held !== null) return this.refuse(published, origin, token, held, from);
    }
    let message = published;
    let trace: PublishTrace | null = null;
    if (this.tracing !== null) [trace, message] = this.tracing.begin(published, from !== null);
    this.stats.published[message.qos]++;
    const came_us = this.#came_us();
    // Promise 2: a QoS 0 message must not overtake a stored one of the same publisher.
    if (message.qos > 0 || origin.appends_pending > 0) {
      origin.appends_pending++;
      this.fair?.add(message);
      this.#enqueue({ message, refusal: null, origin, token, from, came_us, trace }, once);
    } else {
      if (message.retain) this.#retain(message);
      this.stats.taken++;
      origin.published(token, 0, this.#pass(message, from, came_us, trace), false);
    }
    this.schedule_turn();
  }

  /** Why a message is not even looked at; null = it is. */
  #refusal_of(message: Message): Refusal | null {
    if (message.payload.length > limits.payload_bytes_max) {
      return new Refusal(codes.body_too_large, payload_detail(message));
    }
    if (!this.#has_room()) return new Refusal(codes.queue_full);
    return this.refusal_of_breaker() ?? this.denies?.(message.topic) ??
      this.fair?.refusal_of(message) ?? null;
  }

  /** One look at the clock for all that is published in a turn: it was at hand when that began. */
  #came_us(): number {
    if (this.measures === null) return 0;
    return this.#turn_us ||= this.reactor.now_us();
  }

  /** When a message came that was published elsewhere, to a millisecond of that clock. */
  #came_elsewhere_us({ time_ms }: Message): number {
    if (this.measures === null) return 0;
    return this.reactor.now_us() - Math.max(0, this.now_ms() - time_ms) * 1000 >>> 0 || 1;
  }

  /** Whether the reactor keeps up with what it is told; if not, it is asked again next turn. */
  #has_room(): boolean {
    const has_room = this.reactor.pending_bytes <= limits.command_queue_bytes_max;
    if (!has_room) this.schedule_turn();
    return has_room;
  }

  /** A message of QoS 0 that another node has passed on; `after` as Relay.send() has it. */
  passed(message: Message, after: number): void {
    if (after <= this.dispatched) {
      this.fanout.dispatch(message, 0, null, this.#came_elsewhere_us(message));
    } else if (this.#early.length < limits.early_messages_max) this.#early.push({ message, after });
    else this.early_dropped++;
    this.schedule_turn();
  }

  /** A message of any QoS that lies in no log, from this node or another; answers how many hear. */
  heard(message: Message, from: Session | null = null): number {
    this.schedule_turn();
    return this.fanout.dispatch({ ...message, qos: 0 }, 0, from, 0);
  }

  /** Sends a message of QoS 0 to whoever listens, here and elsewhere; answers how many here. */
  #pass(
    message: Message,
    from: Session | null,
    came_us: number,
    trace: PublishTrace | null,
  ): number {
    if (this.outage !== null) this.outage.send(message);
    else this.relay?.send(message, this.dispatched);
    return this.#dispatch(message, 0, from, came_us, trace);
  }

  /** fanout.dispatch(), traced. */
  #dispatch(
    message: Message,
    offset: number,
    from: Session | null,
    came_us: number,
    trace: PublishTrace | null,
  ): number {
    if (trace === null) return this.fanout.dispatch(message, offset, from, came_us);
    const now_us = this.reactor.now_us();
    const timed_us = came_us || now_us;
    trace.dispatching(elapsed_us(timed_us, now_us));
    const audience = this.fanout.dispatch(message, offset, from, timed_us, trace);
    trace.dispatched(this.fanout.stamp, audience, offset, this.store.epoch);
    return audience;
  }

  /** The next message of a log that other nodes append to as well. */
  #stored(message: StoredMessage): void {
    const { offset, properties } = message;
    const publisher = properties?.publisher;
    const from = publisher === undefined ? null : this.session_of(publisher) ?? null;
    const came_us = this.#came_elsewhere_us(message);
    const audience = this.fanout.dispatch(message, offset, from, came_us);
    this.#audiences![offset % audiences_count] = audience;
    this.measures?.dispatched(offset, came_us);
    this.dispatched = offset;
    if (this.#early.length > 0) {
      const early = this.#early;
      this.#early = [];
      for (const { message, after } of early) this.passed(message, after);
    }
    this.schedule_turn();
  }

  /** Why nothing more is let in now; null = it is. */
  refusal_of_breaker(): Refusal | null {
    const { breaker } = this;
    if (breaker === null) return null;
    const now_ms = this.now_ms();
    if (breaker.admits(now_ms)) return null;
    return new Refusal(codes.breaker_open, undefined, breaker.retry_after_ms(now_ms));
  }

  /** Says so before anything is read of a publish. Throws Refusal. */
  check_breaker(): void {
    if (this.breaker?.state !== "open") return;
    const refusal = this.refusal_of_breaker();
    if (refusal !== null) throw refusal;
  }

  /** Hands a QoS 0 message of the service's own to everyone who listens, on any node. */
  announce(message: Message, from: Session | null = null): void {
    this.#pass(message, from, this.#came_us(), null);
    this.schedule_turn();
  }

  /** Refuses a publish, after the answers of those that its origin published before it. */
  refuse(
    message: Message,
    origin: PublishOrigin,
    token: number,
    refusal: Refusal,
    from: Session | null = null,
  ): void {
    const [trace] = this.tracing?.begin(message, from !== null) ?? [null];
    if (origin.appends_pending === 0) {
      return this.#refuse(origin, token, refusal, trace);
    }
    origin.appends_pending++;
    this.#enqueue({ message, refusal, origin, token, from: null, came_us: 0, trace }, null);
    this.schedule_turn();
  }

  /** Whether messages may be sent before what the store is given now is durable. */
  get may_outrun(): boolean {
    return this.#tail !== null || this.store.shared !== undefined;
  }

  /** Retained messages that match a filter, or what the service says of itself. */
  retained(filter: string, after = ""): Soon<RetainedPage> {
    return this.own_topics?.retained(filter) ?? this.store.retained(filter, after);
  }

  /**
   * Sees to it that the turn ends, for callers that are not the hub's loop: after all that the
   * event loop has at hand, so that the requests of many connections are one append. (A microtask
   * would run after each request.)
   */
  schedule_turn(): void {
    if (this.#turn_scheduled) return;
    this.#turn_scheduled = true;
    setImmediate(this.#end_scheduled);
  }

  readonly #end_scheduled = () => {
    this.#turn_scheduled = false;
    this.end_turn();
  };

  /** Calls `then` when every publish that has come so far is answered: at once, or later. */
  when_answered(then: () => void): void {
    if (this.#segments.length === 0 && this.#tail === null) return then();
    this.#after_answers.push(then);
    this.schedule_turn();
  }

  /** Hands the store every publish of the turn, and the reactor everything said to it. */
  end_turn(): void {
    this.#turn_us = 0;
    if (this.#segments.length > 0 || this.#after_answers.length > 0) this.#commit();
    this.reactor.flush();
  }

  #enqueue(pending: Pending, once: Once | null): void {
    const last = this.#segments.at(-1);
    if (last !== undefined && last.once === once) last.publishes.push(pending);
    else this.#segments.push({ once, publishes: [pending] });
  }

  #commit(): void {
    const segments = this.#segments;
    const after_answers = this.#after_answers;
    this.#segments = [];
    this.#after_answers = [];
    // All calls of one synchronous turn are one transaction of the store.
    const outcomes = segments.map((segment) => this.#append(segment));
    if (this.#tail === null && !outcomes.some((outcome) => outcome instanceof Promise)) {
      segments.forEach((segment, index) => this.#settle(segment, outcomes[index] as Outcome));
      for (const then of after_answers) then();
      return;
    }
    const tail = this.#settle_all(segments, outcomes, this.#tail).finally(() => {
      if (this.#tail === tail) this.#tail = null;
      for (const then of after_answers) then();
    });
    this.#tail = tail;
  }

  async #settle_all(
    segments: readonly Segment[],
    outcomes: readonly Soon<Outcome>[],
    before: Promise<void> | null,
  ): Promise<void> {
    await before;
    let until_ms = performance.now() + slice_ms;
    for (let index = 0; index < segments.length; index++) {
      const outcome = await outcomes[index];
      const segment = segments[index];
      const settled = { count: 0, stored: 0 };
      for (;;) {
        this.#settle(segment, outcome, settled, until_ms);
        if (settled.count === segment.publishes.length) break;
        this.end_turn();
        await new Promise((resolve) => setTimeout(resolve, 0));
        until_ms = performance.now() + slice_ms;
      }
    }
    this.end_turn();
  }

  #append({ once, publishes }: Segment): Soon<Outcome> {
    const messages: Message[] = [];
    for (const publish of publishes) {
      if (!is_stored(publish)) continue;
      messages.push(publish.message);
      publish.trace?.appending();
    }
    if (messages.length === 0) return { offset: 0, duplicate: false };
    if (this.outage !== null) return this.#pass_all(publishes, this.outage);
    this.measures?.store_batch.record(messages.length);
    const failed = (error: unknown): Outcome => ({ error });
    const first = (offset: Offsets): Outcome => ({ offset, duplicate: false });
    try {
      let answer: Soon<Outcome>;
      if (once !== null) {
        answer = this.store.append_once(once.scope, once.key, messages);
        if (answer instanceof Promise) answer = answer.catch(failed);
      } else {
        const offset = this.store.append(messages);
        answer = offset instanceof Promise ? offset.then(first, failed) : first(offset);
      }
      // What has to be durable together with the messages is written in the same turn.
      for (const publish of publishes) {
        if (is_stored(publish)) publish.origin.appending?.(publish.token);
      }
      return this.measures === null ? answer : this.#timed(answer, this.measures);
    } catch (error) {
      return failed(error);
    }
  }

  #timed(answer: Soon<Outcome>, { store }: Measures): Soon<Outcome> {
    const handed_us = this.reactor.now_us();
    const done = (outcome: Outcome) => {
      store.record_us(elapsed_us(handed_us, this.reactor.now_us()));
      return outcome;
    };
    return answer instanceof Promise ? answer.then(done) : done(answer);
  }

  /** Hands what would be stored to whoever is connected, on any node. */
  async #pass_all(publishes: readonly Pending[], outage: Outage): Promise<Outcome> {
    const passed = publishes.filter(is_stored).map(({ message, from }) => {
      // From a device, at QoS 2: it comes again, and would be heard twice.
      if (from !== null && message.qos === 2) return nothing_passed;
      return outage.pass(message, this.heard(message, from));
    });
    return { passed: await Promise.all(passed) };
  }

  #settle_passed({ message, origin, token, trace }: Pending, passed: Passed): void {
    this.#count_refused(codes.not_stored);
    trace?.refused(codes.not_stored);
    if (origin.passed !== undefined) return origin.passed(token, passed);
    const others = passed.missed.length === 0 ? "" : `, but for ${passed.missed.join(", ")}`;
    const done = message.qos === 2
      ? "nor passed on: it would come twice"
      : `but passed to ${passed.audience} subscriptions${others}`;
    origin.refused(token, codes.not_stored, `${codes.not_stored.meaning}, ${done}`, 1000);
  }

  /** Answers the publishes of a segment from where it stands, until time is over. */
  #settle(
    { publishes }: Segment,
    outcome: Outcome,
    settled: Settled = { count: 0, stored: 0 },
    until_ms = Infinity,
  ): void {
    if ("error" in outcome) {
      settled.count = publishes.length;
      return this.#fail(publishes, outcome.error);
    }
    const { offset, duplicate } = "passed" in outcome ? { offset: 0, duplicate: false } : outcome;
    while (settled.count < publishes.length) {
      if (settled.count % 32 === 31 && performance.now() >= until_ms) return;
      const pending = publishes[settled.count++];
      const { message, refusal, origin, token, trace } = pending;
      origin.appends_pending--;
      if (refusal !== null) {
        this.#refuse(origin, token, refusal, trace);
        continue;
      }
      this.fair?.remove(message);
      if ("passed" in outcome && message.qos > 0) {
        this.#settle_passed(pending, outcome.passed[settled.stored++]);
        continue;
      }
      this.stats.taken++;
      if (message.qos === 0) {
        if (message.retain) this.#retain(message);
        const audience = this.#pass(message, pending.from, pending.came_us, trace);
        origin.published(token, 0, audience, duplicate);
        continue;
      }
      const { stored } = settled;
      const place = typeof offset === "number" ? offset + stored : offset[stored];
      settled.stored++;
      origin.published(token, place, this.#audience(pending, place, duplicate), duplicate);
    }
  }

  /** How many subscriptions a stored message is sent to; nothing is sent twice. */
  #audience(pending: Pending, place: number, duplicate: boolean): number {
    const { message, from, came_us, trace } = pending;
    trace?.stored();
    if (duplicate) return 0;
    if (this.#audiences !== null) return this.#audiences[place % audiences_count];
    const audience = this.#dispatch(message, place, from, came_us, trace);
    this.dispatched = place;
    this.measures?.dispatched(place, came_us);
    return audience;
  }

  #fail(publishes: readonly Pending[], error: unknown): void {
    const why = error instanceof Refusal
      ? error
      : new Refusal(codes.store_unavailable, error instanceof Error ? error.message : undefined);
    for (const { message, refusal, origin, token, from, came_us, trace } of publishes) {
      origin.appends_pending--;
      if (refusal === null) this.fair?.remove(message);
      // QoS 0 goes on when the disk does not.
      if (refusal !== null) this.#refuse(origin, token, refusal, trace);
      else if (message.qos > 0) this.#refuse(origin, token, why, trace);
      else origin.published(token, 0, this.#pass(message, from, came_us, trace), false);
    }
  }

  #refuse(
    origin: PublishOrigin,
    token: number,
    refusal: Refusal,
    trace: PublishTrace | null,
  ): void {
    const { code, message, retry_after_ms } = refusal;
    this.#count_refused(code);
    trace?.refused(code);
    origin.refused(token, code, message, retry_after_ms);
  }

  #count_refused(code: Code): void {
    this.stats.refused.set(code, (this.stats.refused.get(code) ?? 0) + 1);
  }

  /** QoS 0 promises nothing, so nobody waits for its retained copy to be durable. */
  #retain(message: Message): void {
    const done = this.store.retain(message);
    if (!(done instanceof Promise)) return;
    done.catch((error) => {
      this.#count_refused(error instanceof Refusal ? error.code : codes.store_unavailable);
    });
  }
}

const nothing_passed: Passed = { audience: 0, nodes: 0, missed: [], conflated: false };

function is_stored({ message, refusal }: Pending): boolean {
  return message.qos > 0 && refusal === null;
}

function payload_detail(message: Message): string {
  const { length } = message.payload;
  return `The payload has ${length} bytes; the limit is ${limits.payload_bytes_max}`;
}
