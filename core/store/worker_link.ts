/**
 * One database worker and the requests that it has not answered. Answers come in the order of
 * requests, so none carries a number. A worker that dies fails them all, and its owner makes
 * another.
 */
import { codes, Refusal } from "../codes.ts";
import type { Answer, Request } from "./sqlite_worker.ts";

export type Removed = Extract<Answer, { kind: "removed" }>;

interface Waiting {
  resolve(answer: Answer): void;
  reject(error: Refusal): void;
}

export class WorkerLink {
  readonly #worker: Worker;
  readonly #waiting: Waiting[] = [];
  #taken = 0;
  #dead = false;

  /**
   * @param died is called once when the worker ends by itself, after its requests have failed.
   * @param removed is called for every step of housekeeping that removed something.
   */
  constructor(name: string, died: () => void, removed: (removed: Removed) => void = () => {}) {
    const url = new URL("./sqlite_worker.ts", import.meta.url).href;
    this.#worker = new Worker(url, { type: "module", name });
    this.#worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      if (data.kind === "removed") removed(data);
      else this.#take()?.resolve(data);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      if (this.#dead) return;
      this.end(`A worker of the store died: ${event.message}`);
      died();
    };
  }

  get waiting(): number {
    return this.#waiting.length - this.#taken;
  }

  /** Throws Refusal(store_unavailable) when the worker has died. */
  ask(request: Request, transfer: ArrayBuffer[] = []): Promise<Answer> {
    if (this.#dead) return Promise.reject(new Refusal(codes.store_unavailable));
    this.#worker.postMessage(request, transfer);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Ends the worker at once; requests without an answer fail with this detail. */
  end(detail: string): void {
    this.#dead = true;
    this.#worker.terminate();
    for (let one = this.#take(); one !== undefined; one = this.#take()) {
      one.reject(new Refusal(codes.store_unavailable, detail, retry_after_ms));
    }
  }

  #take(): Waiting | undefined {
    const one = this.#waiting[this.#taken];
    if (one === undefined) return undefined;
    // A list that is read from the front: its emptied part goes when it is half of it.
    if (++this.#taken >= 32 && this.#taken * 2 >= this.#waiting.length) {
      this.#waiting.splice(0, this.#taken);
      this.#taken = 0;
    }
    return one;
  }
}

/** When a writer may try again after the store failed. */
export const retry_after_ms = 1000;
