/**
 * Stored messages as CloudEvents 1.0, in the three content modes of the HTTP binding. The id of an
 * event is its place in the log, so it is the same however often it is sent. Pure.
 * https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents
 */
import type { StoredMessage } from "../message.ts";
import { plain_name, tenant_of } from "../namespace.ts";
import type { EventKind } from "./definition.ts";
import { event_of_topic } from "./topics.ts";

/** Context attributes, in the order in which they are written. */
interface Attributes {
  readonly specversion: "1.0";
  readonly id: string;
  /** A URI-reference; with the id it names the event. */
  readonly source: string;
  readonly type: string;
  /** The topic, or the device id. */
  readonly subject: string;
  /** RFC 3339. */
  readonly time: string;
  readonly datacontenttype: string;
  // Extensions that the specification documents, and our own `qos`.
  readonly sequence: string;
  readonly partitionkey?: string;
  readonly expirytime?: string;
  readonly qos?: number;
}

export const event_types: Readonly<Record<EventKind | "gap" | "undelivered", string>> = {
  message: "longwire.message.published",
  connected: "longwire.device.connected",
  disconnected: "longwire.device.disconnected",
  acknowledged: "longwire.message.acknowledged",
  undelivered: "longwire.message.undelivered",
  gap: "longwire.log.gap",
};

/** What goes into one HTTP request. */
export interface Parcel {
  /** Of the event, or of all in it; no full stop: it is part of what is signed. */
  readonly id: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array<ArrayBuffer>;
}

export interface CloudEvent {
  readonly attributes: Attributes;
  readonly data: Uint8Array;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes as text; undefined = they are not UTF-8. */
function text_of(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes);
  } catch {
    return undefined;
  }
}

export function source_of(tenant: string): string {
  return `/longwire/${tenant}`;
}

export function event_of(message: StoredMessage, epoch: string): CloudEvent {
  const { topic, offset, payload, properties, key, expires_ms, time_ms, qos } = message;
  const plain = plain_name(topic);
  const event = event_of_topic(plain);
  const is_text = properties?.content_type === undefined && text_of(payload) !== undefined;
  const fallback = is_text ? "text/plain; charset=utf-8" : "application/octet-stream";
  const attributes: Attributes = {
    specversion: "1.0",
    id: `${epoch}:${offset}`,
    source: source_of(tenant_of(topic)),
    type: event_types[event?.kind ?? "message"],
    subject: event?.device_id ?? plain,
    time: new Date(time_ms).toISOString(),
    datacontenttype: properties?.content_type ?? fallback,
    sequence: String(offset),
    ...(key === "" ? {} : { partitionkey: key }),
    ...(expires_ms === 0 ? {} : { expirytime: new Date(expires_ms).toISOString() }),
    ...(event === undefined ? { qos } : {}),
  };
  return { attributes, data: payload };
}

/** An event of the service's own about another: no message of the log. */
export function own_event(
  kind: keyof typeof event_types,
  given: Pick<Attributes, "id" | "source" | "subject" | "sequence"> & { readonly time_ms: number },
  data: unknown,
): CloudEvent {
  const { id, source, subject, sequence, time_ms } = given;
  const attributes: Attributes = {
    specversion: "1.0",
    id,
    source,
    type: event_types[kind],
    subject,
    time: new Date(time_ms).toISOString(),
    datacontenttype: "application/json",
    sequence,
  };
  return { attributes, data: encoder.encode(JSON.stringify(data)) };
}

const json_type = /^application\/([\w.+-]+\+)?json\s*(;|$)/i;

/** Whether a text is JSON: then it is handed on as it is, with all digits of its numbers. */
function is_json(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** The event in the JSON format, whole. */
export function event_json({ attributes, data }: CloudEvent): string {
  const head = JSON.stringify(attributes).slice(0, -1);
  if (data.length === 0) return `${head}}`;
  const text = text_of(data);
  if (text === undefined) return `${head},"data_base64":"${data.toBase64()}"}`;
  const is_declared = json_type.test(attributes.datacontenttype);
  if (is_declared && is_json(text)) return `${head},"data":${text}}`;
  // A JSON string as the data of a JSON type would be read as a string of JSON.
  if (is_declared) return `${head},"data_base64":"${data.toBase64()}"}`;
  return `${head},"data":${JSON.stringify(text)}}`;
}

/** HTTP binding, section 3.2. */
export function structured(event: CloudEvent): Parcel {
  return {
    id: event.attributes.id,
    headers: { "content-type": "application/cloudevents+json; charset=utf-8" },
    body: encoder.encode(event_json(event)),
  };
}

/** HTTP binding, section 3.3. */
export function batched(events: readonly CloudEvent[]): Parcel {
  const { id, sequence } = events[0]!.attributes;
  const last = events.at(-1)!.attributes.sequence;
  return {
    id: sequence === last ? id : `${id}-${last}`,
    headers: { "content-type": "application/cloudevents-batch+json; charset=utf-8" },
    body: encoder.encode(`[${events.map(event_json).join(",")}]`),
  };
}

/** HTTP binding, section 3.1. */
export function binary({ attributes, data }: CloudEvent): Parcel {
  const headers: Record<string, string> = { "content-type": attributes.datacontenttype };
  for (const [name, value] of Object.entries(attributes)) {
    if (name !== "datacontenttype") headers[`ce-${name}`] = header_value(String(value));
  }
  // A content type comes from a publisher: nothing of it may end the header.
  if (!/^[\x20-\x7e]+$/.test(attributes.datacontenttype)) {
    headers["content-type"] = "application/octet-stream";
  }
  return { id: attributes.id, headers, body: data as Uint8Array<ArrayBuffer> };
}

/** HTTP binding, section 3.1.3.2: all but printable ASCII, and space, " and %, as %XX of UTF-8. */
function header_value(text: string): string {
  return text.replace(/[^\x21\x23\x24\x26-\x7e]+/gu, (units) => {
    return [...encoder.encode(units)].map((byte) => {
      return `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
    }).join("");
  });
}
