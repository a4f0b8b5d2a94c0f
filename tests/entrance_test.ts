/**
 * The way in, from the outside: PROXY headers, limits, and how those are told who are not let in.
 * Real sockets against the real service; every header and truncation of it is in
 * tests/native/entrance.c.
 */
import { assert, assertEquals } from "@std/assert";
import type { Address } from "../core/address.ts";
import { type CodeName, codes } from "../core/codes.ts";
import { Decoder, encode, type Version } from "../core/protocol/mqtt.ts";
import { proxy_header } from "../core/protocol/proxy_header.ts";
import { concat } from "./cases/bytes.ts";
import { mosquitto_programs, mosquitto_pub } from "./support/mosquitto.ts";
import { connect_packet, MqttClient } from "./support/mqtt_client.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { test_with } from "./support/process.ts";
import { of_type, RawLongwire } from "./support/raw.ts";
import { eventually, Service } from "./support/service.ts";
import { TlsSite } from "./support/tls_site.ts";
import { within } from "./support/wait.ts";

const nowhere = "192.0.2.1"; // RFC 5737: no test connects from there

function closed_for(service: Service, code: CodeName): Promise<number> {
  return service.metric(`longwire_connections_closed_total{code="${code}"}`);
}

/** The header of version 1 (proxy-protocol.txt section 2.1). */
function proxy_line(source: string): Uint8Array {
  const family = source.includes(":") ? "TCP6" : "TCP4";
  const here = source.includes(":") ? "::1" : "127.0.0.1";
  return new TextEncoder().encode(`PROXY ${family} ${source} ${here} 40000 1883\r\n`);
}

/** Reads to the end, which must be an orderly one: a reset throws. */
async function last_words(conn: Deno.Conn): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (;;) {
    const room = new Uint8Array(4096);
    const size = await within(conn.read(room), "the end of the connection");
    if (size === null) return concat(...chunks);
    chunks.push(room.subarray(0, size));
  }
}

function open({ host: hostname, port }: Address): Promise<Deno.TcpConn> {
  return Deno.connect({ hostname, port });
}

/** Connects with MQTT 5 behind a header; answers the client and the reason code. */
async function connect_behind(
  address: Address,
  header: Uint8Array,
): Promise<{ client: MqttClient; reason_code: number }> {
  const client = await MqttClient.open(address);
  await client.send(concat(header, encode(connect_packet(), 5)));
  return { client, reason_code: (await client.expect("connack")).reason_code };
}

const headers = [
  { version: 1, header: proxy_line },
  { version: 2, header: (source: string) => proxy_header(source, 40_000) },
] as const;

for (const { version, header } of headers) {
  Deno.test(`PROXY version ${version}: a device is where its load balancer says`, async () => {
    await using service = await Service.start({
      args: ["--proxy_protocol", "127.0.0.1", "--connections_per_source", "1"],
    });
    const { client: first } = await connect_behind(service.mqtt, header("198.51.100.7"));
    const again = await connect_behind(service.mqtt, header("198.51.100.7"));
    assertEquals(again.reason_code, codes.source_limit.mqtt);
    const other = await connect_behind(service.mqtt, header("198.51.100.8"));
    assertEquals(other.reason_code, 0);
    const six = await connect_behind(service.mqtt, header("2001:db8:1:2::1"));
    assertEquals(six.reason_code, 0);
    const same_network = await connect_behind(service.mqtt, header("2001:db8:1:2:3::1"));
    assertEquals(same_network.reason_code, codes.source_limit.mqtt); // one customer has a /64
    assertEquals(await closed_for(service, "source_limit"), 2);
    await first.close(); // its place is free
    await eventually("the place is free", async () => {
      const { client, reason_code } = await connect_behind(service.mqtt, header("198.51.100.7"));
      await client.close();
      return reason_code === 0;
    });
    const longwire = await RawLongwire.open(service.device);
    await longwire.send(header("198.51.100.8"));
    const refuse = of_type(await longwire.next(), "refuse");
    assertEquals(refuse.code, codes.source_limit.number);
    assert(refuse.retry_after_ms > 0);
    for (const { client } of [again, other, six, same_network]) await client.close();
    await longwire[Symbol.asyncDispose]();
  });
}

Deno.test("a PROXY header may come byte by byte, and may say that it knows nothing", async () => {
  await using service = await Service.start({ args: ["--proxy_protocol", "127.0.0.1"] });
  const unknown = new TextEncoder().encode("PROXY UNKNOWN\r\n");
  for (const header of [proxy_line("198.51.100.7"), unknown, proxy_header("unknown", 0)]) {
    const client = await MqttClient.open(service.mqtt);
    for (const byte of header) await client.send(Uint8Array.of(byte));
    await client.say(connect_packet());
    assertEquals((await client.expect("connack")).reason_code, 0);
    await client.disconnect();
  }
});

Deno.test("a load balancer that forgets its header is told so", async () => {
  await using service = await Service.start({ args: ["--proxy_protocol", "127.0.0.0/8"] });
  for (const words of ["GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 nonsense\r\n"]) {
    const conn = await open(service.mqtt);
    await conn.write(new TextEncoder().encode(words));
    assertEquals(await last_words(conn), Uint8Array.of(0x20, 2, 0, 3));
    conn.close();
  }
  assertEquals(await closed_for(service, "proxy_malformed"), 2);
});

for (const { version, header } of headers) {
  Deno.test(`PROXY version ${version}: of strangers it is refused`, async () => {
    await using service = await Service.start({ args: ["--proxy_protocol", nowhere] });
    const forged = await open(service.mqtt);
    await forged.write(concat(header("198.51.100.7"), encode(connect_packet(), 5)));
    assertEquals(await last_words(forged), Uint8Array.of(0x20, 2, 0, 3));
    forged.close();
    assertEquals(await closed_for(service, "proxy_forbidden"), 1);
    const { client, connack } = await MqttClient.connect(service.mqtt);
    assertEquals(connack.reason_code, 0); // who sends none is a device like any other
    await client.close();
  });
}

Deno.test("without the setting a PROXY header is no MQTT", async () => {
  await using service = await Service.start();
  const conn = await open(service.mqtt);
  await conn.write(proxy_line("198.51.100.7"));
  assertEquals(await last_words(conn), new Uint8Array());
  conn.close();
  assertEquals(await closed_for(service, "foreign_protocol"), 1);
});

test_with(["openssl"], "a PROXY header comes before TLS", async () => {
  await using site = await TlsSite.make();
  const args = ["--proxy_protocol", "127.0.0.1", "--connections_per_source", "1"];
  await using service = await site.start(args);
  const connect = async (source: string) => {
    const conn = await open(service.mqtts);
    await conn.write(proxy_header(source, 40_000));
    const options = { hostname: "127.0.0.1", caCerts: [site.ca_pem] };
    const tls = await Deno.startTls(conn, options);
    await tls.write(encode(connect_packet(), 5));
    const room = new Uint8Array(256);
    await within(tls.read(room), "CONNACK");
    assertEquals([room[0], room[3]], [0x20, 0]);
    return tls;
  };
  using _first = await connect("198.51.100.7");
  using _other = await connect("198.51.100.8");
  const refused = await open(service.mqtts);
  await refused.write(proxy_header("198.51.100.7", 40_000));
  assertEquals((await last_words(refused))[0], 21); // an alert
  refused.close();
  assertEquals(await closed_for(service, "source_limit"), 1);
});

/** What a connection over a limit gets from MQTT, as bytes of CONNACK. */
function refusal(version: Version, code: CodeName): Uint8Array {
  const { mqtt, connack } = codes[code];
  return version === 5
    ? Uint8Array.of(0x20, 3, 0, mqtt, 0) // MQTT 5 section 3.2.2.2
    : Uint8Array.of(0x20, 2, 0, connack);
}

Deno.test("over the connection limit each is told so in its own words", async () => {
  await using service = await Service.start({ args: ["--max_connections", "1"] });
  const { client: there } = await MqttClient.connect(service.mqtt, { client_id: "there" });
  let refused = 0;
  for (const version of [4, 5] as const) {
    for (const pieces of [1, 3, 1000]) { // CONNECT comes whole, in pieces, byte by byte
      const conn = await open(service.mqtt);
      const connect = encode(connect_packet({ version }), version);
      const step = Math.ceil(connect.length / pieces);
      for (let at = 0; at < connect.length; at += step) {
        // What follows the version may find the connection closed already.
        await conn.write(connect.subarray(at, at + step)).catch(() => {});
      }
      assertEquals(await last_words(conn), refusal(version, "connection_limit"));
      conn.close();
      refused++;
    }
  }
  const longwire = await RawLongwire.open(service.device);
  const refuse = of_type(await longwire.next(), "refuse");
  assertEquals(refuse.code, codes.connection_limit.number);
  assert(refuse.retry_after_ms > 0);
  assertEquals(await longwire.closed(), []);
  await longwire[Symbol.asyncDispose]();
  const js = await MqttJs.connect(service.mqtt).catch((error) => error);
  assertEquals(js.code, codes.connection_limit.mqtt);
  const socket = { protocol: "ws", path: "/mqtt" } as const;
  const http = { host: "127.0.0.1", port: Number(new URL(service.http).port) };
  const ws = await MqttJs.connect(http, socket).catch((error) => error);
  assertEquals(ws.code, codes.connection_limit.mqtt);
  assertEquals(await closed_for(service, "connection_limit"), refused + 3);
  assertEquals(await service.metric("longwire_connections"), 1);
  await there.disconnect();
  const { client: next, connack } = await MqttClient.connect(service.mqtt);
  assertEquals(connack.reason_code, 0);
  await next.close();
});

test_with(mosquitto_programs, "mosquitto understands that the service is full", async () => {
  await using service = await Service.start({ args: ["--max_connections", "1"] });
  const { client: there } = await MqttClient.connect(service.mqtt);
  const message = ["-t", "t", "-m", "m"];
  assertEquals(await mosquitto_pub(service.mqtt, "-V", "mqttv311", ...message), 3);
  assertEquals(await mosquitto_pub(service.mqtt, "-V", "mqttv5", ...message), 0x97);
  await there.close();
});

Deno.test("a crowd over the limit is answered whole, even who says nothing", async () => {
  await using service = await Service.start({ args: ["--max_connections", "1"] });
  const { client: there } = await MqttClient.connect(service.mqtt);
  const count = 300; // more than are waited for at once
  const answers = await Promise.all(Array.from({ length: count }, async () => {
    const conn = await open(service.mqtt);
    const words = await last_words(conn);
    conn.close();
    return words;
  }));
  for (const words of answers) assertEquals(words, refusal(4, "connection_limit"));
  assertEquals(await closed_for(service, "connection_limit"), count);
  await there.expect_nothing();
  await there.close();
});

/** Connects again and again; counts the answers by reason code. */
async function knock(
  address: Address,
  times: number,
  header: Uint8Array = new Uint8Array(),
): Promise<Map<number, number>> {
  const counts = new Map<number, number>();
  for (let n = 0; n < times; n++) {
    const { client, reason_code } = await connect_behind(address, header);
    counts.set(reason_code, (counts.get(reason_code) ?? 0) + 1);
    await client.close();
  }
  return counts;
}

Deno.test("so many connects a second are taken, of all together", async () => {
  await using service = await Service.start({ args: ["--connects_per_s", "10"] });
  const began_ms = performance.now();
  const counts = await knock(service.mqtt, 60);
  const passed_s = (performance.now() - began_ms) / 1000;
  const taken = counts.get(0) ?? 0;
  const refused = counts.get(codes.connect_rate.mqtt) ?? 0;
  assertEquals(taken + refused, 60);
  // A second's worth may come at once, then one each tenth of a second.
  assert(taken >= 10 && taken <= 10 + 10 * passed_s + 1, `${taken} in ${passed_s} s`);
  assertEquals(await closed_for(service, "connect_rate"), refused);
  await eventually("who comes later is taken", async () => {
    return (await knock(service.mqtt, 1)).has(0);
  });
});

Deno.test("so many connects a second are taken of one address; others do not suffer", async () => {
  const bounds = ["--connects_per_source_per_s", "5", "--proxy_protocol", "127.0.0.1"];
  await using service = await Service.start({ args: bounds });
  const noisy = await knock(service.mqtt, 40, proxy_header("198.51.100.7", 1));
  assert((noisy.get(codes.source_rate.mqtt) ?? 0) > 0, JSON.stringify([...noisy]));
  assert((noisy.get(0) ?? 0) >= 5);
  const quiet = await knock(service.mqtt, 5, proxy_header("198.51.100.8", 1));
  assertEquals([...quiet], [[0, 5]]);
  assertEquals(await closed_for(service, "source_rate"), noisy.get(codes.source_rate.mqtt));
});

Deno.test("the last frame arrives, whatever the device was sending", async () => {
  await using service = await Service.start();
  const conn = await open(service.mqtt);
  const forbidden = encode({ type: "pingresp" }, 5); // a client may not send it
  await conn.write(concat(encode(connect_packet(), 5), forbidden));
  // More than the buffers hold: a socket that is closed with it unread resets the connection, and
  // what the service said last is lost.
  const more = new Uint8Array(1 << 20);
  const write_all = async () => {
    for (let round = 0; round < 20; round++) {
      for (let at = 0; at < more.length;) at += await conn.write(more.subarray(at));
    }
  };
  const writing = write_all().catch(() => {}); // at some point nobody takes it any more
  const packets = new Decoder(5).feed(await last_words(conn));
  const said = [...packets].map((packet) => {
    return [packet.type, "reason_code" in packet ? packet.reason_code : 0];
  });
  assertEquals(said, [["connack", 0], ["disconnect", codes.protocol_error.mqtt]]);
  await writing;
  conn.close();
});
