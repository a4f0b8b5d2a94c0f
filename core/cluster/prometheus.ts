/**
 * Asks Prometheus what the breaker's rules want to know, on a timer of its own and never while
 * somebody publishes. Invariant: an answer that does not come in time changes nothing but a metric.
 */
import type { Log } from "../log.ts";
import { type Breaker, combine, judge, type Observation } from "./breaker.ts";

const interval_ms = 500;
const timeout_ms = 800;

/** Of Prometheus's HTTP API: GET /api/v1/query. */
interface QueryAnswer {
  readonly status: string;
  readonly error?: string;
  readonly data?: {
    readonly resultType: string;
    readonly result: readonly { readonly value: readonly [number, string] }[];
  };
}

export class PrometheusWatch {
  /** Queries that were not answered. */
  failures = 0;
  /** The last queries were not answered: the breaker stays as it is. */
  is_unreachable = false;
  #closed = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param address host:port */
  constructor(
    readonly address: string,
    readonly breaker: Breaker,
    readonly log: Log,
    readonly now_ms: () => number,
  ) {
    this.#schedule(0);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #schedule(after_ms: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#poll().finally(() => this.#schedule(interval_ms));
    }, after_ms);
  }

  async #poll(): Promise<void> {
    const { rules } = this.breaker.settings;
    try {
      const observations = await Promise.all(rules.map(async (rule): Promise<Observation> => {
        return judge(rule, await this.#query(rule.query));
      }));
      if (this.is_unreachable) this.log.info("Prometheus answers again");
      this.is_unreachable = false;
      this.breaker.observe(combine(observations), this.now_ms());
    } catch (error) {
      this.failures++;
      if (!this.is_unreachable) {
        this.log.warn("Prometheus does not answer", { error: String(error) });
      }
      this.is_unreachable = true;
    }
  }

  async #query(query: string): Promise<number[]> {
    const url = `http://${this.address}/api/v1/query?query=${encodeURIComponent(query)}`;
    const response = await fetch(url, { signal: AbortSignal.timeout(timeout_ms) });
    const answer: QueryAnswer = await response.json();
    if (answer.status !== "success" || answer.data === undefined) {
      throw new Error(answer.error ?? `status ${response.status}`);
    }
    if (answer.data.resultType !== "vector") throw new Error(`not an instant vector: ${query}`);
    return answer.data.result.map(({ value }) => Number(value[1]));
  }
}
