/**
 * Flags, LONGWIRE_* variables and a JSON file -> one frozen Config, checked once. One table of
 * settings drives parsing, checks, help and the table of the README (config_help.ts). Pure: whoever
 * calls hands in all it reads.
 */
import { log_levels } from "./log.ts";
import type { LogLevel } from "./log.ts";
import { type Address, format_address, is_loopback, type Parsed } from "./address.ts";
import { did_you_mean, nearest } from "./did_you_mean.ts";
import type { Network } from "./network.ts";
import * as forms from "./setting_forms.ts";
import type { RetentionRule } from "./store/mod.ts";

/** What an operator may choose. A field and its setting have the same name. */
export interface Config {
  /** The JSON file that was read; "" = none. */
  readonly config: string;
  /** Publish API and metrics; undefined = closed. */
  readonly http: Address | undefined;
  /** MQTT listener; undefined = closed. */
  readonly mqtt: Address | undefined;
  /** Longwire listener; undefined = closed. */
  readonly device: Address | undefined;
  /** The same two over TLS. */
  readonly mqtts: Address | undefined;
  /** `http` over TLS. */
  readonly https: Address | undefined;
  readonly device_tls: Address | undefined;
  /** Files of certificate chains and of their keys, in the same order. */
  readonly tls_cert: readonly string[];
  readonly tls_key: readonly string[];
  /** File of the certificates that sign devices' certificates; "" = nobody does. */
  readonly tls_client_ca: string;
  readonly tls_client_auth: "none" | "optional" | "required";
  readonly kernel_tls: "off" | "on";
  /** Load balancers whose PROXY headers are believed; empty = the protocol is off. */
  readonly proxy_protocol: readonly Network[];
  /** 0 = no bound; so are the next two. */
  readonly connects_per_s: number;
  readonly connects_per_source_per_s: number;
  readonly connections_per_source: number;
  /** Directory of the store; "memory" = nothing is kept. */
  readonly data: string;
  readonly synchronous: "full" | "normal";
  /** Largest size of the database; 0 = as large as the disk. */
  readonly data_bytes_max: number;
  /** The first rule that matches a topic; a topic that none matches is kept for ever. */
  readonly retention: readonly RetentionRule[];
  readonly backend: "auto" | "epoll" | "uring" | "kqueue";
  readonly io_threads: number | "auto";
  readonly max_connections: number | "auto";
  readonly node_id: string;
  /** File of the keys that tokens are checked with, and URL of more; "" = none. */
  readonly keys: string;
  readonly jwks: string;
  /** Of tokens; "" = any. */
  readonly issuer: string;
  readonly audience: string;
  readonly clock_skew_s: number;
  /** Origins whose pages may call the HTTP API; "*" = every page. */
  readonly cors_origins: readonly string[];
  readonly certificate_devices: "off" | "common_name";
  /** Templates of topic filters (permission.ts). */
  readonly certificate_publish: readonly string[];
  readonly certificate_subscribe: readonly string[];
  /** Limits of each tenant and device; 0 = no bound. */
  readonly tenant_connections: number;
  readonly tenant_subscriptions: number;
  readonly tenant_publishes_per_s: number;
  readonly tenant_bytes_per_s: number;
  /** File of the limits of some tenants; "" = none. */
  readonly tenants: string;
  /** File of webhooks; "" = there are none. */
  readonly webhooks: string;
  /** What events may be sent to beside public addresses, also without TLS. */
  readonly webhook_networks: readonly Network[];
  readonly device_publishes_per_s: number;
  readonly device_bytes_per_s: number;
  /** Servers of etcd and of NATS, host:port; both empty = no cluster. */
  readonly etcd: readonly string[];
  readonly nats: readonly string[];
  /** host:port of Prometheus; "" = there is no breaker. */
  readonly prometheus: string;
  /** File of what holds where etcd has no rules; "" = the defaults. */
  readonly rules: string;
  /** host:port that devices of other nodes are sent to; "" = that of the MQTT listener. */
  readonly advertise: string;
  /** Where other nodes reach this one. */
  readonly peer: Address;
  /** Files of the certificate that nodes show each other; "" = they speak without TLS. */
  readonly peer_cert: string;
  readonly peer_key: string;
  readonly peer_ca: string;
  /** Where this node stands, for people; "" = it is not said. */
  readonly zone: string;
  readonly log_level: LogLevel;
  /** off = nothing is measured that costs something with each message: for comparison. */
  readonly histograms: "on" | "off";
  readonly body_timeout_s: number;
  /** 0 = it is not looked at. */
  readonly trace_slow_ms: number;
  /** 0 = connections are closed at once. */
  readonly rebalance_percent: number;
  readonly rebalance_plain: "off" | "on";
  readonly shutdown_timeout_s: number;
}

/** The name of a setting. */
export type SettingName = keyof Config;

/** Every problem of a configuration, one sentence each: action first, input named, no period. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  constructor(readonly problems: readonly string[]) {
    super(problems.join("\n"));
  }
}

/** The commands of main.ts; the first is what runs when none is named. */
export const commands = [
  { name: "serve", help: "run the service (the default)" },
  { name: "pub", help: "publish one message" },
  { name: "sub", help: "print the messages of a topic filter" },
  { name: "token", help: "make a token with a key: who may publish and subscribe where" },
  { name: "devices", help: "list the devices of a service, or let one go" },
  { name: "fds", help: "show what a service has open, and what of it nobody holds" },
  { name: "doctor", help: "check what this machine can do and what stands in the way" },
  {
    name: "backup",
    help: "copy the database to a new file while the service may run: backup PATH",
  },
  { name: "rules", help: "read, check and set the rules of a cluster" },
  { name: "help", help: "print this text" },
] as const;

/** The name of a command. */
export type CommandName = typeof commands[number]["name"];

/** One row: `fallback` is written as an operator would write it; "" = the form's own zero value. */
interface Setting<T> {
  readonly type: forms.Type<T>;
  readonly fallback: string;
  /** What it decides, and what its values mean. */
  readonly help: string;
  /** Of a number. */
  readonly unit?: string;
  /** Given more than once, as flags or as members of a list, the texts follow each other so. */
  readonly joined_by?: string;
}

/** A connection is named by 7 bits of I/O thread and 24 bits of slot (ffi/reactor.h). */
const io_threads_max = 127;
/** A Map holds no more than 2^24 entries, and every connected session is an entry of one. */
const connections_max = 2 ** 24;

const rate_max = 1_000_000;
const tenant_rate_max = 10 ** 12;

/** The one table. The order is that of the help text and of the README. */
export const settings: { readonly [Name in SettingName]: Setting<Config[Name]> } = {
  config: {
    type: forms.path,
    fallback: "",
    help: "JSON file with any of the settings below",
  },
  http: {
    type: forms.listener,
    fallback: "127.0.0.1:8080",
    help: "publish API and metrics",
  },
  https: {
    type: forms.listener,
    fallback: "off",
    help: "the same over TLS; nobody is asked for a certificate here",
  },
  mqtt: {
    type: forms.listener,
    fallback: "127.0.0.1:1883",
    help: "listener for MQTT 3.1.1 and 5",
  },
  device: {
    type: forms.listener,
    fallback: "127.0.0.1:7000",
    help: "listener for the Longwire device protocol",
  },
  mqtts: {
    type: forms.listener,
    fallback: "off",
    help: "listener for MQTT over TLS",
  },
  device_tls: {
    type: forms.listener,
    fallback: "off",
    help: "listener for the Longwire device protocol over TLS",
  },
  tls_cert: {
    type: forms.path_list,
    fallback: "",
    help: "PEM files of certificate chains, leaf first; read again when they change",
  },
  tls_key: {
    type: forms.path_list,
    fallback: "",
    help: "PEM files of their keys, in the same order",
  },
  tls_client_ca: {
    type: forms.path,
    fallback: "",
    help: "PEM file of the certificates that sign devices' certificates",
  },
  tls_client_auth: {
    type: forms.choice("none", "optional", "required"),
    fallback: "none",
    help: "whether devices over TLS show a certificate; one that is shown must be valid",
  },
  kernel_tls: {
    type: forms.choice("off", "on"),
    fallback: "off",
    help: "on: where Linux can (module tls), it encrypts what devices over TLS are sent; by epoll",
  },
  proxy_protocol: {
    type: forms.network_list,
    fallback: "off",
    help: "load balancers that begin each device connection with a PROXY header (version 1 or 2)",
  },
  connects_per_s: {
    type: forms.whole_number(0, rate_max),
    fallback: "0",
    unit: "connects/s",
    help: "connects that are taken, of all devices together; 0 is no bound",
  },
  connects_per_source_per_s: {
    type: forms.whole_number(0, rate_max),
    fallback: "0",
    unit: "connects/s",
    help: "the same for one IPv4 address or IPv6 /64; 0 is no bound",
  },
  connections_per_source: {
    type: forms.whole_number(0, connections_max),
    fallback: "0",
    unit: "connections",
    help: "connections that one IPv4 address or IPv6 /64 may hold; 0 is no bound",
  },
  data: {
    type: forms.path,
    fallback: "./data",
    help: "directory of the store; memory keeps nothing (./memory is a directory)",
  },
  synchronous: {
    type: forms.choice("full", "normal"),
    fallback: "full",
    help: "what an acknowledged message survives: full, a power cut; normal, a killed process",
  },
  data_bytes_max: {
    type: forms.data_size,
    fallback: "0",
    help: "largest size of the database, beyond which QoS 1 and 2 are refused with 507; " +
      "0 is as large as the disk",
  },
  retention: {
    type: forms.retention_rules,
    fallback: "#:age=7d",
    joined_by: ";",
    help: "how much of the log is kept; may be repeated, or hold more rules with ; between them; " +
      "the first that matches a topic counts, and without one it is kept for ever",
  },
  backend: {
    type: forms.choice("auto", "epoll", "uring", "kqueue"),
    fallback: "auto",
    help: "how bytes are moved; auto takes the best that this machine can do",
  },
  io_threads: {
    type: forms.auto_or_number(1, io_threads_max),
    fallback: "auto",
    unit: "threads",
    help: "threads that move bytes; auto leaves one core to the rest",
  },
  max_connections: {
    type: forms.auto_or_number(1, connections_max),
    fallback: "auto",
    unit: "connections",
    help: "devices connected at once; auto is what descriptors and memory allow",
  },
  node_id: {
    type: forms.node_name,
    fallback: "",
    help: "name of this node; unset, the host name",
  },
  keys: {
    type: forms.path,
    fallback: "",
    help: "file of the keys that tokens are checked with: a JWK set or PEM; read again every 2 s",
  },
  jwks: {
    type: forms.keys_url,
    fallback: "",
    help: "URL of a JWK set; asked every 5 minutes and when a token names a key that is not there",
  },
  issuer: {
    type: forms.any_text,
    fallback: "",
    help: "what the claim iss of each token must be; unset, anything",
  },
  audience: {
    type: forms.any_text,
    fallback: "",
    help: "what the claim aud of each token must be or have; unset, anything",
  },
  clock_skew_s: {
    type: forms.whole_number(0, 300),
    fallback: "5",
    unit: "s",
    help: "how far the clock of whoever makes tokens may be from this one",
  },
  cors_origins: {
    type: forms.origin_list,
    fallback: "off",
    help: "pages that may call the HTTP API from a browser; * is every page",
  },
  certificate_devices: {
    type: forms.choice("off", "common_name"),
    fallback: "off",
    help: "whether a device's certificate says which device it is, and lets it in without a token",
  },
  certificate_publish: {
    type: forms.template_list,
    fallback: "devices/{device_id}/#",
    help: "where such a device may publish",
  },
  certificate_subscribe: {
    type: forms.template_list,
    fallback: "devices/{device_id}/#",
    help: "what such a device may subscribe to",
  },
  tenant_connections: {
    type: forms.whole_number(0, connections_max),
    fallback: "0",
    unit: "connections",
    help: "devices and streams that each tenant may have; 0 is no bound, so for the next three",
  },
  tenant_subscriptions: {
    type: forms.whole_number(0, tenant_rate_max),
    fallback: "0",
    unit: "subscriptions",
    help: "subscriptions of the connected devices of each tenant",
  },
  tenant_publishes_per_s: {
    type: forms.whole_number(0, tenant_rate_max),
    fallback: "0",
    unit: "publishes/s",
    help: "what each tenant may publish; as much at once after a second of silence",
  },
  tenant_bytes_per_s: {
    type: forms.whole_number(0, tenant_rate_max),
    fallback: "0",
    unit: "bytes/s",
    help: "the same in payload bytes",
  },
  tenants: {
    type: forms.path,
    fallback: "",
    help: 'JSON file of the limits of some tenants: {"acme": {"publishes_per_s": 1000}}',
  },
  webhooks: {
    type: forms.path,
    fallback: "",
    help: "JSON file of webhooks and of the secrets for callbacks; read again when it changes",
  },
  webhook_networks: {
    type: forms.network_list,
    fallback: "off",
    help: "networks that events may be sent to beside public addresses, such as 127.0.0.0/8; " +
      "http only there",
  },
  device_publishes_per_s: {
    type: forms.whole_number(0, tenant_rate_max),
    fallback: "0",
    unit: "publishes/s",
    help: "what each device may publish; 0 is no bound",
  },
  device_bytes_per_s: {
    type: forms.whole_number(0, tenant_rate_max),
    fallback: "0",
    unit: "bytes/s",
    help: "the same in payload bytes",
  },
  etcd: {
    type: forms.place_list,
    fallback: "",
    help: "members of etcd; with nats, this node is one of a cluster",
  },
  nats: {
    type: forms.place_list,
    fallback: "",
    help: "servers of NATS with JetStream, which hold the log of a cluster in place of data",
  },
  prometheus: {
    type: forms.place,
    fallback: "",
    help: "Prometheus that is asked whether what the service depends on is up",
  },
  rules: {
    type: forms.path,
    fallback: "",
    help:
      "JSON file of rules (limits, routing, breaker, degradation) that hold where etcd has none",
  },
  advertise: {
    type: forms.place,
    fallback: "",
    help: "where devices of other nodes are sent to; unset, the mqtt listener",
  },
  peer: {
    type: forms.always_listener,
    fallback: "127.0.0.1:7100",
    help: "listener for the other nodes of a cluster (gRPC)",
  },
  peer_cert: {
    type: forms.path,
    fallback: "",
    help: "PEM file of the certificate that this node shows other nodes, and takes them by",
  },
  peer_key: {
    type: forms.path,
    fallback: "",
    help: "PEM file of its key",
  },
  peer_ca: {
    type: forms.path,
    fallback: "",
    help: "PEM file of the certificates that sign those of nodes",
  },
  zone: {
    type: forms.node_name,
    fallback: "",
    help: "where this node stands, for people",
  },
  log_level: {
    type: forms.choice(...log_levels),
    fallback: "info",
    help: "least level that is written to stderr",
  },
  histograms: {
    type: forms.choice("on", "off"),
    fallback: "on",
    help: "latency and sizes in /metrics; off, to see what measuring costs",
  },
  body_timeout_s: {
    type: forms.whole_number(1, 3600),
    fallback: "30",
    unit: "s",
    help: "within which the body of a call over HTTP must be complete; NDJSON streams have no end",
  },
  trace_slow_ms: {
    type: forms.whole_number(0, 60_000),
    fallback: "500",
    unit: "ms",
    help: "with tracing: publishes that take longer are traced though not sampled; 0 is none",
  },
  rebalance_percent: {
    type: forms.whole_number(0, 1000),
    fallback: "25",
    help:
      "above the mean of connections, at which a node sends devices to emptier ones; 0 is never",
  },
  rebalance_plain: {
    type: forms.choice("off", "on"),
    fallback: "off",
    help: "on: then also devices of MQTT 3.1.1, which can only be cut off",
  },
  shutdown_timeout_s: {
    type: forms.whole_number(0, 3600),
    fallback: "10",
    unit: "s",
    help: "how long a stop waits for devices to take what is queued",
  },
};

export const setting_names = Object.keys(settings) as SettingName[];

/** One value as it was written, and the words that say where. */
interface Given {
  readonly text: string;
  /** `--mqtt`, `LONGWIRE_MQTT` or `mqtt`. */
  readonly name: string;
  /** "" or ` in longwire.json`. */
  readonly place: string;
}

type GivenSettings = Partial<Record<SettingName, Given>>;

/**
 * Takes the command off the front of the arguments: `serve` when there is none, `help` when help is
 * asked for before any other command.
 * @throws ConfigError when the first argument is a word but not a command
 */
export function parse_command(
  args: readonly string[],
): { readonly name: CommandName; readonly args: readonly string[] } {
  const [first = ""] = args;
  const named = commands.find((command) => command.name === first);
  if (named === undefined && first !== "" && !first.startsWith("-")) {
    const near = nearest(first, commands.map((command) => command.name));
    throw new ConfigError([`Cannot run "${first}": there is no such command${did_you_mean(near)}`]);
  }
  const rest = named === undefined ? args : args.slice(1);
  const name = named?.name ?? "serve";
  const asks_help = name === "serve" && rest.some((arg) => arg === "--help" || arg === "-h");
  return { name: asks_help ? "help" : name, args: rest };
}

/**
 * The configuration of `serve`. A flag beats the environment, the environment the file, the file
 * the default. An environment variable that is set but empty counts as not set.
 * @param args flags only: parse_command took the command off
 * @param read_file text of the file that `config` names; what it throws becomes a problem
 * @param host_name what `node_id` is when nobody sets it
 * @throws ConfigError with every problem at once
 */
export function parse_config(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  read_file: (path: string) => string,
  host_name = "localhost",
): Config {
  const problems: string[] = [];
  const by_flag = given_by_flags(args, problems);
  const by_env = given_by_environment(env, problems);
  const file = by_flag.config ?? by_env.config;
  const has_file = file !== undefined && file.text !== ""; // an empty path is a problem below
  const by_file = has_file ? given_by_file(file, read_file, problems) : {};
  const given: GivenSettings = { ...by_file, ...by_env, ...by_flag };
  const values: Partial<Record<SettingName, unknown>> = {};
  for (const name of setting_names) {
    const parsed = parse_setting(name, given[name], problems);
    if (parsed !== undefined) values[name] = parsed.value;
  }
  if (given.node_id === undefined) values.node_id = host_name;
  // A listener that could not be read is as good as closed here: its own problem is in the list.
  check_listeners(values as Partial<Config>, given, problems);
  check_tls(values as Partial<Config>, given, problems);
  check_cluster(values as Partial<Config>, given, problems);
  if (problems.length > 0) throw new ConfigError(problems);
  return Object.freeze(values as unknown as Config);
}

function parse_setting(
  name: SettingName,
  given: Given | undefined,
  problems: string[],
): { value: unknown } | undefined {
  const { type, fallback } = settings[name];
  const parsed: Parsed<unknown> = given?.text === ""
    ? { problem: "a value is missing" }
    : type.parse(given?.text ?? fallback);
  if ("value" in parsed) return parsed;
  // No place to name: the default is at fault, so the table above is.
  if (given === undefined) throw new Error(`config.ts: default of ${name}: ${parsed.problem}`);
  problems.push(`Cannot use ${given.name} "${given.text}"${given.place}: ${parsed.problem}`);
  return undefined;
}

const listener_names = ["http", "https", "mqtt", "device", "mqtts", "device_tls"] as const;
const tls_listener_names = ["https", "mqtts", "device_tls"] as const;

/**
 * Whether whoever connects to a listener has to show who it is. A device may do so by its
 * certificate too.
 */
function is_guarded(name: SettingName, values: Partial<Config>): boolean {
  const { keys, jwks, certificate_devices, tls_client_auth } = values;
  if ((keys ?? "") !== "" || (jwks ?? "") !== "") return true;
  const is_tls = name === "mqtts" || name === "device_tls";
  return is_tls && certificate_devices === "common_name" && tls_client_auth === "required";
}

/** What holds between settings, and promise 8: without keys, loopback only. */
function check_listeners(values: Partial<Config>, given: GivenSettings, problems: string[]): void {
  const taken = new Map<string, SettingName>();
  for (const name of listener_names) {
    const address = values[name];
    if (address === undefined) continue;
    const text = format_address(address);
    const { name: source, place } = given[name] ?? { name, place: "" };
    if (!is_loopback(address) && !is_guarded(name, values)) {
      problems.push(
        `Cannot listen on ${text} without keys: ${source}${place} must be a loopback address ` +
          `(127.0.0.1, [::1] or localhost), because without keys whoever connects may do anything`,
      );
    }
    const other = taken.get(text);
    if (other !== undefined && address.port !== 0) {
      problems.push(`Cannot use ${source} "${text}"${place}: ${other} listens there`);
    }
    taken.set(text, name);
  }
  const all_off = listener_names.every((name) => name in values && values[name] === undefined);
  if (all_off) problems.push("Cannot serve: all listeners are off");
}

/** What TLS listeners need, and what is of no use without them. */
function check_tls(values: Partial<Config>, given: GivenSettings, problems: string[]): void {
  const { tls_cert, tls_key, tls_client_ca, tls_client_auth } = values;
  const name_of = (name: SettingName) => given[name]?.name ?? name;
  const listener = tls_listener_names.find((name) => values[name] !== undefined);
  if (tls_cert === undefined || tls_key === undefined) return; // they are in the list already
  if (listener !== undefined && tls_cert.length === 0) {
    problems.push(`Cannot use ${name_of(listener)}: tls_cert and tls_key are missing`);
  }
  if (tls_cert.length !== tls_key.length) {
    problems.push(
      `Cannot use ${name_of("tls_cert")}: it names ${tls_cert.length} files, ` +
        `and ${name_of("tls_key")} names ${tls_key.length}`,
    );
  }
  if (tls_client_auth !== undefined && tls_client_auth !== "none" && tls_client_ca === "") {
    problems.push(
      `Cannot use ${name_of("tls_client_auth")} "${tls_client_auth}": tls_client_ca is missing`,
    );
  } else if (tls_client_auth === "none" && tls_client_ca !== "") {
    problems.push(
      `Cannot use ${name_of("tls_client_ca")}: tls_client_auth is none, so nobody is asked`,
    );
  }
  const { kernel_tls, backend = "auto" } = values;
  if (kernel_tls === "on" && backend !== "auto" && backend !== "epoll") {
    problems.push(
      `Cannot use ${name_of("kernel_tls")} "on": it needs backend epoll, not ${backend}`,
    );
  }
}

/** A cluster needs both etcd and NATS, and TLS between nodes that are not on one machine. */
function check_cluster(values: Partial<Config>, given: GivenSettings, problems: string[]): void {
  const { etcd = [], nats = [], peer, peer_cert, peer_key, peer_ca } = values;
  const name_of = (name: SettingName) => given[name]?.name ?? name;
  for (const [name, other] of [["etcd", "nats"], ["nats", "etcd"]] as const) {
    if ((values[name]?.length ?? 0) === 0 || (values[other]?.length ?? 1) > 0) continue;
    problems.push(`Cannot use ${name_of(name)}: a cluster needs ${other} too`);
  }
  const files = [peer_cert, peer_key, peer_ca].filter((file) => file !== "");
  if (files.length === 1 || files.length === 2) {
    problems.push("Cannot speak TLS between nodes: peer_cert, peer_key and peer_ca go together");
  }
  const is_cluster = etcd.length > 0 && nats.length > 0;
  if (is_cluster && files.length === 0 && peer !== undefined && !is_loopback(peer)) {
    problems.push(
      `Cannot use ${name_of("peer")} "${
        format_address(peer)
      }": nodes that are not on one machine ` +
        "need peer_cert, peer_key and peer_ca",
    );
  }
}

function given_by_flags(args: readonly string[], problems: string[]): GivenSettings {
  const given: GivenSettings = {};
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (!arg.startsWith("--") || arg === "--") {
      problems.push(`Cannot use argument "${arg}": settings are written --name value`);
      continue;
    }
    const equals = arg.indexOf("=");
    const flag = equals === -1 ? arg : arg.slice(0, equals);
    const name = flag.slice(2).replaceAll("-", "_");
    if (!is_setting(name)) {
      const near = nearest(name, setting_names);
      problems.push(`Cannot use ${flag}: there is no such setting${did_you_mean(near, "--")}`);
      // Its value is not a second problem
      if (equals === -1 && args[i + 1] !== undefined && !args[i + 1]!.startsWith("-")) i++;
      continue;
    }
    let text = arg.slice(equals + 1);
    if (equals === -1) {
      const next = args[i + 1];
      if (next === undefined || next.startsWith("--")) {
        problems.push(`Cannot use ${flag}: a value is missing (${settings[name].type.form})`);
        continue;
      }
      text = next;
      i++;
    }
    const before = given[name]?.text;
    const { joined_by } = settings[name];
    if (before !== undefined && joined_by === undefined) {
      problems.push(`Cannot use ${flag} "${text}": it is given twice`);
      continue;
    }
    if (before !== undefined) text = `${before}${joined_by}${text}`;
    given[name] = { text, name: flag, place: "" };
  }
  return given;
}

const env_prefix = "LONGWIRE_";

/**
 * Kubernetes sets these for a Service called `longwire` or `longwire-mqtt`, in every pod of the
 * namespace: LONGWIRE_SERVICE_HOST, LONGWIRE_MQTT_PORT=tcp://10.0.0.7:1883. They are nobody's
 * typing error, which LONGWIRE_MQTT_PORT=1883 is.
 */
function is_kubernetes(name: string, text: string): boolean {
  return /(^|_)(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_[A-Z]+(_PROTO|_PORT|_ADDR)?)$/.test(
    name,
  ) ||
    (/(^|_)PORT$/.test(name) && /^[a-z]+:\/\//.test(text));
}

function given_by_environment(
  env: Readonly<Record<string, string>>,
  problems: string[],
): GivenSettings {
  const given: GivenSettings = {};
  for (const [variable, text] of Object.entries(env)) {
    if (!variable.startsWith(env_prefix) || text === "") continue;
    const rest = variable.slice(env_prefix.length);
    if (rest.startsWith("TEST_")) continue; // of the tests, which start services too
    const name = rest.toLowerCase();
    if (is_setting(name) && rest === rest.toUpperCase()) {
      given[name] = { text, name: variable, place: "" };
    } else if (!is_kubernetes(rest, text)) {
      const near = nearest(name, setting_names);
      const hint = did_you_mean(near?.toUpperCase(), env_prefix);
      problems.push(`Cannot use ${variable}: there is no such setting${hint}`);
    }
  }
  return given;
}

function given_by_file(
  { text: file, name: source }: Given,
  read_file: (path: string) => string,
  problems: string[],
): GivenSettings {
  let content: unknown;
  try {
    content = JSON.parse(read_file(file));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    problems.push(`Cannot read ${source} "${file}": ${why.replace(/\.$/, "")}`);
    return {};
  }
  if (typeof content !== "object" || content === null || Array.isArray(content)) {
    problems.push(`Cannot read ${source} "${file}": it must hold one JSON object`);
    return {};
  }
  const given: GivenSettings = {};
  const place = ` in ${file}`;
  for (const [name, value] of Object.entries(content)) {
    if (name === "config") {
      problems.push(`Cannot use config${place}: a file cannot name another`);
    } else if (!is_setting(name)) {
      const hint = did_you_mean(nearest(name, setting_names));
      problems.push(`Cannot use ${name}${place}: there is no such setting${hint}`);
    } else if (typeof value === "string" || typeof value === "number") {
      given[name] = { text: String(value), name, place };
    } else {
      const { joined_by } = settings[name];
      if (joined_by !== undefined && is_text_list(value)) {
        given[name] = { text: value.join(joined_by), name, place };
        continue;
      }
      const json = JSON.stringify(value);
      const list = joined_by === undefined ? "" : ", or a list of strings";
      problems.push(`Cannot use ${name} ${json}${place}: it must be a string or a number${list}`);
    }
  }
  return given;
}

function is_text_list(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}

function is_setting(name: string): name is SettingName {
  return Object.hasOwn(settings, name);
}
