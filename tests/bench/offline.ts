/**
 * The scenario `offline`: a log and cursors instead of a queue for each device that is away. What
 * publishing to a million such devices costs is measured against a thousand; then some of them
 * return at once, and load.c checks that each gets all it missed, in order and once.
 */
import { ensure_program } from "./build.ts";
import { fill_sessions } from "./fill.ts";
import { number_of, UsageError, type Values } from "./flags.ts";
import { file_bytes, resident_bytes } from "./footprint.ts";
import { launch_longwire, type Peer, type PeerKind } from "./peers.ts";
import { Probe, type Stalls } from "./probe.ts";
import type { LoadResult } from "./report.ts";
import { fleet_settings, type Peers, progress } from "./run.ts";

const prefix = "device";
const topic = "fleet/news";
const payload_bytes = 200;
/** Messages of one POST. */
const batch_messages = 10;
/** What a million is compared with. */
const sessions_few = 1000;
/** Time without any progress after which the return is given up. */
const stall_ms = 30_000;

/** Publishing to sessions that are away. */
export interface OfflineRun {
  readonly sessions: number;
  readonly fill_s: number;
  /** From the start of the service until it accepts connections. */
  readonly ready_s: number;
  readonly resident_bytes: number;
  /** What the sessions take on disk. */
  readonly filled_bytes: number;
  readonly publish_s: number;
  /** Of one request of several messages: median. */
  readonly request_ms: number;
  /** By how much the files grew. */
  readonly grown_bytes: number;
  readonly stalls: Stalls;
}

export interface OfflineResult {
  readonly messages: number;
  readonly returning: number;
  /** Why fewer return than was asked for; "" = none less. */
  readonly note: string;
  /** "" = nothing went wrong. */
  readonly problem: string;
  readonly runs: readonly OfflineRun[];
  readonly resume: LoadResult;
  readonly resume_stalls: Stalls;
  readonly resident_bytes_after: number;
}

/** Longwire on a store with so many sessions; `filled` is told how long that took. */
function kind_with(sessions: number, filled: (seconds: number) => void): PeerKind {
  return {
    name: `longwire with ${sessions} sessions`,
    about: "",
    launch: async (port, directory, options) => {
      const data = `${directory}/data`;
      const started = performance.now();
      await fill_sessions(data, sessions, prefix, topic);
      filled((performance.now() - started) / 1000);
      return launch_longwire(port, data, options);
    },
  };
}

async function data_bytes(peer: Peer): Promise<number> {
  const sizes = await file_bytes(`${peer.directory}/data`);
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

/** As load.c expects it: sequence, a time that nobody looks at, the pattern. */
function payload_of(sequence: number): string {
  const payload = Uint8Array.from({ length: payload_bytes }, (_, at) => at < 16 ? 0 : at * 31 + 7);
  new DataView(payload.buffer).setBigUint64(0, BigInt(sequence), true);
  return payload.toBase64();
}

/** Publishes messages in order, a request after the other; answers the milliseconds of each. */
async function publish(peer: Peer, messages: number): Promise<number[]> {
  const url = `http://${peer.http_address}/v1/publish`;
  const took_ms: number[] = [];
  for (let first = 0; first < messages; first += batch_messages) {
    const count = Math.min(batch_messages, messages - first);
    const items = Array.from({ length: count }, (_, n) => {
      return { topic, qos: 1, payload_base64: payload_of(first + n) };
    });
    const body = JSON.stringify(items);
    const started = performance.now();
    const response = await fetch(url, { method: "POST", body });
    const results = await response.json();
    took_ms.push(performance.now() - started);
    const is_stored = Array.isArray(results) && results.every(({ offset }) => offset > 0);
    if (!is_stored) throw new Error(`Cannot publish: ${JSON.stringify(results).slice(0, 200)}`);
  }
  return took_ms;
}

async function measure_publish(
  sessions: number,
  messages: number,
  start: (kind: PeerKind) => Promise<Peer>,
): Promise<[Peer, OfflineRun]> {
  let fill_s = 0;
  const peer = await start(kind_with(sessions, (seconds) => fill_s = seconds));
  const filled_bytes = await data_bytes(peer);
  const resident = await resident_bytes(peer.pid);
  const probe = await Probe.start(peer.http_address!);
  const started = performance.now();
  const took_ms = await publish(peer, messages);
  const publish_s = (performance.now() - started) / 1000;
  const run = {
    sessions,
    fill_s,
    ready_s: peer.ready_s,
    resident_bytes: resident,
    filled_bytes,
    publish_s,
    request_ms: took_ms.sort((a, b) => a - b)[took_ms.length >> 1]!,
    grown_bytes: await data_bytes(peer) - filled_bytes,
    stalls: await probe.end(),
  };
  return [peer, run];
}

/** Runs load.c on devices of the fleet. */
async function resume(peer: Peer, ...args: string[]): Promise<LoadResult> {
  const common = ["resume", `prefix=${prefix}`, `topic=${topic}`, "qos=1", "connecting_max=1000"];
  common.push(`payload_bytes=${payload_bytes}`, `stall_ms=${stall_ms}`);
  // A fleet has processors of its own: where it shares them, the service must not wait for it, or
  // the stalls of its event loop would be the generator's.
  common.push("nice=10");
  const out = await new Deno.Command(await ensure_program("load"), {
    args: [...common, ...args, `server=${peer.address}`, `pids=${peer.pid}`],
    signal: AbortSignal.timeout(1_800_000),
  }).output();
  const text = new TextDecoder();
  try {
    return JSON.parse(text.decode(out.stdout));
  } catch {
    throw new Error(`load ended with status ${out.code}: ${text.decode(out.stderr).trim()}`);
  }
}

/** As many as the service lets in, by its own words. */
function admitted(peer: Peer, wanted: number): [count: number, note: string] {
  const limit = Number(/at most (\d+) connections/.exec(peer.last_words)?.[1] ?? Infinity) - 200;
  if (wanted <= limit) return [wanted, ""];
  return [limit, `${limit} return, not ${wanted}: more connections the service does not hold here`];
}

async function measure_return(
  peer: Peer,
  sessions: number,
  messages: number,
  wanted: number,
): Promise<Omit<OfflineResult, "runs" | "messages">> {
  const [returning, note] = admitted(peer, wanted);
  // They are not neighbours in the store.
  const fleet = `id_step=${Math.max(1, Math.floor(sessions / returning))}`;
  const probe = await Probe.start(peer.http_address!);
  const all = [`devices=${returning}`, "processes=2", fleet];
  const result = await resume(peer, ...all, `messages=${messages}`);
  const resume_stalls = await probe.end();
  const resident_bytes_after = await resident_bytes(peer.pid);
  let { problem } = result;
  // What was acknowledged must not come again.
  if (problem === "") {
    const again = await resume(peer, `devices=${Math.min(returning, 1000)}`, fleet, "messages=0");
    if (!again.ok) problem = `when they returned again: ${again.problem}`;
  }
  return { returning, note, problem, resume: result, resume_stalls, resident_bytes_after };
}

/** Runs it; `peers` stops what is left when something goes wrong. */
export async function offline(values: Values, peers: Peers): Promise<OfflineResult> {
  const sessions = number_of("sessions", values.sessions, 1, 10_000_000);
  const messages = number_of("messages", values.messages, 1, 1_000_000);
  const wanted = number_of("returning", values.returning, 1, 4_000_000);
  if (wanted > sessions) throw new UsageError("Cannot return more devices than there are sessions");
  const settings = peers.options.settings ?? await fleet_settings(wanted);
  const start = (kind: PeerKind) => peers.start(kind, { settings });
  const say = (line: string) => values.json ? Promise.resolve() : progress(`offline: ${line}`);
  await say(`${sessions_few} sessions`);
  const [few, few_run] = await measure_publish(sessions_few, messages, start);
  await few.stop();
  await say(`${sessions} sessions`);
  const [many, many_run] = await measure_publish(sessions, messages, start);
  await say(`${wanted} devices return`);
  const returned = await measure_return(many, sessions, messages, wanted);
  await say("");
  await many.stop();
  return { messages, runs: [few_run, many_run], ...returned };
}
