/**
 * Retention rules as operators write them: `sensors/#:age=7d,count=100000,bytes=1GB`, one after the
 * other with semicolons between them; `audit/#:forever` bounds nothing. Pure.
 */
import { duration_ms } from "./duration.ts";
import { size_bytes } from "./size.ts";
import type { RetentionRule } from "./store/mod.ts";
import { filter_problem, is_shared } from "./topic_tree.ts";

export const retention_form =
  "rules FILTER:BOUND,... of age=7d, count=100000, bytes=1GB or forever";

const rules_max = 64;

/** A filter may hold `;` and `:` itself, so a rule ends behind the first bounds that it can. */
const rule_text = /(.+?):(forever|(?:age|count|bytes)=[^;,]*(?:,[a-z]+=[^;,]*)*)\s*(?:;\s*|$)/sy;

function positive(value: number | undefined): number | undefined {
  return value !== undefined && value >= 1 && Number.isSafeInteger(value) ? value : undefined;
}

const bounds: Readonly<
  Record<string, { readonly field: "age_ms" | "count" | "bytes"; readonly form: string }>
> = {
  age: { field: "age_ms", form: "a duration, such as 90s, 12h or 7d" },
  count: { field: "count", form: "a whole number of messages" },
  bytes: { field: "bytes", form: "a size, such as 500MB, 1GB or 64MiB" },
};

function parse_bound(name: string, text: string): number | undefined {
  if (name === "age") return positive(duration_ms(text));
  if (name === "bytes") return positive(size_bytes(text));
  return positive(/^\d{1,15}$/.test(text) ? Number(text) : undefined);
}

/** Answers the rule, or why it is none. */
function parse_rule(filter: string, text: string): RetentionRule | string {
  const why = filter_problem(filter) ?? (is_shared(filter) ? "it is a shared one" : undefined);
  if (why !== undefined) return `"${filter}" is no topic filter: ${why}`;
  const rule = { filter, age_ms: 0, count: 0, bytes: 0 };
  for (const one of text === "forever" ? [] : text.split(",")) {
    const [name = "", value = ""] = one.trimEnd().split("=");
    const bound = bounds[name];
    if (bound === undefined) return `"${name}" of "${filter}" is not age, count or bytes`;
    const parsed = parse_bound(name, value);
    if (parsed === undefined) return `${name} of "${filter}" must be ${bound.form}`;
    if (rule[bound.field] !== 0) return `${name} of "${filter}" is given twice`;
    rule[bound.field] = parsed;
  }
  return Object.freeze(rule);
}

/** The rules in their order, the first that matches a topic governs it; or why they are none. */
export function parse_retention(text: string): readonly RetentionRule[] | string {
  const rules: RetentionRule[] = [];
  rule_text.lastIndex = 0;
  while (rule_text.lastIndex < text.length) {
    const rest = text.slice(rule_text.lastIndex);
    const match = rule_text.exec(text);
    if (match === null) {
      return `"${rest}" is no rule; a rule is like sensors/#:age=7d,count=100000,bytes=1GB`;
    }
    const rule = parse_rule(match[1]!, match[2]!);
    if (typeof rule === "string") return rule;
    const before = rules.find(({ filter }) => filter === "#" || filter === rule.filter);
    if (before !== undefined) return `"${rule.filter}" comes after "${before.filter}", in vain`;
    rules.push(rule);
  }
  return rules.length > rules_max ? `at most ${rules_max} rules` : Object.freeze(rules);
}
