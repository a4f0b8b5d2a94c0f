/**
 * The graceful stop: nobody new is let in, every device is told, what is queued for devices gets
 * the time that the operator grants, and what was acknowledged is in the store before the process
 * ends.
 */
import type { Reactor } from "../ffi/reactor.ts";
import { codes } from "./codes.ts";
import type { Hub } from "./hub.ts";
import type { Log } from "./log.ts";
import type { Sessions } from "./sessions.ts";
import type { Store } from "./store/mod.ts";

export interface ShutdownParts {
  readonly reactor: Reactor;
  readonly hub: Hub;
  readonly sessions: Sessions;
  readonly store: Store;
  readonly log: Log;
  /** Stops accepting requests; answers when the last one is answered. */
  readonly close_http: () => Promise<void>;
  /** Ends what is sent to webhooks, and writes how far each has come. */
  readonly close_webhooks: () => Promise<void>;
  /** Ends what others are told of this node, which is asked of the reactor until then. */
  readonly leave_cluster: () => Promise<void>;
  /** Settled when the hub's loop has ended. */
  readonly running: Promise<void>;
}

/** Devices told goodbye before those already told get a turn to go. */
const slice_devices = 4096;
/** How often what is left is counted. */
const poll_ms = 10;

function turn(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Closes every device's connection; answers how many bytes for them the time was too short for. */
async function close_devices(parts: ShutdownParts, ends_ms: number): Promise<number> {
  const { reactor, hub, sessions } = parts;
  reactor.unlisten();
  // Again until there is none: a handshake that was under way may have become a session meanwhile.
  for (;;) {
    let left = [...sessions.all()].filter((session) => session.connected);
    if (left.length === 0) break;
    for (const [index, session] of left.entries()) {
      hub.close(session, codes.shutting_down);
      if (index % slice_devices === slice_devices - 1) await turn(0);
    }
    while ((left = left.filter((session) => session.connected)).length > 0) {
      if (performance.now() >= ends_ms) break;
      await turn(poll_ms);
    }
    if (left.length > 0) break;
  }
  const waiting = () => reactor.stats().counters.out_queue_bytes;
  while (waiting() > 0 && performance.now() < ends_ms) await turn(poll_ms);
  return waiting();
}

/** Stops the service within `timeout_ms`, and a little more for the store to write what it has. */
export async function shut_down(parts: ShutdownParts, timeout_ms: number): Promise<void> {
  const { reactor, hub, sessions, store, log } = parts;
  const begin_ms = performance.now();
  const ends_ms = begin_ms + timeout_ms;
  log.info("stopping", { timeout_s: timeout_ms / 1000 });
  const requests_done = parts.close_http();
  const left = await close_devices(parts, ends_ms);
  await Promise.race([requests_done, turn(Math.max(0, ends_ms - performance.now()))]);
  hub.stop();
  await parts.running;
  await parts.close_webhooks();
  await sessions.close();
  await store.close();
  await parts.leave_cluster();
  reactor.close();
  log.info("stopped", {
    duration_ms: Math.round(performance.now() - begin_ms),
    bytes_cut: left,
  });
  log.flush();
}
