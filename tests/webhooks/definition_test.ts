/** The file of webhooks, and the addresses that events may go to, as tables of what is refused. */
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { type Network, parse_network } from "../../core/network.ts";
import { reach_of } from "../../core/webhooks/address_guard.ts";
import { parse_definitions, WebhooksError } from "../../core/webhooks/definition.ts";
import { backoff_ms } from "../../core/webhooks/endpoint.ts";
import { parse_retry_after, refusal_of_target } from "../../core/webhooks/sender.ts";
import { failing_start } from "../support/service.ts";
import { new_secret } from "../support/webhook_receiver.ts";
import { orders, webhooks_file } from "../support/webhooks_file.ts";

Deno.test("what is wrong with a file is said by name", () => {
  const secrets = [new_secret()];
  const good = { url: "https://example.com/", ...orders, secrets };
  const table: [hooks: Record<string, unknown>, says: RegExp][] = [
    [{ o: { ...good, url: "ftp://x" } }, /"o" cannot use its "url": it must be an https URL/],
    [{ o: { ...good, filter: "a" } }, /"o" has no "filter"; did you mean filters/],
    [{ o: { ...good, filters: ["a/#/b"] } }, /"o" cannot use the filter "a\/#\/b"/],
    [{ o: { ...good, filters: ["$dead/#"] } }, /that is for events themselves/],
    [{ o: { ...good, events: ["messages"] } }, /"o" needs "events" of message, connected/],
    [{ o: { ...good, secrets: ["whsec_AAAA"] } }, /a secret has 3 bytes/],
    [{ o: { ...good, timeout: "1h" } }, /"o" needs a "timeout" of 0\.1s to 60s/],
    [{ "a b": good }, /"a b" is not a name for a webhook/],
    [{ o: { ...good, headers: { "Webhook-Id": "x" } } }, /cannot send a header "Webhook-Id"/],
  ];
  for (const [hooks, says] of table) {
    const text = JSON.stringify({ hooks });
    const { message } = assertThrows(() => parse_definitions(text), WebhooksError);
    assertMatch(message, says);
    assert(!message.includes(secrets[0].slice(6)), "no secret is said");
  }
});

Deno.test("a URL that leads inside is refused at the start", async () => {
  const good = { url: "https://169.254.169.254/", ...orders, secrets: [new_secret()] };
  await using file = await webhooks_file({ hooks: { o: good } }, "off");
  const said = await failing_start([...file.args, "--data", "memory"]);
  assertMatch(said, /Cannot use webhooks ".*": "o" cannot use its "url": the address 169\.254/);
});

Deno.test("only public addresses are reached, and plain HTTP only where it is allowed", () => {
  const allowed = [parse_network("10.1.0.0/16") as Network];
  const targets: [url: string, none: boolean, some: boolean][] = [
    ["https://example.com/", true, true],
    ["https://8.8.8.8/", true, true],
    ["https://[2606:4700::1111]/", true, true],
    ["http://example.com/", false, true], // its address decides
    ["http://8.8.8.8/", false, false],
    ["https://10.1.2.3/", false, true],
    ["http://10.1.2.3/", false, true],
    ["https://10.2.2.3/", false, false],
    ["https://0x7f.1/", false, false],
    ["https://2130706433/", false, false],
    ["https://[::1]/", false, false],
    ["https://[::ffff:10.1.0.1]/", false, true],
    ["https://[::ffff:192.168.0.1]/", false, false],
    ["https://[64:ff9b::a00:1]/", false, false],
    ["https://[2002:a00:1::]/", false, false],
    ["https://[fd00::1]/", false, false],
    ["https://[fe80::1]/", false, false],
    ["https://169.254.169.254/", false, false],
    ["https://100.64.0.1/", false, false],
    ["https://0.0.0.0/", false, false],
  ];
  for (const [url, with_none, with_some] of targets) {
    const may = (networks: readonly Network[]) =>
      refusal_of_target(new URL(url), networks) === undefined;
    assertEquals([may([]), may(allowed)], [with_none, with_some], url);
  }
  assertEquals(reach_of("10.1.255.255", allowed), "allowed");
  assertEquals(reach_of("172.32.0.1", allowed), "public");
  assertEquals(reach_of("fe80::1%eth0", allowed), "forbidden");
  assertEquals(reach_of("localhost", allowed), "forbidden");
});

Deno.test("waits grow, are spread over their whole length, and have a bound", () => {
  const most = [1, 2, 3, 4, 30].map((failures) => backoff_ms(failures, () => 1));
  assertEquals(most, [1000, 2000, 4000, 8000, 600_000]);
  assertEquals(backoff_ms(9, () => 0), 0);
  const now_ms = Date.UTC(2026, 0, 1);
  assertEquals(parse_retry_after("90", now_ms), 90_000);
  assertEquals(parse_retry_after("Thu, 01 Jan 2026 00:00:05 GMT", now_ms), 5000);
  assertEquals(parse_retry_after("Thu, 01 Jan 2020 00:00:00 GMT", now_ms), 0);
  assertEquals(parse_retry_after("soon", now_ms), 0);
  assertEquals(parse_retry_after("999999999", now_ms), 600_000);
});
