/**
 * The keys that tokens are checked with: read from a file or a JWKS URL, read again when they may
 * have changed, and at once (not too often) when a token names a key that is not there. Invariant:
 * a set that cannot be read or used changes nothing; the last good one is kept.
 */
import { type CryptoKey, importJWK, importPKCS8, importSPKI, importX509, type JWK } from "jose";
import { codes, Refusal } from "./codes.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";

/** The algorithms of JSON Web Signature that are taken (RFC 7518 section 3.1, RFC 8037). */
export const algorithms = ["HS256", "ES256", "RS256", "EdDSA"] as const;
export type Algorithm = typeof algorithms[number];

/** A key, and the one algorithm that it is for: no token can choose another. */
export interface TokenKey {
  /** "" = it has no name, and is tried for every token. */
  readonly kid: string;
  readonly algorithm: Algorithm;
  readonly key: CryptoKey | Uint8Array;
}

/** Why a key set cannot be used, as half a sentence. */
export class KeysError extends Error {
  override readonly name = "KeysError";
}

/** RFC 7518 section 3.2: a key as long as the hash at least. */
const secret_bytes_min = 32;
/** RFC 7518 section 3.3. */
const modulus_bits_min = 2048;

/** RFC 7517, RFC 7518 section 6, RFC 8037 section 2. */
export function algorithm_of({ kty, crv, alg }: JWK): Algorithm {
  const found = kty === "oct"
    ? "HS256"
    : kty === "RSA"
    ? "RS256"
    : kty === "EC" && crv === "P-256"
    ? "ES256"
    : kty === "OKP" && crv === "Ed25519"
    ? "EdDSA"
    : undefined;
  if (found === undefined) {
    throw new KeysError(`a key of type ${kty}${crv === undefined ? "" : ` ${crv}`} is not taken`);
  }
  const is_same = alg === undefined || alg === found || found === "EdDSA" && alg === "Ed25519";
  if (!is_same) throw new KeysError(`a ${kty} key with "alg": "${alg}" is not taken`);
  return found;
}

/** @param use verify: private parts are left out; sign: they are needed */
async function key_of_jwk(jwk: JWK, use: "verify" | "sign"): Promise<TokenKey> {
  const algorithm = algorithm_of(jwk);
  const { d, p, q, dp, dq, qi, oth: _oth, key_ops: _ops, ...rest } = jwk;
  if (use === "sign" && algorithm !== "HS256" && d === undefined) {
    throw new KeysError("the key is public: only a private key makes tokens");
  }
  const is_private = use === "sign" && d !== undefined;
  const own = is_private ? { ...rest, d, p, q, dp, dq, qi } as JWK : rest;
  const key = await importJWK(own, algorithm);
  check_strength(key);
  return { kid: jwk.kid ?? "", algorithm, key };
}

function check_strength(key: CryptoKey | Uint8Array): void {
  if (key instanceof Uint8Array) {
    if (key.length >= secret_bytes_min) return;
    throw new KeysError(`a secret has ${key.length} bytes; it must have ${secret_bytes_min}`);
  }
  const { modulusLength: bits = modulus_bits_min } = key.algorithm as RsaHashedKeyAlgorithm;
  if (bits < modulus_bits_min) {
    throw new KeysError(`an RSA key has ${bits} bits; it must have ${modulus_bits_min}`);
  }
}

/** A PEM text names no algorithm but in its bytes: the one that can read it is its own. */
async function key_of_pem(pem: string, label: string): Promise<TokenKey> {
  const read = label === "CERTIFICATE"
    ? importX509
    : label === "PUBLIC KEY"
    ? importSPKI
    : label === "PRIVATE KEY"
    ? importPKCS8
    : undefined;
  if (read === undefined) throw new KeysError(`"BEGIN ${label}" is not taken`);
  for (const algorithm of ["ES256", "EdDSA", "RS256"] as const) {
    try {
      const key = await read(pem, algorithm);
      check_strength(key);
      return { kid: "", algorithm, key };
    } catch (error) {
      if (error instanceof KeysError) throw error;
    }
  }
  throw new KeysError("a PEM key is not of RSA, P-256 or Ed25519");
}

const pem_block = /-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----/g;

/**
 * The keys of a text: a JWK set, one JWK, or PEM (public keys and certificates; for `sign` private
 * keys). Keys of a set that are for something else are left out. Throws KeysError.
 */
export async function parse_keys(
  text: string,
  use: "verify" | "sign" = "verify",
): Promise<TokenKey[]> {
  if (text.length > limits.keys_bytes_max) throw new KeysError("it is too large");
  const blocks = [...text.matchAll(pem_block)];
  const keys = blocks.length > 0
    ? await Promise.all(
      blocks.filter(([, label]) => use === "sign" || label !== "PRIVATE KEY").map(
        ([pem, label]) => key_of_pem(pem, label),
      ),
    )
    : await Promise.all(jwks_of(text).map((jwk) => key_of_jwk(jwk, use)));
  if (keys.length === 0) throw new KeysError("there is no key in it");
  if (keys.length > limits.keys_max) {
    throw new KeysError(`it has more than ${limits.keys_max} keys`);
  }
  return keys;
}

function jwks_of(text: string): JWK[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new KeysError("it is neither JSON nor PEM"); // the parser's words would quote the key
  }
  const list: unknown = is_object(json) && "keys" in json ? json.keys : [json];
  if (!Array.isArray(list) || !list.every(is_object)) throw new KeysError("it is not a JWK set");
  return (list as JWK[]).filter(({ use, key_ops }) => {
    return (use ?? "sig") === "sig" &&
      (key_ops === undefined || key_ops.includes("verify") || key_ops.includes("sign"));
  });
}

function is_object(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Where a key set lies. */
export interface KeySource {
  /** For people: the setting and its value. */
  readonly name: string;
  readonly refresh_ms: number;
  /** Throws an Error that says why it cannot be had. */
  read(): Promise<string>;
}

/** One source and what it gave last. */
interface Shelf {
  readonly source: KeySource;
  text: string;
  keys: readonly TokenKey[];
  /** When it was asked last, on the monotonic clock. */
  asked_ms: number;
  asking: Promise<void> | null;
}

export class KeyRing {
  /** Changes with the keys: what was found with an older one is to be found again. */
  version = 0;
  /** Reads that failed. */
  failures = 0;
  readonly #shelves: readonly Shelf[];
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(
    sources: readonly KeySource[],
    readonly log: Log,
    readonly refetch_ms: number = limits.keys_refetch_ms,
  ) {
    this.#shelves = sources.map((source) => {
      return { source, text: "", keys: [], asked_ms: -Infinity, asking: null };
    });
  }

  /** Reads every source, and from then on again and again. Throws what the first of them threw. */
  async load(): Promise<void> {
    for (const shelf of this.#shelves) await this.#read(shelf);
    this.watch();
  }

  /** Reads sources again when it is time to. */
  watch(): void {
    const interval_ms = Math.min(...this.#shelves.map(({ source }) => source.refresh_ms));
    this.#timer = setInterval(() => {
      for (const shelf of this.#shelves) {
        if (performance.now() - shelf.asked_ms >= shelf.source.refresh_ms) void this.#ask(shelf);
      }
    }, interval_ms);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /**
   * Keys that a token of this header may be signed with. When none has its name the sources are
   * asked again, but not sooner than keys_refetch_ms after the last time. Throws
   * Refusal(keys_unavailable) where there is no key at all.
   */
  async candidates(kid: string, algorithm: string): Promise<TokenKey[]> {
    const found = this.#find(kid, algorithm);
    if (found.length > 0) return found;
    const now_ms = performance.now();
    const due = this.#shelves.filter(({ asked_ms, asking }) =>
      asking !== null || now_ms - asked_ms >= this.refetch_ms
    );
    await Promise.all(due.map((shelf) => this.#ask(shelf)));
    if (this.#shelves.every(({ keys }) => keys.length === 0)) {
      throw new Refusal(codes.keys_unavailable);
    }
    return due.length === 0 ? [] : this.#find(kid, algorithm);
  }

  #find(kid: string, algorithm: string): TokenKey[] {
    return this.#shelves.flatMap(({ keys }) => keys).filter((key) => {
      return key.algorithm === algorithm && (kid === "" || key.kid === "" || key.kid === kid);
    });
  }

  /** Reads a source unless it is being read; a failure is told, and the last good set kept. */
  #ask(shelf: Shelf): Promise<void> {
    return shelf.asking ??= this.#read(shelf).catch((error) => {
      this.failures++;
      const reason = error instanceof Error ? error.message : String(error);
      this.log.error("cannot read the keys for tokens", { source: shelf.source.name, reason });
    }).finally(() => shelf.asking = null);
  }

  async #read(shelf: Shelf): Promise<void> {
    shelf.asked_ms = performance.now();
    const text = await shelf.source.read();
    if (text === shelf.text) return;
    shelf.keys = await parse_keys(text);
    shelf.text = text;
    this.version++;
    const count = shelf.keys.length;
    this.log.info("keys for tokens are in use", { source: shelf.source.name, count });
  }
}

/** Asks a JWKS URL, within bounds of time and size. Throws an Error that says why not. */
export async function fetch_keys(url: string): Promise<string> {
  const signal = AbortSignal.timeout(limits.keys_timeout_ms);
  const response = await fetch(url, {
    redirect: "error",
    signal,
    headers: { accept: "application/json" },
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`it answers ${response.status}`);
  }
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > limits.keys_bytes_max) throw new Error("it answers more than a key set");
  }
  return text;
}
