/** JSON over WebSocket: each request and its answer, errors by name, resume across a restart. */
import { assert, assertEquals } from "@std/assert";
import { type Fields, JsonSocket } from "./support/json_socket.ts";
import { Service } from "./support/service.ts";

Deno.test("requests of a WebSocket are answered with their ids", async () => {
  await using service = await Service.start();
  await using socket = await JsonSocket.open(service);
  assertEquals(await socket.ask({ type: "ping", id: "a" }), { type: "pong", id: "a" });
  const subscribed = await socket.ask({ type: "subscribe", id: 1, topics: ["ws/#"] });
  assertEquals([subscribed.type, subscribed.id], ["subscribed", 1]);
  const message = { type: "publish", id: 2, topic: "ws/x", payload: { n: 1 } };
  // The message and the answer come in either order.
  const both = [await socket.ask(message), (await socket.next())!];
  const published = both.find(({ type }) => type === "published");
  const heard = both.find(({ type }) => type === "message");
  assertEquals([published?.id, published?.offset, published?.audience], [2, 1, 1]);
  assertEquals([heard?.subscription, heard?.topic, heard?.payload], [1, "ws/x", '{"n":1}']);
  const history = await socket.ask({ type: "history", id: 3, topic: "ws/x", limit: 10 });
  assertEquals((history.messages as Fields[]).map(({ offset }) => offset), [1]);
  assertEquals((await socket.ask({ type: "presence", id: 4, topic: "ws/x" })).type, "presence");
  assertEquals((await socket.ask({ type: "unsubscribe", id: 1 })).type, "unsubscribed");
  await service.publish("ws/x", "not heard");
  assertEquals((await socket.ask({ type: "ping" })).type, "pong");
});

Deno.test("bad requests of a WebSocket are refused by name, and it stays open", async () => {
  await using service = await Service.start();
  await using socket = await JsonSocket.open(service);
  const bad: [Fields, string][] = [
    [{ type: "dance" }, "json_invalid"],
    [{ type: "publish", topic: "a/#" }, "topic_invalid"],
    [{ type: "publish", topic: "a", qos: 3 }, "query_invalid"],
    [{ type: "publish", topic: "$SYS/x" }, "forbidden"],
    [{ type: "subscribe", topics: ["a/#/b"] }, "filter_invalid"],
    [{ type: "subscribe", topics: "a" }, "json_invalid"],
    [{ type: "subscribe", topics: [] }, "query_invalid"],
    [{ type: "subscribe", topics: ["a"], after: "x" }, "query_invalid"],
    [{ type: "unsubscribe", id: 9 }, "not_found"],
    [{ type: "history", topic: "+" }, "topic_invalid"],
    [{ type: "ping", id: {} }, "json_invalid"],
  ];
  for (const [request, code] of bad) {
    const answer = await socket.ask(request);
    assertEquals([answer.type, answer.code], ["error", code], JSON.stringify(request));
  }
  socket.socket.send("[");
  assertEquals((await socket.next())?.code, "json_invalid");
  assertEquals(await service.metric('longwire_http_refusals_total{code="not_found"}'), 1);
});

Deno.test("a WebSocket goes on where it was when the service comes back", async () => {
  const data = await Deno.makeTempDir();
  try {
    const first = await Service.start({ data });
    const before = await JsonSocket.open(first);
    await before.ask({ type: "subscribe", id: 1, topics: ["ws/#"] });
    await first.publish("ws/1", "before");
    const seen = (await before.next())!;
    assertEquals(seen.payload, "before");
    assertEquals(await first.stop(), 0);
    const goodbye = await before.next();
    assertEquals([goodbye?.type, goodbye?.code], ["goodbye", "shutting_down"]);
    assertEquals(await before.next(), undefined);
    await using second = await Service.start({ data });
    await second.publish("ws/2", "while it was away");
    await using after = await JsonSocket.open(second);
    await after.ask({ type: "subscribe", id: 1, topics: ["ws/#"], after: seen.id });
    assertEquals((await after.next())?.payload, "while it was away");
    await second.publish("ws/3", "after");
    assertEquals((await after.next())?.payload, "after");
  } finally {
    await Deno.remove(data, { recursive: true });
  }
});

Deno.test("a reader that is slow gets everything, in order", async () => {
  await using service = await Service.start();
  await using socket = await JsonSocket.open(service);
  await socket.ask({ type: "subscribe", id: 1, topics: ["bulk"] });
  const payload = "x".repeat(1000);
  const items = Array.from(
    { length: 5000 },
    (_, index) => ({ topic: "bulk", key: `${index}`, payload }),
  );
  const body = JSON.stringify(items);
  const response = await fetch(`${service.http}/v1/publish`, { method: "POST", body });
  await response.body?.cancel();
  for (let offset = 1; offset <= items.length; offset++) {
    const message = await socket.next();
    assert(message?.offset === offset, `${message?.offset} in place of ${offset}`);
  }
});
