/**
 * Which stored messages the application has been given, so that it gets each once although the
 * service may send it again: after a reconnect (from the last acknowledged offset) or for a second
 * filter that starts earlier. Invariant: what it calls seen was seen; in doubt a message is new.
 *
 * Within one connection offsets rise, except that a filter that starts `after` an old offset makes
 * the service go back. So one number says it all, `top`, the highest offset seen, and for the time
 * of such a *rewind* the filters say which older messages were not for us then.
 */
import type { Qos } from "../message.ts";
import { filter_matches, split_share } from "../topic_tree.ts";

interface Coverage {
  readonly filter: string;
  /** QoS 1 or 2: nothing is left out. */
  readonly is_complete: boolean;
  /** Everything that matched, after this offset and up to the top, was seen; Infinity = unknown. */
  from: number;
  /** Undefined = no rewind. */
  rewind: Rewind | undefined;
}

/**
 * The service goes back for one filter; until it is through, nothing after `after` may be
 * acknowledged.
 */
export interface Rewind {
  readonly after: number;
  /** Seen up to here. */
  progress: number;
  /** After this it was seen too, live before the service went back; Infinity = nothing was. */
  live_from: number;
  /** The service has answered the subscription: the next message above the top ends the rewind. */
  confirmed: boolean;
}

/** What is known of a stored message when it comes in. */
export interface Arrival {
  /** False = it was seen before. */
  readonly is_new: boolean;
  /** Rewinds that have ended with it. */
  readonly ended: readonly Rewind[];
}

/** Offsets remembered of messages that came with QoS 0 before their turn. */
const unordered_max = 4096;

const nothing_ended: readonly Rewind[] = [];

export class Seen {
  readonly #coverages = new Map<string, Coverage>();
  #rewinds = 0;
  /** Offsets above the top that came with QoS 0. */
  readonly #unordered = new Set<number>();
  /** Highest offset seen; 0 = none. */
  top = 0;

  /** Another log: its offsets say nothing about those of the one before. */
  reset(top: number): void {
    this.top = top;
    this.#rewinds = 0;
    this.#unordered.clear();
    for (const coverage of this.#coverages.values()) {
      coverage.from = Infinity;
      coverage.rewind = undefined;
    }
  }

  /**
   * A filter is asked for, from after an offset or (undefined) from now on. Returns its rewind, if
   * any: the service goes back for QoS 1 and 2 only.
   */
  subscribe(filter: string, qos: Qos, after: number | undefined): Rewind | undefined {
    this.unsubscribe(filter);
    const rewind = qos > 0 && after !== undefined && after < this.top
      ? { after, progress: after, live_from: Infinity, confirmed: false }
      : undefined;
    if (rewind !== undefined) this.#rewinds += 1;
    this.#coverages.set(filter, {
      filter: split_share(filter)?.filter ?? filter,
      is_complete: qos > 0,
      from: qos > 0 ? after ?? Infinity : Infinity,
      rewind,
    });
    return rewind;
  }

  /** Whether a filter is asked for already, so that what is known of it stands. */
  knows(filter: string): boolean {
    return this.#coverages.has(filter);
  }

  /** Where the service goes back for a filter, if it does. */
  rewind_of(filter: string): Rewind | undefined {
    return this.#coverages.get(filter)?.rewind;
  }

  /** The service has answered a subscription: its rewind has begun. */
  confirm(filter: string): void {
    const rewind = this.#coverages.get(filter)?.rewind;
    if (rewind !== undefined) rewind.confirmed = true;
  }

  /** Returns the rewind that ends with the filter, if any. */
  unsubscribe(filter: string): Rewind | undefined {
    const rewind = this.#coverages.get(filter)?.rewind;
    if (rewind !== undefined) this.#rewinds -= 1;
    this.#coverages.delete(filter);
    return rewind;
  }

  /** A new connection: every filter is asked for again, and rewinds go on where they are. */
  disconnected(): void {
    for (const { rewind } of this.#coverages.values()) {
      if (rewind !== undefined) rewind.confirmed = false;
    }
  }

  /** A stored message has come in its order. */
  arrive(topic: string, offset: number): Arrival {
    if (offset <= this.top) {
      return { is_new: this.#arrive_late(topic, offset), ended: nothing_ended };
    }
    this.top = offset;
    let ended = nothing_ended;
    for (const coverage of this.#coverages.values()) {
      if (coverage.rewind?.confirmed) {
        ended = [...ended, coverage.rewind];
        coverage.rewind = undefined;
        this.#rewinds -= 1;
      }
      // Nothing that matches from now on can be left out.
      const { filter, is_complete, rewind } = coverage;
      if (!is_complete || !filter_matches(filter, topic)) continue;
      if (rewind !== undefined) rewind.live_from = Math.min(rewind.live_from, offset - 1);
      else coverage.from = Math.min(coverage.from, offset - 1);
    }
    const is_new = !this.#unordered.has(offset);
    for (const earlier of this.#unordered) if (earlier <= offset) this.#unordered.delete(earlier);
    return { is_new, ended };
  }

  /**
   * A stored message has come for a filter of QoS 0: live, even while the service replays older
   * ones to the filters of QoS 1. Answers whether it is new.
   */
  arrive_unordered(topic: string, offset: number): boolean {
    if (offset <= this.top) {
      for (const { filter, from, rewind } of this.#coverages.values()) {
        const is_covered = offset > from && rewind === undefined;
        if (is_covered && filter_matches(filter, topic)) return false;
      }
      return true;
    }
    if (this.#unordered.has(offset)) return false;
    if (this.#unordered.size < unordered_max) this.#unordered.add(offset);
    return true;
  }

  /** Below the top a message is new only to a filter that rewinds, and only if no other had it. */
  #arrive_late(topic: string, offset: number): boolean {
    if (this.#rewinds === 0) return false;
    let wanted = false;
    let covered = false;
    for (const { filter, from, rewind } of this.#coverages.values()) {
      if (!filter_matches(filter, topic)) continue;
      if (rewind === undefined) {
        covered ||= offset > from;
      } else if (offset > rewind.progress && offset <= rewind.live_from) {
        wanted = true;
        rewind.progress = offset;
      } else {
        covered ||= offset > rewind.after;
      }
    }
    return wanted && !covered;
  }
}
