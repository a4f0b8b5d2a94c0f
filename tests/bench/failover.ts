/**
 * What devices notice when a part of a cluster fails: three nodes, three members of etcd, three
 * servers of NATS, all on this machine, devices with steady QoS 1 traffic, a message each 50 ms. Of
 * each failure: the longest time that a device got nothing in the six seconds after it, and until
 * all get their messages again, their first retry included; what was acknowledged and never came;
 * what came to a device twice.
 */
import { TestCluster } from "../support/cluster.ts";
import { eventually, type Service } from "../support/service.ts";
import { number_of, type Values } from "./flags.ts";
import { Device, Publisher } from "./failover_fleet.ts";
import { print_rows, rounded } from "./report.ts";

const publish_interval_ms = 50;
const patience_ms = 30_000;
const watched_ms = 6000;
const node_names = ["a", "b", "c"];

export interface FailoverRun {
  readonly failure: string;
  readonly devices: number;
  /** The longest silence of a device, milliseconds, over all devices of all runs. */
  readonly p50_ms: number;
  readonly p99_ms: number;
  readonly worst_ms: number;
  readonly lost: number;
  readonly repeated: number;
  /** The slowest publish, retries included. */
  readonly publish_ms: number;
}

/** Breaks something; answers what mends it. */
type Failure = (cluster: TestCluster, round: number) => Promise<() => Promise<void>>;

async function restart_node(cluster: TestCluster, index: number): Promise<void> {
  cluster.nodes[index] = await cluster.start_node(node_names[index]!);
  await cluster.settled(cluster.nodes.length);
}

async function etcd_leader(cluster: TestCluster): Promise<number> {
  const states = await Promise.all(cluster.etcd.members.map(async ({ address }) => {
    const url = `http://${address}/v3/maintenance/status`;
    const { header, leader } = await (await fetch(url, { method: "POST", body: "{}" })).json();
    return header.member_id === leader;
  }));
  return Math.max(0, states.indexOf(true));
}

const failures: Readonly<Record<string, Failure>> = {
  "kill -9 a node": async (cluster, round) => {
    const index = round % cluster.nodes.length;
    await cluster.nodes[index]!.kill();
    return () => restart_node(cluster, index);
  },
  "freeze a node": (cluster, round) => {
    const { pid } = cluster.nodes[round % cluster.nodes.length]!.program;
    Deno.kill(pid, "SIGSTOP");
    return Promise.resolve(async () => {
      Deno.kill(pid, "SIGCONT");
      await cluster.settled(cluster.nodes.length);
    });
  },
  "kill the etcd leader": async (cluster) => {
    const member = cluster.etcd.members[await etcd_leader(cluster)]!;
    await member.program.end("SIGKILL");
    return () => Promise.resolve(member.restart());
  },
  "kill a NATS server": async (cluster, round) => {
    const member = cluster.nats.members[round % cluster.nats.members.length]!;
    await member.program.end("SIGKILL");
    return () => Promise.resolve(member.restart());
  },
  "restart all of etcd": async ({ etcd }) => {
    await Promise.all(etcd.members.map(({ program }) => program.end("SIGKILL")));
    for (const member of etcd.members) member.restart();
    return () => Promise.resolve();
  },
};

async function run_failure(
  name: string,
  cluster: TestCluster,
  device_count: number,
  rounds: number,
): Promise<FailoverRun> {
  const times: number[] = [];
  let lost = 0;
  let repeated = 0;
  let publish_ms = 0;
  for (let round = 0; round < rounds; round++) {
    const nodes: readonly Service[] = [...cluster.nodes];
    const run = crypto.randomUUID().slice(0, 8);
    const devices = Array.from({ length: device_count }, (_, n) => {
      return new Device(`${run}-${n}`, nodes, n);
    });
    await eventually("devices are ready", () => {
      return Promise.resolve(devices.every(({ ready }) => ready));
    }, patience_ms);
    const publisher = new Publisher(nodes, publish_interval_ms);
    const checks = setInterval(() => {
      for (const device of devices) device.check(performance.now());
    }, 100);
    await eventually("traffic", () => {
      return Promise.resolve(devices.every(({ seen }) => seen.size > 5));
    }, patience_ms);
    publisher.slowest_ms = 0;
    const begin_ms = performance.now();
    for (const device of devices) device.begin();
    const mend = await failures[name]!(cluster, round);
    await eventually(`all are back after: ${name}`, () => {
      const now_ms = performance.now();
      const is_over = now_ms - begin_ms > watched_ms;
      return Promise.resolve(is_over && devices.every((device) => device.is_served(now_ms)));
    }, patience_ms);
    for (const { silence_ms } of devices) times.push(silence_ms);
    await mend();
    await publisher.close();
    const has_all = ({ seen }: Device) =>
      publisher.acknowledged.every((number) => seen.has(number));
    await eventually("all have all", () => Promise.resolve(devices.every(has_all)), 5000)
      .catch(() => {}); // then it is lost, and counted
    clearInterval(checks);
    for (const device of devices) {
      for (const number of publisher.acknowledged) if (!device.seen.has(number)) lost++;
      repeated += device.repeated;
      device.close();
    }
    publish_ms = Math.max(publish_ms, publisher.slowest_ms);
  }
  times.sort((a, b) => a - b);
  const at = (share: number) =>
    times[Math.min(times.length - 1, Math.floor(times.length * share))]!;
  const rest = { lost, repeated, publish_ms, devices: device_count };
  return { failure: name, p50_ms: at(0.5), p99_ms: at(0.99), worst_ms: at(1), ...rest };
}

/** Every failure in turn, on one cluster; those whose name contains --only. */
export async function failover(values: Values): Promise<FailoverRun[]> {
  const device_count = number_of("fleet", values.fleet, 1, 10_000);
  const rounds = number_of("rounds", values.rounds ?? "3", 1, 100);
  await using cluster = await TestCluster.start(3, 3);
  const runs: FailoverRun[] = [];
  for (const name of Object.keys(failures)) {
    if (!name.includes(values.only ?? "")) continue;
    runs.push(await run_failure(name, cluster, device_count, rounds));
    if (!values.json) console.log(`  ${name}: worst ${rounded(runs.at(-1)!.worst_ms, 0)} ms`);
  }
  return runs;
}

export function print_failover(runs: readonly FailoverRun[]): void {
  console.log("failover: three nodes, three members of etcd, three servers of NATS");
  print_rows([
    ["failure", "devices", "P50 ms", "P99 ms", "worst ms", "lost", "repeated", "publish ms"],
    ...runs.map((run) => [
      run.failure,
      rounded(run.devices, 0),
      rounded(run.p50_ms, 0),
      rounded(run.p99_ms, 0),
      rounded(run.worst_ms, 0),
      rounded(run.lost, 0),
      rounded(run.repeated, 0),
      rounded(run.publish_ms, 0),
    ]),
  ]);
}
