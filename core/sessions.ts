/**
 * Every session that the service knows, connected or not, and what of it is kept in the store.
 * Invariant: a session that is not transient has a row in the store before its device is told
 * that it has a session.
 */
import type { Inflight } from "../ffi/reactor.ts";
import type { Log } from "./log.ts";
import { type PublishAnswers, Session, type Wire } from "./session.ts";
import type { Soon, Store, StoredSession } from "./store/mod.ts";

/** What the protocols add to a stored session, as JSON in StoredSession.state. */
interface StoredState {
  readonly wire: Wire;
  readonly expiry_s: number;
  readonly inflight: readonly Inflight[];
  /** Packet ids of QoS 2 publishes received and not released. */
  readonly incoming: readonly number[];
}

/** MQTT 5 section 3.1.2.11.2: the session does not expire. */
const expiry_never_s = 0xffffffff;
/** How long a moved cursor may stay unwritten: what a crash sends again at most. */
const cursor_flush_ms = 1000;

export class Sessions {
  readonly #by_id = new Map<string, Session>();
  /** Sessions whose cursor moved since it was written. */
  readonly #dirty = new Set<Session>();
  /** Offline sessions that end at some time, by the Unix second of their end. */
  readonly #ends = new Map<number, Session[]>();
  #timer: ReturnType<typeof setInterval> | undefined;
  #flushed_ms = 0;

  constructor(
    readonly store: Store,
    readonly now_ms: () => number,
    readonly log: Log,
    /** Told when an offline session has expired. */
    readonly on_expired: (session: Session) => void = () => {},
  ) {}

  get count(): number {
    return this.#by_id.size;
  }

  get(id: string): Session | undefined {
    return this.#by_id.get(id);
  }

  all(): IterableIterator<Session> {
    return this.#by_id.values();
  }

  /** Reads what earlier runs left, and starts the clock of expiry and cursor writes. */
  async load(answers_of: (wire: Wire) => PublishAnswers): Promise<void> {
    for await (const stored of this.store.sessions()) {
      const state = JSON.parse(stored.state) as StoredState;
      const session = new Session(stored.id, state.wire, answers_of(state.wire));
      session.transient = false;
      session.cursor = stored.cursor;
      session.expiry_s = state.expiry_s;
      session.inflight = state.inflight.length > 0 ? state.inflight : null;
      if (state.incoming.length > 0) session.incoming = new Set(state.incoming);
      for (const { filter, options } of stored.subscriptions) session.subscribe(filter, options);
      this.#by_id.set(session.id, session);
      if (stored.expires_ms > 0) this.#ends_at(session, stored.expires_ms);
    }
    this.#timer = setInterval(() => this.#tick(), 250);
  }

  /** Ends the clock and writes every cursor that moved. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#flush();
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
    return { session, present: false };
  }

  /** Writes a session that outlives its connection; nothing to do for one that does not. */
  keep(session: Session): Soon<void> {
    if (session.transient) return;
    this.#dirty.delete(session);
    return this.store.put_session(this.#stored(session));
  }

  /** Ends a session. */
  forget(session: Session): void {
    if (this.#by_id.get(session.id) === session) this.#by_id.delete(session.id);
    this.#dirty.delete(session);
    if (!session.stored) return;
    session.stored = false;
    this.#background(this.store.delete_session(session.id));
  }

  /** The device has acknowledged everything up to an offset. */
  acked(session: Session, offset: number): void {
    if (offset <= session.cursor) return;
    session.cursor = offset;
    if (!session.transient) this.#dirty.add(session);
  }

  /** The connection is gone; `inflight` is what it left unacknowledged. */
  closed(session: Session, cursor: number, inflight: readonly Inflight[]): void {
    if (session.transient) return this.forget(session);
    session.cursor = Math.max(session.cursor, cursor);
    session.inflight = inflight.length > 0 ? inflight : null;
    if (session.expiry_s === 0) return this.forget(session);
    if (session.expiry_s !== expiry_never_s) {
      session.ends_ms = this.now_ms() + session.expiry_s * 1000;
      this.#ends_at(session, session.ends_ms);
    }
    this.#background(this.keep(session));
  }

  #is_over(session: Session): boolean {
    return !session.connected && session.ends_ms > 0 && session.ends_ms <= this.now_ms();
  }

  #ends_at(session: Session, ends_ms: number): void {
    session.ends_ms = ends_ms;
    const second = Math.ceil(ends_ms / 1000);
    const list = this.#ends.get(second);
    if (list === undefined) this.#ends.set(second, [session]);
    else list.push(session);
  }

  #tick(): void {
    const now_ms = this.now_ms();
    for (const [second, list] of this.#ends) {
      if (second * 1000 > now_ms) continue;
      this.#ends.delete(second);
      for (const session of list) {
        if (!this.#is_over(session) || this.#by_id.get(session.id) !== session) continue;
        this.forget(session);
        this.on_expired(session);
      }
    }
    if (now_ms - this.#flushed_ms < cursor_flush_ms) return;
    this.#flushed_ms = now_ms;
    void this.#flush();
  }

  async #flush(): Promise<void> {
    const writes = [...this.#dirty].map(({ id, cursor }) => this.store.put_cursor(id, cursor));
    this.#dirty.clear();
    try {
      await Promise.all(writes);
    } catch (error) {
      this.log.error("cannot write sessions", { error: String(error) });
    }
  }

  #background(done: Soon<void>): void {
    if (!(done instanceof Promise)) return;
    done.catch((error) => this.log.error("cannot write a session", { error: String(error) }));
  }

  #stored(session: Session): StoredSession {
    session.stored = true;
    const state: StoredState = {
      wire: session.wire,
      expiry_s: session.expiry_s,
      inflight: session.inflight ?? [],
      incoming: [...session.incoming ?? []],
    };
    const subscriptions = [...session.subscriptions()].map(([filter, options]) => ({
      filter,
      qos: options & 3,
      options,
    }));
    return {
      id: session.id,
      subscriptions,
      cursor: session.cursor,
      expires_ms: session.connected ? 0 : session.ends_ms,
      state: JSON.stringify(state),
    };
  }
}
