/**
 * Every session that the service knows, connected or not, and what of it is kept in the store.
 * Invariant: what a device was told of its session (subscriptions, exchanges that are open) is in
 * the store before it is told, unless the session is transient.
 */
import { codes, Refusal } from "./codes.ts";
import { expiry_never_s, type PublishAnswers, Session, type Wire } from "./session.ts";
import { in_slices, write_dirty } from "./dirty.ts";
import type { Exchange, Will } from "./session.ts";
import type { Log } from "./log.ts";
import { due_ms_of, session_of, stored_session } from "./session_record.ts";
import type { Soon, Store, StoredSession } from "./store/mod.ts";
import { is_shared } from "./topic_tree.ts";
import { Unanswered } from "./unanswered.ts";
import { is_own_row } from "./webhooks/topics.ts";

/** How long a moved cursor may stay unwritten: what a crash sends again at most. */
const cursor_flush_ms = 1000;
/** How often times are looked at. */
const tick_ms = 250;

function tick_of(time_ms: number): number {
  return Math.floor(time_ms / tick_ms);
}

/** What else is kept among the sessions: shared subscriptions, under names like theirs. */
export interface Groups {
  /** A row that is not a session. */
  load(record: StoredSession): void;
  /** A session of an earlier run; called after all rows have been loaded. */
  loaded(session: Session): void;
  /** All sessions have been told of. */
  prune(): void;
  forget(session: Session): void;
  /** Rows that are out of date; taken as written. */
  changes(): Iterable<StoredSession>;
  /** The row could not be written, or deleted. */
  unwritten(id: string): void;
}

/** Who waits for what devices acknowledge. */
export interface ProgressWatcher {
  /** The session may have acknowledged more, or has ended. */
  progressed(session: Session): void;
}

/** Who wants to know of every acknowledgement. */
export interface AcknowledgementWatcher {
  /** The cursor is about to move: the device is done with what it passes, but for `open`. */
  acked(session: Session, to: number, open: ReadonlyMap<number, Exchange> | null): void;
  /** The device is done with a message that the cursor has passed before. */
  settled(session: Session, offset: number): void;
}

export class Sessions {
  /** Publishes the will of a connection that is gone. */
  on_will: (session: Session, will: Will) => void = () => {};
  groups: Groups | null = null;
  /** Told when there is neither a session nor a row of an id any more. */
  on_end: (id: string) => void = () => {};
  /** Whether the row of a session is this node's to write. */
  may_write: (id: string) => boolean = () => true;
  /** Told of what devices acknowledge; null = nobody wants to know. */
  acknowledgements: AcknowledgementWatcher | null = null;
  /** Sessions somebody waits for. */
  readonly #awaited = new Map<Session, Set<ProgressWatcher>>();
  /** Rows of the service's own that were found among those of sessions, by id. */
  readonly own_rows = new Map<string, StoredSession>();
  /** Told, while rows are read, of sessions whose connection ended with the process. */
  on_interrupted: (session: Session) => void = () => {};
  /** Sessions that have ended for want of their device. */
  expired = 0;
  /** Counted as they change: going through a million would be felt. */
  connected = 0;
  connected_max = 0;
  subscriptions = 0;

  #answers_of: (wire: Wire) => PublishAnswers = () => {
    throw new Error("Sessions.load() comes first");
  };
  readonly #by_id = new Map<string, Session>();
  readonly #unanswered = new Unanswered();
  /** Sessions whose cursor moved since it was written, and those of which more changed. */
  readonly #moved = new Set<Session>();
  readonly #changed = new Set<Session>();
  /** Ids of rows that could not be deleted. */
  readonly #undeleted = new Set<string>();
  /** Rows that are being deleted: the last call for each. */
  readonly #deleting = new Map<string, Promise<void>>();
  /** Offline sessions that end, or whose will is due, at some time: by tick. */
  readonly #alarms = new Map<number, Set<Session>>();
  /** Ticks before this one have passed. */
  #next_tick: number;
  #timer: ReturnType<typeof setInterval> | undefined;
  #flushed_ms = 0;
  #flushing: Promise<void> | null = null;

  constructor(readonly store: Store, readonly now_ms: () => number, readonly log: Log) {
    this.#next_tick = tick_of(now_ms());
  }

  get count(): number {
    return this.#by_id.size;
  }

  /** A session got a connection. */
  joined(): void {
    this.connected++;
    this.connected_max = Math.max(this.connected_max, this.connected);
  }

  /** A session lost its connection. */
  left(): void {
    this.connected--;
  }

  get(id: string): Session | undefined {
    return this.#by_id.get(id);
  }

  all(): IterableIterator<Session> {
    return this.#by_id.values();
  }

  /** Reads what earlier runs left, unless other nodes may own it, and starts the clock. */
  async load(answers_of: (wire: Wire) => PublishAnswers): Promise<void> {
    this.#timer = setInterval(() => this.#tick(), tick_ms);
    this.#answers_of = answers_of;
    if (this.store.shared !== undefined) return;
    for await (const stored of this.store.sessions()) {
      if (is_shared(stored.id)) {
        this.groups?.load(stored);
        continue;
      }
      if (is_own_row(stored.id)) {
        this.own_rows.set(stored.id, stored);
        continue;
      }
      const { head } = this.store;
      const session = session_of(stored, answers_of, this.now_ms(), head, this.on_interrupted);
      this.#by_id.set(session.id, session);
      this.subscriptions += session.subscription_count;
      this.#set_alarm(session);
    }
    for (const session of this.#by_id.values()) this.groups?.loaded(session);
    this.groups?.prune();
  }

  /** Reads a session that another node may have owned before this one, and still may. */
  async fetch(id: string, is_current: () => boolean): Promise<void> {
    if (this.store.shared === undefined || this.#by_id.has(id)) return;
    const stored = await this.store.shared.session(id);
    if (stored === undefined || this.#by_id.has(id) || !is_current()) return;
    const { head } = this.store;
    const on_interrupted = this.on_interrupted;
    const session = session_of(stored, this.#answers_of, this.now_ms(), head, on_interrupted);
    this.#by_id.set(id, session);
    this.#unanswered.began(session);
    this.subscriptions += session.subscription_count;
    this.#set_alarm(session);
  }

  /** Ids of stored sessions for which something is due by then, unless their device comes back. */
  async *due(before_ms: number): AsyncGenerator<string> {
    for await (const stored of this.store.sessions()) {
      if (is_shared(stored.id) || is_own_row(stored.id)) continue;
      if (due_ms_of(stored, this.now_ms()) <= before_ms) yield stored.id;
    }
  }

  /** Another node is to own a session that has no connection: writes it down and forgets it. */
  async let_go(session: Session): Promise<void> {
    await this.keep(session);
    this.#drop(session);
  }

  /** Other nodes may own everything: forgets it, writes nothing. */
  abandon(): void {
    for (const session of this.#by_id.values()) {
      session.transient = true;
      session.stored = false;
      session.will = null;
      this.#unanswered.ended(session);
    }
    this.#by_id.clear();
    this.subscriptions = 0;
    this.#moved.clear();
    this.#changed.clear();
    this.#undeleted.clear();
    this.#alarms.clear();
  }

  /** Ends the clock and writes what changed. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#flushing;
    await this.flush();
  }

  /** The session of this id: the one that is there, or a new one (always, when `clean`). */
  open(
    id: string,
    wire: Wire,
    answers: PublishAnswers,
    clean: boolean,
  ): { session: Session; present: boolean } {
    const found = this.#by_id.get(id);
    if (found !== undefined && !clean && !this.#is_over(found)) {
      return { session: found, present: true };
    }
    if (found !== undefined) this.forget(found);
    const session = new Session(id, wire, answers);
    this.#by_id.set(id, session);
    this.#unanswered.began(session);
    return { session, present: false };
  }

  /**
   * A connection was bound to the session: what its row says of its end does not hold any more, and
   * there is none of a session that is to end with the connection. Answers when the row is written,
   * if it matters to whoever sends it messages.
   */
  opened(session: Session, expiry_s: number, will: Will | null): Soon<void> {
    const is_other = session.ends_ms > 0 || session.expiry_s !== expiry_s;
    // One that is due was to be published before the device came back.
    const is_due = session.will_due_ms > 0 && session.will_due_ms <= this.now_ms();
    if (is_due) this.#publish_will(session);
    const is_left = session.will !== null || will !== null || is_due;
    session.ends_ms = 0;
    session.will_due_ms = 0;
    session.will = will; // one that still waited is not published any more [MQTT-3.1.3-9]
    session.expiry_s = expiry_s;
    const survives = will !== null && this.store.shared !== undefined;
    if (session.transient) {
      // In a cluster, others publish the will should this node die.
      if (survives) return this.#background(() => this.#write(session));
      if (session.stored) this.#delete(session);
    } else if (session.subscription_count > 0 || is_left) {
      // At once: after a crash it decides whether what comes may have come before (DUP), and what
      // becomes of the will.
      return this.#background(() => this.keep(session));
    } else if (is_other) this.#changed.add(session);
  }

  /** Writes a session that outlives its connection; nothing to do for one that does not. */
  keep(session: Session): Soon<void> {
    if (!session.transient) return this.#write(session);
  }

  #write(session: Session): Soon<void> {
    this.#moved.delete(session);
    this.#changed.delete(session);
    session.stored = true;
    this.#undeleted.delete(session.id); // this row takes the place of that one
    try {
      if (!this.may_write(session.id)) throw new Refusal(codes.fenced);
      const written = this.store.put_session(stored_session(session));
      if (written instanceof Promise) written.catch(() => this.changed(session));
      return written;
    } catch (error) {
      this.changed(session);
      throw error;
    }
  }

  /** Something changed that is written some time later. */
  changed(session: Session): void {
    if (!session.transient && this.#by_id.get(session.id) === session) this.#changed.add(session);
  }

  /** Ends a session; a will that still waited is due now [MQTT-3.1.3-9]. */
  forget(session: Session): void {
    this.#drop(session);
    if (session.stored) this.#delete(session);
    this.groups?.forget(session);
    this.#publish_will(session);
    this.#ended(session.id);
  }

  /** Another node may have the id from then on: it must not meet what this one still does to it. */
  #ended(id: string): void {
    queueMicrotask(() => {
      const is_there = this.#by_id.has(id) || this.#undeleted.has(id) || this.#deleting.has(id);
      if (!is_there) this.on_end(id);
    });
  }

  #drop(session: Session): void {
    if (this.#by_id.get(session.id) === session) {
      this.#by_id.delete(session.id);
      this.subscriptions -= session.subscription_count;
    }
    this.#moved.delete(session);
    this.#changed.delete(session);
    this.#alarms.get(session.alarm_tick)?.delete(session);
    this.#unanswered.ended(session);
    this.progress(session);
  }

  /** Writes, or deletes, a row that is not a session. */
  put_record(record: StoredSession): void {
    const unwritten = () => this.groups?.unwritten(record.id);
    this.#undeleted.delete(record.id);
    this.#background(() => this.store.put_session(record), unwritten);
  }

  delete_record(id: string): void {
    this.#background(() => this.store.delete_session(id), () => this.#undeleted.add(id));
  }

  /** The device has acknowledged everything up to an offset. */
  acked(session: Session, offset: number): void {
    if (offset <= session.cursor) return;
    this.acknowledgements?.acked(session, offset, session.inflight);
    session.move_cursor(offset);
    if (!session.transient) this.#moved.add(session);
    this.progress(session);
  }

  /** Tells a watcher of a session from now on. */
  watch(session: Session, watcher: ProgressWatcher): void {
    const watchers = this.#awaited.get(session);
    if (watchers === undefined) this.#awaited.set(session, new Set([watcher]));
    else watchers.add(watcher);
  }

  /** Undoes watch(). */
  unwatch(session: Session, watcher: ProgressWatcher): void {
    const watchers = this.#awaited.get(session);
    if (watchers?.delete(watcher) && watchers.size === 0) this.#awaited.delete(session);
  }

  /** The session may have acknowledged what somebody waits for. */
  progress(session: Session): void {
    if (this.#awaited.size === 0) return;
    for (const watcher of this.#awaited.get(session) ?? []) watcher.progressed(session);
  }

  /**
   * The connection is gone.
   * @param inflight what it left unacknowledged
   * @param will to be published when its delay is over, or the session; null = there is none
   */
  closed(
    session: Session,
    cursor: number,
    inflight: Map<number, Exchange>,
    will: Will | null,
  ): void {
    if (cursor > session.cursor) this.acknowledgements?.acked(session, cursor, inflight);
    session.will = will;
    if (will !== null) session.will_due_ms = this.now_ms() + will.delay_s * 1000;
    if (session.transient || session.expiry_s === 0) return this.forget(session);
    session.move_cursor(Math.max(session.cursor, cursor));
    session.inflight = inflight;
    this.progress(session);
    session.ends_ms = session.expiry_s === expiry_never_s
      ? 0
      : this.now_ms() + session.expiry_s * 1000;
    if (will?.delay_s === 0) this.#publish_will(session);
    this.#set_alarm(session);
    this.#background(() => this.keep(session));
  }

  #publish_will(session: Session): void {
    const { will } = session;
    if (will === null || session.will_due_ms === 0) return;
    session.will = null;
    session.will_due_ms = 0;
    this.on_will(session, will);
  }

  #delete(session: Session): void {
    session.stored = false;
    const { id } = session;
    this.#background(() => this.#delete_row(id), () => this.#undeleted.add(id));
  }

  #delete_row(id: string): Soon<void> {
    const deleted = this.store.delete_session(id);
    if (!(deleted instanceof Promise)) return this.#ended(id);
    const done: Promise<void> = deleted.finally(() => {
      if (this.#deleting.get(id) === done) this.#deleting.delete(id);
    });
    this.#deleting.set(id, done);
    return done.then(() => this.#ended(id));
  }

  #is_over(session: Session): boolean {
    return !session.connected && session.ends_ms > 0 && session.ends_ms <= this.now_ms();
  }

  /**
   * Sees to it that the next of the session's times is noticed. A session has one alarm at most: it
   * is only moved forward, and one that rings too early is set again.
   */
  #set_alarm(session: Session): void {
    let next_ms = session.ends_ms;
    const { will_due_ms } = session;
    if (will_due_ms > 0 && (next_ms === 0 || will_due_ms < next_ms)) next_ms = will_due_ms;
    if (next_ms === 0) return;
    const tick = Math.max(Math.ceil(next_ms / tick_ms), this.#next_tick);
    if (session.alarm_tick > 0) {
      if (session.alarm_tick <= tick) return;
      this.#alarms.get(session.alarm_tick)?.delete(session);
    }
    session.alarm_tick = tick;
    const due = this.#alarms.get(tick);
    if (due === undefined) this.#alarms.set(tick, new Set([session]));
    else due.add(session);
  }

  #tick(): void {
    const now_ms = this.now_ms();
    const tick = tick_of(now_ms);
    if (Math.abs(tick - this.#next_tick) > this.#alarms.size + 1) { // the clock was set
      for (const passed of [...this.#alarms.keys()]) if (passed <= tick) this.#ring(passed);
      this.#next_tick = tick + 1;
    }
    for (; this.#next_tick <= tick; this.#next_tick++) this.#ring(this.#next_tick);
    if (now_ms - this.#flushed_ms < cursor_flush_ms) return;
    this.#flushed_ms = now_ms;
    if (this.#flushing !== null) return;
    this.#flushing = this.flush().finally(() => this.#flushing = null);
  }

  #ring(tick: number): void {
    const due = this.#alarms.get(tick);
    if (due === undefined) return;
    this.#alarms.delete(tick);
    // After a restart a whole fleet may be due at once.
    void in_slices(due, (session) => {
      if (session.alarm_tick === tick) this.#ring_one(session);
    });
  }

  #ring_one(session: Session): void {
    const now_ms = this.now_ms();
    session.alarm_tick = 0;
    if (session.connected || this.#by_id.get(session.id) !== session) return;
    if (this.#is_over(session)) {
      this.expired++;
      // Deleted with the next flush, at the disk's pace: a crash before it finds it expired. With
      // its will it is deleted now, or that would be published again then.
      if (session.stored && session.will === null) {
        this.#undeleted.add(session.id);
        session.stored = false;
      }
      this.forget(session);
      return;
    }
    if (session.will_due_ms > 0 && session.will_due_ms <= now_ms) {
      this.#publish_will(session);
      this.#background(() => this.keep(session));
    }
    this.#set_alarm(session);
  }

  /** Writes what is out of date; what cannot be written stays so. */
  async flush(): Promise<void> {
    try {
      await write_dirty(this.#undeleted, (id) => {
        return is_shared(id) || this.may_write(id) ? this.#delete_row(id) : undefined;
      });
      await write_dirty(this.#changed, (session) => this.keep(session));
      // After the sessions: what a group has handed over is in one of them.
      for (const record of this.groups?.changes() ?? []) this.put_record(record);
      await write_dirty(this.#moved, (session) => this.#put_cursor(session));
    } catch (error) {
      this.log.warn("cannot write sessions", { error: String(error) });
    }
  }

  #put_cursor(session: Session): Soon<void> {
    if (session.transient || this.#by_id.get(session.id) !== session) return;
    if (!this.may_write(session.id)) return;
    return this.store.put_cursor(session.id, session.cursor);
  }

  /** Answers when it is over, also when it failed: `failed` sees to it that it is tried again. */
  #background(write: () => Soon<void>, failed: () => void = () => {}): Soon<void> {
    const on_error = (error: unknown) => {
      failed();
      this.log.warn("cannot write a session", { error: String(error) });
    };
    try {
      const done = write();
      if (done instanceof Promise) return done.catch(on_error);
    } catch (error) {
      on_error(error);
    }
  }
}
