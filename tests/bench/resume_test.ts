/**
 * The mode `resume` of load.c, and its publishes over HTTP: they too must notice whatever a server
 * can do wrong.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ensure_program } from "./build.ts";
import { Probe } from "./probe.ts";
import type { LoadResult } from "./report.ts";

/** All is written for epoll: elsewhere there is nothing to test. */
const ignore = Deno.build.os !== "linux";

async function run_load(address: string, ...args: string[]): Promise<LoadResult> {
  const out = await new Deno.Command(await ensure_program("load"), {
    args: [...args, `server=${address}`],
    signal: AbortSignal.timeout(60_000),
  }).output();
  const result: LoadResult = JSON.parse(new TextDecoder().decode(out.stdout));
  assertEquals(out.code, result.ok ? 0 : 1);
  return result;
}

const topic = "fleet/news";
const payload_bytes = 32;

/** A PUBLISH of QoS 1 as load.c wants it; shorter than 128 bytes. */
function publish(sequence: number, duplicate = false): Uint8Array<ArrayBuffer> {
  const payload = Uint8Array.from({ length: payload_bytes }, (_, at) => at < 16 ? 0 : at * 31 + 7);
  new DataView(payload.buffer).setBigUint64(0, BigInt(sequence), true);
  const name = new TextEncoder().encode(topic);
  const body = [0, name.length, ...name, 0, sequence + 1, ...payload];
  return new Uint8Array([duplicate ? 0x3a : 0x32, body.length, ...body]);
}

/** An MQTT server that sends every client the same, as soon as it is there. */
class ReturnServer implements AsyncDisposable {
  #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  #connections: Promise<void>[] = [];
  #serving = this.#serve();
  readonly client_ids: string[] = [];
  acknowledged = 0;

  constructor(readonly packets: readonly Uint8Array[], readonly session_present: boolean) {}

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
    if (type === 1) {
      this.client_ids.push(new TextDecoder().decode(packet.subarray(14)));
      await conn.write(new Uint8Array([0x20, 2, this.session_present ? 1 : 0, 0]));
      for (const each of this.packets) await conn.write(each);
    }
    if (type === 4) this.acknowledged++;
    if (type === 8) await conn.write(new Uint8Array([0x90, 3, packet[2]!, packet[3]!, 1]));
    if (type === 14) conn.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#serving;
    await Promise.all(this.#connections);
  }
}

const sizes = [`topic=${topic}`, `payload_bytes=${payload_bytes}`, "qos=1", "stall_ms=300"];

Deno.test("load.c resumes the sessions that it is told", { ignore }, async () => {
  await using server = new ReturnServer([0, 1, 2].map((n) => publish(n)), true);
  const who = ["prefix=car", "devices=5", "processes=2", "id_first=7", "id_step=10"];
  const result = await run_load(server.address, "resume", ...who, "messages=3", ...sizes);
  assertEquals([result.problem, result["complete"], result["deliveries"]], ["", 5, 15]);
  assertEquals(server.client_ids.sort(), ["car-17", "car-27", "car-37", "car-47", "car-7"]);
  assertEquals(server.acknowledged, 15);
});

const three = [publish(0), publish(1), publish(2)];
const faults: readonly [what: string, packets: Uint8Array[], problem: string][] = [
  ["repeats one and says so", [publish(0), publish(1), publish(1, true), publish(2)], ""],
  ["repeats one", [publish(0), publish(1), publish(1), publish(2)], "1 messages out of order"],
  ["drops the last", three.slice(0, 2), "1 messages lost"],
  ["drops the first", three.slice(1), "1 messages lost"],
  ["sends one too many", [...three, publish(3)], "1 messages corrupt"],
];

Deno.test("load.c notices, when devices return, a server that", { ignore }, async (t) => {
  for (const [what, packets, problem] of faults) {
    await t.step(what, async () => {
      await using server = new ReturnServer(packets, true);
      const result = await run_load(server.address, "resume", "devices=1", "messages=3", ...sizes);
      assertEquals(result.problem, problem);
    });
  }
  await t.step("does not know them", async () => {
    await using server = new ReturnServer(three, false);
    const result = await run_load(server.address, "resume", "devices=1", "messages=3", ...sizes);
    assertStringIncludes(result.problem, "1 connections refused");
  });
});

Deno.test("load.c makes sessions that nothing is sent to", { ignore }, async () => {
  await using server = new ReturnServer([], false);
  const result = await run_load(server.address, "resume", "present=0", "devices=3", ...sizes);
  assertEquals([result.problem, result["ready"]], ["", 3]);
});

Deno.test("load.c publishes over HTTP, and the probe waits for answers", { ignore }, async () => {
  const paths = new Set<string>();
  let bytes = 0;
  let slow = true;
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { pathname, search } = new URL(request.url);
    if (pathname === "/healthz") {
      if (slow) await new Promise((done) => setTimeout(done, 100));
      slow = false;
      return new Response("ok");
    }
    paths.add(pathname + search);
    bytes += (await request.bytes()).length;
    return Response.json({ offset: 1 }, { status: pathname.endsWith("1") ? 503 : 200 });
  });
  const address = `127.0.0.1:${server.addr.port}`;
  const probe = await Probe.start(address);
  const how = ["protocol=http", "qos=1", `payload_bytes=${payload_bytes}`, "messages=20"];
  const good = await run_load(address, "publish", "publishers=1", ...how);
  assertEquals([good.problem, good["deliveries"], bytes], ["", 20, 20 * payload_bytes]);
  assertEquals(paths.size, 1);
  assert(good.latency_us.max > 0);
  const bad = await run_load(address, "publish", "publishers=2", ...how);
  assertStringIncludes(bad.problem, "1 malformed frames");
  await new Promise((done) => setTimeout(done, 200));
  const { answer_us } = await probe.end();
  assert(answer_us.max > 90_000 && answer_us.p50 < 90_000);
  await server.shutdown();
});
