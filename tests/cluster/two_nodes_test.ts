/** Two nodes on one log, as real processes: what is published on one is heard on the other. */
import { assertEquals } from "@std/assert";
import { type Servers, start_etcd, start_nats } from "../support/cluster_programs.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually, Service } from "../support/service.ts";

const programs = ["etcd", "nats-server"];

function start_node(node_id: string, etcd: Servers, nats: Servers): Promise<Service> {
  const args = ["--node_id", node_id, "--etcd", etcd.addresses, "--nats", nats.addresses];
  return Service.start({ args: [...args, "--peer", "127.0.0.1:0"] });
}

test_with(programs, "cluster: two nodes are one service", async () => {
  await using etcd = await start_etcd();
  await using nats = await start_nats();
  await using a = await start_node("a", etcd, nats);
  await using b = await start_node("b", etcd, nats);
  await using on_a = await MqttJs.connect(a.mqtt, { clientId: "on-a" });
  await using on_b = await MqttJs.connect(b.mqtt, { clientId: "on-b" });
  await on_a.subscribe("t/+", 1);
  await on_b.subscribe("t/#", 1);

  // Stored messages: on both, in the same order, whoever published.
  for (let n = 0; n < 20; n++) {
    const { status } = await (n % 2 ? a : b).publish(`t/${n}`, String(n));
    assertEquals(status, 200);
  }
  const order_of = async (device: MqttJs, count: number) => {
    const payloads: string[] = [];
    while (payloads.length < count) payloads.push((await device.messages.next())!.payload);
    return payloads;
  };
  const expected = Array.from({ length: 20 }, (_, n) => String(n));
  assertEquals(await order_of(on_a, 20), expected);
  assertEquals(await order_of(on_b, 20), expected);

  // QoS 0 does not overtake what the same publisher stored before it.
  await eventually("QoS 0 passes", async () => {
    await a.publish("t/0", "probe", "qos=0");
    return on_b.messages.size > 0;
  });
  for (let n = 0; n < 20; n++) {
    await on_a.publish("t/x", `stored ${n}`, 1);
    await on_a.publish("t/x", `passing ${n}`, 0);
  }
  const heard = await Array.fromAsync({ length: 40 }, async () => {
    return (await on_b.messages.find(({ payload }) => payload !== "probe", "messages")).payload;
  });
  const sent = Array.from({ length: 20 }, (_, n) => [`stored ${n}`, `passing ${n}`]).flat();
  assertEquals(heard, sent);

  // Retained messages of either kind.
  await a.publish("r/stored", "1", "retain=true");
  await b.publish("r/passing", "0", "retain=true&qos=0");
  for (const node of [a, b]) {
    await eventually("retained everywhere", async () => {
      await using late = await MqttJs.connect(node.mqtt, { clientId: "late" });
      await late.subscribe("r/#");
      const first = await late.messages.next();
      if (late.messages.size === 0) return false;
      const topics = [first!.topic, (await late.messages.next())!.topic];
      assertEquals(topics.sort(), ["r/passing", "r/stored"]);
      return true;
    });
  }

  // An idempotency key holds on every node.
  const once = async (node: Service) => {
    const url = `${node.http}/v1/topics/once`;
    const headers = { "idempotency-key": "k" };
    return await (await fetch(url, { method: "POST", headers, body: "x" })).json();
  };
  const first = await once(a);
  assertEquals(await once(b), { ...first, audience: 0, duplicate: true });
});
