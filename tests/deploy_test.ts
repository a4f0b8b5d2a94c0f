/**
 * What operators deploy: Prometheus itself checks the rules and what the service tells it, and
 * nothing here names a metric that there is not.
 */
import { assert, assertEquals } from "@std/assert";
import { test_with } from "./support/process.ts";
import { Service } from "./support/service.ts";

const deploy = new URL("../deploy/", import.meta.url);
const text = new TextDecoder();

/** Runs promtool; answers its exit status and all that it said. */
async function promtool(args: readonly string[], input = ""): Promise<[number, string]> {
  const child = new Deno.Command("promtool", {
    args: [...args],
    cwd: deploy,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  const written = writer.write(new TextEncoder().encode(input)).then(() => writer.close());
  const [{ code, stdout, stderr }] = await Promise.all([child.output(), written]);
  return [code, text.decode(stdout) + text.decode(stderr)];
}

test_with(["promtool"], "the configuration and the alert rules are sound", async () => {
  const [code, said] = await promtool(["check", "config", "prometheus/prometheus.yml"]);
  assertEquals(code, 0, said);
});

test_with(["promtool"], "alerts fire when they must, and only then", async () => {
  const [code, said] = await promtool(["test", "rules", "prometheus/alerts_test.yml"]);
  assertEquals(code, 0, said);
});

async function scrape(service: Service): Promise<string> {
  return await (await fetch(`${service.http}/metrics`)).text();
}

test_with(["promtool"], "promtool finds nothing to say against /metrics", async () => {
  await using service = await Service.start();
  await service.publish("a", "b");
  const [code, said] = await promtool(["check", "metrics"], await scrape(service));
  assertEquals([code, said.trim()], [0, ""]);
});

Deno.test("rules and dashboard name only metrics that there are", async () => {
  // One that nobody answers at: what there is of the breaker is there all the same.
  await using service = await Service.start({ args: ["--prometheus", "127.0.0.1:1"] });
  const series = await scrape(service);
  for (const file of ["prometheus/alerts.yml", "grafana/longwire.json"]) {
    const names = (await Deno.readTextFile(new URL(file, deploy))).match(/\blongwire_[a-z_]+/g) ??
      [];
    assert(names.length > 5);
    for (const name of names) {
      const base = name.replace(/_(bucket|sum|count)$/, "");
      const is_there = series.includes(`# TYPE ${name} `) ||
        series.includes(`# TYPE ${base} histogram`);
      assert(is_there, `${file}: ${name}`);
    }
  }
});
