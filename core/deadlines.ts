/**
 * What is to happen at a time, for very many things at once: they lie in buckets of one second, so
 * adding, removing and ringing cost the same however many there are, and nobody is asked in vain.
 * The clock is looked at only while something is there.
 */

const tick_ms = 1000;

/** What wants to be told. */
export interface Due {
  /** Its time has come; it has been removed. */
  due(): void;
}

export class Deadlines {
  readonly #buckets = new Map<number, Set<Due>>();
  /** Ticks before this one have rung. */
  #next_tick = 0;
  #timer: ReturnType<typeof setInterval> | undefined;

  /** @param now_ms Unix milliseconds */
  constructor(readonly now_ms: () => number) {}

  /** How many wait. */
  get size(): number {
    let size = 0;
    for (const bucket of this.#buckets.values()) size += bucket.size;
    return size;
  }

  /** Rings within a second after `time_ms`, also when that is long ago. */
  add(time_ms: number, due: Due): void {
    if (this.#timer === undefined) {
      this.#next_tick = Math.floor(this.now_ms() / tick_ms);
      this.#timer = setInterval(() => this.#ring(), tick_ms);
    }
    const tick = Math.max(tick_of(time_ms), this.#next_tick);
    const bucket = this.#buckets.get(tick);
    if (bucket === undefined) this.#buckets.set(tick, new Set([due]));
    else bucket.add(due);
  }

  /** Undoes add(); nothing happens to what has rung. */
  remove(time_ms: number, due: Due): void {
    const tick = tick_of(time_ms);
    const bucket = this.#buckets.get(tick);
    if (bucket?.delete(due) && bucket.size === 0) this.#buckets.delete(tick);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #ring(): void {
    const tick = Math.floor(this.now_ms() / tick_ms);
    if (Math.abs(tick - this.#next_tick) > this.#buckets.size) { // the clock was set
      for (const passed of [...this.#buckets.keys()]) if (passed <= tick) this.#empty(passed);
      this.#next_tick = tick + 1;
    }
    for (; this.#next_tick <= tick; this.#next_tick++) this.#empty(this.#next_tick);
    if (this.#buckets.size === 0) this.stop();
  }

  #empty(tick: number): void {
    const bucket = this.#buckets.get(tick);
    if (bucket === undefined) return;
    this.#buckets.delete(tick);
    for (const each of bucket) each.due();
  }
}

function tick_of(time_ms: number): number {
  return Math.ceil(time_ms / tick_ms);
}
