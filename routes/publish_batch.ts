/** POST /v1/publish: many messages in one body, a JSON array or lines of NDJSON. */
import { codes, Refusal } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import type { Message } from "../core/message.ts";
import type { Once } from "../core/router.ts";
import { parse_duration_ms, read_body } from "./body.ts";
import type { Call, Context } from "./context.ts";
import { admit, check_topic, message_of, once_of, parse_qos } from "./publish.ts";
import { count_refusal } from "./problem.ts";
import { Batch, json_headers, One } from "./published.ts";

const item_fields = new Set([
  "topic",
  "payload",
  "payload_base64",
  "qos",
  "retain",
  "ttl",
  "key",
  "content_type",
]);

const encoder = new TextEncoder();

function item_payload(item: Record<string, unknown>): Uint8Array {
  const { payload, payload_base64 } = item;
  if (payload_base64 !== undefined) {
    if (payload !== undefined || typeof payload_base64 !== "string") {
      throw new Refusal(codes.json_invalid, "payload_base64 must be a string, without payload");
    }
    try {
      return Uint8Array.fromBase64(payload_base64);
    } catch {
      throw new Refusal(codes.json_invalid, "payload_base64 is not base64");
    }
  }
  if (payload === undefined) return new Uint8Array();
  if (typeof payload === "string") return encoder.encode(payload);
  try {
    return encoder.encode(JSON.stringify(payload));
  } catch { // the stack is over before the nesting is
    throw new Refusal(codes.json_invalid, "payload is nested too deeply");
  }
}

function optional_string(item: Record<string, unknown>, name: string): string | null {
  const value = item[name];
  if (value === undefined) return null;
  if (typeof value === "string") return value;
  throw new Refusal(codes.json_invalid, `${name} must be a string`);
}

/** One item of POST /v1/publish. Throws Refusal. */
export function parse_item(value: unknown, call: Pick<Call, "access">, now_ms: number): Message {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Refusal(codes.json_invalid, "A message must be a JSON object");
  }
  const item = value as Record<string, unknown>;
  for (const name in item) {
    if (!item_fields.has(name)) throw new Refusal(codes.json_invalid, `Unknown field "${name}"`);
  }
  if (typeof item.topic !== "string") {
    throw new Refusal(codes.json_invalid, "topic must be a string");
  }
  const { retain = false, ttl } = item;
  if (typeof retain !== "boolean") {
    throw new Refusal(codes.json_invalid, "retain must be true or false");
  }
  if (ttl !== undefined && typeof ttl !== "string" && typeof ttl !== "number") {
    throw new Refusal(codes.json_invalid, "ttl must be a number of seconds or a duration");
  }
  const topic = check_topic(item.topic);
  const payload = item_payload(item);
  const options = {
    qos: parse_qos(item.qos ?? 1),
    retain,
    ttl_ms: ttl === undefined ? 0 : parse_duration_ms("ttl", String(ttl)),
    key: optional_string(item, "key") ?? "",
    content_type: optional_string(item, "content_type"),
    now_ms,
  };
  return message_of(admit(call, topic, payload.length, now_ms), payload, options);
}

/** Publishes items in one turn; what becomes of each is in the batch, in order. */
function publish_items(
  items: readonly unknown[],
  call: Call,
  context: Context,
  once: Once | null,
): Batch {
  const batch = new Batch(context.store.epoch, items.length);
  const now_ms = context.now_ms();
  for (let index = 0; index < items.length; index++) {
    try {
      const item = items[index];
      if (item instanceof Refusal) throw item;
      context.router.publish(parse_item(item, call, now_ms), batch, index, null, once);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      count_refusal(context.refused, error.code);
      batch.refused(index, error.code, error.message);
    }
  }
  return batch;
}

const decoder = new TextDecoder("utf-8", { fatal: true });

/** Throws Refusal(json_invalid). */
function parse_json(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Refusal(codes.json_invalid, `${what} is not JSON: ${why}`);
  }
}

/** Media types of NDJSON, as those who use it call it. */
const ndjson_types = /^application\/(x-ndjson|ndjson|jsonl|x-jsonlines|json-seq)\s*(;|$)/i;

/** POST /v1/publish: one message, or many with a result for each, in order. */
export async function publish_many(call: Call, context: Context): Promise<Response> {
  context.router.check_breaker();
  if (ndjson_types.test(call.request.headers.get("content-type") ?? "")) {
    return await publish_lines(call, context);
  }
  const body = await read_body(call.request, limits.publish_body_bytes_max, context);
  let text: string;
  try {
    text = decoder.decode(body);
  } catch {
    throw new Refusal(codes.json_invalid, "The body is not UTF-8");
  }
  const parsed = parse_json(text, "The body");
  const once = once_of(call);
  if (!Array.isArray(parsed)) {
    const one = new One(context.store.epoch);
    context.router.publish(parse_item(parsed, call, context.now_ms()), one, 0, null, once);
    return await one.done;
  }
  if (parsed.length > limits.publish_batch_max) {
    const detail = `${parsed.length} messages; the limit is ${limits.publish_batch_max}`;
    throw new Refusal(codes.body_too_large, detail);
  }
  if (parsed.length === 0) return Response.json([]);
  const batch = publish_items(parsed, call, context, once);
  await batch.done;
  return new Response(`[${batch.results.join(",")}]`, json_headers);
}

const newline = 0x0a;

/** Texts of whole lines; of one that is not UTF-8, the Refusal that says so. */
function lines_of(bytes: Uint8Array): (string | Refusal)[] {
  try {
    return decoder.decode(bytes).split("\n");
  } catch { // one of them is not UTF-8: which?
    const lines: (string | Refusal)[] = [];
    for (let at = 0; at < bytes.length;) {
      const end = bytes.indexOf(newline, at);
      const line = bytes.subarray(at, end < 0 ? bytes.length : end);
      at += line.length + 1;
      try {
        lines.push(decoder.decode(line));
      } catch {
        lines.push(new Refusal(codes.json_invalid, "The line is not UTF-8"));
      }
    }
    return lines;
  }
}

/** Values of whole lines, empty ones left out; of one that is none, the Refusal that says so. */
function parse_lines(bytes: Uint8Array): unknown[] {
  const items: unknown[] = [];
  for (const line of lines_of(bytes)) {
    if (line instanceof Refusal) items.push(line);
    else if (line.trim() !== "") {
      try {
        items.push(parse_json(line, "The line"));
      } catch (error) {
        items.push(error);
      }
    }
  }
  return items;
}

/** Lines of one request: published as they come, a bounded number of turns under way. */
class LineStream {
  readonly #results: string[] = [];
  readonly #open: Batch[] = [];
  /** Of a line whose end has not come. */
  #rest: Uint8Array = new Uint8Array();
  #count = 0;
  /** Something was refused after which nothing is taken. */
  #is_over = false;

  constructor(readonly call: Call, readonly context: Context) {}

  /** Takes a piece of the body; false = no more of it is wanted. */
  async take(chunk: Uint8Array): Promise<boolean> {
    const last = chunk.lastIndexOf(newline);
    if (last < 0) this.#rest = join(this.#rest, chunk);
    else {
      const whole = join(this.#rest, chunk.subarray(0, last + 1));
      this.#rest = chunk.slice(last + 1);
      await this.#publish(parse_lines(whole));
    }
    if (this.#rest.length > limits.publish_line_bytes_max) {
      const detail = `A line is longer than ${limits.publish_line_bytes_max} bytes`;
      await this.#publish([new Refusal(codes.body_too_large, detail)]);
      this.#is_over = true;
    }
    return !this.#is_over;
  }

  /** The results of all lines, in order. */
  async end(): Promise<string> {
    if (!this.#is_over) await this.#publish(parse_lines(this.#rest));
    for (const batch of this.#open.splice(0)) await this.#settle(batch);
    return this.#results.join("");
  }

  async #publish(items: unknown[]): Promise<void> {
    const room = limits.publish_lines_max - this.#count;
    if (items.length > room) {
      const detail = `A request has at most ${limits.publish_lines_max} lines`;
      items.splice(room, items.length, new Refusal(codes.body_too_large, detail));
      this.#is_over = true;
    }
    this.#count += items.length;
    if (items.length === 0) return;
    this.#open.push(publish_items(items, this.call, this.context, null));
    // The sender waits while so much waits for the disk.
    if (this.#open.length > limits.publish_stream_turns_max) {
      await this.#settle(this.#open.shift()!);
    }
  }

  async #settle(batch: Batch): Promise<void> {
    await batch.done;
    this.#results.push(batch.results.join("\n"), "\n");
  }
}

function join(first: Uint8Array, second: Uint8Array): Uint8Array {
  if (first.length === 0) return second;
  const joined = new Uint8Array(first.length + second.length);
  joined.set(first);
  joined.set(second, first.length);
  return joined;
}

/** NDJSON: lines are published while others are still on their way; the answer follows the last. */
async function publish_lines(call: Call, context: Context): Promise<Response> {
  if (call.request.headers.has("idempotency-key")) {
    throw new Refusal(codes.query_invalid, "Idempotency-Key is not for streams of lines");
  }
  const stream = new LineStream(call, context);
  for await (const chunk of call.request.body ?? []) {
    if (!await stream.take(chunk)) break;
  }
  const headers = { "content-type": "application/x-ndjson" };
  return new Response(await stream.end(), { headers });
}
