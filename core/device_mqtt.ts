/**
 * What MQTT packets mean: the driver of MQTT 3.1.1 and 5 connections. It holds no state of a
 * connection: that lies in the session. Clause ids are those of MQTT 5.
 */
import type { BusyAnswer, Reactor } from "../ffi/reactor.ts";
import { type Access, admit_publish, admit_will } from "./access.ts";
import { type Code, code_list, codes, Refusal } from "./codes.ts";
import { type Driver, type Elsewhere, type Hub, Moved } from "./hub.ts";
import { limits } from "./limits.ts";
import type { Message, Qos } from "./message.ts";
import { plain_name } from "./namespace.ts";
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
import { expiry_never_s, type Session, SubscriptionOptions, type Will, Wire } from "./session.ts";
import type { Router } from "./router.ts";
import type { Sessions } from "./sessions.ts";
import { is_shared } from "./topic_tree.ts";

/** Reason code of a PUBREL or PUBCOMP for a packet id that is not in use (table 2-6). */
const packet_id_not_found = 0x92;
/** Reason code of UNSUBACK (table 3-9). */
const no_subscription_existed = 0x11;

/** CONNACK: answers a connection over a limit; 3.1.1 knows "server unavailable" only. */
export const busy_packet: BusyAnswer = {
  frame: Uint8Array.of(0x20, 2, 0, codes.server_busy.connack),
  reason_at: 0,
  five: { frame: Uint8Array.of(0x20, 3, 0, codes.server_busy.mqtt, 0), reason_at: 3 },
  reasons: code_list.map(({ mqtt }) => mqtt),
};

/** Table 2-1. */
const type_publish = 3;

function version_of(session: Session): Version {
  return session.wire === Wire.mqtt5 ? 5 : 4;
}

/** A token is ASCII: what is not UTF-8 is none. */
const decoder = new TextDecoder();

/** What may be told to a client that is refused: its version and its limits, as far as known. */
interface Refusable {
  readonly version: Version;
  readonly packet_bytes_max: number;
}

const unknown_client: Refusable = { version: 4, packet_bytes_max: Infinity };

export interface MqttOptions {
  /** Longer keepalives are shortened for MQTT 5 clients [MQTT-3.2.2-22]. */
  readonly keepalive_max_s: number;
}

export class MqttDriver implements Driver {
  readonly name = "mqtt";
  /** Packets sent to clients that the reactor does not count, and those it does not see. */
  sent = 0;
  readonly #view = new PublishView();
  /** Clients of 3.1.1 that have published what could not be stored, and were not answered. */
  readonly #withheld = new Set<Session>();
  /** Of the CONNECT being looked at, for refusals before there is a session. */
  #first: Refusable = unknown_client;

  constructor(
    readonly reactor: Reactor,
    readonly router: Router,
    readonly sessions: Sessions,
    readonly hub: Hub,
    readonly now_ms: () => number,
    readonly options: MqttOptions = limits,
  ) {
    sessions.on_will = (_session, will) => this.#publish_will(will);
  }

  on_first(conn: number, generation: number, bytes: Uint8Array, begin: number, end: number): void {
    const version = connect_version(bytes, begin, end) === 5 ? 5 : 4;
    this.#first = { version, packet_bytes_max: Infinity };
    const connect = decode_frame(bytes, begin, end, 0);
    if (connect.type !== "connect") { // [MQTT-3.1.0-1]
      throw new Refusal(codes.protocol_error, "The first packet must be CONNECT");
    }
    const packet_bytes_max = connect.properties?.maximum_packet_bytes ?? Infinity;
    this.#first = { version, packet_bytes_max };
    if (connect.properties?.authentication_method !== undefined) { // [MQTT-4.12.0-1]
      throw new Refusal(codes.auth_method);
    }
    const expiry_s = connect.version === 5
      ? connect.properties?.session_expiry_s ?? 0
      : connect.clean_start
      ? 0
      : expiry_never_s;
    const wire = connect.version === 5 ? Wire.mqtt5 : Wire.mqtt4;
    // The user name says nothing that the token does not.
    const token = connect.password === undefined ? "" : decoder.decode(connect.password);
    // [MQTT-3.1.3-6], [MQTT-3.1.3-7]
    this.hub.identify(conn, generation, this, wire, { id: connect.client_id, token }, (who) => {
      const { id, access } = who;
      const will = connect.will === undefined ? null : will_of(connect.will, access);
      this.hub.claim(conn, generation, this, {
        id: access === null ? id : access.tenant.id(id),
        access,
        wire,
        clean: connect.clean_start,
        transient: expiry_s === 0,
        takes_over: true,
        granted: (session, present) => this.#granted(session, present, connect, expiry_s, will),
      });
    });
    this.#first = unknown_client;
  }

  refuse_first(conn: number, generation: number, refusal: Refusal, wire?: Wire): void {
    const first = wire === undefined
      ? this.#first
      : { version: wire === Wire.mqtt5 ? 5 : 4, packet_bytes_max: Infinity } as const;
    this.#first = unknown_client; // who is refused next may not have said what it speaks
    const { version, packet_bytes_max } = first;
    const reason_code = reason_for("connack", version, refusal.code);
    if (reason_code === 0) return;
    const place = refusal instanceof Moved ? refusal.place.mqtt : "";
    const properties = place === "" ? {} : { properties: { server_reference: place } };
    // [MQTT-3.2.2-6]
    const connack: Packet = { type: "connack", session_present: false, reason_code, ...properties };
    const frame = encode_within(connack, version, refusal.message, packet_bytes_max);
    if (frame === null) return;
    this.sent++;
    this.reactor.send(conn, generation, frame);
  }

  goodbye(session: Session, code: Code, detail: string, place?: Elsewhere): void {
    if (session.wire !== Wire.mqtt5) return; // 3.1.1 has no DISCONNECT from the server
    const reason_code = reason_for("disconnect", 5, code);
    const properties = place?.mqtt ? { properties: { server_reference: place.mqtt } } : {};
    this.#send(session, { type: "disconnect", reason_code, ...properties }, detail);
  }

  on_frame(session: Session, bytes: Uint8Array, begin: number, end: number): void {
    const type = bytes[begin] >> 4;
    if (type === type_publish) return this.#publish(session, bytes, begin, end);
    const packet = decode_frame(bytes, begin, end, version_of(session));
    check_from_client(packet);
    switch (packet.type) {
      case "subscribe":
        return this.#subscribe_in_turn(session, packet);
      case "unsubscribe":
        return this.hub.in_turn(session, () => this.#unsubscribe(session, packet), false);
      case "pubrel":
        return this.#pubrel(session, packet.packet_id);
      case "pingreq":
        this.#send(session, { type: "pingresp" });
        return;
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

  /** The log is back: clients of 3.1.1 come again with what they have no PUBACK or PUBREC for. */
  end_withheld(): void {
    for (const session of this.#withheld) this.hub.close(session, codes.store_unavailable);
    this.#withheld.clear();
  }

  on_gap(): void {
    // MQTT has no word for it; the store counts what retention removed.
  }

  release(session: Session, packet_ids: readonly number[]): void {
    for (const packet_id of packet_ids) {
      this.#send(session, { type: "pubrel", packet_id, reason_code: 0 });
    }
  }

  on_closed(session: Session, code: Code): Will | null {
    const { will } = session;
    this.#withheld.delete(session);
    session.mqtt = null;
    session.acks_pending = 0;
    if (will === null) return null;
    // An operator who ends a session does not want it back within the delay.
    return code === codes.kicked ? { ...will, delay_s: 0 } : will;
  }

  published(session: Session, token: number, _offset: number, _audience: number): void {
    if (token === 0) return;
    if (is_qos_2(token)) {
      const waiting = session.incoming?.get(token & 0xffff);
      if (waiting === undefined) return; // the session began anew, or the client broke the rules
      session.incoming!.set(token & 0xffff, 0);
      this.#answer(session, waiting, 0);
      return;
    }
    if (this.#answer(session, token, 0)) this.#acked(session);
  }

  /**
   * The packet id of a QoS 2 publish is stored with the message: a crash forgets both or neither.
   */
  appending(session: Session, token: number): void {
    if (!is_qos_2(token) || session.transient) return;
    const kept = this.sessions.keep(session);
    if (kept instanceof Promise) kept.catch(() => {}); // the append of the same turn says so
  }

  refused(session: Session, token: number, code: Code, detail: string): void {
    this.hub.timeline.refused(session.id, code, "");
    if (token === 0) return; // QoS 0: counted by the router
    const packet_id = token & 0xffff;
    let answered = token;
    if (is_qos_2(token)) {
      answered = session.incoming?.get(packet_id) ?? token;
      this.#forget_incoming(session, packet_id);
      this.sessions.changed(session); // it may have been written down while the store was asked
    }
    if (!this.#is_current(session, answered)) return;
    if (code === codes.not_stored && session.wire !== Wire.mqtt5) {
      this.#withheld.add(session); // it sends again what was not acknowledged, when it is back
      return;
    }
    this.#acked(session);
    // 3.1.1 cannot refuse a PUBLISH. What is never allowed is acknowledged and dropped, or the
    // client would send it for ever [MQTT-3.3.5-2]; anything else it sends again when it is back.
    if (session.wire !== Wire.mqtt5) {
      if (code !== codes.forbidden && code !== codes.denied) {
        return this.hub.close(session, code, detail);
      }
      return this.#acknowledge_dropped(session, packet_id, answered);
    }
    const type = is_qos_2(token) ? "pubrec" : "puback";
    const reason_code = reason_for(type, 5, code);
    this.#send(session, { type, packet_id, reason_code }, session.mqtt?.terse ? "" : detail);
  }

  /** Answers a publish of 3.1.1 that was refused as if it had been taken. */
  #acknowledge_dropped(session: Session, packet_id: number, token: number): void {
    if (is_qos_2(token)) this.#remember_incoming(session, packet_id, 0); // until its PUBREL
    this.#answer(session, token, 0);
  }

  #granted(
    session: Session,
    present: boolean,
    connect: Connect,
    expiry_s: number,
    will: Will | null,
  ): void {
    const written = this.sessions.opened(session, expiry_s, will);
    session.acks_pending = 0;
    const terse = connect.properties?.request_problem_information === false;
    const packet_bytes_max = connect.properties?.maximum_packet_bytes ?? 0;
    session.mqtt = terse || packet_bytes_max > 0 ? { aliases: [], terse, packet_bytes_max } : null;
    const { conn, generation } = session;
    if (!this.#send(session, this.#connack(session, present, connect))) {
      return this.hub.drop(session, codes.frame_too_large); // it cannot even be let in
    }
    this.reactor.activate(conn, generation, {
      keepalive_ms: this.#keepalive_s(connect) * 1500, // [MQTT-3.1.2-22]
      inflight_max: Math.min(connect.properties?.receive_maximum ?? 65_535, limits.inflight_max),
      frame_bytes_max: packet_bytes_max,
      report_acks: !session.transient,
      hold_releases: !session.transient,
      topic_alias_max: Math.min(
        connect.properties?.topic_alias_maximum ?? 0, // [MQTT-3.1.2-27]
        limits.topic_alias_out_max,
      ),
    });
    if (present) this.hub.resume(session, written);
    else session.cursor = this.router.dispatched;
  }

  #connack(session: Session, present: boolean, connect: Connect): Packet {
    const packet = { type: "connack", session_present: present, reason_code: 0 } as const;
    if (connect.version === 4) return packet;
    const keepalive_s = this.#keepalive_s(connect);
    return {
      ...packet,
      properties: {
        receive_maximum: limits.receive_max,
        maximum_packet_bytes: limits.frame_bytes_max,
        topic_alias_maximum: limits.topic_alias_max,
        // [MQTT-3.2.2-16]
        ...(connect.client_id === "" ? { assigned_client_id: plain_name(session.id) } : {}),
        ...(keepalive_s === connect.keepalive_s ? {} : { server_keepalive_s: keepalive_s }),
      },
    };
  }

  /** What the client asked for; 3.1.1 cannot be told of another [MQTT-3.2.2-21]. */
  #keepalive_s({ version, keepalive_s }: Connect): number {
    const { keepalive_max_s } = this.options;
    if (version === 4 || keepalive_max_s >= 65_535) return keepalive_s;
    return keepalive_s === 0 ? keepalive_max_s : Math.min(keepalive_s, keepalive_max_s);
  }

  #publish_will(will: Will): void {
    const time_ms = this.now_ms();
    const expires_ms = will.expiry_s < 0 ? 0 : time_ms + will.expiry_s * 1000;
    this.router.publish({ ...will.message, time_ms, expires_ms }, nobody, 0, null);
    // Into the store with the row that does not have it any more: a crash leaves one of them.
    this.router.end_turn();
  }

  #publish(session: Session, bytes: Uint8Array, begin: number, end: number): void {
    const view = this.#view;
    const refusal = this.#decode_publish(session, bytes, begin, end);
    const topic = this.#topic(session, view);
    const { qos, retain, packet_id } = view;
    const token = qos === 0 ? 0 : token_of(session, packet_id, qos);
    if (qos > 0 && !this.#takes(session, token)) return;
    const time_ms = this.now_ms();
    // A QoS 0 message that is sent at once never outlives the frame that it came in.
    const passes = qos === 0 && !retain && session.appends_pending === 0;
    const payload = passes
      ? bytes.subarray(view.payload_begin, view.payload_end)
      : bytes.slice(view.payload_begin, view.payload_end);
    const payload_bytes = view.payload_end - view.payload_begin;
    const admitted = refusal ?? admit_publish(session.access, topic, payload_bytes, time_ms);
    const why = typeof admitted === "string" ? null : admitted;
    const plain = {
      topic: typeof admitted === "string" ? admitted : topic,
      payload,
      qos,
      retain,
      time_ms,
      expires_ms: view.message_expiry_s < 0 ? 0 : time_ms + view.message_expiry_s * 1000,
      key: "",
    };
    let { properties } = view;
    if (retain || session.no_local) properties = { ...properties, publisher: session.id };
    const message: Message = properties === undefined ? plain : { ...plain, properties };
    if (why !== null) return this.router.refuse(message, session, token, why, session);
    this.router.publish(message, session, token, session);
  }

  /** Reads a PUBLISH into the view; answers why it is refused, where its answer can say so. */
  #decode_publish(
    session: Session,
    bytes: Uint8Array,
    begin: number,
    end: number,
  ): Refusal | null {
    const view = this.#view;
    try {
      decode_publish(bytes, begin, end, version_of(session), view);
      return null;
    } catch (error) {
      const is_told = error instanceof Refusal && error.code === codes.payload_invalid; // 3.3.2.3.2
      if (is_told && view.qos > 0) return error;
      throw error;
    }
  }

  /** The topic, through the alias where there is one [MQTT-3.3.2-8], [MQTT-3.3.2-12]. */
  #topic(session: Session, view: PublishView): string {
    const alias = view.topic_alias;
    if (alias === 0) return view.topic;
    if (alias > limits.topic_alias_max) { // [MQTT-3.3.2-9]
      throw new Refusal(codes.topic_alias_invalid, `Topic Alias ${alias} is over the maximum`);
    }
    const state = session.mqtt ??= { aliases: [], terse: false, packet_bytes_max: 0 };
    if (view.topic !== "") return state.aliases[alias] = view.topic;
    const topic = state.aliases[alias];
    if (topic === undefined) {
      throw new Refusal(codes.protocol_error, `Topic Alias ${alias} was not set`);
    }
    return topic;
  }

  /** Whether the publish is to be carried out: there is room for it, and it is not a repetition. */
  #takes(session: Session, token: number): boolean {
    if (session.wire === Wire.mqtt5 && session.acks_pending >= limits.receive_max) {
      throw new Refusal(codes.receive_maximum); // [MQTT-3.3.4-9]
    }
    session.acks_pending++;
    if (!is_qos_2(token)) return true;
    // Method A of section 4.3.3: remembers the packet id [MQTT-4.3.3-10].
    const { incoming } = session;
    const packet_id = token & 0xffff;
    const known = incoming?.get(packet_id);
    if (known === undefined) {
      this.#remember_incoming(session, packet_id, token);
      return true;
    }
    // While the store works on it, the answer is still to come: to this connection then.
    if (known !== 0) incoming!.set(packet_id, token);
    else this.#answer(session, token, 0);
    return false;
  }

  #remember_incoming(session: Session, packet_id: number, token: number): void {
    const { incoming } = session;
    if (incoming === null) session.incoming = new Map([[packet_id, token]]);
    else incoming.set(packet_id, token);
  }

  #forget_incoming(session: Session, packet_id: number): boolean {
    const { incoming } = session;
    const was_there = incoming?.delete(packet_id) ?? false;
    if (was_there && incoming!.size === 0) session.incoming = null;
    return was_there;
  }

  #acked(session: Session): void {
    if (session.acks_pending > 0) session.acks_pending--;
  }

  #pubrel(session: Session, packet_id: number): void {
    const known = this.#forget_incoming(session, packet_id);
    const reason_code = known || session.wire !== Wire.mqtt5 ? 0 : packet_id_not_found;
    const answer = () => {
      this.#acked(session);
      this.#send(session, { type: "pubcomp", packet_id, reason_code });
    };
    // After PUBCOMP the id may come again for another message: a crash must not bring it back.
    if (known) this.hub.when_kept(session, answer);
    else answer();
  }

  #subscribe_in_turn(session: Session, packet: Subscribe): void {
    // What was published before does not say who did, so that it has to be gone [MQTT-3.8.3-3].
    const is_first = !session.no_local && packet.subscriptions.some(({ no_local }) => no_local);
    if (is_first) session.no_local = true;
    this.hub.in_turn(session, () => this.#subscribe(session, packet), is_first);
  }

  #subscribe(session: Session, packet: Subscribe): void {
    const identifier = packet.properties?.subscription_id ?? 0;
    const reason_codes: number[] = [];
    const retained: [filter: string, options: number][] = [];
    const tenant = session.access?.tenant;
    let detail = "";
    for (const wanted of packet.subscriptions) {
      const filter = tenant?.filter(wanted.filter) ?? wanted.filter;
      const refusal = this.hub.refusal_of(session, filter);
      if (refusal !== null) {
        reason_codes.push(reason_for("suback", version_of(session), refusal));
        detail = refusal.meaning;
        continue;
      }
      const { qos, retain_as_published, no_local, retain_handling } = wanted;
      const options = SubscriptionOptions.pack(qos, retain_as_published, no_local, identifier);
      const is_new = session.options_of(filter) === undefined;
      this.hub.subscribe(session, filter, options);
      reason_codes.push(qos);
      // [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
      // none for shared subscriptions: section 4.8.2
      if (!is_shared(filter) && (retain_handling === 0 || retain_handling === 1 && is_new)) {
        retained.push([filter, options]);
      }
    }
    const { packet_id } = packet;
    this.hub.when_kept(session, () => {
      const told = session.mqtt?.terse ? "" : detail; // [MQTT-3.1.2-29]
      this.#send(session, { type: "suback", packet_id, reason_codes }, told);
      for (const [filter, options] of retained) this.hub.send_retained(session, filter, options);
    });
  }

  #unsubscribe(session: Session, packet: Unsubscribe): void {
    const { packet_id, filters } = packet;
    const tenant = session.access?.tenant;
    const found = filters.map((filter) => {
      return this.hub.unsubscribe(session, tenant?.filter(filter) ?? filter)
        ? 0
        : no_subscription_existed;
    });
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
    }
    if (packet.reason_code === 0) session.will = null; // [MQTT-3.14.4-3]
    this.hub.drop(session, codes.normal);
  }

  /** Sends PUBACK or PUBREC to the connection of the token, if it is still there. */
  #answer(session: Session, token: number, reason_code: number): boolean {
    if (!this.#is_current(session, token)) return false;
    const type = is_qos_2(token) ? "pubrec" : "puback";
    const version = version_of(session);
    const at = this.reactor.begin_send(session.conn, session.generation, 5);
    const out = this.reactor.commands;
    this.reactor.end_send(encode_ack_into(out, at, type, version, token & 0xffff, reason_code));
    this.sent++;
    return true;
  }

  /** Whether the connection that the token was made for is still the session's. */
  #is_current(session: Session, token: number): boolean {
    return token !== 0 && session.connected && !session.closing &&
      Math.floor(token / 0x20000) === session.connection_tag;
  }

  /** Sends a packet, `detail` as its reason string; false = the client takes none of its size. */
  #send(session: Session, packet: Packet, detail = ""): boolean {
    const bytes_max = session.mqtt?.packet_bytes_max || Infinity;
    const frame = encode_within(packet, version_of(session), detail, bytes_max);
    if (frame === null) return false;
    this.sent++;
    this.reactor.send(session.conn, session.generation, frame);
    return true;
  }
}

/** Publishes that nobody waits for. */
const nobody = { appends_pending: 0, published(): void {}, refused(): void {} };

/** Throws Refusal where the client may not publish it. */
function will_of(will: NonNullable<Connect["will"]>, access: Access | null): Will {
  const { will_delay_s = 0, message_expiry_s = -1, ...properties } = will.properties ?? {};
  const { payload, qos, retain } = will;
  const topic = admit_will(access, will.topic);
  const message = { topic, payload, qos, retain, key: "", properties };
  return { message, delay_s: will_delay_s, expiry_s: message_expiry_s };
}

/**
 * A packet with its reason string; without it where the packet would be larger than the client
 * takes [MQTT-3.2.2-19], [MQTT-3.14.2-3]; null where it is even so [MQTT-3.1.2-24].
 */
function encode_within(
  packet: Packet,
  version: Version,
  detail: string,
  bytes_max: number,
): Uint8Array | null {
  if (detail !== "" && version === 5) {
    const before = "properties" in packet ? packet.properties : undefined;
    const properties = { ...before, reason_string: detail };
    const frame = encode({ ...packet, properties } as Packet, version);
    if (frame.length <= bytes_max) return frame;
  }
  const frame = encode(packet, version);
  return frame.length <= bytes_max ? frame : null;
}

/** Bits 0-15 packet id, bit 16 QoS 2, above them the connection. Never 0. */
function token_of(session: Session, packet_id: number, qos: Qos): number {
  return session.connection_tag * 0x20000 + (qos === 2 ? 0x10000 : 0) + packet_id;
}

function is_qos_2(token: number): boolean {
  return (token & 0x10000) !== 0;
}
