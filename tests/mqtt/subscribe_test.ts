/** MQTT: subscriptions, retained messages and topics, of versions 3.1.1 and 5. */
import { assertEquals } from "@std/assert";
import { limits } from "../../core/limits.ts";
import type { Packet, Publish, Subscription } from "../../core/protocol/mqtt.ts";
import { type MqttClient, payload_text, publish_packet } from "../support/mqtt_client.ts";
import { Suite } from "../support/mqtt_suite.ts";

const suite = new Suite("MQTT: subscriptions do what the standards say");

function wanted(filter: string, qos: 0 | 1 | 2 = 0): Subscription {
  return { filter, qos, no_local: false, retain_as_published: false, retain_handling: 0 };
}

function brief({ topic, qos, retain, ...rest }: Publish): string {
  return `${topic} ${payload_text({ topic, qos, retain, ...rest })} ${qos}${retain ? " r" : ""}`;
}

/** The next messages, acknowledged. */
async function take(client: MqttClient, count: number): Promise<string[]> {
  const got: string[] = [];
  while (got.length < count) got.push(brief(await client.receive()));
  return got;
}

suite.both("SUBACK answers each filter in order, with the id of SUBSCRIBE", async (scene) => {
  const client = await scene.connect();
  const filters = [wanted("a", 2), wanted("b/#", 0), wanted("+", 1), wanted("a", 1)];
  await client.say({ type: "subscribe", packet_id: 515, subscriptions: filters });
  const suback = await client.expect("suback");
  assertEquals([suback.packet_id, suback.reason_codes], [515, [2, 0, 1, 1]]);
});

suite.both("UNSUBACK answers each filter, also where there was none", async (scene) => {
  const client = await scene.connect();
  await client.subscribe("a/+", 1);
  await client.say({ type: "unsubscribe", packet_id: 99, filters: ["a/+", "a/b", "a/+"] });
  const unsuback = await client.expect("unsuback");
  assertEquals(unsuback.packet_id, 99);
  assertEquals(unsuback.reason_codes, scene.version === 4 ? [] : [0, 0x11, 0x11]);
});

suite.both("nothing new comes after UNSUBACK, and what was begun is completed", async (scene) => {
  const [a, b] = [scene.own("a"), scene.own("b")];
  const client = await scene.connect();
  const publisher = await scene.connect();
  await client.subscribe(a, 2);
  await client.subscribe(b, 1);
  await publisher.publish(a, "1", { qos: 2 });
  const begun = await client.expect("publish");
  await client.unsubscribe(a);
  await publisher.publish(a, "2", { qos: 2 });
  await publisher.publish(b, "3", { qos: 1 });
  assertEquals(await take(client, 1), [`${b} 3 1`]);
  await client.acknowledge(begun);
  await client.expect_nothing();
});

suite.both("what was begun is completed after a reconnect, though unsubscribed", async (scene) => {
  const options = scene.kept("id");
  const topic = scene.own("t");
  const first = await scene.connect(options);
  const publisher = await scene.connect();
  await first.subscribe(topic, 1);
  await publisher.publish(topic, "1", { qos: 1 });
  const begun = await first.expect("publish");
  await first.unsubscribe(topic);
  await first.close();
  const again = await scene.connect(options);
  const repeated = await again.receive();
  assertEquals([repeated.dup, repeated.packet_id], [true, begun.packet_id]);
  await again.expect_nothing();
});

suite.both("wildcards match as the standard says", async (scene) => {
  const own = (topic: string) => scene.own(topic);
  const matches: [filter: string, topics: string[]][] = [
    [own("sport/tennis/player1/#"), [
      own("sport/tennis/player1"),
      own("sport/tennis/player1/ranking"),
      own("sport/tennis/player1/score/wimbledon"),
    ]],
    [own("sport/tennis/+"), [own("sport/tennis/player1")]],
    [own("sport/+"), [own("sport/")]],
    [own("+/+/player1"), [own("sport/tennis/player1")]],
    [own("/finance"), [own("/finance")]],
    [own("+/finance"), [own("/finance")]],
  ];
  const topics = [...new Set(matches.flatMap(([, topics]) => topics)), own("sport"), own("Sport/")];
  const publisher = await scene.connect();
  for (const [filter, expected] of matches) {
    const client = await scene.connect();
    await client.subscribe(filter);
    for (const topic of topics) await publisher.publish(topic, "m");
    await publisher.expect_nothing();
    assertEquals(await take(client, expected.length), expected.map((topic) => `${topic} m 0`));
    await client.expect_nothing();
  }
});

suite.both("topics that begin with $ are kept out of wildcards", async (scene) => {
  const client = await scene.connect();
  const publisher = await scene.connect();
  for (const filter of ["#", "+/x", `$own${scene.number}/+`]) await client.subscribe(filter, 1);
  await publisher.publish(`$own${scene.number}/x`, "m", { qos: 1 });
  await publisher.publish(`${scene.number}/x`, "m", { qos: 1 });
  assertEquals(await take(client, 2), [`$own${scene.number}/x m 1`, `${scene.number}/x m 1`]);
  await client.unsubscribe("#");
});

suite.both("a filter that is not valid ends the connection", async (scene) => {
  for (const filter of ["a/#/b", "a#", "a/+b", "$share/a", "$share//b", "$share/a+/b"]) {
    const client = await scene.connect();
    await client.say({ type: "subscribe", packet_id: 1, subscriptions: [wanted(filter)] });
    const left = await client.closed();
    assertEquals(
      left.map((packet) => "reason_code" in packet && packet.reason_code),
      {
        4: [],
        5: [0x8f],
      }[scene.version],
    );
  }
});

suite.both("topics are compared as they are", async (scene) => {
  const client = await scene.connect();
  const publisher = await scene.connect();
  const topics = ["é", "e\u0301", "a b", "\ufeffa", "a//b", "😀"].map((name) => scene.own(name));
  for (const topic of topics) await client.subscribe(topic);
  for (const topic of [...topics, scene.own("a"), scene.own("É")]) {
    await publisher.publish(topic, "m");
  }
  await publisher.expect_nothing();
  assertEquals(await take(client, topics.length), topics.map((topic) => `${topic} m 0`));
  await client.expect_nothing();
});

suite.both("a topic may be as long as the service allows", async (scene) => {
  const topic = scene.own("t".repeat(limits.topic_bytes_max - scene.own("").length));
  const client = await scene.connect();
  await client.subscribe(topic);
  await client.publish(topic, "m");
  assertEquals((await client.receive()).topic, topic);
});

suite.both("overlapping subscriptions bring a message once, at the best QoS", async (scene) => {
  const client = await scene.connect();
  const publisher = await scene.connect();
  await client.subscribe(scene.own("#"), 0);
  await client.subscribe(scene.own("+"), 2);
  await client.subscribe(scene.own("t"), 1);
  for (const qos of [0, 1, 2] as const) {
    await publisher.publish(scene.own("t"), "m", { qos });
    assertEquals(await take(client, 1), [`${scene.own("t")} m ${qos}`]);
  }
  await client.expect_nothing();
});

suite.five("a message carries the identifiers of all subscriptions that match", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const client = await scene.connect(options);
  const publisher = await scene.connect();
  await client.subscribe(scene.own("+"), 0);
  await client.subscribe(scene.own("#"), 1, {}, 268_435_455);
  await client.subscribe(topic, 2, {}, 7);
  await client.subscribe(scene.own("other"), 2, {}, 9);
  const ids = (packet: Publish) => packet.properties?.subscription_ids;
  for (const qos of [0, 1, 2] as const) {
    await publisher.publish(topic, "m", { qos });
    const got = await client.receive();
    assertEquals([got.qos, ids(got)], [qos, [7, 268_435_455]]);
  }
  await client.expect_nothing();
  await client.disconnect();
  await publisher.publish(topic, "missed", { qos: 2 });
  const again = await scene.connect(options);
  assertEquals(ids(await again.receive()), [7, 268_435_455]);
  await again.subscribe(topic, 2); // the subscription is replaced: no identifier any more
  await again.unsubscribe(scene.own("#"));
  await publisher.publish(topic, "plain", { qos: 1 });
  assertEquals(ids(await again.receive()), undefined);
});

suite.five("retained messages carry the identifier of the new subscription", async (scene) => {
  const client = await scene.connect();
  await client.publish(scene.own("t"), "m", { retain: true, qos: 1 });
  await client.subscribe(scene.own("t"), 1, {}, 3);
  assertEquals((await client.receive()).properties, { subscription_ids: [3] });
});

suite.both(
  "a subscription to the same filter replaces the first, and loses nothing",
  async (scene) => {
    const topic = scene.own("t");
    const client = await scene.connect();
    const publisher = await scene.connect();
    await publisher.publish(topic, "old", { retain: true, qos: 1 });
    await client.subscribe(topic, 2);
    assertEquals(await take(client, 1), [`${topic} old 1 r`]);
    const sent: Promise<unknown>[] = [];
    for (let n = 0; n < 20; n++) {
      sent.push(publisher.say(publish_packet(topic, `${n}`, { qos: 1, packet_id: n + 1 })));
      const subscriptions = [wanted(topic, 1)];
      sent.push(client.say({ type: "subscribe", packet_id: n + 1, subscriptions }));
    }
    await Promise.all(sent);
    const got: Packet[] = [];
    for (let left = 60; left > 0; left--) { // 20 SUBACKs, 20 retained messages again, 20 live ones
      const packet = (await client.next())!;
      got.push(packet);
      if (packet.type === "publish") await client.acknowledge(packet);
    }
    const live = got.flatMap((packet) =>
      packet.type === "publish" && !packet.retain ? [packet] : []
    );
    assertEquals(live.map(payload_text), Array.from({ length: 20 }, (_, n) => `${n}`));
    await client.expect_nothing();
  },
);

suite.five("Retain Handling says when retained messages are sent", async (scene) => {
  const topic = scene.own("t");
  const client = await scene.connect();
  await client.publish(topic, "r", { retain: true, qos: 1 });
  await client.subscribe(topic, 1, { retain_handling: 2 });
  await client.subscribe(topic, 1, { retain_handling: 1 });
  await client.expect_nothing();
  await client.unsubscribe(topic);
  await client.subscribe(topic, 1, { retain_handling: 1 });
  assertEquals(await take(client, 1), [`${topic} r 1 r`]);
  await client.subscribe(topic, 1, { retain_handling: 0 });
  assertEquals(await take(client, 1), [`${topic} r 1 r`]);
  await client.expect_nothing();
});

suite.five("Retain As Published keeps the flag of live messages", async (scene) => {
  const topic = scene.own("t");
  const [kept, plain] = [await scene.connect(), await scene.connect()];
  await kept.subscribe(topic, 1, { retain_as_published: true });
  await plain.subscribe(topic, 1);
  const publisher = await scene.connect();
  for (const [retain, qos] of [[true, 0], [false, 0], [true, 1], [false, 1]] as const) {
    await publisher.publish(topic, "m", { retain, qos });
    assertEquals(await take(kept, 1), [`${topic} m ${qos}${retain ? " r" : ""}`]);
    assertEquals(await take(plain, 1), [`${topic} m ${qos}`]);
  }
});

suite.both("the last retained message of a topic is sent to who subscribes", async (scene) => {
  const own = (topic: string) => scene.own(topic);
  const publisher = await scene.connect();
  const live = await scene.connect();
  await live.subscribe(own("#"), 2);
  const sent = [
    ["a", "old", 1, true],
    ["a", "new", 2, true],
    ["a", "not retained", 1, false],
    ["b", "b", 0, true],
    ["c", "c", 1, true],
    ["c", "", 1, true],
  ] as const;
  for (const [topic, payload, qos, retain] of sent) {
    await publisher.publish(own(topic), payload, { qos, retain });
    assertEquals(await take(live, 1), [`${own(topic)} ${payload} ${qos}`]);
  }
  for (const qos of [0, 1, 2] as const) {
    const late = await scene.connect();
    await late.subscribe(own("+"), qos);
    assertEquals((await take(late, 2)).sort(), [
      `${own("a")} new ${qos} r`,
      `${own("b")} b 0 r`,
    ]);
    await late.expect_nothing();
  }
});

suite.both("a retained message in flight is sent again as one", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const publisher = await scene.connect();
  for (let n = 0; n < 3; n++) await publisher.publish(scene.own("before"), "", { qos: 1 });
  await publisher.publish(topic, "r", { retain: true, qos: 1 });
  for (let n = 0; n < 3; n++) await publisher.publish(scene.own("after"), "", { qos: 1 });
  const first = await scene.connect(options);
  await first.subscribe(topic, 1);
  const { packet_id } = await first.expect("publish");
  await first.close();
  const second = await scene.connect(options);
  const again = await second.receive();
  assertEquals([again.packet_id, again.dup, again.retain], [packet_id, true, true]);
  await second.disconnect();
  const third = await scene.connect(options);
  await third.expect_nothing();
});

suite.five("No Local keeps away what the client itself published", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const client = await scene.connect(options);
  const other = await scene.connect();
  await client.subscribe(topic, 2, { no_local: true });
  await client.subscribe(scene.own("both"), 2, { no_local: true });
  await client.subscribe(scene.own("+"), 1, { retain_handling: 2 });
  await client.unsubscribe(scene.own("+"));
  for (const qos of [0, 1, 2] as const) {
    await client.publish(topic, "own", { qos, retain: true });
    await other.publish(topic, "other", { qos });
    assertEquals(await take(client, 1), [`${topic} other ${qos}`]);
  }
  await client.subscribe(topic, 2, { no_local: true }); // its own retained message neither
  await client.expect_nothing();
  await client.disconnect();
  const again = await scene.connect(options);
  await again.expect_nothing();
  await again.subscribe(scene.own("#"), 1, { retain_handling: 2 }); // this one has not asked for it
  await again.publish(topic, "own");
  assertEquals(await take(again, 1), [`${topic} own 0`]);
});

suite.both("more filters than a packet or a session may have are refused", async (scene) => {
  const client = await scene.connect();
  const many = Array.from(
    { length: limits.subscriptions_per_session_max },
    (_, n) => wanted(`${n}`),
  );
  await client.say({ type: "subscribe", packet_id: 1, subscriptions: many });
  await client.expect("suback");
  assertEquals(await client.subscribe("one more"), scene.version === 4 ? 0x80 : 0x97);
  assertEquals(await client.subscribe("7", 1), 1); // it has this one
  await client.say({ type: "subscribe", packet_id: 2, subscriptions: [...many, wanted("x")] });
  await client.closed();
});

suite.register();
