/**
 * The durable store of one machine: SQLite in a data directory, behind two workers, so that no
 * commit and no replay ever blocks the event loop. The newest messages and the pages read last are
 * kept here and read at once; the database has every message, so memory is bounded and nothing
 * depends on it.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Message, StoredMessage } from "../message.ts";
import {
  ByteReader,
  type ByteWriter,
  Op,
  read_session,
  read_stored_row,
  write_message,
  write_session,
} from "./codec.ts";
import {
  boot_id,
  database_file,
  database_in,
  lock_data,
  open_error,
  problem,
} from "./data_directory.ts";
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
import { Window } from "./window.ts";
import { type Removed, WorkerLink } from "./worker_link.ts";
import { type Sink, WriteQueue } from "./write_queue.ts";

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

/** How long after its death a worker is made again. */
const restart_ms = 100;

export class SqliteStore implements Store {
  #epoch = "";
  #first = 1;
  readonly #window: Window;
  readonly #pages = new PageCache();
  readonly #queue: WriteQueue;
  #writer: WorkerLink | undefined;
  #reader: WorkerLink | undefined;
  /** Reads under way, so that equal ones share an answer. */
  readonly #reads = new Map<string, Promise<Page>>();
  /** False = there is no retained message, and nobody need be asked. */
  #any_retained = false;
  #closed = false;
  #appended = 0;
  #reads_hit = 0;
  #reads_missed = 0;
  #trimmed = 0;
  #expired = 0;

  private constructor(
    readonly lock: Deno.FsFile,
    readonly settings: WriterSettings,
    options: SqliteOptions,
  ) {
    const bytes_max = options.tail_bytes_max ?? limits.tail_bytes_max;
    this.#window = new Window(settings.tail_messages_max, bytes_max);
    this.#queue = new WriteQueue(
      this.#sink(),
      options.queue_bytes_max ?? limits.store_queue_bytes_max,
    );
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
    const store = new SqliteStore(lock, settings, options);
    try {
      await store.#open_writer();
      await store.#open_reader();
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
    return this.#queue.append(messages);
  }

  append_once(scope: string, key: string, messages: readonly Message[]): Promise<Appended> {
    return this.#queue.append_once(scope, key, messages);
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
    const request = `${after} ${most} ${name}`;
    let read = this.#reads.get(request);
    if (read !== undefined) {
      this.#reads_hit++;
    } else {
      this.#reads_missed++;
      read = this.#read(filters, after, most, name).finally(() => this.#reads.delete(request));
      this.#reads.set(request, read);
    }
    return read;
  }

  get(offset: number): Soon<StoredMessage | undefined> {
    if (offset >= this.#window.first || offset < this.#first) return this.#window.get(offset);
    return this.#ask_reader({ kind: "get", offset }).then((source) => read_messages(source)[0]);
  }

  retained(filter: string, after = ""): Soon<RetainedPage> {
    return this.#any_retained ? this.#retained(filter, after) : { messages: [], next: "" };
  }

  retained_count(): Soon<number> {
    if (!this.#any_retained) return 0;
    return this.#ask_reader({ kind: "retained_count" }).then((source) => source.u32());
  }

  retain(message: Message): Promise<void> {
    this.#any_retained = true;
    return this.#queue.write((out) => {
      out.u8(Op.retain);
      write_message(out, message);
    });
  }

  put_session(session: StoredSession): Promise<void> {
    return this.#queue.write((out) => {
      out.u8(Op.put_session);
      write_session(out, session);
    }, session.id);
  }

  put_cursor(id: string, cursor: number): Promise<void> {
    return this.#queue.put_cursor(id, cursor);
  }

  delete_session(id: string): Promise<void> {
    return this.#queue.write((out: ByteWriter) => {
      out.u8(Op.delete_session);
      out.text(id);
    }, id);
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
      // Whoever stops early does not hear how the next page went.
      answer.catch(() => {});
      yield* sessions;
    }
  }

  stats(): StoreStats {
    return {
      failing: this.#queue.failing,
      appended: this.#appended,
      commits: this.#queue.commits,
      commits_failed: this.#queue.commits_failed,
      queue_bytes: this.#queue.bytes,
      reads_hit: this.#reads_hit,
      reads_missed: this.#reads_missed,
      trimmed: this.#trimmed,
      expired: this.#expired,
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#queue.close("The store is closed");
    try {
      // The reader first: the last connection to close is the one that may tidy up.
      await this.#reader?.ask({ kind: "close" });
      await this.#writer?.ask({ kind: "close" });
    } finally {
      this.#end("The store is closed");
    }
  }

  #end(why: string): void {
    this.#closed = true;
    this.#writer?.end(why);
    this.#reader?.end(why);
    this.#queue.lose_writer(why);
    this.lock.close();
  }

  async #open_writer(): Promise<void> {
    const died = () => {
      this.#queue.lose_writer("The writer of the store died and is being started again");
      this.#again(() => this.#open_writer());
    };
    const writer = new WorkerLink("store writer", died, (removed) => this.#removed(removed));
    this.#writer = writer;
    const settings = { ...this.settings, epoch: this.#epoch };
    const opened = await writer.ask({ kind: "open_writer", settings });
    if (opened.kind !== "opened") throw problem_of(opened);
    this.#epoch = opened.epoch;
    this.#first = opened.first;
    // After a death the log may hold what was never answered.
    if (opened.head !== this.head) this.#window.reset(opened.head);
    this.#any_retained ||= opened.retained;
    this.#queue.set_writer(writer);
  }

  async #open_reader(): Promise<void> {
    const reader = new WorkerLink("store reader", () => this.#again(() => this.#open_reader()));
    this.#reader = reader;
    const answer = await reader.ask({ kind: "open_reader", path: this.settings.path });
    if (answer.kind !== "done") throw problem_of(answer);
  }

  #again(open: () => Promise<void>): void {
    setTimeout(() => {
      if (this.#closed) return;
      open().catch(() => this.#again(open));
    }, restart_ms);
  }

  #sink(): Sink {
    const window = this.#window;
    return (messages, first, encoded, places, place) => {
      // The database knows better: after a failure it may hold more than it could tell.
      if (first !== window.head + 1) window.reset(first - 1);
      const start = places[place]!;
      const end = places[place + messages.length * 2 - 1]!;
      const base = window.add_bytes(encoded.subarray(start, end)) - start;
      for (const { topic, expires_ms, retain } of messages) {
        const at = places[place]!;
        window.push(topic, expires_ms, base + at, places[place + 1]! - at);
        place += 2;
        if (retain) this.#any_retained = true;
      }
      this.#appended += messages.length;
    };
  }

  #removed({ first, trimmed, expired, topics }: Removed): void {
    this.#first = first;
    this.#trimmed += trimmed;
    this.#expired += expired;
    for (const [topic, upto] of topics) this.#window.trim_topic(topic, upto);
    this.#window.trim_before(first);
  }

  async #read(
    filters: readonly string[],
    after: number,
    limit: number,
    name: string,
  ): Promise<Page> {
    const source = await this.#ask_reader({ kind: "read", filters, after, limit, upto: this.head });
    const messages = read_messages(source);
    const page = { messages, next: source.f64(), gap: source.u8() === 1 };
    this.#pages.put(name, after, page, Date.now());
    return page;
  }

  async #retained(filter: string, after: string): Promise<RetainedPage> {
    const source = await this.#ask_reader({ kind: "retained", filter, after });
    const messages = read_messages(source);
    return { messages, next: source.text() };
  }

  async #ask_reader(request: Request): Promise<ByteReader> {
    if (this.#reader === undefined || this.#closed) {
      throw new Refusal(codes.store_unavailable, "The store is closed");
    }
    const answer = await this.#reader.ask(request);
    if (answer.kind !== "page") throw problem_of(answer);
    return new ByteReader(answer.bytes);
  }
}

function read_messages(source: ByteReader): StoredMessage[] {
  const messages: StoredMessage[] = [];
  for (let left = source.u32(); left > 0; left--) messages.push(read_stored_row(source));
  return messages;
}

function problem_of(answer: Answer): Refusal {
  if (answer.kind !== "failed") throw new Error(`store: ${answer.kind} is no answer to this`);
  return new Refusal(codes[answer.code], answer.detail);
}

/**
 * Copies the database of a data directory into a new file, one consistent moment of it, while the
 * service may run. Put into another directory as longwire.db it is a data directory, with an epoch
 * of its own. Throws StoreOpenError, or an Error that names the target.
 */
export async function back_up_store(data: string, target: string): Promise<void> {
  const path = database_in(data);
  const partial = `${target}.partial`;
  let made = false;
  try {
    // Made first, so that a target that exists or cannot be written is known at once.
    Deno.openSync(target, { write: true, createNew: true }).close();
    made = true;
    const answer = await ask_once({ kind: "backup", path, target: partial });
    if (answer.kind === "failed") throw new Error(answer.detail);
    using file = Deno.openSync(partial, { read: true, write: true });
    file.syncSync();
    Deno.renameSync(partial, target);
  } catch (error) {
    if (made) [target, partial].forEach(remove_if_there);
    const exists = error instanceof Deno.errors.AlreadyExists;
    const why = exists ? "it exists already" : problem(error);
    throw new Error(`Cannot write backup ${target}: ${why}`, { cause: error });
  }
}

function remove_if_there(path: string): void {
  try {
    Deno.removeSync(path);
  } catch { /* it was not */ }
}

/**
 * What is wrong with the database of a data directory, one sentence each; none = sound. The service
 * may run meanwhile. Throws StoreOpenError when there is nothing to look at.
 */
export async function check_store(data: string): Promise<readonly string[]> {
  const answer = await ask_once({ kind: "check", path: database_in(data) });
  if (answer.kind === "checked") return answer.findings;
  throw open_error(data, problem_of(answer));
}

async function ask_once(request: Request): Promise<Answer> {
  const link = new WorkerLink("store task", () => {});
  try {
    return await link.ask(request);
  } finally {
    link.end("The task is done");
  }
}
