/** The routes over TLS: the same answers, certificates that change, and nobody is cut off. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { codes } from "../core/codes.ts";
import { make_certificate } from "./support/certificates.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { test_with } from "./support/process.ts";
import { eventually, failing_start } from "./support/service.ts";
import { s_client, TlsSite } from "./support/tls_site.ts";
import type { TlsService } from "./support/tls_site.ts";
import { within } from "./support/wait.ts";

function address_of({ https }: TlsService) {
  return { host: "127.0.0.1", port: Number(new URL(https).port) };
}

/** MQTT over WebSocket over TLS. */
function wss(service: TlsService, site: TlsSite, clientId = "") {
  const options = { protocol: "wss", path: "/mqtt", ca: site.ca_pem, clientId } as const;
  return MqttJs.connect(address_of(service), options);
}

/** Text of a stream, as far as it goes. */
async function read_until(reader: ReadableStreamDefaultReader<Uint8Array>, text: string) {
  const decoder = new TextDecoder();
  let seen = "";
  while (!seen.includes(text)) {
    const { value, done } = await within(reader.read(), () => `${text} after ${seen}`);
    if (done) throw new Error(`ended after ${seen}`);
    seen += decoder.decode(value, { stream: true });
  }
}

test_with(["openssl"], "https: publish, history, metrics, problems", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  using client = Deno.createHttpClient({ caCerts: [site.ca_pem] });
  const body = new Uint8Array(700_000).fill(97);
  const url = `${service.https}/v1/topics/a/b`;
  const published = await fetch(url, { client, method: "POST", body });
  assertEquals([published.status, (await published.json()).offset], [200, 1]);
  const history = await (await fetch(`${url}/messages`, { client })).json();
  assertEquals(history.messages[0].payload.length, body.length);
  const metrics = await (await fetch(`${service.https}/metrics`, { client })).text();
  assert(metrics.includes('longwire_messages_published_total{qos="1"} 1'));
  const nothing = await fetch(`${service.https}/nothing`, { client });
  assertEquals([nothing.status, (await nothing.json()).code], [404, "not_found"]);
  const many = await Promise.all(Array.from({ length: 200 }, async (_, n) => {
    const answer = await fetch(`${url}/${n}`, { client, method: "POST", body: `${n}` });
    return (await answer.json()).offset;
  }));
  assertEquals(new Set(many).size, 200);
});

test_with(["openssl"], "https: a device over WebSocket has its own address", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start(["--connections_per_source", "1"]);
  await using first = await wss(service, site);
  assertEquals(await first.subscribe("t"), 0);
  const second = await wss(service, site).catch((error) => error);
  assertEquals(second.code, codes.source_limit.mqtt);
});

test_with(
  ["openssl"],
  "https: certificates that change are in use, names select them",
  async () => {
    await using site = await TlsSite.make();
    const { directory, ca, server } = site;
    const names = "DNS:second.test,DNS:*.wild.test";
    const second = await make_certificate(directory, "second", { issuer: ca, names });
    const certs = ["--tls_cert", `${server.cert},${second.cert}`];
    await using service = await site.start([...certs, "--tls_key", `${server.key},${second.key}`]);
    const shown = async (name: string) => {
      const answer = await s_client(address_of(service), "-CAfile", ca.cert, "-servername", name);
      return /subject=CN = (\S+)/.exec(answer)?.[1];
    };
    assertEquals(await shown("localhost"), "first");
    assertEquals(await shown("a.wild.test"), "second");
    assertEquals(await shown("unknown.test"), "first");
    await using device = await wss(service, site, "there");
    await device.subscribe("t", 1);
    using client = Deno.createHttpClient({ caCerts: [site.ca_pem] });
    const events = (await fetch(`${service.https}/v1/events?topic=t`, { client })).body!
      .getReader();
    const renewed_names = "DNS:localhost,IP:127.0.0.1";
    const issued = { issuer: ca, names: renewed_names };
    const renewed = await make_certificate(directory, "renewed", issued);
    await Deno.rename(renewed.key, server.key);
    await Deno.rename(renewed.cert, server.cert);
    await service.program.stderr.find(
      (line) => line.includes("certificates are in use since they changed"),
      "the new certificate in the log",
    );
    assertEquals(await shown("localhost"), "renewed");
    assertEquals(await shown("second.test"), "second");
    await using other = await wss(service, site, "new");
    await other.publish("t", "still there", 1);
    assertEquals((await device.messages.next())?.payload, "still there");
    await read_until(events, "still there");
    await events.cancel();
  },
);

test_with(["openssl"], "https: both ends hear of the end", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  const cut = await wss(service, site);
  await cut.cut();
  await eventually("it is gone", async () => await service.metric("longwire_connections") === 0);
  const there = await wss(service, site);
  await service.stop();
  await within(there.closed, "the goodbye of a service that stops");
});

test_with(["openssl"], "https: what cannot be used keeps the service from starting", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  const others = ["--mqtt", "off", "--device", "off", "--http", "off", "--data", "memory"];
  const taken = service.https.slice("https://".length);
  const said = await failing_start([...others, "--https", taken, ...site.settings]);
  assertEquals(said, `Cannot bind https ${taken}: address in use`);
  const pair = ["--tls_cert", site.server.cert, "--tls_key", site.ca.key];
  const mismatch = await failing_start([...others, "--https", "127.0.0.1:0", ...pair]);
  assertMatch(mismatch, /^Cannot use TLS: .*key.* \(.*first\.pem.*\)$/);
});
