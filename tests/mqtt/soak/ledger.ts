/**
 * Every message of a soak: what was published, and what is known of whether the service has it. A
 * payload names its message and is checked whole, so that no receipt is ever taken for another.
 */
import type { Qos } from "../../../core/message.ts";
import type { Publish } from "../../../core/protocol/mqtt.ts";
import { payload_text } from "../../support/mqtt_client.ts";

/** Where in time something happened, milliseconds since the test began. */
export function now(): number {
  return performance.now();
}

/** One message. Its publisher numbers its own, in the order of publication. */
export interface Message {
  readonly id: string;
  /** Client id; that of a will is nobody's. */
  readonly publisher: string;
  readonly number: number;
  readonly topic: string;
  readonly qos: Qos;
  readonly retain: boolean;
  /** Characters of the payload; 0 = empty: it removes what is retained. */
  readonly size: number;
  /** Message Expiry Interval; 0 = none. */
  readonly expiry_s: number;
  /** Before its first byte left. */
  begun: number;
  /** By then the service has it, if it ever has; Infinity = not known yet. */
  ended: number;
  /** The service has it: it said so, or must have. */
  is_sure: boolean;
  /** The service cannot have it. */
  is_never: boolean;
  /** How often the service may have taken it as a message of its own. */
  copies: number;
}

export type MessageInit = Omit<
  Message,
  "id" | "ended" | "is_sure" | "is_never" | "copies"
>;

function text_of({ id, number, size }: Pick<Message, "id" | "number" | "size">): string {
  return size === 0 ? "" : `${id} ${String.fromCharCode(97 + number % 26).repeat(size)}`;
}

export class Ledger {
  readonly #by_id = new Map<string, Message>();
  /** Retained messages of each topic, in the order of publication: one publisher each. */
  readonly retained = new Map<string, Message[]>();

  add(init: MessageInit): Message {
    const id = `${init.publisher}:${init.number}`;
    const message = {
      ...init,
      id,
      ended: Infinity,
      is_sure: false,
      is_never: false,
      copies: 1,
    };
    this.#by_id.set(id, message);
    if (init.retain) {
      const list = this.retained.get(init.topic);
      if (list === undefined) this.retained.set(init.topic, [message]);
      else list.push(message);
    }
    return message;
  }

  payload_of(message: Message): string {
    return text_of(message);
  }

  all(): Iterable<Message> {
    return this.#by_id.values();
  }

  get count(): number {
    return this.#by_id.size;
  }

  /** The message of a PUBLISH; undefined = an empty payload, which names none. Throws. */
  read(packet: Publish): Message | undefined {
    const text = payload_text(packet);
    if (text === "") {
      const removals = this.retained.get(packet.topic)?.some(({ size }) => size === 0);
      if (!removals) throw new Error(`nobody published an empty payload to ${packet.topic}`);
      return undefined;
    }
    const message = this.#by_id.get(text.slice(0, text.indexOf(" ")));
    if (message === undefined) throw new Error(`nobody published ${text.slice(0, 60)}`);
    if (text !== text_of(message)) throw new Error(`the payload of ${message.id} is not whole`);
    if (packet.topic !== message.topic) {
      throw new Error(`${message.id} came on ${packet.topic}, not ${message.topic}`);
    }
    return message;
  }
}
