/**
 * The scenario `cluster`: what one more node costs or gains on the same cores. Nodes on loopback,
 * three members of etcd, three servers of NATS (JetStream with three replicas); beside them a node
 * alone with SQLite. The generator spreads its connections over the nodes; a device that is away
 * has subscribed to everything, so every publish of QoS 1 is kept for somebody.
 *
 * Rounds go to and fro (alone 1 2 3, 3 2 1 alone, ...): nodes come and go, the rest stays.
 */
import { connect } from "@nats-io/transport-node";
import { jetstreamManager } from "@nats-io/jetstream";
import { TestCluster } from "../support/cluster.ts";
import type { Servers } from "../support/cluster_programs.ts";
import { Service } from "../support/service.ts";
import { ensure_program } from "./build.ts";
import { number_of, type Values } from "./flags.ts";
import { cpu_ms } from "./footprint.ts";
import { type LoadResult, median, print_rows, ratio, rounded } from "./report.ts";
import { progress } from "./run.ts";

const node_counts = [0, 1, 2, 3]; // 0 = a node alone
const servers = 3;
const payload_bytes = 100;
/** Until every node knows of the subscriptions at the others. */
const settle_ms = 500;
const run_ms_max = 30_000;

const loads = [
  ["publish", "stored publishes/s", ["publish", "qos=1", "publishers=48", "window=16"]],
  ["fanout-qos1", "QoS 1 deliveries/s", ["fanout", "qos=1", "subscribers=1000", "window=64"]],
  ["fanout-qos0", "QoS 0 deliveries/s", ["fanout", "qos=0", "subscribers=1000", "window=64"]],
] as const;

/** One load on so many nodes. */
export interface ClusterRow {
  readonly load: string;
  readonly unit: string;
  /** 0 = a node alone, with SQLite. */
  readonly nodes: number;
  readonly runs: LoadResult[];
  /** CPU time of NATS and etcd in each run, microseconds a delivery, warm-up included. */
  readonly others_us: number[];
}

const text = new TextDecoder();

async function run_load(nodes: readonly Service[], args: readonly string[]): Promise<LoadResult> {
  const places = nodes.map(({ mqtt }) => `${mqtt.host}:${mqtt.port}`).join(",");
  const pids = nodes.map(({ program }) => program.pid).join(",");
  const { stdout, stderr, code } = await new Deno.Command(await ensure_program("load"), {
    args: [...args, `payload_bytes=${payload_bytes}`, `server=${places}`, `pids=${pids}`],
    signal: AbortSignal.timeout(run_ms_max),
  }).output();
  if (stdout.length > 0) return JSON.parse(text.decode(stdout));
  throw new Error(`load ended with status ${code}: ${text.decode(stderr)}`);
}

/** Connects a device that subscribes to all that is published, and goes away for good. */
async function leave_keeper(node: Service): Promise<void> {
  const who = ["resume", "devices=1", "present=0", "prefix=keeper", "topic=bench/+/+"];
  const { ok, problem } = await run_load([node], [...who, "qos=1", "messages=0"]);
  if (!ok && problem !== "no message arrived") {
    throw new Error(`no device that is away: ${problem}`);
  }
}

async function cpu_of(programs: readonly Servers[]): Promise<number> {
  const pids = programs.flatMap(({ members }) => members.map(({ program }) => program.pid));
  return (await Promise.all(pids.map(cpu_ms))).reduce((sum, ms) => sum + ms, 0);
}

/** The least that any stream has. */
async function replicas(nats: Servers): Promise<number> {
  const connection = await connect({ servers: nats.members.map(({ address }) => address) });
  const counts: number[] = [];
  for await (const { config } of (await jetstreamManager(connection)).streams.list()) {
    counts.push(config.num_replicas);
  }
  await connection.close();
  return Math.min(...counts);
}

/** Ends or starts nodes until there are so many, which see each other. */
async function resize(cluster: TestCluster, count: number): Promise<void> {
  const { nodes } = cluster;
  while (nodes.length > count) await nodes.pop()!.stop();
  while (nodes.length < count) {
    nodes.push(await cluster.start_node(String.fromCharCode(97 + nodes.length)));
  }
  await cluster.settled(count);
}

/** Every load on so many nodes, once. */
async function run_loads(
  rows: readonly ClusterRow[],
  nodes: readonly Service[],
  programs: readonly Servers[],
  measure_ms: number,
): Promise<void> {
  for (const row of rows) {
    const args = loads.find(([name]) => name === row.load)![2];
    const before_ms = await cpu_of(programs);
    const times = [`measure_ms=${measure_ms}`, `hold_ms=${settle_ms}`];
    const run = await run_load(nodes, [...args, ...times]);
    row.runs.push(run);
    row.others_us.push((await cpu_of(programs) - before_ms) * 1000 / Number(run.deliveries_all));
  }
}

export async function cluster(values: Values): Promise<ClusterRow[]> {
  const rounds = number_of("rounds", values.rounds ?? "3", 1, 100);
  const measure_ms = Math.round(number_of("seconds", values.seconds ?? "1", 0.1, 60) * 1000);
  const rows = loads.filter(([name]) => name.includes(values.only ?? "")).flatMap(
    ([load, unit]) => node_counts.map((nodes) => ({ load, unit, nodes, runs: [], others_us: [] })),
  );
  const data = await Deno.makeTempDir({ prefix: "longwire-bench-" });
  await using together = await TestCluster.start(1, servers);
  try {
    const found = await replicas(together.nats);
    if (found !== servers) throw new Error(`a stream has ${found} replicas, not ${servers}`);
    await leave_keeper(together.nodes[0]!);
    for (let round = 1; round <= rounds; round++) {
      for (const count of round % 2 === 1 ? node_counts : node_counts.toReversed()) {
        if (!values.json) await progress(`cluster round ${round}/${rounds} ${count} nodes`);
        const mine = rows.filter(({ nodes }) => nodes === count);
        if (count > 0) {
          await resize(together, count);
          await run_loads(mine, together.nodes, [together.nats, together.etcd], measure_ms);
          continue;
        }
        await using alone = await Service.start({ data: `${data}/${round}` });
        await leave_keeper(alone);
        await run_loads(mine, [alone], [], measure_ms);
      }
    }
  } finally {
    await Deno.remove(data, { recursive: true });
  }
  if (!values.json) await progress("");
  return rows;
}

export function print_cluster(rows: readonly ClusterRow[]): void {
  console.log(
    `cluster: ${servers} members of etcd, ${servers} servers of NATS, streams with ${servers} ` +
      `replicas; ${payload_bytes} bytes; us of CPU are those of a publish or delivery`,
  );
  const cells = rows.map((row) => {
    const { load, unit, nodes, runs, others_us } = row;
    const one = rows.find((other) => other.load === load && other.nodes === 1);
    const well = runs.filter(({ ok }) => ok);
    const of = (name: string) => well.map((run) => Number(run[name]));
    const rates = of("deliveries_per_s");
    const shares = well.map((run) => Number(run.generator_cpu_s) / Number(run.seconds));
    return [
      unit,
      nodes === 0 ? "alone, SQLite" : `${nodes}`,
      rounded(median(rates), 0),
      `${rounded(Math.min(...rates), 0)} - ${rounded(Math.max(...rates), 0)}`,
      rounded(ratio(row, one, "deliveries_per_s"), 2),
      rounded(median(of("server_cpu_us_per_delivery")), 2),
      rounded(median(others_us.filter((_, index) => runs[index]!.ok)), 2),
      rounded(median(well.map((run) => run.latency_us.p50)) / 1000, 1),
      `${rounded(median(shares) * 100, 0)}%`,
    ];
  });
  const titles = [
    "",
    "nodes",
    "median",
    "min - max",
    "x 1 node",
    "nodes us",
    "NATS, etcd us",
    "P50 ms",
  ];
  print_rows([[...titles, "generator"], ...cells]);
  for (const { load, nodes, runs } of rows) {
    const failed = runs.filter(({ ok }) => !ok);
    if (failed.length === 0) continue;
    const many = `${failed.length} of ${runs.length} failed`;
    console.log(
      `  ${load}, ${nodes} nodes: ${many}: ${failed.map((run) => run.problem).join("; ")}`,
    );
  }
}
