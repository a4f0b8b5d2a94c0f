/**
 * Signatures of the Standard Webhooks specification (symmetric, `v1`): HMAC-SHA256 over
 * `id.timestamp.body`, one for each secret, so that secrets can be changed while receivers know
 * either. https://github.com/standard-webhooks/standard-webhooks
 */

const prefix = "whsec_";
/** "Must be between 24 bytes (192 bits) and 64 bytes (512 bits)" of the specification. */
const secret_bytes_min = 24;
const secret_bytes_max = 64;

/** The bytes of `whsec_<base64>`; a string says what is wrong, without the secret. */
export function parse_secret(text: unknown): Uint8Array<ArrayBuffer> | string {
  if (typeof text !== "string" || !text.startsWith(prefix)) {
    return `a secret is ${prefix} and 24 to 64 bytes in base64`;
  }
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = Uint8Array.fromBase64(text.slice(prefix.length));
  } catch {
    return `what follows ${prefix} in a secret is not base64`;
  }
  const { length } = bytes;
  if (length >= secret_bytes_min && length <= secret_bytes_max) return bytes;
  return `a secret has ${length} bytes; it must have ${secret_bytes_min} to ${secret_bytes_max}`;
}

export class Signer {
  readonly #keys: Promise<CryptoKey[]>;

  /** @param secrets one at least */
  constructor(secrets: readonly Uint8Array<ArrayBuffer>[]) {
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    this.#keys = Promise.all(
      secrets.map((secret) => crypto.subtle.importKey("raw", secret, algorithm, false, ["sign"])),
    );
  }

  /**
   * The headers that sign a body.
   * @param id of the event, the same for each attempt; without a full stop
   * @param now_ms Unix milliseconds of this attempt
   */
  async headers(
    id: string,
    now_ms: number,
    body: Uint8Array,
  ): Promise<Readonly<Record<string, string>>> {
    const timestamp = String(Math.floor(now_ms / 1000));
    const head = new TextEncoder().encode(`${id}.${timestamp}.`);
    const signed = new Uint8Array(head.length + body.length);
    signed.set(head);
    signed.set(body, head.length);
    const signatures = (await this.#keys).map(async (key) => {
      return `v1,${new Uint8Array(await crypto.subtle.sign("HMAC", key, signed)).toBase64()}`;
    });
    return {
      "webhook-id": id,
      "webhook-timestamp": timestamp,
      "webhook-signature": (await Promise.all(signatures)).join(" "),
    };
  }
}
