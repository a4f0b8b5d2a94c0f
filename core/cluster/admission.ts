/**
 * Which part of the requests is turned away while there is too much to do: as many as are over `k`
 * times what was accepted lately ("Handling Overload", Site Reliability Engineering, chapter 21, on
 * the side of the service). Pure: counts, the clock and chance are handed in. Invariant: with
 * requests and accepts of one window, a request is turned away with a probability of
 * max(0, (requests - k * accepts) / (requests + 1)), so some always get through to try.
 */
import type { AdmissionSettings } from "./degradation.ts";

/** The window moves in this many parts. */
const slot_count = 20;

export class Admission {
  /** Requests that were turned away. */
  rejected = 0;
  /** Of the next request, as of the last note(). */
  probability = 0;
  #requests = 0;
  #accepts = 0;
  /** Counts of the window by part; slot n holds part n modulo their number. */
  readonly #slots = Array.from(
    { length: slot_count },
    () => ({ part: -1, requests: 0, accepts: 0 }),
  );

  /** @param random from 0 to below 1 */
  constructor(public settings: AdmissionSettings, readonly random: () => number) {}

  /** Adds what has happened since the last time. Those that were turned away are requests too. */
  note(requests: number, accepts: number, now_ms: number): void {
    const { k, window_ms } = this.settings;
    const part = Math.floor(now_ms * slot_count / window_ms);
    for (const slot of this.#slots) {
      if (slot.part > part - slot_count && slot.part <= part) continue;
      this.#requests -= slot.requests;
      this.#accepts -= slot.accepts;
      slot.requests = slot.accepts = 0;
      slot.part = -1;
    }
    const slot = this.#slots[part % slot_count]!;
    slot.part = part;
    slot.requests += requests;
    slot.accepts += accepts;
    this.#requests += requests;
    this.#accepts += accepts;
    const excess = this.#requests - k * this.#accepts;
    this.probability = Math.max(0, excess / (this.#requests + 1));
  }

  /** Whether one more request is let in. */
  admits(): boolean {
    if (this.probability === 0 || this.random() >= this.probability) return true;
    this.rejected++;
    return false;
  }

  /** When it is worth trying again: later, the more are turned away. */
  get retry_after_ms(): number {
    return Math.min(10_000, Math.ceil(1000 / (1 - this.probability)));
  }
}
