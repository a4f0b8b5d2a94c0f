/**
 * Traces of publishes: one span each for the publish, its commit and its fan-out, and a delivery
 * and an acknowledgement for a few of its receivers, so a trace has a bounded size however many
 * there are. Whether a trace is sampled is decided at its head, by the caller or by
 * OpenTelemetry's own sampler; of the others a small record is kept, and the spans are made
 * afterwards where the publish was refused or slow. Loaded only when OpenTelemetry is on.
 */
import {
  type Context,
  context,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
} from "@opentelemetry/api";
import type { Traced } from "../ffi/reactor.ts";
import type { Code } from "./codes.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import type { Measures } from "./measures.ts";
import type { Message } from "./message.ts";
import { plain_name } from "./namespace.ts";
import { TokenBucket } from "./token_bucket.ts";
import {
  format_traceparent,
  parse_traceparent,
  traceparent_of,
  with_traceparent,
} from "./traceparent.ts";
import type { PublishTrace, Tracing } from "./tracing.ts";

/** Who a delivery went to. */
interface Receiver {
  readonly id: string;
  /** Everything up to this offset is acknowledged. */
  readonly cursor: number;
}

/** A receiver that is followed. */
interface Delivery {
  readonly receiver: Receiver;
  readonly span: Span;
  readonly sent_ms: number;
}

/** Unix milliseconds, with a fraction. */
function clock_ms(): number {
  return performance.timeOrigin + performance.now();
}

/** A parent of which no span is at hand. */
function parent_context(trace_id: string, span_id: string, is_sampled: boolean): Context {
  const traceFlags = is_sampled ? 1 : 0;
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId: trace_id,
    spanId: span_id,
    traceFlags,
    isRemote: true,
  });
}

/** One publish, from when it came until what is followed of it has ended. */
class OneTrace implements PublishTrace {
  readonly came_ms = clock_ms();
  append_ms = 0;
  stored_ms = 0;
  fanout: Span | null = null;
  fanout_ms = 0;
  /** From when on the reactor counts. */
  #counted_ms = 0;
  fanned_out_ms = 0;
  audience = 0;
  /** 0 and "" = it is not stored. */
  offset = 0;
  message_id = "";
  readonly deliveries = new Map<string, Delivery>();

  constructor(
    readonly of: TracesOfPublishes,
    public span: Span,
    /** Span that this one hangs under; "" = it is the root. */
    readonly parent_id: string,
    public is_sampled: boolean,
    /** Without the payload. */
    readonly about: Readonly<Record<string, string | number>>,
  ) {}

  get trace_id(): string {
    return this.span.spanContext().traceId;
  }

  get follow(): number {
    return this.is_sampled ? limits.trace_deliveries_max : 0;
  }

  get watch(): boolean {
    return !this.is_sampled && this.of.options.slow_ms > 0;
  }

  appending(): void {
    this.append_ms = clock_ms();
  }

  stored(): void {
    this.stored_ms = clock_ms();
  }

  dispatching(age_us: number): void {
    this.fanout_ms = clock_ms();
    this.#counted_ms = this.fanout_ms - age_us / 1000;
  }

  /** When something was that the reactor tells of. */
  at_ms(us: number): number {
    return Math.max(this.fanout_ms, this.#counted_ms + us / 1000);
  }

  dispatched(stamp: number, audience: number, offset: number, epoch: string): void {
    this.fanned_out_ms = clock_ms();
    this.audience = audience;
    this.offset = offset;
    this.message_id = offset > 0 ? `${epoch}:${offset}` : "";
    this.of.dispatched(this, stamp);
  }

  refused(code: Code): void {
    this.of.refused(this, code);
  }
}

/** Makes the spans; the process has one. */
export class TracesOfPublishes implements Tracing {
  /** Publishes whose receivers may still be heard of, by stamp of their fan-out; oldest first. */
  readonly #open = new Map<number, OneTrace>();
  /** Stored messages that Longwire devices are followed for: they acknowledge by offset. */
  readonly #unacked = new Map<Receiver, [offset: number, OneTrace][]>();
  readonly #tracer;
  /** Traces that are kept though they were not sampled: an outage must not become a flood. */
  readonly #late: TokenBucket;
  /** Publishes of one request, and how many of them are traced. */
  #request_id = "";
  #request_publishes = 0;

  constructor(
    readonly options: {
      readonly version: string;
      /** What takes longer is traced whatever the sampling said; 0 = that is not looked at. */
      readonly slow_ms: number;
      readonly log: Log;
      readonly measures: Measures | null;
    },
  ) {
    this.#tracer = trace.getTracer("longwire", options.version);
    this.#late = new TokenBucket(limits.traces_late_per_s, clock_ms());
  }

  /** The trace that is being worked on; undefined = none is. */
  readonly active_id = (): string | undefined => {
    return trace.getSpan(context.active())?.spanContext().traceId;
  };

  begin(message: Message, is_device: boolean): [OneTrace | null, Message] {
    const active = is_device ? undefined : trace.getSpan(context.active());
    const carried = traceparent_of(message);
    const remote = active === undefined && carried !== undefined
      ? parse_traceparent(carried)
      : undefined;
    let parent = ROOT_CONTEXT;
    let parent_id = "";
    if (active !== undefined) {
      parent = context.active();
      parent_id = active.spanContext().spanId;
      if (!this.#takes(parent_id)) return [null, message];
    } else if (remote !== undefined) {
      parent = parent_context(remote.trace_id, remote.span_id, remote.is_sampled);
      parent_id = remote.span_id;
    }
    const about = {
      "messaging.system": "longwire",
      "messaging.operation.type": "publish",
      "messaging.destination.name": plain_name(message.topic),
      "messaging.message.body.size": message.payload.length,
      "longwire.qos": message.qos,
    };
    const span = this.#tracer.startSpan(
      "publish",
      { kind: is_device ? SpanKind.SERVER : SpanKind.INTERNAL, attributes: about },
      parent,
    );
    const { traceId: trace_id, spanId: span_id, traceFlags } = span.spanContext();
    const is_sampled = (traceFlags & 1) === 1;
    const begun = new OneTrace(this, span, parent_id, is_sampled, about);
    // What devices publish goes on as it is [MQTT-3.3.2-17].
    if (is_device || (carried === undefined && !is_sampled)) return [begun, message];
    const traceparent = format_traceparent({ trace_id, span_id, is_sampled });
    return [begun, with_traceparent(message, traceparent)];
  }

  /** Whether one more publish of a request gets spans: a batch may hold 10,000. */
  #takes(request_id: string): boolean {
    if (request_id !== this.#request_id) {
      this.#request_id = request_id;
      this.#request_publishes = 0;
    }
    return ++this.#request_publishes <= limits.trace_publishes_max;
  }

  dispatched(one: OneTrace, stamp: number): void {
    const took_ms = one.fanned_out_ms - one.came_ms;
    if (one.watch && took_ms > this.options.slow_ms) this.#keep(one, "publish", took_ms);
    if (one.is_sampled) this.#end(one);
    if (one.audience === 0) return;
    this.#open.set(stamp, one);
    if (this.#open.size <= limits.traces_open_max) return;
    const [oldest] = this.#open.keys();
    this.#open.delete(oldest);
  }

  refused(one: OneTrace, code: Code): void {
    if (!one.is_sampled && !this.#begin_late(one)) return;
    one.span.setAttribute("error.type", code.name);
    one.span.setStatus({ code: SpanStatusCode.ERROR, message: code.name });
    this.#end_store(one);
    one.span.end(clock_ms());
  }

  /** The reactor tells what became of a message at a receiver. */
  traced(
    what: Traced,
    stamp: number,
    us: number,
    receiver: Receiver,
    is_cumulative: boolean,
  ): void {
    const one = this.#open.get(stamp);
    if (one === undefined) return;
    if (!one.is_sampled) { // it was slow
      this.#keep(one, "delivery", us / 1000);
      if (one.is_sampled) this.#end(one);
      else return;
    }
    const ended_ms = one.at_ms(us);
    if (what === "acked") return this.#acknowledged(one, receiver, ended_ms, us);
    if (one.deliveries.size >= limits.trace_deliveries_max) return;
    this.options.measures?.exemplify("to_socket", us, one.trace_id, ended_ms);
    const span = this.#child(one.fanout ?? one.span, "delivery", SpanKind.PRODUCER, {
      startTime: one.fanout_ms,
      attributes: { "longwire.device.id": plain_name(receiver.id) },
    });
    span.end(ended_ms);
    one.deliveries.set(receiver.id, { receiver, span, sent_ms: ended_ms });
    if (is_cumulative) this.#await(one, receiver);
  }

  #acknowledged(one: OneTrace, receiver: Receiver, ended_ms: number, us: number): void {
    const delivery = one.deliveries.get(receiver.id);
    if (delivery === undefined && one.deliveries.size >= limits.trace_deliveries_max) return;
    this.options.measures?.exemplify("to_acked", us, one.trace_id, ended_ms);
    this.#end_acknowledgement(one, delivery, receiver, ended_ms);
  }

  #end_acknowledgement(
    one: OneTrace,
    delivery: Delivery | undefined,
    receiver: Receiver,
    ended_ms: number,
  ): void {
    const parent = delivery?.span ?? one.fanout ?? one.span;
    const span = this.#child(parent, "acknowledgement", SpanKind.CONSUMER, {
      startTime: delivery?.sent_ms ?? one.fanout_ms,
      attributes: { "longwire.device.id": plain_name(receiver.id) },
    });
    span.end(ended_ms);
  }

  /** A Longwire device acknowledges all up to an offset. */
  acknowledged(receiver: Receiver, offset: number): void {
    const waiting = this.#unacked.get(receiver);
    if (waiting === undefined) return;
    const left = waiting.filter((entry) => {
      const [own, one] = entry;
      if (own > offset) return true;
      this.#end_acknowledgement(one, one.deliveries.get(receiver.id), receiver, clock_ms());
      return false;
    });
    if (left.length > 0) this.#unacked.set(receiver, left);
    else this.#unacked.delete(receiver);
  }

  #await(one: OneTrace, receiver: Receiver): void {
    const { offset } = one;
    if (offset === 0) return;
    if (receiver.cursor >= offset) {
      return this.#end_acknowledgement(one, one.deliveries.get(receiver.id), receiver, clock_ms());
    }
    const waiting = this.#unacked.get(receiver) ?? [];
    if (waiting.length >= limits.trace_deliveries_max) waiting.shift();
    waiting.push([offset, one]);
    this.#unacked.set(receiver, waiting);
    if (this.#unacked.size <= limits.traces_open_max) return;
    const [oldest] = this.#unacked.keys();
    this.#unacked.delete(oldest);
  }

  /** Keeps a trace that was slow, and says so. */
  #keep(one: OneTrace, what: string, took_ms: number): void {
    if (!this.#begin_late(one)) return;
    this.options.log.warn(`slow ${what}`, {
      trace_id: one.trace_id,
      topic: one.about["messaging.destination.name"],
      ms: Math.round(took_ms),
    });
  }

  /** Makes a trace a sampled one after the fact; false = there were too many of late. */
  #begin_late(one: OneTrace): boolean {
    if (this.#late.take(1, clock_ms()) > 0) return false;
    const { traceId, spanId } = one.span.spanContext();
    // A sampled parent makes a sampled child. A root that was not sampled is not sent: then its id
    // stands for one that is missing.
    const parent = parent_context(traceId, one.parent_id || spanId, true);
    one.span = this.#tracer.startSpan("publish", {
      startTime: one.came_ms,
      attributes: { ...one.about, "longwire.kept": true },
    }, parent);
    one.is_sampled = true;
    return true;
  }

  #end_store(one: OneTrace): void {
    if (one.append_ms === 0) return;
    const end_ms = one.stored_ms || clock_ms();
    const span = this.#child(one.span, "store", SpanKind.INTERNAL, {
      startTime: one.append_ms,
    });
    span.end(end_ms);
    this.options.measures?.exemplify(
      "store",
      Math.floor((end_ms - one.append_ms) * 1000),
      one.trace_id,
      end_ms,
    );
  }

  /** What is known when the message is on its way. */
  #end(one: OneTrace): void {
    this.#end_store(one);
    one.fanout = this.#child(one.span, "fan-out", SpanKind.INTERNAL, {
      startTime: one.fanout_ms,
      attributes: { "longwire.audience": one.audience },
    });
    one.fanout.end(one.fanned_out_ms);
    if (one.message_id !== "") one.span.setAttribute("messaging.message.id", one.message_id);
    one.span.end(one.fanned_out_ms);
  }

  #child(
    parent: Span,
    name: string,
    kind: SpanKind,
    options: { startTime: number; attributes?: Record<string, string | number> },
  ): Span {
    return this.#tracer.startSpan(name, { kind, ...options }, trace.setSpan(ROOT_CONTEXT, parent));
  }
}
