/**
 * The durable store of one machine: SQLite in a data directory, behind two workers, so that no commit
 * and no replay ever blocks the event loop. Writes of a turn, and those that arrive while a commit is
 * under way, are one transaction. The newest messages and the pages read last are read at once, here.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Message } from "../message.ts";
import {
  ByteReader,
  ByteWriter,
  Op,
  read_session,
  read_stored,
  write_message,
  write_session,
} from "./codec.ts";
import { boot_id, database_file, database_in, lock_data, open_error } from "./data_directory.ts";
import {
  type Appended,
  type Page,
  type RetainedPage,
  retention_default,
  type RetentionRule,
  type Soon,
  type Store,
  type StoredSession,
  type StoreStats,
} from "./mod.ts";
import { PageCache } from "./page_cache.ts";
import type { Answer, Request, WriterSettings } from "./sqlite_worker.ts";
import { stored, Window } from "./window.ts";
import { type Removed, retry_after_ms, WorkerLink } from "./worker_link.ts";

export interface SqliteOptions {
  /** What an answered write survives: see mod.ts. */
  readonly synchronous?: "full" | "normal";
  readonly retention?: readonly RetentionRule[];
  /** Largest size of the database file; 0 = as large as the disk. */
  readonly database_bytes_max?: number;
  // Bounds of limits.ts that tests make smaller.
  readonly idempotency_ttl_ms?: number;
  readonly tail_messages_max?: number;
  readonly tail_bytes_max?: number;
  readonly queue_bytes_max?: number;
}

/** A batch with this many bytes follows the one under way at once: the writer need not wait for us. */
const pipelined_bytes = 64 << 10;
/** A batch takes no further turn past these: bounds how long its commit and its answers take. */
const batch_messages = 2048;
const batch_bytes = 1 << 20;
const batch_buffer_bytes = 16 << 10;
/** Buffers that came back and are kept, and the largest that is. */
const spare_buffers_max = 4;
const spare_bytes_max = 2 << 20;
/** How long after its death the writer or reader is made again. */
const restart_ms = 100;

/** An append that waits for its commit. */
interface Call {
  readonly messages: readonly Message[];
  readonly once: boolean;
  resolve(offset: number, duplicate: boolean): void;
  reject(error: Refusal): void;
}

/** The writes of one transaction. */
class Batch {
  readonly calls: Call[] = [];
  /** Newest cursor by session; written last, for an acknowledgement often follows another. */
  readonly cursors = new Map<string, number>();
  readonly done = Promise.withResolvers<void>();
  messages = 0;
  bytes = 0;

  constructor(readonly out: ByteWriter) {
    // Whoever awaits it hears of a failure; that nobody does is no error.
    this.done.promise.catch(() => {});
  }
}

export class SqliteStore implements Store {
  #epoch = "";
  #first = 1;
  readonly #window: Window;
  readonly #pages = new PageCache();
  readonly #queue_bytes_max: number;
  #writer: WorkerLink;
  #reader: WorkerLink;
  /** Takes the writes of this turn; those before it in `#sealed` take no more. */
  #pending: Batch | undefined;
  readonly #sealed: Batch[] = [];
  #posting = false;
  #queue_bytes = 0;
  readonly #spare: Uint8Array<ArrayBuffer>[] = [];
  /** Reads under way, so that equal ones share an answer. */
  readonly #reads = new Map<string, Promise<Page>>();
  #any_retained = true;
  /** Why writes are refused without being tried: "" = they are not. */
  #closed = "";
  #failing: StoreStats["failing"] = "";
  #appended = 0;
  #commits = 0;
  #commits_failed = 0;
  #reads_hit = 0;
  #reads_missed = 0;
  #trimmed = 0;
  #expired = 0;

  private constructor(
    readonly path: string,
    readonly lock: Deno.FsFile,
    readonly settings: WriterSettings,
    options: SqliteOptions,
  ) {
    this.#window = new Window(
      settings.tail_messages_max,
      options.tail_bytes_max ?? limits.tail_bytes_max,
    );
    this.#queue_bytes_max = options.queue_bytes_max ?? limits.store_queue_bytes_max;
    this.#writer = this.#new_writer();
    this.#reader = this.#new_reader();
  }

  /** Opens, or creates, the store in a data directory; throws StoreOpenError. */
  static async open(data: string, options: SqliteOptions = {}): Promise<SqliteStore> {
    const lock = lock_data(data);
    const settings: WriterSettings = {
      path: `${data}/${database_file}`,
      synchronous: options.synchronous ?? "full",
      retention: options.retention ?? retention_default,
      idempotency_ttl_ms: options.idempotency_ttl_ms ?? limits.idempotency_ttl_ms,
      tail_messages_max: options.tail_messages_max ?? limits.tail_messages_max,
      database_bytes_max: options.database_bytes_max ?? 0,
      boot_id: boot_id(),
      epoch: "",
    };
    const store = new SqliteStore(settings.path, lock, settings, options);
    try {
      await store.#open();
      return store;
    } catch (error) {
      store.#end("The store was not opened");
      throw open_error(data, error);
    }
  }

  get epoch(): string {
    return this.#epoch;
  }

  get head(): number {
    return this.#window.head;
  }

  get first(): number {
    return this.#first;
  }

  append(messages: readonly Message[]): Promise<number> {
    const batch = this.#batch();
    batch.out.u8(Op.append);
    this.#write_messages(batch, messages);
    return new Promise((resolve, reject) => {
      batch.calls.push({ messages, once: false, resolve, reject });
    });
  }

  append_once(scope: string, key: string, messages: readonly Message[]): Promise<Appended> {
    const batch = this.#batch();
    batch.out.u8(Op.append_once);
    batch.out.text(scope);
    batch.out.text(key);
    this.#write_messages(batch, messages);
    return new Promise((resolve, reject) => {
      batch.calls.push({
        messages,
        once: true,
        resolve: (offset, duplicate) => resolve({ offset, duplicate }),
        reject,
      });
    });
  }

  read(filters: readonly string[], after: number, limit: number): Soon<Page> {
    if (after >= this.head) return { messages: [], next: after, gap: false };
    const now_ms = Date.now();
    const most = Math.min(limit, limits.page_messages_max);
    if (after >= this.#window.first - 1) {
      this.#reads_hit++;
      return this.#window.read(filters, after, most, now_ms);
    }
    const name = filters.length === 1 ? filters[0]! : filters.join("\0");
    const page = this.#pages.get(name, after, most, now_ms);
    if (page !== undefined) {
      this.#reads_hit++;
      return page;
    }
    this.#reads_missed++;
    const request = `${after} ${most} ${name}`;
    let read = this.#reads.get(request);
    if (read === undefined) {
      read = this.#read(filters, after, most, name).finally(() => this.#reads.delete(request));
      this.#reads.set(request, read);
    }
    return read;
  }

  retained(filter: string, after = ""): Soon<RetainedPage> {
    return this.#any_retained ? this.#retained(filter, after) : { messages: [], next: "" };
  }

  retain(message: Message): Promise<void> {
    const batch = this.#batch();
    batch.out.u8(Op.retain);
    write_message(batch.out, message);
    this.#any_retained = true;
    return batch.done.promise;
  }

  put_session(session: StoredSession): Promise<void> {
    const batch = this.#batch();
    batch.cursors.delete(session.id);
    batch.out.u8(Op.put_session);
    write_session(batch.out, session);
    return batch.done.promise;
  }

  put_cursor(id: string, cursor: number): Promise<void> {
    const batch = this.#batch();
    batch.cursors.set(id, cursor);
    return batch.done.promise;
  }

  delete_session(id: string): Promise<void> {
    const batch = this.#batch();
    batch.cursors.delete(id);
    batch.out.u8(Op.delete_session);
    batch.out.text(id);
    return batch.done.promise;
  }

  async *sessions(): AsyncGenerator<StoredSession> {
    const ask = (after: string) => this.#ask_reader({ kind: "sessions", after });
    let answer = ask("");
    while (true) {
      const source = await answer;
      const sessions: StoredSession[] = [];
      while (!source.done) sessions.push(read_session(source));
      if (sessions.length === 0) return;
      answer = ask(sessions.at(-1)!.id);
      // Whoever stops early never hears how the next page went.
      answer.catch(() => {});
      yield* sessions;
    }
  }

  stats(): StoreStats {
    return {
      failing: this.#failing,
      appended: this.#appended,
      commits: this.#commits,
      commits_failed: this.#commits_failed,
      queue_bytes: this.#queue_bytes,
      reads_hit: this.#reads_hit,
      reads_missed: this.#reads_missed,
      trimmed: this.#trimmed,
      expired: this.#expired,
    };
  }

  async close(): Promise<void> {
    this.#closed = "The store is closed";
    this.#post();
    while (this.#pending !== undefined || this.#sealed.length > 0 || this.#writer.waiting > 0) {
      const last = this.#pending ?? this.#sealed.at(-1) ?? this.#posted.at(-1)!;
      await last.done.promise.catch(() => {});
    }
    try {
      await this.#reader.ask({ kind: "close" });
      await this.#writer.ask({ kind: "close" });
    } finally {
      this.#end("The store is closed");
    }
  }
}
