/**
 * What the service still owes to devices that have said their last: answers that wait for the
 * store. Invariant: a session is named only while it is owed something, or something waits for it.
 */
import type { Session } from "./session.ts";

export class LastAnswers {
  /** How many answers are on their way, by session. */
  readonly #owed = new Map<Session, number>();
  readonly #waiting = new Map<Session, () => void>();

  owe(session: Session): void {
    this.#owed.set(session, (this.#owed.get(session) ?? 0) + 1);
  }

  /** One of them was given, or need not be any more. */
  paid(session: Session): void {
    const left = (this.#owed.get(session) ?? 1) - 1;
    if (left > 0) {
      this.#owed.set(session, left);
      return;
    }
    this.#owed.delete(session);
    const then = this.#waiting.get(session);
    this.#waiting.delete(session);
    then?.();
  }

  /** Calls `then` when nothing is owed: at once, or later; a later call replaces an earlier one. */
  when_paid(session: Session, then: () => void): void {
    if (this.#owed.has(session)) this.#waiting.set(session, then);
    else then();
  }

  /** The connection is gone: nobody waits. */
  forget(session: Session): void {
    this.#waiting.delete(session);
  }
}
