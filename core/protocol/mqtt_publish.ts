/**
 * PUBLISH (section 3.3), the packet that decides how fast the service is: read into a reused view
 * and written straight into the caller's buffer, without an object per packet.
 */
import { codes, Refusal } from "../codes.ts";
import type { MessageProperties, Qos } from "../message.ts";
import {
  body_begin,
  malformed,
  put_varint,
  Reader,
  varint_bytes,
  varint_max,
  Writer,
} from "./mqtt_bytes.ts";
import type { Publish, Version } from "./mqtt_packets.ts";
import {
  get_properties,
  properties_bytes,
  type PublishProperties,
  put_properties,
} from "./mqtt_properties.ts";
import { get_topic_name } from "./topics.ts";
import { is_utf8, put_utf8, utf8_bytes } from "./utf8.ts";

/** One PUBLISH, laid over the bytes it was read from; valid until the next decode into it. */
export class PublishView {
  /** 0 with QoS 0. */
  packet_id = 0;
  qos: Qos = 0;
  dup = false;
  retain = false;
  /** "" = the topic alias names it. */
  topic = "";
  /** As it was sent; 0 = none. The session resolves it. */
  topic_alias = 0;
  /** Seconds; -1 = never (0 is a lifetime of no time at all). */
  message_expiry_s = -1;
  /** Offsets into the bytes given to `decode_publish`. */
  payload_begin = 0;
  payload_end = 0;
  /** What travels on to subscribers; undefined = nothing. Copied, so it may be kept. */
  properties: MessageProperties | undefined = undefined;
}

/**
 * Reads all of a PUBLISH but its payload into `view`; returns its properties as they were sent. The
 * view is complete when this throws Refusal(payload_invalid), so that the publisher can be told by
 * PUBACK.
 */
function read_publish(
  bytes: Uint8Array,
  begin: number,
  end: number,
  version: Version,
  view: PublishView,
): PublishProperties | undefined {
  const first = bytes[begin];
  let at = body_begin(bytes, begin, end, version);
  const qos = (first >> 1) & 3;
  if (qos === 3) malformed("PUBLISH has QoS 3"); // [MQTT-3.3.1-4]
  view.qos = qos as Qos;
  view.dup = (first & 8) !== 0;
  view.retain = (first & 1) !== 0;
  if (view.dup && qos === 0) malformed("PUBLISH has DUP with QoS 0"); // [MQTT-3.3.1-2]
  if (end - at < 2) malformed("PUBLISH ends before its topic");
  const topic_end = at + 2 + ((bytes[at] << 8) | bytes[at + 1]);
  if (topic_end > end) malformed("PUBLISH ends in its topic");
  const has_topic = topic_end > at + 2;
  view.topic = has_topic ? get_topic_name(bytes, at + 2, topic_end) : "";
  if (!has_topic && version === 4) {
    throw new Refusal(codes.topic_invalid, "PUBLISH has no topic"); // [MQTT-4.7.3-1]
  }
  at = topic_end;
  view.packet_id = 0;
  if (qos > 0) {
    if (end - at < 2) malformed("PUBLISH ends before its packet identifier");
    view.packet_id = (bytes[at] << 8) | bytes[at + 1];
    if (view.packet_id === 0) malformed("PUBLISH has packet identifier 0"); // [MQTT-2.2.1-3]
    at += 2;
  }
  view.topic_alias = 0;
  view.message_expiry_s = -1;
  view.properties = undefined;
  view.payload_begin = at;
  view.payload_end = end;
  if (version === 4) return undefined;
  if (at < end && bytes[at] === 0 && has_topic) {
    view.payload_begin = at + 1;
    return undefined;
  }
  const reader = new Reader(bytes, at, end);
  const properties = get_properties(reader, "publish");
  view.payload_begin = reader.at;
  view.topic_alias = properties?.topic_alias ?? 0;
  view.message_expiry_s = properties?.message_expiry_s ?? -1;
  if (!has_topic && view.topic_alias === 0) {
    throw new Refusal(codes.protocol_error, "PUBLISH has neither topic nor alias"); // 3.3.2.1
  }
  if (properties?.payload_format === 1 && !is_utf8(bytes, view.payload_begin, end)) {
    throw new Refusal(codes.payload_invalid, "The payload is not UTF-8"); // section 3.3.2.3.2
  }
  return properties;
}

/**
 * Reads a PUBLISH that a client sent: one whole frame in [begin, end). Throws Refusal: malformed,
 * protocol_error (also for a subscription identifier [MQTT-3.3.4-6]), topic_invalid,
 * payload_invalid (then the view is complete but for `properties`, and the publisher may be told by
 * PUBACK).
 */
export function decode_publish(
  bytes: Uint8Array,
  begin: number,
  end: number,
  version: Version,
  view: PublishView,
): void {
  const properties = read_publish(bytes, begin, end, version, view);
  if (properties === undefined) return;
  if (properties.subscription_ids !== undefined) {
    throw new Refusal(codes.protocol_error, "PUBLISH has a subscription identifier");
  }
  const { topic_alias: _alias, message_expiry_s: _expiry, ...rest } = properties;
  for (const _name in rest) {
    view.properties = rest;
    break;
  }
}

const scratch_view = new PublishView();

/**
 * Reads a PUBLISH of either direction into a value of its own; the payload is copied. Throws
 * Refusal.
 */
export function decode_publish_packet(
  bytes: Uint8Array,
  begin: number,
  end: number,
  version: Version,
): Publish {
  const view = scratch_view;
  const properties = read_publish(bytes, begin, end, version, view);
  const packet: Publish = {
    type: "publish",
    topic: view.topic,
    payload: bytes.slice(view.payload_begin, view.payload_end),
    qos: view.qos,
    retain: view.retain,
    dup: view.dup,
    packet_id: view.packet_id,
  };
  return properties === undefined ? packet : { ...packet, properties };
}

/**
 * An upper bound, in bytes, for what `encode_publish_into` writes, expiry included. A topic of
 * unknown UTF-8 size has at most 3 bytes per UTF-16 unit.
 */
export function publish_bytes_max(
  topic_utf8_bytes: number,
  payload_bytes: number,
  properties?: PublishProperties,
  subscription_id_count = 0,
): number {
  // Fixed header 5, topic size 2, packet id 2, property length 4, expiry 5, identifiers 1 + 4 each.
  return 18 + topic_utf8_bytes + payload_bytes + properties_bytes("publish", properties) +
    subscription_id_count * 5;
}

const scratch_properties = new Writer();

/**
 * Collects the property section in `scratch_properties`; returns its bytes, length field included.
 */
function collect_properties(
  properties: PublishProperties | undefined,
  expiry_s: number,
  subscription_ids: readonly number[] | undefined,
): number {
  const all: { -readonly [Name in keyof PublishProperties]: PublishProperties[Name] } = {
    ...properties,
  };
  if (expiry_s >= 0) all.message_expiry_s = expiry_s;
  if (subscription_ids !== undefined) all.subscription_ids = subscription_ids;
  scratch_properties.reset();
  put_properties(scratch_properties, "publish", all);
  return scratch_properties.size;
}

/**
 * Writes one PUBLISH at `at`, returns where it ends. The caller has made room (`publish_bytes_max`)
 * and checked the topic. `properties` and what follows are for version 5 and ignored in version 4;
 * `expiry_s`: seconds of life left, -1 = what the properties say. Where the packet id stands:
 * `publish_packet_id_at`. Throws RangeError for what cannot be written.
 */
export function encode_publish_into(
  out: Uint8Array,
  at: number,
  version: Version,
  topic: string,
  payload: Uint8Array,
  qos: Qos,
  retain: boolean,
  dup: boolean,
  packet_id: number,
  properties?: PublishProperties,
  expiry_s = -1,
  subscription_ids?: readonly number[],
): number {
  const topic_bytes = utf8_bytes(topic);
  if (topic_bytes > 0xffff) throw new RangeError(`The topic has ${topic_bytes} bytes`);
  let properties_size = 0;
  let collected = false;
  if (version === 5) {
    collected = properties !== undefined || subscription_ids !== undefined;
    if (collected) properties_size = collect_properties(properties, expiry_s, subscription_ids);
    else properties_size = expiry_s >= 0 ? 6 : 1;
  }
  const remaining = 2 + topic_bytes + (qos > 0 ? 2 : 0) + properties_size + payload.length;
  if (remaining > varint_max) throw new RangeError(`PUBLISH has ${remaining} bytes`);
  if (at + 1 + varint_bytes(remaining) + remaining > out.length) {
    throw new RangeError("PUBLISH does not fit");
  }
  out[at++] = 0x30 | (dup ? 8 : 0) | (qos << 1) | (retain ? 1 : 0);
  at = put_varint(out, at, remaining);
  out[at++] = topic_bytes >> 8;
  out[at++] = topic_bytes & 0xff;
  at = put_utf8(out, at, topic);
  if (qos > 0) {
    out[at++] = packet_id >> 8;
    out[at++] = packet_id & 0xff;
  }
  if (collected) {
    at = scratch_properties.copy_into(out, at);
  } else if (properties_size === 6) {
    at = put_expiry(out, at, expiry_s);
  } else if (properties_size === 1) {
    out[at++] = 0;
  }
  // A short payload costs less in a loop than in the call of `set`.
  if (payload.length > 32) out.set(payload, at);
  else for (let i = 0; i < payload.length; i++) out[at + i] = payload[i];
  return at + payload.length;
}

/** A property section of nothing but Message Expiry Interval. */
function put_expiry(out: Uint8Array, at: number, expiry_s: number): number {
  out[at] = 5;
  out[at + 1] = 0x02;
  out[at + 2] = expiry_s >>> 24;
  out[at + 3] = (expiry_s >>> 16) & 0xff;
  out[at + 4] = (expiry_s >>> 8) & 0xff;
  out[at + 5] = expiry_s & 0xff;
  return at + 6;
}

/**
 * How far behind `begin` the two bytes of the packet id stand in an encoded PUBLISH, so that the
 * reactor can write each receiver's own; 0 = QoS 0, there is none.
 */
export function publish_packet_id_at(frame: Uint8Array, begin: number): number {
  if ((frame[begin] & 0x06) === 0) return 0;
  let at = begin + 1;
  while (frame[at] > 0x7f) at += 1;
  at += 1;
  return at + 2 + ((frame[at] << 8) | frame[at + 1]) - begin;
}
