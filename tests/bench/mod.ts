/**
 * `deno task bench [scenario...]`: Longwire and its peers under the same load, in turn.
 *
 * Every scenario runs against every peer, round after round (A B C A B C ...), because machines are
 * shared and noisy: compare the ratios, which are medians over the rounds of what two peers did in
 * the same round, before the absolute numbers. All messages are checked on arrival (load.c); a run
 * that loses, reorders or damages one is shown as a failure.
 *
 *     deno task bench                        fanout and pairs, under four minutes
 *     deno task bench fanout --only=qos0     part of it
 *     deno task bench durable                under three minutes
 *     deno task bench http                   under two minutes
 *     deno task bench hold --devices=1000000 --hold=60 --ping=60 --peers=longwire
 *     deno task bench steady --devices=100000 --rate=20000
 *     deno task bench tls --devices=8000     handshakes, fan-out, pairs, hold over TLS
 *     deno task bench backends               io_uring against epoll
 *     deno task bench instrumentation        what histograms and traces cost, in three minutes
 *     deno task bench failover --rounds=10 --only=freeze    two minutes; all: ten
 *     deno task bench cluster                two minutes: 1, 2, 3 nodes and a node alone, in turn
 *     deno task bench offline --sessions=1000000 --messages=1000 --returning=20000
 *     deno task bench storm --devices=20000  a minute: devices lose their server and come back
 *     deno task bench wire                   a minute: bytes of one device, captured by tcpdump
 *     deno task bench fds                    a minute: descriptors of a process, read in two ways
 *     deno task bench simulate               seconds: 100 nodes, 100 million devices, in proportion
 *     deno task bench heartbeat              seconds: bytes and time of one report, in every form
 *
 * Scenarios: fanout (1 publisher -> 1000 subscribers), pairs (500 -> 500), backends (both of them
 * on io_uring and on epoll, with system calls counted where root runs it), durable (publishes that
 * are kept before they are acknowledged, by 1, 64 and 1000 publishers), http (publishes over
 * HTTP, one and 256 a request, beside a Deno.serve that only reads and discards such bodies), hold
 * (devices that are connected, answer heartbeats and can be reached), steady (deliveries at a fixed
 * rate, and their latency), tls (handshakes, fanout and pairs with QoS 0, then hold, over TLS),
 * offline (messages for devices that are away, of which some return at once; Longwire only),
 * failover (what devices notice when a part of a cluster fails; needs root, etcd, nats-server),
 * cluster (throughput of 1, 2 and 3 nodes on this machine; needs etcd, nats-server),
 * instrumentation (one service without histograms, one with them, one with traces besides).
 * "pipelined" keeps a window of messages in flight; "one at a time" publishes the next message
 * when every subscriber has the last one and, with QoS 1, its publisher the PUBACK.
 *
 *     --rounds=3       how often each peer gets its turn (hold and steady: 1)
 *     --seconds=1      measured in each run, after a warm-up (durable: 2; hold and steady: 10)
 *     --only=TEXT      only scenarios whose full name contains it, such as qos1-pipelined
 *     --peers=A,B      of: longwire, longwire-memory, longwire-normal, longwire-uring,
 *                      longwire-epoll, longwire-tls, longwire-unmeasured, longwire-traced,
 *                      openssl, mosquitto, mosquitto-persistent, mosquitto-tls, nats, raw, bare
 *     --devices=10000 --rate=20000 --hold=10 --ping=10    of hold and steady; the last in seconds
 *     --sessions=1000000 --messages=1000 --returning=20000    of offline
 *     --fleet=3000     devices of failover
 *     --longwire="..." command that starts Longwire (or LONGWIRE_BENCH_COMMAND), else what
 *                      `deno task start` runs
 *     --settings="..." settings that it gets in addition; else, when there are more devices than
 *                      descriptors, --max_connections with some more than these
 *     --json           one JSON document instead of tables
 *
 * Columns: server us/delivery is CPU time of all threads of the server, user and kernel, for each
 * delivered message; generator is the share of one core that load.c used; stall is the longest time
 * that GET /healthz, asked every 10 ms, took to answer, and machine how late the asking process
 * woke at worst, which is what this machine makes everybody wait; both ends is what the machine's
 * free memory shrank by for each device, generator and kernel included. hold, where root runs it,
 * raises what the kernel allows and puts it back. Exit status 1: a run of Longwire went wrong; 2:
 * the benchmark could not run.
 */
import { ensure_addon } from "../../ffi/zstd.ts";
import { BuildError, ensure_program } from "./build.ts";
import { cluster, print_cluster } from "./cluster.ts";
import { failover, type FailoverRun, print_failover } from "./failover.ts";
import { fds, print_fds } from "./fds.ts";
import { number_of, read_flags, UsageError, type Values } from "./flags.ts";
import { machine_line } from "./footprint.ts";
import { heartbeat, print_heartbeat } from "./heartbeat.ts";
import { check_memory, KernelSettings } from "./machine.ts";
import { offline, type OfflineResult } from "./offline.ts";
import { print_offline } from "./report_offline.ts";
import { print_table, type ScenarioRuns } from "./report.ts";
import { find_kind, Peers, run_scenario } from "./run.ts";
import { print_simulated, simulate } from "./simulate.ts";
import { print_storm, storm } from "./storm.ts";
import { print_wire, wire } from "./wire.ts";
import {
  alone_names,
  choose_scenarios,
  cluster_name,
  failover_name,
  fds_name,
  heartbeat_name,
  offline_name,
  type Scenario,
  simulate_name,
  storm_name,
  wire_name,
} from "./scenarios.ts";

/** Every scenario in turn; a table is printed when its scenario is over. */
async function run_all(
  scenarios: readonly Scenario[],
  peers: Peers,
  values: Values,
): Promise<ScenarioRuns[]> {
  const chosen = values.peers?.split(",").map((name) => find_kind(name).name);
  const results: ScenarioRuns[] = [];
  for (const scenario of scenarios) {
    const { rounds, seconds } = scenario;
    const options = {
      names: chosen ?? scenario.peers,
      rounds: number_of("rounds", values.rounds ?? `${rounds}`, 1, 1000),
      seconds: number_of("seconds", values.seconds ?? `${seconds}`, 0.1, 3600),
      quiet: values.json,
    };
    const result = await run_scenario(scenario, peers, options);
    if (!values.json) print_table(result);
    results.push(result);
  }
  return results;
}

async function bench(args: string[]): Promise<number> {
  if (Deno.build.os !== "linux") throw new UsageError("Cannot run the benchmark: it needs Linux");
  const { values, positionals } = read_flags(args);
  if (values.help) {
    console.log(await help());
    return 0;
  }
  const names = positionals.length > 0 ? positionals : ["fanout", "pairs"];
  if (names.join() === simulate_name) {
    const simulated = await simulate();
    if (values.json) console.log(JSON.stringify(simulated, null, 2));
    else print_simulated(simulated);
    return 0;
  }
  const others = names.filter((name) => !alone_names.includes(name));
  const scenarios = others.length > 0 ? choose_scenarios(others, values) : [];
  const longwire = values.longwire ?? Deno.env.get("LONGWIRE_BENCH_COMMAND");
  const peers = new Peers({ longwire, settings: values.settings });
  const devices = Math.max(0, ...scenarios.map(({ fleet_devices }) => fleet_devices));
  const kernel = new KernelSettings();
  await check_memory(devices);
  await ensure_program("load");
  // A service that lacks it builds it beside the first scenario, and that would be measured.
  await ensure_addon().catch((error) => console.error(`Without zstd-napi: ${error.message}`));
  const clean_up = async () => {
    await peers.stop_all();
    await kernel.restore();
  };
  const interrupted = () => void clean_up().finally(() => Deno.exit(130));
  Deno.addSignalListener("SIGINT", interrupted);
  Deno.addSignalListener("SIGTERM", interrupted);
  let results: ScenarioRuns[];
  let away: OfflineResult | undefined;
  let failed: FailoverRun[] | undefined;
  let raised = "";
  const beats = names.includes(heartbeat_name) ? await heartbeat() : undefined;
  if (beats !== undefined && !values.json) print_heartbeat(beats);
  const scans = names.includes(fds_name) ? await fds() : undefined;
  if (scans !== undefined && !values.json) print_fds(scans);
  const count = number_of("messages", values.messages, 1, 1e6);
  const wires = names.includes(wire_name) ? await wire(count) : undefined;
  if (wires !== undefined && !values.json) print_wire(wires, count);
  const storms = names.includes(storm_name)
    ? await storm(number_of("devices", values.devices, 1, 1e6), values.only ?? "")
    : undefined;
  if (storms !== undefined && !values.json) print_storm(storms);
  const clusters = names.includes(cluster_name) ? await cluster(values) : undefined;
  if (clusters !== undefined && !values.json) print_cluster(clusters);
  try {
    if (devices > 0) await kernel.raise_for(devices);
    raised = `${kernel}`;
    results = await run_all(scenarios, peers, values);
    if (names.includes(offline_name)) away = await offline(values, peers);
    if (away !== undefined && !values.json) print_offline(away);
    if (names.includes(failover_name)) failed = await failover(values);
    if (failed !== undefined && !values.json) print_failover(failed);
  } finally {
    await clean_up();
    Deno.removeSignalListener("SIGINT", interrupted);
    Deno.removeSignalListener("SIGTERM", interrupted);
  }
  const machine = await machine_line();
  const versions = Object.fromEntries(peers.versions);
  if (values.json) {
    const others = { offline: away, failover: failed, beats, scans, wires, storms, clusters };
    const document = { machine, raised, versions, scenarios: results, ...others };
    console.log(JSON.stringify(document, null, 2));
  } else print_footer(machine, raised, versions);
  return results.some(longwire_failed) || away?.problem ? 1 : 0;
}

/** The comment that this file opens with. */
async function help(): Promise<string> {
  const source = await Deno.readTextFile(new URL(import.meta.url));
  return source.slice("/**\n".length, source.indexOf(" */")).replaceAll(/^ \*( |$)/gm, "");
}

function print_footer(
  machine: string,
  raised: string,
  versions: Record<string, string>,
): void {
  for (const [name, version] of Object.entries(versions)) {
    const about = find_kind(name).about;
    console.log(`${name}: ${version ? `${version}; ` : ""}${about}`);
  }
  console.log(`machine: ${machine}`);
  if (raised !== "") console.log(`kernel settings, raised for this run: ${raised}`);
}

function longwire_failed(scenario: ScenarioRuns): boolean {
  return scenario.peers.some(({ peer, missing, runs }) =>
    peer.startsWith("longwire") && (missing !== "" || runs.some((run) => !run.ok))
  );
}

if (import.meta.main) {
  try {
    Deno.exitCode = await bench(Deno.args);
  } catch (error) {
    if (!(error instanceof UsageError || error instanceof BuildError)) throw error;
    console.error(error.message);
    Deno.exitCode = 2;
  }
}
