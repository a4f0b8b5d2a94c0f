/**
 * What MQTT packets mean: the driver of MQTT 3.1.1 and 5 connections. It holds no state of a
 * connection but wills that wait; the rest lies in the session. Clause ids are those of MQTT 5.
 */
import type { Reactor } from "../ffi/reactor.ts";
import { type Code, codes, Refusal } from "./codes.ts";
import type { Driver, Hub } from "./hub.ts";
import { limits } from "./limits.ts";
import type { Qos } from "./message.ts";
import {
  check_from_client,
  type Connect,
  connect_version,
  decode_frame,
  decode_publish,
  type Disconnect,
  encode,
  encode_ack_into,
  type Packet,
  PublishView,
  reason_for,
  type Subscribe,
  type Unsubscribe,
  type Version,
} from "./protocol/mqtt.ts";
import type { Router } from "./router.ts";
import { type Session, SubscriptionOptions, type Will, Wire } from "./session.ts";
import type { Sessions } from "./sessions.ts";

/** Topic aliases that a client may set [MQTT-3.3.2-9]. */
const topic_alias_max = 32;
/** Reason code of a PUBREL or PUBCOMP for a packet id that is not in use (table 2-6). */
const packet_id_not_found = 0x92;
/** Seconds that mean "never" in a Session Expiry Interval (section 3.1.2.11.2). */
const expiry_never_s = 0xffffffff;
const disconnect_with_will = 0x04;

/**
 * CONNACK "server unavailable" of 3.1.1: answers a connection over the limit, whatever it speaks.
 */
export const busy_packet: Uint8Array = Uint8Array.of(0x20, 2, 0, 3);

/** Table 2-1. */
const type_publish = 3;

function version_of(session: Session): Version {
  return session.wire === Wire.mqtt5 ? 5 : 4;
}

export class MqttDriver implements Driver {
  readonly name = "mqtt";
  readonly #view = new PublishView();
  /** Wills that wait for their delay, by session id: the timer. */
  readonly #delayed = new Map<string, ReturnType<typeof setTimeout>>();
  /** Wire of the CONNECT being looked at, for refusals before there is a session. */
  #first_wire: Wire = Wire.mqtt4;

  constructor(
    readonly reactor: Reactor,
    readonly router: Router,
    readonly sessions: Sessions,
    readonly hub: Hub,
    readonly now_ms: () => number,
  ) {}

  on_first(conn: number, generation: number, bytes: Uint8Array, begin: number, end: number): void {
    this.#first_wire = connect_version(bytes, begin, end) === 5 ? Wire.mqtt5 : Wire.mqtt4;
    const connect = decode_frame(bytes, begin, end, 0);
    if (connect.type !== "connect") { // [MQTT-3.1.0-1]
      throw new Refusal(codes.protocol_error, "The first packet must be CONNECT");
    }
    if (connect.properties?.authentication_method !== undefined) { // [MQTT-4.12.0-1]
      throw new Refusal(codes.auth_method);
    }
    if (connect.client_id.length > limits.device_id_bytes_max) {
      throw new Refusal(codes.client_id_invalid, "The client identifier is too long");
    }
    // [MQTT-3.1.3-6], [MQTT-3.1.3-7]
    const id = connect.client_id === "" ? `auto-${crypto.randomUUID()}` : connect.client_id;
    const expiry_s = connect.version === 5
      ? connect.properties?.session_expiry_s ?? 0
      : connect.clean_start
      ? 0
      : expiry_never_s;
    this.hub.claim(conn, generation, this, {
      id,
      wire: connect.version === 5 ? Wire.mqtt5 : Wire.mqtt4,
      clean: connect.clean_start,
      transient: expiry_s === 0,
      granted: (session, present) => this.#granted(session, present, connect, expiry_s),
    });
    this.#first_wire = Wire.mqtt4;
  }

  refuse_first(
    conn: number,
    generation: number,
    code: Code,
    detail: string,
    wire: Wire = this.#first_wire,
  ): void {
    this.#first_wire = Wire.mqtt4; // who is refused next may not have said what it speaks
    const version = wire === Wire.mqtt5 ? 5 : 4;
    const reason_code = reason_for("connack", version, code);
    if (reason_code === 0) return;
    // [MQTT-3.2.2-6]
    const connack: Packet = { type: "connack", session_present: false, reason_code };
    const properties = { reason_string: detail };
    const packet = version === 5 ? { ...connack, properties } : connack;
    this.reactor.send(conn, generation, encode(packet, version));
  }

  goodbye(session: Session, code: Code, detail: string): void {
    if (session.wire !== Wire.mqtt5) return; // 3.1.1 has no DISCONNECT from the server
    const reason_code = reason_for("disconnect", 5, code);
    const properties = session.mqtt?.terse ? {} : { reason_string: detail };
    this.#send(session, { type: "disconnect", reason_code, properties });
  }

  on_frame(session: Session, bytes: Uint8Array, begin: number, end: number): void {
    const type = bytes[begin] >> 4;
    if (type === type_publish) return this.#publish(session, bytes, begin, end);
    const packet = decode_frame(bytes, begin, end, version_of(session));
    check_from_client(packet);
    switch (packet.type) {
      case "subscribe":
        return this.#subscribe(session, packet);
      case "unsubscribe":
        return this.#unsubscribe(session, packet);
      case "pubrel":
        return this.#pubrel(session, packet.packet_id);
      case "pingreq":
        return this.#send(session, { type: "pingresp" });
      case "disconnect":
        return this.#disconnect(session, packet);
      case "puback":
      case "pubrec":
      case "pubcomp":
        return; // matched against the in-flight window by the reactor
      default: // [MQTT-3.1.0-2], [MQTT-4.12.0-6], and what only a server sends
        throw new Refusal(codes.protocol_error, `A client may not send ${packet.type} here`);
    }
  }

  on_gap(): void {
    // MQTT has no word for it; the store counts what retention removed.
  }

  on_closed(session: Session, code: Code): void {
    const will = session.mqtt?.will ?? null;
    session.mqtt = null;
    if (will === null) return;
    // [MQTT-3.1.2-8], [MQTT-3.1.3-9]: after the delay or at the session's end, whichever is first
    const delay_s = Math.min(will.delay_s, session.expiry_s);
    if (delay_s === 0 || code === codes.kicked) return this.#publish_will(will);
    const timer = setTimeout(() => {
      this.#delayed.delete(session.id);
      this.#publish_will(will);
    }, delay_s * 1000);
    this.#delayed.set(session.id, timer);
  }

  published(session: Session, token: number, _offset: number, _audience: number): void {
    this.#answer(session, token, 0);
  }

  /**
   * The packet id of a QoS 2 publish is stored with the message: a crash forgets both or neither.
   */
  appending(session: Session, token: number): void {
    if ((token & 0x10000) === 0 || session.transient) return;
    const kept = this.sessions.keep(session);
    if (kept instanceof Promise) kept.catch(() => {}); // the append of the same turn says so
  }

  refused(session: Session, token: number, code: Code, detail: string): void {
    if (token === 0) return; // QoS 0: counted by the router
    const packet_id = token & 0xffff;
    if ((token & 0x10000) !== 0) session.incoming?.delete(packet_id);
    if (session.wire === Wire.mqtt5) {
      const type = (token & 0x10000) !== 0 ? "pubrec" : "puback";
      return this.#answer(session, token, reason_for(type, 5, code));
    }
    // 3.1.1 cannot refuse a PUBLISH: without its PUBACK the client sends it again when it is back.
    if (this.#is_current(session, token)) this.hub.close(session, code, detail);
  }

  #granted(session: Session, present: boolean, connect: Connect, expiry_s: number): void {
    clearTimeout(this.#delayed.get(session.id)); // [MQTT-3.1.3-9]
    this.#delayed.delete(session.id);
    session.expiry_s = expiry_s;
    session.ends_ms = 0;
    const will = connect.will === undefined ? null : this.#will(connect.will);
    const terse = connect.properties?.request_problem_information === false;
    session.mqtt = will !== null || terse ? { will, aliases: [], terse } : null;
    const { conn, generation } = session;
    this.#send(session, this.#connack(session, present, connect));
    this.reactor.activate(conn, generation, {
      keepalive_ms: connect.keepalive_s * 1500, // [MQTT-3.1.2-22]
      inflight_max: Math.min(connect.properties?.receive_maximum ?? 65_535, limits.inflight_max),
      frame_bytes_max: connect.properties?.maximum_packet_bytes ?? 0,
      report_acks: !session.transient,
    });
    if (!present) {
      session.cursor = this.router.dispatched;
      return;
    }
    for (const [filter, options] of session.subscriptions()) {
      this.router.fanout.join(session, filter, options);
    }
    this.hub.resume(session);
  }

  #connack(session: Session, present: boolean, connect: Connect): Packet {
    const packet = { type: "connack", session_present: present, reason_code: 0 } as const;
    if (connect.version === 4) return packet;
    return {
      ...packet,
      properties: {
        maximum_packet_bytes: limits.frame_bytes_max,
        topic_alias_maximum: topic_alias_max,
        shared_subscription_available: false,
        ...(connect.client_id === "" ? { assigned_client_id: session.id } : {}),
      },
    };
  }

  #will(will: NonNullable<Connect["will"]>): Will {
    const { will_delay_s = 0, message_expiry_s = 0, ...properties } = will.properties ?? {};
    const { topic, payload, qos, retain } = will;
    const message = { topic, payload, qos, retain, key: "", properties };
    return { message, delay_s: will_delay_s, expiry_s: message_expiry_s };
  }

  #publish_will(will: Will): void {
    const time_ms = this.now_ms();
    const expires_ms = will.expiry_s === 0 ? 0 : time_ms + will.expiry_s * 1000;
    this.router.publish({ ...will.message, time_ms, expires_ms }, nobody, 0, null);
  }

  #publish(session: Session, bytes: Uint8Array, begin: number, end: number): void {
    const view = this.#view;
    decode_publish(bytes, begin, end, version_of(session), view);
    const topic = this.#topic(session, view);
    if (topic.startsWith("$SYS/")) throw new Refusal(codes.forbidden, "$SYS is the server's own");
    const { qos, retain, packet_id } = view;
    if (qos === 2 && !this.#is_new(session, packet_id)) return;
    const time_ms = this.now_ms();
    // A QoS 0 message that is sent at once never outlives the frame that it came in.
    const passes = qos === 0 && !retain && session.appends_pending === 0;
    const payload = passes
      ? bytes.subarray(view.payload_begin, view.payload_end)
      : bytes.slice(view.payload_begin, view.payload_end);
    const message = {
      topic,
      payload,
      qos,
      retain,
      time_ms,
      expires_ms: view.message_expiry_s < 0 ? 0 : time_ms + view.message_expiry_s * 1000,
      key: "",
    };
    const token = qos === 0 ? 0 : token_of(session, packet_id, qos);
    const { properties } = view;
    this.router.publish(
      properties === undefined ? message : { ...message, properties },
      session,
      token,
      session,
    );
  }

  /** The topic, through the alias where there is one [MQTT-3.3.2-8], [MQTT-3.3.2-12]. */
  #topic(session: Session, view: PublishView): string {
    const alias = view.topic_alias;
    if (alias === 0) return view.topic;
    if (alias > topic_alias_max) { // [MQTT-3.3.2-9]
      throw new Refusal(codes.topic_alias_invalid, `Topic Alias ${alias} is over the maximum`);
    }
    const state = session.mqtt ??= { will: null, aliases: [], terse: false };
    if (view.topic !== "") return state.aliases[alias] = view.topic;
    const topic = state.aliases[alias];
    if (topic === undefined) {
      throw new Refusal(codes.protocol_error, `Topic Alias ${alias} was not set`);
    }
    return topic;
  }

  /**
   * Method A of section 4.3.3: remembers the packet id; false for one that is known
   * [MQTT-4.3.3-10].
   */
  #is_new(session: Session, packet_id: number): boolean {
    const incoming = session.incoming ??= new Set();
    if (!incoming.has(packet_id)) {
      incoming.add(packet_id);
      return true;
    }
    // While the store works on it, the answer is still to come.
    if (session.appends_pending === 0) this.#answer(session, token_of(session, packet_id, 2), 0);
    return false;
  }

  #pubrel(session: Session, packet_id: number): void {
    const known = session.incoming?.delete(packet_id) ?? false;
    if (session.incoming?.size === 0) session.incoming = null;
    const reason_code = known || session.wire !== Wire.mqtt5 ? 0 : packet_id_not_found;
    const answer = () => this.#send(session, { type: "pubcomp", packet_id, reason_code });
    // After PUBCOMP the id may come again for another message: a crash must not bring it back.
    if (known) this.hub.when_kept(session, answer);
    else answer();
  }

  #subscribe(session: Session, packet: Subscribe): void {
    const identifier = packet.properties?.subscription_id ?? 0;
    const reason_codes: number[] = [];
    const retained: [filter: string, options: number][] = [];
    for (const wanted of packet.subscriptions) {
      const refusal = this.hub.refusal_of(session, wanted.filter);
      if (refusal !== null) {
        reason_codes.push(reason_for("suback", version_of(session), refusal));
        continue;
      }
      const { filter, qos, retain_as_published, no_local, retain_handling } = wanted;
      const options = SubscriptionOptions.pack(qos, retain_as_published, no_local, identifier);
      const is_new = session.options_of(filter) === undefined;
      this.hub.subscribe(session, filter, options);
      reason_codes.push(qos);
      // [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
      if (retain_handling === 0 || retain_handling === 1 && is_new) {
        retained.push([filter, options]);
      }
    }
    const { packet_id } = packet;
    this.hub.when_kept(session, () => {
      this.#send(session, { type: "suback", packet_id, reason_codes });
      for (const [filter, options] of retained) this.hub.send_retained(session, filter, options);
    });
  }

  #unsubscribe(session: Session, packet: Unsubscribe): void {
    const { packet_id, filters } = packet;
    // 0x11 No subscription existed (table 3-9)
    const found = filters.map((filter) => this.hub.unsubscribe(session, filter) ? 0 : 0x11);
    const reason_codes = session.wire === Wire.mqtt5 ? found : [];
    this.hub.when_kept(session, () => {
      this.#send(session, { type: "unsuback", packet_id, reason_codes });
    });
  }

  #disconnect(session: Session, packet: Disconnect): void {
    const expiry_s = packet.properties?.session_expiry_s;
    if (expiry_s !== undefined) {
      if (session.expiry_s === 0 && expiry_s !== 0) { // section 3.14.2.2.2
        throw new Refusal(codes.protocol_error, "The session cannot be kept any more");
      }
      session.expiry_s = expiry_s;
      session.transient = expiry_s === 0;
    }
    // [MQTT-3.14.4-3]
    if (packet.reason_code !== disconnect_with_will && session.mqtt) session.mqtt.will = null;
    this.hub.drop(session, codes.normal);
  }

  #answer(session: Session, token: number, reason_code: number): void {
    if (token === 0 || !this.#is_current(session, token)) return;
    const type = (token & 0x10000) !== 0 ? "pubrec" : "puback";
    const version = version_of(session);
    const at = this.reactor.begin_send(session.conn, session.generation, 5);
    const out = this.reactor.commands;
    this.reactor.end_send(encode_ack_into(out, at, type, version, token & 0xffff, reason_code));
  }

  /** Whether the connection that the token was made for is still the session's. */
  #is_current(session: Session, token: number): boolean {
    return session.connected && !session.closing &&
      Math.floor(token / 0x20000) === session.connection_tag;
  }

  #send(session: Session, packet: Packet): void {
    this.reactor.send(session.conn, session.generation, encode(packet, version_of(session)));
  }
}

/** Publishes that nobody waits for. */
const nobody = { appends_pending: 0, published(): void {}, refused(): void {} };

/** Bits 0-15 packet id, bit 16 QoS 2, above them the connection. Never 0. */
function token_of(session: Session, packet_id: number, qos: Qos): number {
  return session.connection_tag * 0x20000 + (qos === 2 ? 0x10000 : 0) + packet_id;
}
