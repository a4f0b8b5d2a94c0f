/**
 * GET /v1/ws: Longwire in JSON over WebSocket. Each text is one object with a `type`; a request
 * may have an `id`, which its answer carries. Bounded both ways: of a reader that is slow the log
 * keeps what it missed (core/follower.ts), requests that are not answered are counted.
 *
 *   {"type":"subscribe","id":1,"topics":["a/#"],"after":"epoch:offset"}   after: resume; optional
 *   {"type":"subscribed","id":1,"cursor":"epoch:offset"}
 *   {"type":"message","subscription":1,"topic":"a/b","payload":"...",...} as in history
 *   {"type":"gap","subscription":1,"epoch":"...","from":1,"to":9}         these have expired
 *   {"type":"unsubscribe","id":1}                                         -> unsubscribed
 *   {"type":"publish","id":2,"topic":"a/b","payload":"...","qos":1}       -> published
 *   {"type":"history","id":3,"topic":"a/b","after":"...","limit":10}      -> history
 *   {"type":"presence","id":4,"topic":"a/#","after":""}                   -> presence
 *   {"type":"ping","id":5}                                                -> pong
 *   {"type":"error","id":2,"code":"topic_invalid",...}                    a problem (RFC 9457)
 *   {"type":"goodbye","code":"shutting_down",...}                         then the socket closes
 */
import type { Access } from "../core/access.ts";
import { type Code, codes, Refusal } from "../core/codes.ts";
import { Follower, type Sink } from "../core/follower.ts";
import { limits } from "../core/limits.ts";
import type { Message } from "../core/message.ts";
import type { Passed } from "../core/message.ts";
import type { PublishOrigin } from "../core/session.ts";
import type { Call, Context } from "./context.ts";
import { parse_cursor } from "./cursor.ts";
import { parse_filters } from "./filters.ts";
import { read_history } from "./history.ts";
import { message_json } from "./message_json.ts";
import { count_refusal, problem, refuse } from "./problem.ts";
import { parse_item } from "./publish_batch.ts";

/** Close codes of WebSocket (RFC 6455 section 7.4.1, and its IANA registry). */
const Close = { unsupported_data: 1003, failed: 1011, restart: 1012, try_again: 1013 } as const;
const policy_violation = 1008;

/** How often it is looked whether a slow reader has read. */
const poll_ms = 20;
/** A peer that answers no ping for so long is gone. */
const idle_timeout_s = 30;

type Id = string | number | null;
type Fields = Record<string, unknown>;

function text_of(fields: Fields, name: string): string | null {
  const value = fields[name];
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  throw new Refusal(codes.json_invalid, `${name} must be a string`);
}

function id_of(fields: Fields): Id {
  const { id = null } = fields;
  if (id === null || typeof id === "number") return id;
  if (typeof id === "string" && id.length <= limits.idempotency_key_max) return id;
  throw new Refusal(codes.json_invalid, "id must be a number or a short string");
}

/** One subscription of a socket. */
class Stream implements Sink {
  follower: Follower | null = null;

  constructor(readonly socket: JsonSocket, readonly id: Id) {}

  has_room(): boolean {
    return this.socket.has_room(this);
  }

  write(message: Message, offset: number): void {
    const { epoch } = this.socket.context.store;
    const json = message_json(message, offset, epoch);
    this.socket.say({ type: "message", subscription: this.id, ...json });
  }

  gap(from: number, to: number): void {
    const { epoch } = this.socket.context.store;
    const range = { epoch, from: from + 1, to: to - 1 };
    this.socket.say({ type: "gap", subscription: this.id, ...range });
  }

  failed(): void {
    this.socket.end(codes.store_unavailable, Close.try_again);
  }
}

/** One socket. */
class JsonSocket implements PublishOrigin {
  appends_pending = 0;
  readonly #streams = new Map<Id, Stream>();
  /** Those that wait for the socket to take more. */
  readonly #stalled = new Set<Stream>();
  #timer: ReturnType<typeof setInterval> | undefined;
  /** Ids of publishes under way, by token. */
  readonly #publishes = new Map<number, Id>();
  #token = 0;
  #requests = 0;
  #ended = false;

  constructor(
    readonly socket: WebSocket,
    readonly access: Access,
    readonly context: Context,
    readonly on_end: () => void,
  ) {
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = () => this.#closed();
    socket.onerror = () => {}; // onclose follows
  }

  say(what: Fields): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(what));
  }

  has_room(stream: Stream): boolean {
    if (this.socket.bufferedAmount < limits.websocket_unread_bytes) return true;
    this.#stalled.add(stream);
    this.#timer ??= setInterval(() => this.#poll(), poll_ms);
    return false;
  }

  /** Says why, and closes. */
  end(code: Code, close: number): void {
    if (this.#ended) return;
    this.say({ ...problem(code), type: "goodbye" });
    if (this.socket.readyState === WebSocket.OPEN) this.socket.close(close, code.name);
    this.#closed();
  }

  published(token: number, offset: number, audience: number): void {
    const { epoch } = this.context.store;
    const id_in_log = offset === 0 ? null : `${epoch}:${offset}`;
    const place = { message: id_in_log, epoch, offset, audience };
    this.say({ type: "published", id: this.#take(token), ...place });
  }

  passed(token: number, passed: Passed): void {
    const { epoch } = this.context.store;
    const place = { message: null, epoch, offset: 0, stored: false, ...passed };
    this.say({ type: "published", id: this.#take(token), ...place });
  }

  refused(token: number, code: Code, detail: string, retry_after_ms: number): void {
    this.#refuse(this.#take(token), new Refusal(code, detail, retry_after_ms));
  }

  #take(token: number): Id {
    const id = this.#publishes.get(token) ?? null;
    this.#publishes.delete(token);
    return id;
  }

  #refuse(id: Id, error: unknown): void {
    const refusal = error instanceof Refusal ? error : new Refusal(codes.internal);
    if (refusal !== error) {
      const stack = error instanceof Error ? error.stack : String(error);
      this.context.log.error("bug while answering a socket", { error: stack });
    }
    count_refusal(this.context.refused, refusal.code);
    const wait = refusal.retry_after_ms > 0 ? { retry_after_ms: refusal.retry_after_ms } : {};
    this.say({ ...problem(refusal.code, refusal.message), ...wait, type: "error", id });
  }

  #poll(): void {
    if (this.socket.bufferedAmount >= limits.websocket_unread_bytes / 2) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    const stalled = [...this.#stalled];
    this.#stalled.clear();
    for (const stream of stalled) stream.follower?.room();
  }

  #received(data: unknown): void {
    if (this.#ended) return;
    if (typeof data !== "string") return this.end(codes.malformed, Close.unsupported_data);
    let id: Id = null;
    try {
      if (data.length > limits.publish_line_bytes_max) throw new Refusal(codes.body_too_large);
      const fields = this.#parse(data);
      id = id_of(fields);
      // Those that wait for the socket are as good as not answered.
      const is_slow = this.socket.bufferedAmount > limits.websocket_waiting_bytes;
      if (is_slow) return this.end(codes.slow_consumer, Close.try_again);
      this.#do(fields, id);
    } catch (error) {
      this.#refuse(id, error);
    }
  }

  #parse(data: string): Fields {
    let value: unknown;
    try {
      value = JSON.parse(data);
    } catch {
      throw new Refusal(codes.json_invalid, "The text is not JSON");
    }
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return value as Fields;
    }
    throw new Refusal(codes.json_invalid, "The text must be a JSON object");
  }

  #do(fields: Fields, id: Id): void {
    const { context, access } = this;
    switch (fields.type) {
      case "subscribe":
        return this.#subscribe(fields, id);
      case "unsubscribe":
        return this.#unsubscribe(id);
      case "publish":
        return this.#publish(fields, id);
      case "history": {
        const topic = text_of(fields, "topic") ?? "";
        const wanted = { topic, after: text_of(fields, "after"), limit: text_of(fields, "limit") };
        return this.#answer(id, "history", () => read_history(context, access, wanted));
      }
      case "presence": {
        access.check_right("devices");
        const page = { after: text_of(fields, "after") ?? "", limit: 100 };
        const [topic] = parse_filters([text_of(fields, "topic") ?? ""], access);
        const plain = topic === undefined ? "" : text_of(fields, "topic")!;
        const find = () => context.fleet.listeners(access.tenant, page, plain);
        return this.#answer(id, "presence", find);
      }
      case "ping":
        return this.say({ type: "pong", id });
      default:
        throw new Refusal(codes.json_invalid, "type is not one of those that there are");
    }
  }

  #subscribe(fields: Fields, id: Id): void {
    const { context } = this;
    const { store } = context;
    const { topics } = fields;
    if (!Array.isArray(topics) || topics.some((topic) => typeof topic !== "string")) {
      throw new Refusal(codes.json_invalid, "topics must be a list of filters");
    }
    if (this.#streams.has(id)) throw new Refusal(codes.packet_id_in_use, "id is in use");
    if (this.#streams.size >= limits.websocket_subscriptions_max) {
      throw new Refusal(codes.subscription_limit);
    }
    const filters = parse_filters(topics, this.access);
    const after = text_of(fields, "after");
    const cursor = after === null ? null : parse_cursor("after", after, store.epoch);
    const from = cursor?.is_other_epoch ? store.first - 1 : cursor?.offset;
    const stream = new Stream(this, id);
    this.#streams.set(id, stream);
    const start = from ?? context.router.dispatched;
    this.say({ type: "subscribed", id, cursor: `${store.epoch}:${start}` });
    if (cursor?.is_other_epoch) stream.gap(0, store.first);
    stream.follower = new Follower(context.router, filters, start, stream);
    stream.follower.room();
  }

  #unsubscribe(id: Id): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) throw new Refusal(codes.not_found, "There is no such subscription");
    this.#streams.delete(id);
    this.#stalled.delete(stream);
    stream.follower?.close();
    this.say({ type: "unsubscribed", id });
  }

  #publish({ type: _type, id: _id, ...item }: Fields, id: Id): void {
    const { context } = this;
    if (this.#publishes.size >= limits.websocket_requests_max) {
      throw new Refusal(codes.receive_maximum);
    }
    const message = parse_item(item, this, context.now_ms());
    this.#publishes.set(++this.#token, id);
    context.router.publish(message, this, this.#token, null);
  }

  #answer(id: Id, type: string, find: () => Promise<object>): void {
    if (this.#requests >= limits.websocket_requests_max) throw new Refusal(codes.receive_maximum);
    this.#requests++;
    find().then(
      (found) => this.say({ type, id, ...found }),
      (error) => this.#refuse(id, error),
    ).finally(() => this.#requests--);
  }

  #closed(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#timer);
    for (const stream of this.#streams.values()) stream.follower?.close();
    this.#streams.clear();
    this.on_end();
  }
}

const open_sockets = new WeakMap<Context, Set<JsonSocket>>();

/** How many sockets are open. */
export function count_json_sockets(context: Context): number {
  return open_sockets.get(context)?.size ?? 0;
}

/** Ends every socket, for a service that stops. */
export function end_json_sockets(context: Context): void {
  for (const socket of [...open_sockets.get(context) ?? []]) {
    socket.end(codes.shutting_down, Close.restart);
  }
}

export function json_socket({ request, access }: Call, context: Context): Response {
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
    return refuse(codes.upgrade_required, undefined, 0, { upgrade: "websocket" });
  }
  if (context.is_stopping()) throw new Refusal(codes.shutting_down);
  let sockets = open_sockets.get(context);
  if (sockets === undefined) open_sockets.set(context, sockets = new Set());
  if (sockets.size >= limits.websockets_max) throw new Refusal(codes.connection_limit);
  const set = sockets;
  const hold = context.gate.hold(access, () => opened.end(codes.token_expired, policy_violation));
  const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: idle_timeout_s });
  const opened = new JsonSocket(socket, access, context, () => {
    set.delete(opened);
    hold.release();
  });
  set.add(opened);
  return response;
}
