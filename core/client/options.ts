/** What the commands `pub` and `sub` may be told: arguments -> checked options, and their help. */
import { duration_ms } from "../duration.ts";
import type { Qos } from "../message.ts";
import type { FrameCursor } from "../protocol/longwire.ts";
import { filter_problem, topic_problem } from "../topic_tree.ts";

/** What is wrong with the arguments, as one sentence. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export interface SubOptions {
  readonly filter: string;
  readonly url: string;
  /** The token, or `@` and its file; "" = none. */
  readonly token: string;
  readonly qos: Qos;
  /** Also what is stored after this; undefined = from now on. */
  readonly after: FrameCursor | undefined;
  /** Messages after which it ends; 0 = never. */
  readonly count: number;
  readonly json: boolean;
}

export interface PubOptions {
  readonly topic: string;
  /** "-" = what comes on stdin. */
  readonly payload: string;
  readonly url: string;
  /** The token, or `@` and its file; "" = none. */
  readonly token: string;
  readonly qos: Qos;
  readonly retain: boolean;
  /** 0 = never expires. */
  readonly ttl_ms: number;
  readonly key: string;
  readonly content_type: string;
}

const url_default = "127.0.0.1:7000";

export const sub_help = `Print the messages of a topic filter, each as it comes

Usage: longwire sub <filter> [--option value ...]

  --url host:port        where the service listens for devices (default ${url_default})
  --token text or @file  what the service is shown, where it has keys
  --qos 0|1|2            1 and 2 get what they missed while the connection was down (default 1)
  --after epoch:offset   also what is stored after that; 0 = all that is stored
  --count number         end after so many messages
  --json                 one JSON object a line

The exit status is 0 when it ended as asked, 1 when it could not go on, 2 for wrong arguments.
`;

export const pub_help = `Publish one message

Usage: longwire pub <topic> [payload] [--option value ...]

  payload                the text; - = what comes on stdin; none = empty
  --url host:port        where the service listens for devices (default ${url_default})
  --token text or @file  what the service is shown, where it has keys
  --qos 0|1|2            1 and 2 are stored before this command ends (default 1)
  --retain               keep it for those who subscribe later; an empty one removes what is kept
  --ttl duration         forget it after that: 90, 90s, 5m, 2h, 1d (default never)
  --key text             while it waits for a slow device, a newer one of this key takes its place
  --content_type type    such as application/json

The exit status is 0 when the service has taken it, 1 when it has not, 2 for wrong arguments.
`;

/** Arguments taken apart: `--name value`, `--name=value`, flags, and the words that are left. */
export interface Words {
  readonly words: readonly string[];
  readonly values: ReadonlyMap<string, string>;
  readonly flags: ReadonlySet<string>;
}

export function take_apart(
  args: readonly string[],
  value_names: readonly string[],
  flag_names: readonly string[],
): Words {
  const words: string[] = [];
  const values = new Map<string, string>();
  const flags = new Set<string>();
  for (let i = 0; i < args.length; i++) {
    const [, name, inline] = /^--([\w-]+)(?:=([^]*))?$/.exec(args[i]) ?? [];
    const option = name?.replaceAll("-", "_");
    if (option === undefined) {
      words.push(args[i]);
    } else if (flag_names.includes(option)) {
      if (inline !== undefined) throw new UsageError(`Cannot use --${name}: it takes no value`);
      flags.add(option);
    } else if (value_names.includes(option)) {
      const value = inline ?? args[++i];
      if (value === undefined) throw new UsageError(`Cannot use --${name}: a value is missing`);
      values.set(option, value);
    } else {
      throw new UsageError(`Cannot use --${name}: there is no such option`);
    }
  }
  return { words, values, flags };
}

function qos_of(text: string): Qos {
  if (text === "0" || text === "1" || text === "2") return Number(text) as Qos;
  throw new UsageError(`Cannot use --qos "${text}": it must be 0, 1 or 2`);
}

function after_of(text: string | undefined): FrameCursor | undefined {
  if (text === undefined) return undefined;
  const parts = /^(?:(.*):)?(\d{1,15})$/.exec(text);
  if (parts !== null) return { epoch: parts[1] ?? "", offset: Number(parts[2]) };
  throw new UsageError(`Cannot use --after "${text}": it must be epoch:offset, or an offset`);
}

function count_of(text: string): number {
  if (/^[1-9]\d{0,14}$/.test(text)) return Number(text);
  throw new UsageError(`Cannot use --count "${text}": it must be a whole number above 0`);
}

function ttl_of(text: string): number {
  const value = duration_ms(text);
  if (value !== undefined) return value;
  throw new UsageError(`Cannot use --ttl "${text}": it must be a duration such as 90s`);
}

const sub_values = ["url", "token", "qos", "after", "count"];

/** @throws UsageError */
export function parse_sub(args: readonly string[]): SubOptions {
  const { words, values, flags } = take_apart(args, sub_values, ["json"]);
  const [filter, extra] = words;
  if (filter === undefined) throw new UsageError("Cannot subscribe: a topic filter is missing");
  if (extra !== undefined) {
    throw new UsageError(`Cannot use "${extra}": sub takes one filter; write filters in quotes`);
  }
  const problem = filter_problem(filter);
  if (problem !== undefined) throw new UsageError(`Cannot subscribe to "${filter}": ${problem}`);
  const count = values.get("count");
  return {
    filter,
    url: values.get("url") ?? url_default,
    token: values.get("token") ?? "",
    qos: qos_of(values.get("qos") ?? "1"),
    after: after_of(values.get("after")),
    count: count === undefined ? 0 : count_of(count),
    json: flags.has("json"),
  };
}

/** @throws UsageError */
export function parse_pub(args: readonly string[]): PubOptions {
  const names = ["url", "token", "qos", "ttl", "key", "content_type"];
  const { words, values, flags } = take_apart(args, names, ["retain"]);
  const [topic, payload = "", extra] = words;
  if (topic === undefined) throw new UsageError("Cannot publish: a topic is missing");
  if (extra !== undefined) {
    throw new UsageError(`Cannot use "${extra}": pub takes one payload; write text in quotes`);
  }
  const problem = topic_problem(topic);
  if (problem !== undefined) throw new UsageError(`Cannot publish to "${topic}": ${problem}`);
  return {
    topic,
    payload,
    url: values.get("url") ?? url_default,
    token: values.get("token") ?? "",
    qos: qos_of(values.get("qos") ?? "1"),
    retain: flags.has("retain"),
    ttl_ms: ttl_of(values.get("ttl") ?? "0"),
    key: values.get("key") ?? "",
    content_type: values.get("content_type") ?? "",
  };
}
