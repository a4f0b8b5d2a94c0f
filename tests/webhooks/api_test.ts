/** Webhooks over HTTP: where each stands, dead letters once more, tenants that see their own. */
import { assertEquals, assertMatch } from "@std/assert";
import { KeyedService } from "../support/keyed_service.ts";
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

Deno.test("dead letters are sent again, as they were", async () => {
  await using receiver = new Receiver();
  let is_well = false;
  receiver.respond = () => is_well ? undefined : new Response(null, { status: 500 });
  const once = { ...orders, attempts: 1, mode: "binary" };
  await using file = await webhooks_file({ hooks: { shop: hook(receiver, once) } });
  await using service = await Service.start({ args: file.args });
  const { body: { id } } = await service.publish("orders/1", "one");
  await service.publish("orders/1", "two");
  await eventually("both are dead", async () => (await dead_letters(service, "shop")).length === 2);
  const status = async () => {
    const response = await fetch(`${service.http}/v1/webhooks`);
    return (await response.json()).webhooks[0];
  };
  await eventually("the hook has come to the end", async () => (await status()).behind === 0);
  const { name, circuit, dead_letters: count, delivered, problem } = await status();
  assertEquals({ name, circuit, count, delivered, problem }, {
    name: "shop",
    circuit: "closed",
    count: 2,
    delivered: 0,
    problem: "The endpoint answered 500",
  });
  is_well = true;
  const replay = (name: string) => {
    return fetch(`${service.http}/v1/webhooks/${name}/replay`, { method: "POST" });
  };
  const answer = await replay("shop");
  assertEquals([answer.status, await answer.json()], [202, { webhook: "shop", replaying: true }]);
  const events = await next_events(receiver, 2);
  assertEquals(data_of(events), ["one", "two"]);
  assertEquals([events[0].id, events[0].type], [id, "longwire.message.published"]);
  const unknown = await replay("nothing");
  assertEquals([unknown.status, (await unknown.json()).code], [404, "not_found"]);
});

Deno.test("a hook of a tenant is told of that tenant only, and seen by it only", async () => {
  await using acme = new Receiver();
  await using other = new Receiver();
  const all = { events: ["message", "connected", "disconnected"], filters: ["#"] };
  await using file = await webhooks_file({
    hooks: {
      acme: hook(acme, { ...all, tenant: "acme" }),
      other: hook(other, all),
    },
  });
  await using keyed = await KeyedService.start(file.args);
  const rights = { publish: ["#"], subscribe: ["#", "$events/#", "$dead/#"], admin: ["devices"] };
  const tokens = {
    acme: await keyed.token({ ...rights, tenant: "acme" }),
    default: await keyed.token(rights),
  };
  for (const [tenant, token] of Object.entries(tokens)) {
    const init = { method: "POST", body: `of ${tenant}` };
    await (await keyed.fetch(token, "/v1/topics/a", init)).body?.cancel();
    const { client } = await keyed.mqtt(token, { client_id: `d-${tenant}` });
    await client.disconnect();
  }
  for (const [receiver, tenant] of [[acme, "acme"], [other, "default"]] as const) {
    const events = await next_events(receiver, 3);
    assertEquals(events.map(({ subject }) => subject).toSorted(), [
      "a",
      `d-${tenant}`,
      `d-${tenant}`,
    ]);
    assertEquals(new Set(events.map(({ source }) => source)), new Set([`/longwire/${tenant}`]));
    const listed = await (await keyed.fetch(tokens[tenant], "/v1/webhooks")).json();
    assertEquals(listed.webhooks.map((one: { tenant: string }) => one.tenant), [tenant]);
  }
  const replay = "/v1/webhooks/other/replay";
  const foreign = await keyed.fetch(tokens.acme, replay, { method: "POST" });
  assertEquals([foreign.status, (await foreign.json()).code], [404, "not_found"]);
  const plain = await keyed.token({ publish: ["#"] });
  const refused = await keyed.fetch(plain, "/v1/webhooks");
  assertEquals([refused.status, (await refused.json()).code], [403, "forbidden"]);
  // Nobody makes up events, or dead letters.
  for (const topic of ["$events/d/connected", "$dead/acme"]) {
    const init = { method: "POST", body: "{}" };
    const made_up = await keyed.fetch(
      await keyed.token({ publish: ["$events/#", "$dead/#"] }),
      `/v1/topics/${encodeURIComponent(topic)}`,
      init,
    );
    assertMatch((await made_up.json()).detail, /are the server's own/);
  }
});
