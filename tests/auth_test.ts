/**
 * Tokens at the real service, from the key file to the words in which each protocol says no.
 */
import { assertEquals } from "@std/assert";
import { codes } from "../core/codes.ts";
import { MqttClient } from "./support/mqtt_client.ts";
import { of_type, RawLongwire } from "./support/raw.ts";
import { Service } from "./support/service.ts";
import { all_claims, key_set, make_token, secret_key } from "./support/tokens.ts";

const encoder = new TextEncoder();

/** A service with one secret key, and that key. */
async function with_keys(
  run: (service: Service, key: ReturnType<typeof secret_key>) => Promise<void>,
  args: readonly string[] = [],
): Promise<void> {
  const key = secret_key("k1");
  const file = await Deno.makeTempFile({ suffix: ".json" });
  await Deno.writeTextFile(file, key_set(key));
  try {
    await using service = await Service.start({ args: ["--keys", file, ...args] });
    await run(service, key);
  } finally {
    await Deno.remove(file);
  }
}

Deno.test("one token lets in by HTTP, MQTT and Longwire, and none lets in without", async () => {
  await with_keys(async (service, key) => {
    const token = await make_token(key, all_claims);
    const password = encoder.encode(token);
    const headers = { authorization: `Bearer ${token}` };
    const url = `${service.http}/v1/topics/a/b`;

    const refused = await fetch(url, { method: "POST", body: "x" });
    assertEquals(refused.status, 401);
    assertEquals((await refused.json()).code, "unauthorized");
    for (const version of [4, 5] as const) {
      const { client, connack } = await MqttClient.connect(service.mqtt, { version });
      assertEquals(connack.reason_code, version === 5 ? 0x87 : 5);
      await client.close();
    }
    const stranger = await RawLongwire.open(service.device);
    await stranger.frame({ type: "hello", protocol_version: 1 });
    assertEquals(of_type(await stranger.next(), "refuse").code, codes.unauthorized.number);
    await stranger[Symbol.asyncDispose]();

    const options = { username: "", password, client_id: "d1" };
    const { client, connack } = await MqttClient.connect(service.mqtt, options);
    assertEquals(connack.reason_code, 0);
    assertEquals(await client.subscribe("a/#", 1), 1);
    const [longwire] = await RawLongwire.connect(service.device, { token, session_id: "d2" });
    await longwire.frame({
      type: "subscribe",
      request_id: 1,
      subscriptions: [{ filter: "a/#", qos: 1 }],
    });
    assertEquals(of_type(await longwire.next(), "subscribed").codes, [0]);
    const answer = await fetch(url, { method: "POST", body: "hello", headers });
    assertEquals((await answer.json()).audience, 2);
    assertEquals((await client.receive()).topic, "a/b");
    assertEquals(of_type(await longwire.next(), "message").topic, "a/b");
    await client.close();
    await longwire[Symbol.asyncDispose]();
    assertEquals(service.log.some((line) => line.includes(token)), false);
  });
});
