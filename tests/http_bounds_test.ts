/**
 * What a hostile or broken HTTP client sends: two lengths, folded headers, bodies that do not end
 * or that unpack into a flood, pages of strange origins. Each is refused or cut off, the service
 * goes on; no request hides in another.
 */
import { assert, assertEquals } from "@std/assert";
import { limits } from "../core/limits.ts";
import { KeyedService } from "./support/keyed_service.ts";
import { Service } from "./support/service.ts";
import { within } from "./support/wait.ts";

const encoder = new TextEncoder();

/** Sends bytes as they are; answers all that comes until the service closes. */
async function ask(service: Service, text: string | Uint8Array): Promise<string> {
  const { hostname, port } = new URL(service.http);
  const conn = await Deno.connect({ hostname, port: Number(port) });
  const sent = typeof text === "string" ? encoder.encode(text) : text;
  const [said] = await Promise.all([
    new Response(conn.readable).text().catch(() => ""),
    write(conn, sent).catch(() => {}), // it may close before it has read everything
  ]);
  return said;
}

/** Sends bytes as they are; answers the first that comes, and goes. */
async function first_of(service: Service, text: string): Promise<string> {
  const { hostname, port } = new URL(service.http);
  using conn = await Deno.connect({ hostname, port: Number(port) });
  const room = new Uint8Array(4096);
  const sending = write(conn, encoder.encode(text)).catch(() => {});
  const size = await conn.read(room) ?? 0;
  await sending;
  return new TextDecoder().decode(room.subarray(0, size));
}

async function write(conn: Deno.TcpConn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
}

function head(service: Service, ...lines: readonly string[]): string {
  const { host } = new URL(service.http);
  return ["POST /v1/topics/smuggled HTTP/1.1", `Host: ${host}`, ...lines, "", ""].join("\r\n");
}

const chunked = "Transfer-Encoding: chunked";
const hidden = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";

/** Requests that two servers in a row might read differently (RFC 9112 section 11.2). */
const smuggled: readonly (readonly [string, readonly string[], string])[] = [
  ["a length and chunks", ["Content-Length: 4", chunked], `0\r\n\r\n${hidden}`],
  ["chunks and a length", [chunked, "Content-Length: 60"], `0\r\n\r\n${hidden}`],
  ["two lengths", ["Content-Length: 1", "Content-Length: 60"], `x${hidden}`],
  ["a list of lengths", ["Content-Length: 1, 60"], `x${hidden}`],
  ["a length with a sign", ["Content-Length: +1"], `x${hidden}`],
  ["a length below zero", ["Content-Length: -1"], hidden],
  ["a length in hexadecimal", ["Content-Length: 0x1"], `x${hidden}`],
  ["an encoding that is none", ["Transfer-Encoding: xchunked"], `0\r\n\r\n${hidden}`],
  ["chunked, but not last", ["Transfer-Encoding: chunked, identity"], `0\r\n\r\n${hidden}`],
  ["chunked twice", [chunked, chunked], `0\r\n\r\n${hidden}`],
  ["a space before the colon", ["Transfer-Encoding : chunked"], `0\r\n\r\n${hidden}`],
  ["a folded header", ["X: a", " b", "Content-Length: 1"], `x${hidden}`],
  ["a bare CR", ["X: a\rContent-Length: 1"], hidden],
  ["U+0000 in a header", ["X: a\0b", "Content-Length: 1"], `x${hidden}`],
  ["two hosts", ["Host: other", "Content-Length: 1"], `x${hidden}`],
  ["a chunk without end", [chunked], `FFFFFFFFFFFFFFFFF\r\nx${hidden}`],
  ["a chunk of less than nothing", [chunked], `-1\r\nx${hidden}`],
  ["a header without end", [`X: ${"a".repeat(1 << 20)}`], hidden],
  [
    "headers without end",
    Array.from({ length: 20_000 }, (_, i) => `X-${i}: ${"a".repeat(50)}`),
    "",
  ],
];

Deno.test("no request hides in another, and headers are bounded", async () => {
  await using service = await Service.start();
  for (const [what, lines, rest] of smuggled) {
    const said = await within(ask(service, head(service, ...lines) + rest), what);
    const statuses = [...said.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));
    assert(statuses.length <= 1, `${what}: ${said}`);
    assert(statuses.every((status) => status >= 400), `${what}: ${said}`);
  }
  const { messages } = await (await fetch(`${service.http}/v1/topics/smuggled/messages`)).json();
  assertEquals(messages, []);
});

async function gzip(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return await new Response(stream).bytes();
}

Deno.test("a body is decompressed up to its bound, and no further", async () => {
  await using service = await Service.start();
  const post = (body: BodyInit, encoding: string) => {
    const headers = { "content-encoding": encoding };
    return fetch(`${service.http}/v1/topics/zip`, { method: "POST", body, headers });
  };
  assertEquals((await post(await gzip(encoder.encode("hello")), "gzip")).status, 200);
  const { messages } = await (await fetch(`${service.http}/v1/topics/zip/messages`)).json();
  assertEquals(messages[0].payload, "hello");
  const bomb = await gzip(new Uint8Array(64 << 20));
  assert(bomb.length < 100_000);
  const cases: [BodyInit, string, string][] = [
    [bomb, "gzip", "body_too_large"],
    ["not gzip", "gzip", "payload_invalid"],
    [bomb.slice(0, 100), "gzip", "payload_invalid"],
    [bomb, "gzip, gzip", "encoding_unsupported"],
    ["x", "br", "encoding_unsupported"],
  ];
  for (const [body, encoding, code] of cases) {
    const response = await post(body, encoding);
    assertEquals((await response.json()).code, code);
  }
  const refusals = 'longwire_http_refusals_total{code="body_too_large"}';
  assertEquals(await service.metric(refusals), 1);
});

Deno.test("a body that is too large is refused before it is read", async () => {
  await using service = await Service.start();
  const size = limits.payload_bytes_max + 1;
  const chunk = `10000\r\n${"x".repeat(1 << 16)}\r\n`;
  const bodies = [
    head(service, `Content-Length: ${size}`) + "x".repeat(1000),
    head(service, chunked) + chunk.repeat(Math.ceil(size / (1 << 16))), // and more would follow
  ];
  for (const body of bodies) {
    const said = await within(first_of(service, body), "an answer before the end of the body");
    assert(said.startsWith("HTTP/1.1 413"), said);
  }
  assertEquals(await service.metric('longwire_http_refusals_total{code="body_too_large"}'), 2);
});

Deno.test("a body that does not come in time is answered, and others are not held up", async () => {
  await using service = await Service.start({ args: ["--body_timeout_s", "1"] });
  const gzipped = "Content-Encoding: gzip";
  const begun = [
    head(service, "Content-Length: 100") + "x".repeat(10),
    head(service, "Content-Length: 100"),
    head(service, chunked) + "5\r\nhello\r\n",
    head(service, chunked, gzipped) + "1\r\n\x1f\r\n",
  ];
  const answers = begun.map((text) => within(first_of(service, text), "an answer"));
  const other = await fetch(`${service.http}/v1/topics/other`, { method: "POST", body: "x" });
  assertEquals(other.status, 200);
  await other.body?.cancel();
  for (const answer of answers) {
    const said = await answer;
    assert(said.startsWith("HTTP/1.1 408"), said);
    assert(said.includes('"code":"body_timeout"'), said);
  }
  const refusals = 'longwire_http_refusals_total{code="body_timeout"}';
  assertEquals(await service.metric(refusals), begun.length);
  const { messages } = await (await fetch(`${service.http}/v1/topics/smuggled/messages`)).json();
  assertEquals(messages, []);
});

Deno.test("without keys only pages of its own, by its address, may call", async () => {
  await using service = await Service.start();
  const { host } = new URL(service.http);
  const status = async (...lines: string[]) => {
    const said = await ask(
      service,
      ["GET /readyz HTTP/1.1", ...lines, "Connection: close", "", ""].join("\r\n"),
    );
    return Number(said.split(" ")[1]);
  };
  assertEquals(await status(`Host: ${host}`), 200);
  assertEquals(await status(`Host: localhost:1`), 200);
  assertEquals(await status(`Host: ${host}`, `Origin: http://${host}`), 200);
  assertEquals(await status(`Host: ${host}`, "Origin: https://evil.example"), 403);
  assertEquals(await status(`Host: ${host}`, "Origin: null"), 403);
  // A name of the attacker's that has come to mean 127.0.0.1
  assertEquals(await status("Host: evil.example"), 403);
  assertEquals(await status("Host: evil.example", "Origin: http://evil.example"), 403);
  assertEquals(await status("Host: 127.0.0.1.evil.example"), 403);
  assertEquals(await service.metric('longwire_http_refusals_total{code="origin_forbidden"}'), 5);
});

Deno.test("pages that are listed may call, and are told what they may read", async () => {
  const origin = "https://app.example";
  await using keyed = await KeyedService.start(["--cors_origins", origin]);
  const url = `${keyed.service.http}/v1/topics/a`;
  const asked = {
    origin,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization",
  };
  const preflight = await fetch(url, { method: "OPTIONS", headers: asked });
  assertEquals(preflight.status, 204);
  assertEquals(preflight.headers.get("access-control-allow-origin"), origin);
  assert(preflight.headers.get("access-control-allow-headers")?.includes("authorization"));
  const call = { method: "POST", body: "x", headers: { origin } };
  for (const token of [await keyed.token(), "bad"]) {
    const response = await keyed.fetch(token, "/v1/topics/a", call);
    assertEquals(response.status, token === "bad" ? 401 : 200);
    assertEquals(response.headers.get("access-control-allow-origin"), origin);
    assertEquals(response.headers.get("access-control-allow-credentials"), null);
    await response.body?.cancel();
  }
  const headers = { origin: "https://app.example.evil" };
  const strange = await keyed.fetch(await keyed.token(), "/v1/topics/a", { ...call, headers });
  assertEquals(strange.status, 403);
  assertEquals(strange.headers.get("access-control-allow-origin"), null);
  await strange.body?.cancel();
});
