/** POST /v1/publish as NDJSON: each line is answered in its place, whatever the others are. */
import { assert, assertEquals } from "@std/assert";
import { limits } from "../core/limits.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { Service } from "./support/service.ts";

interface Result {
  readonly code?: string;
  readonly offset?: number;
}

async function publish_lines(
  service: Service,
  body: BodyInit,
  headers: Record<string, string> = {},
): Promise<{ status: number; results: Result[] }> {
  const response = await fetch(`${service.http}/v1/publish`, {
    method: "POST",
    headers: { "content-type": "application/x-ndjson", ...headers },
    body,
  });
  const lines = (await response.text()).split("\n").filter((line) => line !== "");
  return { status: response.status, results: lines.map((line) => JSON.parse(line)) };
}

function words(results: readonly Result[]): unknown[] {
  return results.map(({ code, offset }) => code ?? offset);
}

Deno.test("lines are published as they come, each with its result in its place", async () => {
  await using service = await Service.start();
  await using js = await MqttJs.connect(service.mqtt);
  await js.subscribe("lines/#", 1);
  const encoder = new TextEncoder();
  const more = Promise.withResolvers<void>();
  const body = new ReadableStream<Uint8Array>({
    async start(controller) {
      // Cut in the middle of a line, and of a character.
      controller.enqueue(encoder.encode('{"topic":"lines/1","payload":"a"}\n\n{"topic":"li'));
      await more.promise;
      const rest = encoder.encode('nes/2","payload":"ä"}\nnot JSON\n{"topic":"lines/+"}\n');
      const at = rest.indexOf(0xc3) + 1;
      controller.enqueue(rest.subarray(0, at));
      controller.enqueue(rest.subarray(at));
      controller.enqueue(Uint8Array.of(0xff, 0x0a));
      controller.enqueue(encoder.encode('{"topic":"lines/3","payload":"no end of line"}'));
      controller.close();
    },
  });
  const answered = publish_lines(service, body);
  // The first line reaches devices while the request is still being sent.
  assertEquals((await js.messages.next())?.payload, "a");
  more.resolve();
  assertEquals((await js.messages.next())?.payload, "ä");
  assertEquals((await js.messages.next())?.payload, "no end of line");
  const { status, results } = await answered;
  assertEquals(status, 200);
  assertEquals(words(results), [1, 2, "json_invalid", "topic_invalid", "json_invalid", 3]);
});

Deno.test("a line that is too long ends the stream, what came before is published", async () => {
  await using service = await Service.start();
  const long = "x".repeat(limits.publish_line_bytes_max + (1 << 20));
  const { status, results } = await publish_lines(service, `{"topic":"a"}\n"${long}`);
  assertEquals(status, 200);
  assertEquals(words(results), [1, "body_too_large"]);
});

Deno.test("a stream has a bounded number of lines", async () => {
  await using service = await Service.start();
  const line = '{"topic":"a","qos":0}\n';
  const { results } = await publish_lines(service, line.repeat(limits.publish_lines_max + 1));
  assertEquals(results.length, limits.publish_lines_max + 1);
  assertEquals(results.at(-1)?.code, "body_too_large");
  assert(results.slice(0, -1).every(({ offset }) => offset === 0));
});

Deno.test("an Idempotency-Key is refused, for lines are not all or none", async () => {
  await using service = await Service.start();
  const headers = { "idempotency-key": "k" };
  const { status, results } = await publish_lines(service, '{"topic":"a"}\n', headers);
  assertEquals([status, results[0]?.code], [400, "query_invalid"]);
});
