/**
 * TLS from the outside: the real service, and clients that others wrote. What single records and
 * handshakes may do is tried in tests/native/tls.c.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { assertRejects, assertStringIncludes } from "@std/assert";
import { X509Certificate } from "node:crypto";
import type { Address } from "../core/address.ts";
import { limits } from "../core/limits.ts";
import { Decoder, encode } from "../core/protocol/longwire.ts";
import { encode as encode_mqtt } from "../core/protocol/mqtt.ts";
import { type CertificateFiles, make_certificate } from "./support/certificates.ts";
import { mosquitto_programs, mosquitto_pub, MosquittoSub } from "./support/mosquitto.ts";
import { connect_packet } from "./support/mqtt_client.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { test_with } from "./support/process.ts";
import { eventually, failing_start, Service } from "./support/service.ts";
import { s_client, TlsSite } from "./support/tls_site.ts";
import type { TlsService } from "./support/tls_site.ts";
import { within } from "./support/wait.ts";

const openssl = ["openssl"] as const;

test_with(
  [...openssl, ...mosquitto_programs],
  "mosquitto's clients talk over TLS 1.2 and 1.3",
  async () => {
    await using site = await TlsSite.make();
    await using service = await site.start();
    for (const version of ["tlsv1.2", "tlsv1.3"]) {
      const tls = ["--cafile", site.ca.cert, "--tls-version", version];
      const filter = [...tls, "-t", `${version}/#`, "-q", "1", "-V", "mqttv5"];
      await using sub = await MosquittoSub.start(service.mqtts, ...filter);
      const topic = `${version}/a`;
      const payload = "x".repeat(100_000);
      const args = [...tls, "-t", topic, "-m", payload, "-q", "2"];
      assertEquals(await mosquitto_pub(service.mqtts, ...args), 0);
      assertEquals((await sub.next()).payload, payload);
      assertEquals((await service.publish(topic, "over HTTP")).status, 200);
      assertEquals((await sub.next()).payload, "over HTTP");
    }
    assertEquals(await service.metric("longwire_tls_handshakes_total"), 4);
    // No connection of a common cipher suite costs what OpenSSL's own state would.
    assertEquals(await service.metric("longwire_tls_objects"), 0);
  },
);

test_with(openssl, "MQTT.js talks over TLS: every QoS, large messages, its goodbye", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  const options = { protocol: "mqtts", ca: site.ca_pem, clientId: "over-tls" } as const;
  const device = await MqttJs.connect(service.mqtts, options);
  assertEquals(await device.subscribe("t/#", 2), 2);
  for (const qos of [0, 1, 2] as const) {
    for (const bytes of [0, 1, 16_383, 16_384, 70_000, 900_000]) {
      const payload = "y".repeat(bytes);
      await device.publish(`t/${qos}`, payload, qos);
      assertEquals((await device.messages.next())?.payload, payload, `${bytes} bytes, QoS ${qos}`);
    }
  }
  await device.end();
  await eventually("its goodbye", async () => await service.metric("longwire_connections") === 0);
});

test_with(openssl, "kernel_tls takes the kernel where it can, and says so", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start(["--kernel_tls", "on"]);
  const { seen } = service.program.stdout;
  const [said = ""] = seen.filter((line) => line.startsWith("(kernel_tls: "));
  const is_taken = said === "(kernel_tls: the kernel encrypts what is sent)";
  if (!is_taken) assertMatch(said, /^\(kernel_tls: not by the kernel: .+\)$/);
  const options = { protocol: "mqtts", ca: site.ca_pem, clientId: "by-the-kernel" } as const;
  const device = await MqttJs.connect(service.mqtts, options);
  assertEquals(await device.subscribe("t", 1), 1);
  for (const bytes of [0, 1, 16_384, 300_000]) {
    await device.publish("t", "z".repeat(bytes), 1);
    assertEquals((await device.messages.next())?.payload.length, bytes);
  }
  await device.end();
  assertEquals(await service.metric("longwire_tls_kernel_total"), is_taken ? 1 : 0);
});

test_with(openssl, "the Longwire protocol talks over TLS", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  const { host: hostname, port } = service.device_tls;
  const alpnProtocols = ["longwire/1"];
  const caCerts = [site.ca_pem];
  using socket = await Deno.connectTls({ hostname, port, caCerts, alpnProtocols });
  assertEquals((await socket.handshake()).alpnProtocol, "longwire/1");
  await socket.write(encode({ type: "hello", session_id: "s", protocol_version: 1 }));
  const frames = new Decoder();
  const room = new Uint8Array(4096);
  let frame = frames.next();
  while (frame === undefined) {
    const size: number | null = await within(socket.read(room), "welcome");
    if (size === null) throw new Error("closed before welcome");
    frames.push(room.subarray(0, size));
    frame = frames.next();
  }
  assertEquals(frame.type, "welcome");
});

test_with(openssl, "openssl s_client agrees on protocols, names and tickets", async () => {
  await using site = await TlsSite.make();
  const { directory, ca, server } = site;
  const names = "DNS:second.test,DNS:*.wild.test";
  const second = await make_certificate(directory, "second", { issuer: ca, names });
  const certs = ["--tls_cert", `${server.cert},${second.cert}`];
  await using service = await site.start([...certs, "--tls_key", `${server.key},${second.key}`]);
  const trust = ["-CAfile", ca.cert, "-verify_return_error"];
  const mqtt = await s_client(service.mqtts, ...trust, "-alpn", "h2,mqtt");
  assertStringIncludes(mqtt, "ALPN protocol: mqtt");
  assertStringIncludes(mqtt, "Verify return code: 0 (ok)");
  const device = await s_client(service.device_tls, ...trust, "-alpn", "longwire/1");
  assertStringIncludes(device, "ALPN protocol: longwire/1");
  const other = await s_client(service.mqtts, ...trust, "-alpn", "h2");
  assertStringIncludes(other, "no application protocol"); // RFC 7301 section 3.2
  for (const [asked, got] of [["first.test", "first"], ["a.wild.test", "second"]] as const) {
    const printed = await s_client(service.mqtts, ...trust, "-servername", asked);
    assertStringIncludes(printed, `subject=CN = ${got}`);
  }
  for (const version of ["-tls1_2", "-tls1_3"]) {
    const ticket = `${directory}/ticket${version}`;
    const fresh = await s_client(service.mqtts, ...trust, version, "-sess_out", ticket);
    assertStringIncludes(fresh, "New, TLSv1.");
    const again = await s_client(service.mqtts, ...trust, version, "-sess_in", ticket);
    assertStringIncludes(again, "Reused, TLSv1.");
  }
  assertEquals(await service.metric("longwire_tls_resumptions_total"), 2);
  assertMatch(await s_client(service.mqtts, ...trust, "-tls1_1"), /alert|no protocols available/);
});

/** What ends a connection, as the service counts it. */
function closed_for(service: TlsService, code: string): Promise<number> {
  return service.metric(`longwire_connections_closed_total{code="${code}"}`);
}

test_with(
  [...openssl, ...mosquitto_programs],
  "who does not trust the certificate stays away",
  async () => {
    await using site = await TlsSite.make();
    await using service = await site.start();
    const other = await make_certificate(site.directory, "other_authority");
    const message = ["-t", "t", "-m", "m"];
    assert(await mosquitto_pub(service.mqtts, "--cafile", other.cert, ...message) !== 0);
    await assertRejects(() => MqttJs.connect(service.mqtts, { protocol: "mqtts", ca: "" }));
    await eventually("both are counted", async () => {
      // A client that is gone may be found out before its alert is read; one may have tried again.
      const codes = ["tls_failed", "io_error", "peer_closed"];
      const counts = await Promise.all(codes.map((code) => closed_for(service, code)));
      return counts.reduce((sum, count) => sum + count) >= 2;
    });
    assertEquals(await service.metric("longwire_sessions"), 0);
    // The name counts too: the certificate is for 127.0.0.1 and localhost, not for this one.
    const elsewhere = await s_client(
      service.mqtts,
      ...["-CAfile", site.ca.cert, "-verify_return_error", "-verify_hostname", "elsewhere.test"],
    );
    assertStringIncludes(elsewhere, "hostname mismatch");
  },
);

test_with(openssl, "a device is who its certificate says, and the session knows", async () => {
  await using site = await TlsSite.make();
  const { directory, ca } = site;
  const asks = ["--tls_client_ca", ca.cert, "--tls_client_auth", "required"];
  await using service = await site.start([...asks, "--log_level", "debug"]);
  const identity = async (name: string, issuer: CertificateFiles) => {
    const { cert, key } = await make_certificate(directory, name, { issuer });
    return { cert: Deno.readTextFileSync(cert), key: Deno.readTextFileSync(key) };
  };
  const options = { protocol: "mqtts", ca: site.ca_pem, clientId: "d1" } as const;
  const known = await identity("device-1", ca);
  const device = await MqttJs.connect(service.mqtts, { ...options, ...known });
  const line = await service.program.stderr.find(
    (line) => line.includes("certificate"),
    "the certificate in the log",
  );
  const fingerprint = new X509Certificate(known.cert).fingerprint256;
  const { device: id, subject, fingerprint: seen } = JSON.parse(line);
  assertEquals({ id, subject, seen }, {
    id: "d1",
    subject: "CN=device-1",
    seen: fingerprint.replaceAll(":", "").toLowerCase(),
  });
  const stranger = await make_certificate(directory, "other_authority");
  const forged = await identity("device-2", stranger);
  await assertRejects(() => MqttJs.connect(service.mqtts, options));
  await assertRejects(() => MqttJs.connect(service.mqtts, { ...options, ...forged }));
  assertEquals(await closed_for(service, "tls_certificate"), 2);
  // A ticket brings the certificate of its handshake along, and does not replace it.
  const ticket = `${directory}/ticket`;
  const shown = ["-cert", `${directory}/device-1.pem`, "-key", `${directory}/device-1.key`];
  await s_client(service.mqtts, ...shown, "-sess_out", ticket);
  assertStringIncludes(await s_client(service.mqtts, "-sess_in", ticket), "Reused, TLSv1.3");
  const refused = await s_client(service.mqtts);
  assertStringIncludes(refused, "alert certificate required");
  await device.end();
});

test_with(openssl, "a certificate is asked for and not insisted on, when optional", async () => {
  await using site = await TlsSite.make();
  const asks = ["--tls_client_ca", site.ca.cert, "--tls_client_auth", "optional"];
  await using service = await site.start(asks);
  const options = { protocol: "mqtts", ca: site.ca_pem } as const;
  await using device = await MqttJs.connect(service.mqtts, options);
  assertEquals(await device.subscribe("t", 1), 1);
  assertStringIncludes(await s_client(service.mqtts), "Acceptable client certificate CA names");
});

test_with(openssl, "certificates that change are in use, and nobody is cut off", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  const { directory, ca, server } = site;
  const options = { protocol: "mqtts", ca: site.ca_pem, clientId: "there" } as const;
  await using device = await MqttJs.connect(service.mqtts, options);
  await device.subscribe("t", 1);
  const shown = async () =>
    /subject=CN = (\S+)/.exec(await s_client(service.mqtts, "-CAfile", ca.cert))?.[1];
  const logged = (text: string) =>
    service.program.stderr.find((line) => line.includes(text), `${text} in the log`);
  await Deno.writeTextFile(server.cert, "no certificate");
  await logged("certificates changed and cannot be used");
  assertEquals(await shown(), "first");
  const names = "DNS:localhost,IP:127.0.0.1";
  const renewed = await make_certificate(directory, "renewed", { issuer: ca, names });
  await Deno.rename(renewed.key, server.key);
  await Deno.rename(renewed.cert, server.cert);
  await logged("certificates are in use since they changed");
  assertEquals(await shown(), "renewed");
  await using other = await MqttJs.connect(service.mqtts, { ...options, clientId: "new" });
  await other.publish("t", "still there", 1);
  assertEquals((await device.messages.next())?.payload, "still there");
});

/** The first bytes of a ClientHello: the service waits for the rest of it. */
const begun_hello = Uint8Array.of(22, 3, 1, 2, 0, 1);

test_with(openssl, "so many handshakes are under way at once, the others wait", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  const { host: hostname, port } = service.mqtts;
  const sockets: Deno.TcpConn[] = [];
  try {
    while (sockets.length < limits.tls_handshakes_max + 10) {
      const socket = await Deno.connect({ hostname, port });
      sockets.push(socket);
      await socket.write(begun_hello);
    }
    const pending = () => service.metric("longwire_tls_handshakes_pending");
    await eventually("the bound", async () => await pending() === limits.tls_handshakes_max);
    const options = { protocol: "mqtts", ca: site.ca_pem } as const;
    const connecting = MqttJs.connect(service.mqtts, options);
    const all = sockets.length + 1;
    await eventually("all are there", async () => {
      return await service.metric("longwire_connections") === all;
    });
    assertEquals(await pending(), limits.tls_handshakes_max);
    assertEquals(await service.metric("longwire_tls_handshakes_total"), 0);
    for (const socket of sockets.splice(0, 20)) socket.close();
    await using device = await connecting;
    assertEquals(await device.subscribe("t"), 0);
  } finally {
    for (const socket of sockets) socket.close();
  }
});

/** A device that has connected with MQTT over TLS and says nothing more. */
async function idle_device({ mqtts, site }: { mqtts: Address; site: TlsSite }) {
  const { host: hostname, port } = mqtts;
  const socket = await Deno.connectTls({ hostname, port, caCerts: [site.ca_pem] });
  await socket.write(encode_mqtt(connect_packet(), 5));
  await socket.read(new Uint8Array(256)); // CONNACK
  return socket;
}

test_with(openssl, "a device that is idle owns no buffer", async () => {
  await using site = await TlsSite.make();
  await using service = await site.start();
  const place = { mqtts: service.mqtts, site };
  const sockets: Deno.TlsConn[] = [];
  try {
    while (sockets.length < 300) {
      sockets.push(...await Promise.all(Array.from({ length: 50 }, () => idle_device(place))));
    }
    // What that means in bytes is measured by the benchmark (tls, hold).
    assertEquals(await service.metric("longwire_tls_objects"), 0);
    assertEquals(await service.metric("longwire_tls_handshakes_pending"), 0);
    assertEquals(await service.metric("longwire_out_queue_bytes"), 0);
  } finally {
    for (const socket of sockets) socket.close();
  }
});

/** A compiler that finds no OpenSSL, in a directory to be the whole PATH. */
async function compiler_without_openssl(directory: string): Promise<string> {
  const text = [
    "#!/bin/sh",
    'case " $* " in',
    '*" --version "*) echo "cc without OpenSSL"; exit;;',
    '*" -lssl "*) echo "openssl/ssl.h: No such file" >&2; exit 1;;',
    "esac",
    `PATH="${Deno.env.get("PATH")}" exec cc "$@"`,
  ];
  const path = `${directory}/cc`;
  await Deno.writeTextFile(path, text.join("\n"), { mode: 0o755 });
  return directory;
}

test_with(openssl, "without OpenSSL all works but TLS, which says what to install", async () => {
  await using site = await TlsSite.make();
  const PATH = await compiler_without_openssl(await Deno.makeTempDir({ dir: site.directory }));
  const env = { PATH };
  await using service = await Service.start({ env });
  await using device = await MqttJs.connect(service.mqtt);
  assertEquals(await device.subscribe("t", 1), 1);
  const listeners = ["--http", "off", "--mqtt", "off", "--device", "off", "--data", "memory"];
  const tls = ["--mqtts", "127.0.0.1:0", ...site.settings];
  const said = await failing_start([...listeners, ...tls], { env });
  assertMatch(said, /^Cannot use TLS: .*built without OpenSSL 3; install .*libssl-dev.*$/);
});

Deno.test("certificates that cannot be used keep the service from starting", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const file = `${directory}/nothing.pem`;
    const listeners = ["--http", "127.0.0.1:0", "--mqtts", "127.0.0.1:0", "--data", "memory"];
    const settings = ["--mqtt", "off", "--device", "off", "--tls_cert", file, "--tls_key", file];
    const absent = await failing_start([...listeners, ...settings]);
    assertMatch(absent, /^Cannot use TLS: No such file or directory .*nothing\.pem/);
    await Deno.writeTextFile(file, "nothing");
    const empty = await failing_start([...listeners, ...settings]);
    assertMatch(empty, /^Cannot use TLS: certificate 1: no start line \(.*nothing\.pem.*\)$/);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
