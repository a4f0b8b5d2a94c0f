/** How a publish of HTTP is answered: the JSON of one message, and of many in their order. */
import { type Code, codes, Refusal } from "../core/codes.ts";
import type { Passed } from "../core/message.ts";
import type { PublishOrigin } from "../core/session.ts";
import { problem } from "./problem.ts";

/**
 * What became of one message, as JSON: `id` names it in the log (null = not stored, QoS 0),
 * `audience` counts the subscriptions of connected devices that it was sent to, `duplicate` is
 * there when the Idempotency-Key was known. Written by hand: this is half the work of an answer.
 */
function published_json(
  epoch: string,
  offset: number,
  audience: number,
  duplicate: boolean,
): string {
  const id = offset === 0 ? "null" : `"${epoch}:${offset}"`;
  const end = duplicate && offset > 0 ? ',"duplicate":true}' : "}";
  return `{"id":${id},"epoch":"${epoch}","offset":${offset},"audience":${audience}${end}`;
}

/** Of what is not stored: what was done, what was not, and why. */
export function passed_json(epoch: string, passed: Passed): string {
  const { name: code, meaning: detail } = passed.conflated ? codes.shed : codes.not_stored;
  return JSON.stringify({ id: null, epoch, offset: 0, stored: false, ...passed, code, detail });
}

export const json_headers = { headers: { "content-type": "application/json" } };

/** The publish of a request with one message. */
export class One implements PublishOrigin {
  appends_pending = 0;
  readonly done: Promise<Response>;
  #resolve!: (response: Response) => void;
  #reject!: (refusal: Refusal) => void;

  constructor(readonly epoch: string) {
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  published(_token: number, offset: number, audience: number, duplicate: boolean): void {
    const json = published_json(this.epoch, offset, audience, duplicate);
    this.#resolve(new Response(json, json_headers));
  }

  passed(_token: number, passed: Passed): void {
    this.#resolve(new Response(passed_json(this.epoch, passed), { ...json_headers, status: 202 }));
  }

  refused(_token: number, code: Code, detail: string, retry_after_ms: number): void {
    this.#reject(new Refusal(code, detail, retry_after_ms));
  }
}

/** Publishes of one request: in order, and answered when the last of them is. */
export class Batch implements PublishOrigin {
  appends_pending = 0;
  /** JSON texts, in the order of the messages. */
  readonly results: string[];
  readonly done: Promise<void>;
  #left: number;
  #finish!: () => void;

  constructor(readonly epoch: string, count: number) {
    this.#left = count;
    this.results = new Array(count);
    this.done = new Promise((resolve) => this.#finish = resolve);
  }

  published(token: number, offset: number, audience: number, duplicate: boolean): void {
    this.#set(token, published_json(this.epoch, offset, audience, duplicate));
  }

  passed(token: number, passed: Passed): void {
    this.#set(token, passed_json(this.epoch, passed));
  }

  refused(token: number, code: Code, detail: string): void {
    this.#set(token, JSON.stringify(problem(code, detail)));
  }

  #set(index: number, result: string): void {
    this.results[index] = result;
    if (--this.#left === 0) this.#finish();
  }
}
