/** Reads what a request brings, within bounds: bodies, query parameters, durations. */
import { codes, Refusal } from "../core/codes.ts";

const unit_ms: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

function too_large(bytes_max: number): Refusal {
  return new Refusal(codes.body_too_large, `The body is larger than ${bytes_max} bytes`);
}

/** The whole body. Throws Refusal(body_too_large) as soon as it is known to be over the bound. */
export async function read_body(request: Request, bytes_max: number): Promise<Uint8Array> {
  const announced = request.headers.get("content-length");
  if (announced !== null) {
    if (Number(announced) > bytes_max) throw too_large(bytes_max);
    return await request.bytes(); // the server holds the sender to its Content-Length
  }
  if (request.body === null) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body) {
    size += chunk.length;
    if (size > bytes_max) throw too_large(bytes_max);
    chunks.push(chunk);
  }
  const body = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.length;
  }
  return body;
}

/** "90", "90s", "1500ms", "5m", "2h", "1d" -> milliseconds; a bare number counts seconds. */
export function parse_duration_ms(name: string, text: string): number {
  const match = /^(\d{1,12}(?:\.\d{1,3})?)(ms|s|m|h|d)?$/.exec(text);
  if (match === null) {
    throw new Refusal(codes.query_invalid, `${name} must be a duration such as 90s, not "${text}"`);
  }
  return Math.round(Number(match[1]) * unit_ms[match[2] ?? "s"]);
}

/** A flag: present without a value, `true` or `1` is true. */
export function parse_flag(name: string, text: string | null): boolean {
  if (text === null || text === "false" || text === "0") return false;
  if (text === "" || text === "true" || text === "1") return true;
  throw new Refusal(codes.query_invalid, `${name} must be true or false, not "${text}"`);
}
