/**
 * The only file that touches node:sqlite, and it runs in workers alone: a writer, a reader, and one
 * for the time of a backup or a check. Each holds one connection to one longwire.db and answers
 * messages.
 */
import { backup, DatabaseSync } from "node:sqlite";
import type { CodeName } from "../codes.ts";
import type { RetentionRule } from "./mod.ts";
import { check_database } from "./check.ts";
import { type Database, migrate } from "./schema.ts";
import { LogReader } from "./sqlite_reader.ts";
import { LogWriter, type Removed } from "./sqlite_writer.ts";

/** How a writer opens its database. */
export interface WriterSettings {
  readonly path: string;
  readonly synchronous: "full" | "normal";
  readonly retention: readonly RetentionRule[];
  readonly idempotency_ttl_ms: number;
  readonly tail_messages_max: number;
  /** Largest size of the database; 0 = as large as the disk. */
  readonly database_bytes_max: number;
  /** Names this boot of the machine; "" = not known. */
  readonly boot_id: string;
  /**
   * The epoch that must be found, when the log was open before in this process; "" = whatever is.
   */
  readonly epoch: string;
}

export type Request =
  | { readonly kind: "open_writer"; readonly settings: WriterSettings }
  | { readonly kind: "batch"; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly kind: "open_reader"; readonly path: string }
  | {
    readonly kind: "read";
    readonly filters: readonly string[];
    readonly after: number;
    readonly limit: number;
    readonly upto: number;
  }
  | { readonly kind: "get"; readonly offset: number }
  | { readonly kind: "retained"; readonly filter: string; readonly after: string }
  | { readonly kind: "retained_count" }
  | { readonly kind: "sessions"; readonly after: string }
  | { readonly kind: "backup"; readonly path: string; readonly target: string }
  | { readonly kind: "check"; readonly path: string }
  | { readonly kind: "close" };

/** Every request has one answer, in the order of requests; `removed` comes unasked. */
export type Answer =
  | {
    readonly kind: "opened";
    readonly epoch: string;
    readonly head: number;
    readonly first: number;
    /** Whether there are retained messages. */
    readonly retained: boolean;
  }
  | {
    readonly kind: "applied";
    readonly first: number;
    readonly once: readonly number[];
    /** The bytes of the request, to be used again. */
    readonly spent: Uint8Array<ArrayBuffer>;
  }
  | { readonly kind: "page"; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly kind: "checked"; readonly findings: readonly string[] }
  | { readonly kind: "done" }
  | { readonly kind: "failed"; readonly code: CodeName; readonly detail: string }
  | ({ readonly kind: "removed" } & Removed);

/** SQLite result codes (https://sqlite.org/rescode.html), primary ones. */
const sqlite_full = 13;

/**
 * The reader moves what is in the WAL into the database this often, so that no commit waits for
 * that: it halves the 99th percentile. A commit does it when the WAL has 64 MiB all the same.
 */
const checkpoint_ms = 250;
const checkpoint_pages = 16_384;
/** A WAL that had to grow (backup, long read) gives this much back. */
const wal_bytes_kept = 64 << 20;
/** Housekeeping takes at most a quarter of the writer's time, half of it while it falls behind. */
const rest_ratio = 3;
const behind_steps = 64;
const idle_ms = 250;

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<Request>) => void) | null;
  postMessage(answer: Answer, transfer?: ArrayBuffer[]): void;
};

interface Role {
  answer(request: Request): Answer | Promise<Answer>;
}

class WriterRole implements Role {
  #db: DatabaseSync | undefined;
  #log: LogWriter | undefined;
  /** The life that was opened first: a connection that is made again must find the same. */
  #epoch = "";
  #head = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #busy_steps = 0;

  constructor(readonly settings: WriterSettings) {
    this.#epoch = settings.epoch;
  }

  answer(request: Request): Answer {
    switch (request.kind) {
      case "open_writer":
        return this.#open();
      case "batch":
        return this.#apply(request.bytes);
      case "close":
        return this.#close();
      default:
        throw new Error(`writer: ${request.kind} is not for it`);
    }
  }

  #open(): Answer {
    const { path, synchronous, database_bytes_max } = this.settings;
    const db = this.#db = new DatabaseSync(path);
    db.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = ${synchronous};
      PRAGMA wal_autocheckpoint = ${checkpoint_pages};
      PRAGMA journal_size_limit = ${wal_bytes_kept};
      PRAGMA cache_size = -32768;
      PRAGMA busy_timeout = 5000;
    `);
    if (database_bytes_max > 0) {
      const { page_size } = db.prepare("PRAGMA page_size").get() as { page_size: number };
      db.exec(`PRAGMA max_page_count = ${Math.ceil(database_bytes_max / page_size)}`);
    }
    migrate(as_database(db));
    this.#epoch ||= begin_life(db, this.settings);
    const log = new LogWriter(as_database(db), this.settings);
    if (log.head < this.#head) {
      throw new Error(`the log ends at ${log.head}, and ${this.#head} was already durable`);
    }
    this.#log = log;
    this.#maintain_after(0);
    const retained = db.prepare("SELECT 1 FROM retained LIMIT 1").get() !== undefined;
    return { kind: "opened", epoch: this.#epoch, head: log.head, first: log.first, retained };
  }

  #apply(bytes: Uint8Array<ArrayBuffer>): Answer {
    try {
      if (this.#log === undefined) this.#open();
      const log = this.#log!;
      const { first, once } = log.apply(bytes);
      this.#head = log.head;
      return { kind: "applied", first, once, spent: bytes };
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** After a full disk the connection is sound; after anything else a new one is made. */
  #failed(error: unknown): Answer {
    const detail = error instanceof Error ? error.message : String(error);
    if (result_code(error) === sqlite_full) {
      // Room in the WAL may be what a full disk still has to offer.
      checkpoint(this.#db);
      return { kind: "failed", code: "store_full", detail };
    }
    clearTimeout(this.#timer);
    this.#log = undefined;
    close_quietly(this.#db);
    this.#db = undefined;
    return { kind: "failed", code: "store_unavailable", detail };
  }

  #maintain_after(delay_ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#maintain(), delay_ms);
  }

  #maintain(): void {
    const started_ms = performance.now();
    let removed: Removed | undefined;
    try {
      removed = this.#log!.maintain();
    } catch {
      checkpoint(this.#db);
      return this.#maintain_after(idle_ms);
    }
    if (removed === undefined) {
      this.#busy_steps = 0;
      return this.#maintain_after(idle_ms);
    }
    if (removed.trimmed + removed.expired > 0) scope.postMessage({ kind: "removed", ...removed });
    const rest = ++this.#busy_steps > behind_steps ? 1 : rest_ratio;
    this.#maintain_after(Math.ceil((performance.now() - started_ms) * rest));
  }

  #close(): Answer {
    clearTimeout(this.#timer);
    if (this.#db === undefined) return { kind: "done" };
    try {
      this.#log!.save_counts();
      set_meta(this.#db, "clean", 1);
      this.#db.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get();
    } catch { /* everything that was answered is in the WAL; the next open finds it there */ }
    close_quietly(this.#db);
    return { kind: "done" };
  }
}

/**
 * The epoch of the log. With synchronous=normal a power loss may have taken the newest messages
 * with it, and their offsets will be given to others: then this is another log, and needs another
 * name.
 */
function begin_life(db: DatabaseSync, { synchronous, boot_id }: WriterSettings): string {
  const meta = new Map<string, unknown>();
  for (const { name, value } of db.prepare("SELECT name, value FROM meta").all()) {
    meta.set(name as string, value);
  }
  const same_boot = boot_id !== "" && meta.get("boot_id") === boot_id;
  const lost = meta.get("clean") === 0 && meta.get("synchronous") === "normal" && !same_boot;
  const found = meta.get("epoch");
  const epoch = typeof found === "string" && !lost ? found : crypto.randomUUID();
  db.prepare("BEGIN IMMEDIATE").run();
  set_meta(db, "epoch", epoch);
  set_meta(db, "clean", 0);
  set_meta(db, "synchronous", synchronous);
  set_meta(db, "boot_id", boot_id);
  db.prepare("COMMIT").run();
  return epoch;
}

function set_meta(db: DatabaseSync, name: string, value: string | number): void {
  db.prepare("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)").run(name, value);
}

class ReaderRole implements Role {
  readonly #db: DatabaseSync;
  readonly #log: LogReader;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    this.#db.exec(`
      PRAGMA synchronous = FULL;
      PRAGMA cache_size = -32768;
      PRAGMA busy_timeout = 5000;
    `);
    this.#log = new LogReader(as_database(this.#db));
    this.#timer = setInterval(() => checkpoint(this.#db), checkpoint_ms);
  }

  answer(request: Request): Answer {
    switch (request.kind) {
      case "open_reader":
        return { kind: "done" };
      case "read": {
        const { filters, after, limit, upto } = request;
        return { kind: "page", bytes: this.#log.read(filters, after, limit, upto) };
      }
      case "get":
        return { kind: "page", bytes: this.#log.get(request.offset) };
      case "retained":
        return { kind: "page", bytes: this.#log.retained(request.filter, request.after) };
      case "retained_count":
        return { kind: "page", bytes: this.#log.retained_count() };
      case "sessions":
        return { kind: "page", bytes: this.#log.sessions(request.after) };
      case "close":
        clearInterval(this.#timer);
        close_quietly(this.#db);
        return { kind: "done" };
      default:
        throw new Error(`reader: ${request.kind} is not for it`);
    }
  }
}

/**
 * Copies one snapshot while the writer goes on. The copy is a log of its own, so it gets an epoch.
 */
async function back_up(path: string, target: string): Promise<Answer> {
  const source = new DatabaseSync(path, { readOnly: true });
  try {
    // All pages in one step: a backup in several starts again whenever the writer commits.
    await backup(source, target, { rate: -1 });
  } finally {
    source.close();
  }
  const copy = new DatabaseSync(target);
  copy.exec("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL");
  set_meta(copy, "epoch", crypto.randomUUID());
  set_meta(copy, "clean", 1);
  copy.close();
  return { kind: "done" };
}

function check(path: string): Answer {
  const db = new DatabaseSync(path, { readOnly: true });
  try {
    return { kind: "checked", findings: check_database(as_database(db)) };
  } finally {
    db.close();
  }
}

/** Moves what it can without waiting for anybody. */
function checkpoint(db: DatabaseSync | undefined): void {
  try {
    db?.prepare("PRAGMA wal_checkpoint(PASSIVE)").get();
  } catch { /* a disk that is full or failing: what is in the WAL stays there */ }
}

function as_database(db: DatabaseSync): Database {
  return db as unknown as Database;
}

function result_code(error: unknown): number {
  const code = (error as { errcode?: number }).errcode ?? 0;
  return code & 0xff;
}

function close_quietly(db: DatabaseSync | undefined): void {
  try {
    db?.close();
  } catch { /* the next open tells */ }
}

let role: Role | undefined;

function answer(request: Request): Answer | Promise<Answer> {
  try {
    switch (request.kind) {
      case "open_writer":
        role = new WriterRole(request.settings);
        break;
      case "open_reader":
        role = new ReaderRole(request.path);
        break;
      case "backup":
        return back_up(request.path, request.target).catch(failed);
      case "check":
        return check(request.path);
    }
    return role!.answer(request);
  } catch (error) {
    return failed(error);
  }
}

function failed(error: unknown): Answer {
  const detail = error instanceof Error ? error.message : String(error);
  const code = result_code(error) === sqlite_full ? "store_full" : "store_unavailable";
  return { kind: "failed", code, detail };
}

function post(answer: Answer): void {
  if (answer.kind === "page") scope.postMessage(answer, [answer.bytes.buffer]);
  else if (answer.kind === "applied") scope.postMessage(answer, [answer.spent.buffer]);
  else scope.postMessage(answer);
}

scope.onmessage = ({ data }) => {
  const answered = answer(data);
  if (answered instanceof Promise) answered.then(post);
  else post(answered);
};
