/**
 * When to try again: exponential backoff with jitter, so that a fleet that lost its server does not
 * return in step, and a budget that bounds how often anything is repeated over time.
 */

export interface BackoffOptions {
  /** Before the first repetition. */
  readonly base_ms: number;
  /** Longest delay before jitter. */
  readonly cap_ms: number;
  /** "factor": the delay times 1 to 1.3; "full": anything from 0 to the delay. */
  readonly jitter: "factor" | "full";
}

export const backoff_default: BackoffOptions = Object.freeze({
  base_ms: 500,
  cap_ms: 30_000,
  jitter: "factor",
});

const factor_spread = 0.3;

/**
 * Delay, in milliseconds, before repetition `attempt` (from 0): doubling up to the cap, with
 * jitter.
 */
export function backoff_ms(
  attempt: number,
  options: BackoffOptions,
  random: () => number,
): number {
  const delay_ms = Math.min(options.cap_ms, options.base_ms * 2 ** Math.min(attempt, 30));
  if (options.jitter === "full") return random() * delay_ms;
  return delay_ms * (1 + random() * factor_spread);
}

/** What the server asked for, spread a little upwards: never earlier, not all at once. */
export function retry_after_ms(asked_ms: number, random: () => number): number {
  return asked_ms * (1 + random() * factor_spread);
}

/** A token bucket for repetitions: a burst of `burst`, then one each `refill_ms`. */
export class RetryBudget {
  #tokens: number;
  #filled_ms: number;

  constructor(readonly burst: number, readonly refill_ms: number, now_ms: number) {
    this.#tokens = burst;
    this.#filled_ms = now_ms;
  }

  /** Takes a token when there is one. */
  take(now_ms: number): boolean {
    this.#fill(now_ms);
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }

  /** Takes a token, in advance if need be; returns the milliseconds until it is there. */
  reserve(now_ms: number): number {
    this.#fill(now_ms);
    this.#tokens -= 1;
    return this.#tokens >= 0 ? 0 : -this.#tokens * this.refill_ms;
  }

  #fill(now_ms: number): void {
    const gained = Math.max(0, now_ms - this.#filled_ms) / this.refill_ms;
    this.#tokens = Math.min(this.burst, this.#tokens + gained);
    this.#filled_ms = now_ms;
  }
}
