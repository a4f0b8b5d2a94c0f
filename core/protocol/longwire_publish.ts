/**
 * Publish and Published by hand, in the form that nearly all of them have: the pair that a device's
 * every stored message costs. What has another form is left to the generated code; a test says that
 * both read the same.
 */
import type { Qos } from "../message.ts";
import { frame_types, header_bytes, type PublishFrame } from "./longwire_frames.ts";
import { put_number } from "./longwire_message.ts";
import { get_topic_name } from "./topics.ts";
import { get_utf8 } from "./utf8.ts";

/** Where `get_varint` stopped; the number itself is what it returns. */
let varint_end = 0;

/** Reads a varint of at most 4 bytes; -1 = it is longer or cut. */
function get_varint(bytes: Uint8Array, at: number, end: number): number {
  let value = 0;
  for (let shift = 0; shift < 28 && at < end; shift += 7) {
    const byte = bytes[at++];
    value |= (byte & 0x7f) << shift;
    if (byte > 0x7f) continue;
    varint_end = at;
    return value;
  }
  return -1;
}

/**
 * Reads the body of a Publish that has topic, payload, request id, QoS, retain, lifetime and key
 * only, each in a few bytes; undefined = this one has more, or is not well-formed. Throws Refusal
 * as `decode_frame` does.
 */
export function read_plain_publish(
  bytes: Uint8Array,
  begin: number,
  end: number,
): PublishFrame | undefined {
  let topic = "";
  let key = "";
  let payload_begin = 0;
  let payload_end = 0;
  let request_id = 0;
  let qos = 0;
  let retain = 0;
  let ttl_ms = 0;
  let at = begin;
  while (at < end) {
    const tag = bytes[at];
    const value = get_varint(bytes, at + 1, end);
    if (value < 0) return undefined;
    at = varint_end;
    if (tag === 0x0a || tag === 0x12 || tag === 0x3a) {
      if (value > end - at) return undefined;
      const field_end = at + value;
      if (tag === 0x0a) topic = get_topic_name(bytes, at, field_end);
      else if (tag === 0x3a) key = get_utf8(bytes, at, field_end);
      else [payload_begin, payload_end] = [at, field_end];
      at = field_end;
    } else if (tag === 0x18) request_id = value;
    else if (tag === 0x20) qos = value;
    else if (tag === 0x28) retain = value;
    else if (tag === 0x30) ttl_ms = value;
    else return undefined;
  }
  if (topic === "" || qos > 2 || (qos > 0 && request_id === 0)) return undefined;
  return {
    type: "publish",
    request_id,
    topic,
    payload: bytes.slice(payload_begin, payload_end),
    qos: qos as Qos,
    retain: retain !== 0,
    ttl_ms,
    key,
  };
}

/** An upper bound, in bytes, for what `encode_published_into` writes. */
export const published_bytes_max = header_bytes + 21;

/**
 * Writes a Published frame without detail at `at` (done, or refused with a code that says all),
 * returns where it ends. Into a buffer that is there: a Uint8Array of its own costs 300 ns more.
 */
export function encode_published_into(
  out: Uint8Array,
  at: number,
  request_id: number,
  code: number,
  offset: number,
): number {
  const begin = at;
  at = put_number(out, begin + header_bytes, 1 << 3, request_id);
  at = put_number(out, at, 2 << 3, code);
  at = put_number(out, at, 3 << 3, offset);
  out[begin] = at - begin - header_bytes;
  out[begin + 1] = 0;
  out[begin + 2] = 0;
  out[begin + 3] = 0;
  out[begin + 4] = frame_types.published;
  return at;
}
