/**
 * GET /v1/events: Server-Sent Events (HTML Living Standard, section 9.2). `id:` is epoch:offset,
 * so a browser that reconnects with Last-Event-ID gets what it missed.
 */
import { type Code, codes, Refusal } from "../core/codes.ts";
import { Follower, type Sink } from "../core/follower.ts";
import { limits } from "../core/limits.ts";
import type { Message } from "../core/message.ts";
import type { Call, Context } from "./context.ts";
import { parse_cursor } from "./cursor.ts";
import { parse_filters } from "./filters.ts";
import { message_json } from "./message_json.ts";
import { problem } from "./problem.ts";

const encoder = new TextEncoder();

/**
 * One stream of events; what it buffers is bounded by the queue of its ReadableStream, in bytes.
 */
class EventStream implements Sink {
  readonly body: ReadableStream<Uint8Array>;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #follower: Follower | null = null;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(readonly epoch: string, readonly on_end: (stream: EventStream) => void) {
    this.body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#follower?.room(),
      cancel: () => this.#stop(),
    }, {
      highWaterMark: limits.event_stream_bytes,
      size: (chunk) => chunk.length,
    });
    this.#timer = setInterval(() => this.#keep_alive(), limits.event_stream_keepalive_ms);
  }

  follow(context: Context, filters: readonly string[], after: number | undefined): void {
    this.#send(": connected\n\n");
    const follower = new Follower(context.router, filters, after, this);
    this.#follower = follower;
    follower.room();
  }

  has_room(): boolean {
    return (this.#controller.desiredSize ?? 0) > 0;
  }

  write(message: Message, offset: number): void {
    const id = offset === 0 ? "" : `id: ${this.epoch}:${offset}\n`;
    const data = JSON.stringify(message_json(message, offset, this.epoch));
    this.#send(`${id}event: message\ndata: ${data}\n\n`);
  }

  gap(from: number, to: number): void {
    const data = JSON.stringify({ epoch: this.epoch, from: from + 1, to: to - 1 });
    this.#send(`event: gap\ndata: ${data}\n\n`);
  }

  failed(): void {
    this.end();
  }

  /**
   * Ends the stream; the browser comes back by itself.
   * @param code why, where the reader is told; absent = it need not know
   */
  end(code?: Code): void {
    if (code !== undefined) {
      this.#send(`event: goodbye\ndata: ${JSON.stringify(problem(code))}\n\n`);
    }
    this.#stop();
    try {
      this.#controller.close();
    } catch {
      // cancelled before
    }
  }

  /**
   * A comment, so that proxies and browsers see that the stream lives. Not for one that is full.
   */
  #keep_alive(): void {
    if (this.has_room()) this.#send(": keepalive\n\n");
  }

  #send(text: string): void {
    this.#controller.enqueue(encoder.encode(text));
  }

  #stop(): void {
    clearInterval(this.#timer);
    this.#follower?.close();
    this.on_end(this);
  }
}

const open_streams = new WeakMap<Context, Set<EventStream>>();

/** How many streams are open. */
export function count_event_streams(context: Context): number {
  return open_streams.get(context)?.size ?? 0;
}

/** Ends every stream, for a service that stops. */
export function end_event_streams(context: Context): void {
  for (const stream of [...open_streams.get(context) ?? []]) stream.end();
}

/** `topic` (a filter, repeatable), `after` or Last-Event-ID: where to go on. */
export function events(call: Call, context: Context): Response {
  const filters = parse_filters(call.query.getAll("topic"), call.access);
  const text = call.request.headers.get("last-event-id") ?? call.query.get("after");
  const { epoch } = context.store;
  const cursor = text === null || text === "" ? null : parse_cursor("Last-Event-ID", text, epoch);
  let streams = open_streams.get(context);
  if (streams === undefined) open_streams.set(context, streams = new Set());
  if (streams.size >= limits.event_streams_max) {
    throw new Refusal(codes.connection_limit, "As many event streams as there may be", 5000);
  }
  const set = streams;
  const hold = context.gate.hold(call.access, () => stream.end(codes.token_expired));
  const stream = new EventStream(epoch, (ended) => {
    if (set.delete(ended)) hold.release();
  });
  set.add(stream);
  if (cursor?.is_other_epoch) stream.gap(0, context.store.first);
  stream.follow(
    context,
    filters,
    cursor?.is_other_epoch ? context.store.first - 1 : cursor?.offset,
  );
  return new Response(stream.body, {
    headers: {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
    },
  });
}
