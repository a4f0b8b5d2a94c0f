/**
 * Every property of MQTT 5 at every place where properties stand (table 2-4), written down anew
 * from the standard: what is allowed there alone, what is refused twice, cut, out of range, not
 * UTF-8, or at all. Rows of the table that drives the codec.
 */
import type { CodeName } from "../../core/codes.ts";
import type { Packet, Version } from "../../core/protocol/mqtt.ts";
import { bytes_of, concat, varint_of } from "./bytes.ts";
import type { MqttCase } from "./mqtt_cases.ts";

interface Place {
  readonly name: string;
  readonly version: Version | 0;
  readonly first: number;
  /** What stands before the property length, and behind the properties, as bytes_of() reads it. */
  readonly before: string;
  readonly behind: string;
  /** The packet with these properties. */
  packet(properties: Record<string, unknown>): Packet;
}

const none = new Uint8Array(0);
const connect = {
  type: "connect",
  version: 5,
  clean_start: true,
  keepalive_s: 60,
  client_id: "id",
} as const;
const plain = { qos: 0, no_local: false, retain_as_published: false, retain_handling: 0 } as const;

function place(
  name: string,
  first: number,
  before: string,
  behind: string,
  packet: (properties: Record<string, unknown>) => unknown,
  version: Version | 0 = 5,
): Place {
  return { name, version, first, before, behind, packet: packet as Place["packet"] };
}

function ack(type: string, first: number): Place {
  return place(type, first, "0001 00", "", (properties) => {
    return { type, packet_id: 1, reason_code: 0, properties };
  });
}

/** Places by the letter that the table of properties uses. */
const places: Readonly<Record<string, Place>> = {
  C: place("CONNECT", 0x10, "'MQTT' 05 02 003c", "'id'", (properties) => {
    return { ...connect, properties };
  }, 0),
  W: place("will", 0x10, "'MQTT' 05 06 003c 00 'id'", "'w' 0000", (properties) => {
    return { ...connect, will: { topic: "w", payload: none, qos: 0, retain: false, properties } };
  }, 0),
  K: place("CONNACK", 0x20, "00 00", "", (properties) => {
    return { type: "connack", session_present: false, reason_code: 0, properties };
  }),
  P: place("PUBLISH", 0x32, "'t' 0001", "", (properties) => {
    const rest = { qos: 1, retain: false, dup: false, packet_id: 1 };
    return { type: "publish", topic: "t", payload: none, ...rest, properties };
  }),
  1: ack("puback", 0x40),
  2: ack("pubrec", 0x50),
  3: ack("pubrel", 0x62),
  4: ack("pubcomp", 0x70),
  S: place("SUBSCRIBE", 0x82, "0001", "'a' 00", (properties) => {
    return {
      type: "subscribe",
      packet_id: 1,
      subscriptions: [{ filter: "a", ...plain }],
      properties,
    };
  }),
  s: place("SUBACK", 0x90, "0001", "00", (properties) => {
    return { type: "suback", packet_id: 1, reason_codes: [0], properties };
  }),
  U: place("UNSUBSCRIBE", 0xa2, "0001", "'a'", (properties) => {
    return { type: "unsubscribe", packet_id: 1, filters: ["a"], properties };
  }),
  u: place("UNSUBACK", 0xb0, "0001", "00", (properties) => {
    return { type: "unsuback", packet_id: 1, reason_codes: [0], properties };
  }),
  D: place("DISCONNECT", 0xe0, "00", "", (properties) => {
    return { type: "disconnect", reason_code: 0, properties };
  }),
  A: place("AUTH", 0xf0, "18", "", (properties) => {
    return { type: "auth", reason_code: 0x18, properties };
  }),
};

type Row = readonly [
  id: string,
  name: string,
  /** Letters of `places`. */
  where: string,
  /** A value as it stands on the wire, and what it is. */
  wire: string,
  value: unknown,
  /** Values that are refused. */
  ...wrong: readonly (readonly [wire: string, code: CodeName])[],
];

const bad_text = ["0001 ff", "malformed"] as const;
const null_text = ["0001 00", "malformed"] as const;
const bad_flag = ["02", "protocol_error"] as const;

// deno-fmt-ignore
const rows: readonly Row[] = [
  ["01", "payload_format", "PW", "01", 1, ["02", "protocol_error"]],
  ["02", "message_expiry_s", "PW", "00000e10", 3600],
  ["03", "content_type", "PW", "'x/y'", "x/y", bad_text, null_text],
  ["08", "response_topic", "PW", "'r/t'", "r/t", bad_text, ["'r/+'", "topic_invalid"]],
  ["09", "correlation_data", "PW", "0002 00ff", Uint8Array.of(0, 0xff)],
  ["0b", "subscription_id", "S", "ffffff7f", 268_435_455, ["00", "protocol_error"], ["8000", "malformed"]],
  ["11", "session_expiry_s", "CKD", "ffffffff", 0xffff_ffff],
  ["12", "assigned_client_id", "K", "'id'", "id", bad_text],
  ["13", "server_keepalive_s", "K", "0000", 0],
  ["15", "authentication_method", "CKA", "'m'", "m", bad_text],
  ["17", "request_problem_information", "C", "00", false, bad_flag],
  ["18", "will_delay_s", "W", "0000000a", 10],
  ["19", "request_response_information", "C", "01", true, bad_flag],
  ["1a", "response_information", "K", "'r'", "r", bad_text],
  ["1c", "server_reference", "KD", "'other'", "other", bad_text],
  ["1f", "reason_string", "K1234suDA", "'why'", "why", bad_text, null_text],
  ["21", "receive_maximum", "CK", "0001", 1, ["0000", "protocol_error"]],
  ["22", "topic_alias_maximum", "CK", "ffff", 65_535],
  ["23", "topic_alias", "P", "0001", 1, ["0000", "protocol_error"]],
  ["24", "maximum_qos", "K", "01", 1, ["02", "protocol_error"]],
  ["25", "retain_available", "K", "00", false, bad_flag],
  ["27", "maximum_packet_bytes", "CK", "00000001", 1, ["00000000", "protocol_error"]],
  ["28", "wildcard_subscription_available", "K", "00", false, bad_flag],
  ["29", "subscription_ids_available", "K", "01", true, bad_flag],
  ["2a", "shared_subscription_available", "K", "00", false, bad_flag],
];

function case_of(
  { name, version, first, before, behind, packet }: Place,
  note: string,
  properties: string | Uint8Array,
  expected: Record<string, unknown> | CodeName,
): MqttCase {
  const section = typeof properties === "string" ? bytes_of(properties) : properties;
  const length = Uint8Array.from(varint_of(section.length));
  const body = concat(bytes_of(before), length, section, bytes_of(behind));
  const bytes = concat(Uint8Array.of(first, ...varint_of(body.length)), body);
  const refused = typeof expected === "string";
  const what = refused ? { refusal: expected } : { packet: packet(expected) };
  return { note: `5.0 ${name}: ${note}`, version, bytes, one_way: refused, ...what };
}

function* cases(): Generator<MqttCase> {
  for (const [letter, at] of Object.entries(places)) {
    for (const [id, name, where, wire, value, ...wrong] of rows) {
      const one = `${id} ${wire}`;
      // PUBLISH has the same identifier of its own, with another meaning.
      if (id === "0b" && letter === "P") continue;
      if (!where.includes(letter)) {
        yield case_of(at, `${name} does not belong there`, one, "malformed");
        continue;
      }
      yield case_of(at, name, one, { [name]: value });
      yield case_of(at, `${name} twice`, `${one} ${one}`, "protocol_error");
      yield case_of(at, `${name} without its value`, id, "malformed");
      yield case_of(at, `${name} cut`, bytes_of(one).subarray(0, -1), "malformed");
      for (const [bad, code] of wrong) yield case_of(at, `${name} is ${bad}`, `${id} ${bad}`, code);
    }
    const pairs = { user_properties: [["k", "v"], ["k", ""]] };
    yield case_of(at, "user_properties, twice", "26 'k' 'v' 26 'k' ''", pairs);
    yield case_of(at, "user_properties not UTF-8", "26 0001 ff 'v'", "malformed");
    yield case_of(at, "user_properties without value", "26 'k'", "malformed");
    yield case_of(at, "an identifier that nobody has", "2b 00", "malformed");
  }
}

/** Properties that have rows here or, as they repeat or depend on another, in mqtt_cases.ts. */
export const property_identifiers = new Set([...rows.map(([id]) => parseInt(id, 16)), 0x16, 0x26]);

export const mqtt_property_cases: readonly MqttCase[] = [...cases()];
