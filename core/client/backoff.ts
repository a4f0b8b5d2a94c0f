/**
 * When to try again: exponential backoff with jitter, so that a fleet that lost its server does not
 * return in step, and a budget that bounds what is repeated.
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

/**
 * Bounds repetitions to a share of the requests: each request earns a part of a repetition, so that
 * a service which refuses everything is asked hardly more often than one which does not. A reserve
 * lets a client that asks little repeat what it asks.
 */
export class RetryBudget {
  #repetitions: number;

  /**
   * @param ratio repetitions that one request earns
   * @param reserve repetitions at the beginning, and at most
   */
  constructor(readonly ratio: number, readonly reserve: number) {
    this.#repetitions = reserve;
  }

  /** A request is made for the first time. */
  earn(): void {
    this.#repetitions = Math.min(this.reserve, this.#repetitions + this.ratio);
  }

  /** Whether one may be repeated. */
  take(): boolean {
    // Ten tenths are less than one, by the last digit.
    if (this.#repetitions < 1 - 1e-9) return false;
    this.#repetitions -= 1;
    return true;
  }
}
