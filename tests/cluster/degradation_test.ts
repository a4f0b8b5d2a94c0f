/** The steps of degradation and adaptive admission, with clocks and chance that the test holds. */
import { assert, assertEquals } from "@std/assert";
import { Admission } from "../../core/cluster/admission.ts";
import {
  Degradation,
  degradation_default,
  type DegradationSettings,
  load_names,
  type Measures,
  type Step,
} from "../../core/cluster/degradation.ts";
import { random_of, seed_for } from "../cases/random.ts";

const settings: DegradationSettings = {
  ...degradation_default,
  throttle: { log_lag_messages: 10, event_loop_delay_ms: 10, queue_bytes: 10, out_queue_bytes: 0 },
  shed: { log_lag_messages: 20, event_loop_delay_ms: 30, queue_bytes: 40, out_queue_bytes: 0 },
  rise_ms: 100,
  fall_ms: 300,
  detach_ms: 200,
  attach_ms: 100,
};

const calm: Measures = {
  log_lag_messages: 0,
  event_loop_delay_ms: 0,
  queue_bytes: 0,
  out_queue_bytes: 1e15, // a bound of 0 does not count
  log_silent_ms: 0,
};

Deno.test("degradation: up when it lasts, down one step at a time", () => {
  const changes: [Step, Step][] = [];
  const one = new Degradation(settings, (from, to) => changes.push([from, to]));
  const at = (now_ms: number, measures: Partial<Measures>) => {
    one.observe({ ...calm, ...measures }, now_ms);
    return one.step;
  };
  assertEquals(at(0, { queue_bytes: 15 }), 0);
  assertEquals([one.is_over, one.reasons, one.load_percent], [true, ["queue_bytes"], 150]);
  assertEquals(at(50, {}), 0); // it did not last
  assertEquals(at(60, { queue_bytes: 15 }), 0);
  assertEquals(at(159, { event_loop_delay_ms: 10 }), 0);
  assertEquals(at(160, { event_loop_delay_ms: 10 }), 1); // another measure, the same trouble
  assertEquals(at(200, { log_lag_messages: 20 }), 1);
  assertEquals(at(300, { log_lag_messages: 20 }), 2);
  assertEquals(at(400, { log_lag_messages: 9 }), 2); // below half of the bound of shedding
  assertEquals(at(700, { log_lag_messages: 9 }), 1);
  assertEquals(at(1500, { log_lag_messages: 9 }), 1); // but not of throttling
  assertEquals(at(1600, {}), 1);
  assertEquals(at(1899, {}), 1);
  assertEquals(at(1900, {}), 0);
  assertEquals(changes, [[0, 1], [1, 2], [2, 1], [1, 0]]);
});

Deno.test("degradation: a log that is silent is apart from what there is to do", () => {
  const one = new Degradation(settings);
  one.observe({ ...calm, log_silent_ms: 199 }, 0);
  assertEquals(one.step, 0);
  one.observe({ ...calm, log_silent_ms: 200, queue_bytes: 11 }, 10);
  assertEquals([one.step, one.load], [3, 0]);
  one.observe({ ...calm, log_silent_ms: 300, queue_bytes: 11 }, 110);
  assertEquals([one.step, one.load], [3, 1]);
  one.observe({ ...calm, queue_bytes: 11 }, 200);
  one.observe({ ...calm, log_silent_ms: 150, queue_bytes: 11 }, 250); // not yet
  one.observe({ ...calm, queue_bytes: 11 }, 300);
  assertEquals(one.step, 3);
  one.observe({ ...calm, queue_bytes: 11 }, 400);
  assertEquals([one.step, one.entered], [1, [0, 1, 0, 1]]);
});

/** A history of measures: times grow, values jump over and between the bounds. */
function history(random: () => number): [number, Measures][] {
  let now_ms = 0;
  return Array.from({ length: 200 }, () => {
    now_ms += Math.floor(random() * 120);
    const value = () => random() < 0.4 ? 0 : Math.floor(random() * 50);
    const measures = {
      ...calm,
      log_lag_messages: value(),
      event_loop_delay_ms: value(),
      queue_bytes: value(),
      log_silent_ms: random() < 0.3 ? Math.floor(random() * 400) : 0,
    };
    return [now_ms, measures] as const as [number, Measures];
  });
}

Deno.test("degradation: what holds for any history", () => {
  const random = random_of(seed_for("degradation"));
  for (let round = 0; round < 300; round++) {
    const one = new Degradation(settings);
    const worse = new Degradation(settings);
    const still = new Degradation(settings);
    let changed_ms = -Infinity;
    let load = 0;
    let end_ms = 0;
    for (const [now_ms, measures] of history(random)) {
      one.observe(measures, now_ms);
      const more = { ...measures };
      for (const name of load_names) more[name] += Math.floor(random() * 5);
      worse.observe(more, now_ms);
      assert(worse.load >= one.load, "more to do holds back at least as much");
      // Falls are at least fall_ms apart, and go one step at a time.
      if (one.load < load) {
        assertEquals(one.load, load - 1);
        assert(now_ms - changed_ms >= settings.fall_ms, "no fall sooner than fall_ms");
      }
      if (one.load !== load) changed_ms = now_ms;
      load = one.load;
      // What stays between recover * bound and bound changes nothing.
      const { queue_bytes } = settings.throttle;
      const between = queue_bytes / 2 + random() * (queue_bytes / 2 - 1);
      still.observe({ ...calm, queue_bytes: between }, now_ms);
      assertEquals(still.step, 0);
      end_ms = now_ms;
    }
    // It goes back by itself.
    for (let n = 1; n <= 10; n++) one.observe(calm, end_ms + n * settings.fall_ms);
    assertEquals(one.step, 0);
  }
});

/** Requests against a service that can do `capacity` a second, for a time; answers what got in. */
function simulate(admission: Admission, offered: number, capacity: number, seconds: number) {
  let admitted = 0;
  let done = 0;
  for (let tick = 0; tick < seconds * 10; tick++) {
    let let_in = 0;
    for (let n = 0; n < offered / 10; n++) if (admission.admits()) let_in++;
    const accepts = Math.min(let_in, capacity / 10);
    admission.note(offered / 10, accepts, tick * 100);
    if (tick < seconds * 5) continue; // until it has settled
    admitted += let_in;
    done += accepts;
  }
  return { admitted: admitted * 2 / seconds, done: done * 2 / seconds };
}

Deno.test("admission: nobody is turned away whom the service can serve", () => {
  const admission = new Admission({ k: 2, window_ms: 10_000 }, random_of(seed_for("admission")));
  simulate(admission, 1000, 1000, 60);
  assertEquals([admission.rejected, admission.probability], [0, 0]);
  simulate(admission, 1000, 501, 60); // k of 2: up to twice what is accepted
  assertEquals(admission.rejected, 0);
});

Deno.test("admission: what gets in is about k times what is accepted", () => {
  for (const [offered, capacity, k] of [[10_000, 1000, 2], [5000, 1000, 2], [10_000, 500, 1.5]]) {
    const admission = new Admission({ k: k!, window_ms: 10_000 }, random_of(seed_for("admission")));
    const { admitted, done } = simulate(admission, offered!, capacity!, 120);
    assert(Math.abs(admitted / (k! * capacity!) - 1) < 0.05, `${admitted} of ${k} * ${capacity}`);
    assert(done > capacity! * 0.99, "it does what it can");
    assert(admission.retry_after_ms > 1000 && admission.retry_after_ms <= 10_000);
  }
});

Deno.test("admission: some get through to a service that does nothing, and it opens again", () => {
  const admission = new Admission({ k: 2, window_ms: 10_000 }, random_of(seed_for("admission")));
  const { admitted } = simulate(admission, 1000, 0, 60);
  assert(admission.probability > 0.99 && admission.probability < 1);
  assert(admitted < 10);
  for (let n = 0; n < 110; n++) admission.note(0, 0, 60_000 + n * 100); // the window is over
  assertEquals(admission.probability, 0);
});
