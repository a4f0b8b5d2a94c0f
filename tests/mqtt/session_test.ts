/** MQTT: sessions that outlive their connections, and wills, of versions 3.1.1 and 5. */
import { assertEquals, assertNotEquals } from "@std/assert";
import type { Publish } from "../../core/protocol/mqtt.ts";
import { type MqttClient, payload_text } from "../support/mqtt_client.ts";
import { Suite } from "../support/mqtt_suite.ts";

const suite = new Suite("MQTT: sessions and wills are what the standards say");

async function take(client: MqttClient, count: number): Promise<string[]> {
  const got: string[] = [];
  while (got.length < count) got.push(payload_text(await client.receive()));
  return got;
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

suite.both("Session Present says whether there is a session", async (scene) => {
  const options = scene.kept("id");
  const present = async (more: Parameters<typeof scene.connack>[0] = {}) => {
    const { client, connack } = await scene.connack({ ...options, ...more });
    await client.disconnect();
    return connack.session_present;
  };
  assertEquals(await present(), false);
  assertEquals(await present(), true);
  assertEquals(await present({ clean_start: true }), false);
  // Version 5 keeps a session that was begun anew, 3.1.1 does not.
  assertEquals(await present(), scene.version === 5);
  const refused = await scene.connack({ ...options, client_id: "$share/x/y" });
  assertEquals(refused.connack.session_present, false);
});

suite.both("a clean start forgets the session", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const publisher = await scene.connect();
  const first = await scene.connect(options);
  await first.subscribe(topic, 1);
  await publisher.publish(topic, "in flight", { qos: 1 });
  await first.expect("publish");
  await first.close();
  await publisher.publish(topic, "missed", { qos: 1 });
  const second = await scene.connect({ ...options, clean_start: true });
  await publisher.publish(topic, "not subscribed", { qos: 1 });
  await second.expect_nothing();
});

suite.both("a session without a kept state ends with its connection", async (scene) => {
  const client_id = scene.own("id");
  const first = await scene.connect({ client_id, clean_start: scene.version === 4 });
  await first.subscribe(scene.own("t"), 1);
  await first.close();
  const { connack } = await scene.connack({ client_id, clean_start: false });
  assertEquals(connack.session_present, false);
});

suite.both("messages of QoS 1 and 2 wait for a session that is away, in order", async (scene) => {
  const options = scene.kept("id");
  const publisher = await scene.connect();
  const first = await scene.connect(options);
  await first.subscribe(scene.own("+"), 2);
  await first.subscribe(scene.own("a/#"), 1);
  await first.disconnect();
  for (let n = 0; n < 30; n++) {
    const topic = scene.own(["x", "a/b", "other/x"][n % 3]);
    await publisher.publish(topic, `${n}`, { qos: n % 2 === 0 ? 1 : 2 });
  }
  const again = await scene.connect(options);
  const expected = Array.from({ length: 30 }, (_, n) => n).filter((n) => n % 3 !== 2).map(String);
  assertEquals(await take(again, 20), expected);
  await publisher.publish(scene.own("x"), "live", { qos: 1 });
  assertEquals(await take(again, 1), ["live"]);
  await again.expect_nothing();
});

suite.both(
  "what is in flight is sent again, in order, with DUP and its packet id",
  async (scene) => {
    const topic = scene.own("t");
    const options = scene.kept("id");
    const publisher = await scene.connect();
    const first = await scene.connect(options);
    await first.subscribe(topic, 2);
    const sent: Publish[] = [];
    for (let n = 0; n < 8; n++) {
      await publisher.publish(topic, `${n}`, { qos: n % 2 === 0 ? 1 : 2 });
      sent.push(await first.expect("publish"));
    }
    await first.acknowledge(sent[0]);
    await first.acknowledge(sent[3]);
    await first.say({ type: "pubrec", packet_id: sent[5].packet_id, reason_code: 0 });
    await first.expect("pubrel");
    await first.disconnect(); // whose stream only ends may be sent what is published meanwhile
    await publisher.publish(topic, "8", { qos: 1 });
    const again = await scene.connect(options);
    for (const n of [1, 2, 4, 5, 6, 7]) {
      const { packet_id } = sent[n];
      if (n === 5) { // the client has it: only PUBREL comes again [MQTT-4.3.3-6]
        assertEquals((await again.expect("pubrel")).packet_id, packet_id);
        continue;
      }
      const got = await again.expect("publish");
      assertEquals([payload_text(got), got.dup, got.packet_id], [`${n}`, true, packet_id]);
    }
    const last = await again.expect("publish");
    assertEquals([payload_text(last), last.dup], ["8", false]);
    await again.say({ type: "pubcomp", packet_id: sent[5].packet_id, reason_code: 0 });
    await again.close();
    const third = await scene.connect(options);
    for (const n of [1, 2, 4, 6, 7]) {
      const got = await third.receive();
      assertEquals([payload_text(got), got.dup, got.packet_id], [`${n}`, true, sent[n].packet_id]);
    }
    assertEquals(await take(third, 1), ["8"]);
    await third.expect_nothing();
  },
);

suite.both("a subscription brings nothing from before it, nor again what it was", async (scene) => {
  // Causes: the cursor of a live session may stand before its last message; who came back had
  // what lay in between judged by the subscriptions of now, not of then.
  const [old, other] = [scene.own("old"), scene.own("other")];
  const options = scene.kept("id");
  const publisher = await scene.connect();
  const first = await scene.connect(options);
  await first.subscribe(scene.own("kept"), 1);
  await first.subscribe(old, 0);
  await publisher.publish(old, "came at QoS 0", { qos: 1 });
  assertEquals((await first.receive()).qos, 0);
  await publisher.publish(other, "nobody's", { qos: 1 });
  await first.subscribe(old, 2);
  await first.subscribe(other, 1);
  await first.close();
  await publisher.publish(other, "missed", { qos: 1 });
  const again = await scene.connect(options);
  assertEquals(await take(again, 1), ["missed"]);
  await again.expect_nothing();
});

suite.both("nothing is sent again on a connection that stays", async (scene) => {
  const topic = scene.own("t");
  const client = await scene.connect();
  await client.subscribe(topic, 2);
  await client.publish(topic, "m");
  await client.receive();
  const publisher = await scene.connect();
  await publisher.publish(topic, "m", { qos: 2 });
  await client.expect("publish");
  await wait(1500);
  await client.expect_nothing();
});

suite.both("a QoS 2 exchange of the client goes on after a reconnect", async (scene) => {
  const topic = scene.own("t");
  const options = scene.kept("id");
  const subscriber = await scene.connect();
  await subscriber.subscribe(topic, 2);
  const publish = { type: "publish", topic, payload: new Uint8Array(), retain: false } as const;
  const packet = { ...publish, qos: 2, packet_id: 3, dup: false } as const;
  const first = await scene.connect(options);
  await first.say(packet);
  await first.expect("pubrec");
  await first.close();
  await subscriber.receive();
  const again = await scene.connect(options);
  await again.say({ ...packet, dup: true });
  assertEquals((await again.expect("pubrec")).packet_id, 3);
  await again.say({ type: "pubrel", packet_id: 3, reason_code: 0 });
  assertEquals((await again.expect("pubcomp")).reason_code, 0);
  await subscriber.expect_nothing();
  await again.say(packet);
  await again.expect("pubrec");
  await subscriber.receive(); // a new message
});

suite.both("a session goes on over the other version", async (scene) => {
  const options = scene.kept("id");
  const other = scene.version === 4 ? 5 : 4;
  const first = await scene.connect(options);
  await first.subscribe(scene.own("t"), 1);
  await first.disconnect();
  const publisher = await scene.connect();
  await publisher.publish(scene.own("t"), "m", { qos: 1 });
  const { client, connack } = await scene.connack({ ...options, version: other });
  assertEquals(connack.session_present, true);
  assertEquals(await take(client, 1), ["m"]);
});

suite.five("a session ends after its expiry interval", async (scene) => {
  const options = { client_id: scene.own("id"), clean_start: false };
  const first = await scene.connect({ ...options, properties: { session_expiry_s: 1 } });
  await first.subscribe(scene.own("t"), 1);
  await first.close();
  await wait(300);
  const soon = await scene.connack({ ...options, properties: { session_expiry_s: 1 } });
  assertEquals(soon.connack.session_present, true);
  await wait(1500); // it is connected: nothing expires [MQTT-4.1.0-1]
  await soon.client.close();
  const still = await scene.connack({ ...options, properties: { session_expiry_s: 1 } });
  assertEquals(still.connack.session_present, true);
  await still.client.close();
  await wait(1700);
  const late = await scene.connack({ ...options, properties: { session_expiry_s: 1 } });
  assertEquals(late.connack.session_present, false);
});

suite.five("DISCONNECT may change the expiry interval, but not from 0", async (scene) => {
  const options = { client_id: scene.own("id"), clean_start: false };
  const kept = { ...options, properties: { session_expiry_s: 600 } };
  const first = await scene.connect(kept);
  await first.disconnect({ properties: { session_expiry_s: 0 } });
  const second = await scene.connack(kept);
  assertEquals(second.connack.session_present, false);
  await second.client.disconnect();
  const third = await scene.connack(options); // without an interval: it ends with this connection
  assertEquals(third.connack.session_present, true);
  await third.client.say({
    type: "disconnect",
    reason_code: 0,
    properties: { session_expiry_s: 5 },
  });
  const [disconnect] = await third.client.closed();
  assertEquals("reason_code" in disconnect && disconnect.reason_code, 0x82);
  assertEquals((await scene.connack(options)).connack.session_present, false);
});

suite.both("nothing is taken after DISCONNECT", async (scene) => {
  const topic = scene.own("t");
  const watch = await scene.connect();
  await watch.subscribe(topic);
  const client = await scene.connect();
  const publish = { type: "publish", topic, qos: 0, packet_id: 0, retain: false } as const;
  await client.say(
    { type: "disconnect", reason_code: 0 },
    { ...publish, payload: new Uint8Array(), dup: false },
  );
  assertEquals(await client.closed(), []);
  await watch.expect_nothing();
});

const will = { payload: new TextEncoder().encode("gone"), qos: 1, retain: false } as const;

suite.both("a will is published when the connection ends without DISCONNECT", async (scene) => {
  const topic = scene.own("will");
  const watch = await scene.connect();
  await watch.subscribe(topic, 2);
  const connect = (qos: 0 | 1 | 2, retain = false) => {
    const client_id = scene.own(`will${qos}`);
    return scene.connect({ client_id, keepalive_s: 1, will: { ...will, topic, qos, retain } });
  };
  const received = async () => {
    const { qos, retain, payload } = await watch.receive();
    return [qos, retain, new TextDecoder().decode(payload)];
  };
  await (await connect(2)).close(); // the network fails
  assertEquals(await received(), [2, false, "gone"]);
  await connect(0, true); // the client falls silent
  assertEquals(await received(), [0, false, "gone"]);
  const broken = await connect(1);
  await broken.send(Uint8Array.of(0xf1, 0)); // the client breaks the protocol
  assertEquals(await received(), [1, false, "gone"]);
  await connect(1);
  await connect(1); // another connection takes over
  assertEquals(await received(), [1, false, "gone"]);
  await watch.expect_nothing();
  const late = await scene.connect();
  await late.subscribe(topic, 2);
  assertEquals((await late.receive()).retain, true); // [MQTT-3.1.2-15]
});

suite.both("DISCONNECT discards the will", async (scene) => {
  const topic = scene.own("will");
  const watch = await scene.connect();
  await watch.subscribe(topic, 1);
  const options = scene.kept("id", { will: { ...will, topic } });
  const client = await scene.connect(options);
  await client.disconnect();
  const again = await scene.connect(scene.kept("id"));
  await again.close(); // this connection has none
  await watch.expect_nothing();
  if (scene.version === 4) return;
  for (const reason_code of [0x04, 0x80]) {
    const other = await scene.connect(options);
    await other.disconnect({ reason_code });
    assertEquals(await take(watch, 1), ["gone"]);
  }
});

suite.five("a will waits for its delay, and a reconnect cancels it", async (scene) => {
  const topic = scene.own("will");
  const watch = await scene.connect();
  await watch.subscribe(topic, 1);
  const options = scene.kept("id", {
    will: { ...will, topic, properties: { will_delay_s: 1 } },
  });
  const first = await scene.connect(options);
  await first.close();
  const again = await scene.connect(options);
  await wait(1600);
  await watch.expect_nothing();
  await again.close();
  await watch.expect_nothing();
  assertEquals(await take(watch, 1), ["gone"]);
  const third = await scene.connect(scene.kept("id"));
  await third.disconnect();
  await watch.expect_nothing();
});

suite.five("a will does not wait longer than its session", async (scene) => {
  const topic = scene.own("will");
  const watch = await scene.connect();
  await watch.subscribe(topic, 1);
  const properties = { will_delay_s: 4_000_000_000 };
  const options = { client_id: scene.own("id"), will: { ...will, topic, properties } };
  const brief = await scene.connect(options);
  await brief.close(); // the session ends with the connection
  assertEquals(await take(watch, 1), ["gone"]);
  const kept = await scene.connect({ ...options, properties: { session_expiry_s: 1 } });
  await kept.close();
  await watch.expect_nothing();
  assertEquals(await take(watch, 1), ["gone"]);
  const last = await scene.connect({ ...options, properties: { session_expiry_s: 600 } });
  await last.close();
  await watch.expect_nothing();
  await scene.connect({ client_id: scene.own("id") }); // a clean start ends the session
  assertEquals(await take(watch, 1), ["gone"]);
});

suite.five(
  "a takeover cancels a will that waits, unless the session begins anew",
  async (scene) => {
    const topic = scene.own("will");
    const watch = await scene.connect();
    await watch.subscribe(topic, 1);
    const options = scene.kept("id", {
      will: { ...will, topic, properties: { will_delay_s: 600 } },
    });
    await scene.connect(options);
    const second = await scene.connect(options);
    await second.expect_nothing();
    await watch.expect_nothing();
    await scene.connect({ ...options, clean_start: true });
    assertEquals(await take(watch, 1), ["gone"]);
    await watch.expect_nothing();
  },
);

suite.five("a will carries its properties, in order", async (scene) => {
  const topic = scene.own("will");
  const watch = await scene.connect();
  await watch.subscribe(topic, 1);
  const properties = {
    payload_format: 1,
    message_expiry_s: 60,
    content_type: "text/plain",
    response_topic: "answers",
    correlation_data: Uint8Array.of(1, 0),
    user_properties: [["b", "1"], ["a", "2"], ["b", "3"]],
  } as const;
  const client = await scene.connect({
    will: { ...will, topic, properties: { ...properties, will_delay_s: 0 } },
  });
  await client.close();
  assertEquals((await watch.receive()).properties, properties);
});

suite.both("a will under $SYS is refused", async (scene) => {
  const { connack } = await scene.connack({ will: { ...will, topic: "$SYS/broker/version" } });
  assertNotEquals(connack.reason_code, 0);
});

suite.register();
