/**
 * Compressed bodies: zstd frames (RFC 8878) without their four magic bytes, each with its size and,
 * where one was used, the id of the dictionary in its header. Pure: whoever starts the service or a
 * client brings the library. What comes in is bounded before anything is unpacked.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import { dictionary, dictionary_id } from "./dictionary.ts";

export { dictionary_id } from "./dictionary.ts";

export interface Zstd {
  /** For people. */
  readonly name: string;
  /** Ids of the dictionaries that are known here; 0 = bodies without one can be read. */
  readonly dictionaries: readonly number[];
  /** Undefined = it would not be smaller, or may not be compressed. */
  compress(body: Uint8Array): Uint8Array | undefined;
  /**
   * Throws Refusal: zstd_bomb, zstd_dictionary, zstd_malformed, frame_too_large when there would be
   * more than `output_bytes_max`.
   */
  decompress(body: Uint8Array, output_bytes_max: number): Uint8Array;
}

/** Of zstd-napi's binding, what is used here. All buffers are the caller's. */
export interface ZstdBinding {
  readonly CCtx: new () => CompressContext;
  readonly CDict: new (bytes: Uint8Array, level: number) => object;
  readonly DCtx: new () => DecompressContext;
  readonly DDict: new (bytes: Uint8Array) => object;
}

interface CompressContext {
  /** Bytes written; throws when `out` is too small. */
  compressUsingCDict(out: Uint8Array, bytes: Uint8Array, dictionary: object): number;
}

interface DecompressContext {
  decompressUsingDDict(out: Uint8Array, bytes: Uint8Array, dictionary: object): number;
  decompress(out: Uint8Array, bytes: Uint8Array): number;
}

/** Of node:zlib, what is used here: it has no dictionaries. */
export interface ZlibZstd {
  zstdCompressSync(bytes: Uint8Array, options: { pledgedSrcSize: number }): Uint8Array;
  zstdDecompressSync(bytes: Uint8Array, options: { maxOutputLength: number }): Uint8Array;
}

/** RFC 8878 section 3.1.1: the same in every frame, and therefore not sent. */
const magic = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd);
/** Of a dictionary's small messages: higher levels gain 1 % for twice the time. */
const level = 3;
/** Header, block header and one byte: nothing shorter can be smaller. */
const overhead_bytes = 10;
/** Without a dictionary a body must repeat itself to become smaller. */
const plain_bytes_min = 256;

/** What a frame says of itself. */
interface Header {
  /** 0 = none. */
  readonly dictionary: number;
  readonly output_bytes: number;
}

function malformed(detail: string): never {
  throw new Refusal(codes.zstd_malformed, detail);
}

/** Frame header without magic number: RFC 8878 section 3.1.1.1. */
function read_header(body: Uint8Array): Header {
  if (body.length < 2) malformed("A compressed body without a header");
  const descriptor = body[0];
  if ((descriptor & 0x08) !== 0) malformed("A compressed body with the reserved bit");
  const is_single_segment = (descriptor & 0x20) !== 0;
  let at = is_single_segment ? 1 : 2;
  const number = (bytes: number): number => {
    let value = 0;
    for (let i = 0; i < bytes; i++) value += (body[at + i] ?? 0) * 256 ** i;
    at += bytes;
    if (at > body.length) malformed("A compressed body ends within its header");
    return value;
  };
  const dictionary = number([0, 1, 2, 4][descriptor & 3]);
  const size_flag = descriptor >> 6;
  if (size_flag === 0 && !is_single_segment) malformed("A compressed body without its size");
  const output_bytes = number([1, 2, 4, 8][size_flag]) + (size_flag === 1 ? 256 : 0);
  return { dictionary, output_bytes };
}

/** How much may come of a body, whatever its frame allows: see limits.zstd_ratio_max. */
function output_allowed(body_bytes: number): number {
  return Math.max(limits.zstd_free_bytes, body_bytes * limits.zstd_ratio_max);
}

/** Checks a compressed body before it is unpacked; returns its header. */
function check(body: Uint8Array, output_bytes_max: number): Header {
  const header = read_header(body);
  if (header.output_bytes > output_bytes_max) {
    throw new Refusal(codes.frame_too_large, `A body of ${header.output_bytes} bytes, compressed`);
  }
  if (header.output_bytes > output_allowed(body.length)) {
    const detail = `A body of ${body.length} bytes that becomes ${header.output_bytes}`;
    throw new Refusal(codes.zstd_bomb, detail);
  }
  return header;
}

function with_magic(body: Uint8Array): Uint8Array {
  const whole = new Uint8Array(magic.length + body.length);
  whole.set(magic);
  whole.set(body, magic.length);
  return whole;
}

/** A compressed body that is worth sending, from a frame with its magic number. */
function worth(frame: Uint8Array, body: Uint8Array): Uint8Array | undefined {
  const size = frame.length - magic.length;
  if (size >= body.length || body.length > output_allowed(size)) return undefined;
  return frame.subarray(magic.length);
}

/** With the dictionary, by zstd-napi. */
export function zstd_of(binding: ZstdBinding): Zstd {
  const { CCtx, CDict, DCtx, DDict } = binding;
  const compressing = new CCtx();
  const decompressing = new DCtx();
  const compressing_dictionary = new CDict(dictionary, level);
  const decompressing_dictionary = new DDict(dictionary);
  const room = new Uint8Array(limits.zstd_body_bytes_max);
  return {
    name: "zstd-napi",
    dictionaries: [dictionary_id, 0],
    compress(body) {
      if (body.length < overhead_bytes || body.length > room.length) return undefined;
      // Room for what is smaller only: the library gives up when it would not be.
      const out = room.subarray(0, body.length + magic.length);
      let size: number;
      try {
        size = compressing.compressUsingCDict(out, body, compressing_dictionary);
      } catch {
        return undefined;
      }
      return worth(out.subarray(0, size), body);
    },
    decompress(body, output_bytes_max) {
      const header = check(body, output_bytes_max);
      if (header.dictionary !== 0 && header.dictionary !== dictionary_id) {
        throw new Refusal(codes.zstd_dictionary, `Dictionary ${header.dictionary}`);
      }
      const out = new Uint8Array(header.output_bytes);
      const frame = with_magic(body);
      let size: number;
      try {
        size = header.dictionary === 0
          ? decompressing.decompress(out, frame)
          : decompressing.decompressUsingDDict(out, frame, decompressing_dictionary);
      } catch (error) {
        return malformed(`A compressed body cannot be read: ${(error as Error).message}`);
      }
      if (size !== out.length) malformed("A compressed body is not of the size that it says");
      return out;
    },
  };
}

/** Without a dictionary, by what is there anyway. */
export function zstd_of_zlib(zlib: ZlibZstd): Zstd {
  return {
    name: "node:zlib",
    dictionaries: [0],
    compress(body) {
      const is_sized = body.length >= plain_bytes_min && body.length <= limits.zstd_body_bytes_max;
      if (!is_sized) return undefined;
      return worth(zlib.zstdCompressSync(body, { pledgedSrcSize: body.length }), body);
    },
    decompress(body, output_bytes_max) {
      const header = check(body, output_bytes_max);
      if (header.dictionary !== 0) {
        throw new Refusal(codes.zstd_dictionary, `Dictionary ${header.dictionary}`);
      }
      let out: Uint8Array;
      try {
        const options = { maxOutputLength: Math.max(1, header.output_bytes) };
        out = new Uint8Array(zlib.zstdDecompressSync(with_magic(body), options));
      } catch (error) {
        return malformed(`A compressed body cannot be read: ${(error as Error).message}`);
      }
      if (out.length !== header.output_bytes) malformed("A compressed body is not of its size");
      return out;
    },
  };
}
