/**
 * Webhooks at a real receiver: form, signature, order, what is tried again and how, what becomes a
 * dead letter, and that nothing of it costs those who publish.
 */
import { assert, assertEquals } from "@std/assert";
import { make_certificate } from "../support/certificates.ts";
import { test_with } from "../support/process.ts";
import { eventually, Service } from "../support/service.ts";
import { Receiver } from "../support/webhook_receiver.ts";
import {
  data_of,
  dead_letters,
  hook,
  next_events,
  orders,
  webhooks_file,
} from "../support/webhooks_file.ts";

Deno.test("a message is a signed CloudEvent, in each form that it can have", async () => {
  await using receiver = new Receiver();
  await using file = await webhooks_file({
    hooks: {
      whole: hook(receiver),
      parts: hook(receiver, { ...orders, mode: "binary", headers: { authorization: "Bearer b" } }),
    },
  });
  await using service = await Service.start({ args: file.args });
  const url = `${service.http}/v1/topics/orders/%C3%A4/1?key=k`;
  const json = '{"big": 12345678901234567890}';
  const headers = { "content-type": "application/json" };
  const answer = await fetch(url, { method: "POST", body: json, headers });
  const { id, offset, audience } = await answer.json();
  assertEquals(audience, 0, "a hook is no device");
  const requests = [(await receiver.requests.next())!, (await receiver.requests.next())!];
  for (const { events: [event], headers } of requests) {
    assertEquals(headers.get("webhook-id"), id);
    assertEquals(event.id, id);
    assertEquals(event.source, "/longwire/default");
    assertEquals(event.type, "longwire.message.published");
    assertEquals(event.subject, "orders/ä/1");
    assertEquals(event.partitionkey, "k");
    assertEquals(event.sequence, String(offset));
    assert(Math.abs(Date.parse(event.time!) - Date.now()) < 60_000);
  }
  const modes = requests.map(({ headers }) => headers.get("content-type"));
  assertEquals(modes.toSorted(), [
    "application/cloudevents+json; charset=utf-8",
    "application/json",
  ]);
  const whole = requests.find(({ headers }) => !headers.has("ce-id"))!;
  assert(whole.body.includes(`"data":${json}`), "digits of numbers stay");
  const parts = requests.find(({ headers }) => headers.has("ce-id"))!;
  assertEquals(parts.body, json);
  assertEquals(parts.headers.get("authorization"), "Bearer b");
  await service.publish("orders/text", "plain");
  await service.publish("orders/bytes", new Uint8Array([0xff, 0x00]));
  await service.publish("orders/qos0", "not in the log", "qos=0");
  await service.publish("elsewhere", "not meant");
  await service.publish("orders/empty", "");
  const seen = new Map((await next_events(receiver, 8)).map((event) => [event.subject, event]));
  assertEquals([...seen.keys()].toSorted(), [
    "orders/bytes",
    "orders/empty",
    "orders/text",
    "orders/ä/1",
  ]);
  assertEquals(seen.get("orders/text")?.data, "plain");
  assertEquals(receiver.problems, []);
});

Deno.test("events come in order, one at a time for a topic, many at once for many", async () => {
  await using receiver = new Receiver();
  receiver.respond = async ({ events }) => {
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 10));
    // The first attempt of every seventh fails.
    const [{ id, data }] = events;
    const before = receiver.requests.seen.filter(({ events }) => events[0].id === id).length;
    return before === 1 && Number(data) % 7 === 0 ? new Response("no", { status: 500 }) : undefined;
  };
  await using file = await webhooks_file({ hooks: { o: hook(receiver) } });
  await using service = await Service.start({ args: file.args });
  const count = 20;
  const topics = ["orders/a", "orders/b", "orders/c", "orders/d", "orders/e"];
  for (let number = 1; number <= count; number++) {
    await Promise.all(topics.map((topic) => service.publish(topic, String(number))));
  }
  const events = await next_events(receiver, count * topics.length);
  for (const topic of topics) {
    const own = events.filter(({ subject }) => subject === topic);
    assertEquals(data_of(own), Array.from({ length: count }, (_, index) => String(index + 1)));
  }
  assert(receiver.busy_max > 1 && receiver.busy_max <= 4, `${receiver.busy_max} at once`);
  assertEquals(await service.metric('longwire_webhook_delivered_total{hook="o"}'), 100);
  assert(
    await service.metric('longwire_webhook_failures_total{hook="o",code="webhook_refused"}') > 0,
  );
});

Deno.test("a batch carries many events, and what cannot be taken goes alone", async () => {
  await using receiver = new Receiver();
  receiver.respond = ({ events }) => {
    const is_poisoned = events.some(({ data }) => data === "poison");
    return is_poisoned ? new Response(null, { status: 422 }) : undefined;
  };
  const batch = { ...orders, batch: 50, concurrency: 1, attempts: 2 };
  await using file = await webhooks_file({ hooks: { o: hook(receiver, batch) } });
  await using service = await Service.start({ args: file.args });
  const items = Array.from({ length: 40 }, (_, index) => ({
    topic: `orders/${index}`,
    payload: index === 20 ? "poison" : `n${index}`,
  }));
  const headers = { "content-type": "application/json" };
  await fetch(`${service.http}/v1/publish`, {
    method: "POST",
    headers,
    body: JSON.stringify(items),
  }).then((response) => response.body?.cancel());
  const events = await next_events(receiver, 39);
  const expected = items.map(({ payload }) => payload).filter((text) => text !== "poison");
  assertEquals(data_of(events), expected);
  const most = Math.max(...receiver.requests.seen.map(({ events }) => events.length));
  assert(most > 1, "some came together");
  const letters = await dead_letters(service, "o");
  assertEquals(letters.map(({ event, code, attempts }) => [event.data, code, attempts]), [
    ["poison", "webhook_refused", 2],
  ]);
});

Deno.test("Retry-After is waited for, redirects are not followed, 410 ends a hook", async () => {
  await using receiver = new Receiver();
  const answers = [
    new Response(null, { status: 429, headers: { "retry-after": "1" } }),
    new Response(null, { status: 302, headers: { location: "/elsewhere" } }),
    undefined,
    new Response(null, { status: 410 }),
  ];
  receiver.respond = () => answers.shift();
  await using file = await webhooks_file({ hooks: { o: hook(receiver) } });
  await using service = await Service.start({ args: file.args });
  await service.publish("orders/1", "one");
  const [first] = await next_events(receiver, 1);
  assertEquals(first.data, "one");
  const [limited, moved, taken] = receiver.requests.seen;
  assert(moved.at_ms - limited.at_ms >= 990, `${moved.at_ms - limited.at_ms} ms`);
  assertEquals([moved.path, taken.path], ["/hook", "/hook"]);
  assertEquals(new Set([limited, moved, taken].map(({ events: [{ id }] }) => id)).size, 1);
  await service.publish("orders/1", "two");
  await eventually("the hook is gone", async () => {
    return await service.metric('longwire_webhook_failures_total{hook="o",code="webhook_gone"}') >
      0;
  });
  // The file says that it is there again.
  await file.write({ hooks: { o: hook(receiver, { ...orders, concurrency: 2 }) } });
  assertEquals(data_of(await next_events(receiver, 1)), ["two"]);
});

test_with(["openssl"], "an endpoint over TLS is known by its certificate", async () => {
  const directory = await Deno.makeTempDir();
  const authority = await make_certificate(directory, "ca");
  const names = "DNS:localhost";
  const files = await make_certificate(directory, "localhost", { issuer: authority, names });
  const [cert, key] = await Promise.all(
    [files.cert, files.key].map((path) => Deno.readTextFile(path)),
  );
  await using receiver = new Receiver({ cert, key });
  await using file = await webhooks_file({ hooks: { o: hook(receiver) } });
  const failures = 'longwire_webhook_failures_total{hook="o",code="webhook_unreachable"}';
  {
    await using stranger = await Service.start({ args: file.args });
    await stranger.publish("orders/1", "not for whoever answers");
    await eventually("it fails", async () => await stranger.metric(failures) > 0);
    assertEquals(receiver.requests.seen, []);
  }
  const env = { NODE_EXTRA_CA_CERTS: authority.cert };
  await using service = await Service.start({ args: file.args, env });
  await service.publish("orders/1", "one");
  await service.publish("orders/1", "two");
  assertEquals(data_of(await next_events(receiver, 2)), ["one", "two"]);
  await Deno.remove(directory, { recursive: true });
});

Deno.test("an endpoint that is slow, or takes nothing, costs publishers nothing", async () => {
  await using receiver = new Receiver();
  const open = Promise.withResolvers<undefined>();
  receiver.respond = () => open.promise;
  const slow = { ...orders, timeout: "60s" };
  const silent = { ...orders, url: "http://127.0.0.1:1/" };
  await using file = await webhooks_file({
    hooks: { slow: hook(receiver, slow), silent: hook(receiver, silent) },
  });
  await using service = await Service.start({ args: file.args });
  const payload = "x".repeat(20_000);
  const items = Array.from({ length: 100 }, (_, index) => ({ topic: `orders/${index}`, payload }));
  const body = JSON.stringify(items);
  const headers = { "content-type": "application/json" };
  // 20 MB: many times the window of a hook.
  for (let round = 0; round < 10; round++) {
    const response = await fetch(`${service.http}/v1/publish`, { method: "POST", headers, body });
    await response.body?.cancel();
    assertEquals(response.status, 200);
  }
  assertEquals(receiver.busy, 4);
  assertEquals(await service.metric('longwire_webhook_circuit_open{hook="slow"}'), 0);
  await eventually("the dead endpoint is left alone", async () => {
    return await service.metric('longwire_webhook_circuit_open{hook="silent"}') === 1;
  });
  assertEquals(await service.metric('longwire_webhook_behind{hook="slow"}'), 1000);
  const queued = await service.metric('longwire_webhook_queued{hook="slow"}');
  assert(queued > 0 && queued < 600, `${queued} in memory: 4 MB and a page`);
  open.resolve(undefined);
  await next_events(receiver, 1000);
});
