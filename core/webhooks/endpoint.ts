/**
 * Sends parcels to one endpoint until they are taken or given up: exponential backoff with full
 * jitter, Retry-After honoured, and a circuit that opens when nothing is taken any more, so that an
 * endpoint which is down is asked once in a while for all that waits, and not for each.
 */
import {
  BrokenCircuitError,
  circuitBreaker,
  type CircuitBreakerPolicy,
  CircuitState,
  ConsecutiveBreaker,
  ExponentialBackoff,
  handleAll,
} from "cockatiel";
import { type Code, codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Parcel } from "./cloud_event.ts";
import type { Endpointing } from "./definition.ts";
import type { Sender } from "./sender.ts";
import { Signer } from "./signature.ts";

/** How a delivery ended. stopped: before it did; nothing is known of it. */
export type Outcome =
  | { readonly kind: "delivered" }
  | { readonly kind: "stopped" }
  | { readonly kind: "given_up"; readonly reason: GivenUp };

/** Why an event was given up. */
export interface GivenUp {
  readonly code: Code;
  readonly detail: string;
  readonly attempts: number;
  /** Unix milliseconds. */
  readonly first_attempt_ms: number;
}

/** What an endpoint was asked and answered, for metrics. */
export interface EndpointCounts {
  attempts: number;
  delivered: number;
  given_up: number;
  /** Attempts that failed, by code. */
  readonly failed: Map<Code, number>;
}

export function new_counts(): EndpointCounts {
  return { attempts: 0, delivered: 0, given_up: 0, failed: new Map() };
}

/** The wait before the second attempt is anything up to this, and doubles from there. */
const backoff_first_ms = 1000;
/** Failures one after another that open the circuit, and how long it is open. */
const circuit_failures = 5;
const circuit_open_ms = { initialDelay: 1000, maxDelay: 60_000 };

/** Full jitter: spreads those that failed together over the whole wait. */
export function backoff_ms(failures: number, random: () => number): number {
  const most_ms = Math.min(limits.webhook_retry_ms_max, backoff_first_ms * 2 ** (failures - 1));
  return random() * most_ms;
}

/** An attempt that failed. */
class Failure extends Refusal {
  constructor(code: Code, detail: string, retry_after_ms: number) {
    super(code, detail, retry_after_ms);
  }
}

export class Endpoint {
  readonly #signer: Signer;
  readonly #circuit: CircuitBreakerPolicy;
  /** Wakes whoever waits, when the endpoint is well again or nobody wants to wait any more. */
  readonly #wakers = new Set<() => void>();
  #stopped = false;
  /** Unix milliseconds until which the endpoint wants to be left alone. */
  #closed_until_ms = 0;
  /** The last failure, for people; "" = the last attempt succeeded. */
  problem = "";
  /** It answered 410: it is asked no more. */
  is_gone = false;

  constructor(
    readonly url: URL,
    readonly headers: Readonly<Record<string, string>>,
    readonly sending: Endpointing,
    readonly sender: Sender,
    readonly counts: EndpointCounts,
    readonly now_ms: () => number,
    readonly random: () => number = Math.random,
  ) {
    this.#signer = new Signer(sending.secrets);
    this.#circuit = circuitBreaker(handleAll, {
      halfOpenAfter: new ExponentialBackoff(circuit_open_ms),
      breaker: new ConsecutiveBreaker(circuit_failures),
    });
    this.#circuit.onReset(() => this.#wake());
  }

  get state(): "closed" | "open" | "half_open" | "gone" {
    if (this.is_gone) return "gone";
    const { state } = this.#circuit;
    return state === CircuitState.Closed
      ? "closed"
      : state === CircuitState.HalfOpen
      ? "half_open"
      : "open";
  }

  /** Every delivery under way ends as `stopped`, but for requests that are being answered. */
  stop(): void {
    this.#stopped = true;
    this.#wake();
  }

  /** Answers when the parcel was taken, or given up; its attempts are counted from here. */
  async deliver(parcel: Parcel): Promise<Outcome> {
    const { attempts_max, retry_for_ms } = this.sending;
    let attempts = 0;
    let refused = 0;
    let first_attempt_ms = 0;
    for (;;) {
      if (this.#stopped || this.is_gone) return { kind: "stopped" };
      const rest_ms = this.#closed_until_ms - this.now_ms();
      if (rest_ms > 0) {
        await this.#sleep(rest_ms);
        continue;
      }
      try {
        await this.#circuit.execute(() => {
          attempts++;
          if (first_attempt_ms === 0) first_attempt_ms = this.now_ms();
          return this.#attempt(parcel);
        });
        this.counts.delivered++;
        this.problem = "";
        return { kind: "delivered" };
      } catch (error) {
        if (error instanceof BrokenCircuitError) {
          await this.#sleep(backoff_ms(++refused, this.random), true);
          continue;
        }
        if (!(error instanceof Failure)) throw error;
        const { code, message: detail, retry_after_ms } = error;
        this.problem = detail;
        if (this.#stopped || this.is_gone) return { kind: "stopped" };
        const is_late = this.now_ms() - first_attempt_ms >= retry_for_ms;
        if (attempts >= attempts_max || is_late) {
          this.counts.given_up++;
          return { kind: "given_up", reason: { code, detail, attempts, first_attempt_ms } };
        }
        await this.#sleep(Math.max(retry_after_ms, backoff_ms(attempts, this.random)));
      }
    }
  }

  /** Throws Failure. */
  async #attempt(parcel: Parcel): Promise<void> {
    this.counts.attempts++;
    const now_ms = this.now_ms();
    const signed = await this.#signer.headers(parcel.id, now_ms, parcel.body);
    const headers = { ...this.headers, ...parcel.headers, ...signed };
    const { timeout_ms } = this.sending;
    try {
      const letter = { url: this.url, headers, body: parcel.body, timeout_ms };
      const { status, retry_after_ms } = await this.sender.send(letter);
      if (status >= 200 && status < 300) return;
      if (status === 410) this.is_gone = true;
      if (retry_after_ms > 0) {
        this.#closed_until_ms = Math.max(this.#closed_until_ms, now_ms + retry_after_ms);
      }
      const code = status === 410 ? codes.webhook_gone : codes.webhook_refused;
      throw new Failure(code, `The endpoint answered ${status}`, retry_after_ms);
    } catch (error) {
      const failure = error instanceof Failure
        ? error
        : error instanceof Refusal
        ? new Failure(error.code, error.message, 0)
        : undefined;
      if (failure === undefined) throw error;
      const { failed } = this.counts;
      failed.set(failure.code, (failed.get(failure.code) ?? 0) + 1);
      throw failure;
    }
  }

  /** @param is_woken by the circuit that closes, too */
  #sleep(ms: number, is_woken = false): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#wakers.delete(wake);
        resolve();
      };
      const wake = () => {
        if (is_woken || this.#stopped || this.is_gone) done();
      };
      const timer = setTimeout(done, ms);
      this.#wakers.add(wake);
    });
  }

  #wake(): void {
    for (const wake of [...this.#wakers]) wake();
  }
}
