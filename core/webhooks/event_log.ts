/**
 * Events of devices on their way into the log: stored in the order in which they happened. What the
 * store does not take now waits, within a bound; past it the newest are dropped, and counted.
 */
import type { Code } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Message } from "../message.ts";
import type { Router } from "../router.ts";
import type { PublishOrigin } from "../session.ts";

/** How soon the store is asked again that has taken nothing. */
const again_ms = 1000;

export class EventLog implements PublishOrigin {
  appends_pending = 0;
  /** Events stored, and those dropped, by the code that the store refused them with last. */
  stored = 0;
  readonly dropped = new Map<Code, number>();
  /** By token, in the order of events: handed over and not answered. */
  readonly #pending = new Map<number, { message: Message; on_stored: () => void }>();
  /** Those that were refused, and what came after. */
  readonly #waiting: { message: Message; on_stored: () => void }[] = [];
  #token = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #refused: Code | undefined;

  constructor(readonly router: Router) {}

  /** Events that are not stored yet. */
  get waiting(): number {
    return this.#pending.size + this.#waiting.length;
  }

  /** @param on_stored called when the event is durable */
  write(message: Message, on_stored: () => void = () => {}): void {
    if (this.#refused === undefined) this.#publish({ message, on_stored });
    else if (this.#waiting.length < limits.webhook_events_waiting_max) {
      this.#waiting.push({ message, on_stored });
    } else this.dropped.set(this.#refused, (this.dropped.get(this.#refused) ?? 0) + 1);
  }

  #publish(event: { message: Message; on_stored: () => void }): void {
    const token = ++this.#token;
    this.#pending.set(token, event);
    this.router.publish(event.message, this, token, null);
  }

  published(token: number): void {
    const event = this.#pending.get(token);
    this.#pending.delete(token);
    this.stored++;
    event?.on_stored();
  }

  refused(token: number, code: Code): void {
    const event = this.#pending.get(token);
    this.#pending.delete(token);
    this.#refused = code;
    if (event !== undefined) this.#waiting.push(event);
    this.#timer ??= setTimeout(() => this.#again(), again_ms);
  }

  #again(): void {
    this.#timer = undefined;
    this.#refused = undefined;
    const waiting = this.#waiting.splice(0);
    for (const event of waiting) this.write(event.message, event.on_stored);
  }
}
