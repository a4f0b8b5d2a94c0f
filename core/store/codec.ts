/**
 * Bytes between the service and its database workers: batches of writes one way, pages the other.
 * One buffer that changes hands costs a tenth of cloning the objects. Both ends are this program,
 * so nothing is versioned or checked here; what rests on disk is in schema.ts.
 *
 * Little-endian. A text is a u32 of UTF-8 bytes and those bytes.
 */
import type { Message, MessageProperties, Qos, StoredMessage } from "../message.ts";
import type { StoredSession } from "./mod.ts";
import type { Row } from "./schema.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Writes into a buffer that grows; `take` hands it over. */
export class ByteWriter {
  size = 0;
  #bytes: Uint8Array<ArrayBuffer>;
  #view: DataView;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }

  /** The written bytes, at the start of their own buffer: whoever gives it away writes no more. */
  take(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.size);
  }

  reserve(bytes: number): void {
    const needed = this.size + bytes;
    if (needed <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.size));
    this.#bytes = grown;
    this.#view = new DataView(grown.buffer);
  }

  u8(value: number): void {
    this.reserve(1);
    this.#bytes[this.size++] = value;
  }

  u32(value: number): void {
    this.reserve(4);
    this.#view.setUint32(this.size, value, true);
    this.size += 4;
  }

  /** Fills in what was written as 0 before. */
  set_u32(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }

  f64(value: number): void {
    this.reserve(8);
    this.#view.setFloat64(this.size, value, true);
    this.size += 8;
  }

  bytes(value: Uint8Array): void {
    this.reserve(4 + value.length);
    this.u32(value.length);
    this.#bytes.set(value, this.size);
    this.size += value.length;
  }

  text(value: string): void {
    this.reserve(4 + value.length * 3);
    const at = this.size + 4;
    const bytes = this.#bytes;
    let length = 0;
    // Topics are short and ASCII: a loop is quicker than a call into the runtime.
    for (; length < value.length; length++) {
      const unit = value.charCodeAt(length);
      if (unit > 0x7f) break;
      bytes[at + length] = unit;
    }
    if (length < value.length) length = encoder.encodeInto(value, bytes.subarray(at)).written;
    this.u32(length);
    this.size += length;
  }
}

/** Reads what ByteWriter wrote. */
export class ByteReader {
  at = 0;
  readonly #view: DataView;
  #text_start = 0;
  #text_length = -1;
  #text = "";

  constructor(readonly source: Uint8Array<ArrayBuffer>) {
    this.#view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  }

  get done(): boolean {
    return this.at >= this.source.length;
  }

  u8(): number {
    return this.source[this.at++]!;
  }

  u32(): number {
    const value = this.#view.getUint32(this.at, true);
    this.at += 4;
    return value;
  }

  f64(): number {
    const value = this.#view.getFloat64(this.at, true);
    this.at += 8;
    return value;
  }

  /** A view of the source, not a copy. */
  bytes(): Uint8Array<ArrayBuffer> {
    const length = this.u32();
    this.at += length;
    return this.source.subarray(this.at - length, this.at);
  }

  text(): string {
    const length = this.u32();
    if (length === 0) return "";
    this.at += length;
    return decoder.decode(this.source.subarray(this.at - length, this.at));
  }

  /** Passes over a text. */
  skip(): void {
    this.at += 4 + this.#view.getUint32(this.at, true);
  }

  /** A text that often equals the one this method read last: then that same string is answered. */
  topic(): string {
    const length = this.u32();
    const start = this.at;
    this.at += length;
    if (length === this.#text_length) {
      let index = 0;
      while (
        index < length && this.source[start + index] === this.source[this.#text_start + index]
      ) {
        index++;
      }
      if (index === length) return this.#text;
    }
    this.#text_start = start;
    this.#text_length = length;
    return this.#text = decoder.decode(this.source.subarray(start, start + length));
  }
}

/** Topic, payload, key and property bytes of a message, roughly (text counts UTF-16 units). */
export function message_bytes(message: Message): number {
  let bytes = message.topic.length + message.payload.length + message.key.length;
  const { properties } = message;
  if (properties === undefined) return bytes;
  bytes += (properties.content_type?.length ?? 0) + (properties.response_topic?.length ?? 0) +
    (properties.correlation_data?.length ?? 0);
  for (const [name, value] of properties.user_properties ?? []) bytes += name.length + value.length;
  return bytes;
}

/**
 * A message with its offset, on bytes of its own: the publisher's may be part of a large buffer.
 */
export function stored(message: Message, offset: number): StoredMessage {
  return { ...message, payload: message.payload.slice(), offset };
}

/** What a batch of writes is made of. */
export const Op = {
  /** u32 count, messages */
  append: 1,
  /** scope, key, u32 count, messages */
  append_once: 2,
  /** message */
  retain: 3,
  /** session */
  put_session: 4,
  /** id, f64 cursor */
  put_cursor: 5,
  /** id */
  delete_session: 6,
  /** Nothing but a write, to see whether the disk takes one. */
  probe: 7,
} as const;

/** Bit 0-1 QoS, bit 2 retain: also a column of the log. */
export function flags_of(message: Message): number {
  return message.qos | (message.retain ? 4 : 0);
}

export function write_message(out: ByteWriter, message: Message): void {
  out.u8(flags_of(message));
  out.f64(message.time_ms);
  out.f64(message.expires_ms);
  out.text(message.topic);
  out.text(message.key);
  out.text(message.properties === undefined ? "" : properties_text(message.properties));
  out.bytes(message.payload);
}

/** The columns of a message; the payload is a view of the batch. */
export interface MessageRow {
  flags: number;
  time_ms: number;
  expires_ms: number;
  topic: string;
  key: string;
  properties: string;
  payload: Uint8Array<ArrayBuffer>;
  /** Key, property and payload bytes: what retention counts. */
  size: number;
}

export function read_message_row(source: ByteReader): MessageRow {
  const flags = source.u8();
  const time_ms = source.f64();
  const expires_ms = source.f64();
  const topic = source.topic();
  const start = source.at;
  const key = source.text();
  const properties = source.text();
  const payload = source.bytes();
  const size = source.at - start - 12;
  return { flags, time_ms, expires_ms, topic, key, properties, payload, size };
}

/** A row of the log or of retained messages, as a page carries it; NULL columns become "". */
export function write_stored_row(out: ByteWriter, topic: string, row: Row): void {
  out.f64(row.offset);
  out.text(topic);
  out.u8(row.flags);
  out.f64(row.time_ms);
  out.f64(row.expires_ms);
  out.u32(0);
  out.text(row.key ?? "");
  out.text(row.properties ?? "");
  out.bytes(row.payload);
}

/**
 * A message as write_message left it; its topic is known and not read again. The payload is a view
 * of the source, not a copy.
 */
export function read_stored(source: ByteReader, offset: number, topic: string): StoredMessage {
  const flags = source.u8();
  const time_ms = source.f64();
  const expires_ms = source.f64();
  source.skip();
  const key = source.text();
  const properties = source.text();
  const payload = source.bytes();
  const qos = (flags & 3) as Qos;
  const retain = (flags & 4) !== 0;
  const message = { topic, payload, qos, retain, time_ms, expires_ms, key, offset };
  return properties === "" ? message : { ...message, properties: properties_of(properties) };
}

/** What write_message() has written. The payload is a view of the source. */
export function read_message(source: ByteReader): Message {
  const start = source.at;
  const { topic } = read_message_row(source);
  source.at = start;
  const { offset: _, ...message } = read_stored(source, 0, topic);
  return message;
}

/** A row as write_stored_row left it. The payload is a view of the page. */
export function read_stored_row(source: ByteReader): StoredMessage {
  const offset = source.f64();
  const topic = source.topic();
  return read_stored(source, offset, topic);
}

/** Properties as they rest in the log: JSON, bytes in base64. */
export function properties_text(properties: MessageProperties): string {
  // Back ends publish with one and the same object for a content type, again and again.
  if (properties === last_properties) return last_text;
  last_text = text_of_properties(properties);
  last_properties = properties;
  return last_text;
}

let last_properties: MessageProperties | undefined;
let last_text = "";

function text_of_properties(properties: MessageProperties): string {
  const { correlation_data, ...rest } = properties;
  return JSON.stringify(
    correlation_data === undefined
      ? rest
      : { ...rest, correlation_data: correlation_data.toBase64() },
  );
}

function properties_of(text: string): MessageProperties {
  const { correlation_data, ...rest } = JSON.parse(text);
  return correlation_data === undefined
    ? rest
    : { ...rest, correlation_data: Uint8Array.fromBase64(correlation_data) };
}

export function write_session(out: ByteWriter, session: StoredSession): void {
  out.text(session.id);
  out.f64(session.cursor);
  out.f64(session.expires_ms);
  out.text(subscriptions_text(session.subscriptions));
  out.text(session.state);
}

/** The columns of a session. */
export interface SessionRow {
  id: string;
  cursor: number;
  expires_ms: number;
  subscriptions: string;
  state: string;
}

export function read_session_row(source: ByteReader): SessionRow {
  return {
    id: source.text(),
    cursor: source.f64(),
    expires_ms: source.f64(),
    subscriptions: source.topic(),
    state: source.text(),
  };
}

export function write_session_row(out: ByteWriter, row: Row): void {
  out.text(row.id);
  out.f64(row.cursor);
  out.f64(row.expires_ms);
  out.text(row.subscriptions);
  out.text(row.state ?? "");
}

export function read_session(source: ByteReader): StoredSession {
  const { id, cursor, expires_ms, subscriptions, state } = read_session_row(source);
  return { id, subscriptions: subscriptions_of(subscriptions), cursor, expires_ms, state };
}

/** Subscriptions as they rest in the database: JSON, [filter, QoS, options, filter, ...]. */
function subscriptions_text(subscriptions: StoredSession["subscriptions"]): string {
  const flat: (string | number)[] = [];
  for (const { filter, qos, options } of subscriptions) flat.push(filter, qos, options);
  return JSON.stringify(flat);
}

/** The last that was parsed: of a fleet, many have the same. */
let parsed: { text: string; subscriptions: StoredSession["subscriptions"] } | undefined;

function subscriptions_of(text: string): StoredSession["subscriptions"] {
  if (parsed?.text === text) return parsed.subscriptions;
  const flat = JSON.parse(text);
  const subscriptions = [];
  for (let index = 0; index < flat.length; index += 3) {
    subscriptions.push({ filter: flat[index], qos: flat[index + 1], options: flat[index + 2] });
  }
  parsed = { text, subscriptions };
  return subscriptions;
}
