/**
 * The hub, the router and the replay against a reactor that can be stopped between any two
 * commands: whatever the order of publishes, acknowledgements, disconnects and returns, a
 * persistent session gets every message once, in order.
 */
import { assert, assertEquals } from "@std/assert";
import type { Qos } from "../core/message.ts";
import { decode_frame, encode, type Packet } from "../core/protocol/mqtt.ts";
import { MemoryStore } from "../core/store/memory.ts";
import { random_of, seed_for } from "./cases/random.ts";
import type { FakeConnection } from "./fake_reactor.ts";
import { breathe, FakeWorld } from "./support/fake_world.ts";

/**
 * A device that remembers what it was given for the first time (no DUP, or an unknown packet id).
 */
class Device {
  connection: FakeConnection | null = null;
  /** Payloads in order of first delivery. */
  readonly got: number[] = [];
  /** Packet ids received and not acknowledged. */
  readonly unacknowledged: { packet_id: number; value: number }[] = [];

  constructor(readonly world: World, readonly id: string, readonly filter: string) {}

  connect(): void {
    const c = this.world.reactor.connect(0);
    this.connection = c;
    const connect = {
      type: "connect",
      version: 5,
      clean_start: false,
      keepalive_s: 0,
      client_id: this.id,
      properties: { session_expiry_s: 1000, receive_maximum: 1 + this.world.below(6) },
    } as const;
    this.world.reactor.from_device(c, encode(connect, 5));
    const subscriptions = [{
      filter: this.filter,
      qos: 1 as Qos,
      no_local: false,
      retain_as_published: false,
      retain_handling: 0 as const,
    }];
    this.world.settle();
    const subscribe = { type: "subscribe", packet_id: 9, subscriptions } as const;
    if (!this.world.subscribed.has(this.id)) {
      this.world.reactor.from_device(c, encode(subscribe, 5));
      this.world.subscribed.add(this.id);
      this.world.settle();
    }
  }

  /** Reads what has arrived; acknowledges some of it, not always in order (a service must cope). */
  read(share: number): void {
    const c = this.connection;
    if (c === null) return;
    for (const frame of c.out.splice(0)) {
      const packet = decode_frame(frame, 0, frame.length, 5);
      if (packet.type === "publish") this.#take(packet);
    }
    while (this.unacknowledged.length > 0 && this.world.random() < share) {
      const index = this.world.random() < 0.8 ? 0 : this.world.below(this.unacknowledged.length);
      const [{ packet_id }] = this.unacknowledged.splice(index, 1);
      this.world.reactor.acknowledge(c, packet_id);
    }
  }

  #take(packet: Extract<Packet, { type: "publish" }>): void {
    const value = Number(new TextDecoder().decode(packet.payload));
    const known = this.unacknowledged.some((each) => each.value === value);
    if (!packet.dup) this.got.push(value);
    // Sent before, lost with its connection.
    else if (!this.got.includes(value)) this.got.push(value);
    if (!known) this.unacknowledged.push({ packet_id: packet.packet_id, value });
  }

  lose(): void {
    const c = this.connection;
    if (c === null) return;
    this.read(0); // what the kernel had delivered is there; what was not acknowledged is not known
    this.unacknowledged.length = 0;
    this.world.reactor.end(c, 1);
    this.connection = null;
  }
}

class World extends FakeWorld {
  readonly subscribed = new Set<string>();
  readonly published: { topic: string; value: number }[] = [];

  constructor(readonly random: () => number, store = new MemoryStore()) {
    super(store);
  }

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  publish_next(topic: string): void {
    const value = this.published.length;
    this.published.push({ topic, value });
    this.publish(topic, String(value));
  }
}

async function play(seed: number): Promise<void> {
  const world = new World(random_of(seed));
  const topics = ["a", "b", "c/d"];
  const devices = ["a", "b", "#", "+", "c/+"].map((filter, index) =>
    new Device(world, `device-${index}`, filter)
  );
  for (const device of devices) device.connect();
  for (let step = 0; step < 400; step++) {
    const device = devices[world.below(devices.length)];
    const dice = world.random();
    if (dice < 0.4) world.publish_next(topics[world.below(topics.length)]);
    else if (dice < 0.8) device.read(0.7);
    else if (dice < 0.87) device.lose();
    else if (device.connection === null) device.connect();
    world.move(world.below(6));
    if (dice > 0.95) await breathe();
  }
  for (const device of devices) if (device.connection === null) device.connect();
  const is_quiet = () =>
    [...world.sessions.all()].every(({ replay }) => replay === null) &&
    devices.every(({ connection: c }) => c!.out.length + c!.window.length === 0);
  for (let quiet = 0, rounds = 0; quiet < 5; quiet = is_quiet() ? quiet + 1 : 0) {
    assert(++rounds < 2000, `still busy, with LONGWIRE_TEST_SEED=${seed}`);
    world.settle();
    await breathe();
    for (const device of devices) device.read(1);
  }
  for (const device of devices) check(device, world, seed);
}

function check(device: Device, world: World, seed: number): void {
  const wants = (topic: string) =>
    device.filter === "#" || device.filter === topic ||
    device.filter === "+" && !topic.includes("/") || device.filter === "c/+" && topic === "c/d";
  const expected = world.published.filter(({ topic }) => wants(topic)).map(({ value }) => value);
  assertEquals(device.got, expected, `${device.filter} with LONGWIRE_TEST_SEED=${seed}`);
  assertEquals(device.connection!.window.length, 0, "everything is acknowledged");
}

Deno.test("replay: a session gets every message once and in order, whatever happens", async () => {
  const seed = seed_for("replay");
  for (let round = 0; round < 20; round++) await play(seed + round);
});
