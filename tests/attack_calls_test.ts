/**
 * Every call of the route table, tried by somebody without a token, with a wrong one, and with one
 * that allows nothing: a route that is added without a guard fails here.
 */
import { assert, assertEquals } from "@std/assert";
import { routes } from "../routes/mod.ts";
import { bad_tokens } from "./cases/bad_tokens.ts";
import { type Fields, JsonSocket } from "./support/json_socket.ts";
import { KeyedService } from "./support/keyed_service.ts";
import { all_claims, key_pair, secret_key } from "./support/tokens.ts";

/** What anybody may ask. Devices show their token within the stream of these two sockets. */
const public_paths = new Set([
  "/",
  "/docs/{file}",
  "/console",
  "/console/{file}",
  "/openapi.json",
  "/healthz",
  "/readyz",
  "/mqtt",
  "/v1/longwire",
]);

/** Where a call needs more than its path to come as far as what may be refused. */
const queries: Readonly<Record<string, string>> = {
  "/v1/events": "?topic=a",
  "/v1/presence": "?topic=a",
};

function path_of(route: { readonly path: string }): string {
  return route.path.replace(/\{\w+\}/, "a") + (queries[route.path] ?? "");
}

Deno.test("calls that are not public refuse wrong tokens and such as allow nothing", async () => {
  const keys = [secret_key("hs"), await key_pair("es", "ES256"), await key_pair("rs", "RS256")];
  await using keyed = await KeyedService.start(["--issuer", "i", "--audience", "a"], keys);
  const own = { iss: "i", aud: "a" };
  // Each of them is tried with every protocol in attack_test.ts.
  const every = await bad_tokens(keys[0], keys[1], keys[2]);
  const wrong = every.filter(([_, token], index) => token !== "" && index % 4 === 0);
  const nothing = await keyed.token({ ...own, publish: [], subscribe: [] });
  const guarded = routes.filter(({ path }) => !public_paths.has(path));
  assert(guarded.length > 12, "there are such calls");
  for (const { permission, path } of routes) {
    assertEquals(permission === "public", public_paths.has(path), `${path} is public`);
  }
  for (const route of guarded) {
    const { method } = route;
    const ask = async (token: string) => {
      const body = method === "POST" ? "[]" : null;
      const response = await keyed.fetch(token, path_of(route), { method, body });
      const text = await response.text();
      return { status: response.status, text };
    };
    for (const [what, token] of wrong) {
      const { status, text } = await ask(token);
      assertEquals(status, 401, `${method} ${route.path} with a token that is ${what}: ${text}`);
    }
    const none = await fetch(`${keyed.service.http}${path_of(route)}`, { method });
    assertEquals(none.status, 401, `${method} ${route.path} without a token`);
    assert(none.headers.get("www-authenticate")?.startsWith("Bearer"));
    await none.body?.cancel();
    // An empty batch, and a socket that has asked for nothing yet, are nobody's topics.
    if (route.path === "/v1/publish" || route.path === "/v1/ws") continue;
    const { status, text } = await ask(nothing);
    assertEquals(status, 403, `${method} ${route.path} with a token for nothing: ${text}`);
  }
});

Deno.test("a WebSocket and a push keep to the token's lists", async () => {
  await using keyed = await KeyedService.start();
  const token = await keyed.token({ publish: ["mine/#"], subscribe: ["mine/#"] });
  const all = await keyed.token({ ...all_claims, subscribe: ["#", "$devices/#"] });
  await using owner = await JsonSocket.open(keyed.service, all);
  const heard = await owner.ask({ type: "subscribe", id: 1, topics: ["#", "$devices/#"] });
  assertEquals(heard.type, "subscribed");
  await using socket = await JsonSocket.open(keyed.service, token);
  const forbidden: Fields[] = [
    ...["a", "mine2/x", "$SYS/x", "$presence/x", "$devices/d", "\u0430"].map((topic) => {
      return { type: "publish", topic, payload: "x" };
    }),
    ...["#", "+/#", "a", "$SYS/#", "$presence/#", "$devices/+"].map((topic) => {
      return { type: "subscribe", id: 7, topics: [topic] };
    }),
    { type: "subscribe", id: 7, topics: ["mine/x", "a"] },
    { type: "history", topic: "a" },
    { type: "presence", topic: "mine/x" },
  ];
  for (const request of forbidden) {
    const { type, code } = await socket.ask(request);
    assertEquals([type, code], ["error", "forbidden"], JSON.stringify(request));
  }
  const strange: Fields[] = [
    { type: "publish", topic: "$\u0001acme/a", payload: "x" },
    { type: "subscribe", id: 7, topics: ["$share/g/#"] },
    { type: "subscribe", id: 7, topics: ["$\u0001acme/#"] },
    { type: "history", topic: "$\u0001acme/a" },
  ];
  for (const request of strange) assertEquals((await socket.ask(request)).type, "error");
  for (const id of ["d", "%24%01acme%2Fd", "%2B", "%23"]) {
    const path = `/v1/devices/${id}/messages`;
    const response = await keyed.fetch(token, path, { method: "POST", body: "x" });
    assert([400, 403].includes(response.status), `${id}: ${response.status}`);
    await response.body?.cancel();
  }
  assertEquals((await socket.ask({ type: "ping" })).type, "pong");
  // What the owner hears first is what he says himself: nothing got through before.
  await owner.ask({ type: "ping" });
  const said = await keyed.fetch(all, "/v1/topics/mine/end", { method: "POST", body: "end" });
  await said.body?.cancel();
  assertEquals((await owner.next())?.topic, "mine/end");
  const refused = await keyed.metric('longwire_http_refusals_total{code="forbidden"}');
  assert(refused >= forbidden.length, `${refused} are counted`);
});
