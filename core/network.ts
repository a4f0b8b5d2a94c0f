/** IPv4 and IPv6 networks as operators write them (RFC 4632, RFC 4291 section 2.3). Pure. */

/** `address` has 4 or 16 bytes, and zeroes behind the prefix. */
export interface Network {
  readonly address: Uint8Array;
  readonly prefix_bits: number;
}

function ipv4_bytes(text: string): number[] | undefined {
  const octets = text.split(".");
  const is_octet = (octet: string) => /^(0|[1-9]\d{0,2})$/.test(octet) && Number(octet) <= 255;
  return octets.length === 4 && octets.every(is_octet) ? octets.map(Number) : undefined;
}

function ipv6_bytes(text: string): number[] | undefined {
  if (!/^[0-9A-Fa-f:.]+$/.test(text)) return undefined;
  const url = URL.parse(`http://[${text}]/`); // the shortest form, without dots (RFC 5952)
  if (url === null) return undefined;
  const [head = "", tail] = url.hostname.slice(1, -1).split("::");
  const groups = (part: string) => part === "" ? [] : part.split(":");
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  const zeroes = new Array<string>(8 - left.length - right.length).fill("0");
  return [...left, ...zeroes, ...right].map((group) => parseInt(group, 16)).flatMap((group) => {
    return [group >> 8, group & 255];
  });
}

/** `10.0.0.0/8`, `fd00::/8`, `192.0.2.7`; a string says what is wrong. */
export function parse_network(text: string): Network | string {
  const [host = "", prefix, ...more] = text.split("/");
  const bytes = host.includes(":") ? ipv6_bytes(host) : ipv4_bytes(host);
  if (bytes === undefined || more.length > 0) {
    return `"${text}" is no network like 10.0.0.0/8 or fd00::/8`;
  }
  const bits = bytes.length * 8;
  const prefix_bits = prefix === undefined ? bits : Number(prefix);
  if (prefix !== undefined && (!/^\d{1,3}$/.test(prefix) || prefix_bits > bits)) {
    return `the prefix of "${text}" must be 0 to ${bits}`;
  }
  const address = new Uint8Array(bytes);
  for (let bit = prefix_bits; bit < bits; bit++) {
    if ((address[bit >> 3]! & 0x80 >> (bit & 7)) !== 0) {
      return `"${text}" has ones behind its prefix`;
    }
  }
  return { address, prefix_bits };
}

/** The bytes of an address, 4 or 16; undefined = the text is none. */
export function address_bytes(text: string): Uint8Array | undefined {
  const bytes = text.includes(":") ? ipv6_bytes(text) : ipv4_bytes(text);
  return bytes === undefined ? undefined : new Uint8Array(bytes);
}

/** Whether an address, as address_bytes() has it, lies in a network. */
export function contains({ address, prefix_bits }: Network, bytes: Uint8Array): boolean {
  if (address.length !== bytes.length) return false;
  for (let bit = 0; bit < prefix_bits; bit += 8) {
    const left = prefix_bits - bit;
    const mask = left >= 8 ? 0xff : 0xff << (8 - left) & 0xff;
    if ((address[bit >> 3]! & mask) !== (bytes[bit >> 3]! & mask)) return false;
  }
  return true;
}
