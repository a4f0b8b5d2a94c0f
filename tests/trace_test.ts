/**
 * Traces, as a collector gets them: from curl to the acknowledgement of a device, of bounded size,
 * and only those that are sampled, refused or slow.
 */
import { assert, assertEquals } from "@std/assert";
import { connect } from "../core/client.ts";
import { limits } from "../core/limits.ts";
import { format_traceparent, parse_traceparent } from "../core/traceparent.ts";
import { Decoder, encode } from "../core/protocol/mqtt.ts";
import { concat } from "./cases/bytes.ts";
import { connect_packet, MqttClient } from "./support/mqtt_client.ts";
import { Collector, type Span } from "./support/otlp.ts";
import { test_with } from "./support/process.ts";
import { Prometheus } from "./support/prometheus.ts";
import { eventually, Service } from "./support/service.ts";

const trace_id = "0af7651916cd43dd8448eb211c80319c";
const caller = "b7ad6b7169203331";
const sampled = `00-${trace_id}-${caller}-01`;
const not_sampled = `00-${trace_id}-${caller}-00`;

async function curl(service: Service, topic: string, traceparent: string): Promise<unknown> {
  const { stdout } = await new Deno.Command("curl", {
    args: ["-s", "-d", "hello", "-H", `traceparent: ${traceparent}`]
      .concat(`${service.http}/v1/topics/${topic}`),
  }).output();
  return JSON.parse(new TextDecoder().decode(stdout));
}

Deno.test("a traceparent is read as the recommendation says", () => {
  const parent = { trace_id, span_id: caller, is_sampled: true };
  assertEquals(parse_traceparent(sampled), parent);
  assertEquals(format_traceparent(parent), sampled);
  assertEquals(parse_traceparent(not_sampled)?.is_sampled, false);
  assertEquals(parse_traceparent(`01-${trace_id}-${caller}-03-more`)?.is_sampled, true);
  const wrong = [
    "",
    `ff-${trace_id}-${caller}-01`,
    `00-${trace_id}-${caller}-01-more`,
    `00-${"0".repeat(32)}-${caller}-01`,
    `00-${trace_id}-${"0".repeat(16)}-01`,
    sampled.toUpperCase(),
    `00-${trace_id}-${caller}`,
  ];
  for (const text of wrong) assertEquals(parse_traceparent(text), undefined, text);
});

Deno.test("without tracing a traceparent reaches devices and history as it came", async () => {
  await using service = await Service.start();
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "d" });
  await client.subscribe("a");
  await fetch(`${service.http}/v1/topics/a`, {
    method: "POST",
    body: "x",
    headers: { traceparent: sampled },
  });
  const { properties } = await client.expect("publish");
  assertEquals(properties?.user_properties, [["traceparent", sampled]]);
  const history = await (await fetch(`${service.http}/v1/topics/a/messages`)).json();
  assertEquals(history.messages[0].traceparent, sampled);
});

test_with(["curl"], "one trace from curl to the acknowledgements of devices", async () => {
  await using collector = new Collector();
  await using service = await Service.start({ env: collector.env("parentbased_always_off") });
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "mqtt-device" });
  await client.subscribe("a/#", 1);
  const { host, port } = service.device;
  const own = connect({ address: `${host}:${port}`, session_id: "own-device" });
  const read = Array.fromAsync(own);
  await own.subscribe("a/#");
  await curl(service, "a/b", sampled);
  const { packet_id, properties } = await client.expect("publish");
  await client.say({ type: "puback", packet_id, reason_code: 0 });
  const of = (name: string, device?: string) =>
    collector.find(`${name} ${device ?? ""}`, (span) => {
      return span.name === name && (device ?? span.attributes["longwire.device.id"]) ===
          span.attributes["longwire.device.id"];
    });
  const request = await of("POST");
  const publish = await of("publish");
  const fanout = await of("fan-out");
  const tree: [Span, string][] = [
    [request, caller],
    [publish, request.span_id],
    [await of("store"), publish.span_id],
    [fanout, publish.span_id],
  ];
  for (const device of ["mqtt-device", "own-device"]) {
    const delivery = await of("delivery", device);
    tree.push([delivery, fanout.span_id]);
    tree.push([await of("acknowledgement", device), delivery.span_id]);
  }
  for (const [span, parent_id] of tree) {
    assertEquals([span.name, span.trace_id, span.parent_id], [span.name, trace_id, parent_id]);
    assert(span.start_ns <= span.end_ns, span.name);
  }
  assertEquals(publish.attributes["messaging.destination.name"], "a/b");
  // What the device does next hangs under the publish.
  const carried = format_traceparent({ trace_id, span_id: publish.span_id, is_sampled: true });
  assertEquals(properties?.user_properties, [["traceparent", carried]]);
  await own.close();
  await read;
});

test_with(
  ["curl"],
  "a device's traceparent goes on, and a fan-out to many is a bounded trace",
  async () => {
    await using collector = new Collector();
    await using service = await Service.start({ env: collector.env("parentbased_always_off") });
    const devices = await Promise.all(Array.from({ length: 100 }, async (_, index) => {
      const { client } = await MqttClient.connect(service.mqtt, { client_id: `d${index}` });
      await client.subscribe("many", 1);
      return client;
    }));
    const properties = { user_properties: [["traceparent", sampled] as const] };
    const { client: publisher } = await MqttClient.connect(service.mqtt);
    await publisher.publish("many", "x", { qos: 1, properties });
    const got = await Promise.all(devices.map(async (client) => {
      const publish = await client.expect("publish");
      await client.say({ type: "puback", packet_id: publish.packet_id, reason_code: 0 });
      return publish;
    }));
    assertEquals(got[7].properties?.user_properties, properties.user_properties); // [MQTT-3.3.2-17]
    const publish = await collector.find("publish", ({ name }) => name === "publish");
    assertEquals([publish.trace_id, publish.parent_id], [trace_id, caller]);
    const count = (name: string) =>
      collector.spans.seen.filter((span) => span.name === name).length;
    const { trace_deliveries_max } = limits;
    await eventually("as many acknowledgements as are followed", () => {
      return Promise.resolve(count("acknowledgement") === trace_deliveries_max);
    });
    // What comes after all of it: nothing more is on its way.
    await curl(service, "last", sampled);
    await collector.find(
      "last",
      (span) => span.attributes["messaging.destination.name"] === "last",
    );
    assertEquals(count("delivery"), trace_deliveries_max);
    assertEquals(count("acknowledgement"), trace_deliveries_max);
  },
);

test_with(["curl"], "what is not sampled is not sent, what is refused is", async () => {
  await using collector = new Collector();
  const env = collector.env("parentbased_always_off");
  await using service = await Service.start({ env, args: ["--trace_slow_ms", "0"] });
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "d" });
  await client.subscribe("a");
  await curl(service, "a", not_sampled);
  assertEquals(
    (await client.expect("publish")).properties?.user_properties?.[0]?.[1].slice(-2),
    "00",
  );
  await service.publish("a", "x"); // nobody has said anything
  assertEquals((await client.expect("publish")).properties?.user_properties, undefined);
  const payload = new Uint8Array(limits.payload_bytes_max + 1);
  await client.publish("a", payload, { qos: 1 });
  const refused = await collector.find("the refusal", (span) => span.is_error);
  assertEquals([refused.name, refused.attributes["error.type"]], ["publish", "body_too_large"]);
  assertEquals(collector.spans.seen.length, 1);
});

/** A device that has subscribed and reads nothing more. */
async function connect_lazy({ mqtt }: Service, filter: string): Promise<Deno.TcpConn> {
  const conn = await Deno.connect({ hostname: mqtt.host, port: mqtt.port });
  const subscription = {
    filter,
    qos: 0,
    no_local: false,
    retain_as_published: false,
    retain_handling: 0,
  } as const;
  const subscribe = { type: "subscribe", packet_id: 1, subscriptions: [subscription] } as const;
  await conn.write(concat(encode(connect_packet(), 5), encode(subscribe, 5)));
  const decoder = new Decoder(5);
  const room = new Uint8Array(1024);
  for (;;) {
    const packets = [...decoder.feed(room.subarray(0, await conn.read(room) ?? 0))];
    if (packets.some(({ type }) => type === "suback")) return conn;
  }
}

test_with(
  ["curl"],
  "what is slow is sent though it is not sampled, and the log names it",
  async () => {
    await using collector = new Collector();
    const env = collector.env("parentbased_always_off");
    await using service = await Service.start({ env, args: ["--trace_slow_ms", "1"] });
    const lazy = await connect_lazy(service, "a");
    const big = new Uint8Array(limits.payload_bytes_max);
    const waits = async () => await service.metric("longwire_out_queue_bytes") > 0;
    // More than the kernel takes: the rest waits in the queue, for longer than a millisecond.
    while (!await waits()) await service.publish("a", big, "qos=0");
    const drained = lazy.readable.pipeTo(new WritableStream()).catch(() => {});
    const delivery = await collector.find("delivery", ({ name }) => name === "delivery");
    assert(delivery.end_ns - delivery.start_ns > 1_000_000n);
    const publish = await collector.find("publish", (span) =>
      span.span_id !== "" &&
      span.name === "publish" && span.trace_id === delivery.trace_id);
    assertEquals(publish.attributes["longwire.kept"], true);
    await eventually("the log names the trace", () => {
      return Promise.resolve(service.log.some((line) => {
        return /"event":"slow (publish|delivery)"/.test(line) && line.includes(delivery.trace_id);
      }));
    });
    await service.stop();
    await drained;
  },
);

test_with(["curl", "prometheus"], "Prometheus keeps traces as examples of a latency", async () => {
  await using collector = new Collector();
  await using service = await Service.start({ env: collector.env("parentbased_always_off") });
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "d" });
  await client.subscribe("a", 1);
  await curl(service, "a", sampled);
  await client.receive();
  await collector.find("the end of it", ({ name }) => name === "acknowledgement");
  await using prometheus = await Prometheus.start(service.http.slice("http://".length));
  for (const name of ["publish_to_socket", "publish_to_acknowledged", "store_append"]) {
    await eventually(`an example of ${name}`, async () => {
      return (await prometheus.exemplars(`longwire_${name}_seconds_bucket`)).includes(trace_id);
    });
  }
});
