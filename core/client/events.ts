/** A bounded queue between the connection and the application, read as an async iterator. */

/**
 * One reader, one writer. `taken` is called with an event when the reader comes back for the next.
 */
export class EventQueue<Event> implements AsyncIterableIterator<Event> {
  readonly #events: Event[] = [];
  #next = 0;
  /** What the application is working on. */
  #held: Event | undefined = undefined;
  #ended = false;
  #is_unbounded = false;
  #reader: ((result: IteratorResult<Event>) => void) | undefined = undefined;
  #writer: (() => void) | undefined = undefined;

  constructor(readonly size_max: number, readonly taken: (event: Event) => void) {}

  get size(): number {
    return this.#events.length - this.#next;
  }

  /** Never refuses: the writer asks for `room` before it makes the next. */
  push(event: Event): void {
    if (this.#ended) return;
    const reader = this.#reader;
    if (reader === undefined) {
      this.#events.push(event);
      return;
    }
    this.#reader = undefined;
    this.#held = event;
    reader({ value: event, done: false });
  }

  /** Resolves when fewer than `size_max` events wait, or `drain` was called. */
  room(): Promise<void> | undefined {
    if (this.size < this.size_max || this.#is_unbounded) return undefined;
    return new Promise((resolve) => this.#writer = resolve);
  }

  /** Whoever waits for room goes on: the few events that follow are the last. */
  drain(): void {
    this.#is_unbounded = true;
    this.#wake_writer();
  }

  /** No event follows; those that wait are still read. */
  end(): void {
    this.#ended = true;
    this.drain();
    this.#reader?.({ value: undefined, done: true });
    this.#reader = undefined;
  }

  /** Counts what the application holds as taken. */
  settle(): void {
    if (this.#held === undefined) return;
    const held = this.#held;
    this.#held = undefined;
    this.taken(held);
  }

  next(): Promise<IteratorResult<Event>> {
    this.settle();
    if (this.size > 0) {
      const event = this.#events[this.#next++];
      if (this.#next > 1024 && this.#next * 2 > this.#events.length) {
        this.#events.splice(0, this.#next);
        this.#next = 0;
      }
      this.#held = event;
      if (this.size < this.size_max) this.#wake_writer();
      return Promise.resolve({ value: event, done: false });
    }
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    if (this.#reader !== undefined) throw new Error("Two readers of one client");
    return new Promise((resolve) => this.#reader = resolve);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #wake_writer(): void {
    this.#writer?.();
    this.#writer = undefined;
  }
}
