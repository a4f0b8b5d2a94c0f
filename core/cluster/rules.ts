/**
 * What operators decide while the cluster runs: documents of JSON that lie in etcd, one each for
 * limits, routing, the breaker and degradation. Pure. Invariant: a document is in force as a whole
 * or not at all, and what cannot be used changes nothing but what is said of it.
 */
import {
  is_tenant_name,
  type LimitRules,
  tenant_limit_names,
  type TenantLimits,
} from "../tenant.ts";
import { filter_problem } from "../topic_tree.ts";
import { limits } from "../limits.ts";
import { breaker_default, type BreakerSettings, read_breaker } from "./breaker.ts";
import { degradation_default, type DegradationSettings, read_degradation } from "./degradation.ts";
import { FieldProblem, Fields, text_of } from "./fields.ts";

/** What nobody may do now. */
export interface Denial {
  /** Said to whoever is refused. */
  readonly name: string;
  /** "" = all tenants. */
  readonly tenant: string;
  /** Topic filters, as the tenant knows them. */
  readonly publish: readonly string[];
  /** Whether its devices are refused. */
  readonly connect: boolean;
}

/** Where the devices of a tenant are to be, as long as there is a node. */
export interface Placement {
  readonly tenant: string;
  /** Best first. */
  readonly zones: readonly string[];
}

export interface RoutingRules {
  readonly deny: readonly Denial[];
  readonly place: readonly Placement[];
  /** Where a node that is drained sends its devices: to its own zone first, or anywhere. */
  readonly drain_to: "same_zone" | "any_zone";
}

export interface Documents {
  readonly limits: LimitRules;
  readonly routing: RoutingRules;
  readonly breaker: BreakerSettings;
  readonly degradation: DegradationSettings;
}

export type DocumentName = keyof Documents;

export const document_names = ["limits", "routing", "breaker", "degradation"] as const;

/** What holds where there is no document. */
export const documents_default: Documents = Object.freeze({
  limits: Object.freeze({ tenant: Object.freeze({}), tenants: Object.freeze({}) }),
  routing: Object.freeze({
    deny: Object.freeze([]),
    place: Object.freeze([]),
    drain_to: "same_zone",
  }),
  breaker: breaker_default,
  degradation: degradation_default,
});

const bound_max = 10 ** 12;

const tenant_name = text_of("a tenant's name", is_tenant_name);
const zone_name = text_of("the name of a zone", (text) => /^[A-Za-z0-9._-]{1,64}$/.test(text));
const topic_filter = text_of("a topic filter", (text) => {
  return filter_problem(text) === undefined && !text.startsWith("$share/");
});

function read_tenant_limits(fields: Fields): Partial<TenantLimits> {
  const read: Partial<Record<keyof TenantLimits, number>> = {};
  for (const name of tenant_limit_names) {
    const value = fields.whole(name, -1, -1, bound_max);
    if (value >= 0) read[name] = value;
  }
  fields.end();
  return read;
}

function read_limits(fields: Fields): LimitRules {
  return {
    tenant: fields.object("tenant", read_tenant_limits),
    tenants: fields.map("tenants", is_tenant_name, read_tenant_limits),
  };
}

function read_denial(value: unknown, path: string): Denial {
  const fields = new Fields(value, path);
  const denial = {
    name: fields.text("name", "", "1 to 64 characters", ({ length }) => length > 0 && length <= 64),
    tenant: fields.text("tenant", "", "a tenant's name", (text) => {
      return text === "" || is_tenant_name(text);
    }),
    publish: fields.list("publish", limits.rules_max, [], topic_filter),
    connect: fields.flag("connect", false),
  };
  fields.end();
  return denial;
}

function read_placement(value: unknown, path: string): Placement {
  const fields = new Fields(value, path);
  const tenant = tenant_name(fields.text("tenant", "", "a tenant's name", is_tenant_name), path);
  const zones = fields.list("zones", limits.rules_max, [], zone_name);
  fields.end();
  return { tenant, zones };
}

function read_routing(fields: Fields): RoutingRules {
  const form = "same_zone or any_zone";
  const drain_to = fields.text("drain_to", "same_zone", form, (text) => {
    return text === "same_zone" || text === "any_zone";
  });
  return {
    deny: fields.list("deny", limits.rules_max, [], read_denial),
    place: fields.list("place", limits.rules_max, [], read_placement),
    drain_to: drain_to as RoutingRules["drain_to"],
  };
}

const readers: { readonly [N in DocumentName]: (fields: Fields) => Documents[N] } = {
  limits: read_limits,
  routing: read_routing,
  breaker: read_breaker,
  degradation: read_degradation,
};

/** Whether there is a document of this name. */
export function is_document_name(name: string): name is DocumentName {
  return document_names.some((known) => known === name);
}

/** What a document says, or why it cannot be used. */
export function parse_document<N extends DocumentName>(
  name: N,
  text: string,
): { readonly value: Documents[N] } | { readonly problem: string } {
  if (text.length > limits.rules_bytes_max) {
    return { problem: `${name} is longer than ${limits.rules_bytes_max} characters` };
  }
  try {
    const fields = new Fields(JSON.parse(text), name);
    const value: Documents[N] = readers[name](fields);
    fields.end();
    return { value };
  } catch (error) {
    if (error instanceof FieldProblem) return { problem: error.message };
    if (error instanceof SyntaxError) return { problem: `${name} is not JSON: ${error.message}` };
    throw error;
  }
}

/** One document, as it is known on this node. */
export interface Known<N extends DocumentName = DocumentName> {
  /** Of etcd; 0 = there is no document, and the defaults are in force. */
  readonly revision: number;
  readonly in_force: Documents[N];
  /** Why the newest document is not in force; "" = it is. */
  readonly problem: string;
  /** Of the document that has the problem; 0 = there is none. */
  readonly refused_revision: number;
}

/** What is in force on this node, and since when. */
export class Rules {
  /** Documents that could not be used. */
  refused = 0;
  readonly #known = new Map<DocumentName, Known>();
  /** The newest revision that was looked at, of a document or of its end. */
  readonly #seen = new Map<DocumentName, number>();
  readonly #heard = new Map<DocumentName, ((value: never) => void)[]>();

  /** @param usual what is in force where there is no document */
  constructor(readonly usual: Documents = documents_default) {}

  get<N extends DocumentName>(name: N): Known<N> {
    const none = { revision: 0, in_force: this.usual[name], problem: "", refused_revision: 0 };
    return (this.#known.get(name) ?? none) as Known<N>;
  }

  /** Tells what is in force now, and whenever that changes. */
  use<N extends DocumentName>(name: N, hear: (value: Documents[N]) => void): void {
    const all = this.#heard.get(name);
    if (all === undefined) this.#heard.set(name, [hear]);
    else all.push(hear);
    hear(this.get(name).in_force);
  }

  /**
   * Takes a document; answers why not, "" = it is in force, or what is in force is newer.
   * @param text undefined = there is none any more
   */
  take(name: DocumentName, revision: number, text: string | undefined): string {
    if (revision <= (this.#seen.get(name) ?? 0)) return "";
    this.#seen.set(name, revision);
    const parsed = text === undefined ? { value: this.usual[name] } : parse_document(name, text);
    if ("problem" in parsed) {
      this.refused++;
      const { problem } = parsed;
      this.#known.set(name, { ...this.get(name), problem, refused_revision: revision });
      return problem;
    }
    const in_force = parsed.value;
    const known = { revision: text === undefined ? 0 : revision, in_force };
    this.#known.set(name, { ...known, problem: "", refused_revision: 0 });
    for (const hear of this.#heard.get(name) ?? []) hear(in_force as never);
    return "";
  }
}

/** The documents of a file that holds some of them by name. @throws Error with a sentence */
export function parse_rules_file(text: string): Documents {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw new Error(`it is not JSON: ${(error as Error).message}`);
  }
  const fields = new Fields(content, "it");
  const read = <N extends DocumentName>(name: N): Documents[N] => {
    return fields.object(name, (of_document) => {
      const value = readers[name](of_document);
      of_document.end();
      return value;
    });
  };
  const documents = {
    limits: read("limits"),
    routing: read("routing"),
    breaker: read("breaker"),
    degradation: read("degradation"),
  };
  fields.end();
  return documents;
}
