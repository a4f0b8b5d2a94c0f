/**
 * Peers that say their last and read on (FIN, as `printf ... | nc` and every shutdown(SHUT_WR)
 * does it): they get the answers to what they have sent, then the end; and those who begin in
 * another protocol, which is seen by their first bytes.
 */
import { assert, assertEquals } from "@std/assert";
import type { Address } from "../core/address.ts";
import { codes } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import type { Packet } from "../core/protocol/mqtt.ts";
import { connect_packet, MqttClient, payload_text, publish_packet } from "./support/mqtt_client.ts";
import { RawLongwire } from "./support/raw.ts";
import { eventually, Service } from "./support/service.ts";
import { within } from "./support/wait.ts";

const closed_metric = (code: string) => `longwire_connections_closed_total{code="${code}"}`;

/** What a device may say in one breath; each of it has an answer that waits for the store. */
function breath(topic: string): Packet[] {
  const options = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
  return [
    publish_packet(topic, "1", { qos: 1, packet_id: 1 }),
    publish_packet(topic, "2", { qos: 2, packet_id: 2 }),
    { type: "subscribe", packet_id: 3, subscriptions: [{ filter: "x", qos: 1, ...options }] },
    { type: "unsubscribe", packet_id: 4, filters: ["x"] },
    { type: "pingreq" },
  ];
}

const answers = ["connack", "puback", "pubrec", "suback", "unsuback", "pingresp"];

for (const version of [4, 5] as const) {
  for (const is_kept of [false, true]) {
    const what = `version ${version}, ${is_kept ? "a session that stays" : "a clean one"}`;
    Deno.test(`half-closed: every MQTT packet that came is answered (${what})`, async () => {
      await using service = await Service.start();
      const { client: watch } = await MqttClient.connect(service.mqtt, { version });
      await watch.subscribe("t", 2);
      for (let round = 0; round < 20; round++) {
        await using client = await MqttClient.open(service.mqtt, version);
        const session = { properties: is_kept ? { session_expiry_s: 60 } : {} };
        const connect = connect_packet({ version, clean_start: !is_kept, client_id: `c${round}` });
        await client.say(version === 5 ? { ...connect, ...session } : connect, ...breath("t"));
        await client.socket.closeWrite();
        const said = (await within(client.closed(), "the end")).map(({ type }) => type);
        assertEquals(said.sort(), answers.toSorted());
        for (const payload of ["1", "2"]) {
          assertEquals(payload_text(await watch.receive()), payload);
        }
      }
      await watch.disconnect();
      assertEquals(await service.metric(closed_metric("peer_closed")), 20);
      assertEquals(await service.metric("longwire_connections"), 0);
    });
  }
}

Deno.test("half-closed: a refused CONNECT and a violation are told, too", async () => {
  await using service = await Service.start();
  await using refused = await MqttClient.open(service.mqtt);
  await refused.say(connect_packet({ properties: { authentication_method: "x" } }));
  await refused.socket.closeWrite();
  assertEquals((await refused.closed()).map((packet) => [packet.type, reason(packet)]), [
    ["connack", 0x8c],
  ]);
  await using broken = await MqttClient.open(service.mqtt);
  await broken.say(connect_packet(), { type: "pingresp" });
  await broken.socket.closeWrite();
  assertEquals((await broken.closed()).map((packet) => [packet.type, reason(packet)]), [
    ["connack", 0],
    ["disconnect", 0x82],
  ]);
});

function reason(packet: Packet): number {
  return "reason_code" in packet ? packet.reason_code : 0;
}

Deno.test("half-closed: a will is published, and DISCONNECT keeps it back", async () => {
  await using service = await Service.start();
  const { client: watch } = await MqttClient.connect(service.mqtt);
  await watch.subscribe("will", 1);
  const payload = new TextEncoder().encode("gone");
  const will = { topic: "will", payload, qos: 1, retain: false } as const;
  for (const is_orderly of [true, false]) {
    await using client = await MqttClient.open(service.mqtt);
    const last: Packet[] = is_orderly ? [{ type: "disconnect", reason_code: 0 }] : [];
    await client.say(connect_packet({ will }), ...last);
    await client.socket.closeWrite();
    assertEquals((await client.closed()).map(({ type }) => type), ["connack"]);
    if (is_orderly) await watch.expect_nothing();
    else assertEquals(payload_text(await watch.receive()), "gone");
  }
  await watch.close();
});

Deno.test("half-closed: a Longwire device gets its answers, too", async () => {
  await using service = await Service.start();
  const payload = new TextEncoder().encode("m");
  await using device = await RawLongwire.open(service.device);
  await device.frame({ type: "hello", protocol_version: 1, session_id: "d" });
  await device.frame({
    type: "subscribe",
    request_id: 1,
    subscriptions: [{ filter: "x", qos: 1 }],
  });
  await device.frame({ type: "publish", request_id: 2, topic: "t", payload, qos: 1 });
  await device.socket.closeWrite();
  const said = await within(device.closed(), "the end");
  assertEquals(said.map(({ type }) => type).sort(), ["published", "subscribed", "welcome"]);
});

/** Connects, says it, and reads to the end; answers what came and how long that took. */
async function knock({ host, port }: Address, bytes: Uint8Array): Promise<[Uint8Array, number]> {
  using conn = await Deno.connect({ hostname: host, port });
  const began_ms = performance.now();
  await conn.write(bytes);
  const came: number[] = [];
  const room = new Uint8Array(1024);
  for (;;) {
    const size = await within(conn.read(room), "the end"); // an orderly one: a reset throws
    if (size === null) return [Uint8Array.from(came), performance.now() - began_ms];
    came.push(...room.subarray(0, size));
  }
}

/** First bytes of other protocols, none of them a whole frame of ours. */
const foreign: [name: string, bytes: Uint8Array][] = [
  ["TLS", Uint8Array.of(0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3)],
  ["HTTP", new TextEncoder().encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")],
  ["PROXY", new TextEncoder().encode("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")],
  ["SSH", new TextEncoder().encode("SSH-2.0-OpenSSH_9.2\r\n")],
];

Deno.test("another protocol is seen by its first bytes, and refused at once", async () => {
  await using service = await Service.start();
  for (const [name, bytes] of foreign) {
    const [to_mqtt, mqtt_ms] = await knock(service.mqtt, bytes);
    assertEquals(to_mqtt, new Uint8Array(), name); // it would not understand CONNACK
    const [to_longwire, longwire_ms] = await knock(service.device, bytes);
    assert(to_longwire.length > 0, name); // Refuse, with its code
    assert(Math.max(mqtt_ms, longwire_ms) < limits.handshake_timeout_ms / 4, `${name}: held`);
  }
  const [, one_byte_ms] = await knock(service.mqtt, Uint8Array.of(0x30));
  assert(one_byte_ms < limits.handshake_timeout_ms / 4, "one byte: held");
  await using device = await RawLongwire.open(service.device);
  await device.frame({ type: "goodbye", code: 0, detail: "" });
  assertEquals((await device.expect("refuse")).code, codes.foreign_protocol.number);
  assertEquals(await device.closed(), []);
  await eventually("all are counted", async () => {
    const count = await service.metric(closed_metric("foreign_protocol"));
    return count === 2 * foreign.length + 2;
  });
});
