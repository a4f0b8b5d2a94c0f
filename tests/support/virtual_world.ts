/**
 * Virtual time, hosts and a network that loses, delays and reorders: everything that happens is an
 * event of one queue, so that a seed says all. Hosts can be frozen (their events wait and then come
 * in any order), killed, and cut off from each other.
 */
import type { Clock } from "../../core/cluster/clock.ts";

/** Hops of promises that one event may need before the next. */
const microtasks = 10;

interface Happening {
  readonly at_ms: number;
  readonly order: number;
  readonly host: Host | null;
  readonly run: () => void;
}

/** A process, or a server: what is to happen on it happens while it runs. */
export class Host {
  frozen = false;
  dead = false;
  /** Whom it cannot reach. */
  readonly cut_from = new Set<Host>();
  readonly waiting: Happening[] = [];
  readonly clock: Clock;

  /** @param rate how quickly its clock goes */
  constructor(readonly world: World, readonly name: string, readonly rate = 1) {
    this.clock = {
      now_ms: () => world.now_ms * rate,
      after: (ms, call) => {
        let is_on = true;
        world.after(ms / rate, this, () => {
          if (is_on) call();
        });
        return () => is_on = false;
      },
    };
  }

  freeze(): void {
    this.frozen = true;
  }

  /** What waited happens now, in any order. */
  resume(): void {
    this.frozen = false;
    for (const { run } of this.waiting.splice(0)) {
      this.world.after(this.world.random() * 0.01, this, run);
    }
  }
}

export class World {
  now_ms = 0;
  events = 0;
  /** The network loses nothing, and nothing is late. */
  is_calm = false;
  readonly #heap: Happening[] = [];

  constructor(readonly random: () => number) {}

  /** From `low` to `high`. */
  between(low: number, high: number): number {
    return low + this.random() * (high - low);
  }

  chance(share: number): boolean {
    return this.random() < share;
  }

  /** For what goes wrong while it is not calm. */
  fails(share: number): boolean {
    return !this.is_calm && this.chance(share);
  }

  pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.random() * items.length)]!;
  }

  after(ms: number, host: Host | null, run: () => void): void {
    this.#push({ at_ms: this.now_ms + Math.max(0, ms), order: this.events++, host, run });
  }

  async run_until(end_ms: number): Promise<void> {
    for (;;) {
      const next = this.#heap[0];
      if (next === undefined || next.at_ms > end_ms) break;
      this.#pop();
      this.now_ms = next.at_ms;
      const { host } = next;
      if (host?.dead) continue;
      if (host?.frozen) {
        host.waiting.push(next);
        continue;
      }
      next.run();
      for (let hop = 0; hop < microtasks; hop++) await null;
    }
    this.now_ms = end_ms;
  }

  /** How long a packet takes; most are quick. */
  #delay_ms(): number {
    return this.fails(0.05) ? this.between(20, 400) : this.between(0.1, 8);
  }

  /**
   * A call from one host to another: the request or the answer may get lost, and a request that was
   * given up may still come later.
   */
  call<T>(from: Host, to: Host, timeout_ms: number, run: () => T | Promise<T>): Promise<T> {
    const done = Promise.withResolvers<T>();
    this.after(timeout_ms, from, () => done.reject(new Error("deadline exceeded")));
    const is_cut = from.cut_from.has(to);
    if (is_cut && this.chance(0.7)) return done.promise; // else it comes when it is too late
    const late_ms = is_cut || this.fails(0.02) ? this.between(500, 4000) : 0;
    this.after(this.#delay_ms() + late_ms, to, () => {
      const answer = (async () => await run())();
      answer.then((value) => this.#answer(from, to, () => done.resolve(value)), (error) => {
        this.#answer(from, to, () => done.reject(error));
      });
    });
    return done.promise;
  }

  #answer(from: Host, to: Host, run: () => void): void {
    if (from.cut_from.has(to) || this.fails(0.01)) return;
    this.after(this.#delay_ms(), from, run);
  }

  #push(happening: Happening): void {
    const heap = this.#heap;
    let at = heap.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!is_before(happening, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = happening;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && is_before(heap[child + 1]!, heap[child]!)) child++;
      if (!is_before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function is_before(a: Happening, b: Happening): boolean {
  return a.at_ms < b.at_ms || a.at_ms === b.at_ms && a.order < b.order;
}

/** Cuts two hosts off from each other, or joins them again. */
export function cut(a: Host, b: Host, is_cut: boolean): void {
  if (is_cut) {
    a.cut_from.add(b);
    b.cut_from.add(a);
  } else {
    a.cut_from.delete(b);
    b.cut_from.delete(a);
  }
}
