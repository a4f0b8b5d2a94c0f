/** MQTT: how connections begin: CONNECT and CONNACK, of versions 3.1.1 and 5. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { limits } from "../../core/limits.ts";
import { encode } from "../../core/protocol/mqtt.ts";
import { bytes_of } from "../cases/bytes.ts";
import { frame } from "../cases/mqtt_cases.ts";
import { connect_packet, publish_packet } from "../support/mqtt_client.ts";
import { Suite } from "../support/mqtt_suite.ts";

const suite = new Suite("MQTT: connections begin as the standards say");

suite.both("another protocol or level is refused", async (scene) => {
  for (const body of ["'MQIsdp' 03 02 003c 'id'", "'MQTT' 06 02 003c 00 'id'"]) {
    const client = await scene.open();
    await client.send(frame(0x10, bytes_of(body)));
    assertEquals(await client.closed(), scene.version === 4 ? [connack(1)] : []);
  }
  const client = await scene.open();
  await client.send(frame(0x10, bytes_of("'HTTP' 04 02 003c 'id'")));
  await client.closed();
});

function connack(reason_code: number) {
  return { type: "connack", session_present: false, reason_code } as const;
}

suite.both("anything but CONNECT first ends the connection", async (scene) => {
  for (const packet of [{ type: "pingreq" }, publish_packet("a", "b")] as const) {
    const client = await scene.open();
    await client.say(packet);
    assertEquals(await client.closed(), []);
  }
});

suite.both("a second CONNECT ends the connection", async (scene) => {
  const client = await scene.connect();
  await client.say(connect_packet({ version: scene.version }));
  const left = await client.closed();
  assertEquals(
    left.map((packet) => "reason_code" in packet && packet.reason_code),
    {
      4: [],
      5: [0x82],
    }[scene.version],
  );
});

suite.five("an empty client id is answered with one that nobody has", async (scene) => {
  const first = await scene.connack();
  const second = await scene.connack({ clean_start: false });
  const ids = [first, second].map((each) => each.connack.properties?.assigned_client_id ?? "");
  assertNotEquals(ids[0], "");
  assertNotEquals(ids[0], ids[1]);
  const taken = await scene.connack({ client_id: ids[0] });
  assertEquals(taken.connack.properties?.assigned_client_id, undefined);
  const [disconnect] = await first.client.closed();
  assertEquals("reason_code" in disconnect && disconnect.reason_code, 0x8e);
});

suite.four("an empty client id is taken for a clean session only", async (scene) => {
  await scene.connect({ client_id: "" });
  const client = await scene.open();
  await client.send(frame(0x10, bytes_of("'MQTT' 04 00 003c ''")));
  assertEquals(await client.closed(), [connack(2)]);
});

suite.both("client ids of 1 to 23 letters and digits are taken, and others", async (scene) => {
  const ids = ["a", "0123456789abcdefghijABC", "ü/+#", "x".repeat(limits.device_id_bytes_max)];
  for (const client_id of ids) await scene.connect({ client_id });
  for (const client_id of ["x".repeat(limits.device_id_bytes_max + 1), "$share/a/b"]) {
    const { client, connack } = await scene.connack({ client_id });
    assertEquals(connack.reason_code, scene.version === 4 ? 2 : 0x85);
    assertEquals(await client.closed(), []);
  }
});

suite.both("a refused CONNECT has no effect, nor what follows it", async (scene) => {
  const watch = await scene.connect();
  const topic = scene.own("after");
  await watch.subscribe(topic);
  const client = await scene.open();
  const id = "x".repeat(limits.device_id_bytes_max + 1);
  await client.say(
    connect_packet({ version: scene.version, client_id: id }),
    publish_packet(topic, "no", { retain: true }),
  );
  const [answer, ...more] = await client.closed();
  assertEquals([answer.type, more], ["connack", []]);
  await watch.expect_nothing();
});

suite.both("CONNACK comes first, once", async (scene) => {
  const client_id = scene.own("id");
  const first = await scene.connect({ client_id, clean_start: false });
  await first.subscribe(scene.own("a"), 1);
  const client = await scene.open();
  await client.say(
    connect_packet({ version: scene.version, client_id, clean_start: false }),
    { type: "pingreq" },
  );
  assertEquals((await client.expect("connack")).reason_code, 0);
  await client.expect("pingresp");
});

suite.five("CONNACK says what the service takes", async (scene) => {
  const { connack } = await scene.connack({ client_id: scene.own("id"), keepalive_s: 17 });
  assertEquals(connack.properties, {
    receive_maximum: limits.receive_max,
    maximum_packet_bytes: limits.frame_bytes_max,
    topic_alias_maximum: limits.topic_alias_max,
  });
  const asked = { request_response_information: true, request_problem_information: false };
  const other = await scene.connack({ client_id: scene.own("id2"), properties: asked });
  assertEquals(other.connack.properties?.response_information, undefined);
});

suite.five("enhanced authentication is refused", async (scene) => {
  const properties = { authentication_method: "SCRAM-SHA-1" };
  const { client, connack } = await scene.connack({ properties });
  assertEquals(connack.reason_code, 0x8c);
  assertEquals(await client.closed(), []);
  const other = await scene.connect();
  await other.say({ type: "auth", reason_code: 0x18, properties });
  const [disconnect] = await other.closed();
  assertEquals("reason_code" in disconnect && disconnect.reason_code, 0x82);
});

suite.both("a user name and a password are read", async (scene) => {
  await scene.connect({ username: "user", password: Uint8Array.of(1, 2) });
  if (scene.version === 5) await scene.connect({ password: Uint8Array.of(1, 2) });
});

suite.both("a connection takes over from an earlier one with its client id", async (scene) => {
  const client_id = scene.own("id");
  const first = await scene.connect({ client_id });
  const other = await scene.connect({ client_id: scene.own("other") });
  const second = await scene.connect({ client_id });
  const left = await first.closed();
  assertEquals(
    left.map((packet) => "reason_code" in packet && packet.reason_code),
    {
      4: [],
      5: [0x8e],
    }[scene.version],
  );
  await second.expect_nothing();
  await other.expect_nothing();
});

suite.five("no packet is larger than the client takes", async (scene) => {
  const topic = scene.own("t");
  const publisher = await scene.connect();
  const properties = { maximum_packet_bytes: 40 };
  const small = await scene.connect({ client_id: "s", properties });
  await small.subscribe(topic, 1);
  const fits = "x".repeat(40 - 7 - topic.length);
  for (const payload of [`${fits}x`, fits, `${fits}xx`, "end"]) {
    await publisher.publish(topic, payload, { qos: 1 });
  }
  assertEquals(encode(await small.receive(), 5).length, 40);
  assertEquals(new TextDecoder().decode((await small.receive()).payload), "end");
  const none = await scene.open();
  await none.say(connect_packet({ properties: { maximum_packet_bytes: 4 } }));
  assertEquals(await none.closed(), []);
});

suite.five("a reason string is left out where it would make a packet too large", async (scene) => {
  for (const maximum_packet_bytes of [30, 1000]) {
    const properties = { maximum_packet_bytes };
    const client = await scene.connect({ client_id: scene.own("c"), properties });
    await client.say({ type: "auth", reason_code: 0x18 });
    const [disconnect] = await client.closed();
    const told = "properties" in disconnect && disconnect.properties;
    assertEquals(Boolean(told), maximum_packet_bytes === 1000);
    for (const qos of [1, 2] as const) {
      const publisher = await scene.connect({ client_id: scene.own("p"), properties });
      await publisher.say(publish_packet("$SYS/x", "", { qos, packet_id: 1 }));
      const { reason_code, properties: more } = await publisher.expect(
        qos === 1 ? "puback" : "pubrec",
      );
      assertEquals([reason_code, Boolean(more)], [0x87, maximum_packet_bytes === 1000]);
    }
    const refused = await scene.connack({
      properties: { ...properties, authentication_method: "x" },
    });
    assertEquals(Boolean(refused.connack.properties), maximum_packet_bytes === 1000);
  }
});

suite.five("who asks for no problem information gets no reason strings", async (scene) => {
  for (const request_problem_information of [true, false]) {
    const client = await scene.connect({ properties: { request_problem_information } });
    await client.say(publish_packet("$SYS/x", "", { qos: 1, packet_id: 1 }));
    const { properties } = await client.expect("puback");
    assertEquals(Boolean(properties), request_problem_information);
  }
});

suite.both("a connection that is silent for 1.5 times its keep alive is closed", async (scene) => {
  const begin_ms = performance.now();
  const client = await scene.connect({ keepalive_s: 1 });
  const left = await client.closed();
  const silence_ms = performance.now() - begin_ms;
  assert(silence_ms > 1450 && silence_ms < 4000, `closed after ${silence_ms} ms`);
  assertEquals(
    left.map((packet) => "reason_code" in packet && packet.reason_code),
    {
      4: [],
      5: [0x8d],
    }[scene.version],
  );
});

suite.both("PINGREQ is answered", async (scene) => {
  const client = await scene.connect();
  await client.say({ type: "pingreq" }, { type: "pingreq" });
  await client.expect("pingresp");
  await client.expect("pingresp");
});

suite.register();
