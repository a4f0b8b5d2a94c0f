/** Rules in real etcd: every node follows within a second, and nothing bad takes effect. */
import { assert, assertEquals } from "@std/assert";
import { etcd_client } from "../../core/cluster/etcd.ts";
import { cluster_programs, TestCluster } from "../support/cluster.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually, run_main, type Service } from "../support/service.ts";

interface Rule {
  readonly revision: number;
  readonly in_force: Record<string, unknown>;
  readonly refused?: { readonly revision: number; readonly problem: string };
}

async function rule(node: Service, name: string): Promise<Rule> {
  return (await (await fetch(`${node.http}/v1/rules`)).json())[name];
}

/** Runs `longwire rules`; answers the exit status and what it said on stderr. */
async function longwire_rules(etcd: string, args: readonly string[]): Promise<[number, string]> {
  const program = run_main(["rules", ...args, "--etcd", etcd]);
  const status = await program.status();
  return [status, program.stderr.seen.join("\n")];
}

async function set_rules(cluster: TestCluster, name: string, value: unknown): Promise<void> {
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(file, JSON.stringify(value));
    const [status, said] = await longwire_rules(cluster.etcd.addresses, ["set", name, file]);
    assertEquals(status, 0, said);
  } finally {
    await Deno.remove(file);
  }
}

/** Waits until all nodes have it; answers how long that took, milliseconds. */
async function in_force(
  nodes: readonly Service[],
  name: string,
  fits: (rule: Rule) => boolean,
): Promise<number> {
  const begin_ms = performance.now();
  for (const node of nodes) {
    await eventually(`rules ${name}`, async () => fits(await rule(node, name)));
  }
  return performance.now() - begin_ms;
}

test_with(
  cluster_programs,
  "rules: set once, followed by all, and never by what is bad",
  async () => {
    await using cluster = await TestCluster.start(2);
    const { nodes, etcd } = cluster;
    const [a, b] = nodes;
    const key = "longwire/rules/routing";
    const client = etcd_client([etcd.addresses]);
    try {
      // What is known to be bad is not even written.
      const file = await Deno.makeTempFile({ suffix: ".json" });
      await Deno.writeTextFile(file, `{"deny": [{"name": "x", "publish": ["a/#/b"]}]}`);
      const [status, said] = await longwire_rules(etcd.addresses, ["set", "routing", file]);
      await Deno.remove(file);
      assertEquals(status, 2);
      assert(said.includes("routing.deny[0].publish[0] must be a topic filter"), said);
      assertEquals((await client.get(key).exec()).kvs.length, 0);

      // On both nodes at once.
      const deny = [{ name: "rollback", publish: ["firmware/#"] }];
      await client.put(key).value(JSON.stringify({ deny })).exec();
      const took_ms = await in_force(nodes, "routing", ({ revision }) => revision > 0);
      console.log(`rules were in force on both nodes after ${Math.round(took_ms)} ms`);
      for (const node of nodes) {
        const refused = await node.publish("firmware/v2", "x");
        assertEquals([refused.status, refused.body.code], [403, "denied"]);
        assertEquals((await node.publish("other", "x")).status, 200);
      }

      // A bad one written past the command changes nothing but what is said of it.
      await client.put(key).value(`{"deny": 1}`).exec();
      await in_force(nodes, "routing", ({ refused }) => refused !== undefined);
      const { in_force: still, refused } = await rule(a, "routing");
      assertEquals((still.deny as unknown[]).length, 1);
      assertEquals(refused!.problem, "routing.deny must be a list of at most 64");
      assert(a.log.some((line) => line.includes("rules cannot be used")));
      assertEquals(await b.metric(`longwire_rules_invalid{document="routing"}`), 1);
      assertEquals((await a.publish("firmware/v2", "x")).status, 403);

      // Over a restart of etcd, and in a node that starts meanwhile.
      await etcd.members[0]!.program.end("SIGKILL");
      assertEquals((await rule(b, "routing")).in_force, still);
      etcd.members[0]!.restart();
      await eventually("etcd is back", () => client.get(key).exec().then(() => true, () => false));
      await cluster.settled(2);
      await using c = await cluster.start_node("c");
      assertEquals((await rule(c, "routing")).in_force, still);
      assertEquals((await c.publish("firmware/v2", "x")).status, 403);

      // A good one again, after the restart; then none.
      await set_rules(cluster, "routing", {});
      await in_force([...nodes, c], "routing", ({ in_force: { deny } }) => {
        return (deny as unknown[]).length === 0;
      });
      assertEquals((await c.publish("firmware/v2", "x")).status, 200);
      assertEquals((await rule(c, "routing")).refused, undefined);
      assertEquals((await longwire_rules(etcd.addresses, ["unset", "routing"]))[0], 0);
      await in_force([...nodes, c], "routing", ({ revision }) => revision === 0);
    } finally {
      client.close();
    }
  },
);

test_with(cluster_programs, "rules: devices go where their tenant belongs", async () => {
  await using cluster = await TestCluster.start(0);
  const a = await cluster.start_node("a", ["--zone", "north"]);
  const b = await cluster.start_node("b", ["--zone", "south"]);
  cluster.nodes.push(a, b);
  await cluster.settled(2);
  const { nodes } = await (await fetch(`${a.http}/v1/nodes`)).json();
  const shown = nodes.map((node: Record<string, unknown>) => {
    const { node_id, zone, degradation, breaker, load_percent } = node;
    return [node_id, zone, degradation, breaker, typeof load_percent];
  });
  assertEquals(shown, [["a", "north", "normal", "", "number"], [
    "b",
    "south",
    "normal",
    "",
    "number",
  ]]);
  await set_rules(cluster, "routing", { place: [{ tenant: "default", zones: ["south"] }] });
  await set_rules(cluster, "limits", { tenant: { publishes_per_s: 1 } });
  await in_force([a, b], "limits", ({ revision }) => revision > 0);
  const refused = await MqttJs.refused(a.mqtt, { clientId: "d" });
  assertEquals(refused, { reason_code: 0x9c, server: `${b.mqtt.host}:${b.mqtt.port}` });
  await using device = await MqttJs.connect(b.mqtt, { clientId: "d" });
  assertEquals(device.session_present, false);
  // Limits hold on every node by now: one publish a second.
  for (const node of [a, b]) {
    const statuses = [];
    for (let n = 0; n < 3; n++) statuses.push((await node.publish("t", "x")).status);
    assertEquals(statuses.includes(429), true);
  }
});
