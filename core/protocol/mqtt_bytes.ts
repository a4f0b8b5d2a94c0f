/**
 * Data types of MQTT (section 1.5): a Reader over one frame, which refuses to read past its end,
 * and a Writer that grows. Both copy what they hand out or take in.
 */
import { codes, Refusal } from "../codes.ts";
import { get_utf8, put_utf8, utf8_bytes } from "./utf8.ts";

/** Largest Variable Byte Integer, and so the largest Remaining Length. */
export const varint_max = 268_435_455;

/** Bytes of a Variable Byte Integer (section 1.5.5). */
export function varint_bytes(value: number): number {
  return value < 0x80 ? 1 : value < 0x4000 ? 2 : value < 0x200000 ? 3 : 4;
}

/** Writes a Variable Byte Integer, returns where it ends. */
export function put_varint(out: Uint8Array, at: number, value: number): number {
  while (value > 0x7f) {
    out[at++] = (value & 0x7f) | 0x80;
    value >>>= 7;
  }
  out[at++] = value;
  return at;
}

/**
 * Checks the Remaining Length of a whole frame and returns where its body begins. Version 5 refuses
 * a length in more bytes than needed [MQTT-1.5.5-1]; 3.1.1 does not say so, and its clients may
 * pad.
 */
export function body_begin(
  bytes: Uint8Array,
  begin: number,
  end: number,
  version: number,
): number {
  let at = begin + 1;
  let remaining = 0;
  let shift = 0;
  let byte = 0;
  do {
    if (at >= end || shift > 21) malformed("The remaining length is cut or too long");
    byte = bytes[at++];
    remaining |= (byte & 0x7f) << shift;
    shift += 7;
  } while (byte > 0x7f);
  if (byte === 0 && shift > 7 && version === 5) malformed("The remaining length is padded");
  if (at + remaining !== end) malformed("The remaining length is not that of the frame");
  return at;
}

export function malformed(detail: string): never {
  throw new Refusal(codes.malformed, detail);
}

/** Walks the body of one frame. Every method throws Refusal(malformed) at its end. */
export class Reader {
  constructor(readonly bytes: Uint8Array, public at: number, public end: number) {}

  /** Moves past `size` bytes, returns where they begin. */
  skip(size: number): number {
    const begin = this.at;
    if (size > this.end - begin) malformed("The packet ends too early");
    this.at = begin + size;
    return begin;
  }

  u8(): number {
    return this.bytes[this.skip(1)];
  }

  u16(): number {
    const at = this.skip(2);
    return (this.bytes[at] << 8) | this.bytes[at + 1];
  }

  u32(): number {
    const at = this.skip(4);
    const b = this.bytes;
    return ((b[at] << 24) | (b[at + 1] << 16) | (b[at + 2] << 8) | b[at + 3]) >>> 0;
  }

  /** Variable Byte Integer, in as few bytes as possible [MQTT-1.5.5-1]. */
  varint(): number {
    let value = 0;
    for (let shift = 0; shift <= 21; shift += 7) {
      const byte = this.u8();
      value |= (byte & 0x7f) << shift;
      if (byte > 0x7f) continue;
      if (byte === 0 && shift > 0) malformed("A variable byte integer is padded");
      return value;
    }
    return malformed("A variable byte integer has more than 4 bytes");
  }

  /** UTF-8 Encoded String (section 1.5.4). */
  string(): string {
    const size = this.u16();
    const begin = this.skip(size);
    return get_utf8(this.bytes, begin, begin + size);
  }

  /** Binary Data (section 1.5.6), copied. */
  binary(): Uint8Array {
    const size = this.u16();
    const begin = this.skip(size);
    return this.bytes.slice(begin, begin + size);
  }

  /** Packet Identifier, never 0 [MQTT-2.2.1-3], [MQTT-2.2.1-4] (3.1.1: [MQTT-2.3.1-1]). */
  packet_id(): number {
    const id = this.u16();
    if (id === 0) malformed("The packet identifier is 0");
    return id;
  }

  /** Asserts that nothing is left. */
  finish(): void {
    if (this.at !== this.end) malformed("Bytes follow the end of the packet");
  }
}

/**
 * Collects the body of one packet behind room for its fixed header. Throws RangeError for our own
 * bugs.
 */
export class Writer {
  #bytes = new Uint8Array(512);
  #at = 5;

  /** Begins a new packet. */
  reset(): void {
    this.#at = 5;
  }

  /** Bytes written since `reset`. */
  get size(): number {
    return this.#at - 5;
  }

  /** Writes the body alone at `at` of `out`, returns where it ends. */
  copy_into(out: Uint8Array, at: number): number {
    out.set(this.#bytes.subarray(5, this.#at), at);
    return at + this.size;
  }

  /** Makes room for `size` bytes and returns where they begin. */
  #grow(size: number): number {
    const at = this.#at;
    this.#at = at + size;
    if (this.#at > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(this.#at, this.#bytes.length * 2));
      bytes.set(this.#bytes.subarray(0, at));
      this.#bytes = bytes;
    }
    return at;
  }

  u8(value: number): void {
    if (value >>> 0 !== value || value > 0xff) throw new RangeError(`${value} is not a byte`);
    const at = this.#grow(1); // first: it may be another array after it
    this.#bytes[at] = value;
  }

  u16(value: number): void {
    if (value >>> 0 !== value || value > 0xffff) throw new RangeError(`${value} is not a u16`);
    const at = this.#grow(2);
    this.#bytes[at] = value >>> 8;
    this.#bytes[at + 1] = value & 0xff;
  }

  u32(value: number): void {
    if (value >>> 0 !== value) throw new RangeError(`${value} is not a u32`);
    this.u16(value >>> 16);
    this.u16(value & 0xffff);
  }

  varint(value: number): void {
    if (value >>> 0 !== value || value > varint_max) {
      throw new RangeError(`${value} is not a variable byte integer`);
    }
    const at = this.#grow(varint_bytes(value));
    put_varint(this.#bytes, at, value);
  }

  string(text: string): void {
    const size = utf8_bytes(text);
    if (size > 0xffff) throw new RangeError(`A string has ${size} bytes`);
    this.u16(size);
    const at = this.#grow(size);
    put_utf8(this.#bytes, at, text);
  }

  binary(data: Uint8Array): void {
    if (data.length > 0xffff) throw new RangeError(`Binary data has ${data.length} bytes`);
    this.u16(data.length);
    this.raw(data);
  }

  raw(data: Uint8Array): void {
    const at = this.#grow(data.length);
    this.#bytes.set(data, at);
  }

  packet_id(id: number): void {
    if (id === 0) throw new RangeError("The packet identifier is 0");
    this.u16(id);
  }

  /** The whole packet, copied out: fixed header `first` and Remaining Length before the body. */
  packet(first: number): Uint8Array {
    const size = this.#at - 5;
    if (size > varint_max) throw new RangeError(`A packet has ${size} bytes`);
    const begin = 4 - varint_bytes(size);
    this.#bytes[begin] = first;
    put_varint(this.#bytes, begin + 1, size);
    return this.#bytes.slice(begin, this.#at);
  }
}
