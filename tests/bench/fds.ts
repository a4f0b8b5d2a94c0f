/**
 * The scenario `fds`: how long it takes to read the descriptors of a process, by our scan and by
 * the walk that anybody would write (readDir and readLink), over the same entries.
 */
import { ensure_program } from "./build.ts";

/** Milliseconds; undefined = not measured. */
export interface FdsRow {
  readonly name: string;
  /** Their numbers, which is what the service compares with what it holds. */
  readonly scan_ms: number;
  /** Also what each of them is. */
  readonly kinds_ms?: number;
  readonly naive_sync_ms?: number;
  readonly naive_ms?: number;
}

const real_count = 19_000;
const synthetic_count = 1_000_000;

/** One run of fds.c; `meanwhile` is given what it has made. */
async function run<T>(
  args: readonly string[],
  meanwhile: (pid: number) => Promise<T>,
): Promise<{ scan_ms: number; kinds_ms: number; found: number } & T> {
  const child = new Deno.Command(await ensure_program("fds"), {
    args: [...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value = "" } = await reader.read();
  const others = value === "" ? undefined : await meanwhile(child.pid);
  await child.stdin.close();
  const problem = (await new Response(child.stderr).text()).trim();
  await reader.cancel();
  await child.status;
  if (others === undefined) throw new Error(`Cannot measure ${args.join(" ")}: ${problem}`);
  return { ...JSON.parse(value), ...others };
}

/** /proc is not for programs with less than every permission. */
async function naive(directory: string, how: "sync" | "async", sockets: number): Promise<number> {
  const path = decodeURIComponent(new URL("fds_naive.ts", import.meta.url).pathname);
  const args = ["run", "--quiet", "--allow-all", path, directory, how];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  const text = new TextDecoder();
  if (stdout.length === 0) throw new Error(`Cannot walk ${directory}: ${text.decode(stderr)}`);
  const found = JSON.parse(text.decode(stdout));
  if (found.sockets !== sockets) throw new Error(`${found.sockets} sockets instead of ${sockets}`);
  return found.ms;
}

export async function fds(): Promise<FdsRow[]> {
  const rows: FdsRow[] = [];
  const parsed = await run(["parse", `${synthetic_count}`], () => Promise.resolve({}));
  rows.push({ name: "1,000,000 entries in memory", scan_ms: parsed.scan_ms });
  const directory = "/dev/shm";
  const place = `${directory}/longwire_fds_${Deno.pid}`;
  const walk = (where: string, count: number) => async () => ({
    naive_sync_ms: await naive(where, "sync", count),
    naive_ms: await naive(where, "async", count),
  });
  const links = ["directory", `${synthetic_count}`, place];
  rows.push({
    name: "1,000,000 links in a tmpfs",
    ...await run(links, walk(place, synthetic_count)),
  });
  const sockets = ["sockets", `${real_count}`];
  const walk_sockets = (pid: number) => walk(`/proc/${pid}/fd`, real_count)();
  rows.push({ name: "19,000 sockets of a process", ...await run(sockets, walk_sockets) });
  return rows;
}

function cell(ms: number | undefined): string {
  return (ms === undefined || ms === 0 ? "" : `${ms.toFixed(ms < 100 ? 1 : 0)} ms`).padStart(12);
}

export function print_fds(rows: readonly FdsRow[]): void {
  console.log("\nfds: reading descriptors; ours is the best of seven, the walk is one run");
  const heads = ["numbers", "and kinds", "walk, sync", "walk, async"];
  console.log(" ".repeat(30) + heads.map((head) => head.padStart(12)).join(""));
  for (const { name, scan_ms, kinds_ms, naive_sync_ms, naive_ms } of rows) {
    const cells = [scan_ms, kinds_ms, naive_sync_ms, naive_ms].map(cell);
    console.log(name.padEnd(30) + cells.join(""));
  }
}
