/**
 * The names of what the reactor counts, and of the histograms of core/measures.ts.
 */
import type { Reactor, ReactorStats } from "../ffi/reactor.ts";
import { type Code, code_count, code_of, codes } from "./codes.ts";
import type { Exposition, Labels } from "./exposition.ts";
import { latency_snapshot } from "./histogram.ts";
import type { Measures } from "./measures.ts";

/** Counts by code, as values by label. */
export function by_code(counts: ReadonlyMap<Code, number>): [Labels, number][] {
  return [...counts].map(([code, count]) => [{ code: code.name }, count]);
}

function by_number(counts: readonly number[]): [Labels, number][] {
  const rows: [Labels, number][] = [];
  for (let number = 0; number < code_count; number++) {
    if (counts[number] > 0) rows.push([{ code: code_of(number).name }, counts[number]]);
  }
  return rows;
}

export function show_reactor(
  show: Exposition,
  reactor: Reactor,
  stats: () => ReactorStats,
): void {
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
    [
      "traced_events_dropped",
      "What became of messages, for traces, and found no room",
      "traced_dropped",
    ],
    ["untracked_sources", "Connects of addresses that are not counted", "sources_untracked"],
  ] as const;
  for (const [name, help, field] of counters) {
    show.counter(name, help, () => stats().counters[field]);
  }
  show.gauge("connections", "Open connections", () => stats().counters.connections);
  show.gauge("protocol_connections", "Open connections, by protocol and state", () => {
    return Object.entries(stats().states).flatMap(([protocol, states]) =>
      Object.entries(states).map(([state, count]): [Labels, number] => [{ protocol, state }, count])
    );
  });
  show.counter(
    "heartbeats_missed",
    "Devices that were given up because their heartbeats did not come",
    () => stats().closed[codes.keepalive_timeout.number],
  );
  show.gauge(
    "tls_handshakes_pending",
    "TLS handshakes under way",
    () => stats().counters.tls_handshaking,
  );
  show.gauge(
    "tls_objects",
    "TLS connections whose cipher suite needs OpenSSL's own state, some 14 KB each",
    () => stats().counters.tls_objects,
  );
  show.gauge(
    "out_queue_bytes",
    "Bytes waiting to be sent",
    () => stats().counters.out_queue_bytes,
  );
  show.gauge(
    "command_queue_bytes",
    "Bytes in the fullest command queue",
    () => reactor.pending_bytes,
  );
  show.counter(
    "connections_closed",
    "Connections closed, by reason",
    () => by_number(stats().closed),
  );
  show.counter(
    "messages_dropped",
    "Messages dropped on the way to a device, by reason",
    () => by_number(stats().dropped),
  );
}

export function show_measures(
  show: Exposition,
  measures: Measures,
  stats: () => ReactorStats,
): void {
  const { exemplars } = measures;
  show.histogram(
    "publish_to_socket_seconds",
    "From a publish until it had left for one of its receivers, any of each audience",
    () => latency_snapshot(stats().to_socket, exemplars.to_socket),
  );
  show.histogram(
    "publish_to_acknowledged_seconds",
    "From a publish until a device acknowledged it, one of each audience, by protocol",
    () => [
      [{ protocol: "mqtt" }, latency_snapshot(stats().to_acked, exemplars.to_acked)],
      [{ protocol: "longwire" }, measures.longwire_acked.snapshot],
    ],
  );
  show.histogram(
    "store_append_seconds",
    "From handing messages to the store until they are durable",
    () => latency_snapshot(measures.store, exemplars.store),
  );
  show.histogram(
    "event_loop_delay_seconds",
    "How late a timer of the event loop was, looked at every 100 ms",
    () => measures.loop_delay.snapshot,
  );
  show.histogram(
    "store_batch_messages",
    "Messages that the store was handed with one call",
    () => measures.store_batch.snapshot,
  );
  show.histogram(
    "event_batch_events",
    "Events of the reactor that the event loop took in one go",
    () => measures.event_batch.snapshot,
  );
  show.histogram(
    "ring_fill_bytes",
    "Bytes of events that waited in a ring when the event loop came to it",
    () => measures.ring_bytes.snapshot,
  );
}
