/** The devices of a tenant: who there is, who hears a topic, and to let one go. */
import { codes, Refusal } from "../core/codes.ts";
import type { PageWanted } from "../core/devices.ts";
import { limits } from "../core/limits.ts";
import { plain_filter } from "../core/namespace.ts";
import { SubscriptionOptions } from "../core/session.ts";
import { filter_problem, is_shared } from "../core/topic_tree.ts";
import { parse_flag } from "./body.ts";
import type { Call, Context } from "./context.ts";

const limit_default = 100;

function parse_page(query: Call["query"]): PageWanted {
  const text = query.get("limit") ?? String(limit_default);
  const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= limits.devices_page_max) {
    return { after: query.get("after") ?? "", limit };
  }
  throw new Refusal(codes.query_invalid, `limit must be 1 to ${limits.devices_page_max}`);
}

/** GET /v1/devices. Query: `connected` (true or false), `prefix` of the id, `after`, `limit`. */
export async function devices(call: Call, context: Context): Promise<Response> {
  const { query, access } = call;
  const text = query.get("connected");
  const connected = text === null ? undefined : parse_flag("connected", text);
  const page = parse_page(query);
  const prefix = query.get("prefix") ?? "";
  return Response.json(await context.devices.list(access.tenant, page, connected, prefix));
}

/** GET /v1/devices/{id}: one, with its subscriptions. */
export function device(call: Call, context: Context): Response {
  const session = context.devices.get(call.access.tenant, call.rest);
  const filters = [...session.subscriptions()].map(([filter, options]) => {
    return { filter: plain_filter(filter), qos: SubscriptionOptions.qos(options) };
  });
  return Response.json({ ...context.devices.json(session), filters });
}

/** DELETE /v1/devices/{id}: closes its connection. Query: `forget`, its session ends too. */
export function kick_device(call: Call, context: Context): Response {
  const forget = parse_flag("forget", call.query.get("forget"));
  const session = context.devices.get(call.access.tenant, call.rest);
  const was_connected = session.connected;
  context.devices.kick(session, forget);
  return Response.json({ device_id: call.rest, disconnected: was_connected, forgotten: forget });
}

/** GET /v1/presence?topic=: who is connected and hears a topic, or listens within a filter. */
export async function presence(call: Call, context: Context): Promise<Response> {
  const { query, access } = call;
  const topic = query.get("topic");
  if (topic === null) throw new Refusal(codes.query_invalid, "topic is missing");
  const why = is_shared(topic) ? "it is shared" : filter_problem(topic);
  if (why !== undefined) throw new Refusal(codes.filter_invalid, `Cannot look for it: ${why}`);
  return Response.json(await context.devices.listeners(access.tenant, parse_page(query), topic));
}
