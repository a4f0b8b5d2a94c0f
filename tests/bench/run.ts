/** Runs scenarios: peers in turn, round after round, load.c against each. */
import { ensure_program } from "./build.ts";
import { UsageError } from "./flags.ts";
import { available_bytes, descriptors_max, heap_of } from "./footprint.ts";
import { run_handshakes } from "./handshakes.ts";
import { NotInstalled, Peer, peer_kinds, peer_version } from "./peers.ts";
import type { PeerKind, PeerOptions } from "./peers.ts";
import { Probe } from "./probe.ts";
import type { LoadResult, PeerRuns, ScenarioRuns } from "./report.ts";
import type { Scenario } from "./scenarios.ts";

/** @throws UsageError when there is no such peer */
export function find_kind(name: string): PeerKind {
  const kind = peer_kinds.find((kind) => kind.name === name);
  if (kind) return kind;
  const known = peer_kinds.map((kind) => kind.name).join(", ");
  throw new UsageError(`Unknown peer "${name}": expected ${known}`);
}

/** The peers that are running, started when they are first needed. */
export class Peers {
  #running = new Map<string, Peer>();
  /** Peers that cannot be started, and why. */
  readonly missing = new Map<string, string>();
  readonly versions = new Map<string, string>();
  constructor(readonly options: PeerOptions) {}

  /** The peer, running or ended; undefined = it cannot be had, and `missing` says why. */
  async get(name: string, scenario: Scenario): Promise<Peer | undefined> {
    if (this.missing.has(name)) return undefined;
    const old = this.#running.get(name);
    if (old) return old;
    const kind = find_kind(name);
    try {
      this.versions.set(name, await peer_version(kind));
      const { is_inspected, fleet_devices } = scenario;
      const settings = this.options.settings ?? await fleet_settings(fleet_devices);
      const peer = await this.start(kind, { is_inspected, settings });
      if (scenario.has_keeper) await leave_keeper(peer);
      return peer;
    } catch (error) {
      const { message } = error as Error;
      this.missing.set(name, error instanceof NotInstalled ? message : `cannot start: ${message}`);
      return undefined;
    }
  }

  /** Starts one that stop_all() stops, if nobody did before. */
  async start(kind: PeerKind, options: PeerOptions): Promise<Peer> {
    const peer = await Peer.start(kind, { ...this.options, ...options });
    this.#running.set(kind.name, peer);
    return peer;
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

/** Descriptors of a process that are not devices. */
const descriptors_reserved = 1000;
/** What Longwire must be told to hold more devices than one process has descriptors. */
export async function fleet_settings(devices: number): Promise<string> {
  const descriptors = await descriptors_max();
  if (devices <= descriptors - descriptors_reserved) return "";
  return `--max_connections ${Math.ceil(devices * 1.02) + 1000}`;
}

const text = new TextDecoder();

/** Connects a device that subscribes to all that is published, and goes away for good. */
async function leave_keeper(peer: Peer): Promise<void> {
  const args = ["resume", "devices=1", "present=0", "prefix=keeper", "topic=bench/+/+", "qos=1"];
  const out = await new Deno.Command(await ensure_program("load"), {
    args: [...args, "messages=0", `server=${peer.address}`],
  }).output();
  if (!out.success) throw new Error(`no session for the device that is away: ${out.code}`);
}

const no_latency = { p50: NaN, p99: NaN, max: NaN };

function failed(problem: string): LoadResult {
  return { ok: false, problem, latency_us: no_latency };
}

/** Calls `on_held` when load.c says that all devices are there; answers everything it says. */
async function read_words(
  stream: ReadableStream<Uint8Array>,
  on_held: () => Promise<void>,
): Promise<string> {
  let words = "";
  for await (const bytes of stream) {
    words += text.decode(bytes, { stream: true });
    if (!words.includes("held\n")) continue;
    words = words.replace("held\n", "");
    await on_held();
  }
  return words.trim();
}

/** Runs load.c once. It ends by itself; the signal is for the day when it does not. */
async function run_load(
  peer: Peer,
  scenario: Scenario,
  args: readonly string[],
  ms_max: number,
): Promise<LoadResult> {
  if (peer.ended) return failed(`the server ended between runs: ${peer.last_words}`);
  const address = scenario.over === "http" ? peer.http_address : peer.address;
  if (address === undefined) return failed("it has no HTTP");
  const { inspect_port } = peer.launch;
  const look = async () => ({
    heap: inspect_port === undefined ? NaN : (await heap_of(inspect_port)).total,
    available: await available_bytes(),
  });
  const before = scenario.fleet_devices > 0 ? await look() : undefined;
  let held = before;
  const program = scenario.over === "tls" ? "load_tls" : "load";
  const child = new Deno.Command(await ensure_program(program), {
    args: [...args, `server=${address}`, `pids=${peer.pid}`],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(ms_max),
  }).spawn();
  const [out, words, { code }] = await Promise.all([
    new Response(child.stdout).text(),
    read_words(child.stderr, async () => void (held = await look())),
    child.status,
  ]);
  if (peer.ended) return failed(`the server ended: ${peer.last_words}`);
  let result: LoadResult;
  try {
    result = JSON.parse(out);
  } catch {
    return failed(`load ended with status ${code}: ${words}`);
  }
  if (before === undefined || held === undefined) return result;
  return {
    ...result,
    heap_bytes_per_device: (held.heap - before.heap) / scenario.fleet_devices,
    machine_bytes_per_device: (before.available - held.available) / scenario.fleet_devices,
  };
}

/** The same with an eye on the event loop, where that can be had. */
async function run_probed(
  peer: Peer,
  scenario: Scenario,
  args: readonly string[],
  ms_max: number,
): Promise<LoadResult> {
  if (!scenario.is_probed || peer.ended || peer.http_address === undefined) {
    return await run_load(peer, scenario, args, ms_max);
  }
  const probe = await Probe.start(peer.http_address);
  const result = await run_load(peer, scenario, args, ms_max);
  if (peer.ended) {
    await probe.end().catch(() => {}); // it has nobody to ask
    return result;
  }
  const { answer_us, late_us } = await probe.end();
  return {
    ...result,
    stall_us_max: answer_us.max,
    stall_us_p99: answer_us.p99,
    probe_late_us_max: late_us.max,
  };
}

/** How a run goes, where the person who started it chose. */
export interface RunOptions {
  readonly names: readonly string[];
  readonly rounds: number;
  readonly seconds: number;
  readonly quiet: boolean;
}

export async function run_scenario(
  scenario: Scenario,
  peers: Peers,
  options: RunOptions,
): Promise<ScenarioRuns> {
  const all = options.names.map((peer): PeerRuns => ({ peer, missing: "", runs: [] }));
  const { name, title, table, fleet_devices } = scenario;
  const args = [...scenario.args, `measure_ms=${Math.round(options.seconds * 1000)}`];
  // Connecting, draining and leaving come on top; a million devices take minutes to connect.
  const extra_ms = scenario.hold_ms + 120_000 + 1.2 * fleet_devices;
  for (let round = 1; round <= options.rounds; round++) {
    // To and fro: who comes after whom makes a difference on a machine that is busy.
    for (const one of round % 2 === 1 ? all : all.toReversed()) {
      if (!options.quiet) await progress(`${name} round ${round}/${options.rounds} ${one.peer}`);
      const peer = await peers.get(one.peer, scenario);
      one.missing = peers.missing.get(one.peer) ?? "";
      if (!peer) continue;
      const run = scenario.over === "handshakes"
        ? run_handshakes(peer, scenario.args, Math.ceil(options.seconds))
        : run_probed(peer, scenario, args, options.seconds * 1000 + extra_ms);
      one.runs.push(await run);
      if (fleet_devices > 0 || peer.ended) await peers.stop(one.peer);
    }
  }
  if (!options.quiet) await progress("");
  return { name, title, table, peers: all };
}

/** Shows what is going on where a person watches; a log gets nothing. */
export async function progress(line: string): Promise<void> {
  if (!Deno.stderr.isTerminal()) return;
  await Deno.stderr.write(new TextEncoder().encode(`\r\x1b[K${line}`));
}
