/**
 * The PROXY protocol header, version 2 (haproxy.org, proxy-protocol.txt section 2.2): tells the
 * reactor whose connection it is that another part of the service hands it. Pure.
 */
import { parse_network } from "../network.ts";

const signature = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

/** The header of a connection from `host`; "from here" when the host is no address. */
export function proxy_header(host: string, port: number): Uint8Array<ArrayBuffer> {
  const source = parse_network(host.replace(/%.*/, "")); // a zone means nothing elsewhere
  if (typeof source === "string") return Uint8Array.of(...signature, 0x20, 0x00, 0, 0); // LOCAL
  const { address } = source;
  const family = address.length === 4 ? 0x11 : 0x21; // over TCP
  const here = new Uint8Array(address.length);
  const body = [...address, ...here, port >> 8 & 0xff, port & 0xff, 0, 0];
  return Uint8Array.of(...signature, 0x21, family, body.length >> 8, body.length & 0xff, ...body);
}
