/**
 * One POST to an endpoint, within bounds of time and size: redirects are not followed, the body of
 * the answer is thrown away, and nothing is connected to that the address guard does not let pass.
 * node:http and not fetch, for it lets us name the address that a connection is made to.
 */
import { lookup } from "node:dns";
import * as http from "node:http";
import * as https from "node:https";
import type { LookupFunction } from "node:net";
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Network } from "../network.ts";
import { reach_of } from "./address_guard.ts";

/** What an endpoint answered. */
export interface Answer {
  readonly status: number;
  /** How long it wants to be left alone, milliseconds; 0 = it does not say. */
  readonly retry_after_ms: number;
}

export interface Letter {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  readonly timeout_ms: number;
}

/** A name leads nowhere that may be connected to. */
class NoAddress extends Error {}

/** Retry-After, RFC 9110 section 10.2.3: seconds, or a date. */
export function parse_retry_after(text: string | undefined, now_ms: number): number {
  if (text === undefined) return 0;
  const wait_ms = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now_ms;
  return Number.isNaN(wait_ms) ? 0 : Math.max(0, Math.min(wait_ms, limits.webhook_retry_ms_max));
}

/** The address of a host that is one, without brackets; "" = it is a name. */
function literal_of({ hostname }: URL): string {
  if (hostname.startsWith("[")) return hostname.slice(1, -1);
  return /^[\d.]+$/.test(hostname) ? hostname : "";
}

/** Why a URL cannot be sent to, as far as that is known without asking for its name. */
export function refusal_of_target(url: URL, allowed: readonly Network[]): string | undefined {
  const literal = literal_of(url);
  const reach = literal === "" ? undefined : reach_of(literal, allowed);
  if (reach === "forbidden") return `the address ${literal} is not public`;
  const may_be_plain = literal === "" ? allowed.length > 0 : reach === "allowed";
  if (url.protocol === "http:" && !may_be_plain) return "it must be an https URL";
  return undefined;
}

function unreachable(error: unknown): Refusal {
  const { message } = error as Error;
  if (error instanceof NoAddress) return new Refusal(codes.webhook_forbidden, message);
  return new Refusal(codes.webhook_unreachable, `Cannot reach the endpoint: ${message}`);
}

export class Sender {
  readonly #plain: http.Agent;
  readonly #tls: https.Agent;

  /** @param allowed networks that may be reached beside the public ones, also without TLS */
  constructor(readonly allowed: readonly Network[], readonly version: string) {
    const options = { keepAlive: true, maxFreeSockets: limits.webhook_idle_sockets_max };
    this.#plain = new http.Agent(options);
    this.#tls = new https.Agent(options);
  }

  /**
   * Answers what the endpoint does, whatever its status. Throws Refusal: webhook_forbidden,
   * webhook_timeout, webhook_unreachable.
   */
  send(letter: Letter): Promise<Answer> {
    const why = refusal_of_target(letter.url, this.allowed);
    if (why !== undefined) {
      return Promise.reject(new Refusal(codes.webhook_forbidden, `Cannot send to the URL: ${why}`));
    }
    try {
      return this.#exchange(this.#request(letter), letter);
    } catch (error) {
      return Promise.reject(unreachable(error));
    }
  }

  #exchange(request: http.ClientRequest, { body, timeout_ms }: Letter): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    const fail = (refusal: Refusal) => {
      reject(refusal);
      request.destroy();
      request.socket?.destroy(); // destroy() alone lets a request that was sent run on
    };
    const timer = setTimeout(() => {
      const detail = `The endpoint did not answer within ${timeout_ms / 1000} s`;
      fail(new Refusal(codes.webhook_timeout, detail));
    }, timeout_ms);
    request.on("error", (error) => fail(unreachable(error)));
    request.on("response", (response) => {
      const { statusCode: status = 0, headers } = response;
      resolve({ status, retry_after_ms: parse_retry_after(headers["retry-after"], Date.now()) });
      let bytes = 0;
      response.on("data", (chunk: Uint8Array) => {
        bytes += chunk.length;
        if (bytes > limits.webhook_answer_bytes_max) response.destroy();
      });
      response.on("error", () => {});
      response.on("close", () => clearTimeout(timer));
      response.on("end", () => clearTimeout(timer));
    });
    request.end(body);
    return promise;
  }

  close(): void {
    this.#plain.destroy();
    this.#tls.destroy();
  }

  #request({ url, headers, body }: Letter): http.ClientRequest {
    const is_tls = url.protocol === "https:";
    const options: http.RequestOptions = {
      method: "POST",
      agent: is_tls ? this.#tls : this.#plain,
      lookup: is_tls ? this.#lookup_tls : this.#lookup_plain,
      headers: {
        "user-agent": `Longwire/${this.version}`,
        ...headers,
        "content-length": String(body.length),
      },
    };
    return (is_tls ? https : http).request(url, options);
  }

  readonly #lookup_tls = this.#lookup(true);
  readonly #lookup_plain = this.#lookup(false);

  /** Resolves a name, and gives on only what may be connected to. */
  #lookup(is_tls: boolean): LookupFunction {
    return (host, options, done) => {
      lookup(host, { family: options.family ?? 0, all: true }, (error, found) => {
        if (error !== null) return done(error, []);
        const usable = found.filter(({ address }) => {
          const reach = reach_of(address, this.allowed);
          return reach === "allowed" || reach === "public" && is_tls;
        });
        if (usable.length === 0) {
          const why = `The name ${host} leads to no address that may be reached`;
          return done(new NoAddress(why), []);
        }
        if (options.all) done(null, usable);
        else done(null, usable[0]!.address, usable[0]!.family);
      });
    };
  }
}
