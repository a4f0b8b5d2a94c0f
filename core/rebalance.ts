/**
 * Sends devices to emptier nodes, at a bounded rate, while this node has more than its share. It
 * asks those that can be told where to go: MQTT 5 and Longwire; others only when they may be cut
 * off.
 */
import { Balancer, type Load } from "./cluster/balance.ts";
import { codes } from "./codes.ts";
import type { Config } from "./config.ts";
import type { Elsewhere, Hub } from "./hub.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import { type Session, Wire } from "./session.ts";

/** As often as nodes say what they hold. */
const tick_ms = 1000;

export class Rebalance {
  /** Devices that were sent elsewhere. */
  moved = 0;
  readonly #balancer: Balancer;
  #timer: ReturnType<typeof setInterval> | undefined;

  /** @param places other nodes that take devices */
  constructor(
    readonly hub: Hub,
    readonly config: Pick<Config, "rebalance_percent" | "rebalance_plain">,
    readonly log: Log,
    readonly places: () => readonly (Elsewhere & Load)[],
  ) {
    this.#balancer = new Balancer({
      percent: config.rebalance_percent,
      devices_per_s: limits.rebalance_devices_per_s,
    });
  }

  begin(): void {
    this.#timer = setInterval(() => this.#tick(), tick_ms);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const moves = this.#balancer.step(this.hub.sessions.connected, this.places(), tick_ms);
    if (moves.length === 0) return;
    const sessions = this.hub.sessions.all();
    const before = this.moved;
    for (const { to, count } of moves) {
      for (let left = count; left > 0; left--) {
        const session = next_movable(sessions, (one) => this.#may_move(one));
        if (session === undefined) break;
        this.moved++;
        this.hub.close(session, codes.moved, codes.moved.meaning, to);
      }
    }
    this.log.info("devices are sent to emptier nodes", { count: this.moved - before });
  }

  #may_move(session: Session): boolean {
    if (!session.connected || session.closing) return false;
    return session.wire !== Wire.mqtt4 || this.config.rebalance_plain === "on";
  }
}

function next_movable(
  sessions: Iterator<Session>,
  may_move: (session: Session) => boolean,
): Session | undefined {
  for (;;) {
    const { value, done } = sessions.next();
    if (done || may_move(value)) return done ? undefined : value;
  }
}
