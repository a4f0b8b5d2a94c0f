/** Sessions in a cluster: one owner, whichever node its device comes to, and none lost. */
import { assert, assertEquals } from "@std/assert";
import { cluster_programs, members_of, TestCluster } from "../support/cluster.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually } from "../support/service.ts";

const persistent = { clean: false, properties: { sessionExpiryInterval: 3600 } };

test_with(cluster_programs, "cluster: a session follows its device", async () => {
  await using cluster = await TestCluster.start(2);
  const [a, b] = cluster.nodes;
  const first = await MqttJs.connect(a.mqtt, { clientId: "d", ...persistent });
  await first.subscribe("t/#", 1);
  // Connected there: the other node takes it over, and the first connection is told.
  const second = await MqttJs.connect(b.mqtt, { clientId: "d", ...persistent });
  assertEquals(second.session_present, true);
  assertEquals(await first.closed, 0x8e);
  await a.publish("t/1", "1");
  assertEquals((await second.messages.next())?.payload, "1");
  // Away: what comes meanwhile waits, and is there on the first node again.
  await second.cut();
  for (let n = 2; n < 30; n++) await b.publish("t/n", String(n));
  await using third = await MqttJs.connect(a.mqtt, { clientId: "d", ...persistent });
  assertEquals(third.session_present, true);
  // The first one may come again: its acknowledgement may have been cut off with the connection.
  let next = (await third.messages.next())?.payload;
  if (next === "1") next = (await third.messages.next())?.payload;
  for (let n = 2; n < 30; n++) {
    assertEquals(next, String(n));
    if (n < 29) next = (await third.messages.next())?.payload;
  }
});

test_with(cluster_programs, "cluster: a killed node's sessions go on at once", async () => {
  await using cluster = await TestCluster.start(3);
  const [a, b, c] = cluster.nodes;
  const ids = Array.from({ length: 20 }, (_, n) => `d${n}`);
  for (const clientId of ids) {
    const device = await MqttJs.connect(a.mqtt, { clientId, ...persistent });
    await device.subscribe(`to/${clientId}`, 1);
  }
  const killed_ms = performance.now();
  await a.kill();
  for (const id of ids) assertEquals((await b.publish(`to/${id}`, id)).status, 200);
  await Promise.all(ids.map(async (clientId, n) => {
    await using device = await MqttJs.connect((n % 2 ? b : c).mqtt, { clientId, ...persistent });
    assert(device.session_present);
    assertEquals((await device.messages.next())?.payload, clientId);
  }));
  console.log(
    `20 devices were back ${Math.round(performance.now() - killed_ms)} ms after the kill`,
  );
  assertEquals((await members_of(b)).sort(), ["b", "c"]);
});

test_with(cluster_programs, "cluster: a drained node tells its devices where to go", async () => {
  await using cluster = await TestCluster.start(2);
  const [a, b] = cluster.nodes;
  const device = await MqttJs.connect(a.mqtt, { clientId: "d", ...persistent });
  await device.subscribe("t", 1);
  const away = await MqttJs.connect(a.mqtt, { clientId: "away", ...persistent });
  await away.subscribe("t", 1);
  await away.cut();
  const told = new Promise<string | undefined>((resolve) => {
    device.client.on("disconnect", ({ properties }) => resolve(properties?.serverReference));
  });
  const drain = await fetch(`${b.http}/v1/nodes/a/drain`, { method: "POST" });
  assertEquals([drain.status, await drain.json()], [202, { node: "a", draining: true }]);
  assertEquals(await told, `${b.mqtt.host}:${b.mqtt.port}`);
  assertEquals(await device.closed, 0x9c);
  assertEquals((await fetch(`${a.http}/readyz`)).status, 503);
  await eventually(
    "drained",
    () => Promise.resolve(a.log.some((line) => line.includes("drained"))),
  );
  await b.publish("t", "x");
  for (const clientId of ["d", "away"]) {
    await using back = await MqttJs.connect(b.mqtt, { clientId, ...persistent });
    assertEquals(back.session_present, true);
    assertEquals((await back.messages.next())?.payload, "x");
  }
  const missing = await fetch(`${b.http}/v1/nodes/z/drain`, { method: "POST" });
  assertEquals(missing.status, 404);
  await missing.body?.cancel();
});
