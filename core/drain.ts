/**
 * Empties a node of a cluster: nobody new is let in, every device is told which node to go to, at a
 * bounded rate, and what is known of sessions is left for other nodes. Invariant: a session is let
 * go only when it is written down.
 */
import { codes } from "./codes.ts";
import type { Ownership } from "./cluster/mod.ts";
import type { Elsewhere, Hub } from "./hub.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import type { Session } from "./session.ts";

const tick_ms = 50;
/** Of the time that a node has to end: the rest is for those who could not be moved. */
const leave_share = 0.8;

export class Drain {
  is_draining = false;
  /** Devices that were told to go elsewhere. */
  moved = 0;
  readonly #empty = Promise.withResolvers<void>();

  /** @param places nodes that take devices, the emptiest first */
  constructor(
    readonly hub: Hub,
    readonly log: Log,
    readonly places: () => readonly Elsewhere[],
  ) {}

  /** Begins, once; it ends when the node is empty. */
  begin(): void {
    if (this.is_draining) return;
    this.is_draining = true;
    this.hub.reactor.unlisten();
    this.#run().catch((error) => this.log.error("cannot drain", { error: String(error) }));
  }

  async #run(): Promise<void> {
    this.log.info("draining", { sessions: this.hub.sessions.count });
    while (this.hub.sessions.count > 0) {
      const sessions = [...this.hub.sessions.all()];
      this.move(sessions.filter((session) => session.connected), tick_ms);
      await Promise.all(
        sessions.filter((session) => !session.connected).map((session) => {
          return this.#let_go(session);
        }),
      );
      await new Promise((resolve) => setTimeout(resolve, tick_ms));
    }
    this.log.info("drained", { moved: this.moved });
    this.#empty.resolve();
  }

  /**
   * Empties a node that is about to end, if others take its devices; answers how much is left of
   * the time, of which a part is kept for what comes after.
   * @param say tells the others that this node is draining, and begins
   */
  async leave(say: () => Promise<void>, timeout_ms: number): Promise<number> {
    if (this.places().length === 0) return timeout_ms;
    const begin_ms = performance.now();
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, timeout_ms * leave_share);
    say().catch(() => this.begin()); // the others need not know for that
    await Promise.race([this.#empty.promise, promise]);
    clearTimeout(timer);
    return timeout_ms - (performance.now() - begin_ms);
  }

  /** Sends some of the devices elsewhere: as many as the rate allows in a time. */
  move(sessions: readonly Session[], time_ms: number): void {
    const places = this.places();
    const count = Math.ceil(limits.drain_devices_per_s * time_ms / 1000);
    for (const session of sessions.slice(0, count)) {
      if (session.closing) continue;
      const place = places[this.moved++ % Math.max(1, places.length)];
      this.hub.close(session, codes.moved, codes.moved.meaning, place);
    }
  }

  async #let_go(session: Session): Promise<void> {
    const ownership: Ownership | null = this.hub.ownership;
    try {
      await this.hub.sessions.let_go(session);
      ownership?.release(session.id);
    } catch {
      // The store does not take it now: the next round tries again.
    }
  }
}
