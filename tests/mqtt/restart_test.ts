/**
 * MQTT: what holds when the service stops or is killed and starts again with the same data: QoS 1
 * at least once, QoS 2 exactly once, both ways; sessions, wills and shared subscriptions.
 */
import { assertEquals } from "@std/assert";
import { payload_text, publish_packet } from "../support/mqtt_client.ts";
import { Restarted } from "../support/restarted.ts";

function each(
  name: string,
  run: (world: Restarted, how: "stop" | "kill") => Promise<void>,
): void {
  for (const how of ["stop", "kill"] as const) {
    Deno.test(`MQTT: ${name} (${how})`, async () => {
      await using world = await Restarted.start();
      await run(world, how);
    });
  }
}

each("exchanges with a subscriber go on after a restart", async (world, how) => {
  const first = (await world.kept("s")).client;
  await first.subscribe("t", 2);
  for (const [payload, qos] of [["a", 2], ["b", 1], ["c", 2], ["d", 2]] as const) {
    await world.publish("t", payload, qos);
  }
  const sent = [];
  while (sent.length < 4) sent.push(await first.expect("publish"));
  const [a, b, c, d] = sent;
  await first.acknowledge(a);
  await first.acknowledge(b);
  await first.say({ type: "pubrec", packet_id: c.packet_id, reason_code: 0 });
  await first.expect("pubrel");
  await world.again(how);
  await first.close();
  const { client, connack } = await world.kept("s");
  assertEquals(connack.session_present, true);
  const released: number[] = [];
  for (;;) {
    const packet = await client.next();
    if (packet?.type === "pubrel") {
      released.push(packet.packet_id);
      await client.say({ type: "pubcomp", packet_id: packet.packet_id, reason_code: 0 });
    }
    if (packet?.type !== "publish") continue;
    // What the cursor had not covered may come again, marked; only d must.
    assertEquals([packet.dup, packet.qos === 1 || payload_text(packet) === "d"], [true, true]);
    await client.acknowledge(packet);
    if (payload_text(packet) !== "d") continue;
    assertEquals(packet.packet_id, d.packet_id);
    break;
  }
  assertEquals(released.includes(c.packet_id), true);
  await client.expect_nothing();
  await client.close();
});

each("what was sent just after a reconnect comes again with DUP", async (world, how) => {
  // Cause: that the session had a connection was written down up to a second later.
  const first = (await world.kept("s")).client;
  await first.subscribe("t", 2);
  await first.disconnect();
  const second = (await world.kept("s")).client;
  const sent = new Set<string>();
  for (const qos of [1, 2] as const) {
    await world.publish("t", `${qos}`, qos);
    sent.add(payload_text(await second.expect("publish")));
  }
  await world.again(how);
  await second.close();
  const again = (await world.kept("s")).client;
  for (const payload of sent) {
    const packet = await again.receive();
    assertEquals([payload_text(packet), packet.dup], [payload, true]);
  }
  await again.expect_nothing();
  await again.close();
});

each("a QoS 2 publish goes on after a restart, and is delivered once", async (world, how) => {
  const first = (await world.kept("p")).client;
  const subscriber = (await world.kept("s")).client;
  await subscriber.subscribe("t", 2);
  const packet = publish_packet("t", "once", { qos: 2, packet_id: 9 });
  await first.say(packet);
  await first.expect("pubrec");
  assertEquals(payload_text(await subscriber.receive()), "once");
  await world.again(how);
  await first.close();
  await subscriber.close();
  const again = (await world.kept("p")).client;
  const listener = (await world.kept("s")).client;
  await again.say({ ...packet, dup: true });
  assertEquals((await again.expect("pubrec")).packet_id, 9);
  await again.say({ type: "pubrel", packet_id: 9, reason_code: 0 });
  assertEquals((await again.expect("pubcomp")).reason_code, 0);
  await world.publish("t", "next", 2);
  for (;;) {
    const got = await listener.next();
    if (got?.type === "pubrel") continue; // of an exchange that the service knew to be over
    assertEquals(got?.type === "publish" && payload_text(got), "next");
    break;
  }
  await again.close();
  await listener.close();
});

each("subscriptions, retained messages and the expiry of sessions are kept", async (world, how) => {
  const long = (await world.kept("long")).client;
  await long.subscribe("+/a", 1, {}, 5);
  await long.subscribe("$share/g/b", 1);
  const brief = (await world.kept("brief", { properties: { session_expiry_s: 1 } })).client;
  await brief.subscribe("x", 1);
  await world.publish("t/a", "r", 1, true);
  await long.receive();
  await world.again(how);
  await long.close();
  await brief.close();
  await world.publish("t/a", "missed", 1);
  await new Promise((resolve) => setTimeout(resolve, 1700)); // counted from the end of the service
  const late = await world.kept("brief");
  assertEquals(late.connack.session_present, false);
  await late.client.subscribe("t/#", 1);
  assertEquals(payload_text(await late.client.receive()), "r");
  const { client, connack } = await world.kept("long");
  assertEquals(connack.session_present, true);
  const got = await client.receive();
  assertEquals([got.properties?.subscription_ids, got.dup], [[5], got.dup]);
  await client.close();
  await late.client.close();
});

each("a will is published though the service ended first", async (world, how) => {
  const watch = (await world.kept("watch")).client;
  await watch.subscribe("will", 1);
  const will = { topic: "will", payload: Uint8Array.of(0x78), qos: 1, retain: false } as const;
  const client = (await world.kept("w", { will })).client;
  const delayed = (await world.kept("d", {
    will: { ...will, payload: Uint8Array.of(0x79), properties: { will_delay_s: 2 } },
  })).client;
  await new Promise((resolve) => setTimeout(resolve, 1300)); // written within a second
  await world.again(how);
  for (const each of [watch, client, delayed]) await each.close();
  const again = (await world.kept("watch")).client;
  const got = [payload_text(await again.receive()), payload_text(await again.receive())];
  assertEquals(got, ["x", "y"]);
  await again.expect_nothing();
  await again.close();
});

each("a shared subscription goes on where it was", async (world, how) => {
  const filter = "$share/g/t";
  const member = (await world.kept("m", { properties: { receive_maximum: 4 } })).client;
  await member.subscribe(filter, 1);
  for (let n = 0; n < 8; n++) await world.publish("t", `${n}`, 1);
  await member.acknowledge(await member.expect("publish"));
  await new Promise((resolve) => setTimeout(resolve, 1300));
  await world.again(how);
  await member.close();
  await world.publish("t", "8", 1);
  const again = (await world.kept("m")).client;
  const other = (await world.connect({ client_id: "o" })).client;
  const got = new Set<string>();
  while (!got.has("8") || got.size < 8) got.add(payload_text(await again.receive()));
  assertEquals([...got].map(Number).sort(), [1, 2, 3, 4, 5, 6, 7, 8]);
  await other.close();
  await again.close();
});
