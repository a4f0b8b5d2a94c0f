/**
 * What the client knows of the server's clock and of the way there. An exchange that took `t` tells
 * the server's time to half of `t` (Cristian's algorithm); of those at hand the shortest stands.
 */

/** How the clocks differ. */
export interface ClockState {
  /** Server's time minus ours, milliseconds. */
  readonly offset_ms: number;
  /** By how much that may be wrong. */
  readonly uncertainty_ms: number;
}

/** Heartbeats tell whole seconds, rounded down. */
const heartbeat_precision_ms = 1000;
/** RFC 6298 section 2: how much a new measurement of the round trip counts. */
const round_trip_weight = 1 / 8;
/** Heartbeats without an answer that are remembered. */
const unanswered_max = 8;

export class ServerClock {
  #state: ClockState | undefined = undefined;
  #round_trip_ms = 0;
  /** When the heartbeats left that are not answered yet, monotonic. */
  readonly #sent: number[] = [];

  /**
   * @param now_ms monotonic
   * @param wall_ms Unix time
   */
  constructor(readonly now_ms: () => number, readonly wall_ms: () => number) {}

  /** Undefined until the server has been heard. */
  get state(): ClockState | undefined {
    return this.#state;
  }

  /** Smoothed, milliseconds; 0 = not measured yet. */
  get round_trip_ms(): number {
    return this.#round_trip_ms;
  }

  /** The server's time as far as it is known, else ours. Unix milliseconds. */
  get time_ms(): number {
    return Math.round(this.wall_ms() + (this.#state?.offset_ms ?? 0));
  }

  /**
   * Welcome has come for a Hello that left at `sent_ms`: the clocks are compared anew. `server_ms`
   * 0 = the server did not say.
   */
  welcomed(sent_ms: number, server_ms: number): void {
    this.#sent.length = 0;
    const took_ms = this.now_ms() - sent_ms;
    this.#measured(took_ms);
    this.#state = server_ms === 0 ? undefined : this.#sample(took_ms, server_ms, 0);
  }

  heartbeat_sent(): void {
    if (this.#sent.length < unanswered_max) this.#sent.push(this.now_ms());
  }

  /**
   * A heartbeat has come. Answers whether it contradicts what was known: the server's clock, or
   * ours, was set.
   */
  heartbeat_came(server_s: number): boolean {
    const sent_ms = this.#sent.shift();
    if (sent_ms === undefined) return false;
    const took_ms = this.now_ms() - sent_ms;
    this.#measured(took_ms);
    const sample = this.#sample(took_ms, server_s * 1000, heartbeat_precision_ms);
    const known = this.#state;
    const apart_ms = known === undefined ? 0 : Math.abs(sample.offset_ms - known.offset_ms);
    const contradicts = apart_ms > sample.uncertainty_ms + (known?.uncertainty_ms ?? 0);
    const is_better = known === undefined || sample.uncertainty_ms < known.uncertainty_ms;
    if (contradicts || is_better) this.#state = sample;
    return contradicts;
  }

  #sample(took_ms: number, server_ms: number, precision_ms: number): ClockState {
    const then_ms = this.wall_ms() - took_ms / 2;
    return {
      offset_ms: server_ms + precision_ms / 2 - then_ms,
      uncertainty_ms: (took_ms + precision_ms) / 2,
    };
  }

  #measured(took_ms: number): void {
    const before_ms = this.#round_trip_ms;
    this.#round_trip_ms = before_ms === 0
      ? took_ms
      : before_ms + (took_ms - before_ms) * round_trip_weight;
  }
}
