/**
 * Pushes to one device and their receipts: with MQTT of both kinds of session and each QoS, with
 * the Longwire protocol, for a device that is away, and for one that never acknowledges.
 */
import { assert, assertEquals } from "@std/assert";
import { connect, open_tcp } from "../core/client.ts";
import { MqttClient, payload_text } from "./support/mqtt_client.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { eventually, Service } from "./support/service.ts";

interface Receipt {
  readonly status: number;
  readonly acked?: boolean;
  readonly audience?: number;
  readonly code?: string;
  readonly offset?: number;
}

async function push(service: Service, id: string, query: string): Promise<Receipt> {
  const url = `${service.http}/v1/devices/${encodeURIComponent(id)}/messages?${query}`;
  const response = await fetch(url, { method: "POST", body: "for you" });
  return { ...await response.json(), status: response.status };
}

const waiting = "wait=acked&timeout=15s";

for (const protocolVersion of [4, 5] as const) {
  for (const clean of [true, false]) {
    const about = `MQTT ${protocolVersion}, ${clean ? "transient" : "kept"} session`;
    Deno.test(`a push is answered when MQTT.js has acknowledged it: ${about}`, async () => {
      await using service = await Service.start();
      const properties = protocolVersion === 5 && !clean ? { sessionExpiryInterval: 60 } : {};
      const options = { clientId: "phone/1", clean, protocolVersion, properties };
      await using js = await MqttJs.connect(service.mqtt, options);
      await js.subscribe("$devices/phone/1", 2);
      for (const qos of [1, 2]) {
        const { status, acked, audience } = await push(service, "phone/1", `${waiting}&qos=${qos}`);
        assertEquals({ status, acked, audience }, { status: 200, acked: true, audience: 1 });
        assertEquals((await js.messages.next())?.payload, "for you");
      }
    });
  }
}

Deno.test("a push is answered when a Longwire device has acknowledged it", async () => {
  await using service = await Service.start();
  const { host, port } = service.device;
  const client = connect({ address: `${host}:${port}`, session_id: "meter", open: open_tcp });
  // A message is acknowledged when the next event is asked for.
  const taken = (async () => {
    let count = 0;
    for await (const event of client) if (event.type === "message") count++;
    return count;
  })();
  await client.subscribe("$devices/meter");
  const { status, acked } = await push(service, "meter", waiting);
  assertEquals({ status, acked }, { status: 200, acked: true });
  await client.close();
  assertEquals(await taken, 1);
});

Deno.test("a push waits for a device that is away and comes back", async () => {
  await using service = await Service.start();
  const kept = { client_id: "d", clean_start: false, properties: { session_expiry_s: 60 } };
  const first = await MqttClient.connect(service.mqtt, kept);
  await first.client.subscribe("$devices/+", 1);
  await first.client.disconnect();
  const answer = push(service, "d", waiting);
  const is_stored = async () => await service.metric("longwire_log_head_offset") === 1;
  await eventually("the push is stored", is_stored);
  const second = await MqttClient.connect(service.mqtt, kept);
  assertEquals(payload_text(await second.client.receive()), "for you");
  const { status, acked, audience } = await answer;
  assertEquals({ status, acked, audience }, { status: 200, acked: true, audience: 0 });
  await second.client.close();
});

Deno.test("a device that has a message and does not acknowledge it has not got it", async () => {
  await using service = await Service.start();
  const kept = { client_id: "d", clean_start: false, properties: { session_expiry_s: 60 } };
  const { client } = await MqttClient.connect(service.mqtt, kept);
  await client.subscribe("$devices/d", 1);
  const early = await push(service, "d", "wait=acked&timeout=300ms");
  assertEquals([early.status, early.code], [504, "ack_timeout"]);
  await client.expect("publish");
  const late = push(service, "d", waiting);
  await client.expect("publish");
  await client.close(); // both are in flight
  const again = await MqttClient.connect(service.mqtt, kept);
  const copies = [await again.client.expect("publish"), await again.client.expect("publish")];
  assert(copies.every(({ dup }) => dup));
  for (const copy of copies) await again.client.acknowledge(copy);
  assertEquals((await late).acked, true);
  await again.client.close();
});

Deno.test("who cannot acknowledge is not waited for", async () => {
  await using service = await Service.start();
  const nobody = await push(service, "nobody", waiting);
  assertEquals([nobody.status, nobody.code], [404, "not_found"]);
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "d" });
  const deaf = await push(service, "d", waiting);
  assertEquals([deaf.status, deaf.code], [409, "not_subscribed"]);
  await client.subscribe("$devices/d", 0);
  assertEquals((await push(service, "d", waiting)).code, "not_subscribed");
  // Without waiting it is stored for whoever reads the topic later.
  const { status, acked } = await push(service, "nobody", "wait=stored");
  assertEquals({ status, acked }, { status: 200, acked: false });
  for (const query of ["wait=yes", "qos=0", "wait=acked&timeout=1h", "timeout=x"]) {
    assertEquals((await push(service, "d", query)).code, "query_invalid", query);
  }
  assertEquals((await push(service, "a/+", "")).code, "client_id_invalid");
  await client.close();
});

Deno.test("nobody waits for a session that has ended, nor while the service stops", async () => {
  const service = await Service.start();
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "d" });
  await client.subscribe("$devices/d", 1);
  const gone = push(service, "d", waiting);
  await client.expect("publish");
  await client.close();
  assertEquals((await gone).code, "not_subscribed");
  const kept = { client_id: "e", clean_start: false, properties: { session_expiry_s: 60 } };
  const other = await MqttClient.connect(service.mqtt, kept);
  await other.client.subscribe("$devices/e", 1);
  const waits = push(service, "e", "wait=acked&timeout=100s");
  await other.client.expect("publish");
  assertEquals(await service.stop(), 0);
  assertEquals((await waits).code, "shutting_down");
  await other.client.close();
});
