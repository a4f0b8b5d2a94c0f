/** Webhooks of a cluster: each hook runs at one node, and goes on at another when that one dies. */
import { assertEquals } from "@std/assert";
import { cluster_programs, TestCluster } from "../support/cluster.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually, type Service } from "../support/service.ts";
import { Receiver } from "../support/webhook_receiver.ts";
import { data_of, hook, next_events, webhooks_file } from "../support/webhooks_file.ts";

async function runs(node: Service, name: string): Promise<boolean> {
  const { webhooks } = await (await fetch(`${node.http}/v1/webhooks`)).json();
  return webhooks.some((one: { name: string }) => one.name === name);
}

test_with(cluster_programs, "cluster: a webhook survives the node that runs it", async () => {
  await using receiver = new Receiver();
  const events = ["message", "connected"];
  const ordered = { events, filters: ["orders/#"], concurrency: 1 };
  await using file = await webhooks_file({ hooks: { shop: hook(receiver, ordered) } });
  await using cluster = await TestCluster.start(2, 1, file.args);
  const { nodes } = cluster;
  await eventually("one node runs it", async () => {
    const found = await Promise.all(nodes.map((node) => runs(node, "shop")));
    return found.filter((is_there) => is_there).length === 1;
  });
  const publish = async (node: Service, from: number, to: number) => {
    for (let number = from; number <= to; number++) {
      const { status } = await node.publish("orders/1", String(number));
      assertEquals(status, 200);
    }
  };
  await publish(nodes[0], 1, 5);
  await publish(nodes[1], 6, 10);
  const numbers = (from: number, to: number) => {
    return Array.from({ length: to - from + 1 }, (_, index) => String(from + index));
  };
  assertEquals(data_of(await next_events(receiver, 10)), numbers(1, 10));
  for (const [index, node] of nodes.entries()) {
    await using _device = await MqttJs.connect(node.mqtt, { clientId: `on-${index}` });
  }
  const connected = await next_events(receiver, 2);
  assertEquals(connected.map(({ subject }) => subject), ["on-0", "on-1"]);
  const owner = await runs(nodes[0], "shop") ? 0 : 1;
  const [killed, other] = [nodes[owner], nodes[1 - owner]];
  receiver.respond = () => new Response(null, { status: 503 });
  await publish(killed, 11, 15);
  await killed.kill();
  await eventually("the other runs it", () => runs(other, "shop"));
  receiver.respond = () => undefined;
  await publish(other, 16, 20);
  const later = () => receiver.taken.seen.filter(({ data }) => Number(data) > 10);
  await eventually("all have come", () => Promise.resolve(later().length === 10));
  assertEquals(data_of(later()), numbers(11, 20));
});
