/** The names of what is counted while there is too much to do, and of the rules in force. */
import { type Loads, step_names } from "./cluster/degradation.ts";
import type { NodeOutage } from "./cluster/outage.ts";
import { document_names, type Rules } from "./cluster/rules.ts";
import type { Exposition } from "./exposition.ts";
import { by_code } from "./metrics_reactor.ts";
import type { Overload } from "./overload.ts";

/** Names, help and where the value is, of what decides the step. */
const measures: readonly [name: string, help: string, field: keyof Loads, scale: number][] = [
  ["load_log_lag_messages", "Messages of the log to come to", "log_lag_messages", 1],
  ["load_timer_delay_seconds", "How late timers were lately", "event_loop_delay_ms", 1000],
  ["load_queue_bytes", "Bytes in the fuller queue, to store or threads", "queue_bytes", 1],
];

export function show_overload(show: Exposition, overload: Overload): void {
  const { degradation, publishes, connects, shed } = overload;
  show.gauge(
    "degradation_step",
    "0 normal, 1 throttling, 2 shedding, 3 the log cannot be reached",
    () => degradation.step,
  );
  show.gauge("load_percent", "100 = throttling is about to begin", () => degradation.load_percent);
  for (const [name, help, field, scale] of measures) {
    show.gauge(name, help, () => overload.measures[field] / scale);
  }
  show.counter("degradations", "Times that a step was entered", () => {
    return step_names.map((step, index) => [{ step }, degradation.entered[index]!]);
  });
  show.gauge("admission_probability", "How probable it is that a request is turned away", () => {
    return [[{ request: "publish" }, publishes.probability], [
      { request: "connect" },
      connects.probability,
    ]];
  });
  show.counter("admission_rejected", "Requests turned away while there was too much to do", () => {
    return [[{ request: "publish" }, publishes.rejected], [
      { request: "connect" },
      connects.rejected,
    ]];
  });
  show.counter("messages_shed", "Messages of QoS 0 shed, by reason", () => by_code(shed));
  show.counter(
    "publishers_slowed",
    "Times that a device that publishes was not read from for a moment",
    () => overload.slowed,
  );
}

/** What was passed from node to node while the log was away. */
export function show_outage(show: Exposition, outage: NodeOutage): void {
  show.counter(
    "messages_passed_on",
    "Messages that could not be stored, by node and result",
    () => {
      return [[{ result: "passed" }, outage.passed], [{ result: "missed" }, outage.missed]];
    },
  );
}

export function show_rules(show: Exposition, rules: Rules): void {
  show.gauge("rules_revision", "Revision in force, by document; 0 = the defaults", () => {
    return document_names.map((document) => [{ document }, rules.get(document).revision]);
  });
  show.gauge("rules_invalid", "1 while the newest document cannot be used", () => {
    return document_names.map((document) => {
      return [{ document }, rules.get(document).problem === "" ? 0 : 1];
    });
  });
  show.counter("rules_refused", "Documents that could not be used", () => rules.refused);
}
