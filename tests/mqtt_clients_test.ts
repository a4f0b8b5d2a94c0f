/** MQTT as others wrote it: mosquitto's programs, MQTT.js and Eclipse Paho against the service. */
import { assert, assertEquals } from "@std/assert";
import { mosquitto_programs, mosquitto_pub, MosquittoSub } from "./support/mosquitto.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { is_ci, Program, test_with } from "./support/process.ts";
import { eventually, Service } from "./support/service.ts";
import { type TlsService, TlsSite } from "./support/tls_site.ts";

const versions = ["mqttv311", "mqttv5"] as const;

for (const version of versions) {
  test_with(mosquitto_programs, `mosquitto, ${version}: every QoS, both ways`, async () => {
    await using service = await Service.start();
    for (const qos of ["0", "1", "2"]) {
      const args = ["-V", version, "-t", "a/+", "-q", qos];
      await using sub = await MosquittoSub.start(service.mqtt, ...args);
      for (const sent of ["0", "1", "2"]) {
        const message = ["-V", version, "-t", "a/b", "-m", `${sent}`, "-q", sent];
        assertEquals(await mosquitto_pub(service.mqtt, ...message), 0);
        const expected = Math.min(Number(qos), Number(sent));
        assertEquals(await sub.next(), {
          topic: "a/b",
          qos: expected,
          retain: false,
          payload: sent,
        });
      }
    }
  });

  test_with(mosquitto_programs, `mosquitto, ${version}: sessions, retained, wills`, async () => {
    await using service = await Service.start();
    const pub = (...args: string[]) => mosquitto_pub(service.mqtt, "-V", version, ...args);
    const kept = ["-V", version, "-i", "kept", "-c", "-q", "1", "-t", "s/#"];
    if (version === "mqttv5") kept.push("-x", "600");
    const first = await MosquittoSub.start(service.mqtt, ...kept);
    await first.stop();
    await pub("-t", "s/1", "-m", "missed", "-q", "1");
    await pub("-t", "s/2", "-m", "retained", "-q", "1", "-r");
    {
      await using again = await MosquittoSub.start(service.mqtt, ...kept);
      // What was missed may come before the SUBACK, which is where the helper begins to look.
      const { seen } = again.program.stdout;
      for (const payload of ["s/1 1 0 missed", "s/2 1 0 retained", "s/2 1 1 retained"]) {
        const has_come = () => Promise.resolve(seen.includes(`message ${payload}`));
        await eventually(`${payload} has come`, has_come);
      }
    }
    const will = ["--will-topic", "will", "--will-payload", "gone", "--will-qos", "1"];
    await using watch = await MosquittoSub.start(service.mqtt, "-t", "will", "-q", "1");
    const lost = await MosquittoSub.start(service.mqtt, "-V", version, "-t", "x", ...will);
    await lost.kill();
    assertEquals((await watch.next()).payload, "gone");
  });
}

test_with(
  [...mosquitto_programs, "mosquitto_rr"],
  "mosquitto_rr: a request is answered",
  async () => {
    await using service = await Service.start();
    await using device = await MqttJs.connect(service.mqtt);
    device.client.on("message", (_topic, payload, { properties }) => {
      const { responseTopic = "", correlationData } = properties ?? {};
      const answer = correlationData === undefined ? {} : { properties: { correlationData } };
      device.client.publish(responseTopic, `${payload}!`, answer);
    });
    await device.subscribe("requests");
    const { host, port } = service.mqtt;
    const place = ["-h", host, "-p", String(port), "-V", "mqttv5"];
    const asked = new Program("mosquitto_rr", [
      ...place,
      ...[
        "-t",
        "requests",
        "-e",
        "answers",
        "-m",
        "hello",
        "-D",
        "publish",
        "correlation-data",
        "7",
      ],
    ]);
    assertEquals(await asked.status(), 0);
    assertEquals(asked.stdout.seen, ["hello!"]);
  },
);

test_with(
  mosquitto_programs,
  "mosquitto: members of a shared subscription take turns",
  async () => {
    await using service = await Service.start();
    const args = ["-V", "mqttv5", "-t", "$share/g/jobs", "-q", "1"];
    await using one = await MosquittoSub.start(service.mqtt, ...args);
    await using two = await MosquittoSub.start(service.mqtt, ...args);
    for (const job of ["1", "2", "3", "4"]) {
      await mosquitto_pub(service.mqtt, "-t", "jobs", "-m", job, "-q", "1");
    }
    const got = [await one.next(), await one.next(), await two.next(), await two.next()];
    assertEquals(got.map(({ payload }) => payload).sort(), ["1", "2", "3", "4"]);
  },
);

/** A place to connect to, over TCP or WebSocket, plain or over TLS. */
function over(service: TlsService, site: TlsSite, protocol: "mqtt" | "mqtts" | "ws" | "wss") {
  if (protocol === "mqtt") return [service.mqtt, { protocol }] as const;
  if (protocol === "mqtts") return [service.mqtts, { protocol, ca: site.ca_pem }] as const;
  const [url, ca] = protocol === "ws" ? [service.http, {}] : [service.https, { ca: site.ca_pem }];
  const port = Number(new URL(url).port);
  return [{ host: "127.0.0.1", port }, { protocol, path: "/mqtt", ...ca }] as const;
}

for (const protocol of ["mqtt", "mqtts", "ws", "wss"] as const) {
  for (const protocolVersion of [4, 5] as const) {
    const name = `MQTT.js ${protocolVersion}, ${protocol}://`;

    test_with(["openssl"], `${name}: messages of every QoS, in order`, async () => {
      await using site = await TlsSite.make();
      await using service = await site.start();
      const [address, more] = over(service, site, protocol);
      const options = { ...more, protocolVersion };
      await using subscriber = await MqttJs.connect(address, options);
      await using publisher = await MqttJs.connect(address, options);
      for (const qos of [0, 1, 2] as const) {
        assertEquals(await subscriber.subscribe(`q/${qos}`, qos), qos);
        const sent = Array.from({ length: 50 }, (_, n) => `${n}`);
        await Promise.all(sent.map((payload) => publisher.publish(`q/${qos}`, payload, qos)));
        for (const payload of sent) {
          const got = await subscriber.messages.next();
          assertEquals(got, { topic: `q/${qos}`, qos, retain: false, payload });
        }
      }
    });

    test_with(["openssl"], `${name}: a session that returns gets what it missed`, async () => {
      await using site = await TlsSite.make();
      await using service = await site.start();
      const [address, more] = over(service, site, protocol);
      const kept = { clientId: "kept", clean: false, ...more, protocolVersion };
      const properties = protocolVersion === 5
        ? { properties: { sessionExpiryInterval: 600, receiveMaximum: 5 } }
        : {};
      const first = await MqttJs.connect(address, { ...kept, ...properties });
      await first.subscribe("s", 2);
      await first.cut();
      await using publisher = await MqttJs.connect(service.mqtt);
      for (let n = 0; n < 30; n++) await publisher.publish("s", `${n}`, n % 2 === 0 ? 1 : 2);
      await using again = await MqttJs.connect(address, { ...kept, ...properties });
      assertEquals(again.session_present, true);
      // These clients hand on a QoS 2 message with its PUBREL: order holds for each QoS.
      const got: number[][] = [[], [], []];
      for (let n = 0; n < 30; n++) {
        const { qos, payload } = (await again.messages.next())!;
        got[qos].push(Number(payload));
      }
      const every_second = (first: number) => Array.from({ length: 15 }, (_, n) => first + 2 * n);
      assertEquals(got, [[], every_second(0), every_second(1)]);
    });
  }
}

Deno.test("MQTT.js 5: properties, a large message and a topic alias", async () => {
  await using service = await Service.start();
  await using subscriber = await MqttJs.connect(service.mqtt);
  const options = { autoAssignTopicAlias: true, properties: { topicAliasMaximum: 10 } };
  await using publisher = await MqttJs.connect(service.mqtt, options);
  const seen: unknown[] = [];
  subscriber.client.on("message", (_topic, payload, { properties }) => {
    seen.push([payload.length, properties?.userProperties, properties?.contentType]);
  });
  await subscriber.subscribe("p", 1);
  const properties = { userProperties: { a: ["1", "2"], b: "3" }, contentType: "text/plain" };
  const payload = "x".repeat(900_000);
  for (let n = 0; n < 3; n++) {
    await publisher.client.publishAsync("p", payload, { qos: 1, properties });
  }
  for (let n = 0; n < 3; n++) assert(await subscriber.messages.next() !== undefined);
  assertEquals(seen, Array(3).fill([900_000, { a: ["1", "2"], b: "3" }, "text/plain"]));
});

/** A Python that has Paho; Debian's own may not be the first in the path. */
async function python_with_paho(): Promise<string | undefined> {
  for (const python of ["python3", "/usr/bin/python3"]) {
    try {
      const args = ["-c", "import paho.mqtt.client"];
      if (await new Program(python, args).status() === 0) return python;
    } catch {
      // there is no such program
    }
  }
  return undefined;
}

const python = await python_with_paho();

/** Where Paho goes, and with which version: each transport, each version over TCP. */
const paho_runs = [
  { version: "4", protocol: "mqtt" },
  { version: "5", protocol: "mqtt" },
  { version: "5", protocol: "mqtts" },
  { version: "4", protocol: "ws" },
  { version: "5", protocol: "wss" },
] as const;

for (const { version, protocol } of paho_runs) {
  const run = async () => {
    if (python === undefined) throw new Error("python3-paho-mqtt is not installed");
    await using site = await TlsSite.make();
    await using service = await site.start();
    const [{ host, port }] = over(service, site, protocol);
    const script = new URL("./support/paho_client.py", import.meta.url).pathname;
    const place = [host, String(port), version, protocol, site.ca.cert];
    const paho = new Program(python, [script, ...place]);
    const code = await paho.status();
    assertEquals([code, paho.stdout.seen.at(-1)], [0, "done"], paho.stderr.seen.join("\n"));
  };
  const name = `Paho ${version}, ${protocol}://: exchanges, sessions, wills, shared subscriptions`;
  if (python !== undefined || is_ci) Deno.test(name, run);
  else Deno.test.ignore(`${name} (skipped: python3-paho-mqtt not installed)`, run);
}
