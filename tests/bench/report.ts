/**
 * Turns the runs of a scenario into a table for people. Pure but for reading what machine this is.
 */
/** What load.c prints; which fields there are depends on its mode. */
export interface LoadResult {
  readonly ok: boolean;
  readonly problem: string;
  readonly latency_us: { readonly p50: number; readonly p99: number; readonly max: number };
  readonly [number: string]: unknown;
}

/** Every run of one peer in one scenario, in the order of rounds. */
export interface PeerRuns {
  readonly peer: string;
  /** Why there are no runs; "" = there are. */
  missing: string;
  readonly runs: LoadResult[];
}

/** A scenario with its results. */
export interface ScenarioRuns {
  readonly name: string;
  readonly title: string;
  readonly fleet: boolean;
  readonly peers: readonly PeerRuns[];
}

/** What the others are measured by, where it takes part. */
const yardsticks = ["mosquitto", "raw"] as const;

/** NaN when there is nothing to take it of. */
export function median(values: readonly number[]): number {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return NaN;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function field(run: LoadResult | undefined, name: string): number {
  const value = run?.ok ? run[name] : undefined;
  return typeof value === "number" ? value : NaN;
}

/** A field of every run that went well. */
function fields(runs: readonly LoadResult[], name: string): number[] {
  return runs.map((run) => field(run, name)).filter(Number.isFinite);
}

/** Median over the rounds of what two peers did in the same round. */
export function ratio(of: PeerRuns, to: PeerRuns | undefined, name: string): number {
  return median(of.runs.map((run, round) => field(run, name) / field(to?.runs[round], name)));
}

function rounded(value: number, digits: number): string {
  if (!Number.isFinite(value)) return "-";
  return value.toLocaleString("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

function percent(share: number, digits: number): string {
  return Number.isFinite(share) ? `${rounded(share * 100, digits)}%` : "-";
}

/** Latencies of the median run, in milliseconds. */
function latency_ms(runs: readonly LoadResult[], name: "p50" | "p99" | "max"): string {
  return rounded(median(runs.filter((run) => run.ok).map((run) => run.latency_us[name])) / 1000, 2);
}

type Column = readonly [title: string, cell: (peer: PeerRuns, all: ScenarioRuns) => string];

const peer_column: Column = ["peer", (peer) => peer.peer];

function median_column(title: string, name: string, digits: number, scale = 1): Column {
  return [title, ({ runs }) => rounded(median(fields(runs, name)) * scale, digits)];
}

const ratio_columns = yardsticks.map((yardstick): Column => [
  `x ${yardstick}`,
  (peer, all) =>
    rounded(ratio(peer, all.peers.find((one) => one.peer === yardstick), "deliveries_per_s"), 2),
]);

const generator_column: Column = [
  "generator",
  ({ runs }) => {
    const shares = runs.map((run) => field(run, "generator_cpu_s") / field(run, "seconds"));
    return percent(median(shares), 0);
  },
];

const stream_columns: readonly Column[] = [
  peer_column,
  median_column("deliveries/s", "deliveries_per_s", 0),
  ["min - max", ({ runs }) => {
    const all = fields(runs, "deliveries_per_s");
    return `${rounded(Math.min(...all), 0)} - ${rounded(Math.max(...all), 0)}`;
  }],
  median_column("server us/delivery", "server_cpu_us_per_delivery", 2),
  ["P50 ms", ({ runs }) => latency_ms(runs, "p50")],
  ["P99 ms", ({ runs }) => latency_ms(runs, "p99")],
  generator_column,
  ...ratio_columns,
];

const fleet_columns: readonly Column[] = [
  peer_column,
  median_column("connects/s", "connects_per_s", 0),
  median_column("bytes/device", "server_rss_bytes_per_device", 0),
  ["idle CPU", ({ runs }) => {
    // Without a time of holding there is nothing to divide by.
    const held = runs.filter((run) => field(run, "hold_s") > 0.1);
    const shares = held.map((run) => field(run, "hold_server_cpu_s") / field(run, "hold_s"));
    return percent(median(shares), 1);
  }],
  median_column("deliveries/s", "deliveries_per_s", 0),
  median_column("server us/delivery", "server_cpu_us_per_delivery", 2),
  ["P50 ms", ({ runs }) => latency_ms(runs, "p50")],
  ["P99 ms", ({ runs }) => latency_ms(runs, "p99")],
  ["max ms", ({ runs }) => latency_ms(runs, "max")],
  median_column("late ms", "late_us_max", 1, 1e-3),
  generator_column,
];

function print_rows(rows: readonly (readonly string[])[]): void {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  for (const row of rows) {
    const cells = row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)
    );
    console.log(`  ${cells.join("  ").trimEnd()}`);
  }
}

/** One table, with a line below it for each peer that failed or is missing. */
export function print_table(scenario: ScenarioRuns): void {
  const columns = scenario.fleet ? fleet_columns : stream_columns;
  const present = scenario.peers.filter(({ runs }) => runs.some((run) => run.ok));
  console.log(scenario.title);
  print_rows([
    columns.map(([title]) => title),
    ...present.map((peer) => columns.map(([, cell]) => cell(peer, scenario))),
  ]);
  for (const { peer, missing, runs } of scenario.peers) {
    if (missing) console.log(`  ${peer}: ${missing}`);
    const failed = runs.filter((run) => !run.ok);
    if (failed.length === 0) continue;
    console.log(`  ${peer}: ${failed.length} of ${runs.length} failed: ${failed[0]!.problem}`);
  }
  console.log();
}

/** Kernel, processor and cores. */
export async function machine_line(): Promise<string> {
  let model = "unknown processor";
  try {
    // Deno itself opens /proc only to those who may do everything.
    const out = await new Deno.Command("cat", { args: ["/proc/cpuinfo"] }).output();
    model = /^model name\s*:\s*(.+)$/m.exec(new TextDecoder().decode(out.stdout))?.[1] ?? model;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return `Linux ${Deno.osRelease()}, ${model}, ${navigator.hardwareConcurrency} cores`;
}
