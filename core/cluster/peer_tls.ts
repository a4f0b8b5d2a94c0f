/**
 * Mutual TLS between nodes: each shows a certificate that the cluster's authority has signed, and
 * is spoken to only if that is for the host, a name or an IP address, at which it says it is.
 */
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import * as grpc from "@grpc/grpc-js";

/** Certificate files of a node, PEM. */
export interface PeerTls {
  readonly cert: Uint8Array;
  readonly key: Uint8Array;
  readonly ca: Uint8Array;
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
  const pair = { private_key: Buffer.from(tls.key), cert_chain: Buffer.from(tls.cert) };
  return grpc.ServerCredentials.createSsl(Buffer.from(tls.ca), [pair], true);
}

/** @param place host:port of the other node */
export function client_credentials(
  tls: PeerTls | undefined,
  place: string,
): grpc.ChannelCredentials {
  if (tls === undefined) return grpc.credentials.createInsecure();
  const [ca, key, cert] = [tls.ca, tls.key, tls.cert].map((bytes) => Buffer.from(bytes));
  return grpc.credentials.createSsl(ca, key, cert, {
    checkServerIdentity: (_, certificate) => {
      return checkServerIdentity(host_of(place), certificate as PeerCertificate);
    },
  });
}
