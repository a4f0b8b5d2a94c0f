/**
 * The Store contract: the log, retained messages, idempotency keys and what a session leaves
 * behind. Implementations are memory.ts, sqlite.ts and jetstream.ts; tests/contract_store.ts is the
 * suite that each passes.
 *
 * Order. Offsets are given in the order of `append` and `append_once` calls and of the messages
 * within a call, contiguous from 1 within an epoch; a call that fails uses none. Answers come in
 * the order of calls. Where several nodes share a log, messages of others may stand between those
 * of a call.
 *
 * Atomicity. Calls made in one synchronous turn are one transaction, applied in the order of the
 * calls: all of them become durable or none does. So an append and the session state that records
 * it (the packet id of a QoS 2 publish) belong into one turn, without an `await` between them.
 * JetStream knows no transactions: there each message and each session is stored by itself, and of
 * a call that fails some messages may be in the log.
 *
 * Durability. When a write answers, it survives what the implementation promises:
 *   memory                       nothing
 *   SQLite, synchronous=full     the process killed at any instant, and the machine losing power
 *   SQLite, synchronous=normal   the process killed at any instant; a power loss may take the last
 *                                moments with it (never the order). After an end without close()
 *                                that may have been one, the log gets a new epoch.
 *   JetStream                    the loss of one of three servers, or with one server its process
 *
 * Visibility. A read sees every write that was answered before it was asked, and of later ones a
 * prefix. A page that comes at once (no promise) and has `next === head` leaves out nothing that
 * was answered: a session that goes live in that same turn misses no message.
 *
 * Failure. Every write throws, or answers with, Refusal(store_full) or Refusal(store_unavailable);
 * nothing of its turn was written then, and the next call tries again by itself. Reads throw
 * Refusal(store_unavailable).
 *
 * Retention is what the log may forget, not what it must: messages may stay readable for a while.
 */
import type { Message, StoredMessage } from "../message.ts";

/**
 * An answer that is there at once or later; the memory store never makes the caller wait a turn.
 */
export type Soon<T> = T | Promise<T>;

/** Persistent part of a session (MQTT clean session 0, Longwire sessions). */
export interface StoredSession {
  readonly id: string;
  /**
   * Filter and granted QoS, with protocol options packed by the session's owner (0 to 2^32 - 1).
   */
  readonly subscriptions: readonly { filter: string; qos: number; options: number }[];
  /** Everything up to this offset was acknowledged or is not for this session. */
  readonly cursor: number;
  /**
   * Unix milliseconds; 0 = never expires. The owner deletes what has expired: a will may be due
   * first.
   */
  readonly expires_ms: number;
  /**
   * Opaque text of the protocol (in-flight QoS 2 packet ids, will, resume secret), JSON; "" = none.
   */
  readonly state: string;
}

/**
 * A page of the log. It may be short, or empty, before the end: read on while `next` is below
 * `head`.
 */
export interface Page {
  /** In offset order, without what has expired. */
  readonly messages: readonly StoredMessage[];
  /**
   * Everything up to this offset has been looked at: the `after` of the next page; never below it.
   */
  readonly next: number;
  /**
   * True when retention removed messages after `after` before they could be read. It may be true
   * where none of them matched (what is known of removed messages is bounded), never false where
   * one did. A message that reached its own expiry leaves no gap.
   */
  readonly gap: boolean;
}

/** Retained messages, a page at a time, in an order of the store's own. */
export interface RetainedPage {
  /** `offset` is the message's place in the log; 0 = it was never in the log (QoS 0). */
  readonly messages: readonly StoredMessage[];
  /** The `after` of the next page; "" = that was all. */
  readonly next: string;
}

/**
 * Offset of the first message of a call, where the others follow it without a gap; else of each, in
 * the order of the call.
 */
export type Offsets = number | readonly number[];

/** What became of an `append_once`. */
export interface Appended {
  /** Of the messages, this time or when the key was first used. */
  readonly offset: Offsets;
  /** True when the key was known: nothing was written. */
  readonly duplicate: boolean;
}

/**
 * How much of the log is kept. A topic is governed by the first rule whose filter matches it ("#"
 * matches every topic here, `$` ones too), as its tenant knows it; a topic that no rule governs is
 * kept for ever. Bounds hold for all the messages of one tenant that the rule governs together, and
 * the oldest go first. 0 = no bound.
 */
export interface RetentionRule {
  readonly filter: string;
  /** Age of the oldest message, by its `time_ms`, milliseconds. */
  readonly age_ms: number;
  readonly count: number;
  /** Topic, payload, key and property bytes. */
  readonly bytes: number;
}

/** The whole log for seven days. */
export const retention_default: readonly RetentionRule[] = Object.freeze([
  Object.freeze({ filter: "#", age_ms: 7 * 86_400_000, count: 0, bytes: 0 }),
]);

/** What metrics and readiness show. Counters count from open. */
export interface StoreStats {
  /** "" = the last write succeeded; else the code that it was refused with. */
  readonly failing: "" | "store_full" | "store_unavailable";
  /** Messages appended. */
  readonly appended: number;
  /** Transactions committed, and those that failed. */
  readonly commits: number;
  readonly commits_failed: number;
  /** Bytes handed over and not yet answered. */
  readonly queue_bytes: number;
  /** Of a log that other nodes append to: messages that this node has not come to. */
  readonly lag_messages?: number;
  /** How long it has been silent though it was asked; 0 = it answers. */
  readonly silent_ms?: number;
  /** Reads answered from memory, or by the same read under way; pages read from the database. */
  readonly reads_hit: number;
  readonly reads_missed: number;
  /** Messages removed by retention and by their own expiry. */
  readonly trimmed: number;
  readonly expired: number;
}

/** A log to which other nodes append too. */
export interface SharedLog {
  /**
   * Told of every stored message, whoever appended it, in the order of offsets, and of those that
   * this node appends before they are answered. The payload may be kept.
   */
  on_stored: (message: StoredMessage) => void;
  /** Whether on_stored may be called now; asked again and again while it may not. */
  has_room: () => boolean;
  /** What is stored of one session; another node may have written it last. */
  session(id: string): Promise<StoredSession | undefined>;
  /** It cannot be reached: appends that wait are refused now, whatever becomes of them. */
  give_up(): void;
  /** For people: "3 replicas". */
  readonly description: string;
}

export interface Store {
  /** Set where other nodes append to the same log. */
  readonly shared?: SharedLog;
  /** One life of the log: a random id made when the log was created. */
  readonly epoch: string;
  /** Offset of the newest stored message; 0 = nothing was ever stored. */
  readonly head: number;
  /** No message before this offset is in the log any more; head + 1 = the log is empty. */
  readonly first: number;
  /**
   * Appends all, in order; answers their offsets. A message with `retain` also becomes,
   * or with an empty payload removes, the retained message of its topic. `messages` has at least
   * one.
   */
  append(messages: readonly Message[]): Soon<Offsets>;
  /**
   * Like `append`, once per (scope, key) within limits.idempotency_ttl_ms. The scope is the tenant.
   * Also when both calls are under way at the same time: the second is the duplicate.
   */
  append_once(scope: string, key: string, messages: readonly Message[]): Soon<Appended>;
  /**
   * Messages after an offset that match one of the filters (without `$share/group/`), each once: at
   * most `limit`, and no more than one past limits.page_bytes_max.
   */
  read(filters: readonly string[], after: number, limit: number): Soon<Page>;
  /**
   * The message of an offset, also one that has expired as long as it is there; undefined = it is
   * not in the log any more.
   */
  get(offset: number): Soon<StoredMessage | undefined>;
  /**
   * Retained messages that match a filter [MQTT 5 section 3.3.1.3]; `after` = `next` of the page
   * before.
   */
  retained(filter: string, after?: string): Soon<RetainedPage>;
  /** How many retained messages there are; those that have expired may be among them. */
  retained_count(): Soon<number>;
  /**
   * Sets, or with an empty payload removes, the retained message of a topic, without appending it.
   */
  retain(message: Message): Soon<void>;
  /** Writes a whole session, new or not. */
  put_session(session: StoredSession): Soon<void>;
  /**
   * Moves the cursor of a session that exists; nothing happens to one that does not. It may be
   * written in a later transaction than the rest of its turn, and of several only the last is.
   */
  put_cursor(id: string, cursor: number): Soon<void>;
  delete_session(id: string): Soon<void>;
  /** All sessions, once, at start, expired ones too. Writes meanwhile may or may not be seen. */
  sessions(): AsyncIterable<StoredSession>;
  stats(): StoreStats;
  /** Answers after everything handed over is written; nothing may be called after. */
  close(): Promise<void>;
}
