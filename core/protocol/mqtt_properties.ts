/**
 * MQTT 5 properties (section 2.2.2, table 2-4): one table says which exist, of what form and where
 * they may stand; reading, measuring and writing all walk it.
 */
import { codes, Refusal } from "../codes.ts";
import type { MessageProperties } from "../message.ts";
import { type Reader, varint_bytes, type Writer } from "./mqtt_bytes.ts";
import { utf8_bytes } from "./utf8.ts";

/** What every packet with properties takes. */
interface UserProperties {
  readonly user_properties?: readonly (readonly [string, string])[];
}

/** Section 3.1.2.11. */
export interface ConnectProperties extends UserProperties {
  /** Seconds; 0xffffffff = never; absent = 0, the session ends with the connection. */
  readonly session_expiry_s?: number;
  readonly receive_maximum?: number;
  /** Largest packet the sender of this property accepts, bytes. */
  readonly maximum_packet_bytes?: number;
  readonly topic_alias_maximum?: number;
  readonly request_response_information?: boolean;
  readonly request_problem_information?: boolean;
  readonly authentication_method?: string;
  readonly authentication_data?: Uint8Array;
}

/** Section 3.1.3.2. */
export interface WillProperties extends MessageProperties {
  readonly will_delay_s?: number;
  readonly message_expiry_s?: number;
}

/** Section 3.2.2.3. */
export interface ConnackProperties extends UserProperties {
  readonly session_expiry_s?: number;
  readonly receive_maximum?: number;
  readonly maximum_qos?: number;
  readonly retain_available?: boolean;
  readonly maximum_packet_bytes?: number;
  readonly assigned_client_id?: string;
  readonly topic_alias_maximum?: number;
  readonly reason_string?: string;
  readonly wildcard_subscription_available?: boolean;
  readonly subscription_ids_available?: boolean;
  readonly shared_subscription_available?: boolean;
  readonly server_keepalive_s?: number;
  readonly response_information?: string;
  readonly server_reference?: string;
  readonly authentication_method?: string;
  readonly authentication_data?: Uint8Array;
}

/** Section 3.3.2.3. */
export interface PublishProperties extends MessageProperties {
  readonly message_expiry_s?: number;
  readonly topic_alias?: number;
  /** Server to client only. */
  readonly subscription_ids?: readonly number[];
}

/** PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK. */
export interface AckProperties extends UserProperties {
  readonly reason_string?: string;
}

/** Section 3.8.2.1. */
export interface SubscribeProperties extends UserProperties {
  readonly subscription_id?: number;
}

/** Section 3.10.2.1. */
export type UnsubscribeProperties = UserProperties;

/** Section 3.14.2.2. */
export interface DisconnectProperties extends UserProperties {
  /** Client to server only. */
  readonly session_expiry_s?: number;
  readonly reason_string?: string;
  /** Server to client only. */
  readonly server_reference?: string;
}

/** Section 3.15.2.2. */
export interface AuthProperties extends UserProperties {
  readonly authentication_method?: string;
  readonly authentication_data?: Uint8Array;
  readonly reason_string?: string;
}

/** Where properties stand, and their type there. */
export interface PropertiesAt {
  connect: ConnectProperties;
  will: WillProperties;
  connack: ConnackProperties;
  publish: PublishProperties;
  ack: AckProperties;
  subscribe: SubscribeProperties;
  unsubscribe: UnsubscribeProperties;
  disconnect: DisconnectProperties;
  auth: AuthProperties;
}

export type Place = keyof PropertiesAt;

type Form = "flag" | "byte" | "u16" | "u32" | "varint" | "string" | "binary" | "pair";

interface Row {
  /** Identifier on the wire; all of them fit one byte. */
  readonly id: number;
  readonly name: string;
  readonly form: Form;
  readonly places: readonly Place[];
  /** Smallest value allowed. */
  readonly min: number;
  /** Largest value allowed where the form does not say it. */
  readonly max: number;
}

function row(id: number, name: string, form: Form, places: string, min = 0, max = Infinity): Row {
  return { id, name, form, places: places.split(" ") as Place[], min, max };
}

const everywhere = "connect will connack publish ack subscribe unsubscribe disconnect auth";

/**
 * Table 2-4. `subscription_ids` may repeat in PUBLISH, `user_properties` everywhere; no other may.
 */
const rows: readonly Row[] = [
  row(0x01, "payload_format", "byte", "publish will", 0, 1),
  row(0x02, "message_expiry_s", "u32", "publish will"),
  row(0x03, "content_type", "string", "publish will"),
  row(0x08, "response_topic", "string", "publish will"),
  row(0x09, "correlation_data", "binary", "publish will"),
  row(0x0b, "subscription_ids", "varint", "publish", 1),
  row(0x0b, "subscription_id", "varint", "subscribe", 1),
  row(0x11, "session_expiry_s", "u32", "connect connack disconnect"),
  row(0x12, "assigned_client_id", "string", "connack"),
  row(0x13, "server_keepalive_s", "u16", "connack"),
  row(0x15, "authentication_method", "string", "connect connack auth"),
  row(0x16, "authentication_data", "binary", "connect connack auth"),
  row(0x17, "request_problem_information", "flag", "connect"),
  row(0x18, "will_delay_s", "u32", "will"),
  row(0x19, "request_response_information", "flag", "connect"),
  row(0x1a, "response_information", "string", "connack"),
  row(0x1c, "server_reference", "string", "connack disconnect"),
  row(0x1f, "reason_string", "string", "connack ack disconnect auth"),
  row(0x21, "receive_maximum", "u16", "connect connack", 1),
  row(0x22, "topic_alias_maximum", "u16", "connect connack"),
  row(0x23, "topic_alias", "u16", "publish", 1), // [MQTT-3.3.2-8]
  row(0x24, "maximum_qos", "byte", "connack", 0, 1),
  row(0x25, "retain_available", "flag", "connack"),
  row(0x26, "user_properties", "pair", everywhere),
  row(0x27, "maximum_packet_bytes", "u32", "connect connack", 1),
  row(0x28, "wildcard_subscription_available", "flag", "connack"),
  row(0x29, "subscription_ids_available", "flag", "connack"),
  row(0x2a, "shared_subscription_available", "flag", "connack"),
];

const places = everywhere.split(" ") as Place[];

/** Rows of each place, in order of identifier. */
const rows_at = {} as Record<Place, readonly Row[]>;
/** Rows of each place by identifier. */
const row_by_id = {} as Record<Place, readonly (Row | undefined)[]>;
for (const place of places) {
  rows_at[place] = rows.filter((r) => r.places.includes(place));
  const by_id: (Row | undefined)[] = [];
  for (const r of rows_at[place]) by_id[r.id] = r;
  row_by_id[place] = by_id;
}

function violation(place: Place, r: Row, what: string): never {
  throw new Refusal(codes.protocol_error, `Property ${r.name} of ${place} ${what}`);
}

/**
 * Reads a property length and the properties. Returns undefined when there are none. Throws
 * Refusal: malformed for an identifier or form that is not known at this place, protocol_error for
 * a repetition or a value out of range, topic_invalid for a response topic with a wildcard.
 */
export function get_properties<P extends Place>(
  reader: Reader,
  place: P,
): PropertiesAt[P] | undefined {
  const size = reader.varint();
  if (size === 0) return undefined;
  const packet_end = reader.end;
  if (size > packet_end - reader.at) {
    throw new Refusal(codes.malformed, `The property length of ${place} is past its end`);
  }
  reader.end = reader.at + size;
  const found: Record<string, unknown> = {};
  const by_id = row_by_id[place];
  while (reader.at < reader.end) {
    const id = reader.varint();
    const r = by_id[id];
    if (r === undefined) { // section 2.2.2.2
      throw new Refusal(codes.malformed, `Property ${id} is not known in ${place}`);
    }
    get_property(reader, place, r, found);
  }
  reader.end = packet_end;
  if (found.authentication_data !== undefined && found.authentication_method === undefined) {
    throw new Refusal(codes.protocol_error, "Authentication data without method"); // 3.1.2.11.10
  }
  const response_topic = found.response_topic as string | undefined;
  if (response_topic !== undefined && /[+#]/.test(response_topic)) {
    throw new Refusal(codes.topic_invalid, "The response topic has a wildcard"); // [MQTT-3.3.2-14]
  }
  return found as PropertiesAt[P];
}

function get_property(reader: Reader, place: Place, r: Row, found: Record<string, unknown>): void {
  if (r.form === "pair") {
    const list = (found[r.name] ??= []) as [string, string][];
    list.push([reader.string(), reader.string()]); // [MQTT-1.5.7-1]
    return;
  }
  const value = get_value(reader, r.form);
  if (r.name === "subscription_ids") {
    if (value === 0) violation(place, r, "is 0"); // section 3.8.2.1.2
    ((found[r.name] ??= []) as number[]).push(value as number);
    return;
  }
  if (found[r.name] !== undefined) violation(place, r, "stands twice");
  if (typeof value === "number") {
    if (value < r.min || value > r.max) violation(place, r, `is ${value}`);
    found[r.name] = r.form === "flag" ? as_flag(value, place, r) : value;
  } else {
    found[r.name] = value;
  }
}

function as_flag(value: number, place: Place, r: Row): boolean {
  if (value > 1) violation(place, r, `is ${value}`);
  return value === 1;
}

function get_value(reader: Reader, form: Form): number | string | Uint8Array {
  switch (form) {
    case "flag":
    case "byte":
      return reader.u8();
    case "u16":
      return reader.u16();
    case "u32":
      return reader.u32();
    case "varint":
      return reader.varint();
    case "binary":
      return reader.binary();
    default:
      return reader.string();
  }
}

/** Bytes of the properties without their length field. */
export function properties_bytes<P extends Place>(
  place: P,
  properties: PropertiesAt[P] | undefined,
): number {
  if (properties === undefined) return 0;
  let size = 0;
  for (const r of rows_at[place]) {
    const value = (properties as Record<string, unknown>)[r.name];
    if (value === undefined) continue;
    if (r.form === "pair") {
      for (const [name, text] of value as [string, string][]) {
        size += 5 + utf8_bytes(name) + utf8_bytes(text);
      }
    } else if (r.name === "subscription_ids") {
      for (const id of value as number[]) size += 1 + varint_bytes(id);
    } else {
      size += 1 + value_bytes(r.form, value);
    }
  }
  return size;
}

function value_bytes(form: Form, value: unknown): number {
  switch (form) {
    case "flag":
    case "byte":
      return 1;
    case "u16":
      return 2;
    case "u32":
      return 4;
    case "varint":
      return varint_bytes(value as number);
    case "binary":
      return 2 + (value as Uint8Array).length;
    default:
      return 2 + utf8_bytes(value as string);
  }
}

/**
 * Writes the property length [MQTT-2.2.2-1] and the properties. Throws RangeError for what cannot
 * be written.
 */
export function put_properties<P extends Place>(
  writer: Writer,
  place: P,
  properties: PropertiesAt[P] | undefined,
): void {
  const size = properties_bytes(place, properties);
  writer.varint(size);
  if (properties === undefined) return;
  for (const r of rows_at[place]) {
    const value = (properties as Record<string, unknown>)[r.name];
    if (value === undefined) continue;
    if (r.form === "pair") {
      for (const [name, text] of value as [string, string][]) {
        writer.u8(r.id);
        writer.string(name);
        writer.string(text);
      }
    } else if (r.name === "subscription_ids") {
      for (const id of value as number[]) put_value(writer, r, id);
    } else {
      put_value(writer, r, value);
    }
  }
}

function put_value(writer: Writer, r: Row, value: unknown): void {
  writer.u8(r.id);
  if (typeof value === "string") return writer.string(value);
  if (value instanceof Uint8Array) return writer.binary(value);
  const number = Number(value);
  if (number < r.min || number > r.max) throw new RangeError(`Property ${r.name} is ${number}`);
  switch (r.form) {
    case "flag":
    case "byte":
      return writer.u8(number);
    case "u16":
      return writer.u16(number);
    case "u32":
      return writer.u32(number);
    default:
      return writer.varint(number);
  }
}
