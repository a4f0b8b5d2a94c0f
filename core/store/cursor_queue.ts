/**
 * Cursors that moved and are not written yet: of each session the newest, first moved first
 * written. They are taken a part at a time, so that a million of them do not hold up the appends
 * behind them, and so they take memory by the number of sessions and not by how often these move.
 */
import { type ByteWriter, Op } from "./codec.ts";

/** The cursors of one turn: done when the last of them is. */
export class CursorTurn {
  readonly done = Promise.withResolvers<void>();
  #left = 0;
  #error: Error | undefined;

  constructor() {
    // Whoever awaits it hears of a failure; that nobody does is no error.
    this.done.promise.catch(() => {});
  }

  add(): void {
    this.#left++;
  }

  /** One is written, or overruled, or failed. */
  end_one(error?: Error): void {
    this.#error ??= error;
    if (--this.#left > 0) return;
    if (this.#error === undefined) this.done.resolve();
    else this.done.reject(this.#error);
  }
}

interface Entry {
  cursor: number;
  readonly turn: CursorTurn;
}

export class CursorQueue {
  readonly #entries = new Map<string, Entry>();
  #turn: CursorTurn | undefined;

  get size(): number {
    return this.#entries.size;
  }

  put(id: string, cursor: number): Promise<void> {
    let entry = this.#entries.get(id);
    if (entry === undefined) {
      entry = { cursor, turn: this.#turn ??= new CursorTurn() };
      entry.turn.add();
      this.#entries.set(id, entry);
    } else {
      entry.cursor = cursor;
    }
    return entry.turn.done.promise;
  }

  /** A write of the whole session makes what was put before void. */
  overrule(id: string): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    entry.turn.end_one();
  }

  /** What is put from now on is another turn's. */
  end_turn(): void {
    this.#turn = undefined;
  }

  /** Writes the oldest into a batch; answers their turns, one for each, to be ended with it. */
  take(count_max: number, out: ByteWriter): CursorTurn[] {
    const turns: CursorTurn[] = [];
    for (const [id, { cursor, turn }] of this.#entries) {
      if (turns.length === count_max) break;
      this.#entries.delete(id);
      out.u8(Op.put_cursor);
      out.text(id);
      out.f64(cursor);
      turns.push(turn);
    }
    return turns;
  }
}
