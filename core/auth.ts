/**
 * Tokens: who shows one, and what it allows (RFC 7519, checked with jose). A token is verified once
 * and remembered by its hash for as long as it and the keys are good. No word of a token is ever
 * written to a log or an answer.
 */
import { createHash } from "node:crypto";
import { decodeProtectedHeader, errors, type JWTPayload, jwtVerify } from "jose";
import { Access } from "./access.ts";
import { codes, Refusal } from "./codes.ts";
import { algorithms, type KeyRing, type TokenKey } from "./keys.ts";
import { limits } from "./limits.ts";
import { device_id_problem } from "./namespace.ts";
import { type Permissions, type Right, rights, template_problem } from "./permission.ts";
import type { Soon } from "./store/mod.ts";
import { is_tenant_name, type Tenants } from "./tenant.ts";
import { utf8_bytes } from "./protocol/utf8.ts";

export interface AuthOptions {
  readonly keys: KeyRing;
  readonly tenants: Tenants;
  /** "" = any. */
  readonly issuer: string;
  readonly audience: string;
  readonly clock_skew_s: number;
  /** Unix milliseconds. */
  readonly now_ms: () => number;
}

/** Different sets of permissions that are shared; then it begins anew. */
const permissions_max = 1024;

/** Tokens that were looked at. */
export interface AuthCounts {
  verified: number;
  /** Known by their hash. */
  remembered: number;
  /** Not taken, by the name of the code. */
  unauthorized: number;
  expired: number;
}

export class Auth {
  readonly counts: AuthCounts = { verified: 0, remembered: 0, unauthorized: 0, expired: 0 };
  /** Good tokens by hash, those used last at the end. */
  readonly #known = new Map<string, Access>();
  readonly #permissions = new Map<string, Permissions>();
  #keys_version = -1;

  constructor(readonly options: AuthOptions) {}

  /** How many tokens are remembered. */
  get known_count(): number {
    return this.#known.size;
  }

  /**
   * What a token allows; at once when it is known. Throws, or answers with, Refusal: unauthorized,
   * token_expired, keys_unavailable.
   */
  access_of(token: string): Soon<Access> {
    if (token === "") throw this.#refuse("A token is missing");
    if (token.length > limits.token_bytes_max) throw this.#refuse("The token is too long");
    const { keys, now_ms } = this.options;
    if (this.#keys_version !== keys.version) {
      this.#known.clear();
      this.#keys_version = keys.version;
    }
    const hash = createHash("sha256").update(token).digest("base64");
    const known = this.#known.get(hash);
    if (known === undefined) return this.#verify(token, hash);
    this.#known.delete(hash);
    if (this.#is_over(known, now_ms())) throw this.#expired();
    this.#known.set(hash, known);
    this.counts.remembered++;
    return known;
  }

  /** When a connection of this access ends, Unix milliseconds; 0 = not by time. */
  ends_ms({ expires_ms }: Access): number {
    return expires_ms === 0 ? 0 : expires_ms + this.options.clock_skew_s * 1000;
  }

  #is_over(access: Access, now_ms: number): boolean {
    return access.expires_ms > 0 && this.ends_ms(access) <= now_ms;
  }

  async #verify(token: string, hash: string): Promise<Access> {
    const { keys } = this.options;
    const version = keys.version;
    const payload = await this.#payload_of(token);
    const access = this.#access(payload);
    this.counts.verified++;
    if (version !== keys.version && this.#keys_version !== keys.version) return access;
    if (this.#known.size >= limits.tokens_cached_max) {
      for (const oldest of this.#known.keys()) {
        this.#known.delete(oldest);
        break;
      }
    }
    this.#known.set(hash, access);
    return access;
  }

  async #payload_of(token: string): Promise<JWTPayload> {
    const { kid, alg } = this.#header_of(token);
    const candidates = await this.options.keys.candidates(kid, alg);
    if (candidates.length === 0) throw this.#refuse("The token is signed with an unknown key");
    for (const candidate of candidates) {
      const payload = await this.#check(token, candidate);
      if (payload !== null) return payload;
    }
    throw this.#refuse("The token's signature is not valid");
  }

  #header_of(token: string): { kid: string; alg: string } {
    let header: ReturnType<typeof decodeProtectedHeader>;
    try {
      header = decodeProtectedHeader(token);
    } catch {
      throw this.#refuse("The token is not a signed JWT");
    }
    const { alg, kid = "" } = header;
    if (!algorithms.some((one) => one === alg)) {
      throw this.#refuse("The token is signed with an algorithm that is not taken");
    }
    if (typeof kid !== "string" || kid.length > 256) {
      throw this.#refuse("The token's kid is not a name");
    }
    return { alg: alg!, kid };
  }

  /** The claims; null = another key has signed it. */
  async #check(token: string, { key, algorithm }: TokenKey): Promise<JWTPayload | null> {
    const { issuer, audience, clock_skew_s, now_ms } = this.options;
    try {
      const { payload } = await jwtVerify(token, key, {
        algorithms: [algorithm],
        clockTolerance: clock_skew_s,
        currentDate: new Date(now_ms()),
        ...(issuer === "" ? {} : { issuer }),
        ...(audience === "" ? {} : { audience }),
      });
      return payload;
    } catch (error) {
      if (error instanceof errors.JWSSignatureVerificationFailed) return null;
      if (error instanceof errors.JWTExpired) throw this.#expired();
      if (error instanceof errors.JWTClaimValidationFailed) {
        throw this.#refuse(`The token's claim ${error.claim} does not hold`);
      }
      if (error instanceof errors.JOSEError) throw this.#refuse("The token is not a valid JWT");
      throw error;
    }
  }

  #access(payload: JWTPayload): Access {
    const { tenant = "default", device_id = "", exp, admin } = payload;
    if (typeof tenant !== "string" || !is_tenant_name(tenant)) {
      throw this.#refuse("The token's claim tenant is not a name");
    }
    const is_id = typeof device_id === "string" && device_id_problem(device_id) === undefined &&
      utf8_bytes(device_id) <= limits.device_id_bytes_max;
    if (!is_id) throw this.#refuse("The token's claim device_id is not a device's id");
    const permissions = this.#shared({
      publish: this.#filters(payload, "publish"),
      subscribe: this.#filters(payload, "subscribe"),
      rights: this.#rights(admin, tenant),
    });
    const expires_ms = exp === undefined ? 0 : exp * 1000;
    return new Access(this.options.tenants.get(tenant), device_id, permissions, expires_ms);
  }

  /** The tokens of a fleet allow the same, each to its device: they share one list. */
  #shared(permissions: Permissions): Permissions {
    const text = JSON.stringify(permissions);
    const known = this.#permissions.get(text);
    if (known !== undefined) return known;
    if (this.#permissions.size >= permissions_max) this.#permissions.clear();
    this.#permissions.set(text, permissions);
    return permissions;
  }

  #filters(payload: JWTPayload, name: "publish" | "subscribe"): readonly string[] {
    const claim = payload[name] ?? [];
    const list = typeof claim === "string" ? [claim] : claim;
    const is_good = Array.isArray(list) && list.length <= limits.token_filters_max &&
      list.every((each) => typeof each === "string" && template_problem(each) === undefined);
    if (!is_good) throw this.#refuse(`The token's claim ${name} is not a list of topic filters`);
    return list;
  }

  /** The service as a whole is nobody's but the default tenant's. */
  #rights(claim: unknown, tenant: string): readonly Right[] {
    const list = claim === undefined || claim === false ? [] : claim === true ? rights : claim;
    if (!Array.isArray(list)) throw this.#refuse("The token's claim admin is not a list of rights");
    return rights.filter((right) => {
      return list.includes(right) && (right !== "operate" || tenant === "default");
    });
  }

  #refuse(detail: string): Refusal {
    this.counts.unauthorized++;
    return new Refusal(codes.unauthorized, detail);
  }

  #expired(): Refusal {
    this.counts.expired++;
    return new Refusal(codes.token_expired);
  }
}
