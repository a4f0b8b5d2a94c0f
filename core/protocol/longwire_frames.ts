/**
 * Longwire frames as values: one union for both directions. Every field is always there when read;
 * what is absent on the wire is zero, and longwire.proto says what zero means.
 */
import type { MessageProperties, Qos } from "../message.ts";

/** Version of the protocol that Hello names. */
export const protocol_version = 1;

/** A place in the log; epoch "" = the epoch of Welcome. */
export interface FrameCursor {
  readonly epoch: string;
  readonly offset: number;
}

/** Five bytes in all; the answer to one is one. */
export interface Heartbeat {
  readonly type: "heartbeat";
  /** Unix time, seconds. */
  readonly time_s: number;
}

export interface Hello {
  readonly type: "hello";
  readonly session_id: string;
  readonly token: string;
  readonly protocol_version: number;
  readonly keepalive_s: number;
  readonly resume: readonly FrameCursor[];
  readonly last_boot_id: string;
  readonly clean: boolean;
  readonly resume_secret: string;
  /** zstd dictionaries that the device has; 0 = bodies without one. */
  readonly dictionaries: readonly number[];
}

export interface FrameLimits {
  readonly frame_bytes_max: number;
  readonly payload_bytes_max: number;
  readonly topic_bytes_max: number;
  readonly filters_per_frame_max: number;
  readonly subscriptions_max: number;
}

export interface Welcome {
  readonly type: "welcome";
  readonly node: string;
  readonly epoch: string;
  readonly limits: FrameLimits;
  readonly server_time_ms: number;
  readonly keepalive_s: number;
  readonly resumed: boolean;
  readonly resume_secret: string;
  readonly head_offset: number;
  readonly boot_id: string;
  readonly session_id: string;
  /** What the service can read, as in Hello. */
  readonly dictionaries: readonly number[];
}

export interface Refuse {
  readonly type: "refuse";
  readonly code: number;
  readonly detail: string;
  readonly retry_after_ms: number;
  readonly redirect: string;
}

export interface FrameSubscription {
  readonly filter: string;
  readonly qos: Qos;
  readonly after?: FrameCursor;
}

export interface SubscribeFrame {
  readonly type: "subscribe";
  readonly request_id: number;
  readonly subscriptions: readonly FrameSubscription[];
}

export interface Subscribed {
  readonly type: "subscribed";
  readonly request_id: number;
  /** One code for each subscription, in order. */
  readonly codes: readonly number[];
}

export interface UnsubscribeFrame {
  readonly type: "unsubscribe";
  readonly request_id: number;
  readonly filters: readonly string[];
}

export interface Unsubscribed {
  readonly type: "unsubscribed";
  readonly request_id: number;
  /** One code for each filter, in order. */
  readonly codes: readonly number[];
}

export interface MessageFrame {
  readonly type: "message";
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly offset: number;
  readonly qos: Qos;
  readonly time_ms: number;
  readonly retain: boolean;
  readonly key: string;
  readonly expires_ms: number;
  readonly epoch: string;
  readonly properties?: MessageProperties;
}

export interface Ack {
  readonly type: "ack";
  readonly offset: number;
  readonly epoch: string;
}

export interface PublishFrame {
  readonly type: "publish";
  readonly request_id: number;
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: Qos;
  readonly retain: boolean;
  readonly ttl_ms: number;
  readonly key: string;
  readonly properties?: MessageProperties;
}

export interface Published {
  readonly type: "published";
  readonly request_id: number;
  readonly code: number;
  readonly offset: number;
  readonly detail: string;
  readonly retry_after_ms: number;
}

/** What one device reports of itself. */
export interface StatusReport {
  readonly timestamp_ms: number;
  readonly node_id: number;
  readonly load_percent: number;
}

export interface Status extends StatusReport {
  readonly type: "status";
}

export interface StatusBatch {
  readonly type: "status_batch";
  readonly reports: readonly StatusReport[];
}

export interface Redirect {
  readonly type: "redirect";
  readonly address: string;
  readonly reason: number;
  readonly deadline_ms: number;
}

export interface Goodbye {
  readonly type: "goodbye";
  readonly code: number;
  readonly detail: string;
  readonly retry_after_ms: number;
}

export interface Gap {
  readonly type: "gap";
  readonly epoch: string;
  readonly from: number;
  readonly to: number;
}

/** What was sent was not taken, and no other frame says so. */
export interface Notice {
  readonly type: "notice";
  readonly code: number;
  readonly count: number;
  readonly detail: string;
}

export type Frame =
  | Heartbeat
  | Hello
  | Welcome
  | Refuse
  | SubscribeFrame
  | Subscribed
  | UnsubscribeFrame
  | Unsubscribed
  | MessageFrame
  | Ack
  | PublishFrame
  | Published
  | Status
  | StatusBatch
  | Redirect
  | Goodbye
  | Gap
  | Notice;

export type FrameType = Frame["type"];

type Init<T> = T extends Frame ? { readonly type: T["type"] } & Partial<T> : never;

/** What `encode` takes: a frame whose zero fields may be left out. */
export type FrameInit = Init<Frame>;

/** The byte behind the length. */
export const frame_types: Readonly<Record<FrameType, number>> = Object.freeze({
  heartbeat: 0x01,
  hello: 0x02,
  welcome: 0x03,
  refuse: 0x04,
  subscribe: 0x05,
  subscribed: 0x06,
  unsubscribe: 0x07,
  unsubscribed: 0x08,
  message: 0x09,
  ack: 0x0a,
  publish: 0x0b,
  published: 0x0c,
  status: 0x0d,
  status_batch: 0x0e,
  redirect: 0x0f,
  goodbye: 0x10,
  gap: 0x11,
  notice: 0x12,
});

/** Bytes before the body: u32 little-endian, u8 type. */
export const header_bytes = 5;

/** Bit of the type byte: the body is compressed by zstd. */
export const compressed_bit = 0x80;
