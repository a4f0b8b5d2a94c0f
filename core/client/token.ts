/** `longwire token`: makes a token with a private key, on the operator's own machine. */
import { type JWTPayload, SignJWT } from "jose";
import { duration_ms } from "../duration.ts";
import { parse_keys, type TokenKey } from "../keys.ts";
import { device_id_problem } from "../namespace.ts";
import { type Right, rights, template_problem } from "../permission.ts";
import { is_tenant_name } from "../tenant.ts";
import { take_apart, UsageError } from "./options.ts";
import { plain, print, status, with_usage } from "./terminal.ts";

export const token_help = `Make a token that says who may publish and subscribe where

Usage: longwire token --key file [--option value ...]

  --key file             a private key: JWK, JWK set or PEM (PKCS #8); HS256 takes the secret
  --kid name             of several keys this one
  --publish filters      topic filters, comma-separated; {device_id} and {tenant} stand for
  --subscribe filters    whose token it is
  --device_id id         good for this device only
  --tenant name          within this tenant (default: the default tenant)
  --admin rights         devices, operate: comma-separated
  --ttl duration         good for that long: 90s, 5m, 2h, 30d, never (default 1h)
  --issuer text          what the service's settings issuer and audience ask for
  --audience text
  --json                 the token, its claims and when it ends, as JSON

The token goes to stdout. The exit status is 0 when it was made, 2 for wrong arguments.
`;

const value_names = [
  "key",
  "kid",
  "publish",
  "subscribe",
  "device_id",
  "tenant",
  "admin",
  "ttl",
  "issuer",
  "audience",
];

interface TokenOptions {
  readonly key: string;
  readonly kid: string;
  readonly claims: JWTPayload;
  /** 0 = it does not end. */
  readonly ttl_ms: number;
  readonly json: boolean;
}

function filters_of(name: string, text: string): string[] {
  const filters = text.split(",").map((each) => each.trim());
  for (const filter of filters) {
    const problem = template_problem(filter);
    if (problem !== undefined) throw new UsageError(`Cannot use --${name} "${filter}": ${problem}`);
  }
  return filters;
}

function rights_of(text: string): Right[] {
  return text.split(",").map((name) => {
    const right = rights.find((each) => each === name.trim());
    if (right !== undefined) return right;
    throw new UsageError(`Cannot use --admin "${name}": the rights are ${rights.join(" and ")}`);
  });
}

function ttl_of(text: string): number {
  if (text === "never") return 0;
  const ttl_ms = duration_ms(text);
  if (ttl_ms !== undefined && ttl_ms > 0) return ttl_ms;
  throw new UsageError(`Cannot use --ttl "${text}": it must be a duration such as 1h, or never`);
}

/** @throws UsageError */
export function parse_token(args: readonly string[]): TokenOptions {
  const { words, values, flags } = take_apart(args, value_names, ["json"]);
  if (words.length > 0) throw new UsageError(`Cannot use "${words[0]}": token takes options only`);
  const key = values.get("key");
  if (key === undefined) throw new UsageError("Cannot make a token: --key is missing");
  const claims: JWTPayload = {};
  for (const name of ["publish", "subscribe"] as const) {
    const text = values.get(name);
    if (text !== undefined) claims[name] = filters_of(name, text);
  }
  const device_id = values.get("device_id");
  const problem = device_id === undefined ? undefined : device_id_problem(device_id);
  if (problem !== undefined) throw new UsageError(`Cannot use --device_id: ${problem}`);
  const tenant = values.get("tenant");
  if (tenant !== undefined && !is_tenant_name(tenant)) {
    throw new UsageError(`Cannot use --tenant "${tenant}": letters, digits, dots, hyphens, _`);
  }
  const admin = values.get("admin");
  const [iss, aud] = [values.get("issuer"), values.get("audience")];
  Object.assign(claims, {
    ...(device_id === undefined ? {} : { device_id }),
    ...(tenant === undefined ? {} : { tenant }),
    ...(admin === undefined ? {} : { admin: rights_of(admin) }),
    ...(iss === undefined ? {} : { iss }),
    ...(aud === undefined ? {} : { aud }),
  });
  const ttl_ms = ttl_of(values.get("ttl") ?? "1h");
  return { key, kid: values.get("kid") ?? "", claims, ttl_ms, json: flags.has("json") };
}

async function key_of({ key: file, kid }: TokenOptions): Promise<TokenKey> {
  try {
    const keys = await parse_keys(await Deno.readTextFile(file), "sign");
    const found = kid === "" ? keys[0] : keys.find((key) => key.kid === kid);
    if (found !== undefined) return found;
    throw new Error(`there is no key "${kid}" in it`);
  } catch (error) {
    const why = plain(error instanceof Error ? error.message : String(error));
    throw new UsageError(`Cannot use the key in ${file}: ${why}`);
  }
}

/** Answers the exit status. */
export async function run_token(args: readonly string[]): Promise<number> {
  return await with_usage(args, token_help, async () => {
    const options = parse_token(args);
    const { kid, algorithm, key } = await key_of(options);
    const iat = Math.floor(Date.now() / 1000);
    const end = options.ttl_ms === 0 ? {} : { exp: iat + Math.ceil(options.ttl_ms / 1000) };
    const claims = { ...options.claims, iat, ...end };
    const header = { alg: algorithm, typ: "JWT", ...(kid === "" ? {} : { kid }) };
    const token = await new SignJWT(claims).setProtectedHeader(header).sign(key);
    const expires = claims.exp === undefined ? null : new Date(claims.exp * 1000).toISOString();
    print(options.json ? `${JSON.stringify({ token, claims, expires })}\n` : `${token}\n`);
    return status.done;
  });
}
