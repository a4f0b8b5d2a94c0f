/**
 * What somebody tries who has no token, somebody else's, or one that allows little: by every
 * protocol and call, each refused with its code and counted, and nothing of it seen by others.
 */
import { assert, assertEquals } from "@std/assert";
import { codes } from "../core/codes.ts";
import { KeyedService } from "./support/keyed_service.ts";
import { of_type, RawLongwire } from "./support/raw.ts";
import { bad_tokens } from "./cases/bad_tokens.ts";
import { all_claims, key_pair, make_token, secret_key } from "./support/tokens.ts";

const encoder = new TextEncoder();

Deno.test("no wrong token lets anybody in by any protocol, and each is counted", async () => {
  const keys = [secret_key("hs"), await key_pair("es", "ES256"), await key_pair("rs", "RS256")];
  await using keyed = await KeyedService.start(["--issuer", "i", "--audience", "a"], keys);
  const own = { iss: "i", aud: "a" };
  const [hs, es, rs] = keys;
  const good = await make_token(hs, { ...all_claims, ...own });
  const count = async (name: string) => {
    const text = await (await keyed.fetch(good, "/metrics")).text();
    const line = text.split("\n").find((line) => line.startsWith(`${name} `));
    return Number(line?.slice(name.length + 1) ?? 0);
  };
  const tokens = await bad_tokens(hs, es, rs);
  let expired = 0;
  for (const [what, token, code] of tokens) {
    const headers = token === "" ? {} : { authorization: `Bearer ${token}` };
    const url = `${keyed.service.http}/v1/topics/a`;
    const response = await fetch(url, { method: "POST", body: "", headers });
    assertEquals([response.status, (await response.json()).code], [401, code.name], what);
    const { client, connack } = await keyed.mqtt(token.slice(0, 60_000));
    assertEquals(connack.reason_code, 0x87, what);
    await client.closed();
    await client.close();
    await using longwire = await RawLongwire.open(keyed.service.device);
    await longwire.frame({ type: "hello", protocol_version: 1, token });
    assertEquals(of_type(await longwire.next(), "refuse").code, code.number, what);
    await longwire.closed();
    if (code === codes.token_expired) expired++;
  }
  const refused = tokens.length - expired;
  const by_code = (series: string, code: string) => count(`${series}{code="${code}"}`);
  assertEquals(await by_code("longwire_http_refusals_total", "unauthorized"), refused);
  assertEquals(await by_code("longwire_http_refusals_total", "token_expired"), expired);
  assertEquals(await by_code("longwire_connections_closed_total", "unauthorized"), refused * 2);
  assertEquals(await by_code("longwire_connections_closed_total", "token_expired"), expired * 2);
  assertEquals(await count('longwire_tokens_total{result="expired"}'), expired * 3);
});

/** Names that are not `a/secret` and might be taken for it. */
const look_alikes = [
  "a//secret",
  "/a/secret",
  "a/secret/",
  "A/secret",
  "\u0430/secret", // Cyrillic a
  "a/secre\u0074\u0300",
  "a\u200b/secret",
  "a/\u0001secret",
  "\ufeffa/secret",
  "a/./secret",
  "b/../a/secret",
  "a%2Fsecret",
];

Deno.test("no spelling of a filter or topic gets past a list", async () => {
  await using keyed = await KeyedService.start();
  const token = await keyed.token({ publish: ["mine/#"], subscribe: ["mine/#"] });
  const { client } = await keyed.mqtt(token);
  const owner = (await keyed.mqtt(await keyed.token(), { client_id: "owner" })).client;
  for (const filter of ["a/#", "mine/#", "#"]) await owner.subscribe(filter);
  const wide = [
    "#",
    "+/#",
    "+",
    "/#",
    "+/+",
    "$SYS/#",
    "$presence/#",
    "$share/g/#",
    "mine/../#",
    "mine",
    "mine/#",
    "$share/mine/#",
  ];
  const allowed = new Set(["mine", "mine/#", "mine/../#"]); // ".." is a name like any other
  for (const filter of [...wide, ...look_alikes, "$share/g/a/secret"]) {
    assertEquals(await client.subscribe(filter) < 0x80, allowed.has(filter), filter);
  }
  for (const topic of [...look_alikes, "a/secret", "$SYS/x", "$presence/x", "mine2/x", "Mine/x"]) {
    assertEquals(await client.publish(topic, "x", { qos: 1 }), 0x87, topic);
    assertEquals(await client.publish(topic, "x", { qos: 2 }), 0x87, topic);
    await client.publish(topic, "x");
    const path = `/v1/topics/${encodeURIComponent(topic)}`;
    const response = await keyed.fetch(token, path, { method: "POST", body: "x" });
    assertEquals((await response.json()).code, "forbidden", topic);
    const read = await keyed.fetch(token, `${path}/messages`);
    assertEquals((await read.json()).code, "forbidden", topic);
    const events = await keyed.fetch(token, `/v1/events?topic=${encodeURIComponent(topic)}`);
    assertEquals((await events.json()).code, "forbidden", topic);
  }
  const items = look_alikes.map((topic) => ({ topic, payload: "x" }));
  const batch = await keyed.fetch(token, "/v1/publish", {
    method: "POST",
    body: JSON.stringify(items),
  });
  for (const { code } of await batch.json()) assertEquals(code, "forbidden");
  await owner.expect_nothing();
  const four = (await keyed.mqtt(token, { version: 4 })).client;
  assertEquals(await four.subscribe("#"), 0x80);
  assertEquals(await four.publish("a/secret", "x", { qos: 1 }), 0); // dropped, and counted
  await owner.expect_nothing();
  assert(await keyed.metric('longwire_publishes_refused_total{code="forbidden"}') > 0);
  assert(await keyed.metric('longwire_subscriptions_refused_total{code="forbidden"}') > 0);
  for (const each of [client, owner, four]) await each.close();
});

/** MQTT bytes that no encoder makes: a topic as bytes. */
function raw_publish(topic: Uint8Array): Uint8Array {
  return Uint8Array.of(0x30, topic.length + 3, 0, topic.length, ...topic, 0);
}

Deno.test("what is no UTF-8, U+0000 and other tenants' names end the connection", async () => {
  await using keyed = await KeyedService.start();
  const token = await keyed.token();
  const topics: [string, Uint8Array][] = [
    ["overlong slash", Uint8Array.of(0x61, 0xc0, 0xaf, 0x62)],
    ["overlong NUL", Uint8Array.of(0x61, 0xc0, 0x80)],
    ["surrogate", Uint8Array.of(0xed, 0xa0, 0x80)],
    ["beyond Unicode", Uint8Array.of(0xf5, 0x80, 0x80, 0x80)],
    ["cut short", Uint8Array.of(0x61, 0xe2, 0x82)],
    ["NUL", encoder.encode("a\0b")],
    ["another tenant's", encoder.encode("$\u0001acme/a")],
    ["another tenant's own", encoder.encode("$\u0001acme\u0001/$SYS/a")],
    ["wildcard", encoder.encode("a/#")],
  ];
  for (const [what, topic] of topics) {
    const { client } = await keyed.mqtt(token);
    await client.send(raw_publish(topic));
    const [said] = await client.closed();
    assert([0x81, 0x82, 0x90].includes(of_type(said, "disconnect").reason_code), what);
    await client.close();
  }
  for (const name of ["$\u0001acme/a", "$share/g/$\u0001acme/#", "$\u0001acme\u0001/$SYS/#"]) {
    const { client } = await keyed.mqtt(token);
    await client.say({
      type: "subscribe",
      packet_id: 1,
      subscriptions: [{
        filter: name,
        qos: 0,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
      }],
    });
    assertEquals(of_type((await client.closed())[0], "disconnect").reason_code, 0x8f, name);
    await client.close();
    const url = `/v1/events?topic=${encodeURIComponent(name)}`;
    assertEquals((await (await keyed.fetch(token, url)).json()).code, "filter_invalid");
    const topic = `/v1/topics/${encodeURIComponent(name)}`;
    const posted = await keyed.fetch(token, topic, { method: "POST", body: "x" });
    assertEquals(posted.status, 400);
    await posted.body?.cancel();
  }
  for (const client_id of ["$\u0001acme/d", "$share/g/a"]) {
    assertEquals((await keyed.mqtt(token, { client_id })).connack.reason_code, 0x85);
    await using raw = await RawLongwire.open(keyed.service.device);
    await raw.frame({ type: "hello", protocol_version: 1, token, session_id: client_id });
    assertEquals(of_type(await raw.next(), "refuse").code, codes.client_id_invalid.number);
  }
});

Deno.test("headers that try to be more than one value change nothing", async () => {
  await using keyed = await KeyedService.start();
  const token = await keyed.token();
  const bad = await keyed.token({ publish: [] });
  const { hostname, port } = new URL(keyed.service.http);
  const ask = async (head: string): Promise<string> => {
    const conn = await Deno.connect({ hostname, port: Number(port) });
    await conn.write(encoder.encode(head));
    const text = await new Response(conn.readable).text();
    return text;
  };
  const post = (lines: readonly string[]) =>
    ask(
      [
        "POST /v1/topics/a HTTP/1.1",
        "Host: x",
        "Connection: close",
        "Content-Length: 1",
        ...lines,
        "",
        "x",
      ].join("\r\n"),
    );
  const status = async (...lines: string[]) => Number((await post(lines)).split(" ")[1]);
  assertEquals(await status(`Authorization: Bearer ${token}`), 200);
  assertEquals(await status(`Authorization: Bearer ${bad}`), 403);
  assertEquals(await status(`Authorization: Bearer ${bad}`, `Authorization: Bearer ${token}`), 401);
  assertEquals(await status(`Authorization: Bearer ${token}, Bearer ${bad}`), 401);
  assertEquals(await status(`Authorization: Basic ${token}`), 401);
  assertEquals(await status(`Authorization: Bearer ${bad}\r\n ${token}`), 400);
  assertEquals(await status(`X-Authorization: Bearer ${token}`), 401);
  assertEquals(await status(`Authorization : Bearer ${token}`), 400);
  for (
    const name of ["X-Forwarded-For: 127.0.0.1", "X-Original-URL: /healthz", "Host: 127.0.0.1"]
  ) {
    assert(await status(name) >= 400, name);
  }
  const two = await keyed.fetch(token, `/v1/topics/a/messages?access_token=${token}`);
  assertEquals(two.status, 401);
  await two.body?.cancel();
});
