/**
 * What a token allows: lists of topic filters, in which `{device_id}` and `{tenant}` stand for
 * whose it is. A topic is allowed when a filter matches it, a filter when one filter of the list
 * covers it: matches every topic that it matches. Pure.
 */
import { filter_matches, filter_problem, has_wildcard, is_shared } from "./topic_tree.ts";

/** Rights beside publishing and subscribing. */
export const rights = ["devices", "operate"] as const;
/** devices: presence and the sessions of the tenant. operate: metrics and nodes. */
export type Right = typeof rights[number];

export interface Permissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
  readonly rights: readonly Right[];
}

const dollar = 0x24;

/**
 * Whether every topic that `inner` matches is matched by `outer`; both are valid filters, not
 * shared. `#` and `+` in the first level match no topic that begins with `$` [MQTT-4.7.2-1].
 */
export function filter_covers(outer: string, inner: string): boolean {
  if (outer === inner) return true;
  const outer_levels = outer.split("/");
  const inner_levels = inner.split("/");
  const [first] = outer_levels;
  if ((first === "#" || first === "+") && inner.charCodeAt(0) === dollar) return false;
  // A first "+/#" is "#": there is no topic without a level. Below, "a/#" has "a" and "a/+/#" not.
  if (first === "+" && outer_levels[1] === "#") return true;
  for (const [index, name] of outer_levels.entries()) {
    if (name === "#") return true; // "a/#" matches "a" too, so that inner may end here
    const other = inner_levels[index];
    if (other === undefined || other === "#") return false;
    if (name !== "+" && name !== other) return false;
  }
  return inner_levels.length === outer_levels.length;
}

/** Who a template is filled in for. */
export interface Bearer {
  /** "" = no device. */
  readonly device_id: string;
  readonly tenant: { readonly name: string };
}

const placeholder = /\{(device_id|tenant)\}/g;

/** Texts that stand for exactly one level: filled in, they cannot become another filter. */
function is_one_level(text: string): boolean {
  return text !== "" && !/[/+#]/.test(text);
}

/**
 * The filter of a template; undefined = it allows nothing to this bearer, because what would be
 * filled in is not there or is more than one plain level (a device that calls itself `+`).
 */
export function fill_in(template: string, bearer: Bearer): string | undefined {
  if (!template.includes("{")) return template;
  let is_whole = true;
  const filter = template.replace(placeholder, (_, name: "device_id" | "tenant") => {
    const text = name === "tenant" ? bearer.tenant.name : bearer.device_id;
    is_whole &&= is_one_level(text);
    return text;
  });
  // A `$` from a device id must not open the topics that are the service's own.
  const opens_own = filter.charCodeAt(0) === dollar && template.charCodeAt(0) !== dollar;
  return is_whole && !opens_own && filter_problem(filter) === undefined ? filter : undefined;
}

/** Whether one of the templates, filled in, covers a valid topic or filter, not shared. */
export function is_allowed(
  templates: readonly string[],
  bearer: Bearer,
  name: string,
): boolean {
  const is_filter = has_wildcard(name);
  return templates.some((template) => {
    const filter = fill_in(template, bearer);
    if (filter === undefined) return false;
    return is_filter ? filter_covers(filter, name) : filter_matches(filter, name);
  });
}

/** Why a text of a token is no filter that can be allowed; undefined when it is. */
export function template_problem(template: string): string | undefined {
  if (is_shared(template)) return "a shared filter is allowed by the filter that it shares";
  // Wildcards are whole levels, placeholders may be a part of one.
  return filter_problem(template.replace(placeholder, "x"));
}
