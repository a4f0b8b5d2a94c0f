/**
 * Brings sessions that are behind to the head of the log: the exchanges that earlier connections
 * left open first, then what was missed, in offset order, at the pace of each connection and in
 * slices, so that a fleet that returns does not starve live traffic. Invariant: a connection goes
 * live in the same turn in which it has been handed everything that was dispatched, so nothing is
 * missed between and nothing comes twice.
 */
import type { Closed, Reactor } from "../ffi/reactor.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import type { StoredMessage } from "./message.ts";
import type { Router } from "./router.ts";
import {
  type Exchange,
  is_longwire,
  type Replay,
  type RetainedSend,
  type Session,
  SubscriptionOptions,
} from "./session.ts";
import type { Page, RetainedPage, Soon } from "./store/mod.ts";
import { filter_matches, is_shared } from "./topic_tree.ts";

/** Messages handed to connections, and time spent, before everything else has a turn. */
const slice_messages = 4096;
const slice_ms = 4;
/** The same while there is too much to do. */
const held_slice_messages = 512;

/** Whether a subscription, if there is one, wants stored messages as such. */
function wants(options: number): boolean {
  return options >= 0 && SubscriptionOptions.qos(options) > 0;
}

/** Whether a subscription does, or did at a time of which messages may still come. */
function may_want(session: Session, filter: string, options: number): boolean {
  return wants(options) ||
    (session.formers?.get(filter)?.some((former) => wants(former.options)) ?? false);
}

/** Whether a subscription other than this one does. */
function wants_stored(session: Session, except: string): boolean {
  for (const [filter, options] of session.subscriptions()) {
    if (filter !== except && wants(options) && !is_shared(filter)) return true;
  }
  return false;
}

export class Replayer {
  /** Sessions whose next page can be read, first come first served. */
  #ready: Session[] = [];
  /** Those of them whose turn it is, and where it has come to: 20,000 are no queue to shift(). */
  #turn: Session[] = [];
  #turn_at = 0;
  #pumping = false;
  /** Sessions that are behind; who has been for longest comes first. */
  readonly #behind = new Set<Session>();
  /** Up to which offset Longwire sessions were brought, until they acknowledge a later one. */
  readonly #replayed = new Map<Session, number>();
  /** Of the subscriptions that #wanted() has found. */
  #identifiers: number[] = [];

  constructor(
    readonly reactor: Reactor,
    readonly router: Router,
    readonly log: Log,
    /** Writes a session down. */
    readonly keep: (session: Session) => Soon<void>,
    readonly on_gap: (session: Session, from: number, to: number) => void,
    readonly on_live: (session: Session) => void,
  ) {}

  /**
   * Goes on with the exchanges that are open [MQTT-4.4.0-1], then from the session's cursor.
   * @param written when it is in the store that the session has a connection: whoever finds that
   * row after a crash knows that what was sent then may have been sent before
   */
  start(session: Session, written: Soon<void>): void {
    const { dispatched, may_outrun } = this.router;
    const waits = written instanceof Promise && may_outrun;
    if (session.inflight === null && session.cursor >= dispatched && !waits) {
      session.move_cursor(dispatched);
      return;
    }
    const replay = this.#begin(session, session.cursor);
    replay.is_untouched = true;
    for (const exchange of session.inflight?.values() ?? []) {
      replay.resends.push(exchange);
      if (!exchange.aside) (replay.resent ??= new Set()).add(exchange.seq);
    }
    this.reactor.behind(session.conn, session.generation, false);
    if (written instanceof Promise) {
      this.#later(session, replay, written, () => {
        this.#go_on(session, replay);
      });
    }
  }

  /** The reactor skipped a message: `after` is the last one that the connection was sent. */
  fell_behind(session: Session, after: number): void {
    const { replay } = session;
    if (replay === null) {
      this.#begin(session, after);
    } else if (after < replay.after) {
      // It had fallen behind before it was told to be, or another message has the packet id of one
      // that it was handed: what it has missed is still to come. What is being read is void.
      session.replay = { ...replay, after, room: 0, room_bytes: 0, reading: false };
    }
  }

  /**
   * A subscription is there, or has other options.
   * @param before its options until now; -1 = there was none
   */
  subscribed(session: Session, filter: string, before: number): void {
    const { dispatched } = this.router;
    if (session.cursor >= dispatched) return;
    const has_wanted = wants(before) || session.lapsed !== null;
    if (session.replay === null && !has_wanted && !wants_stored(session, filter)) {
      session.move_cursor(dispatched); // nothing up to there is for this session
    } else session.add_former(filter, dispatched, before);
  }

  /** A subscription is no more, but its options still count where a worse one is left. */
  unsubscribed(session: Session, filter: string, options: number): void {
    const { dispatched } = this.router;
    if (session.cursor >= dispatched || !may_want(session, filter, options)) return;
    for (const [other, left] of session.subscriptions()) {
      if (other === filter || is_shared(other) || SubscriptionOptions.qos(left) > 0) continue;
      return session.add_lapsed(filter, dispatched, options);
    }
  }

  /** A subscription wants what comes after `after`, whatever the session has had. */
  subscribed_after(session: Session, filter: string, after: number): void {
    const { dispatched } = this.router;
    let { replay } = session;
    if (replay === null) {
      if (after >= dispatched) return this.subscribed(session, filter, -1);
      replay = this.#interrupt(session);
    }
    if (after < replay.after) {
      for (const [other] of session.subscriptions()) session.add_former(other, replay.after, -1);
      replay.after = after;
    }
    session.add_former(filter, after, -1);
  }

  /** Sends the retained messages that match a filter, at the pace of the connection. */
  send_retained(session: Session, filter: string, options: number): void {
    const { generation } = session;
    const first = this.router.retained(filter);
    const begin = (page: RetainedPage) => {
      if (page.messages.length === 0 || !session.connected || session.generation !== generation) {
        return;
      }
      const replay = session.replay ?? this.#interrupt(session);
      (replay.retained ??= []).push({ filter, options, page, next: 0 });
      if (replay.room > 0) this.#enqueue(session);
      this.router.schedule_turn();
    };
    if (first instanceof Promise) {
      first.then(begin).catch((error) => this.#unreadable(session, error));
    } else begin(first);
  }

  /** The connection takes this many messages more. */
  room(session: Session, messages: number): void {
    if (session.replay === null || messages <= 0) return;
    session.replay.room = messages;
    session.replay.room_bytes = limits.out_queue_soft_bytes;
    this.#enqueue(session);
  }

  /** A message takes its part of the room; what has drained makes new room. */
  #take_room(replay: Replay, { topic, payload }: StoredMessage): void {
    replay.room_bytes -= topic.length + payload.length;
    replay.room = replay.room_bytes > 0 ? replay.room - 1 : 0;
  }

  /**
   * Where a session that lost its connection goes on; nothing up to there is missing but the
   * exchanges that are open.
   */
  cursor_of(session: Session, closed: Closed): number {
    // Acknowledged cumulatively: what the connection was sent is not what the device has.
    if (is_longwire(session.wire)) return session.cursor;
    // It may have ended before it heard that it is behind: then it says what a live one has had.
    if (session.replay?.is_untouched) return session.cursor;
    return Math.max(session.cursor, closed.seen_seq);
  }

  /** Lets a live connection wait, for what is to come before what is published from now on. */
  #interrupt(session: Session): Replay {
    // How much of what was dispatched reaches it, only the reactor will know.
    const replay = this.#begin(session, this.router.dispatched);
    this.reactor.behind(session.conn, session.generation, true);
    return replay;
  }

  /** How many sessions are behind. */
  get count(): number {
    return this.#behind.size;
  }

  /** How many messages the session that has been behind for longest is away from the head. */
  lag(): number {
    const [first] = this.#behind;
    return first?.replay ? this.router.dispatched - first.replay.after : 0;
  }

  /** Whether a Longwire device was sent the message of an offset when it was published. */
  was_live(session: Session, offset: number): boolean {
    if (session.replay !== null) return false;
    const until = this.#replayed.get(session);
    if (until === undefined) return true;
    if (offset <= until) return false;
    this.#replayed.delete(session);
    return true;
  }

  /** The session has lost its connection. */
  left(session: Session): void {
    session.replay = null;
    this.#behind.delete(session);
    this.#replayed.delete(session);
  }

  #begin(session: Session, after: number): Replay {
    this.#behind.add(session);
    return session.replay = {
      after,
      room: 0,
      room_bytes: 0,
      reading: false,
      resends: [],
      resent: null,
      retained: null,
      is_kept: false,
      is_untouched: false,
    };
  }

  #enqueue(session: Session): void {
    this.#ready.push(session);
    if (this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => this.#pump());
  }

  /** The next step, now or when the connection has taken what it was handed. */
  #go_on(session: Session, replay: Replay): void {
    if (replay.room > 0) this.#enqueue(session);
  }

  #pump(): void {
    const until_ms = performance.now() + slice_ms;
    const rest_ms = this.router.replay_rest_ms;
    let left = rest_ms > 0 ? held_slice_messages : slice_messages;
    const is_idle = this.#turn_at === this.#turn.length && this.#ready.length === 0;
    if (this.#turn_at === this.#turn.length) {
      this.#turn = this.#ready;
      this.#turn_at = 0;
      this.#ready = [];
    }
    while (this.#turn_at < this.#turn.length && left > 0 && performance.now() < until_ms) {
      left -= this.#step(this.#turn[this.#turn_at++]);
    }
    this.router.schedule_turn();
    const has_more = this.#turn_at < this.#turn.length || this.#ready.length > 0;
    this.#pumping = has_more || rest_ms > 0 && !is_idle;
    if (this.#pumping) setTimeout(() => this.#pump(), rest_ms);
  }

  /** One step for a session; answers how many messages were handed over at once. */
  #step(session: Session): number {
    const { replay } = session;
    if (replay === null || replay.reading || replay.room <= 0) return 0;
    if (replay.resends.length > 0) return this.#step_resends(session, replay);
    if (replay.retained !== null && replay.retained.length > 0) {
      return this.#step_retained(session, replay, replay.retained);
    }
    const filters: string[] = [];
    for (const [filter, options] of session.subscriptions()) {
      if (is_shared(filter)) continue;
      if (session.lapsed !== null || may_want(session, filter, options)) filters.push(filter);
    }
    const limit = Math.min(replay.room, limits.replay_batch_messages);
    // What is dispatched while it is read may be for a filter that is subscribed to meanwhile.
    const { dispatched } = this.router;
    const page = filters.length === 0
      ? { messages: [], next: dispatched, gap: false }
      : this.router.store.read(filters, replay.after, limit);
    if (!(page instanceof Promise)) return this.#hand_over(session, replay, page, dispatched);
    this.#later(session, replay, page, (read) => {
      this.#hand_over(session, replay, read, dispatched);
    });
    return 0;
  }

  /** Goes on when the store has answered; tries again after a while when it could not. */
  #later<T>(session: Session, replay: Replay, read: Promise<T>, then: (read: T) => void): void {
    replay.reading = true;
    read.then((value) => {
      replay.reading = false;
      if (session.replay === replay) then(value);
      this.router.schedule_turn();
    }).catch((error) => {
      this.#unreadable(session, error);
      setTimeout(() => {
        replay.reading = false;
        if (session.replay === replay) this.#enqueue(session);
      }, 1000);
    });
  }

  #unreadable(session: Session, error: unknown): void {
    this.log.error("cannot read the store", { device: session.id, error: String(error) });
  }

  /** PUBLISH again with DUP, PUBREL again, in the order of the first time [MQTT-4.6.0-1]. */
  #step_resends(session: Session, replay: Replay): number {
    let handed = 0;
    while (replay.resends.length > 0 && replay.room > 0) {
      const [exchange] = replay.resends;
      // The device forgets the packet id with PUBREL, so nothing may forget it here.
      if (exchange.released && !replay.is_kept) {
        const kept = this.keep(session);
        if (kept instanceof Promise) {
          this.#later(session, replay, kept, () => {
            replay.is_kept = true;
            this.#go_on(session, replay);
          });
          return handed;
        }
        replay.is_kept = true;
      }
      // Also one that has expired since [MQTT-4.3.3-7].
      const found = exchange.released ? undefined : this.router.store.get(exchange.seq);
      if (found instanceof Promise) {
        this.#later(session, replay, found, (message) => {
          replay.resends.shift();
          this.#resend(session, replay, exchange, message);
          this.#go_on(session, replay);
        });
        return handed;
      }
      replay.resends.shift();
      handed += this.#resend(session, replay, exchange, found);
    }
    this.#go_on(session, replay);
    return handed;
  }

  /** @param message undefined = not needed, or no longer in the log */
  #resend(
    session: Session,
    replay: Replay,
    exchange: Exchange,
    message: StoredMessage | undefined,
  ): number {
    const { packet_id, qos, aside, shared } = exchange;
    if (message !== undefined) {
      this.#take_room(replay, message);
      this.#identifiers = [];
      const options = exchange.group === undefined
        ? this.#wanted(session, message, Infinity)
        : session.options_of(exchange.group) ?? -1;
      // The QoS of the first time, for the rest the subscription that it was for, if it is there.
      const again = SubscriptionOptions.with_qos(Math.max(0, options), qos);
      const identifiers = exchange.group === undefined ? { identifiers: this.#identifiers } : {};
      const retain = aside && !shared;
      this.router.fanout.deliver(session, message, again, {
        again: packet_id,
        retain,
        ...identifiers,
      });
      return 1;
    }
    // The device may have it: then it waits for a PUBREL, whatever became of the message.
    if (qos === 2) this.#release_again(session, exchange);
    else session.exchange_over(packet_id);
    return 0;
  }

  /** The device has the message of this QoS 2 exchange: only PUBREL goes out [MQTT-4.3.3-7]. */
  #release_again(session: Session, { seq, packet_id }: Exchange): void {
    session.delivered++;
    const at = this.reactor.begin_deliver(session.conn, session.generation, {
      seq,
      qos: 2,
      packet_id,
      released: true,
      aside: true,
      settle: true,
      behind_count: session.behind_count,
      bytes_max: 4,
    });
    const out = this.reactor.commands;
    out[at] = 0x62;
    out[at + 1] = 2;
    out[at + 2] = packet_id >> 8;
    out[at + 3] = packet_id & 0xff;
    this.reactor.end_deliver(at + 4, 2);
  }

  #step_retained(session: Session, replay: Replay, lists: RetainedSend[]): number {
    const list = lists[0];
    let handed = 0;
    while (list.next < list.page.messages.length && replay.room > 0) {
      const message = list.page.messages[list.next++];
      const own = session.has_published(message);
      if (own && SubscriptionOptions.no_local(list.options)) continue; // [MQTT-3.8.3-3]
      this.router.fanout.deliver(session, message, list.options, { retain: true });
      this.#take_room(replay, message);
      handed++;
    }
    if (list.next < list.page.messages.length) {
      this.#go_on(session, replay);
      return handed;
    }
    if (list.page.next === "") {
      lists.shift();
    } else {
      const page: Soon<RetainedPage> = this.router.retained(list.filter, list.page.next);
      const go_on = (read: RetainedPage) => {
        list.page = read;
        list.next = 0;
        this.#go_on(session, replay);
      };
      if (page instanceof Promise) {
        this.#later(session, replay, page, go_on);
        return handed;
      }
      list.page = page;
      list.next = 0;
    }
    this.#go_on(session, replay);
    return handed;
  }

  /** @param upto what follows it in the page is read again, or comes live */
  #hand_over(session: Session, replay: Replay, page: Page, upto: number): number {
    if (page.gap) {
      const [first] = page.messages;
      this.on_gap(session, replay.after, first === undefined ? page.next : first.offset - 1);
    }
    let handed = 0;
    let { next } = page;
    for (const message of page.messages) {
      if (message.offset > upto) break;
      if (replay.room <= 0) {
        next = message.offset - 1;
        break;
      }
      if (replay.resent?.has(message.offset) || session.over?.has(message.offset)) continue;
      const options = this.#wanted(session, message, message.offset);
      if (options < 0 || Math.min(SubscriptionOptions.qos(options), message.qos) === 0) continue;
      const dup = message.offset <= session.unsure_to;
      const identifiers = this.#identifiers;
      this.router.fanout.deliver(session, message, options, { dup, identifiers });
      this.#take_room(replay, message);
      handed++;
    }
    replay.after = Math.min(next, upto);
    if (handed > 0) replay.is_untouched = false;
    if (replay.after >= this.router.dispatched) this.#go_live(session, replay);
    else this.#go_on(session, replay);
    return handed;
  }

  #go_live(session: Session, replay: Replay): void {
    if (replay.is_untouched) session.move_cursor(replay.after);
    session.replay = null;
    this.#behind.delete(session);
    if (is_longwire(session.wire)) this.#replayed.set(session, replay.after);
    this.reactor.live(session.conn, session.generation, session.behind_count);
    this.on_live(session);
  }

  /**
   * What the session's subscriptions want of a message, as the options of one: the best QoS, all
   * identifiers (left in #identifiers); -1 = nothing.
   * @param offset its own; Infinity = what they are now counts
   */
  #wanted(session: Session, message: StoredMessage, offset: number): number {
    const own = session.has_published(message);
    const identifiers: number[] = [];
    let qos = -1;
    let retain_as_published = false;
    for (const [filter, now] of session.subscriptions()) {
      if (is_shared(filter)) continue;
      const options = session.options_then(filter, now, offset);
      if (options < 0) continue;
      if (own && SubscriptionOptions.no_local(options)) continue; // [MQTT-3.8.3-3]
      if (!filter_matches(filter, message.topic)) continue;
      qos = Math.max(qos, SubscriptionOptions.qos(options));
      retain_as_published ||= SubscriptionOptions.retain_as_published(options);
      const identifier = SubscriptionOptions.identifier(options);
      if (identifier > 0) identifiers.push(identifier);
    }
    this.#identifiers = identifiers.sort((a, b) => a - b);
    // One that is no more does not make it come, but it is why it has not been sent at QoS 0.
    if (qos === 0) qos = session.qos_lapsed(message, own);
    return qos < 0 ? -1 : SubscriptionOptions.pack(qos, retain_as_published, false, 0);
  }
}
