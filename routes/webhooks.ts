/** Webhooks of a tenant: where each stands, and its dead letters once more. */
import { codes, Refusal } from "../core/codes.ts";
import type { Call, Context } from "./context.ts";
import { parse_cursor } from "./cursor.ts";

/** GET /v1/webhooks */
export function webhooks({ access }: Call, { webhooks }: Context): Response {
  const runners = webhooks?.runners(access.tenant.name) ?? [];
  return Response.json({ webhooks: runners.map((runner) => runner.status()) });
}

/** POST /v1/webhooks/{name}/replay */
export function replay_webhook(call: Call, { webhooks, store }: Context): Response {
  const { rest: name, access, query } = call;
  const runner = webhooks?.runners(access.tenant.name).find(({ hook }) => hook.name === name);
  if (runner === undefined) {
    throw new Refusal(codes.not_found, "There is no such webhook on this node");
  }
  const text = query.get("after");
  const after = text === null ? 0 : parse_cursor("after", text, store.epoch).offset;
  if (!runner.replay(after)) {
    throw new Refusal(codes.server_busy, "Its dead letters are being sent again already", 5000);
  }
  return Response.json({ webhook: name, replaying: true }, { status: 202 });
}
