/**
 * Follows the log for a stream of HTTP: what was missed first, then what comes, in order and
 * without a gap between. It never queues more than its sink takes: a slow reader falls behind
 * and reads on from the log, only QoS 0 messages are dropped.
 */
import type { Tap } from "./fanout.ts";
import { limits } from "./limits.ts";
import type { Message } from "./message.ts";
import type { Router } from "./router.ts";
import type { Page } from "./store/mod.ts";

/** Where messages go. */
export interface Sink {
  /** As of a tap; absent = false. */
  readonly is_reader?: boolean;
  /** Whether it takes more now. */
  has_room(): boolean;
  /** Takes one message; the payload's bytes may not be kept. `offset` 0 = not stored. */
  write(message: Message, offset: number): void;
  /** Messages after offset `from` and before `to` have expired. */
  gap(from: number, to: number): void;
  /** The log cannot be read; the follower has stopped. */
  failed(error: unknown): void;
}

export class Follower implements Tap {
  #after: number;
  #live = false;
  /** A page is being read or written. */
  #reading = false;
  #closed = false;

  /** @param after follow from after this offset; undefined = from now on */
  constructor(
    readonly router: Router,
    readonly filters: readonly string[],
    after: number | undefined,
    readonly sink: Sink,
  ) {
    this.#after = after ?? router.dispatched;
    for (const filter of filters) router.fanout.tap(filter, this);
    this.room();
  }

  get is_reader(): boolean {
    return this.sink.is_reader === true;
  }

  /** Everything up to this offset has been written, or does not match. */
  get after(): number {
    return this.#after;
  }

  /** The same, and as far as the log goes when nothing is left to read. */
  get position(): number {
    return this.#live ? Math.max(this.#after, this.router.dispatched) : this.#after;
  }

  /** The sink takes more: reads on, if there is something to read. */
  room(): void {
    if (this.#live || this.#reading || this.#closed) return;
    this.#catch_up();
  }

  hear(message: Message, offset: number): void {
    if (offset === 0) {
      if (this.sink.has_room()) this.sink.write(message, 0);
      else this.router.stats.streams_dropped++;
      return;
    }
    if (!this.#live) return; // it will be read from the log
    if (!this.sink.has_room()) {
      this.#live = false;
      return;
    }
    this.#after = offset;
    this.sink.write(message, offset);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const filter of this.filters) this.router.fanout.untap(filter, this);
  }

  /**
   * Reads pages until the sink is full or everything dispatched has been written: then it is live.
   */
  #catch_up(): void {
    while (!this.#closed && this.sink.has_room()) {
      if (this.#after >= this.router.dispatched) {
        this.#live = true;
        return;
      }
      const { store } = this.router;
      const page = store.read(this.filters, this.#after, limits.replay_batch_messages);
      if (page instanceof Promise) {
        this.#reading = true;
        page.then((read) => {
          this.#write(read);
          this.#catch_up();
        }).catch((error) => this.#fail(error));
        return;
      }
      this.#write(page);
    }
  }

  #write(page: Page): void {
    if (this.#closed) return;
    const { dispatched } = this.router;
    this.#reading = true; // a sink may ask for more in the middle of what it is given
    if (page.gap) this.sink.gap(this.#after, page.messages[0]?.offset ?? page.next + 1);
    for (const message of page.messages) {
      if (message.offset > dispatched) break; // stored, but it is still to be heard
      this.sink.write(message, message.offset);
    }
    this.#after = Math.min(page.next, dispatched);
    this.#reading = false;
  }

  #fail(error: unknown): void {
    this.#reading = false;
    this.close();
    this.sink.failed(error);
  }
}
