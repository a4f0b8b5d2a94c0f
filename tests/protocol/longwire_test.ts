/**
 * The Longwire codec against its table of cases, against the generated code, and against random
 * damage.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { codes, Refusal } from "../../core/codes.ts";
import { limits } from "../../core/limits.ts";
import type { Qos, StoredMessage } from "../../core/message.ts";
import * as longwire from "../../core/protocol/longwire.ts";
// @ts-types="../../core/protocol/longwire_pb.d.ts"
import { longwire as pb } from "../../core/protocol/longwire_pb.js";
import { heading } from "./generate.ts";
import { bytes_of, concat } from "../cases/bytes.ts";
import { frame, longwire_cases, type LongwireCase } from "../cases/longwire_cases.ts";
import { random_of, seed_for } from "../cases/random.ts";
import {
  check_stream,
  check_truncation,
  check_whole,
  type Codec,
  refusal_of,
} from "./codec_suite.ts";

const codec: Codec<LongwireCase> = {
  decode_frame: (_c, bytes, begin, end) => longwire.decode_frame(bytes, begin, end),
  decode: (_c, bytes, begin, end) => longwire.decode(bytes, begin, end),
  decoder: () => new longwire.Decoder(),
};

const accepted = longwire_cases.filter((c) => c.packet !== undefined);

function each(
  name: string,
  cases: readonly LongwireCase[],
  check: (c: LongwireCase) => void,
): void {
  Deno.test(name, () => {
    for (const c of cases) {
      try {
        check(c);
      } catch (error) {
        throw new Error(c.note, { cause: error });
      }
    }
  });
}

each("longwire: every case decodes or is refused as the table says", longwire_cases, (c) => {
  check_whole(codec, c);
});
each("longwire: every truncation asks for more", longwire_cases, (c) => check_truncation(codec, c));
each("longwire: streams in pieces give the same frames", longwire_cases, (c) => {
  check_stream(codec, c);
});

each("longwire: every frame encodes to the bytes it came from", accepted, (c) => {
  const bytes = longwire.encode(c.packet!);
  if (!c.one_way) assertEquals(bytes, c.bytes);
  assertEquals(longwire.decode_frame(bytes, 0, bytes.length), c.packet);
});

each(
  "longwire: a body cut short within a frame of that length is refused or read",
  accepted,
  (c) => {
    const step = Math.max(1, Math.floor(c.bytes.length / 500));
    for (let size = 5; size < c.bytes.length; size += step) {
      const cut = frame(c.bytes[4], c.bytes.subarray(5, size));
      refusal_of(() => longwire.decode_frame(cut, 0, cut.length));
    }
  },
);

Deno.test("longwire: the table has every frame type and every refusal of the codec", () => {
  const seen = new Set(accepted.map((c) => c.packet!.type));
  for (const type of Object.keys(longwire.frame_types)) assert(seen.has(type as never), type);
  const refusals = new Set(longwire_cases.map((c) => c.refusal));
  for (
    const name of [
      "malformed",
      "protocol_error",
      "unsupported_protocol",
      "client_id_invalid",
      "topic_invalid",
      "filter_invalid",
      "qos_unsupported",
      "payload_invalid",
      "subscription_limit",
      "frame_too_large",
    ] as const
  ) {
    assert(refusals.has(name), name);
  }
});

Deno.test("longwire: frame type numbers are part of the protocol", () => {
  assertEquals(longwire.frame_types, {
    heartbeat: 1,
    hello: 2,
    welcome: 3,
    refuse: 4,
    subscribe: 5,
    subscribed: 6,
    unsubscribe: 7,
    unsubscribed: 8,
    message: 9,
    ack: 10,
    publish: 11,
    published: 12,
    status: 13,
    status_batch: 14,
    redirect: 15,
    goodbye: 16,
    gap: 17,
    notice: 18,
  });
});

Deno.test("longwire: what encode is not told is zero", () => {
  assertEquals(longwire.encode({ type: "goodbye" }), bytes_of("00000000 10"));
  assertEquals(longwire.encode({ type: "ack", offset: 5 }), bytes_of("02000000 0a 0805"));
});

Deno.test("longwire: a compressed frame is read with a decompressor, within its bound", () => {
  // "Compression" that repeats the body as often as its first byte says.
  const decompress = (body: Uint8Array, output_bytes_max: number) => {
    const out = concat(...new Array(body[0]).fill(body.slice(1)));
    if (out.length > output_bytes_max) throw new Refusal(codes.frame_too_large, "A bomb");
    return out;
  };
  const packed = frame(0x8a, bytes_of("02 0807"));
  assertEquals(longwire.decode_frame(packed, 0, packed.length, decompress), {
    type: "ack",
    offset: 7,
    epoch: "",
  });
  const bomb = frame(0x8a, concat(bytes_of("ff"), new Uint8Array(8192)));
  const got = longwire.decode(bomb, 0, bomb.length, limits.frame_bytes_max, decompress);
  assert(got.kind === "refused" && got.code === codes.frame_too_large, got.kind);
});

Deno.test("longwire: frames past a limit are refused when read and not written", () => {
  const big = longwire.encode({ type: "publish", topic: "a", payload: new Uint8Array(100) });
  const got = longwire.decode(big, 0, 5, big.length - 1);
  assert(got.kind === "refused" && got.code === codes.frame_too_large, got.kind);
  assertEquals(longwire.decode(big, 0, big.length, big.length).kind, "packet");
  assertThrows(
    () => longwire.encode({ type: "publish", topic: "a", payload: new Uint8Array(100) }, 100),
    RangeError,
  );
});

Deno.test("longwire: check_from_device refuses what only the service sends", () => {
  const allowed = new Set([
    "heartbeat",
    "hello",
    "subscribe",
    "unsubscribe",
    "ack",
    "publish",
    "status",
    "status_batch",
    "goodbye",
  ]);
  for (const { packet } of accepted) {
    const refusal = refusal_of(() => longwire.check_from_device(packet!));
    assertEquals(refusal, allowed.has(packet!.type) ? undefined : "protocol_error", packet!.type);
  }
});

/** Text of 0 to `units` UTF-16 units from all over Unicode, lone surrogates among them. */
function text_of(random: () => number, units: number): string {
  const ranges = [0x7f, 0x7f, 0x7f, 0x7ff, 0xffff];
  const length = Math.floor(random() * (units + 1));
  return String.fromCharCode(
    ...Array.from({ length }, () => 1 + Math.floor(random() * ranges[Math.floor(random() * 5)])),
  );
}

function message_of(random: () => number): StoredMessage {
  const maybe = <T>(value: T, zero: T) => random() < 0.5 ? value : zero;
  const number = () => Math.floor(random() * 2 ** Math.floor(random() * 54));
  const bytes = () => new Uint8Array(Math.floor(random() * 300)).fill(random() * 256);
  const message: StoredMessage = {
    topic: "t" + text_of(random, 300).replace(/[+#/]/g, "x"),
    payload: maybe(bytes(), new Uint8Array(0)),
    qos: 1,
    retain: false,
    time_ms: maybe(number(), 0),
    expires_ms: maybe(number(), 0),
    key: maybe(text_of(random, 20), ""),
    offset: maybe(number(), 0),
  };
  if (random() < 0.5) return message;
  const user_properties = Array.from(
    { length: Math.floor(random() * 3) },
    () => [text_of(random, 90), text_of(random, 200)] as const,
  );
  const properties = {
    ...(random() < 0.5 ? { content_type: text_of(random, 30) } : {}),
    ...(random() < 0.5 ? { correlation_data: bytes() } : {}),
    ...(random() < 0.5 ? { response_topic: text_of(random, 30) } : {}),
    ...(random() < 0.5 ? { payload_format: Math.floor(random() * 2) } : {}),
    ...(random() < 0.5 ? { user_properties } : {}),
  };
  return { ...message, properties };
}

Deno.test("longwire: encode_message_into writes what the generated encoder writes", () => {
  const random = random_of(seed_for("longwire messages"));
  for (let round = 0; round < 3000; round++) {
    const message = message_of(random);
    const qos = Math.floor(random() * 3) as Qos;
    const retain = random() < 0.5;
    const epoch = random() < 0.5 ? "" : text_of(random, 20);
    const max = longwire.message_bytes_max(message, epoch);
    const out = new Uint8Array(7 + max);
    const end = longwire.encode_message_into(out, 7, message, message.offset, qos, retain, epoch);
    const expected = longwire.encode({ type: "message", ...message, qos, retain, epoch });
    assertEquals(out.slice(7, end), expected);
  }
  const tight = new Uint8Array(8);
  assertThrows(
    () => longwire.encode_message_into(tight, 0, message_of(random), 0, 0, false),
    RangeError,
  );
});

Deno.test("longwire: Publish and Published by hand are those of the generated code", () => {
  const random = random_of(seed_for("longwire publishes"));
  const maybe = <T>(value: T, zero: T) => random() < 0.5 ? value : zero;
  const number = (bits: number) => Math.floor(random() * 2 ** Math.floor(random() * (bits + 1)));
  for (let round = 0; round < 3000; round++) {
    const { topic, payload, key } = message_of(random);
    const frame_in: longwire.Frame = {
      type: "publish",
      request_id: 1 + number(31),
      topic: topic.toWellFormed(),
      payload,
      qos: Math.floor(random() * 3) as Qos,
      retain: random() < 0.5,
      ttl_ms: maybe(number(53), 0),
      key: key.toWellFormed(),
    };
    const bytes = longwire.encode(frame_in);
    assertEquals(longwire.decode_frame(bytes, 0, bytes.length), frame_in);
    // An unknown field sends the same frame down the other way.
    const slow = frame(0x0b, concat(bytes.subarray(5), bytes_of("f80701")));
    assertEquals(longwire.decode_frame(slow, 0, slow.length), frame_in);
    const answer = { request_id: number(32), code: number(7), offset: number(53) };
    const published = longwire.encode({ type: "published", ...answer });
    const pb_bytes = pb.Published.encode(answer).finish();
    assertEquals(published, frame(0x0c, Uint8Array.from(pb_bytes)));
  }
});

Deno.test("longwire: a status batch of random reports is read as it was written", () => {
  const random = random_of(seed_for("longwire status batch"));
  const reports = Array.from({ length: 1000 }, () => ({
    timestamp_ms: Math.floor(random() * 2 ** 52),
    node_id: Math.floor(random() * 2 ** 32),
    load_percent: Math.floor((random() - 0.5) * 2 ** 32),
  }));
  const bytes = longwire.encode({ type: "status_batch", reports });
  const got = longwire.decode_frame(bytes, 0, bytes.length);
  assertEquals(got, { type: "status_batch", reports });
  const near = reports.map((_, i) => ({
    timestamp_ms: 1764000000000 + i,
    node_id: i,
    load_percent: 20 + i % 3,
  }));
  const size = longwire.encode({ type: "status_batch", reports: near }).length;
  assert(size < 4 * near.length, `${size} bytes`); // one report alone has 14
});

/** Damages bytes in a way that is likely to reach deep: flips, cuts, and repairs of the length. */
function mutate(bytes: Uint8Array, random: () => number): Uint8Array {
  let out: Uint8Array = bytes.slice(0, 4096);
  const times = 1 + Math.floor(random() * 4);
  for (let i = 0; i < times; i++) {
    const at = Math.floor(random() * out.length);
    const kind = random();
    if (kind < 0.4) out[at] = Math.floor(random() * 256);
    else if (kind < 0.6) out[at] ^= 1 << Math.floor(random() * 8);
    else if (kind < 0.8) out = concat(out.subarray(0, at), out.subarray(at + 1));
    else out = concat(out.subarray(0, at), out.subarray(Math.floor(random() * at)));
    if (out.length < 5) return out;
  }
  return random() < 0.8 ? frame(out[4], out.subarray(5)) : out;
}

Deno.test("longwire: random damage is refused or read, and nothing else is ever thrown", () => {
  const random = random_of(seed_for("longwire random damage"));
  for (let round = 0; round < 60_000; round++) {
    const c = longwire_cases[Math.floor(random() * longwire_cases.length)];
    const bytes = mutate(c.bytes, random);
    refusal_of(() => longwire.decode_frame(bytes, 0, bytes.length));
    const got = longwire.decode(bytes, 0, bytes.length);
    if (got.kind !== "packet") continue;
    // What was read can be written, and is then read as the same.
    const again = longwire.encode(got.packet);
    assertEquals(longwire.decode_frame(again, 0, again.length), got.packet);
  }
});

Deno.test("longwire: the generated code is that of the schema", async () => {
  const folder = new URL("../../core/protocol/", import.meta.url);
  const schema = await Deno.readTextFile(new URL("longwire.proto", folder));
  for (const name of ["longwire_pb.js", "longwire_pb.d.ts"]) {
    const text = await Deno.readTextFile(new URL(name, folder));
    const end = text.indexOf("\n");
    const expected = await heading(schema, text.slice(end + 1));
    assertEquals(text.slice(0, end), expected, `${name} is stale: run "deno task proto"`);
  }
});
