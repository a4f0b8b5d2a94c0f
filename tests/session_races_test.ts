/**
 * Sessions between any two steps of the reactor and the store: what one connection left under way
 * when another came, or when the service was killed, neither gets lost nor comes wrongly.
 */
import { assertEquals } from "@std/assert";
import type { Will } from "../core/protocol/mqtt_packets.ts";
import { publish_packet } from "./support/mqtt_client.ts";
import { breathe, FakeWorld, packets_of, SlowStore, texts_of } from "./support/fake_world.ts";
import { within } from "./support/wait.ts";

/** What a service finds that starts after a kill. */
async function killed({ store, sessions }: FakeWorld<SlowStore>): Promise<FakeWorld<SlowStore>> {
  await store.lose(() => sessions.close());
  return await new FakeWorld(store).load();
}

/** A session of a device "d" that is subscribed, and has no connection. */
async function away(world: FakeWorld<SlowStore>, ...filters: string[]): Promise<void> {
  const c = world.connect("d");
  for (const filter of filters) world.subscribe(c, filter, 1);
  world.settle();
  world.reactor.end(c, 1);
  await world.rest();
}

function types_of(c: Parameters<typeof packets_of>[0]): string[] {
  return packets_of(c).map(({ type }) => type);
}

Deno.test("what a killed service may have sent comes with DUP", async () => {
  // Cause: a session forgot what that may be as soon as all of it was handed over, though its
  // connection ended before it was sent any: on the next one DUP was missing. After a second kill,
  // too: a session that had no connection then did not say so in its row.
  const first = new FakeWorld(new SlowStore());
  const before = first.connect("d");
  first.subscribe(before, "a", 1);
  first.settle();
  for (const text of ["0", "1", "2"]) first.publish("a", text);
  first.settle();
  assertEquals(texts_of(before), ["0", "1", "2"]);
  const second = await killed(first);
  const unsent = second.connect("d");
  second.settle();
  await second.hand_over("d");
  second.reactor.end(unsent, 1);
  second.settle();
  const third = await killed(second);
  const c = third.connect("d");
  third.settle();
  await third.hand_over("d");
  third.settle();
  assertEquals(texts_of(c), ["0'", "1'", "2'"]);
  for (const { packet_id } of [...c.window]) third.reactor.acknowledge(c, packet_id);
  third.settle();
  third.publish("a", "3");
  third.reactor.end(c, 1);
  third.settle();
  const again = third.connect("d");
  third.settle();
  await third.hand_over("d");
  third.settle();
  assertEquals(texts_of(again), ["3"]); // not before the kill
  await third.sessions.close();
});

Deno.test("No Local: what an earlier session of the client published stays away", async () => {
  // Cause: it was waiting for the store, and only the session that had published it was left out.
  for (const ends of ["taken over", "over"] as const) {
    const world = new FakeWorld(new SlowStore());
    const first = world.connect("d", { properties: {} });
    world.settle();
    world.store.hold();
    world.say(first, publish_packet("t", "own", { qos: 1, packet_id: 1 }));
    world.settle();
    if (ends === "over") {
      world.reactor.end(first, 1);
      world.settle();
    }
    const second = world.connect("d", { clean_start: true });
    world.settle();
    world.subscribe(second, "#", 1, true);
    await world.rest();
    for (let turn = 0; turn < 4; turn++) {
      world.store.answer();
      await world.rest();
    }
    assertEquals(types_of(second), ["connack", "suback"], ends);
    world.publish("t", "other");
    world.store.answer();
    await world.rest();
    assertEquals(texts_of(second), ["other"]);
  }
});

Deno.test("No Local holds for what was published before it and stored after", async () => {
  // Cause: a publish that waited for the store did not carry who had published it; later the
  // session knew, but not after a kill.
  for (const how of ["cut", "kill"] as const) {
    const first = new FakeWorld(new SlowStore());
    const c = first.connect("d");
    first.subscribe(c, "kept", 1);
    await first.rest();
    first.store.hold();
    first.say(c, publish_packet("t", "own", { qos: 2, packet_id: 1 }));
    first.settle();
    first.subscribe(c, "#", 2, true);
    first.settle();
    if (how === "cut") first.reactor.end(c, 1);
    for (let turn = 0; turn < 4; turn++) {
      await first.rest();
      first.store.answer();
    }
    await first.rest();
    const world = how === "cut" ? first : await killed(first);
    const again = world.connect("d");
    await world.rest();
    world.store.hold();
    world.store.answer();
    await world.rest();
    assertEquals(texts_of(again), [], how);
    await world.sessions.close();
  }
});

Deno.test("what is asked for after a No Local that waits is done after it", async () => {
  const world = new FakeWorld(new SlowStore());
  const c = world.connect("d");
  await world.rest();
  packets_of(c);
  world.store.hold();
  world.say(c, publish_packet("t", "own", { qos: 1, packet_id: 1 }));
  world.settle();
  world.subscribe(c, "t", 1, true);
  world.say(c, { type: "unsubscribe", packet_id: 10, filters: ["t"] });
  world.settle();
  for (let turn = 0; turn < 3; turn++) {
    await world.rest();
    world.store.answer();
  }
  await world.rest();
  assertEquals(types_of(c), ["puback", "suback", "unsuback"]);
  assertEquals([...world.sessions.get("d")!.subscriptions()], []);
  // Of a connection that has ended nothing is left to do.
  world.say(c, publish_packet("t", "own", { qos: 1, packet_id: 2 }));
  world.settle();
  const other = world.connect("e");
  world.say(other, publish_packet("t", "own", { qos: 1, packet_id: 2 }));
  world.settle();
  world.subscribe(other, "t", 1, true);
  world.settle();
  world.reactor.end(other, 1);
  world.settle();
  for (let turn = 0; turn < 3; turn++) {
    world.store.answer();
    await world.rest();
  }
  assertEquals([...world.sessions.get("e")!.subscriptions()], []);
});

Deno.test("QoS 0 of a new session comes after what the one before it published", async () => {
  // Cause: a new session did not know that its predecessor's publishes were being stored.
  for (const ends of ["taken over", "over", "over twice"] as const) {
    const world = new FakeWorld(new SlowStore());
    const listener = world.connect("listener");
    world.subscribe(listener, "t", 1);
    await world.rest();
    world.store.hold();
    const brief = { clean_start: true, properties: {} };
    let c = world.connect("d", brief);
    world.settle();
    world.say(c, publish_packet("t", "first", { qos: 1, packet_id: 1 }));
    world.settle();
    for (let left = ends === "over twice" ? 2 : 1; left > 0; left--) {
      if (ends !== "taken over") world.reactor.end(c, 1);
      world.settle();
      c = world.connect("d", brief);
      world.settle();
    }
    world.say(c, publish_packet("t", "second", { qos: 0, packet_id: 0 }));
    await world.rest();
    for (let turn = 0; turn < 3; turn++) {
      world.store.answer();
      await world.rest();
    }
    assertEquals(texts_of(listener), ["first", "second"], ends);
    world.say(c, publish_packet("t", "third", { qos: 0, packet_id: 0 }));
    world.settle();
    assertEquals(texts_of(listener), ["third"], "nothing is waited for any more");
  }
});

Deno.test("what was acknowledged does not come again though LIVE was on its way", async () => {
  // Cause: a connection that had been behind and was to be live again was taken to have had nothing
  // of what had been replayed to it.
  const world = new FakeWorld(new SlowStore());
  const properties = { session_expiry_s: 1000, receive_maximum: 2 };
  const c = world.connect("d", { properties });
  world.subscribe(c, "t", 1);
  world.settle();
  for (const text of ["1", "2", "3", "4"]) world.publish("t", text);
  world.settle();
  assertEquals(texts_of(c), ["1", "2"]);
  for (const { packet_id } of [...c.window]) world.reactor.acknowledge(c, packet_id);
  await world.hand_over("d"); // 3, 4, LIVE
  world.reactor.step();
  world.reactor.step();
  assertEquals(texts_of(c), ["3", "4"]);
  world.reactor.acknowledge(c, c.window[1].packet_id);
  world.reactor.end(c, 1);
  await world.rest();
  const again = world.connect("d");
  await world.rest();
  assertEquals(texts_of(again), ["3'"]);
});

Deno.test("a connection that ends as soon as it is let in has had nothing", async () => {
  // Cause: it said what a live one would have had, for it had not been told yet that it was behind:
  // everything that the device had missed was taken for sent.
  const world = new FakeWorld(new SlowStore());
  world.subscribe(world.connect("listener"), "t", 1);
  await away(world, "t");
  world.publish("t", "missed");
  world.settle();
  const c = world.connect("d");
  world.reactor.poll(world.hub);
  world.reactor.end(c, 1);
  await world.rest();
  const again = world.connect("d");
  await world.rest();
  assertEquals(texts_of(again), ["missed"]);
});

Deno.test("what is sent again waits until it is written that the device is back", async () => {
  // Cause: a kill in between, and it came once more without DUP.
  const world = new FakeWorld(new SlowStore());
  await away(world, "t");
  world.publish("t", "missed");
  world.store.hold();
  const c = world.connect("d");
  await world.rest();
  assertEquals(types_of(c), ["connack"]);
  world.store.answer();
  await world.rest();
  assertEquals(texts_of(c), ["missed"]);
  const again = await killed(world);
  const second = again.connect("d");
  await again.rest();
  assertEquals(texts_of(second), ["missed'"]);
  await again.sessions.close();
});

Deno.test("so does what was on its way to the store when the device came back", async () => {
  const world = new FakeWorld(new SlowStore());
  await away(world, "t");
  world.store.hold();
  world.publish("t", "first");
  await breathe();
  const c = world.connect("d");
  await world.rest();
  world.store.answer(1);
  await world.rest();
  assertEquals(types_of(c), ["connack"]);
  world.store.answer();
  await world.rest();
  assertEquals(texts_of(c), ["first"]);
});

Deno.test("an unsubscribed filter does not take along what a QoS 0 one matches too", async () => {
  // Cause: the message was left to the replay because of the better QoS, which was gone by then.
  const world = new FakeWorld(new SlowStore());
  const properties = { session_expiry_s: 1000, receive_maximum: 1 };
  const c = world.connect("d", { properties });
  world.subscribe(c, "#", 1);
  world.subscribe(c, "s/+", 0);
  world.settle();
  for (const [topic, text] of [["x", "1"], ["s/a", "2"]]) world.publish(topic, text);
  world.settle();
  assertEquals(texts_of(c), ["1"]);
  world.say(c, { type: "unsubscribe", packet_id: 10, filters: ["#"] });
  world.settle();
  world.publish("s/a", "4"); // at QoS 0, at once
  world.settle();
  world.reactor.acknowledge(c, c.window[0].packet_id);
  await world.rest();
  assertEquals(texts_of(c), ["4", "2"]);
  world.reactor.acknowledge(c, c.window[0].packet_id);
  await world.rest();
  assertEquals(world.sessions.get("d")!.lapsed, null);
});

Deno.test("a subscription that changes twice between messages begins where it did", async () => {
  // Cause: what it was before the first change was forgotten with the second.
  const world = new FakeWorld(new SlowStore());
  const c = world.connect("d");
  world.subscribe(c, "kept", 1);
  world.settle();
  world.publish("kept", "1");
  world.publish("t", "before");
  for (const qos of [1, 2, 1] as const) world.subscribe(c, "t", qos);
  world.settle();
  world.reactor.end(c, 1);
  await world.rest();
  const again = world.connect("d");
  await world.rest();
  assertEquals(texts_of(again), ["1'"]);
});

Deno.test("a page that is being read does not hide what is subscribed to meanwhile", async () => {
  // Cause: what had been stored and not been sent when the read began, and was of no filter then,
  // was taken for seen when the page came.
  const world = new FakeWorld(new SlowStore());
  await away(world, "t");
  world.publish("t", "1");
  const c = world.connect("d");
  world.settle();
  world.store.hold();
  world.store.hold_reads();
  world.publish("u", "2");
  world.subscribe(c, "u", 1);
  world.store.on_read = () => {
    world.store.on_read = () => {};
    world.store.answer(); // stored, not dispatched
    world.reactor.poll(world.hub);
  };
  await breathe();
  for (let turn = 0; turn < 4; turn++) {
    await world.rest();
    world.store.answer();
    world.store.answer_reads();
  }
  await world.rest();
  assertEquals(texts_of(c), ["1", "2"]);
});

Deno.test("a group loses nothing that comes back while it reads what came before", async () => {
  // Cause: what had been read went out as the older message that had come back meanwhile, which was
  // taken for sent.
  const world = new FakeWorld(new SlowStore());
  const [a, b, c] = ["a", "b", "c"].map((id) => world.connect(id));
  for (const each of [a, b, c]) world.subscribe(each, "$share/g/t", 1);
  await world.rest();
  for (const text of ["1", "2", "3"]) world.publish("t", text);
  await world.rest();
  assertEquals([a, b, c].map(texts_of), [["1"], ["2"], ["3"]]);
  world.store.hold_reads();
  for (const each of [b, a]) {
    world.reactor.end(each, 1);
    await world.rest();
  }
  for (let turn = 0; turn < 3; turn++) {
    world.store.answer_reads();
    await world.rest();
  }
  assertEquals(texts_of(c).sort(), ["1", "2"]);
});

Deno.test("a group that a killed service had may send again: with DUP", async () => {
  const world = new FakeWorld(new SlowStore());
  const c = world.connect("d");
  world.subscribe(c, "$share/g/t", 2);
  await world.rest();
  world.publish("t", "1", 2);
  await world.rest();
  assertEquals(texts_of(c), ["1"]);
  const again = await killed(world);
  const second = again.connect("d");
  await again.rest();
  again.publish("t", "2", 2);
  await again.rest();
  assertEquals(texts_of(second), ["1'", "2"]);
  await again.sessions.close();
});

Deno.test("a QoS 2 message waits for the one that has its packet id", async () => {
  // Cause: it went out under another id, which a service that was killed did not know any more.
  for (const how of ["live", "replayed"]) {
    const world = new FakeWorld(new SlowStore());
    let c = world.connect("d");
    world.subscribe(c, "t", 2);
    world.settle();
    if (how === "replayed") world.reactor.end(c, 1);
    await world.rest();
    world.publish("t", "1", 2);
    for (let n = 1; n < 0x8000; n++) world.publish("other", "");
    for (const [text, qos] of [["2", 2], ["3", 1], ["4", 2]] as const) {
      world.publish("t", text, qos);
    }
    if (how === "replayed") c = world.connect("d");
    await world.rest();
    assertEquals(texts_of(c), ["1"], how);
    const [{ packet_id }] = c.window;
    world.reactor.acknowledge(c, packet_id);
    await world.rest();
    assertEquals(texts_of(c), ["2", "3", "4"], how);
    assertEquals(c.window.map((each) => each.packet_id), [packet_id, 1, packet_id + 2]);
  }
});

const will: Will = { topic: "w", payload: new TextEncoder().encode("will"), qos: 1, retain: false };

/** Wills in the log. */
function wills_of({ store }: FakeWorld<SlowStore>): number {
  return store.read(["w"], 0, 100).messages.length;
}

/** Time passes, and the sessions have noticed: something is to be written. */
async function pass(world: FakeWorld<SlowStore>, ms: number): Promise<void> {
  world.ahead_ms += ms;
  const noticed = async () => {
    while (world.store.waiting === 0) await breathe();
  };
  await within(noticed(), "something is to be written");
}

Deno.test("a will whose delay is over is published once, whatever is killed", async () => {
  // Cause: the row without it was one transaction, the will the next; and that of a session which
  // had expired stayed in its row until that was deleted, up to a second later.
  for (const session_expiry_s of [1000, 1]) {
    for (const answered of [0, 1, Infinity]) {
      const first = await new FakeWorld(new SlowStore()).load();
      const properties = { session_expiry_s };
      const c = first.connect("d", {
        properties,
        will: { ...will, properties: { will_delay_s: 2 } },
      });
      await first.rest();
      first.reactor.end(c, 1);
      await first.rest();
      first.store.hold();
      await pass(first, 2000);
      first.store.answer(answered);
      const world = await killed(first);
      world.store.hold();
      if (wills_of(world) === 0) await pass(world, 4000);
      world.store.answer();
      await world.rest();
      world.store.answer();
      assertEquals(wills_of(world), 1, `${answered} answered, expiry ${session_expiry_s}`);
      await world.sessions.close();
    }
  }
});

Deno.test("a will is published though the device is back before anybody looked", async () => {
  // Cause: the new connection's will took its place; without a delay it was due before that.
  const first = new FakeWorld(new SlowStore());
  first.connect("d", { will });
  await first.rest();
  const world = await killed(first);
  world.connect("d");
  world.settle();
  assertEquals(wills_of(world), 1);
  await world.sessions.close();
});

Deno.test("a will is written down at once", async () => {
  // Cause: up to a second later, unless the session was subscribed to something.
  const first = new FakeWorld(new SlowStore());
  first.store.hold();
  first.connect("d", { will });
  await first.rest();
  first.store.answer();
  await breathe();
  const world = await killed(first);
  world.connect("d");
  world.settle();
  assertEquals(wills_of(world), 1);
  await world.sessions.close();
});
