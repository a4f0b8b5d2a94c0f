/**
 * MQTT 3.1.1 and 5.0: bytes to packets and back, all packet types, both directions. Pure: no I/O,
 * no clock, no state between calls but caches. The same bytes always give the same packet or the
 * same refusal. Clause numbers are those of MQTT 5.0; where 3.1.1 differs they say so.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Qos } from "../message.ts";
import { type Decoded, refused, StreamDecoder } from "./incremental.ts";
import { body_begin, malformed, Reader, Writer } from "./mqtt_bytes.ts";
import {
  type Auth,
  type Connack,
  type Connect,
  type Disconnect,
  type Packet,
  type PacketType,
  reason_allowed,
  type ReasonType,
  type Suback,
  type Subscribe,
  type Subscription,
  type_names,
  type Unsuback,
  type Unsubscribe,
  type Version,
  type Will,
} from "./mqtt_packets.ts";
import {
  get_properties,
  type Place,
  type PropertiesAt,
  put_properties,
} from "./mqtt_properties.ts";
import { decode_publish_packet, encode_publish_into, publish_bytes_max } from "./mqtt_publish.ts";
import { check_topic_filter, check_topic_name } from "./topics.ts";
import { is_utf8, utf8_bytes } from "./utf8.ts";

export * from "./mqtt_packets.ts";
export type * from "./mqtt_properties.ts";
export {
  decode_publish,
  encode_publish_into,
  publish_bytes_max,
  publish_packet_id_at,
  PublishView,
} from "./mqtt_publish.ts";

type AckType = "puback" | "pubrec" | "pubrel" | "pubcomp";
type Ack = Extract<Packet, { type: AckType }>;

function protocol_error(detail: string): never {
  throw new Refusal(codes.protocol_error, detail);
}

/**
 * What the low four bits of the first byte must be (table 2-2) [MQTT-2.1.3-1]; PUBLISH uses them.
 */
function flags_of(type: PacketType): number {
  return type === "pubrel" || type === "subscribe" || type === "unsubscribe" ? 2 : 0;
}

/**
 * Reads one whole frame in [begin, end). `version` 0: nothing was received yet, only CONNECT is
 * allowed [MQTT-3.1.0-1] and says which version follows. The packet keeps no reference to `bytes`.
 * Throws Refusal: malformed, protocol_error, unsupported_protocol, client_id_invalid,
 * topic_invalid, filter_invalid, payload_invalid, subscription_limit.
 */
export function decode_frame(
  bytes: Uint8Array,
  begin: number,
  end: number,
  version: Version | 0,
): Packet {
  if (begin >= end) malformed("The frame is empty");
  const first = bytes[begin];
  const type = type_names[first >> 4];
  if (type === undefined) malformed("Packet type 0 is reserved"); // table 2-1
  if (version === 0) {
    if (type !== "connect") protocol_error(`The first packet is ${type}`); // [MQTT-3.1.0-1]
  } else if (type === "connect") {
    protocol_error("A second CONNECT"); // [MQTT-3.1.0-2]
  }
  if (type === "publish") return decode_publish_packet(bytes, begin, end, version as Version);
  if ((first & 15) !== flags_of(type)) malformed(`The flags of ${type} are ${first & 15}`);
  const reader = new Reader(bytes, body_begin(bytes, begin, end, version), end);
  if (version === 0) return decode_connect(reader, begin);
  const packet = decode_body(reader, type, version);
  reader.finish();
  return packet;
}

function decode_body(reader: Reader, type: PacketType, version: Version): Packet {
  switch (type) {
    case "connack":
      return decode_connack(reader, version);
    case "puback":
    case "pubrec":
    case "pubrel":
    case "pubcomp":
      return decode_ack(reader, type, version);
    case "subscribe":
      return decode_subscribe(reader, version);
    case "suback":
      return decode_suback(reader, version);
    case "unsubscribe":
      return decode_unsubscribe(reader, version);
    case "unsuback":
      return decode_unsuback(reader, version);
    case "pingreq":
    case "pingresp":
      return { type };
    case "disconnect":
      return decode_disconnect(reader, version);
    default:
      return decode_auth(reader, version);
  }
}

/** `{ properties }` where there are any, to be spread into a packet. */
function properties_part<P extends Place>(
  reader: Reader,
  place: P,
  version: Version,
): { properties?: PropertiesAt[P] } {
  if (version === 4) return {};
  const properties = get_properties(reader, place);
  return properties === undefined ? {} : { properties };
}

function check_reason(type: ReasonType, version: Version, reason_code: number): number {
  if (!reason_allowed(type, version, reason_code)) {
    protocol_error(`The reason code of ${type} is ${reason_code}`);
  }
  return reason_code;
}

/** Reads protocol name and level; version 0 = neither MQTT 3.1.1 nor 5.0. */
function get_version(reader: Reader): Version | 0 {
  const name = reader.string();
  const level = reader.u8();
  return name === "MQTT" && (level === 4 || level === 5) ? level : 0; // [MQTT-3.1.2-1], -2
}

/**
 * The version that a CONNECT asks for, so that a refused one can be answered in it; 0 = not to be
 * told. Never throws Refusal.
 */
export function connect_version(bytes: Uint8Array, begin: number, end: number): Version | 0 {
  if (begin >= end || bytes[begin] >> 4 !== 1) return 0;
  try {
    return get_version(new Reader(bytes, body_begin(bytes, begin, end, 0), end));
  } catch (error) {
    if (error instanceof Refusal) return 0;
    throw error;
  }
}

/** Section 3.1. */
function decode_connect(reader: Reader, frame_begin: number): Connect {
  const version = get_version(reader);
  if (version === 0) throw new Refusal(codes.unsupported_protocol);
  if (version === 5) body_begin(reader.bytes, frame_begin, reader.end, 5);
  const flags = reader.u8();
  if ((flags & 0x01) !== 0) malformed("The reserved flag of CONNECT is set"); // [MQTT-3.1.2-3]
  const has_will = (flags & 0x04) !== 0;
  const will_qos = (flags >> 3) & 3;
  if (will_qos === 3) malformed("The will QoS is 3"); // [MQTT-3.1.2-12], 3.1.1: [MQTT-3.1.2-14]
  if (!has_will && (flags & 0x38) !== 0) {
    malformed("Will QoS or retain without will"); // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
  }
  const has_username = (flags & 0x80) !== 0;
  const has_password = (flags & 0x40) !== 0;
  if (version === 4 && has_password && !has_username) {
    malformed("A password without user name"); // 3.1.1: [MQTT-3.1.2-22]
  }
  const clean_start = (flags & 0x02) !== 0;
  const keepalive_s = reader.u16();
  const properties = properties_part(reader, "connect", version);
  const client_id = get_client_id(reader, version, clean_start);
  const packet: { -readonly [Name in keyof Connect]: Connect[Name] } = {
    type: "connect",
    version,
    clean_start,
    keepalive_s,
    client_id,
    ...properties,
  };
  if (has_will) packet.will = get_will(reader, version, will_qos as Qos, (flags & 0x20) !== 0);
  if (has_username) packet.username = reader.string();
  if (has_password) packet.password = reader.binary();
  reader.finish();
  return packet;
}

/** Section 3.1.3.1. */
function get_client_id(reader: Reader, version: Version, clean_start: boolean): string {
  const begin = reader.at;
  const client_id = reader.string();
  if (reader.at - begin - 2 > limits.device_id_bytes_max) {
    throw new Refusal(codes.client_id_invalid, "The client identifier is too long");
  }
  if (client_id === "" && version === 4 && !clean_start) { // 3.1.1: [MQTT-3.1.3-8]
    throw new Refusal(codes.client_id_invalid, "No client identifier for a kept session");
  }
  return client_id;
}

/** Sections 3.1.3.2 to 3.1.3.4. */
function get_will(reader: Reader, version: Version, qos: Qos, retain: boolean): Will {
  const part = properties_part(reader, "will", version);
  const topic = reader.string();
  check_topic_name(topic);
  const payload = reader.binary();
  if (part.properties?.payload_format === 1 && !is_utf8(payload, 0, payload.length)) {
    throw new Refusal(codes.payload_invalid, "The will payload is not UTF-8");
  }
  return { topic, payload, qos, retain, ...part };
}

/** Section 3.2. */
function decode_connack(reader: Reader, version: Version): Connack {
  const flags = reader.u8();
  if (flags > 1) malformed("The reserved flags of CONNACK are set"); // 3.2.2.1
  const reason_code = check_reason("connack", version, reader.u8());
  const session_present = flags === 1;
  if (session_present && reason_code !== 0) {
    protocol_error("A refused CONNECT has a session"); // [MQTT-3.2.2-6], 3.1.1: [MQTT-3.2.2-4]
  }
  const part = properties_part(reader, "connack", version);
  return { type: "connack", session_present, reason_code, ...part };
}

/**
 * Sections 3.4 to 3.7. Version 5 may leave out the reason code 0, and the property length with it.
 */
function decode_ack(reader: Reader, type: AckType, version: Version): Ack {
  const packet_id = reader.packet_id();
  if (version === 4 || reader.at === reader.end) return { type, packet_id, reason_code: 0 };
  const reason_code = check_reason(type, version, reader.u8());
  const part = reader.at < reader.end ? properties_part(reader, "ack", version) : {};
  return { type, packet_id, reason_code, ...part };
}

/** Section 3.8. */
function decode_subscribe(reader: Reader, version: Version): Subscribe {
  const packet_id = reader.packet_id();
  const part = properties_part(reader, "subscribe", version);
  const subscriptions: Subscription[] = [];
  do { // [MQTT-3.8.3-2]: at least one
    check_filter_count(subscriptions.length);
    subscriptions.push(get_subscription(reader, version));
  } while (reader.at < reader.end);
  return { type: "subscribe", packet_id, subscriptions, ...part };
}

function check_filter_count(count: number): void {
  if (count >= limits.filters_per_packet_max) {
    throw new Refusal(
      codes.subscription_limit,
      `A packet has more than ${limits.filters_per_packet_max} filters`,
    );
  }
}

/** Section 3.8.3.1. */
function get_subscription(reader: Reader, version: Version): Subscription {
  const filter = get_filter(reader);
  const options = reader.u8();
  const qos = options & 3;
  const retain_handling = (options >> 4) & 3;
  // 3.1.1: [MQTT-3.8.3-4]; version 5: [MQTT-3.8.3-5]
  if ((options & (version === 4 ? 0xfc : 0xc0)) !== 0) malformed("Reserved subscription options");
  if (qos === 3) malformed("A subscription has QoS 3");
  if (retain_handling === 3) protocol_error("Retain handling is 3");
  const no_local = (options & 0x04) !== 0;
  if (no_local && filter.startsWith("$share/")) {
    protocol_error("No local on a shared subscription"); // [MQTT-3.8.3-4]
  }
  return {
    filter,
    qos: qos as Qos,
    no_local,
    retain_as_published: (options & 0x08) !== 0,
    retain_handling: retain_handling as 0 | 1 | 2,
  };
}

function get_filter(reader: Reader): string {
  const filter = reader.string();
  check_topic_filter(filter);
  return filter;
}

/** Section 3.9. */
function decode_suback(reader: Reader, version: Version): Suback {
  const packet_id = reader.packet_id();
  const part = properties_part(reader, "ack", version);
  return {
    type: "suback",
    packet_id,
    reason_codes: get_reasons(reader, "suback", version),
    ...part,
  };
}

/** One reason code for each filter, up to the end of the packet; at least one. */
function get_reasons(reader: Reader, type: "suback" | "unsuback", version: Version): number[] {
  const reason_codes: number[] = [];
  do {
    reason_codes.push(check_reason(type, version, reader.u8()));
  } while (reader.at < reader.end);
  return reason_codes;
}

/** Section 3.10. */
function decode_unsubscribe(reader: Reader, version: Version): Unsubscribe {
  const packet_id = reader.packet_id();
  const part = properties_part(reader, "unsubscribe", version);
  const filters: string[] = [];
  do { // [MQTT-3.10.3-2]: at least one
    check_filter_count(filters.length);
    filters.push(get_filter(reader));
  } while (reader.at < reader.end);
  return { type: "unsubscribe", packet_id, filters, ...part };
}

/** Section 3.11. */
function decode_unsuback(reader: Reader, version: Version): Unsuback {
  const packet_id = reader.packet_id();
  if (version === 4) return { type: "unsuback", packet_id, reason_codes: [] };
  const part = properties_part(reader, "ack", version);
  const reason_codes = get_reasons(reader, "unsuback", version);
  return { type: "unsuback", packet_id, reason_codes, ...part };
}

/** Section 3.14. Version 5 may leave out the reason code 0, and the property length with it. */
function decode_disconnect(reader: Reader, version: Version): Disconnect {
  if (version === 4 || reader.at === reader.end) return { type: "disconnect", reason_code: 0 };
  const reason_code = check_reason("disconnect", version, reader.u8());
  const part = reader.at < reader.end ? properties_part(reader, "disconnect", version) : {};
  return { type: "disconnect", reason_code, ...part };
}

/** Section 3.15. */
function decode_auth(reader: Reader, version: Version): Auth {
  if (version === 4) malformed("Packet type 15 is reserved"); // 3.1.1: table 2.1
  if (reader.at === reader.end) return { type: "auth", reason_code: 0 };
  const reason_code = check_reason("auth", version, reader.u8());
  return { type: "auth", reason_code, ...properties_part(reader, "auth", version) };
}

/**
 * Throws Refusal(protocol_error) for a packet that only a server sends. Codecs do not know who
 * speaks: the service calls this for what `decode_frame` gives it.
 */
export function check_from_client(packet: Packet): void {
  switch (packet.type) {
    case "connack":
    case "suback":
    case "unsuback":
    case "pingresp":
      return protocol_error(`A client sent ${packet.type}`);
    case "publish":
      if (packet.properties?.subscription_ids !== undefined) {
        protocol_error("PUBLISH has a subscription identifier"); // [MQTT-3.3.4-6]
      }
      return;
    case "disconnect":
      if (packet.properties?.server_reference !== undefined) {
        protocol_error("A client sent a server reference"); // section 3.14.2.2.5
      }
      return;
    default:
      return;
  }
}

/**
 * Looks for one packet at `begin` in bytes of which more may follow. Never throws for what the peer
 * sent. Frames larger than `frame_bytes_max` are refused with frame_too_large as soon as their
 * length is known.
 */
export function decode(
  bytes: Uint8Array,
  begin: number,
  end: number,
  version: Version | 0,
  frame_bytes_max: number = version === 0
    ? limits.handshake_frame_bytes_max
    : limits.frame_bytes_max,
): Decoded<Packet> {
  let at = begin + 1;
  let remaining = 0;
  for (let shift = 0;; shift += 7) {
    if (at >= end) return { kind: "more", needed: at + 1 - end };
    const byte = bytes[at++];
    remaining |= (byte & 0x7f) << shift;
    if (byte <= 0x7f) break;
    if (shift === 21) {
      return { kind: "refused", code: codes.malformed, detail: "The remaining length is too long" };
    }
  }
  const size = at - begin + remaining;
  if (size > frame_bytes_max) {
    const detail = `A frame of ${size} bytes`;
    return { kind: "refused", code: codes.frame_too_large, detail };
  }
  if (size > end - begin) return { kind: "more", needed: size - (end - begin) };
  try {
    const packet = decode_frame(bytes, begin, begin + size, version);
    return { kind: "packet", packet, consumed: size };
  } catch (error) {
    return refused(error);
  }
}

/**
 * Cuts a stream into packets. Version 0: the first is a CONNECT, which sets the version for the
 * rest.
 */
export class Decoder extends StreamDecoder<Packet> {
  constructor(public version: Version | 0) {
    super((bytes, begin, end) => {
      const got = decode(bytes, begin, end, this.version);
      if (got.kind === "packet" && got.packet.type === "connect") this.version = got.packet.version;
      return got;
    });
  }
}

const writer = new Writer();

/** The constant packets, never written to: encode() hands out copies. */
const pingreq = Uint8Array.of(0xc0, 0);
const pingresp = Uint8Array.of(0xd0, 0);

/**
 * One packet as bytes of its own. A CONNECT is written in its own version. Throws RangeError for
 * what cannot be said: a number out of range, a string over 65,535 bytes, a reason code the packet
 * does not take.
 */
export function encode(packet: Packet, version: Version): Uint8Array {
  writer.reset();
  switch (packet.type) {
    case "connect":
      return put_connect(packet);
    case "connack":
      writer.u8(packet.session_present ? 1 : 0);
      writer.u8(assert_reason("connack", version, packet.reason_code));
      if (version === 5) put_properties(writer, "connack", packet.properties);
      return writer.packet(0x20);
    case "publish":
      return encode_publish(packet, version);
    case "puback":
    case "pubrec":
    case "pubrel":
    case "pubcomp":
      return encode_ack(packet, version);
    case "subscribe":
      return put_subscribe(packet, version);
    case "suback":
    case "unsuback":
      return put_reasons(packet, version);
    case "unsubscribe":
      return put_unsubscribe(packet, version);
    case "pingreq":
      return pingreq.slice();
    case "pingresp":
      return pingresp.slice();
    case "disconnect":
      put_tail("disconnect", version, packet.reason_code, packet.properties);
      return writer.packet(0xe0);
    case "auth":
      if (version === 4) throw new RangeError("AUTH does not exist in MQTT 3.1.1");
      if (packet.reason_code !== 0 || packet.properties !== undefined) {
        writer.u8(assert_reason("auth", version, packet.reason_code));
        put_properties(writer, "auth", packet.properties);
      }
      return writer.packet(0xf0);
  }
}

function assert_reason(type: ReasonType, version: Version, reason_code: number): number {
  if (!reason_allowed(type, version, reason_code)) {
    throw new RangeError(`${reason_code} is not a reason code of ${type}`);
  }
  return reason_code;
}

/** Reason code and properties in the shortest form that says them. */
function put_tail<P extends "ack" | "disconnect">(
  type: ReasonType & (P extends "ack" ? AckType : "disconnect"),
  version: Version,
  reason_code: number,
  properties: PropertiesAt[P] | undefined,
): void {
  assert_reason(type, version, reason_code);
  if (version === 4 || (reason_code === 0 && properties === undefined)) return;
  writer.u8(reason_code);
  if (properties === undefined) return;
  put_properties(writer, type === "disconnect" ? "disconnect" : "ack", properties);
}

function put_connect(packet: Connect): Uint8Array {
  const { version, will, username, password } = packet;
  if (version === 4 && password !== undefined && username === undefined) {
    throw new RangeError("A password without user name"); // 3.1.1: [MQTT-3.1.2-22]
  }
  writer.string("MQTT");
  writer.u8(version);
  writer.u8(
    (packet.clean_start ? 0x02 : 0) |
      (will === undefined ? 0 : 0x04 | (will.qos << 3) | (will.retain ? 0x20 : 0)) |
      (password === undefined ? 0 : 0x40) | (username === undefined ? 0 : 0x80),
  );
  writer.u16(packet.keepalive_s);
  if (version === 5) put_properties(writer, "connect", packet.properties);
  writer.string(packet.client_id);
  if (will !== undefined) {
    if (version === 5) put_properties(writer, "will", will.properties);
    writer.string(will.topic);
    writer.binary(will.payload);
  }
  if (username !== undefined) writer.string(username);
  if (password !== undefined) writer.binary(password);
  return writer.packet(0x10);
}

function encode_publish(
  packet: Extract<Packet, { type: "publish" }>,
  version: Version,
): Uint8Array {
  const { topic, payload, qos, packet_id, properties } = packet;
  if ((qos > 0) !== (packet_id > 0)) throw new RangeError(`QoS ${qos}, packet id ${packet_id}`);
  const size = publish_bytes_max(utf8_bytes(topic), payload.length, properties);
  const out = new Uint8Array(size);
  const { retain, dup } = packet;
  const end = encode_publish_into(
    out,
    0,
    version,
    topic,
    payload,
    qos,
    retain,
    dup,
    packet_id,
    properties,
  );
  return out.subarray(0, end);
}

const ack_first_bytes = { puback: 0x40, pubrec: 0x50, pubrel: 0x62, pubcomp: 0x70 } as const;

function encode_ack(packet: Ack, version: Version): Uint8Array {
  const first = ack_first_bytes[packet.type];
  if (packet.properties === undefined || version === 4) {
    const out = new Uint8Array(5);
    return out.subarray(
      0,
      encode_ack_into(out, 0, packet.type, version, packet.packet_id, packet.reason_code),
    );
  }
  writer.packet_id(packet.packet_id);
  put_tail<"ack">(packet.type, version, packet.reason_code, packet.properties);
  return writer.packet(first);
}

/**
 * Writes PUBACK, PUBREC, PUBREL or PUBCOMP without properties at `at`, at most 5 bytes; returns
 * where it ends. Version 4 has no room for a reason code: it is not written.
 */
export function encode_ack_into(
  out: Uint8Array,
  at: number,
  type: AckType,
  version: Version,
  packet_id: number,
  reason_code = 0,
): number {
  const with_reason = version === 5 && reason_code !== 0;
  if (packet_id < 1 || packet_id > 0xffff) throw new RangeError(`The packet id is ${packet_id}`);
  if (with_reason) assert_reason(type, version, reason_code);
  out[at] = ack_first_bytes[type];
  out[at + 1] = with_reason ? 3 : 2;
  out[at + 2] = packet_id >> 8;
  out[at + 3] = packet_id & 0xff;
  if (!with_reason) return at + 4;
  out[at + 4] = reason_code;
  return at + 5;
}

function put_subscribe(packet: Subscribe, version: Version): Uint8Array {
  if (packet.subscriptions.length === 0) throw new RangeError("SUBSCRIBE without filters");
  writer.packet_id(packet.packet_id);
  if (version === 5) put_properties(writer, "subscribe", packet.properties);
  for (const { filter, qos, ...options } of packet.subscriptions) {
    writer.string(filter);
    writer.u8(
      version === 4 ? qos : qos | (options.no_local ? 0x04 : 0) |
        (options.retain_as_published ? 0x08 : 0) | (options.retain_handling << 4),
    );
  }
  return writer.packet(0x82);
}

function put_unsubscribe(packet: Unsubscribe, version: Version): Uint8Array {
  if (packet.filters.length === 0) throw new RangeError("UNSUBSCRIBE without filters");
  writer.packet_id(packet.packet_id);
  if (version === 5) put_properties(writer, "unsubscribe", packet.properties);
  for (const filter of packet.filters) writer.string(filter);
  return writer.packet(0xa2);
}

function put_reasons(packet: Suback | Unsuback, version: Version): Uint8Array {
  const { type, reason_codes } = packet;
  writer.packet_id(packet.packet_id);
  if (version === 4 && type === "unsuback") return writer.packet(0xb0);
  if (reason_codes.length === 0) throw new RangeError(`${type} without reason codes`);
  if (version === 5) put_properties(writer, "ack", packet.properties);
  for (const reason_code of reason_codes) writer.u8(assert_reason(type, version, reason_code));
  return writer.packet(type === "suback" ? 0x90 : 0xb0);
}
