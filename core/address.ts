/** Addresses as settings name them: numeric, so that reading one looks nothing up. Pure. */

/** Where to listen. `host`: numeric IPv4 or IPv6 address, no brackets. Port 0 = any free one. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** A value, or why the text is not one: "the port must be 0 to 65535". */
export type Parsed<T> = { readonly value: T } | { readonly problem: string };

/** `127.0.0.1:80`, `localhost:80` or `[::1]:80`. Other names are not looked up: parsing is pure. */
export function parse_address(text: string): Parsed<Address> {
  const parts = /^(?:\[([^\]]*)\]|([^:]*)):([^:]*)$/.exec(text);
  if (parts === null) {
    const is_bare_ipv6 = text.split(":").length > 2;
    return { problem: `it must be host:port${is_bare_ipv6 ? ", like [::1]:7000" : " or off"}` };
  }
  const [, ipv6, name = "", port_text = ""] = parts;
  const host = ipv6 === undefined ? ipv4_address(name) : ipv6_address(ipv6);
  if (host === undefined) {
    return { problem: "the host must be an IPv4 address, an IPv6 address in [] or localhost" };
  }
  const port = Number(port_text);
  if (!/^\d{1,5}$/.test(port_text) || port > 65_535) {
    return { problem: "the port must be 0 to 65535" };
  }
  return { value: Object.freeze({ host, port }) };
}

/** localhost is 127.0.0.1: one address, whatever the machine's resolver says. */
function ipv4_address(name: string): string | undefined {
  if (name.toLowerCase() === "localhost") return "127.0.0.1";
  const octets = name.split(".");
  const is_octet = (octet: string) => /^(0|[1-9]\d{0,2})$/.test(octet) && Number(octet) <= 255;
  return octets.length === 4 && octets.every(is_octet) ? name : undefined;
}

/** The shortest form (RFC 5952), so that equal addresses are equal texts. */
function ipv6_address(name: string): string | undefined {
  if (!/^[0-9A-Fa-f:.]+$/.test(name)) return undefined; // no zones, nothing a URL would decode
  const url = URL.parse(`http://[${name}]/`);
  return url === null ? undefined : url.hostname.slice(1, -1);
}

export function is_loopback({ host }: Address): boolean {
  return host === "::1" || host.startsWith("127.");
}

/** `127.0.0.1:1883`, `[::1]:7000`. */
export function format_address({ host, port }: Address): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
