/** POST /v1/topics/{topic}: one message, its payload the raw body. */
import { admit_publish } from "../core/access.ts";
import { codes, Refusal } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import type { Message, MessageProperties, Qos } from "../core/message.ts";
import type { Once } from "../core/router.ts";
import { topic_problem } from "../core/topic_tree.ts";
import { parse_traceparent, traceparent_name, with_traceparent } from "../core/traceparent.ts";
import { parse_duration_ms, parse_flag, read_body } from "./body.ts";
import type { Call, Context } from "./context.ts";
import { One } from "./published.ts";

export function check_topic(topic: string): string {
  const why = topic_problem(topic);
  if (why !== undefined) throw new Refusal(codes.topic_invalid, `Cannot publish: ${why}`);
  return topic;
}

/** Lets a publish pass; answers what the service knows its topic by. Throws Refusal. */
export function admit(
  { access }: Pick<Call, "access">,
  topic: string,
  bytes: number,
  now_ms: number,
): string {
  const admitted = admit_publish(access, topic, bytes, now_ms);
  if (typeof admitted === "string") return admitted;
  throw admitted;
}

export function parse_qos(value: unknown): Qos {
  const qos = typeof value === "string" ? Number(value || NaN) : value;
  if (qos === 0 || qos === 1 || qos === 2) return qos;
  throw new Refusal(codes.query_invalid, "qos must be 0, 1 or 2");
}

/** Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): null = none. */
export function once_of({ request, access }: Call): Once | null {
  const key = request.headers.get("idempotency-key");
  if (key === null) return null;
  if (key === "" || key.length > limits.idempotency_key_max) {
    const detail = `Idempotency-Key must have 1 to ${limits.idempotency_key_max} characters`;
    throw new Refusal(codes.query_invalid, detail);
  }
  return { scope: access.tenant.scope, key };
}

export function message_of(
  topic: string,
  payload: Uint8Array,
  options: {
    qos: Qos;
    retain: boolean;
    ttl_ms: number;
    key: string;
    content_type: string | null;
    now_ms: number;
    /** As the caller gave it; devices get it if it is valid. */
    traceparent?: string | null;
  },
): Message {
  const { qos, retain, ttl_ms, key, content_type, now_ms, traceparent } = options;
  const message = {
    topic,
    payload,
    qos,
    retain,
    time_ms: now_ms,
    expires_ms: ttl_ms === 0 ? 0 : now_ms + ttl_ms,
    key,
  };
  const typed = content_type === null
    ? message
    : { ...message, properties: properties_of(content_type) };
  if (!traceparent || parse_traceparent(traceparent) === undefined) return typed;
  return with_traceparent(typed, traceparent);
}

/** Content types that were seen last: messages with the same one share the object. */
const known_types = new Map<string, MessageProperties>();
const known_types_max = 64;

function properties_of(content_type: string): MessageProperties {
  let properties = known_types.get(content_type);
  if (properties === undefined) {
    if (known_types.size >= known_types_max) known_types.clear();
    properties = Object.freeze({ content_type });
    known_types.set(content_type, properties);
  }
  return properties;
}

/** What curl and forms send unasked says nothing about the payload. */
export function content_type_of(request: Request): string | null {
  const content_type = request.headers.get("content-type");
  return content_type === "application/x-www-form-urlencoded" ? null : content_type;
}

/** POST /v1/topics/{topic}: the body is the payload, as it is. */
export async function publish_raw(call: Call, context: Context): Promise<Response> {
  context.router.check_breaker();
  const topic = check_topic(call.rest);
  const { query } = call;
  const qos = parse_qos(query.get("qos") ?? 1);
  const retain = parse_flag("retain", query.get("retain"));
  const ttl = query.get("ttl");
  const ttl_ms = ttl === null ? 0 : parse_duration_ms("ttl", ttl);
  const payload = await read_body(call.request, limits.payload_bytes_max, context);
  const one = new One(context.store.epoch);
  const now_ms = context.now_ms();
  const options = {
    qos,
    retain,
    ttl_ms,
    key: query.get("key") ?? "",
    content_type: content_type_of(call.request),
    now_ms,
    traceparent: call.request.headers.get(traceparent_name),
  };
  const message = message_of(admit(call, topic, payload.length, now_ms), payload, options);
  context.router.publish(message, one, 0, null, once_of(call));
  return await one.done;
}
