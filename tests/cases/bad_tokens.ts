/** Tokens that must not be taken, by what is wrong with them. */
import { SignJWT, UnsecuredJWT } from "jose";
import { type Code, codes } from "../../core/codes.ts";
import { all_claims, key_pair, make_token, secret_key, spki_pem } from "../support/tokens.ts";
import type { TestKey } from "../support/tokens.ts";

const encoder = new TextEncoder();

function base64url(bytes: Uint8Array | string): string {
  const raw = typeof bytes === "string" ? encoder.encode(bytes) : bytes;
  return new Uint8Array(raw).toBase64({ alphabet: "base64url", omitPadding: true });
}

/** A token of any header and claims whatever; `sign` gets what is signed. */
async function forge(
  header: unknown,
  claims: unknown,
  sign: (data: string) => Promise<Uint8Array> | Uint8Array,
): Promise<string> {
  const data = `${base64url(JSON.stringify(header))}.${base64url(JSON.stringify(claims))}`;
  return `${data}.${base64url(await sign(data))}`;
}

async function hmac(secret: Uint8Array, data: string): Promise<Uint8Array> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", new Uint8Array(secret), algorithm, false, [
    "sign",
  ]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, encoder.encode(data)));
}

/** What is wrong, the token, and the code of the refusal. */
export async function bad_tokens(
  hs: TestKey,
  es: TestKey,
  rs: TestKey,
): Promise<[string, string, Code][]> {
  const plain = { ...all_claims, iss: "i", aud: "a" };
  const now_s = Math.floor(Date.now() / 1000);
  const claims = { ...plain, exp: now_s + 600 };
  const good = await make_token(hs, plain);
  const [head, body, signature] = good.split(".");
  const secret = Uint8Array.fromBase64(String(hs.jwk.k), { alphabet: "base64url" });
  const stranger = secret_key(hs.kid);
  const public_pem = encoder.encode(await spki_pem(rs));
  const n = Uint8Array.fromBase64(String(rs.jwk.n), { alphabet: "base64url" });
  const { d: _d, ...public_jwk } = es.jwk;
  const { unauthorized, token_expired } = codes;
  const hs_with = (header: object) =>
    forge({ alg: "HS256", kid: hs.kid, ...header }, claims, (data) => hmac(secret, data));
  return [
    ["expired", await make_token(hs, { ...plain, exp: now_s - 60 }), token_expired],
    ["not yet valid", await make_token(hs, { ...plain, nbf: now_s + 600 }), unauthorized],
    ["of another issuer", await make_token(hs, { ...plain, iss: "evil" }), unauthorized],
    [
      "for another audience",
      await make_token(hs, { ...plain, aud: "other" }),
      unauthorized,
    ],
    ["none", new UnsecuredJWT(claims).encode(), unauthorized],
    [
      "None, in another case",
      await forge({ alg: "nOnE" }, claims, () => new Uint8Array()),
      unauthorized,
    ],
    ["signature left off", `${head}.${body}.`, unauthorized],
    [
      "another claim under the signature",
      `${head}.${base64url(JSON.stringify({ ...claims, tenant: "x" }))}.${signature}`,
      unauthorized,
    ],
    ["key of a stranger with the same kid", await make_token(stranger, plain), unauthorized],
    ["unknown kid", await make_token(hs, plain, { kid: "nobody" }), unauthorized],
    ["kid of another key", await make_token(hs, plain, { kid: es.kid }), unauthorized],
    [
      "kid that is a path",
      await make_token(hs, plain, { kid: "../../dev/null" }),
      unauthorized,
    ],
    ["kid that is SQL", await make_token(hs, plain, { kid: "' OR 1=1 --" }), unauthorized],
    ["kid that is no text", await hs_with({ kid: { a: 1 } }), unauthorized],
    ["kid without end", await hs_with({ kid: "k".repeat(4000) }), unauthorized],
    [
      "HS256 with the RSA public key as PEM",
      await forge({ alg: "HS256", kid: rs.kid }, claims, (data) => hmac(public_pem, data)),
      unauthorized,
    ],
    [
      "HS256 with the RSA modulus",
      await forge({ alg: "HS256", kid: rs.kid }, claims, (data) => hmac(n, data)),
      unauthorized,
    ],
    [
      "HS256 with nothing",
      await forge({ alg: "HS256", kid: hs.kid }, claims, (data) => hmac(new Uint8Array(1), data)),
      unauthorized,
    ],
    [
      "HS512",
      await new SignJWT(claims).setProtectedHeader({ alg: "HS512", kid: hs.kid }).sign(secret),
      unauthorized,
    ],
    [
      "its own key in the header",
      await make_token(await key_pair("evil", "ES256"), plain, {
        kid: es.kid,
        jwk: public_jwk,
      }),
      unauthorized,
    ],
    [
      "critical header that nobody knows",
      await hs_with({ crit: ["b64"], b64: false }),
      unauthorized,
    ],
    [
      "ES256 signature of zeros",
      await forge({ alg: "ES256", kid: es.kid }, claims, () => new Uint8Array(64)),
      unauthorized,
    ],
    [
      "ES256 signature that is empty",
      await forge({ alg: "ES256", kid: es.kid }, claims, () => new Uint8Array()),
      unauthorized,
    ],
    [
      "claims that are no object",
      await forge({ alg: "HS256", kid: hs.kid }, [1], (data) => hmac(secret, data)),
      unauthorized,
    ],
    ["exp that is text", await hs_exp(hs, "9999999999"), unauthorized],
    [
      "tenant with a separator",
      await make_token(hs, { ...plain, tenant: "a/b" }),
      unauthorized,
    ],
    [
      "tenant with U+0001",
      await make_token(hs, { ...plain, tenant: "a\u0001" }),
      unauthorized,
    ],
    ["tenant that is empty", await make_token(hs, { ...plain, tenant: "" }), unauthorized],
    [
      "tenant that is no text",
      await make_token(hs, { ...plain, tenant: ["a"] }),
      unauthorized,
    ],
    [
      "device id of another tenant",
      await make_token(hs, { ...plain, device_id: "$\u0001acme/d" }),
      unauthorized,
    ],
    [
      "filters that are none",
      await make_token(hs, { ...plain, subscribe: ["a/#/b"] }),
      unauthorized,
    ],
    [
      "filters of another tenant",
      await make_token(hs, { ...plain, subscribe: ["$\u0001acme/#"] }),
      unauthorized,
    ],
    [
      "filters without end",
      await make_token(hs, { ...plain, subscribe: Array(1000).fill("a") }),
      unauthorized,
    ],
    ["too long", "a".repeat(9000), unauthorized],
    ["not a token", "....", unauthorized],
    ["empty", "", unauthorized],
  ];
}

async function hs_exp(hs: TestKey, exp: unknown): Promise<string> {
  const secret = Uint8Array.fromBase64(String(hs.jwk.k), { alphabet: "base64url" });
  return await forge(
    { alg: "HS256", kid: hs.kid },
    { ...all_claims, iss: "i", aud: "a", exp },
    (data) => hmac(secret, data),
  );
}
