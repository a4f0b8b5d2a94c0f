/**
 * The TLS and address structs of ffi/reactor.h as TypeScript writes and reads them: certificates as
 * PEM in memory, networks, and what a device's certificate says. Pure.
 */

/** A certificate chain, leaf first, and its private key. */
export interface Certificate {
  readonly chain_pem: Uint8Array;
  readonly key_pem: Uint8Array;
}

export interface TlsOptions {
  /** The first answers whoever asks for no name or for another. */
  readonly certificates: readonly Certificate[];
  /** Whoever signs devices' certificates; empty = nobody. */
  readonly client_ca_pem: Uint8Array;
  readonly client_auth: "none" | "optional" | "required";
  /** Keep OpenSSL's object after the handshake: for comparison. */
  readonly keep_objects?: boolean;
  /** The kernel encrypts what is sent, where it can. */
  readonly by_kernel?: boolean;
}

/** An IPv4 or IPv6 network: its address has 4 or 16 bytes. */
export interface Network {
  readonly address: Uint8Array;
  readonly prefix_bits: number;
}

/** What a verified client certificate says of its holder. */
export interface PeerCertificate {
  /** RFC 2253: `CN=device-1,O=Example`. */
  readonly subject: string;
  readonly common_name: string;
  /** SHA-256 of the certificate, hexadecimal. */
  readonly fingerprint: string;
  /** Subject alternative names: `dns:a.example`, `uri:urn:x`, `email:a@b`. */
  readonly names: readonly string[];
}

const client_auths = { none: 0, optional: 1, required: 2 } as const;
const tls_options_bytes = 24;
const tls_1_2 = 0x0303;
const flag_keep_objects = 1;
const flag_kernel = 2;

/** struct lw_tls_options and what follows it. */
export function pack_tls_options(options: TlsOptions): Uint8Array<ArrayBuffer> {
  const { certificates, client_ca_pem, client_auth } = options;
  const parts = certificates.flatMap(({ chain_pem, key_pem }) => {
    const sizes = new Uint8Array(new Uint32Array([chain_pem.length, key_pem.length]).buffer);
    return [sizes, chain_pem, key_pem];
  });
  const head = new Uint32Array([
    tls_options_bytes,
    (options.keep_objects ? flag_keep_objects : 0) | (options.by_kernel ? flag_kernel : 0),
    client_auths[client_auth],
    tls_1_2,
    client_ca_pem.length,
    certificates.length,
  ]);
  const all = [new Uint8Array(head.buffer), client_ca_pem, ...parts];
  const out = new Uint8Array(all.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of all) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const network_bytes = 18;

/** An array of struct lw_network. */
export function pack_networks(networks: readonly Network[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(networks.length * network_bytes);
  for (const [index, { address, prefix_bits }] of networks.entries()) {
    const at = index * network_bytes;
    out[at] = address.length === 4 ? 4 : 6;
    out[at + 1] = prefix_bits;
    out.set(address, at + 2);
  }
  return out;
}

/** The lines of lw_peer_certificate. */
export function parse_peer_certificate(text: string): PeerCertificate {
  const fields = new Map<string, string>();
  const names: string[] = [];
  for (const line of text.split("\n")) {
    const equals = line.indexOf("=");
    if (equals === -1) continue;
    const name = line.slice(0, equals);
    const value = line.slice(equals + 1);
    if (name === "dns" || name === "uri" || name === "email") names.push(`${name}:${value}`);
    else fields.set(name, value);
  }
  const field = (name: string) => fields.get(name) ?? "";
  return {
    subject: field("subject"),
    common_name: field("common_name"),
    fingerprint: field("fingerprint"),
    names,
  };
}
