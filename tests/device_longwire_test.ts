/**
 * The Longwire protocol as the real service speaks it: what it takes, and what each fault is told.
 */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { codes } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import { encode, encode_small } from "../core/protocol/longwire.ts";
import { dictionary_id, zstd_of, type ZstdBinding } from "../core/protocol/zstd.ts";
import { ensure_addon } from "../ffi/zstd.ts";
import { bytes_of, concat } from "./cases/bytes.ts";
import { frame } from "./cases/longwire_cases.ts";
import { RawLongwire } from "./support/raw.ts";
import { eventually, Service } from "./support/service.ts";
import { within } from "./support/wait.ts";

const zstd = zstd_of(await ensure_addon() as ZstdBinding);
const dictionaries = [dictionary_id, 0];
const report = '{"device_id":"device-1","timestamp":1767225600000,"temperature":21.5,"battery":99}';
const payload = new TextEncoder().encode(report);

Deno.test("Longwire: what can be smaller is, both ways, for devices that can read it", async () => {
  await using service = await Service.start();
  const [device, welcome] = await RawLongwire.connect(
    service.device,
    { dictionaries },
    zstd.decompress,
  );
  await using _ = device;
  assertEquals(welcome.dictionaries, [dictionary_id, 0]);
  const [plain] = await RawLongwire.connect(service.device);
  await using __ = plain;
  for (const one of [device, plain]) await one.subscribe("devices/#");
  const before = [device, plain].map(({ received_bytes }) => received_bytes);
  const message = { type: "publish", topic: "devices/device-1/telemetry", payload } as const;
  const packed = encode_small({ ...message, qos: 1, request_id: 7 }, zstd);
  assert((packed[4] & 0x80) !== 0);
  await device.send(packed);
  for (const one of [device, plain]) {
    assertEquals((await one.expect("message")).payload, payload);
  }
  const [small, large] = [device, plain].map((one, i) => one.received_bytes - before[i]);
  assert(small < large * 0.7, `${small} and ${large} bytes`);
  assertEquals((await device.expect("published")).request_id, 7);
  const noise = crypto.getRandomValues(new Uint8Array(100));
  await service.publish("devices/x", noise); // not smaller: it comes as it is
  assertEquals((await device.expect("message")).payload, noise);
});

Deno.test("Longwire: without what both can read nothing is compressed", async () => {
  await using service = await Service.start();
  for (const dictionaries of [[], [0], [dictionary_id], [250, 0]]) {
    const [device, welcome] = await RawLongwire.connect(service.device, { dictionaries });
    await using _ = device;
    assertEquals(welcome.dictionaries, []);
    await device.subscribe("devices/#");
    await service.publish("devices/x", payload);
    assertEquals((await device.expect("message")).payload, payload);
  }
});

/** What is said on a welcomed connection, and the code of the Goodbye that answers it. */
const faults: readonly [what: string, bytes: Uint8Array, code: keyof typeof codes][] = [
  ["an unknown type", bytes_of("00000000 7e"), "malformed"],
  ["a body over the limit", bytes_of("ffffff00 0b"), "frame_too_large"],
  ["a body that is not protobuf", bytes_of("02000000 0b 0aff"), "malformed"],
  ["a second Hello", encode({ type: "hello", protocol_version: 1 }), "protocol_error"],
  ["what only the service sends", encode({ type: "gap", from: 1, to: 2 }), "protocol_error"],
  ["an Ack of what was not sent", encode({ type: "ack", offset: 9 }), "protocol_error"],
  ["a zstd bomb", frame(0x8b, bytes_of("a0 00000800 0b 0000 61")), "zstd_bomb"],
  ["a body past the limit", frame(0x8b, bytes_of("a0 00001100 0b 0000 61")), "frame_too_large"],
  [
    "an unknown dictionary",
    frame(0x8b, bytes_of("21 fa 05 29 0000 6162636465")),
    "zstd_dictionary",
  ],
  ["a body cut short", frame(0x8b, bytes_of("20 05 29 0000 6162")), "zstd_malformed"],
  ["a compressed heartbeat", bytes_of("00000000 81"), "malformed"],
];

Deno.test("Longwire: each fault has its code", async () => {
  await using service = await Service.start();
  for (const [what, bytes, name] of faults) {
    const [device] = await RawLongwire.connect(service.device, { dictionaries });
    await using _ = device;
    await device.send(bytes);
    const goodbye = await device.expect("goodbye");
    assertEquals(goodbye.code, codes[name].number, what);
    await device.closed();
    const series = `longwire_connections_closed_total{code="${name}"}`;
    await eventually(series, async () => await service.metric(series) > 0);
  }
});

Deno.test("Longwire: before Welcome each fault has its code too", async () => {
  await using service = await Service.start();
  const hello = (body: Record<string, unknown>) => encode({ type: "hello", ...body });
  const first: readonly [bytes: Uint8Array, code: keyof typeof codes][] = [
    [hello({ protocol_version: 2 }), "unsupported_protocol"],
    [hello({ protocol_version: 1, session_id: "x".repeat(300) }), "client_id_invalid"],
    [encode({ type: "ack", offset: 1 }), "foreign_protocol"],
    [frame(0x82, bytes_of("20 02 11 0000 1801")), "foreign_protocol"],
  ];
  for (const [bytes, name] of first) {
    await using device = await RawLongwire.open(service.device);
    await device.send(bytes);
    assertEquals((await device.expect("refuse")).code, codes[name].number, name);
    await device.closed();
  }
});

Deno.test("Longwire: reports from the future and replays are told and not taken", async () => {
  await using service = await Service.start();
  const [device, welcome] = await RawLongwire.connect(service.device);
  await using _ = device;
  const { server_time_ms: now_ms } = welcome;
  const status = { type: "status", timestamp_ms: now_ms, node_id: 7, load_percent: 40 } as const;
  await device.frame(status);
  await device.frame(status);
  const replayed = await device.expect("notice");
  assertEquals([replayed.code, replayed.count], [codes.status_replayed.number, 1]);
  const ahead_ms = now_ms + limits.clock_ahead_max_ms + 60_000;
  await device.frame({ ...status, timestamp_ms: ahead_ms });
  assertEquals((await device.expect("notice")).code, codes.time_ahead.number);
  const reports = [7, 8, 9, 10].map((node_id, i) => ({
    timestamp_ms: i < 2 ? now_ms + 1 : ahead_ms,
    node_id,
    load_percent: i,
  }));
  await device.frame({ type: "status_batch", reports });
  const notice = await device.expect("notice");
  assertEquals([notice.code, notice.count], [codes.time_ahead.number, 2]);
  assertEquals(await service.metric("longwire_status_nodes"), 2);
  assertEquals(await service.metric("longwire_status_reports_total"), 3);
  const refused = (code: string) => service.metric(`longwire_status_refused_total{code="${code}"}`);
  assertEquals([await refused("time_ahead"), await refused("status_replayed")], [3, 1]);
});

Deno.test("Longwire: a heartbeat is answered with the time, and told when ahead", async () => {
  await using service = await Service.start();
  const [device, welcome] = await RawLongwire.connect(service.device);
  await using _ = device;
  const now_s = Math.floor(welcome.server_time_ms / 1000);
  for (const time_s of [0, now_s, now_s + 30]) {
    await device.frame({ type: "heartbeat", time_s });
    assert(Math.abs((await device.expect("heartbeat")).time_s - now_s) <= 20);
  }
  assertEquals(await service.metric("longwire_heartbeats_received_total"), 3);
  await device.frame({ type: "heartbeat", time_s: now_s + 3600 });
  assert(Math.abs((await device.expect("heartbeat")).time_s - now_s) <= 20);
  assertEquals((await device.expect("notice")).code, codes.time_ahead.number);
});

Deno.test("Longwire: a recorded Hello is refused, one after a lost Welcome not", async () => {
  await using service = await Service.start();
  const hello = { session_id: "car" };
  const [first, { resume_secret }] = await RawLongwire.connect(service.device, hello);
  await using _ = first;
  const refusal = async (resume_secret: string) => {
    await using device = await RawLongwire.open(service.device);
    await device.frame({ type: "hello", protocol_version: 1, ...hello, resume_secret });
    return (await device.expect("refuse")).code;
  };
  assertEquals(await refusal(""), codes.session_in_use.number);
  assertEquals(await refusal("made up"), codes.secret_replayed.number);
  const [second, again] = await RawLongwire.connect(service.device, { ...hello, resume_secret });
  await using __ = second;
  assertEquals((await first.expect("goodbye")).code, codes.taken_over.number);
  assertNotEquals(again.resume_secret, resume_secret);
  // The second Welcome might have been lost: until the device speaks, the first secret is good.
  const [third] = await RawLongwire.connect(service.device, { ...hello, resume_secret });
  await using ___ = third;
  await second.closed();
  await third.subscribe("a");
  assertEquals(await refusal(resume_secret), codes.secret_replayed.number);
});

Deno.test("Longwire over WebSocket: the same protocol", async () => {
  await using service = await Service.start();
  const plain = await fetch(`${service.http}/v1/longwire`);
  assertEquals([plain.status, (await plain.json()).code], [426, "upgrade_required"]);
  const ws = new WebSocket(`${service.http.replace("http", "ws")}/v1/longwire`, "longwire");
  ws.binaryType = "arraybuffer";
  const opened = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<ArrayBuffer>();
  ws.onopen = () => opened.resolve();
  ws.onmessage = ({ data }) => answered.resolve(data);
  await within(opened.promise, "the socket is open");
  const hello = encode({ type: "hello", protocol_version: 1, session_id: "browser" });
  for (const part of [hello.slice(0, 3), hello.slice(3)]) ws.send(part);
  const welcome = new Uint8Array(await within(answered.promise, "Welcome"));
  assertEquals(welcome[4], 3);
  const closed = new Promise((resolve) => ws.onclose = resolve);
  ws.send(concat(encode({ type: "goodbye" })));
  await within(closed, "the socket is closed");
});
