/**
 * Who hears what: audiences of the reactor by filter and wire form, so that one message is one
 * encode and one call per form, however many devices listen. Invariant: a connection gets one copy
 * of a message, however many of its subscriptions match.
 */
import type { Reactor } from "../ffi/reactor.ts";
import type { Message, StoredMessage } from "./message.ts";
import { plain_name } from "./namespace.ts";
import type { Zstd } from "./protocol/zstd.ts";
import { is_longwire, offline, type Session, SubscriptionOptions, type Wire } from "./session.ts";
import { TopicTree } from "./topic_tree.ts";
import type { PublishTrace } from "./tracing.ts";
import { Form, frame_bytes_max, FrameWriter } from "./wire_form.ts";

/** A listener within the process: a stream of HTTP, not a connection of the reactor. */
export interface Tap {
  /** True = it only reads the log, and is none of those that a publish has reached. */
  readonly is_reader?: boolean;
  /** One message; payload bytes may not be kept. `offset` 0 = not stored. */
  hear(message: Message, offset: number): void;
}

/** How one message goes to one connection. */
export interface Delivery {
  /** Packet id of the exchange that goes on; 0 = the message was not sent before. */
  readonly again?: number;
  /** It may have been sent before. */
  readonly dup?: boolean;
  /** As a retained message, not as one that was just published. */
  readonly retain?: boolean;
  /** Of a shared subscription. */
  readonly shared?: boolean;
  /** Subscription Identifiers; undefined = that of the options. */
  readonly identifiers?: readonly number[];
}

const none: number[] = [];

/** Those connected who match one filter, one audience of the reactor per wire form. */
class Subscribers {
  /** Triples: variant (subscription options * 4 + wire), audience, members. */
  variants: number[] = none;
  taps: Set<Tap> | null = null;
  /** Sessions that use Subscription Identifiers, and the options of their subscription. */
  identified: Map<Session, number> | null = null;

  get is_empty(): boolean {
    return this.variants.length === 0 && this.taps === null && this.identified === null;
  }
}

/** What a session with identifiers gets of one message. */
interface Wanted {
  qos: number;
  retain: boolean;
  readonly identifiers: number[];
}

/** Receivers of the same bytes. */
interface Copy {
  readonly form: Form;
  readonly identifiers: readonly number[];
  readonly audiences: number[];
}

/** The audience of one session alone, and how many of its subscriptions need it. */
interface Own {
  readonly audience: number;
  uses: number;
}

export class Fanout {
  /** Messages that nobody listened to. */
  unmatched = 0;
  /** Told when somebody begins to listen to a filter, and when nobody does any more. */
  on_interest: (filter: string, is_heard: boolean) => void = () => {};
  /** Filters that listen to who comes and goes. */
  presence_filters = 0;

  readonly #tree = new TopicTree<Subscribers>();
  readonly #free_audiences: number[] = [];
  #audience_count = 0;
  readonly #own = new Map<Session, Own>();
  #stamp = 0;
  /** When the message of this dispatch came, Reactor.now_us(); 0 = it is not timed. */
  #came_us = 0;
  /** Of its receivers; see PublishOptions. */
  #follow = 0;
  #watch = false;
  /** Scratch of one dispatch: form k goes to the audiences of list k. */
  readonly #forms: Form[] = [];
  readonly #lists: number[][] = [];
  /** Taps that have heard the message of this dispatch, when several filters may match. */
  readonly #told = new Set<Tap>();
  readonly #wanted = new Map<Session, Wanted>();
  readonly #writer: FrameWriter;

  constructor(readonly reactor: Reactor, now_ms: () => number) {
    this.#writer = new FrameWriter(reactor, now_ms);
  }

  /** Of the last fan-out: on_traced() names it. */
  get stamp(): number {
    return this.#stamp;
  }

  /** Compresses, from now on, what goes to devices that can read it. */
  use_zstd(zstd: Zstd): void {
    this.#writer.zstd = zstd;
  }

  get filter_count(): number {
    return this.#tree.size;
  }

  /** Whether anybody connected hears what is published to the topic. */
  is_heard(topic: string): boolean {
    return this.#tree.match(topic).length > 0;
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
    if (subscribers.is_empty) this.#drop(filter);
  }

  #subscribers(filter: string): Subscribers {
    let subscribers = this.#tree.get(filter);
    if (subscribers === undefined) {
      this.#tree.set(filter, subscribers = new Subscribers());
      this.on_interest(filter, true);
      if (is_presence(filter)) this.presence_filters++;
    }
    return subscribers;
  }

  #drop(filter: string): void {
    this.#tree.delete(filter);
    this.on_interest(filter, false);
    if (is_presence(filter)) this.presence_filters--;
  }

  /** Makes a connected session hear what matches the filter. */
  join(session: Session, filter: string, options: number): void {
    const subscribers = this.#subscribers(filter);
    if (session.identified) {
      (subscribers.identified ??= new Map()).set(session, options);
      this.use_own(session);
      return;
    }
    const variant = options * 4 + session.wire;
    let { variants } = subscribers;
    let at = 0;
    while (at < variants.length && variants[at] !== variant) at += 3;
    if (at === variants.length) {
      // A literal is as long as it has to be; push() would make room for 17, a million times.
      subscribers.variants = variants = [...variants, variant, this.#take_audience(), 0];
    }
    variants[at + 2]++;
    this.reactor.join(session.conn, session.generation, variants[at + 1]);
  }

  /** Undoes join(); `options` are those given there. */
  leave(session: Session, filter: string, options: number): void {
    const subscribers = this.#tree.get(filter);
    if (subscribers === undefined) throw new Error(`${session.id} never joined ${filter}`);
    if (session.identified) {
      subscribers.identified?.delete(session);
      if (subscribers.identified?.size === 0) subscribers.identified = null;
      this.drop_own(session);
    } else {
      this.#leave_variant(session, filter, subscribers, options * 4 + session.wire);
    }
    if (subscribers.is_empty) this.#drop(filter);
  }

  #leave_variant(session: Session, filter: string, of: Subscribers, variant: number): void {
    const at = of.variants.findIndex((each, index) => index % 3 === 0 && each === variant);
    if (at < 0) throw new Error(`${session.id} never joined ${filter}`);
    const audience = of.variants[at + 1];
    this.reactor.leave(session.conn, session.generation, audience);
    if (--of.variants[at + 2] > 0) return;
    this.#free_audiences.push(audience);
    of.variants.splice(at, 3);
  }

  #take_audience(): number {
    return this.#free_audiences.pop() ?? this.#audience_count++;
  }

  /** Gives a connected session an audience of its own; each use is undone by drop_own(). */
  use_own(session: Session): void {
    const own = this.#own.get(session);
    if (own !== undefined) {
      own.uses++;
      return;
    }
    const audience = this.#take_audience();
    this.#own.set(session, { audience, uses: 1 });
    this.reactor.join(session.conn, session.generation, audience);
  }

  drop_own(session: Session): void {
    const own = this.#own.get(session);
    if (own === undefined) throw new Error(`${session.id} has no audience of its own`);
    if (--own.uses > 0) return;
    this.#own.delete(session);
    this.reactor.leave(session.conn, session.generation, own.audience);
    this.#free_audiences.push(own.audience);
  }

  /** Writes one stored or retained message for one connection only. */
  deliver(session: Session, message: StoredMessage, options: number, how: Delivery): void {
    const { again = 0, retain = false, shared = false } = how;
    const identifier = SubscriptionOptions.identifier(options);
    const identifiers = how.identifiers ?? (identifier > 0 ? [identifier] : none);
    const plain = Form.of(options, session.wire, message);
    const form = retain ? Form.make(session.wire, Form.qos(plain), true) : plain;
    if (!shared || again > 0) session.delivered++;
    const at = this.reactor.begin_deliver(session.conn, session.generation, {
      seq: message.offset,
      qos: Form.qos(form),
      packet_id: again,
      released: false,
      aside: retain || shared || again > 0,
      settle: shared || again > 0,
      shared: shared && again === 0,
      behind_count: session.behind_count,
      bytes_max: frame_bytes_max(form, message, identifiers.length),
    });
    const end = this.#writer.write(
      at,
      form,
      message,
      message.offset,
      identifiers.length > 0 ? identifiers : undefined,
    );
    // [MQTT-3.3.1-1]: bit 3 of the fixed header
    if ((again > 0 || how.dup) && !is_longwire(session.wire)) this.reactor.commands[at] |= 8;
    this.reactor.end_deliver(end, this.#writer.packet_id_at);
  }

  /** Sends a QoS 0 copy to a session that has an audience of its own. */
  send_own(session: Session, message: Message, options: number): void {
    const own = this.#own.get(session);
    if (own === undefined) throw new Error(`${session.id} has no audience of its own`);
    const identifier = SubscriptionOptions.identifier(options);
    const form = Form.of(SubscriptionOptions.with_qos(options, 0), session.wire, message);
    this.#stamp_next();
    this.#send(form, [own.audience], message, 0, null, identifier > 0 ? [identifier] : undefined);
  }

  /**
   * Sends a message to everyone connected who matches; answers how many subscriptions that are.
   * @param came_us Reactor.now_us() of when it was published; 0 = it is not timed
   */
  dispatch(
    message: Message,
    offset: number,
    from: Session | null,
    came_us: number,
    trace: PublishTrace | null = null,
  ): number {
    const matched = this.#tree.match(message.topic);
    if (matched.length === 0) {
      this.unmatched++;
      return 0;
    }
    let members = 0;
    let count = 0;
    for (const { variants, taps, identified } of matched) {
      if (taps !== null) members += this.#tell(taps, message, offset, matched.length > 1);
      if (identified !== null) members += this.#gather(identified, message, from);
      for (let at = 0; at < variants.length; at += 3) {
        const form = Form.of(Math.floor(variants[at] / 4), (variants[at] & 3) as Wire, message);
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
    this.#came_us = came_us;
    if (trace !== null) {
      this.#follow = trace.follow;
      this.#watch = trace.watch;
    }
    // Best QoS first: who matches several filters gets the message once, at the best
    // [MQTT-3.3.5-1].
    for (let qos: number = message.qos; qos >= 0; qos--) {
      for (let k = 0; k < count; k++) {
        const form = this.#forms[k];
        if (Form.qos(form) === qos) this.#send(form, this.#lists[k], message, offset, from);
      }
    }
    if (this.#wanted.size > 0) this.#send_identified(message, offset);
    this.#came_us = 0;
    this.#follow = 0;
    this.#watch = false;
    return members;
  }

  /** Notes what sessions with identifiers want of a message, over all filters that match. */
  #gather(identified: Map<Session, number>, message: Message, from: Session | null): number {
    let members = 0;
    for (const [session, options] of identified) {
      if (session === from && SubscriptionOptions.no_local(options)) continue;
      members++;
      let wanted = this.#wanted.get(session);
      if (wanted === undefined) {
        this.#wanted.set(session, wanted = { qos: 0, retain: false, identifiers: [] });
      }
      wanted.qos = Math.max(wanted.qos, Math.min(SubscriptionOptions.qos(options), message.qos));
      wanted.retain ||= message.retain && SubscriptionOptions.retain_as_published(options);
      const identifier = SubscriptionOptions.identifier(options);
      if (identifier > 0) wanted.identifiers.push(identifier);
    }
    return members;
  }

  /** One copy, with the identifiers of all subscriptions that match [MQTT-3.3.4-3]. */
  #send_identified(message: Message, offset: number): void {
    const copies = new Map<string | number, Copy>();
    for (const [session, { qos, retain, identifiers }] of this.#wanted) {
      const form = Form.make(session.wire, qos, retain);
      const { audience } = this.#own.get(session)!;
      const name = identifiers.length === 1
        ? form + identifiers[0] * 64
        : `${form} ${identifiers.sort((a, b) => a - b)}`;
      const copy = copies.get(name);
      if (copy === undefined) copies.set(name, { form, identifiers, audiences: [audience] });
      else copy.audiences.push(audience);
    }
    this.#wanted.clear();
    for (const { form, audiences, identifiers } of copies.values()) {
      const some = identifiers.length > 0 ? identifiers : undefined;
      this.#send(form, audiences, message, offset, null, some);
    }
  }

  #tell(taps: ReadonlySet<Tap>, message: Message, offset: number, is_many: boolean): number {
    let members = 0;
    for (const tap of taps) {
      if (this.#told.has(tap)) continue;
      if (is_many) this.#told.add(tap);
      tap.hear(message, offset);
      if (!tap.is_reader) members++;
    }
    return members;
  }

  #stamp_next(): number {
    return this.#stamp = this.#stamp % 0xffffffff + 1;
  }

  #send(
    form: Form,
    audiences: readonly number[],
    message: Message,
    offset: number,
    from: Session | null,
    identifiers?: readonly number[],
  ): void {
    const left_out = Form.no_local(form) && from !== null && from.conn !== offline ? from : null;
    const qos = Form.qos(form);
    const at = this.reactor.begin_publish(
      {
        seq: qos > 0 ? offset : 0,
        stamp: this.#stamp,
        key: message.key === "" ? 0 : hash(message.key),
        qos,
        except_conn: left_out?.conn ?? offline,
        except_generation: left_out?.generation ?? 0,
        published_us: this.#came_us,
        follow: this.#follow,
        watch: this.#watch,
      },
      audiences,
      frame_bytes_max(form, message, identifiers?.length ?? 0),
    );
    const end = this.#writer.write(at, form, message, offset, identifiers);
    this.reactor.end_publish(end, this.#writer.packet_id_at);
  }
}

/** Whether a filter hears who comes and goes: no leading wildcard does. */
function is_presence(filter: string): boolean {
  return filter.charCodeAt(0) === 0x24 && plain_name(filter).startsWith("$presence/");
}

/** FNV-1a over UTF-16 units, never 0: names a conflation key to the reactor. */
function hash(key: string): number {
  let value = 0x811c9dc5;
  for (let index = 0; index < key.length; index++) {
    value = Math.imul(value ^ key.charCodeAt(index), 0x01000193) >>> 0;
  }
  return value === 0 ? 1 : value;
}
