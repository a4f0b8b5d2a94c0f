/**
 * What Longwire frames mean: the driver of connections that speak Longwire's own protocol. A
 * session is acknowledged cumulatively, so its cursor is all that must be known of what the device
 * has: there is no in-flight window, and what was not acknowledged is sent again to the next
 * connection.
 */
import { Buffer } from "node:buffer";
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { BusyAnswer, Reactor } from "../ffi/reactor.ts";
import { admit_publish } from "./access.ts";
import { type Code, code_list, codes, Refusal } from "./codes.ts";
import { type Driver, type Elsewhere, type Hub, Moved } from "./hub.ts";
import { limits } from "./limits.ts";
import { plain_name } from "./namespace.ts";
import {
  type Ack,
  decode_frame,
  encode,
  type Frame,
  type FrameCursor,
  type FrameInit,
  type FrameSubscription,
  type Hello,
  type PublishFrame,
  type StatusReport,
  type SubscribeFrame,
  type UnsubscribeFrame,
} from "./protocol/longwire.ts";
import { header_bytes } from "./protocol/longwire_frames.ts";
import { dictionary_id, type Zstd } from "./protocol/zstd.ts";
import type { Router } from "./router.ts";
import { type Session, SubscriptionOptions, Wire } from "./session.ts";
import type { Sessions } from "./sessions.ts";
import type { StatusBook } from "./status.ts";

/**
 * What a connection over the limit is told before it is closed; devices come back at random after
 * it.
 */
const busy_retry_after_ms = 5000;

/** The secret that a connection's Hello had. */
interface Unproven {
  readonly secret: number;
  readonly ends_ms: number;
}

/** A place in the log that a device names: an offset, or `lost` for one of another epoch. */
type Place = number | "lost";

export class LongwireDriver implements Driver {
  readonly name = "longwire";
  /** One start of this node: Welcome.boot_id. */
  readonly #boot_id = crypto.randomUUID();
  /** Of all nodes that a session may come to. */
  secret_key: Uint8Array = randomBytes(32);
  /** Where those connections stand that said so in Hello: their subscriptions start there. */
  readonly #resumed = new Map<Session, number>();
  #zstd: Zstd | undefined = undefined;
  /**
   * With which secret they came that have not shown yet that Welcome reached them, oldest first.
   */
  readonly #unproven = new Map<Session, Unproven>();

  constructor(
    readonly reactor: Reactor,
    readonly router: Router,
    readonly sessions: Sessions,
    readonly hub: Hub,
    readonly now_ms: () => number,
    readonly node_id: string,
    readonly status: StatusBook,
  ) {}

  /** Compresses with this from now on. */
  use_zstd(zstd: Zstd): void {
    this.#zstd = zstd;
    this.router.fanout.use_zstd(zstd);
  }

  on_first(conn: number, generation: number, bytes: Uint8Array, begin: number, end: number): void {
    const hello = decode_frame(bytes, begin, end);
    if (hello.type !== "hello") {
      throw new Refusal(codes.protocol_error, "The first frame must be Hello");
    }
    const shown = { id: hello.session_id, token: hello.token };
    const wire = this.#wire_for(hello);
    this.hub.identify(conn, generation, this, wire, shown, ({ id: plain, access }) => {
      const id = access === null ? plain : access.tenant.id(plain);
      const present = this.sessions.get(id);
      const takes_over = this.#is_secret_of(id, hello.resume_secret);
      if (present?.connected && !(takes_over && this.#is_newest(present, hello.resume_secret))) {
        const is_replay = hello.resume_secret !== "";
        throw new Refusal(is_replay ? codes.secret_replayed : codes.session_in_use);
      }
      this.hub.claim(conn, generation, this, {
        id,
        access,
        wire,
        clean: hello.clean,
        transient: hello.clean,
        takes_over,
        granted: (session, found) => this.#granted(session, found, hello),
      });
    });
  }

  /** Compression is agreed with those that can read all that may come. */
  #wire_for({ dictionaries }: Hello): Wire {
    const reads_all = dictionaries.includes(dictionary_id) && dictionaries.includes(0);
    return reads_all && this.#zstd !== undefined ? Wire.longwire_zstd : Wire.longwire;
  }

  on_frame(session: Session, bytes: Uint8Array, begin: number, end: number): void {
    const decompress = session.wire === Wire.longwire_zstd ? this.#zstd?.decompress : undefined;
    const frame: Frame = decode_frame(bytes, begin, end, decompress);
    if (this.#unproven.size > 0) this.#unproven.delete(session);
    switch (frame.type) {
      case "publish":
        return this.#publish(session, frame);
      case "ack":
        return this.#acked(session, frame);
      case "subscribe":
        return this.#subscribe(session, frame);
      case "unsubscribe":
        return this.#unsubscribe(session, frame);
      case "goodbye":
        return this.hub.drop(session, codes.normal);
      case "status":
        return this.#report(session, [frame]);
      case "status_batch":
        return this.#report(session, frame.reports);
      case "heartbeat":
        return this.#heartbeat(session, frame.time_s);
      default: // a second Hello, and what only the service sends
        throw new Refusal(codes.protocol_error, `A device may not send ${frame.type} here`);
    }
  }

  refuse_first(conn: number, generation: number, refusal: Refusal): void {
    const { code: { number: code }, message: detail, retry_after_ms } = refusal;
    const redirect = refusal instanceof Moved ? refusal.place.device : "";
    const frame = encode({ type: "refuse", code, detail, retry_after_ms, redirect });
    this.reactor.send(conn, generation, frame);
  }

  goodbye(session: Session, code: Code, detail: string, place?: Elsewhere): void {
    if (place?.device) {
      const reason = code.number;
      this.#send(session, { type: "redirect", address: place.device, reason, deadline_ms: 0 });
    }
    this.#send(session, { type: "goodbye", code: code.number, detail });
  }

  on_gap(session: Session, from: number, to: number): void {
    this.#send(session, { type: "gap", from: from + 1, to });
  }

  release(): void {
    // There are no exchanges: messages are acknowledged cumulatively.
  }

  on_closed(session: Session): null {
    this.#resumed.delete(session);
    this.#unproven.delete(session);
    return null;
  }

  published(session: Session, token: number, offset: number): void {
    if (!is_current(session, token)) return;
    this.#send(session, { type: "published", request_id: request_id_of(token), offset });
  }

  refused(
    session: Session,
    token: number,
    code: Code,
    detail: string,
    retry_after_ms: number,
  ): void {
    this.hub.timeline.refused(session.id, code, "");
    if (!is_current(session, token)) return;
    const request_id = request_id_of(token);
    this.#send(session, {
      type: "published",
      request_id,
      code: code.number,
      detail,
      retry_after_ms,
    });
  }

  /**
   * One for each connection: what a recorded Hello has is worth nothing later. Names the
   * connection, so that it can be told from those before, and every node can tell that it is ours.
   */
  #secret_of({ id, conn, generation }: Session): string {
    const place = `${this.#boot_id.slice(0, 8)}.${conn.toString(36)}.${generation.toString(36)}`;
    return `${place}.${this.#sign(id, place)}`;
  }

  #sign(id: string, place: string): string {
    const hash = createHmac("sha256", this.secret_key).update(`${place} ${id}`);
    return hash.digest("hex").slice(0, 32);
  }

  /** Whether a node of this service made it for a connection of the session. */
  #is_secret_of(id: string, given: string): boolean {
    const at = given.lastIndexOf(".");
    if (at < 0) return false;
    const signature = Buffer.from(given.slice(at + 1));
    const expected = Buffer.from(this.#sign(id, given.slice(0, at)));
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  }

  /** Whether it is of the session's connection, or the one that this came with itself. */
  #is_newest(session: Session, given: string): boolean {
    if (given === this.#secret_of(session)) return true;
    const unproven = this.#unproven.get(session);
    return unproven !== undefined && unproven.ends_ms > this.now_ms() &&
      unproven.secret === fingerprint(given);
  }

  /** Should Welcome not arrive, the device comes back with what it came with now. */
  #not_proven_yet(session: Session, secret: string): void {
    const now_ms = this.now_ms();
    for (const [oldest, { ends_ms }] of this.#unproven) {
      if (ends_ms > now_ms) break;
      this.#unproven.delete(oldest);
    }
    if (secret === "") return;
    const ends_ms = now_ms + limits.secret_grace_ms;
    this.#unproven.set(session, { secret: fingerprint(secret), ends_ms });
  }

  #granted(session: Session, present: boolean, hello: Hello): void {
    this.sessions.opened(session, hello.clean ? 0 : limits.longwire_session_expiry_s, null);
    forget_inflight(session);
    const asked_s = Math.min(hello.keepalive_s, limits.keepalive_max_s);
    const keepalive_s = asked_s === 0 ? limits.keepalive_default_s : asked_s;
    this.#welcome(session, present, keepalive_s);
    this.#not_proven_yet(session, hello.resume_secret);
    this.reactor.activate(session.conn, session.generation, {
      keepalive_ms: keepalive_s * 1000 * limits.heartbeats_missed_max,
      inflight_max: 0,
      frame_bytes_max: 0,
      report_acks: false,
      hold_releases: false,
    });
    const place = this.#place_of_hello(hello);
    if (typeof place === "number") {
      session.cursor = place;
      this.#resumed.set(session, place);
    } else if (place === "lost" || !present) {
      session.cursor = this.router.dispatched;
    }
    if (place === "lost") this.#all_lost(session);
    if (present) this.hub.resume(session, undefined); // a device knows what it has had
  }

  #welcome(session: Session, resumed: boolean, keepalive_s: number): void {
    this.#send(session, {
      type: "welcome",
      node: this.node_id,
      epoch: this.router.store.epoch,
      limits: {
        frame_bytes_max: limits.frame_bytes_max,
        payload_bytes_max: limits.payload_bytes_max,
        topic_bytes_max: limits.topic_bytes_max,
        filters_per_frame_max: limits.filters_per_packet_max,
        subscriptions_max: limits.subscriptions_per_session_max,
      },
      server_time_ms: this.now_ms(),
      keepalive_s,
      resumed,
      resume_secret: this.#secret_of(session),
      // What is stored but not dispatched yet still comes live.
      head_offset: this.router.dispatched,
      boot_id: this.#boot_id,
      session_id: plain_name(session.id),
      dictionaries: session.wire === Wire.longwire_zstd ? this.#zstd!.dictionaries : [],
    });
  }

  #report(session: Session, reports: readonly StatusReport[]): void {
    const refusal = this.status.take(reports);
    if (refusal === undefined) return;
    const { code, count } = refusal;
    this.#send(session, { type: "notice", code: code.number, count, detail: code.meaning });
  }

  /**
   * The reactor answers heartbeats itself, but for those that come before it was told to, and those
   * from the future: they get the right time, so that the device can mend its clock.
   */
  #heartbeat(session: Session, time_s: number): void {
    const now_ms = this.now_ms();
    this.#send(session, { type: "heartbeat", time_s: Math.floor(now_ms / 1000) });
    if (time_s * 1000 <= now_ms + limits.clock_ahead_max_ms) return;
    const { time_ahead } = codes;
    this.status.refuse(time_ahead, 1);
    const detail = time_ahead.meaning;
    this.#send(session, { type: "notice", code: time_ahead.number, count: 1, detail });
  }

  #place_of(cursor: FrameCursor): Place {
    const { epoch } = this.router.store;
    if (cursor.epoch !== "" && cursor.epoch !== epoch) return "lost";
    return Math.min(cursor.offset, this.router.dispatched);
  }

  /** A device that moved between clusters brings a cursor for each. */
  #place_of_hello(hello: Hello): Place | undefined {
    const places = hello.resume.map((cursor) => this.#place_of(cursor));
    return places.find((place) => place !== "lost") ?? places[0];
  }

  /** Offsets of another epoch say nothing about this one: what is in the log may all be new. */
  #all_lost(session: Session): void {
    this.on_gap(session, 0, this.router.dispatched);
  }

  #acked(session: Session, { offset, epoch }: Ack): void {
    if (epoch !== "" && epoch !== this.router.store.epoch) return; // late, of a log that is gone
    if (offset > this.router.dispatched) {
      throw new Refusal(codes.protocol_error, `Ack of offset ${offset}, which was not sent`);
    }
    const { measures, tracing, dispatched } = this.router;
    if (measures !== null && this.hub.replays.was_live(session, offset)) {
      measures.acknowledged(offset, dispatched, this.reactor.now_us());
    }
    tracing?.acknowledged(session, offset);
    this.sessions.acked(session, offset);
  }

  #publish(session: Session, frame: PublishFrame): void {
    const { request_id, payload, qos, retain, ttl_ms, key, properties } = frame;
    const token = token_of(session, request_id);
    const time_ms = this.now_ms();
    const expires_ms = ttl_ms === 0 ? 0 : Math.min(time_ms + ttl_ms, Number.MAX_SAFE_INTEGER);
    const admitted = admit_publish(session.access, frame.topic, payload.length, time_ms);
    const topic = typeof admitted === "string" ? admitted : frame.topic;
    const plain = { topic, payload, qos, retain, time_ms, expires_ms, key };
    const message = properties === undefined ? plain : { ...plain, properties };
    if (typeof admitted !== "string") {
      return this.router.refuse(message, session, token, admitted, session);
    }
    this.router.publish(message, session, token, session);
  }

  #subscribe(session: Session, { request_id, subscriptions }: SubscribeFrame): void {
    const results: number[] = [];
    const retained: [filter: string, options: number][] = [];
    const tenant = session.access?.tenant;
    let is_lost = false;
    for (const wanted of subscriptions) {
      const { qos } = wanted;
      const filter = tenant?.filter(wanted.filter) ?? wanted.filter;
      const refusal = this.hub.refusal_of(session, filter);
      results.push(refusal?.number ?? codes.normal.number);
      if (refusal !== null) continue;
      const options = SubscriptionOptions.pack(qos, false, false, 0);
      const is_new = session.options_of(filter) === undefined;
      const place = this.#start_of(session, wanted, is_new);
      if (typeof place === "number") {
        // A connection that ends before it is through begins there again.
        session.cursor = Math.min(session.cursor, place);
        this.hub.subscribe(session, filter, options, place);
      } else {
        is_lost ||= place === "lost";
        this.hub.subscribe(session, filter, options);
        if (is_new) retained.push([filter, options]);
      }
    }
    this.hub.when_kept(session, () => {
      this.#send(session, { type: "subscribed", request_id, codes: results });
      if (is_lost) this.#all_lost(session);
      for (const [filter, options] of retained) this.hub.send_retained(session, filter, options);
    });
  }

  /** Where a subscription starts; undefined = with what is published from now on. */
  #start_of(session: Session, wanted: FrameSubscription, is_new: boolean): Place | undefined {
    if (wanted.after !== undefined) return this.#place_of(wanted.after);
    return is_new ? this.#resumed.get(session) : undefined;
  }

  #unsubscribe(session: Session, { request_id, filters }: UnsubscribeFrame): void {
    const tenant = session.access?.tenant;
    const results = filters.map((filter) => {
      const code = this.hub.unsubscribe(session, tenant?.filter(filter) ?? filter)
        ? codes.normal
        : codes.not_found;
      return code.number;
    });
    this.hub.when_kept(session, () => {
      this.#send(session, { type: "unsubscribed", request_id, codes: results });
    });
  }

  #send(session: Session, frame: FrameInit): void {
    this.reactor.send(session.conn, session.generation, encode(frame));
  }
}

/** Refuse: answers a connection over a limit. Codes below 128 take one byte, behind field 1. */
export function busy_frame(): BusyAnswer {
  const { number, meaning } = codes.server_busy;
  const retry_after_ms = busy_retry_after_ms;
  const frame = encode({ type: "refuse", code: number, detail: meaning, retry_after_ms });
  return { frame, reason_at: header_bytes + 1, reasons: code_list.map(({ number }) => number) };
}

/**
 * A session that was MQTT's: what that left unacknowledged is sent again as if it never had been.
 */
function forget_inflight(session: Session): void {
  for (const { seq, aside } of session.inflight?.values() ?? []) {
    if (!aside) session.cursor = Math.min(session.cursor, seq - 1);
  }
  session.inflight = null;
  session.incoming = null;
}

/** 48 bits of a secret: enough to tell one from another within seconds. */
function fingerprint(secret: string): number {
  return createHash("sha256").update(secret).digest().readUIntBE(0, 6);
}

const request_ids = 0x1_0000_0000;

/** Bits 0-31 request id, above them 21 bits of the connection. 0 = no answer is wanted. */
function token_of(session: Session, request_id: number): number {
  return request_id === 0 ? 0 : session.connection_tag * request_ids + request_id;
}

function request_id_of(token: number): number {
  return token % request_ids;
}

/** Whether an answer is wanted, and the connection that wanted it is still the session's. */
function is_current(session: Session, token: number): boolean {
  return token !== 0 && session.connected && !session.closing &&
    Math.floor(token / request_ids) === session.connection_tag;
}
