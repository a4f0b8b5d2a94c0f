/**
 * The breaker by itself, with a clock that the test holds; and the service against a real
 * Prometheus that scrapes a target which is killed and comes back.
 */
import { assert, assertEquals } from "@std/assert";
import { Breaker, breaker_default, combine, judge } from "../../core/cluster/breaker.ts";
import { etcd_client } from "../../core/cluster/etcd.ts";
import { codes } from "../../core/codes.ts";
import { cluster_programs, TestCluster } from "../support/cluster.ts";
import { free_ports } from "../support/cluster_programs.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { Prometheus } from "../support/prometheus.ts";
import { of_type, RawLongwire } from "../support/raw.ts";
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
    const times_file = `${prometheus.directory}/rules.json`;
    await Deno.writeTextFile(times_file, `{"breaker": {"open_ms": 1500, "half_open_ms": 500}}`);
    const args = ["--prometheus", prometheus.address, "--rules", times_file];
    await using service = await Service.start({ args });
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
    const begin_ms = performance.now();
    const refused = await fetch(`${service.http}/v1/topics/t`, { method: "POST", body: "x" });
    times.push(`refused in ${Math.round(performance.now() - begin_ms)} ms`);
    assertEquals([refused.status, (await refused.json()).code], [503, "breaker_open"]);
    assert(Number(refused.headers.get("retry-after")) >= 1);
    const device = await MqttJs.connect(service.mqtt, { clientId: "d" }).catch(() => undefined);
    assertEquals(device, undefined);
    assertEquals(await MqttJs.refused(service.mqtt), { reason_code: 0x88, server: "" });
    await using raw = await RawLongwire.open(service.device);
    await raw.frame({ type: "hello", protocol_version: 1, session_id: "l" });
    const frame = of_type(await raw.packets.next(), "refuse");
    assertEquals(frame.code, codes.breaker_open.number);
    assert(frame.retry_after_ms >= 1000, "devices are told when to come again");
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

/** A target that answers requests, and counts by status how it did. */
class Answering {
  /** Part of the requests that fail. */
  failing = 0;
  #good = 0;
  #bad = 0;
  readonly #server: Deno.HttpServer;

  constructor(port: number) {
    const options = { hostname: "127.0.0.1", port, onListen: () => {} };
    this.#server = Deno.serve(options, () => {
      this.#bad += 100 * this.failing;
      this.#good += 100 * (1 - this.failing);
      const name = "http_requests_total";
      const text = `${name}{code="200"} ${this.#good}\n${name}{code="500"} ${this.#bad}\n`;
      return new Response(text, { headers: { connection: "close" } });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

const rate = (code: string) => `sum(rate(http_requests_total{job="auth"${code}}[2s]))`;
const errors = { name: "errors", query: `${rate(',code=~"5.."')} / ${rate("")}`, above: 0.5 };

test_with(
  ["prometheus", ...cluster_programs],
  "breaker: a rate of 5xx by rules from etcd, and no data is not 0",
  async () => {
    const [port] = free_ports(1);
    await using target = new Answering(port!);
    await using prometheus = await Prometheus.start(`127.0.0.1:${port}`, { job: "auth" });
    await using cluster = await TestCluster.start(1, 1, ["--prometheus", prometheus.address]);
    const [node] = cluster.nodes;
    const etcd = etcd_client([cluster.etcd.addresses]);
    const set = async (rules: readonly unknown[]) => {
      const settings = { rules, open_ms: 500, half_open_ms: 500 };
      await etcd.put("longwire/rules/breaker").value(JSON.stringify(settings)).exec();
    };
    const times: string[] = [];
    const reached = async (name: string) => {
      const begin_ms = performance.now();
      await eventually(`breaker ${name}`, async () => {
        const { nodes: [{ breaker }] } = await (await fetch(`${node!.http}/v1/nodes`)).json();
        return breaker === name;
      }, 30_000);
      times.push(`${name} after ${Math.round(performance.now() - begin_ms)} ms`);
    };
    /** Lets it ask so often, then tells its state. */
    const after_rounds = async (count: number) => {
      const rounds = () => node!.metric("longwire_breaker_rounds_total");
      const wanted = await rounds() + count;
      await eventually("asked again", async () => await rounds() >= wanted);
      return await node!.metric(`longwire_breaker_state{state="open"}`);
    };
    try {
      await set([errors]);
      assertEquals(await after_rounds(3), 0);
      target.failing = 0.9;
      await reached("open");
      assertEquals((await node!.publish("t", "x")).status, 503);
      // What nobody knows is neither 0 nor good: it stays open, well over its half second.
      target.failing = 0;
      await set([{ name: "missing", query: "there_is_no_such_thing", below: 1 }]);
      assertEquals(await after_rounds(5), 1);
      // Nor does one that Prometheus does not understand hide the others.
      await set([errors, { name: "wrong", query: "sum(", above: 1 }]);
      await reached("closed");
      assertEquals(await node!.metric("longwire_breaker_rules_failing"), 1);
      assertEquals((await node!.publish("t", "x")).status, 200);
      console.log(`breaker: ${times.join(", ")}`);
    } finally {
      etcd.close();
    }
  },
);
