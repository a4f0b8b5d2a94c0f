/**
 * Cumulative acknowledgements, sent lazily. Invariant: never past a message that the application
 * has not finished with, nor past the begin of a rewind that is not through.
 */
import type { Rewind } from "./seen.ts";

export class Acks {
  readonly #rewinds = new Set<Rewind>();
  #taken = 0;
  #sent = 0;
  #unsent = 0;
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;

  /** `send` is called with an offset when `messages_max` wait or the oldest is `delay_ms` old. */
  constructor(
    readonly messages_max: number,
    readonly delay_ms: number,
    readonly send: (offset: number) => void,
  ) {}

  /** Everything up to here is done with; 0 = nothing. */
  get offset(): number {
    let offset = this.#taken;
    for (const { after } of this.#rewinds) offset = Math.min(offset, after);
    return offset;
  }

  /** Another log, or a place to start from. */
  reset(offset: number): void {
    this.#rewinds.clear();
    this.#taken = offset;
    this.#sent = offset;
    this.#settle();
  }

  /** The service goes back: the old messages are not acknowledged by later offsets. */
  hold(rewind: Rewind): void {
    this.#rewinds.add(rewind);
    this.#sent = Math.min(this.#sent, rewind.after);
  }

  /** A rewind is through, or its filter is gone. */
  release(rewind: Rewind): void {
    this.#rewinds.delete(rewind);
  }

  /** The application is done with a message. */
  taken(offset: number): void {
    if (offset > this.#taken) this.#taken = offset;
    this.#unsent += 1;
    if (this.#unsent >= this.messages_max) return this.flush();
    this.#timer ??= setTimeout(() => this.flush(), this.delay_ms);
  }

  /** Sends what is not sent yet, now. */
  flush(): void {
    this.#settle();
    const { offset } = this;
    if (offset <= this.#sent) return;
    this.#sent = offset;
    this.send(offset);
  }

  /** The connection is gone; the next one tells the service where we stand. */
  disconnected(): void {
    this.#settle();
    this.#sent = this.offset;
  }

  #settle(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#unsent = 0;
  }
}
