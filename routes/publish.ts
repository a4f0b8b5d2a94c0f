/** The publish API: one raw body to one topic, or many messages in one JSON body. */
import { admit_publish } from "../core/access.ts";
import { type Code, codes, Refusal } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import type { Message, Qos } from "../core/message.ts";
import type { Once } from "../core/router.ts";
import type { PublishOrigin } from "../core/session.ts";
import { topic_problem } from "../core/topic_tree.ts";
import { parse_duration_ms, parse_flag, read_body } from "./body.ts";
import type { Call, Context } from "./context.ts";
import { count_refusal, problem } from "./problem.ts";

/**
 * What became of one message, as JSON: `id` names it in the log (null = not stored, QoS 0),
 * `audience` counts the subscriptions of connected devices that it was sent to, `duplicate` is
 * there when the Idempotency-Key was known. Written by hand: this is half the work of an answer.
 */
function published_json(
  epoch: string,
  offset: number,
  audience: number,
  duplicate: boolean,
): string {
  const id = offset === 0 ? "null" : `"${epoch}:${offset}"`;
  const end = duplicate && offset > 0 ? ',"duplicate":true}' : "}";
  return `{"id":${id},"epoch":"${epoch}","offset":${offset},"audience":${audience}${end}`;
}

const json_headers = { headers: { "content-type": "application/json" } };

/** The publish of a request with one message. */
class One implements PublishOrigin {
  appends_pending = 0;
  readonly done: Promise<Response>;
  #resolve!: (response: Response) => void;
  #reject!: (refusal: Refusal) => void;

  constructor(readonly epoch: string) {
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  published(_token: number, offset: number, audience: number, duplicate: boolean): void {
    const json = published_json(this.epoch, offset, audience, duplicate);
    this.#resolve(new Response(json, json_headers));
  }

  refused(_token: number, code: Code, detail: string): void {
    this.#reject(new Refusal(code, detail));
  }
}

/** Publishes of one request: in order, and answered when the last of them is. */
class Batch implements PublishOrigin {
  appends_pending = 0;
  /** JSON texts, in the order of the messages. */
  readonly results: string[];
  readonly done: Promise<void>;
  #left: number;
  #finish!: () => void;

  constructor(readonly epoch: string, count: number) {
    this.#left = count;
    this.results = new Array(count);
    this.done = new Promise((resolve) => this.#finish = resolve);
  }

  published(token: number, offset: number, audience: number, duplicate: boolean): void {
    this.#set(token, published_json(this.epoch, offset, audience, duplicate));
  }

  refused(token: number, code: Code, detail: string): void {
    this.#set(token, JSON.stringify(problem(code, detail)));
  }

  #set(index: number, result: string): void {
    this.results[index] = result;
    if (--this.#left === 0) this.#finish();
  }
}

function check_topic(topic: string): string {
  const why = topic_problem(topic);
  if (why !== undefined) throw new Refusal(codes.topic_invalid, `Cannot publish: ${why}`);
  return topic;
}

/** Lets a publish pass; answers what the service knows its topic by. Throws Refusal. */
function admit({ access }: Call, topic: string, bytes: number, now_ms: number): string {
  const admitted = admit_publish(access, topic, bytes, now_ms);
  if (typeof admitted === "string") return admitted;
  throw admitted;
}

function parse_qos(value: unknown): Qos {
  const qos = typeof value === "string" ? Number(value || NaN) : value;
  if (qos === 0 || qos === 1 || qos === 2) return qos;
  throw new Refusal(codes.query_invalid, "qos must be 0, 1 or 2");
}

/** Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): null = none. */
function once_of({ request, access }: Call): Once | null {
  const key = request.headers.get("idempotency-key");
  if (key === null) return null;
  if (key === "" || key.length > limits.idempotency_key_max) {
    const detail = `Idempotency-Key must have 1 to ${limits.idempotency_key_max} characters`;
    throw new Refusal(codes.query_invalid, detail);
  }
  return { scope: access.tenant.scope, key };
}

function message_of(
  topic: string,
  payload: Uint8Array,
  options: {
    qos: Qos;
    retain: boolean;
    ttl_ms: number;
    key: string;
    content_type: string | null;
    now_ms: number;
  },
): Message {
  const { qos, retain, ttl_ms, key, content_type, now_ms } = options;
  const message = {
    topic,
    payload,
    qos,
    retain,
    time_ms: now_ms,
    expires_ms: ttl_ms === 0 ? 0 : now_ms + ttl_ms,
    key,
  };
  return content_type === null ? message : { ...message, properties: { content_type } };
}

/** What curl and forms send unasked says nothing about the payload. */
function content_type_of(request: Request): string | null {
  const content_type = request.headers.get("content-type");
  return content_type === "application/x-www-form-urlencoded" ? null : content_type;
}

/** POST /v1/topics/{topic}: the body is the payload, as it is. */
export async function publish_raw(call: Call, context: Context): Promise<Response> {
  const topic = check_topic(call.rest);
  const { query } = call;
  const qos = parse_qos(query.get("qos") ?? 1);
  const retain = parse_flag("retain", query.get("retain"));
  const ttl = query.get("ttl");
  const ttl_ms = ttl === null ? 0 : parse_duration_ms("ttl", ttl);
  const payload = await read_body(call.request, limits.payload_bytes_max);
  const one = new One(context.store.epoch);
  const now_ms = context.now_ms();
  const options = {
    qos,
    retain,
    ttl_ms,
    key: query.get("key") ?? "",
    content_type: content_type_of(call.request),
    now_ms,
  };
  const message = message_of(admit(call, topic, payload.length, now_ms), payload, options);
  context.router.publish(message, one, 0, null, once_of(call));
  return await one.done;
}

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
  return encoder.encode(typeof payload === "string" ? payload : JSON.stringify(payload));
}

function optional_string(item: Record<string, unknown>, name: string): string | null {
  const value = item[name];
  if (value === undefined) return null;
  if (typeof value === "string") return value;
  throw new Refusal(codes.json_invalid, `${name} must be a string`);
}

/** One item of POST /v1/publish. Throws Refusal. */
function parse_item(value: unknown, call: Call, now_ms: number): Message {
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

/** POST /v1/publish: one message, or an array of them with a result for each, in order. */
export async function publish_json(call: Call, context: Context): Promise<Response> {
  const body = await read_body(call.request, limits.publish_body_bytes_max);
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Refusal(codes.json_invalid, `The body is not JSON: ${why}`);
  }
  const now_ms = context.now_ms();
  const once = once_of(call);
  if (!Array.isArray(parsed)) {
    const one = new One(context.store.epoch);
    context.router.publish(parse_item(parsed, call, now_ms), one, 0, null, once);
    return await one.done;
  }
  const items: readonly unknown[] = parsed;
  if (items.length > limits.publish_batch_max) {
    const detail = `${items.length} messages; the limit is ${limits.publish_batch_max}`;
    throw new Refusal(codes.body_too_large, detail);
  }
  if (items.length === 0) return Response.json([]);
  const batch = new Batch(context.store.epoch, items.length);
  for (let index = 0; index < items.length; index++) {
    try {
      context.router.publish(parse_item(items[index], call, now_ms), batch, index, null, once);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      count_refusal(context.refused, error.code);
      batch.refused(index, error.code, error.message);
    }
  }
  await batch.done;
  return new Response(`[${batch.results.join(",")}]`, json_headers);
}
