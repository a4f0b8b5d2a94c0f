/**
 * While the server says that its breaker is open, nothing is repeated: requests wait, one of them
 * asks again when the server said so, and when it is taken the others follow.
 */

export class Breaker {
  #waiting: (() => void)[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;
  #is_open = false;

  /** `changed`: with the milliseconds until one asks again; 0 = closed. */
  constructor(readonly changed: (retry_ms: number) => void) {}

  get is_open(): boolean {
    return this.#is_open;
  }

  /** The server has refused a request so; `repeat` sends it again. */
  opened(retry_ms: number, repeat: () => void): void {
    this.#waiting.push(repeat);
    if (this.#timer !== undefined) return;
    this.#is_open = true;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#waiting.shift()?.();
    }, retry_ms);
    this.changed(retry_ms);
  }

  /** The server has taken a request: returns what may be repeated now. */
  closed(): readonly (() => void)[] {
    if (!this.#is_open) return [];
    const waiting = this.#waiting;
    this.disconnected();
    this.changed(0);
    return waiting;
  }

  /** Requests that wait are sent again by the next connection anyway. */
  disconnected(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#waiting = [];
    this.#is_open = false;
  }
}
