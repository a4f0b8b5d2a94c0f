/**
 * Histograms whose recording is two additions: log-linear buckets in typed arrays, as those of the
 * reactor are (ffi/latency.h), and powers of two for counts and bytes.
 */
import type { Latency } from "../ffi/reactor.ts";

/** A trace that shows what a bucket means. */
export interface Exemplar {
  readonly trace_id: string;
  /** In the unit of the metric. */
  readonly value: number;
  /** Unix seconds. */
  readonly time_s: number;
}

/** What is shown of a histogram. */
export interface Snapshot {
  /** Upper bounds, inclusive, in the unit of the metric; past the last is one bucket more. */
  readonly bounds: readonly number[];
  /** By bucket, not summed up. */
  readonly counts: ArrayLike<number>;
  readonly sum: number;
  /** By bucket. */
  readonly exemplars?: readonly (Exemplar | undefined)[] | undefined;
}

/** LW_LATENCY_FIRST_US, LW_LATENCY_LAST_US. */
const first_us = 16;
const last_bits = 25;
/** Two buckets for each power of two. */
const latency_bounds_us: readonly number[] = make_bounds();
const latency_bounds_s = latency_bounds_us.map((us) => us / 1e6);

function make_bounds(): number[] {
  const bounds = [first_us];
  for (let us = first_us; us < 2 ** last_bits; us *= 2) bounds.push(us * 1.5, us * 2);
  return bounds;
}

/** Which bucket counts a duration of whole microseconds. */
export function latency_bucket(us: number): number {
  const below = us - 1;
  if (below < first_us) return 0;
  if (below >= 2 ** last_bits) return latency_bounds_us.length;
  const bits = 31 - Math.clz32(below);
  return 2 * (bits - 4) + 1 + (below >>> (bits - 1) & 1);
}

/** What the reactor has counted, in seconds. */
export function latency_snapshot(
  { counts, sum_us }: Latency,
  exemplars?: readonly (Exemplar | undefined)[],
): Snapshot {
  return { bounds: latency_bounds_s, counts, sum: sum_us / 1e6, exemplars };
}

/** Durations, from 16 us to 34 s. */
export class LatencyHistogram implements Latency {
  readonly counts: number[] = new Array(latency_bounds_us.length + 1).fill(0);
  sum_us = 0;

  record_us(us: number): void {
    const whole = us < 0 ? 0 : Math.floor(us);
    this.counts[latency_bucket(whole)]++;
    this.sum_us += whole;
  }

  get snapshot(): Snapshot {
    return latency_snapshot(this);
  }
}

/** Counts or bytes: bounds are the powers of two from 2^bits_min to 2^bits_max. */
export class SizeHistogram {
  readonly #bounds: readonly number[];
  readonly #counts: Float64Array;
  #sum = 0;

  constructor(readonly bits_min: number, bits_max: number) {
    this.#bounds = Array.from({ length: bits_max - bits_min + 1 }, (_, k) => 2 ** (bits_min + k));
    this.#counts = new Float64Array(this.#bounds.length + 1);
  }

  record(size: number): void {
    const bits = size <= 1 ? 0 : 32 - Math.clz32(size - 1);
    this.#counts[Math.min(Math.max(bits - this.bits_min, 0), this.#bounds.length)]++;
    this.#sum += size;
  }

  get snapshot(): Snapshot {
    return { bounds: this.#bounds, counts: this.#counts, sum: this.#sum };
  }
}
