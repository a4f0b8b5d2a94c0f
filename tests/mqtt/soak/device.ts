/**
 * A client that keeps to the protocol through every cut: its exchanges in both directions go on
 * with the session, and what it asked and saw is noted for the judge. What it does, and when, is
 * traffic.ts's.
 */
import type { Address } from "../../../core/address.ts";
import type { Qos } from "../../../core/message.ts";
import {
  type Connack,
  type Connect,
  encode,
  type Packet,
  type Publish,
  type Version,
} from "../../../core/protocol/mqtt.ts";
import { publish_packet } from "../../support/mqtt_client.ts";
import { type Options, Session } from "./held.ts";
import { type Ledger, type Message, now } from "./ledger.ts";
import { Link, type LinkOwner } from "./link.ts";
import type { Delivery } from "./held.ts";

/** What a client knows of the soak that it is part of. */
export interface Surroundings {
  readonly ledger: Ledger;
  readonly problems: string[];
  readonly mqtt: Address;
  readonly is_restarting: boolean;
  /** Counts how often the service was started. */
  readonly service_number: number;
  /** The service of this number was killed: what it had not written down by then is lost. */
  is_killed(service_number: number): boolean;
  /** When the service was stopped or killed; Infinity = it was not, or is there again. */
  readonly interrupted: number;
  /** Whether anybody has had the message. */
  has_come(message: Message): boolean;
  /** Whether the service may have lost a session. */
  may_forget(session: Session): boolean;
  /** Something came: things have not come to rest. */
  stirred(): void;
}

/** A publish of ours whose exchange is not over. */
interface Outgoing {
  readonly message: Message;
  is_released: boolean;
  /** Messages without an answer that went before it, on the connection that it went on last. */
  before: number;
}

/** What SUBACK or UNSUBACK is to say. */
interface Asked {
  readonly session: Session;
  readonly filters: readonly string[];
  readonly qos: readonly Qos[];
  readonly at: number;
}

/** How a connection is asked for. */
export interface Plan {
  readonly version: Version;
  readonly clean: boolean;
  /** 3.1.1: 0 = clean session. */
  readonly expiry_s: number;
  readonly keepalive_s: number;
  readonly receive_maximum: number;
  readonly bytes_max: number;
  /** Acknowledgements wait this long; 0 = not at all. */
  readonly ack_delay_ms: number;
  readonly will: { readonly qos: Qos; readonly delay_s: number; readonly retain: false } | null;
}

interface WillOf {
  readonly message: Message;
  readonly delay_s: number;
  /** The service has it with the session: it has answered something that it wrote down later. */
  is_written: boolean;
}

function begun_anew(plan: Plan): Plan {
  return plan.version === 4 ? { ...plan, clean: true, expiry_s: 0 } : { ...plan, clean: true };
}

/** Lines that a client remembers for the report of a failure. */
const trail_max = 20_000;

export class Device implements LinkOwner {
  session: Session | null = null;
  /** Sessions that are over. */
  readonly past: Session[] = [];
  link: Link | null = null;
  plan: Plan | null = null;
  readonly outgoing = new Map<number, Outgoing>();
  /** QoS 2 messages that came and were not released. */
  readonly #incoming = new Map<number, Message | null>();
  readonly #asked = new Map<number, Asked>();
  /** QoS 0 messages that this connection sent and no later publish was answered. */
  #unanswered: Message[] = [];
  /** How many of this connection are not in there any more. */
  #taken = 0;
  #acks: (() => void)[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #packet_id = 0;
  #number = 0;
  #will: WillOf | null = null;
  /** A will that waits for its delay. */
  #waiting_will: WillOf & { readonly cut: number } | null = null;
  /** Wills that were published or withdrawn, and a kill would undo that. */
  #unwritten: Message[] = [];
  /** A session that was kept has ended, and a kill would bring it back, or has perhaps. */
  #has_unwritten_end = false;
  #has_unsure_end = false;
  /** The service that the connection is one of. */
  #service_number = 0;
  readonly #aliases = new Map<string, number>();
  readonly trail: string[] = [];
  readonly #marks = new Map<string, () => void>();

  constructor(readonly id: string, readonly world: Surroundings) {}

  get ledger(): Ledger {
    return this.world.ledger;
  }

  note(text: string): void {
    this.trail.push(`${now().toFixed(1)} ${text}`);
    if (this.trail.length > trail_max) this.trail.shift();
  }

  problem(what: string): void {
    this.note(`PROBLEM ${what}`);
    this.world.problems.push(`${this.id}: ${what}`);
  }

  // ------------------------------------------------------------------ connections

  /** Connects, in the place of the connection that is there; answers whether it was let in. */
  async connect(wanted: Plan): Promise<boolean> {
    const before = this.link;
    const { session } = this;
    const plan = this.#begins_anew ? begun_anew(wanted) : wanted;
    if (session !== null && (plan.clean || this.plan?.expiry_s === 0)) {
      session.ending = Math.min(session.ending, now());
    }
    if (before !== null) this.#will_due("taken over", now());
    const packet = this.#connect_packet(plan);
    this.note(`CONNECT v${plan.version} clean=${plan.clean} expiry=${plan.expiry_s}`);
    const { mqtt, service_number } = this.world;
    this.#next_service_number = service_number;
    let link: Link;
    let connack: Promise<Connack | undefined>;
    try {
      [link, connack] = await Link.open(mqtt, packet, this, before);
    } catch (error) {
      const is_gone = this.world.is_restarting || this.world.mqtt !== mqtt;
      if (!is_gone) this.problem(`cannot connect: ${error}`);
      return false;
    }
    const answer = await connack;
    if (answer === undefined && !this.world.is_restarting && !link.is_cut) {
      this.problem("the connection ended before CONNACK");
    }
    return answer !== undefined;
  }

  /** Who was not told that a session is over goes on asking for that. */
  get #begins_anew(): boolean {
    const { ending = Infinity, ended = Infinity } = this.session ?? {};
    return this.#has_unsure_end || ending < Infinity && ended === Infinity;
  }

  #connect_packet(plan: Plan): Connect {
    const { version, clean, expiry_s, keepalive_s, receive_maximum, bytes_max } = plan;
    this.#next_plan = plan;
    this.#next_will = null;
    const common = { type: "connect", version, client_id: this.id, keepalive_s } as const;
    const will = plan.will === null ? {} : { will: this.#make_will(plan) };
    if (version === 4) return { ...common, ...will, clean_start: expiry_s === 0 };
    const properties = {
      ...(expiry_s > 0 ? { session_expiry_s: expiry_s } : {}),
      ...(receive_maximum > 0 ? { receive_maximum } : {}),
      ...(bytes_max < Infinity ? { maximum_packet_bytes: bytes_max } : {}),
      topic_alias_maximum: 8,
    };
    return { ...common, ...will, clean_start: clean, properties };
  }

  #next_plan: Plan | null = null;
  #next_service_number = 0;
  #next_will: WillOf | null = null;

  #make_will({ version, will }: Plan) {
    const { qos, delay_s } = will!;
    const message = this.ledger.add({
      publisher: `${this.id}+will`,
      number: this.#number++,
      topic: `w/${this.id}`,
      qos,
      retain: false,
      size: 10,
      expiry_s: 0,
      begun: now(),
    });
    this.#next_will = { message, delay_s: version === 5 ? delay_s : 0, is_written: false };
    const properties = version === 5 && delay_s > 0
      ? { properties: { will_delay_s: delay_s } }
      : {};
    const payload = new TextEncoder().encode(this.ledger.payload_of(message));
    return { topic: message.topic, payload, qos, retain: false, ...properties };
  }

  answered(link: Link, { reason_code, session_present }: Connack): void {
    this.note(`CONNACK ${reason_code} present=${session_present}`);
    if (reason_code !== 0) return this.problem(`CONNACK ${reason_code}`);
    const plan = this.#next_plan!;
    const begins_clean = plan.version === 4 ? plan.expiry_s === 0 : plan.clean;
    this.#check_present(session_present, begins_clean);
    this.#has_unsure_end = false;
    this.#has_unwritten_end ||= (begins_clean || plan.expiry_s === 0) &&
      (this.plan?.expiry_s ?? 0) > 0;
    this.#service_number = this.#next_service_number;
    if (this.#is_of_killed) this.#has_unsure_end = this.#has_unwritten_end;
    this.#will_resolved(session_present, link.since);
    if (!session_present) this.#begin_session(link.opened);
    const session = this.session!;
    this.link = link;
    this.plan = plan;
    this.#will = this.#next_will;
    if (this.#will !== null) this.#will.message.begun = link.opened;
    session.connections++;
    session.open_since = link.since;
    session.is_narrow = plan.receive_maximum > 0 || plan.ack_delay_ms > 0;
    session.bytes_max = Math.min(session.bytes_max, plan.bytes_max);
    this.#resend(link);
  }

  #check_present(present: boolean, begins_clean: boolean): void {
    const { session } = this;
    const must_end = begins_clean || session === null || session.ended < Infinity;
    if (present && must_end) this.problem("Session Present 1 of a session that is over");
    if (!present && !must_end && !this.world.may_forget(session)) {
      this.problem("Session Present 0 of a session that is kept");
    }
  }

  #begin_session(at: number): void {
    this.#end_session(at);
    this.session = new Session(this.id, at);
    this.outgoing.clear();
    this.#incoming.clear();
  }

  /** The service has no session of this client any more. */
  #end_session(at: number): void {
    const { session } = this;
    if (session === null) return;
    session.ending = Math.min(session.ending, at);
    session.ended = Math.min(session.ended, now());
    this.past.push(session);
    this.session = null;
  }

  ended(link: Link): void {
    if (link !== this.link) return;
    this.note("connection over");
    this.link = null;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#acks = [];
    this.#asked.clear();
    this.#unanswered = [];
    this.#taken = 0;
    this.#aliases.clear();
    if (this.session !== null) {
      this.session.open_since = Infinity;
      if (this.plan!.expiry_s === 0) {
        this.session.ending = Math.min(this.session.ending, now());
        this.session.ended = now();
      }
    }
    this.#will_due("connection lost", Math.min(link.ending, this.world.interrupted, now()));
  }

  /** Ends the connection without a word. */
  async cut(in_packet: boolean): Promise<void> {
    const { link } = this;
    if (link === null) return;
    this.note(in_packet ? "cut in a packet" : "cut");
    let rest: Uint8Array | undefined;
    if (in_packet) {
      const message = this.#new_message({ topic: "s/a", qos: 1, retain: false, size: 20 });
      message.is_never = true;
      const payload = this.ledger.payload_of(message);
      const bytes = encode(
        publish_packet(message.topic, payload, { qos: 1, packet_id: this.#next_id() }),
        link.version,
      );
      rest = bytes.subarray(0, bytes.length - 1 - message.number % 20);
    }
    await link.cut(rest);
  }

  /** Says DISCONNECT: nothing is published. */
  async leave(): Promise<void> {
    const { link } = this;
    if (link === null) return;
    this.note("DISCONNECT");
    const { expiry_s } = this.plan!;
    if (this.#will !== null) this.#withdraw(this.#will.message, expiry_s > 0);
    this.#will = null;
    if (expiry_s === 0 && this.session !== null) this.session.ending = now();
    await link.leave({ type: "disconnect", reason_code: 0 });
  }

  // ------------------------------------------------------------------ wills

  /** The connection that left it is gone: it is published at once, or waits. */
  #will_due(why: string, at: number): void {
    const will = this.#will;
    if (will === null) return;
    this.#will = null;
    this.note(`will ${will.message.id}: ${why}`);
    const is_kept = this.plan!.expiry_s > 0;
    will.message.begun = at;
    will.message.ended = Infinity;
    if (!will.is_written && this.#is_of_killed) return;
    if (will.delay_s > 0 && is_kept) {
      this.#waiting_will = { ...will, cut: at };
      return;
    }
    will.message.is_sure = !this.world.is_restarting || is_kept;
    if (!will.is_written) this.#unwritten.push(will.message);
  }

  get #is_of_killed(): boolean {
    return this.world.is_killed(this.#service_number);
  }

  /** It is not published, unless a kill makes the service forget that. */
  #withdraw(will: Message, is_kept: boolean): void {
    if (is_kept && this.#is_of_killed) {
      will.ended = Infinity; // nobody may have heard it
      return;
    }
    will.is_never = true;
    if (is_kept) this.#unwritten.push(will);
  }

  /** The service has answered what it writes down after all that it had to do before. */
  #written(): void {
    this.#unwritten = [];
    this.#has_unwritten_end = false;
    if (this.#will !== null) this.#will.is_written = this.plan!.expiry_s > 0;
  }

  /** The service is being killed. */
  killed(): void {
    for (const will of this.#unwritten) {
      will.is_never = false;
      will.ended = Infinity;
      // Who has it got it from the store.
      will.is_sure = will.is_sure && this.world.has_come(will);
    }
    this.#unwritten = [];
    this.#has_unsure_end = this.#has_unwritten_end;
    this.#has_unwritten_end = false;
    if (this.#waiting_will?.is_written === false) this.#waiting_will = null;
  }

  /** The client is back: a will that waited is published, withdrawn, or nobody can say. */
  #will_resolved(present: boolean, at: number): void {
    const waiting = this.#waiting_will;
    if (waiting === null) return;
    this.#waiting_will = null;
    const { message, cut, delay_s, is_written } = waiting;
    if (!present) { // its session has ended, if not before
      message.is_sure = is_written || !this.#is_of_killed;
      if (!is_written) this.#unwritten.push(message);
    } else if (at < cut + delay_s * 1000) this.#withdraw(message, true);
  }

  // ------------------------------------------------------------------ packets

  received(link: Link, packet: Packet): void {
    if (packet.type === "publish") return this.#published(link, packet);
    if (packet.type === "disconnect") {
      return this.note(`DISCONNECT ${packet.reason_code} from the service`);
    }
    switch (packet.type) {
      case "puback":
        this.#written();
        return this.#stored(link, packet);
      case "pubrec":
        return this.#stored(link, packet);
      case "pubcomp":
        this.outgoing.delete(packet.packet_id);
        return this.world.stirred();
      case "pubrel":
        return this.#released(link, packet.packet_id);
      case "suback":
        if (this.plan!.expiry_s > 0) this.#written();
        return this.#subscribed(packet.packet_id, packet.reason_codes);
      case "unsuback":
        return this.#unsubscribed(packet.packet_id);
      default:
        this.problem(`${packet.type} from the service`);
    }
  }

  /** What a publisher sent before what is answered now has been taken. */
  #answered({ before }: Outgoing): void {
    const count = Math.max(0, before - this.#taken);
    for (const message of this.#unanswered.splice(0, count)) {
      message.is_sure = true;
      message.ended = now();
    }
    this.#taken += count;
  }

  #published(link: Link, packet: Publish): void {
    let message: Message | undefined;
    try {
      message = this.ledger.read(link.with_topic(packet));
    } catch (error) {
      return this.problem((error as Error).message);
    }
    const { qos, dup, retain, packet_id } = packet;
    const how = `${qos}${dup ? " dup" : ""}${retain ? " retain" : ""} id=${packet_id}`;
    this.note(`PUBLISH ${message?.id ?? "(empty)"} ${how}`);
    const known = qos === 2 ? this.#incoming.get(packet_id) : undefined;
    if (known !== undefined) {
      if (known?.id !== message?.id) this.problem(`packet id ${packet_id}: another message`);
      if (!dup) this.problem(`packet id ${packet_id} again without DUP`);
      return this.#acknowledge(link, packet, null);
    }
    if (qos === 2) this.#incoming.set(packet_id, message ?? null);
    const { session } = this;
    const delivery: Delivery | null = message === undefined ? null : {
      message,
      qos,
      dup,
      retain,
      at: now(),
      connection: session!.connections,
      opened: link.opened,
      identifiers: packet.properties?.subscription_ids ?? [],
      is_settled: false,
    };
    if (delivery !== null) session!.note(delivery);
    this.#acknowledge(link, packet, delivery);
    if (message !== undefined) this.#marks.get(message.id)?.();
    this.world.stirred();
  }

  /** Acknowledges in order, at once or after a while. */
  #acknowledge(link: Link, { qos, packet_id }: Publish, delivery: Delivery | null): void {
    if (qos === 0) return;
    const ack = () => {
      if (qos === 1) link.settled(packet_id);
      link.say({ type: qos === 1 ? "puback" : "pubrec", packet_id, reason_code: 0 });
      if (delivery !== null && qos === 1) link.ping(() => delivery.is_settled = true);
    };
    const delay_ms = this.plan!.ack_delay_ms;
    if (delay_ms === 0 && this.#acks.length === 0) return ack();
    this.#acks.push(ack);
    this.#timer ??= setTimeout(() => this.flush_acks(), delay_ms);
  }

  flush_acks(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const ack of this.#acks.splice(0)) ack();
  }

  #released(link: Link, packet_id: number): void {
    this.note(`PUBREL id=${packet_id}`);
    this.#incoming.delete(packet_id);
    link.settled(packet_id);
    link.say({ type: "pubcomp", packet_id, reason_code: 0 });
  }

  // ------------------------------------------------------------------ publishing

  #next_id(): number {
    do this.#packet_id = this.#packet_id % 65_535 + 1; while (
      this.outgoing.has(this.#packet_id) || this.#asked.has(this.#packet_id)
    );
    return this.#packet_id;
  }

  #new_message(init: { topic: string; qos: Qos; retain: boolean; size: number }): Message {
    return this.ledger.add({
      publisher: this.id,
      number: this.#number++,
      expiry_s: 0,
      ...init,
      begun: now(),
    });
  }

  publish(
    init: { topic: string; qos: Qos; retain: boolean; size: number; expiry_s?: number },
    with_alias = false,
  ): Message | null {
    const { link } = this;
    if (link === null || link.is_over || this.outgoing.size > 200) return null;
    const expiry_s = link.version === 5 ? init.expiry_s ?? 0 : 0;
    const message = this.#new_message({ ...init, ...{ expiry_s } });
    const { id, topic, qos, size } = message;
    this.note(`publish ${id} to ${topic} qos ${qos} size ${size} expiry ${expiry_s}`);
    if (message.qos === 0) {
      this.#unanswered.push(message);
      link.say(this.#publish_packet(message, 0, false, with_alias));
    } else {
      const packet_id = this.#next_id();
      const before = this.#taken + this.#unanswered.length;
      this.outgoing.set(packet_id, { message, is_released: false, before });
      link.say(this.#publish_packet(message, packet_id, false, with_alias));
    }
    return message;
  }

  #publish_packet(message: Message, packet_id: number, dup: boolean, with_alias: boolean) {
    const { topic, qos, retain, expiry_s } = message;
    const options = { qos, retain, packet_id, dup };
    const payload = this.ledger.payload_of(message);
    if (this.link!.version === 4) return publish_packet(topic, payload, options);
    const expiry = expiry_s > 0 ? { message_expiry_s: expiry_s } : {};
    let sent_topic = topic;
    let alias = {};
    if (with_alias) {
      const known = this.#aliases.get(topic);
      if (known !== undefined) sent_topic = "";
      else this.#set_alias(topic);
      alias = { topic_alias: this.#aliases.get(topic)! };
    }
    return publish_packet(sent_topic, payload, { ...options, properties: { ...expiry, ...alias } });
  }

  /** Gives a topic one of four aliases, in the place of another topic. */
  #set_alias(topic: string): void {
    const alias = 1 + this.#number % 4;
    for (const [other, taken] of this.#aliases) if (taken === alias) this.#aliases.delete(other);
    this.#aliases.set(topic, alias);
  }

  #stored(link: Link, packet: Extract<Packet, { type: "puback" | "pubrec" }>): void {
    const { packet_id, reason_code, type } = packet;
    const out = this.outgoing.get(packet_id);
    if (out === undefined) return this.problem(`${type} of unknown packet id ${packet_id}`);
    if (reason_code >= 0x80) this.problem(`${type} ${reason_code} for ${out.message.id}`);
    if ((type === "puback") !== (out.message.qos === 1)) {
      this.problem(`${type} for ${out.message.id}`);
    }
    this.#answered(out);
    out.message.is_sure = true;
    out.message.ended = now();
    if (type === "puback") {
      this.outgoing.delete(packet_id);
      return this.world.stirred();
    }
    out.is_released = true;
    link.say({ type: "pubrel", packet_id, reason_code: 0 });
  }

  /** What earlier connections left open, in the order of the first time [MQTT-4.6.0-1]. */
  #resend(link: Link): void {
    for (const [packet_id, out] of this.outgoing) {
      this.note(`again ${out.message.id} ${out.is_released ? "PUBREL" : "PUBLISH"} ${packet_id}`);
      if (out.is_released) {
        link.say({ type: "pubrel", packet_id, reason_code: 0 });
        continue;
      }
      out.before = 0;
      if (out.message.qos === 1) out.message.copies++;
      link.say(this.#publish_packet(out.message, packet_id, true, false));
    }
  }

  // ------------------------------------------------------------------ subscribing

  /** Asks for filters; `options` are of all. */
  subscribe(filters: readonly string[], options: Options): void {
    const { link, session } = this;
    if (link === null || session === null || link.is_over) return;
    const at = now();
    const four = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
    const wanted = link.version === 5 ? options : { ...options, ...four, identifier: 0 };
    const packet_id = this.#next_id();
    this.note(`SUBSCRIBE ${filters} ${JSON.stringify(wanted)}`);
    for (const filter of filters) session.subscribe(filter, wanted, at);
    const qos = filters.map(() => wanted.qos);
    this.#asked.set(packet_id, { session, filters, qos, at });
    const { identifier: subscription_id, ...rest } = wanted;
    link.say({
      type: "subscribe",
      packet_id,
      subscriptions: filters.map((filter) => ({ filter, ...rest })),
      ...(subscription_id > 0 ? { properties: { subscription_id } } : {}),
    });
  }

  unsubscribe(filters: readonly string[]): void {
    const { link, session } = this;
    if (link === null || session === null || link.is_over) return;
    const at = now();
    this.note(`UNSUBSCRIBE ${filters}`);
    for (const filter of filters) session.leave(filter, at);
    const packet_id = this.#next_id();
    this.#asked.set(packet_id, { session, filters, qos: [], at });
    link.say({ type: "unsubscribe", packet_id, filters });
  }

  #take_asked(packet_id: number): Asked | null {
    const asked = this.#asked.get(packet_id);
    if (asked === undefined) this.problem(`SUBACK or UNSUBACK of unknown id ${packet_id}`);
    this.#asked.delete(packet_id);
    this.world.stirred();
    return asked ?? null;
  }

  #subscribed(packet_id: number, reason_codes: readonly number[]): void {
    const asked = this.#take_asked(packet_id);
    if (asked === null) return;
    const { session, filters, qos, at } = asked;
    this.note(`SUBACK ${filters} ${reason_codes}`);
    if (reason_codes.join() !== qos.join()) this.problem(`SUBACK ${reason_codes}, not ${qos}`);
    for (const filter of filters) session.granted(filter, at, now());
  }

  #unsubscribed(packet_id: number): void {
    const asked = this.#take_asked(packet_id);
    if (asked === null) return;
    this.note(`UNSUBACK ${asked.filters}`);
    for (const filter of asked.filters) asked.session.left(filter, asked.at, now());
  }

  // ------------------------------------------------------------------ rest

  /** Nothing of ours waits for an answer. */
  get is_idle(): boolean {
    return this.outgoing.size === 0 && this.#asked.size === 0 && this.#acks.length === 0;
  }

  has_seen(message: Message): boolean {
    return this.session?.deliveries.has(message) ?? false;
  }
}
