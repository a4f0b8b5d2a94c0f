/** How the real service stops: nobody is cut off without a word, and nothing keeps it for ever. */
import { assert, assertEquals } from "@std/assert";
import { encode } from "../core/protocol/mqtt.ts";
import { RawLongwire, RawMqtt } from "./support/raw.ts";
import { eventually, Service } from "./support/service.ts";

Deno.test("a stop says goodbye to each device and answers what it was asked", async () => {
  const service = await Service.start();
  await using mqtt = await RawMqtt.connect(service.mqtt);
  const [longwire] = await RawLongwire.connect(service.device);
  await using idle = await RawMqtt.open(service.mqtt);
  await using _ = longwire;
  // Twice, as from a terminal and from `deno task`: still one stop.
  Deno.kill(service.program.pid, "SIGINT");
  assertEquals(await service.stop(), 0);
  const [disconnect] = await mqtt.closed();
  assertEquals("reason_code" in disconnect && disconnect.reason_code, 0x8b); // server shutting down
  const [goodbye] = await longwire.closed();
  assertEquals("code" in goodbye && goodbye.code, 20);
  assertEquals(await idle.closed(), []);
});

/** What the service logged about its stop. */
function stopped(service: Service): Record<string, unknown> {
  return JSON.parse(service.log.at(-1)!);
}

/** A device that subscribes to "a" and then reads no more; answers its socket. */
async function deaf_device(service: Service): Promise<Deno.TcpConn> {
  const { host, port } = service.mqtt;
  const socket = await Deno.connect({ hostname: host, port });
  const connect = { type: "connect", version: 4, clean_start: true, keepalive_s: 0 } as const;
  await socket.write(encode({ ...connect, client_id: "deaf" }, 4));
  await socket.write(Uint8Array.fromHex("82060001000161" + "00")); // SUBSCRIBE, QoS 0
  await eventually("its subscription", async () => await service.metric("longwire_filters") === 1);
  return socket;
}

Deno.test("a device that does not read holds up a stop no longer than it may", async () => {
  const service = await Service.start({ args: ["--shutdown_timeout_s", "1"] });
  using _ = await deaf_device(service);
  const large = new Uint8Array(900_000);
  // More than the kernel takes for a socket that nobody reads.
  await eventually("bytes that wait", async () => {
    await service.publish("a", large, "qos=0");
    return await service.metric("longwire_out_queue_bytes") > 0;
  });
  const begin_ms = performance.now();
  assertEquals(await service.stop(), 0);
  const took_ms = performance.now() - begin_ms;
  assert(took_ms >= 990 && took_ms < 10_000, `it took ${took_ms} ms`);
  const { event, bytes_cut } = stopped(service);
  assertEquals(event, "stopped");
  assert(Number(bytes_cut) > 0);
});

Deno.test("a stop ends event streams, and is quick when nobody is there", async () => {
  const service = await Service.start();
  const response = await fetch(`${service.http}/v1/events?topic=a`);
  const events = response.text();
  assertEquals(await service.stop(), 0);
  assertEquals((await events).startsWith(": connected"), true);
  const { event, duration_ms } = stopped(service);
  assertEquals(event, "stopped");
  assert(Number(duration_ms) < 5000, `it took ${duration_ms} ms`);
});
