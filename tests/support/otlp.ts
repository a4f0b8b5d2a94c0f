/** A small OpenTelemetry collector: takes spans over OTLP/HTTP as JSON, for who waits for them. */
import { Inbox } from "./wait.ts";

export interface Span {
  readonly scope: string;
  readonly name: string;
  readonly trace_id: string;
  readonly span_id: string;
  /** "" = it is a root. */
  readonly parent_id: string;
  readonly start_ns: bigint;
  readonly end_ns: bigint;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly is_error: boolean;
}

// deno-lint-ignore no-explicit-any
type Json = any;

function span_of(scope: string, span: Json): Span {
  const attributes: Record<string, unknown> = {};
  for (const { key, value } of span.attributes) attributes[key] = Object.values(value)[0];
  return {
    scope,
    name: span.name,
    trace_id: span.traceId,
    span_id: span.spanId,
    parent_id: span.parentSpanId ?? "",
    start_ns: BigInt(span.startTimeUnixNano),
    end_ns: BigInt(span.endTimeUnixNano),
    attributes,
    is_error: span.status?.code === 2,
  };
}

export class Collector {
  readonly spans = new Inbox<Span>("spans");
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor() {
    const options = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
    this.#server = Deno.serve(options, async (request) => {
      const { resourceSpans = [] } = await request.json();
      for (const { scopeSpans } of resourceSpans) {
        for (const { scope, spans } of scopeSpans) {
          for (const span of spans) this.spans.push(span_of(scope.name, span));
        }
      }
      return Response.json({});
    });
  }

  /** What makes a service send its spans here, at once. */
  env(sampler: string): Record<string, string> {
    return {
      OTEL_DENO: "true",
      OTEL_DENO_CONSOLE: "ignore",
      OTEL_METRICS_EXPORTER: "none",
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${this.#server.addr.port}`,
      OTEL_BSP_SCHEDULE_DELAY: "20",
      OTEL_TRACES_SAMPLER: sampler,
    };
  }

  /** The first span that fits, of those that came and those to come. */
  async find(what: string, fits: (span: Span) => boolean): Promise<Span> {
    return this.spans.seen.find(fits) ?? await this.spans.find(fits, what);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.spans.end();
    await this.#server.shutdown();
  }
}
