/**
 * Who shares the service, what each may use of it and has used. Invariant: what one tenant has used
 * up is refused to that tenant alone.
 */
import { codes, Refusal } from "./codes.ts";
import { limits } from "./limits.ts";
import { default_tenant, Namespace } from "./namespace.ts";
import { TokenBucket } from "./token_bucket.ts";

/** What one tenant may use; 0 = no bound. */
export interface TenantLimits {
  /** Devices, event streams and WebSockets at once. */
  readonly connections: number;
  /** Of connected devices. */
  readonly subscriptions: number;
  readonly publishes_per_s: number;
  /** Payload bytes. */
  readonly bytes_per_s: number;
}

/** What operators decide while the service runs (cluster/rules.ts). */
export interface LimitRules {
  /** Of every tenant. */
  readonly tenant: Partial<TenantLimits>;
  /** Of some. */
  readonly tenants: Readonly<Record<string, Partial<TenantLimits>>>;
}

/** What one connection may use; 0 = no bound. */
export interface DeviceLimits {
  readonly publishes_per_s: number;
  readonly bytes_per_s: number;
}

export const tenant_limit_names = [
  "connections",
  "subscriptions",
  "publishes_per_s",
  "bytes_per_s",
] as const satisfies readonly (keyof TenantLimits)[];

/** Publishes and bytes of someone, each within its rate. */
export class Rates {
  readonly #publishes: TokenBucket | null;
  readonly #bytes: TokenBucket | null;

  constructor(limits: DeviceLimits, now_ms: number) {
    const { publishes_per_s, bytes_per_s } = limits;
    this.#publishes = publishes_per_s > 0 ? new TokenBucket(publishes_per_s, now_ms) : null;
    this.#bytes = bytes_per_s > 0 ? new TokenBucket(bytes_per_s, now_ms) : null;
  }

  /** Takes one publish; answers 0, or after how many milliseconds it may be tried again. */
  take(bytes: number, now_ms: number): number {
    const wait_ms = Math.max(
      this.#publishes?.wait_ms(1, now_ms) ?? 0,
      this.#bytes?.wait_ms(bytes, now_ms) ?? 0,
    );
    if (wait_ms > 0) return wait_ms;
    this.#publishes?.take(1, now_ms);
    this.#bytes?.take(bytes, now_ms);
    return 0;
  }
}

/** What a tenant uses and has used, for metrics. */
export interface Usage {
  connections: number;
  subscriptions: number;
  published: number;
  published_bytes: number;
  /** Refused for want of permission, and because something was used up. */
  forbidden: number;
  over_quota: number;
}

export class Tenant extends Namespace {
  readonly usage: Usage = {
    connections: 0,
    subscriptions: 0,
    published: 0,
    published_bytes: 0,
    forbidden: 0,
    over_quota: 0,
  };
  #rates: Rates;
  #limits: TenantLimits;

  constructor(name: string, limits: TenantLimits, now_ms: number) {
    super(name);
    this.#limits = limits;
    this.#rates = new Rates(limits, now_ms);
  }

  get limits(): TenantLimits {
    return this.#limits;
  }

  /** Others hold from now on; what is over them stays as it is, and nothing is added. */
  use_limits(limits: TenantLimits, now_ms: number): void {
    const { publishes_per_s, bytes_per_s } = this.#limits;
    this.#limits = limits;
    if (limits.publishes_per_s === publishes_per_s && limits.bytes_per_s === bytes_per_s) return;
    this.#rates = new Rates(limits, now_ms);
  }

  /** Takes one publish of the tenant's rates. Throws Refusal(quota_exceeded). */
  take_publish(bytes: number, now_ms: number): Refusal | null {
    const wait_ms = this.#rates.take(bytes, now_ms);
    if (wait_ms === 0) {
      this.usage.published++;
      this.usage.published_bytes += bytes;
      return null;
    }
    return this.over_quota("The tenant publishes more than its rate", wait_ms);
  }

  /** Throws Refusal(quota_exceeded) when there is no room for one connection more. */
  check_connections(): void {
    const { connections } = this.limits;
    if (connections === 0 || this.usage.connections < connections) return;
    throw this.over_quota(`The tenant has ${connections} connections, as many as it may`, 5000);
  }

  /** Whether there is room for one subscription more. */
  has_subscriptions_left(): boolean {
    const { subscriptions } = this.limits;
    return subscriptions === 0 || this.usage.subscriptions < subscriptions;
  }

  over_quota(detail: string, wait_ms: number): Refusal {
    this.usage.over_quota++;
    return new Refusal(codes.quota_exceeded, detail, wait_ms);
  }
}

/** Whether a text can be a tenant's name: it stands in topics, labels and logs. */
export function is_tenant_name(text: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(text);
}

export class Tenants {
  readonly #by_name = new Map<string, Tenant>();
  /** Come before what the settings say. */
  #rules: LimitRules = { tenant: {}, tenants: {} };

  constructor(
    readonly usual: TenantLimits,
    readonly special: Readonly<Record<string, Partial<TenantLimits>>>,
    readonly now_ms: () => number,
  ) {}

  /**
   * The tenant of a name that is_tenant_name() has passed. Throws Refusal(connection_limit) when
   * there are as many as may be, all of them in use.
   */
  get(name: string): Tenant {
    const known = this.#by_name.get(name);
    if (known !== undefined) return known;
    if (this.#by_name.size >= limits.tenants_max) this.#forget_idle();
    const tenant = new Tenant(name, this.#limits_of(name), this.now_ms());
    this.#by_name.set(name, tenant);
    return tenant;
  }

  get count(): number {
    return this.#by_name.size;
  }

  /** Limits that operators have set meanwhile. */
  use_rules(rules: LimitRules): void {
    this.#rules = rules;
    for (const [name, tenant] of this.#by_name) {
      tenant.use_limits(this.#limits_of(name), this.now_ms());
    }
  }

  #limits_of(name: string): TenantLimits {
    const { tenant, tenants } = this.#rules;
    return { ...this.usual, ...tenant, ...this.special[name], ...tenants[name] };
  }

  all(): Iterable<Tenant> {
    return this.#by_name.values();
  }

  #forget_idle(): void {
    for (const [name, { usage }] of this.#by_name) {
      if (usage.connections === 0 && name !== default_tenant) this.#by_name.delete(name);
    }
    if (this.#by_name.size < limits.tenants_max) return;
    throw new Refusal(codes.connection_limit, "The service serves as many tenants as it may");
  }
}
