/** Keys and tokens for tests: one key of each algorithm, made once. */
import {
  exportJWK,
  exportSPKI,
  generateKeyPair,
  importJWK,
  type JWK,
  type JWTPayload,
  SignJWT,
} from "jose";
import type { Algorithm } from "../../core/keys.ts";

export interface TestKey {
  readonly kid: string;
  readonly algorithm: Algorithm;
  /** With its private part. */
  readonly jwk: JWK;
}

export function secret_key(kid: string): TestKey {
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  const k = bytes.toBase64({ alphabet: "base64url", omitPadding: true });
  return { kid, algorithm: "HS256", jwk: { kty: "oct", kid, alg: "HS256", k } };
}

export async function key_pair(
  kid: string,
  algorithm: Exclude<Algorithm, "HS256">,
): Promise<TestKey> {
  const { privateKey } = await generateKeyPair(algorithm, { extractable: true });
  return { kid, algorithm, jwk: { ...await exportJWK(privateKey), kid } };
}

/** What goes into the file of `keys`. */
export function key_set(...keys: readonly TestKey[]): string {
  return JSON.stringify({ keys: keys.map(({ jwk }) => jwk) });
}

/** A token of these claims; `exp` is an hour from now unless it is among them. */
export async function make_token(
  key: TestKey,
  claims: JWTPayload,
  header: Record<string, unknown> = {},
): Promise<string> {
  const exp = Math.floor(Date.now() / 1000) + 3600;
  return await new SignJWT({ exp, ...claims })
    .setProtectedHeader({ alg: key.algorithm, kid: key.kid, ...header })
    .sign(await importJWK(key.jwk, key.algorithm));
}

/** What a token may be used for without limits. */
export const all_claims: JWTPayload = Object.freeze({
  publish: ["#"],
  subscribe: ["#", "$SYS/#", "$presence/#"],
  admin: true,
});

/** The public part as PEM. */
export async function spki_pem({ jwk, algorithm }: TestKey): Promise<string> {
  const { d: _d, p: _p, q: _q, dp: _dp, dq: _dq, qi: _qi, ...rest } = jwk;
  const key = await importJWK(rest, algorithm, { extractable: true }) as CryptoKey;
  return await exportSPKI(key) + "\n";
}
