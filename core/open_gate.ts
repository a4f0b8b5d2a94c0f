/** Settings -> the gate: where the keys lie, what tenants and certificates may. */
import { Auth } from "./auth.ts";
import type { Config } from "./config.ts";
import { Deadlines } from "./deadlines.ts";
import { Gate } from "./gate.ts";
import { fetch_keys, KeyRing, type KeySource } from "./keys.ts";
import type { Log } from "./log.ts";
import { StartError } from "./startup.ts";
import { is_tenant_name, tenant_limit_names, type TenantLimits, Tenants } from "./tenant.ts";

/** How often the file and the URL are looked at. */
const file_refresh_ms = 2_000;
const url_refresh_ms = 300_000;

/** What is handed in: reads a text file. */
type ReadFile = (path: string) => Promise<string>;

export interface OpenGate {
  readonly gate: Gate;
  readonly tenants: Tenants;
  /** null = there are no keys. */
  readonly auth: Auth | null;
  /** Ends its clocks. */
  stop(): void;
}

function reason_of(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replace(/\.$/, "");
}

/** Limits of some tenants by name: a JSON object of objects. Throws StartError. */
async function read_tenants(path: string, read_file: ReadFile) {
  const refuse = (why: string) => new StartError(`Cannot use tenants "${path}": ${why}`);
  let content: unknown;
  try {
    content = JSON.parse(await read_file(path));
  } catch (error) {
    throw refuse(reason_of(error));
  }
  const special: Record<string, Partial<TenantLimits>> = {};
  for (const [name, limits] of Object.entries(content as Record<string, unknown>)) {
    if (!is_tenant_name(name)) throw refuse(`"${name}" is not a tenant's name`);
    if (typeof limits !== "object" || limits === null) throw refuse(`"${name}" is not an object`);
    for (const [limit, value] of Object.entries(limits)) {
      if (!tenant_limit_names.some((known) => known === limit)) {
        throw refuse(`"${name}" has no limit "${limit}"`);
      }
      if (!Number.isSafeInteger(value) || value < 0) {
        throw refuse(`${limit} of "${name}" is not a whole number`);
      }
    }
    special[name] = limits;
  }
  return special;
}

/** The limits of each tenant that the file does not name. */
function usual_limits(config: Config): TenantLimits {
  return {
    connections: config.tenant_connections,
    subscriptions: config.tenant_subscriptions,
    publishes_per_s: config.tenant_publishes_per_s,
    bytes_per_s: config.tenant_bytes_per_s,
  };
}

function sources_of({ keys, jwks }: Config, read_file: ReadFile): KeySource[] {
  const sources: KeySource[] = [];
  if (keys !== "") {
    const read = () => read_file(keys);
    sources.push({ name: `keys "${keys}"`, refresh_ms: file_refresh_ms, read });
  }
  if (jwks !== "") {
    const read = () => fetch_keys(jwks);
    sources.push({ name: `jwks "${jwks}"`, refresh_ms: url_refresh_ms, read });
  }
  return sources;
}

/** Throws StartError where the keys cannot be used. */
export async function open_gate(
  config: Config,
  log: Log,
  now_ms: () => number,
  read_file: ReadFile,
): Promise<OpenGate> {
  const special = config.tenants === "" ? {} : await read_tenants(config.tenants, read_file);
  const tenants = new Tenants(usual_limits(config), special, now_ms);
  const sources = sources_of(config, read_file);
  const ring = new KeyRing(sources, log);
  if (sources.length > 0) {
    try {
      await ring.load();
    } catch (error) {
      throw new StartError(`Cannot use the keys for tokens: ${reason_of(error)}`);
    }
  }
  const { issuer, audience, clock_skew_s } = config;
  const { device_publishes_per_s, device_bytes_per_s } = config;
  const is_limited = device_publishes_per_s > 0 || device_bytes_per_s > 0;
  const deadlines = new Deadlines(now_ms);
  const auth = sources.length === 0
    ? null
    : new Auth({ keys: ring, tenants, issuer, audience, clock_skew_s, now_ms });
  const gate = new Gate({
    auth,
    tenants,
    device_limits: is_limited
      ? { publishes_per_s: device_publishes_per_s, bytes_per_s: device_bytes_per_s }
      : null,
    certificate_permissions: config.certificate_devices === "off" ? null : {
      publish: config.certificate_publish,
      subscribe: config.certificate_subscribe,
      rights: [],
    },
    deadlines,
    now_ms,
  });
  const stop = () => {
    ring.stop();
    deadlines.stop();
  };
  return { gate, tenants, auth, stop };
}
