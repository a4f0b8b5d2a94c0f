/**
 * The breaker by itself, with a clock that the test holds; and the service against a real
 * Prometheus that scrapes a target which is killed and comes back.
 */
import { assert, assertEquals } from "@std/assert";
import { Breaker, breaker_default, combine, judge } from "../../core/cluster/breaker.ts";
import { free_ports } from "../support/cluster_programs.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { Prometheus } from "../support/prometheus.ts";
import { eventually, Service } from "../support/service.ts";

const settings = { ...breaker_default, open_ms: 1000, half_open_ms: 500, probes_per_s: 2 };

Deno.test("breaker: opens at once, lets some through, closes when all is good", () => {
  const changes: string[] = [];
  const breaker = new Breaker(settings, (from, to) => changes.push(`${from} ${to}`));
  breaker.observe("good", 0);
  assert(breaker.admits(0));
  breaker.observe("bad", 10);
  assertEquals([breaker.state, breaker.admits(11), breaker.retry_after_ms(10)], [
    "open",
    false,
    1000,
  ]);
  breaker.observe("good", 500); // not yet
  breaker.observe("unknown", 5000); // nobody knows: it stays as it is
  assertEquals(breaker.state, "open");
  breaker.observe("good", 5001);
  assertEquals(breaker.state, "half_open");
  const admitted = Array.from({ length: 100 }, (_, n) => breaker.admits(5001 + n * 10));
  assertEquals(admitted.filter(Boolean).length, 1); // 2 a second, and the first not at once
  breaker.observe("bad", 6010);
  assertEquals(breaker.state, "open");
  breaker.observe("good", 7020);
  breaker.observe("good", 7100);
  breaker.observe("good", 7521);
  assertEquals([breaker.state, breaker.admits(7522), breaker.opened], ["closed", true, 2]);
  assertEquals(changes, [
    "closed open",
    "open half_open",
    "half_open open",
    "open half_open",
    "half_open closed",
  ]);
});

Deno.test("breaker: no data is not 0", () => {
  const [down, errors] = breaker_default.rules;
  assertEquals(judge(down!, []), "unknown");
  assertEquals(judge(down!, [0]), "bad");
  assertEquals(judge(down!, [1, 0]), "bad");
  assertEquals(judge(down!, [1]), "good");
  assertEquals(judge(errors!, [NaN]), "unknown");
  assertEquals(judge(errors!, [0.6]), "bad");
  assertEquals(combine(["unknown", "good"]), "good");
  assertEquals(combine([]), "unknown");
});

/** A target of Prometheus that says nothing but that it is there, and keeps no connection. */
function start_target(port: number): Deno.HttpServer {
  const options = { hostname: "127.0.0.1", port, onListen: () => {} };
  return Deno.serve(options, () => new Response("x 1\n", { headers: { connection: "close" } }));
}

test_with(["prometheus"], "breaker: follows a real Prometheus", async () => {
  const [port] = free_ports(1);
  let target = start_target(port!);
  await using prometheus = await Prometheus.start(`127.0.0.1:${port}`, { job: "auth" });
  try {
    await using service = await Service.start({ args: ["--prometheus", prometheus.address] });
    const state = (name: string) => service.metric(`longwire_breaker_state{state="${name}"}`);
    const times: string[] = [];
    const reached = async (name: string) => {
      const begin_ms = performance.now();
      await eventually(`breaker ${name}`, async () => await state(name) === 1, 30_000);
      times.push(`${name} after ${Math.round(performance.now() - begin_ms)} ms`);
    };
    await reached("closed");
    assertEquals((await service.publish("t", "x")).status, 200);
    await target.shutdown();
    await reached("open");
    const refused = await fetch(`${service.http}/v1/topics/t`, { method: "POST", body: "x" });
    assertEquals([refused.status, (await refused.json()).code], [503, "breaker_open"]);
    assert(Number(refused.headers.get("retry-after")) >= 1);
    const device = await MqttJs.connect(service.mqtt, { clientId: "d" }).catch(() => undefined);
    assertEquals(device, undefined);
    // Prometheus gone: the breaker stays, and a metric says so.
    Deno.kill(prometheus.program.pid, "SIGSTOP");
    await eventually("unreachable", async () => {
      return await service.metric("longwire_prometheus_unreachable") === 1;
    });
    assertEquals(await state("open"), 1);
    Deno.kill(prometheus.program.pid, "SIGCONT");
    target = start_target(port!);
    await reached("half_open");
    await reached("closed");
    assertEquals((await service.publish("t", "x")).status, 200);
    console.log(`breaker: ${times.join(", ")}`);
  } finally {
    await target.shutdown();
  }
});
