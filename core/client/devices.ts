/** `longwire devices`: asks a service over HTTP which devices it has, or to let one go. */
import type { DeviceJson, DevicePage, ListenerJson } from "../devices.ts";
import { ask, http_url } from "./http.ts";
import { take_apart, UsageError } from "./options.ts";
import { plain, print, say, status, token_from, with_usage } from "./terminal.ts";

export const devices_help = `List the devices of a service, or let one go

Usage: longwire devices [id] [--option value ...]

  id                     only this one, with its subscriptions
  --url http://host:port where the service answers HTTP (default http://127.0.0.1:8080)
  --token text or @file  what the service is shown, where it has keys
  --connected            only those that are connected
  --prefix text          only those whose id begins so
  --topic topic          those that are connected and hear it, or listen within that filter
  --kick                 close the connection of the device
  --forget               and end its session
  --json                 one JSON object a line

The exit status is 0 when the service has answered, 1 when it has not, 2 for wrong arguments.
`;

interface DevicesOptions {
  /** "" = all of them. */
  readonly id: string;
  readonly url: string;
  readonly token: string;
  readonly query: Readonly<Record<string, string>>;
  /** "" = by device, else who hears it. */
  readonly topic: string;
  readonly kick: boolean;
  readonly forget: boolean;
  readonly json: boolean;
}

/** @throws UsageError */
export function parse_devices(args: readonly string[]): DevicesOptions {
  const flag_names = ["connected", "kick", "forget", "json"];
  const { words, values, flags } = take_apart(
    args,
    ["url", "token", "prefix", "topic"],
    flag_names,
  );
  const [id = "", extra] = words;
  if (extra !== undefined) throw new UsageError(`Cannot use "${extra}": devices takes one id`);
  const url = http_url(values.get("url"));
  const kick = flags.has("kick") || flags.has("forget");
  if (kick && id === "") throw new UsageError("Cannot let a device go: name it");
  const prefix = values.get("prefix");
  return {
    id,
    url,
    token: values.get("token") ?? "",
    query: {
      ...(flags.has("connected") ? { connected: "true" } : {}),
      ...(prefix === undefined ? {} : { prefix }),
    },
    topic: values.get("topic") ?? "",
    kick,
    forget: flags.has("forget"),
    json: flags.has("json"),
  };
}

/** One line for a person. Control characters would be commands to the terminal. */
function line_of(one: Partial<DeviceJson & ListenerJson>): string {
  const id = JSON.stringify(one.device_id).slice(1, -1);
  if (one.filter !== undefined) return `${id}\t${JSON.stringify(one.filter)}\tQoS ${one.qos}`;
  const place = one.connected ? `connected from ${one.address}` : "away";
  return `${id}\t${one.protocol}\t${place}\t${one.subscriptions} subscriptions`;
}

async function list(options: DevicesOptions, token: string): Promise<void> {
  const { url, topic, query, json } = options;
  const path = topic === "" ? "/v1/devices" : "/v1/presence";
  for (let after: string | null = ""; after !== null;) {
    const asked = new URLSearchParams({ ...query, ...(topic === "" ? {} : { topic }), after });
    const page = await ask(`${url}${path}?${asked}`, token, "GET");
    const { devices, next } = page as DevicePage<DeviceJson>;
    for (const one of devices) print(`${json ? JSON.stringify(one) : line_of(one)}\n`);
    after = next;
  }
}

async function one_device(options: DevicesOptions, token: string): Promise<void> {
  const { url, id, kick, forget, json } = options;
  const place = `${url}/v1/devices/${encodeURIComponent(id)}`;
  const query = forget ? "?forget=true" : "";
  const answer = await ask(`${place}${query}`, token, kick ? "DELETE" : "GET");
  if (json) return print(`${JSON.stringify(answer)}\n`);
  if (kick) return say(`Let ${JSON.stringify(id)} go`);
  const { filters, ...device } = answer as DeviceJson & { filters: ListenerJson[] };
  print(`${line_of(device)}\n`);
  for (const { filter, qos } of filters) print(`  ${JSON.stringify(filter)}\tQoS ${qos}\n`);
}

/** Answers the exit status. */
export async function run_devices(args: readonly string[]): Promise<number> {
  return await with_usage(args, devices_help, async () => {
    const options = parse_devices(args);
    const token = await token_from(options.token);
    try {
      await (options.id === "" ? list(options, token) : one_device(options, token));
      return status.done;
    } catch (error) {
      const why = plain(error instanceof Error ? error.message : String(error));
      say(`Cannot ask ${options.url}: ${why}`);
      return status.failed;
    }
  });
}
