/**
 * Writes on their way to the database: those of one turn, and of the turns during a commit, become
 * one batch, and a batch is one transaction. Batches are answered in order, each call wholly or not
 * at all.
 */
import { codes, Refusal } from "../codes.ts";
import type { Message } from "../message.ts";
import { ByteWriter, Op, write_message } from "./codec.ts";
import { CursorQueue, type CursorTurn } from "./cursor_queue.ts";
import type { Appended } from "./mod.ts";
import type { Answer } from "./sqlite_worker.ts";
import { retry_after_ms, type WorkerLink } from "./worker_link.ts";

/** A batch with this many bytes follows the one under way at once: the writer need not wait. */
const pipelined_bytes = 64 << 10;
/** A batch takes no further turn past these: bounds how long its commit and its answers take. */
const batch_messages = 2048;
const batch_bytes = 1 << 20;
/** Cursors that one batch takes along, beside appends and alone: about 1 ms and 3 ms of writing. */
const cursors_beside_max = 128;
const cursors_alone_max = 256;
const batch_buffer_bytes = 16 << 10;
/** Buffers that came back and are kept, and the largest that is. */
const spare_buffers_max = 4;
const spare_bytes_max = 2 << 20;
/** After a failure the disk is tried this often, so that readiness comes back without a publish. */
const probe_ms = 1000;

/** An append that waits for its commit. */
interface Call {
  readonly messages: readonly Message[];
  readonly once: boolean;
  resolve(offset: number, duplicate: boolean): void;
  reject(error: Refusal): void;
}

class Batch {
  readonly calls: Call[] = [];
  /** Where each message begins and ends, in pairs. */
  readonly places: number[] = [];
  /** Of the cursors that are written with it, after all else. */
  turns: readonly CursorTurn[] = [];
  readonly done = Promise.withResolvers<void>();
  messages = 0;

  constructor(readonly out: ByteWriter) {
    // Whoever awaits it hears of a failure; that nobody does is no error.
    this.done.promise.catch(() => {});
  }
}

/**
 * Takes what has become durable: messages, the offset of the first, and their encoded bytes, which
 * begin and end at the pairs of `places` from index `place` on.
 */
export type Sink = (
  messages: readonly Message[],
  first: number,
  encoded: Uint8Array,
  places: readonly number[],
  place: number,
) => void;

export class WriteQueue {
  /** "" = the last batch was written. */
  failing: "" | "store_full" | "store_unavailable" = "";
  commits = 0;
  commits_failed = 0;

  #writer: WorkerLink | undefined;
  /** Why there is no writer. */
  #absent = "The store is not open yet";
  /** Takes the writes of this turn; those in `#sealed` are older and take no more. */
  #pending: Batch | undefined;
  readonly #sealed: Batch[] = [];
  /** Cursors in no batch yet. */
  readonly #cursors = new CursorQueue();
  #last: Batch | undefined;
  #scheduled = false;
  #bytes = 0;
  readonly #spare: Uint8Array<ArrayBuffer>[] = [];
  #probe_timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param sink is called in the order of offsets, before the publisher hears of it.
   * @param bytes_max refuses writes while this many bytes are not answered.
   */
  constructor(
    readonly sink: Sink,
    readonly bytes_max: number,
  ) {}

  /** Bytes handed over and not yet answered. */
  get bytes(): number {
    return this.#bytes + (this.#pending?.out.size ?? 0);
  }

  set_writer(writer: WorkerLink): void {
    this.#writer = writer;
    this.failing = "";
  }

  /**
   * The writer is gone, and what it was to write with it; refuses writes until there is another.
   */
  lose_writer(why: string): void {
    this.#absent = why;
    this.#writer = undefined;
    this.failing = "store_unavailable";
    clearTimeout(this.#probe_timer);
    this.#seal_all();
    for (const batch of this.#sealed.splice(0)) this.#fail(batch, unavailable(why));
  }

  /** Hands over what is left and refuses writes; answers when all are answered. */
  async close(why: string): Promise<void> {
    this.#absent = why;
    const writer = this.#writer;
    this.#writer = undefined;
    clearTimeout(this.#probe_timer);
    this.#seal_all();
    if (writer !== undefined) {
      for (const batch of this.#sealed.splice(0)) this.#send(writer, batch);
    }
    await this.#last?.done.promise.catch(() => {});
  }

  append(messages: readonly Message[]): Promise<number> {
    const batch = this.#batch();
    batch.out.u8(Op.append);
    write_messages(batch, messages);
    return new Promise((resolve, reject) => {
      batch.calls.push({ messages, once: false, resolve, reject });
    });
  }

  append_once(scope: string, key: string, messages: readonly Message[]): Promise<Appended> {
    const batch = this.#batch();
    batch.out.u8(Op.append_once);
    batch.out.text(scope);
    batch.out.text(key);
    write_messages(batch, messages);
    return new Promise((resolve, reject) => {
      const answer = (offset: number, duplicate: boolean) => resolve({ offset, duplicate });
      batch.calls.push({ messages, once: true, resolve: answer, reject });
    });
  }

  /** One operation on a session; `id` only where it overrules a cursor that was put before. */
  write(write: (out: ByteWriter) => void, id?: string): Promise<void> {
    const batch = this.#batch();
    if (id !== undefined) this.#cursors.overrule(id);
    write(batch.out);
    return batch.done.promise;
  }

  put_cursor(id: string, cursor: number): Promise<void> {
    this.#assert_open();
    this.#schedule();
    return this.#cursors.put(id, cursor);
  }

  /** The batch of this turn. */
  #batch(): Batch {
    this.#assert_open();
    this.#schedule();
    return this.#pending ?? this.#new_batch();
  }

  #new_batch(): Batch {
    const buffer = this.#spare.pop() ?? new Uint8Array(batch_buffer_bytes);
    return this.#pending = this.#last = new Batch(new ByteWriter(buffer));
  }

  #assert_open(): void {
    if (this.#writer === undefined) throw unavailable(this.#absent);
    if (this.bytes < this.bytes_max) return;
    throw unavailable(`${this.bytes} bytes wait for the disk; the limit is ${this.bytes_max}`);
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#cursors.end_turn();
      this.#post();
    });
  }

  /** Called between turns only, so that no turn is in two batches. */
  #post(): void {
    const writer = this.#writer;
    if (writer === undefined) return;
    if (this.#pending !== undefined || this.#cursors.size > 0) {
      const pending = this.#pending ?? this.#new_batch();
      const full = pending.messages >= batch_messages || pending.out.size >= batch_bytes;
      const next = writer.waiting === 0 ||
        writer.waiting === 1 && pending.out.size >= pipelined_bytes;
      if (full || next && this.#sealed.length === 0) this.#seal(pending);
    }
    while (this.#sealed.length > 0 && writer.waiting < 2) this.#send(writer, this.#sealed.shift()!);
  }

  #seal_all(): void {
    while (this.#pending !== undefined || this.#cursors.size > 0) {
      this.#seal(this.#pending ?? this.#new_batch());
    }
  }

  #seal(batch: Batch): void {
    const count_max = batch.calls.length > 0 ? cursors_beside_max : cursors_alone_max;
    batch.turns = this.#cursors.take(count_max, batch.out);
    this.#bytes += batch.out.size;
    this.#sealed.push(batch);
    this.#pending = undefined;
  }

  #send(writer: WorkerLink, batch: Batch): void {
    const bytes = batch.out.take();
    writer.ask({ kind: "batch", bytes }, [bytes.buffer]).then(
      (answer) => this.#settle(batch, answer),
      (error) => this.#fail(batch, error),
    );
  }

  #settle(batch: Batch, answer: Answer): void {
    if (answer.kind === "failed") {
      const code = answer.code === "store_full" ? "store_full" : "store_unavailable";
      const detail = `${codes[code].meaning}: ${answer.detail}`;
      return this.#fail(batch, new Refusal(codes[code], detail, retry_after_ms));
    }
    if (answer.kind !== "applied") throw new Error(`write queue: ${answer.kind} is no answer`);
    this.failing = "";
    this.commits++;
    this.#answered(batch);
    let offset = answer.first;
    let place = 0;
    let once = 0;
    for (const call of batch.calls) {
      const duplicate = call.once && answer.once[once + 1] === 1;
      const first = call.once ? answer.once[once]! : offset;
      if (call.once) once += 2;
      const { length } = call.messages;
      if (!duplicate) {
        this.sink(call.messages, first, answer.spent, batch.places, place);
        offset += length;
      }
      place += length * 2;
      call.resolve(first, duplicate);
    }
    if (
      answer.spent.buffer.byteLength <= spare_bytes_max && this.#spare.length < spare_buffers_max
    ) {
      this.#spare.push(new Uint8Array(answer.spent.buffer));
    }
    batch.done.resolve();
    for (const turn of batch.turns) turn.end_one();
  }

  #fail(batch: Batch, error: Refusal): void {
    this.failing = error.code === codes.store_full ? "store_full" : "store_unavailable";
    this.commits_failed++;
    this.#probe_later();
    this.#answered(batch);
    for (const call of batch.calls) call.reject(error);
    batch.done.reject(error);
    for (const turn of batch.turns) turn.end_one(error);
  }

  #probe_later(): void {
    clearTimeout(this.#probe_timer);
    if (this.#writer === undefined) return;
    this.#probe_timer = setTimeout(() => {
      if (this.failing === "" || this.#writer === undefined) return;
      this.#batch().out.u8(Op.probe);
    }, probe_ms);
  }

  /** The writer gets its next batch before we see to the answers of this one. */
  #answered(batch: Batch): void {
    this.#bytes -= batch.out.size;
    this.#post();
  }
}

function unavailable(why: string): Refusal {
  return new Refusal(codes.store_unavailable, why, retry_after_ms);
}

function write_messages(batch: Batch, messages: readonly Message[]): void {
  const { out, places } = batch;
  out.u32(messages.length);
  for (const message of messages) {
    places.push(out.size);
    write_message(out, message);
    places.push(out.size);
  }
  batch.messages += messages.length;
}
