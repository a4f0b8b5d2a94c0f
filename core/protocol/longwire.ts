/**
 * The Longwire device protocol: frames of u32 little-endian, u8 type and a protobuf body
 * (longwire.proto) to values and back, both directions. Pure: no I/O, no clock. What is read was
 * checked: strings are UTF-8 without U+0000, topics and filters are valid, numbers are safe
 * integers, lists are bounded.
 */
import { Reader, Writer } from "protobufjs/minimal";
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { MessageProperties, Qos } from "../message.ts";
import { type Decoded, refused, StreamDecoder } from "./incremental.ts";
import {
  compressed_bit,
  type Frame,
  frame_types,
  type FrameCursor,
  type FrameInit,
  type FrameType,
  header_bytes,
  type Hello,
  type MessageFrame,
  protocol_version,
  type PublishFrame,
  type StatusReport,
  type SubscribeFrame,
  type UnsubscribeFrame,
} from "./longwire_frames.ts";
import {
  encode_published_into,
  published_bytes_max,
  read_plain_publish,
} from "./longwire_publish.ts";
// @ts-types="./longwire_pb.d.ts"
import { longwire as pb } from "./longwire_pb.js";
import type { Zstd } from "./zstd.ts";
import { check_topic_filter, check_topic_name } from "./topics.ts";
import { get_utf8, is_utf8, utf8_bytes } from "./utf8.ts";

export * from "./longwire_frames.ts";
export { encode_message_into, message_bytes_max } from "./longwire_message.ts";
export type { Zstd } from "./zstd.ts";
export { encode_published_into, published_bytes_max } from "./longwire_publish.ts";

/** Dictionaries in one Hello. */
const dictionaries_max = 64;
/** Cursors in one Hello. */
const resume_cursors_max = 64;
/** Reports in one StatusBatch. */
const status_reports_max = 10_000;
/**
 * Fields in one frame, those of nested messages included: an empty one costs 2 bytes but becomes an
 * object.
 */
const fields_max = 16_384;

/** Unpacks a compressed body: Zstd.decompress, or what stands for it in a test. */
export type Decompress = Zstd["decompress"];

function malformed(detail: string): never {
  throw new Refusal(codes.malformed, detail);
}

/**
 * What protobufjs reads leniently, read strictly: UTF-8, integers past 2^53, the number of fields.
 */
class StrictReader extends Reader {
  #fields = 0;

  constructor(bytes: Uint8Array, begin: number, end: number) {
    super(bytes);
    this.pos = begin;
    this.len = end;
    this.discardUnknown = true; // a newer device may say more
  }

  override tag(): number {
    this.#fields += 1;
    if (this.#fields > fields_max) malformed(`A frame has more than ${fields_max} fields`);
    return super.tag();
  }

  /** Moves past a length-delimited field, returns where its content begins. */
  #skip_sized(): number {
    const size = this.size();
    const begin = this.pos;
    if (size > this.len - begin) malformed("A field ends behind its frame");
    this.pos = begin + size;
    return begin;
  }

  override string(): string {
    const begin = this.#skip_sized();
    return get_utf8(this.buf, begin, this.pos);
  }

  override stringVerify(): string {
    return this.string();
  }

  /** A copy: the frame's memory is the ring's. */
  override bytes(): Uint8Array {
    const begin = this.#skip_sized();
    return this.buf.slice(begin, this.pos);
  }

  #varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 10; i++) {
      if (this.pos >= this.len) malformed("A number ends behind its frame");
      const byte = this.buf[this.pos++];
      value += (byte & 0x7f) * scale;
      scale *= 128;
      if (byte > 0x7f) continue;
      if (value > Number.MAX_SAFE_INTEGER) malformed("A number is past 2^53");
      return value;
    }
    return malformed("A number has more than 10 bytes");
  }

  // protobufjs declares Long, and gives numbers only where that package is missing.
  override uint64(): never {
    return this.#varint() as never;
  }

  override sint64(): never {
    const value = this.#varint();
    return (value % 2 === 0 ? value / 2 : -(value + 1) / 2) as never;
  }
}

/** protobufjs writes lone surrogates as they are, which is not UTF-8. */
class StrictWriter extends Writer {
  override string(text: string): Writer {
    return super.string(text.toWellFormed());
  }
}

const type_names: readonly (FrameType | undefined)[] = (() => {
  const names: (FrameType | undefined)[] = [];
  for (const [name, number] of Object.entries(frame_types)) names[number] = name as FrameType;
  return names;
})();

/** What the generated code has for each type; a heartbeat has no body. */
const bodies = {
  hello: pb.Hello,
  welcome: pb.Welcome,
  refuse: pb.Refuse,
  subscribe: pb.Subscribe,
  subscribed: pb.Subscribed,
  unsubscribe: pb.Unsubscribe,
  unsubscribed: pb.Unsubscribed,
  message: pb.Message,
  ack: pb.Ack,
  publish: pb.Publish,
  published: pb.Published,
  status: pb.Status,
  status_batch: pb.StatusBatch,
  redirect: pb.Redirect,
  goodbye: pb.Goodbye,
  gap: pb.Gap,
  notice: pb.Notice,
} as const;

type BodyType = keyof typeof bodies;

function body_size(bytes: Uint8Array, begin: number): number {
  return (bytes[begin] | (bytes[begin + 1] << 8) | (bytes[begin + 2] << 16) |
    (bytes[begin + 3] << 24)) >>> 0;
}

/**
 * Reads one whole frame in [begin, end). The value keeps no reference to `bytes`. Throws Refusal:
 * what `decompress` throws, malformed, protocol_error (a compressed frame without `decompress`),
 * unsupported_protocol, client_id_invalid, topic_invalid, filter_invalid, qos_unsupported,
 * payload_invalid, subscription_limit.
 */
export function decode_frame(
  bytes: Uint8Array,
  begin: number,
  end: number,
  decompress?: Decompress,
): Frame {
  if (end - begin < header_bytes) malformed("A frame is shorter than its header");
  const type_byte = bytes[begin + 4];
  const number = body_size(bytes, begin);
  const type = type_names[type_byte & ~compressed_bit];
  if (type === undefined) malformed(`Frame type ${type_byte} is not known`);
  const body_begin = begin + header_bytes;
  if (type === "heartbeat") {
    if (type_byte !== frame_types.heartbeat) malformed("A heartbeat is marked as compressed");
    if (body_begin !== end) malformed("A heartbeat has a body");
    return { type, time_s: number };
  }
  if (body_begin + number !== end) malformed("The length is not that of the frame");
  if ((type_byte & compressed_bit) === 0) return read_body(type, bytes, body_begin, end);
  if (decompress === undefined) {
    throw new Refusal(codes.protocol_error, "A compressed frame, which was not agreed");
  }
  const body = decompress(bytes.subarray(body_begin, end), limits.frame_bytes_max - header_bytes);
  return read_body(type, body, 0, body.length);
}

function read_body(type: BodyType, bytes: Uint8Array, begin: number, end: number): Frame {
  if (type === "publish") {
    const plain = read_plain_publish(bytes, begin, end);
    if (plain !== undefined) return plain;
  }
  const reader = new StrictReader(bytes, begin, end);
  let body: unknown;
  try {
    body = bodies[type].decode(reader);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    return malformed(`The body of ${type} is not protobuf`);
  }
  return frame_of(type, body);
}

/**
 * From the generated class, whose absent fields live in its prototype, to a plain checked value.
 */
function frame_of(type: BodyType, body: unknown): Frame {
  switch (type) {
    case "hello":
      return hello_of(body as pb.Hello);
    case "welcome":
      return welcome_of(body as pb.Welcome);
    case "subscribe":
      return subscribe_of(body as pb.Subscribe);
    case "unsubscribe":
      return unsubscribe_of(body as pb.Unsubscribe);
    case "message":
      return message_of(body as pb.Message);
    case "publish":
      return publish_of(body as pb.Publish);
    case "ack": {
      const { offset, epoch } = body as pb.Ack;
      return { type, offset, epoch };
    }
    case "published": {
      const { request_id, code, offset, detail, retry_after_ms } = body as pb.Published;
      return { type, request_id, code, offset, detail, retry_after_ms };
    }
    case "subscribed":
    case "unsubscribed": {
      const { request_id, codes } = body as pb.Subscribed;
      return { type, request_id, codes };
    }
    case "status": {
      const { timestamp_ms, node_id, load_percent } = body as pb.Status;
      return { type, timestamp_ms, node_id, load_percent };
    }
    case "status_batch":
      return { type, reports: reports_of(body as pb.StatusBatch) };
    case "refuse": {
      const { code, detail, retry_after_ms, redirect } = body as pb.Refuse;
      return { type, code, detail, retry_after_ms, redirect };
    }
    case "redirect": {
      const { address, reason, deadline_ms } = body as pb.Redirect;
      return { type, address, reason, deadline_ms };
    }
    case "goodbye": {
      const { code, detail, retry_after_ms } = body as pb.Goodbye;
      return { type, code, detail, retry_after_ms };
    }
    case "gap": {
      const { epoch, from, to } = body as pb.Gap;
      return { type, epoch, from, to };
    }
    case "notice": {
      const { code, count, detail } = body as pb.Notice;
      return { type, code, count, detail };
    }
  }
}

function cursor_of(cursor: { epoch?: string | null; offset?: number | null }): FrameCursor {
  return { epoch: cursor.epoch ?? "", offset: cursor.offset ?? 0 };
}

function qos_of(qos: number): Qos {
  if (qos > 2) throw new Refusal(codes.qos_unsupported, `QoS ${qos}`);
  return qos as Qos;
}

function hello_of(body: pb.Hello): Hello {
  if (body.protocol_version !== protocol_version) {
    throw new Refusal(codes.unsupported_protocol, `Protocol version ${body.protocol_version}`);
  }
  if (utf8_bytes(body.session_id) > limits.device_id_bytes_max) {
    throw new Refusal(codes.client_id_invalid, "The session id is too long");
  }
  if (body.resume.length > resume_cursors_max) {
    malformed(`Hello has more than ${resume_cursors_max} cursors`);
  }
  if (body.dictionaries.length > dictionaries_max) {
    malformed(`Hello has more than ${dictionaries_max} dictionaries`);
  }
  return {
    type: "hello",
    session_id: body.session_id,
    token: body.token,
    protocol_version: body.protocol_version,
    keepalive_s: body.keepalive_s,
    resume: body.resume.map(cursor_of),
    last_boot_id: body.last_boot_id,
    clean: body.clean,
    resume_secret: body.resume_secret,
    dictionaries: body.dictionaries,
  };
}

function welcome_of(body: pb.Welcome): Frame {
  const given = body.limits;
  return {
    type: "welcome",
    node: body.node,
    epoch: body.epoch,
    limits: {
      frame_bytes_max: given?.frame_bytes_max ?? 0,
      payload_bytes_max: given?.payload_bytes_max ?? 0,
      topic_bytes_max: given?.topic_bytes_max ?? 0,
      filters_per_frame_max: given?.filters_per_frame_max ?? 0,
      subscriptions_max: given?.subscriptions_max ?? 0,
    },
    server_time_ms: body.server_time_ms,
    keepalive_s: body.keepalive_s,
    resumed: body.resumed,
    resume_secret: body.resume_secret,
    head_offset: body.head_offset,
    boot_id: body.boot_id,
    session_id: body.session_id,
    dictionaries: body.dictionaries,
  };
}

function check_filter_count(count: number): void {
  if (count === 0) throw new Refusal(codes.protocol_error, "A request without filters");
  if (count > limits.filters_per_packet_max) {
    throw new Refusal(codes.subscription_limit, `A frame has ${count} filters`);
  }
}

function subscribe_of(body: pb.Subscribe): SubscribeFrame {
  check_filter_count(body.subscriptions.length);
  const subscriptions = body.subscriptions.map(({ filter, qos, after }) => {
    check_topic_filter(filter ?? "");
    const subscription = { filter: filter ?? "", qos: qos_of(qos ?? 0) };
    return after ? { ...subscription, after: cursor_of(after) } : subscription;
  });
  return { type: "subscribe", request_id: body.request_id, subscriptions };
}

function unsubscribe_of(body: pb.Unsubscribe): UnsubscribeFrame {
  check_filter_count(body.filters.length);
  for (const filter of body.filters) check_topic_filter(filter);
  return { type: "unsubscribe", request_id: body.request_id, filters: body.filters };
}

/** `{ properties }` where there are any, to be spread into a frame. */
function properties_part(body: pb.Message | pb.Publish): { properties?: MessageProperties } {
  if (body.payload_format > 1) {
    throw new Refusal(codes.protocol_error, `Payload format ${body.payload_format}`);
  }
  if (body.payload_format === 1 && !is_utf8(body.payload, 0, body.payload.length)) {
    throw new Refusal(codes.payload_invalid, "The payload is not UTF-8");
  }
  const properties: { -readonly [Name in keyof MessageProperties]: MessageProperties[Name] } = {};
  let any = false;
  if (body.content_type !== "") any = !!(properties.content_type = body.content_type);
  if (body.response_topic !== "") {
    check_topic_name(body.response_topic);
    any = !!(properties.response_topic = body.response_topic);
  }
  if (body.correlation_data.length > 0) {
    any = !!(properties.correlation_data = body.correlation_data);
  }
  if (body.payload_format === 1) any = !!(properties.payload_format = 1);
  if (body.user_properties.length > 0) {
    properties.user_properties = body.user_properties.map((p) => [p.name ?? "", p.value ?? ""]);
    any = true;
  }
  return any ? { properties } : {};
}

const no_bytes = new Uint8Array(0);

/** An absent bytes field of a generated class is an empty Buffer: here it is a Uint8Array. */
function payload_of(payload: Uint8Array): Uint8Array {
  return payload.length === 0 ? no_bytes : payload;
}

function message_of(body: pb.Message): MessageFrame {
  check_topic_name(body.topic);
  return {
    type: "message",
    topic: body.topic,
    payload: payload_of(body.payload),
    offset: body.offset,
    qos: qos_of(body.qos),
    time_ms: body.time_ms,
    retain: body.retain,
    key: body.key,
    expires_ms: body.expires_ms,
    epoch: body.epoch,
    ...properties_part(body),
  };
}

function publish_of(body: pb.Publish): PublishFrame {
  check_topic_name(body.topic);
  const qos = qos_of(body.qos);
  if (qos > 0 && body.request_id === 0) {
    throw new Refusal(codes.protocol_error, "A stored publish without request id");
  }
  return {
    type: "publish",
    request_id: body.request_id,
    topic: body.topic,
    payload: payload_of(body.payload),
    qos,
    retain: body.retain,
    ttl_ms: body.ttl_ms,
    key: body.key,
    ...properties_part(body),
  };
}

/** Columns of differences to rows. */
function reports_of(body: pb.StatusBatch): StatusReport[] {
  const times = body.timestamp_ms_deltas;
  const count = times.length;
  if (body.node_id_deltas.length !== count || body.load_percent_deltas.length !== count) {
    malformed("The columns of a status batch differ in length");
  }
  if (count > status_reports_max) malformed(`A status batch has ${count} reports`);
  const reports: StatusReport[] = [];
  let timestamp_ms = 0;
  let node_id = 0;
  let load_percent = 0;
  for (let i = 0; i < count; i++) {
    timestamp_ms += times[i];
    node_id = (node_id + body.node_id_deltas[i]) >>> 0;
    load_percent = (load_percent + body.load_percent_deltas[i]) | 0;
    if (timestamp_ms < 0 || timestamp_ms > Number.MAX_SAFE_INTEGER) {
      malformed("A status report is of no time");
    }
    reports.push({ timestamp_ms, node_id, load_percent });
  }
  return reports;
}

/** Rows to columns of differences. */
function columns_of(reports: readonly StatusReport[]): pb.StatusBatch.$Properties {
  const timestamp_ms_deltas: number[] = [];
  const node_id_deltas: number[] = [];
  const load_percent_deltas: number[] = [];
  let last: StatusReport = { timestamp_ms: 0, node_id: 0, load_percent: 0 };
  for (const report of reports) {
    timestamp_ms_deltas.push(report.timestamp_ms - last.timestamp_ms);
    node_id_deltas.push((report.node_id - last.node_id) | 0);
    load_percent_deltas.push((report.load_percent - last.load_percent) | 0);
    last = report;
  }
  return { timestamp_ms_deltas, node_id_deltas, load_percent_deltas };
}

const from_service: ReadonlySet<FrameType> = new Set<FrameType>([
  "welcome",
  "refuse",
  "subscribed",
  "unsubscribed",
  "message",
  "published",
  "redirect",
  "gap",
  "notice",
]);

/** Throws Refusal(protocol_error) for a frame that only the service sends. */
export function check_from_device(frame: Frame): void {
  if (from_service.has(frame.type)) {
    throw new Refusal(codes.protocol_error, `A device sent ${frame.type}`);
  }
}

/**
 * Looks for one frame at `begin` in bytes of which more may follow. Never throws for what the peer
 * sent. A frame larger than `frame_bytes_max`, header included, is refused with frame_too_large
 * from its header.
 */
export function decode(
  bytes: Uint8Array,
  begin: number,
  end: number,
  frame_bytes_max: number = limits.frame_bytes_max,
  decompress?: Decompress,
): Decoded<Frame> {
  const have = end - begin;
  if (have < header_bytes) return { kind: "more", needed: header_bytes - have };
  const is_heartbeat = bytes[begin + 4] === frame_types.heartbeat;
  const size = header_bytes + (is_heartbeat ? 0 : body_size(bytes, begin));
  if (size > frame_bytes_max) {
    const detail = `A frame of ${size} bytes`;
    return { kind: "refused", code: codes.frame_too_large, detail };
  }
  if (size > have) return { kind: "more", needed: size - have };
  try {
    const packet = decode_frame(bytes, begin, begin + size, decompress);
    return { kind: "packet", packet, consumed: size };
  } catch (error) {
    return refused(error);
  }
}

/** Cuts a stream into frames. */
export class Decoder extends StreamDecoder<Frame> {
  constructor(frame_bytes_max: number = limits.frame_bytes_max, decompress?: Decompress) {
    super((bytes, begin, end) => decode(bytes, begin, end, frame_bytes_max, decompress));
  }
}

/** What the generated encoder takes for a frame. */
function body_of(frame: FrameInit): unknown {
  if (frame.type === "status_batch") return columns_of(frame.reports ?? []);
  if (frame.type !== "message" && frame.type !== "publish") return frame;
  const { properties, ...fields } = frame;
  if (properties === undefined) return fields;
  const { user_properties, ...rest } = properties;
  if (user_properties === undefined) return { ...fields, ...rest };
  const pairs = user_properties.map(([name, value]) => ({ name, value }));
  return { ...fields, ...rest, user_properties: pairs };
}

/**
 * One frame as bytes of its own, header included; fields left out are zero. Numbers must be safe
 * integers. Throws RangeError for a frame past `frame_bytes_max`.
 */
export function encode(
  frame: FrameInit,
  frame_bytes_max: number = limits.frame_bytes_max,
): Uint8Array {
  if (frame.type === "published" && !frame.detail && !frame.retry_after_ms) {
    const { request_id = 0, code = 0, offset = 0 } = frame;
    const out = new Uint8Array(published_bytes_max);
    return out.subarray(0, encode_published_into(out, 0, request_id, code, offset));
  }
  const body = frame.type === "heartbeat"
    ? undefined
    : bodies[frame.type].encode(body_of(frame) as never, new StrictWriter()).finish();
  const size = frame.type === "heartbeat" ? frame.time_s ?? 0 : body?.length ?? 0;
  const total = header_bytes + (body?.length ?? 0);
  if (total > frame_bytes_max) throw new RangeError(`A frame of ${total} bytes`);
  const out = new Uint8Array(total);
  out[0] = size & 0xff;
  out[1] = (size >>> 8) & 0xff;
  out[2] = (size >>> 16) & 0xff;
  out[3] = size >>> 24;
  out[4] = frame_types[frame.type];
  if (body !== undefined) out.set(body, header_bytes);
  return out;
}

/**
 * Makes a whole frame at [begin, end) of `out` smaller in its place, where that can be; returns
 * where it ends.
 */
export function compress_frame_at(out: Uint8Array, begin: number, end: number, zstd: Zstd): number {
  const body_begin = begin + header_bytes;
  const body = zstd.compress(out.subarray(body_begin, end));
  if (body === undefined) return end;
  out.set(body, body_begin);
  const size = body.length;
  out[begin] = size & 0xff;
  out[begin + 1] = (size >>> 8) & 0xff;
  out[begin + 2] = (size >>> 16) & 0xff;
  out[begin + 3] = size >>> 24;
  out[begin + 4] |= compressed_bit;
  return body_begin + size;
}

/** `encode`, compressed where that makes the frame smaller. */
export function encode_small(frame: FrameInit, zstd: Zstd | undefined): Uint8Array {
  const bytes = encode(frame);
  if (zstd === undefined || frame.type === "heartbeat") return bytes;
  return bytes.subarray(0, compress_frame_at(bytes, 0, bytes.length, zstd));
}
