/**
 * What the service tells whoever traces it (core/trace.ts), so that nothing of OpenTelemetry is
 * loaded where nobody does: the one check is for null.
 */
import type { Traced } from "../ffi/reactor.ts";
import type { Code } from "./codes.ts";
import type { Message } from "./message.ts";
import type { Session } from "./session.ts";

/** One publish that is traced. */
export interface PublishTrace {
  /** Of how many receivers the reactor is to tell what became of the message. */
  readonly follow: number;
  /** Whether it is to tell when the message was slow. */
  readonly watch: boolean;
  /** It is handed to the store, and the store has it. */
  appending(): void;
  stored(): void;
  /** The fan-out begins, this long after the moment from which the reactor counts. */
  dispatching(age_us: number): void;
  /** It has ended, under a stamp by which the reactor knows it. */
  dispatched(stamp: number, audience: number, offset: number, epoch: string): void;
  refused(code: Code): void;
}

export interface Tracing {
  /**
   * A message has come; answers the trace, if there is one, and the message as it goes on.
   * @param is_device a device published it
   */
  begin(message: Message, is_device: boolean): [PublishTrace | null, Message];
  /** @param is_cumulative the device acknowledges by offset: acknowledged() */
  traced(what: Traced, stamp: number, us: number, to: Session, is_cumulative: boolean): void;
  /** A device has acknowledged everything up to an offset. */
  acknowledged(session: Session, offset: number): void;
}
