/**
 * The main job, end to end: the real service, and clients that others wrote. A back end publishes
 * over HTTP, devices get it; devices publish, devices get it.
 */
import { assert, assertEquals } from "@std/assert";
import { mosquitto_programs, mosquitto_pub, MosquittoSub } from "./support/mosquitto.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { Program, test_with } from "./support/process.ts";
import { run_main, Service } from "./support/service.ts";

/** Runs `longwire sub` until it listens. */
async function longwire_sub(service: Service, ...args: string[]): Promise<Program> {
  const { host, port } = service.device;
  const program = run_main(["sub", ...args, "--url", `${host}:${port}`]);
  await program.stderr.find((line) => line.startsWith("Listening to"), "that it listens");
  return program;
}

/** Runs `longwire pub` to its end. */
async function longwire_pub(service: Service, ...args: string[]): Promise<Program> {
  const { host, port } = service.device;
  const program = run_main(["pub", ...args, "--url", `${host}:${port}`]);
  assertEquals(await program.status(), 0, program.stderr.seen.join("\n"));
  return program;
}

const with_curl = [...mosquitto_programs, "curl"];

test_with(with_curl, "one curl reaches mosquitto_sub, MQTT.js and longwire sub", async () => {
  await using service = await Service.start();
  await using old = await MosquittoSub.start(service.mqtt, "-t", "demo/#", "-q", "1");
  await using five = await MosquittoSub.start(service.mqtt, "-t", "demo/+", "-V", "5");
  await using js = await MqttJs.connect(service.mqtt, { protocolVersion: 4 });
  assertEquals(await js.subscribe("+/greeting", 1), 1);
  const longwire = await longwire_sub(service, "demo/#", "--count", "1");
  const url = `${service.http}/v1/topics/demo/greeting`;
  const curl = new Program("curl", ["-sS", "-d", "hello", url]);
  assertEquals(await curl.status(), 0);
  const answer = JSON.parse(curl.stdout.seen.join(""));
  assertEquals({ offset: answer.offset, audience: answer.audience }, { offset: 1, audience: 4 });
  const message = { topic: "demo/greeting", retain: false, payload: "hello" };
  assertEquals(await old.next(), { ...message, qos: 1 });
  assertEquals(await five.next(), { ...message, qos: 0 });
  assertEquals(await js.messages.next(), { ...message, qos: 1 });
  assertEquals(await longwire.status(), 0);
  assertEquals(longwire.stdout.seen, ["demo/greeting hello"]);
});

for (const version of ["311", "5"]) {
  test_with(mosquitto_programs, `mosquitto -V ${version}: each QoS to each QoS`, async () => {
    await using service = await Service.start();
    for (const subscribed of [0, 1, 2]) {
      const place = ["-t", `to/${subscribed}/#`, "-q", String(subscribed), "-V", version];
      await using sub = await MosquittoSub.start(service.mqtt, ...place);
      for (const published of [0, 1, 2]) {
        const topic = `to/${subscribed}/${published}`;
        const message = ["-t", topic, "-q", String(published), "-m", "m", "-V", version];
        assertEquals(await mosquitto_pub(service.mqtt, ...message), 0);
        const qos = Math.min(subscribed, published);
        assertEquals(await sub.next(), { topic, qos, retain: false, payload: "m" });
      }
    }
  });
}

test_with(mosquitto_programs, "longwire pub reaches mosquitto_sub, and back", async () => {
  await using service = await Service.start();
  await using sub = await MosquittoSub.start(service.mqtt, "-t", "up/#", "-q", "2");
  for (const qos of [0, 1, 2]) {
    const pub = await longwire_pub(service, `up/${qos}`, "from a device", "--qos", String(qos));
    const said = pub.stderr.seen[0];
    assert(said.startsWith(qos === 0 ? "Sent to up/0" : `Stored in up/${qos} as `), said);
    const expected = { topic: `up/${qos}`, qos, retain: false, payload: "from a device" };
    assertEquals(await sub.next(), expected);
  }
  const longwire = await longwire_sub(service, "down/+/#", "--count", "1", "--json");
  assertEquals(await mosquitto_pub(service.mqtt, "-t", "down/1/x", "-q", "1", "-m", "m"), 0);
  assertEquals(await longwire.status(), 0);
  const { id, time, ...message } = JSON.parse(longwire.stdout.seen[0]);
  assertEquals(id, `${message.epoch}:3`);
  assert(Math.abs(Date.parse(time) - Date.now()) < 60_000, time);
  assertEquals({ topic: message.topic, qos: message.qos, payload: message.payload }, {
    topic: "down/1/x",
    qos: 1,
    payload: "m",
  });
});

Deno.test("longwire sub --after brings what was stored before", async () => {
  await using service = await Service.start();
  for (const payload of ["a", "b", "c"]) await service.publish("log/x", payload);
  const all = await longwire_sub(service, "log/#", "--after", "0", "--count", "3");
  assertEquals(await all.status(), 0);
  assertEquals(all.stdout.seen, ["log/x a", "log/x b", "log/x c"]);
  const { body } = await service.publish("log/x", "d");
  const after = `${body.epoch}:2`;
  const rest = await longwire_sub(service, "log/#", "--after", after, "--count", "2");
  assertEquals(await rest.status(), 0);
  assertEquals(rest.stdout.seen, ["log/x c", "log/x d"]);
});

Deno.test("a batch over HTTP is answered and delivered in order", async () => {
  await using service = await Service.start();
  await using js = await MqttJs.connect(service.mqtt);
  await js.subscribe("batch/#", 1);
  const items = [
    { topic: "batch/1", payload: "text" },
    { topic: "batch/+", payload: "refused" },
    { topic: "batch/2", payload: { json: true }, qos: 0 },
    { topic: "batch/3", payload_base64: "AAE=", key: "k" },
  ];
  const response = await fetch(`${service.http}/v1/publish`, {
    method: "POST",
    body: JSON.stringify(items),
  });
  const results = await response.json();
  assertEquals(results.map((result: Record<string, unknown>) => result.code ?? result.offset), [
    1,
    "topic_invalid",
    0,
    2,
  ]);
  const got = [await js.messages.next(), await js.messages.next(), await js.messages.next()];
  assertEquals(got.map((message) => `${message!.topic} ${message!.payload}`), [
    "batch/1 text",
    'batch/2 {"json":true}',
    "batch/3 \0\x01",
  ]);
});

for (const protocolVersion of [4, 5] as const) {
  Deno.test(`MQTT.js, protocol ${protocolVersion}: from device to device at each QoS`, async () => {
    await using service = await Service.start();
    await using from = await MqttJs.connect(service.mqtt, { protocolVersion });
    await using to = await MqttJs.connect(service.mqtt, { protocolVersion });
    assertEquals(await to.subscribe("to/#", 2), 2);
    for (const qos of [0, 1, 2] as const) {
      await from.publish(`to/${qos}`, `QoS ${qos}`, qos);
      const expected = { topic: `to/${qos}`, qos, retain: false, payload: `QoS ${qos}` };
      assertEquals(await to.messages.next(), expected);
    }
  });
}

Deno.test("longwire sub goes on where it was when the service comes back", async () => {
  const data = await Deno.makeTempDir();
  try {
    const first = await Service.start({ data });
    const sub = await longwire_sub(first, "a/#", "--count", "3");
    await first.publish("a/1", "before");
    assertEquals(await sub.stdout.next(), "a/1 before");
    assertEquals(await first.stop(), 0);
    const { host, port } = first.device;
    await using second = await Service.start({ data, device: `${host}:${port}` });
    await second.publish("a/2", "while it was away");
    assertEquals(await sub.stdout.next(), "a/2 while it was away");
    await second.publish("a/3", "after");
    assertEquals(await sub.status(), 0);
    assertEquals(sub.stdout.seen.at(-1), "a/3 after");
  } finally {
    await Deno.remove(data, { recursive: true });
  }
});
