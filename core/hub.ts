/**
 * The loop that drains the reactor's batches and knows which session a connection belongs to.
 * Invariant: a session has at most one connection; a second one waits until the reactor has said
 * that the first is gone, so what the first had in flight is known before the second is
 * answered.
 */
import type { Closed, Reactor, ReactorHandler, Settled, Traced } from "../ffi/reactor.ts";
import type { Access } from "./access.ts";
import type { Ownership } from "./cluster/mod.ts";
import { type Code, code_of, codes, Refusal } from "./codes.ts";
import type { Due } from "./deadlines.ts";
import type { Gate, Shown, Who } from "./gate.ts";
import { LastAnswers } from "./last_answers.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import type { Measures } from "./measures.ts";
import { Presence } from "./presence.ts";
import { Replayer } from "./replay.ts";
import type { Router } from "./router.ts";
import { is_longwire, offline, type PublishAnswers, Session } from "./session.ts";
import { device_id_problem, new_id, plain_filter } from "./namespace.ts";
import { type Exchange, SubscriptionOptions, type Will, type Wire } from "./session.ts";
import type { Sessions } from "./sessions.ts";
import { Timeline } from "./timeline.ts";
import { SharedSubscriptions } from "./shared.ts";
import type { Soon } from "./store/mod.ts";
import { is_shared } from "./topic_tree.ts";

/** Where a node listens for devices, host:port; "" = it does not. */
export interface Elsewhere {
  readonly mqtt: string;
  readonly device: string;
}

/** The device is to go to another node. */
export class Moved extends Refusal {
  constructor(readonly place: Elsewhere) {
    super(codes.moved);
  }
}

/** One device protocol: what its packets mean. Drivers hold no state of a connection. */
export interface Driver extends PublishAnswers {
  readonly name: string;
  /** The first frame. Throws Refusal, or calls hub.claim(). */
  on_first(conn: number, generation: number, bytes: Uint8Array, begin: number, end: number): void;
  on_frame(session: Session, bytes: Uint8Array, begin: number, end: number): void;
  /**
   * Says why to a device that has no session yet. Closing is the hub's. `wire` as in its claim, if
   * any.
   */
  refuse_first(conn: number, generation: number, refusal: Refusal, wire?: Wire): void;
  /** Says goodbye to a device that is about to be closed, and where else it may go. */
  goodbye(session: Session, code: Code, detail: string, place?: Elsewhere): void;
  /** Messages after offset `from`, up to `to`, have expired before the session could have them. */
  on_gap(session: Session, from: number, to: number): void;
  /** What the service has of these QoS 2 exchanges is durable: the device may forget them. */
  release(session: Session, packet_ids: readonly number[]): void;
  /**
   * The connection is gone; `session` still has its subscriptions, and no connection. Answers the
   * will that it leaves; null = none.
   */
  on_closed(session: Session, code: Code): Will | null;
}

/**
 * A connection whose session is not there yet. The reactor passes nothing on until it is active.
 */
class Handshake {
  constructor(
    readonly driver: Driver,
    readonly conn: number,
    readonly generation: number,
    readonly claim: Claim,
  ) {}
}

/** A connection of which the keys are being asked who it is. */
class Arrival {
  constructor(readonly driver: Driver, readonly generation: number, readonly wire: Wire) {}
}

/** Ends a connection when its token does. */
class Expiry implements Due {
  constructor(readonly hub: Hub, readonly session: Session, readonly access: Access) {}

  due(): void {
    if (this.session.access === this.access) this.hub.close(this.session, codes.token_expired);
  }
}

/** What a driver wants when the first packet was good. */
export interface Claim {
  /** As the service knows it (namespace.ts). */
  readonly id: string;
  /** null = everything. */
  readonly access: Access | null;
  readonly wire: Wire;
  /** Forget what an earlier connection of the session left behind. */
  readonly clean: boolean;
  /** The session ends with its connection. */
  readonly transient: boolean;
  /** Also from a device that is connected to another node. */
  readonly takes_over: boolean;
  /**
   * Called once, with the session bound to the connection; `present` = it had been there before.
   */
  granted(session: Session, present: boolean): void;
}

/** How long the loop goes on before it lets HTTP and timers have a turn. */
const slice_ms = 4;

function count_subscriptions(session: Session, more: number): void {
  const { access } = session;
  if (access !== null) access.tenant.usage.subscriptions += more;
}

function refusal_of_filter(session: Session, filter: string, is_cluster: boolean): Code | null {
  const forbidden = session.access?.refusal_of_filter(plain_filter(filter));
  if (forbidden) return forbidden.code;
  // Longwire devices acknowledge cumulatively: they cannot have every third message of a topic.
  // In a cluster each node would have a group of its own, and give each message to a member.
  if (is_shared(filter) && (is_cluster || is_longwire(session.wire))) {
    return codes.shared_unsupported;
  }
  if (session.options_of(filter) !== undefined) return null;
  if (session.subscription_count >= limits.subscriptions_per_session_max) {
    return codes.subscription_limit;
  }
  return session.access?.refusal_of_subscription()?.code ?? null;
}

/** Who wants to know which devices come and go. */
export interface DeviceWatcher {
  joined(session: Session): void;
  left(session: Session, code: Code): void;
}

type Slot = Session | Handshake | Arrival | undefined;

export class Hub implements ReactorHandler {
  /** Subscriptions that were refused, by code: for metrics. */
  readonly filters_refused = new Map<Code, number>();
  readonly #slots: Slot[][] = [];
  /** Sessions whose connection is being closed for a successor. */
  readonly #successors = new Map<Session, Handshake>();
  readonly #replayer: Replayer;
  /** Histograms; null = nobody measures. */
  measures: Measures | null = null;
  readonly shared: SharedSubscriptions;
  readonly timeline: Timeline;
  /** Who owns sessions in a cluster; null = this node owns all. */
  ownership: Ownership | null = null;
  /** null = nobody wants to know. */
  watcher: DeviceWatcher | null = null;
  /** Why a session may not connect here: throws Refusal, Moved; null = all may. */
  route: ((id: string) => void) | null = null;
  /** Connects that were claimed, and those that were granted. */
  connects_tried = 0;
  connects_granted = 0;
  /** Sessions that another node waits for, until their connection is gone. */
  readonly #leaving = new Map<Session, () => void>();
  readonly #presence: Presence;
  readonly #last_answers = new LastAnswers();
  #stopping = false;

  constructor(
    readonly reactor: Reactor,
    readonly router: Router,
    readonly sessions: Sessions,
    readonly log: Log,
    /** By listener, in the order of Reactor.listen(). */
    readonly drivers: Driver[] = [],
    /** null = everybody may do everything. */
    readonly gate: Gate | null = null,
  ) {
    const keep = (session: Session) => this.#keep(session);
    const on_gap = (session: Session, from: number, to: number) => {
      this.driver_of(session).on_gap(session, from, to);
    };
    this.timeline = new Timeline(router.now_ms);
    const on_live = (session: Session) => {
      this.timeline.caught_up(session.id);
      this.shared.live(session);
    };
    this.#replayer = new Replayer(reactor, router, log, keep, on_gap, on_live);
    this.shared = new SharedSubscriptions(router, sessions, log);
    router.session_of = (id) => sessions.get(id);
    sessions.may_write = (id) => this.ownership?.may_write(id) ?? true;
    sessions.on_end = (id) => this.ownership?.release(id);
    this.#presence = new Presence(router, router.now_ms);
  }

  /** Drains the reactor until stop(). */
  async run(): Promise<void> {
    while (!this.#stopping) {
      const until_ms = performance.now() + slice_ms;
      let events: number;
      do {
        this.ownership?.check();
        events = this.reactor.poll(this, until_ms);
        if (events > 0) this.measures?.event_batch.record(events);
        this.router.end_turn();
      } while (events > 0 && performance.now() < until_ms);
      if (events > 0) await new Promise((resolve) => setTimeout(resolve, 0));
      else if (!this.#stopping) await this.reactor.wait(-1);
    }
  }

  stop(): void {
    this.#stopping = true;
    this.reactor.wake();
  }

  /** Says goodbye to a session's device and closes its connection. */
  close(session: Session, code: Code, detail = code.meaning, place?: Elsewhere): void {
    if (!session.connected || session.closing) return;
    this.driver_of(session).goodbye(session, code, detail, place);
    this.drop(session, code);
  }

  /** Closes a session's connection without a word of the protocol. */
  drop(session: Session, code: Code): void {
    if (!session.connected || session.closing) return;
    session.closing = true;
    this.reactor.close_connection(session.conn, session.generation, code.number);
    this.router.schedule_turn();
  }

  /** Sessions that are behind the log. */
  get replays(): Pick<Replayer, "count" | "lag" | "was_live"> {
    return this.#replayer;
  }

  driver_of(session: Session): Driver {
    return this.drivers[session.listener];
  }

  /**
   * Finds out who a connection is, now or when the keys have been asked, and goes on with that.
   * `then` may throw Refusal; what the first packet's frame lay in may be gone.
   */
  identify(
    conn: number,
    generation: number,
    driver: Driver,
    wire: Wire,
    shown: Omit<Shown, "certified">,
    then: (who: Who) => void,
  ): void {
    const { gate } = this;
    if (gate === null) {
      const problem = device_id_problem(shown.id);
      if (problem !== undefined) throw new Refusal(codes.client_id_invalid, problem);
      return then({ id: shown.id || new_id(), access: null });
    }
    const certified = gate.takes_certificates
      ? this.reactor.peer_certificate(conn, generation)?.common_name ?? ""
      : "";
    const who = gate.admit({ ...shown, certified });
    if (!(who instanceof Promise)) return then(who);
    const arrival = new Arrival(driver, generation, wire);
    this.#set(conn, arrival);
    const go_on = (step: () => void) => {
      if (this.#get(conn) !== arrival) return; // it has gone meanwhile
      this.#set(conn, undefined);
      try {
        step();
      } catch (error) {
        this.#refuse_first(driver, conn, generation, this.#as_refusal(error, driver.name), wire);
      }
      this.router.schedule_turn();
    };
    who.then((found) => go_on(() => then(found)), (error) =>
      go_on(() => {
        throw error;
      }));
  }

  /**
   * Binds a connection to the session `claim.id`, at once or when its earlier connection is gone.
   */
  claim(conn: number, generation: number, driver: Driver, claim: Claim): void {
    this.connects_tried++;
    this.route?.(claim.id);
    if (!this.sessions.get(claim.id)?.connected) claim.access?.tenant.check_connections();
    const handshake = new Handshake(driver, conn, generation, claim);
    const refusal = this.router.refusal_of_breaker() ?? this.router.overload?.refusal_of_connect();
    if (refusal) throw refusal;
    this.#own(handshake);
  }

  /** Goes on when this node owns the session: now, or when the cluster has said so. */
  #own(handshake: Handshake): void {
    const { ownership } = this;
    const { conn, driver, claim: { id, takes_over } } = handshake;
    if (ownership === null || ownership.holds(id)) return this.#claim(handshake);
    this.#set(conn, handshake);
    const go_on = (step: () => void) => {
      if (this.#get(conn) !== handshake) { // it has gone meanwhile
        if (this.sessions.get(id) === undefined) ownership.release(id);
        return;
      }
      this.#set(conn, undefined);
      try {
        step();
      } catch (error) {
        this.#refuse(handshake, this.#as_refusal(error, driver.name));
      }
      this.router.schedule_turn();
    };
    ownership.claim(id, takes_over, () => this.#get(conn) === handshake)
      .then(() => go_on(() => this.#own(handshake)), (error) =>
        go_on(() => {
          throw error;
        }));
  }

  #claim(handshake: Handshake): void {
    const { conn, claim } = handshake;
    const present = this.sessions.get(claim.id);
    if (present === undefined || !present.connected) return this.#grant(handshake);
    this.#set(conn, handshake);
    const waiting = this.#successors.get(present);
    if (waiting !== undefined) this.#refuse(waiting, new Refusal(codes.taken_over));
    this.#successors.set(present, handshake);
    this.close(present, codes.taken_over);
  }

  /** This node is to own a session that another one may have owned. */
  adopt(id: string, is_current: () => boolean): Promise<void> {
    return this.sessions.fetch(id, is_current);
  }

  /** Lets another node have a session; false = it is connected, and not to be taken over. */
  async hand_over(id: string, takes_over: boolean): Promise<boolean> {
    const session = this.sessions.get(id);
    if (session === undefined) return true;
    if (session.connected) {
      if (!takes_over) return false;
      const gone = Promise.withResolvers<void>();
      this.#leaving.set(session, gone.resolve);
      const waiting = this.#successors.get(session);
      if (waiting !== undefined) this.#refuse(waiting, new Refusal(codes.taken_over));
      this.close(session, codes.taken_over);
      await gone.promise;
    }
    if (this.sessions.get(id) === session) await this.sessions.let_go(session);
    return true;
  }

  /** Other nodes may own the sessions of this one: ends them all, and writes nothing. */
  fence(): void {
    const connected = [...this.sessions.all()].filter((session) => session.connected);
    this.sessions.abandon();
    for (const session of connected) this.close(session, codes.fenced);
  }

  on_frame(
    conn: number,
    generation: number,
    bytes: Uint8Array,
    begin: number,
    end: number,
    first: boolean,
    listener: number,
  ): void {
    if (first) return this.#on_first(conn, generation, bytes, begin, end, listener);
    const session = this.#session(conn, generation);
    if (session !== undefined && !session.closing) this.#frame(session, bytes, begin, end);
  }

  on_violation(conn: number, generation: number, code: number, listener: number): void {
    const slot = this.#get(conn);
    const why = code_of(code);
    if (slot instanceof Session && slot.generation === generation) this.close(slot, why);
    else if (slot instanceof Handshake && slot.generation === generation) {
      this.#refuse(slot, new Refusal(why));
    } else if (slot instanceof Arrival && slot.generation === generation) {
      this.#set(conn, undefined);
      this.#refuse_first(slot.driver, conn, generation, new Refusal(why), slot.wire);
    } else this.#refuse_first(this.drivers[listener], conn, generation, new Refusal(why));
  }

  on_closed(conn: number, generation: number, code: number, closed: Closed): void {
    const slot = this.#get(conn);
    if (slot?.generation === generation) this.#set(conn, undefined);
    if (slot instanceof Session && slot.generation === generation) {
      this.#detach(slot, code_of(code), closed);
    }
    this.reactor.release(conn, generation);
  }

  /** Half-closed: the device is still owed the answers to what it has sent, and then the end. */
  on_ended(conn: number, generation: number): void {
    const session = this.#session(conn, generation);
    if (session === undefined) return;
    this.router.when_answered(() => {
      this.#last_answers.when_paid(session, () => {
        if (this.#session(conn, generation) === session) this.drop(session, codes.peer_closed);
      });
    });
  }

  on_acked(conn: number, generation: number, seq: number): void {
    const session = this.#session(conn, generation);
    if (session !== undefined) this.sessions.acked(session, seq);
  }

  on_behind(conn: number, generation: number, seq: number, count: number): void {
    const session = this.#session(conn, generation);
    if (session === undefined) return;
    session.behind_count = count;
    this.timeline.behind(session.id, seq);
    this.#replayer.fell_behind(session, seq - 1);
  }

  on_room(conn: number, generation: number, messages: number, delivered: number): void {
    const session = this.#session(conn, generation);
    if (session === undefined) return;
    // Those that are still on their way take room too; when they have arrived it is told again.
    this.#replayer.room(session, messages - (session.delivered - delivered >>> 0));
  }

  on_stretch(bytes: number): void {
    this.measures?.ring_bytes.record(bytes);
  }

  on_traced(conn: number, generation: number, what: Traced, stamp: number, us: number): void {
    const session = this.#session(conn, generation);
    if (session === undefined) return;
    this.router.tracing?.traced(what, stamp, us, session, is_longwire(session.wire));
  }

  on_settled(conn: number, generation: number, settled: readonly Settled[]): void {
    const session = this.#session(conn, generation);
    if (session === undefined) return;
    const received: number[] = [];
    for (const one of settled) {
      const { how, ...plain } = one;
      const group = plain.shared ? this.shared.settled(session, one) : undefined;
      if (how === "acked") {
        this.#tell_settled(session, plain.packet_id);
        session.exchange_over(plain.packet_id);
      }
      if (how !== "received") continue;
      const known = session.inflight?.get(plain.packet_id) ?? plain;
      const exchange = { ...known, released: true, ...(group === undefined ? {} : { group }) };
      const { inflight } = session;
      if (inflight === null) session.inflight = new Map([[plain.packet_id, exchange]]);
      else inflight.set(plain.packet_id, exchange);
      received.push(plain.packet_id);
    }
    this.sessions.progress(session);
    if (received.length === 0) return this.sessions.changed(session);
    // Only then PUBREL: the device forgets the packet id with it, so nothing may forget it here.
    this.when_kept(session, () => this.driver_of(session).release(session, received));
  }

  on_dropping(conn: number, generation: number, code: number, queue_bytes: number): void {
    const session = this.#session(conn, generation);
    if (session !== undefined) this.timeline.dropping(session.id, code_of(code), queue_bytes);
  }

  /** Whose connection it is; undefined = nobody's yet, or not any more. */
  session_of(conn: number, generation: number): Session | undefined {
    return this.#session(conn, generation);
  }

  /** What the cursor has still to pass is told when it does. */
  #tell_settled(session: Session, packet_id: number): void {
    const exchange = session.inflight?.get(packet_id);
    if (exchange === undefined || exchange.aside || exchange.shared) return;
    if (exchange.seq <= session.cursor) {
      this.sessions.acknowledgements?.settled(session, exchange.seq);
    }
  }

  /** Sends the retained messages that match a filter that was just subscribed to. */
  send_retained(session: Session, filter: string, options: number): void {
    this.#replayer.send_retained(session, filter, options);
  }

  /**
   * Makes a session hear what matches the filter from now on, or from after an offset of the log
   * on.
   */
  subscribe(session: Session, filter: string, options: number, after?: number): void {
    const before = session.options_of(filter);
    this.timeline.subscribed(session.id, plain_filter(filter), SubscriptionOptions.qos(options));
    if (before === undefined) {
      this.sessions.subscriptions++;
      count_subscriptions(session, 1);
    }
    if (is_shared(filter)) {
      session.subscribe(filter, options);
      return this.shared.join(session, filter, options);
    }
    if (before !== undefined) this.router.fanout.leave(session, filter, before);
    else if (!session.identified && SubscriptionOptions.identifier(options) > 0) {
      this.#identify(session);
    }
    session.subscribe(filter, options);
    this.router.fanout.join(session, filter, options);
    if (after !== undefined) this.#replayer.subscribed_after(session, filter, after);
    else if (options !== before) this.#replayer.subscribed(session, filter, before ?? -1);
  }

  /** Why a session may not subscribe to a filter; null = it may. */
  refusal_of(session: Session, filter: string): Code | null {
    const code = refusal_of_filter(session, filter, this.router.store.shared !== undefined);
    if (code === null) return null;
    this.#count_refused(code);
    this.timeline.refused(session.id, code, plain_filter(filter));
    return code;
  }

  #count_refused(code: Code): void {
    this.filters_refused.set(code, (this.filters_refused.get(code) ?? 0) + 1);
  }

  /** Makes the fan-out treat a session as one that uses Subscription Identifiers. */
  #identify(session: Session): void {
    const joined = [...session.subscriptions()].filter(([filter]) => !is_shared(filter));
    for (const [filter, options] of joined) this.router.fanout.leave(session, filter, options);
    session.identified = true;
    for (const [filter, options] of joined) this.router.fanout.join(session, filter, options);
  }

  /**
   * Makes a session that is back hear what it subscribed to, and gets it what it missed.
   * @param written when it is in the store that the session has a connection
   */
  resume(session: Session, written: Soon<void>): void {
    this.#keep_allowed(session);
    for (const [, options] of session.subscriptions()) {
      if (SubscriptionOptions.identifier(options) > 0) session.identified = true;
    }
    for (const [filter, options] of session.subscriptions()) {
      if (!is_shared(filter)) this.router.fanout.join(session, filter, options);
    }
    this.#replayer.start(session, written);
    for (const [filter, options] of session.subscriptions()) {
      if (is_shared(filter)) this.shared.join(session, filter, options);
    }
  }

  /** A session may have been subscribed to more than this connection's token allows. */
  #keep_allowed(session: Session): void {
    const { access } = session;
    if (access === null) return;
    for (const [filter] of [...session.subscriptions()]) {
      const refusal = access.refusal_of_filter(plain_filter(filter));
      if (refusal === null) continue;
      this.#count_refused(refusal.code);
      if (is_shared(filter)) this.shared.part(session, filter);
      session.unsubscribe(filter);
      this.sessions.subscriptions--;
      this.sessions.changed(session);
    }
    count_subscriptions(session, session.subscription_count);
  }

  /** Undoes subscribe(); answers whether there was such a subscription. */
  unsubscribe(session: Session, filter: string): boolean {
    const options = session.options_of(filter);
    if (options === undefined) return false;
    this.sessions.subscriptions--;
    count_subscriptions(session, -1);
    if (is_shared(filter)) this.shared.part(session, filter);
    else {
      this.router.fanout.leave(session, filter, options);
      this.#replayer.unsubscribed(session, filter, options);
    }
    session.unsubscribe(filter);
    this.timeline.unsubscribed(session.id, plain_filter(filter));
    return true;
  }

  /**
   * Calls `answer` when the changed session is durable, if it has to be, and still on its
   * connection.
   */
  when_kept(session: Session, answer: () => void): void {
    const kept = this.#keep(session);
    if (!(kept instanceof Promise)) return answer();
    const { conn, generation } = session;
    const is_there = () =>
      session.conn === conn && session.generation === generation && !session.closing;
    this.#last_answers.owe(session);
    kept.then(() => {
      if (is_there()) answer();
      this.router.schedule_turn();
    }, (error) => {
      const code = error instanceof Refusal ? error.code : codes.store_unavailable;
      if (is_there()) this.close(session, code, code.meaning);
    }).finally(() => this.#last_answers.paid(session));
  }

  #keep(session: Session): Soon<void> {
    try {
      return this.sessions.keep(session);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #get(conn: number): Slot {
    return this.#slots[conn >>> 24]?.[conn & 0xffffff];
  }

  #set(conn: number, slot: Slot): void {
    (this.#slots[conn >>> 24] ??= [])[conn & 0xffffff] = slot;
  }

  #session(conn: number, generation: number): Session | undefined {
    const slot = this.#get(conn);
    return slot instanceof Session && slot.generation === generation ? slot : undefined;
  }

  #on_first(
    conn: number,
    generation: number,
    bytes: Uint8Array,
    begin: number,
    end: number,
    listener: number,
  ): void {
    const driver = this.drivers[listener];
    try {
      driver.on_first(conn, generation, bytes, begin, end);
    } catch (error) {
      this.#refuse_first(driver, conn, generation, this.#as_refusal(error, driver.name));
    }
  }

  #frame(session: Session, bytes: Uint8Array, begin: number, end: number): void {
    const driver = this.driver_of(session);
    try {
      driver.on_frame(session, bytes, begin, end);
    } catch (error) {
      this.#refuse_frame(session, driver, error);
    }
  }

  #refuse_frame(session: Session, driver: Driver, error: unknown): void {
    const refusal = this.#as_refusal(error, driver.name);
    this.log.debug("device refused", {
      device: session.id,
      code: refusal.code.name,
      detail: refusal.message,
    });
    this.close(session, refusal.code, refusal.message);
  }

  /**
   * Does what a device has asked for, in the order in which it asked.
   * @param waits only when what it published before has been stored and sent
   */
  in_turn(session: Session, step: () => void, waits: boolean): void {
    session.in_turn(() => {
      if (session.closing) return;
      try {
        step();
      } catch (error) {
        this.#refuse_frame(session, this.driver_of(session), error);
      }
    }, waits);
  }

  /** What is not a Refusal is a bug of ours: said loudly, and only this device pays for it. */
  #as_refusal(error: unknown, protocol: string): Refusal {
    if (error instanceof Refusal) return error;
    this.log.error("bug while handling a frame", {
      protocol,
      error: error instanceof Error ? error.stack ?? error.message : String(error),
    });
    return new Refusal(codes.internal);
  }

  #refuse(handshake: Handshake, refusal: Refusal): void {
    this.#set(handshake.conn, undefined);
    const { driver, conn, generation, claim } = handshake;
    this.timeline.refused(claim.id, refusal.code, "");
    for (const [session, successor] of this.#successors) {
      if (successor === handshake) this.#successors.delete(session);
    }
    this.#refuse_first(driver, conn, generation, refusal, claim.wire);
  }

  #refuse_first(
    driver: Driver,
    conn: number,
    gen: number,
    refusal: Refusal,
    wire?: Wire,
  ): void {
    const { code, message: detail } = refusal;
    this.log.debug("connection refused", { protocol: driver.name, code: code.name, detail });
    driver.refuse_first(conn, gen, refusal, wire);
    this.reactor.close_connection(conn, gen, code.number);
    this.router.schedule_turn();
  }

  #grant(handshake: Handshake): void {
    const { driver, conn, generation, claim } = handshake;
    this.connects_granted++;
    const { session, present } = this.sessions.open(claim.id, claim.wire, driver, claim.clean);
    session.wire = claim.wire;
    session.answers = driver;
    session.conn = conn;
    this.sessions.joined();
    session.generation = generation;
    session.transient = claim.transient;
    session.listener = this.drivers.indexOf(driver);
    this.#set(conn, session);
    this.#take_certificate(session);
    if (claim.access !== null) this.#hold(session, claim.access);
    this.timeline.connected(session.id, session.wire, present);
    try {
      claim.granted(session, present);
    } catch (error) {
      const refusal = this.#as_refusal(error, driver.name);
      return this.close(session, refusal.code, refusal.message);
    }
    this.#presence.joined(session);
    this.watcher?.joined(session);
  }

  /** Who the device is by its certificate, if it has shown one. */
  #take_certificate(session: Session): void {
    const shown = this.reactor.peer_certificate(session.conn, session.generation);
    if (shown === undefined) return;
    session.certificate = shown;
    const { subject, fingerprint } = shown;
    this.log.debug("device showed its certificate", { device: session.id, subject, fingerprint });
  }

  /** Counts the connection for its tenant, and ends it when its token does. */
  #hold(session: Session, access: Access): void {
    session.access = access;
    access.tenant.usage.connections++;
    const ends_ms = this.gate!.ends_ms(access);
    if (ends_ms === 0) return;
    access.expiry = new Expiry(this, session, access);
    this.gate!.deadlines.add(ends_ms, access.expiry);
  }

  #let_go(session: Session, access: Access): void {
    count_subscriptions(session, -session.subscription_count);
    session.access = null;
    access.tenant.usage.connections--;
    if (access.expiry !== null) {
      this.gate!.deadlines.remove(this.gate!.ends_ms(access), access.expiry);
    }
  }

  #detach(session: Session, code: Code, closed: Closed): void {
    this.#presence.left(session, code);
    this.watcher?.left(session, code);
    this.timeline.disconnected(session.id, code);
    this.#last_answers.forget(session);
    if (session.access !== null) this.#let_go(session, session.access);
    for (const [filter, options] of session.subscriptions()) {
      if (!is_shared(filter)) this.router.fanout.leave(session, filter, options);
    }
    const cursor = this.#replayer.cursor_of(session, closed);
    // What the connection had open, and of earlier ones what it had not come to yet.
    const inflight = new Map<number, Exchange>();
    for (const exchange of this.shared.closed(session, closed.inflight)) {
      inflight.set(exchange.packet_id, exchange);
    }
    for (const exchange of closed.inflight) {
      if (exchange.shared) continue;
      const known = session.inflight?.get(exchange.packet_id) ?? exchange;
      inflight.set(exchange.packet_id, { ...known, released: exchange.released });
    }
    for (const [packet_id, exchange] of session.inflight ?? []) {
      if (!inflight.has(packet_id)) inflight.set(packet_id, exchange);
    }
    session.conn = offline;
    this.sessions.left();
    session.closing = false;
    session.identified = false;
    session.certificate = null;
    session.drop_steps();
    this.#replayer.left(session);
    session.behind_count = 0;
    session.delivered = 0;
    const will = this.driver_of(session).on_closed(session, code);
    this.sessions.closed(session, cursor, inflight, will);
    const leaving = this.#leaving.get(session);
    if (leaving !== undefined) {
      this.#leaving.delete(session);
      leaving();
    }
    const successor = this.#successors.get(session);
    if (successor === undefined) return;
    this.#successors.delete(session);
    this.#own(successor); // another node may own the session by now
  }
}
