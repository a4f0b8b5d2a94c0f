/**
 * What every incremental codec must do with every row of its table of cases (DESIGN section 9.5):
 * decode in place, encode back, ask for more at every truncation, and cut the same packets from a
 * stream fed byte by byte.
 */
import { assert, assertEquals } from "@std/assert";
import { Refusal } from "../../core/codes.ts";
import type { Decoded, StreamDecoder } from "../../core/protocol/incremental.ts";
import { concat } from "../cases/bytes.ts";

export interface CodecCase {
  readonly note: string;
  readonly bytes: Uint8Array;
  readonly packet?: unknown;
  readonly refusal?: string;
}

/** One codec, bound to the version of the case at hand. */
export interface Codec<Case extends CodecCase> {
  decode_frame(c: Case, bytes: Uint8Array, begin: number, end: number): unknown;
  decode(c: Case, bytes: Uint8Array, begin: number, end: number): Decoded<unknown>;
  decoder(c: Case): StreamDecoder<unknown>;
}

/** The name of the refusal that `action` throws; anything else thrown goes on. */
export function refusal_of(action: () => unknown): string | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return error.code.name;
    throw error;
  }
}

const junk = Uint8Array.of(0xa5, 0x5a, 0xff);

/**
 * The frame in the midst of other bytes, as in a ring; undone afterwards, to catch views that were
 * kept.
 */
export function check_whole<Case extends CodecCase>(codec: Codec<Case>, c: Case): void {
  const ring = concat(junk, c.bytes, junk);
  const begin = junk.length;
  const end = begin + c.bytes.length;
  const got = codec.decode(c, ring, begin, ring.length);
  if (c.packet !== undefined) {
    const packet = codec.decode_frame(c, ring, begin, end);
    ring.fill(0xee);
    assertEquals(packet, c.packet);
    assertEquals(got, { kind: "packet", packet: c.packet, consumed: c.bytes.length });
  } else {
    if (got.kind !== "refused") throw new Error(`${got.kind} instead of ${c.refusal}`);
    assertEquals(got.code.name, c.refusal);
    assert(got.detail.length > 0 && !got.detail.endsWith("."), got.detail);
  }
}

/**
 * Every shorter prefix: more bytes are asked for, never more than the frame has, or it is refused
 * early.
 */
export function check_truncation<Case extends CodecCase>(codec: Codec<Case>, c: Case): void {
  for (let size = 0; size < c.bytes.length; size++) {
    const got = codec.decode(c, c.bytes.slice(0, size), 0, size);
    if (got.kind === "more") {
      assert(got.needed >= 1, `needs ${got.needed} at ${size}`);
      if (c.packet !== undefined) assert(size + got.needed <= c.bytes.length, `at ${size}`);
    } else {
      assert(got.kind === "refused" && c.refusal === got.code.name, `${got.kind} at ${size}`);
    }
  }
}

/**
 * Byte by byte, then in pieces of every small size, then with the next packet in the same chunk.
 */
export function check_stream<Case extends CodecCase>(codec: Codec<Case>, c: Case): void {
  const big = c.bytes.length > 2000;
  for (const size of big ? [997] : [1, 2, 3, 7]) {
    const decoder = codec.decoder(c);
    const packets: unknown[] = [];
    const refusal = refusal_of(() => {
      for (let at = 0; at < c.bytes.length; at += size) {
        packets.push(...decoder.feed(c.bytes.subarray(at, at + size)));
      }
    });
    assertEquals(refusal, c.refusal);
    assertEquals(packets, c.packet === undefined ? [] : [c.packet]);
    if (refusal !== undefined) assertEquals(refusal_of(() => decoder.next()), refusal);
    else assertEquals(decoder.buffered, 0);
  }
}
