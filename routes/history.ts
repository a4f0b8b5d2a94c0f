/** GET /v1/topics/{topic}/messages: what was published, by offset. */
import { codes, Refusal } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import { topic_problem } from "../core/topic_tree.ts";
import type { Call, Context } from "./context.ts";
import { parse_cursor } from "./cursor.ts";
import { message_json } from "./message_json.ts";

const limit_default = 100;

function parse_limit(text: string | null): number {
  if (text === null) return limit_default;
  const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= limits.history_messages_max) return limit;
  const detail = `limit must be 1 to ${limits.history_messages_max}`;
  throw new Refusal(codes.query_invalid, detail);
}

/** A page of one topic. `next` is the `after` of the following page, null at the end of the log. */
export async function history(call: Call, context: Context): Promise<Response> {
  const { store } = context;
  const why = topic_problem(call.rest);
  if (why !== undefined) throw new Refusal(codes.topic_invalid, `Cannot read the topic: ${why}`);
  const refusal = call.access.refusal_of_filter(call.rest);
  if (refusal !== null) throw refusal;
  const topic = call.access.tenant.topic(call.rest);
  const limit = parse_limit(call.query.get("limit"));
  const text = call.query.get("after");
  const cursor = text === null
    ? { offset: 0, is_other_epoch: false }
    : parse_cursor("after", text, store.epoch);
  const messages = [];
  let after = cursor.offset;
  let gap = cursor.is_other_epoch;
  do {
    const page = await store.read([topic], after, limit - messages.length);
    for (const message of page.messages) {
      messages.push(message_json(message, message.offset, store.epoch));
    }
    // Asking from the start asks for what there is, not for what there was.
    gap ||= page.gap && cursor.offset > 0;
    after = page.next;
  } while (messages.length < limit && after < store.head);
  const next = after < store.head ? `${store.epoch}:${after}` : null;
  return Response.json({ messages, next, gap });
}
