/**
 * Publishes into streams, many in flight, each answered by the server that leads its stream.
 * Invariant: what is handed over in some order is sent in that order, over one connection.
 */
import { headers, type Msg, type NatsConnection, type Subscription } from "@nats-io/transport-node";
import { createInbox } from "@nats-io/transport-node";
import { codes, Refusal } from "../codes.ts";

/** Where a message lies. */
export interface Ack {
  readonly seq: number;
  /** The stream had a message of this id. */
  readonly duplicate: boolean;
}

export interface PublishHow {
  /** The stream takes a message of this id once. */
  readonly id?: string;
  /** Only if this is where the newest message of the subject lies; 0 = there is none. */
  readonly after_seq?: number;
}

/** JetStream's error of `after_seq` that is not so. */
const wrong_last_sequence = 10071;

/** The newest message of the subject is another one. */
export class Conflict extends Error {
  override readonly name = "Conflict";
}

interface Waiting {
  readonly resolve: (ack: Ack) => void;
  readonly reject: (error: Error) => void;
  readonly bytes: number;
  readonly ends_ms: number;
}

export class JetStreamPublisher {
  /** Bytes handed over and not answered. */
  queue_bytes = 0;
  readonly #inbox = createInbox();
  readonly #subscription: Subscription;
  /** By number, which is by age. */
  readonly #waiting = new Map<number, Waiting>();
  #next = 1;
  /** performance.now() of the first question since JetStream last answered; 0 = it has. */
  #asked_ms = 0;
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(readonly nats: NatsConnection, readonly ack_timeout_ms: number) {
    const callback = (error: Error | null, message: Msg) => {
      if (error === null) this.#answered(message);
    };
    this.#subscription = nats.subscribe(`${this.#inbox}.*`, { callback });
    this.#timer = setInterval(() => this.#expire(performance.now()), 100);
  }

  publish(subject: string, payload: Uint8Array, how: PublishHow = {}): Promise<Ack> {
    return new Promise((resolve, reject) => {
      const number = this.#next++;
      const now_ms = performance.now();
      const ends_ms = now_ms + this.ack_timeout_ms;
      if (this.#asked_ms === 0) this.#asked_ms = now_ms;
      this.#waiting.set(number, { resolve, reject, bytes: payload.length, ends_ms });
      this.queue_bytes += payload.length;
      const { id, after_seq } = how;
      const reply = `${this.#inbox}.${number}`;
      try {
        if (id === undefined && after_seq === undefined) {
          this.nats.publish(subject, payload, { reply });
          return;
        }
        const head = headers();
        if (id !== undefined) head.set("Nats-Msg-Id", id);
        if (after_seq !== undefined) {
          head.set("Nats-Expected-Last-Subject-Sequence", String(after_seq));
        }
        this.nats.publish(subject, payload, { reply, headers: head });
      } catch (error) {
        this.#take(number)?.reject(unavailable((error as Error).message));
      }
    });
  }

  /** How long JetStream has not answered though it was asked; 0 = it answers. */
  get silent_ms(): number {
    return this.#asked_ms === 0 ? 0 : performance.now() - this.#asked_ms;
  }

  /** It was asked something else. */
  asked(): void {
    if (this.#asked_ms === 0) this.#asked_ms = performance.now();
  }

  answered(): void {
    this.#asked_ms = 0;
  }

  /** Everything that was sent may be lost: the connection was. */
  fail_all(why: string): void {
    for (const number of [...this.#waiting.keys()]) this.#take(number)!.reject(unavailable(why));
  }

  close(): void {
    clearInterval(this.#timer);
    this.#subscription.unsubscribe();
    this.fail_all("The store is closed");
  }

  #take(number: number): Waiting | undefined {
    const waiting = this.#waiting.get(number);
    if (waiting === undefined) return undefined;
    this.#waiting.delete(number);
    this.queue_bytes -= waiting.bytes;
    return waiting;
  }

  #answered(message: Msg): void {
    const { subject } = message;
    const waiting = this.#take(Number(subject.slice(subject.lastIndexOf(".") + 1)));
    if (waiting === undefined) return;
    if (message.data.length === 0) {
      waiting.reject(unavailable("The stream has no leader now"));
      return;
    }
    const answer = message.json<{
      readonly seq?: number;
      readonly duplicate?: boolean;
      readonly error?: { readonly err_code: number; readonly description: string };
    }>();
    if (answer.error !== undefined) {
      const { err_code, description } = answer.error;
      waiting.reject(
        err_code === wrong_last_sequence ? new Conflict(description) : unavailable(description),
      );
    } else this.#stored(waiting, answer);
  }

  #stored({ resolve }: Waiting, { seq, duplicate }: Partial<Ack>): void {
    this.#asked_ms = 0;
    resolve({ seq: seq!, duplicate: duplicate === true });
  }

  #expire(now_ms: number): void {
    for (const [number, { ends_ms }] of this.#waiting) {
      if (ends_ms > now_ms) return;
      const why = `No answer from NATS within ${this.ack_timeout_ms} ms`;
      this.#take(number)!.reject(unavailable(why));
    }
  }
}

function unavailable(why: string): Refusal {
  return new Refusal(codes.store_unavailable, why, 1000);
}
