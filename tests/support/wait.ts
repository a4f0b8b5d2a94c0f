/**
 * Waiting for what must happen, with a bound and a sentence for when it does not: never by
 * sleeping.
 */

/** How long anything that a test waits for may take, on a machine that is busy with other work. */
export const patience_ms = 20_000;

/** The result of a promise; fails with `what` when it takes too long. */
export async function within<T>(
  promise: Promise<T>,
  what: string | (() => string),
  timeout_ms = patience_ms,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const too_late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const text = typeof what === "string" ? what : what();
      reject(new Error(`not within ${timeout_ms} ms: ${text}`));
    }, timeout_ms);
  });
  try {
    return await Promise.race([promise, too_late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A queue between whoever finds values and a test that waits for them. */
export class Inbox<T> {
  readonly #values: T[] = [];
  readonly #waiting: ((value: T | undefined) => void)[] = [];
  #ended = false;

  /** Every value that ever came, for messages of failures. */
  readonly seen: T[] = [];

  constructor(readonly name: string) {}

  push(value: T): void {
    this.seen.push(value);
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#values.push(value);
    else waiting(value);
  }

  /** Nothing follows. */
  end(): void {
    this.#ended = true;
    for (const waiting of this.#waiting.splice(0)) waiting(undefined);
  }

  /** How many values have come and were not taken. */
  get size(): number {
    return this.#values.length;
  }

  /** The next value; undefined = nothing follows. */
  next(timeout_ms = patience_ms): Promise<T | undefined> {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    if (this.#ended) return Promise.resolve(undefined);
    const { promise, resolve } = Promise.withResolvers<T | undefined>();
    this.#waiting.push(resolve);
    const what = () => `something from ${this.name}, after ${JSON.stringify(this.seen.slice(-5))}`;
    return within(promise, what, timeout_ms);
  }

  /** The next value that fits; those before it are dropped. Fails when there is none. */
  async find(fits: (value: T) => boolean, what: string): Promise<T> {
    for (;;) {
      const value = await this.next();
      if (value === undefined) {
        throw new Error(`${this.name} ended without ${what}: ${JSON.stringify(this.seen)}`);
      }
      if (fits(value)) return value;
    }
  }
}
