/**
 * Tenants at the real service: what one has the others cannot see, reach, count or use up. Three of
 * them (one's name begins with another's) have a device of the same id.
 */
import { assert, assertEquals } from "@std/assert";
import { KeyedService } from "./support/keyed_service.ts";
import type { MqttClient } from "./support/mqtt_client.ts";
import { of_type } from "./support/raw.ts";
import { eventually } from "./support/service.ts";
import { all_claims } from "./support/tokens.ts";

const encoder = new TextEncoder();
const path = "/v1/topics/a/secret";
const options = { client_id: "d", clean_start: false, properties: { session_expiry_s: 60 } };

/** A service, and of each tenant a token for everything. */
class Scene implements AsyncDisposable {
  private constructor(readonly keyed: KeyedService, readonly tokens: readonly string[]) {}

  static async start(args: readonly string[] = []): Promise<Scene> {
    const keyed = await KeyedService.start(args);
    const names = ["acme", "acme2", "default"];
    const tokens = names.map((tenant) => keyed.token({ ...all_claims, tenant }));
    return new Scene(keyed, await Promise.all(tokens));
  }

  /** The device `d` of each tenant: three sessions, and none takes another over. */
  async devices(): Promise<MqttClient[]> {
    const devices: MqttClient[] = [];
    for (const token of this.tokens) {
      const { client, connack } = await this.keyed.mqtt(token, options);
      assertEquals([connack.reason_code, connack.session_present], [0, false]);
      devices.push(client);
    }
    return devices;
  }

  async json(index: number, path: string, init: RequestInit = {}) {
    return await (await this.keyed.fetch(this.tokens[index], path, init)).json();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.keyed[Symbol.asyncDispose]();
  }
}

/** What the service says of itself is the default tenant's to hear. */
const is_sys = (topic: string) => topic.startsWith("$SYS/") || topic.startsWith("$presence/");

Deno.test("what a tenant publishes reaches nobody else, live, stored or retained", async () => {
  await using scene = await Scene.start();
  const [device, ...strangers] = await scene.devices();
  const all = ["#", "+/+/#", "$presence/#", "$share/g/#", "a/secret", "$SYS/#"];
  for (const stranger of strangers) {
    for (const filter of all) assert(await stranger.subscribe(filter, 1) <= 1);
  }
  await device.subscribe("a/secret", 1);
  const posted = await scene.json(0, `${path}?retain=true`, { method: "POST", body: "1" });
  assertEquals(posted.audience, 1);
  assertEquals((await device.receive()).topic, "a/secret");
  const publisher = (await scene.keyed.mqtt(scene.tokens[0])).client;
  assertEquals(await publisher.publish("a/secret", "2", { qos: 2, retain: true }), 0);
  await publisher.close();
  assertEquals((await device.receive()).topic, "a/secret");
  for (const index of scene.tokens.keys()) {
    for (const after of ["", `?after=${posted.epoch}:0`]) {
      const { messages } = await scene.json(index, `${path}/messages${after}`);
      assertEquals(messages.length, index === 0 ? 2 : 0);
    }
  }
  await strangers[0].expect_nothing();
  await strangers[1].expect_nothing_but(is_sys);
  for (const token of scene.tokens.slice(1)) {
    const { client } = await scene.keyed.mqtt(token, { client_id: "late" });
    assertEquals(await client.subscribe("a/secret", 1), 1);
    assertEquals(await client.subscribe("+/secret", 1), 1);
    await client.expect_nothing();
    await client.close();
  }
  for (const each of [device, ...strangers]) await each.close();
});

Deno.test("a place in the log and an idempotency key are the tenant's own", async () => {
  await using scene = await Scene.start();
  const { epoch } = await scene.json(0, path, { method: "POST", body: "1" });
  const events = await scene.keyed.fetch(scene.tokens[1], "/v1/events?topic=%23&after=0");
  await using longwire = await scene.keyed.longwire(scene.tokens[1], "lw");
  const subscriptions = [{ filter: "#", qos: 1, after: { epoch, offset: 0 } }] as const;
  await longwire.frame({ type: "subscribe", request_id: 1, subscriptions });
  assertEquals(of_type(await longwire.next(), "subscribed").codes, [0]);
  const payload = encoder.encode("x");
  await longwire.frame({ type: "publish", request_id: 2, topic: "own", payload, qos: 1 });
  const heard = [await longwire.next(), await longwire.next()];
  const seen = heard.map((frame) => frame.type === "message" ? frame.topic : frame.type);
  assertEquals(seen.sort(), ["own", "published"]);
  const reader = events.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("event: message")) text += (await reader.read()).value;
  assert(text.includes('"topic":"own"') && !text.includes("secret"), text);
  await reader.cancel();

  const once = { method: "POST", body: "x", headers: { "idempotency-key": "k" } };
  for (const index of scene.tokens.keys()) {
    const first = await scene.json(index, "/v1/topics/once", once);
    const again = await scene.json(index, "/v1/topics/once", once);
    assertEquals([first.duplicate, again.duplicate], [undefined, true]);
    assertEquals(again.offset, first.offset);
  }
});

Deno.test("devices are seen and let go by their own tenant only", async () => {
  await using scene = await Scene.start();
  const devices = await scene.devices();
  for (const index of scene.tokens.keys()) {
    const page = await scene.json(index, "/v1/devices");
    assertEquals(page.devices.map((one: { device_id: string }) => one.device_id), ["d"]);
  }
  const only = await scene.keyed.mqtt(scene.tokens[0], { ...options, client_id: "only-acme" });
  await only.client.close();
  for (const id of ["only-acme", "$\u0001acme/only-acme", "$\u0001acme/d"]) {
    for (const method of ["GET", "DELETE"]) {
      for (const index of [1, 2]) {
        const answer = await scene.json(index, `/v1/devices/${encodeURIComponent(id)}`, { method });
        assertEquals(answer.code, "not_found", id);
      }
    }
  }
  const kicked = await scene.json(1, "/v1/devices/d?forget=true", { method: "DELETE" });
  assertEquals([kicked.disconnected, kicked.forgotten], [true, true]);
  assertEquals(of_type((await devices[1].closed())[0], "disconnect").reason_code, 0x98);
  await eventually("the session is gone", async () => {
    return (await scene.json(1, "/v1/devices/d")).code === "not_found";
  });
  await devices[0].expect_nothing();
  await devices[2].expect_nothing();
  assertEquals((await scene.json(0, "/metrics")).code, "forbidden");
  assertEquals(await scene.keyed.metric('longwire_tenant_connections{tenant="acme"}'), 1);
  for (const device of devices) await device.close();
});

Deno.test("who comes and goes is a message to those of the tenant who listen", async () => {
  await using scene = await Scene.start();
  const [watch, other] = await scene.devices();
  assertEquals(await watch.subscribe("$presence/#"), 0);
  assertEquals(await other.subscribe("$presence/#"), 0);
  const newcomer = (await scene.keyed.mqtt(scene.tokens[0], { client_id: "x/+#%" })).client;
  const told = async () => {
    const { topic, payload } = await watch.receive();
    const { time, ...event } = JSON.parse(new TextDecoder().decode(payload));
    assert(Math.abs(Date.parse(time) - Date.now()) < 60_000);
    return { topic, ...event };
  };
  const joined = { topic: "$presence/x%2F%2B%23%25", device_id: "x/+#%", protocol: "mqtt-5" };
  assertEquals(await told(), { ...joined, event: "join" });
  await newcomer.subscribe("a/+", 1);
  const listeners = await scene.json(0, "/v1/presence?topic=a/b");
  const node = Deno.hostname();
  assertEquals(listeners.devices, [{ device_id: "x/+#%", filter: "a/+", qos: 1, node }]);
  assertEquals((await scene.json(0, "/v1/presence?topic=a/%23")).devices, listeners.devices);
  assertEquals((await scene.json(0, "/v1/presence?topic=b")).devices, []);
  assertEquals((await scene.json(1, "/v1/presence?topic=a/b")).devices, []);
  await newcomer.disconnect();
  assertEquals(await told(), { ...joined, event: "leave", reason: "normal" });
  await watch.expect_nothing();
  await other.expect_nothing();
  const token = await scene.keyed.token({ subscribe: ["#"], publish: ["#"] });
  const plain = (await scene.keyed.mqtt(token)).client;
  assertEquals(await plain.subscribe("$presence/#"), 0x87);
  assertEquals(await plain.publish("$presence/d", "{}", { qos: 1 }), 0x87);
  assertEquals((await scene.keyed.fetch(token, "/v1/devices")).status, 403);
  for (const each of [watch, other, plain]) await each.close();
});

Deno.test("devices come page by page, those that are asked for", async () => {
  await using scene = await Scene.start();
  const clients: MqttClient[] = [];
  for (const id of ["b3", "a1", "b1", "a2", "b2"]) {
    clients.push((await scene.keyed.mqtt(scene.tokens[0], { ...options, client_id: id })).client);
  }
  await clients[0].disconnect({ properties: { session_expiry_s: 60 } });
  const ids = async (query: string) => {
    const found: string[] = [];
    for (let after: string | null = ""; after !== null;) {
      const from = encodeURIComponent(after);
      const page = await scene.json(0, `/v1/devices?limit=2&after=${from}${query}`);
      assert(page.devices.length <= 2);
      found.push(...page.devices.map((one: { device_id: string }) => one.device_id));
      after = page.next;
    }
    return found;
  };
  assertEquals(await ids(""), ["a1", "a2", "b1", "b2", "b3"]);
  assertEquals(await ids("&prefix=b"), ["b1", "b2", "b3"]);
  await eventually("b3 is gone", async () => (await ids("&connected=false"))[0] === "b3");
  assertEquals(await ids("&connected=true"), ["a1", "a2", "b1", "b2"]);
  const one = await scene.json(0, "/v1/devices/b3");
  assertEquals([one.connected, one.protocol], [false, "mqtt-5"]);
  assert(Date.parse(one.session_ends) > Date.now());
  assertEquals((await scene.json(0, "/v1/devices?limit=0")).code, "query_invalid");
  for (const client of clients.slice(1)) await client.close();
});

Deno.test("what one tenant uses up is refused to it alone", async () => {
  const limits = ["--tenant_connections", "2", "--tenant_subscriptions", "2"];
  await using scene = await Scene.start([...limits, "--tenant_publishes_per_s", "5"]);
  const { keyed, tokens } = scene;
  const [one, two] = [(await keyed.mqtt(tokens[0])).client, (await keyed.mqtt(tokens[0])).client];
  const third = await keyed.mqtt(tokens[0]);
  assertEquals(third.connack.reason_code, 0x97);
  const events = await keyed.fetch(tokens[0], "/v1/events?topic=a");
  assertEquals([events.status, events.headers.get("retry-after")], [429, "5"]);
  await events.body?.cancel();
  const four = await keyed.mqtt(tokens[0], { version: 4 });
  assertEquals(four.connack.reason_code, 3);
  assertEquals([await one.subscribe("a"), await two.subscribe("b")], [0, 0]);
  assertEquals([await one.subscribe("a"), await one.subscribe("c")], [0, 0x97]);
  await one.unsubscribe("a");
  assertEquals(await two.subscribe("c"), 0);

  const reasons = new Set<number>();
  for (let i = 0; i < 20; i++) reasons.add(await one.publish("x", "", { qos: 1 }));
  assertEquals([...reasons].sort(), [0, 0x97]);
  const post = (index: number) => keyed.fetch(tokens[index], path, { method: "POST", body: "" });
  const refused = await post(0);
  assertEquals([refused.status, refused.headers.get("retry-after")], [429, "1"]);
  assertEquals((await refused.json()).code, "quota_exceeded");
  const other = await keyed.mqtt(tokens[1]);
  assertEquals([other.connack.reason_code, await other.client.subscribe("a")], [0, 0]);
  assertEquals((await scene.json(1, path, { method: "POST", body: "" })).qos ?? 0, 0);
  await eventually("the rate lets more pass", async () => (await post(0)).status === 200);
  assert(await keyed.metric('longwire_tenant_over_quota_total{tenant="acme"}') > 0);
  assertEquals(await keyed.metric('longwire_tenant_over_quota_total{tenant="acme2"}'), 0);
  for (const client of [one, two, other.client]) await client.close();
});
