/**
 * What operators see of devices: who is worst off, what has happened to one, in a service that runs
 * and in a cluster of two.
 */
import { assert, assertEquals } from "@std/assert";
import { encode } from "../core/protocol/mqtt.ts";
import { limits } from "../core/limits.ts";
import { Timeline } from "../core/timeline.ts";
import { codes } from "../core/codes.ts";
import { Wire } from "../core/session.ts";
import { cluster_programs, TestCluster } from "./support/cluster.ts";
import { connect_packet, MqttClient } from "./support/mqtt_client.ts";
import { test_with } from "./support/process.ts";
import { eventually, Service } from "./support/service.ts";

// deno-lint-ignore no-explicit-any
type Json = any;

async function get(service: Service, path: string): Promise<Json> {
  const response = await fetch(`${service.http}/v1/devices${path}`);
  assertEquals(response.status, 200, await response.clone().text());
  return await response.json();
}

async function events_of(service: Service, id: string): Promise<Json[]> {
  return (await get(service, `/${id}/timeline`)).events;
}

/** A device that subscribes to everything and then reads no more. */
async function deaf_device(service: Service, client_id: string): Promise<Deno.TcpConn> {
  const { host, port } = service.mqtt;
  const conn = await Deno.connect({ hostname: host, port });
  const filter = { filter: "#", qos: 0 as const };
  const options = { no_local: false, retain_as_published: false, retain_handling: 0 as const };
  const subscribe = {
    type: "subscribe" as const,
    packet_id: 1,
    subscriptions: [{ ...filter, ...options }],
  };
  await conn.write(encode(connect_packet({ client_id }), 5));
  await conn.write(encode(subscribe, 5));
  return conn;
}

Deno.test("fleet: who is worst off is found, and what happened to it", async () => {
  await using service = await Service.start();
  const well = (await MqttClient.connect(service.mqtt, { client_id: "well" })).client;
  const deaf = await deaf_device(service, "deaf");
  const payload = new Uint8Array(500 << 10);
  await eventually("messages are dropped", async () => {
    await service.publish("a/b", payload, "qos=0");
    return (await events_of(service, "deaf")).some(({ event }) => event === "dropping");
  });
  const { devices, nodes, missing } = await get(service, "?sort=queue_bytes&limit=5");
  assertEquals(devices.map(({ device_id }: Json) => device_id), ["deaf"]);
  assert(devices[0].queue_bytes > limits.out_queue_soft_bytes / 2, JSON.stringify(devices[0]));
  assertEquals([nodes.length, missing], [1, []]);
  const [dropping, ...before] = await events_of(service, "deaf");
  assertEquals(before.map(({ event }) => event), ["subscribed", "connected"]);
  assertEquals(dropping.reason, "slow_consumer");
  assertEquals([before[0].filter, before[1].protocol, before[1].resumed], ["#", "mqtt-5", false]);
  const kick = await fetch(`${service.http}/v1/devices/deaf`, { method: "DELETE" });
  assertEquals((await kick.json()).disconnected, true);
  await eventually("it is gone", async () => {
    const [gone, kicked] = await events_of(service, "deaf");
    return gone.event === "disconnected" && gone.reason === "kicked" && kicked.event === "kicked";
  });
  deaf.close();
  const bad = await fetch(`${service.http}/v1/devices?sort=height`);
  assertEquals([bad.status, (await bad.json()).code], [400, "query_invalid"]);
  await well[Symbol.asyncDispose]();
});

Deno.test("fleet: a device that falls silent is named before it is closed", async () => {
  await using service = await Service.start();
  const silent = await MqttClient.connect(service.mqtt, { client_id: "silent", keepalive_s: 2 });
  await using _ = silent.client;
  await using _well = (await MqttClient.connect(service.mqtt, { client_id: "well" })).client;
  await eventually("it has missed one", async () => {
    const { devices } = await get(service, "?sort=heartbeat_misses");
    assert(devices.every(({ device_id }: Json) => device_id === "silent"));
    return devices.length === 1 && devices[0].heartbeat_misses >= 1;
  });
  await silent.client.closed();
  await eventually("its timeline says why", async () => {
    return (await events_of(service, "silent"))[0].reason === "keepalive_timeout";
  });
});

test_with(cluster_programs, "fleet: any node shows and kicks the devices of all", async () => {
  await using cluster = await TestCluster.start(2);
  const [a, b] = cluster.nodes;
  const on_b = (await MqttClient.connect(b.mqtt, { client_id: "on-b" })).client;
  await using _on_a = (await MqttClient.connect(a.mqtt, { client_id: "on-a" })).client;
  const page = await get(a, "?connected=true");
  assertEquals(page.devices.map(({ device_id, node }: Json) => [device_id, node]), [
    ["on-a", "a"],
    ["on-b", "b"],
  ]);
  assertEquals([page.nodes.sort(), page.missing, page.next], [["a", "b"], [], null]);
  const first = await get(a, "?limit=1");
  assertEquals([first.devices.length, first.next], [1, "on-a"]);
  const second = await get(a, "?limit=1&after=on-a");
  assertEquals([second.devices[0].device_id, second.next], ["on-b", null]);
  assertEquals((await get(a, "/on-b")).node, "b");
  assertEquals((await events_of(a, "on-b")).map(({ event, node }) => [event, node]), [
    ["connected", "b"],
  ]);
  const kick = await fetch(`${a.http}/v1/devices/on-b`, { method: "DELETE" });
  assertEquals([kick.status, (await kick.json()).disconnected], [200, true]);
  await on_b.closed();
});

Deno.test("timeline: rings forget the oldest, say since when, and keep apart what is noisy", () => {
  let now_ms = 0;
  const timeline = new Timeline(() => ++now_ms);
  timeline.connected("d", Wire.mqtt5, true);
  for (let n = 0; n < limits.timeline_noisy_events + 10; n++) {
    timeline.refused("d", codes.forbidden, "");
  }
  timeline.disconnected("d", codes.normal);
  const { since, events } = timeline.of("d", "d");
  assertEquals(events.length, limits.timeline_device_events);
  assertEquals([events[0].event, events[1].event], ["disconnected", "refused"]);
  // 1 is the connection; of the refusals the first ten are gone.
  assertEquals(since, new Date(12).toISOString());
  for (let n = 0; n < limits.timeline_noisy_events; n++) timeline.subscribed("other", "x", 0);
  const left = timeline.of("d", "d").events;
  assertEquals(left.map(({ event }) => event), ["disconnected", "connected"]);
  assertEquals(left[1].resumed, true);
  timeline.connected("x".repeat(limits.timeline_text_max + 1), Wire.mqtt5, true);
  timeline.refused("e", codes.forbidden, "t".repeat(1000));
  assertEquals((timeline.of("e", "e").events[0].topic as string).length, limits.timeline_text_max);
});
