/**
 * Looks at how much there is to do, many times a second, and holds back what may be held back (the
 * steps are in core/cluster/degradation.ts). Invariant: while nothing is too much,
 * `router.overload` and `router.outage` are null, and a publish pays one comparison for each.
 */
import type { Reactor } from "../ffi/reactor.ts";
import { Admission } from "./cluster/admission.ts";
import {
  Degradation,
  type DegradationSettings,
  type Measures,
  type Step,
  step_names,
} from "./cluster/degradation.ts";
import { type Code, codes, Refusal } from "./codes.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import type { Message } from "./message.ts";
import type { Outage, Pressure, Router } from "./router.ts";
import type { PublishOrigin, Session } from "./session.ts";
import type { Store } from "./store/mod.ts";

const tick_ms = 100;
/** Late timers are remembered: each tick takes a fifth off. */
const delay_kept = 0.8;
/** Replays rest so long after each slice. */
const replay_rest_ms = 20;
/** A device that publishes too much is not read from for this long at most. */
const pause_ms_max = 500;

/** What waits for a newer one of its key. */
interface Conflated {
  readonly message: Message;
  readonly from: Session | null;
}

export interface OverloadParts {
  readonly router: Router;
  readonly reactor: Reactor;
  readonly store: Store;
  readonly log: Log;
  readonly hub: { readonly connects_tried: number; readonly connects_granted: number };
  readonly settings: DegradationSettings;
  /** From 0 to below 1. */
  readonly random: () => number;
  /** performance.now() */
  readonly clock_ms: () => number;
}

export class Overload implements Pressure {
  readonly degradation: Degradation;
  readonly publishes: Admission;
  readonly connects: Admission;
  /** What was shed, by reason. */
  readonly shed = new Map<Code, number>();
  /** How often a device that publishes was not read from for a while. */
  slowed = 0;
  measures: Measures;
  /** Other nodes, for while the log is away; null = there are none. */
  outage: Outage | null = null;
  /** The log is back. */
  on_attached: () => void = () => {};
  readonly #conflated = new Map<string, Conflated>();
  /** Devices that are not read from, and until when. */
  readonly #paused = new Map<Session, { readonly generation: number; readonly ends_ms: number }>();
  readonly #before = { tried: 0, taken: 0, connects_tried: 0, connects_granted: 0 };
  #due_ms: number;
  #delay_ms = 0;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(readonly parts: OverloadParts) {
    const { settings, random, clock_ms } = parts;
    this.degradation = new Degradation(settings, (from, to) => this.#changed(from, to));
    this.publishes = new Admission(settings.admission, random);
    this.connects = new Admission(settings.admission, random);
    this.#due_ms = clock_ms() + tick_ms;
    this.measures = this.#measure();
    this.#timer = setInterval(() => this.tick(), tick_ms);
  }

  use(settings: DegradationSettings): void {
    this.degradation.settings = settings;
    this.publishes.settings = this.connects.settings = settings.admission;
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#pass_conflated();
    this.#resume_all(Infinity);
  }

  take(
    message: Message,
    origin: PublishOrigin,
    token: number,
    from: Session | null,
  ): Refusal | "kept" | null {
    if (this.degradation.load === 2 && message.qos === 0) {
      return this.#shed_or_keep(message, origin, token, from);
    }
    if (this.publishes.admits()) return null;
    if (from === null) return this.#refusal(this.publishes);
    // A device would only come back with it: it waits in its socket.
    this.#pause(from);
    return null;
  }

  refusal_of_connect(): Refusal | null {
    return this.connects.admits() ? null : this.#refusal(this.connects);
  }

  #refusal({ retry_after_ms }: Admission): Refusal {
    return new Refusal(codes.overloaded, undefined, retry_after_ms);
  }

  /** What is not stored goes, but for the newest of each key (or retained topic) at each tick. */
  #shed_or_keep(
    message: Message,
    origin: PublishOrigin,
    token: number,
    from: Session | null,
  ): Refusal | "kept" {
    const { key, topic, retain, payload } = message;
    const has_room = this.#conflated.size < limits.conflated_messages_max;
    if (key === "" && !retain || !has_room) {
      this.#count(codes.shed);
      return new Refusal(codes.shed, undefined, this.publishes.retry_after_ms);
    }
    const name = `${topic}\0${key}`;
    if (this.#conflated.delete(name)) this.#count(codes.replaced);
    this.#conflated.set(name, { message: { ...message, payload: payload.slice() }, from });
    const passed = { audience: 0, nodes: 0, missed: [], conflated: true };
    if (origin.passed !== undefined) origin.passed(token, passed);
    else origin.published(token, 0, 0, false);
    return "kept";
  }

  #count(code: Code): void {
    this.shed.set(code, (this.shed.get(code) ?? 0) + 1);
  }

  #pass_conflated(): void {
    if (this.#conflated.size === 0) return;
    const all = [...this.#conflated.values()];
    this.#conflated.clear();
    for (const { message, from } of all) this.parts.router.announce(message, from);
  }

  #pause(session: Session): void {
    const { conn, generation } = session;
    if (this.#paused.get(session)?.generation === generation) return;
    const ends_ms = this.parts.clock_ms() + pause_ms_max * this.publishes.probability;
    this.#paused.set(session, { generation, ends_ms });
    this.parts.reactor.pause(conn, generation);
    this.slowed++;
  }

  #resume_all(now_ms: number): void {
    for (const [session, { generation, ends_ms }] of this.#paused) {
      if (ends_ms > now_ms) continue;
      this.#paused.delete(session);
      // A connection that has gone meanwhile does not hear of it.
      if (!session.connected || session.generation !== generation) continue;
      this.parts.reactor.resume(session.conn, generation);
    }
    this.parts.router.schedule_turn();
  }

  /** One look; on a timer. */
  tick(): void {
    const now_ms = this.parts.clock_ms();
    const late_ms = Math.max(0, now_ms - this.#due_ms);
    this.#delay_ms = Math.max(late_ms, this.#delay_ms * delay_kept);
    this.#due_ms = now_ms + tick_ms;
    this.measures = this.#measure();
    this.degradation.observe(this.measures, now_ms);
    this.#hold_back();
    this.#count_accepts(now_ms);
    if (this.#conflated.size > 0) this.#pass_conflated();
    if (this.#paused.size > 0) this.#resume_all(now_ms);
  }

  #measure(): Measures {
    const { reactor, store } = this.parts;
    const { queue_bytes, lag_messages = 0, silent_ms = 0 } = store.stats();
    return {
      log_lag_messages: lag_messages,
      event_loop_delay_ms: this.#delay_ms,
      queue_bytes: Math.max(queue_bytes, reactor.pending_bytes),
      out_queue_bytes: reactor.stats().counters.out_queue_bytes,
      log_silent_ms: silent_ms,
    };
  }

  /** What was done while there was too much to do is not what the service can do. */
  #count_accepts(now_ms: number): void {
    const { router: { stats: { tried, taken } }, hub } = this.parts;
    const { connects_tried, connects_granted } = hub;
    const before = this.#before;
    const part = this.degradation.is_over ? 0 : 1;
    this.publishes.note(tried - before.tried, (taken - before.taken) * part, now_ms);
    this.connects.note(
      connects_tried - before.connects_tried,
      (connects_granted - before.connects_granted) * part,
      now_ms,
    );
    Object.assign(before, { tried, taken, connects_tried, connects_granted });
  }

  /** What the step asks for; while the log is away, there may be too much to do as well. */
  #hold_back(): void {
    const { router } = this.parts;
    const { load, step } = this.degradation;
    router.overload = load > 0 ? this : null;
    router.replay_rest_ms = load > 0 ? replay_rest_ms : 0;
    router.outage = step === 3 ? this.outage : null;
    if (load === 0 && this.#paused.size > 0) this.#resume_all(Infinity);
  }

  #changed(from: Step, to: Step): void {
    const { log, store } = this.parts;
    const steps = { from: step_names[from], to: step_names[to] };
    const why = to === 3 ? "the log does not answer" : this.degradation.reasons.join(",");
    if (to === 0) log.info("degradation", steps);
    else log.warn("degradation", { ...steps, why });
    if (to === 3) store.shared?.give_up();
    if (from === 3) this.on_attached();
  }
}
