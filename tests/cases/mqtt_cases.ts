/**
 * MQTT packets as bytes: what each of them is, or why it is refused. One table for decoding,
 * encoding, truncation and byte-by-byte feeding. Clauses are those of MQTT 5.0 unless the note says
 * 3.1.1.
 */
import type { CodeName } from "../../core/codes.ts";
import { limits } from "../../core/limits.ts";
import type { Packet, Version } from "../../core/protocol/mqtt.ts";
import { bytes_of, concat, varint_of } from "./bytes.ts";

export interface MqttCase {
  readonly note: string;
  /** 0 = the first packet of a connection. */
  readonly version: Version | 0;
  readonly bytes: Uint8Array;
  /** What the bytes are; absent = they are refused. */
  readonly packet?: Packet;
  readonly refusal?: CodeName;
  /** The packet has a shorter form, which is what encode() writes. */
  readonly one_way: boolean;
}

/** A frame: first byte, remaining length, body. */
export function frame(first: number, body: Uint8Array): Uint8Array {
  return concat(Uint8Array.of(first, ...varint_of(body.length)), body);
}

const list: MqttCase[] = [];

function accept(
  note: string,
  version: Version | 0,
  first: number,
  body: string | Uint8Array,
  packet: Packet,
  one_way = false,
): void {
  const bytes = frame(first, typeof body === "string" ? bytes_of(body) : body);
  list.push({ note, version, bytes, packet, one_way });
}

function refuse(
  note: string,
  version: Version | 0,
  first: number,
  body: string | Uint8Array,
  refusal: CodeName,
): void {
  const bytes = frame(first, typeof body === "string" ? bytes_of(body) : body);
  list.push({ note, version, bytes, refusal, one_way: true });
}

function refuse_raw(
  note: string,
  version: Version | 0,
  notation: string,
  refusal: CodeName,
): void {
  list.push({ note, version, bytes: bytes_of(notation), refusal, one_way: true });
}

const none = new Uint8Array(0);

// ------------------------------------------------------------------ CONNECT

const connect_4 = {
  type: "connect",
  version: 4,
  clean_start: true,
  keepalive_s: 60,
  client_id: "id",
} as const;
const connect_5 = { ...connect_4, version: 5 } as const;

accept("3.1.1 smallest useful", 0, 0x10, "'MQTT' 04 02 003c 'id'", connect_4);
accept("3.1.1 empty client id, clean", 0, 0x10, "'MQTT' 04 02 0000 ''", {
  ...connect_4,
  keepalive_s: 0,
  client_id: "",
});
accept("3.1.1 kept session", 0, 0x10, "'MQTT' 04 00 ffff 'id'", {
  ...connect_4,
  clean_start: false,
  keepalive_s: 65535,
});
accept(
  "3.1.1 all fields",
  0,
  0x10,
  "'MQTT' 04 f6 003c 'id' 'will/topic' 0003 010203 'user' 0002 ff00",
  {
    ...connect_4,
    will: { topic: "will/topic", payload: Uint8Array.of(1, 2, 3), qos: 2, retain: true },
    username: "user",
    password: Uint8Array.of(0xff, 0),
  },
);
accept("3.1.1 user name alone", 0, 0x10, "'MQTT' 04 82 003c 'id' 'ünïcode ☃ 😀'", {
  ...connect_4,
  username: "ünïcode ☃ 😀",
});
accept("3.1.1 empty will payload", 0, 0x10, "'MQTT' 04 0e 003c 'id' 'w' 0000", {
  ...connect_4,
  will: { topic: "w", payload: none, qos: 1, retain: false },
});
list.push({
  note: "3.1.1 padded remaining length: nothing forbids it there",
  version: 0,
  bytes: bytes_of("10 8e 80 00 'MQTT' 04 02 003c 'id'"),
  packet: connect_4,
  one_way: true,
});
accept("5.0 smallest useful", 0, 0x10, "'MQTT' 05 02 003c 00 'id'", connect_5);
accept("5.0 empty client id, kept session", 0, 0x10, "'MQTT' 05 00 003c 00 ''", {
  ...connect_5,
  clean_start: false,
  client_id: "",
});
accept("5.0 password without user name", 0, 0x10, "'MQTT' 05 42 003c 00 'id' 0001 41", {
  ...connect_5,
  password: Uint8Array.of(0x41),
});
accept(
  "5.0 every CONNECT property",
  0,
  0x10,
  "'MQTT' 05 02 003c [ 11 00000e10 15 'SCRAM' 16 0002 0102 17 00 19 01 21 000a 22 0005 " +
    "26 'k' 'v' 26 'k' 'w' 27 00100000 ] 'id'",
  {
    ...connect_5,
    properties: {
      session_expiry_s: 3600,
      authentication_method: "SCRAM",
      authentication_data: Uint8Array.of(1, 2),
      request_problem_information: false,
      request_response_information: true,
      receive_maximum: 10,
      topic_alias_maximum: 5,
      user_properties: [["k", "v"], ["k", "w"]],
      maximum_packet_bytes: 1 << 20,
    },
  },
);
accept(
  "5.0 every will property",
  0,
  0x10,
  "'MQTT' 05 26 003c 00 'id' [ 01 01 02 00000e10 03 't/p' 08 'r/t' 09 0002 0102 18 0000000a " +
    "26 'k' 'v' ] 'w' 'ok'",
  {
    ...connect_5,
    will: {
      topic: "w",
      payload: bytes_of('"ok"'),
      qos: 0,
      retain: true,
      properties: {
        payload_format: 1,
        message_expiry_s: 3600,
        content_type: "t/p",
        response_topic: "r/t",
        correlation_data: Uint8Array.of(1, 2),
        will_delay_s: 10,
        user_properties: [["k", "v"]],
      },
    },
  },
);
refuse(
  "unknown protocol name [MQTT-3.1.2-1]",
  0,
  0x10,
  "'MQTX' 04 02 003c 'id'",
  "unsupported_protocol",
);
refuse("MQTT 3.1", 0, 0x10, "'MQIsdp' 03 02 003c 'id'", "unsupported_protocol");
refuse("level 3 [MQTT-3.1.2-2]", 0, 0x10, "'MQTT' 03 02 003c 'id'", "unsupported_protocol");
refuse("level 6 [MQTT-3.1.2-2]", 0, 0x10, "'MQTT' 06 02 003c 'id'", "unsupported_protocol");
refuse("bridge bit in the level", 0, 0x10, "'MQTT' 84 02 003c 'id'", "unsupported_protocol");
for (const [name, level, properties] of [["3.1.1", "04", ""], ["5.0", "05", "00"]]) {
  const head = `'MQTT' ${level}`;
  const tail = `003c ${properties} 'id'`;
  refuse(`${name} reserved flag [MQTT-3.1.2-3]`, 0, 0x10, `${head} 03 ${tail}`, "malformed");
  refuse(`${name} will QoS 3 [MQTT-3.1.2-12]`, 0, 0x10, `${head} 1e ${tail}`, "malformed");
  refuse(`${name} QoS without will [MQTT-3.1.2-11]`, 0, 0x10, `${head} 0a ${tail}`, "malformed");
  refuse(`${name} retain without will`, 0, 0x10, `${head} 22 ${tail}`, "malformed");
  refuse(`${name} no user name follows`, 0, 0x10, `${head} 82 ${tail}`, "malformed");
  refuse(`${name} bytes behind the end`, 0, 0x10, `${head} 02 ${tail} 00`, "malformed");
  refuse(`${name} no client id`, 0, 0x10, `${head} 02 003c ${properties}`, "malformed");
  refuse(
    `${name} will topic with wildcard`,
    0,
    0x10,
    `${head} 06 ${tail} ${properties} 'a/#' 0000`,
    "topic_invalid",
  );
  refuse(
    `${name} no will topic`,
    0,
    0x10,
    `${head} 06 ${tail} ${properties} '' 0000`,
    "topic_invalid",
  );
  refuse(
    `${name} client id over the limit`,
    0,
    0x10,
    `${head} 02 003c ${properties} '${"x".repeat(limits.device_id_bytes_max + 1)}'`,
    "client_id_invalid",
  );
  refuse(`${name} flags of the first byte`, 0, 0x11, `${head} 02 ${tail}`, "malformed");
}
refuse(
  "3.1.1 password alone [MQTT-3.1.2-22]",
  0,
  0x10,
  "'MQTT' 04 42 003c 'id' 0001 41",
  "malformed",
);
refuse("3.1.1 no id, kept [MQTT-3.1.3-8]", 0, 0x10, "'MQTT' 04 00 003c ''", "client_id_invalid");
refuse("client id not UTF-8", 0, 0x10, "'MQTT' 04 02 003c 0002 c328", "malformed");
refuse("overlong UTF-8 [MQTT-1.5.4-1]", 0, 0x10, "'MQTT' 04 02 003c 0002 c0af", "malformed");
refuse("surrogate [MQTT-1.5.4-1]", 0, 0x10, "'MQTT' 04 02 003c 0003 eda080", "malformed");
refuse("past U+10FFFF", 0, 0x10, "'MQTT' 04 02 003c 0004 f4908080", "malformed");
refuse("cut UTF-8", 0, 0x10, "'MQTT' 04 02 003c 0002 e282", "malformed");
refuse("U+0000 [MQTT-1.5.4-2]", 0, 0x10, "'MQTT' 04 02 003c 0003 610062", "malformed");
refuse("U+0000 behind non-ASCII", 0, 0x10, "'MQTT' 04 02 003c 0004 c3bc0062", "malformed");
accept("U+FEFF stays [MQTT-1.5.4-3]", 0, 0x10, "'MQTT' 04 02 003c 0005 efbbbf6964", {
  ...connect_4,
  client_id: "\ufeffid",
});
refuse_raw(
  "5.0 padded length [MQTT-1.5.5-1]",
  0,
  "10 8f 00 'MQTT' 05 02 003c 00 'id'",
  "malformed",
);
refuse_raw("remaining length of 5 bytes", 0, "10 80 80 80 80 01", "malformed");
refuse_raw("first packet larger than the handshake allows", 0, "10 ff ff 7f", "frame_too_large");
refuse("empty", 0, 0x10, "", "malformed");
for (
  const [note, properties, code] of [
    ["session expiry twice", "11 00000001 11 00000001", "protocol_error"],
    ["receive maximum 0", "21 0000", "protocol_error"],
    ["receive maximum twice", "21 0001 21 0001", "protocol_error"],
    ["maximum packet 0", "27 00000000", "protocol_error"],
    ["problem information 2", "17 02", "protocol_error"],
    ["response information 2", "19 02", "protocol_error"],
    ["false twice", "17 00 17 00", "protocol_error"],
    ["authentication data alone", "16 0001 00", "protocol_error"],
    ["topic alias maximum twice", "22 0000 22 0000", "protocol_error"],
    ["a property of PUBLISH", "01 00", "malformed"],
    ["an unknown property", "7f 00", "malformed"],
    ["property 0", "00", "malformed"],
    ["an identifier in two bytes", "91 00 00000001", "malformed"],
    ["half a property", "11 0000", "malformed"],
    ["half a pair", "26 'k'", "malformed"],
    ["a pair that is not UTF-8", "26 'k' 0001 ff", "malformed"],
    ["a pair with U+0000", "26 'k' 0001 00", "malformed"],
  ] as const
) {
  refuse(`5.0 CONNECT: ${note}`, 0, 0x10, `'MQTT' 05 02 003c [ ${properties} ] 'id'`, code);
}
refuse("5.0 properties past the end", 0, 0x10, "'MQTT' 05 02 003c 7f 'id'", "malformed");
refuse("5.0 property length of 5 bytes", 0, 0x10, "'MQTT' 05 02 003c 8080808001 'id'", "malformed");
refuse(
  "5.0 will payload is not the UTF-8 it says",
  0,
  0x10,
  "'MQTT' 05 06 003c 00 'id' 02 01 01 'w' 0001 ff",
  "payload_invalid",
);
refuse(
  "5.0 will response topic with wildcard [MQTT-3.3.2-14]",
  0,
  0x10,
  "'MQTT' 05 06 003c 00 'id' 06 08 'a/+' 'w' 0000",
  "topic_invalid",
);
refuse("not CONNECT first [MQTT-3.1.0-1]", 0, 0xc0, "", "protocol_error");
refuse("PUBLISH first [MQTT-3.1.0-1]", 0, 0x30, "'a'", "protocol_error");
refuse("second CONNECT [MQTT-3.1.0-2]", 4, 0x10, "'MQTT' 04 02 003c 'id'", "protocol_error");
refuse("second CONNECT [MQTT-3.1.0-2]", 5, 0x10, "'MQTT' 05 02 003c 00 'id'", "protocol_error");
refuse("type 0 is reserved", 0, 0x00, "", "malformed");
refuse("type 0 is reserved", 4, 0x00, "", "malformed");
refuse("type 0 is reserved", 5, 0x00, "", "malformed");

// ------------------------------------------------------------------ CONNACK

for (let code = 0; code <= 5; code++) {
  accept(`3.1.1 CONNACK ${code}`, 4, 0x20, Uint8Array.of(0, code), {
    type: "connack",
    session_present: false,
    reason_code: code,
  });
}
accept("3.1.1 session present", 4, 0x20, "01 00", {
  type: "connack",
  session_present: true,
  reason_code: 0,
});
refuse("3.1.1 CONNACK 6", 4, 0x20, "00 06", "protocol_error");
refuse("3.1.1 refused with session [MQTT-3.2.2-4]", 4, 0x20, "01 02", "protocol_error");
refuse("3.1.1 CONNACK flags", 4, 0x20, "02 00", "malformed");
refuse("3.1.1 CONNACK too long", 4, 0x20, "00 00 00", "malformed");
refuse("3.1.1 CONNACK too short", 4, 0x20, "00", "malformed");
accept("5.0 CONNACK", 5, 0x20, "00 00 00", {
  type: "connack",
  session_present: false,
  reason_code: 0,
});
accept("5.0 refused", 5, 0x20, "00 9f [ 1f 0000 ]", {
  type: "connack",
  session_present: false,
  reason_code: 0x9f,
  properties: { reason_string: "" },
});
accept(
  "5.0 every CONNACK property",
  5,
  0x20,
  "01 00 [ 11 00000e10 12 'assigned' 13 0078 15 'm' 16 0001 00 1a 'r' 1c 'other:1883' 1f 'ok' " +
    "21 0014 22 000a 24 01 25 00 26 'k' 'v' 27 00010000 28 00 29 01 2a 00 ]",
  {
    type: "connack",
    session_present: true,
    reason_code: 0,
    properties: {
      session_expiry_s: 3600,
      assigned_client_id: "assigned",
      server_keepalive_s: 120,
      authentication_method: "m",
      authentication_data: Uint8Array.of(0),
      response_information: "r",
      server_reference: "other:1883",
      reason_string: "ok",
      receive_maximum: 20,
      topic_alias_maximum: 10,
      maximum_qos: 1,
      retain_available: false,
      user_properties: [["k", "v"]],
      maximum_packet_bytes: 65536,
      wildcard_subscription_available: false,
      subscription_ids_available: true,
      shared_subscription_available: false,
    },
  },
);
refuse("5.0 CONNACK without property length", 5, 0x20, "00 00", "malformed");
refuse("5.0 CONNACK reason of version 3.1.1", 5, 0x20, "00 05 00", "protocol_error");
refuse("5.0 refused with session [MQTT-3.2.2-6]", 5, 0x20, "01 80 00", "protocol_error");
refuse("5.0 maximum QoS 2", 5, 0x20, "00 00 02 24 02", "protocol_error");
refuse("5.0 retain available 2", 5, 0x20, "00 00 02 25 02", "protocol_error");
refuse("5.0 wildcards available 2", 5, 0x20, "00 00 02 28 02", "protocol_error");
refuse("5.0 identifiers available 2", 5, 0x20, "00 00 02 29 02", "protocol_error");
refuse("5.0 shared available 2", 5, 0x20, "00 00 02 2a 02", "protocol_error");
refuse("5.0 server keepalive twice", 5, 0x20, "00 00 06 13 0001 13 0001", "protocol_error");
refuse("5.0 property of CONNECT", 5, 0x20, "00 00 02 17 00", "malformed");

// ------------------------------------------------------------------ PUBLISH

const publish = {
  type: "publish",
  topic: "a/b",
  payload: bytes_of('"hi"'),
  qos: 0,
  retain: false,
  dup: false,
  packet_id: 0,
} as const;
for (const version of [4, 5] as const) {
  const name = version === 4 ? "3.1.1" : "5.0";
  const p = version === 4 ? "" : "00";
  accept(`${name} QoS 0`, version, 0x30, `'a/b' ${p} "hi"`, publish);
  accept(`${name} retained`, version, 0x31, `'a/b' ${p} "hi"`, { ...publish, retain: true });
  accept(`${name} no payload`, version, 0x30, `'a/b' ${p}`, { ...publish, payload: none });
  accept(`${name} QoS 1`, version, 0x32, `'a/b' 0001 ${p} "hi"`, {
    ...publish,
    qos: 1,
    packet_id: 1,
  });
  accept(`${name} QoS 2, DUP, retained`, version, 0x3d, `'a/b' ffff ${p} "hi"`, {
    ...publish,
    qos: 2,
    dup: true,
    retain: true,
    packet_id: 65535,
  });
  accept(`${name} topic of non-ASCII`, version, 0x30, `'straße/☃/😀' ${p}`, {
    ...publish,
    topic: "straße/☃/😀",
    payload: none,
  });
  accept(`${name} topic with blanks and empty levels`, version, 0x30, `'/ //$' ${p}`, {
    ...publish,
    topic: "/ //$",
    payload: none,
  });
  accept(`${name} topic of U+FEFF`, version, 0x30, `0003 efbbbf ${p}`, {
    ...publish,
    topic: "\ufeff",
    payload: none,
  });
  const payload = new Uint8Array(300).fill(7);
  accept(`${name} two bytes of length`, version, 0x30, concat(bytes_of(`'a/b' ${p}`), payload), {
    ...publish,
    payload,
  });
  for (const size of [63, 64, 65, 200, limits.topic_bytes_max]) {
    const topic = "x".repeat(size);
    accept(`${name} topic of ${size} bytes`, version, 0x30, bytes_of(`'${topic}' ${p}`), {
      ...publish,
      topic,
      payload: none,
    });
  }
  refuse(`${name} QoS 3 [MQTT-3.3.1-4]`, version, 0x36, `'a/b' 0001 ${p}`, "malformed");
  refuse(`${name} DUP with QoS 0 [MQTT-3.3.1-2]`, version, 0x38, `'a/b' ${p}`, "malformed");
  refuse(`${name} packet id 0 [MQTT-2.2.1-3]`, version, 0x32, `'a/b' 0000 ${p}`, "malformed");
  refuse(`${name} + in topic [MQTT-3.3.2-2]`, version, 0x30, `'a/+' ${p}`, "topic_invalid");
  refuse(`${name} # in topic [MQTT-3.3.2-2]`, version, 0x30, `'a#b' ${p}`, "topic_invalid");
  refuse(`${name} U+0000 in topic`, version, 0x30, `0003 610062 ${p}`, "malformed");
  refuse(`${name} topic not UTF-8`, version, 0x30, `0002 ff61 ${p}`, "malformed");
  refuse(`${name} topic with surrogate`, version, 0x30, `0003 edbfbf ${p}`, "malformed");
  refuse(`${name} topic past the end`, version, 0x30, "0005 61", "malformed");
  refuse(`${name} half a topic size`, version, 0x30, "00", "malformed");
  refuse(`${name} empty`, version, 0x30, "", "malformed");
  refuse(`${name} no packet id`, version, 0x32, "'a' 00", "malformed");
  refuse(
    `${name} topic over the limit`,
    version,
    0x30,
    bytes_of(`'${"x".repeat(limits.topic_bytes_max + 1)}' ${p}`),
    "topic_invalid",
  );
  refuse(
    `${name} too many levels`,
    version,
    0x30,
    bytes_of(`'${"/".repeat(limits.topic_levels_max)}' ${p}`),
    "topic_invalid",
  );
  refuse_raw(`${name} frame over the limit`, version, "30 ff ff ff 7f", "frame_too_large");
  refuse_raw(`${name} length of 5 bytes`, version, "30 ff ff ff ff 01", "malformed");
}
refuse("3.1.1 empty topic [MQTT-4.7.3-1]", 4, 0x30, "'' \"hi\"", "topic_invalid");
refuse("5.0 no topic, no alias", 5, 0x30, "'' 00 \"hi\"", "protocol_error");
refuse("5.0 no topic, other property", 5, 0x30, "'' 02 01 00 \"hi\"", "protocol_error");
refuse_raw("5.0 padded length [MQTT-1.5.5-1]", 5, "30 84 00 'a' 00", "malformed");
accept("5.0 topic alias alone", 5, 0x30, "'' 03 23 0001 \"hi\"", {
  ...publish,
  topic: "",
  properties: { topic_alias: 1 },
});
accept("5.0 topic and alias", 5, 0x32, "'a/b' 0007 03 23 ffff \"hi\"", {
  ...publish,
  qos: 1,
  packet_id: 7,
  properties: { topic_alias: 65535 },
});
accept("5.0 message expiry alone", 5, 0x30, "'a/b' 05 02 00000000 \"hi\"", {
  ...publish,
  properties: { message_expiry_s: 0 },
});
accept(
  "5.0 every PUBLISH property",
  5,
  0x34,
  "'a/b' 0001 [ 01 01 02 ffffffff 03 't/p' 08 'r/t' 09 0002 0102 0b 01 0b ffffff7f 23 0002 " +
    "26 'k' 'v' 26 '' '' ] \"hi\"",
  {
    ...publish,
    qos: 2,
    packet_id: 1,
    properties: {
      payload_format: 1,
      message_expiry_s: 0xffffffff,
      content_type: "t/p",
      response_topic: "r/t",
      correlation_data: Uint8Array.of(1, 2),
      subscription_ids: [1, 268435455],
      topic_alias: 2,
      user_properties: [["k", "v"], ["", ""]],
    },
  },
);
accept("5.0 payload format 0, any bytes", 5, 0x30, "'a/b' 02 01 00 ff", {
  ...publish,
  payload: Uint8Array.of(0xff),
  properties: { payload_format: 0 },
});
accept("5.0 text payload with U+0000", 5, 0x30, "'a/b' 02 01 01 00c3bc", {
  ...publish,
  payload: bytes_of("00c3bc"),
  properties: { payload_format: 1 },
});
for (
  const [note, properties, code] of [
    ["topic alias 0 [MQTT-3.3.2-8]", "23 0000", "protocol_error"],
    ["topic alias twice", "23 0001 23 0001", "protocol_error"],
    ["payload format 2", "01 02", "protocol_error"],
    ["payload format twice", "01 00 01 00", "protocol_error"],
    ["expiry twice", "02 00000000 02 00000000", "protocol_error"],
    ["content type twice", "03 '' 03 ''", "protocol_error"],
    ["correlation data twice", "09 0000 09 0000", "protocol_error"],
    ["response topic twice", "08 'a' 08 'a'", "protocol_error"],
    ["response topic with wildcard [MQTT-3.3.2-14]", "08 '#'", "topic_invalid"],
    ["subscription identifier 0", "0b 00", "protocol_error"],
    ["subscription identifier padded", "0b 8100", "malformed"],
    ["subscription identifier of 5 bytes", "0b 8080808001", "malformed"],
    ["a property of the will", "18 00000000", "malformed"],
    ["a property of CONNECT", "21 0001", "malformed"],
    ["content type not UTF-8", "03 0001 80", "malformed"],
  ] as const
) {
  refuse(`5.0 PUBLISH: ${note}`, 5, 0x30, `'a/b' [ ${properties} ] "hi"`, code);
}
refuse("5.0 payload is not the UTF-8 it says", 5, 0x30, "'a/b' 02 01 01 c3", "payload_invalid");
refuse("5.0 no property length", 5, 0x30, "'a/b'", "malformed");
refuse("5.0 properties past the end", 5, 0x30, "'a/b' 05 23", "malformed");

// ------------------------------------------------------------------ PUBACK to PUBCOMP

for (
  const [type, first, failure] of [
    ["puback", 0x40, 0x87],
    ["pubrec", 0x50, 0x91],
    ["pubrel", 0x62, 0x92],
    ["pubcomp", 0x70, 0x92],
  ] as const
) {
  for (const version of [4, 5] as const) {
    const name = `${version === 4 ? "3.1.1" : "5.0"} ${type}`;
    accept(name, version, first, "1234", { type, packet_id: 0x1234, reason_code: 0 });
    refuse(`${name} flags [MQTT-2.1.3-1]`, version, first ^ 2, "1234", "malformed");
    refuse(`${name} flags [MQTT-2.1.3-1]`, version, first | 8, "1234", "malformed");
    refuse(`${name} packet id 0`, version, first, "0000", "malformed");
    refuse(`${name} cut`, version, first, "12", "malformed");
    refuse(`${name} empty`, version, first, "", "malformed");
  }
  refuse(`3.1.1 ${type} too long`, 4, first, "1234 00", "malformed");
  const hex = failure.toString(16);
  accept(`5.0 ${type} with reason`, 5, first, `1234 ${hex}`, {
    type,
    packet_id: 0x1234,
    reason_code: failure,
  });
  const success: Packet = { type, packet_id: 0x1234, reason_code: 0 };
  accept(`5.0 ${type} explicit success`, 5, first, "1234 00", success, true);
  accept(`5.0 ${type} explicit emptiness`, 5, first, "1234 00 00", success, true);
  accept(`5.0 ${type} all properties`, 5, first, `1234 ${hex} [ 1f 'no' 26 'k' 'v' ]`, {
    type,
    packet_id: 0x1234,
    reason_code: failure,
    properties: { reason_string: "no", user_properties: [["k", "v"]] },
  });
  accept(`5.0 ${type} success with properties`, 5, first, "1234 00 [ 1f 'ok' ]", {
    type,
    packet_id: 0x1234,
    reason_code: 0,
    properties: { reason_string: "ok" },
  });
  refuse(`5.0 ${type} unknown reason`, 5, first, "1234 01", "protocol_error");
  refuse(`5.0 ${type} reason string twice`, 5, first, "1234 00 [ 1f '' 1f '' ]", "protocol_error");
  refuse(`5.0 ${type} foreign property`, 5, first, "1234 00 03 21 0001", "malformed");
  refuse(`5.0 ${type} trailing byte`, 5, first, "1234 00 00 00", "malformed");
}
accept("5.0 PUBACK no matching subscribers", 5, 0x40, "0001 10", {
  type: "puback",
  packet_id: 1,
  reason_code: 0x10,
});

// ------------------------------------------------------------------ SUBSCRIBE, SUBACK

const plain = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
accept("3.1.1 SUBSCRIBE", 4, 0x82, "0001 'a/+' 00 '#' 01 '+' 02", {
  type: "subscribe",
  packet_id: 1,
  subscriptions: [
    { filter: "a/+", qos: 0, ...plain },
    { filter: "#", qos: 1, ...plain },
    { filter: "+", qos: 2, ...plain },
  ],
});
accept("5.0 SUBSCRIBE with options", 5, 0x82, "0001 00 'a' 2e 'b' 10 '$share/g/b/#' 09", {
  type: "subscribe",
  packet_id: 1,
  subscriptions: [
    { filter: "a", qos: 2, no_local: true, retain_as_published: true, retain_handling: 2 },
    { filter: "b", qos: 0, no_local: false, retain_as_published: false, retain_handling: 1 },
    {
      filter: "$share/g/b/#",
      qos: 1,
      no_local: false,
      retain_as_published: true,
      retain_handling: 0,
    },
  ],
});
accept("5.0 SUBSCRIBE with properties", 5, 0x82, "0001 [ 0b 8001 26 'k' 'v' ] 'a' 00", {
  type: "subscribe",
  packet_id: 1,
  subscriptions: [{ filter: "a", qos: 0, ...plain }],
  properties: { subscription_id: 128, user_properties: [["k", "v"]] },
});
for (const version of [4, 5] as const) {
  const name = version === 4 ? "3.1.1" : "5.0";
  const p = version === 4 ? "" : "00";
  for (const filter of ["a", "/", "+/+", "a//b", "/+/#", "$SYS/#", "a/ b", "$share"]) {
    accept(`${name} filter ${filter}`, version, 0x82, `0001 ${p} '${filter}' 00`, {
      type: "subscribe",
      packet_id: 1,
      subscriptions: [{ filter, qos: 0, ...plain }],
    });
  }
  for (
    const filter of [
      "",
      "a+",
      "+a",
      "a/+b",
      "#/a",
      "a#",
      "a/#/b",
      "##",
      "++",
      "$share/",
      "$share/g",
      "$share/g/",
      "$share//a",
      "$share/+/a",
      "$share/g#/a",
      "$share/g/a#",
      "/".repeat(limits.topic_levels_max),
      "x".repeat(limits.topic_bytes_max + 1),
    ]
  ) {
    const short = filter.slice(0, 16);
    const body = bytes_of(`0001 ${p} '${filter}' 00`);
    refuse(`${name} SUBSCRIBE filter ${short}`, version, 0x82, body, "filter_invalid");
    refuse(
      `${name} UNSUBSCRIBE filter ${short}`,
      version,
      0xa2,
      body.subarray(0, body.length - 1),
      "filter_invalid",
    );
  }
  refuse(`${name} no filter [MQTT-3.8.3-2]`, version, 0x82, `0001 ${p}`, "malformed");
  refuse(`${name} filter without options`, version, 0x82, `0001 ${p} 'a'`, "malformed");
  refuse(`${name} flags [MQTT-3.8.1-1]`, version, 0x80, `0001 ${p} 'a' 00`, "malformed");
  refuse(`${name} packet id 0`, version, 0x82, `0000 ${p} 'a' 00`, "malformed");
  refuse(`${name} QoS 3`, version, 0x82, `0001 ${p} 'a' 03`, "malformed");
  refuse(`${name} reserved options 0x40`, version, 0x82, `0001 ${p} 'a' 40`, "malformed");
  refuse(`${name} reserved options 0x80`, version, 0x82, `0001 ${p} 'a' 80`, "malformed");
  refuse(`${name} filter not UTF-8`, version, 0x82, `0001 ${p} 0001 ff 00`, "malformed");
  const many = bytes_of(`0001 ${p} ${"'a' 00 ".repeat(limits.filters_per_packet_max + 1)}`);
  refuse(`${name} too many filters`, version, 0x82, many, "subscription_limit");
  accept(`${name} as many filters as allowed`, version, 0x82, many.subarray(0, many.length - 4), {
    type: "subscribe",
    packet_id: 1,
    subscriptions: new Array(limits.filters_per_packet_max).fill({ filter: "a", qos: 0, ...plain }),
  });
}
refuse("3.1.1 options of 5.0 [3.1.1: MQTT-3.8.3-4]", 4, 0x82, "0001 'a' 04", "malformed");
refuse("5.0 retain handling 3", 5, 0x82, "0001 00 'a' 30", "protocol_error");
refuse(
  "5.0 no local and shared [MQTT-3.8.3-4]",
  5,
  0x82,
  "0001 00 '$share/g/a' 04",
  "protocol_error",
);
refuse("5.0 subscription identifier 0", 5, 0x82, "0001 02 0b 00 'a' 00", "protocol_error");
refuse("5.0 two identifiers", 5, 0x82, "0001 04 0b 01 0b 01 'a' 00", "protocol_error");
refuse("5.0 reason string in SUBSCRIBE", 5, 0x82, "0001 03 1f 0000 'a' 00", "malformed");

accept("3.1.1 SUBACK", 4, 0x90, "0001 00 01 02 80", {
  type: "suback",
  packet_id: 1,
  reason_codes: [0, 1, 2, 0x80],
});
refuse("3.1.1 SUBACK code 3 [MQTT-3.9.3-2]", 4, 0x90, "0001 03", "protocol_error");
refuse("3.1.1 SUBACK empty", 4, 0x90, "0001", "malformed");
accept("5.0 SUBACK", 5, 0x90, "0001 00 00 01 02 80 83 87 8f 91 97 9e a1 a2", {
  type: "suback",
  packet_id: 1,
  reason_codes: [0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2],
});
accept("5.0 SUBACK with properties", 5, 0x90, "0001 [ 1f 'ok' 26 'k' 'v' ] 01", {
  type: "suback",
  packet_id: 1,
  reason_codes: [1],
  properties: { reason_string: "ok", user_properties: [["k", "v"]] },
});
refuse("5.0 SUBACK code 3", 5, 0x90, "0001 00 03", "protocol_error");
refuse("5.0 SUBACK empty", 5, 0x90, "0001 00", "malformed");
refuse("5.0 SUBACK packet id 0", 5, 0x90, "0000 00 00", "malformed");

// ------------------------------------------------------------------ UNSUBSCRIBE, UNSUBACK

accept("3.1.1 UNSUBSCRIBE", 4, 0xa2, "0002 'a/+' '#'", {
  type: "unsubscribe",
  packet_id: 2,
  filters: ["a/+", "#"],
});
accept("5.0 UNSUBSCRIBE", 5, 0xa2, "0002 [ 26 'k' 'v' ] '$share/g/a'", {
  type: "unsubscribe",
  packet_id: 2,
  filters: ["$share/g/a"],
  properties: { user_properties: [["k", "v"]] },
});
for (const version of [4, 5] as const) {
  const p = version === 4 ? "" : "00";
  refuse("UNSUBSCRIBE without filter [MQTT-3.10.3-2]", version, 0xa2, `0002 ${p}`, "malformed");
  refuse("UNSUBSCRIBE flags [MQTT-3.10.1-1]", version, 0xa0, `0002 ${p} 'a'`, "malformed");
  refuse("UNSUBSCRIBE packet id 0", version, 0xa2, `0000 ${p} 'a'`, "malformed");
  refuse("UNSUBSCRIBE with options", version, 0xa2, `0002 ${p} 'a' 00`, "malformed");
  const many = bytes_of(`0001 ${p} ${"'a' ".repeat(limits.filters_per_packet_max + 1)}`);
  refuse("UNSUBSCRIBE with too many filters", version, 0xa2, many, "subscription_limit");
}
refuse("5.0 identifier in UNSUBSCRIBE", 5, 0xa2, "0002 02 0b 01 'a'", "malformed");
accept("3.1.1 UNSUBACK", 4, 0xb0, "0002", { type: "unsuback", packet_id: 2, reason_codes: [] });
refuse("3.1.1 UNSUBACK with codes", 4, 0xb0, "0002 00", "malformed");
accept("5.0 UNSUBACK", 5, 0xb0, "0002 00 00 11 80 83 87 8f 91", {
  type: "unsuback",
  packet_id: 2,
  reason_codes: [0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91],
});
accept("5.0 UNSUBACK with properties", 5, 0xb0, "0002 [ 1f 'ok' ] 00", {
  type: "unsuback",
  packet_id: 2,
  reason_codes: [0],
  properties: { reason_string: "ok" },
});
refuse("5.0 UNSUBACK code 1", 5, 0xb0, "0002 00 01", "protocol_error");
refuse("5.0 UNSUBACK without codes", 5, 0xb0, "0002 00", "malformed");

// ------------------------------------------------------------------ PINGREQ, PINGRESP, DISCONNECT,
// AUTH

for (const version of [4, 5] as const) {
  accept("PINGREQ", version, 0xc0, "", { type: "pingreq" });
  accept("PINGRESP", version, 0xd0, "", { type: "pingresp" });
  accept("DISCONNECT", version, 0xe0, "", { type: "disconnect", reason_code: 0 });
  refuse("PINGREQ with body", version, 0xc0, "00", "malformed");
  refuse("PINGRESP with body", version, 0xd0, "00", "malformed");
  refuse("PINGREQ flags", version, 0xc1, "", "malformed");
  refuse("PINGRESP flags", version, 0xd8, "", "malformed");
  refuse("DISCONNECT flags [MQTT-3.14.1-1]", version, 0xe2, "", "malformed");
}
refuse("3.1.1 DISCONNECT with body", 4, 0xe0, "00", "malformed");
accept("5.0 DISCONNECT with will", 5, 0xe0, "04", { type: "disconnect", reason_code: 4 });
accept("5.0 DISCONNECT, length left out", 5, 0xe0, "8e", { type: "disconnect", reason_code: 0x8e });
accept("5.0 DISCONNECT explicit", 5, 0xe0, "00 00", { type: "disconnect", reason_code: 0 }, true);
accept(
  "5.0 DISCONNECT all properties",
  5,
  0xe0,
  "9d [ 11 0000000a 1c 'other' 1f 'go' 26 'k' 'v' ]",
  {
    type: "disconnect",
    reason_code: 0x9d,
    properties: {
      session_expiry_s: 10,
      reason_string: "go",
      server_reference: "other",
      user_properties: [["k", "v"]],
    },
  },
);
refuse("5.0 DISCONNECT reason 1", 5, 0xe0, "01", "protocol_error");
refuse("5.0 DISCONNECT trailing byte", 5, 0xe0, "00 00 00", "malformed");
refuse("5.0 DISCONNECT foreign property", 5, 0xe0, "00 03 21 0001", "malformed");
refuse("3.1.1 has no AUTH", 4, 0xf0, "", "malformed");
accept("5.0 AUTH", 5, 0xf0, "", { type: "auth", reason_code: 0 });
accept("5.0 AUTH continue", 5, 0xf0, "18 [ 15 'SCRAM' 16 0001 ff 1f 'go' 26 '' '' ]", {
  type: "auth",
  reason_code: 0x18,
  properties: {
    authentication_method: "SCRAM",
    authentication_data: Uint8Array.of(0xff),
    reason_string: "go",
    user_properties: [["", ""]],
  },
});
accept("5.0 AUTH again", 5, 0xf0, "19 [ 15 'm' ]", {
  type: "auth",
  reason_code: 0x19,
  properties: { authentication_method: "m" },
});
refuse("5.0 AUTH reason 1", 5, 0xf0, "01 00", "protocol_error");
refuse("5.0 AUTH without property length", 5, 0xf0, "18", "malformed");
refuse("5.0 AUTH flags [MQTT-3.15.1-1]", 5, 0xf1, "", "malformed");
refuse("5.0 AUTH data alone", 5, 0xf0, "18 [ 16 0001 00 ]", "protocol_error");

export const mqtt_cases: readonly MqttCase[] = list;
