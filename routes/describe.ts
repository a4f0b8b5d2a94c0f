/** The descriptions of routes by method and path; a test sees to it that each has one. */
import { limits } from "../core/limits.ts";
import {
  flag,
  integer,
  json,
  object,
  type Operation,
  path,
  query,
  ref,
  text,
} from "./operation.ts";
import { duration, topic } from "./schemas.ts";

const topic_parameter = path("topic", "A topic; slashes as they are or %2F", "demo/hello", topic);
const filter_parameter = {
  ...query("topic", "A topic filter; may be repeated", text, "demo/#"),
  required: true as const,
};
const after_parameter = query("after", "Only what follows this place: `epoch:offset`", {
  type: "string",
  pattern: "^(.*:)?[0-9]{1,15}$",
});
const device_parameter = path("id", "MQTT client id or Longwire session id", "device-1");
const idempotency = {
  name: "Idempotency-Key",
  in: "header" as const,
  description: "A publish that is repeated with it within ten minutes is stored once",
  schema: { type: "string", minLength: 1, maxLength: limits.idempotency_key_max },
};
const page = [
  query("after", "`next` of the page before", text),
  query("limit", "Devices of a page", integer(1, 1000)),
];
const ok = { description: "It is" };
const publish_errors = [
  "body_timeout",
  "breaker_open",
  "body_too_large",
  "denied",
  "encoding_unsupported",
  "forbidden",
  "json_invalid",
  "overloaded",
  "payload_invalid",
  "queue_full",
  "quota_exceeded",
  "rate_limited",
  "shed",
  "store_full",
  "store_unavailable",
  "topic_invalid",
] as const;

const publish: Readonly<Record<string, Operation>> = {
  "POST /v1/topics/{topic}": {
    id: "publish",
    tag: "Publish",
    summary: "Publish the raw body",
    description: "QoS 1 and 2 are answered when the message is durable, QoS 0 when it was handed " +
      "to those who are connected.",
    parameters: [
      topic_parameter,
      query("qos", "0 at most once, 1 at least once, 2 exactly once", {
        type: "integer",
        enum: [0, 1, 2],
        default: 1,
      }),
      query("retain", "Keep it for those who subscribe later", flag),
      query("ttl", "How long anybody wants it", duration, "90s"),
      query("key", "A newer message of the key may take its place with slow devices", text),
      idempotency,
    ],
    body: { "*/*": { schema: text, example: "hello" } },
    body_is_optional: true,
    answers: {
      "200": json("It is published", ref("Published")),
      "202": json("It is passed on, and not stored", ref("Passed")),
    },
    errors: publish_errors,
  },
  "POST /v1/publish": {
    id: "publishMany",
    tag: "Publish",
    summary: "Publish many messages",
    description:
      "One message, an array, or NDJSON: a message a line, published as they come. The " +
      "answer has a result or a problem for each, in order.",
    parameters: [idempotency],
    body: {
      "application/json": {
        schema: {
          oneOf: [
            ref("Publish"),
            { type: "array", items: ref("Publish"), maxItems: limits.publish_batch_max },
          ],
        },
        example: [{ topic: "demo/a", payload: { celsius: 21.5 } }, { topic: "demo/b", qos: 0 }],
      },
      "application/x-ndjson": { schema: text },
    },
    answers: {
      "200": {
        description: "What became of each",
        content: {
          "application/json": {
            schema: {
              oneOf: [
                ref("Published"),
                { type: "array", items: { oneOf: [ref("Published"), ref("Problem")] } },
              ],
            },
          },
          "application/x-ndjson": { schema: text },
        },
      },
    },
    errors: publish_errors,
  },
};

const read: Readonly<Record<string, Operation>> = {
  "GET /v1/topics/{topic}/messages": {
    id: "history",
    tag: "Read",
    summary: "What was published to a topic",
    parameters: [
      topic_parameter,
      after_parameter,
      query("limit", "Messages of a page", integer(1, limits.history_messages_max)),
    ],
    answers: {
      "200": json("A page; `next` is the `after` of the one that follows", ref("History")),
    },
    errors: ["topic_invalid", "forbidden", "store_unavailable"],
  },
  "GET /v1/events": {
    id: "events",
    tag: "Read",
    summary: "What is being published, as Server-Sent Events",
    description: "`id` is epoch:offset, so a browser that comes back with Last-Event-ID misses " +
      "nothing. A browser cannot send headers here: `access_token` may hold the token.",
    parameters: [
      filter_parameter,
      after_parameter,
      query("access_token", "The token, where there is no Authorization header", text),
      {
        name: "Last-Event-ID",
        in: "header",
        description: "Where to go on: `epoch:offset`",
        schema: { type: "string", pattern: "^(.*:)?[0-9]{1,15}$" },
      },
    ],
    answers: {
      "200": {
        description: "Events message, gap and goodbye; their data is JSON",
        content: { "text/event-stream": { schema: text } },
      },
    },
    errors: ["filter_invalid", "subscription_limit", "connection_limit", "forbidden"],
  },
  "GET /v1/ws": {
    id: "websocket",
    tag: "Read",
    summary: "JSON over WebSocket: subscribe, publish, history",
    parameters: [query("access_token", "The token, where there is no Authorization header", text)],
    answers: { "101": { description: "The protocol is WebSocket from here on" } },
    errors: ["upgrade_required", "connection_limit", "shutting_down"],
  },
  "GET /mqtt": {
    id: "mqtt",
    tag: "Read",
    summary: "MQTT over WebSocket, subprotocol mqtt",
    parameters: [],
    answers: { "101": { description: "The protocol is WebSocket from here on" } },
    errors: ["upgrade_required", "connection_limit", "shutting_down"],
  },
  "GET /v1/longwire": {
    id: "longwire",
    tag: "Read",
    summary: "The Longwire protocol over WebSocket, subprotocol longwire",
    parameters: [],
    answers: { "101": { description: "The protocol is WebSocket from here on" } },
    errors: ["upgrade_required", "connection_limit", "shutting_down"],
  },
};

const devices: Readonly<Record<string, Operation>> = {
  "POST /v1/devices/{id}/messages": {
    id: "push",
    tag: "Devices",
    summary: "Push to one device",
    description: "The message goes to the topic $devices/{id}, to which the device subscribes. " +
      "With wait=acked the answer comes when the device has acknowledged it; a callback hears of " +
      "it later, as a signed CloudEvent longwire.message.acknowledged or .undelivered.",
    parameters: [
      device_parameter,
      query("wait", "What the answer waits for", { type: "string", enum: ["stored", "acked"] }),
      query("timeout", "For how long at most", duration, "5s"),
      query("callback", "Who is told when the device has acknowledged, or will not", {
        type: "string",
        format: "uri",
        maxLength: limits.webhook_url_bytes_max,
      }),
      query("qos", "1 or 2", { type: "integer", enum: [1, 2], default: 1 }),
      query("ttl", "How long the device may want it", duration, "1h"),
      idempotency,
    ],
    body: { "*/*": { schema: text, example: "hello" } },
    body_is_optional: true,
    answers: {
      "200": json("It is stored, or acknowledged", ref("Receipt")),
      "202": json("It is stored, and the callback will be told", ref("Receipt")),
    },
    errors: [
      ...publish_errors,
      "ack_timeout",
      "no_callbacks",
      "webhook_forbidden",
      "client_id_invalid",
      "not_found",
      "not_subscribed",
      "server_busy",
      "shutting_down",
    ],
  },
  "GET /v1/devices": {
    id: "devices",
    tag: "Devices",
    summary: "The devices that have a session, or those that are worst off",
    description: "Of all nodes: `nodes` are those that have answered, `missing` the others. With " +
      "`sort` the connected devices with most bytes that wait for them, heartbeats missed, or " +
      "messages of the log to come, the worst first; those that are well are left out.",
    parameters: [
      query("sort", "Only those that are worst off by this", {
        type: "string",
        enum: ["queue_bytes", "heartbeat_misses", "replay_lag"],
      }),
      query("connected", "Only those that are, or are not", flag),
      query("prefix", "Of their ids", text),
      ...page,
    ],
    answers: { "200": json("A page", { type: "object" }) },
    errors: ["forbidden"],
  },
  "GET /v1/devices/{id}": {
    id: "device",
    tag: "Devices",
    summary: "One device and its subscriptions",
    parameters: [device_parameter],
    answers: { "200": json("It", { type: "object" }) },
    errors: ["forbidden", "not_found"],
  },
  "GET /v1/devices/{id}/timeline": {
    id: "timeline",
    tag: "Devices",
    summary: "What has happened to a device of late, newest first",
    description: "Up to 100 events: connected, subscribed, unsubscribed, behind, caught_up, " +
      "dropping, refused, kicked, disconnected with its reason. The last 131,072 events of all " +
      "devices of a node are remembered; `since` says from when on they are, null = all.",
    parameters: [device_parameter],
    answers: { "200": json("Events", { type: "object" }) },
    errors: ["forbidden"],
  },
  "DELETE /v1/devices/{id}": {
    id: "kick",
    tag: "Devices",
    summary: "Close a device's connection",
    parameters: [device_parameter, query("forget", "End its session too", flag)],
    answers: { "200": json("What was done", { type: "object" }) },
    errors: ["forbidden", "not_found"],
  },
  "GET /v1/presence": {
    id: "presence",
    tag: "Devices",
    summary: "Who is connected and hears a topic, or listens within a filter",
    parameters: [{ ...filter_parameter, description: "A topic or filter" }, ...page],
    answers: { "200": json("A page", { type: "object" }) },
    errors: ["forbidden", "filter_invalid"],
  },
};

const webhooks: Readonly<Record<string, Operation>> = {
  "GET /v1/webhooks": {
    id: "webhooks",
    tag: "Webhooks",
    summary: "The webhooks of the tenant that this node runs, and where each stands",
    parameters: [],
    answers: {
      "200": json("All of them", object({ webhooks: { type: "array", items: ref("Webhook") } })),
    },
    errors: ["forbidden"],
  },
  "POST /v1/webhooks/{name}/replay": {
    id: "replayWebhook",
    tag: "Webhooks",
    summary: "Send dead letters of a webhook again",
    description: "In the background, in their order, with the ids of the first time. What is not " +
      "taken now becomes a dead letter once more.",
    parameters: [path("name", "Of the webhook", "shop"), after_parameter],
    answers: { "202": json("It has begun", object({ webhook: text, replaying: flag })) },
    errors: ["forbidden", "not_found", "server_busy"],
  },
};

const operate: Readonly<Record<string, Operation>> = {
  "GET /": {
    id: "docs",
    tag: "Operate",
    summary: "This description as a page with examples to run",
    parameters: [],
    answers: { "200": { description: "A page", content: { "text/html": { schema: text } } } },
    errors: [],
  },
  "GET /docs/{file}": {
    id: "docsFile",
    tag: "Operate",
    summary: "Script and style of that page",
    parameters: [path("file", "docs.js or docs.css", "docs.js")],
    answers: { "200": { description: "The file", content: { "*/*": { schema: text } } } },
    errors: ["not_found"],
  },
  "GET /console": {
    id: "console",
    tag: "Operate",
    summary: "The operations page: charts, devices, publishing; it asks for a token where one is",
    parameters: [],
    answers: { "200": { description: "A page", content: { "text/html": { schema: text } } } },
    errors: [],
  },
  "GET /console/{file}": {
    id: "consoleFile",
    tag: "Operate",
    summary: "Scripts and styles of that page",
    parameters: [path("file", "A script or style", "console.js")],
    answers: { "200": { description: "The file", content: { "*/*": { schema: text } } } },
    errors: ["not_found"],
  },
  "GET /openapi.json": {
    id: "openapi",
    tag: "Operate",
    summary: "This description",
    parameters: [],
    answers: { "200": json("OpenAPI 3.1", { type: "object" }) },
    errors: [],
  },
  "GET /v1/nodes": {
    id: "nodes",
    tag: "Operate",
    summary: "Members of the cluster, as this node sees them; of one that is alone, none",
    parameters: [],
    answers: {
      "200": json(
        "The view",
        object({
          view: { type: "integer", minimum: 0 },
          nodes: { type: "array", items: ref("Node") },
        }),
      ),
    },
    errors: ["forbidden"],
  },
  "GET /v1/rules": {
    id: "rules",
    tag: "Operate",
    summary: "Rules that are in force on this node; they are set with `longwire rules`",
    parameters: [],
    answers: {
      "200": json(
        "Each document",
        object({
          limits: ref("Rule"),
          routing: ref("Rule"),
          breaker: ref("Rule"),
          degradation: ref("Rule"),
        }),
      ),
    },
    errors: ["forbidden"],
  },
  "POST /v1/nodes/{id}/drain": {
    id: "drain_node",
    tag: "Operate",
    summary: "Empty a node: devices are told where to go, sessions are left for other nodes",
    parameters: [path("id", "A node of the cluster", "node-1")],
    answers: { "202": json("It has begun", object({ node: text, draining: flag })) },
    errors: ["forbidden", "not_found"],
  },
  "GET /v1/fds": {
    id: "descriptors",
    tag: "Operate",
    summary: "What the process has open, beside what the reactor holds",
    description: "`leaked` are connections of its listeners that the reactor does not hold, " +
      "`missing` what it holds and is not open: both in two scans. `strangers` are the rest, the " +
      "runtime's own and HTTP's. `direct` are connections that take no descriptor (io_uring).",
    parameters: [],
    answers: { "200": json("The scan", ref("Descriptors")) },
    errors: ["forbidden", "not_on_this_system"],
  },
  "GET /healthz": {
    id: "healthz",
    tag: "Operate",
    summary: "Does the process answer",
    parameters: [],
    answers: { "200": json(ok.description, object({ status: text })) },
    errors: [],
  },
  "GET /readyz": {
    id: "readyz",
    tag: "Operate",
    summary: "May devices be sent here, and is kept what is published",
    parameters: [],
    answers: { "200": json(ok.description, object({ status: text })) },
    errors: ["shutting_down", "store_full", "store_unavailable"],
  },
  "GET /metrics": {
    id: "metrics",
    tag: "Operate",
    summary: "Prometheus text format",
    parameters: [],
    answers: {
      "200": { description: "Counters and gauges", content: { "text/plain": { schema: text } } },
    },
    errors: ["forbidden"],
  },
};

export const operations: Readonly<Record<string, Operation>> = {
  ...publish,
  ...read,
  ...devices,
  ...webhooks,
  ...operate,
};
