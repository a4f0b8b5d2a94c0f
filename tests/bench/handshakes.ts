/**
 * TLS handshakes a second, by `openssl s_time`: several at once, each of which connects and
 * connects again. To resume it must read a ticket first, which it does only when it asks for a
 * page: that is no MQTT, so a broker ends the connection, at a cost of its own.
 */
import { cpu_ms } from "./footprint.ts";
import type { Peer } from "./peers.ts";
import type { LoadResult } from "./report.ts";

const clients = 4;
/** Long enough to be a whole packet, whatever its first bytes announce. */
const page = `/${"x".repeat(200)}`;
const no_latency = { p50: NaN, p99: NaN, max: NaN };
const text = new TextDecoder();

/** Connections of one s_time, which stops between `seconds` and a second later. */
async function run_client(address: string, seconds: number, args: readonly string[]) {
  const asks = args.includes("-reuse") ? ["-www", page] : [];
  const all = ["s_time", "-connect", address, "-time", `${seconds}`, "-tls1_3", ...asks];
  const began_ms = performance.now();
  const out = await new Deno.Command("openssl", { args: [...all, ...args] }).output();
  const took_s = (performance.now() - began_ms) / 1000;
  const printed = text.decode(out.stdout);
  // The last such line is of what was measured; one before it makes the session to resume.
  const count = [...printed.matchAll(/^(\d+) connections in \d+ real seconds/gm)].at(-1)?.[1];
  const marks = printed.match(/[*tr]{2,}/g)?.join("") ?? "";
  const is_resumed = /r{2}/.test(marks);
  return { per_s: Number(count ?? NaN) / took_s, count: Number(count ?? NaN), is_resumed };
}

/** Runs them against a peer. @param args `-new`, or `-reuse` for handshakes with a ticket */
export async function run_handshakes(
  peer: Peer,
  args: readonly string[],
  seconds: number,
): Promise<LoadResult> {
  const before_ms = await cpu_ms(peer.pid);
  const runs = await Promise.all(
    Array.from({ length: clients }, () => run_client(peer.address, seconds, args)),
  );
  const used_ms = await cpu_ms(peer.pid) - before_ms;
  const sum = (values: readonly number[]) => values.reduce((all, each) => all + each, 0);
  const count = sum(runs.map((run) => run.count));
  const is_as_asked = runs.every(({ is_resumed }) => is_resumed === args.includes("-reuse"));
  const ok = count > 0 && is_as_asked && !peer.ended;
  return {
    ok,
    problem: ok ? "" : `${count} handshakes${is_as_asked ? "" : ", not all as was asked"}`,
    latency_us: no_latency,
    handshakes_per_s: sum(runs.map(({ per_s }) => per_s)),
    server_cpu_us_per_handshake: used_ms * 1000 / count,
  };
}
