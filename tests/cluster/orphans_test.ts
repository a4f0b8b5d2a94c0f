/** A node dies: what is due of its devices happens, once, at one of those that live. */
import { Buffer } from "node:buffer";
import { assert, assertEquals } from "@std/assert";
import { cluster_programs, TestCluster } from "../support/cluster.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually } from "../support/service.ts";

const kept = { clean: false, properties: { sessionExpiryInterval: 3600 } };

/** A device whose will is its name. */
function will_of(name: string, willDelayInterval = 0) {
  const payload = Buffer.from(name);
  return { topic: `wills/${name}`, payload, qos: 1 as const, properties: { willDelayInterval } };
}

test_with(cluster_programs, "cluster: wills of a killed node's devices", async () => {
  await using cluster = await TestCluster.start(3);
  const [a, b, c] = cluster.nodes;
  await using on_b = await MqttJs.connect(b!.mqtt, { clientId: "on-b", ...kept });
  await using on_c = await MqttJs.connect(c!.mqtt, { clientId: "on-c", ...kept });
  await on_b.subscribe("wills/#", 1);
  await on_c.subscribe("wills/#", 1);
  const connect = (clientId: string, delay_s: number, options = {}) => {
    return MqttJs.connect(a!.mqtt, { clientId, will: will_of(clientId, delay_s), ...options });
  };
  const returning = await connect("returning", 3, kept);
  await connect("soon", 1, kept);
  await connect("late", 4, kept);
  await connect("clean", 0);
  await connect("ends", 100, { clean: false, properties: { sessionExpiryInterval: 2 } });
  // One that says goodbye takes its will along.
  const left = await connect("left", 0);
  await left.end();
  await eventually("the rows are written", async () => {
    return await a!.metric("longwire_store_queue_bytes") === 0;
  });
  const killed_ms = performance.now();
  await a!.kill();
  await returning.closed;
  await using returned = await MqttJs.connect(b!.mqtt, { clientId: "returning", ...kept });
  assert(returned.session_present);
  const heard = async (device: MqttJs) => {
    const payloads: string[] = [];
    while (payloads.at(-1) !== "late") payloads.push((await device.messages.next())!.payload);
    return payloads;
  };
  const wills = await heard(on_b);
  assert(performance.now() - killed_ms >= 4000, "a will came before its delay was over");
  // Due before the last of them: `returning` three seconds after the kill, but it has come back.
  assertEquals(wills, ["clean", "soon", "ends", "late"]);
  assertEquals(await heard(on_c), wills);
  const [at_b, at_c] = await Promise.all([b!, c!].map((node) => {
    return node.metric("longwire_sessions_adopted_total");
  }));
  // Four whose device stays away, and the fifth where that was quicker than its device.
  assert([4, 5].includes(at_b! + at_c!), `${at_b} and ${at_c} are adopted`);
  // Where the session has ended, nothing of it is left.
  await using anew = await MqttJs.connect(c!.mqtt, { clientId: "ends", ...kept });
  assertEquals(anew.session_present, false);
});
