/** How a message looks in JSON, in history, events and streams alike. */
import type { Message } from "../core/message.ts";
import { plain_name } from "../core/namespace.ts";
import { traceparent_of } from "../core/traceparent.ts";

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** `payload` when it is UTF-8 text, else `payload_base64`. `id` is null for what was not stored. */
export interface MessageJson {
  readonly id: string | null;
  readonly topic: string;
  readonly epoch: string;
  readonly offset: number;
  readonly qos: number;
  /** RFC 3339, UTC, milliseconds. */
  readonly time: string;
  readonly content_type?: string;
  readonly key?: string;
  /** Of the trace that it was published in. */
  readonly traceparent?: string;
  readonly payload?: string;
  readonly payload_base64?: string;
}

function payload_of(payload: Uint8Array): Pick<MessageJson, "payload" | "payload_base64"> {
  try {
    return { payload: decoder.decode(payload) };
  } catch {
    return { payload_base64: payload.toBase64() };
  }
}

export function message_json(message: Message, offset: number, epoch: string): MessageJson {
  const content_type = message.properties?.content_type;
  const traceparent = traceparent_of(message);
  return {
    id: offset === 0 ? null : `${epoch}:${offset}`,
    topic: plain_name(message.topic),
    epoch,
    offset,
    qos: message.qos,
    time: new Date(message.time_ms).toISOString(),
    ...(content_type === undefined ? {} : { content_type }),
    ...(message.key === "" ? {} : { key: message.key }),
    ...(traceparent === undefined ? {} : { traceparent }),
    ...payload_of(message.payload),
  };
}
