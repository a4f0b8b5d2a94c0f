/** Nodes that have more than their share: they come to rest, in a model and as real nodes. */
import { assert, assertEquals } from "@std/assert";
import { Balancer } from "../../core/cluster/balance.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { cluster_programs, TestCluster } from "../support/cluster.ts";
import { MqttClient } from "../support/mqtt_client.ts";
import { test_with } from "../support/process.ts";
import { eventually, type Service } from "../support/service.ts";

/** A node of the model: what it has, and what the others think it has. */
interface Node {
  readonly balancer: Balancer;
  connections: number;
  readonly said: number[];
}

Deno.test("rebalancing comes to rest, and sends hardly a device that need not go", () => {
  const seed = seed_for("rebalancing");
  for (let round = 0; round < 300; round++) {
    const random = random_of(seed + round);
    const percent = 5 + Math.floor(random() * 50);
    const devices_per_s = 10 + Math.floor(random() * 200);
    const nodes = Array.from({ length: 2 + Math.floor(random() * 9) }, (): Node => {
      const connections = random() < 0.3 ? 0 : Math.floor(random() * 20_000);
      const balancer = new Balancer({ percent, devices_per_s });
      return { balancer, connections, said: [connections, connections, connections] };
    });
    const about = `LONGWIRE_TEST_SEED=${seed + round}`;
    const total = nodes.reduce((sum, { connections }) => sum + connections, 0);
    const mean = total / nodes.length;
    const excess = nodes.reduce((sum, { connections }) => sum + Math.max(0, connections - mean), 0);
    /** By tick, who comes back where. */
    const returning = new Map<number, Node[]>();
    let moved = 0;
    let quiet = 0;
    for (let tick = 0; quiet < 20; tick++) {
      assert(tick < 20_000, `no rest, with ${about}`);
      for (const node of returning.get(tick) ?? []) node.connections++;
      returning.delete(tick);
      quiet++;
      for (const node of nodes) {
        const others = nodes.filter((other) => other !== node).map((other) => ({
          node_id: String(nodes.indexOf(other)),
          connections: other.said[Math.floor(random() * 3)]!, // up to three seconds old
        }));
        for (const { to, count } of node.balancer.step(node.connections, others, 1000)) {
          quiet = 0;
          for (let n = 0; n < count; n++) {
            const back = tick + 1 + Math.floor(random() * 2);
            returning.set(back, [...returning.get(back) ?? [], nodes[Number(to.node_id)]!]);
          }
          node.connections -= count;
          moved += count;
          assert(count <= devices_per_s, about);
        }
      }
      for (const node of nodes) {
        node.said.shift();
        node.said.push(node.connections);
      }
    }
    const margin = Math.max(mean * percent / 100, devices_per_s);
    for (const { connections } of nodes) assert(connections <= mean + margin, about);
    // What the others said was old: so much may be sent too many.
    const most = excess * 1.1 + devices_per_s;
    assert(moved <= most, `${moved} moved, ${Math.ceil(excess)} were too many, with ${about}`);
  }
});

/** Devices that go where they are told. */
class Fleet {
  moved = 0;
  #is_over = false;
  readonly #devices: Promise<void>[];

  constructor(home: Service, count: number) {
    this.#devices = Array.from({ length: count }, (_, n) => this.#device(home, `d${n}`));
  }

  async #device(home: Service, client_id: string): Promise<void> {
    let place = home.mqtt;
    while (!this.#is_over) {
      const properties = { session_expiry_s: 60 };
      const { client } = await MqttClient.connect(place, { client_id, properties });
      const stop = () => client[Symbol.asyncDispose]();
      this.#stops.push(stop);
      for (const packet of await client.closed().catch(() => [])) {
        if (packet.type !== "disconnect") continue;
        assertEquals(packet.reason_code, 0x9c);
        const [host, port] = packet.properties!.server_reference!.split(":");
        place = { host: host!, port: Number(port) };
        this.moved++;
      }
    }
  }

  readonly #stops: (() => Promise<void>)[] = [];

  async close(): Promise<void> {
    this.#is_over = true;
    for (const stop of this.#stops) await stop();
    await Promise.all(this.#devices);
  }
}

test_with(cluster_programs, "rebalancing: a second node takes its share of a fleet", async () => {
  await using cluster = await TestCluster.start(1);
  const [a] = cluster.nodes;
  const count = 320;
  const fleet = new Fleet(a, count);
  try {
    await eventually("all are there", async () => {
      return await a.metric("longwire_connections") === count;
    });
    const b = await cluster.start_node("b");
    cluster.nodes.push(b);
    // Mean 160, margin 100: it ends at 210.
    await eventually("b has its share", async () => {
      return await b.metric("longwire_connections") >= 105;
    }, 20_000);
    const at_rest = await b.metric("longwire_connections");
    assertEquals(at_rest + await a.metric("longwire_connections") <= count, true);
    assert(at_rest <= 160, `${at_rest} are at b`);
    assertEquals(await b.metric("longwire_devices_rebalanced_total"), 0);
    const { moved } = fleet;
    assertEquals(await a.metric("longwire_devices_rebalanced_total"), moved);
  } finally {
    await fleet.close();
  }
});
