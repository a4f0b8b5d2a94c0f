/** The MQTT codec against its table of cases and against random damage. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { codes, Refusal } from "../../core/codes.ts";
import { limits } from "../../core/limits.ts";
import * as mqtt from "../../core/protocol/mqtt.ts";
import { Writer } from "../../core/protocol/mqtt_bytes.ts";
import { bytes_of, concat } from "../cases/bytes.ts";
import { frame, mqtt_cases as packet_cases, type MqttCase } from "../cases/mqtt_cases.ts";
import { mqtt_property_cases, property_identifiers } from "../cases/mqtt_property_cases.ts";
import { random_of, seed_for } from "../cases/random.ts";
import {
  check_stream,
  check_truncation,
  check_whole,
  type Codec,
  refusal_of,
} from "./codec_suite.ts";

const mqtt_cases = [...packet_cases, ...mqtt_property_cases];

const codec: Codec<MqttCase> = {
  decode_frame: (c, bytes, begin, end) => mqtt.decode_frame(bytes, begin, end, c.version),
  decode: (c, bytes, begin, end) => mqtt.decode(bytes, begin, end, c.version),
  decoder: (c) => new mqtt.Decoder(c.version),
};

const accepted = mqtt_cases.filter((c) => c.packet !== undefined);

/** The version in which a case's packet is written. */
function version_of(c: MqttCase): mqtt.Version {
  if (c.version !== 0) return c.version;
  return c.packet?.type === "connect" ? c.packet.version : 4;
}

function each(name: string, cases: readonly MqttCase[], check: (c: MqttCase) => void): void {
  Deno.test(name, () => {
    for (const c of cases) {
      try {
        check(c);
      } catch (error) {
        throw new Error(`${c.note} (version ${c.version})`, { cause: error });
      }
    }
  });
}

each("mqtt: every case decodes or is refused as the table says", mqtt_cases, (c) => {
  check_whole(codec, c);
});
each("mqtt: every truncation asks for more", mqtt_cases, (c) => check_truncation(codec, c));
each("mqtt: streams in pieces give the same packets", mqtt_cases, (c) => check_stream(codec, c));

each("mqtt: every packet encodes to the bytes it came from", accepted, (c) => {
  const version = version_of(c);
  const bytes = mqtt.encode(c.packet!, version);
  if (!c.one_way) assertEquals(bytes, c.bytes);
  assertEquals(mqtt.decode_frame(bytes, 0, bytes.length, c.version), c.packet);
});

each("mqtt: a body cut short within a frame of that length is refused", accepted, (c) => {
  const whole = mqtt.encode(c.packet!, version_of(c));
  let head = 1;
  while (whole[head++] > 0x7f);
  const step = Math.max(1, Math.floor(whole.length / 500));
  for (let size = 0; size < whole.length - head; size += step) {
    const cut = frame(whole[0], whole.subarray(head, head + size));
    refusal_of(() => mqtt.decode_frame(cut, 0, cut.length, c.version));
  }
});

each("mqtt: decode_publish sees what decode_frame sees", mqtt_cases, (c) => {
  if (c.version === 0 || c.bytes[0] >> 4 !== 3) return;
  const version = c.version;
  if (
    c.packet === undefined &&
    refusal_of(() => codec.decode_frame(c, c.bytes, 0, c.bytes.length)) === undefined
  ) {
    return;
  }
  const view = new mqtt.PublishView();
  view.properties = { content_type: "left over" };
  const ring = concat(Uint8Array.of(1, 2), c.bytes, Uint8Array.of(3));
  const refusal = refusal_of(() => {
    mqtt.decode_publish(ring, 2, 2 + c.bytes.length, version, view);
  });
  const packet = c.packet as Extract<mqtt.Packet, { type: "publish" }> | undefined;
  if (packet === undefined) {
    assert(refusal === c.refusal || c.refusal === "frame_too_large", refusal);
    return;
  }
  if (packet.properties?.subscription_ids !== undefined) {
    assertEquals(refusal, "protocol_error"); // [MQTT-3.3.4-6]
    return;
  }
  assertEquals(refusal, undefined);
  assertEquals(view.topic, packet.topic);
  assertEquals(view.qos, packet.qos);
  assertEquals(view.dup, packet.dup);
  assertEquals(view.retain, packet.retain);
  assertEquals(view.packet_id, packet.packet_id);
  assertEquals(ring.slice(view.payload_begin, view.payload_end), packet.payload);
  assertEquals(view.topic_alias, packet.properties?.topic_alias ?? 0);
  assertEquals(view.message_expiry_s, packet.properties?.message_expiry_s ?? -1);
  const { topic_alias: _a, message_expiry_s: _e, ...rest } = packet.properties ?? {};
  assertEquals(view.properties ?? {}, rest);
});

Deno.test("mqtt: the table has every packet type, version and refusal", () => {
  for (const version of [4, 5] as const) {
    const seen = new Set(
      accepted.filter((c) => version_of(c) === version).map((c) => c.packet!.type),
    );
    for (const type of mqtt.type_names) {
      if (type === undefined || (type === "auth" && version === 4)) continue;
      assert(seen.has(type), `${type} in version ${version}`);
    }
  }
  const refusals = new Set(mqtt_cases.map((c) => c.refusal));
  for (
    const name of [
      "malformed",
      "protocol_error",
      "unsupported_protocol",
      "client_id_invalid",
      "topic_invalid",
      "filter_invalid",
      "payload_invalid",
      "subscription_limit",
      "frame_too_large",
    ] as const
  ) {
    assert(refusals.has(name), name);
  }
});

Deno.test("mqtt: the table has every property, at every place that takes it", () => {
  assertEquals(property_identifiers.size, 27); // table 2-4
  const seen = new Set<string>();
  for (const { packet } of accepted) {
    const carried = packet as { type: string; properties?: object; will?: { properties?: object } };
    for (const name of Object.keys(carried.properties ?? {})) seen.add(`${carried.type} ${name}`);
    for (const name of Object.keys(carried.will?.properties ?? {})) seen.add(`will ${name}`);
  }
  // CONNECT 9, will 7, CONNACK 17, PUBLISH 8, acknowledgements 6 x 2, SUBSCRIBE 2, UNSUBSCRIBE 1,
  // DISCONNECT 4, AUTH 4
  assertEquals(seen.size, 64, [...seen].sort().join(", "));
});

Deno.test("mqtt: a decoder learns its version from CONNECT", () => {
  const connect = bytes_of("10 0f 'MQTT' 05 02 003c 00 'id'");
  const decoder = new mqtt.Decoder(0);
  const publish = bytes_of("30 04 'a' 00");
  const packets = [...decoder.feed(concat(connect, publish))];
  assertEquals(packets.map((p) => p.type), ["connect", "publish"]);
  assertEquals(decoder.version, 5);
});

Deno.test("mqtt: connect_version tells in which version to refuse", () => {
  const of = (notation: string) => {
    const bytes = bytes_of(notation);
    return mqtt.connect_version(bytes, 0, bytes.length);
  };
  assertEquals(of("10 0e 'MQTT' 04 03 003c 'id'"), 4);
  assertEquals(of("10 0f 'MQTT' 05 03 003c 7f 'id'"), 5);
  assertEquals(of("10 0e 'MQTT' 03 02 003c 'id'"), 0);
  assertEquals(of("10 02 0004"), 0);
  assertEquals(of("30 02 'a'"), 0);
  assertEquals(of(""), 0);
});

Deno.test("mqtt: check_from_client refuses what only servers send", () => {
  const server: mqtt.Packet[] = [
    { type: "connack", session_present: false, reason_code: 0 },
    { type: "suback", packet_id: 1, reason_codes: [0] },
    { type: "unsuback", packet_id: 1, reason_codes: [] },
    { type: "pingresp" },
    { type: "disconnect", reason_code: 0, properties: { server_reference: "x" } },
  ];
  for (const packet of server) {
    assertEquals(refusal_of(() => mqtt.check_from_client(packet)), "protocol_error");
  }
  mqtt.check_from_client({ type: "pingreq" });
  mqtt.check_from_client({ type: "disconnect", reason_code: 0 });
});

Deno.test("mqtt: encode_publish_into writes in place and within its bound", () => {
  const payloads = [0, 1, 31, 32, 33, 120, 200, 20_000].map((n) => new Uint8Array(n).fill(n));
  for (const version of [4, 5] as const) {
    for (const qos of [0, 1, 2] as const) {
      for (const topic of ["a", "ä/€/😀", "t".repeat(130)]) {
        for (const payload of payloads) {
          for (const [expiry_s, ids] of [[-1], [0], [77], [5, [1, 200]]] as [number, number[]?][]) {
            const properties = ids === undefined ? undefined : { content_type: "x/y" };
            const max = mqtt.publish_bytes_max(
              new TextEncoder().encode(topic).length,
              payload.length,
              properties,
              ids?.length,
            );
            const out = new Uint8Array(5 + max).fill(0xee);
            const id = qos > 0 ? 0x1234 : 0;
            const end = mqtt.encode_publish_into(
              out,
              5,
              version,
              topic,
              payload,
              qos,
              true,
              false,
              id,
              properties,
              expiry_s,
              ids,
            );
            const packet = mqtt.decode_frame(out, 5, end, version);
            const expected: mqtt.PublishProperties = version === 4 ? {} : {
              ...properties,
              ...(expiry_s >= 0 ? { message_expiry_s: expiry_s } : {}),
              ...(ids === undefined ? {} : { subscription_ids: ids }),
            };
            assertEquals(packet, {
              type: "publish",
              topic,
              payload,
              qos,
              retain: true,
              dup: false,
              packet_id: id,
              ...(Object.keys(expected).length > 0 ? { properties: expected } : {}),
            });
            const at = mqtt.publish_packet_id_at(out, 5);
            if (qos === 0) assertEquals(at, 0);
            else assertEquals([out[5 + at], out[5 + at + 1]], [0x12, 0x34]);
          }
        }
      }
    }
  }
});

Deno.test("mqtt: a lone surrogate is written as U+FFFD, so that what goes out is UTF-8", () => {
  const out = new Uint8Array(100);
  const topic = "a\ud800b\udc00";
  const end = mqtt.encode_publish_into(out, 0, 4, topic, new Uint8Array(0), 0, false, false, 0);
  const packet = mqtt.decode_frame(out, 0, end, 4);
  assertEquals(packet.type === "publish" && packet.topic, "a\ufffdb\ufffd");
});

Deno.test("mqtt: encode throws RangeError for what cannot be said", () => {
  const long = "x".repeat(65_536);
  const impossible: [mqtt.Packet, mqtt.Version][] = [
    [{ type: "puback", packet_id: 0, reason_code: 0 }, 5],
    [{ type: "puback", packet_id: 65_536, reason_code: 0 }, 5],
    [{ type: "puback", packet_id: 1, reason_code: 1 }, 5],
    [{ type: "connack", session_present: false, reason_code: 0x87 }, 4],
    [{ type: "connack", session_present: false, reason_code: 5 }, 5],
    [{ type: "disconnect", reason_code: 3 }, 5],
    [{ type: "suback", packet_id: 1, reason_codes: [] }, 5],
    [{ type: "suback", packet_id: 1, reason_codes: [0x87] }, 4],
    [{ type: "subscribe", packet_id: 1, subscriptions: [] }, 4],
    [{ type: "unsubscribe", packet_id: 1, filters: [] }, 4],
    [{ type: "unsubscribe", packet_id: 1, filters: [long] }, 4],
    [{ type: "auth", reason_code: 0 }, 4],
    [{ type: "disconnect", reason_code: 0, properties: { session_expiry_s: -1 } }, 5],
    [{ type: "disconnect", reason_code: 0, properties: { reason_string: long } }, 5],
  ];
  for (const [packet, version] of impossible) {
    assertThrows(() => mqtt.encode(packet, version), RangeError);
  }
  const out = new Uint8Array(8);
  assertThrows(
    () => mqtt.encode_publish_into(out, 0, 4, "a/topic", new Uint8Array(9), 0, false, false, 0),
    RangeError,
  );
});

Deno.test("mqtt: reason_for gives a code that the packet may carry, for every refusal", () => {
  for (const code of Object.values(codes)) {
    for (
      const type of [
        "connack",
        "puback",
        "pubrec",
        "pubrel",
        "pubcomp",
        "suback",
        "unsuback",
        "disconnect",
      ] as const
    ) {
      for (const version of [4, 5] as const) {
        const reason = mqtt.reason_for(type, version, code);
        assert(mqtt.reason_allowed(type, version, reason), `${type} ${version} ${code.name}`);
      }
    }
  }
  assertEquals(mqtt.reason_for("connack", 5, codes.unauthorized), 0x87);
  assertEquals(mqtt.reason_for("suback", 5, codes.unauthorized), 0x87);
  assertEquals(mqtt.reason_for("suback", 5, codes.server_busy), 0x80);
  assertEquals(mqtt.reason_for("suback", 4, codes.forbidden), 0x80);
});

/**
 * Damages bytes in a way that is likely to reach deep: flips, cuts, repeats, and repairs of the
 * length.
 */
function mutate(bytes: Uint8Array, random: () => number): Uint8Array {
  let out: Uint8Array = bytes.slice(0, 4096);
  const times = 1 + Math.floor(random() * 4);
  for (let i = 0; i < times; i++) {
    const at = Math.floor(random() * out.length);
    const kind = random();
    if (kind < 0.4) out[at] = Math.floor(random() * 256);
    else if (kind < 0.6) out[at] ^= 1 << Math.floor(random() * 8);
    else if (kind < 0.7) out = concat(out.subarray(0, at), out.subarray(at + 1));
    else if (kind < 0.8) out = concat(out.subarray(0, at), out.subarray(Math.floor(random() * at)));
    else out[at] = [0x00, 0x01, 0x7f, 0x80, 0xff][Math.floor(random() * 5)];
    if (out.length === 0) return out;
  }
  if (random() < 0.7 && out.length > 2) return frame(out[0], out.subarray(2));
  return out;
}

Deno.test("mqtt: random damage is refused or read, and nothing else is ever thrown", () => {
  const random = random_of(seed_for("mqtt random damage"));
  const view = new mqtt.PublishView();
  for (let round = 0; round < 60_000; round++) {
    const c = mqtt_cases[Math.floor(random() * mqtt_cases.length)];
    const bytes = mutate(c.bytes, random);
    const version = random() < 0.8 ? c.version : ([0, 4, 5] as const)[Math.floor(random() * 3)];
    const got = mqtt.decode(bytes, 0, bytes.length, version);
    if (got.kind === "packet") {
      // What was read can be written, and is then read as the same.
      const packet = got.packet;
      const written_in = packet.type === "connect" ? packet.version : version as mqtt.Version;
      const again = mqtt.encode(packet, written_in);
      assertEquals(mqtt.decode_frame(again, 0, again.length, version), packet);
    }
    refusal_of(() => mqtt.decode_frame(bytes, 0, bytes.length, version));
    if (version !== 0 && bytes.length > 0 && bytes[0] >> 4 === 3) {
      refusal_of(() => mqtt.decode_publish(bytes, 0, bytes.length, version, view));
    }
  }
});

Deno.test("mqtt: a frame as large as allowed passes, one byte more is refused", () => {
  const body = (size: number) => concat(bytes_of("'a'"), new Uint8Array(size));
  const fits = frame(0x30, body(limits.frame_bytes_max - 7));
  assertEquals(fits.length, limits.frame_bytes_max);
  assertEquals(mqtt.decode(fits, 0, fits.length, 4).kind, "packet");
  const over = mqtt.decode(frame(0x30, body(limits.frame_bytes_max - 6)), 0, 5, 4);
  assert(over.kind === "refused" && over.code === codes.frame_too_large);
});

Deno.test("mqtt: topics that share a cache slot or begin alike are told apart", () => {
  const view = new mqtt.PublishView();
  const out = new Uint8Array(200);
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < 40_000; i++) {
      const topic = `t/${i}`;
      const end = mqtt.encode_publish_into(
        out,
        0,
        4,
        topic,
        out.subarray(0, 0),
        0,
        false,
        false,
        0,
      );
      mqtt.decode_publish(out, 0, end, 4, view);
      if (view.topic !== topic) assertEquals(view.topic, topic);
    }
  }
  assert(new Refusal(codes.malformed) instanceof Error);
});

Deno.test("mqtt: a packet that outgrows its writer is whole", () => {
  // Regression: what made the buffer grow was written into the one before it.
  for (let begin = 500; begin < 515; begin++) {
    const writer = new Writer();
    for (let i = 0; i < begin; i++) writer.u8(7);
    writer.varint(0x3fff);
    writer.string("x".repeat(2000));
    writer.raw(new Uint8Array(3000).fill(9));
    writer.u32(0x01020304);
    const out = new Uint8Array(writer.size);
    writer.copy_into(out, 0);
    const text = new TextEncoder().encode("x".repeat(2000));
    const head = [new Uint8Array(begin).fill(7), Uint8Array.of(0xff, 0x7f, 0x07, 0xd0), text];
    assertEquals(out, concat(...head, new Uint8Array(3000).fill(9), Uint8Array.of(1, 2, 3, 4)));
  }
});
