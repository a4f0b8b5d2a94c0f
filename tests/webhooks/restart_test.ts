/**
 * Webhooks across kills, restarts and changes of their file: nothing that was published is lost,
 * and what comes again can be told by its id.
 */
import { assert, assertEquals } from "@std/assert";
import { MqttClient } from "../support/mqtt_client.ts";
import { Restarted } from "../support/restarted.ts";
import { eventually, Service } from "../support/service.ts";
import { type Event, new_secret, Receiver } from "../support/webhook_receiver.ts";
import { hook, next_events, orders, webhooks_file } from "../support/webhooks_file.ts";

Deno.test("killed at any time, the service sends again what it had not done with", async () => {
  await using receiver = new Receiver();
  let is_open = false;
  receiver.respond = async () => {
    await new Promise((resolve) => setTimeout(resolve, 2));
    return is_open ? undefined : new Response(null, { status: 503 });
  };
  await using file = await webhooks_file({
    hooks: { o: hook(receiver, { ...orders, events: ["message", "connected"], concurrency: 8 }) },
  });
  await using running = await Restarted.start(file.args);
  const publish = async (from: number, to: number) => {
    for (let number = from; number <= to; number++) {
      await running.service.publish(`orders/${number % 5}`, String(number));
    }
  };
  const { client } = await running.connect({ client_id: "dev/1" });
  await publish(1, 50);
  await client.close();
  await running.again("kill");
  is_open = true;
  await eventually("some have been taken", () => Promise.resolve(receiver.taken.seen.length > 10));
  await running.again("kill");
  await publish(51, 80);
  await running.again("stop");
  await publish(81, 90);
  const wanted = new Set(Array.from({ length: 90 }, (_, index) => String(index + 1)));
  const seen = () => receiver.taken.seen.filter(({ subject }) => subject?.startsWith("orders/"));
  await eventually("all have come", () => {
    return Promise.resolve(new Set(seen().map(({ data }) => data)).size === wanted.size);
  });
  for (let topic = 0; topic < 5; topic++) {
    const own = seen().filter(({ subject }) => subject === `orders/${topic}`);
    const first = [...new Set(own.map(({ data }) => Number(data)))];
    assertEquals(first, first.toSorted((a, b) => a - b), "in order, where it is new");
    for (const event of own) {
      const same = own.filter(({ data }) => data === event.data);
      assertEquals(new Set(same.map(({ id }) => id)).size, 1, "one id, however often it comes");
    }
  }
  const connected = receiver.taken.seen.find(({ type }) => type === "longwire.device.connected");
  assertEquals(connected?.subject, "dev/1");
});

Deno.test("devices that come and go are told, with the reason, also after a kill", async () => {
  await using receiver = new Receiver();
  const events = ["connected", "disconnected"];
  await using file = await webhooks_file({ hooks: { o: hook(receiver, { events }) } });
  await using running = await Restarted.start(file.args);
  const { client } = await running.kept("dev/1");
  await client.subscribe("a", 1);
  const other = await MqttClient.connect(running.service.mqtt, { client_id: "short" });
  await other.client.disconnect();
  const first = await next_events(receiver, 3);
  const told = first.map(({ type, subject, data }) => [type, subject, data]);
  const protocol = "mqtt-5";
  assertEquals(told.filter(([, subject]) => subject === "short"), [
    ["longwire.device.connected", "short", { device_id: "short", protocol }],
    ["longwire.device.disconnected", "short", {
      device_id: "short",
      protocol,
      reason: "normal",
      detail: "Closed as agreed",
    }],
  ]);
  await running.again("kill");
  // What was taken before the kill may come again.
  const is_wanted = ({ subject, type }: Event) => {
    return subject === "dev/1" && type === "longwire.device.disconnected";
  };
  const interrupted = await receiver.taken.find(is_wanted, "the end of dev/1");
  const { reason } = interrupted.data as { reason: string };
  assertEquals([interrupted.subject, reason], ["dev/1", "interrupted"]);
});

Deno.test("secrets change without a break, and a file that is wrong changes nothing", async () => {
  await using receiver = new Receiver();
  await using file = await webhooks_file({ hooks: { o: hook(receiver) } });
  await using service = await Service.start({ args: file.args });
  await service.publish("orders/1", "one");
  await next_events(receiver, 1);
  const [old] = receiver.secrets;
  const fresh = new_secret();
  await file.write({ hooks: { o: hook(receiver, { ...orders, secrets: [fresh, old] }) } });
  await eventually("the new secret signs too", async () => {
    await service.publish("orders/1", "two");
    const signed = (await receiver.requests.next())!.headers.get("webhook-signature")!;
    return signed.split(" ").length === 2;
  });
  receiver.secrets[0] = fresh;
  await service.publish("orders/1", "three");
  await eventually("it is signed with it", () => {
    return Promise.resolve(receiver.taken.seen.at(-1)?.data === "three");
  });
  await Deno.writeTextFile(file.path, '{"hooks": {"o": {"secrets": ["whsec_');
  await eventually("it is said", () => {
    return Promise.resolve(service.log.some((line) => line.includes("cannot use the webhooks")));
  });
  await service.publish("orders/1", "four");
  await eventually("it goes on", () => {
    return Promise.resolve(receiver.taken.seen.at(-1)?.data === "four");
  });
  assertEquals(receiver.problems, []);
  const said = service.log.join("\n");
  for (const secret of [old, fresh]) assert(!said.includes(secret.slice(6)), "no secret is logged");
});
