/** Reads what a request brings, within bounds: bodies, query parameters, durations. */
import { codes, Refusal } from "../core/codes.ts";
import { duration_ms } from "../core/duration.ts";
import { in_time } from "./body_time.ts";
import type { Context } from "./context.ts";

function too_large(bytes_max: number): Refusal {
  return new Refusal(codes.body_too_large, `The body is larger than ${bytes_max} bytes`);
}

/**
 * The whole body, decompressed. Throws, or answers with, Refusal: body_too_large as soon as it is
 * known to be over the bound (decompressed, so a bomb is no larger), body_timeout,
 * encoding_unsupported, payload_invalid for what cannot be decompressed.
 */
export function read_body(
  request: Request,
  bytes_max: number,
  { body_timeout_s }: Pick<Context, "body_timeout_s">,
): Promise<Uint8Array> {
  const { headers } = request;
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding !== "identity") {
    return in_time(read_encoded(request, encoding, bytes_max), body_timeout_s);
  }
  const announced = headers.get("content-length");
  if (announced === null) return in_time(read_stream(request.body, bytes_max), body_timeout_s);
  if (Number(announced) > bytes_max) throw too_large(bytes_max);
  // The server holds the sender to its Content-Length.
  return in_time(request.bytes(), body_timeout_s);
}

/** RFC 9110 section 8.4.1; one encoding, not a list of them. */
async function read_encoded(
  request: Request,
  encoding: string,
  bytes_max: number,
): Promise<Uint8Array> {
  if (encoding !== "gzip" && encoding !== "deflate") {
    throw new Refusal(codes.encoding_unsupported, "Content-Encoding must be gzip or deflate");
  }
  if (request.body === null) return new Uint8Array();
  try {
    const decompressed = request.body.pipeThrough(new DecompressionStream(encoding));
    return await read_stream(decompressed, bytes_max);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(codes.payload_invalid, `The body cannot be decompressed from ${encoding}`);
  }
}

async function read_stream(
  stream: ReadableStream<Uint8Array> | null,
  bytes_max: number,
): Promise<Uint8Array> {
  if (stream === null) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
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
