/**
 * A small notation for the bytes of test cases: hexadecimal digits are bytes, 'text' is UTF-8
 * behind its size as u16 big-endian (an MQTT string), "text" is UTF-8 alone, [ ... ] is its content
 * behind its size as variable byte integer (MQTT properties); blanks separate.
 */

const encoder = new TextEncoder();

/** Variable byte integer of MQTT, varint of protobuf. */
export function varint_of(value: number): number[] {
  const bytes: number[] = [];
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}

/** `bytes_of("10 02 'MQTT'")`. */
export function bytes_of(notation: string): Uint8Array {
  const open: number[][] = [[]];
  for (const [token] of notation.matchAll(/[[\]]|'[^']*'|"[^"]*"|[^\s[\]'"]+/g)) {
    const bytes = open[open.length - 1];
    if (token === "[") {
      open.push([]);
    } else if (token === "]") {
      open.pop();
      open[open.length - 1].push(...varint_of(bytes.length), ...bytes);
    } else if (token[0] === "'" || token[0] === '"') {
      const text = encoder.encode(token.slice(1, -1));
      if (token[0] === "'") bytes.push(text.length >> 8, text.length & 0xff);
      bytes.push(...text);
    } else if (/^([0-9a-f]{2})+$/.test(token)) {
      for (let i = 0; i < token.length; i += 2) bytes.push(parseInt(token.slice(i, i + 2), 16));
    } else {
      throw new Error(`Bad token ${token} in ${notation}`);
    }
  }
  if (open.length !== 1) throw new Error(`Bad brackets in ${notation}`);
  return Uint8Array.from(open[0]);
}

/** Joins arrays of bytes. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
