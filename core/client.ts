/**
 * The Longwire client: one session with the service over whatever connections it takes. The
 * application reads events; it is given each stored message once, and a message is acknowledged
 * when the application comes back for the next event, so what it was working on when it died is
 * sent again.
 */
import { type Code, code_of, codes, Refusal } from "./codes.ts";
import { limits } from "./limits.ts";
import type { MessageProperties, Qos } from "./message.ts";
import {
  type Frame,
  type FrameCursor,
  type MessageFrame,
  protocol_version,
  type Published,
  type Redirect,
  type StatusReport,
  type Subscribed,
  type Welcome,
  type Zstd,
} from "./protocol/longwire.ts";
import { Acks } from "./client/acks.ts";
import {
  backoff_default,
  backoff_ms,
  type BackoffOptions,
  retry_after_ms,
  RetryBudget,
} from "./client/backoff.ts";
import { Breaker } from "./client/breaker.ts";
import { type ClockState, ServerClock } from "./client/clock.ts";
import { deferred } from "./client/deferred.ts";
import { EventQueue } from "./client/events.ts";
import { Link } from "./client/link.ts";
import { Publishes, type PublishReceipt, Subscriptions, type Wanted } from "./client/requests.ts";
import { type Rewind, Seen } from "./client/seen.ts";
import { open_tcp } from "./client/tcp.ts";
import type { Open } from "./client/transport.ts";
import { open_websocket } from "./client/websocket.ts";

export type { ClockState } from "./client/clock.ts";
export type { StatusReport } from "./protocol/longwire.ts";
export { type Zstd, zstd_of, type ZstdBinding } from "./protocol/zstd.ts";
export type { PublishReceipt } from "./client/requests.ts";
export type { Connection, Open } from "./client/transport.ts";
export { open_tcp } from "./client/tcp.ts";
export { open_websocket } from "./client/websocket.ts";

export interface ClientOptions {
  /**
   * host:port of the service, or ws:// and wss:// URLs; of several, the next is tried when one
   * fails.
   */
  readonly address: string | readonly string[];
  /** Absent = the service assigns one. */
  readonly session_id?: string;
  readonly token?: string;
  /**
   * The service keeps nothing of the session between connections; the client itself goes on by its
   * cursor.
   */
  readonly clean?: boolean;
  /** Heartbeat interval to ask for; 0 = the service's. */
  readonly keepalive_s?: number;
  /**
   * A connection that brings nothing for so long is given up; 0 = after three heartbeats. With less
   * than one heartbeat's interval it never lasts.
   */
  readonly silence_max_ms?: number;
  /** Where the application stands; absent = where the service last heard that it stood. */
  readonly cursor?: FrameCursor;
  /** Absent = TCP, or WebSocket for an address that is a URL. */
  readonly open?: Open;
  /** Absent = nothing is compressed. */
  readonly zstd?: Zstd;
  /** The `clock` event comes when our clock is so far from the server's. */
  readonly clock_skew_max_ms?: number;
  readonly connect_timeout_ms?: number;
  readonly backoff?: Partial<BackoffOptions>;
  /** Connections that may fail in a row; Infinity = as long as it takes. */
  readonly attempts_max?: number;
  /** A connection that lasted this long starts the backoff anew. */
  readonly stable_ms?: number;
  /** Repetitions of refused requests: so many for each request, and so many kept in reserve. */
  readonly retry_ratio?: number;
  readonly retry_reserve?: number;
  /** Messages acknowledged with one frame, and how long one may wait for it. */
  readonly ack_messages_max?: number;
  readonly ack_delay_ms?: number;
  /** Events that wait for the application; past it the client stops reading. */
  readonly events_max?: number;
  /** Publishes that wait for an answer. */
  readonly publishes_max?: number;
  /** 0 to 1; for tests. */
  readonly random?: () => number;
}

type Defaults = Required<Omit<ClientOptions, "address" | "cursor" | "backoff" | "zstd">>;

/** By the form of the address. */
function open_any(address: string, signal: AbortSignal): ReturnType<Open> {
  return /^wss?:/.test(address) ? open_websocket(address, signal) : open_tcp(address, signal);
}

const defaults: Defaults = Object.freeze({
  session_id: "",
  token: "",
  clean: false,
  keepalive_s: 0,
  silence_max_ms: 0,
  open: open_any,
  connect_timeout_ms: 10_000,
  attempts_max: Infinity,
  stable_ms: 10_000,
  clock_skew_max_ms: 60_000,
  retry_ratio: 0.1,
  retry_reserve: 10,
  ack_messages_max: 64,
  ack_delay_ms: 200,
  events_max: 1024,
  publishes_max: 1024,
  random: Math.random,
});

export type ClientEvent =
  | { readonly type: "connecting"; readonly address: string; readonly attempt: number }
  | { readonly type: "connected"; readonly welcome: Welcome }
  | {
    readonly type: "disconnected";
    readonly code: Code;
    readonly reason: string;
    /** Until the next attempt, milliseconds. */
    readonly retry_ms: number;
  }
  | { readonly type: "message"; readonly message: MessageFrame }
  /** Stored messages from `from` to `to`, both included, will not come. */
  | { readonly type: "gap"; readonly epoch: string; readonly from: number; readonly to: number }
  /** The service no longer takes a filter that it had taken. */
  | { readonly type: "subscription_lost"; readonly filter: string; readonly code: Code }
  /** Our clock is far from the server's, or one of them was set. */
  | { readonly type: "clock"; readonly clock: ClockState }
  /** The server's breaker: nothing is repeated for `retry_ms`; 0 = it is closed again. */
  | { readonly type: "breaker"; readonly retry_ms: number }
  /** Something that was sent was not taken: reports of a status, a heartbeat. */
  | { readonly type: "notice"; readonly code: Code; readonly count: number }
  /** The last event. */
  | { readonly type: "closed"; readonly code: Code; readonly reason: string };

export interface PublishOptions {
  /** Default 1. */
  readonly qos?: Qos;
  readonly retain?: boolean;
  /** 0 = never expires. */
  readonly ttl_ms?: number;
  readonly key?: string;
  readonly content_type?: string;
  readonly properties?: MessageProperties;
}

/** An event and what it means for acknowledgements. */
interface Entry {
  readonly event: ClientEvent;
  /** 0 = there is nothing to acknowledge. */
  readonly offset: number;
  readonly epoch: string;
  readonly ended: readonly Rewind[];
}

/** Filters in one Subscribe frame: far below the service's bound. */
const filters_per_frame = 100;
/** Redirections followed at once, one after the other, before they count as failures. */
const redirects_max = 4;
/** How long close() waits for the last frames to leave. */
const close_timeout_ms = 1000;

/** Starts a client; it connects at once and goes on until closed or refused for good. */
export function connect(options: ClientOptions): Client {
  return new Client(options);
}

export class Client implements AsyncIterable<ClientEvent> {
  readonly #options: Defaults & ClientOptions;
  readonly #backoff: BackoffOptions;
  readonly #addresses: readonly string[];
  readonly #budget: RetryBudget;
  readonly #events: EventQueue<Entry>;
  readonly #seen = new Seen();
  readonly #acks: Acks;
  readonly #publishes: Publishes;
  readonly #subscriptions = new Subscriptions();
  readonly #clock = new ServerClock(() => performance.now(), Date.now);
  readonly #breaker = new Breaker((retry_ms) => this.#push({ type: "breaker", retry_ms }));
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #closing = new AbortController();
  readonly #done: Promise<void>;
  /** The connection, from before Hello to its end. */
  #link: Link | undefined = undefined;
  /** Hello has been answered. */
  #welcomed = false;
  #session_id: string;
  #epoch = "";
  #resume_secret = "";
  #boot_id = "";
  #has_cursor = false;
  /** Rewinds that are through once the next message is done with. */
  #ended: readonly Rewind[] = [];
  #last_request_id = 0;
  #address_index = 0;
  /** Where the service told us to go; "" = nowhere. */
  #redirect = "";
  #redirects = 0;
  /** The service refused us in a way that trying again does not mend. */
  #refused_for_good = false;

  constructor(options: ClientOptions) {
    this.#options = { ...defaults, ...options };
    const { address, cursor, retry_ratio, retry_reserve } = this.#options;
    this.#backoff = { ...backoff_default, ...options.backoff };
    this.#addresses = typeof address === "string" ? [address] : address;
    if (this.#addresses.length === 0) throw new TypeError("A client needs an address");
    this.#budget = new RetryBudget(retry_ratio, retry_reserve);
    this.#events = new EventQueue(this.#options.events_max, (entry) => this.#taken(entry));
    this.#acks = new Acks(
      this.#options.ack_messages_max,
      this.#options.ack_delay_ms,
      (offset) => this.#welcomed && this.#link?.send({ type: "ack", offset }),
    );
    this.#publishes = new Publishes(this.#options.publishes_max);
    this.#session_id = this.#options.session_id;
    if (cursor !== undefined) this.#start_from(cursor.epoch, cursor.offset);
    this.#done = this.#run();
  }

  /** The session id, "" until the service has assigned one. */
  get session_id(): string {
    return this.#session_id;
  }

  /** Everything up to here is done with: what `ClientOptions.cursor` takes. */
  get cursor(): FrameCursor {
    return { epoch: this.#epoch, offset: this.#acks.offset };
  }

  /** How our clock stands to the server's; undefined = it was never heard. */
  get clock(): ClockState | undefined {
    return this.#clock.state;
  }

  /** The server's time, as far as it is known. Unix milliseconds. */
  get server_time_ms(): number {
    return this.#clock.time_ms;
  }

  /** There and back, smoothed, milliseconds; 0 = not measured yet. */
  get round_trip_ms(): number {
    return this.#clock.round_trip_ms;
  }

  /** Events in order, for one reader. Asking for the next acknowledges the one before. */
  [Symbol.asyncIterator](): AsyncIterator<ClientEvent> {
    return {
      next: async () => {
        const { value, done } = await this.#events.next();
        return done ? { value: undefined, done } : { value: value.event, done: false };
      },
    };
  }

  /**
   * Asks for what matches a filter, now and on every later connection. `after`: also what is stored
   * after that offset. Resolves when the service agrees; rejects with its Refusal.
   */
  subscribe(
    filter: string,
    { qos = 1, after }: { qos?: Qos; after?: FrameCursor | number } = {},
  ): Promise<void> {
    this.#assert_open();
    const cursor = typeof after === "number" ? { epoch: "", offset: after } : after;
    this.#budget.earn();
    const wanted = this.#subscriptions.want(filter, qos, cursor);
    const old = this.#seen.unsubscribe(filter);
    if (old !== undefined) this.#acks.release(old);
    const { promise } = wanted.answer!;
    if (this.#welcomed) this.#ask([wanted]);
    return promise;
  }

  /** No longer asks for a filter. Resolves when the service has forgotten it. */
  unsubscribe(filter: string): Promise<void> {
    this.#assert_open();
    const promise = this.#subscriptions.unwant(filter);
    const rewind = this.#seen.unsubscribe(filter);
    if (rewind !== undefined) this.#acks.release(rewind);
    if (this.#welcomed) this.#ask_unsubscribe([filter]);
    return promise;
  }

  /**
   * Publishes. QoS 1 and 2: resolves when the message is stored, however many connections that
   * takes (it may then be stored twice); rejects with the service's Refusal. QoS 0: resolves when
   * it has been sent; rejects when there is no connection.
   */
  async publish(
    topic: string,
    payload: Uint8Array,
    options: PublishOptions = {},
  ): Promise<PublishReceipt> {
    this.#assert_open();
    const { qos = 1, retain = false, ttl_ms = 0, key = "", content_type } = options;
    const properties = content_type === undefined
      ? options.properties
      : { ...options.properties, content_type };
    const part = properties === undefined ? {} : { properties };
    const frame = { type: "publish", topic, payload, qos, retain, ttl_ms, key, ...part } as const;
    if (qos === 0) {
      if (!this.#welcomed) throw new Refusal(codes.io_error, "Not connected");
      this.#link!.send(frame);
      await this.#link!.flushed();
      return { offset: 0 };
    }
    this.#budget.earn();
    const publish = this.#publishes.add(this.#next_request_id(), frame);
    if (this.#welcomed) this.#link!.send(publish.frame);
    return await publish.answer.promise;
  }

  /**
   * Sends what devices report of themselves, in the server's time: one, or many at once for a
   * gateway. Resolves when it has been sent; what is not taken comes as an event.
   */
  async report(...reports: readonly StatusReport[]): Promise<void> {
    this.#assert_open();
    if (!this.#welcomed) throw new Refusal(codes.io_error, "Not connected");
    const link = this.#link!;
    if (reports.length === 1) link.send({ type: "status", ...reports[0] });
    else if (reports.length > 0) link.send({ type: "status_batch", reports });
    await link.flushed();
  }

  /**
   * Acknowledges what the application was given, says goodbye and ends. Requests without an answer
   * reject. Resolves when the connection is closed; events that wait can still be read.
   */
  async close(): Promise<void> {
    if (!this.#closing.signal.aborted) {
      this.#events.settle();
      this.#acks.flush();
      this.#closing.abort();
      this.#events.drain();
      await this.#leave(new Refusal(codes.normal));
    }
    await this.#done;
  }

  #assert_open(): void {
    if (this.#closing.signal.aborted) throw new Refusal(codes.normal, "The client is closed");
  }

  /** Says goodbye on the connection, if there is one, and ends it. */
  async #leave(reason: Refusal): Promise<void> {
    const link = this.#link;
    if (link === undefined) return;
    const timer = setTimeout(() => link.fail(reason), close_timeout_ms);
    try {
      if (this.#welcomed) link.send({ type: "goodbye", code: reason.code.number });
      await link.flushed();
    } finally {
      clearTimeout(timer);
      link.fail(reason);
    }
  }

  // ---------------------------------------------------------------- connections

  async #run(): Promise<void> {
    let attempt = 0;
    for (;;) {
      const address = this.#next_address();
      this.#push({ type: "connecting", address, attempt });
      const since_ms = performance.now();
      const reason = await this.#run_connection(address);
      if (performance.now() - since_ms >= this.#options.stable_ms) attempt = 0;
      const is_last = this.#closing.signal.aborted || this.#refused_for_good ||
        attempt + 1 >= this.#options.attempts_max;
      if (is_last) {
        return this.#end(this.#closing.signal.aborted ? codes.normal : reason.code, reason);
      }
      const retry_ms = this.#retry_ms(reason, attempt);
      attempt += 1;
      this.#push({ type: "disconnected", code: reason.code, reason: reason.message, retry_ms });
      await this.#sleep(retry_ms);
      if (this.#closing.signal.aborted) return this.#end(codes.normal, new Refusal(codes.normal));
    }
  }

  #next_address(): string {
    const address = this.#redirect;
    this.#redirect = "";
    if (address !== "") return address;
    return this.#addresses[this.#address_index++ % this.#addresses.length];
  }

  /** How long to wait before the next attempt, milliseconds. */
  #retry_ms(reason: Refusal, attempt: number): number {
    const { random } = this.#options;
    const asked_ms = retry_after_ms(reason.retry_after_ms, random);
    if (this.#redirect !== "" && this.#redirects++ < redirects_max) return asked_ms;
    const own_ms = backoff_ms(attempt, this.#backoff, random);
    return Math.max(asked_ms, own_ms);
  }

  /** One connection from its beginning to its end; answers why it ended. */
  async #run_connection(address: string): Promise<Refusal> {
    try {
      const link = await this.#open(address);
      this.#link = link;
      if (this.#closing.signal.aborted) throw new Refusal(codes.normal);
      const welcome = await this.#hello(link);
      this.#welcome(link, welcome);
      for (;;) {
        await this.#events.room();
        this.#on_frame(await link.next());
      }
    } catch (error) {
      const reason = error instanceof Refusal ? error : new Refusal(codes.internal, String(error));
      this.#link?.fail(reason);
      // A frame that could not be read is not the application's fault, and another node may do
      // better.
      return reason;
    } finally {
      this.#link = undefined;
      this.#welcomed = false;
      for (const timer of this.#timers) clearTimeout(timer);
      this.#timers.clear();
      this.#breaker.disconnected();
      this.#acks.disconnected();
      this.#seen.disconnected();
    }
  }

  async #open(address: string): Promise<Link> {
    const { connect_timeout_ms, open, zstd } = this.#options;
    const giving_up = new AbortController();
    const timer = setTimeout(() => giving_up.abort(), connect_timeout_ms);
    const give_up = () => giving_up.abort();
    this.#closing.signal.addEventListener("abort", give_up);
    const { promise: aborted, reject } = deferred<never>();
    giving_up.signal.addEventListener("abort", () => reject(new Error("no answer in time")));
    const opening = open(address, giving_up.signal);
    try {
      return new Link(await Promise.race([opening, aborted]), connect_timeout_ms, zstd);
    } catch (error) {
      opening.then((late) => late.close(), () => {});
      throw new Refusal(
        codes.io_error,
        `Cannot connect to ${address}: ${(error as Error).message}`,
      );
    } finally {
      clearTimeout(timer);
      this.#closing.signal.removeEventListener("abort", give_up);
    }
  }

  async #hello(link: Link): Promise<Welcome> {
    const { token, keepalive_s, clean, zstd } = this.#options;
    const sent_ms = performance.now();
    link.send({
      type: "hello",
      session_id: this.#session_id,
      token,
      protocol_version,
      keepalive_s,
      clean,
      resume: this.#has_cursor || this.#acks.offset > 0 ? [this.cursor] : [],
      last_boot_id: this.#boot_id,
      resume_secret: this.#resume_secret,
      dictionaries: zstd?.dictionaries ?? [],
    });
    for (;;) {
      const frame = await link.next();
      if (frame.type === "welcome") {
        this.#clock.welcomed(sent_ms, frame.server_time_ms);
        return frame;
      }
      if (frame.type === "refuse") {
        this.#redirect = frame.redirect;
        this.#throw_said(frame);
      }
      if (frame.type === "goodbye") this.#throw_said(frame);
      if (frame.type !== "heartbeat") {
        throw new Refusal(codes.protocol_error, `The answer to Hello is ${frame.type}`);
      }
    }
  }

  /** The service has said why it ends the connection. */
  #throw_said(frame: { code: number; detail: string; retry_after_ms: number }): never {
    const code = code_of(frame.code);
    this.#refused_for_good = !code.retryable && this.#redirect === "";
    throw new Refusal(code, frame.detail || undefined, frame.retry_after_ms);
  }

  #welcome(link: Link, welcome: Welcome): void {
    this.#session_id = welcome.session_id || this.#session_id;
    this.#resume_secret = welcome.resume_secret;
    this.#boot_id = welcome.boot_id;
    this.#redirects = 0;
    if (this.#epoch === "") {
      this.#epoch = welcome.epoch;
    } else if (this.#epoch !== welcome.epoch) {
      this.#subscriptions.reset();
      this.#start_from(welcome.epoch, 0);
      this.#has_cursor = false;
    }
    // A session that is new to the service begins at the head: from here on that is our place.
    if (!this.#has_cursor && !welcome.resumed) {
      this.#start_from(welcome.epoch, welcome.head_offset);
    }
    const keepalive_s = welcome.keepalive_s || limits.keepalive_default_s;
    link.keep_alive(keepalive_s, this.#clock, this.#options.silence_max_ms);
    link.compress(welcome.dictionaries);
    this.#welcomed = true;
    this.#push({ type: "connected", welcome });
    const clock = this.#clock.state;
    if (clock !== undefined && Math.abs(clock.offset_ms) > this.#options.clock_skew_max_ms) {
      this.#push({ type: "clock", clock });
    }
    const { wanted, kept, unwanted } = this.#subscriptions.connected(welcome.resumed);
    // For what the service kept, it goes on right behind Welcome.
    for (const { filter } of kept) this.#seen.confirm(filter);
    if (unwanted.length > 0) this.#ask_unsubscribe(unwanted);
    this.#ask(wanted);
    for (const { frame } of this.#publishes.all()) link.send(frame);
  }

  /** Takes a place in a log as the application's; nothing is known of the subscriptions there. */
  #start_from(epoch: string, offset: number): void {
    this.#epoch = epoch;
    this.#seen.reset(offset);
    this.#acks.reset(offset);
    this.#has_cursor = true;
  }

  #sleep(delay_ms: number): Promise<void> {
    return new Promise((resolve) => {
      const { signal } = this.#closing;
      const end = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", end);
        resolve();
      };
      const timer = setTimeout(end, delay_ms);
      signal.addEventListener("abort", end);
      if (signal.aborted) end();
    });
  }

  #end(code: Code, reason: Refusal): void {
    const why = new Refusal(code, reason.message);
    this.#closing.abort();
    for (const publish of this.#publishes.all()) this.#publishes.refuse(publish, why);
    this.#subscriptions.end(why);
    this.#push({ type: "closed", code, reason: reason.message });
    this.#events.end();
  }

  // ---------------------------------------------------------------- frames

  #on_frame(frame: Frame): void {
    switch (frame.type) {
      case "message":
        return this.#on_message(frame);
      case "published":
        return this.#on_published(frame);
      case "subscribed":
        return this.#on_subscribed(frame);
      case "unsubscribed":
        for (const filter of this.#subscriptions.answered(frame.request_id)) {
          this.#subscriptions.forgotten(filter);
        }
        return;
      case "gap":
        return this.#push({ ...frame, epoch: frame.epoch || this.#epoch });
      case "redirect":
        return this.#on_redirect(frame);
      case "goodbye":
        return this.#throw_said(frame);
      case "heartbeat":
        if (this.#clock.heartbeat_came(frame.time_s)) {
          this.#push({ type: "clock", clock: this.#clock.state! });
        }
        return;
      case "notice":
        return this.#push({ type: "notice", code: code_of(frame.code), count: frame.count });
      default:
        throw new Refusal(codes.protocol_error, `The service sent ${frame.type}`);
    }
  }

  #on_message(message: MessageFrame): void {
    const event = { type: "message", message } as const;
    const is_here = message.epoch === "" || message.epoch === this.#epoch;
    // A retained message is a copy of one that was published before.
    if (message.offset === 0 || message.retain || !is_here) return this.#push(event);
    if (message.qos === 0) {
      if (this.#seen.arrive_unordered(message.topic, message.offset)) this.#push(event);
      return;
    }
    const { is_new, ended } = this.#seen.arrive(message.topic, message.offset);
    if (ended.length > 0) this.#ended = [...this.#ended, ...ended];
    if (!is_new) return;
    const { offset } = message;
    this.#events.push({ event, offset, epoch: this.#epoch, ended: this.#ended });
    this.#ended = [];
  }

  #push(event: ClientEvent): void {
    this.#events.push({ event, offset: 0, epoch: "", ended: [] });
  }

  /** The application is done with an event. */
  #taken({ offset, epoch, ended }: Entry): void {
    if (offset === 0 || epoch !== this.#epoch) return;
    for (const rewind of ended) this.#acks.release(rewind);
    this.#acks.taken(offset);
  }

  #on_published({ request_id, code: number, offset, detail, retry_after_ms }: Published): void {
    const publish = this.#publishes.get(request_id);
    if (publish === undefined) return;
    if (number === codes.normal.number) {
      this.#taken_again();
      return this.#publishes.done(publish, offset);
    }
    const reason = new Refusal(code_of(number), detail || undefined, retry_after_ms);
    const again = this.#again(reason, publish.refusals++, () => {
      if (this.#publishes.get(request_id) === publish) this.#link?.send(publish.frame);
    });
    if (!again) this.#publishes.refuse(publish, reason);
  }

  /**
   * Repeats a refused request later on this connection, if it may help and the budget allows it.
   */
  #again(reason: Refusal, refusals: number, repeat: () => void): boolean {
    const { random } = this.#options;
    const asked_ms = retry_after_ms(reason.retry_after_ms, random);
    const own_ms = backoff_ms(refusals, this.#backoff, random);
    if (reason.code === codes.breaker_open) {
      this.#breaker.opened(Math.max(asked_ms, own_ms), repeat);
      return true;
    }
    if (!reason.code.retryable || !this.#budget.take()) return false;
    this.#later(Math.max(own_ms, asked_ms), repeat);
    return true;
  }

  #later(delay_ms: number, repeat: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      repeat();
    }, delay_ms);
    this.#timers.add(timer);
  }

  /** The service has taken a request: what its breaker kept waiting follows, not all at once. */
  #taken_again(): void {
    for (const repeat of this.#breaker.closed()) {
      this.#later(this.#options.random() * this.#backoff.base_ms, repeat);
    }
  }

  /** Sends subscriptions, and notes where the service will go back for them. */
  #ask(wanted: readonly Wanted[]): void {
    for (let i = 0; i < wanted.length; i += filters_per_frame) {
      const part = wanted.slice(i, i + filters_per_frame);
      const request_id = this.#next_request_id();
      this.#subscriptions.asked(request_id, part.map(({ filter }) => filter));
      for (const one of part) this.#expect(one, request_id);
      this.#link!.send({
        type: "subscribe",
        request_id,
        subscriptions: part.map(({ filter, qos, after }) =>
          after === undefined ? { filter, qos } : { filter, qos, after }
        ),
      });
    }
  }

  /**
   * Notes where the service will go back to; what goes on after a reconnect goes on where it was.
   */
  #expect(wanted: Wanted, request_id: number): void {
    const { filter, qos, after } = wanted;
    wanted.request_id = request_id;
    if (this.#seen.knows(filter)) {
      const offset = this.#seen.rewind_of(filter)?.progress;
      if (offset !== undefined) wanted.after = { epoch: "", offset };
      return;
    }
    const is_here = after?.epoch === "" || after?.epoch === this.#epoch;
    const rewind = this.#seen.subscribe(filter, qos, is_here ? after?.offset : undefined);
    if (rewind !== undefined) this.#acks.hold(rewind);
  }

  #on_subscribed({ request_id, codes: results }: Subscribed): void {
    const filters = this.#subscriptions.answered(request_id);
    for (const [i, filter] of filters.entries()) {
      const wanted = this.#subscriptions.get(filter);
      if (wanted?.request_id !== request_id) continue;
      const code = code_of(results[i] ?? codes.internal.number);
      if (code === codes.normal) {
        this.#taken_again();
        this.#subscriptions.confirm(wanted);
        this.#seen.confirm(filter);
      } else this.#on_subscribe_refused(wanted, code);
    }
  }

  #on_subscribe_refused(wanted: Wanted, code: Code): void {
    const { filter } = wanted;
    const reason = new Refusal(code, `${code.meaning}: ${filter}`);
    const again = this.#again(reason, wanted.refusals++, () => {
      if (this.#subscriptions.get(filter) === wanted && this.#welcomed) this.#ask([wanted]);
    });
    if (again) return;
    const was_taken = wanted.answer === undefined;
    this.#subscriptions.drop(filter, reason);
    const rewind = this.#seen.unsubscribe(filter);
    if (rewind !== undefined) this.#acks.release(rewind);
    if (was_taken) this.#push({ type: "subscription_lost", filter, code });
  }

  #ask_unsubscribe(filters: readonly string[]): void {
    for (let i = 0; i < filters.length; i += filters_per_frame) {
      const part = filters.slice(i, i + filters_per_frame);
      const request_id = this.#next_request_id();
      this.#subscriptions.asked(request_id, part);
      this.#link!.send({ type: "unsubscribe", request_id, filters: part });
    }
  }

  /** Goes elsewhere within the first half of the time given, each client at a moment of its own. */
  #on_redirect({ address, reason, deadline_ms }: Redirect): void {
    this.#redirect = address;
    this.#later(this.#options.random() * deadline_ms / 2, () => {
      this.#acks.flush();
      void this.#leave(new Refusal(code_of(reason), `Sent to ${address}`));
    });
  }

  #next_request_id(): number {
    do {
      this.#last_request_id = (this.#last_request_id + 1) >>> 0;
    } while (
      this.#last_request_id === 0 || this.#publishes.get(this.#last_request_id) !== undefined
    );
    return this.#last_request_id;
  }
}
