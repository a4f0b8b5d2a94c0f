/**
 * Publishes that a session left to the store when it ended. The next session of the same client id
 * waits for their answers as for those of its own: what a client publishes keeps its order across
 * sessions, and No Local knows whose it is [MQTT-3.8.3-3].
 */
import type { PublishAnswers, Session } from "./session.ts";

/** Of all sessions of one id that are over. */
interface Left {
  /** Publishes without an answer. */
  count: number;
  /** The session that there is now; null = there is none. */
  heir: Session | null;
}

/** The store answers in the order of publication, so those of earlier sessions come first. */
export class Unanswered implements PublishAnswers {
  readonly #by_id = new Map<string, Left>();

  /** The session is over: nobody is told any more what became of its publishes. */
  ended(session: Session): void {
    if (session.appends_pending === 0 || session.answers === this) return;
    session.answers = this;
    const left = this.#by_id.get(session.id);
    if (left === undefined) {
      this.#by_id.set(session.id, { count: session.appends_pending, heir: null });
    } else {
      left.count = session.appends_pending; // which counts what it inherited
      left.heir = null;
    }
  }

  /** A session has begun. */
  began(session: Session): void {
    const left = this.#by_id.get(session.id);
    if (left === undefined) return;
    left.heir = session;
    session.appends_pending = left.count;
  }

  published(session: Session): void {
    this.#answered(session.id);
  }

  refused(session: Session): void {
    this.#answered(session.id);
  }

  #answered(id: string): void {
    const left = this.#by_id.get(id)!;
    if (--left.count === 0) this.#by_id.delete(id);
    left.heir?.inherited_append_over();
  }
}
