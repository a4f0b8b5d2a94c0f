/**
 * Callbacks of pushes, and webhooks for what devices acknowledge: told when it is so, also days and
 * restarts later, and told as well when it will not be.
 */
import { assert, assertEquals } from "@std/assert";
import { MqttClient, payload_text } from "../support/mqtt_client.ts";
import { Restarted } from "../support/restarted.ts";
import { eventually, Service } from "../support/service.ts";
import { Receiver } from "../support/webhook_receiver.ts";
import { dead_letters, hook, next_events, webhooks_file } from "../support/webhooks_file.ts";

interface Pushed {
  readonly status: number;
  readonly id: string;
  readonly acked: boolean;
  readonly code?: string;
}

async function push(
  service: Service,
  id: string,
  callback: string,
  query = "",
): Promise<Pushed> {
  const more = `callback=${encodeURIComponent(callback)}${query}`;
  const url = `${service.http}/v1/devices/${encodeURIComponent(id)}/messages?${more}`;
  const response = await fetch(url, { method: "POST", body: "for you" });
  return { ...await response.json(), status: response.status };
}

function callbacks(receiver: Receiver, more: Record<string, unknown> = {}) {
  return { default: { secrets: [receiver.secrets[0]], ...more } };
}

const receipts = 'longwire_webhook_delivered_total{hook="callbacks"}';

Deno.test("a callback is told when the device acknowledges, restarts later", async () => {
  await using receiver = new Receiver();
  await using file = await webhooks_file({ callbacks: callbacks(receiver) });
  await using running = await Restarted.start(file.args);
  const first = await running.kept("car/7");
  await first.client.subscribe("$devices/car/7", 1);
  const there = await push(running.service, "car/7", receiver.url);
  assertEquals([there.status, there.acked], [202, false]);
  const message = await first.client.receive();
  const [told] = await next_events(receiver, 1);
  assertEquals(told.type, "longwire.message.acknowledged");
  assertEquals([told.id, told.subject], [`${there.id}-receipt`, "car/7"]);
  const topic = "$devices/car/7";
  assertEquals(told.data, { device_id: "car/7", message: { id: there.id, topic } });
  assertEquals(payload_text(message), "for you");
  await first.client.disconnect();
  const away = [
    await push(running.service, "car/7", receiver.url),
    await push(running.service, "car/7", receiver.url, "&qos=2"),
  ];
  await running.again("kill");
  await running.again("stop");
  assertEquals(receiver.taken.size, 0);
  const { client } = await running.kept("car/7");
  await client.receive();
  await client.receive();
  const later = await next_events(receiver, 2);
  const ids = later.map(({ data }) => (data as { message: { id: string } }).message.id);
  assertEquals(ids.toSorted(), away.map(({ id }) => id).toSorted());
  await client.close();
  await eventually("it is told once", async () => await running.service.metric(receipts) === 2);
  assertEquals(receiver.problems, []);
});

Deno.test("a callback is told as well when the device will not acknowledge", async () => {
  await using receiver = new Receiver();
  await using file = await webhooks_file({ callbacks: callbacks(receiver) });
  await using service = await Service.start({ args: file.args });
  const properties = { session_expiry_s: 600 };
  const kept = (client_id: string) => ({ client_id, clean_start: false, properties });
  const why = async () => {
    const [{ type, data }] = await next_events(receiver, 1);
    assertEquals(type, "longwire.message.undelivered");
    return (data as { reason: string }).reason;
  };
  const { client } = await MqttClient.connect(service.mqtt, kept("d"));
  await client.subscribe("$devices/d", 1);
  await push(service, "d", receiver.url, "&ttl=300ms");
  assertEquals(await why(), "expired");
  await client.close();
  const other = await MqttClient.connect(service.mqtt, kept("e"));
  await other.client.subscribe("$devices/e", 1);
  await other.client.disconnect();
  await push(service, "e", receiver.url);
  const anew = { ...kept("e"), clean_start: true };
  const { client: last } = await MqttClient.connect(service.mqtt, anew);
  assertEquals(await why(), "session_ended");
  await last.close();
});

Deno.test("a URL that leads inside is refused, and one that cannot be signed for", async () => {
  await using receiver = new Receiver();
  await using file = await webhooks_file({ callbacks: callbacks(receiver) }, "127.0.0.2/32");
  await using service = await Service.start({ args: file.args });
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "d" });
  await client.subscribe("$devices/d", 1);
  const refused = async (url: string) => {
    const { status, code } = await push(service, "d", url);
    return [status, code];
  };
  const forbidden = [400, "webhook_forbidden"];
  for (const url of [receiver.url, "https://169.254.169.254/", "https://[::1]/", "ftp://a/", "x"]) {
    assertEquals(await refused(url), forbidden, url);
  }
  // A name is judged by where it leads, when it is sent to.
  assertEquals(await refused("https://localhost:1/"), [202, undefined]);
  await client.receive();
  const series = 'longwire_webhook_failures_total{hook="callbacks",code="webhook_forbidden"}';
  await eventually("it is not sent to", async () => await service.metric(series) > 0);
  assertEquals((await push(service, "nobody", "https://example.com/")).status, 404);
  await using plain = await Service.start();
  assertEquals((await push(plain, "d", "https://example.com/")).code, "no_callbacks");
  await client.close();
  assertEquals(receiver.requests.seen.length, 0);
});

Deno.test("a callback that is never taken becomes a dead letter", async () => {
  await using receiver = new Receiver();
  receiver.respond = () => new Response(null, { status: 500 });
  await using file = await webhooks_file({ callbacks: callbacks(receiver, { attempts: 2 }) });
  await using service = await Service.start({ args: file.args });
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "d" });
  await client.subscribe("$devices/d", 1);
  const { id } = await push(service, "d", receiver.url);
  await client.receive();
  const [letter] = await dead_letters(service, "callbacks");
  assertEquals([letter.event.id, letter.attempts], [`${id}-receipt`, 2]);
  await client.close();
});

for (const clean_start of [true, false]) {
  const about = clean_start ? "of a connection" : "that is kept";
  Deno.test(`what a session ${about} acknowledges is told, and nothing else`, async () => {
    await using receiver = new Receiver();
    const more = { events: ["acknowledged"], filters: ["jobs/#"], concurrency: 1 };
    await using file = await webhooks_file({ hooks: { o: hook(receiver, more) } });
    await using service = await Service.start({ args: file.args });
    const session_expiry_s = clean_start ? 0 : 600;
    const options = { client_id: "w/1", clean_start, properties: { session_expiry_s } };
    const { client } = await MqttClient.connect(service.mqtt, options);
    await client.subscribe("jobs/+", 2);
    await client.subscribe("other/+", 1);
    const ids: unknown[] = [];
    for (const query of ["qos=1", "qos=2", "qos=1"]) {
      ids.push((await service.publish("jobs/1", "x", query)).body.id);
      await service.publish("other/1", "x");
      await service.publish("jobs/qos0", "x", "qos=0");
      for (let count = 0; count < 3; count++) await client.receive();
    }
    const { body: { id: unheard } } = await service.publish("jobs/1/deep", "nobody hears it");
    const events = await next_events(receiver, 3);
    assertEquals(
      new Set(events.map(({ type }) => type)),
      new Set(["longwire.message.acknowledged"]),
    );
    const told = events.map(({ data }) => (data as { message: { id: string } }).message.id);
    assertEquals(told.toSorted(), ids.map(String).toSorted());
    assert(!told.includes(String(unheard)));
    await client.close();
  });
}

/** Pushes with a callback until the service is gone; answers the ids that were answered. */
async function push_on(service: Service, callback: string, ids: Set<string>): Promise<void> {
  try {
    for (;;) {
      const { status, id } = await push(service, "d", callback);
      if (status === 202) ids.add(id);
    }
  } catch {
    // it was killed
  }
}

async function receive_on(client: MqttClient): Promise<void> {
  try {
    for (;;) await client.receive();
  } catch {
    // the connection is gone
  }
}

Deno.test("kills amid pushes and acknowledgements lose no receipt", async () => {
  await using receiver = new Receiver();
  const more = { events: ["acknowledged"], filters: ["$devices/#"], batch: 50 };
  await using file = await webhooks_file({
    hooks: { o: hook(receiver, more) },
    callbacks: callbacks(receiver),
  });
  await using running = await Restarted.start(file.args);
  const first = await running.kept("d");
  await first.client.subscribe("$devices/d", 1);
  await first.client.disconnect();
  const ids = new Set<string>();
  for (let kill = 1; kill <= 4; kill++) {
    const { client } = await running.kept("d");
    const receiving = receive_on(client);
    const pushing = push_on(running.service, receiver.url, ids);
    await eventually("some are answered", () => Promise.resolve(ids.size >= kill * 10));
    await running.again("kill");
    await Promise.all([pushing, receiving]);
    await client.close();
  }
  const { client } = await running.kept("d");
  const receiving = receive_on(client);
  const told = new Set<string>();
  await eventually("all are told, to the callback and to the hook", async () => {
    while (receiver.taken.size > 0) {
      const { id, type, data } = (await receiver.taken.next())!;
      assertEquals(type, "longwire.message.acknowledged");
      const { message } = data as { message: { id: string } };
      told.add(`${message.id} ${id === `${message.id}-receipt`}`);
    }
    return [...ids].every((id) => told.has(`${id} true`) && told.has(`${id} false`));
  }, 20_000);
  await running.service.stop();
  await receiving;
  await client.close();
});
