/**
 * The composition root: settings -> parts -> serve -> drain. No logic of its own, and the only file
 * that names concrete classes.
 */
import * as zlib from "node:zlib";
import { run_pub, run_sub } from "./core/client/commands.ts";
import { run_devices } from "./core/client/devices.ts";
import { run_fds } from "./core/client/fds.ts";
import { run_token } from "./core/client/token.ts";
import { type Code, codes } from "./core/codes.ts";
import { step_names } from "./core/cluster/degradation.ts";
import type { Joined, Joining } from "./core/cluster/join.ts";
import type { Member } from "./core/cluster/mod.ts";
import { parse_rules_file, Rules } from "./core/cluster/rules.ts";
import type { Address } from "./core/address.ts";
import { help_text } from "./core/config_help.ts";
import { type Config, ConfigError, parse_command, parse_config } from "./core/config.ts";
import { busy_frame, LongwireDriver } from "./core/device_longwire.ts";
import { busy_packet, MqttDriver } from "./core/device_mqtt.ts";
import { deno_problem, examine, findings_text, is_sound } from "./core/doctor.ts";
import { Descriptors } from "./core/descriptors.ts";
import { Drain } from "./core/drain.ts";
import { Devices } from "./core/devices.ts";
import { FairShare } from "./core/fair_share.ts";
import { Fleet } from "./core/fleet.ts";
import { type Driver, Hub, Moved } from "./core/hub.ts";
import { limits } from "./core/limits.ts";
import { Log } from "./core/log.ts";
import { Measures } from "./core/measures.ts";
import { Metrics } from "./core/metrics.ts";
import { tenant_of } from "./core/namespace.ts";
import { open_gate } from "./core/open_gate.ts";
import { Overload } from "./core/overload.ts";
import { proxy_header } from "./core/protocol/proxy_header.ts";
import { Receipts } from "./core/receipts.ts";
import { Router } from "./core/router.ts";
import { type ZlibZstd, type Zstd, zstd_of, zstd_of_zlib } from "./core/protocol/zstd.ts";
import type { ZstdBinding } from "./core/protocol/zstd.ts";
import { better_place, connect_denial, publish_denial } from "./core/routing.ts";
import { is_longwire } from "./core/session.ts";
import { Sessions } from "./core/sessions.ts";
import { Rebalance } from "./core/rebalance.ts";
import { shut_down } from "./core/shutdown.ts";
import * as startup from "./core/startup.ts";
import { StatusBook } from "./core/status.ts";
import { MemoryStore } from "./core/store/memory.ts";
import type { Store } from "./core/store/mod.ts";
import { SysTopics } from "./core/sys_topics.ts";
import { back_up_store, check_store, SqliteStore } from "./core/store/sqlite.ts";
import type { WebhookParts, Webhooks } from "./core/webhooks/mod.ts";
import manifest from "./deno.json" with { type: "json" };
import { choose_backend } from "./ffi/backend.ts";
import { BuildError } from "./ffi/build.ts";
import { Certificates, type UseCertificates } from "./ffi/certificates.ts";
import {
  type BusyAnswer,
  open_reactor,
  type OwnReactor,
  protocols,
  TlsError,
} from "./ffi/reactor.ts";
import { TlsFront } from "./ffi/tls_front.ts";
import { build_addon, load_addon, package_directory } from "./ffi/zstd.ts";
import { count_event_streams, end_event_streams } from "./routes/events.ts";
import type { Context, Remote } from "./routes/context.ts";
import { guard } from "./routes/guard.ts";
import { count_json_sockets, end_json_sockets } from "./routes/json_socket.ts";
import { make_handler } from "./routes/mod.ts";
import { count_refusal, refuse } from "./routes/problem.ts";

/** The parts of a cluster, which a node alone does not even load; undefined = it is alone. */
async function begin_to_join(config: Config, log: Log): Promise<Joining | undefined> {
  if (config.etcd.length === 0) return undefined;
  const cluster = await import("./core/cluster/join.ts");
  const { JetStreamStore } = await import("./core/store/jetstream.ts");
  const refuse_start = (error: Error) => {
    throw new startup.StartError(error.message);
  };
  const open = (nats: Parameters<typeof JetStreamStore.open>[0]) => JetStreamStore.open(nats);
  const joining = await cluster.begin_to_join(config, log, open).catch(refuse_start);
  const join: Joining["join"] = (parts) => joining.join(parts).catch(refuse_start);
  return { ...joining, join };
}

/** The breaker, and who tells it what Prometheus knows. */
async function watch_prometheus(
  config: Config,
  router: Router,
  metrics: Metrics,
  log: Log,
  rules: Rules,
): Promise<void> {
  if (config.prometheus === "") return;
  const { Breaker, breaker_default } = await import("./core/cluster/breaker.ts");
  const { PrometheusWatch } = await import("./core/cluster/prometheus.ts");
  const breaker = new Breaker(breaker_default, (from, to) => log.warn("breaker", { from, to }));
  rules.use("breaker", (settings) => breaker.settings = settings);
  metrics.add_breaker(breaker, new PrometheusWatch(config.prometheus, breaker, log, Date.now));
  router.breaker = breaker;
}

/** What holds where etcd has no rules. */
function open_rules({ rules }: Config): Rules {
  if (rules === "") return new Rules();
  try {
    return new Rules(parse_rules_file(Deno.readTextFileSync(rules)));
  } catch (error) {
    throw new startup.StartError(`Cannot use rules "${rules}": ${(error as Error).message}`);
  }
}

/** Holds back what may be held back, as the rules say. */
function watch_load(
  { router, hub, mqtt, opened }: Deciding,
  log: Log,
  rules: Rules,
  metrics: Metrics,
): Overload {
  const { reactor, store } = router;
  const { in_force: settings } = rules.get("degradation");
  const clock_ms = () => performance.now();
  const parts = { router, reactor, store, log, hub, settings, clock_ms, random: Math.random };
  const overload = new Overload(parts);
  overload.on_attached = () => mqtt.end_withheld();
  rules.use("degradation", (settings) => overload.use(settings));
  rules.use("limits", (limits) => opened.tenants.use_rules(limits));
  rules.use("routing", (routing) => router.denies = publish_denial(routing));
  metrics.add_overload(overload, rules);
  return overload;
}

async function open_store(config: Config): Promise<Store> {
  if (config.data === "memory") return new MemoryStore();
  try {
    const { synchronous, retention, data_bytes_max: database_bytes_max } = config;
    return await SqliteStore.open(config.data, { synchronous, retention, database_bytes_max });
  } catch (error) {
    throw startup.store_problem(config.data, error);
  }
}

/** What is measured, where the configuration wants that; null = nothing is. */
function begin_to_measure({ histograms }: Config, router: Router, hub: Hub): Measures | null {
  if (histograms === "off") return null;
  const measures = new Measures();
  measures.watch_loop();
  return router.measures = hub.measures = measures;
}

/** Traces what is published, where Deno's OpenTelemetry is on: else none of it is loaded. */
async function begin_to_trace(
  { trace_slow_ms: slow_ms }: Config,
  router: Router,
  log: Log,
): Promise<void> {
  if (Deno.env.get("OTEL_DENO")?.toLowerCase() !== "true") return; // as Deno reads it
  const { TracesOfPublishes } = await import("./core/trace.ts");
  const { version } = manifest;
  const { measures } = router;
  const traces = new TracesOfPublishes({ version, slow_ms, log, measures });
  router.tracing = traces;
  log.trace_id = traces.active_id;
  if ((Deno.env.get("OTEL_TRACES_SAMPLER") ?? "").startsWith("parentbased_")) return;
  log.warn("set OTEL_TRACES_SAMPLER to parentbased_traceidratio: else every request is traced");
}

/** What moves the bytes, and how it was chosen. */
interface Moving {
  readonly reactor: OwnReactor;
  readonly thread_count: number;
  readonly reasons: Pick<startup.Started, "backend_reason" | "kernel_tls">;
}

async function make_reactor(config: Config): Promise<Moving> {
  const chosen = await choose_backend(startup.backends_of(config, Deno.build.os));
  const { backend, reason: backend_reason } = chosen;
  const thread_count = startup.thread_count_of(config.io_threads, navigator.hardwareConcurrency);
  startup.check_connections(config.max_connections, chosen.possible(thread_count));
  const connections_max = config.max_connections === "auto" ? 0 : config.max_connections;
  const { connects_per_s, connects_per_source_per_s, connections_per_source } = config;
  const bounds = { connects_per_s, connects_per_source_per_s, connections_per_source };
  const slow_us = config.trace_slow_ms * 1000;
  const options = { ...limits, ...bounds, thread_count, connections_max, slow_us };
  const reactor = startup.start(backend, () => open_reactor(chosen.path, options));
  reactor.trust_proxies(config.proxy_protocol);
  const kernel_tls = startup.kernel_tls_text(config, reactor.kernel_tls_problem());
  return { reactor, thread_count, reasons: { backend_reason, kernel_tls } };
}

/** Loads the certificates, when a listener needs them, and whenever they change. */
async function use_certificates(
  config: Config,
  reactor: OwnReactor,
  front: TlsFront | undefined,
  log: Log,
): Promise<void> {
  const users: UseCertificates[] = [];
  if (config.mqtts !== undefined || config.device_tls !== undefined) {
    const by_kernel = config.kernel_tls === "on";
    users.push((options) => reactor.configure_tls(0, { ...options, by_kernel }));
  }
  if (front !== undefined) users.push((options) => front.configure(options.certificates));
  if (users.length === 0) return;
  const certificates = new Certificates(users, config);
  await certificates.load();
  certificates.watch((problem) => {
    if (problem === "") log.info("certificates are in use since they changed");
    else log.error("certificates changed and cannot be used", { problem });
  });
}

/** Opens the device listeners; a driver's index in the hub is that of its listener. */
function listen(config: Config, hub: Hub, mqtt: Driver, longwire: Driver): startup.Listening {
  const listeners = [
    ["mqtt", config.mqtt, protocols.mqtt, mqtt, busy_packet, undefined],
    ["device", config.device, protocols.longwire, longwire, busy_frame(), undefined],
    ["mqtts", config.mqtts, protocols.mqtt, mqtt, busy_packet, 0],
    ["device_tls", config.device_tls, protocols.longwire, longwire, busy_frame(), 0],
  ] as const;
  const proxy = config.proxy_protocol.length > 0 ? "trusted" : "none";
  const listening: { [name: string]: startup.Listening["mqtt"] } = {};
  for (const [name, address, protocol, driver, busy, tls] of listeners) {
    if (address === undefined) continue;
    listening[name] = startup.bind(name, address, ({ host, port }) => ({
      host,
      port: hub.reactor.listen({ protocol, address: host, port, busy, tls, proxy }),
    }));
    hub.drivers.push(driver);
  }
  const { mqtt: on_mqtt, device, mqtts, device_tls } = listening;
  return { mqtt: on_mqtt, device, mqtts, device_tls, http: undefined };
}

const loopback = "127.0.0.1";

/** Where WebSockets come in: a listener that only this process knows of. */
function listen_bridge(
  hub: Hub,
  driver: Driver,
  protocol: number,
  busy: BusyAnswer,
): (remote: Remote) => Promise<Deno.TcpConn> {
  const hostname = loopback;
  const place = { address: hostname, port: 0 };
  const port = hub.reactor.listen({ protocol, ...place, busy, proxy: "always" });
  hub.drivers.push(driver);
  return async (remote) => {
    const conn = await Deno.connect({ hostname, port });
    conn.setNoDelay(true);
    await conn.write(proxy_header(remote.host, remote.port));
    return conn;
  };
}

/**
 * Compresses with the best zstd that is there; where the addon has to be built first, that is done
 * while the service runs. Answers what is in use, for people.
 */
function use_zstd(use: (zstd: Zstd) => void, log: Log): string {
  const addon = load_addon();
  const zstd = addon === undefined
    ? zstd_of_zlib(zlib as unknown as ZlibZstd)
    : zstd_of(addon as ZstdBinding);
  use(zstd);
  if (addon !== undefined) return zstd.name;
  build_addon().then((built) => {
    use(zstd_of(built as ZstdBinding));
    log.info("zstd-napi is built and in use");
  }, (error) => {
    log.warn("zstd-napi cannot be built; node:zlib stays in use", { problem: error.message });
  });
  return `${zstd.name} until zstd-napi is built`;
}

type HttpServer = Deno.HttpServer<Deno.NetAddr>;

function listen_http(
  config: Config,
  handler: ReturnType<typeof make_handler>,
): HttpServer | undefined {
  if (config.http === undefined) return undefined;
  return startup.bind("http", config.http, ({ host, port }) => {
    return Deno.serve({ hostname: host, port, onListen: () => {} }, handler);
  });
}

function make_front(config: Config, on_refused: () => void): TlsFront | undefined {
  if (config.https === undefined) return undefined;
  const { https_connections_max: connections_max, handshake_timeout_ms } = limits;
  return new TlsFront({ connections_max, handshake_timeout_ms, on_refused });
}

interface Https {
  readonly server: HttpServer;
  readonly address: Address;
}

/** The same routes behind TLS, on a server of its own that answers connections of `front` only. */
async function listen_https(
  config: Config,
  front: TlsFront | undefined,
  handler: ReturnType<typeof make_handler>,
): Promise<Https | undefined> {
  if (config.https === undefined || front === undefined) return undefined;
  const place = { hostname: loopback, port: 0, onListen: () => {} };
  const server = Deno.serve(place, (request, { remoteAddr }) => {
    const remote = front.remote_of(remoteAddr.port);
    if (remote === undefined) return refuse(codes.forbidden);
    const { host: hostname, port } = remote;
    return handler(request, { remoteAddr: { hostname, port } });
  });
  const { host } = config.https;
  const port = await startup.bind_later("https", config.https, ({ host, port }) => {
    return front.listen(host, port, server.addr.port);
  });
  return { server, address: { host, port } };
}

/** `deno task` hands on a Ctrl-C that the terminal has given to every process: those are one. */
const same_signal_ms = 1000;

/** Settled by the first SIGINT or SIGTERM; the second ends the process at once. */
function stop_signal(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let first_ms = 0;
  const on_signal = (exit_code: number) => {
    if (first_ms > 0 && performance.now() - first_ms > same_signal_ms) Deno.exit(exit_code);
    first_ms ||= performance.now();
    resolve();
  };
  Deno.addSignalListener("SIGINT", () => on_signal(130));
  Deno.addSignalListener("SIGTERM", () => on_signal(143));
  return promise;
}

/** What decides: whose connection it is, what it may, what its packets mean. */
interface Deciding {
  readonly router: Router;
  readonly sessions: Sessions;
  readonly opened: Awaited<ReturnType<typeof open_gate>>;
  readonly hub: Hub;
  readonly mqtt: MqttDriver;
  readonly longwire: LongwireDriver;
  readonly status: StatusBook;
  /** What compresses, for people. */
  readonly zstd: string;
  readonly webhooks: Webhooks | null;
}

/** Webhooks, which a service without the setting does not even load; null = there are none. */
async function open_webhooks(config: Config, parts: WebhookParts): Promise<Webhooks | null> {
  if (config.webhooks === "") return null;
  const { Webhooks } = await import("./core/webhooks/mod.ts");
  return await Webhooks.open(config, parts);
}

async function make_deciding(
  config: Config,
  log: Log,
  reactor: OwnReactor,
  store: Store,
): Promise<Deciding> {
  const now_ms = Date.now;
  const { node_id } = config;
  const router = new Router(reactor, store, now_ms);
  const sessions = new Sessions(store, now_ms, log);
  const opened = await open_gate(config, log, now_ms, Deno.readTextFile);
  if (opened.auth !== null) {
    router.fair = new FairShare(opened.tenants, limits.store_queue_bytes_max);
  }
  const hub = new Hub(reactor, router, sessions, log, [], opened.gate);
  const mqtt = new MqttDriver(reactor, router, sessions, hub, now_ms);
  const status = new StatusBook(now_ms);
  const longwire = new LongwireDriver(reactor, router, sessions, hub, now_ms, node_id, status);
  const zstd = use_zstd((zstd) => longwire.use_zstd(zstd), log);
  const { version } = manifest;
  const read_file = Deno.readTextFile;
  const parts = { router, store, sessions, hub, log, version, now_ms, read_file };
  const webhooks = await open_webhooks(config, parts);
  await sessions.load((wire) => is_longwire(wire) ? longwire : mqtt);
  return { router, sessions, opened, hub, mqtt, longwire, status, zstd, webhooks };
}

/** The devices of all nodes, and what this one tells the others of its own. */
function make_fleet(
  { node_id }: Config,
  reactor: OwnReactor,
  { sessions, router, hub }: Deciding,
  node: Awaited<ReturnType<Joining["join"]>>["node"] | undefined,
): Fleet {
  const devices = new Devices(sessions, router, hub, (by, count) => reactor.top(by, count));
  const fleet = new Fleet(node_id, devices, node ?? null);
  if (node !== undefined) node.on_asked = (question) => fleet.answer(question);
  return fleet;
}

/** The listeners for HTTP, and how to end them. */
interface Web {
  readonly listening: Pick<startup.Listening, "http" | "https">;
  readonly close: () => Promise<void>;
}

async function serve_web(
  config: Config,
  context: Context,
  front: TlsFront | undefined,
  is_open: boolean,
): Promise<Web> {
  context.metrics.add_streams(() => ({
    sse: count_event_streams(context),
    websocket: count_json_sockets(context),
  }));
  const { cors_origins } = config;
  const { refused } = context;
  const handler = guard(make_handler(context), { cors_origins, is_open, refused });
  const http = listen_http(config, handler);
  const https = await listen_https(config, front, handler);
  const close = async () => {
    context.receipts.stop();
    end_event_streams(context);
    end_json_sockets(context);
    front?.close();
    await Promise.all([http?.shutdown(), https?.server.shutdown()]);
  };
  return { listening: { http: startup.address_of(http), https: https?.address }, close };
}

function begin_to_balance(
  cluster: Joined | undefined,
  config: Config,
  hub: Hub,
  log: Log,
): Rebalance {
  const balance = new Rebalance(hub, config, log, () => cluster?.node.places() ?? []);
  if (cluster !== undefined) balance.begin();
  return balance;
}

async function serve(args: readonly string[]): Promise<void> {
  const config = config_of(args);
  const log = make_log(config);
  const joining = await begin_to_join(config, log);
  const store = joining?.store ?? await open_store(config);
  const { reactor, thread_count, reasons } = await make_reactor(config);
  const refused = new Map<Code, number>();
  const front = make_front(config, () => count_refusal(refused, codes.connection_limit));
  await use_certificates(config, reactor, front, log);
  const deciding = await make_deciding(config, log, reactor, store);
  const { router, sessions, opened, hub, mqtt, longwire, status, zstd, webhooks } = deciding;
  const { gate, tenants, auth } = opened;
  const { version } = manifest;
  const now_ms = Date.now;
  const sys = new SysTopics({ reactor, router, sessions, hub, store, mqtt, version, now_ms });
  sys.start();
  let is_stopping = false;
  const measures = begin_to_measure(config, router, hub);
  await begin_to_trace(config, router, log);
  const counts = { http_refused: refused, filters_refused: hub.filters_refused, auth, tenants };
  const measured = { measures, replays: hub.replays, ...counts };
  const metrics = new Metrics({ reactor, router, sessions, store, status, version, ...measured });
  const open_bridge = {
    mqtt: listen_bridge(hub, mqtt, protocols.mqtt, busy_packet),
    longwire: listen_bridge(hub, longwire, protocols.longwire, busy_frame()),
  };
  const rules = open_rules(config);
  const overload = watch_load(deciding, log, rules, metrics);
  const listeners = listen(config, hub, mqtt, longwire);
  const drain = new Drain(hub, log, () => cluster?.node.places() ?? []);
  const describe = () => ({
    version,
    ...startup.places_of(config, listeners),
    connections: reactor.stats().counters.connections,
    sessions: sessions.count,
    draining: drain.is_draining,
    load_percent: overload.degradation.load_percent,
    degradation: step_names[overload.degradation.step],
    breaker: router.breaker?.state ?? "",
  });
  const on_drain = () => drain.begin();
  const cluster = await joining?.join({ router, hub, longwire, describe, on_drain, rules });
  const balance = begin_to_balance(cluster, config, hub, log);
  if (cluster !== undefined) metrics.add_cluster({ ...cluster, balance }, router);
  overload.outage = cluster?.node.outage ?? null;
  route_connects(config, hub, rules, () => cluster?.node.places() ?? []);
  await watch_prometheus(config, router, metrics, log, rules);
  await webhooks?.start(cluster?.node ?? null);
  if (webhooks !== null) metrics.add_webhooks(webhooks);
  const { degradation } = overload;
  const ruled = { rules, degradation, cluster: cluster?.node ?? null };
  const shown = { gate, router, store, metrics, version, refused, ...ruled };
  const receipts = new Receipts(sessions, reactor);
  const descriptors = new Descriptors(() => reactor.descriptors(), now_ms);
  metrics.add_descriptors(descriptors);
  const fleet = make_fleet(config, reactor, deciding, cluster?.node);
  const bridged = { is_stopping: () => is_stopping || drain.is_draining, open_bridge };
  const { body_timeout_s } = config;
  const made = { descriptors, fleet, receipts, webhooks, read_page, read_package };
  const context = { ...shown, ...made, body_timeout_s, log, now_ms, ...bridged };
  const web = await serve_web(config, context, front, auth === null);
  const running = hub.run();
  console.log(startup.started_text({
    version,
    duration_ms: performance.now(),
    backend: reactor.backend,
    ...reasons,
    thread_count,
    connections_max: reactor.connections_max,
    zstd,
    data: store.shared === undefined ? config.data : "NATS",
    listening: { ...listeners, ...web.listening },
    deno: startup.deno_command(Deno.execPath(), Deno.version.deno),
  }));
  await Promise.race([stop_signal(), running]);
  is_stopping = true;
  balance.stop();
  const say_drain = () => cluster!.node.drain(config.node_id);
  const timeout_ms = await drain.leave(say_drain, config.shutdown_timeout_s * 1000);
  sys.stop();
  measures?.stop();
  overload.stop();
  opened.stop();
  const close_webhooks = async () => await webhooks?.stop();
  const leave_cluster = async () => await cluster?.close();
  const closing = { close_http: web.close, close_webhooks, leave_cluster, running };
  const parts = { reactor, hub, sessions, store, log, ...closing };
  await shut_down(parts, timeout_ms);
}

/** Refuses devices, and sends them elsewhere, as the rules say. */
function route_connects(
  { zone }: Config,
  hub: Hub,
  rules: Rules,
  places: () => readonly Member[],
): void {
  rules.use("routing", (routing) => {
    const denies = connect_denial(routing);
    if (denies === null && routing.place.length === 0) return hub.route = null;
    hub.route = (id) => {
      const refusal = denies?.(id);
      if (refusal) throw refusal;
      if (routing.place.length === 0) return;
      const place = better_place(routing, tenant_of(id), zone, places());
      if (place !== undefined) throw new Moved(place);
    };
  });
}

function make_log({ log_level: level }: Config): Log {
  const write = (line: string) => void Deno.stderr.writeSync(new TextEncoder().encode(line));
  const format = Deno.stderr.isTerminal() ? "text" : "json";
  return new Log({ level, format, write, now_ms: Date.now });
}

/** A file of a package of deno.json, which Deno has put into node_modules. */
function read_package(name: string, path: string): Uint8Array<ArrayBuffer> {
  return Deno.readFileSync(`${package_directory(name)}${path}`);
}

/** @param name of a file that the documentation page is made of */
function read_page(name: string): Uint8Array<ArrayBuffer> {
  return Deno.readFileSync(new URL(`routes/page/${name}`, import.meta.url));
}

function is_there(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function config_of(args: readonly string[]): Config {
  return parse_config(args, Deno.env.toObject(), Deno.readTextFileSync, Deno.hostname());
}

async function examine_machine(args: readonly string[]): Promise<number> {
  const config = config_of(args);
  const findings = await examine([
    {
      name: "deno",
      optional: true,
      run: () => {
        const problem = deno_problem(Deno.version.deno);
        if (problem !== undefined) throw new Error(problem);
        return Deno.version.deno;
      },
    },
    {
      name: "reactor",
      run: async () => {
        const chosen = await choose_backend(startup.backends_of(config, Deno.build.os));
        return chosen.path + (chosen.reason === undefined ? "" : ` (${chosen.reason})`);
      },
    },
    {
      name: "store",
      run: async () => {
        if (config.data === "memory") return "nothing is kept";
        if (!is_there(`${config.data}/longwire.db`)) return `nothing is in ${config.data} yet`;
        const problems = await check_store(config.data);
        if (problems.length > 0) throw new Error(problems.join("\n"));
        return `${config.data} is sound`;
      },
    },
  ]);
  console.log(findings_text(findings));
  return is_sound(findings) ? 0 : 1;
}

async function back_up([target, ...args]: readonly string[]): Promise<number> {
  if (target === undefined || target.startsWith("-")) {
    throw new startup.StartError("Cannot back up: name the file to write, such as backup.db");
  }
  const { data } = config_of(args);
  try {
    await back_up_store(data, target);
  } catch (error) {
    throw new startup.StartError((error as Error).message);
  }
  console.log(`${data} is copied to ${target}`);
  return 0;
}

/** What the operator can mend: said in one sentence, without a stack. */
const start_errors = [startup.StartError, BuildError, TlsError];

/** Runs the command; answers the exit status. */
async function main(): Promise<number> {
  try {
    const [first, ...rest] = Deno.args;
    // `deno task start -- --help` hands the two dashes on.
    const command = parse_command(first === "--" ? rest : Deno.args);
    switch (command.name) {
      case "pub":
        return await run_pub(command.args, stop_signal());
      case "sub":
        return await run_sub(command.args, stop_signal());
      case "token":
        return await run_token(command.args);
      case "devices":
        return await run_devices(command.args);
      case "fds":
        return await run_fds(command.args);
      case "doctor":
        return await examine_machine(command.args);
      case "backup":
        return await back_up(command.args);
      case "rules": {
        const { run_rules } = await import("./core/cluster/rules_command.ts");
        return await run_rules(command.args, Deno.env.get("LONGWIRE_ETCD") ?? "");
      }
      case "serve":
        await serve(command.args);
        return 0;
      default:
        console.log(help_text());
        return 0;
    }
  } catch (error) {
    if (error instanceof ConfigError) console.error(error.problems.join("\n"));
    else if (start_errors.some((one) => error instanceof one)) {
      console.error((error as Error).message);
    } else throw error;
    return 1;
  }
}

// Timers that are left (wills that wait, requests that linger) must not keep a stopped service
// alive.
if (import.meta.main) Deno.exit(await main());
