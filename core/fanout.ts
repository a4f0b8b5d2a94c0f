/**
 * Who hears what, and the bytes they get: audiences of the reactor by filter and wire form, so
 * that one message is one encode and one call per form, however many devices listen.
 */
import type { Reactor } from "../ffi/reactor.ts";
import type { Message } from "./message.ts";
import { encode_message_into, message_bytes_max } from "./protocol/longwire.ts";
import { encode_publish_into, publish_bytes_max, publish_packet_id_at } from "./protocol/mqtt.ts";
import { offline, type Session, SubscriptionOptions, Wire } from "./session.ts";
import { TopicTree } from "./topic_tree.ts";

const packet_id_none = 0xffffffff;

/** A listener within the process: a stream of HTTP, not a connection of the reactor. */
export interface Tap {
  /** One message; payload bytes may not be kept. `offset` 0 = not stored. */
  hear(message: Message, offset: number): void;
}

/** Those connected who match one filter, one audience of the reactor per wire form. */
class Subscribers {
  /** Triples: variant (subscription options * 4 + wire), audience, members. */
  readonly variants: number[] = [];
  taps: Set<Tap> | null = null;

  get is_empty(): boolean {
    return this.variants.length === 0 && this.taps === null;
  }
}

/**
 * What is written on the wire, packed: bits 0-1 wire, 2-3 QoS, 4 retain, 5 no local, from 6
 * identifier.
 */
function form_of(variant: number, message: Message): number {
  const options = Math.floor(variant / 4);
  const qos = Math.min(SubscriptionOptions.qos(options), message.qos);
  const retain = message.retain && SubscriptionOptions.retain_as_published(options);
  return (variant & 3) + qos * 4 + (retain ? 16 : 0) +
    (SubscriptionOptions.no_local(options) ? 32 : 0) + SubscriptionOptions.identifier(options) * 64;
}

export class Fanout {
  /** Messages that nobody listened to. */
  unmatched = 0;

  readonly #tree = new TopicTree<Subscribers>();
  readonly #free_audiences: number[] = [];
  #audience_count = 0;
  #stamp = 0;
  /** Scratch of one dispatch: form k goes to the audiences of list k. */
  readonly #forms: number[] = [];
  readonly #lists: number[][] = [];
  /** Taps that have heard the message of this dispatch, when several filters may match. */
  readonly #told = new Set<Tap>();
  /** Where the frame encoded last has its packet id. */
  #packet_id_at = packet_id_none;

  constructor(readonly reactor: Reactor, readonly now_ms: () => number) {}

  get filter_count(): number {
    return this.#tree.size;
  }

  /** Makes a tap hear what matches the filter. */
  tap(filter: string, tap: Tap): void {
    (this.#subscribers(filter).taps ??= new Set()).add(tap);
  }

  /** Undoes tap(). */
  untap(filter: string, tap: Tap): void {
    const subscribers = this.#tree.get(filter);
    if (!subscribers?.taps?.delete(tap) || subscribers.taps.size > 0) return;
    subscribers.taps = null;
    if (subscribers.is_empty) this.#tree.delete(filter);
  }

  #subscribers(filter: string): Subscribers {
    let subscribers = this.#tree.get(filter);
    if (subscribers === undefined) this.#tree.set(filter, subscribers = new Subscribers());
    return subscribers;
  }

  /** Makes a connected session hear what matches the filter. */
  join(session: Session, filter: string, options: number): void {
    const { variants } = this.#subscribers(filter);
    const variant = options * 4 + session.wire;
    let at = 0;
    while (at < variants.length && variants[at] !== variant) at += 3;
    if (at === variants.length) {
      variants.push(variant, this.#free_audiences.pop() ?? this.#audience_count++, 0);
    }
    variants[at + 2]++;
    this.reactor.join(session.conn, session.generation, variants[at + 1]);
  }

  /** Undoes join(); `options` are those given there. */
  leave(session: Session, filter: string, options: number): void {
    const subscribers = this.#tree.get(filter);
    const variant = options * 4 + session.wire;
    const at = subscribers?.variants.findIndex((v, index) => index % 3 === 0 && v === variant) ??
      -1;
    if (subscribers === undefined || at < 0) {
      throw new Error(`${session.id} never joined ${filter}`);
    }
    const { variants } = subscribers;
    const audience = variants[at + 1];
    this.reactor.leave(session.conn, session.generation, audience);
    if (--variants[at + 2] > 0) return;
    this.#free_audiences.push(audience);
    variants.splice(at, 3);
    if (subscribers.is_empty) this.#tree.delete(filter);
  }

  /**
   * Writes one message for one connection only: replay of a stored one, or a retained one
   * (offset 0).
   * @param packet_id of a message that was in flight before (sent again with DUP); 0 = sent
   * first
   */
  deliver(
    session: Session,
    message: Message,
    offset: number,
    options: number,
    packet_id = 0,
    retain = false,
  ): void {
    const form = form_of(options * 4 + session.wire, message);
    const at = this.reactor.begin_deliver(session.conn, session.generation, {
      seq: offset,
      qos: form >> 2 & 3,
      packet_id,
      released: false,
      aside: retain,
      bytes_max: frame_bytes_max(form, message),
    });
    const end = this.#encode(at, form, message, offset, retain || (form & 16) !== 0);
    // [MQTT-3.3.1-1]: bit 3 of the fixed header
    if (packet_id > 0 && session.wire !== Wire.longwire) this.reactor.commands[at] |= 8;
    this.reactor.end_deliver(end, this.#packet_id_at);
  }

  /** Sends a message to everyone connected who matches; answers how many subscriptions that are. */
  dispatch(message: Message, offset: number, from: Session | null): number {
    const matched = this.#tree.match(message.topic);
    if (matched.length === 0) {
      this.unmatched++;
      return 0;
    }
    let members = 0;
    let count = 0;
    for (const { variants, taps } of matched) {
      if (taps !== null) members += this.#tell(taps, message, offset, matched.length > 1);
      for (let at = 0; at < variants.length; at += 3) {
        const form = form_of(variants[at], message);
        let k = 0;
        while (k < count && this.#forms[k] !== form) k++;
        if (k === count) {
          this.#forms[count++] = form;
          (this.#lists[k] ??= []).length = 0;
        }
        this.#lists[k].push(variants[at + 1]);
        members += variants[at + 2];
      }
    }
    this.#told.clear();
    this.#stamp_next();
    // Best QoS first: who matches several filters gets the message once, at the best
    // [MQTT-3.3.5-1].
    for (let qos: number = message.qos; qos >= 0; qos--) {
      for (let k = 0; k < count; k++) {
        const form = this.#forms[k];
        if (form < 64 && (form >> 2 & 3) === qos) {
          this.#send(form, this.#lists[k], message, offset, from);
        }
      }
    }
    // Those with Subscription Identifiers of their own get copies of their own [MQTT-3.3.4-4].
    for (let k = 0; k < count; k++) {
      if (this.#forms[k] < 64) continue;
      this.#stamp_next();
      this.#send(this.#forms[k], this.#lists[k], message, offset, from);
    }
    return members;
  }

  #tell(taps: ReadonlySet<Tap>, message: Message, offset: number, is_many: boolean): number {
    let members = 0;
    for (const tap of taps) {
      if (this.#told.has(tap)) continue;
      if (is_many) this.#told.add(tap);
      tap.hear(message, offset);
      members++;
    }
    return members;
  }

  #stamp_next(): number {
    return this.#stamp = this.#stamp % 0xffffffff + 1;
  }

  #send(
    form: number,
    audiences: readonly number[],
    message: Message,
    offset: number,
    from: Session | null,
  ): void {
    const left_out = (form & 32) !== 0 && from !== null && from.conn !== offline ? from : null;
    const qos = form >> 2 & 3;
    const at = this.reactor.begin_publish(
      {
        seq: qos > 0 ? offset : 0,
        stamp: this.#stamp,
        key: message.key === "" ? 0 : hash(message.key),
        qos,
        except_conn: left_out?.conn ?? offline,
        except_generation: left_out?.generation ?? 0,
      },
      audiences,
      frame_bytes_max(form, message),
    );
    const end = this.#encode(at, form, message, offset, (form & 16) !== 0);
    this.reactor.end_publish(end, this.#packet_id_at);
  }

  /** Encodes a message at `at` of the command buffer; answers the end, leaves #packet_id_at. */
  #encode(at: number, form: number, message: Message, offset: number, retain: boolean): number {
    const out = this.reactor.commands;
    const qos = (form >> 2 & 3) as 0 | 1 | 2;
    this.#packet_id_at = packet_id_none;
    if ((form & 3) === Wire.longwire) {
      return encode_message_into(out, at, message, offset, qos, retain);
    }
    const five = (form & 3) === Wire.mqtt5;
    const left_ms = message.expires_ms === 0 ? 0 : message.expires_ms - this.now_ms();
    const end = encode_publish_into(
      out,
      at,
      five ? 5 : 4,
      message.topic,
      message.payload,
      qos,
      retain,
      false,
      0,
      five ? message.properties : undefined,
      message.expires_ms === 0 ? -1 : Math.max(0, Math.ceil(left_ms / 1000)),
      five && form >= 64 ? [Math.floor(form / 64)] : undefined,
    );
    if (qos > 0) this.#packet_id_at = publish_packet_id_at(out, at);
    return end;
  }
}

function frame_bytes_max(form: number, message: Message): number {
  return (form & 3) === Wire.longwire
    ? message_bytes_max(message)
    : publish_bytes_max(message.topic.length * 3, message.payload.length, message.properties, 1);
}

/** FNV-1a over UTF-16 units, never 0: names a conflation key to the reactor. */
function hash(key: string): number {
  let value = 0x811c9dc5;
  for (let index = 0; index < key.length; index++) {
    value = Math.imul(value ^ key.charCodeAt(index), 0x01000193) >>> 0;
  }
  return value === 0 ? 1 : value;
}
