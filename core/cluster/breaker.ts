/**
 * Stops what cannot succeed: while something that the service depends on is down, publishes and
 * devices are refused at once, and some of them are let through when it seems to be back. Pure:
 * observations and the clock are handed in.
 */
import { limits } from "../limits.ts";
import { FieldProblem, Fields } from "./fields.ts";

export type BreakerState = "closed" | "open" | "half_open";

/** What is known of the world: "unknown" changes nothing. */
export type Observation = "good" | "bad" | "unknown";

/** A query whose samples say whether something works. */
export interface BreakerRule {
  readonly name: string;
  /** PromQL, an instant vector. */
  readonly query: string;
  /** A sample below, or above, is bad; null = that bound does not hold. */
  readonly below: number | null;
  readonly above: number | null;
}

export interface BreakerSettings {
  readonly rules: readonly BreakerRule[];
  /** How long it stays open at least. */
  readonly open_ms: number;
  /** How long all must be good while it is half open. */
  readonly half_open_ms: number;
  /** Requests that are let through each second while it is half open. */
  readonly probes_per_s: number;
}

/** Whether those who say who may do what are there, and whether they answer. */
export const breaker_default: BreakerSettings = Object.freeze({
  rules: Object.freeze([
    Object.freeze({ name: "auth_down", query: 'up{job="auth"}', below: 1, above: null }),
    Object.freeze({
      name: "auth_errors",
      query: 'sum(rate(http_requests_total{job="auth",code=~"5.."}[30s])) / ' +
        'sum(rate(http_requests_total{job="auth"}[30s]))',
      below: null,
      above: 0.5,
    }),
  ]),
  open_ms: 5000,
  half_open_ms: 3000,
  probes_per_s: 10,
});

/** What samples mean by a rule; none at all say nothing, and neither does NaN (0 by 0). */
export function judge(rule: BreakerRule, samples: readonly number[]): Observation {
  const known = samples.filter((value) => !Number.isNaN(value));
  if (known.length === 0) return "unknown";
  const is_bad = known.some((value) =>
    rule.below !== null && value < rule.below || rule.above !== null && value > rule.above
  );
  return is_bad ? "bad" : "good";
}

/** One rule that is bad is enough; "unknown" only where no rule knows. */
export function combine(observations: readonly Observation[]): Observation {
  if (observations.includes("bad")) return "bad";
  return observations.includes("good") ? "good" : "unknown";
}

const time_ms_max = 3_600_000;

function read_rule(value: unknown, path: string): BreakerRule {
  const fields = new Fields(value, path);
  const is_text = (text: string) => text !== "" && text.length <= 4096;
  const rule = {
    name: fields.text("name", "", "1 to 4096 characters", is_text),
    query: fields.text("query", "", "1 to 4096 characters of PromQL", is_text),
    below: fields.maybe_number("below"),
    above: fields.maybe_number("above"),
  };
  fields.end();
  if (rule.below !== null || rule.above !== null) return rule;
  throw new FieldProblem(`${path} must have below or above`);
}

/** Throws FieldProblem. */
export function read_breaker(fields: Fields): BreakerSettings {
  const usual = breaker_default;
  return {
    rules: fields.list("rules", limits.rules_max, usual.rules, read_rule),
    open_ms: fields.number("open_ms", usual.open_ms, 0, time_ms_max),
    half_open_ms: fields.number("half_open_ms", usual.half_open_ms, 0, time_ms_max),
    probes_per_s: fields.number("probes_per_s", usual.probes_per_s, 0, 1_000_000),
  };
}

export class Breaker {
  /** Times that it opened. */
  opened = 0;
  #state: BreakerState = "closed";
  #since_ms = 0;
  #probes = 0;
  #probes_at_ms = 0;

  constructor(
    public settings: BreakerSettings,
    readonly on_change: (from: BreakerState, to: BreakerState) => void = () => {},
  ) {}

  get state(): BreakerState {
    return this.#state;
  }

  observe(observation: Observation, now_ms: number): void {
    if (observation === "unknown") return;
    const for_ms = now_ms - this.#since_ms;
    if (observation === "bad") {
      if (this.#state !== "open") this.#become("open", now_ms);
    } else if (this.#state === "open" && for_ms >= this.settings.open_ms) {
      this.#become("half_open", now_ms);
    } else if (this.#state === "half_open" && for_ms >= this.settings.half_open_ms) {
      this.#become("closed", now_ms);
    }
  }

  /** Whether one more request is let through. */
  admits(now_ms: number): boolean {
    if (this.#state === "closed") return true;
    if (this.#state === "open") return false;
    const { probes_per_s } = this.settings;
    const gained = (now_ms - this.#probes_at_ms) * probes_per_s / 1000;
    this.#probes = Math.min(Math.max(1, probes_per_s), this.#probes + gained);
    this.#probes_at_ms = now_ms;
    if (this.#probes < 1) return false;
    this.#probes--;
    return true;
  }

  /** After how long it is worth trying again. */
  retry_after_ms(now_ms: number): number {
    if (this.#state === "closed") return 0;
    const whole_ms = this.#state === "open" ? this.settings.open_ms : this.settings.half_open_ms;
    return Math.max(1000, this.#since_ms + whole_ms - now_ms);
  }

  #become(state: BreakerState, now_ms: number): void {
    const from = this.#state;
    this.#state = state;
    this.#since_ms = now_ms;
    this.#probes = 0;
    this.#probes_at_ms = now_ms;
    if (state === "open") this.opened++;
    this.on_change(from, state);
  }
}
