/** MQTT: PUBLISH and its exchanges, in both directions, of versions 3.1.1 and 5. */
import { assert, assertEquals } from "@std/assert";
import { limits } from "../../core/limits.ts";
import type { Qos } from "../../core/message.ts";
import type { Packet, Publish } from "../../core/protocol/mqtt.ts";
import { payload_text, publish_packet } from "../support/mqtt_client.ts";
import { type Scene, Suite } from "../support/mqtt_suite.ts";

const suite = new Suite("MQTT: messages are published and delivered as the standards say");

function reasons(packets: readonly Packet[]): number[] {
  return packets.flatMap((packet) => "reason_code" in packet ? [packet.reason_code] : []);
}

/** What ends a connection that did what the reason code says. */
function ended(scene: Scene, reason_code: number): number[] {
  return scene.version === 4 ? [] : [reason_code];
}

suite.both("each QoS has its exchange, both ways", async (scene) => {
  const topic = scene.own("t");
  const subscriber = await scene.connect();
  const publisher = await scene.connect();
  assertEquals(await subscriber.subscribe(topic, 2), 2);
  for (const qos of [0, 1, 2] as const) {
    assertEquals(await publisher.publish(topic, `${qos}`, { qos, packet_id: qos && 7 }), 0);
    const got = await subscriber.expect("publish");
    assertEquals([got.topic, payload_text(got), got.qos, got.dup, got.retain], [
      topic,
      `${qos}`,
      qos,
      false,
      false,
    ]);
    assertEquals(got.packet_id > 0, qos > 0);
    await subscriber.acknowledge(got);
  }
  await subscriber.expect_nothing();
});

suite.both(
  "a message goes out at the lower of its QoS and that of the subscription",
  async (scene) => {
    const publisher = await scene.connect();
    for (const granted of [0, 1, 2] as const) {
      const topic = scene.own(`${granted}`);
      const subscriber = await scene.connect();
      assertEquals(await subscriber.subscribe(topic, granted), granted);
      for (const qos of [0, 1, 2] as const) {
        await publisher.publish(topic, "m", { qos });
        assertEquals((await subscriber.receive()).qos, Math.min(granted, qos));
      }
    }
  },
);

suite.both("packet ids in use are not given again", async (scene) => {
  const topic = scene.own("t");
  const subscriber = await scene.connect();
  const publisher = await scene.connect();
  await subscriber.subscribe(topic, 2);
  const held: Publish[] = [];
  for (let n = 0; n < 10; n++) {
    await publisher.publish(topic, `${n}`, { qos: n % 2 === 0 ? 1 : 2 });
    held.push(await subscriber.expect("publish"));
  }
  assertEquals(new Set(held.map(({ packet_id }) => packet_id)).size, 10);
  for (const packet of held.reverse()) await subscriber.acknowledge(packet);
});

suite.both("a repeated QoS 2 PUBLISH is not a new message until PUBCOMP", async (scene) => {
  const topic = scene.own("t");
  const subscriber = await scene.connect();
  const publisher = await scene.connect();
  await subscriber.subscribe(topic, 2);
  const packet = publish_packet(topic, "once", { qos: 2, packet_id: 5 });
  await publisher.say(packet, { ...packet, dup: true });
  assertEquals((await publisher.expect("pubrec")).packet_id, 5);
  await publisher.say({ ...packet, dup: true });
  // The first repetition may have come while the store worked: that one is answered once.
  await publisher.expect("pubrec");
  await publisher.say({ type: "pubrel", packet_id: 5, reason_code: 0 });
  for (;;) {
    const answer = await publisher.next();
    if (answer?.type === "pubcomp") break;
    assertEquals(answer?.type, "pubrec");
  }
  assertEquals(payload_text(await subscriber.receive()), "once");
  await subscriber.expect_nothing();
  await publisher.publish(topic, "another", { qos: 2, packet_id: 5 });
  assertEquals(payload_text(await subscriber.receive()), "another");
});

suite.both("the same packet id is a new QoS 1 message after PUBACK", async (scene) => {
  const topic = scene.own("t");
  const subscriber = await scene.connect();
  const publisher = await scene.connect();
  await subscriber.subscribe(topic, 1);
  for (const dup of [false, true]) {
    await publisher.publish(topic, "m", { qos: 1, packet_id: 9, dup });
    assertEquals((await subscriber.receive()).dup, false);
  }
});

suite.both("PUBREL of an unknown packet id is answered", async (scene) => {
  const client = await scene.connect();
  await client.say({ type: "pubrel", packet_id: 77, reason_code: 0 });
  const { packet_id, reason_code } = await client.expect("pubcomp");
  assertEquals([packet_id, reason_code], [77, scene.version === 4 ? 0 : 0x92]);
});

suite.both("PUBREC of an unknown packet id is answered with PUBREL", async (scene) => {
  const client = await scene.connect();
  await client.say({ type: "pubrec", packet_id: 77, reason_code: 0 });
  assertEquals((await client.expect("pubrel")).packet_id, 77);
});

suite.five("a PUBREC or PUBACK that refuses ends the exchange", async (scene) => {
  const topic = scene.own("t");
  const properties = { receive_maximum: 1 };
  const subscriber = await scene.connect({ properties });
  const publisher = await scene.connect();
  await subscriber.subscribe(topic, 2);
  for (const qos of [2, 1, 2] as const) await publisher.publish(topic, `${qos}`, { qos });
  for (const type of ["pubrec", "puback", "pubrec"] as const) {
    const { packet_id } = await subscriber.expect("publish");
    await subscriber.say({ type, packet_id, reason_code: 0x80 });
  }
  await subscriber.expect_nothing(); // no PUBREL
});

suite.both("QoS 1 and 2 messages of one topic keep their order", async (scene) => {
  const topic = scene.own("t");
  const subscriber = await scene.connect();
  const publisher = await scene.connect();
  await subscriber.subscribe(topic, 2);
  for (const qos of [0, 1, 2] as const) {
    const packets = Array.from({ length: 40 }, (_, n) => {
      return publish_packet(topic, `${n}`, { qos, packet_id: qos && n + 1 });
    });
    await publisher.say(...packets);
    for (let n = 0; n < 40; n++) {
      const got = await subscriber.expect("publish");
      assertEquals(payload_text(got), `${n}`);
      if (qos === 1) await subscriber.say({ type: "puback", ...ack_of(got) });
      if (qos === 2) await subscriber.say({ type: "pubrec", ...ack_of(got) });
    }
    for (let n = 1; qos > 0 && n <= 40; n++) {
      const type = qos === 1 ? "puback" : "pubrec";
      assertEquals((await publisher.expect(type)).packet_id, n); // [MQTT-4.6.0-2] of the other side
      if (qos === 2) await publisher.say({ type: "pubrel", packet_id: n, reason_code: 0 });
    }
    for (let n = 1; qos === 2 && n <= 40; n++) {
      assertEquals((await publisher.expect("pubcomp")).packet_id, n);
      const { packet_id } = await subscriber.expect("pubrel");
      await subscriber.say({ type: "pubcomp", packet_id, reason_code: 0 });
    }
  }
});

function ack_of({ packet_id }: Publish) {
  return { packet_id, reason_code: 0 };
}

suite.five("no more than Receive Maximum are in flight to a client", async (scene) => {
  const topic = scene.own("t");
  const subscriber = await scene.connect({ properties: { receive_maximum: 3 } });
  const publisher = await scene.connect();
  await subscriber.subscribe(topic, 1);
  for (let n = 0; n < 30; n++) await publisher.publish(topic, `${n}`, { qos: 1 });
  for (let total = 0; total < 30;) {
    const held = [await subscriber.expect("publish")];
    await subscriber.say({ type: "pingreq" }); // answered all the same [MQTT-3.3.4-10]
    for (;;) {
      const packet = await subscriber.next();
      if (packet?.type !== "publish") break;
      held.push(packet);
    }
    assert(held.length <= 3, `${held.length} in flight`);
    for (const packet of held) assertEquals(payload_text(packet), `${total++}`);
    for (const packet of held) await subscriber.acknowledge(packet);
  }
});

suite.five("Receive Maximum counts a QoS 2 exchange until PUBCOMP", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id", { properties: { receive_maximum: 2 } });
  const first = await scene.connect(options);
  const publisher = await scene.connect();
  await first.subscribe(topic, 2);
  for (let n = 0; n < 6; n++) await publisher.publish(topic, `${n}`, { qos: 2 });
  const [a, b] = [await first.expect("publish"), await first.expect("publish")];
  await first.say({ type: "pubrec", ...ack_of(a) });
  await first.expect("pubrel");
  await first.expect_nothing(); // the exchange of the first is still open
  await first.say({ type: "pubcomp", ...ack_of(a) });
  const c = await first.expect("publish");
  await first.expect_nothing();
  await first.close();
  const again = await scene.connect(options); // a new connection, a new quota
  const resent = [await again.expect("publish"), await again.expect("publish")];
  assertEquals(resent.map(({ packet_id, dup }) => [packet_id, dup]), [
    [b.packet_id, true],
    [c.packet_id, true],
  ]);
  await again.expect_nothing();
  for (const packet of resent) await again.acknowledge(packet);
  for (const payload of ["3", "4", "5"]) {
    const packet = await again.receive();
    assertEquals([payload_text(packet), packet.dup], [payload, false]);
  }
  await again.expect_nothing();
});

suite.five("what is too large for a client is passed over when it is back, too", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id", { properties: { maximum_packet_bytes: 100 } });
  const first = await scene.connect(options);
  const publisher = await scene.connect();
  await first.subscribe(topic, 2);
  await first.disconnect();
  const sent = [["before", 2], ["x".repeat(100), 2], ["x".repeat(100), 1], ["after", 1]] as const;
  for (const [payload, qos] of sent) await publisher.publish(topic, payload, { qos });
  const again = await scene.connect(options);
  assertEquals(payload_text(await again.receive()), "before");
  assertEquals(payload_text(await again.receive()), "after");
  await again.expect_nothing();
  const wide = await scene.connect(scene.kept("id"));
  await wide.expect_nothing(); // it counts as sent [MQTT-3.1.2-25]
});

suite.five("a retained message ages, and is gone when it has expired", async (scene) => {
  const topic = scene.own("t");
  const publisher = await scene.connect();
  const properties = { message_expiry_s: 3 };
  await publisher.publish(topic, "m", { qos: 1, retain: true, properties });
  await new Promise((resolve) => setTimeout(resolve, 1200));
  const early = await scene.connect();
  await early.subscribe(topic, 1);
  const left_s = (await early.receive()).properties?.message_expiry_s;
  assertEquals(left_s === 1 || left_s === 2, true, `${left_s} s are left`); // [MQTT-3.3.2-6]
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const late = await scene.connect();
  await late.subscribe(topic, 1);
  await late.expect_nothing();
});

suite.five("a request is answered by its response topic and correlation data", async (scene) => {
  const requester = await scene.connect();
  const responder = await scene.connect();
  await requester.subscribe(scene.own("answers"), 1);
  await responder.subscribe(scene.own("questions"), 1);
  const correlation_data = Uint8Array.of(0, 1, 255);
  await requester.publish(scene.own("questions"), "?", {
    qos: 1,
    properties: { response_topic: scene.own("answers"), correlation_data },
  });
  const { properties } = await responder.receive();
  await responder.publish(properties!.response_topic!, "!", {
    qos: 1,
    properties: { correlation_data: properties!.correlation_data! },
  });
  const answer = await requester.receive();
  assertEquals([payload_text(answer), answer.properties], ["!", { correlation_data }]);
});

suite.five("more than the service's Receive Maximum ends the connection", async (scene) => {
  const count = limits.receive_max;
  const client = await scene.connect();
  const packets = Array.from({ length: count + 1 }, (_, n) => {
    return publish_packet(scene.own("t"), "", { qos: 2, packet_id: n + 1 });
  });
  await client.say(...packets.slice(0, count));
  for (let n = 0; n < count; n++) await client.expect("pubrec");
  await client.say(...packets.slice(count));
  assertEquals(reasons(await client.closed()), [0x93]);
});

suite.five("topic aliases of the client are followed", async (scene) => {
  const topics = [scene.own("a"), scene.own("b")];
  const subscriber = await scene.connect();
  await subscriber.subscribe(scene.own("#"), 1);
  const publisher = await scene.connect();
  const send = (topic: string, topic_alias: number, qos: Qos = 0) =>
    publisher.publish(topic, "m", { qos, properties: { topic_alias } });
  await send(topics[0], 1);
  await send("", 1);
  await send(topics[1], limits.topic_alias_max, 1);
  await send("", limits.topic_alias_max);
  await send(topics[1], 1);
  await send("", 1, 1);
  const [a, b] = topics;
  for (const topic of [a, a, b, b, b, b]) {
    const got = await subscriber.receive();
    assertEquals([got.topic, got.properties?.topic_alias], [topic, undefined]);
  }
});

suite.five("topic aliases end with their connection", async (scene) => {
  const options = scene.kept("id");
  const first = await scene.connect(options);
  await first.publish(scene.own("t"), "m", { properties: { topic_alias: 1 } });
  await first.disconnect();
  const second = await scene.connect(options);
  await second.publish("", "m", { properties: { topic_alias: 1 } });
  assertEquals(reasons(await second.closed()), [0x82]);
  const third = await scene.connect();
  const topic_alias = limits.topic_alias_max + 1;
  await third.publish(scene.own("t"), "m", { properties: { topic_alias } });
  assertEquals(reasons(await third.closed()), [0x94]);
});

suite.five("no topic alias is sent to a client that asks for none", async (scene) => {
  const subscriber = await scene.connect({ properties: { topic_alias_maximum: 0 } });
  await subscriber.subscribe(scene.own("t"));
  for (let n = 0; n < 2; n++) {
    await subscriber.publish(scene.own("t"), "m");
    const { topic, properties } = await subscriber.receive();
    assertEquals([topic, properties], [scene.own("t"), undefined]);
  }
});

suite.five("a topic is sent once and then by its alias", async (scene) => {
  const options = scene.kept("id", { properties: { topic_alias_maximum: 3 } });
  const publisher = await scene.connect();
  let count = 0;
  for (const present of [false, true]) { // aliases end with their connection [MQTT-3.3.2-7]
    const subscriber = await scene.connect(options);
    if (!present) await subscriber.subscribe(scene.own("#"), 2);
    const aliases = new Map<number, string>();
    let by_alias = 0;
    for (let n = 0; n < 60; n++) {
      const topic = scene.own(`sensors/${n % 2}`);
      const qos = (n >> 1) % 3 as Qos;
      await publisher.publish(topic, String(++count), { qos });
      const got = await subscriber.receive();
      const alias = got.properties?.topic_alias ?? 0;
      assert(alias >= 1 && alias <= 3, `alias ${alias}`);
      if (got.topic === "") by_alias++;
      else aliases.set(alias, got.topic);
      assertEquals([aliases.get(alias), got.qos, payload_text(got)], [
        topic,
        qos,
        String(count),
      ]);
    }
    assert(by_alias >= 20, `${by_alias} of 60 came by alias`); // both may have the same one
    await subscriber.disconnect();
  }
});

const all_properties = {
  payload_format: 1,
  content_type: "text/plain",
  response_topic: "answers/here",
  correlation_data: Uint8Array.of(0, 255, 1),
  user_properties: [["b", "1"], ["a", "2"], ["b", "1"], ["", "ü"]],
} as const;

suite.five("properties reach subscribers as they were sent, in order", async (scene) => {
  const subscriber = await scene.connect();
  const publisher = await scene.connect();
  await subscriber.subscribe(scene.own("t"), 2);
  for (const qos of [0, 1, 2] as const) {
    const retain = qos === 1;
    const properties = all_properties;
    await publisher.publish(scene.own("t"), "m", { qos, retain, properties });
    assertEquals((await subscriber.receive()).properties, all_properties);
  }
  const late = await scene.connect();
  await late.subscribe(scene.own("t"), 2);
  assertEquals((await late.receive()).properties, all_properties);
  const old = await scene.connect({ version: 4 });
  await old.subscribe(scene.own("t"), 2);
  assertEquals(payload_text(await old.receive()), "m");
});

suite.five("a payload that is not the text that it is said to be is refused", async (scene) => {
  const client = await scene.connect();
  const bytes = Uint8Array.of(0xff);
  const properties = { payload_format: 1 };
  assertEquals(await client.publish(scene.own("t"), bytes, { qos: 1, properties }), 0x99);
  assertEquals(await client.publish(scene.own("t"), bytes, { qos: 2, properties }), 0x99);
  assertEquals(await client.publish(scene.own("t"), "ok", { qos: 2, properties }), 0);
  await client.publish(scene.own("t"), bytes, { properties });
  assertEquals(reasons(await client.closed()), [0x99]);
});

suite.five("a message that has expired is not delivered", async (scene) => {
  const subscriber = scene.kept("id");
  const first = await scene.connect(subscriber);
  await first.subscribe(scene.own("t"), 1);
  const publisher = await scene.connect();
  const publish = (payload: string, message_expiry_s: number) =>
    publisher.publish(scene.own("t"), payload, {
      qos: 1,
      retain: payload === "brief",
      properties: { message_expiry_s },
    });
  await publish("live", 100);
  assertEquals((await first.receive()).properties, { message_expiry_s: 100 });
  await first.disconnect();
  await publish("long", 100);
  await publish("brief", 1);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const again = await scene.connect(subscriber);
  const got = await again.receive();
  assertEquals(payload_text(got), "long");
  const left_s = got.properties?.message_expiry_s ?? 0;
  assert(left_s >= 95 && left_s <= 99, `${left_s} s are left`); // [MQTT-3.3.2-6]
  await again.expect_nothing();
  const late = await scene.connect();
  await late.subscribe(scene.own("t"), 1);
  await late.expect_nothing();
});

suite.five("what was sent does not expire", async (scene) => {
  const options = scene.kept("id");
  const first = await scene.connect(options);
  await first.subscribe(scene.own("t"), 2);
  const publisher = await scene.connect();
  const properties = { message_expiry_s: 1 };
  await publisher.publish(scene.own("t"), "m", { qos: 2, properties });
  const { packet_id } = await first.expect("publish");
  await first.close();
  await new Promise((resolve) => setTimeout(resolve, 1200));
  const again = await scene.connect(options);
  const got = await again.expect("publish");
  assertEquals([got.packet_id, got.dup, payload_text(got)], [packet_id, true, "m"]);
  await again.acknowledge(got);
  await again.expect_nothing();
});

suite.both("nobody but the service publishes under $SYS", async (scene) => {
  const watch = await scene.connect();
  await watch.subscribe("$SYS/own/#", 1);
  const client = await scene.connect();
  await client.publish("$SYS/own/x", "no");
  await client.expect_nothing();
  // 3.1.1 has no word for it: the publish is acknowledged and dropped [MQTT-3.3.5-2]
  const answer = scene.version === 5 ? 0x87 : 0;
  assertEquals(await client.publish("$SYS/own/x", "no", { qos: 1 }), answer);
  assertEquals(await client.publish("$SYS/own/x", "no", { qos: 2 }), answer);
  await watch.expect_nothing();
});

suite.both("a message over the limit of a payload is refused", async (scene) => {
  const client = await scene.connect();
  const payload = new Uint8Array(limits.payload_bytes_max + 1);
  await client.say(publish_packet(scene.own("t"), payload, { qos: 1, packet_id: 1 }));
  if (scene.version === 5) assert((await client.expect("puback")).reason_code >= 0x80);
  else assertEquals(await client.closed(), []);
});

suite.both("a wildcard in a topic name ends the connection", async (scene) => {
  for (const topic of ["a/#", "a/+/b"]) {
    const client = await scene.connect();
    await client.say(publish_packet(topic, "m"));
    assertEquals(reasons(await client.closed()), ended(scene, 0x90));
  }
});

suite.five("answers keep the order of publishes", async (scene) => {
  const client = await scene.connect();
  const good = (packet_id: number) => publish_packet(scene.own("t"), "", { qos: 1, packet_id });
  const bad = (packet_id: number) => publish_packet("$SYS/x", "", { qos: 1, packet_id });
  await client.say(good(1), bad(2), good(3), bad(4));
  for (const [packet_id, reason_code] of [[1, 0], [2, 0x87], [3, 0], [4, 0x87]]) {
    const puback = await client.expect("puback");
    assertEquals([puback.packet_id, puback.reason_code], [packet_id, reason_code]);
    assertEquals(puback.properties !== undefined, reason_code > 0); // a reason string
  }
});

suite.register();
