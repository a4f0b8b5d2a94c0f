/**
 * Who comes and goes, as messages under `$presence/`: QoS 0, not kept, and not made while nobody
 * listens. A device's topic is `$presence/` and its id, in which `/`, `+`, `#` and `%` are written
 * as in a URL: it is one level.
 */
import type { Code } from "./codes.ts";
import type { Message } from "./message.ts";
import { plain_name } from "./namespace.ts";
import type { Router } from "./router.ts";
import { type Session, Wire } from "./session.ts";

/** What a person calls a wire form. */
export const protocol_names: Readonly<Record<Wire, string>> = {
  [Wire.longwire]: "longwire",
  [Wire.longwire_zstd]: "longwire",
  [Wire.mqtt4]: "mqtt-3.1.1",
  [Wire.mqtt5]: "mqtt-5",
};

/** The payload, JSON. */
export interface PresenceEvent {
  readonly event: "join" | "leave";
  readonly device_id: string;
  readonly protocol: string;
  /** RFC 3339, UTC, milliseconds. */
  readonly time: string;
  /** Name of the code of core/codes.ts with which the connection ended. */
  readonly reason?: string;
}

const encoder = new TextEncoder();

/** As its tenant knows it. */
export function presence_topic(device_id: string): string {
  return `$presence/${device_id.replace(/[%/+#]/g, (unit) => encodeURIComponent(unit))}`;
}

export class Presence {
  constructor(readonly router: Router, readonly now_ms: () => number) {}

  joined(session: Session): void {
    if (this.#is_heard()) this.#tell(session, "join");
  }

  /** The session still has its access. */
  left(session: Session, code: Code): void {
    if (this.#is_heard()) this.#tell(session, "leave", code);
  }

  /** Of other nodes it is not known who listens there. */
  #is_heard(): boolean {
    return this.router.fanout.presence_filters > 0 || this.router.relay !== null;
  }

  #tell(session: Session, event: PresenceEvent["event"], code?: Code): void {
    const device_id = plain_name(session.id);
    const plain = presence_topic(device_id);
    const topic = session.access?.tenant.topic(plain) ?? plain;
    const time_ms = this.now_ms();
    const told: PresenceEvent = {
      event,
      device_id,
      protocol: protocol_names[session.wire],
      time: new Date(time_ms).toISOString(),
      ...(code === undefined ? {} : { reason: code.name }),
    };
    const payload = encoder.encode(JSON.stringify(told));
    const properties = { content_type: "application/json", payload_format: 1 };
    const head = { topic, payload, qos: 0, retain: false, time_ms, expires_ms: 0 } as const;
    const message: Message = { ...head, key: "", properties };
    this.router.announce(message);
  }
}
