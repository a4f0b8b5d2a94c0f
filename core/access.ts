/**
 * What one bearer of a token may do: asked at every publish and subscription of a connection or a
 * call, so the answer of the last topic is remembered (devices publish to the same one again and
 * again).
 */
import { codes, Refusal } from "./codes.ts";
import type { Due } from "./deadlines.ts";
import { type Bearer, is_allowed, type Permissions, type Right } from "./permission.ts";
import { type DeviceLimits, Rates, type Tenant } from "./tenant.ts";
import { is_shared, split_share } from "./topic_tree.ts";

const dollar = 0x24;

const own_topics = /^\$(SYS|presence|events|dead)\//;

/** Why nobody but the service publishes to a topic; null = others may. */
function refusal_of_own(topic: string): Refusal | null {
  if (topic.charCodeAt(0) !== dollar) return null;
  if (!own_topics.test(topic)) return null;
  const detail = "Topics below $SYS, $presence, $events and $dead are the server's own";
  return new Refusal(codes.forbidden, detail);
}

/**
 * Lets a publish of a device pass; answers what the service knows its topic by, or why not.
 * @param access null = everything is allowed
 */
export function admit_publish(
  access: Access | null,
  topic: string,
  bytes: number,
  now_ms: number,
): string | Refusal {
  if (access === null) return refusal_of_own(topic) ?? topic;
  return access.take_publish(topic, bytes, now_ms) ?? access.inner_topic;
}

/** Lets a will pass; answers what the service knows its topic by. Throws Refusal. */
export function admit_will(access: Access | null, topic: string): string {
  const refusal = access === null ? refusal_of_own(topic) : access.refusal_of_topic(topic);
  if (refusal !== null) throw refusal;
  return access === null ? topic : access.tenant.topic(topic);
}

export class Access implements Bearer {
  /** What waits for the end of this access; null = nothing does. */
  expiry: Due | null = null;
  /** The last topic that may be published to, and the name that the service knows it by. */
  #topic = "";
  #inner_topic = "";

  /**
   * @param device_id whose token it is; "" = of whoever has it
   * @param permissions null = everything
   * @param expires_ms Unix milliseconds; 0 = never
   * @param rates of one connection; null = no bound
   */
  constructor(
    readonly tenant: Tenant,
    readonly device_id: string,
    readonly permissions: Permissions | null,
    readonly expires_ms: number,
    readonly rates: Rates | null = null,
  ) {}

  /** The same for one connection of a device. */
  for_device(device_id: string, limits: DeviceLimits | null, now_ms: number): Access {
    const rates = limits === null ? null : new Rates(limits, now_ms);
    return new Access(this.tenant, device_id, this.permissions, this.expires_ms, rates);
  }

  /**
   * Lets a publish pass, and takes it off what may be used; answers why not. Then `inner_topic` is
   * what the service knows the topic by.
   */
  take_publish(topic: string, bytes: number, now_ms: number): Refusal | null {
    if (topic !== this.#topic) {
      const refusal = this.refusal_of_topic(topic);
      if (refusal !== null) return refusal;
      this.#topic = topic;
      this.#inner_topic = this.tenant.topic(topic);
    }
    const { rates } = this;
    if (rates !== null) {
      const wait_ms = rates.take(bytes, now_ms);
      if (wait_ms > 0) return this.tenant.over_quota("The device publishes too much", wait_ms);
    }
    return this.tenant.take_publish(bytes, now_ms);
  }

  /** Of the last topic that take_publish() has let pass. */
  get inner_topic(): string {
    return this.#inner_topic;
  }

  /** Why the bearer may not publish to a topic; null = it may. */
  refusal_of_topic(topic: string): Refusal | null {
    const own = refusal_of_own(topic);
    if (own !== null) {
      this.tenant.usage.forbidden++;
      return own;
    }
    const { permissions } = this;
    if (permissions === null || is_allowed(permissions.publish, this, topic)) return null;
    return this.#forbid("The token does not allow to publish there");
  }

  /** Why the bearer may not hear what matches a filter or topic; null = it may. */
  refusal_of_filter(filter: string): Refusal | null {
    const { permissions } = this;
    if (permissions === null) return null;
    const shared = is_shared(filter) ? split_share(filter)!.filter : filter;
    if (is_allowed(permissions.subscribe, this, shared)) return null;
    return this.#forbid("The token does not allow to subscribe to that");
  }

  /** Why there may be no subscription more; null = there may be. */
  refusal_of_subscription(): Refusal | null {
    if (this.tenant.has_subscriptions_left()) return null;
    return this.tenant.over_quota("The tenant has as many subscriptions as it may", 0);
  }

  /** Throws Refusal(forbidden) when the token does not give a right. */
  check_right(right: Right): void {
    const { permissions } = this;
    if (permissions === null || permissions.rights.includes(right)) return;
    throw this.#forbid(`The token does not give the right "${right}"`);
  }

  #forbid(detail: string): Refusal {
    this.tenant.usage.forbidden++;
    return new Refusal(codes.forbidden, detail);
  }
}
