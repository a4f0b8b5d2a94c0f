/**
 * Bad input to the real service: each gets its code of core/codes.ts, in the words of its protocol,
 * and is counted; and another connection that was there all the time notices nothing.
 */
import { assert, assertEquals } from "@std/assert";
import { type Code, codes } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import { encode as longwire_frame, type FrameInit } from "../core/protocol/longwire.ts";
import { encode as mqtt_packet } from "../core/protocol/mqtt.ts";
import { of_type, RawLongwire, RawMqtt } from "./support/raw.ts";
import { eventually, Service } from "./support/service.ts";

function hex(text: string): Uint8Array {
  return Uint8Array.fromHex(text.replaceAll(" ", ""));
}

/** How often connections were closed for this reason. */
function count_closed(service: Service, code: Code): Promise<number> {
  return service.metric(`longwire_connections_closed_total{code="${code.name}"}`);
}

/** A device that listens while others misbehave. */
class Bystander {
  #round = 0;

  private constructor(readonly service: Service, readonly connection: RawMqtt) {}

  static async start(service: Service): Promise<Bystander> {
    const connection = await RawMqtt.connect(service.mqtt, { version: 4 });
    // SUBSCRIBE with packet id 1 to "still/here" at QoS 0
    await connection.send(hex("82 0f 00 01 00 0a 73 74 69 6c 6c 2f 68 65 72 65 00"));
    assertEquals((await connection.packets.next())?.type, "suback");
    return new Bystander(service, connection);
  }

  /** Fails unless it still gets what is published. */
  async check(): Promise<void> {
    const payload = String(this.#round++);
    await this.service.publish("still/here", payload, "qos=0");
    const packet = of_type(await this.connection.packets.next(), "publish");
    assertEquals(new TextDecoder().decode(packet.payload), payload);
  }
}

interface BadMqtt {
  readonly name: string;
  readonly bytes: string;
  readonly code: Code;
  /** Version that was agreed before; absent = the bytes are the first. */
  readonly version?: 4 | 5;
  /** Reason code of the CONNACK or DISCONNECT that comes; absent = none. */
  readonly answer?: number;
}

const bad_mqtt: readonly BadMqtt[] = [
  { name: "a first frame over the limit", bytes: "10 ff ff 7f", code: codes.frame_too_large },
  {
    name: "a frame over the limit",
    version: 5,
    bytes: "30 ff ff ff 7f",
    code: codes.frame_too_large,
    answer: 0x95,
  },
  {
    name: "a frame over the limit of 3.1.1",
    version: 4,
    bytes: "30 ff ff ff 7f",
    code: codes.frame_too_large,
  },
  {
    name: "a length that does not end",
    version: 5,
    bytes: "30 ff ff ff ff",
    code: codes.malformed,
    answer: 0x81,
  },
  {
    name: "a packet of type 0",
    version: 5,
    bytes: "00 00",
    code: codes.malformed,
    answer: 0x81,
  },
  {
    name: "a topic that is longer than its packet",
    version: 5,
    bytes: "30 04 00 09 61 62",
    code: codes.malformed,
    answer: 0x81,
  },
  {
    name: "QoS 3",
    version: 4,
    bytes: "36 05 00 01 61 00 01",
    code: codes.malformed,
  },
  {
    name: "a protocol name that is not MQTT",
    bytes: "10 0e 00 06 4d 51 49 73 64 70 03 02 00 00 00 00",
    code: codes.unsupported_protocol,
    answer: 1,
  },
  {
    name: "a protocol level that is not there",
    bytes: "10 0c 00 04 4d 51 54 54 07 02 00 00 00 00",
    code: codes.unsupported_protocol,
    answer: 1,
  },
  { name: "a first packet that is not CONNECT", bytes: "c0 00", code: codes.foreign_protocol },
  {
    name: "a request of HTTP",
    bytes: new TextEncoder().encode(`GET /${"x".repeat(100)} HTTP/1.1\r\n\r\n`).toHex(),
    code: codes.foreign_protocol,
  },
  {
    name: "a second CONNECT",
    version: 5,
    bytes: "10 0d 00 04 4d 51 54 54 05 02 00 00 00 00 00",
    code: codes.protocol_error,
    answer: 0x82,
  },
  {
    name: "a topic with a wildcard",
    version: 5,
    bytes: "30 06 00 03 61 2f 23 00",
    code: codes.topic_invalid,
    answer: 0x90,
  },
  {
    name: "a topic with a wildcard in 3.1.1",
    version: 4,
    bytes: "30 05 00 03 61 2f 2b",
    code: codes.topic_invalid,
  },
  {
    name: "a topic that is not UTF-8",
    version: 5,
    bytes: "30 06 00 03 61 c3 28 00",
    code: codes.malformed,
    answer: 0x81,
  },
  {
    name: "a filter with a misplaced wildcard",
    version: 5,
    bytes: "82 08 00 01 00 00 02 61 23 00",
    code: codes.filter_invalid,
    answer: 0x8f,
  },
  {
    name: "a packet that only a server sends",
    version: 5,
    bytes: "d0 00",
    code: codes.protocol_error,
    answer: 0x82,
  },
];

Deno.test("bad MQTT is refused with its code, and nobody else notices", async (t) => {
  await using service = await Service.start();
  const bystander = await Bystander.start(service);
  await using _ = bystander.connection;
  for (const { name, bytes, code, version, answer } of bad_mqtt) {
    await t.step(name, async () => {
      const before = await count_closed(service, code);
      await using raw = version === undefined
        ? await RawMqtt.open(service.mqtt, 4)
        : await RawMqtt.connect(service.mqtt, { version });
      await raw.send(hex(bytes));
      const said = (await raw.closed()).map((packet) => {
        return "reason_code" in packet ? packet.reason_code : packet.type;
      });
      assertEquals(said, answer === undefined ? [] : [answer]);
      assertEquals(await count_closed(service, code), before + 1);
      await bystander.check();
    });
  }
});

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

interface BadLongwire {
  readonly name: string;
  /** A frame that can be encoded, or bytes of one that cannot. */
  readonly frame: FrameInit | string;
  readonly code: Code;
  /** It is the first frame: the answer is Refuse, not Goodbye. */
  readonly is_first?: boolean;
}

const wildcard_publish: FrameInit = {
  type: "publish",
  request_id: 1,
  topic: "a/#",
  payload: text("m"),
  qos: 1,
};

const bad_longwire: readonly BadLongwire[] = [
  {
    name: "a first frame over the limit",
    frame: "ff ff 00 00 02",
    code: codes.frame_too_large,
    is_first: true,
  },
  { name: "a frame over the limit", frame: "ff ff ff ff 0b", code: codes.frame_too_large },
  {
    name: "a first frame that is not Hello",
    frame: { type: "ack", offset: 1 },
    code: codes.foreign_protocol,
    is_first: true,
  },
  {
    name: "another version of the protocol",
    frame: { type: "hello", protocol_version: 9 },
    code: codes.unsupported_protocol,
    is_first: true,
  },
  {
    name: "a session id over the limit",
    frame: {
      type: "hello",
      protocol_version: 1,
      session_id: "x".repeat(limits.device_id_bytes_max + 1),
    },
    code: codes.client_id_invalid,
    is_first: true,
  },
  {
    name: "a second Hello",
    frame: { type: "hello", protocol_version: 1 },
    code: codes.protocol_error,
  },
  { name: "a frame of the service's", frame: { type: "gap", to: 1 }, code: codes.protocol_error },
  { name: "a frame of no known type", frame: "00 00 00 00 77", code: codes.malformed },
  { name: "a body that is not protobuf", frame: "02 00 00 00 0b 0a 7f", code: codes.malformed },
  { name: "a topic with a wildcard", frame: wildcard_publish, code: codes.topic_invalid },
  { name: "a topic that is not UTF-8", frame: "04 00 00 00 0b 0a 02 c3 28", code: codes.malformed },
  {
    name: "a filter with a misplaced wildcard",
    frame: { type: "subscribe", request_id: 1, subscriptions: [{ filter: "a#", qos: 0 }] },
    code: codes.filter_invalid,
  },
  {
    name: "an Ack of what was never sent",
    frame: { type: "ack", offset: 1_000_000 },
    code: codes.protocol_error,
  },
  { name: "a compressed frame", frame: "01 00 00 00 8b 00", code: codes.protocol_error },
];

Deno.test("bad Longwire is refused with its code, and nobody else notices", async (t) => {
  await using service = await Service.start();
  const bystander = await Bystander.start(service);
  await using _ = bystander.connection;
  for (const { name, frame, code, is_first = false } of bad_longwire) {
    await t.step(name, async () => {
      const before = await count_closed(service, code);
      await using raw = is_first
        ? await RawLongwire.open(service.device)
        : (await RawLongwire.connect(service.device))[0];
      await raw.send(typeof frame === "string" ? hex(frame) : longwire_frame(frame));
      const said = (await raw.closed()).map((one) => [one.type, "code" in one && one.code]);
      assertEquals(said, [[is_first ? "refuse" : "goodbye", code.number]]);
      assertEquals(await count_closed(service, code), before + 1);
      await bystander.check();
    });
  }
});

Deno.test("a publish that is refused leaves its connection open", async () => {
  await using service = await Service.start();
  const count = () => service.metric('longwire_publishes_refused_total{code="forbidden"}');
  await using mqtt = await RawMqtt.connect(service.mqtt);
  // QoS 1 with packet id 1 to "$SYS/a"
  await mqtt.send(hex("32 0b 00 06 24 53 59 53 2f 61 00 01 00"));
  const puback = of_type(await mqtt.packets.next(), "puback");
  assertEquals({ id: puback.packet_id, reason: puback.reason_code }, { id: 1, reason: 0x87 });
  assertEquals(await count(), 1);
  await using device = (await RawLongwire.connect(service.device))[0];
  const publish = { type: "publish", payload: text("m"), qos: 1 } as const;
  await device.frame({ ...publish, request_id: 1, topic: "$SYS/x" });
  const refused = of_type(await device.next(), "published");
  assertEquals({ id: refused.request_id, code: refused.code }, { id: 1, code: 16 });
  assertEquals(await count(), 2);
  await device.frame({ ...publish, request_id: 2, topic: "x" });
  const done = of_type(await device.next(), "published");
  assertEquals({ id: done.request_id, code: done.code }, { id: 2, code: 0 });
  await mqtt.send(mqtt_packet({ type: "pingreq" }, 5));
  assertEquals(await mqtt.packets.next(), { type: "pingresp" });
});

Deno.test("a subscription that is refused is told and counted", async () => {
  await using service = await Service.start();
  await using device = (await RawLongwire.connect(service.device))[0];
  const filters = Array.from(
    { length: limits.subscriptions_per_session_max },
    (_, i) => `many/${i}`,
  );
  const subscribe = (request_id: number, of: readonly string[]) =>
    device.frame({
      type: "subscribe",
      request_id,
      subscriptions: of.map((filter) => ({ filter, qos: 0 })),
    });
  await subscribe(1, filters);
  assertEquals(of_type(await device.next(), "subscribed").codes.every((code) => code === 0), true);
  await subscribe(2, ["one/more", "many/0"]);
  const { subscription_limit } = codes;
  assertEquals(of_type(await device.next(), "subscribed").codes, [subscription_limit.number, 0]);
  const series = `longwire_subscriptions_refused_total{code="${subscription_limit.name}"}`;
  assertEquals(await service.metric(series), 1);
});

Deno.test("who stops in the middle of the first packet is closed in time", async () => {
  await using service = await Service.start();
  const bystander = await Bystander.start(service);
  await using _ = bystander.connection;
  const begin_ms = performance.now();
  const connect = { type: "connect", version: 5, clean_start: true, keepalive_s: 0 } as const;
  const packet = mqtt_packet({ ...connect, client_id: "slow" }, 5);
  await using slow = await RawMqtt.open(service.mqtt);
  await using silent = await RawLongwire.open(service.device);
  await using gone = await RawMqtt.open(service.mqtt);
  await slow.send(packet.subarray(0, packet.length - 1));
  await gone.send(packet.subarray(0, 5));
  gone.socket.close();
  assertEquals(await slow.closed(), []);
  assertEquals(await silent.closed(), []);
  const took_ms = performance.now() - begin_ms;
  const { handshake_timeout_ms } = limits;
  assert(
    took_ms > handshake_timeout_ms - 100 && took_ms < handshake_timeout_ms + 10_000,
    `${took_ms}`,
  );
  assertEquals(await count_closed(service, codes.handshake_timeout), 2);
  assertEquals(await count_closed(service, codes.peer_closed), 1);
  await bystander.check();
});

interface BadCall {
  readonly name: string;
  readonly method?: string;
  readonly path: string;
  readonly body?: string | Uint8Array<ArrayBuffer> | (() => ReadableStream<Uint8Array>);
  readonly code: Code;
}

const too_large = new Uint8Array(limits.payload_bytes_max + 1);

/** The same without a length that is known beforehand. */
function in_pieces(): ReadableStream<Uint8Array> {
  return ReadableStream.from([too_large.subarray(0, 1000), too_large.subarray(1000)]);
}

const bad_calls: readonly BadCall[] = [
  {
    name: "a payload over the limit",
    path: "/v1/topics/a",
    body: too_large,
    code: codes.body_too_large,
  },
  {
    name: "a payload of unknown length over the limit",
    path: "/v1/topics/a",
    body: in_pieces,
    code: codes.body_too_large,
  },
  {
    name: "more JSON than the limit",
    path: "/v1/publish",
    body: new Uint8Array(limits.publish_body_bytes_max + 1),
    code: codes.body_too_large,
  },
  { name: "what is not JSON", path: "/v1/publish", body: '{"topic":', code: codes.json_invalid },
  {
    name: "JSON that is not UTF-8",
    path: "/v1/publish",
    body: hex("22 c3 28 22") as Uint8Array<ArrayBuffer>,
    code: codes.json_invalid,
  },
  {
    name: "a message of another form",
    path: "/v1/publish",
    body: '{"topic":"a","qso":1}',
    code: codes.json_invalid,
  },
  { name: "a path that is not there", path: "/v1/nothing", code: codes.not_found },
  {
    name: "a method that is not taken",
    method: "DELETE",
    path: "/v1/publish",
    code: codes.method_not_allowed,
  },
  { name: "a topic with a wildcard", path: "/v1/topics/a%2F%23", code: codes.topic_invalid },
  { name: "a topic of the server's own", path: "/v1/topics/$SYS/a", code: codes.forbidden },
  { name: "a path that is not UTF-8", path: "/v1/topics/%c3%28", code: codes.query_invalid },
  { name: "a QoS that is not there", path: "/v1/topics/a?qos=3", code: codes.query_invalid },
  { name: "a ttl that is no duration", path: "/v1/topics/a?ttl=soon", code: codes.query_invalid },
];

Deno.test("bad HTTP is refused with its code, and nobody else notices", async (t) => {
  await using service = await Service.start();
  const bystander = await Bystander.start(service);
  await using _ = bystander.connection;
  for (const { name, method = "POST", path, body = "m", code } of bad_calls) {
    await t.step(name, async () => {
      const series = `longwire_http_refusals_total{code="${code.name}"}`;
      const before = await service.metric(series);
      const response = await fetch(service.http + path, {
        method,
        body: typeof body === "function" ? body() : body,
      });
      assertEquals(response.status, code.http);
      assertEquals(response.headers.get("content-type"), "application/problem+json");
      const problem = await response.json();
      assertEquals([problem.code, problem.status], [code.name, code.http]);
      assertEquals(await service.metric(series), before + 1);
      await bystander.check();
    });
  }
});

Deno.test("a connection over the limit is told to come back later", async () => {
  await using service = await Service.start({ args: ["--max_connections", "2"] });
  await using _first = await RawMqtt.connect(service.mqtt);
  const second = await RawMqtt.connect(service.mqtt);
  await using mqtt = await RawMqtt.open(service.mqtt, 4);
  const busy = { type: "connack", session_present: false, reason_code: 3 };
  assertEquals(await mqtt.closed(), [busy]);
  await using longwire = await RawLongwire.open(service.device);
  const refuse = of_type((await longwire.closed())[0], "refuse");
  assertEquals(refuse.code, codes.connection_limit.number);
  assert(refuse.retry_after_ms > 0);
  assertEquals(await count_closed(service, codes.connection_limit), 2);
  await second[Symbol.asyncDispose]();
  await eventually("a place is free", async () => {
    return await service.metric("longwire_connections") === 1;
  });
  await using _third = await RawMqtt.connect(service.mqtt);
});
