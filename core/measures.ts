/**
 * What is measured while the service works, in memory of a fixed size: how long publishes, commits
 * and the event loop take, how large batches are. Nothing is kept of a message but four bytes of
 * when it was published, for those that were stored last.
 */
import { type Exemplar, latency_bucket, LatencyHistogram, SizeHistogram } from "./histogram.ts";

/** Stored messages whose acknowledgement by a Longwire device is still measured; power of two. */
const stamps_count = 1 << 16;
/** How often the event loop is looked at. */
const loop_interval_ms = 100;
/** Times that a machine was asleep are no delays of the loop. */
const loop_delay_ms_max = 60_000;

/** Histograms that show exemplars. */
export type Traceable = "to_socket" | "to_acked" | "store";

export class Measures {
  /** From handing messages to the store until it answers, once for each call. */
  readonly store = new LatencyHistogram();
  /** From publish() until a Longwire device acknowledged, once for each Ack. */
  readonly longwire_acked = new LatencyHistogram();
  readonly loop_delay = new LatencyHistogram();
  /** Messages that the store took with one call. */
  readonly store_batch = new SizeHistogram(0, 14);
  /** Events of the reactor that were handed over in one go, and their bytes in the ring. */
  readonly event_batch = new SizeHistogram(0, 16);
  readonly ring_bytes = new SizeHistogram(6, 22);
  readonly exemplars: Readonly<Record<Traceable, (Exemplar | undefined)[]>> = {
    to_socket: [],
    to_acked: [],
    store: [],
  };
  /** By offset: when the message was published, Reactor.now_us(); 0 = it is not known. */
  readonly #stamps = new Uint32Array(stamps_count);
  #loop_timer: ReturnType<typeof setTimeout> | undefined;

  /** A stored message goes out. */
  dispatched(offset: number, published_us: number): void {
    this.#stamps[offset & stamps_count - 1] = published_us;
  }

  /**
   * A Longwire device has everything up to an offset that it was sent live; `newest` is the last
   * that went out.
   */
  acknowledged(offset: number, newest: number, now_us: number): void {
    if (offset <= newest - stamps_count) return;
    const published_us = this.#stamps[offset & stamps_count - 1];
    if (published_us !== 0) this.longwire_acked.record_us(elapsed_us(published_us, now_us));
  }

  /** A trace that took this long. */
  exemplify(what: Traceable, us: number, trace_id: string, now_ms: number): void {
    const exemplar = { trace_id, value: us / 1e6, time_s: now_ms / 1000 };
    this.exemplars[what][latency_bucket(us)] = exemplar;
  }

  /** Looks how late a timer is, all the time, until stop(). */
  watch_loop(): void {
    let due_ms = performance.now() + loop_interval_ms;
    this.#loop_timer = setInterval(() => {
      const now_ms = performance.now();
      const late_ms = now_ms - due_ms;
      if (late_ms < loop_delay_ms_max) this.loop_delay.record_us(late_ms * 1000);
      due_ms = now_ms + loop_interval_ms;
    }, loop_interval_ms);
  }

  stop(): void {
    clearInterval(this.#loop_timer);
  }
}

/**
 * Microseconds between two readings of Reactor.now_us(), less than 71 minutes apart; up to a second
 * in the future is now.
 */
export function elapsed_us(then_us: number, now_us: number): number {
  const us = now_us - then_us >>> 0;
  return us > 0xffff_ffff - 1_000_000 ? 0 : us;
}
