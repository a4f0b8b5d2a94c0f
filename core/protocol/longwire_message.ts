/**
 * The Message frame written by hand: it is encoded once for each publish and dominates what the
 * service sends. Byte for byte what the generated encoder writes (a test says so), without its
 * intermediate list.
 */
import type { Message, MessageProperties, Qos } from "../message.ts";
import { frame_types, header_bytes } from "./longwire_frames.ts";
import { put_utf8, utf8_bytes } from "./utf8.ts";

/** Tags of longwire.proto's Message: field number << 3 | wire type. */
const tags = Object.freeze({
  topic: (1 << 3) | 2,
  payload: (2 << 3) | 2,
  offset: 3 << 3,
  qos: 4 << 3,
  time_ms: 5 << 3,
  retain: 6 << 3,
  key: (7 << 3) | 2,
  expires_ms: 8 << 3,
  epoch: (9 << 3) | 2,
  content_type: (10 << 3) | 2,
  response_topic: (11 << 3) | 2,
  correlation_data: (12 << 3) | 2,
  payload_format: 13 << 3,
  user_properties: (14 << 3) | 2,
});

/** Writes an unsigned protobuf varint below 2^53, returns where it ends. */
function put_varint(out: Uint8Array, at: number, value: number): number {
  while (value > 0x7fffffff) {
    out[at++] = (value & 0x7f) | 0x80;
    value = Math.floor(value / 128);
  }
  while (value > 0x7f) {
    out[at++] = (value & 0x7f) | 0x80;
    value >>>= 7;
  }
  out[at++] = value;
  return at;
}

/** Bytes of a varint below 2^32. */
function varint_bytes(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x200000 ? 3 : value < 0x10000000 ? 4 : 5;
}

/** Writes a number field below 2^53 unless it is 0, returns where it ends. */
export function put_number(out: Uint8Array, at: number, tag: number, value: number): number {
  if (value === 0) return at;
  out[at] = tag;
  return put_varint(out, at + 1, value);
}

function put_string(out: Uint8Array, at: number, tag: number, text: string): number {
  if (text === "") return at;
  out[at] = tag;
  return put_utf8(out, put_varint(out, at + 1, utf8_bytes(text)), text);
}

function put_bytes(out: Uint8Array, at: number, tag: number, data: Uint8Array): number {
  const size = data.length;
  if (size === 0) return at;
  out[at] = tag;
  at = put_varint(out, at + 1, size);
  // A short payload costs less in a loop than in the call of `set`.
  if (size > 32) out.set(data, at);
  else for (let i = 0; i < size; i++) out[at + i] = data[i];
  return at + size;
}

/** Bytes of a string field, 0 when it is not written. */
function field_bytes(text: string): number {
  if (text === "") return 0;
  const size = utf8_bytes(text);
  return 1 + varint_bytes(size) + size;
}

function put_properties(out: Uint8Array, at: number, properties: MessageProperties): number {
  at = put_string(out, at, tags.content_type, properties.content_type ?? "");
  at = put_string(out, at, tags.response_topic, properties.response_topic ?? "");
  const correlation_data = properties.correlation_data;
  if (correlation_data !== undefined) {
    at = put_bytes(out, at, tags.correlation_data, correlation_data);
  }
  at = put_number(out, at, tags.payload_format, properties.payload_format ?? 0);
  for (const [name, value] of properties.user_properties ?? []) {
    out[at] = tags.user_properties;
    at = put_varint(out, at + 1, field_bytes(name) + field_bytes(value));
    at = put_string(out, at, (1 << 3) | 2, name);
    at = put_string(out, at, (2 << 3) | 2, value);
  }
  return at;
}

/** An upper bound, in bytes, for what `encode_message_into` writes. */
export function message_bytes_max(message: Message, epoch = ""): number {
  // Header 5; offset, time and expiry 9 each; qos and retain 2 each; tag and length 6 for each of 4
  // strings.
  let size = 60 + message.payload.length + 3 * (message.topic.length + message.key.length) +
    3 * epoch.length;
  const p = message.properties;
  if (p === undefined) return size;
  size += 24 + 3 * ((p.content_type ?? "").length + (p.response_topic ?? "").length) +
    (p.correlation_data?.length ?? 0);
  for (const [name, value] of p.user_properties ?? []) {
    size += 18 + 3 * (name.length + value.length);
  }
  return size;
}

/**
 * Writes one Message frame at `at`, returns where it ends. The caller has made room
 * (`message_bytes_max`). `offset` 0 = not stored. `qos` and `retain` are those of this delivery,
 * not of the publish; `epoch` "" = that of Welcome. The bytes are the same for every receiver:
 * nothing needs to be patched.
 */
export function encode_message_into(
  out: Uint8Array,
  at: number,
  message: Message,
  offset: number,
  qos: Qos,
  retain: boolean,
  epoch = "",
): number {
  const begin = at;
  at += header_bytes;
  at = put_string(out, at, tags.topic, message.topic);
  at = put_bytes(out, at, tags.payload, message.payload);
  at = put_number(out, at, tags.offset, offset);
  at = put_number(out, at, tags.qos, qos);
  at = put_number(out, at, tags.time_ms, message.time_ms);
  at = put_number(out, at, tags.retain, retain ? 1 : 0);
  at = put_string(out, at, tags.key, message.key);
  at = put_number(out, at, tags.expires_ms, message.expires_ms);
  at = put_string(out, at, tags.epoch, epoch);
  if (message.properties !== undefined) at = put_properties(out, at, message.properties);
  if (at > out.length) throw new RangeError("The Message frame does not fit");
  const size = at - begin - header_bytes;
  out[begin] = size & 0xff;
  out[begin + 1] = (size >>> 8) & 0xff;
  out[begin + 2] = (size >>> 16) & 0xff;
  out[begin + 3] = size >>> 24;
  out[begin + 4] = frame_types.message;
  return at;
}
