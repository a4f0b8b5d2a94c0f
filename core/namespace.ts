/**
 * Where a tenant's topics, filters and device ids lie: `acme` publishes `a/b`, the service knows it
 * as `$<U+0001>acme/a/b`. The prefix is put on where a name comes in and taken off where it goes
 * out, so trees, logs, groups and sessions keep tenants apart without knowing of them, and names of
 * the default tenant are as they were sent: it costs nothing. Invariant: no client can send a name
 * that begins like that (topic_tree.ts, device_id_problem), so no name crosses. Pure.
 *
 * The `$` keeps the wildcards of the default tenant out [MQTT-4.7.2-1]. A tenant's own `$` topics
 * lie under a root of their own, for its wildcards must not reach them either. U+0001 and not
 * U+0000: SQLite gives a text back only up to a U+0000.
 */

const dollar = 0x24;
const mark = 0x01;
const mark_text = "\u0001";
const share_prefix = "$share/";

/** What no name of a client begins with. */
const reserved = `$${mark_text}`;

/** The tenant of tokens that name none. */
export const default_tenant = "default";

/** Whether the name that begins at index `start` of a text is one that only the service makes. */
export function is_reserved(text: string, start = 0): boolean {
  return text.charCodeAt(start) === dollar && text.charCodeAt(start + 1) === mark;
}

/** Why a device may not have this id; undefined when it may. "" = it has none yet. */
export function device_id_problem(id: string): string | undefined {
  // Shared subscriptions are kept among the sessions, under such names.
  if (id.startsWith(share_prefix)) return "a device id must not begin with $share/";
  if (is_reserved(id)) return "a device id must not begin with $ and U+0001";
  if (id.includes("\0")) return "a device id must not contain U+0000"; // SQLite would cut it there
  return undefined;
}

/** For a device that leaves its id to the service. */
export function new_id(): string {
  return `auto-${crypto.randomUUID()}`;
}

/** One tenant's names within the service. */
export class Namespace {
  readonly #plain: string;
  readonly #own: string;

  /** @param name of the tenant; `default` is the default tenant */
  constructor(readonly name: string) {
    const is_default = name === default_tenant;
    this.#plain = is_default ? "" : `${reserved}${name}/`;
    this.#own = is_default ? "" : `${reserved}${name}${mark_text}/`;
  }

  /** What else is kept by name is kept under this: idempotency keys. */
  get scope(): string {
    return this.#plain;
  }

  /** Whether a name within the service is one of id()'s. */
  owns(id: string): boolean {
    return this.#plain === "" ? !is_reserved(id) : id.startsWith(this.#plain);
  }

  /** A valid topic as the service knows it. */
  topic(topic: string): string {
    if (this.#plain === "") return topic;
    return (topic.charCodeAt(0) === dollar ? this.#own : this.#plain) + topic;
  }

  /** A valid filter as the service knows it; `$share/group/` stays in front. */
  filter(filter: string): string {
    if (this.#plain === "") return filter;
    if (!filter.startsWith(share_prefix)) return this.topic(filter);
    const begin = filter.indexOf("/", share_prefix.length) + 1;
    return filter.slice(0, begin) + this.topic(filter.slice(begin));
  }

  /** A device id as the service knows it. */
  id(id: string): string {
    return this.#plain + id;
  }
}

/** Undoes Namespace.topic() and id(): the name as its tenant knows it. */
export function plain_name(name: string): string {
  return is_reserved(name) ? name.slice(name.indexOf("/") + 1) : name;
}

/** Undoes Namespace.filter(). */
export function plain_filter(filter: string): string {
  if (!filter.startsWith(share_prefix)) return plain_name(filter);
  const begin = filter.indexOf("/", share_prefix.length) + 1;
  return filter.slice(0, begin) + plain_name(filter.slice(begin));
}

/** The name of the tenant that a name within the service belongs to. */
export function tenant_of(name: string): string {
  if (!is_reserved(name)) return default_tenant;
  const tenant = name.slice(reserved.length, name.indexOf("/"));
  return tenant.endsWith(mark_text) ? tenant.slice(0, -1) : tenant;
}
