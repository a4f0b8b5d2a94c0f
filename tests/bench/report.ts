/** Turns the runs of a scenario into a table for people. Pure. */
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

/** Which columns a scenario is shown with. */
export type TableKind =
  | "stream"
  | "overhead"
  | "backends"
  | "durable"
  | "http"
  | "fleet"
  | "handshakes";

/** A scenario with its results. */
export interface ScenarioRuns {
  readonly name: string;
  readonly title: string;
  readonly table: TableKind;
  readonly peers: readonly PeerRuns[];
}

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
export function ratio(
  of: Pick<PeerRuns, "runs">,
  to: Pick<PeerRuns, "runs"> | undefined,
  name: string,
): number {
  return median(of.runs.map((run, round) => field(run, name) / field(to?.runs[round], name)));
}

/** Between which ratios the median of many more rounds would lie, 19 times of 20. */
function ratio_range(of: PeerRuns, to: PeerRuns | undefined, name: string): [number, number] {
  const ratios = of.runs.map((run, round) => field(run, name) / field(to?.runs[round], name))
    .filter(Number.isFinite).sort((a, b) => a - b);
  // Order statistics of a binomial distribution with p = 1/2.
  const half = 0.98 * Math.sqrt(ratios.length);
  const low = Math.max(0, Math.floor(ratios.length / 2 - half));
  const high = Math.min(ratios.length - 1, Math.ceil(ratios.length / 2 + half));
  return [ratios[low] ?? NaN, ratios[high] ?? NaN];
}

export function rounded(value: number, digits: number): string {
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

/** What the others are measured by, where it takes part. */
function ratio_column(yardstick: string): Column {
  return [`x ${yardstick}`, (peer, all) => {
    const names = [yardstick, `${yardstick}-tls`];
    const other = all.peers.find((one) => names.includes(one.peer));
    return rounded(ratio(peer, other, "deliveries_per_s"), 2);
  }];
}

const min_max_column: Column = ["min - max", ({ runs }) => {
  const all = fields(runs, "deliveries_per_s");
  return `${rounded(Math.min(...all), 0)} - ${rounded(Math.max(...all), 0)}`;
}];

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
  min_max_column,
  median_column("server us/delivery", "server_cpu_us_per_delivery", 2),
  ["P50 ms", ({ runs }) => latency_ms(runs, "p50")],
  ["P99 ms", ({ runs }) => latency_ms(runs, "p99")],
  generator_column,
  ratio_column("mosquitto"),
  ratio_column("raw"),
];

/** What measuring costs: against the peer that does not, round by round, and how sure that is. */
function overhead_column(title: string, name: string): Column {
  return [title, (peer, all) => {
    const other = all.peers.find((one) => one.peer === "longwire-unmeasured");
    const [low, high] = ratio_range(peer, other, name);
    return `${rounded(ratio(peer, other, name), 3)} (${rounded(low, 2)}-${rounded(high, 2)})`;
  }];
}

const overhead_columns: readonly Column[] = [
  peer_column,
  median_column("deliveries/s", "deliveries_per_s", 0),
  min_max_column,
  median_column("server us/delivery", "server_cpu_us_per_delivery", 3),
  overhead_column("x deliveries/s", "deliveries_per_s"),
  overhead_column("x server us", "server_cpu_us_per_delivery"),
];

const backend_columns: readonly Column[] = [
  peer_column,
  median_column("deliveries/s", "deliveries_per_s", 0),
  min_max_column,
  median_column("server us/delivery", "server_cpu_us_per_delivery", 2),
  median_column("calls/delivery", "server_syscalls_per_delivery", 4),
  ["P99 ms", ({ runs }) => latency_ms(runs, "p99")],
  generator_column,
];

/** A delivery here is the acknowledgement of a publish. */
const durable_columns: readonly Column[] = [
  peer_column,
  median_column("publishes/s", "deliveries_per_s", 0),
  min_max_column,
  median_column("server us/publish", "server_cpu_us_per_delivery", 1),
  ["P50 ms", ({ runs }) => latency_ms(runs, "p50")],
  ["P99 ms", ({ runs }) => latency_ms(runs, "p99")],
  ["max ms", ({ runs }) => latency_ms(runs, "max")],
  // The worst of all rounds, and how late the probe itself woke in its worst.
  ["stall ms", ({ runs }) => rounded(Math.max(...fields(runs, "stall_us_max")) / 1000, 1)],
  ["machine ms", ({ runs }) => rounded(Math.max(...fields(runs, "probe_late_us_max")) / 1000, 1)],
  generator_column,
  ratio_column("mosquitto-persistent"),
  ratio_column("nats"),
];

const http_columns: readonly Column[] = [
  peer_column,
  median_column("messages/s", "deliveries_per_s", 0),
  min_max_column,
  median_column("server us/message", "server_cpu_us_per_delivery", 2),
  ["P50 ms", ({ runs }) => latency_ms(runs, "p50")],
  ["P99 ms", ({ runs }) => latency_ms(runs, "p99")],
  generator_column,
  ratio_column("bare"),
];

const fleet_columns: readonly Column[] = [
  peer_column,
  median_column("connects/s", "connects_per_s", 0),
  median_column("bytes/device", "server_rss_bytes_per_device", 0),
  median_column("of it JS", "heap_bytes_per_device", 0),
  median_column("both ends", "machine_bytes_per_device", 0),
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

const handshake_columns: readonly Column[] = [
  peer_column,
  median_column("handshakes/s", "handshakes_per_s", 0),
  median_column("server us/handshake", "server_cpu_us_per_handshake", 0),
  ["x openssl", (peer, all) => {
    const bound = all.peers.find((one) => one.peer === "openssl");
    return rounded(ratio(peer, bound, "handshakes_per_s"), 2);
  }],
];

const columns_of: Readonly<Record<TableKind, readonly Column[]>> = {
  stream: stream_columns,
  overhead: overhead_columns,
  backends: backend_columns,
  durable: durable_columns,
  http: http_columns,
  fleet: fleet_columns,
  handshakes: handshake_columns,
};

/** Columns side by side, the first one to the left. */
export function print_rows(rows: readonly (readonly string[])[]): void {
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
  const columns = columns_of[scenario.table];
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
