/**
 * How far the service holds back while it has too much to do: 1 throttles publishers and replays,
 * 2 sheds what may be shed as well; and apart from both, 3: the log cannot be reached. Pure:
 * measures and the clock are handed in. Invariant: a step begins only after its measures have been
 * over their bounds for `rise_ms` without a break, and ends only after all of them have been below
 * `recover` times those for `fall_ms`, one step at a time: what lies between changes nothing.
 */
import type { Fields } from "./fields.ts";

/** 0 normal, 1 throttling, 2 shedding, 3 detached from the log. */
export type Step = 0 | 1 | 2 | 3;

export const step_names = ["normal", "throttling", "shedding", "detached"] as const;

/** What may be too much. */
export interface Loads {
  /** Messages of the log that this node has not come to. */
  readonly log_lag_messages: number;
  /** How late timers are. */
  readonly event_loop_delay_ms: number;
  /** In the fuller one of the queues to the store and to the I/O threads. */
  readonly queue_bytes: number;
  /** Waiting for all devices together. */
  readonly out_queue_bytes: number;
}

export interface Measures extends Loads {
  /** Since when the log has not answered; 0 = it answers. */
  readonly log_silent_ms: number;
}

export const load_names = [
  "log_lag_messages",
  "event_loop_delay_ms",
  "queue_bytes",
  "out_queue_bytes",
] as const satisfies readonly (keyof Loads)[];

export interface AdmissionSettings {
  /** How many times what is accepted is let in. */
  readonly k: number;
  readonly window_ms: number;
}

export interface DegradationSettings {
  /** Where each step begins; a bound of 0 does not count. */
  readonly throttle: Loads;
  readonly shed: Loads;
  /** From 0 to 1. */
  readonly recover: number;
  readonly rise_ms: number;
  readonly fall_ms: number;
  /** The log is given up when it was silent for so long, and back after so long of answers. */
  readonly detach_ms: number;
  readonly attach_ms: number;
  readonly admission: AdmissionSettings;
}

export const degradation_default: DegradationSettings = Object.freeze({
  throttle: Object.freeze({
    log_lag_messages: 20_000,
    event_loop_delay_ms: 500,
    queue_bytes: 16 << 20,
    out_queue_bytes: 2e9,
  }),
  shed: Object.freeze({
    log_lag_messages: 100_000,
    event_loop_delay_ms: 2000,
    queue_bytes: 40 << 20,
    out_queue_bytes: 4e9,
  }),
  recover: 0.5,
  rise_ms: 1000,
  fall_ms: 5000,
  detach_ms: 1500,
  attach_ms: 1000,
  admission: Object.freeze({ k: 2, window_ms: 10_000 }),
});

const bound_max = 1e12;
const time_ms_max = 3_600_000;

/** Throws FieldProblem. */
export function read_degradation(fields: Fields): DegradationSettings {
  const usual = degradation_default;
  const loads = (name: "throttle" | "shed") =>
    fields.object(name, (bounds) => {
      const read = Object.fromEntries(load_names.map((load) => {
        return [load, bounds.number(load, usual[name][load], 0, bound_max)];
      }));
      bounds.end();
      return read as unknown as Loads;
    });
  return {
    throttle: loads("throttle"),
    shed: loads("shed"),
    recover: fields.number("recover", usual.recover, 0, 1),
    rise_ms: fields.number("rise_ms", usual.rise_ms, 0, time_ms_max),
    fall_ms: fields.number("fall_ms", usual.fall_ms, 0, time_ms_max),
    detach_ms: fields.number("detach_ms", usual.detach_ms, 100, time_ms_max),
    attach_ms: fields.number("attach_ms", usual.attach_ms, 0, time_ms_max),
    admission: fields.object("admission", (admission) => {
      const k = admission.number("k", usual.admission.k, 1, 100);
      const window_ms = admission.number("window_ms", usual.admission.window_ms, 100, time_ms_max);
      admission.end();
      return { k, window_ms };
    }),
  };
}

/** Which measures are at their bound, or over it; `part` of 1 = the bound itself. */
function over(loads: Loads, bounds: Loads, part: number): (keyof Loads)[] {
  return load_names.filter((name) => bounds[name] > 0 && loads[name] >= bounds[name] * part);
}

/** Notes since when something is so; undefined = it is not. */
function since(before: number | undefined, is_so: boolean, now_ms: number): number | undefined {
  return is_so ? before ?? now_ms : undefined;
}

export class Degradation {
  /** How often each step was entered. */
  readonly entered: [number, number, number, number] = [0, 0, 0, 0];
  /** The measures that are over the bounds of throttling now. */
  reasons: readonly (keyof Loads)[] = [];
  /** 100 = throttling is about to begin. */
  load_percent = 0;
  #load: 0 | 1 | 2 = 0;
  #is_detached = false;
  #throttle_since: number | undefined;
  #shed_since: number | undefined;
  #calm_since: number | undefined;
  #answers_since: number | undefined;

  constructor(
    public settings: DegradationSettings,
    readonly on_change: (from: Step, to: Step) => void = () => {},
  ) {}

  /** How much is held back for want of room, whether the log is there or not. */
  get load(): 0 | 1 | 2 {
    return this.#load;
  }

  get step(): Step {
    return this.#is_detached ? 3 : this.#load;
  }

  /** Whether there is too much to do at this moment. */
  get is_over(): boolean {
    return this.reasons.length > 0;
  }

  observe(measures: Measures, now_ms: number): void {
    const { throttle, shed } = this.settings;
    const before = this.step;
    this.reasons = over(measures, throttle, 1);
    this.load_percent = Math.round(Math.max(...load_names.map((name) => {
      return throttle[name] > 0 ? Math.min(1000, 100 * measures[name] / throttle[name]) : 0;
    })));
    const sheds = over(measures, shed, 1).length > 0;
    this.#throttle_since = since(this.#throttle_since, sheds || this.is_over, now_ms);
    this.#shed_since = since(this.#shed_since, sheds, now_ms);
    this.#rise(now_ms);
    this.#fall(measures, now_ms);
    this.#follow_log(measures.log_silent_ms, now_ms);
    const { step } = this;
    if (step === before) return;
    this.entered[step]++;
    this.on_change(before, step);
  }

  #rise(now_ms: number): void {
    const { rise_ms } = this.settings;
    const held = (from: number | undefined) => from !== undefined && now_ms - from >= rise_ms;
    if (this.#load < 2 && held(this.#shed_since)) this.#load = 2;
    else if (this.#load < 1 && held(this.#throttle_since)) this.#load = 1;
  }

  #fall(measures: Measures, now_ms: number): void {
    const { throttle, shed, recover, fall_ms } = this.settings;
    if (this.#load === 0) return;
    const bounds = this.#load === 2 ? shed : throttle;
    const is_calm = over(measures, bounds, recover).length === 0;
    this.#calm_since = since(this.#calm_since, is_calm, now_ms);
    if (this.#calm_since === undefined || now_ms - this.#calm_since < fall_ms) return;
    this.#load--;
    this.#calm_since = undefined;
  }

  #follow_log(silent_ms: number, now_ms: number): void {
    const { detach_ms, attach_ms } = this.settings;
    if (!this.#is_detached) {
      this.#is_detached = silent_ms >= detach_ms;
      this.#answers_since = undefined;
      return;
    }
    this.#answers_since = since(this.#answers_since, silent_ms < detach_ms / 2, now_ms);
    if (this.#answers_since === undefined || now_ms - this.#answers_since < attach_ms) return;
    this.#is_detached = false;
  }
}
