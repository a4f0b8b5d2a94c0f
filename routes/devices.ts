/** The devices of a tenant: who there is, who hears a topic, and to let one go. */
import { codes, Refusal } from "../core/codes.ts";
import { type PageWanted, worst_keys } from "../core/devices.ts";
import { limits } from "../core/limits.ts";
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

/**
 * GET /v1/devices. Query: `connected` (true or false), `prefix` of the id, `after`, `limit`; or
 * `sort` and `limit`: those that are worst off.
 */
export async function devices(call: Call, context: Context): Promise<Response> {
  const { query, access } = call;
  const page = parse_page(query);
  const sort = query.get("sort");
  if (sort !== null) {
    const by = worst_keys.find((key) => key === sort);
    if (by === undefined) {
      throw new Refusal(codes.query_invalid, `sort must be one of ${worst_keys.join(", ")}`);
    }
    return Response.json(await context.fleet.worst(access.tenant, by, page.limit));
  }
  const text = query.get("connected");
  const connected = text === null ? undefined : parse_flag("connected", text);
  const prefix = query.get("prefix") ?? "";
  return Response.json(await context.fleet.list(access.tenant, page, connected, prefix));
}

/** GET /v1/devices/{id}: one, with its subscriptions. */
export async function device({ access, rest }: Call, { fleet }: Context): Promise<Response> {
  return Response.json(await fleet.device(access.tenant, rest));
}

/** GET /v1/devices/{id}/timeline: what has happened to it of late. */
export async function timeline({ access, rest }: Call, { fleet }: Context): Promise<Response> {
  return Response.json(await fleet.timeline(access.tenant, rest));
}

/** DELETE /v1/devices/{id}: closes its connection. Query: `forget`, its session ends too. */
export async function kick_device(call: Call, { fleet }: Context): Promise<Response> {
  const forget = parse_flag("forget", call.query.get("forget"));
  const disconnected = await fleet.kick(call.access.tenant, call.rest, forget);
  return Response.json({ device_id: call.rest, disconnected, forgotten: forget });
}

/** GET /v1/presence?topic=: who is connected and hears a topic, or listens within a filter. */
export async function presence(call: Call, context: Context): Promise<Response> {
  const { query, access } = call;
  const topic = query.get("topic");
  if (topic === null) throw new Refusal(codes.query_invalid, "topic is missing");
  const why = is_shared(topic) ? "it is shared" : filter_problem(topic);
  if (why !== undefined) throw new Refusal(codes.filter_invalid, `Cannot look for it: ${why}`);
  return Response.json(await context.fleet.listeners(access.tenant, parse_page(query), topic));
}
