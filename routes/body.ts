/** Reads what a request brings, within bounds: bodies, query parameters, durations. */
import { codes, Refusal } from "../core/codes.ts";
import { duration_ms } from "../core/duration.ts";

function too_large(bytes_max: number): Refusal {
  return new Refusal(codes.body_too_large, `The body is larger than ${bytes_max} bytes`);
}

/** The whole body. Throws Refusal(body_too_large) as soon as it is known to be over the bound. */
export function read_body(request: Request, bytes_max: number): Promise<Uint8Array> {
  const announced = request.headers.get("content-length");
  if (announced === null) return read_unannounced(request, bytes_max);
  if (Number(announced) > bytes_max) throw too_large(bytes_max);
  return request.bytes(); // the server holds the sender to its Content-Length
}

async function read_unannounced(request: Request, bytes_max: number): Promise<Uint8Array> {
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

/** The duration that a parameter says, milliseconds. */
export function parse_duration_ms(name: string, text: string): number {
  const value = duration_ms(text);
  if (value !== undefined) return value;
  throw new Refusal(codes.query_invalid, `${name} must be a duration such as 90s, not "${text}"`);
}

/** A flag: present without a value, `true` or `1` is true. */
export function parse_flag(name: string, text: string | null): boolean {
  if (text === null || text === "false" || text === "0") return false;
  if (text === "" || text === "true" || text === "1") return true;
  throw new Refusal(codes.query_invalid, `${name} must be true or false, not "${text}"`);
}
