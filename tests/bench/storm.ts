/**
 * The scenario `storm`: a fleet of Longwire devices (the C client of deploy/device) loses its
 * server at one instant, which comes back after some seconds. How the devices arrive is counted for
 * the backoff without jitter, with the protocol's and with full jitter; each device checks that it
 * gets every message once, those published while it was away too.
 */
import { any_compiler, device_parts, ensure_program, sanitizers } from "../native/build.ts";
import { Program } from "../support/process.ts";
import { Service } from "../support/service.ts";
import { fleet_settings } from "./run.ts";

/** Devices of one process: it has as many descriptors. */
const process_devices = 10_000;
const down_ms = 5000;
/** Published before the server is killed, and again as soon as it is back. */
const half_messages = 5;
const timeout_s = 110;
const bucket_ms = 100;

const jitters = [
  ["none", ["-DLONGWIRE_JITTER_PERCENT=0u"]],
  ["1 to 1.3", []],
  ["full", ["-DLONGWIRE_FULL_JITTER"]],
] as const;

/** What one process of the fleet says in the end. */
interface Fleet {
  readonly begin_ms: number;
  /** When the first device had lost its server. */
  readonly lost_ms: number;
  readonly complete: number;
  readonly deliveries: number;
  readonly lost: number;
  readonly twice: number;
  readonly attempts: readonly number[];
  readonly welcomes: readonly number[];
}

export interface StormRow {
  readonly jitter: string;
  readonly devices: number;
  /** Attempts to connect in each 100 ms since the server was killed. */
  readonly attempts: readonly number[];
  /** Devices welcomed in each 100 ms. */
  readonly welcomes: readonly number[];
  readonly complete: number;
  readonly deliveries: number;
  readonly lost: number;
  readonly twice: number;
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function fleet_program(jitter: string, flags: readonly string[]): Promise<string> {
  return await ensure_program({
    program: "storm",
    variant: jitter.replaceAll(/\W+/g, "_"),
    compilers: any_compiler,
    flags: [...sanitizers.none, ...device_parts.flags, ...flags],
    sources: device_parts.sources,
  });
}

/** Adds the buckets of all processes, from `from_ms` of the monotonic clock on. */
function merge(fleets: readonly Fleet[], name: "attempts" | "welcomes", from_ms: number): number[] {
  const sum: number[] = [];
  for (const fleet of fleets) {
    for (const [i, count] of fleet[name].entries()) {
      const at = Math.floor((fleet.begin_ms + i * bucket_ms - from_ms) / bucket_ms);
      if (at >= 0 && count > 0) sum[at] = (sum[at] ?? 0) + count;
    }
  }
  return Array.from(sum, (count) => count ?? 0);
}

async function publish(service: Service, from: number): Promise<void> {
  for (let i = 0; i < half_messages; i++) {
    const { status } = await service.publish("storm", String(from + i));
    if (status !== 200) throw new Error(`Cannot publish: ${status}`);
  }
}

async function run_storm(
  jitter: string,
  flags: readonly string[],
  devices: number,
): Promise<StormRow> {
  const path = await fleet_program(jitter, flags);
  const data = await Deno.makeTempDir();
  const settings = (await fleet_settings(devices)).split(" ").filter((word) => word !== "");
  let service = await Service.start({ data, args: settings });
  const { host, port } = service.device;
  try {
    const programs: Program[] = [];
    for (let first = 0; first < devices; first += process_devices) {
      const count = Math.min(process_devices, devices - first);
      const sizes = [`devices=${count}`, `first=${first}`, `messages=${2 * half_messages}`];
      const args = [`port=${port}`, ...sizes, `timeout_s=${timeout_s}`, `seed=${first + 7}`];
      programs.push(new Program(path, args));
    }
    for (const { stdout } of programs) {
      let line = await stdout.next(60_000);
      while (line !== "ready") {
        if (line === undefined) throw new Error("the fleet ended before it was there");
        line = await stdout.next(60_000);
      }
    }
    await publish(service, 0);
    await pause(1000);
    await service.kill();
    await pause(down_ms);
    service = await Service.start({ data, args: settings, device: `${host}:${port}` });
    await publish(service, half_messages);
    const fleets: Fleet[] = [];
    for (const program of programs) {
      const line = await program.stdout.next(timeout_s * 1000);
      if (line === undefined) throw new Error("the fleet ended without a result");
      fleets.push(JSON.parse(line));
    }
    const lost_ms = Math.min(...fleets.map((fleet) => fleet.lost_ms));
    const sum = (name: "complete" | "deliveries" | "lost" | "twice") =>
      fleets.reduce((total, fleet) => total + fleet[name], 0);
    return {
      jitter,
      devices,
      attempts: merge(fleets, "attempts", lost_ms),
      welcomes: merge(fleets, "welcomes", lost_ms),
      complete: sum("complete"),
      deliveries: sum("deliveries"),
      lost: sum("lost"),
      twice: sum("twice"),
    };
  } finally {
    await service.kill();
    await Deno.remove(data, { recursive: true });
  }
}

/** @param only a jitter's name; "" = all */
export async function storm(devices: number, only: string): Promise<readonly StormRow[]> {
  const rows: StormRow[] = [];
  for (const [jitter, flags] of jitters) {
    if (jitter.includes(only)) rows.push(await run_storm(jitter, flags, devices));
  }
  return rows;
}

export function print_storm(rows: readonly StormRow[]): void {
  console.log(
    "| jitter | devices | most attempts in 100 ms | most welcomes in 100 ms | " +
      "all back after | messages | lost | twice |",
  );
  console.log("|---|---|---|---|---|---|---|---|");
  for (const { jitter, devices, attempts, welcomes, deliveries, lost, twice } of rows) {
    const back_s = `${(welcomes.length * bucket_ms / 1000).toFixed(1)} s`;
    const peaks = [Math.max(...attempts), Math.max(...welcomes)];
    console.log(`| ${[jitter, devices, ...peaks, back_s, deliveries, lost, twice].join(" | ")} |`);
  }
  for (const { jitter, attempts } of rows) {
    const curve: number[] = [];
    for (let i = 0; i < attempts.length; i += 5) {
      curve.push(attempts.slice(i, i + 5).reduce((sum, count) => sum + count, 0));
    }
    console.log(`attempts in each 0.5 s, jitter ${jitter}: ${curve.join(" ")}`);
  }
}
