/**
 * UTF-8 between strings and frames. What comes in is validated, what goes out is always
 * well-formed: a lone surrogate is written as U+FFFD, as TextEncoder does.
 */
import { codes, Refusal } from "../codes.ts";

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Up to here a loop over ASCII beats TextDecoder, whose every call costs about 250 ns. */
const ascii_loop_bytes_max = 64;

/** How many bytes `put_utf8` writes for a string. */
export function utf8_bytes(text: string): number {
  const length = text.length;
  let size = length;
  for (let i = 0; i < length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    if (unit < 0x800) {
      size += 1;
    } else {
      size += 2;
      // A pair is two units and four bytes; anything else from here on is one unit and three bytes.
      if ((unit & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) i += 1;
    }
  }
  return size;
}

/** Writes a string at `at`, returns where it ends. The caller has made room: `utf8_bytes(text)`. */
export function put_utf8(out: Uint8Array, at: number, text: string): number {
  const length = text.length;
  for (let i = 0; i < length; i++) {
    let point = text.charCodeAt(i);
    if (point < 0x80) {
      out[at++] = point;
      continue;
    }
    if (point < 0x800) {
      out[at++] = 0xc0 | (point >> 6);
      out[at++] = 0x80 | (point & 0x3f);
      continue;
    }
    if ((point & 0xf800) === 0xd800) {
      const next = text.charCodeAt(i + 1);
      if (point < 0xdc00 && (next & 0xfc00) === 0xdc00) {
        point = 0x10000 + ((point & 0x3ff) << 10) + (next & 0x3ff);
        i += 1;
        out[at++] = 0xf0 | (point >> 18);
        out[at++] = 0x80 | ((point >> 12) & 0x3f);
        out[at++] = 0x80 | ((point >> 6) & 0x3f);
        out[at++] = 0x80 | (point & 0x3f);
        continue;
      }
      point = 0xfffd;
    }
    out[at++] = 0xe0 | (point >> 12);
    out[at++] = 0x80 | ((point >> 6) & 0x3f);
    out[at++] = 0x80 | (point & 0x3f);
  }
  return at;
}

/**
 * Reads the string in [begin, end). Throws Refusal(malformed) for bytes that are not UTF-8, among
 * them encoded surrogates [MQTT-1.5.4-1], and for U+0000 [MQTT-1.5.4-2]. U+FEFF stays
 * [MQTT-1.5.4-3].
 */
export function get_utf8(bytes: Uint8Array, begin: number, end: number): string {
  const size = end - begin;
  if (size <= ascii_loop_bytes_max) {
    const units = new Array<number>(size);
    let i = 0;
    while (i < size) {
      const byte = bytes[begin + i];
      if (byte - 1 >>> 0 >= 0x7f) break;
      units[i++] = byte;
    }
    if (i === size) return String.fromCharCode.apply(null, units);
  }
  for (let i = begin; i < end; i++) {
    if (bytes[i] === 0) throw new Refusal(codes.malformed, "A string contains U+0000");
  }
  try {
    return decoder.decode(bytes.subarray(begin, end));
  } catch {
    throw new Refusal(codes.malformed, "A string is not UTF-8");
  }
}

/** Whether [begin, end) is UTF-8 text; U+0000 is text here (payloads). */
export function is_utf8(bytes: Uint8Array, begin: number, end: number): boolean {
  while (begin < end && bytes[begin] < 0x80) begin += 1;
  if (begin === end) return true;
  try {
    decoder.decode(bytes.subarray(begin, end));
    return true;
  } catch {
    return false;
  }
}
