/**
 * The log as a service shows it: every way to read goes on by offset after a kill, a key stores
 * once, what expires goes, and a full disk refuses what it cannot keep while the rest goes on.
 */
import { assert, assertEquals } from "@std/assert";
import { payload_text, publish_packet } from "./support/mqtt_client.ts";
import { RawLongwire } from "./support/raw.ts";
import { Restarted } from "./support/restarted.ts";
import { eventually, type Service } from "./support/service.ts";
import { within } from "./support/wait.ts";

/** Reads events until so many messages came; answers their ids and payloads. */
async function events(
  service: Service,
  topic: string,
  count: number,
  headers: Record<string, string>,
  query = "",
): Promise<[id: string, payload: string][]> {
  const end = new AbortController();
  const url = `${service.http}/v1/events?topic=${topic}${query}`;
  const response = await fetch(url, { headers, signal: end.signal });
  const found: [string, string][] = [];
  let text = "";
  const read = async () => {
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      text += part;
      const blocks = text.split("\n\n");
      text = blocks.pop()!;
      for (const block of blocks) {
        const id = /^id: (.*)$/m.exec(block)?.[1];
        const data = /^data: (.*)$/m.exec(block)?.[1];
        if (id !== undefined && data !== undefined) found.push([id, JSON.parse(data).payload]);
      }
      if (found.length >= count) return;
    }
  };
  await within(read(), () => `${count} events, not ${JSON.stringify(found)}`);
  end.abort();
  return found;
}

async function history(service: Service, after: string): Promise<string[]> {
  const url = `${service.http}/v1/topics/t/messages?after=${after}&limit=1000`;
  const { messages } = await (await fetch(url)).json();
  return messages.map(({ payload }: { payload: string }) => payload);
}

async function longwire(service: Service, upto: number): Promise<string[]> {
  const [device] = await RawLongwire.connect(service.device, { session_id: "longwire" });
  const subscriptions = [{ filter: "t", qos: 1 }] as const;
  await device.frame({ type: "subscribe", request_id: 1, subscriptions });
  const got: string[] = [];
  for (let last = 0; last < upto;) {
    const frame = await device.next();
    if (frame.type !== "message") continue;
    got.push(new TextDecoder().decode(frame.payload));
    last = frame.offset;
  }
  await device.frame({ type: "ack", offset: upto });
  await device.frame({ type: "goodbye" });
  await device.closed();
  return got;
}

function numbers(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, index) => `${from + index}`);
}

Deno.test("history, SSE, Longwire and MQTT go on where they were, after a kill too", async () => {
  await using world = await Restarted.start();
  const { client: subscriber } = await world.kept("mqtt");
  await subscriber.subscribe("t", 1);
  const { body: { epoch } } = await world.service.publish("t", "1");
  for (let n = 2; n <= 20; n++) await world.service.publish("t", `${n}`);
  const at = (offset: number) => `${epoch}:${offset}`;
  const first = await events(world.service, "t", 20, {}, `&after=${at(0)}`);
  assertEquals(first.map(([, payload]) => payload), numbers(1, 20));
  assertEquals(await longwire(world.service, 0), []);
  for (let n = 1; n <= 20; n++) assertEquals(payload_text(await subscriber.receive()), `${n}`);
  // Its acknowledgements are in its row when the session has lost the connection.
  await subscriber.disconnect();
  await world.service.publish("t", "21");
  assertEquals(await longwire(world.service, 21), ["21"]);
  await world.again("kill");
  for (let n = 22; n <= 30; n++) await world.service.publish("t", `${n}`);
  const last = await events(world.service, "t", 10, { "last-event-id": first[19]![0] });
  assertEquals(last, numbers(21, 30).map((payload) => [at(Number(payload)), payload]));
  assertEquals(await history(world.service, at(20)), numbers(21, 30));
  // The acknowledgement of 21 may not have been durable yet: clients drop what they have seen.
  const resumed = await longwire(world.service, 30);
  assertEquals(resumed, numbers(resumed[0] === "21" ? 21 : 22, 30));
  const again = (await world.kept("mqtt")).client;
  for (let n = 21; n <= 30; n++) assertEquals(payload_text(await again.receive()), `${n}`);
  await again.expect_nothing();
  await again.close();
});

Deno.test("with an Idempotency-Key a publish is stored once, after a kill too", async () => {
  await using world = await Restarted.start();
  const publish = async (key: string) => {
    const url = `${world.service.http}/v1/topics/t`;
    const headers = { "idempotency-key": key };
    const response = await fetch(url, { method: "POST", body: "once", headers });
    const { offset, duplicate = false } = await response.json();
    return [offset, duplicate];
  };
  assertEquals(await publish("a"), [1, false]);
  const both = await Promise.all([publish("b"), publish("b")]);
  assertEquals(both.sort(), [[2, false], [2, true]]);
  await world.again("kill");
  assertEquals(await publish("a"), [1, true]);
  assertEquals(await publish("c"), [3, false]);
});

Deno.test("what has expired is not delivered, and leaves the log", async () => {
  await using world = await Restarted.start();
  const { client } = await world.kept("s");
  await client.subscribe("t", 1);
  await client.disconnect();
  await world.service.publish("t", "brief", "ttl=1s");
  await world.service.publish("t", "stays", "ttl=1h");
  const expired = 'longwire_store_messages_removed_total{reason="expiry"}';
  await eventually("one expired", async () => await world.service.metric(expired) === 1);
  const again = (await world.kept("s")).client;
  assertEquals(payload_text(await again.receive()), "stays");
  await again.expect_nothing();
  await again.close();
});

Deno.test("a full disk refuses QoS 1 and 2 with 507, and QoS 0 goes on", async () => {
  await using world = await Restarted.start(["--data_bytes_max", "2MB"]);
  const { client } = await world.connect({ client_id: "live" });
  await client.subscribe("live", 1);
  const payload = "x".repeat(100_000);
  let kept = 0;
  let answer = await world.service.publish("fill", payload, "ttl=3s");
  for (; answer.status === 200; kept++) {
    answer = await world.service.publish("fill", payload, "ttl=3s");
  }
  assertEquals([answer.status, answer.body.code], [507, "store_full"]);
  assert(kept > 5, `${kept} were kept`);
  // MQTT 5 says it to the publisher [MQTT-3.4.2-1]; 3.1.1 has no word, so it ends the connection.
  const { client: publisher } = await world.connect();
  assertEquals(await publisher.publish("fill", payload, { qos: 1 }), 0x97);
  assertEquals(await publisher.publish("fill", payload, { qos: 2 }), 0x97);
  const { client: old } = await world.connect({ version: 4 });
  await old.say(publish_packet("fill", payload, { qos: 1, packet_id: 1 }));
  assertEquals(await old.closed(), []);
  assertEquals((await world.service.publish("live", "goes on", "qos=0")).status, 200);
  assertEquals(payload_text(await client.receive()), "goes on");
  assertEquals(await world.service.metric("longwire_store_failing"), 1);
  await eventually("there is room again", async () => {
    return (await world.service.publish("fill", payload)).status === 200;
  });
  assertEquals((await world.service.publish("live", "kept", "qos=1")).status, 200);
  assertEquals(payload_text(await client.receive()), "kept");
  await Promise.all([client, publisher, old].map((each) => each.close()));
});
