/**
 * What is out of date in the store and is written in the background: a few milliseconds at a time,
 * each slice after the one before it was answered, so that a million of them neither stall the
 * event loop nor stand in the way of publishes. What a failing disk refused is out of date again.
 */
import type { Soon } from "./store/mod.ts";

/** Time that one slice takes before everything else has a turn. */
const slice_ms = 4;
/** How many are written between two looks at the clock. */
const look_count = 32;

function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/**
 * Takes out and writes what is in the set now, oldest first. Throws what a write failed with; what
 * was not written by then is in the set.
 */
export async function write_dirty<T>(
  dirty: Set<T>,
  write: (item: T) => Soon<void>,
): Promise<void> {
  const items = dirty.values(); // also comes to what is added meanwhile, hence the count
  let left = dirty.size;
  while (left > 0) {
    const slice: T[] = [];
    try {
      left -= await write_slice(dirty, items, left, slice, write);
    } catch (error) {
      for (const item of slice) dirty.add(item);
      throw error;
    }
    if (left > 0) await turn();
  }
}

/** Answers how many were taken, when they are written. */
async function write_slice<T>(
  dirty: Set<T>,
  items: SetIterator<T>,
  count_max: number,
  slice: T[],
  write: (item: T) => Soon<void>,
): Promise<number> {
  const until_ms = performance.now() + slice_ms;
  const writes = new Set<Promise<void>>(); // the writes of a turn share one, as a rule
  while (slice.length < count_max) {
    if (slice.length % look_count === look_count - 1 && performance.now() >= until_ms) break;
    const { value, done } = items.next();
    if (done) {
      await Promise.all(writes);
      return count_max;
    }
    dirty.delete(value);
    slice.push(value);
    const written = write(value);
    if (written instanceof Promise) writes.add(written);
  }
  await Promise.all(writes);
  return slice.length;
}

/** Goes through items that may be many: as write_dirty, and nothing is awaited. */
export async function in_slices<T>(items: Iterable<T>, act: (item: T) => void): Promise<void> {
  let until_ms = performance.now() + slice_ms;
  let count = 0;
  for (const item of items) {
    act(item);
    if (++count % look_count !== 0 || performance.now() < until_ms) continue;
    await turn();
    until_ms = performance.now() + slice_ms;
  }
}
