/** The filters of a live stream, checked. */
import type { Access } from "../core/access.ts";
import { codes, Refusal } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import { filter_problem } from "../core/topic_tree.ts";

/** Filters as the service knows them. Throws Refusal. */
export function parse_filters(topics: readonly string[], access: Access): string[] {
  if (topics.length === 0) throw new Refusal(codes.query_invalid, "topic is missing");
  if (topics.length > limits.filters_per_packet_max) {
    throw new Refusal(codes.subscription_limit, "More topics than one stream may have");
  }
  for (const topic of topics) {
    const why = topic.startsWith("$share/") ? "it is shared" : filter_problem(topic);
    if (why !== undefined) {
      throw new Refusal(codes.filter_invalid, `Cannot subscribe to "${topic}": ${why}`);
    }
    const refusal = access.refusal_of_filter(topic);
    if (refusal !== null) throw refusal;
  }
  return [...new Set(topics)].map((topic) => access.tenant.filter(topic));
}
