/**
 * Random MQTT packets that are valid, and damage that knows their structure: lengths, flags,
 * properties, text, identifiers. The same numbers give the same bytes.
 */
import type { Qos } from "../../core/message.ts";
import {
  encode,
  type Packet,
  type PropertiesAt,
  type Subscription,
  type Version,
} from "../../core/protocol/mqtt.ts";
import { concat, varint_of } from "../cases/bytes.ts";

export type Random = () => number;

export function below(random: Random, end: number): number {
  return Math.floor(random() * end);
}

export function pick<T>(random: Random, from: readonly T[]): T {
  return from[below(random, from.length)];
}

const texts = ["", "a", "ü", "a/b", "😀", "x".repeat(127), "x".repeat(128), "\ufeff", "\u{10ffff}"];
const topics = ["f", "f/a", "f/b/c", "/f", "f//a", "f/é", "f/".repeat(60) + "f"];
const filters = [...topics, "f/#", "+/a", "f/+/c", "+/+", "$share/f/f/#", "$share/g/f/a"];

type Properties = Partial<PropertiesAt[keyof PropertiesAt]>;

/** Every property by name, and a value of it. */
const values: Readonly<Record<string, (random: Random) => unknown>> = {
  payload_format: () => 0,
  message_expiry_s: (random) => pick(random, [0, 1, 60, 0xffffffff]),
  content_type: (random) => pick(random, texts),
  response_topic: (random) => pick(random, topics),
  correlation_data: (random) => new Uint8Array(pick(random, [0, 1, 200])),
  subscription_id: (random) => pick(random, [1, 127, 128, 16_384, 268_435_455]),
  session_expiry_s: (random) => pick(random, [0, 1, 600]),
  topic_alias: (random) => 1 + below(random, 4),
  receive_maximum: (random) => pick(random, [1, 2, 100, 65_535]),
  maximum_packet_bytes: (random) => pick(random, [20, 200, 0xffffffff]),
  topic_alias_maximum: (random) => pick(random, [0, 1, 65_535]),
  request_response_information: (random) => random() < 0.5,
  request_problem_information: (random) => random() < 0.5,
  will_delay_s: (random) => pick(random, [0, 1]),
  reason_string: (random) => pick(random, texts),
  user_properties: (random) => {
    return Array.from({ length: 1 + below(random, 3) }, () => [pick(random, texts), "v"]);
  },
};

function properties_of(random: Random, version: Version, ...names: readonly string[]) {
  if (version === 4 || random() < 0.4) return {};
  const some = names.filter(() => random() < 0.4);
  if (some.length === 0) return {};
  const properties = Object.fromEntries(some.map((name) => [name, values[name](random)]));
  return { properties: properties as Properties };
}

const of_message = [
  ...["payload_format", "message_expiry_s", "content_type", "response_topic"],
  ...["correlation_data", "user_properties"],
];

function payload_of(random: Random): Uint8Array {
  return new Uint8Array(pick(random, [0, 1, 10, 120, 130, 17_000])).fill(0x61);
}

export function connect_of(random: Random, version: Version, client_id: string): Packet {
  const will = {
    topic: pick(random, topics),
    payload: new Uint8Array(pick(random, [0, 1, 130])),
    qos: below(random, 3) as Qos,
    retain: random() < 0.3,
    ...properties_of(random, version, ...of_message, "will_delay_s"),
  };
  return {
    type: "connect",
    version,
    clean_start: random() < 0.5,
    keepalive_s: pick(random, [0, 30, 60, 65_535]),
    client_id,
    ...(random() < 0.3 ? { will } : {}),
    ...(random() < 0.3 ? { username: pick(random, texts), password: new Uint8Array(3) } : {}),
    ...properties_of(
      random,
      version,
      "session_expiry_s",
      "receive_maximum",
      "maximum_packet_bytes",
      "topic_alias_maximum",
      "request_response_information",
      "request_problem_information",
      "user_properties",
    ),
  } as Packet;
}

function subscription_of(random: Random, version: Version): Subscription {
  const filter = pick(random, filters);
  const is_five = version === 5;
  return {
    filter,
    qos: below(random, 3) as Qos,
    no_local: is_five && !filter.startsWith("$share") && random() < 0.2,
    retain_as_published: is_five && random() < 0.2,
    retain_handling: is_five ? pick(random, [0, 1, 2] as const) : 0,
  };
}

function publish_of(random: Random, version: Version): Packet {
  const qos = below(random, 3) as Qos;
  return {
    type: "publish",
    topic: pick(random, topics),
    payload: payload_of(random),
    qos,
    retain: random() < 0.15,
    dup: qos > 0 && random() < 0.2,
    packet_id: qos === 0 ? 0 : 1 + below(random, 20),
    ...properties_of(random, version, ...of_message, "topic_alias"),
  } as Packet;
}

const acks = ["puback", "pubrec", "pubrel", "pubcomp"] as const;

/** A packet that a client may send after CONNECT. */
export function packet_of(random: Random, version: Version): Packet {
  const packet_id = 1 + below(random, 20);
  const dice = random();
  if (dice < 0.35) return publish_of(random, version);
  if (dice < 0.55) {
    const more = properties_of(random, version, "reason_string", "user_properties");
    return { type: pick(random, acks), packet_id, reason_code: 0, ...more } as Packet;
  }
  const count = 1 + below(random, 4);
  if (dice < 0.75) {
    const subscriptions = Array.from({ length: count }, () => subscription_of(random, version));
    const more = properties_of(random, version, "subscription_id", "user_properties");
    return { type: "subscribe", packet_id, subscriptions, ...more } as Packet;
  }
  if (dice < 0.87) {
    const unwanted = Array.from({ length: count }, () => pick(random, filters));
    const more = properties_of(random, version, "user_properties");
    return { type: "unsubscribe", packet_id, filters: unwanted, ...more } as Packet;
  }
  if (dice < 0.95) return { type: "pingreq" };
  const reason_code = version === 5 ? pick(random, [0x00, 0x04, 0x80]) : 0;
  const more = properties_of(random, version, "reason_string", "user_properties");
  return { type: "disconnect", reason_code, ...more } as Packet;
}

/** Where the body begins, and its length as the header says it. */
export function body_of(bytes: Uint8Array): [at: number, size: number] {
  let at = 1;
  let size = 0;
  for (let shift = 0; at < bytes.length && shift < 28; shift += 7) {
    size |= (bytes[at] & 0x7f) << shift;
    if (bytes[at++] < 0x80) break;
  }
  return [at, size];
}

function with_body(first: number, body: Uint8Array, size = body.length): Uint8Array {
  return concat(Uint8Array.of(first, ...varint_of(size)), body);
}

/** Bytes that text or a property may not be, or not there. */
const poisons = [
  ...[[0x00], [0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80], [0x2b], [0x23]],
  ...[[0x00, 0x00], [0xff, 0xff], [0x80, 0x00], [0xff, 0xff, 0xff, 0x7f], [0xff, 0xff, 0xff, 0xff]],
];
/** Properties of every form, whole. */
const properties = [
  ...[[0x01, 1], [0x01, 2], [0x02, 0, 0, 0, 1], [0x03, 0, 1, 0x61], [0x08, 0, 1, 0x23]],
  ...[[0x09, 0, 0], [0x0b, 0], [0x0b, 1], [0x11, 0, 0, 0, 9], [0x13, 0, 5], [0x15, 0, 1, 0x61]],
  ...[[0x16, 0, 0], [0x17, 2], [0x19, 1], [0x1f, 0, 1, 0x61], [0x21, 0, 0], [0x22, 0, 1]],
  ...[[0x23, 0, 0], [0x23, 0xff, 0xff], [0x24, 2], [0x26, 0, 1, 0x61, 0, 0], [0x27, 0, 0, 0, 0]],
  ...[[0x7f], [0x00], [0x80, 0x01]],
];

type Damage = (random: Random, bytes: Uint8Array, version: Version) => Uint8Array;

/** Each keeps the packet whole as far as the header says it, but for those that lie about it. */
const damages: readonly Damage[] = [
  function flags(random, bytes) {
    return bytes.with(0, bytes[0] & 0xf0 | below(random, 16));
  },
  function type(random, bytes) {
    return bytes.with(0, below(random, 16) << 4 | bytes[0] & 15);
  },
  function any_bit(random, bytes) {
    const [at] = body_of(bytes);
    if (at >= bytes.length) return bytes;
    const index = at + below(random, bytes.length - at);
    return bytes.with(index, bytes[index] ^ 1 << below(random, 8));
  },
  function cut_body(random, bytes) {
    const [at] = body_of(bytes);
    return with_body(bytes[0], bytes.subarray(at, at + below(random, bytes.length - at)));
  },
  function grow_body(random, bytes) {
    const [at] = body_of(bytes);
    const more = new Uint8Array(1 + below(random, 4)).fill(below(random, 256));
    return with_body(bytes[0], concat(bytes.subarray(at), more));
  },
  function repeat_part(random, bytes) {
    const [at] = body_of(bytes);
    const begin = at + below(random, bytes.length - at + 1);
    const end = Math.min(bytes.length, begin + below(random, 12));
    const part = bytes.subarray(begin, end);
    const body = concat(bytes.subarray(at, end), part, bytes.subarray(end));
    return with_body(bytes[0], body);
  },
  function poison(random, bytes) {
    const [at] = body_of(bytes);
    const bad = Uint8Array.from(pick(random, poisons));
    if (bytes.length - at < bad.length) return bytes;
    const copy = bytes.slice();
    copy.set(bad, at + below(random, bytes.length - at - bad.length + 1));
    return copy;
  },
  function add_property(random, bytes, version) {
    const [at] = body_of(bytes);
    const skip = bytes[0] >> 4 === 1 ? 10 : 2;
    const place = at + skip;
    if (version === 4 || place >= bytes.length || bytes[place] > 100) return bytes;
    const extra = Uint8Array.from(pick(random, properties));
    const size = bytes[place] + extra.length;
    if (size > 127) return bytes;
    const head = bytes.subarray(at, place);
    return with_body(bytes[0], concat(head, Uint8Array.of(size), extra, bytes.subarray(place + 1)));
  },
  function zero_id(_random, bytes) {
    const [at] = body_of(bytes);
    if (bytes.length < at + 2) return bytes;
    const copy = bytes.slice();
    copy.fill(0, at, at + 2);
    return copy;
  },
  function lie_about_length(random, bytes) {
    const [at, size] = body_of(bytes);
    const told = pick(random, [Math.max(0, size - 1), size + 1, size + 100, 1 << 21, 268_435_455]);
    return with_body(bytes[0], bytes.subarray(at), told);
  },
  function long_length(_random, bytes) {
    const [at] = body_of(bytes);
    const longer = concat(bytes.subarray(0, at - 1), Uint8Array.of(bytes[at - 1] | 0x80, 0x00));
    return concat(longer, bytes.subarray(at));
  },
];

/** A packet with up to three damages. */
export function damaged(random: Random, packet: Packet, version: Version): Uint8Array {
  let bytes: Uint8Array = encode(packet, version).slice();
  const count = 1 + below(random, 3);
  for (let n = 0; n < count; n++) bytes = pick(random, damages)(random, bytes, version);
  return bytes;
}
