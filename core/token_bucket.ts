/** A rate with a burst of one second: how the publishes and bytes of one tenant are bounded. */

export class TokenBucket {
  #level: number;
  #updated_ms: number;

  /** @param per_s above 0 */
  constructor(readonly per_s: number, now_ms: number) {
    this.#level = per_s;
    this.#updated_ms = now_ms;
  }

  /**
   * Takes `count`, if something is there: a message larger than the burst passes when the bucket is
   * full, and is paid back by those after it. Answers 0, or after how many milliseconds it may be
   * tried again.
   */
  take(count: number, now_ms: number): number {
    const wait_ms = this.wait_ms(count, now_ms);
    if (wait_ms === 0) this.#level -= count;
    return wait_ms;
  }

  /** What take() would answer. */
  wait_ms(count: number, now_ms: number): number {
    const elapsed_ms = Math.max(0, now_ms - this.#updated_ms);
    this.#level = Math.min(this.per_s, this.#level + elapsed_ms * this.per_s / 1000);
    this.#updated_ms = now_ms;
    const wanted = Math.min(count, this.per_s);
    if (this.#level >= wanted) return 0;
    return Math.max(1, Math.ceil((wanted - this.#level) * 1000 / this.per_s));
  }
}
