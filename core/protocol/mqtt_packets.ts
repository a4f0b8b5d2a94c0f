/** MQTT control packets as values: one union for versions 3.1.1 and 5.0, both directions. */
import type { Qos } from "../message.ts";
import type { Code } from "../codes.ts";
import type {
  AckProperties,
  AuthProperties,
  ConnackProperties,
  ConnectProperties,
  DisconnectProperties,
  PublishProperties,
  SubscribeProperties,
  UnsubscribeProperties,
  WillProperties,
} from "./mqtt_properties.ts";

/** Protocol level: 4 is MQTT 3.1.1, 5 is MQTT 5.0. */
export type Version = 4 | 5;

/** What the server publishes for a client that is lost (section 3.1.2.5). */
export interface Will {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: Qos;
  readonly retain: boolean;
  readonly properties?: WillProperties;
}

export interface Connect {
  readonly type: "connect";
  readonly version: Version;
  /** Version 4: Clean Session. */
  readonly clean_start: boolean;
  /** 0 = no keep alive. */
  readonly keepalive_s: number;
  /** "" = the server assigns one. */
  readonly client_id: string;
  readonly username?: string;
  readonly password?: Uint8Array;
  readonly will?: Will;
  readonly properties?: ConnectProperties;
}

export interface Connack {
  readonly type: "connack";
  readonly session_present: boolean;
  /** Version 4: return code 0 to 5. */
  readonly reason_code: number;
  readonly properties?: ConnackProperties;
}

export interface Publish {
  readonly type: "publish";
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: Qos;
  readonly retain: boolean;
  readonly dup: boolean;
  /** 0 with QoS 0, else 1 to 65,535. */
  readonly packet_id: number;
  readonly properties?: PublishProperties;
}

/** PUBACK, PUBREC, PUBREL and PUBCOMP have one form. */
export interface PublishAck<Type extends "puback" | "pubrec" | "pubrel" | "pubcomp"> {
  readonly type: Type;
  readonly packet_id: number;
  /** Version 4: always 0. */
  readonly reason_code: number;
  readonly properties?: AckProperties;
}

export interface Subscription {
  readonly filter: string;
  readonly qos: Qos;
  /** The options below are false and 0 in version 4. */
  readonly no_local: boolean;
  readonly retain_as_published: boolean;
  /** 0 = send retained messages, 1 = only for a new subscription, 2 = do not. */
  readonly retain_handling: 0 | 1 | 2;
}

export interface Subscribe {
  readonly type: "subscribe";
  readonly packet_id: number;
  readonly subscriptions: readonly Subscription[];
  readonly properties?: SubscribeProperties;
}

export interface Suback {
  readonly type: "suback";
  readonly packet_id: number;
  readonly reason_codes: readonly number[];
  readonly properties?: AckProperties;
}

export interface Unsubscribe {
  readonly type: "unsubscribe";
  readonly packet_id: number;
  readonly filters: readonly string[];
  readonly properties?: UnsubscribeProperties;
}

export interface Unsuback {
  readonly type: "unsuback";
  readonly packet_id: number;
  /** Version 4: always empty. */
  readonly reason_codes: readonly number[];
  readonly properties?: AckProperties;
}

export interface Disconnect {
  readonly type: "disconnect";
  /** Version 4: always 0. */
  readonly reason_code: number;
  readonly properties?: DisconnectProperties;
}

/** Version 5 only. */
export interface Auth {
  readonly type: "auth";
  readonly reason_code: number;
  readonly properties?: AuthProperties;
}

export type Packet =
  | Connect
  | Connack
  | Publish
  | PublishAck<"puback">
  | PublishAck<"pubrec">
  | PublishAck<"pubrel">
  | PublishAck<"pubcomp">
  | Subscribe
  | Suback
  | Unsubscribe
  | Unsuback
  | { readonly type: "pingreq" }
  | { readonly type: "pingresp" }
  | Disconnect
  | Auth;

export type PacketType = Packet["type"];

/** Packet types by their number on the wire (table 2-1). */
export const type_names: readonly (PacketType | undefined)[] = [
  undefined,
  "connect",
  "connack",
  "publish",
  "puback",
  "pubrec",
  "pubrel",
  "pubcomp",
  "subscribe",
  "suback",
  "unsubscribe",
  "unsuback",
  "pingreq",
  "pingresp",
  "disconnect",
  "auth",
];

/** Packets that carry reason codes. */
export type ReasonType =
  | "connack"
  | "puback"
  | "pubrec"
  | "pubrel"
  | "pubcomp"
  | "suback"
  | "unsuback"
  | "disconnect"
  | "auth";

// deno-fmt-ignore
const publish_reasons = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];

/** Table 2-6: the reason codes that version 5 allows in each packet. */
// deno-fmt-ignore
const reasons_5: Readonly<Record<ReasonType, ReadonlySet<number>>> = {
  connack: new Set([ // [MQTT-3.2.2-8]
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97,
    0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
  ]),
  puback: new Set(publish_reasons), // [MQTT-3.4.2-1]
  pubrec: new Set(publish_reasons), // [MQTT-3.5.2-1]
  pubrel: new Set([0x00, 0x92]), // [MQTT-3.6.2-1]
  pubcomp: new Set([0x00, 0x92]), // [MQTT-3.7.2-1]
  suback: new Set([ // [MQTT-3.9.3-2]
    0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2,
  ]),
  unsuback: new Set([0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91]), // [MQTT-3.11.3-2]
  disconnect: new Set([ // [MQTT-3.14.2-1]
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95,
    0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
  ]),
  auth: new Set([0x00, 0x18, 0x19]), // [MQTT-3.15.2-1]
};

/** What version 3.1.1 allows where it has codes at all. */
const reasons_4: Readonly<Partial<Record<ReasonType, ReadonlySet<number>>>> = {
  connack: new Set([0, 1, 2, 3, 4, 5]), // table 3.1
  suback: new Set([0x00, 0x01, 0x02, 0x80]), // [MQTT-3.9.3-2]
};

const success_only: ReadonlySet<number> = new Set([0]);

/** Whether a reason code may stand in a packet of this type and version. */
export function reason_allowed(type: ReasonType, version: Version, reason_code: number): boolean {
  const allowed = version === 5 ? reasons_5[type] : reasons_4[type] ?? success_only;
  return allowed.has(reason_code);
}

/**
 * The reason code with which a packet of this type says `code`: the code's own where the packet
 * allows it, else 0x80 Unspecified error (PUBREL and PUBCOMP: 0x92). Version 4: the CONNACK return
 * code (0 = close without CONNACK), 0x80 in SUBACK, else 0.
 */
export function reason_for(type: ReasonType, version: Version, code: Code): number {
  if (version === 4) {
    if (type === "connack") return code.connack;
    return type === "suback" && code.mqtt !== 0 ? 0x80 : 0;
  }
  if (reasons_5[type].has(code.mqtt)) return code.mqtt;
  return type === "pubrel" || type === "pubcomp" ? 0x92 : 0x80;
}
