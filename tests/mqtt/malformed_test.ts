/**
 * MQTT: every packet that the table of the codec refuses, sent to the service: the connection ends
 * with the reason that the standard gives, and no other connection notices.
 */
import { assertEquals } from "@std/assert";
import { codes } from "../../core/codes.ts";
import { limits } from "../../core/limits.ts";
import {
  connect_version,
  type Packet,
  reason_for,
  type Version,
} from "../../core/protocol/mqtt.ts";
import { mqtt_cases, type MqttCase } from "../cases/mqtt_cases.ts";
import { MqttClient } from "../support/mqtt_client.ts";
import { Service } from "../support/service.ts";

/** What a client may not send although the codec reads it. */
const of_servers = ["connack", "suback", "unsuback", "pingresp", "auth"];

/** Whether the service must end the connection. */
function is_refused({ version, refusal, packet, bytes }: MqttCase): boolean {
  if (bytes.length < 2) return false; // not even a header: the service waits for the rest
  return refusal !== undefined || version > 0 && of_servers.includes(packet?.type ?? "");
}

/** In which version the service answers. */
function version_of({ version, bytes }: MqttCase): Version {
  return version || connect_version(bytes, 0, bytes.length) || 4;
}

/** The reason codes that may be told, in the packet that tells; [] = the connection just closes. */
function expected(one: MqttCase): number[] {
  const code = codes[one.refusal ?? "protocol_error"];
  if (one.version === 0 && one.bytes[0] !== 0x10) return []; // it does not begin as MQTT does
  const version = version_of(one);
  if (one.version > 0 && version === 4) return [];
  const type = one.version === 0 ? "connack" : "disconnect";
  const reason_code = reason_for(type, version, code);
  return reason_code === 0 ? [] : [reason_code];
}

/** A PUBREC is answered before it is looked at more closely: its PUBREL tells nothing. */
function told(left: readonly Packet[]): number[] {
  return left.flatMap((packet) => {
    return packet.type === "connack" || packet.type === "disconnect" ? [packet.reason_code] : [];
  });
}

Deno.test("MQTT: every malformed packet ends its connection with its reason", async (test) => {
  await using service = await Service.start();
  const bystander = (await MqttClient.connect(service.mqtt, { client_id: "bystander" })).client;
  for (const one of mqtt_cases.filter(is_refused)) {
    const name = `${one.note} (${one.version === 0 ? "first" : one.version})`;
    await test.step(name, async () => {
      const client = one.version === 0
        ? await MqttClient.open(service.mqtt, version_of(one), name)
        : (await MqttClient.connect(service.mqtt, { version: one.version })).client;
      await client.send(one.bytes);
      const left = await client.closed();
      assertEquals(told(left), expected(one));
      await client.close();
    });
  }
  await bystander.expect_nothing();
  await bystander.close();
  assertEquals(await service.metric("longwire_connections"), 0);
});

Deno.test("MQTT: a packet over the limit ends its connection before it is sent", async () => {
  await using service = await Service.start();
  const size = limits.frame_bytes_max;
  const header = Uint8Array.of(0x30, size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127);
  const { client } = await MqttClient.connect(service.mqtt);
  await client.send(header);
  assertEquals(told(await client.closed()), [0x95]);
  await client.close();
});
