/**
 * A store that keeps nothing across a restart and never makes the caller wait: for tests, for
 * trying out and where devices only want the present. Bounded in everything: of the log the oldest
 * go first (which is a gap), of idempotency keys too; retained messages and sessions are refused
 * when there is no room.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Message, StoredMessage } from "../message.ts";
import { ByteWriter, stored, write_message } from "./codec.ts";
import type { Appended, Page, RetainedPage, Store, StoredSession, StoreStats } from "./mod.ts";
import { RetainedMap } from "./retained_map.ts";
import { Window } from "./window.ts";

/** Bounds that a test makes smaller; what is absent is as in limits.ts. */
export interface MemoryOptions {
  readonly messages_max?: number;
  readonly bytes_max?: number;
  readonly idempotency_ttl_ms?: number;
}

/** Messages are copied to the window in pieces of about this size. */
const piece_bytes = 64 << 10;

export class MemoryStore implements Store {
  readonly epoch: string = crypto.randomUUID();
  readonly #window: Window;
  /** Scratch of an append: encoded messages, and where each of them ends. */
  readonly #out = new ByteWriter(new Uint8Array(4096));
  readonly #ends: number[] = [];
  readonly #idempotency_ttl_ms: number;
  readonly #retained = new RetainedMap();
  readonly #sessions = new Map<string, StoredSession>();
  /** In the order of use, which is the order of expiry. */
  readonly #keys = new Map<string, { offset: number; expires_ms: number }>();
  #appended = 0;
  #reads = 0;

  constructor(options: MemoryOptions = {}) {
    this.#window = new Window(
      options.messages_max ?? limits.memory_log_messages_max,
      options.bytes_max ?? limits.memory_log_bytes_max,
    );
    this.#idempotency_ttl_ms = options.idempotency_ttl_ms ?? limits.idempotency_ttl_ms;
  }

  get head(): number {
    return this.#window.head;
  }

  get first(): number {
    return this.#window.first;
  }

  append(messages: readonly Message[]): number {
    const window = this.#window;
    const out = this.#out;
    const offset = window.head + 1;
    this.#assert_room(messages);
    for (let start = 0; start < messages.length;) {
      // As one piece, up to a bound: a copy for each message would cost as much as writing it.
      out.size = 0;
      this.#ends.length = 0;
      let end = start;
      do {
        write_message(out, messages[end++]);
        this.#ends.push(out.size);
      } while (end < messages.length && out.size < piece_bytes);
      const position = window.add_bytes(out.take());
      let from = 0;
      for (const to of this.#ends) {
        const message = messages[start++];
        window.push(message.topic, message.expires_ms, position + from, to - from);
        if (message.retain) this.#retained.set(stored(message, window.head));
        from = to;
      }
    }
    this.#appended += messages.length;
    return offset;
  }

  append_once(scope: string, key: string, messages: readonly Message[]): Appended {
    const now_ms = Date.now();
    const name = `${scope}\0${key}`;
    for (const [oldest, known] of this.#keys) {
      const kept = known.expires_ms > now_ms &&
        this.#keys.size < limits.memory_idempotency_keys_max;
      if (kept) break;
      this.#keys.delete(oldest);
    }
    const known = this.#keys.get(name);
    if (known !== undefined) return { offset: known.offset, duplicate: true };
    const offset = this.append(messages);
    this.#keys.set(name, { offset, expires_ms: now_ms + this.#idempotency_ttl_ms });
    return { offset, duplicate: false };
  }

  read(filters: readonly string[], after: number, limit: number): Page {
    this.#reads++;
    const start = Math.max(after, this.#window.first - 1);
    if (start >= this.#window.head) {
      return { messages: [], next: Math.max(after, start), gap: after < start };
    }
    const page = this.#window.read(filters, start, limit, Date.now());
    return after < start ? { ...page, gap: true } : page;
  }

  get(offset: number): StoredMessage | undefined {
    return this.#window.get(offset);
  }

  retained(filter: string, after = ""): RetainedPage {
    return this.#retained.page(filter, after, Date.now());
  }

  retained_count(): number {
    return this.#retained.size;
  }

  retain(message: Message): void {
    this.#assert_room([message]);
    this.#retained.set(stored(message, 0));
  }

  put_session(session: StoredSession): void {
    if (this.#sessions.size >= limits.memory_sessions_max && !this.#sessions.has(session.id)) {
      throw new Refusal(codes.store_full, `The memory store holds ${this.#sessions.size} sessions`);
    }
    this.#sessions.set(session.id, session);
  }

  put_cursor(id: string, cursor: number): void {
    const session = this.#sessions.get(id);
    if (session !== undefined) this.#sessions.set(id, { ...session, cursor });
  }

  delete_session(id: string): void {
    this.#sessions.delete(id);
  }

  async *sessions(): AsyncGenerator<StoredSession> {
    yield* this.#sessions.values();
  }

  stats(): StoreStats {
    return {
      failing: "",
      appended: this.#appended,
      commits: 0,
      commits_failed: 0,
      queue_bytes: 0,
      reads_hit: this.#reads,
      reads_missed: 0,
      trimmed: this.#window.first - 1,
      expired: 0,
    };
  }

  close(): Promise<void> {
    this.#window.reset(this.#window.head);
    this.#retained.clear();
    this.#sessions.clear();
    this.#keys.clear();
    return Promise.resolve();
  }

  /** Refuses before anything is written: a call is done wholly or not at all. */
  #assert_room(messages: readonly Message[]): void {
    let added = 0;
    for (const { retain, payload, topic } of messages) {
      if (retain && payload.length > 0 && !this.#retained.has(topic)) added++;
    }
    if (added === 0 || this.#retained.size + added <= limits.memory_retained_messages_max) return;
    this.#retained.drop_expired(Date.now());
    if (this.#retained.size + added <= limits.memory_retained_messages_max) return;
    const size = this.#retained.size;
    throw new Refusal(codes.store_full, `The memory store holds ${size} retained messages`);
  }
}
