/**
 * Sessions of the real service: what devices subscribe to, whose connection it is, what they get
 * when they come back, after the service was restarted too.
 */
import { codes } from "../core/codes.ts";
import { assert, assertEquals } from "@std/assert";
import { encode } from "../core/protocol/mqtt.ts";
import { mosquitto_programs, MosquittoSub } from "./support/mosquitto.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { test_with } from "./support/process.ts";
import { RawLongwire, RawMqtt } from "./support/raw.ts";
import { Service } from "./support/service.ts";

/** What the messages of an inbox say, as many as there must be. */
async function take(device: MqttJs, count: number): Promise<string[]> {
  const lines: string[] = [];
  while (lines.length < count) {
    const { topic, payload } = await device.messages.find(() => true, "a message");
    lines.push(`${topic} ${payload}`);
  }
  return lines;
}

Deno.test("wildcards match as MQTT says, and each message comes once", async () => {
  await using service = await Service.start();
  await using device = await MqttJs.connect(service.mqtt);
  for (const filter of ["a/+/c", "a/#", "+/b", "$other/#"]) await device.subscribe(filter, 1);
  for (const topic of ["a/b/c", "a", "x/b", "x/b/c", "$other/x", "a/$x", "$a/b", "end/b"]) {
    await service.publish(encodeURIComponent(topic), "m");
  }
  assertEquals(await take(device, 6), [
    "a/b/c m",
    "a m",
    "x/b m",
    "$other/x m",
    "a/$x m",
    "end/b m",
  ]);
  assertEquals(device.messages.size, 0);
});

Deno.test("nothing comes after UNSUBACK", async () => {
  await using service = await Service.start();
  await using device = await MqttJs.connect(service.mqtt);
  await device.subscribe("a", 1);
  await device.subscribe("b", 1);
  await service.publish("a", "1");
  await device.client.unsubscribeAsync("a");
  const { body } = await service.publish("a", "2");
  assertEquals(body.audience, 0);
  await service.publish("b", "3");
  assertEquals(await take(device, 2), ["a 1", "b 3"]);
});

Deno.test("a second connection with the same client id takes the session over", async () => {
  await using service = await Service.start();
  const options = { clientId: "one", clean: false, properties: { sessionExpiryInterval: 60 } };
  await using first = await MqttJs.connect(service.mqtt, options);
  await first.subscribe("a", 1);
  await using second = await MqttJs.connect(service.mqtt, options);
  assertEquals(second.session_present, true);
  assertEquals(await first.closed, 0x8e); // session taken over (table 2-6)
  await service.publish("a", "1");
  assertEquals(await take(second, 1), ["a 1"]);
  assertEquals(first.messages.seen, []);
  assertEquals(await service.metric('longwire_connections_closed_total{code="taken_over"}'), 1);
});

Deno.test("a connection that is silent for 1.5 times its keepalive is closed", async () => {
  await using service = await Service.start();
  const begin_ms = performance.now();
  await using talks = await RawMqtt.connect(service.mqtt, { keepalive_s: 2 });
  await using silent = await RawMqtt.connect(service.mqtt, { keepalive_s: 2 });
  const ping = setInterval(() => talks.send(encode({ type: "pingreq" }, 5)), 250);
  const said = await silent.closed();
  clearInterval(ping);
  const silence_ms = performance.now() - begin_ms;
  assertEquals(said.map((packet) => "reason_code" in packet && packet.reason_code), [0x8d]);
  assert(silence_ms >= 2990 && silence_ms < 10_000, `closed after ${silence_ms} ms`);
  await talks.send(encode({ type: "pingreq" }, 5));
  assertEquals(await talks.packets.next(), { type: "pingresp" });
  const closed = 'longwire_connections_closed_total{code="keepalive_timeout"}';
  assertEquals(await service.metric(closed), 1);
});

test_with(mosquitto_programs, "who subscribes later gets the retained message", async () => {
  await using service = await Service.start();
  await service.publish("state/1", "old", "retain=true");
  await service.publish("state/1", "new", "retain=true");
  await service.publish("state/2", "quick", "retain=true&qos=0");
  await service.publish("state/3", "gone", "retain=true");
  await service.publish("state/3", "", "retain=true");
  await using sub = await MosquittoSub.start(service.mqtt, "-t", "state/#", "-q", "1");
  const got = [await sub.next(), await sub.next()].sort((a, b) => a.topic < b.topic ? -1 : 1);
  assertEquals(got, [
    { topic: "state/1", qos: 1, retain: true, payload: "new" },
    { topic: "state/2", qos: 0, retain: true, payload: "quick" },
  ]);
  await service.publish("state/1", "live");
  assertEquals(await sub.next(), { topic: "state/1", qos: 1, retain: false, payload: "live" });
});

/** A session that the service keeps for a minute. */
const kept = { clientId: "kept", clean: false, properties: { sessionExpiryInterval: 60 } };

Deno.test("a session that returns gets what it missed, in order", async () => {
  await using service = await Service.start();
  const first = await MqttJs.connect(service.mqtt, kept);
  assertEquals(first.session_present, false);
  await first.subscribe("a/#", 1);
  await first.cut();
  for (const payload of ["1", "2", "3"]) await service.publish("a/x", payload);
  await service.publish("b", "not asked for");
  await using again = await MqttJs.connect(service.mqtt, kept);
  assertEquals(again.session_present, true);
  await service.publish("a/x", "4");
  assertEquals(await take(again, 4), ["a/x 1", "a/x 2", "a/x 3", "a/x 4"]);
  assertEquals(again.messages.size, 0);
});

Deno.test("what was not acknowledged is sent again with DUP", async () => {
  await using service = await Service.start();
  const connect = { client_id: "slow", clean_start: false, version: 4 } as const;
  const first = await RawMqtt.connect(service.mqtt, connect);
  const subscription = {
    filter: "a",
    qos: 1,
    no_local: false,
    retain_as_published: false,
    retain_handling: 0,
  } as const;
  const subscribe = { type: "subscribe", packet_id: 1, subscriptions: [subscription] } as const;
  await first.send(encode(subscribe, 4));
  assertEquals((await first.packets.next())?.type, "suback");
  await service.publish("a", "unacknowledged");
  const sent = await first.packets.next();
  assert(sent?.type === "publish" && !sent.dup);
  await first[Symbol.asyncDispose]();
  await using second = await RawMqtt.connect(service.mqtt, connect);
  assertEquals(await second.packets.next(), { ...sent, dup: true }); // [MQTT-4.4.0-1]
});

Deno.test("a Longwire session goes on where it acknowledged", async () => {
  await using service = await Service.start();
  const [first, welcome] = await RawLongwire.connect(service.device, { session_id: "s" });
  assertEquals({ resumed: welcome.resumed, head: welcome.head_offset }, {
    resumed: false,
    head: 0,
  });
  const subscriptions = [{ filter: "a", qos: 1 }] as const;
  await first.frame({ type: "subscribe", request_id: 1, subscriptions });
  assertEquals(await first.next(), { type: "subscribed", request_id: 1, codes: [0] });
  for (const payload of ["1", "2", "3"]) await service.publish("a", payload);
  for (const offset of [1, 2, 3]) {
    const message = await first.next();
    assertEquals(message.type === "message" && message.offset, offset);
  }
  await first.frame({ type: "ack", offset: 2 });
  await first.frame({ type: "goodbye" });
  assertEquals(await first.closed(), []);
  const [second, again] = await RawLongwire.connect(service.device, { session_id: "s" });
  await using _ = second;
  assertEquals(again.resumed, true);
  const message = await second.next();
  assertEquals(message.type === "message" && message.offset, 3);
});

Deno.test("a connected Longwire session is taken over only with its secret", async () => {
  await using service = await Service.start();
  const [first, welcome] = await RawLongwire.connect(service.device, { session_id: "s" });
  await using refused = await RawLongwire.open(service.device);
  const hello = { type: "hello", protocol_version: 1, session_id: "s" } as const;
  await refused.frame({ ...hello, resume_secret: "0".repeat(64) });
  const [refusal, ...rest] = await refused.closed();
  const { number } = codes.secret_replayed;
  assertEquals([refusal.type, "code" in refusal && refusal.code, rest], ["refuse", number, []]);
  const { resume_secret } = welcome;
  const [second] = await RawLongwire.connect(service.device, { session_id: "s", resume_secret });
  await using _ = second;
  const [goodbye] = await first.closed();
  assertEquals([goodbye.type, "code" in goodbye && goodbye.code], ["goodbye", 12]);
});

Deno.test("a cursor of another log is answered with a gap", async () => {
  await using service = await Service.start();
  for (const payload of ["1", "2"]) await service.publish("a", payload);
  const resume = [{ epoch: "another", offset: 7 }];
  const [device] = await RawLongwire.connect(service.device, { session_id: "s", resume });
  await using _ = device;
  assertEquals(await device.next(), { type: "gap", epoch: "", from: 1, to: 2 });
  const subscriptions = [{ filter: "a", qos: 1 }] as const;
  await device.frame({ type: "subscribe", request_id: 1, subscriptions });
  assertEquals((await device.next()).type, "subscribed");
  await service.publish("a", "3");
  const message = await device.next();
  assertEquals(message.type === "message" && message.offset, 3);
});

test_with(mosquitto_programs, "a restart keeps retained messages and sessions", async () => {
  const data = await Deno.makeTempDir();
  try {
    const before = await Service.start({ data });
    await before.publish("state", "retained", "retain=true");
    const device = await MqttJs.connect(before.mqtt, kept);
    await device.subscribe("a", 1);
    await device.end();
    await before.publish("a", "missed before");
    assertEquals(await before.stop(), 0);
    const after = await Service.start({ data });
    const { body } = await after.publish("a", "missed after");
    assertEquals(body.offset, 3);
    await using again = await MqttJs.connect(after.mqtt, kept);
    assertEquals(again.session_present, true);
    assertEquals(await take(again, 2), ["a missed before", "a missed after"]);
    await using sub = await MosquittoSub.start(after.mqtt, "-t", "state");
    assertEquals((await sub.next()).payload, "retained");
    assertEquals(await after.kill(), 137);
    await using last = await Service.start({ data });
    assertEquals((await last.publish("a", "after a kill")).body.offset, 4);
  } finally {
    await Deno.remove(data, { recursive: true });
  }
});
