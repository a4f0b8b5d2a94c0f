/**
 * What operators have stopped or placed elsewhere, as questions that publishes and connects ask.
 * Pure. Invariant: where there are no such rules, what asks is null, and nobody is asked.
 */
import type { Placement, RoutingRules } from "./cluster/rules.ts";
import { codes, Refusal } from "./codes.ts";
import { plain_name, tenant_of } from "./namespace.ts";
import { filter_matches } from "./topic_tree.ts";

/** Why something is refused; null = it is not. */
export type Deny = (name: string) => Refusal | null;

/** What operators have stopped may go on when they say so: who asks again does it seldom. */
const denied_retry_ms = 30_000;

function denied(name: string): Refusal {
  const detail = `${codes.denied.meaning} (rule "${name}")`;
  return new Refusal(codes.denied, detail, denied_retry_ms);
}

/** Who may not publish to a topic, as the service knows it; null = nobody is kept from it. */
export function publish_denial({ deny }: RoutingRules): Deny | null {
  const rules = deny.filter(({ publish }) => publish.length > 0);
  if (rules.length === 0) return null;
  return (topic) => {
    const tenant = tenant_of(topic);
    const plain = plain_name(topic);
    const rule = rules.find((one) => {
      return (one.tenant === "" || one.tenant === tenant) &&
        one.publish.some((filter) => filter_matches(filter, plain));
    });
    return rule === undefined ? null : denied(rule.name);
  };
}

/** Who may not connect with a session id, as the service knows it. */
export function connect_denial({ deny }: RoutingRules): Deny | null {
  const rules = deny.filter(({ connect }) => connect);
  if (rules.length === 0) return null;
  return (id) => {
    const tenant = tenant_of(id);
    const rule = rules.find((one) => one.tenant === "" || one.tenant === tenant);
    return rule === undefined ? null : denied(rule.name);
  };
}

/** Where the devices of a tenant are to be, best first; empty = anywhere. */
export function zones_of(place: readonly Placement[], tenant: string): readonly string[] {
  return place.find((one) => one.tenant === tenant)?.zones ?? [];
}

/** A node that takes devices. */
interface Place {
  readonly zone: string;
  readonly connections: number;
}

/**
 * Where a device of a tenant is to go in place of this node; undefined = it is right here, or
 * there is no node where it ought to be.
 * @param places other nodes that take devices
 */
export function better_place<P extends Place>(
  { place }: RoutingRules,
  tenant: string,
  zone: string,
  places: readonly P[],
): P | undefined {
  const zones = zones_of(place, tenant);
  if (zones.length === 0 || zones.includes(zone)) return undefined;
  return by_zones(places, zones).find((one) => zones.includes(one.zone));
}

/** The same places, those of the first zones first, and the emptiest of each first. */
export function by_zones<P extends Place>(places: readonly P[], zones: readonly string[]): P[] {
  const rank = ({ zone }: Place) => {
    const index = zones.indexOf(zone);
    return index < 0 ? zones.length : index;
  };
  return [...places].sort((a, b) => rank(a) - rank(b) || a.connections - b.connections);
}
