/**
 * Hosts in one machine: network namespaces on a bridge, each with an address, whose cable can be
 * pulled. It needs root; what it made is gone after dispose(), also where a program did not end.
 */

/** Whether this process may make hosts. */
export const can_make_hosts = Deno.build.os === "linux" && Deno.uid() === 0;

export interface Host {
  /** IPv4. */
  readonly address: string;
  /** What a command is run with, so that it runs there. */
  readonly prefix: readonly string[];
}

async function ip(...args: readonly string[]): Promise<string> {
  const out = await new Deno.Command("ip", { args: [...args], stdin: "null" }).output();
  if (out.success) return new TextDecoder().decode(out.stdout);
  throw new Error(`ip ${args.join(" ")}: ${new TextDecoder().decode(out.stderr).trim()}`);
}

/** A network 10.213.N.0/24 that nobody has here. */
async function free_network(): Promise<number> {
  const taken = await ip("-o", "-4", "address");
  for (;;) {
    const network = 1 + Math.floor(Math.random() * 254);
    if (!taken.includes(`10.213.${network}.`)) return network;
  }
}

export class Hosts {
  readonly hosts: Host[] = [];
  /** Of this machine in the network of the hosts. */
  readonly gateway: string;
  readonly #name: string;

  private constructor(readonly network: number) {
    this.#name = `lw${network}`;
    this.gateway = `10.213.${network}.1`;
  }

  static async start(count: number): Promise<Hosts> {
    const hosts = new Hosts(await free_network());
    try {
      await ip("link", "add", hosts.#bridge, "type", "bridge");
      await ip("address", "add", `${hosts.gateway}/24`, "dev", hosts.#bridge);
      await ip("link", "set", hosts.#bridge, "up");
      for (let index = 0; index < count; index++) await hosts.#add(index);
      return hosts;
    } catch (error) {
      await hosts[Symbol.asyncDispose]();
      throw error;
    }
  }

  get #bridge(): string {
    return `${this.#name}b`;
  }

  #port(index: number): string {
    return `${this.#name}p${index}`;
  }

  async #add(index: number): Promise<void> {
    const space = `${this.#name}n${index}`;
    const address = `10.213.${this.network}.${11 + index}`;
    const port = this.#port(index);
    await ip("netns", "add", space);
    this.hosts.push({ address, prefix: ["ip", "netns", "exec", space] });
    await ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space);
    await ip("link", "set", port, "master", this.#bridge, "up");
    await ip("-n", space, "address", "add", `${address}/24`, "dev", "eth0");
    await ip("-n", space, "link", "set", "eth0", "up");
    await ip("-n", space, "link", "set", "lo", "up");
  }

  /** Pulls a host's cable: what it sends goes nowhere, and nobody is told. */
  async cut(index: number): Promise<void> {
    await ip("link", "set", this.#port(index), "down");
  }

  async mend(index: number): Promise<void> {
    await ip("link", "set", this.#port(index), "up");
  }

  /** What two hosts send each other goes nowhere, until it is mended. */
  async cut_between(one: number, other: number): Promise<void> {
    const nowhere = ["lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent"];
    await this.#both(one, other, "replace", nowhere);
  }

  async mend_between(one: number, other: number): Promise<void> {
    await this.#both(one, other, "delete", ["dev", "eth0"]);
  }

  async #both(one: number, other: number, what: string, rest: readonly string[]): Promise<void> {
    await Promise.all([[one, other], [other, one]].map(([from, to]) => {
      const { prefix } = this.hosts[from!]!;
      const { address } = this.hosts[to!]!;
      return ip("-n", prefix.at(-1)!, "neighbour", what, address, ...rest);
    }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { prefix } of this.hosts) await ip("netns", "delete", prefix.at(-1)!);
    await ip("link", "delete", this.#bridge).catch(() => {});
  }
}
