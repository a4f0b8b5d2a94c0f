/** Turns what offline.ts measured into tables for people. Pure. */
import type { OfflineResult, OfflineRun } from "./offline.ts";
import { print_rows, rounded } from "./report.ts";

type Column<Row> = readonly [title: string, cell: (row: Row) => string];

const run_columns: readonly Column<OfflineRun>[] = [
  ["sessions", ({ sessions }) => rounded(sessions, 0)],
  ["filled s", ({ fill_s }) => rounded(fill_s, 1)],
  ["start s", ({ ready_s }) => rounded(ready_s, 2)],
  ["RSS MB", ({ resident_bytes }) => rounded(resident_bytes / 1e6, 0)],
  ["on disk MB", ({ filled_bytes }) => rounded(filled_bytes / 1e6, 1)],
  ["publish s", ({ publish_s }) => rounded(publish_s, 3)],
  ["P50 ms", ({ request_ms }) => rounded(request_ms, 2)],
  ["grown kB", ({ grown_bytes }) => rounded(grown_bytes / 1e3, 0)],
  ["stall ms", ({ stalls }) => rounded(stalls.answer_us.max / 1000, 1)],
  ["machine ms", ({ stalls }) => rounded(stalls.late_us.max / 1000, 1)],
];

function number_in(result: OfflineResult, name: string): number {
  const value = result.resume[name];
  return typeof value === "number" ? value : NaN;
}

const resume_columns: readonly Column<OfflineResult>[] = [
  ["devices", (all) => rounded(number_in(all, "complete"), 0)],
  ["all have all after s", (all) => rounded(number_in(all, "seconds"), 2)],
  ["device P50 s", ({ resume }) => rounded(resume.latency_us.p50 / 1e6, 2)],
  ["deliveries/s", (all) => rounded(number_in(all, "deliveries_per_s"), 0)],
  ["server us/delivery", (all) => rounded(number_in(all, "server_cpu_us_per_delivery"), 2)],
  ["lost", (all) => rounded(number_in(all, "lost"), 0)],
  ["repeated", (all) => rounded(number_in(all, "duplicates"), 0)],
  ["stall ms", ({ resume_stalls }) => rounded(resume_stalls.answer_us.max / 1000, 1)],
  ["stall P99 ms", ({ resume_stalls }) => rounded(resume_stalls.answer_us.p99 / 1000, 1)],
  ["machine ms", ({ resume_stalls }) => rounded(resume_stalls.late_us.max / 1000, 1)],
  ["RSS MB", ({ resident_bytes_after }) => rounded(resident_bytes_after / 1e6, 0)],
];

function print_columns<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): void {
  print_rows([
    columns.map(([title]) => title),
    ...rows.map((row) => columns.map(([, cell]) => cell(row))),
  ]);
}

/** What the second of two runs came to, measured by the first. */
function ratios(few: OfflineRun, many: OfflineRun): string {
  const names = ["publish_s", "request_ms", "grown_bytes"] as const;
  const [seconds, median, disk] = names.map((name) => rounded(many[name] / few[name], 2));
  return `publish ${seconds}, P50 ${median}, grown ${disk}`;
}

export function print_offline(result: OfflineResult): void {
  const { messages, runs, note, problem } = result;
  console.log(`offline: ${messages} messages to a filter that all sessions share, all away`);
  print_columns(run_columns, runs);
  console.log(`  ratio of the second to the first: ${ratios(runs[0]!, runs[1]!)}`);
  console.log();
  console.log(`offline: ${result.returning} devices return at once, each for ${messages} messages`);
  print_columns(resume_columns, [result]);
  if (note !== "") console.log(`  ${note}`);
  if (problem !== "") console.log(`  failed: ${problem}`);
  console.log();
}
