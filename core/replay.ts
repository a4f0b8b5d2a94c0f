/**
 * Brings sessions that are behind to the head of the log: what was in flight first, then what
 * was missed, in offset order, at the pace of each connection and in slices, so that a fleet
 * that returns does not starve live traffic. Invariant: a connection goes live in the same turn
 * in which it has been handed everything that was dispatched, so nothing is missed between and
 * nothing comes twice.
 */
import type { Closed, Inflight, Reactor } from "../ffi/reactor.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import type { Router } from "./router.ts";
import {
  type Replay,
  type RetainedSend,
  type Session,
  SubscriptionOptions,
  Wire,
} from "./session.ts";
import type { Page, RetainedPage } from "./store/mod.ts";
import { filter_matches } from "./topic_tree.ts";

/** Messages handed to connections before everything else has a turn. */
const slice_messages = 4096;

export class Replayer {
  /** Sessions whose next page can be read, first come first served. */
  readonly #ready: Session[] = [];
  #pumping = false;

  constructor(
    readonly reactor: Reactor,
    readonly router: Router,
    readonly log: Log,
    readonly on_gap: (session: Session, from: number, to: number) => void,
  ) {}

  /** Replays from the session's cursor, and before it what was in flight. */
  start(session: Session): void {
    let from = session.cursor;
    for (const { seq } of session.inflight ?? []) from = Math.min(from, seq - 1);
    if (from >= this.router.dispatched && !session.inflight?.length) {
      session.cursor = this.router.dispatched;
      return;
    }
    const replay = this.#begin(session, from, session.cursor);
    replay.is_untouched = !session.inflight?.length;
    this.reactor.behind(session.conn, session.generation);
    for (const entry of session.inflight ?? []) {
      if (entry.released) this.#release_again(session, entry);
    }
  }

  /** The reactor skipped a message: `after` is the last one that the connection was sent. */
  fell_behind(session: Session, after: number): void {
    const { replay } = session;
    if (replay === null) {
      this.#begin(session, after, after);
    } else if (after < replay.after) {
      // It had fallen behind before it was told to be: what it missed until then is still to come.
      replay.after = after;
      replay.floor = Math.min(replay.floor, after);
    }
  }

  /** A filter was added: it wants what comes after `after`. */
  subscribed(session: Session, filter: string, after: number): void {
    const { dispatched } = this.router;
    if (session.replay === null) {
      if (after >= dispatched) return;
      const replay = this.#begin(session, after, after);
      for (const [other] of session.subscriptions()) {
        if (other !== filter) (replay.since ??= new Map()).set(other, dispatched);
      }
      this.reactor.behind(session.conn, session.generation);
    } else {
      const { replay } = session;
      if (after < replay.after) {
        for (const [other] of session.subscriptions()) {
          const since = replay.since?.get(other) ?? 0;
          (replay.since ??= new Map()).set(other, Math.max(since, replay.after, replay.floor));
        }
        replay.after = after;
        replay.floor = after;
      }
      (replay.since ??= new Map()).set(filter, after);
    }
  }

  /** Sends the retained messages that match a filter, at the pace of the connection. */
  send_retained(session: Session, filter: string, options: number): void {
    const { generation } = session;
    const first = this.router.store.retained(filter);
    const begin = (page: RetainedPage) => {
      if (page.messages.length === 0 || !session.connected || session.generation !== generation) {
        return;
      }
      if (session.replay === null) {
        this.#begin(session, this.router.dispatched, this.router.dispatched);
        this.reactor.behind(session.conn, session.generation);
      }
      (session.replay!.retained ??= []).push({ filter, options, page, next: 0 });
      if (session.replay!.room > 0) this.#enqueue(session);
      this.router.schedule_turn();
    };
    if (first instanceof Promise) {
      first.then(begin).catch((error) => this.#unreadable(session, error));
    } else begin(first);
  }

  /** The connection takes this many messages more. */
  room(session: Session, messages: number): void {
    if (session.replay === null) return;
    session.replay.room = messages;
    this.#enqueue(session);
  }

  /**
   * Where a session that lost its connection goes on; nothing up to there is missing but
   * `inflight`.
   */
  cursor_of(session: Session, closed: Closed): number {
    // Acknowledged cumulatively: what the connection was sent is not what the device has.
    if (session.wire === Wire.longwire) return session.cursor;
    const { replay } = session;
    if (replay !== null) return Math.max(replay.floor, closed.seen_seq);
    if (closed.behind_seq > 0) return closed.behind_seq - 1;
    return Math.max(session.cursor, closed.seen_seq);
  }

  /**
   * What is unacknowledged: what the connection had in flight, and what it was still to be sent
   * again.
   */
  inflight_of(session: Session, closed: Closed): readonly Inflight[] {
    if (session.replay === null || session.inflight === null) return closed.inflight;
    const rest = session.inflight.filter(({ seq, released }) => !released && seq > closed.seen_seq);
    return [...closed.inflight, ...rest];
  }

  #begin(session: Session, after: number, floor: number): Replay {
    return session.replay = {
      after,
      floor,
      room: 0,
      reading: false,
      since: null,
      retained: null,
      is_untouched: false,
    };
  }

  /**
   * The device has the message of this QoS 2 exchange: only PUBREL goes out again [MQTT-4.3.3-7].
   */
  #release_again(session: Session, entry: Inflight): void {
    const at = this.reactor.begin_deliver(session.conn, session.generation, {
      seq: entry.seq,
      qos: 2,
      packet_id: entry.packet_id,
      released: true,
      aside: true,
      bytes_max: 4,
    });
    const out = this.reactor.commands;
    out[at] = 0x62;
    out[at + 1] = 2;
    out[at + 2] = entry.packet_id >> 8;
    out[at + 3] = entry.packet_id & 0xff;
    this.reactor.end_deliver(at + 4, 2);
  }

  #enqueue(session: Session): void {
    this.#ready.push(session);
    if (this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => this.#pump());
  }

  #pump(): void {
    let left = slice_messages;
    for (let count = this.#ready.length; count > 0 && left > 0; count--) {
      left -= this.#step(this.#ready.shift()!);
    }
    this.router.schedule_turn();
    this.#pumping = this.#ready.length > 0;
    if (this.#pumping) setTimeout(() => this.#pump(), 0);
  }

  /** Reads one page for a session; answers how many messages were handed over at once. */
  #step(session: Session): number {
    const { replay } = session;
    if (replay === null || replay.reading || replay.room <= 0) return 0;
    if (replay.retained !== null && replay.retained.length > 0) {
      return this.#step_retained(session, replay, replay.retained);
    }
    const filters: string[] = [];
    for (const [filter, options] of session.subscriptions()) {
      if (SubscriptionOptions.qos(options) > 0) filters.push(filter);
    }
    const limit = Math.min(replay.room, limits.replay_batch_messages);
    const page = filters.length === 0
      ? { messages: [], next: this.router.dispatched, gap: false }
      : this.router.store.read(filters, replay.after, limit);
    if (!(page instanceof Promise)) return this.#hand_over(session, replay, page);
    this.#later(session, replay, page, (read) => this.#hand_over(session, replay, read));
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

  #step_retained(session: Session, replay: Replay, lists: RetainedSend[]): number {
    const list = lists[0];
    let handed = 0;
    while (list.next < list.page.messages.length && replay.room > 0) {
      const message = list.page.messages[list.next++];
      this.router.fanout.deliver(session, message, message.offset, list.options, 0, true);
      replay.room--;
      handed++;
    }
    if (list.next < list.page.messages.length) return handed;
    if (list.page.next === "") {
      lists.shift();
    } else {
      const page = this.router.store.retained(list.filter, list.page.next);
      const go_on = (read: RetainedPage) => {
        list.page = read;
        list.next = 0;
        if (replay.room > 0) this.#enqueue(session);
      };
      if (page instanceof Promise) {
        this.#later(session, replay, page, go_on);
        return handed;
      }
      go_on(page);
    }
    if (replay.room > 0) this.#enqueue(session);
    return handed;
  }

  #hand_over(session: Session, replay: Replay, page: Page): number {
    const { dispatched } = this.router;
    if (page.gap) {
      const [first] = page.messages;
      this.on_gap(session, replay.after, first === undefined ? page.next : first.offset - 1);
    }
    let handed = 0;
    for (const message of page.messages) {
      // What has been stored but not dispatched yet comes live.
      if (message.offset > dispatched) break;
      const again = session.inflight?.find((entry) => entry.seq === message.offset);
      if (again === undefined && message.offset <= replay.floor) continue;
      if (again?.released) continue;
      const options = this.#best(session, replay, message.topic, message.offset);
      if (options < 0 || Math.min(SubscriptionOptions.qos(options), message.qos) === 0) continue;
      this.router.fanout.deliver(session, message, message.offset, options, again?.packet_id ?? 0);
      handed++;
    }
    replay.after = Math.min(page.next, dispatched);
    replay.room -= handed;
    if (handed > 0) replay.is_untouched = false;
    if (replay.after >= dispatched) this.#go_live(session, replay);
    else if (replay.room > 0) this.#enqueue(session);
    return handed;
  }

  #go_live(session: Session, replay: Replay): void {
    if (replay.is_untouched) session.cursor = replay.after;
    session.replay = null;
    session.inflight = null;
    this.reactor.live(session.conn, session.generation);
  }

  /** Options of the best subscription that wants the message; -1 = none. */
  #best(session: Session, replay: Replay, topic: string, offset: number): number {
    let best = -1;
    for (const [filter, options] of session.subscriptions()) {
      if (offset <= (replay.since?.get(filter) ?? 0) || !filter_matches(filter, topic)) continue;
      if (best < 0 || SubscriptionOptions.qos(options) > SubscriptionOptions.qos(best)) {
        best = options;
      }
    }
    return best;
  }
}
