/**
 * How long a request may take to bring its body. All have the same time, so they lie in a list in
 * the order in which they began, and only its front is looked at: a body that is there at once, as
 * most are, pays for two links.
 */
import { codes, Refusal } from "../core/codes.ts";

const tick_ms = 1000;

/** A body that is being read, between those that began before it and after it. */
class Reading {
  before: Reading = this;
  after: Reading = this;

  /** @param ends_tick at this tick its time is over */
  constructor(readonly ends_tick: number, readonly reject: (refusal: Refusal) => void) {}

  remove(): void {
    this.before.after = this.after;
    this.after.before = this.before;
    this.before = this.after = this;
  }
}

/** Ends of the list: `after` is the oldest, `before` the newest. */
const ends = new Reading(0, () => {});
let tick = 0;
let timer: ReturnType<typeof setInterval> | undefined;

/**
 * Settles as the body does, or with Refusal(body_timeout), up to a second late.
 * @param timeout_s the same at every call
 */
export function in_time(body: Promise<Uint8Array>, timeout_s: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const reading = new Reading(tick + timeout_s + 1, reject);
    reading.before = ends.before;
    reading.after = ends;
    ends.before.after = ends.before = reading;
    timer ??= setInterval(ring, tick_ms);
    body.then((bytes) => {
      reading.remove();
      resolve(bytes);
    }, (error) => {
      reading.remove();
      reject(error);
    });
  });
}

function ring(): void {
  tick++;
  while (ends.after !== ends && ends.after.ends_tick <= tick) {
    const late = ends.after;
    late.remove();
    late.reject(new Refusal(codes.body_timeout));
  }
  if (ends.after !== ends) return;
  clearInterval(timer);
  timer = undefined;
}
