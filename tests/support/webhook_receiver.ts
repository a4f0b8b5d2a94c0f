/**
 * A receiver of webhooks as its developer would write it: a real HTTP server that verifies
 * signatures with the library of the Standard Webhooks specification and reads events with the SDK
 * of CloudEvents. What it answers is the test's choice.
 */
import { createHmac } from "node:crypto";
import { type CloudEvent, HTTP } from "cloudevents";
import { Webhook } from "standardwebhooks";
import { Inbox } from "./wait.ts";

/** A secret as the file of webhooks has it. */
export function new_secret(): string {
  return `whsec_${crypto.getRandomValues(new Uint8Array(32)).toBase64()}`;
}

export type Event = CloudEvent<unknown>;

/** One request. */
export interface Received {
  readonly path: string;
  readonly headers: Headers;
  readonly body: string;
  readonly events: readonly Event[];
  /** performance.now() of its arrival. */
  readonly at_ms: number;
}

/** What it is answered; 204 when the test does not say. */
export type Respond = (received: Received) => Response | undefined | Promise<Response | undefined>;

export class Receiver implements AsyncDisposable {
  /** Requests whose signature is good, in the order of their arrival. */
  readonly requests = new Inbox<Received>("the receiver");
  /** Events of requests that were taken. */
  readonly taken = new Inbox<Event>("the receiver's events");
  /** Why requests could not be verified. */
  readonly problems: string[] = [];
  readonly secrets: string[];
  respond: Respond = () => undefined;
  /** Requests that are being answered, and as many as ever were. */
  busy = 0;
  busy_max = 0;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  /** @param tls PEM texts; absent = plain HTTP */
  constructor(readonly tls?: { readonly cert: string; readonly key: string }) {
    this.secrets = [new_secret()];
    const place = { hostname: "127.0.0.1", port: 0, onListen: () => {}, ...tls };
    this.#server = Deno.serve(place, (request) => this.#answer(request));
  }

  get port(): number {
    return this.#server.addr.port;
  }

  get url(): string {
    const origin = this.tls === undefined ? "http://127.0.0.1" : "https://localhost";
    return `${origin}:${this.port}/hook`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }

  async #answer(request: Request): Promise<Response> {
    const at_ms = performance.now();
    this.busy_max = Math.max(this.busy_max, ++this.busy);
    try {
      const bytes = await request.bytes();
      const { headers } = request;
      this.#verify(bytes, headers);
      const body = new TextDecoder().decode(bytes);
      const events = [HTTP.toEvent({ headers: decoded(headers), body })].flat();
      const received: Received = {
        path: new URL(request.url).pathname,
        headers,
        body,
        events: events as Event[],
        at_ms,
      };
      this.requests.push(received);
      const response = await this.respond(received) ?? new Response(null, { status: 204 });
      if (response.ok) { for (const event of received.events) this.taken.push(event); }
      return response;
    } catch (error) {
      this.problems.push(String(error));
      return new Response(null, { status: 401 });
    } finally {
      this.busy--;
    }
  }

  /** Throws when no secret has signed it. */
  #verify(bytes: Uint8Array, headers: Headers): void {
    let problem: unknown;
    for (const secret of this.secrets) {
      try {
        return verify(secret, bytes, headers);
      } catch (error) {
        problem = error;
      }
    }
    throw problem;
  }
}

function verify(secret: string, bytes: Uint8Array, headers: Headers): void {
  verify_bytes(secret, bytes, headers);
  // The library takes JSON only.
  if (!/json/.test(headers.get("content-type") ?? "")) return;
  new Webhook(secret).verify(new TextDecoder().decode(bytes), Object.fromEntries(headers));
}

function verify_bytes(secret: string, bytes: Uint8Array, headers: Headers): void {
  const key = Uint8Array.fromBase64(secret.slice("whsec_".length));
  const head = `${headers.get("webhook-id")}.${headers.get("webhook-timestamp")}.`;
  const signature = createHmac("sha256", key).update(head).update(bytes).digest("base64");
  if (headers.get("webhook-signature")!.split(" ").includes(`v1,${signature}`)) return;
  throw new Error("no signature matches");
}

/** HTTP binding, section 3.1.3.2: the SDK leaves values as they were sent. */
function decoded(headers: Headers): Record<string, string> {
  const entries = [...headers].map(([name, value]) => {
    return [name, name.startsWith("ce-") ? decodeURIComponent(value) : value];
  });
  return Object.fromEntries(entries);
}
