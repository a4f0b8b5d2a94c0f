/**
 * The measuring instrument itself: load.c must pass what is right and must notice whatever a server
 * can do wrong, or its figures mean nothing.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ensure_program } from "./build.ts";
import { Peer, peer_kinds } from "./peers.ts";
import { median, ratio } from "./report.ts";
import type { LoadResult, PeerRuns } from "./report.ts";

async function run_load(address: string, ...args: string[]): Promise<LoadResult> {
  const out = await new Deno.Command(await ensure_program("load"), {
    args: [...args, `server=${address}`],
    signal: AbortSignal.timeout(60_000),
  }).output();
  const result: LoadResult = JSON.parse(new TextDecoder().decode(out.stdout));
  assertEquals(out.code, result.ok ? 0 : 1);
  return result;
}

/** Both programs are written for epoll: elsewhere there is nothing to test. */
const ignore = Deno.build.os !== "linux";

Deno.test("load.c passes what raw.c delivers, in every mode", { ignore }, async (t) => {
  const kind = peer_kinds.find(({ name }) => name === "raw")!;
  const peer = await Peer.start(kind, {});
  try {
    for (const qos of [0, 1]) {
      for (const window of [1, 7]) {
        for (const mode of ["fanout", "pairs"]) {
          await t.step(`${mode} QoS ${qos} window ${window}`, async () => {
            const sizes = ["subscribers=20", "pairs=20", "messages=50", "payload_bytes=1000"];
            const how = [`qos=${qos}`, `window=${window}`];
            const result = await run_load(peer.address, mode, ...sizes, ...how);
            assertEquals([result.problem, result["deliveries_all"]], ["", 20 * 50]);
            assertEquals(result["lost"], 0);
            assert(result.latency_us.max > 0);
          });
        }
      }
      await t.step(`hold QoS ${qos} in two processes`, async () => {
        const sizes = ["devices=60", "processes=2", "rate_per_s=200", "measure_ms=300"];
        const how = [`qos=${qos}`, "ping_s=1", "hold_ms=1100"];
        const result = await run_load(peer.address, "hold", ...sizes, ...how);
        assertEquals([result.problem, result["ready"]], ["", 62]);
        assert(Number(result["pongs"]) >= 60);
        assertEquals(result["deliveries"], result["messages"]);
      });
    }
  } finally {
    await peer.stop();
  }
});

Deno.test("load.c gives its connections to several servers in turn", { ignore }, async () => {
  const kind = peer_kinds.find(({ name }) => name === "raw")!;
  const peers = await Promise.all([Peer.start(kind, {}), Peer.start(kind, {})]);
  try {
    // raw.c knows nothing of the other: of an even number, a pair is at one of them.
    const places = peers.map(({ address }) => address).join(",");
    const sizes = ["messages=50", "qos=1", "hold_ms=1", "stall_ms=500"];
    const even = await run_load(places, "pairs", ...sizes, "pairs=20");
    assertEquals([even.problem, even["deliveries_all"]], ["", 20 * 50]);
    const odd = await run_load(places, "pairs", ...sizes, "pairs=1");
    assertEquals([odd.ok, odd["deliveries_all"]], [false, 0]);
  } finally {
    await Promise.all(peers.map((peer) => peer.stop()));
  }
});

const payload_bytes = 32;

/** What a server makes of three messages on their way to the subscriber. */
type Fault = (publishes: Uint8Array[]) => (Uint8Array | "close")[];

/** An MQTT server for one publisher, one subscriber and three short messages. */
class FaultyServer implements AsyncDisposable {
  #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  #subscriber: Deno.Conn | undefined;
  #publishes: Uint8Array[] = [];
  #connections: Promise<void>[] = [];
  #serving: Promise<void>;

  constructor(private readonly fault: Fault) {
    this.#serving = this.#serve();
  }

  get address(): string {
    return `127.0.0.1:${(this.#listener.addr as Deno.NetAddr).port}`;
  }

  async #serve(): Promise<void> {
    for await (const conn of this.#listener) this.#connections.push(this.#talk(conn));
  }

  async #talk(conn: Deno.Conn): Promise<void> {
    let rest = new Uint8Array();
    try {
      for await (const bytes of conn.readable) {
        rest = new Uint8Array([...rest, ...bytes]);
        // Every packet here is shorter than 128 bytes: its length is the second one.
        while (rest.length >= 2 && rest.length >= 2 + rest[1]!) {
          await this.#answer(conn, rest.slice(0, 2 + rest[1]!));
          rest = rest.slice(2 + rest[1]!);
        }
      }
    } catch { /* the load generator closes a broken run as it likes */ }
  }

  async #answer(conn: Deno.Conn, packet: Uint8Array): Promise<void> {
    const type = packet[0]! >> 4;
    if (type === 1) await conn.write(new Uint8Array([0x20, 2, 0, 0]));
    if (type === 8) {
      this.#subscriber = conn;
      await conn.write(new Uint8Array([0x90, 3, packet[2]!, packet[3]!, 0]));
    }
    if (type === 14) conn.close();
    if (type !== 3 || this.#publishes.push(packet) < 3) return;
    for (const each of this.fault(this.#publishes)) {
      if (each === "close") this.#subscriber!.close();
      else await this.#subscriber!.write(each);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#serving;
    await Promise.all(this.#connections);
  }
}

/** A publish with one bit of the byte at `index` flipped; from the end when it is negative. */
function damage(publish: Uint8Array, index: number): Uint8Array {
  const at = index < 0 ? publish.length + index : index;
  return publish.map((byte, i) => i === at ? byte ^ 1 : byte);
}

const faults: readonly [what: string, fault: Fault, problem: string][] = [
  ["nothing", (all) => all, ""],
  ["drops the first", ([, b, c]) => [b!, c!], "1 messages lost"],
  ["drops the last", ([a, b]) => [a!, b!], "stalled with messages in flight"],
  ["swaps two", ([a, b, c]) => [b!, a!, c!], "1 messages lost"],
  ["repeats one", ([a, b, c]) => [a!, b!, b!, c!], "1 messages out of order"],
  ["damages the payload", ([a, b, c]) => [a!, damage(b!, -1), c!], "1 messages corrupt"],
  ["damages the topic", ([a, b, c]) => [a!, damage(b!, 9), c!], "1 messages corrupt"],
  [
    "makes a sequence up",
    ([a, b, c]) => [a!, b!, damage(c!, -payload_bytes + 4)],
    "stalled with messages in flight",
  ],
  ["breaks the framing", ([a]) => [a!, new Uint8Array([0x30, 255, 255, 255, 255, 1])], "malformed"],
  ["closes", ([a]) => [a!, "close"], "1 connections closed"],
];

Deno.test("load.c notices a server that", { ignore }, async (t) => {
  for (const [what, fault, problem] of faults) {
    await t.step(what, async () => {
      await using server = new FaultyServer(fault);
      const sizes = ["subscribers=1", "messages=3", "window=3", `payload_bytes=${payload_bytes}`];
      const result = await run_load(server.address, "fanout", ...sizes, "stall_ms=300");
      if (problem === "") assertEquals(result.problem, "");
      else assertStringIncludes(result.problem, problem);
    });
  }
});

Deno.test("load.c notices that nobody listens", { ignore }, async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  const result = await run_load(`127.0.0.1:${port}`, "fanout", "subscribers=3");
  assertEquals(result.problem, "4 connections failed: Connection refused");
});

Deno.test("ratios are medians over rounds, and a failed run counts for nothing", () => {
  const run = (ok: boolean, rate: number): LoadResult => {
    return { ok, problem: "", latency_us: { p50: 1, p99: 1, max: 1 }, rate };
  };
  const a: PeerRuns = { peer: "a", missing: "", runs: [run(true, 2), run(false, 9), run(true, 8)] };
  const b: PeerRuns = { peer: "b", missing: "", runs: [run(true, 1), run(true, 1), run(true, 2)] };
  assertEquals(ratio(a, b, "rate"), 3);
  assertEquals(ratio(a, undefined, "rate"), NaN);
  assertEquals(median([3, NaN, 1, 2]), 2);
  assertEquals(median([]), NaN);
});
