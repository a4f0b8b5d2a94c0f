/** The JSON that HTTP speaks, as schemas of the OpenAPI description. */
import { codes } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import { flag, integer, object, ref, type Schema, text } from "./operation.ts";

const count: Schema = { type: "integer", minimum: 0 };
const offset: Schema = { type: "integer", minimum: 0 };
const time: Schema = { type: "string", format: "date-time" };
const nullable_text: Schema = { type: ["string", "null"] };

/** A duration as core/duration.ts reads it. */
export const duration: Schema = Object.freeze({
  type: "string",
  pattern: "^[0-9]{1,12}(\\.[0-9]{1,3})?(ms|s|m|h|d)?$",
});

/** The characters of a topic that is published to: no wildcards, nothing of the service's own. */
export const topic: Schema = Object.freeze({
  type: "string",
  minLength: 1,
  maxLength: limits.topic_bytes_max,
  pattern: "^[^+#$\\u0000][^+#\\u0000]*$",
});

const problem: Schema = {
  ...object({
    type: text,
    title: text,
    status: integer(400, 599),
    code: { type: "string", enum: Object.keys(codes) },
    detail: text,
  }),
  description: "RFC 9457. `code` is one of core/codes.ts; 429 and 503 carry Retry-After.",
};

const message_properties: Readonly<Record<string, Schema>> = {
  id: nullable_text,
  topic: text,
  epoch: text,
  offset,
  qos: { enum: [0, 1, 2] },
  time,
  content_type: text,
  key: text,
  traceparent: text,
  payload: text,
  payload_base64: { type: "string", contentEncoding: "base64" },
};

const optional = ["content_type", "key", "traceparent", "payload", "payload_base64"];

export const schemas: Readonly<Record<string, Schema>> = {
  Problem: problem,
  Published: {
    ...object({
      id: nullable_text,
      epoch: text,
      offset,
      audience: { type: "integer", minimum: 0 },
      duplicate: flag,
    }, ["duplicate"]),
    description:
      "`id` names the message in the log (null = QoS 0, not stored); `audience` counts " +
      "the subscriptions of connected devices that it was sent to.",
  },
  Publish: {
    ...object({
      topic,
      payload: { description: "Text, or any JSON, which is published as its text." },
      payload_base64: { type: "string", contentEncoding: "base64" },
      qos: { enum: [0, 1, 2], default: 1 },
      retain: { type: "boolean", default: false },
      ttl: { oneOf: [duration, { type: "number", minimum: 0, maximum: 1e9, multipleOf: 1 }] },
      key: text,
      content_type: text,
    }, ["payload", "payload_base64", "qos", "retain", "ttl", "key", "content_type"]),
    additionalProperties: false,
    not: { required: ["payload", "payload_base64"] },
  },
  Message: object(message_properties, optional),
  History: object({
    messages: { type: "array", items: ref("Message") },
    next: nullable_text,
    gap: flag,
  }),
  Descriptors: object({
    time,
    ...Object.fromEntries(
      ["open", "held", "direct", "strangers", "leaked", "missing", "deleted"].map((name) => {
        return [name, count];
      }),
    ),
    kinds: { type: "object", additionalProperties: count },
    scan_us: { type: "number" },
    total_us: { type: "number" },
    rows: {
      type: "array",
      items: object({
        fd: count,
        role: { enum: ["stranger", "leaked", "missing"] },
        kind: text,
        target: text,
      }),
    },
  }),
  Passed: {
    ...object({
      id: { type: "null" },
      epoch: text,
      offset,
      stored: flag,
      audience: { type: "integer", minimum: 0 },
      nodes: { type: "integer", minimum: 0 },
      missed: { type: "array", items: text },
      conflated: flag,
      code: text,
      detail: text,
    }),
    description:
      "Not stored, because the log cannot be reached (`not_stored`), or because a newer message " +
      "of its key may take its place (`shed`, QoS 0). `audience` counts the subscriptions of " +
      "connected devices that have it, `nodes` the other nodes, `missed` names those that may not.",
  },
  Node: object({
    node_id: text,
    version: text,
    zone: text,
    peer: text,
    mqtt: text,
    device: text,
    connections: { type: "integer", minimum: 0 },
    sessions: { type: "integer", minimum: 0 },
    draining: flag,
    load_percent: { type: "integer", minimum: 0 },
    degradation: { enum: ["normal", "throttling", "shedding", "detached"] },
    breaker: { enum: ["", "closed", "open", "half_open"] },
  }),
  Rule: object({
    revision: { type: "integer", minimum: 0 },
    in_force: { type: "object" },
    refused: object({ revision: { type: "integer", minimum: 0 }, problem: text }),
  }, ["refused"]),
  Receipt: {
    ...object({
      id: text,
      epoch: text,
      offset,
      topic: text,
      audience: { type: "integer", minimum: 0 },
      acked: flag,
      time,
    }, ["time"]),
    description: "`acked`: the device has acknowledged the message, at `time`.",
  },
  Webhook: object({
    name: text,
    tenant: text,
    url: text,
    events: { type: "array", items: text },
    filters: { type: "array", items: text },
    circuit: { enum: ["closed", "open", "half_open", "gone"] },
    cursor: text,
    behind: { type: "integer", minimum: 0 },
    delivered: { type: "integer", minimum: 0 },
    attempts: { type: "integer", minimum: 0 },
    dead_letters: { type: "integer", minimum: 0 },
    problem: nullable_text,
  }),
};
