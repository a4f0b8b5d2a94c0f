/**
 * What Prometheus is told of webhooks. Names of hooks are the operator's own: there are no more
 * labels than limits.webhooks_max.
 */
import type { Exposition, Labels } from "../exposition.ts";
import type { EndpointCounts } from "./endpoint.ts";
import type { Webhooks } from "./mod.ts";

type Row = [labels: Labels, value: number];

export function show_webhooks(show: Exposition, webhooks: Webhooks): void {
  const by_hook = (read: (counts: EndpointCounts) => number) => (): Row[] => {
    return [...webhooks.all_counts()].map(([hook, counts]): Row => [{ hook }, read(counts)]);
  };
  show.counter(
    "webhook_attempts",
    "Requests to webhooks, by hook; callbacks are one",
    by_hook((counts) => counts.attempts),
  );
  show.counter(
    "webhook_delivered",
    "Requests that endpoints took, by hook",
    by_hook((counts) => counts.delivered),
  );
  show.counter(
    "webhook_dead_letters",
    "Requests that were given up, by hook",
    by_hook((counts) => counts.given_up),
  );
  show.counter("webhook_failures", "Attempts that failed, by hook and reason", () => {
    return [...webhooks.all_counts()].flatMap(([hook, { failed }]) => {
      return [...failed].map(([code, count]): Row => {
        return [{ hook, code: code.name }, count];
      });
    });
  });
  show.gauge("webhook_behind", "Messages of the log between a hook and its head", () => {
    return [...webhooks.all()].map((runner) => [{ hook: runner.hook.name }, runner.behind]);
  });
  show.gauge("webhook_queued", "Events that were read from the log and wait, by hook", () => {
    return [...webhooks.all()].map((runner) => [{ hook: runner.hook.name }, runner.queued]);
  });
  show.gauge("webhook_circuit_open", "1 while the endpoint of a hook is left alone", () => {
    return [...webhooks.all()].map(({ hook, endpoint }) => {
      return [{ hook: hook.name }, endpoint.state === "closed" ? 0 : 1];
    });
  });
  show.counter("webhook_events", "Events of devices that were stored", () => {
    return webhooks.events.stored;
  });
  show.gauge("webhook_events_waiting", "Events of devices that are not stored yet", () => {
    return webhooks.events.waiting;
  });
  show.counter("webhook_events_dropped", "Events that the store did not take, by reason", () => {
    return [...webhooks.events.dropped].map(([code, count]) => [{ code: code.name }, count]);
  });
}
