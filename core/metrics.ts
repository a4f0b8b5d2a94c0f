/**
 * What Prometheus scrapes. Hot paths count in plain numbers of their own; this page gives those
 * numbers names when somebody asks, so that counting costs nothing.
 */
import type { Reactor, ReactorStats } from "../ffi/reactor.ts";
import type { AuthCounts } from "./auth.ts";
import type { Breaker } from "./cluster/breaker.ts";
import type { View } from "./cluster/mod.ts";
import type { NodeOutage } from "./cluster/outage.ts";
import type { Rules } from "./cluster/rules.ts";
import type { Code } from "./codes.ts";
import type { DescriptorReport, Descriptors } from "./descriptors.ts";
import { Exposition, type Labels, type Text } from "./exposition.ts";
import { limits } from "./limits.ts";
import type { Measures } from "./measures.ts";
import { show_outage, show_overload, show_rules } from "./metrics_overload.ts";
import { by_code, show_measures, show_reactor } from "./metrics_reactor.ts";
import type { Overload } from "./overload.ts";
import type { Router } from "./router.ts";
import type { Sessions } from "./sessions.ts";
import type { StatusBook } from "./status.ts";
import type { Store } from "./store/mod.ts";
import type { Tenants, Usage } from "./tenant.ts";
import { show_webhooks } from "./webhooks/metrics.ts";
import type { Webhooks } from "./webhooks/mod.ts";

export interface MetricsParts {
  readonly reactor: Reactor;
  readonly router: Router;
  readonly sessions: Sessions;
  readonly store: Store;
  readonly status: StatusBook;
  readonly version: string;
  /** What HTTP has refused. */
  readonly http_refused: ReadonlyMap<Code, number>;
  /** Subscriptions that were refused. */
  readonly filters_refused: ReadonlyMap<Code, number>;
  /** What tokens were good for; null = there are no keys, and one tenant. */
  readonly auth: { readonly counts: Readonly<AuthCounts> } | null;
  readonly tenants: Tenants;
  /** null = histograms are off. */
  readonly measures: Measures | null;
  /** Sessions that are brought to the head of the log, and how far the last of them is from it. */
  readonly replays: { readonly count: number; lag(): number };
}

/** Values by tenant; those over the bound share a label that no tenant can have. */
export function by_tenant(
  tenants: Tenants,
  read: (usage: Readonly<Usage>) => number,
): [Labels, number][] {
  const values = new Map<string, number>();
  for (const { name, usage } of tenants.all()) {
    const label = values.size < limits.tenant_labels_max ? name : "(others)";
    values.set(label, (values.get(label) ?? 0) + read(usage));
  }
  return [...values].map(([tenant, value]) => [{ tenant }, value]);
}

/** Streams of HTTP that are open, and messages of QoS 0 that they could not take. */
export interface StreamCounts {
  readonly sse: number;
  readonly websocket: number;
}

/** What asks for the breaker (core/cluster/prometheus.ts). */
export interface PrometheusCounts {
  readonly is_unreachable: boolean;
  readonly failures: number;
  readonly rounds: number;
  readonly rules_failing: number;
}

/** What a cluster counts (core/cluster/join.ts). */
export interface ClusterCounts {
  readonly node: {
    readonly outage: NodeOutage;
    readonly view: View;
    counts(): Readonly<Record<"held" | "registered" | "fenced" | "adopted", number>>;
  };
  readonly relay: { readonly sent: number; readonly received: number };
  readonly balance: { readonly moved: number };
}

export class Metrics {
  readonly #show = new Exposition();
  readonly #reactor: Reactor;
  /** As they were when somebody asked last. */
  #stats: ReactorStats;

  constructor(parts: MetricsParts) {
    const { reactor, measures } = parts;
    this.#reactor = reactor;
    this.#stats = reactor.stats();
    show_reactor(this.#show, reactor, () => this.#stats);
    if (measures !== null) show_measures(this.#show, measures, () => this.#stats);
    this.#service(parts);
    this.#store(parts.store);
    this.#status(parts.status);
    if (parts.auth !== null) this.#tenants(parts.tenants, parts.auth.counts);
  }

  /** What there is only with some settings. */
  add_breaker(breaker: Breaker, source: PrometheusCounts): void {
    const states = ["closed", "open", "half_open"] as const;
    this.#show.gauge("breaker_state", "1 for the state that the breaker is in", () => {
      return states.map((state) => [{ state }, breaker.state === state ? 1 : 0]);
    });
    this.#show.counter("breaker_opened", "Times that the breaker opened", () => breaker.opened);
    this.#show.gauge(
      "prometheus_unreachable",
      "1 while Prometheus does not answer: the breaker stays as it is",
      () => source.is_unreachable ? 1 : 0,
    );
    this.#show.counter("prometheus_failures", "Questions not answered", () => source.failures);
    this.#show.counter("breaker_rounds", "Times that all rules were asked", () => source.rounds);
    this.#show.gauge(
      "breaker_rules_failing",
      "Rules of the breaker that Prometheus does not understand",
      () => source.rules_failing,
    );
  }

  add_streams(counts: () => StreamCounts): void {
    this.#show.gauge("http_streams", "Open streams of HTTP, by protocol", () => {
      const { sse, websocket } = counts();
      return [[{ protocol: "sse" }, sse], [{ protocol: "websocket" }, websocket]];
    });
  }

  /** Read from the system at a scrape, when the last scan is old. */
  add_descriptors(descriptors: Descriptors): void {
    const rows = async (
      read: (found: DescriptorReport) => [Record<string, string>, number][],
    ) => {
      const found = await descriptors.recent();
      return found === undefined ? [] : read(found);
    };
    this.#show.gauge(
      "descriptors",
      "Open descriptors of the process, by kind",
      () => rows(({ kinds }) => Object.entries(kinds).map(([kind, count]) => [{ kind }, count])),
    );
    this.#show.gauge(
      "descriptors_lost",
      "Connections that the reactor does not hold, and what it holds and is not open",
      () => {
        return rows(({ leaked, missing }) => [
          [{ how: "leaked" }, leaked],
          [{ how: "missing" }, missing],
        ]);
      },
    );
  }

  add_webhooks(webhooks: Webhooks): void {
    show_webhooks(this.#show, webhooks);
  }

  add_overload(overload: Overload, rules: Rules): void {
    show_overload(this.#show, overload);
    show_rules(this.#show, rules);
  }

  add_cluster({ node, relay, balance }: ClusterCounts, router: Router): void {
    this.#show.counter("devices_rebalanced", "Devices that were sent to emptier nodes", () => {
      return balance.moved;
    });
    show_outage(this.#show, node.outage);
    this.#show.gauge(
      "cluster_members",
      "Members in this node's view",
      () => node.view.members.size,
    );
    this.#show.gauge("cluster_view", "Number of this node's view", () => node.view.number);
    this.#show.gauge("sessions_held", "Sessions that this node owns", () => node.counts().held);
    this.#show.gauge(
      "sessions_registered",
      "Sessions whose owner this node names",
      () => node.counts().registered,
    );
    this.#show.counter("cluster_fenced", "Times that the node fenced itself", () => {
      return node.counts().fenced;
    });
    this.#show.counter(
      "sessions_adopted",
      "Sessions of dead nodes that this node took over",
      () => {
        return node.counts().adopted;
      },
    );
    this.#show.counter("messages_relayed", "Messages of QoS 0 to and from other nodes", () => {
      return [[{ way: "out" }, relay.sent], [{ way: "in" }, relay.received]];
    });
    this.#show.counter(
      "relayed_messages_dropped",
      "Messages of QoS 0 from other nodes that came too long before what was stored before them",
      () => router.early_dropped,
    );
  }

  /** @param accept header of the call; null = it has none */
  text(accept: string | null): Promise<Text> {
    this.#stats = this.#reactor.stats(); // one look for all that is read of it
    return this.#show.text(accept);
  }

  #service(parts: MetricsParts): void {
    const { router, sessions, version, http_refused, filters_refused, replays } = parts;
    this.#show.gauge("info", "Version of the service", () => [[{ version }, 1]]);
    this.#show.gauge("sessions", "Sessions, connected or not", () => sessions.count);
    this.#show.gauge(
      "filters",
      "Filters that connected devices listen to",
      () => router.fanout.filter_count,
    );
    this.#show.counter(
      "messages_published",
      "Messages published, by QoS",
      () => router.stats.published.map((count, qos) => [{ qos: String(qos) }, count]),
    );
    this.#show.counter(
      "publishes_refused",
      "Publishes refused, by reason",
      () => by_code(router.stats.refused),
    );
    this.#show.counter(
      "subscriptions_refused",
      "Subscriptions of devices that were refused, by reason",
      () => by_code(filters_refused),
    );
    this.#show.counter(
      "http_refusals",
      "HTTP calls, and items of batches, that were refused, by reason",
      () => by_code(http_refused),
    );
    this.#show.counter(
      "messages_unmatched",
      "Messages that nobody listened to",
      () => router.fanout.unmatched,
    );
    this.#show.counter(
      "stream_messages_dropped",
      "Messages of QoS 0 that streams of HTTP were too slow for",
      () => router.stats.streams_dropped,
    );
    this.#show.gauge(
      "replaying_sessions",
      "Connected sessions that are behind the log",
      () => replays.count,
    );
    this.#show.gauge(
      "replay_lag_messages",
      "Messages that the session which has been behind for longest has still to come to",
      () => replays.lag(),
    );
  }

  #status(status: StatusBook): void {
    this.#show.gauge("status_nodes", "Nodes whose newest status is known", () => status.node_count);
    this.#show.counter("status_reports", "Reports of devices that were taken", () => status.taken);
    this.#show.counter(
      "status_refused",
      "Reports and heartbeats of devices that were not taken, by reason",
      () => by_code(status.refused),
    );
    this.#show.counter(
      "status_forgotten",
      "Nodes whose status was forgotten to make room",
      () => status.forgotten,
    );
  }

  #tenants(tenants: Tenants, counts: Readonly<AuthCounts>): void {
    const gauges = [
      ["tenant_connections", "Devices and streams, by tenant", "connections"],
      ["tenant_subscriptions", "Subscriptions of connected devices, by tenant", "subscriptions"],
    ] as const;
    for (const [name, help, field] of gauges) {
      this.#show.gauge(name, help, () => by_tenant(tenants, (usage) => usage[field]));
    }
    const counters = [
      ["tenant_messages_published", "Publishes let pass, by tenant", "published"],
      ["tenant_published_bytes", "Payload bytes of those, by tenant", "published_bytes"],
      ["tenant_forbidden", "What tokens did not allow, by tenant", "forbidden"],
      ["tenant_over_quota", "What limits did not allow, by tenant", "over_quota"],
    ] as const;
    for (const [name, help, field] of counters) {
      this.#show.counter(name, help, () => by_tenant(tenants, (usage) => usage[field]));
    }
    this.#show.counter(
      "tokens",
      "Tokens that were shown, by what was found",
      () => Object.entries(counts).map(([result, count]) => [{ result }, count]),
    );
  }

  #store(store: Store): void {
    this.#show.gauge("log_head_offset", "Offset of the newest stored message", () => store.head);
    this.#show.gauge("log_first_offset", "Offset of the oldest stored message", () => store.first);
    this.#show.gauge(
      "store_queue_bytes",
      "Bytes handed to the store and not yet durable",
      () => store.stats().queue_bytes,
    );
    this.#show.gauge(
      "store_failing",
      "1 while the store refuses writes",
      () => store.stats().failing === "" ? 0 : 1,
    );
    this.#show.counter("store_commits", "Transactions of the store, by result", () => {
      const { commits, commits_failed } = store.stats();
      return [[{ result: "done" }, commits], [{ result: "failed" }, commits_failed]];
    });
    this.#show.counter("store_messages", "Messages stored", () => store.stats().appended);
    this.#show.counter("store_messages_removed", "Messages that left the log, by reason", () => {
      const { trimmed, expired } = store.stats();
      return [[{ reason: "retention" }, trimmed], [{ reason: "expiry" }, expired]];
    });
    this.#show.counter("store_reads", "Reads of the log, by where the answer came from", () => {
      const { reads_hit, reads_missed } = store.stats();
      return [[{ from: "memory" }, reads_hit], [{ from: "disk" }, reads_missed]];
    });
  }
}
