/** A file of webhooks that a test writes, and what it waits for of a receiver. */
import { eventually, type Service } from "./service.ts";
import type { Event, Receiver } from "./webhook_receiver.ts";

export interface WebhooksFile extends AsyncDisposable {
  readonly path: string;
  readonly args: readonly string[];
  write(content: unknown): Promise<void>;
}

export async function webhooks_file(
  content: unknown,
  networks = "127.0.0.0/8",
): Promise<WebhooksFile> {
  const path = await Deno.makeTempFile({ suffix: ".json" });
  const write = (content: unknown) => Deno.writeTextFile(path, JSON.stringify(content));
  await write(content);
  const args = ["--webhooks", path, "--webhook_networks", networks];
  return { path, args, write, [Symbol.asyncDispose]: () => Deno.remove(path) };
}

/** Members of a hook for what is published below `orders`. */
export const orders = { events: ["message"], filters: ["orders/#"] };

/** A hook whose endpoint is the receiver. */
export function hook(receiver: Receiver, more: Record<string, unknown> = orders) {
  return { url: receiver.url, secrets: [receiver.secrets[0]], ...more };
}

/** The next events that the receiver takes. */
export async function next_events(receiver: Receiver, count: number): Promise<Event[]> {
  const events: Event[] = [];
  while (events.length < count) events.push((await receiver.taken.next())!);
  return events;
}

export const data_of = (events: readonly Event[]) => events.map(({ data }) => data);

export interface DeadLetter {
  readonly event: { readonly id: string; readonly data: unknown };
  readonly code: string;
  readonly attempts: number;
}

/** Those of a hook, one at least. */
export async function dead_letters(service: Service, name: string): Promise<DeadLetter[]> {
  const read = async () => {
    const response = await fetch(`${service.http}/v1/topics/$dead/${name}/messages`);
    const { messages } = await response.json();
    return messages.map(({ payload }: { payload: string }) => JSON.parse(payload));
  };
  await eventually("a dead letter", async () => (await read()).length > 0);
  return await read();
}
