/**
 * A tenant that publishes more than the disk takes is refused, and no other is: at the router with
 * a disk that stands still, and as random traffic of several.
 */
import { assert, assertEquals } from "@std/assert";
import { type Code, codes } from "../core/codes.ts";
import { FairShare } from "../core/fair_share.ts";
import type { Message } from "../core/message.ts";
import { Namespace } from "../core/namespace.ts";
import { Router } from "../core/router.ts";
import { MemoryStore } from "../core/store/memory.ts";
import { Tenants } from "../core/tenant.ts";
import { random_of, seed_for } from "./cases/random.ts";
import { FakeReactor } from "./fake_reactor.ts";
import { eventually } from "./support/service.ts";

const unlimited = { connections: 0, subscriptions: 0, publishes_per_s: 0, bytes_per_s: 0 };

function tenants_of(...names: readonly string[]): Tenants {
  const tenants = new Tenants(unlimited, {}, Date.now);
  for (const name of names) tenants.get(name);
  return tenants;
}

function message_of(tenant: string, bytes: number): Message {
  const topic = new Namespace(tenant).topic("t");
  const payload = new Uint8Array(bytes);
  return { topic, payload, qos: 1, retain: false, time_ms: 1, expires_ms: 0, key: "" };
}

/** A store that stands still until it is let go. */
class StandingDisk extends MemoryStore {
  readonly #gate = Promise.withResolvers<void>();

  go(): void {
    this.#gate.resolve();
  }

  // deno-lint-ignore no-explicit-any
  override append(messages: readonly Message[]): any {
    return this.#gate.promise.then(() => super.append(messages));
  }
}

Deno.test("a disk that stands still is shared, and everything goes on when it does", async () => {
  const disk = new StandingDisk();
  const router = new Router(new FakeReactor(), disk, Date.now);
  const tenants = tenants_of("busy", "modest");
  const fair = router.fair = new FairShare(tenants, 1 << 20);
  const stored: Record<string, number> = { busy: 0, modest: 0 };
  const refused: Record<string, Code[]> = { busy: [], modest: [] };
  const origins = ["busy", "modest"].map((name) => ({
    appends_pending: 0,
    published: () => void stored[name]++,
    refused: (_token: number, code: Code) => void refused[name].push(code),
  }));
  const publish = (index: number, name: string) => {
    router.publish(message_of(name, 10_000), origins[index], 0, null);
    router.end_turn();
  };
  for (let count = 0; count < 100; count++) publish(0, "busy");
  for (let count = 0; count < 20; count++) publish(1, "modest");
  assertEquals(refused.modest, [], "it has less than its share");
  disk.go();
  const answered = () => stored.busy + refused.busy.length;
  await eventually(
    "all answers",
    () => Promise.resolve(answered() === 100 && stored.modest === 20),
  );
  assert(refused.busy.length > 0 && stored.busy > 40, `${stored.busy} of the busy one are stored`);
  assert(refused.busy.every((code) => code === codes.quota_exceeded));
  assertEquals(tenants.get("busy").usage.over_quota, refused.busy.length);
  assertEquals(fair.total, 0);
  const before = refused.busy.length;
  publish(0, "busy");
  await eventually("one more", () => Promise.resolve(answered() === 101));
  assertEquals(refused.busy.length, before);
});

Deno.test("one tenant alone has the whole room", () => {
  const fair = new FairShare(tenants_of("only"), 100_000);
  const message = message_of("only", 10_000);
  for (let count = 0; count < 20; count++) {
    assertEquals(fair.refusal_of(message), null);
    fair.add(message);
  }
});

Deno.test("who has nothing waiting is never refused, and finds room", () => {
  const random = random_of(seed_for("fair share"));
  const names = ["a", "b", "c", "d"];
  for (let round = 0; round < 200; round++) {
    const bytes_max = 1_000_000;
    const fair = new FairShare(tenants_of(...names), bytes_max);
    const waiting = new Map<string, Message[]>(names.map((name) => [name, []]));
    for (let step = 0; step < 500; step++) {
      const name = names[Math.floor(random() ** 2 * names.length)];
      const queue = waiting.get(name)!;
      if (random() < 0.4 && queue.length > 0) {
        fair.remove(queue.shift()!);
        continue;
      }
      const message = message_of(name, Math.floor(random() * 20_000));
      const refusal = fair.refusal_of(message);
      if (queue.length === 0) assertEquals(refusal, null);
      if (refusal !== null) continue;
      fair.add(message);
      queue.push(message);
    }
    assert(fair.total < bytes_max, `${fair.total} bytes of ${bytes_max} wait`);
    for (const queue of waiting.values()) for (const message of queue) fair.remove(message);
    assertEquals(fair.total, 0);
  }
});
