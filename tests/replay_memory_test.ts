/**
 * A device that comes back and does not read: what it missed waits in the log, not in the service's
 * memory.
 */
import { assert, assertEquals } from "@std/assert";
import * as mqtt from "../core/protocol/mqtt.ts";
import { limits } from "../core/limits.ts";
import { RawMqtt } from "./support/raw.ts";
import { eventually, Service } from "./support/service.ts";

const connect: mqtt.Connect = {
  type: "connect",
  version: 5,
  clean_start: false,
  keepalive_s: 0,
  client_id: "slow",
  properties: { session_expiry_s: 3600 },
};

Deno.test("a replay is bounded in bytes, and nothing of it is lost", async () => {
  await using service = await Service.start();
  {
    await using device = await RawMqtt.connect(service.mqtt, connect);
    const subscriptions = [{
      filter: "big/#",
      qos: 1 as const,
      no_local: false,
      retain_as_published: false,
      retain_handling: 0 as const,
    }];
    await device.send(mqtt.encode({ type: "subscribe", packet_id: 1, subscriptions }, 5));
    assertEquals((await device.packets.next())?.type, "suback");
  }
  const payload = new Uint8Array(900_000);
  const count = 40;
  for (let index = 0; index < count; index++) {
    payload[0] = index;
    assertEquals((await service.publish(`big/${index}`, payload)).status, 200);
  }
  using socket = await Deno.connect({ hostname: service.mqtt.host, port: service.mqtt.port });
  await socket.write(mqtt.encode(connect, 5));
  const queued = () => service.metric("longwire_out_queue_bytes");
  await eventually("something waits for the device", async () => await queued() > 0);
  let most = 0;
  for (let look = 0; look < 100; look++) most = Math.max(most, await queued());
  assert(most <= limits.out_queue_soft_bytes + 2 * payload.length, `${most} bytes waited`);

  const decoder = new mqtt.Decoder(5);
  const room = new Uint8Array(1 << 20);
  const seen: number[] = [];
  while (seen.length < count) {
    const size = await socket.read(room);
    if (size === null) throw new Error(`it was closed after ${seen.length} messages`);
    for (const packet of decoder.feed(room.subarray(0, size))) {
      if (packet.type === "publish") seen.push(packet.payload[0]);
    }
  }
  assertEquals(seen, Array.from({ length: count }, (_, index) => index));
});
