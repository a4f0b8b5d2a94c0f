/**
 * Receipts that are told later: a push may name a URL that hears when the device has acknowledged
 * it, or that it will not. Invariant: from the answer to the push on, what is to be told is in the
 * store until it was told; so the device may come back days later, after any number of restarts.
 */
import { codes, Refusal } from "../codes.ts";
import { Deadlines, type Due } from "../deadlines.ts";
import { limits } from "../limits.ts";
import type { Network } from "../network.ts";
import { acknowledges, has_acknowledged } from "../receipts.ts";
import type { Session } from "../session.ts";
import type { ProgressWatcher, Sessions } from "../sessions.ts";
import type { Store, StoredSession } from "../store/mod.ts";
import { type Callback, CallbackPost, type Outcome } from "./callback_post.ts";
import type { StoredCallback, Undelivered } from "./callback_post.ts";
import { type Definitions, no_definitions, parse_target } from "./definition.ts";
import type { HookParts } from "./hook_runner.ts";
import { refusal_of_target } from "./sender.ts";
import { callbacks_row, device_of_row } from "./topics.ts";

/** Callbacks of a device's row, and the log that their offsets are of. */
interface StoredCallbacks {
  readonly epoch: string;
  readonly callbacks: readonly StoredCallback[];
}

class Pending implements Callback, Due {
  outcome: Outcome | undefined;
  /** Whose acknowledgement is waited for; undefined = nobody's. */
  session: Session | undefined;
  /** The log is being asked for the message. */
  looking = false;

  constructor(
    readonly device: string,
    readonly stored: StoredCallback,
    readonly on_due: (callback: Pending) => void,
  ) {
    this.outcome = stored.outcome;
  }

  due(): void {
    this.on_due(this);
  }
}

export interface CallbackParts extends HookParts {
  readonly sessions: Sessions;
  readonly allowed: readonly Network[];
}

/** How soon a row is written again that could not be. */
const again_ms = 1000;

export class Callbacks implements ProgressWatcher {
  readonly post: CallbackPost;
  readonly #store: Store;
  readonly #sessions: Sessions;
  readonly #by_device = new Map<string, Set<Pending>>();
  readonly #deadlines: Deadlines;
  /** Devices whose row is out of date. */
  readonly #dirty = new Set<string>();
  #definitions: Definitions = no_definitions;
  #count = 0;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(readonly parts: CallbackParts) {
    this.#store = parts.store;
    this.#sessions = parts.sessions;
    this.#deadlines = new Deadlines(parts.now_ms);
    this.post = new CallbackPost(parts, (callback) => this.#remove(callback as Pending));
  }

  /** Callbacks that are not over. */
  get count(): number {
    return this.#count;
  }

  use(definitions: Definitions): void {
    this.#definitions = definitions;
    this.post.use(definitions.callbacks);
  }

  /** What earlier runs have left; the sessions have been read. */
  start(): void {
    this.#timer = setInterval(() => this.#flush(), again_ms);
    for (const [row, record] of [...this.#sessions.own_rows]) {
      const device = device_of_row(row);
      if (device === undefined) continue;
      this.#sessions.own_rows.delete(row);
      this.#load(device, record);
    }
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#deadlines.stop();
    this.post.stop();
    await Promise.all([...this.#dirty].map((device) => this.#write(device)));
  }

  /**
   * The URL of a callback; call it before the publish. Throws Refusal: no_callbacks,
   * webhook_forbidden, server_busy.
   */
  check(text: string, tenant: string, device: string): URL {
    // In a cluster another node may come to own the session.
    if (!this.#definitions.callbacks.has(tenant) || this.#store.shared !== undefined) {
      throw new Refusal(codes.no_callbacks);
    }
    const url = parse_target(text);
    const why = typeof url === "string" ? url : refusal_of_target(url, this.parts.allowed);
    if (typeof url === "string" || why !== undefined) {
      throw new Refusal(codes.webhook_forbidden, `Cannot use the callback: ${why}`);
    }
    const own = this.#by_device.get(device)?.size ?? 0;
    if (own >= limits.callbacks_per_device_max || this.#count >= limits.callbacks_max) {
      throw new Refusal(codes.server_busy, "As many callbacks wait as may");
    }
    return url;
  }

  /**
   * Tells the URL what becomes of a message that is in the log; answers when that is durable.
   * @param expires_ms of the message, Unix milliseconds; 0 = it does not
   */
  async add(
    session: Session,
    message: { readonly offset: number; readonly topic: string; readonly expires_ms: number },
    url: URL,
  ): Promise<void> {
    const { offset, topic } = message;
    const last_ms = this.parts.now_ms() + limits.callback_wait_ms_max;
    const expires_ms = message.expires_ms === 0 ? last_ms : Math.min(message.expires_ms, last_ms);
    const id = `${this.#store.epoch}:${offset}`;
    const stored = { id, offset, topic, url: url.href, expires_ms };
    for (const known of this.#by_device.get(session.id) ?? []) {
      if (known.stored.offset === offset && known.stored.url === url.href) return;
    }
    const callback = this.#add(session.id, stored);
    try {
      await this.#put(session.id);
    } catch (error) {
      this.#remove(callback);
      throw error;
    }
    this.#watch(callback);
  }

  progressed(session: Session): void {
    for (const callback of this.#by_device.get(session.id) ?? []) this.#look(callback, session);
  }

  /** The time of a message is over. */
  #expired(callback: Pending): void {
    if (callback.outcome !== undefined) return;
    const session = this.#sessions.get(callback.device);
    if (session !== undefined && has_acknowledged(session, callback.stored.offset)) {
      this.#look(callback, session);
    } else this.#settle(callback, "expired");
  }

  #load(device: string, { state }: StoredSession): void {
    const { epoch, callbacks } = JSON.parse(state) as StoredCallbacks;
    for (const stored of callbacks) {
      const callback = this.#add(device, stored);
      if (stored.outcome !== undefined) this.post.send(callback);
      else if (epoch !== this.#store.epoch) this.#settle(callback, "removed");
      else this.#watch(callback);
    }
  }

  #add(device: string, stored: StoredCallback): Pending {
    const callback = new Pending(device, stored, (callback) => this.#expired(callback));
    const others = this.#by_device.get(device);
    if (others === undefined) this.#by_device.set(device, new Set([callback]));
    else others.add(callback);
    this.#count++;
    return callback;
  }

  #watch(callback: Pending): void {
    const session = this.#sessions.get(callback.device);
    if (session === undefined) return this.#settle(callback, "session_ended");
    callback.session = session;
    this.#deadlines.add(callback.stored.expires_ms, callback);
    this.#sessions.watch(session, this);
    this.#look(callback, session);
  }

  /** Finds out what became of a message, if that can be said now. */
  #look(callback: Pending, session: Session): void {
    if (callback.outcome !== undefined || callback.looking) return;
    const { offset, topic } = callback.stored;
    if (!has_acknowledged(session, offset)) {
      if (this.#sessions.get(session.id) !== session) this.#settle(callback, "session_ended");
      return;
    }
    // The cursor also passes what is not for the session any more,
    if (!acknowledges(session, topic)) return this.#settle(callback, "unsubscribed");
    // and what is not in the log any more.
    const found = this.#store.get(offset);
    const judge = (message: unknown) => {
      this.#settle(callback, message === undefined ? "removed" : undefined);
    };
    if (!(found instanceof Promise)) return judge(found);
    callback.looking = true;
    found.then(judge).catch(() => {
      setTimeout(() => this.#look(callback, session), again_ms);
    }).finally(() => callback.looking = false);
  }

  /** @param reason undefined = it was acknowledged */
  #settle(callback: Pending, reason: Undelivered | undefined): void {
    if (callback.outcome !== undefined) return;
    const time_ms = this.parts.now_ms();
    callback.outcome = reason === undefined
      ? { acknowledged: true, time_ms }
      : { acknowledged: false, reason, time_ms };
    this.#unwatch(callback);
    void this.#write(callback.device);
    this.post.send(callback);
  }

  #unwatch(callback: Pending): void {
    this.#deadlines.remove(callback.stored.expires_ms, callback);
    const { session, device } = callback;
    callback.session = undefined;
    if (session === undefined) return;
    for (const other of this.#by_device.get(device) ?? []) if (other.session === session) return;
    this.#sessions.unwatch(session, this);
  }

  /** It is over: it was told, or is a dead letter. */
  #remove(callback: Pending): void {
    const { device } = callback;
    const others = this.#by_device.get(device);
    if (!others?.delete(callback)) return;
    this.#count--;
    if (others.size === 0) this.#by_device.delete(device);
    void this.#write(device);
  }

  #put(device: string): Promise<void> {
    const id = callbacks_row(device);
    const callbacks = [...this.#by_device.get(device) ?? []].map(({ stored, outcome }) => {
      return outcome === undefined ? stored : { ...stored, outcome };
    });
    try {
      if (callbacks.length === 0) return Promise.resolve(this.#store.delete_session(id));
      const { epoch } = this.#store;
      const state = JSON.stringify({ epoch, callbacks } satisfies StoredCallbacks);
      const row = { id, subscriptions: [], cursor: 0, expires_ms: 0, state };
      return Promise.resolve(this.#store.put_session(row));
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** As #put(), and again and again while the store does not take it. */
  async #write(device: string): Promise<void> {
    this.#dirty.delete(device);
    try {
      await this.#put(device);
    } catch {
      this.#dirty.add(device);
    }
  }

  #flush(): void {
    for (const device of [...this.#dirty]) void this.#write(device);
  }
}
