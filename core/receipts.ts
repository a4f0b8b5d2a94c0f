/**
 * Who waits until a device has acknowledged a message, and when that is so. A session has
 * acknowledged an offset when its cursor has passed it and no exchange of it is open.
 */
import type { Reactor } from "../ffi/reactor.ts";
import { codes, Refusal } from "./codes.ts";
import { limits } from "./limits.ts";
import { type Session, SubscriptionOptions, Wire } from "./session.ts";
import type { ProgressWatcher, Sessions } from "./sessions.ts";
import { filter_matches, is_shared } from "./topic_tree.ts";

interface Waiter {
  readonly offset: number;
  readonly timer: ReturnType<typeof setTimeout>;
  readonly resolve: () => void;
  readonly reject: (refusal: Refusal) => void;
}

/** Where pushes to a device go: a topic that it subscribes to like any other. */
export function inbox_topic(device_id: string): string {
  return `$devices/${device_id}`;
}

/** Whether a session acknowledges what is published to a topic. */
export function acknowledges(session: Session, topic: string): boolean {
  for (const [filter, options] of session.subscriptions()) {
    if (SubscriptionOptions.qos(options) === 0 || is_shared(filter)) continue;
    if (filter_matches(filter, topic)) return true;
  }
  return false;
}

export function has_acknowledged(session: Session, offset: number): boolean {
  if (session.cursor < offset) return false;
  for (const { seq } of session.inflight?.values() ?? []) if (seq === offset) return false;
  return true;
}

export class Receipts implements ProgressWatcher {
  readonly #waiting = new Map<Session, Set<Waiter>>();
  #count = 0;
  #stopped = false;

  constructor(readonly sessions: Sessions, readonly reactor: Reactor) {}

  /** Pushes that are waited for. */
  get count(): number {
    return this.#count;
  }

  /**
   * The session of a device that will acknowledge what is published to the topic; call it before
   * the publish. Names are those within the service. Throws Refusal.
   */
  expect(id: string, topic: string): Session {
    const session = this.sessions.get(id);
    if (session === undefined) throw new Refusal(codes.not_found, "There is no such device");
    if (!acknowledges(session, topic)) throw new Refusal(codes.not_subscribed);
    if (this.#count >= limits.receipts_max) throw new Refusal(codes.server_busy);
    // Acknowledgements of sessions that end with their connection are the reactor's own else.
    if (session.connected && session.wire !== Wire.longwire) {
      this.reactor.report_acks(session.conn, session.generation);
    }
    return session;
  }

  /** Answers when the session has acknowledged the offset. Rejects with Refusal. */
  acknowledged(session: Session, offset: number, timeout_ms: number): Promise<void> {
    if (has_acknowledged(session, offset)) return Promise.resolve();
    if (this.#stopped) return Promise.reject(new Refusal(codes.shutting_down));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#remove(session, waiter);
        reject(new Refusal(codes.ack_timeout));
      }, timeout_ms);
      const waiter: Waiter = { offset, timer, resolve, reject };
      const waiters = this.#waiting.get(session);
      if (waiters === undefined) this.#waiting.set(session, new Set([waiter]));
      else waiters.add(waiter);
      this.sessions.watch(session, this);
      this.#count++;
    });
  }

  /** Nobody is waited for any more, as the service stops. */
  stop(): void {
    this.#stopped = true;
    for (const [session, waiters] of [...this.#waiting]) {
      for (const waiter of [...waiters]) {
        this.#remove(session, waiter);
        waiter.reject(new Refusal(codes.shutting_down));
      }
    }
  }

  progressed(session: Session): void {
    const is_over = this.sessions.get(session.id) !== session;
    for (const waiter of [...this.#waiting.get(session) ?? []]) {
      if (!is_over && !has_acknowledged(session, waiter.offset)) continue;
      this.#remove(session, waiter);
      if (has_acknowledged(session, waiter.offset)) waiter.resolve();
      else waiter.reject(new Refusal(codes.not_subscribed, "The session of the device has ended"));
    }
  }

  #remove(session: Session, waiter: Waiter): void {
    clearTimeout(waiter.timer);
    const waiters = this.#waiting.get(session);
    if (!waiters?.delete(waiter)) return;
    this.#count--;
    if (waiters.size > 0) return;
    this.#waiting.delete(session);
    this.sessions.unwatch(session, this);
  }
}
