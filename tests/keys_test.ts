/** Key sets: what is taken, what is refused, and what becomes of them when they change. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { codes, Refusal } from "../core/codes.ts";
import { fetch_keys, KeyRing, KeysError, type KeySource, parse_keys } from "../core/keys.ts";
import { limits } from "../core/limits.ts";
import { Log } from "../core/log.ts";
import { key_pair, key_set, secret_key, spki_pem } from "./support/tokens.ts";

const log = new Log({ level: "error", format: "json", write: () => {}, now_ms: Date.now });

Deno.test("a key is for one algorithm, whatever the token says", async () => {
  const pairs = [await key_pair("e", "ES256"), await key_pair("r", "RS256")];
  const keys = await parse_keys(key_set(secret_key("h"), ...pairs));
  assertEquals(keys.map(({ kid, algorithm }) => [kid, algorithm]), [
    ["h", "HS256"],
    ["e", "ES256"],
    ["r", "RS256"],
  ]);
  const private_parts = keys.filter(({ key }) => "type" in key && key.type === "private");
  assertEquals(private_parts, [], "only what checks is kept");
  const [pem] = await parse_keys(await spki_pem(await key_pair("x", "EdDSA")));
  assertEquals([pem.kid, pem.algorithm], ["", "EdDSA"]);
});

Deno.test("keys that are weak, strange or for something else are refused", async () => {
  const { jwk } = secret_key("h");
  const bad = [
    "",
    "{}",
    "[]",
    '{"keys": []}',
    '{"keys": [1]}',
    '{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}',
    JSON.stringify({ ...jwk, alg: "RS256" }),
    JSON.stringify({ ...jwk, alg: "HS512" }),
    JSON.stringify({ ...jwk, use: "enc" }),
    '{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}',
    "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----",
    " ".repeat(limits.keys_bytes_max + 1),
  ];
  for (const text of bad) {
    const error = await assertRejects(() => parse_keys(text), Error, undefined, text);
    assert(!error.message.includes(String(jwk.k)), "no key in the sentence");
  }
  await assertRejects(() => parse_keys('{"kty":"none"}'), KeysError);
});

Deno.test("an unknown key has the set read again; the last good one is kept", async () => {
  const [one, two] = [secret_key("one"), secret_key("two")];
  let text = key_set(one);
  let reads = 0;
  const source: KeySource = {
    name: "test",
    refresh_ms: 3_600_000,
    read: () => {
      reads++;
      return text === "" ? Promise.reject(new Error("down")) : Promise.resolve(text);
    },
  };
  const ring = new KeyRing([source], log);
  await ring.load();
  const kids = async (kid: string) => (await ring.candidates(kid, "HS256")).map(({ kid }) => kid);
  try {
    assertEquals(await kids("one"), ["one"]);
    text = key_set(one, two);
    // It was read a moment ago: many tokens that name a strange key cause no read more.
    assertEquals(
      await Promise.all(Array.from({ length: 50 }, () => kids("two"))),
      Array.from({ length: 50 }, () => []),
    );
    assertEquals(reads, 1);
  } finally {
    ring.stop();
  }
  const impatient = new KeyRing([source], log, 0);
  text = key_set(one);
  await impatient.load();
  try {
    text = key_set(one, two);
    const version = impatient.version;
    const found = await Promise.all(
      Array.from({ length: 50 }, () => impatient.candidates("two", "HS256")),
    );
    assertEquals(found.map((keys) => keys.length), Array.from({ length: 50 }, () => 1));
    assertEquals(reads, 3, "fifty askers share one read");
    assert(impatient.version > version);
    text = "";
    assertEquals(await impatient.candidates("three", "HS256"), []);
    text = "{";
    assertEquals(await impatient.candidates("three", "HS256"), []);
    assertEquals(impatient.failures, 2);
    assertEquals((await impatient.candidates("two", "HS256")).length, 1);
    assertEquals(await impatient.candidates("two", "RS256"), []);
  } finally {
    impatient.stop();
  }
});

Deno.test("where no key could be had the answer says so", async () => {
  const source = { name: "x", refresh_ms: 1e6, read: () => Promise.reject(new Error("down")) };
  const ring = new KeyRing([source], log, 0);
  const refusal = await assertRejects(() => ring.candidates("a", "HS256"), Refusal);
  assertEquals(refusal.code, codes.keys_unavailable);
});

Deno.test("a JWKS URL is asked within bounds", async () => {
  const set = key_set(secret_key("k"));
  const here = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
  await using server = Deno.serve(here, (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/keys") return new Response(set);
    if (pathname === "/moved") return Response.redirect("http://127.0.0.1/keys");
    if (pathname === "/large") return new Response(" ".repeat(limits.keys_bytes_max + 1));
    return new Response("no", { status: 503 });
  });
  const base = `http://127.0.0.1:${server.addr.port}`;
  assertEquals(await fetch_keys(`${base}/keys`), set);
  for (const path of ["/moved", "/large", "/down"]) {
    await assertRejects(() => fetch_keys(base + path), Error);
  }
});
