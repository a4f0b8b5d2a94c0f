/**
 * /metrics: what is counted and measured of a real service, in both formats, and how little asking
 * costs.
 */
import { assert, assertEquals } from "@std/assert";
import { connect } from "../core/client.ts";
import { wants_openmetrics } from "../core/exposition.ts";
import { latency_bucket, LatencyHistogram, SizeHistogram } from "../core/histogram.ts";
import { limits } from "../core/limits.ts";
import { elapsed_us } from "../core/measures.ts";
import { by_tenant } from "../core/metrics.ts";
import { Tenants } from "../core/tenant.ts";
import { ensure_program } from "./bench/build.ts";
import { MqttClient } from "./support/mqtt_client.ts";
import { test_with } from "./support/process.ts";
import { Prometheus } from "./support/prometheus.ts";
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

/** Runs the load generator against a service; answers what it saw. */
async function run_load(service: Service, ...args: string[]): Promise<Record<string, unknown>> {
  const { host, port } = service.mqtt;
  const { stdout } = await new Deno.Command(await ensure_program("load"), {
    args: [...args, `server=${host}:${port}`],
    signal: AbortSignal.timeout(60_000),
  }).output();
  return JSON.parse(new TextDecoder().decode(stdout));
}

const ignore = Deno.build.os !== "linux"; // the load generator is written for epoll

test_with(["prometheus"], "Prometheus scrapes a service under load, every time", async () => {
  await using service = await Service.start();
  // As patient as a machine is slow that many tests share.
  const how = { interval_ms: 500, timeout_ms: 500 };
  await using prometheus = await Prometheus.start(service.http.slice("http://".length), how);
  const sizes = ["fanout", "subscribers=200", "window=64", "qos=1", "measure_ms=4000"];
  const { ok, problem } = await run_load(service, ...sizes);
  assertEquals([ok, problem], [true, ""]);
  const value = async (query: string) => (await prometheus.query(query))[0]?.value;
  assertEquals(await value("min_over_time(up[1m])"), 1);
  assert(await value("count_over_time(up[1m])") >= 8);
  const active = 'longwire_protocol_connections{protocol="mqtt",state="active"}';
  assert(await value(`max_over_time(${active}[1m])`) > 200);
  // Whatever counts only ever grows.
  const counts = '{__name__=~"longwire_.*_(total|bucket|count|sum)"}';
  assert(await value(`count(${counts})`) > 200);
  for (const { metric } of await prometheus.query(`group by (__name__) (${counts})`)) {
    const { __name__: name } = metric;
    assertEquals([name, await value(`max(resets(${name}[1m]))`)], [name, 0]);
  }
  for (const name of ["publish_to_socket", "publish_to_acknowledged", "store_append"]) {
    const rate = `sum by (le) (rate(longwire_${name}_seconds_bucket[1m]))`;
    const p99_s = await value(`histogram_quantile(0.99, ${rate})`);
    assert(p99_s > 0 && p99_s < 30, `${name}: ${p99_s}`);
  }
  assert(await value("rate(longwire_deliveries_total[1m])") > 1000);
});

/** Lines that are values. */
function series_of(text: string): string[] {
  return text.split("\n").filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.slice(0, line.lastIndexOf(" ")));
}

/** As many as the machine holds: LONGWIRE_TEST_DEVICES=100000. */
const device_count = Number(Deno.env.get("LONGWIRE_TEST_DEVICES") || 2000);

/** Half of many scrapes take no longer than this, milliseconds; and the values of the last. */
async function scrape(service: Service): Promise<[median_ms: number, series: string[]]> {
  const times: number[] = [];
  let text = "";
  for (let count = 0; count < 25; count++) {
    const begin_ms = performance.now();
    text = await (await fetch(`${service.http}/metrics`)).text();
    times.push(performance.now() - begin_ms);
  }
  return [times.sort((a, b) => a - b)[12], series_of(text)];
}

Deno.test("what is asked costs no more with many devices", { ignore }, async () => {
  const max_connections = ["--max_connections", `${device_count + 1000}`];
  await using service = await Service.start({ args: max_connections });
  const [before_ms, before] = await scrape(service);
  const load = run_load(service, "hold", `devices=${device_count}`, "hold_ms=1500");
  await eventually("the devices are there", async () => {
    return await service.metric("longwire_connections") >= device_count;
  }, 60_000);
  const [after_ms, after] = await scrape(service);
  // Codes and reasons come as they happen; nothing else may.
  const names = new Set(before.map((line) => line.replace(/\{.*/, "")));
  for (const name of after) assert(names.has(name.replace(/\{.*/, "")) || name.includes("code="));
  assert(after.length - before.length < 20, `${before.length} series became ${after.length}`);
  const medians = `${before_ms.toFixed(2)} and ${after_ms.toFixed(2)} ms`;
  console.log(`scrapes of ${after.length} series, without and with devices: ${medians}`);
  assert(after_ms < 50, medians);
  await load;
});

Deno.test("tenants over the bound share one label", () => {
  const none = { connections: 0, subscriptions: 0, publishes_per_s: 0, bytes_per_s: 0 };
  const tenants = new Tenants(none, {}, () => 0);
  const { tenant_labels_max } = limits;
  for (let index = 0; index < tenant_labels_max + 50; index++) {
    tenants.get(`t${index}`).usage.published++;
  }
  const values = by_tenant(tenants, (usage) => usage.published);
  assertEquals(values.length, tenant_labels_max + 1);
  assertEquals(values.find(([{ tenant }]) => tenant === "(others)")?.[1], 50);
});
