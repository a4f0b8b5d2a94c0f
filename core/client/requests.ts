/**
 * What the application has asked for and the service has not answered yet: kept across connections,
 * sent again on each, answered once.
 */
import { codes, Refusal } from "../codes.ts";
import type { Qos } from "../message.ts";
import type { FrameCursor, FrameInit } from "../protocol/longwire.ts";
import { type Deferred, deferred } from "./deferred.ts";

/** A stored publish. */
export interface PublishReceipt {
  /** 0 = not stored (QoS 0). */
  readonly offset: number;
}

type PublishInit = Extract<FrameInit, { type: "publish" }>;

interface PendingPublish {
  readonly frame: PublishInit & { readonly request_id: number };
  readonly answer: Deferred<PublishReceipt>;
  /** Times that the service has refused it for the moment. */
  refusals: number;
}

/** Publishes of QoS 1 and 2 that wait for Published, in the order in which they were asked for. */
export class Publishes {
  readonly #pending = new Map<number, PendingPublish>();

  constructor(readonly count_max: number) {}

  /** Adds one. Throws Refusal(queue_full). */
  add(request_id: number, init: PublishInit): PendingPublish {
    if (this.#pending.size >= this.count_max) {
      throw new Refusal(codes.queue_full, "Too many publishes wait for an answer");
    }
    const publish: PendingPublish = {
      frame: { ...init, request_id },
      answer: deferred<PublishReceipt>(),
      refusals: 0,
    };
    this.#pending.set(request_id, publish);
    return publish;
  }

  get(request_id: number): PendingPublish | undefined {
    return this.#pending.get(request_id);
  }

  /** Ends one with its receipt. */
  done(publish: PendingPublish, offset: number): void {
    this.#pending.delete(publish.frame.request_id);
    publish.answer.resolve({ offset });
  }

  /** Ends one with a refusal. */
  refuse(publish: PendingPublish, reason: Refusal): void {
    this.#pending.delete(publish.frame.request_id);
    publish.answer.reject(reason);
  }

  all(): readonly PendingPublish[] {
    return [...this.#pending.values()];
  }
}

export interface Wanted {
  readonly filter: string;
  readonly qos: Qos;
  /** Where it starts, until the service has agreed. */
  after: FrameCursor | undefined;
  /** The service knows of it, if it still knows the session. */
  confirmed: boolean;
  /** The request that asks for it; 0 = none yet. An answer to an earlier one says nothing. */
  request_id: number;
  /** Times that the service has refused it for the moment. */
  refusals: number;
  /** Who waits for the first answer. */
  answer: Deferred<void> | undefined;
}

/**
 * Filters that the application wants, and those it no longer wants but the service may still have.
 */
export class Subscriptions {
  readonly #wanted = new Map<string, Wanted>();
  readonly #unwanted = new Map<string, Deferred<void>>();
  /** Filters of each request under way on this connection. */
  readonly #requests = new Map<number, readonly string[]>();

  /** Wants a filter. One that was wanted already is asked for again. */
  want(filter: string, qos: Qos, after: FrameCursor | undefined): Wanted {
    this.#end_unwanted(filter);
    const before = this.#wanted.get(filter);
    const answer = before?.answer ?? deferred<void>();
    const wanted: Wanted = {
      filter,
      qos,
      after,
      confirmed: false,
      request_id: 0,
      refusals: 0,
      answer,
    };
    this.#wanted.set(filter, wanted);
    return wanted;
  }

  get(filter: string): Wanted | undefined {
    return this.#wanted.get(filter);
  }

  /** No longer wants a filter; resolves when the service has forgotten it. */
  unwant(filter: string): Promise<void> {
    this.drop(filter, new Refusal(codes.normal, "Unsubscribed before the service had answered"));
    const answer = this.#unwanted.get(filter) ?? deferred<void>();
    this.#unwanted.set(filter, answer);
    return answer.promise;
  }

  /** Forgets a filter; whoever waits for it is told why. */
  drop(filter: string, reason: Refusal): void {
    this.#wanted.get(filter)?.answer?.reject(reason);
    this.#wanted.delete(filter);
  }

  /** Notes which filters a request is about; they are asked for in this order. */
  asked(request_id: number, filters: readonly string[]): void {
    this.#requests.set(request_id, filters);
  }

  /** The filters of a request that is answered; none for one of an earlier connection. */
  answered(request_id: number): readonly string[] {
    const filters = this.#requests.get(request_id) ?? [];
    this.#requests.delete(request_id);
    return filters;
  }

  confirm(wanted: Wanted): void {
    wanted.confirmed = true;
    wanted.after = undefined;
    wanted.refusals = 0;
    wanted.answer?.resolve();
    wanted.answer = undefined;
  }

  /** The service has forgotten a filter. */
  forgotten(filter: string): void {
    this.#end_unwanted(filter);
  }

  /** A new connection; `resumed`: the service still has the session. Returns what to ask for. */
  connected(resumed: boolean): { wanted: Wanted[]; kept: Wanted[]; unwanted: string[] } {
    this.#requests.clear();
    if (!resumed) {
      for (const wanted of this.#wanted.values()) wanted.confirmed = false;
      for (const filter of [...this.#unwanted.keys()]) this.#end_unwanted(filter);
    }
    const all = [...this.#wanted.values()];
    return {
      wanted: all.filter((one) => !one.confirmed),
      kept: all.filter((one) => one.confirmed),
      unwanted: [...this.#unwanted.keys()],
    };
  }

  /** Another log: places in the old one mean nothing. */
  reset(): void {
    for (const wanted of this.#wanted.values()) wanted.after = undefined;
  }

  /** Nothing more will be asked. */
  end(reason: Refusal): void {
    for (const filter of [...this.#wanted.keys()]) this.drop(filter, reason);
    for (const filter of [...this.#unwanted.keys()]) this.#end_unwanted(filter);
  }

  #end_unwanted(filter: string): void {
    this.#unwanted.get(filter)?.resolve();
    this.#unwanted.delete(filter);
  }
}
