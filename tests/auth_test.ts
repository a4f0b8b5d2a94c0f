/**
 * Tokens at the real service, from the key file to the words in which each protocol says no.
 */
import { assert, assertEquals } from "@std/assert";
import { codes } from "../core/codes.ts";
import { KeyedService } from "./support/keyed_service.ts";
import { MqttClient } from "./support/mqtt_client.ts";
import { of_type, RawLongwire } from "./support/raw.ts";
import { eventually } from "./support/service.ts";
import {
  all_claims,
  key_pair,
  key_set,
  make_token,
  secret_key,
  spki_pem,
} from "./support/tokens.ts";

const seconds = (from_now: number) => Math.floor(Date.now() / 1000) + from_now;

Deno.test("one token lets in by HTTP, MQTT and Longwire, and nobody without", async () => {
  await using keyed = await KeyedService.start();
  const { service } = keyed;
  const token = await keyed.token();
  const url = `${service.http}/v1/topics/a/b`;
  const refused = await fetch(url, { method: "POST", body: "x" });
  assertEquals(refused.status, 401);
  assert(refused.headers.get("www-authenticate")?.startsWith("Bearer"));
  assertEquals((await refused.json()).code, "unauthorized");
  for (const version of [4, 5] as const) {
    const { client, connack } = await MqttClient.connect(service.mqtt, { version });
    assertEquals(connack.reason_code, version === 5 ? 0x87 : 5);
    await client.close();
  }
  await using stranger = await RawLongwire.open(service.device);
  await stranger.frame({ type: "hello", protocol_version: 1 });
  assertEquals(of_type(await stranger.next(), "refuse").code, codes.unauthorized.number);

  const { client, connack } = await keyed.mqtt(token, { client_id: "d1" });
  assertEquals(connack.reason_code, 0);
  assertEquals(await client.subscribe("a/#", 1), 1);
  await using longwire = await keyed.longwire(token, "d2");
  const subscriptions = [{ filter: "a/#", qos: 1 }] as const;
  await longwire.frame({ type: "subscribe", request_id: 1, subscriptions });
  assertEquals(of_type(await longwire.next(), "subscribed").codes, [0]);
  const answer = await keyed.fetch(token, "/v1/topics/a/b", { method: "POST", body: "hello" });
  assertEquals((await answer.json()).audience, 2);
  assertEquals((await client.receive()).topic, "a/b");
  assertEquals(of_type(await longwire.next(), "message").topic, "a/b");
  await client.close();
});

Deno.test("keys of every algorithm are taken, as JWK and as PEM, and rotate", async () => {
  const pairs = await Promise.all([
    key_pair("es", "ES256"),
    key_pair("rs", "RS256"),
    key_pair("ed", "EdDSA"),
  ]);
  await using keyed = await KeyedService.start([], [secret_key("hs"), ...pairs]);
  const status = async (token: string) => {
    const response = await keyed.fetch(token, "/v1/topics/a", { method: "POST", body: "" });
    await response.body?.cancel();
    return response.status;
  };
  for (const key of keyed.keys) assertEquals(await status(await make_token(key, all_claims)), 200);

  const [es, , ed] = pairs;
  await Deno.writeTextFile(keyed.file, await spki_pem(es) + await spki_pem(ed));
  await eventually("the new keys are in use", async () => {
    return await status(await make_token(keyed.key, all_claims)) === 401;
  });
  assertEquals(await status(await make_token(es, all_claims)), 200);
  assertEquals(await status(await make_token(ed, all_claims)), 200);
  assertEquals(await status(await make_token(pairs[1], all_claims)), 401);

  await Deno.writeTextFile(keyed.file, "not a key");
  await eventually("the failure is in the log", () => {
    return Promise.resolve(keyed.service.log.some((line) => line.includes("cannot read the keys")));
  });
  assertEquals(await status(await make_token(es, all_claims)), 200);
  await Deno.writeTextFile(keyed.file, key_set(keyed.key));
});

Deno.test("a connection ends when its token does, in the words of its protocol", async () => {
  await using keyed = await KeyedService.start(["--clock_skew_s", "0"]);
  const token = await keyed.token({ ...all_claims, exp: seconds(3) });
  const [five, four] = await Promise.all(([5, 4] as const).map((version) => {
    return keyed.mqtt(token, { version, client_id: `v${version}` });
  }));
  await using longwire = await keyed.longwire(token, "lw");
  const events = await keyed.fetch(token, "/v1/events?topic=a");
  assertEquals([five.connack.reason_code, four.connack.reason_code, events.status], [0, 0, 200]);

  assertEquals(of_type((await five.client.closed())[0], "disconnect").reason_code, 0x87);
  assertEquals(await four.client.closed(), []);
  assertEquals(of_type(await longwire.next(), "goodbye").code, codes.token_expired.number);
  const text = await events.text(); // ends
  assert(text.includes("event: goodbye") && text.includes("token_expired"));
  const late = await keyed.fetch(token, "/v1/topics/a", { method: "POST", body: "" });
  assertEquals((await late.json()).code, "token_expired");
  assertEquals(await keyed.metric('longwire_connections_closed_total{code="token_expired"}'), 3);
});

Deno.test("a token bound to a device is good for that device only", async () => {
  await using keyed = await KeyedService.start();
  const claims = { publish: ["up/{device_id}"], subscribe: ["down/{device_id}/#"] };
  const token = await keyed.token({ ...claims, device_id: "d1" });
  const other = await keyed.mqtt(token, { client_id: "d2" });
  assertEquals(other.connack.reason_code, 0x87);
  const { client, connack } = await keyed.mqtt(token, { client_id: "" });
  assertEquals([connack.reason_code, connack.properties?.assigned_client_id], [0, "d1"]);
  assertEquals(await client.publish("up/d1", "x", { qos: 1 }), 0);
  assertEquals(await client.publish("up/d2", "x", { qos: 1 }), 0x87);
  assertEquals(await client.publish("up/d2", "x", { qos: 2 }), 0x87);
  assertEquals(await client.subscribe("down/d1/#"), 0);
  assertEquals(await client.subscribe("$share/g/down/d1/a"), 0);
  for (const filter of ["down/d2/#", "down/+/#", "down/#", "#", "$share/g/#", "+/d1/#"]) {
    assertEquals(await client.subscribe(filter), 0x87, filter);
  }
  const will = { topic: "up/d2", payload: new Uint8Array(), qos: 0, retain: false } as const;
  assertEquals((await keyed.mqtt(token, { client_id: "d1", will })).connack.reason_code, 0x87);
  await client.close();
});

Deno.test("a session keeps only the subscriptions that the next token allows", async () => {
  await using keyed = await KeyedService.start();
  const options = { client_id: "d", clean_start: false, properties: { session_expiry_s: 60 } };
  const wide = await keyed.mqtt(await keyed.token(), options);
  for (const filter of ["a/#", "b", "$share/g/c"]) await wide.client.subscribe(filter, 1);
  await wide.client.disconnect();
  const narrow = await keyed.mqtt(await keyed.token({ subscribe: ["a/+"] }), options);
  assertEquals(narrow.connack.session_present, true);
  const found = await keyed.fetch(await keyed.token(), "/v1/devices/d");
  assertEquals((await found.json()).filters, []);
  for (const topic of ["a/x", "b", "c"]) {
    const path = `/v1/topics/${topic}`;
    const answer = await keyed.fetch(await keyed.token(), path, { method: "POST", body: "" });
    assertEquals((await answer.json()).audience, 0, topic);
  }
  await narrow.client.expect_nothing();
  await narrow.client.close();
});

Deno.test("no line of the log holds a token or a key", async () => {
  await using keyed = await KeyedService.start(["--log_level", "debug"]);
  const token = await keyed.token();
  const forged = token.slice(0, -4) + "AAAA";
  for (const each of [token, forged, `${token}\n`, "secret-word"]) {
    await (await keyed.mqtt(each)).client.close();
    await (await keyed.fetch(each.trim(), "/v1/devices")).body?.cancel();
    await (await fetch(`${keyed.service.http}/v1/events?topic=a&access_token=${each.trim()}`)).body
      ?.cancel();
  }
  await keyed.service.stop();
  const log = keyed.service.log.join("\n");
  for (const secret of [token, forged, "secret-word", String(keyed.key.jwk.k)]) {
    assertEquals(log.includes(secret), false);
    assertEquals(log.includes(secret.split(".")[1] ?? secret), false);
  }
});
