/**
 * /metrics: what is counted and measured of a real service, in both formats, and how little asking
 * costs.
 */
import { assert, assertEquals } from "@std/assert";
import { connect } from "../core/client.ts";
import { wants_openmetrics } from "../core/exposition.ts";
import { latency_bucket, LatencyHistogram, SizeHistogram } from "../core/histogram.ts";
import { elapsed_us } from "../core/measures.ts";
import { MqttClient } from "./support/mqtt_client.ts";
import { eventually, Service } from "./support/service.ts";

Deno.test("a duration falls into the bucket whose bound is the first that is not below it", () => {
  const { bounds } = new LatencyHistogram().snapshot;
  const us = bounds.map((bound) => Math.round(bound * 1e6));
  assertEquals([us[0], us[1], us[2], us.at(-1)], [16, 24, 32, 2 ** 25]);
  us.forEach((bound, index) => {
    assertEquals([latency_bucket(bound), latency_bucket(bound + 1)], [index, index + 1]);
  });
  assertEquals(latency_bucket(0), 0);
  const sizes = new SizeHistogram(0, 4);
  for (const size of [0, 1, 2, 3, 16, 17, 1e6]) sizes.record(size);
  assertEquals(sizes.snapshot.bounds, [1, 2, 4, 8, 16]);
  assertEquals([...Array.from(sizes.snapshot.counts)], [2, 1, 1, 0, 1, 2]);
  assertEquals(elapsed_us(0xffff_fff0, 16), 32);
  assertEquals(elapsed_us(20, 16), 0); // read before, on another thread
});

Deno.test("Accept says which format it is", () => {
  const open = "application/openmetrics-text; version=1.0.0";
  const cases: [string | null, boolean][] = [
    [null, false],
    ["*/*", false],
    ["text/plain", false],
    [open, true],
    [`${open};q=0.5, text/plain;q=0.9`, false],
    // What Prometheus 2.42 says.
    [
      "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;" +
      "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
      true,
    ],
    [`${open};q=0`, false],
  ];
  for (const [accept, expected] of cases) assertEquals(wants_openmetrics(accept), expected);
});

/** Name of each family and its type, in the order of the text. */
function families(text: string): [string, string][] {
  return [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name, type]);
}

Deno.test("both formats show the same, each in its own words", async () => {
  await using service = await Service.start();
  await service.publish("a", "b");
  const ask = async (accept: string) => {
    const response = await fetch(`${service.http}/metrics`, { headers: { accept } });
    return [response.headers.get("content-type"), await response.text()] as const;
  };
  const [plain_type, plain] = await ask("text/plain");
  const [open_type, open] = await ask("application/openmetrics-text;version=1.0.0");
  assertEquals(plain_type, "text/plain; version=0.0.4; charset=utf-8");
  assertEquals(open_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
  assert(open.endsWith("\n# EOF\n"));
  const expected = families(plain).map(([name, type]) => {
    return [type === "counter" ? name.replace(/_total$/, "") : name, type];
  });
  assertEquals(families(open), expected as [string, string][]);
  for (const [name, type] of families(plain)) {
    assertEquals(name.endsWith("_total"), type === "counter");
  }
});

Deno.test("publishes are timed to the socket and to the acknowledgement", async () => {
  await using service = await Service.start();
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "mqtt" });
  await client.subscribe("a/#", 1);
  const { host, port } = service.device;
  const own = connect({ address: `${host}:${port}`, session_id: "own" });
  const read = Array.fromAsync(own); // what the application has taken is acknowledged
  await own.subscribe("a/#");
  const count = 20;
  for (let index = 0; index < count; index++) {
    await service.publish("a/b", "x");
    const publish = await client.expect("publish");
    await client.say({ type: "puback", packet_id: publish.packet_id, reason_code: 0 });
  }
  const name = "longwire_publish_to_acknowledged_seconds";
  await eventually("every PUBACK is timed", async () => {
    return await service.metric(`${name}_count{protocol="mqtt"}`) === count;
  });
  // One Ack stands for many messages.
  await eventually("an Ack is timed", async () => {
    return await service.metric(`${name}_sum{protocol="longwire"}`) > 0;
  });
  await own.close();
  await read;
  // One receiver of each audience: there are two, for the protocols write it in two forms.
  assertEquals(await service.metric("longwire_publish_to_socket_seconds_count"), 2 * count);
  assertEquals(await service.metric("longwire_store_append_seconds_count"), count);
  assertEquals(await service.metric("longwire_store_batch_messages_sum"), count);
  assert(await service.metric("longwire_event_batch_events_sum") > 0);
  assert(await service.metric("longwire_event_loop_delay_seconds_count") > 0);
});
