/** The scenarios that several peers run in turn: what load.c is told, and who takes part. */
import { number_of, UsageError, type Values } from "./flags.ts";
import type { TableKind } from "./report.ts";

/** One scenario; --peers may say who takes part, --rounds and --seconds how often and how long. */
export interface Scenario {
  readonly name: string;
  readonly title: string;
  readonly args: readonly string[];
  readonly peers: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  readonly table: TableKind;
  /** What load.c connects to. */
  readonly over: "mqtt" | "http" | "tls" | "handshakes";
  /** A device that is away has subscribed to everything, so there is somebody to keep it for. */
  readonly has_keeper: boolean;
  /** The event loop is watched where there is HTTP to ask. */
  readonly is_probed: boolean;
  /** The peer must have seen no devices before, because its memory is measured: how many come. */
  readonly fleet_devices: number;
  /** Longwire's heap is looked at, which costs it a little. */
  readonly is_inspected: boolean;
  /** Time that devices idle before anything is measured. */
  readonly hold_ms: number;
}

const subscribers = 1000;
const pairs = 500;
const payload_bytes = 100;
/** Messages in flight of the one publisher of a fan-out, and of each of the many of pairs. */
const fanout_window = 64;
const pairs_window = 16;

function stream_scenario(mode: "fanout" | "pairs", qos: 0 | 1, pipelined: boolean): Scenario {
  const window = pipelined ? (mode === "fanout" ? fanout_window : pairs_window) : 1;
  const shape = mode === "fanout" ? `1 -> ${subscribers}` : `${pairs} -> ${pairs}`;
  const pace = pipelined ? `pipelined (${window} in flight each)` : "one at a time";
  const stored = ["longwire", "longwire-memory", "mosquitto", "nats", "raw"];
  return {
    name: `${mode}-qos${qos}-${pipelined ? "pipelined" : "one"}`,
    title: `${mode}: ${shape}, ${payload_bytes} bytes, QoS ${qos}, ${pace}`,
    args: [
      mode,
      `subscribers=${subscribers}`,
      `pairs=${pairs}`,
      `payload_bytes=${payload_bytes}`,
      `qos=${qos}`,
      `window=${window}`,
    ],
    // QoS 0 never touches the store: one Longwire is enough.
    peers: qos === 0 ? stored.filter((name) => name !== "longwire-memory") : stored,
    rounds: 3,
    seconds: 1,
    table: "stream",
    over: "mqtt",
    has_keeper: false,
    is_probed: false,
    is_inspected: false,
    fleet_devices: 0,
    hold_ms: 0,
  };
}

function streams_of(mode: "fanout" | "pairs"): Scenario[] {
  return ([0, 1] as const).flatMap((qos) =>
    [true, false].map((pipelined) => stream_scenario(mode, qos, pipelined))
  );
}

function durable_scenario(publishers: number, window: number, over: "mqtt" | "http"): Scenario {
  const pace = window === 1 ? "one at a time each" : `${window} in flight`;
  const who = publishers === 1 ? "1 publisher" : `${publishers} publishers`;
  return {
    name: `durable-${over}-${publishers}-${window === 1 ? "one" : "pipelined"}`,
    title: `durable: ${who}, ${payload_bytes} bytes, ${over.toUpperCase()}, QoS 1, ${pace}, ` +
      "kept for one device that is away",
    args: [
      "publish",
      `publishers=${publishers}`,
      `payload_bytes=${payload_bytes}`,
      "qos=1",
      `window=${window}`,
      `protocol=${over}`,
    ],
    peers: over === "http"
      ? ["longwire"]
      : ["longwire", "longwire-normal", "mosquitto-persistent", "nats"],
    rounds: 3,
    seconds: 2,
    table: "durable",
    over,
    has_keeper: true,
    is_probed: true,
    is_inspected: false,
    fleet_devices: 0,
    hold_ms: 0,
  };
}

function durable_scenarios(): Scenario[] {
  return [
    durable_scenario(1, 1, "mqtt"),
    durable_scenario(1, 64, "mqtt"),
    durable_scenario(64, 1, "mqtt"),
    durable_scenario(1000, 1, "mqtt"),
    durable_scenario(1, 1, "http"),
    durable_scenario(64, 1, "http"),
    durable_scenario(1000, 1, "http"),
  ];
}

/** Requests of 64 connections that are kept alive, a message or a batch of messages in each. */
function http_scenario(qos: 0 | 1, form: "http" | "http-json" | "http-ndjson"): Scenario {
  const what = form === "http"
    ? "a message a request"
    : `256 messages a request (${form.slice(5)})`;
  // A body that is read and discarded is the same work whatever it holds.
  const bare = form === "http-ndjson" ? [] : ["bare"];
  return {
    ...durable_scenario(64, 1, "http"),
    name: `${form}-qos${qos}`,
    title: `${form}: 64 connections, ${payload_bytes} bytes, QoS ${qos}, ${what}`,
    args: [
      "publish",
      "publishers=64",
      `payload_bytes=${payload_bytes}`,
      `qos=${qos}`,
      `protocol=${form}`,
    ],
    peers: [...bare, "longwire-memory", ...(qos === 0 ? [] : ["longwire"])],
    table: "http",
    has_keeper: false,
    is_probed: false,
  };
}

function http_scenarios(): Scenario[] {
  const forms = ["http", "http-json", "http-ndjson"] as const;
  return forms.flatMap((form) => [http_scenario(0, form), http_scenario(1, form)]);
}

function fleet_scenario(mode: "hold" | "steady", values: Values): Scenario {
  const devices = number_of("devices", values.devices, 1, 4_000_000);
  const hold_ms = mode === "hold" ? number_of("hold", values.hold, 0, 86_400) * 1000 : 0;
  const ping_s = number_of("ping", values.ping, 0, 65_535);
  // hold only shows that any device can be reached.
  const rate_per_s = mode === "hold" ? 1000 : number_of("rate", values.rate, 1, 1e7);
  return {
    name: mode,
    title: mode === "hold"
      ? `hold: ${devices} devices for ${hold_ms / 1000} s, a heartbeat each in ${ping_s} s, ` +
        `then ${rate_per_s} deliveries/s`
      : `steady: ${devices} devices, ${rate_per_s} deliveries/s, ${payload_bytes} bytes, QoS 0`,
    args: [
      mode,
      `devices=${devices}`,
      `hold_ms=${Math.round(hold_ms)}`,
      `ping_s=${ping_s}`,
      `rate_per_s=${rate_per_s}`,
      `payload_bytes=${payload_bytes}`,
    ],
    peers: ["longwire", "mosquitto", "nats", "raw"],
    rounds: 1,
    seconds: 10,
    table: "fleet",
    over: "mqtt",
    has_keeper: false,
    is_probed: false,
    is_inspected: mode === "hold",
    fleet_devices: devices,
    hold_ms,
  };
}

const tls_peers = ["longwire-tls", "mosquitto-tls"];

function handshake_scenario(how: "-new" | "-reuse"): Scenario {
  return {
    ...stream_scenario("fanout", 0, false),
    name: how === "-new" ? "tls-handshakes" : "tls-resumptions",
    title: `TLS 1.3 handshakes ${how === "-new" ? "in full" : "with a ticket"}, openssl s_time`,
    args: [how],
    peers: ["openssl", ...tls_peers],
    seconds: 2,
    table: "handshakes",
    over: "handshakes",
  };
}

/** The same streams and devices over TLS; connecting is where the handshakes are. */
function tls_scenarios(values: Values): Scenario[] {
  const over_tls = (scenario: Scenario): Scenario => ({
    ...scenario,
    name: `tls-${scenario.name}`,
    title: `TLS, ${scenario.title}`,
    peers: tls_peers,
    over: "tls",
    is_inspected: false,
  });
  const streams = [
    ...streams_of("fanout").filter(({ name }) => name.includes("qos0")),
    stream_scenario("pairs", 0, true),
  ];
  const over_tls_too = [...streams, fleet_scenario("hold", values)].map(over_tls);
  return [handshake_scenario("-new"), handshake_scenario("-reuse"), ...over_tls_too];
}

/** The same load on each backend, and what it costs: CPU and system calls. */
function backend_scenarios(): Scenario[] {
  const streams = [
    stream_scenario("fanout", 0, true),
    stream_scenario("fanout", 0, false),
    stream_scenario("pairs", 0, true),
    stream_scenario("pairs", 0, false),
  ];
  return streams.map((scenario) => ({
    ...scenario,
    name: `backends-${scenario.name}`,
    args: [...scenario.args, "count_syscalls=1"],
    peers: ["longwire-uring", "longwire-epoll", "mosquitto"],
    table: "backends",
  }));
}

/** The same fan-out with and without what looks at it, in turn and often. */
function instrumentation_scenarios(): Scenario[] {
  const streams = [
    stream_scenario("fanout", 0, true),
    stream_scenario("fanout", 0, false),
    stream_scenario("fanout", 1, true),
  ];
  return streams.map((scenario) => ({
    ...scenario,
    name: `instrumentation-${scenario.name}`,
    peers: ["longwire-unmeasured", "longwire-memory", "longwire-traced"],
    rounds: 15,
    table: "overhead",
  }));
}

const groups: Record<string, (values: Values) => Scenario[]> = {
  instrumentation: () => instrumentation_scenarios(),
  fanout: () => streams_of("fanout"),
  pairs: () => streams_of("pairs"),
  durable: () => durable_scenarios(),
  http: () => http_scenarios(),
  backends: () => backend_scenarios(),
  hold: (values) => [fleet_scenario("hold", values)],
  steady: (values) => [fleet_scenario("steady", values)],
  tls: tls_scenarios,
};

/** The name of the scenario that is no comparison of peers: offline.ts runs it. */
export const offline_name = "offline";
/** It needs neither a service nor a network. */
export const heartbeat_name = "heartbeat";
/** Nor does this. */
export const fds_name = "fds";
export const simulate_name = "simulate";
/** It starts services of its own and needs tcpdump. */
export const wire_name = "wire";
export const storm_name = "storm";
/** It starts a cluster of its own. */
export const failover_name = "failover";
/** So does this. */
export const cluster_name = "cluster";
/** Scenarios that are run by files of their own. */
export const alone_names: readonly string[] = [
  offline_name,
  failover_name,
  cluster_name,
  heartbeat_name,
  wire_name,
  storm_name,
  fds_name,
];

/**
 * The scenarios of these names, filtered by --only.
 * @throws UsageError when there is no such scenario
 */
export function choose_scenarios(names: readonly string[], values: Values): Scenario[] {
  const chosen = names.flatMap((name) => {
    const make = Object.hasOwn(groups, name) ? groups[name] : undefined;
    if (make) return make(values);
    const known = [...Object.keys(groups), ...alone_names].join(", ");
    throw new UsageError(`Unknown scenario "${name}": expected ${known}`);
  });
  const only = values.only ?? "";
  const left = chosen.filter((scenario) => scenario.name.includes(only));
  if (left.length === 0) throw new UsageError(`No scenario's name contains "${only}"`);
  return left;
}
