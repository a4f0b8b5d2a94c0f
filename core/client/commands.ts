/**
 * `longwire sub` and `longwire pub`: what a newcomer tries first. Messages go to stdout, everything
 * that is said about them to stderr, so that the output can be piped.
 */
import { codes } from "../codes.ts";
import type { MessageFrame } from "../protocol/longwire.ts";
import { type Client, type ClientEvent, connect } from "../client.ts";
import { parse_pub, parse_sub, pub_help, sub_help, type SubOptions } from "./options.ts";
import { plain, print, say, status, token_from, with_usage } from "./terminal.ts";

const encoder = new TextEncoder();
const strict_utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The payload when it is text, undefined when it is not UTF-8. */
function text_of(payload: Uint8Array): string | undefined {
  try {
    return strict_utf8.decode(payload);
  } catch {
    return undefined;
  }
}

/** One line for a person. Control characters would be commands to the terminal. */
function message_line({ topic, payload }: MessageFrame): string {
  const text = text_of(payload) ?? `0x${payload.toHex()}`;
  // deno-lint-ignore no-control-regex
  const shown = `${topic} ${text}`.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (unit) => {
    return `\\x${unit.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
  return `${shown}\n`;
}

/** One line for a machine, in the form of the history API. */
function message_json(message: MessageFrame, welcome_epoch: string): string {
  const { topic, payload, offset, qos, time_ms, retain, properties } = message;
  const epoch = message.epoch || welcome_epoch;
  const text = text_of(payload);
  return JSON.stringify({
    id: offset === 0 ? null : `${epoch}:${offset}`,
    topic,
    epoch,
    offset,
    qos,
    retain,
    time: new Date(time_ms).toISOString(),
    content_type: properties?.content_type,
    ...(text === undefined ? { payload_base64: payload.toBase64() } : { payload: text }),
  }) + "\n";
}

/** What an event means to a person; undefined = nothing worth saying. */
function event_line(event: ClientEvent): string | undefined {
  switch (event.type) {
    case "disconnected":
      return `Connection lost: ${plain(event.reason)}; next try in ${Math.ceil(event.retry_ms)} ms`;
    case "gap":
      return `Messages up to offset ${event.to} are gone: expired, or of another log`;
    case "subscription_lost":
      return `Cannot listen to ${event.filter} any more: ${event.code.meaning}`;
    default:
      return undefined;
  }
}

async function client_for(url: string, token: string): Promise<Client> {
  return connect({ address: url, clean: true, token: await token_from(token) });
}

/** Prints messages until `count` have come or the service refuses; answers the exit status. */
async function follow(client: Client, options: SubOptions): Promise<number> {
  let epoch = "";
  let left = options.count;
  for await (const event of client) {
    if (event.type === "message") {
      const { message } = event;
      print(options.json ? message_json(message, epoch) : message_line(message));
      if (left > 0 && --left === 0) return status.done;
    } else if (event.type === "connected") {
      ({ epoch } = event.welcome);
    } else if (event.type === "closed") {
      if (event.code === codes.normal) return status.done;
      say(plain(event.reason));
      return status.failed;
    } else if (event.type === "disconnected" && epoch === "") {
      // Who never got through has the wrong address, or the service is not there.
      say(plain(event.reason));
      return status.failed;
    } else {
      const line = event_line(event);
      if (line !== undefined) say(line);
    }
  }
  return status.done;
}

/** `longwire sub`. `stopped` = the person has seen enough. */
export async function run_sub(args: readonly string[], stopped: Promise<void>): Promise<number> {
  return await with_usage(args, sub_help, async () => {
    const options = parse_sub(args);
    const { filter, qos, after } = options;
    const client = await client_for(options.url, options.token);
    void stopped.then(() => client.close());
    let refused = "";
    client.subscribe(filter, after === undefined ? { qos } : { qos, after }).then(
      () => say(`Listening to ${filter} at ${options.url}`),
      (error) => {
        refused = plain(error.message);
        void client.close();
      },
    );
    const result = await follow(client, options);
    await client.close();
    if (refused === "" || result !== status.done) return result;
    say(`Cannot listen to ${filter}: ${refused}`);
    return status.failed;
  });
}

async function read_stdin(): Promise<Uint8Array> {
  return await new Response(Deno.stdin.readable).bytes();
}

/** Resolves when the client is connected, with the epoch of the log; throws why it cannot be. */
async function connected(client: Client): Promise<string> {
  for await (const event of client) {
    if (event.type === "connected") return event.welcome.epoch;
    if (event.type === "disconnected" || event.type === "closed") throw new Error(event.reason);
  }
  throw new Error("The client was closed");
}

/** `longwire pub`. */
export async function run_pub(args: readonly string[], stopped: Promise<void>): Promise<number> {
  return await with_usage(args, pub_help, async () => {
    const { topic, payload, url, token, content_type, ...options } = parse_pub(args);
    const bytes = payload === "-" ? await read_stdin() : encoder.encode(payload);
    const client = await client_for(url, token);
    void stopped.then(() => client.close());
    try {
      const epoch = await connected(client);
      const typed = content_type === "" ? options : { ...options, content_type };
      const { offset } = await client.publish(topic, bytes, typed);
      say(offset === 0 ? `Sent to ${topic}` : `Stored in ${topic} as ${epoch}:${offset}`);
      return status.done;
    } catch (error) {
      const why = plain(error instanceof Error ? error.message : String(error));
      say(why.startsWith("Cannot ") ? why : `Cannot publish to ${topic}: ${why}`);
      return status.failed;
    } finally {
      await client.close();
    }
  });
}
