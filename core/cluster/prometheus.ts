/**
 * Asks Prometheus what the breaker's rules want to know, on a timer of its own and never while
 * somebody publishes. Invariant: an answer that does not come in time changes nothing but a metric.
 */
import type { Log } from "../log.ts";
import { type Breaker, type BreakerRule, combine, judge, type Observation } from "./breaker.ts";

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

/** Prometheus has answered, and said that it cannot. */
class QueryProblem extends Error {
  override readonly name = "QueryProblem";
}

export class PrometheusWatch {
  /** Queries that were not answered. */
  failures = 0;
  /** Times that all rules were asked, and rules of the last time that it did not understand. */
  rounds = 0;
  rules_failing = 0;
  #failing = 0;
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
    this.#failing = 0;
    try {
      const observations = await Promise.all(rules.map(async (rule): Promise<Observation> => {
        return judge(
          rule,
          await this.#query(rule.query).catch((error) => this.#failed(error, rule)),
        );
      }));
      if (this.is_unreachable) this.log.info("Prometheus answers again");
      this.is_unreachable = false;
      this.rounds++;
      this.rules_failing = this.#failing;
      // Where there are no rules any more, nothing keeps it open.
      const observation = rules.length === 0 ? "good" : combine(observations);
      this.breaker.observe(observation, this.now_ms());
    } catch (error) {
      this.failures++;
      if (!this.is_unreachable) {
        this.log.warn("Prometheus does not answer", { error: String(error) });
      }
      this.is_unreachable = true;
    }
  }

  /** A query that Prometheus does not understand says nothing; the others count. */
  #failed(error: unknown, { name }: BreakerRule): number[] {
    if (!(error instanceof QueryProblem)) throw error;
    this.#failing++;
    this.log.warn("a rule of the breaker cannot be asked", { rule: name, error: error.message });
    return [];
  }

  async #query(query: string): Promise<number[]> {
    const url = `http://${this.address}/api/v1/query?query=${encodeURIComponent(query)}`;
    const response = await fetch(url, { signal: AbortSignal.timeout(timeout_ms) });
    const answer: QueryAnswer = await response.json();
    if (answer.status !== "success" || answer.data === undefined) {
      throw new QueryProblem(answer.error ?? `status ${response.status}`);
    }
    if (answer.data.resultType !== "vector") throw new QueryProblem("not an instant vector");
    return answer.data.result.map(({ value }) => Number(value[1]));
  }
}
