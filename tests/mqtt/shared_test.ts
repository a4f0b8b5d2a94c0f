/** MQTT: shared subscriptions, of versions 3.1.1 and 5 (MQTT 5 section 4.8.2). */
import { assertEquals } from "@std/assert";
import type { Publish } from "../../core/protocol/mqtt.ts";
import { type MqttClient, payload_text, publish_packet } from "../support/mqtt_client.ts";
import { type Scene, Suite } from "../support/mqtt_suite.ts";

const suite = new Suite("MQTT: shared subscriptions do what the standard says");

function share(scene: Scene, filter = "t"): string {
  return `$share/group/${scene.own(filter)}`;
}

function subscribe_packet(filter: string) {
  const options = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
  const subscriptions = [{ filter, qos: 1, ...options }] as const;
  return { type: "subscribe", packet_id: 1, subscriptions } as const;
}

async function publish(
  client: MqttClient,
  topic: string,
  count: number,
  qos: 0 | 1 | 2,
): Promise<void> {
  for (let n = 0; n < count; n++) await client.publish(topic, `${n}`, { qos });
}

/** Everything that comes until a PINGREQ is answered, acknowledged. */
async function drain(client: MqttClient): Promise<string[]> {
  const got: string[] = [];
  await client.say({ type: "pingreq" });
  for (;;) {
    const packet = await client.next();
    if (packet?.type === "pingresp" || packet === undefined) return got;
    if (packet.type !== "publish") continue;
    got.push(payload_text(packet));
    await client.acknowledge(packet);
  }
}

/** Collects from all members until `count` messages have come, and no more do. */
async function collect(members: readonly MqttClient[], count: number): Promise<string[][]> {
  const got: string[][] = members.map(() => []);
  for (let is_last = false; !is_last;) {
    is_last = got.flat().length >= count;
    for (const [index, member] of members.entries()) got[index].push(...await drain(member));
    if (!is_last) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return got;
}

/** Collects the numbers from 0 on, each of which must come once. */
async function gather(members: readonly MqttClient[], count: number): Promise<string[][]> {
  const got = await collect(members, count);
  const expected = Array.from({ length: count }, (_, n) => n);
  assertEquals(got.flat().map(Number).sort((a, b) => a - b), expected);
  return got;
}

suite.both("each message goes to one member, in turn", async (scene) => {
  const members = [await scene.connect(), await scene.connect(), await scene.connect()];
  const outside = await scene.connect();
  const other_group = await scene.connect();
  const publisher = await scene.connect();
  for (const member of members) assertEquals(await member.subscribe(share(scene), 2), 2);
  await outside.subscribe(scene.own("t"), 1);
  await other_group.subscribe(`$share/other/${scene.own("+")}`, 1);
  for (const qos of [0, 1, 2] as const) {
    await publish(publisher, scene.own("t"), 30, qos);
    const got = await gather(members, 30);
    assertEquals(got.map(({ length }) => length), [10, 10, 10]);
    await gather([outside], 30);
    await gather([other_group], 30);
  }
});

suite.both("each member gets the QoS that it was granted", async (scene) => {
  const topic = scene.own("t");
  const publisher = await scene.connect();
  const members: MqttClient[] = [];
  for (const qos of [0, 1, 2] as const) {
    const member = await scene.connect();
    await member.subscribe(share(scene), qos);
    members.push(member);
  }
  await publish(publisher, topic, 3, 2);
  for (const [qos, member] of members.entries()) assertEquals((await member.receive()).qos, qos);
  await publish(publisher, topic, 3, 0);
  for (const member of members) assertEquals((await member.receive()).qos, 0);
});

suite.both("a client may have a filter shared and for itself", async (scene) => {
  const client = await scene.connect();
  const publisher = await scene.connect();
  await client.subscribe(share(scene), 1);
  await client.subscribe(scene.own("t"), 1);
  await publisher.publish(scene.own("t"), "m", { qos: 1 });
  await client.receive();
  await client.receive();
  await client.expect_nothing();
  await client.unsubscribe(share(scene));
  await publisher.publish(scene.own("t"), "m", { qos: 1 });
  await client.receive();
  await client.expect_nothing();
});

suite.both("no retained messages are sent", async (scene) => {
  const client = await scene.connect();
  await client.publish(scene.own("t"), "r", { qos: 1, retain: true });
  await client.subscribe(share(scene), 1);
  await client.expect_nothing();
});

suite.five("No Local is a protocol error", async (scene) => {
  const client = await scene.connect();
  const subscription = { qos: 0, retain_as_published: false, retain_handling: 0 } as const;
  await client.say({
    type: "subscribe",
    packet_id: 1,
    subscriptions: [{ filter: share(scene), no_local: true, ...subscription }],
  });
  const [disconnect] = await client.closed();
  assertEquals("reason_code" in disconnect && disconnect.reason_code, 0x82);
});

suite.five("messages carry the subscription's identifier and flags", async (scene) => {
  const client = await scene.connect();
  const publisher = await scene.connect();
  await client.subscribe(share(scene), 2, { retain_as_published: true }, 11);
  for (const qos of [0, 1, 2] as const) {
    await publisher.publish(scene.own("t"), "m", { qos, retain: true });
    const { properties, retain } = await client.receive();
    assertEquals([properties, retain], [{ subscription_ids: [11] }, true]);
  }
});

suite.both("a full member is passed over, and nothing is lost", async (scene) => {
  const properties = { receive_maximum: 2 };
  const narrow = await scene.connect({ properties });
  const wide = await scene.connect();
  const publisher = await scene.connect();
  await narrow.subscribe(share(scene), 1);
  await wide.subscribe(share(scene), 1);
  const packets = Array.from({ length: 400 }, (_, n) => {
    return publish_packet(scene.own("t"), `${n}`, { qos: 1, packet_id: n + 1 });
  });
  await publisher.say(...packets);
  for (let n = 0; n < 400; n++) await publisher.expect("puback");
  const held: Publish[] = [];
  while (held.length < 2) held.push(await narrow.expect("publish"));
  if (scene.version === 5) await narrow.expect_nothing(); // [MQTT-3.3.4-9]
  const got = held.map(payload_text);
  for (const packet of held) await narrow.acknowledge(packet);
  got.push(...(await collect([wide, narrow], 398)).flat());
  assertEquals([got.length, new Set(got).size], [400, 400]);
});

suite.both("QoS 1 messages of a member that is lost go to another", async (scene) => {
  const lost = await scene.connect();
  const stays = await scene.connect();
  const publisher = await scene.connect();
  await lost.subscribe(share(scene), 1);
  await stays.subscribe(share(scene), 1);
  await publish(publisher, scene.own("t"), 10, 1);
  await lost.expect("publish");
  await lost.close();
  await gather([stays], 10);
  await stays.expect_nothing();
});

suite.both("a QoS 2 message stays with its member, also across a reconnect", async (scene) => {
  const options = scene.kept("id");
  const member = await scene.connect(options);
  const other = await scene.connect();
  const publisher = await scene.connect();
  await member.subscribe(share(scene), 2);
  await publish(publisher, scene.own("t"), 2, 2);
  const sent = [await member.expect("publish"), await member.expect("publish")];
  await member.say({ type: "pubrec", packet_id: sent[0].packet_id, reason_code: 0 });
  await member.expect("pubrel");
  await other.subscribe(share(scene), 2);
  await member.close();
  await other.expect_nothing();
  const again = await scene.connect(options);
  assertEquals((await again.expect("pubrel")).packet_id, sent[0].packet_id);
  await again.say({ type: "pubcomp", packet_id: sent[0].packet_id, reason_code: 0 });
  const { packet_id, dup, ...packet } = await again.receive();
  assertEquals([packet_id, dup], [sent[1].packet_id, true]);
  assertEquals(payload_text({ packet_id, dup, ...packet }), "1");
  await other.expect_nothing();
  await publisher.publish(scene.own("t"), "x", { qos: 2 });
  await publisher.publish(scene.own("t"), "y", { qos: 2 });
  const both = [...await drain(again), ...await drain(other)];
  assertEquals(both.sort(), ["x", "y"]);
});

suite.both("a QoS 2 message goes with the session of its member", async (scene) => {
  const member = await scene.connect();
  const other = await scene.connect();
  const publisher = await scene.connect();
  await member.subscribe(share(scene), 2);
  await publisher.publish(scene.own("t"), "m", { qos: 2 });
  await member.expect("publish");
  await other.subscribe(share(scene), 2);
  await member.close();
  await new Promise((resolve) => setTimeout(resolve, 200));
  await other.expect_nothing();
});

suite.five("a refused message goes to no other member", async (scene) => {
  const member = await scene.connect();
  const other = await scene.connect();
  const publisher = await scene.connect();
  await member.subscribe(share(scene), 2);
  await publisher.publish(scene.own("t"), "m", { qos: 1 });
  await publisher.publish(scene.own("t"), "m", { qos: 2 });
  await other.subscribe(share(scene), 2);
  const [one, two] = [await member.expect("publish"), await member.expect("publish")];
  await member.say({ type: "puback", packet_id: one.packet_id, reason_code: 0x80 });
  await member.say({ type: "pubrec", packet_id: two.packet_id, reason_code: 0x80 });
  await member.expect_nothing();
  await member.close();
  await new Promise((resolve) => setTimeout(resolve, 200));
  await other.expect_nothing();
});

suite.both("messages wait for the group while every member is away", async (scene) => {
  const options = scene.kept("id");
  const member = await scene.connect(options);
  const publisher = await scene.connect();
  await member.subscribe(share(scene), 1);
  await member.disconnect();
  await publish(publisher, scene.own("t"), 20, 1);
  const brief = await scene.connect();
  await brief.say(subscribe_packet(share(scene))); // messages may come before its SUBACK
  const again = await scene.connect(options);
  await gather([brief, again], 20);
  await brief.unsubscribe(share(scene));
  await again.unsubscribe(share(scene)); // the group ends
  await publish(publisher, scene.own("t"), 5, 1);
  await again.subscribe(share(scene), 1);
  await again.expect_nothing();
});

suite.both("what a member that unsubscribes was sent it completes", async (scene) => {
  const member = await scene.connect();
  const other = await scene.connect();
  const publisher = await scene.connect();
  await member.subscribe(share(scene), 1);
  await publisher.publish(scene.own("t"), "0", { qos: 1 });
  const packet = await member.expect("publish");
  await other.subscribe(share(scene), 1);
  await member.unsubscribe(share(scene));
  await member.acknowledge(packet);
  await publisher.publish(scene.own("t"), "1", { qos: 1 });
  assertEquals(await drain(other), ["1"]);
  await member.expect_nothing();
});

suite.register();
