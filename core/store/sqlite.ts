/**
 * The durable store of one machine: SQLite in a data directory, behind two workers, so that no commit and no
 * replay ever blocks the event loop. Writes of a turn, and those that arrive while a commit is under way,
 * are one transaction. The newest messages and the pages read last are also here, and read at once.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Message } from "../message.ts";
import { ByteReader, ByteWriter, Op, read_session, read_stored, write_message } from "./codec.ts";
import { write_session } from "./codec.ts";
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
import { WorkerLink } from "./worker_link.ts";

export interface SqliteOptions {
  /** What an answered write survives: see mod.ts. */
  readonly synchronous?: "full" | "normal";
  readonly retention?: readonly RetentionRule[];
  /** Largest size of the database file; 0 = as large as the disk. */
  readonly database_bytes_max?: number;
  /** Below are bounds of limits.ts that tests make smaller. */
  readonly idempotency_ttl_ms?: number;
  readonly tail_messages_max?: number;
  readonly tail_bytes_max?: number;
  readonly queue_bytes_max?: number;
}

/** Why a data directory cannot be used, in one sentence that names it. */
export class StoreOpenError extends Error {
  override readonly name = "StoreOpenError";
}

const database_file = "longwire.db";
const lock_file = "longwire.lock";

/** A batch with this many bytes follows the one under way at once, so that the writer never waits. */
const pipelined_bytes = 64 << 10;
/** A batch takes no further turn past this many messages: bounds how long its answers keep the loop. */
const batch_messages = 2048;
const batch_buffer_bytes = 16 << 10;
/** Buffers that came back and are kept, and the largest that is. */
const spare_buffers_max = 4;
const spare_bytes_max = 1 << 20;

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

  constructor(readonly out: ByteWriter) {
    // Whoever awaits it hears of a failure; that nobody may is no error.
    this.done.promise.catch(() => {});
  }
}

/** Opens, or creates, the store in a data directory; throws StoreOpenError. */
export async function open_sqlite_store(
  data: string,
  options: SqliteOptions = {},
): Promise<SqliteStore> {
  const lock = lock_data(data);
  try {
    return await SqliteStore.open(`${data}/${database_file}`, lock, options);
  } catch (error) {
    lock.close();
    const detail = error instanceof Error ? error.message : String(error);
    throw new StoreOpenError(`Cannot open data ${data}: ${detail}`);
  }
}
