/**
 * The `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/): a header of HTTP,
 * and a user property of messages, by which a trace goes on at the devices. Pure.
 */
import type { Message } from "./message.ts";

export const traceparent_name = "traceparent";

export interface TraceParent {
  /** 32 and 16 hexadecimal digits, not all 0. */
  readonly trace_id: string;
  readonly span_id: string;
  readonly is_sampled: boolean;
}

const form = /^(?!ff)[\da-f]{2}-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})(-.*)?$/;

/** undefined = it is not valid, and is to be taken for none (section 3.2.2.2). */
export function parse_traceparent(text: string): TraceParent | undefined {
  const found = form.exec(text);
  if (found === null || (text.startsWith("00") && text.length !== 55)) return undefined;
  return {
    trace_id: found[1],
    span_id: found[2],
    is_sampled: (parseInt(found[3], 16) & 1) === 1,
  };
}

export function format_traceparent({ trace_id, span_id, is_sampled }: TraceParent): string {
  return `00-${trace_id}-${span_id}-${is_sampled ? "01" : "00"}`;
}

/** What a message carries; undefined = nothing, or nothing valid. */
export function traceparent_of(message: Message): string | undefined {
  for (const [name, value] of message.properties?.user_properties ?? []) {
    if (name === traceparent_name) return value;
  }
  return undefined;
}

/** The message with another traceparent. */
export function with_traceparent<M extends Message>(message: M, traceparent: string): M {
  const others = (message.properties?.user_properties ?? [])
    .filter(([name]) => name !== traceparent_name);
  const user_properties = [...others, [traceparent_name, traceparent] as const];
  return { ...message, properties: { ...message.properties, user_properties } };
}
