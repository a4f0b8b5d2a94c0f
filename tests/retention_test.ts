/**
 * The setting `retention`: how rules are written, and that a service keeps to them in the
 * background: history says where there is a gap, and a device gets what is left.
 */
import { assertEquals, assertMatch } from "@std/assert";
import { settings } from "../core/config.ts";
import { parse_retention } from "../core/retention.ts";
import { retention_default, type RetentionRule } from "../core/store/mod.ts";
import { MqttClient, payload_text } from "./support/mqtt_client.ts";
import { eventually, Service, type ServiceOptions } from "./support/service.ts";

function rule(filter: string, bounds: Partial<RetentionRule> = {}): RetentionRule {
  return { filter, age_ms: 0, count: 0, bytes: 0, ...bounds };
}

const day_ms = 86_400_000;

Deno.test("retention rules: every form", () => {
  const cases: [string, RetentionRule[]][] = [
    ["#:age=7d", [rule("#", { age_ms: 7 * day_ms })]],
    ["sensors/#:age=7d,count=100000,bytes=1GB", [
      rule("sensors/#", { age_ms: 7 * day_ms, count: 100_000, bytes: 1e9 }),
    ]],
    ["a:bytes=1,age=90", [rule("a", { age_ms: 90_000, bytes: 1 })]],
    ["a:bytes=1.5MiB; b/+:count=1;", [
      rule("a", { bytes: 1.5 * 2 ** 20 }),
      rule("b/+", {
        count: 1,
      }),
    ]],
    ["audit/#:forever;#:age=12h", [rule("audit/#"), rule("#", { age_ms: day_ms / 2 })]],
    ["a:b;c/:age=1s;x;y:count=2", [rule("a:b;c/", { age_ms: 1000 }), rule("x;y", { count: 2 })]],
    ["größe/ x=,:bytes=2TB", [rule("größe/ x=,", { bytes: 2e12 })]],
    ["$SYS/#:count=5", [rule("$SYS/#", { count: 5 })]],
  ];
  for (const [text, rules] of cases) assertEquals(parse_retention(text), rules, text);
  assertEquals(parse_retention(settings.retention.fallback), retention_default);
});

Deno.test("retention rules: what is wrong is named", () => {
  const cases: [string, RegExp][] = [
    ["sensors/#", /^"sensors\/#" is no rule; a rule is like/],
    ["a:count=1;b", /^"b" is no rule/],
    ["a:size=1", /^"a:size=1" is no rule/],
    [":age=1d", /is no rule/],
    ["a/#/b:age=1d", /^"a\/#\/b" is no topic filter: /],
    ["$share/g/a:age=1d", /is no topic filter: it is a shared one$/],
    ["a:age=0", /^age of "a" must be a duration/],
    ["a:age=week", /^age of "a" must be a duration/],
    ["a:count=0", /^count of "a" must be a whole number of messages$/],
    ["a:count=1.5", /^count of "a" must be/],
    ["a:bytes=10XB", /^bytes of "a" must be a size/],
    ["a:bytes=0.1B", /^bytes of "a" must be a size/],
    ["a:count=1,count=2", /^count of "a" is given twice$/],
    ["a:count=1,size=2", /^"size" of "a" is not age, count or bytes$/],
    ["#:age=1d;a:count=1", /^"a" comes after "#", in vain$/],
    ["a:age=1d;a:count=1", /^"a" comes after "a", in vain$/],
    [Array.from({ length: 65 }, (_, n) => `t${n}:count=1`).join(";"), /^at most 64 rules$/],
  ];
  for (const [text, why] of cases) assertMatch(String(parse_retention(text)), why, text);
});

interface History {
  messages: { payload: string; offset: number }[];
  gap: boolean;
}

/** A service with rules, on a directory of its own. */
async function with_rules(
  rules: readonly string[],
  run: (service: Service, start: (options: ServiceOptions) => Promise<Service>) => Promise<void>,
): Promise<void> {
  const data = await Deno.makeTempDir();
  const args = rules.flatMap((text) => ["--retention", text]);
  const start = (options: ServiceOptions) => Service.start({ data, ...options });
  try {
    await using service = await start({ args });
    await run(service, start);
  } finally {
    await Deno.remove(data, { recursive: true });
  }
}

async function history(service: Service, topic: string, after: string): Promise<History> {
  const url = `${service.http}/v1/topics/${topic}/messages?limit=1000&after=${after}`;
  return await (await fetch(url)).json();
}

async function publish(service: Service, topics: readonly string[], bytes = 1): Promise<string> {
  const payload = "x".repeat(bytes);
  const items = topics.map((topic, n) => ({ topic, qos: 1, payload: `${n} ${payload}` }));
  const body = JSON.stringify(items);
  const results = await (await fetch(`${service.http}/v1/publish`, { method: "POST", body }))
    .json();
  return results[0].id;
}

Deno.test("a service keeps what its rules say, and history tells of the gap", async () => {
  await with_rules(["few/#:count=50", "big:bytes=20kB;brief:age=1s"], async (service) => {
    const topics = Array.from({ length: 300 }, (_, n) => ["few/a", "big", "free"][n % 3]!);
    const first = await publish(service, topics, 997);
    const { body } = await service.publish("brief", "gone soon");
    const before_brief = `${body.epoch}:${Number(body.offset) - 1}`;
    // The newest message of all is what tells where the log ends: it stays whatever the rules say.
    await service.publish("free", "last");
    const left = async (topic: string) => (await history(service, topic, first)).messages.length;
    await eventually("few/a has 50", async () => await left("few/a") === 50);
    // 1 kB each, the topic's name and the number included.
    await eventually("big has at most 20 kB", async () => await left("big") < 20);
    const brief = () => history(service, "brief", before_brief);
    await eventually("brief is empty", async () => (await brief()).messages.length === 0);
    assertEquals((await brief()).gap, true);
    const few = await history(service, "few/a", first);
    const numbers = few.messages.map(({ payload }) => parseInt(payload));
    assertEquals(numbers, Array.from({ length: 50 }, (_, n) => 150 + 3 * n));
    assertEquals([few.gap, (await history(service, "big", first)).gap], [true, true]);
    const free = await history(service, "free", first);
    assertEquals([free.messages.length, free.gap], [101, false]);
    // Whoever had come to what is left has missed nothing.
    const near = `${body.epoch}:${few.messages[0]!.offset - 1}`;
    assertEquals((await history(service, "few/a", near)).gap, false);
  });
});

Deno.test("a device gets what retention has left, and rules may change", async () => {
  await with_rules(["t:count=10"], async (service, start) => {
    const options = { client_id: "s", clean_start: false, properties: { session_expiry_s: 600 } };
    const { client } = await MqttClient.connect(service.mqtt, options);
    await client.subscribe("t", 1);
    await client.disconnect();
    await publish(service, new Array(100).fill("t"));
    const removed = 'longwire_store_messages_removed_total{reason="retention"}';
    await eventually("10 are left", async () => await service.metric(removed) === 90);
    await service.stop();
    await using again = await start({ args: ["--retention", "t:count=3"] });
    await eventually("3 are left", async () => await again.metric(removed) === 7);
    const back = (await MqttClient.connect(again.mqtt, options)).client;
    const got = [await back.receive(), await back.receive(), await back.receive()];
    assertEquals(got.map((each) => parseInt(payload_text(each))), [97, 98, 99]);
    await back.expect_nothing();
    await back.close();
  });
});
