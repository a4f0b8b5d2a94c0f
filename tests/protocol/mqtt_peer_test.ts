/** The MQTT codec against mqtt-packet, another one, which needs the environment when it loads. */
import { Buffer } from "node:buffer";
import { assertEquals } from "@std/assert";
import mqtt_packet from "mqtt-packet";
import * as mqtt from "../../core/protocol/mqtt.ts";
import { bytes_of } from "../cases/bytes.ts";
import { mqtt_cases, type MqttCase } from "../cases/mqtt_cases.ts";

/** mqtt-packet's form of a packet, as far as the two libraries can be compared. */
function peer_decode(bytes: Uint8Array, version: mqtt.Version): Record<string, unknown> {
  const parser = mqtt_packet.parser({ protocolVersion: version });
  let found: unknown;
  parser.on("packet", (packet: unknown) => found = packet);
  parser.on("error", (error: unknown) => {
    throw error;
  });
  parser.parse(bytes as never); // it takes any Uint8Array
  return found as Record<string, unknown>;
}

/** Compares what mqtt-packet reads from our bytes with the packet they were written from. */
function check_peer(c: MqttCase): void {
  const packet = c.packet!;
  const version = packet.type === "connect" ? packet.version : c.version as mqtt.Version;
  const bytes = mqtt.encode(packet, version);
  const peer = peer_decode(bytes, version);
  assertEquals(peer.cmd, packet.type);
  if ("packet_id" in packet && packet.packet_id !== 0) {
    assertEquals(peer.messageId, packet.packet_id);
  }
  if ("reason_code" in packet && version === 5) assertEquals(peer.reasonCode, packet.reason_code);
  const user = (packet as { properties?: { user_properties?: [string, string][] } }).properties
    ?.user_properties;
  if (user?.length === 1) {
    const theirs = peer.properties as { userProperties: Record<string, string> };
    assertEquals(theirs.userProperties[user[0][0]], user[0][1]);
  }
  if (packet.type === "publish") {
    assertEquals(peer.topic, packet.topic);
    assertEquals(peer.qos, packet.qos);
    assertEquals(Uint8Array.from(peer.payload as Uint8Array), packet.payload);
  } else if (packet.type === "connect") {
    assertEquals(peer.clientId, packet.client_id);
    assertEquals(peer.keepalive, packet.keepalive_s);
    const will = peer.will as { topic: string } | undefined;
    assertEquals(will?.topic, packet.will?.topic);
  } else if (packet.type === "subscribe") {
    const theirs = peer.subscriptions as { topic: string; qos: number }[];
    assertEquals(
      theirs.map((s) => [s.topic, s.qos]),
      packet.subscriptions.map((s) => [s.filter, s.qos]),
    );
  } else if (packet.type === "suback") {
    assertEquals(peer.granted, packet.reason_codes);
  }
}

Deno.test("mqtt: mqtt-packet reads what we write as the same", () => {
  for (const c of mqtt_cases) {
    if (c.packet === undefined) continue;
    // An AUTH of no bytes is success (section 3.15.2.1), which mqtt-packet does not know.
    if (c.packet.type === "auth" && c.packet.reason_code === 0) continue;
    try {
      check_peer(c);
    } catch (error) {
      throw new Error(`${c.note} (version ${c.version})`, { cause: error });
    }
  }
});

/** What we read from the bytes that mqtt-packet writes. */
function written(packet: Record<string, unknown>, version: mqtt.Version | 0): mqtt.Packet {
  const bytes = Uint8Array.from(
    mqtt_packet.generate(packet as never, { protocolVersion: version || 4 }),
  );
  return mqtt.decode_frame(bytes, 0, bytes.length, version);
}

Deno.test("mqtt: we read the connect that mqtt-packet writes", () => {
  assertEquals(
    written({
      cmd: "connect",
      protocolId: "MQTT",
      protocolVersion: 5,
      clean: true,
      clientId: "id",
      keepalive: 7,
      properties: { sessionExpiryInterval: 9, receiveMaximum: 3, userProperties: { k: "v" } },
      will: {
        topic: "w",
        payload: "x",
        qos: 1,
        retain: true,
        properties: { willDelayInterval: 2 },
      },
    }, 0),
    {
      type: "connect",
      version: 5,
      clean_start: true,
      keepalive_s: 7,
      client_id: "id",
      properties: { session_expiry_s: 9, receive_maximum: 3, user_properties: [["k", "v"]] },
      will: {
        topic: "w",
        payload: bytes_of('"x"'),
        qos: 1,
        retain: true,
        properties: { will_delay_s: 2 },
      },
    },
  );
});

Deno.test("mqtt: we read the publish that mqtt-packet writes", () => {
  assertEquals(
    written({
      cmd: "publish",
      topic: "a/b",
      payload: "hi",
      qos: 2,
      messageId: 9,
      dup: true,
      retain: false,
      properties: {
        messageExpiryInterval: 4,
        correlationData: Buffer.from([1]),
        subscriptionIdentifier: [1, 2],
      },
    }, 5),
    {
      type: "publish",
      topic: "a/b",
      payload: bytes_of('"hi"'),
      qos: 2,
      packet_id: 9,
      dup: true,
      retain: false,
      properties: {
        message_expiry_s: 4,
        correlation_data: Uint8Array.of(1),
        subscription_ids: [1, 2],
      },
    },
  );
});

Deno.test("mqtt: we read the subscribe that mqtt-packet writes", () => {
  assertEquals(
    written({
      cmd: "subscribe",
      messageId: 3,
      subscriptions: [{ topic: "a/#", qos: 1, nl: true, rap: true, rh: 1 }],
      properties: { subscriptionIdentifier: 300 },
    }, 5),
    {
      type: "subscribe",
      packet_id: 3,
      subscriptions: [
        { filter: "a/#", qos: 1, no_local: true, retain_as_published: true, retain_handling: 1 },
      ],
      properties: { subscription_id: 300 },
    },
  );
});
