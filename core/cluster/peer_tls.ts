/**
 * Mutual TLS between nodes: each shows a certificate that the cluster's authority has signed, and
 * is spoken to only if that is for the host, a name or an IP address, at which it says it is. Files
 * that change are in use with the next connection; what cannot be used leaves those before in use.
 */
import { Buffer } from "node:buffer";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import * as grpc from "@grpc/grpc-js";
import type { Log } from "../log.ts";

/** Paths of files of a node, PEM: as the settings name them. */
export interface PeerFiles {
  readonly peer_cert: string;
  readonly peer_key: string;
  readonly peer_ca: string;
}

/** What is in them. */
interface Contents {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
}

const look_ms = 1000;

type CaListener = grpc.experimental.CaCertificateUpdateListener;
type IdentityListener = grpc.experimental.IdentityCertificateUpdateListener;

/** Tells gRPC what the node shows, and whom it believes. */
export class PeerTls implements grpc.experimental.CertificateProvider {
  readonly #ca_listeners = new Set<CaListener>();
  readonly #identity_listeners = new Set<IdentityListener>();
  /** The problem that was told of last. */
  #problem = "";
  readonly #timer: ReturnType<typeof setInterval>;

  private constructor(readonly files: PeerFiles, readonly log: Log, private contents: Contents) {
    this.#timer = setInterval(() => void this.#look(), look_ms);
  }

  /** @throws Error with a sentence that names the setting */
  static async read(files: PeerFiles, log: Log): Promise<PeerTls> {
    return new PeerTls(files, log, await read_files(files));
  }

  close(): void {
    clearInterval(this.#timer);
  }

  addCaCertificateListener(listener: CaListener): void {
    this.#ca_listeners.add(listener);
    queueMicrotask(() => listener({ caCertificate: this.contents.ca }));
  }

  removeCaCertificateListener(listener: CaListener): void {
    this.#ca_listeners.delete(listener);
  }

  addIdentityCertificateListener(listener: IdentityListener): void {
    this.#identity_listeners.add(listener);
    queueMicrotask(() => listener(this.#identity()));
  }

  removeIdentityCertificateListener(listener: IdentityListener): void {
    this.#identity_listeners.delete(listener);
  }

  #identity(): { certificate: Buffer; privateKey: Buffer } {
    return { certificate: this.contents.cert, privateKey: this.contents.key };
  }

  async #look(): Promise<void> {
    try {
      const before = this.contents;
      const now = await read_files(this.files);
      this.#problem = "";
      const names = ["cert", "key", "ca"] as const;
      if (names.every((name) => now[name].equals(before[name]))) return;
      this.contents = now;
      for (const listener of this.#ca_listeners) listener({ caCertificate: now.ca });
      for (const listener of this.#identity_listeners) listener(this.#identity());
      this.log.info("certificates between nodes are in use since they changed");
    } catch (error) {
      const problem = (error as Error).message;
      if (problem === this.#problem) return;
      this.#problem = problem;
      this.log.error("certificates between nodes changed and cannot be used", { problem });
    }
  }
}

async function read_files(files: PeerFiles): Promise<Contents> {
  const read = async <T>(name: keyof PeerFiles, parse: (bytes: Buffer) => T) => {
    try {
      const bytes = Buffer.from(await Deno.readFile(files[name]));
      return { bytes, parsed: parse(bytes) };
    } catch (error) {
      throw new Error(`Cannot use ${name} ${files[name]}: ${(error as Error).message}`);
    }
  };
  const cert = await read("peer_cert", (bytes) => new X509Certificate(bytes));
  const key = await read("peer_key", (bytes) => createPrivateKey(bytes));
  const ca = await read("peer_ca", (bytes) => new X509Certificate(bytes));
  if (!cert.parsed.checkPrivateKey(key.parsed)) {
    throw new Error(`Cannot use peer_key ${files.peer_key}: it is not that of ${files.peer_cert}`);
  }
  return { cert: cert.bytes, key: key.bytes, ca: ca.bytes };
}

/**
 * The name that TLS itself is given: SNI takes no IP addresses (RFC 6066 section 3), and grpc-js
 * would give it one.
 */
export const tls_options = { "grpc.ssl_target_name_override": "node.longwire" };

/** host:port without the port, without the brackets of IPv6. */
export function host_of(place: string): string {
  return place.slice(0, place.lastIndexOf(":")).replace(/^\[|\]$/g, "");
}

export function server_credentials(tls: PeerTls | undefined): grpc.ServerCredentials {
  if (tls === undefined) return grpc.ServerCredentials.createInsecure();
  return grpc.experimental.createCertificateProviderServerCredentials(tls, tls, true);
}

/** @param place host:port of the other node */
export function client_credentials(
  tls: PeerTls | undefined,
  place: string,
): grpc.ChannelCredentials {
  if (tls === undefined) return grpc.credentials.createInsecure();
  return grpc.experimental.createCertificateProviderChannelCredentials(tls, tls, {
    checkServerIdentity: (_, certificate) => {
      return checkServerIdentity(host_of(place), certificate as PeerCertificate);
    },
  });
}
