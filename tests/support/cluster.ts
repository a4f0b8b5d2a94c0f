/** Nodes of a cluster, as real processes on real etcd and NATS. */
import { type Servers, start_etcd, start_nats } from "./cluster_programs.ts";
import { eventually, Service } from "./service.ts";

/** What a cluster in a test needs. */
export const cluster_programs = ["etcd", "nats-server"];

export class TestCluster {
  readonly nodes: Service[] = [];

  private constructor(readonly etcd: Servers, readonly nats: Servers) {}

  /** Starts so many nodes, named `a`, `b`, ..., on one or three servers of each kind. */
  static async start(
    node_count: number,
    servers: 1 | 3 = 1,
    args: readonly string[] = [],
  ): Promise<TestCluster> {
    const [etcd, nats] = await Promise.all([start_etcd(servers), start_nats(servers)]);
    const cluster = new TestCluster(etcd, nats);
    for (let n = 0; n < node_count; n++) {
      cluster.nodes.push(await cluster.start_node(String.fromCharCode(97 + n), args));
    }
    await cluster.settled(node_count);
    return cluster;
  }

  start_node(node_id: string, more: readonly string[] = []): Promise<Service> {
    const { etcd, nats } = this;
    const args = ["--node_id", node_id, "--etcd", etcd.addresses, "--nats", nats.addresses];
    return Service.start({ args: [...args, "--peer", "127.0.0.1:0", ...more] });
  }

  /** Waits until every node that lives sees so many. */
  async settled(node_count: number, nodes: readonly Service[] = this.nodes): Promise<void> {
    for (const node of nodes) {
      await eventually(`${node_count} members`, async () => {
        return (await members_of(node)).length === node_count;
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.kill()));
    await this.etcd[Symbol.asyncDispose]();
    await this.nats[Symbol.asyncDispose]();
  }
}

/** Names of the nodes that a node sees. */
export async function members_of(node: Service): Promise<string[]> {
  const { nodes } = await (await fetch(`${node.http}/v1/nodes`)).json();
  return nodes.map(({ node_id }: { node_id: string }) => node_id);
}
