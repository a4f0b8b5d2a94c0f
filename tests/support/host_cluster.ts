/**
 * A cluster whose nodes are on hosts of their own (tests/support/hosts.ts), as they are in life:
 * mutual TLS between them, tokens for those who come. etcd and NATS are on this machine itself.
 * A node that is started again listens where it did.
 */
import { make_certificate } from "./certificates.ts";
import { type Servers, start_etcd, start_nats } from "./cluster_programs.ts";
import { Hosts } from "./hosts.ts";
import { eventually, type RunOptions, Service } from "./service.ts";
import { all_claims, key_set, make_token, secret_key } from "./tokens.ts";

const names = "abcdefghij";

export interface HostClusterOptions {
  /** Of etcd, and of NATS. */
  readonly servers?: 1 | 3;
  /** Members of etcd are on hosts of their own, after those of the nodes. */
  readonly etcd_on_hosts?: boolean;
  /** What else a node is started with. */
  readonly run?: (node_id: string) => RunOptions;
}

export class HostCluster {
  readonly nodes: Service[] = [];

  private constructor(
    readonly hosts: Hosts,
    readonly etcd: Servers,
    readonly nats: Servers,
    /** Of certificates and keys. */
    readonly directory: string,
    /** A token that may do everything. */
    readonly token: string,
    readonly run: (node_id: string) => RunOptions,
  ) {}

  static async start(
    node_count: number,
    { servers = 1, etcd_on_hosts = false, run = () => ({}) }: HostClusterOptions = {},
  ): Promise<HostCluster> {
    await using made = new AsyncDisposableStack(); // is undone if not all goes well
    const hosts = made.use(await Hosts.start(node_count + (etcd_on_hosts ? servers : 0)));
    const { gateway } = hosts;
    const [etcd, nats] = await Promise.all([
      start_etcd(servers, etcd_on_hosts ? hosts.hosts.slice(node_count) : gateway)
        .then((etcd) => made.use(etcd)),
      start_nats(servers, gateway).then((nats) => made.use(nats)),
    ]);
    const directory = await Deno.makeTempDir({ prefix: "longwire-hosts-" });
    const key = secret_key("k1");
    await Deno.writeTextFile(`${directory}/keys.json`, key_set(key));
    const issuer = await make_certificate(directory, "ca");
    for (const [index, { address }] of hosts.hosts.slice(0, node_count).entries()) {
      await make_certificate(directory, names[index]!, { issuer, names: `IP:${address}` });
    }
    const token = await make_token(key, all_claims);
    const cluster = new HostCluster(hosts, etcd, nats, directory, token, run);
    for (let index = 0; index < node_count; index++) {
      cluster.nodes.push(made.use(await cluster.start_node(index)));
    }
    await cluster.settled();
    made.move();
    return cluster;
  }

  start_node(index: number): Promise<Service> {
    const { address, prefix } = this.hosts.hosts[index]!;
    const name = names[index]!;
    const at = (file: string) => `${this.directory}/${file}`;
    const tls = ["--peer_cert", at(`${name}.pem`), "--peer_key", at(`${name}.key`)];
    const others = ["--etcd", this.etcd.addresses, "--nats", this.nats.addresses];
    const peer = ["--peer", `${address}:7100`, ...tls, "--peer_ca", at("ca.pem")];
    return Service.start({
      ...this.run(name),
      prefix,
      http: `${address}:8080`,
      mqtt: `${address}:1883`,
      device: `${address}:7000`,
      args: ["--node_id", name, "--keys", at("keys.json"), ...others, ...peer],
    });
  }

  /** For calls over HTTP. */
  get headers(): Record<string, string> {
    return { authorization: `Bearer ${this.token}` };
  }

  /** Waits until all nodes see each other. */
  async settled(timeout_ms = 20_000): Promise<void> {
    const { headers, nodes } = this;
    for (const { http } of nodes) {
      await eventually(`${nodes.length} members`, async () => {
        const response = await fetch(`${http}/v1/nodes`, { headers });
        return (await response.json()).nodes.length === nodes.length;
      }, timeout_ms);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.kill()));
    await this.etcd[Symbol.asyncDispose]();
    await this.nats[Symbol.asyncDispose]();
    await this.hosts[Symbol.asyncDispose]();
    await Deno.remove(this.directory, { recursive: true });
  }
}
