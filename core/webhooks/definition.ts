/**
 * The file of webhooks, checked whole: what is wrong with it is said in one sentence that names the
 * hook and the member, and nothing of it is used then. Pure.
 */
import { did_you_mean, nearest } from "../did_you_mean.ts";
import { duration_ms } from "../duration.ts";
import { limits } from "../limits.ts";
import { default_tenant } from "../namespace.ts";
import { is_tenant_name } from "../tenant.ts";
import { filter_problem, is_shared } from "../topic_tree.ts";
import { parse_secret } from "./signature.ts";

/** What a hook may be told of. */
export const event_kinds = ["message", "connected", "disconnected", "acknowledged"] as const;
export type EventKind = typeof event_kinds[number];

/** How events are sent to one endpoint, and for how long they are tried. */
export interface Endpointing {
  readonly secrets: readonly Uint8Array<ArrayBuffer>[];
  /** An answer must have come within this time. */
  readonly timeout_ms: number;
  /** An event is given up after this many attempts, or this long after the first. */
  readonly attempts_max: number;
  readonly retry_for_ms: number;
}

/** One webhook. */
export interface Hook extends Endpointing {
  readonly name: string;
  readonly tenant: string;
  readonly url: URL;
  readonly events: readonly EventKind[];
  /** Of messages, and of messages that are acknowledged; empty where neither is asked for. */
  readonly filters: readonly string[];
  /** CloudEvents HTTP binding, content mode. */
  readonly mode: "structured" | "binary";
  /** Events of one request at most; above 1 the mode is batched. */
  readonly batch: number;
  /** Requests at the same time; the events of one topic, or of one device, go one after another. */
  readonly concurrency: number;
  /** Sent with each request. */
  readonly headers: Readonly<Record<string, string>>;
  /** All of the above as it was written: tells whether something has changed. */
  readonly text: string;
}

/** What a file of webhooks says. */
export interface Definitions {
  readonly hooks: readonly Hook[];
  /** By tenant: how callbacks that its publishers ask for are sent. */
  readonly callbacks: ReadonlyMap<string, Endpointing>;
}

export const no_definitions: Definitions = { hooks: [], callbacks: new Map() };

/** Why a file of webhooks cannot be used, as half a sentence. */
export class WebhooksError extends Error {
  override readonly name = "WebhooksError";
}

/** What callbacks are counted as, and where their dead letters lie; no hook is called so. */
export const callbacks_name = "callbacks";

type Members = Readonly<Record<string, unknown>>;

const sending_members = ["secrets", "timeout", "attempts", "retry_for"];
const hook_members = [
  "url",
  "events",
  "filters",
  "tenant",
  "mode",
  "batch",
  "concurrency",
  "headers",
  ...sending_members,
];

function is_object(value: unknown): value is Members {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** One object of the file, whose members are read one by one. */
class Reader {
  constructor(readonly name: string, readonly members: Members, known: readonly string[]) {
    for (const member of Object.keys(members)) {
      if (known.includes(member)) continue;
      throw this.error(`has no "${member}"${did_you_mean(nearest(member, known))}`);
    }
  }

  error(why: string): WebhooksError {
    return new WebhooksError(`"${this.name}" ${why}`);
  }

  list(member: string): readonly unknown[] {
    const value = this.members[member] ?? [];
    if (Array.isArray(value)) return value;
    throw this.error(`needs a list as "${member}"`);
  }

  duration(member: string, fallback_ms: number, min_ms: number, max_ms: number): number {
    const text = this.members[member];
    if (text === undefined) return fallback_ms;
    const value = typeof text === "string" ? duration_ms(text) : undefined;
    if (value !== undefined && value >= min_ms && value <= max_ms) return value;
    throw this.error(
      `needs a "${member}" of ${min_ms / 1000}s to ${max_ms / 1000}s, such as "15s"`,
    );
  }

  whole(member: string, fallback: number, max: number): number {
    const value = this.members[member] ?? fallback;
    if (Number.isSafeInteger(value) && Number(value) >= 1 && Number(value) <= max) {
      return Number(value);
    }
    throw this.error(`needs a "${member}" of 1 to ${max}`);
  }
}

/** Names that an HTTP field may have, RFC 9110 section 5.1, and those that are ours. */
const field_name = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$/;
const own_field =
  /^(content-.*|ce-.*|webhook-.*|host|connection|transfer-encoding|te|trailer|upgrade|expect)$/i;

function headers_of(reader: Reader): Hook["headers"] {
  const value = reader.members.headers ?? {};
  if (!is_object(value)) throw reader.error('needs an object as "headers"');
  for (const [name, text] of Object.entries(value)) {
    if (!field_name.test(name) || own_field.test(name)) {
      throw reader.error(`cannot send a header "${name}"`);
    }
    // RFC 9110 section 5.5
    if (typeof text !== "string" || !/^[\x21-\x7e]([\x20-\x7e]{0,2046}[\x21-\x7e])?$/.test(text)) {
      throw reader.error(`needs visible ASCII as the header "${name}"`);
    }
  }
  return value as Hook["headers"];
}

function endpointing_of(reader: Reader): Endpointing {
  const secrets = reader.list("secrets").map((text) => {
    const secret = parse_secret(text);
    if (typeof secret === "string") throw reader.error(`cannot be signed: ${secret}`);
    return secret;
  });
  if (secrets.length === 0 || secrets.length > limits.webhook_secrets_max) {
    throw reader.error(`needs 1 to ${limits.webhook_secrets_max} "secrets"`);
  }
  return {
    secrets,
    timeout_ms: reader.duration("timeout", 15_000, 100, 60_000),
    attempts_max: reader.whole("attempts", 20, 1000),
    retry_for_ms: reader.duration("retry_for", 3 * 86_400_000, 1000, 30 * 86_400_000),
  };
}

/** An https or http URL without a user; a string says what is wrong. */
export function parse_target(text: unknown): URL | string {
  const url = typeof text === "string" && text.length <= limits.webhook_url_bytes_max
    ? URL.parse(text)
    : null;
  if (url === null || url.protocol !== "https:" && url.protocol !== "http:") {
    return "it must be an https URL";
  }
  if (url.username !== "" || url.password !== "") return "it must not hold a user or password";
  url.hash = "";
  return url;
}

function filters_of(reader: Reader, events: readonly EventKind[]): readonly string[] {
  const filters = reader.list("filters").map((filter) => {
    if (typeof filter !== "string") throw reader.error('needs texts as "filters"');
    const why = is_shared(filter) ? "it is shared" : filter_problem(filter);
    if (why !== undefined) throw reader.error(`cannot use the filter "${filter}": ${why}`);
    if (/^\$(events|dead)(\/|$)/.test(filter)) {
      throw reader.error(`cannot use the filter "${filter}": that is for events themselves`);
    }
    return filter;
  });
  if (filters.length > limits.webhook_filters_max) {
    throw reader.error(`has more than ${limits.webhook_filters_max} "filters"`);
  }
  const needs = events.includes("message") || events.includes("acknowledged");
  if (needs && filters.length === 0) {
    throw reader.error('needs "filters": which messages, such as ["orders/#"]');
  }
  if (!needs && filters.length > 0) throw reader.error('has "filters" and asks for no messages');
  return filters;
}

function hook_of(name: string, members: unknown): Hook {
  if (!is_tenant_name(name) || name === callbacks_name) {
    throw new WebhooksError(`"${name}" is not a name for a webhook`);
  }
  if (!is_object(members)) throw new WebhooksError(`"${name}" is not an object`);
  const reader = new Reader(name, members, hook_members);
  const url = parse_target(members.url);
  if (typeof url === "string") throw reader.error(`cannot use its "url": ${url}`);
  const events = reader.list("events").map((event) => {
    const kind = event_kinds.find((known) => known === event);
    if (kind === undefined) throw reader.error(`needs "events" of ${event_kinds.join(", ")}`);
    return kind;
  });
  if (events.length === 0) throw reader.error(`needs "events" of ${event_kinds.join(", ")}`);
  const { tenant = default_tenant, mode = "structured" } = members;
  if (typeof tenant !== "string" || !is_tenant_name(tenant)) {
    throw reader.error('needs the name of a tenant as "tenant"');
  }
  if (mode !== "structured" && mode !== "binary") {
    throw reader.error('needs structured or binary as "mode"');
  }
  const batch = reader.whole("batch", 1, limits.webhook_batch_max);
  if (batch > 1 && mode === "binary") {
    throw reader.error('cannot have a "batch" in binary mode');
  }
  const concurrency = reader.whole("concurrency", 4, limits.webhook_concurrency_max);
  const filters = filters_of(reader, events);
  const headers = headers_of(reader);
  const sent = { mode, batch, concurrency, headers } as const;
  const text = JSON.stringify(members);
  return { name, tenant, url, events, filters, ...sent, ...endpointing_of(reader), text };
}

/** Throws WebhooksError. */
export function parse_definitions(text: string): Definitions {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw new WebhooksError("it is not JSON"); // the parser's words would quote a secret
  }
  if (!is_object(content)) throw new WebhooksError("it is not an object");
  const { hooks = {}, callbacks = {} } = content;
  new Reader("the file", content, ["hooks", "callbacks"]);
  if (!is_object(hooks) || !is_object(callbacks)) {
    throw new WebhooksError('"hooks" and "callbacks" must be objects');
  }
  const names = Object.entries(hooks);
  if (names.length > limits.webhooks_max) {
    throw new WebhooksError(`it has more than ${limits.webhooks_max} hooks`);
  }
  const by_tenant = Object.entries(callbacks).map(([tenant, members]) => {
    const name = `callbacks of ${tenant}`;
    if (!is_tenant_name(tenant)) throw new WebhooksError(`"${tenant}" is not a tenant's name`);
    if (!is_object(members)) throw new WebhooksError(`"${name}" is not an object`);
    return [tenant, endpointing_of(new Reader(name, members, sending_members))] as const;
  });
  return {
    hooks: names.map(([name, members]) => hook_of(name, members)),
    callbacks: new Map(by_tenant),
  };
}
