/**
 * MQTT topics and filters as NATS subjects, pure. A level becomes a token, and a last token `%%`
 * ends every topic, so that `a/#`, which matches `a` too, is the one subject `a.>`. What a token
 * cannot hold is escaped: an empty level is `%`; `%`, `.`, `*`, `>`, white space and controls are
 * `%` with two hexadecimal digits for each byte of UTF-8.
 *
 * A filter's subject may match more than the filter, never less: NATS knows no `$` topics, what
 * follows a `+` is not looked at, and topics that do not fit are cut. Whoever reads looks at the
 * topic that the message itself holds.
 */

/** NATS reads a protocol line of 4096 bytes: subject, reply subject and sizes together. */
const subject_bytes_max = 2048;
/** A filter that is longer than this before its first wildcard is followed as `#`. */
const literal_bytes_max = 1024;
const end = "%%";
/** Stands for the levels that did not fit, before a digest of the topic. */
const cut = "%~";

// deno-lint-ignore no-control-regex
const unfit = /[%.*>\s\u0000-\u0020\u007f-\u00a0]/gu;
const encoder = new TextEncoder();

function escaped(char: string): string {
  let text = "";
  for (const byte of encoder.encode(char)) text += `%${byte.toString(16).padStart(2, "0")}`;
  return text;
}

/** One token: a level of a topic, or an id. */
export function token_of(level: string): string {
  return level === "" ? "%" : level.replace(unfit, escaped);
}

function size_of(text: string): number {
  return text.length * 3 <= literal_bytes_max ? text.length : encoder.encode(text).length;
}

/** FNV-1a twice: tells cut topics apart for those who look, nothing depends on it being unique. */
function digest(text: string): string {
  let a = 0x811c9dc5;
  let b = 0x9dc5811c;
  for (let index = 0; index < text.length; index++) {
    a = Math.imul(a ^ text.charCodeAt(index), 0x01000193) >>> 0;
    b = Math.imul(b ^ text.charCodeAt(text.length - 1 - index), 0x01000193) >>> 0;
  }
  return a.toString(16).padStart(8, "0") + b.toString(16).padStart(8, "0");
}

/** The subject of a topic, behind `prefix`, which ends with a dot. */
export function subject_of(prefix: string, topic: string): string {
  const tokens = topic.split("/").map(token_of);
  const subject = `${prefix}${tokens.join(".")}.${end}`;
  if (size_of(subject) <= subject_bytes_max) return subject;
  let kept = "";
  for (const token of tokens) {
    if (size_of(kept) + size_of(token) + 64 > subject_bytes_max) break;
    kept += `${token}.`;
  }
  return `${prefix}${kept}${cut}.${digest(topic)}.${end}`;
}

/** A subject that matches every topic that the filter matches. */
export function subject_of_filter(prefix: string, filter: string): string {
  const levels = filter.split("/");
  const open_at = levels.findIndex((level) => level === "+" || level === "#");
  if (open_at < 0) return subject_of(prefix, filter);
  const tokens = levels.slice(0, open_at).map(token_of);
  const literal = tokens.join(".");
  if (tokens.length === 0 || size_of(literal) > literal_bytes_max) return `${prefix}>`;
  return `${prefix}${literal}.>`;
}

/** A subject that matches every topic that one of the filters matches. */
export function cover_of(prefix: string, filters: readonly string[]): string {
  const [first, ...rest] = filters.map((filter) => subject_of_filter(prefix, filter));
  if (first === undefined) return `${prefix}>`;
  const tokens = first.split(".");
  let common = tokens.length;
  for (const other of rest) {
    const others = other.split(".");
    let same = 0;
    while (same < common && tokens[same] === others[same]) same++;
    common = same;
  }
  if (common === tokens.length) return first;
  return `${tokens.slice(0, common).join(".")}.>`;
}
