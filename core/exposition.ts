/**
 * Metrics as text: names and help over functions that read values when somebody asks. One set of
 * names is written in two formats, Prometheus's and OpenMetrics, which has exemplars.
 */
import { type Metric, Registry } from "prom-client";
import type { Snapshot } from "./histogram.ts";

export type Labels = Readonly<Record<string, string>>;

type Values = number | readonly [labels: Labels, value: number][];
/** Reads one value, or values by label. */
export type Read = () => Values | Promise<Values>;
export type ReadHistogram = () => Snapshot | readonly [labels: Labels, value: Snapshot][];

interface Value {
  readonly metricName?: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
  readonly exemplar?: {
    readonly labelSet: Labels;
    readonly value: number;
    readonly timestamp: number;
  };
}

export interface Text {
  readonly content_type: string;
  readonly text: string;
}

const prefix = "longwire_";

/** Which of two kinds of text an Accept header would rather have (RFC 9110 section 12.5.1). */
export function wants_openmetrics(accept: string | null): boolean {
  const weights = { "application/openmetrics-text": 0, "text/plain": 0 };
  for (const range of (accept ?? "").split(",")) {
    const [type = "", ...parameters] = range.split(";").map((part) => part.trim().toLowerCase());
    if (type !== "application/openmetrics-text" && type !== "text/plain") continue;
    const q = parameters.find((each) => each.startsWith("q="));
    const weight = q === undefined ? 1 : Number(q.slice(2)) || 0;
    weights[type] = Math.max(weights[type], weight);
  }
  const { "application/openmetrics-text": open, "text/plain": plain } = weights;
  return open > 0 && open >= plain;
}

export class Exposition {
  readonly #plain = new Registry();
  readonly #open = new Registry();

  constructor() {
    // The declaration of the constructor does not know that it takes this too.
    this.#open.setContentType(Registry.OPENMETRICS_CONTENT_TYPE as never);
  }

  gauge(name: string, help: string, read: Read): void {
    this.#register("gauge", prefix + name, help, async () => values_of(await read()));
  }

  counter(name: string, help: string, read: Read): void {
    this.#register("counter", `${prefix}${name}_total`, help, async () => values_of(await read()));
  }

  histogram(name: string, help: string, read: ReadHistogram): void {
    this.#register("histogram", prefix + name, help, () => {
      const snapshots = read();
      if (!is_list(snapshots)) return buckets_of(prefix + name, {}, snapshots);
      return snapshots.flatMap(([labels, each]) => buckets_of(prefix + name, labels, each));
    });
  }

  async text(accept: string | null): Promise<Text> {
    const registry = wants_openmetrics(accept) ? this.#open : this.#plain;
    return { content_type: registry.contentType, text: await registry.metrics() };
  }

  #register(
    type: string,
    name: string,
    help: string,
    read: () => Value[] | Promise<Value[]>,
  ): void {
    for (const registry of [this.#plain, this.#open]) {
      // One each: the registry renames what it is given. It asks for nothing but this.
      const family = {
        name,
        help,
        type,
        get: async () => ({ name, help, type, values: await read() }),
      };
      if (registry === this.#open && type === "counter") {
        const base = name.slice(0, -"_total".length);
        family.get = async () => ({ name: base, help, type, values: await read() });
      }
      registry.registerMetric(family as unknown as Metric);
    }
  }
}

function is_list(
  snapshots: ReturnType<ReadHistogram>,
): snapshots is readonly [labels: Labels, value: Snapshot][] {
  return Array.isArray(snapshots);
}

function values_of(read: Values): Value[] {
  if (typeof read === "number") return [{ labels: {}, value: read }];
  return read.map(([labels, value]) => ({ labels, value }));
}

/** Buckets summed up, as both formats want them. */
function buckets_of(name: string, labels: Labels, snapshot: Snapshot): Value[] {
  const { bounds, counts, sum, exemplars } = snapshot;
  const values: Value[] = [];
  let total = 0;
  for (let bucket = 0; bucket < counts.length; bucket++) {
    total += counts[bucket];
    const le = bucket < bounds.length ? bounds[bucket] : "+Inf";
    const exemplar = exemplars?.[bucket];
    const shown = exemplar === undefined ? {} : {
      exemplar: {
        labelSet: { trace_id: exemplar.trace_id },
        value: exemplar.value,
        timestamp: exemplar.time_s,
      },
    };
    values.push({
      metricName: `${name}_bucket`,
      labels: { ...labels, le },
      value: total,
      ...shown,
    });
  }
  values.push({ metricName: `${name}_sum`, labels, value: sum });
  values.push({ metricName: `${name}_count`, labels, value: total });
  return values;
}
