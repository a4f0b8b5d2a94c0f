/** What the service says of itself under $SYS: at once to who subscribes, then in its own time. */
import { assert, assertEquals } from "@std/assert";
import manifest from "../deno.json" with { type: "json" };
import type { Message } from "../core/message.ts";
import { Router } from "../core/router.ts";
import { Sessions } from "../core/sessions.ts";
import { MemoryStore } from "../core/store/memory.ts";
import { type SysParts, SysTopics } from "../core/sys_topics.ts";
import { FakeReactor } from "./fake_reactor.ts";
import { MqttClient, payload_text } from "./support/mqtt_client.ts";
import { mosquitto_programs, MosquittoSub } from "./support/mosquitto.ts";
import { test_with } from "./support/process.ts";
import { Service } from "./support/service.ts";

/** The next messages by topic, as many as there must be. */
async function take(client: MqttClient, count: number): Promise<Record<string, string>> {
  const got: Record<string, string> = {};
  while (Object.keys(got).length < count) {
    const message = await client.receive();
    assertEquals(message.retain, true);
    got[message.topic.slice("$SYS/broker/".length)] = payload_text(message);
  }
  return got;
}

Deno.test("$SYS: who subscribes is told at once, as if it were retained", async () => {
  await using service = await Service.start();
  const { client: device } = await MqttClient.connect(service.mqtt);
  await device.publish("kept", "m", { qos: 1, retain: true });
  await device.subscribe("a/#", 1);
  await device.subscribe("b", 1);
  await device.subscribe("$share/g/c", 1);
  const { client: operator } = await MqttClient.connect(service.mqtt);
  await operator.subscribe("$SYS/broker/#");
  const values = await take(operator, 45);
  assertEquals(values.version, `longwire version ${manifest.version}`);
  assert(/^\d+ seconds$/.test(values.uptime), values.uptime);
  const names = ["clients/connected", "clients/total", "subscriptions/count"];
  assertEquals(names.map((name) => values[name]), ["2", "2", "4"]);
  assertEquals(values["shared_subscriptions/count"], "1");
  assertEquals(values["retained messages/count"], "1");
  assertEquals(values["publish/messages/received"], "1");
  assertEquals(values["store/messages/count"], "1");
  assert(Number(values["bytes/received"]) > 0 && Number(values["messages/sent"]) > 0);
  assertEquals(values["load/messages/received/5min"], "0.00"); // no sample has been taken
  await operator.expect_nothing();
  await operator.subscribe("$SYS/broker/clients/+");
  assertEquals(Object.keys(await take(operator, 7)).length, 7);
  await operator.subscribe("#");
  assertEquals(payload_text(await operator.receive()), "m"); // and nothing of $SYS
  await operator.expect_nothing();
  for (const client of [device, operator]) await client.close();
});

test_with(mosquitto_programs, "$SYS: mosquitto_sub reads it", async () => {
  await using service = await Service.start();
  await using sub = await MosquittoSub.start(service.mqtt, "-t", "$SYS/broker/version");
  const { topic, payload, retain } = await sub.next();
  assertEquals([topic, retain], ["$SYS/broker/version", true]);
  assertEquals(payload, `longwire version ${manifest.version}`);
});

Deno.test("$SYS: those who listen are told again, and nothing is made up for nobody", async () => {
  let now_ms = 1_000_000;
  const reactor = new FakeReactor();
  const counters = { frames_in: 0, bytes_in: 0, accepted: 0 };
  reactor.stats = () => ({
    ...reactor.no_stats,
    counters: new Proxy(counters, { get: (of, name) => Reflect.get(of, name) ?? 0 }) as never,
    dropped: [3],
  });
  const store = new MemoryStore();
  const router = new Router(reactor, store, () => now_ms);
  const log = undefined as never;
  const sessions = new Sessions(store, () => now_ms, log);
  const hub = { shared: { count: 0 } } as never;
  const parts = { reactor, router, sessions, hub, store, mqtt: { sent: 0 }, version: "1" };
  const sys = new SysTopics({ ...parts, now_ms: () => now_ms } as SysParts);
  const heard: string[] = [];
  const tap = {
    hear: ({ topic, payload, retain }: Message) => {
      heard.push(`${topic.slice("$SYS/broker/".length)} ${new TextDecoder().decode(payload)}`);
      assertEquals(retain, true);
    },
  };
  const tick = async () => {
    now_ms += 10_000;
    await sys.tick();
    return heard.splice(0);
  };
  counters.bytes_in = 600; // 3600 a minute
  assertEquals(await tick(), []);
  assertEquals(router.fanout.unmatched, 0);
  router.fanout.tap("$SYS/broker/uptime", tap);
  router.fanout.tap("$SYS/broker/load/bytes/received/+", tap);
  router.fanout.tap("$SYS/broker/publish/messages/dropped", tap);
  counters.bytes_in = 1200;
  const fading = (minutes: number) => (3600 * (1 - Math.exp(-20 / 60 / minutes))).toFixed(2);
  assertEquals(await tick(), [
    "uptime 20 seconds",
    "publish/messages/dropped 3",
    `load/bytes/received/1min ${fading(1)}`,
    `load/bytes/received/5min ${fading(5)}`,
    `load/bytes/received/15min ${fading(15)}`,
  ]);
});
