/** From the text of /metrics to what the console draws: rates of counters, quantiles of time. */

/** Samples that are kept: half an hour, one each two seconds. */
export const samples_max = 900;
/** Latency is that of the messages of so many samples. */
const latency_samples = 5;

/** One scrape: values by name, with their labels. */
export function parse_metrics(text) {
  const series = new Map();
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (found === null) continue;
    const [, name, labels = "", value] = found;
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)];
    const row = { labels: Object.fromEntries(pairs.map(([, key, text]) => [key, text])) };
    row.value = value === "+Inf" ? Infinity : Number(value);
    if (series.has(name)) series.get(name).push(row);
    else series.set(name, [row]);
  }
  return series;
}

/** The sum of what fits; 0 = there is none. */
export function total(series, name, fits = () => true) {
  let sum = 0;
  for (const row of series.get(name) ?? []) if (fits(row.labels)) sum += row.value;
  return sum;
}

/** Cumulative counts of a histogram by upper bound, over all of its label sets. */
function buckets_of(series, name) {
  const counts = new Map();
  for (const { labels, value } of series.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return counts;
}

/** A quantile of what came between two scrapes, as histogram_quantile() has it; null = nothing. */
export function quantile(before, after, q) {
  const bounds = [...after.keys()].sort((a, b) => a - b);
  const count_of = (bound) => after.get(bound) - (before.get(bound) ?? 0);
  const all = bounds.length === 0 ? 0 : count_of(bounds.at(-1));
  if (!(all > 0)) return null;
  let low = 0;
  let below = 0;
  for (const bound of bounds) {
    const count = count_of(bound);
    if (count >= q * all) {
      if (bound === Infinity) return low;
      return low + (bound - low) * ((q * all - below) / Math.max(1, count - below));
    }
    low = bound;
    below = count;
  }
  return low;
}

const rates = {
  published: ["longwire_messages_published_total"],
  delivered: ["longwire_deliveries_total"],
  dropped: ["longwire_messages_dropped_total", "longwire_stream_messages_dropped_total"],
  refused: ["longwire_publishes_refused_total", "longwire_http_refusals_total"],
  closed: ["longwire_connections_closed_total"],
};
const gauges = {
  connections: "longwire_connections",
  sessions: "longwire_sessions",
  queue_bytes: "longwire_out_queue_bytes",
};
const latency = "longwire_publish_to_socket_seconds";

/** What the page draws: columns of the same length, times in seconds. */
export class History {
  times = [];
  columns = Object.fromEntries(
    [...Object.keys(rates), ...Object.keys(gauges), "p50", "p99"].map((name) => [name, []]),
  );
  /** The last scrape. */
  series = new Map();
  #before = null;
  #latencies = [];

  add(series, time_s) {
    const counts = {};
    for (const [name, parts] of Object.entries(rates)) {
      counts[name] = parts.reduce((sum, part) => sum + total(series, part), 0);
    }
    const before = this.#before;
    // After a restart counters begin again: what came before is not known.
    const rate = (name) => {
      if (before === null || counts[name] < before.counts[name]) return 0;
      return (counts[name] - before.counts[name]) / Math.max(0.001, time_s - before.time_s);
    };
    for (const name of Object.keys(rates)) this.columns[name].push(rate(name));
    for (const [name, metric] of Object.entries(gauges)) {
      this.columns[name].push(total(series, metric));
    }
    const buckets = buckets_of(series, latency);
    this.#latencies.push(buckets);
    if (this.#latencies.length > latency_samples + 1) this.#latencies.shift();
    for (const [name, q] of [["p50", 0.5], ["p99", 0.99]]) {
      this.columns[name].push(quantile(this.#latencies[0], buckets, q));
    }
    this.times.push(time_s);
    if (this.times.length > samples_max) {
      for (const list of [this.times, ...Object.values(this.columns)]) list.shift();
    }
    this.#before = { counts, time_s };
    this.series = series;
  }

  /** The newest value of a column; null = there is none. */
  last(name) {
    return this.columns[name].at(-1) ?? null;
  }
}

/** 1234567 -> 1.23 M */
export function short_number(value) {
  if (value === null) return "–";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return `${digits(value / size)} ${unit}`;
  }
  return Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 1 : 0);
}

/** Three digits, without zeros that say nothing. */
function digits(value) {
  return String(Number(value.toPrecision(3)));
}

/** Seconds -> 0.42 ms */
export function short_time(seconds) {
  if (seconds === null) return "–";
  if (seconds === 0) return "0";
  if (seconds < 0.001) return `${digits(seconds * 1e6)} µs`;
  return seconds < 1 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds)} s`;
}

export function short_bytes(bytes) {
  if (bytes === null) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) {
    if (bytes >= size) return `${digits(bytes / size)} ${unit}`;
  }
  return `${bytes} B`;
}
