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
 *     deno task bench hold --devices=1000000 --hold=60 --ping=60 --peers=longwire
 *     deno task bench steady --devices=100000 --rate=20000
 *
 * Scenarios: fanout (1 publisher -> 1000 subscribers), pairs (500 -> 500), hold (devices that are
 * connected, answer heartbeats and can be reached), steady (deliveries at a fixed rate, and their
 * latency). "pipelined" keeps a window of messages in flight; "one at a time" publishes the next
 * message when every subscriber has the last one and, with QoS 1, its publisher the PUBACK.
 *
 *     --rounds=3       how often each peer gets its turn (hold and steady: 1)
 *     --seconds=1      measured in each run, after a warm-up (hold and steady: 10)
 *     --only=TEXT      only scenarios whose full name contains it, such as qos1-pipelined
 *     --peers=A,B      of: longwire, longwire-memory, mosquitto, mosquitto-persistent, nats, raw
 *     --devices=10000 --rate=20000 --hold=10 --ping=10    of hold and steady; the last in seconds
 *     --longwire="..." command that starts Longwire (or LONGWIRE_BENCH_COMMAND), else what
 *                      `deno task start` runs
 *     --json           one JSON document instead of tables
 *
 * Columns: server us/delivery is CPU time of all threads of the server, user and kernel, for each
 * delivered message; generator is the share of one core that load.c used. Exit status 1: a run of
 * Longwire went wrong; 2: the benchmark could not run.
 */
import { parseArgs } from "node:util";
import { BuildError, ensure_program } from "./build.ts";
import { NotInstalled, Peer, peer_kinds, peer_version } from "./peers.ts";
import type { PeerKind } from "./peers.ts";
import { machine_line, print_table } from "./report.ts";
import type { LoadResult, PeerRuns, ScenarioRuns } from "./report.ts";

/** One scenario: what load.c is told, and who takes part unless --peers says otherwise. */
interface Scenario {
  readonly name: string;
  readonly title: string;
  readonly args: readonly string[];
  readonly peers: readonly string[];
  /** Devices need a server that has seen none before: its memory is what is measured. */
  readonly fleet: boolean;
  /** Time that devices idle before anything is measured. */
  readonly hold_ms: number;
}

const flags = {
  help: { type: "boolean", short: "h", default: false },
  rounds: { type: "string" },
  seconds: { type: "string" },
  only: { type: "string" },
  peers: { type: "string" },
  devices: { type: "string", default: "10000" },
  rate: { type: "string", default: "20000" },
  hold: { type: "string", default: "10" },
  ping: { type: "string", default: "10" },
  longwire: { type: "string" },
  json: { type: "boolean", default: false },
} as const;

/** A mistake of the person who typed the command. */
class UsageError extends Error {
  override readonly name = "UsageError";
}

function read_flags(args: string[]) {
  try {
    return parseArgs({ args, options: flags, allowPositionals: true });
  } catch (error) {
    throw new UsageError(`Cannot read the arguments: ${(error as Error).message}`);
  }
}

type Values = ReturnType<typeof read_flags>["values"];

function number_of(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (text !== "" && value >= min && value <= max) return value;
  throw new UsageError(`Cannot use --${name}=${text}: expected ${min} to ${max}`);
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
    fleet: false,
    hold_ms: 0,
  };
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
    fleet: true,
    hold_ms,
  };
}

function choose_scenarios(names: readonly string[], values: Values): Scenario[] {
  const groups: Record<string, () => Scenario[]> = {
    fanout: () => streams_of("fanout"),
    pairs: () => streams_of("pairs"),
    hold: () => [fleet_scenario("hold", values)],
    steady: () => [fleet_scenario("steady", values)],
  };
  const chosen = (names.length > 0 ? names : ["fanout", "pairs"]).flatMap((name) => {
    const make = Object.hasOwn(groups, name) ? groups[name] : undefined;
    if (make) return make();
    const known = Object.keys(groups).join(", ");
    throw new UsageError(`Unknown scenario "${name}": expected ${known}`);
  });
  const only = values.only ?? "";
  const left = chosen.filter((scenario) => scenario.name.includes(only));
  if (left.length === 0) throw new UsageError(`No scenario's name contains "${only}"`);
  return left;
}

function streams_of(mode: "fanout" | "pairs"): Scenario[] {
  return ([0, 1] as const).flatMap((qos) =>
    [true, false].map((pipelined) => stream_scenario(mode, qos, pipelined))
  );
}

function find_kind(name: string): PeerKind {
  const kind = peer_kinds.find((kind) => kind.name === name);
  if (kind) return kind;
  const known = peer_kinds.map((kind) => kind.name).join(", ");
  throw new UsageError(`Unknown peer "${name}": expected ${known}`);
}

/** The peers that are running, started when they are first needed. */
class Peers {
  #running = new Map<string, Peer>();
  /** Peers that cannot be started, and why. */
  readonly missing = new Map<string, string>();
  readonly versions = new Map<string, string>();
  constructor(private readonly longwire: string | undefined) {}

  /** The peer, running or ended; undefined = it cannot be had, and `missing` says why. */
  async get(name: string): Promise<Peer | undefined> {
    if (this.missing.has(name)) return undefined;
    const old = this.#running.get(name);
    if (old) return old;
    const kind = find_kind(name);
    try {
      this.versions.set(name, await peer_version(kind));
      const peer = await Peer.start(kind, { longwire: this.longwire });
      this.#running.set(name, peer);
      return peer;
    } catch (error) {
      const { message } = error as Error;
      this.missing.set(name, error instanceof NotInstalled ? message : `cannot start: ${message}`);
      return undefined;
    }
  }

  async stop(name: string): Promise<void> {
    const peer = this.#running.get(name);
    this.#running.delete(name);
    await peer?.stop();
  }

  async stop_all(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((name) => this.stop(name)));
  }
}

const no_latency = { p50: NaN, p99: NaN, max: NaN };

/** Runs load.c once. It ends by itself; the signal is for the day when it does not. */
async function run_load(peer: Peer, args: readonly string[], ms_max: number): Promise<LoadResult> {
  const failed = (problem: string): LoadResult => ({ ok: false, problem, latency_us: no_latency });
  if (peer.ended) return failed(`the server ended between runs: ${peer.last_words}`);
  const where = [`server=${peer.address}`, `pids=${peer.pid}`];
  const out = await new Deno.Command(await ensure_program("load"), {
    args: [...args, ...where],
    signal: AbortSignal.timeout(ms_max),
  }).output();
  const text = new TextDecoder();
  if (peer.ended) return failed(`the server ended: ${peer.last_words}`);
  try {
    return JSON.parse(text.decode(out.stdout));
  } catch {
    return failed(`load ended with status ${out.code}: ${text.decode(out.stderr).trim()}`);
  }
}

async function run_scenario(
  scenario: Scenario,
  peers: Peers,
  options: { names: readonly string[]; rounds: number; seconds: number; quiet: boolean },
): Promise<ScenarioRuns> {
  const all = options.names.map((peer): PeerRuns => ({ peer, missing: "", runs: [] }));
  const args = [...scenario.args, `measure_ms=${Math.round(options.seconds * 1000)}`];
  // Connecting, draining and leaving come on top; a million devices take minutes to connect.
  const extra_ms = scenario.hold_ms + (scenario.fleet ? 3_600_000 : 60_000);
  for (let round = 1; round <= options.rounds; round++) {
    for (const one of all) {
      if (!options.quiet) {
        await progress(`${scenario.name} round ${round}/${options.rounds} ${one.peer}`);
      }
      const peer = await peers.get(one.peer);
      one.missing = peers.missing.get(one.peer) ?? "";
      if (!peer) continue;
      one.runs.push(await run_load(peer, args, options.seconds * 1000 + extra_ms));
      if (scenario.fleet || peer.ended) await peers.stop(one.peer);
    }
  }
  if (!options.quiet) await progress("");
  return { name: scenario.name, title: scenario.title, fleet: scenario.fleet, peers: all };
}

/** Shows what is going on where a person watches; a log gets nothing. */
async function progress(line: string): Promise<void> {
  if (!Deno.stderr.isTerminal()) return;
  await Deno.stderr.write(new TextEncoder().encode(`\r\x1b[K${line}`));
}

async function bench(args: string[]): Promise<number> {
  if (Deno.build.os !== "linux") throw new UsageError("Cannot run the benchmark: it needs Linux");
  const { values, positionals } = read_flags(args);
  if (values.help) {
    console.log(await help());
    return 0;
  }
  const scenarios = choose_scenarios(positionals, values);
  const chosen = values.peers?.split(",").map((name) => find_kind(name).name);
  const peers = new Peers(values.longwire ?? Deno.env.get("LONGWIRE_BENCH_COMMAND"));
  await ensure_program("load");
  const interrupted = () => void peers.stop_all().finally(() => Deno.exit(130));
  Deno.addSignalListener("SIGINT", interrupted);
  Deno.addSignalListener("SIGTERM", interrupted);
  const results: ScenarioRuns[] = [];
  try {
    for (const scenario of scenarios) {
      const options = {
        names: chosen ?? scenario.peers,
        rounds: number_of("rounds", values.rounds ?? (scenario.fleet ? "1" : "3"), 1, 1000),
        seconds: number_of("seconds", values.seconds ?? (scenario.fleet ? "10" : "1"), 0.1, 3600),
        quiet: values.json,
      };
      const result = await run_scenario(scenario, peers, options);
      if (!values.json) print_table(result);
      results.push(result);
    }
  } finally {
    await peers.stop_all();
    Deno.removeSignalListener("SIGINT", interrupted);
    Deno.removeSignalListener("SIGTERM", interrupted);
  }
  const machine = await machine_line();
  const versions = Object.fromEntries(peers.versions);
  if (values.json) console.log(JSON.stringify({ machine, versions, scenarios: results }, null, 2));
  else print_footer(machine, versions);
  return results.some(longwire_failed) ? 1 : 0;
}

/** The comment that this file opens with. */
async function help(): Promise<string> {
  const source = await Deno.readTextFile(new URL(import.meta.url));
  return source.slice("/**\n".length, source.indexOf(" */")).replaceAll(/^ \*( |$)/gm, "");
}

function print_footer(machine: string, versions: Record<string, string>): void {
  for (const [name, version] of Object.entries(versions)) {
    const about = find_kind(name).about;
    console.log(`${name}: ${version ? `${version}; ` : ""}${about}`);
  }
  console.log(`machine: ${machine}`);
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
