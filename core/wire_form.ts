/**
 * A message as the bytes that one kind of receiver gets: protocol, QoS and flags packed into one
 * number, so that a message is encoded once for all receivers of a form.
 */
import type { Reactor } from "../ffi/reactor.ts";
import type { Message, Qos } from "./message.ts";
import { is_reserved, plain_name } from "./namespace.ts";
import {
  compress_frame_at,
  encode_message_into,
  message_bytes_max,
  type Zstd,
} from "./protocol/longwire.ts";
import { encode_publish_into, publish_bytes_max, publish_packet_id_at } from "./protocol/mqtt.ts";
import { is_longwire, SubscriptionOptions, Wire } from "./session.ts";

/** `packet_id_at` of a frame that carries no packet id. */
const packet_id_none = 0xffffffff;

/** Bits 0-1 wire, 2-3 QoS, 4 retain, 5 no local. */
export type Form = number;

export const Form = {
  /** Of what a subscription gets of a message. */
  of(options: number, wire: Wire, message: Message): Form {
    const qos = Math.min(SubscriptionOptions.qos(options), message.qos);
    const retain = message.retain && SubscriptionOptions.retain_as_published(options);
    const no_local = SubscriptionOptions.no_local(options);
    return wire + qos * 4 + (retain ? 16 : 0) + (no_local ? 32 : 0);
  },
  make: (wire: Wire, qos: number, retain: boolean): Form => wire + qos * 4 + (retain ? 16 : 0),
  wire: (form: Form): Wire => (form & 3) as Wire,
  qos: (form: Form): Qos => (form >> 2 & 3) as Qos,
  retain: (form: Form): boolean => (form & 16) !== 0,
  no_local: (form: Form): boolean => (form & 32) !== 0,
} as const;

/** Room for one frame. */
export function frame_bytes_max(form: Form, message: Message, identifier_count: number): number {
  if (is_longwire(Form.wire(form))) return message_bytes_max(message);
  const { topic, payload, properties } = message;
  return publish_bytes_max(topic.length * 3, payload.length, properties, identifier_count);
}

/** Writes frames into the reactor's command buffer. */
export class FrameWriter {
  /** Where the frame written last has its packet id. */
  packet_id_at = packet_id_none;
  /** For devices that can read it; undefined = there is none. */
  zstd: Zstd | undefined = undefined;

  constructor(readonly reactor: Reactor, readonly now_ms: () => number) {}

  /**
   * Writes a message at `at`; answers the end, leaves `packet_id_at`.
   * @param known with its topic as the service knows it
   * @param identifiers of the subscriptions that it is for [MQTT-3.3.4-3]; undefined = none
   */
  write(
    at: number,
    form: Form,
    known: Message,
    offset: number,
    identifiers?: readonly number[],
  ): number {
    const message = is_reserved(known.topic) ? { ...known, topic: plain_name(known.topic) } : known;
    const out = this.reactor.commands;
    const qos = Form.qos(form);
    const retain = Form.retain(form);
    this.packet_id_at = packet_id_none;
    if (is_longwire(Form.wire(form))) {
      const end = encode_message_into(out, at, message, offset, qos, retain);
      if (Form.wire(form) === Wire.longwire || this.zstd === undefined) return end;
      return compress_frame_at(out, at, end, this.zstd);
    }
    const is_five = Form.wire(form) === Wire.mqtt5;
    const left_ms = message.expires_ms === 0 ? 0 : message.expires_ms - this.now_ms();
    const end = encode_publish_into(
      out,
      at,
      is_five ? 5 : 4,
      message.topic,
      message.payload,
      qos,
      retain,
      false,
      0,
      is_five ? message.properties : undefined,
      message.expires_ms === 0 ? -1 : Math.max(0, Math.ceil(left_ms / 1000)), // [MQTT-3.3.2-6]
      is_five ? identifiers : undefined,
    );
    if (qos > 0) this.packet_id_at = publish_packet_id_at(out, at);
    return end;
  }
}
