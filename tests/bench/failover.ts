/**
 * What devices notice when a part of a cluster fails: three nodes on hosts of their own (network
 * namespaces; mutual TLS between them), three members of etcd, three servers of NATS, all in this
 * machine; MQTT devices and one Longwire client for nine of them, each with a message of QoS 1
 * every 200 ms. Of each failure: the longest time, in the seconds after it, that a device got
 * nothing, which ends when it has found another node and gets its messages again, its first retry
 * included; what was acknowledged and never came; what came twice.
 */
import { can_make_hosts } from "../support/hosts.ts";
import { HostCluster } from "../support/host_cluster.ts";
import { number_of, UsageError, type Values } from "./flags.ts";
import { Fleet, type FleetState, Publisher } from "./failover_fleet.ts";
import { print_rows, rounded } from "./report.ts";

const topics = 10;
const publish_interval_ms = 200;
const patience_ms = 60_000;
/** A device that was turned away is told again to go where it belongs. */
const home_again_ms = 5000;
/** What nodes said last is shown when something takes for ever. */
const log_lines = 20;
/** Of these, one is a Longwire client. */
const longwire_in = 10;

export interface FailoverRun {
  readonly failure: string;
  readonly devices: number;
  readonly rounds: number;
  /** The longest silence of a device, milliseconds, over all devices of all rounds. */
  readonly p50_ms: number;
  readonly p99_ms: number;
  readonly worst_ms: number;
  /** Of the rounds: their worst. */
  readonly worsts_ms: readonly number[];
  readonly lost: number;
  /** QoS 1 over MQTT comes at least once. */
  readonly mqtt_repeated: number;
  /** To applications. */
  readonly longwire_repeated: number;
  readonly wrong: number;
  /** The slowest publish, retries included. */
  readonly publish_ms: number;
}

interface Failure {
  readonly name: string;
  /** How long is looked at what devices get. */
  readonly watched_ms: number;
  /** Breaks something; answers what mends it. */
  readonly begin: (cluster: HostCluster, round: number) => Promise<() => Promise<void>>;
}

async function etcd_leader({ etcd }: HostCluster): Promise<number> {
  const states = await Promise.all(etcd.members.map(async ({ address }) => {
    const url = `http://${address}/v3/maintenance/status`;
    const { header, leader } = await (await fetch(url, { method: "POST", body: "{}" })).json();
    return header.member_id === leader;
  }));
  return Math.max(0, states.indexOf(true));
}

const failures: readonly Failure[] = [
  {
    name: "kill -9 a node",
    watched_ms: 3000,
    begin: async (cluster, round) => {
      const index = round % cluster.nodes.length;
      await cluster.nodes[index]!.kill();
      return async () => void (cluster.nodes[index] = await cluster.start_node(index));
    },
  },
  {
    name: "freeze a node (SIGSTOP)",
    watched_ms: 5000,
    begin: (cluster, round) => {
      const { pid } = cluster.nodes[round % cluster.nodes.length]!.program;
      Deno.kill(pid, "SIGSTOP");
      return Promise.resolve(() => Promise.resolve(Deno.kill(pid, "SIGCONT")));
    },
  },
  {
    name: "cut a node's network",
    watched_ms: 5000,
    begin: async ({ hosts, nodes }, round) => {
      const index = round % nodes.length;
      await hosts.cut(index);
      return () => hosts.mend(index);
    },
  },
  {
    name: "kill -9 the etcd leader",
    watched_ms: 4000,
    begin: async (cluster) => {
      const member = cluster.etcd.members[await etcd_leader(cluster)]!;
      await member.program.end("SIGKILL");
      return () => Promise.resolve(member.restart());
    },
  },
  {
    name: "restart all of etcd",
    watched_ms: 5000,
    begin: async ({ etcd }) => {
      await Promise.all(etcd.members.map(({ program }) => program.end("SIGKILL")));
      for (const member of etcd.members) member.restart();
      return () => Promise.resolve();
    },
  },
  {
    name: "kill -9 a NATS server",
    watched_ms: 8000,
    begin: async ({ nats }, round) => {
      const member = nats.members[round % nats.members.length]!;
      await member.program.end("SIGKILL");
      return () => Promise.resolve(member.restart());
    },
  },
];

/** A cluster with everybody who uses it. */
interface Stage {
  readonly cluster: HostCluster;
  readonly fleets: readonly Fleet[];
  readonly publishers: readonly Publisher[];
}

/** Waits until all devices of all fleets are so at the same moment; "home": sends them there. */
async function wait_for_all(
  what: string,
  { fleets }: Stage,
  ...names: readonly (keyof FleetState)[]
): Promise<void> {
  let seen = "";
  let asked_ms = -Infinity;
  const check = async () => {
    if (names.includes("home") && performance.now() - asked_ms > home_again_ms) {
      asked_ms = performance.now();
      await Promise.all(fleets.map((fleet) => fleet.home()));
    }
    const states = await Promise.all(fleets.map((fleet) => fleet.state()));
    seen = JSON.stringify(states);
    return states.every((state, index) => {
      return names.every((name) => state[name] === fleets[index]!.options.devices);
    });
  };
  await wait_for(() => `${what}: ${seen}`, check);
}

/** What was acknowledged and did not come: how many, and which to whom. */
async function lost_of({ fleets, publishers }: Stage, firsts: readonly number[]) {
  let count = 0;
  const examples: string[] = [];
  for (const fleet of fleets) {
    for (const publisher of publishers) {
      const { topic } = publisher;
      for (const [first, last] of publisher.stored(firsts[topic]!)) {
        const found = await fleet.lost(topic, first, last);
        count += found.lost;
        const { kind } = fleet.options;
        examples.push(...found.examples.map((text) => `${kind} topic ${topic}: ${text}`));
      }
    }
  }
  return { count, examples };
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Like eventually(), but asking so seldom that it costs those who are measured nothing. */
async function wait_for(
  what: () => string,
  check: () => Promise<boolean>,
  limit_ms = patience_ms,
): Promise<void> {
  const ends_ms = performance.now() + limit_ms;
  while (!await check()) {
    if (performance.now() > ends_ms) throw new Error(`not within ${limit_ms} ms: ${what()}`);
    await pause(100);
  }
}

/** One failure, from a cluster that is whole to one that is whole again. */
async function run_round(stage: Stage, failure: Failure, round: number) {
  const { cluster, fleets, publishers } = stage;
  await cluster.etcd.ready(patience_ms);
  await cluster.nats.ready(patience_ms);
  await cluster.settled(patience_ms);
  await wait_for_all("all devices are at their nodes", stage, "subscribed", "served", "home");
  const firsts = publishers.map(({ acknowledged }) => acknowledged + 1);
  for (const publisher of publishers) publisher.slowest_ms = 0;
  await Promise.all(fleets.map((fleet) => fleet.begin()));
  const begin_ms = performance.now();
  const mend = await failure.begin(cluster, round);
  await pause(failure.watched_ms - (performance.now() - begin_ms));
  await wait_for_all(`all are back after: ${failure.name}`, stage, "subscribed", "served");
  const reports = await Promise.all(fleets.map((fleet) => fleet.report()));
  const publish_ms = Math.max(...publishers.map(({ slowest_ms }) => slowest_ms));
  await mend();
  for (const publisher of publishers) publisher.paused = true;
  // What does not come by then is lost, and counted.
  const has_all = async () => (await lost_of(stage, firsts)).count === 0;
  await wait_for(() => "all have all", has_all, 10_000)
    .catch(() => {});
  const lost = await lost_of(stage, firsts);
  for (const publisher of publishers) publisher.paused = false;
  return { reports, lost, publish_ms };
}

async function run_failure(
  stage: Stage,
  failure: Failure,
  rounds: number,
  say: (text: string) => void,
): Promise<FailoverRun> {
  const times: number[] = [];
  const worsts_ms: number[] = [];
  const sums = { lost: 0, mqtt_repeated: 0, longwire_repeated: 0, wrong: 0, publish_ms: 0 };
  for (let round = 0; round < rounds; round++) {
    const { reports, lost, publish_ms } = await run_round(stage, failure, round);
    const [mqtt, longwire] = reports;
    const all = reports.flatMap(({ silences_ms }) => silences_ms);
    times.push(...all);
    const worst_of = (report = mqtt!) => report.silences_ms.reduce((a, b) => Math.max(a, b), 0);
    worsts_ms.push(Math.max(...reports.map(worst_of)));
    sums.lost += lost.count;
    sums.mqtt_repeated += mqtt!.repeated;
    sums.longwire_repeated += longwire!.repeated;
    sums.wrong += mqtt!.wrong + longwire!.wrong;
    sums.publish_ms = Math.max(sums.publish_ms, publish_ms);
    const each = `${worst_of(mqtt)} ms (MQTT), ${worst_of(longwire)} ms (Longwire)`;
    const moved = mqtt!.reconnects + longwire!.reconnects;
    say(
      `  ${failure.name}, round ${
        round + 1
      }: worst ${each}, ${moved} reconnects, ${lost.count} lost`,
    );
    for (const example of lost.examples) say(`    lost: ${example}`);
  }
  times.sort((a, b) => a - b);
  const at = (share: number) =>
    times[Math.min(times.length - 1, Math.floor(times.length * share))]!;
  const devices = stage.fleets.reduce((sum, { options }) => sum + options.devices, 0);
  const silences = { p50_ms: at(0.5), p99_ms: at(0.99), worst_ms: at(1), worsts_ms };
  return { failure: failure.name, devices, rounds, ...silences, ...sums };
}

/** Every failure in turn, on one cluster; those whose name contains --only. */
export async function failover(values: Values): Promise<FailoverRun[]> {
  const device_count = number_of("fleet", values.fleet, longwire_in, 50_000);
  const rounds = number_of("rounds", values.rounds ?? "10", 1, 100);
  if (!can_make_hosts) throw new UsageError("Cannot run failover: hosts are made by root on Linux");
  const chosen = failures.filter(({ name }) => name.includes(values.only ?? ""));
  await using cluster = await HostCluster.start(3, { servers: 3 });
  const longwire_count = Math.floor(device_count / longwire_in);
  const { nodes, token, headers } = cluster;
  const addresses = (kind: "mqtt" | "device") =>
    nodes.map((node) => `${node[kind].host}:${node[kind].port}`);
  const devices = device_count - longwire_count;
  const all = { topics, token };
  await using mqtt = await Fleet.start({
    kind: "mqtt",
    devices,
    servers: addresses("mqtt"),
    ...all,
  });
  await using longwire = await Fleet.start({
    kind: "longwire",
    devices: longwire_count,
    servers: addresses("device"),
    ...all,
  });
  const places = nodes.map(({ http }) => http);
  const publishers = Array.from({ length: topics }, (_, topic) => {
    return new Publisher(topic, places, headers, publish_interval_ms);
  });
  const stage = { cluster, fleets: [mqtt, longwire], publishers };
  const runs: FailoverRun[] = [];
  try {
    for (const failure of chosen) {
      const say = (text: string) => values.json || console.log(text);
      runs.push(await run_failure(stage, failure, rounds, say));
    }
  } catch (error) {
    for (const { log } of nodes) console.error(log.slice(-log_lines).join("\n"));
    console.error(longwire.program.stderr.seen.slice(-log_lines).join("\n"));
    throw error;
  } finally {
    await Promise.all(publishers.map((publisher) => publisher.close()));
  }
  return runs;
}

export function print_failover(runs: readonly FailoverRun[]): void {
  console.log(
    "failover: three nodes on hosts of their own, three members of etcd, three servers of NATS; " +
      `each device gets a message every ${publish_interval_ms} ms`,
  );
  print_rows([
    [
      ...["failure", "devices", "rounds", "P50 ms", "P99 ms", "worst ms", "lost", "twice (MQTT)"],
      ...["twice (Longwire)", "publish ms"],
    ],
    ...runs.map((run) => [
      run.failure,
      rounded(run.devices, 0),
      rounded(run.rounds, 0),
      rounded(run.p50_ms, 0),
      rounded(run.p99_ms, 0),
      rounded(run.worst_ms, 0),
      rounded(run.lost, 0),
      rounded(run.mqtt_repeated, 0),
      rounded(run.longwire_repeated, 0),
      rounded(run.publish_ms, 0),
    ]),
  ]);
}
