/**
 * Which addresses a URL that somebody else has chosen may lead to (server-side request forgery):
 * the public ones, by the special-purpose registries of IANA (RFC 6890), and those that the
 * operator has allowed. It is the address that is connected to that is judged, after the name was
 * resolved, so a name that changes its mind between two questions gains nothing.
 */
import { address_bytes, contains, type Network, parse_network } from "../network.ts";

function networks(...texts: string[]): readonly Network[] {
  return texts.map((text) => parse_network(text) as Network);
}

// deno-fmt-ignore
const special_ipv4 = networks(
  "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
  "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
  "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
);
/** Of IPv6 only global unicast is public, without what is for protocols, examples or tunnels. */
const global_ipv6 = networks("2000::/3");
const special_ipv6 = networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20");
const mapped_ipv4 = networks("::ffff:0:0/96");

/** What may be reached at an address. */
export type Reach = "public" | "allowed" | "forbidden";

/** @param text an IPv4 or IPv6 address */
export function reach_of(text: string, allowed: readonly Network[]): Reach {
  let bytes = address_bytes(text);
  if (bytes === undefined) return "forbidden"; // with a zone, for one
  if (bytes.length === 16 && mapped_ipv4.some((network) => contains(network, bytes!))) {
    bytes = bytes.slice(12);
  }
  const is_in = (list: readonly Network[]) => list.some((network) => contains(network, bytes!));
  if (is_in(allowed)) return "allowed";
  if (bytes.length === 4) return is_in(special_ipv4) ? "forbidden" : "public";
  return is_in(global_ipv6) && !is_in(special_ipv6) ? "public" : "forbidden";
}
