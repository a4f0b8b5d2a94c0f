/**
 * MQTT: QoS 2 is exactly once though the service is killed at any instant [MQTT-4.3.3]: what the
 * device has completed never comes again, what it has not comes again under its packet id.
 */
import { assertEquals } from "@std/assert";
import type { Packet, Publish } from "../../core/protocol/mqtt.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { type MqttClient, payload_text } from "../support/mqtt_client.ts";
import { Restarted } from "../support/restarted.ts";

function answer(type: "puback" | "pubrec" | "pubcomp", packet_id: number): Packet {
  return { type, packet_id, reason_code: 0 };
}

/** Takes messages until this one has come; answers all of them. */
async function take_until(client: MqttClient, payload: string): Promise<Publish[]> {
  const taken: Publish[] = [];
  for (;;) {
    const packet = await client.next();
    if (packet?.type === "pubrel") await client.say(answer("pubcomp", packet.packet_id));
    if (packet?.type !== "publish") continue;
    taken.push(packet);
    await client.acknowledge(packet);
    if (payload_text(packet) === payload) return taken;
  }
}

// The reactor tells of PUBCOMP(a) and PUBREC(c) at once, and of how far all is acknowledged after
// that: c was written down without a, and the cursor still stood before a.
Deno.test("MQTT: an exchange that ends while another is written down stays over", async () => {
  await using world = await Restarted.start();
  const { client } = await world.kept("s");
  await client.subscribe("t", 2);
  for (const [payload, qos] of [["a", 2], ["b", 1], ["c", 2]] as const) {
    await world.publish("t", payload, qos);
  }
  const [a, b, c] = [await client.next(), await client.next(), await client.next()] as Publish[];
  await client.say(answer("pubrec", a.packet_id));
  await client.expect("pubrel");
  await client.say(
    answer("pubcomp", a.packet_id),
    answer("puback", b.packet_id),
    answer("pubrec", c.packet_id),
  );
  await client.expect("pubrel"); // of c: its row is durable
  await world.again("kill");
  await client.close();
  await world.publish("t", "last", 1);
  const again = (await world.kept("s")).client;
  const taken = (await take_until(again, "last")).map(payload_text);
  assertEquals(taken.filter((payload) => payload !== "b"), ["last"]);
  await again.close();
});

Deno.test("MQTT: an exchange that is over before an older one stays over", async () => {
  await using world = await Restarted.start();
  const { client } = await world.kept("s");
  await client.subscribe("t", 2);
  for (const [payload, qos] of [["x", 1], ["a", 2], ["c", 2]] as const) {
    await world.publish("t", payload, qos);
  }
  const [x, a, c] = [await client.next(), await client.next(), await client.next()] as Publish[];
  await client.acknowledge(a);
  await client.say(answer("pubrec", c.packet_id));
  await client.expect("pubrel"); // of c: the row that it is in is durable, and a is over
  for (let kills = 0; kills < 2; kills++) { // the second one before the cursor has passed a
    await world.again("kill");
    await world.publish("t", `last ${kills}`, 1);
    const again = (await world.kept("s")).client;
    assertEquals((await again.expect("pubrel")).packet_id, c.packet_id);
    const got = await again.expect("publish");
    assertEquals([payload_text(got), got.dup], ["x", true]);
    const last = await again.expect("publish");
    assertEquals(payload_text(last), "last 0");
    if (kills === 1) assertEquals(payload_text(await again.expect("publish")), "last 1");
    await again.close();
  }
  await client.close();
  assertEquals(x.qos, 1);
});

/** A device that does what [MQTT-4.3.3] says, at its own pace. */
class Device {
  /** Payload -> how often the application has had it. */
  readonly had = new Map<string, number>();
  /** QoS 2 packet ids received and not released. */
  readonly #open = new Set<number>();
  /** What waits to be said. */
  #answers: Packet[] = [];

  constructor(readonly random: () => number) {}

  async #take(client: MqttClient, packet: Packet): Promise<void> {
    if (packet.type === "publish") {
      const text = payload_text(packet);
      if (!this.#open.has(packet.packet_id)) this.had.set(text, (this.had.get(text) ?? 0) + 1);
      if (packet.qos === 2) this.#open.add(packet.packet_id);
      this.#answers.push(answer(packet.qos === 2 ? "pubrec" : "puback", packet.packet_id));
    } else if (packet.type === "pubrel") {
      this.#open.delete(packet.packet_id);
      this.#answers.push(answer("pubcomp", packet.packet_id));
    }
    if (this.random() < 0.3) await this.say(client);
  }

  /** Some of the answers, or all: QoS 1 ones in any order. */
  async say(client: MqttClient, share = this.random()): Promise<void> {
    const said: Packet[] = [];
    const later: Packet[] = [];
    for (const packet of this.#answers) {
      (packet.type !== "pubrec" && this.random() > share ? later : said).push(packet);
    }
    this.#answers = later;
    if (said.length > 0) await client.say(...said).catch(() => {});
  }

  /** Takes packets until there are none, or it has had as many messages as it shall. */
  async run(client: MqttClient, messages: number): Promise<void> {
    this.#answers = []; // a new connection: the service begins
    while (this.had.size < messages) {
      const packet = await client.next();
      if (packet === undefined) return;
      await this.#take(client, packet);
    }
    // Everything that is open comes to its end.
    while (this.#open.size > 0 || this.#answers.length > 0) {
      await this.say(client, 1);
      if (this.#open.size === 0) break;
      const packet = await client.next();
      if (packet === undefined) return;
      await this.#take(client, packet);
    }
  }
}

Deno.test("MQTT: QoS 2 is exactly once whenever the service is killed", async () => {
  const random = random_of(seed_for("exactly once"));
  await using world = await Restarted.start();
  const first = (await world.kept("s")).client;
  await first.subscribe("t/#", 2);
  await first.close();
  const device = new Device(random);
  const kills = Number(Deno.env.get("LONGWIRE_TEST_KILLS") ?? "8");
  let published = 0;
  for (let kill = 0; kill <= kills; kill++) {
    const { client: publisher } = await world.connect();
    const is_live = random() < 0.5;
    const early = is_live ? (await world.kept("s")).client : null;
    const burst = 20 + Math.floor(random() * 60);
    for (let n = 0; n < burst; n++) {
      const qos = random() < 0.7 ? 2 : 1;
      await publisher.publish(`t/${n % 3}`, `${qos} ${published++}`, { qos });
    }
    const client = early ?? (await world.kept("s")).client;
    const done = device.run(client, published);
    if (kill < kills) {
      await new Promise((resolve) => setTimeout(resolve, random() * 60));
      await world.again("kill");
      await client.close();
      await done;
    } else {
      await done;
      await client.expect_nothing();
      await client.close();
    }
    await publisher.close();
  }
  const wrong = [...device.had].filter(([text, times]) => text.startsWith("2") && times !== 1);
  assertEquals([device.had.size, wrong], [published, []]);
});
