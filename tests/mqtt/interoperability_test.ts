/**
 * MQTT: what the public suites of brokers try (Eclipse Paho's interoperability tests, mosquitto's
 * tests of its broker) and no other file of ours does; and clauses that only a sharper eye sees
 * broken.
 */
import { assert, assertEquals } from "@std/assert";
import { limits } from "../../core/limits.ts";
import { encode, type Packet, type Subscription } from "../../core/protocol/mqtt.ts";
import { connect_packet, payload_text, publish_packet } from "../support/mqtt_client.ts";
import { Suite } from "../support/mqtt_suite.ts";

const suite = new Suite("MQTT: the service stands what public suites try");

function reasons(packets: readonly Packet[]): number[] {
  return packets.flatMap((packet) => "reason_code" in packet ? [packet.reason_code] : []);
}

function wanted(filter: string, qos: 0 | 1 | 2): Subscription {
  return { filter, qos, no_local: false, retain_as_published: false, retain_handling: 0 };
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

suite.both("CONNACK comes before what has waited for the session", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const first = await scene.connect(options);
  await first.subscribe(topic, 2);
  const publisher = await scene.connect();
  await publisher.publish(topic, "in flight", { qos: 2 });
  await first.expect("publish");
  await first.close();
  await publisher.publish(topic, "waits", { qos: 1 });
  const again = await scene.open();
  await again.say(
    connect_packet({ version: scene.version, ...options }),
    { type: "subscribe", packet_id: 9, subscriptions: [wanted(scene.own("+"), 1)] },
    { type: "pingreq" },
  );
  assertEquals((await again.expect("connack")).session_present, true);
  const left = new Set(["suback", "pingresp", "in flight", "waits"]);
  while (left.size > 0) {
    const packet = (await again.next())!;
    assert(packet.type !== "connack", "a second CONNACK");
    left.delete(packet.type === "publish" ? payload_text(packet) : packet.type);
    if (packet.type === "publish") await again.acknowledge(packet);
  }
});

suite.five("after a PUBREC that refuses, the packet id means a new message", async (scene) => {
  const topic = scene.own("t");
  const subscriber = await scene.connect();
  await subscriber.subscribe(topic, 2);
  const client = await scene.connect();
  const bad = { qos: 2, packet_id: 5, properties: { payload_format: 1 } } as const;
  for (const text of ["first", "second"]) {
    assertEquals(await client.publish(topic, Uint8Array.of(0xff), bad), 0x99);
    assertEquals(await client.publish(topic, text, { qos: 2, packet_id: 5 }), 0);
    assertEquals(payload_text(await subscriber.receive()), text);
  }
  await subscriber.expect_nothing();
});

suite.five("a refused SUBSCRIBE says why only to who takes it", async (scene) => {
  const many = Array.from({ length: limits.subscriptions_per_session_max }, (_, n) => {
    return wanted(`${n}`, 0);
  });
  for (
    const [properties, is_told] of [
      [{}, true],
      [{ maximum_packet_bytes: 30 }, false], // [MQTT-3.9.2-1]; all SUBACKs but the first fit
      [{ request_problem_information: false }, false], // [MQTT-3.1.2-29]
    ] as const
  ) {
    const client = await scene.connect({ client_id: scene.own("id"), properties });
    for (let at = 0; at < many.length; at += 8) {
      const subscriptions = many.slice(at, at + 8);
      await client.say({ type: "subscribe", packet_id: 1, subscriptions });
      await client.expect("suback");
    }
    await client.say({ type: "subscribe", packet_id: 2, subscriptions: [wanted("more", 0)] });
    const suback = await client.expect("suback");
    assertEquals([suback.reason_codes, Boolean(suback.properties)], [[0x97], is_told]);
  }
});

suite.five("without problem information PUBREC has no reason, DISCONNECT may", async (scene) => {
  for (const request_problem_information of [true, false]) {
    const client = await scene.connect({ properties: { request_problem_information } });
    await client.say(publish_packet("$SYS/x", "", { qos: 2, packet_id: 1 }));
    const { reason_code, properties } = await client.expect("pubrec");
    assertEquals([reason_code, Boolean(properties)], [0x87, request_problem_information]);
    await client.say({ type: "unsubscribe", packet_id: 2, filters: ["nowhere"] });
    assertEquals((await client.expect("unsuback")).properties, undefined);
    await client.say({ type: "pubrel", packet_id: 7, reason_code: 0 });
    assertEquals((await client.expect("pubcomp")).properties, undefined);
  }
});

suite.five("what only a service may say ends the connection", async (scene) => {
  const said: Packet[] = [
    publish_packet(scene.own("t"), "m", { properties: { subscription_ids: [1] } }),
    { type: "disconnect", reason_code: 0, properties: { server_reference: "elsewhere" } },
    { type: "suback", packet_id: 1, reason_codes: [0] },
  ];
  const watch = await scene.connect();
  await watch.subscribe(scene.own("t"));
  for (const packet of said) {
    const client = await scene.connect();
    await client.say(packet);
    assertEquals(reasons(await client.closed()), [0x82]); // [MQTT-3.3.4-6], 3.14.2.2.5
  }
  await watch.expect_nothing();
});

suite.both("packets may come byte by byte", async (scene) => {
  const topic = scene.own("t");
  const client = await scene.open();
  const packets: Packet[] = [
    connect_packet({ version: scene.version }),
    { type: "subscribe", packet_id: 1, subscriptions: [wanted(topic, 2)] },
    publish_packet(topic, "x".repeat(200), { qos: 2, packet_id: 2 }),
    { type: "pingreq" },
  ];
  for (const packet of packets) {
    for (const byte of encode(packet, scene.version)) await client.send(Uint8Array.of(byte));
  }
  const types: string[] = [];
  while (types.length < 5) types.push((await client.next())!.type);
  assertEquals(types.sort(), ["connack", "pingresp", "publish", "pubrec", "suback"]);
});

suite.both("a client that falls silent is taken for lost, with its will", async (scene) => {
  const watch = await scene.connect({ keepalive_s: 0 });
  await watch.subscribe(scene.own("will"), 2);
  const payload = new TextEncoder().encode("keepalive expiry");
  const will = { topic: scene.own("will"), payload, qos: 1, retain: false } as const;
  const silent = await scene.connect({ keepalive_s: 1, will });
  assertEquals(payload_text(await watch.receive()), "keepalive expiry");
  await silent.closed();
  await watch.expect_nothing(); // who asked for no keep alive may be silent for ever
});

suite.five("DISCONNECT may make a session last longer", async (scene) => {
  const options = { client_id: scene.own("id"), clean_start: false };
  const first = await scene.connect({ ...options, properties: { session_expiry_s: 1 } });
  await first.disconnect({ properties: { session_expiry_s: 60 } });
  await wait(2200);
  const { connack } = await scene.connack(options);
  assertEquals(connack.session_present, true);
});

suite.five("a message keeps its age on its way through a session that is away", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const first = await scene.connect(options);
  await first.subscribe(topic, 2);
  await first.disconnect();
  const publisher = await scene.connect();
  for (const qos of [1, 2] as const) {
    const of = (message_expiry_s: number) => ({ qos, properties: { message_expiry_s } });
    await publisher.publish(topic, `${qos} brief`, of(1));
    await publisher.publish(topic, `${qos} long`, of(60));
  }
  await wait(1500);
  const again = await scene.connect(options);
  for (const qos of [1, 2]) {
    const got = await again.receive();
    const left_s = got.properties?.message_expiry_s ?? 60;
    assert(payload_text(got) === `${qos} long` && left_s < 60 && left_s > 30, `${left_s} s`);
  }
  await again.expect_nothing();
});

suite.both("a retained message comes once for each filter that it matches", async (scene) => {
  const topic = scene.own("a/b");
  const client = await scene.connect();
  const publisher = await scene.connect();
  await publisher.publish(topic, "r", { qos: 1, retain: true });
  const filters = [scene.own("a/#"), scene.own("+/b"), scene.own("a/b")];
  const subscriptions = filters.map((filter) => wanted(filter, 1));
  await client.say({ type: "subscribe", packet_id: 77, subscriptions });
  await client.expect("suback");
  for (const _filter of filters) { // as by three packets [MQTT-3.8.4-5]
    const got = await client.receive();
    assertEquals([payload_text(got), got.retain], ["r", true]);
  }
  await publisher.publish(topic, "", { qos: 1, retain: true });
  assertEquals((await client.receive()).retain, false);
  await client.subscribe(topic, 1);
  await client.expect_nothing();
});

suite.both("unsubscribing from one of three filters leaves the others", async (scene) => {
  const topics = ["a", "b", "c"].map((name) => scene.own(name));
  const client = await scene.connect();
  const publisher = await scene.connect();
  for (const topic of topics) await client.subscribe(topic, 2);
  await client.unsubscribe(topics[0]);
  for (const topic of topics) await publisher.publish(topic, topic, { qos: 1 });
  for (const topic of topics.slice(1)) assertEquals((await client.receive()).topic, topic);
  await client.expect_nothing();
});

suite.both("a session that is taken over goes on where it was", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const first = await scene.connect(options);
  await first.subscribe(topic, 1);
  const publisher = await scene.connect();
  await publisher.publish(topic, "m", { qos: 1 });
  const { packet_id } = await first.expect("publish");
  const second = await scene.connack(options);
  assertEquals(second.connack.session_present, true);
  const got = await second.client.receive();
  assertEquals([got.packet_id, got.dup, payload_text(got)], [packet_id, true, "m"]);
  const third = await scene.connack({ ...options, clean_start: true });
  assertEquals(third.connack.session_present, false);
  await publisher.publish(topic, "nobody's", { qos: 1 });
  await third.client.expect_nothing();
});

suite.register();
