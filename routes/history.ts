/** GET /v1/topics/{topic}/messages: what was published, by offset. */
import type { Access } from "../core/access.ts";
import { codes, Refusal } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import { topic_problem } from "../core/topic_tree.ts";
import type { Call, Context } from "./context.ts";
import { parse_cursor } from "./cursor.ts";
import { message_json, type MessageJson } from "./message_json.ts";

const limit_default = 100;

function parse_limit(text: string | null): number {
  if (text === null) return limit_default;
  const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= limits.history_messages_max) return limit;
  const detail = `limit must be 1 to ${limits.history_messages_max}`;
  throw new Refusal(codes.query_invalid, detail);
}

export interface HistoryPage {
  readonly messages: readonly MessageJson[];
  /** The `after` of the following page, null at the end of the log. */
  readonly next: string | null;
  readonly gap: boolean;
}

/** A page of one topic. Throws Refusal. */
export async function read_history(
  context: Context,
  access: Access,
  wanted: { readonly topic: string; readonly after: string | null; readonly limit: string | null },
): Promise<HistoryPage> {
  const { store } = context;
  const why = topic_problem(wanted.topic);
  if (why !== undefined) throw new Refusal(codes.topic_invalid, `Cannot read the topic: ${why}`);
  const refusal = access.refusal_of_filter(wanted.topic);
  if (refusal !== null) throw refusal;
  const topic = access.tenant.topic(wanted.topic);
  const limit = parse_limit(wanted.limit);
  const cursor = wanted.after === null
    ? { offset: 0, is_other_epoch: false }
    : parse_cursor("after", wanted.after, store.epoch);
  const messages: MessageJson[] = [];
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
  return { messages, next: after < store.head ? `${store.epoch}:${after}` : null, gap };
}

export async function history(call: Call, context: Context): Promise<Response> {
  const { rest: topic, query, access } = call;
  const wanted = { topic, after: query.get("after"), limit: query.get("limit") };
  return Response.json(await read_history(context, access, wanted));
}
