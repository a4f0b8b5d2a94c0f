/**
 * A small log: one line an event, for people or as JSON. A message that repeats without end costs a
 * bounded number of lines, and no field that looks like a secret is written. Writer and clock are
 * handed in.
 */

/** From most to least talkative. */
export const log_levels = ["debug", "info", "warn", "error"] as const;

export type LogLevel = typeof log_levels[number];

/** What belongs to an event; undefined fields are left out. */
export type LogFields = Readonly<Record<string, unknown>>;

export interface LogOptions {
  /** Events below this level are not written. */
  readonly level: LogLevel;
  /** `json`: one object a line, for machines. `text`: for the person at the terminal. */
  readonly format: "json" | "text";
  /** Takes one line, its newline included. It must not throw. */
  readonly write: (line: string) => void;
  /** Unix milliseconds. */
  readonly now_ms: () => number;
}

/** Lines that one message of one level may take in `repeat_window_ms`; more are only counted. */
const repeats_max = 10;
const repeat_window_ms = 10_000;
/** Messages whose repeats are counted at the same time; past this, the oldest is forgotten. */
const messages_max = 256;
/** Of one field or message; the rest is cut. */
const value_units_max = 1024;
/** Fields of one event; more are cut. */
const fields_max = 32;

/** Whole words of a field's name that say: not for the log. */
const secret_name =
  /(^|_|-)(token|secret|password|authorization|credential|cookie|jwt|(private|api)_key)s?($|_|-)/i;
/** A JSON Web Token wherever it stands: two base64url texts of JSON objects, and a third. */
const token_text = /\beyJ[\w-]{4,}\.eyJ[\w-]*\.[\w-]*/g;

/** How often one message came in its window. */
interface Repeats {
  since_ms: number;
  count: number;
}

/** Writes events. Messages are constants ("listening"); what varies goes into fields. */
export class Log {
  readonly #options: LogOptions;
  readonly #rank: number;
  readonly #repeats = new Map<string, Repeats>();
  /** The trace that an event belongs to; null = nobody traces. */
  trace_id: (() => string | undefined) | null = null;

  constructor(options: LogOptions) {
    this.#options = options;
    this.#rank = log_levels.indexOf(options.level);
  }

  debug(message: string, fields: LogFields = {}): void {
    this.#log("debug", message, fields);
  }

  info(message: string, fields: LogFields = {}): void {
    this.#log("info", message, fields);
  }

  warn(message: string, fields: LogFields = {}): void {
    this.#log("warn", message, fields);
  }

  error(message: string, fields: LogFields = {}): void {
    this.#log("error", message, fields);
  }

  /** Writes the count of every repeat not written yet: call it before the process ends. */
  flush(): void {
    for (const [key, repeats] of this.#repeats) this.#report(key, repeats);
    this.#repeats.clear();
  }

  #log(level: LogLevel, message: string, fields: LogFields): void {
    if (log_levels.indexOf(level) < this.#rank) return;
    const now_ms = this.#options.now_ms();
    if (!this.#may_write(`${level} ${message}`, now_ms)) return;
    const trace_id = this.trace_id?.();
    const named = trace_id === undefined ? fields : { trace_id, ...fields };
    this.#write(now_ms, level, message, named);
  }

  /** Counts one more of `key`; the window begins with its first event. */
  #may_write(key: string, now_ms: number): boolean {
    const repeats = this.#repeats.get(key);
    const age_ms = repeats === undefined ? 0 : now_ms - repeats.since_ms;
    if (repeats !== undefined && age_ms >= 0 && age_ms < repeat_window_ms) {
      repeats.count++;
      return repeats.count <= repeats_max;
    }
    if (repeats !== undefined) {
      this.#report(key, repeats);
      this.#repeats.delete(key); // to the end of the Map: oldest first
    } else if (this.#repeats.size >= messages_max) {
      for (const [oldest, forgotten] of this.#repeats) {
        this.#report(oldest, forgotten);
        this.#repeats.delete(oldest);
        break;
      }
    }
    this.#repeats.set(key, { since_ms: now_ms, count: 1 });
    return true;
  }

  #report(key: string, { since_ms, count }: Repeats): void {
    if (count <= repeats_max) return;
    const space = key.indexOf(" ");
    this.#write(this.#options.now_ms(), key.slice(0, space) as LogLevel, "repeated", {
      message: key.slice(space + 1),
      not_written: count - repeats_max,
      since: iso_time(since_ms),
    });
  }

  #write(now_ms: number, level: LogLevel, message: string, fields: LogFields): void {
    const time = iso_time(now_ms);
    const pairs = printable_pairs(fields);
    if (this.#options.format === "json") {
      // What every line has comes last, so that no field can pass for it.
      const line = { ...Object.fromEntries(pairs), time, level, event: cut(message) };
      this.#options.write(JSON.stringify(line) + "\n");
      return;
    }
    const words = pairs.map(([name, value]) => ` ${quoted(name)}=${quoted(String(value))}`);
    const head = `${time} ${level.toUpperCase().padEnd(5)} ${escape_controls(cut(message))}`;
    this.#options.write(`${head}${words.join("")}\n`);
  }
}

type Printable = string | number | boolean | null;

function printable_pairs(fields: LogFields): [string, Printable][] {
  const pairs: [string, Printable][] = [];
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    if (pairs.length === fields_max) {
      pairs.push(["fields_cut", true]);
      break;
    }
    pairs.push([cut(name), secret_name.test(name) ? "[hidden]" : printable(value)]);
  }
  return pairs;
}

/** Never throws: a log that fails hides the failure it was to tell. */
function printable(value: unknown): Printable {
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "number") return Number.isFinite(value) ? value : String(value);
  if (typeof value === "string") return cut(value);
  if (value instanceof Error) return cut(`${value.name}: ${value.message}`);
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`;
  if (typeof value !== "object") return cut(String(value));
  try {
    return cut(JSON.stringify(value, (name, inner) => secret_name.test(name) ? "[hidden]" : inner));
  } catch {
    return "[cannot be written]"; // a cycle, a bigint, a toJSON that throws
  }
}

function cut(text: string): string {
  // Cut before searching: a text of any length costs no more than the longest that is kept.
  const is_long = text.length > value_units_max;
  const kept = is_long ? text.slice(0, value_units_max).toWellFormed() : text;
  const hidden = kept.replace(token_text, "[hidden]");
  return is_long ? `${hidden}[${text.length - value_units_max} more]` : hidden;
}

/** In quotes unless it is one plain word: a line never holds more events than one. */
function quoted(text: string): string {
  return /^[\w.:/+@,[\]-]+$/.test(text) ? text : escape_controls(JSON.stringify(text));
}

/** Control characters and the line separators that JSON lets pass, as \u escapes. */
function escape_controls(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

function iso_time(unix_ms: number): string {
  return new Date(unix_ms).toISOString();
}
