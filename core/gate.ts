/**
 * Who may come in: devices and calls show what they have, and get an access. Without keys everybody
 * may do everything, on loopback (config.ts sees to that).
 */
import { Access } from "./access.ts";
import type { Auth } from "./auth.ts";
import { codes, Refusal } from "./codes.ts";
import type { Deadlines, Due } from "./deadlines.ts";
import { default_tenant, device_id_problem, new_id } from "./namespace.ts";
import type { Permissions } from "./permission.ts";
import type { Soon } from "./store/mod.ts";
import type { DeviceLimits, Tenants } from "./tenant.ts";

/** What a device shows with its first packet. */
export interface Shown {
  /** The id that it asks for; "" = any. */
  readonly id: string;
  /** "" = none. */
  readonly token: string;
  /** Common name of its verified certificate; "" = none, or certificates name nobody here. */
  readonly certified: string;
}

/** Who a device is. */
export interface Who {
  /** As the device knows it. */
  readonly id: string;
  /** null = everything, and nothing is counted. */
  readonly access: Access | null;
}

export interface GateOptions {
  /** null = there are no keys. */
  readonly auth: Auth | null;
  readonly tenants: Tenants;
  /** null = no bound. */
  readonly device_limits: DeviceLimits | null;
  /** What a device may that shows a certificate and no token; null = certificates name nobody. */
  readonly certificate_permissions: Permissions | null;
  readonly deadlines: Deadlines;
  /** Unix milliseconds. */
  readonly now_ms: () => number;
}

/** One connection of a tenant that is not a device's. */
export class Hold implements Due {
  readonly #ends_ms: number;
  #released = false;

  constructor(readonly gate: Gate, readonly access: Access, readonly end: () => void) {
    access.tenant.usage.connections++;
    this.#ends_ms = gate.ends_ms(access);
    if (this.#ends_ms > 0) gate.deadlines.add(this.#ends_ms, this);
  }

  due(): void {
    this.end();
  }

  /** It is gone; may be called twice. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.access.tenant.usage.connections--;
    if (this.#ends_ms > 0) this.gate.deadlines.remove(this.#ends_ms, this);
  }
}

export class Gate {
  /** What calls may without keys. */
  readonly #open: Access;

  constructor(readonly options: GateOptions) {
    const tenant = options.tenants.get(default_tenant);
    this.#open = new Access(tenant, "", null, 0);
  }

  /** Whether the devices of the default tenant are counted where there are no keys. */
  get #is_counting(): boolean {
    const is_limited = Object.values(this.#open.tenant.limits).some((limit) => limit > 0);
    return is_limited || this.options.device_limits !== null;
  }

  get deadlines(): Deadlines {
    return this.options.deadlines;
  }

  /** What calls may that need no token. */
  get anybody(): Access {
    return this.#open;
  }

  /** Whether calls need no token. */
  get is_open(): boolean {
    return this.options.auth === null;
  }

  /** Whether certificates name devices. */
  get takes_certificates(): boolean {
    return this.options.certificate_permissions !== null;
  }

  /** When an access ends, Unix milliseconds; 0 = not by time. */
  ends_ms(access: Access): number {
    return this.options.auth?.ends_ms(access) ?? 0;
  }

  /** What a call may. Throws, or answers with, Refusal. */
  access_of_call(token: string): Soon<Access> {
    return this.options.auth?.access_of(token) ?? this.#open;
  }

  /** Who a device is and what it may. Throws, or answers with, Refusal. */
  admit(shown: Shown): Soon<Who> {
    const problem = device_id_problem(shown.id);
    if (problem !== undefined) throw new Refusal(codes.client_id_invalid, problem);
    const { auth } = this.options;
    const name = shown.certified;
    if (name !== "" && (auth === null || shown.token === "")) {
      return this.#admit_as(shown.id, this.#access_of_certificate(name));
    }
    if (auth === null) {
      const id = shown.id || new_id();
      return { id, access: this.#is_counting ? this.#for_device(this.#open, id) : null };
    }
    const access = auth.access_of(shown.token);
    const admit = (found: Access) => {
      if (name !== "" && found.device_id !== "" && found.device_id !== name) {
        throw new Refusal(codes.forbidden, "Token and certificate are of different devices");
      }
      return this.#admit_as(shown.id, found, name);
    };
    return access instanceof Promise ? access.then(admit) : admit(access);
  }

  /**
   * Counts a stream of HTTP for its tenant until it is released, and calls `end` when the token
   * expires. Throws Refusal(quota_exceeded) when the tenant has as many connections as it may.
   */
  hold(access: Access, end: () => void): Hold {
    access.tenant.check_connections();
    return new Hold(this, access, end);
  }

  #access_of_certificate(name: string): Access {
    const problem = device_id_problem(name);
    if (problem !== undefined) throw new Refusal(codes.unauthorized, problem);
    const { tenants, certificate_permissions } = this.options;
    return new Access(tenants.get(default_tenant), name, certificate_permissions, 0);
  }

  /** @param certified the device's id by its certificate; "" = it has none */
  #admit_as(asked: string, access: Access, certified = ""): Who {
    const bound = access.device_id || certified;
    if (bound !== "" && asked !== "" && asked !== bound) {
      access.tenant.usage.forbidden++;
      throw new Refusal(codes.forbidden, "The credentials are of another device");
    }
    const id = bound || asked || new_id();
    return { id, access: this.#for_device(access, id) };
  }

  #for_device(access: Access, id: string): Access {
    const { device_limits, now_ms } = this.options;
    return access.for_device(id, device_limits, now_ms());
  }
}
