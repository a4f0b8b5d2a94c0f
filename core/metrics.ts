/**
 * What Prometheus scrapes. Hot paths count in plain numbers of their own; this page gives those
 * numbers names when somebody asks, so that counting costs nothing.
 */
import { Counter, Gauge, Registry } from "prom-client";
import type { DescriptorReport, Descriptors } from "./descriptors.ts";
import type { Reactor } from "../ffi/reactor.ts";
import type { AuthCounts } from "./auth.ts";
import type { Breaker } from "./cluster/breaker.ts";
import type { View } from "./cluster/mod.ts";
import { type Code, code_count, code_of } from "./codes.ts";
import { limits } from "./limits.ts";
import type { Router } from "./router.ts";
import type { Sessions } from "./sessions.ts";
import type { StatusBook } from "./status.ts";
import type { Store } from "./store/mod.ts";
import type { Tenants, Usage } from "./tenant.ts";

/** Reads one value, or values by label. */
type Value = number | [labels: Record<string, string>, value: number][];
type Read = () => Value | Promise<Value>;

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
}

/** What a cluster counts (core/cluster/join.ts). */
export interface ClusterCounts {
  readonly node: {
    readonly view: View;
    counts(): { readonly held: number; readonly registered: number; readonly fenced: number };
  };
  readonly relay: { readonly sent: number; readonly received: number };
}

export class Metrics {
  readonly #registry = new Registry();

  constructor(parts: MetricsParts) {
    this.#reactor(parts.reactor);
    this.#service(parts);
    this.#store(parts.store);
    this.#status(parts.status);
    if (parts.auth !== null) this.#tenants(parts.tenants, parts.auth.counts);
  }

  /** What there is only with some settings. */
  add_breaker(breaker: Breaker, source: { is_unreachable: boolean; failures: number }): void {
    const states = ["closed", "open", "half_open"] as const;
    this.#gauge("breaker_state", "1 for the state that the breaker is in", () => {
      return states.map((state) => [{ state }, breaker.state === state ? 1 : 0]);
    }, ["state"]);
    this.#counter("breaker_opened", "Times that the breaker opened", () => breaker.opened);
    this.#gauge(
      "prometheus_unreachable",
      "1 while Prometheus does not answer: the breaker stays as it is",
      () => source.is_unreachable ? 1 : 0,
    );
    this.#counter("prometheus_failures", "Questions not answered", () => source.failures);
  }

  /** Read from the system at a scrape, when the last scan is old. */
  add_descriptors(descriptors: Descriptors): void {
    const rows = async (
      read: (found: DescriptorReport) => [Record<string, string>, number][],
    ) => {
      const found = await descriptors.recent();
      return found === undefined ? [] : read(found);
    };
    this.#gauge(
      "descriptors",
      "Open descriptors of the process, by kind",
      () => rows(({ kinds }) => Object.entries(kinds).map(([kind, count]) => [{ kind }, count])),
      ["kind"],
    );
    this.#gauge(
      "descriptors_lost",
      "Connections that the reactor does not hold, and what it holds and is not open",
      () => {
        return rows(({ leaked, missing }) => [
          [{ how: "leaked" }, leaked],
          [{ how: "missing" }, missing],
        ]);
      },
      ["how"],
    );
  }

  add_cluster({ node, relay }: ClusterCounts, router: Router): void {
    this.#gauge("cluster_members", "Members in this node's view", () => node.view.members.size);
    this.#gauge("cluster_view", "Number of this node's view", () => node.view.number);
    this.#gauge("sessions_held", "Sessions that this node owns", () => node.counts().held);
    this.#gauge(
      "sessions_registered",
      "Sessions whose owner this node names",
      () => node.counts().registered,
    );
    this.#counter("cluster_fenced", "Times that the node fenced itself", () => {
      return node.counts().fenced;
    });
    this.#counter("messages_relayed", "Messages of QoS 0 to and from other nodes", () => {
      return [[{ way: "out" }, relay.sent], [{ way: "in" }, relay.received]];
    }, ["way"]);
    this.#counter(
      "relayed_messages_dropped",
      "Messages of QoS 0 from other nodes that came too long before what was stored before them",
      () => router.early_dropped,
    );
  }

  get content_type(): string {
    return this.#registry.contentType;
  }

  text(): Promise<string> {
    return this.#registry.metrics();
  }

  #gauge(name: string, help: string, read: Read, labels: string[] = []): void {
    new Gauge({
      name: `longwire_${name}`,
      help,
      labelNames: labels,
      registers: [this.#registry],
      async collect() {
        const value = await read();
        if (typeof value === "number") this.set(value);
        else for (const [label, each] of value) this.set(label, each);
      },
    });
  }

  #counter(name: string, help: string, read: Read, labels: string[] = []): void {
    new Counter({
      name: `longwire_${name}_total`,
      help,
      labelNames: labels,
      registers: [this.#registry],
      async collect() {
        const value = await read();
        this.reset();
        if (typeof value === "number") this.inc(value);
        else for (const [label, each] of value) this.inc(label, each);
      },
    });
  }

  #reactor(reactor: Reactor): void {
    const by_code = (counts: readonly number[]): [Record<string, string>, number][] => {
      const rows: [Record<string, string>, number][] = [];
      for (let number = 0; number < code_count; number++) {
        if (counts[number] > 0) rows.push([{ code: code_of(number).name }, counts[number]]);
      }
      return rows;
    };
    const counters = [
      ["connections_accepted", "Connections accepted", "accepted"],
      ["frames_received", "Frames from devices that reached the service", "frames_in"],
      ["heartbeats_received", "Heartbeats answered by the reactor", "heartbeats_in"],
      ["acknowledgements_received", "MQTT acknowledgements matched by the reactor", "acks_in"],
      ["received_bytes", "Bytes from devices", "bytes_in"],
      ["sent_bytes", "Bytes to devices", "bytes_out"],
      ["send_operations", "Send operations", "sends"],
      ["receive_operations", "Receive operations", "receives"],
      ["deliveries", "Messages put into connections' queues", "deliveries"],
      ["stale_commands", "Commands for connections that were gone", "stale_commands"],
      ["host_wakeups", "Times that the reactor woke the service", "wakeups"],
      ["reactor_turns", "Turns of the I/O threads", "turns"],
      ["ring_full", "Times that reading stopped because the event ring was full", "ring_full"],
      ["tls_handshakes", "TLS handshakes completed", "tls_handshakes"],
      ["tls_kernel", "TLS connections that the kernel encrypts for", "tls_kernel"],
      ["tls_resumptions", "TLS handshakes that a ticket made short", "tls_resumed"],
      ["untracked_sources", "Connects of addresses that are not counted", "sources_untracked"],
    ] as const;
    for (const [name, help, field] of counters) {
      this.#counter(name, help, () => reactor.stats().counters[field]);
    }
    this.#gauge("connections", "Open connections", () => reactor.stats().counters.connections);
    this.#gauge(
      "tls_handshakes_pending",
      "TLS handshakes under way",
      () => reactor.stats().counters.tls_handshaking,
    );
    this.#gauge(
      "tls_objects",
      "TLS connections whose cipher suite needs OpenSSL's own state, some 14 KB each",
      () => reactor.stats().counters.tls_objects,
    );
    this.#gauge(
      "out_queue_bytes",
      "Bytes waiting to be sent",
      () => reactor.stats().counters.out_queue_bytes,
    );
    this.#gauge(
      "command_queue_bytes",
      "Bytes in the fullest command queue",
      () => reactor.pending_bytes,
    );
    this.#counter(
      "connections_closed",
      "Connections closed, by reason",
      () => by_code(reactor.stats().closed),
      ["code"],
    );
    this.#counter(
      "messages_dropped",
      "Messages dropped on the way to a device, by reason",
      () => by_code(reactor.stats().dropped),
      ["code"],
    );
  }

  #service({ router, sessions, version, http_refused, filters_refused }: MetricsParts): void {
    const by_code = (counts: ReadonlyMap<Code, number>): [Record<string, string>, number][] =>
      [...counts].map(([code, count]) => [{ code: code.name }, count]);
    this.#gauge("info", "Version of the service", () => [[{ version }, 1]], ["version"]);
    this.#gauge("sessions", "Sessions, connected or not", () => sessions.count);
    this.#gauge(
      "filters",
      "Filters that connected devices listen to",
      () => router.fanout.filter_count,
    );
    this.#counter(
      "messages_published",
      "Messages published, by QoS",
      () => router.stats.published.map((count, qos) => [{ qos: String(qos) }, count]),
      ["qos"],
    );
    this.#counter(
      "publishes_refused",
      "Publishes refused, by reason",
      () => by_code(router.stats.refused),
      ["code"],
    );
    this.#counter(
      "subscriptions_refused",
      "Subscriptions of devices that were refused, by reason",
      () => by_code(filters_refused),
      ["code"],
    );
    this.#counter(
      "http_refusals",
      "HTTP calls, and items of batches, that were refused, by reason",
      () => by_code(http_refused),
      ["code"],
    );
    this.#counter(
      "messages_unmatched",
      "Messages that nobody listened to",
      () => router.fanout.unmatched,
    );
  }

  #status(status: StatusBook): void {
    this.#gauge("status_nodes", "Nodes whose newest status is known", () => status.node_count);
    this.#counter("status_reports", "Reports of devices that were taken", () => status.taken);
    this.#counter(
      "status_refused",
      "Reports and heartbeats of devices that were not taken, by reason",
      () => [...status.refused].map(([code, count]) => [{ code: code.name }, count]),
      ["code"],
    );
    this.#counter(
      "status_forgotten",
      "Nodes whose status was forgotten to make room",
      () => status.forgotten,
    );
  }

  /** Tenants over the bound share a label that no tenant can have. */
  #tenants(tenants: Tenants, counts: Readonly<AuthCounts>): void {
    const by_tenant = (read: (usage: Readonly<Usage>) => number): Read => () => {
      const values = new Map<string, number>();
      for (const { name, usage } of tenants.all()) {
        const label = values.size < limits.tenant_labels_max ? name : "(others)";
        values.set(label, (values.get(label) ?? 0) + read(usage));
      }
      return [...values].map(([tenant, value]) => [{ tenant }, value]);
    };
    const gauges = [
      ["tenant_connections", "Devices and streams, by tenant", "connections"],
      ["tenant_subscriptions", "Subscriptions of connected devices, by tenant", "subscriptions"],
    ] as const;
    for (const [name, help, field] of gauges) {
      this.#gauge(name, help, by_tenant((usage) => usage[field]), ["tenant"]);
    }
    const counters = [
      ["tenant_messages_published", "Publishes let pass, by tenant", "published"],
      ["tenant_published_bytes", "Payload bytes of those, by tenant", "published_bytes"],
      ["tenant_forbidden", "What tokens did not allow, by tenant", "forbidden"],
      ["tenant_over_quota", "What limits did not allow, by tenant", "over_quota"],
    ] as const;
    for (const [name, help, field] of counters) {
      this.#counter(name, help, by_tenant((usage) => usage[field]), ["tenant"]);
    }
    this.#counter(
      "tokens",
      "Tokens that were shown, by what was found",
      () => Object.entries(counts).map(([result, count]) => [{ result }, count]),
      ["result"],
    );
  }

  #store(store: Store): void {
    this.#gauge("log_head_offset", "Offset of the newest stored message", () => store.head);
    this.#gauge("log_first_offset", "Offset of the oldest stored message", () => store.first);
    this.#gauge(
      "store_queue_bytes",
      "Bytes handed to the store and not yet durable",
      () => store.stats().queue_bytes,
    );
    this.#gauge(
      "store_failing",
      "1 while the store refuses writes",
      () => store.stats().failing === "" ? 0 : 1,
    );
    this.#counter("store_commits", "Transactions of the store, by result", () => {
      const { commits, commits_failed } = store.stats();
      return [[{ result: "done" }, commits], [{ result: "failed" }, commits_failed]];
    }, ["result"]);
    this.#counter("store_messages", "Messages stored", () => store.stats().appended);
    this.#counter("store_messages_removed", "Messages that left the log, by reason", () => {
      const { trimmed, expired } = store.stats();
      return [[{ reason: "retention" }, trimmed], [{ reason: "expiry" }, expired]];
    }, ["reason"]);
    this.#counter("store_reads", "Reads of the log, by where the answer came from", () => {
      const { reads_hit, reads_missed } = store.stats();
      return [[{ from: "memory" }, reads_hit], [{ from: "disk" }, reads_missed]];
    }, ["from"]);
  }
}
