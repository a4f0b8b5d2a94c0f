/** A session as its row in the store: what of it outlives the process, and how it is read again. */
import { expiry_never_s, Session, SubscriptionOptions } from "./session.ts";
import type { Exchange, Former, PublishAnswers, Will, Wire } from "./session.ts";
import type { MessageProperties } from "./message.ts";
import type { StoredSession } from "./store/mod.ts";

/** What the protocols add to a stored session, as JSON in StoredSession.state. */
interface StoredState {
  readonly wire: Wire;
  readonly expiry_s: number;
  readonly inflight: readonly Exchange[];
  /** Offsets after the cursor whose exchange is over; absent = none. */
  readonly over?: readonly number[];
  /** Packet ids of QoS 2 publishes received and not released. */
  readonly incoming: readonly number[];
  /** It had a connection, which the end of the process ended. */
  readonly connected: boolean;
  /** Session.unsure_to; absent = 0. */
  readonly unsure_to?: number;
  readonly formers: readonly (readonly [string, readonly Former[]])[];
  readonly will?: StoredWill;
  readonly will_due_ms: number;
}

/** Bytes in base64. */
interface StoredWill extends Pick<Will, "delay_s" | "expiry_s"> {
  readonly message: Omit<Will["message"], "payload" | "properties">;
  readonly payload: string;
  readonly properties: Omit<MessageProperties, "correlation_data">;
  readonly correlation_data?: string;
}

function stored_will({ message, delay_s, expiry_s }: Will): StoredWill {
  const { payload, properties = {}, ...rest } = message;
  const { correlation_data, ...plain } = properties;
  return {
    delay_s,
    expiry_s,
    message: rest,
    payload: payload.toBase64(),
    properties: plain,
    ...(correlation_data === undefined ? {} : { correlation_data: correlation_data.toBase64() }),
  };
}

function will_of(stored: StoredWill): Will {
  const { delay_s, expiry_s, message, properties, correlation_data } = stored;
  const bytes = correlation_data === undefined
    ? {}
    : { correlation_data: Uint8Array.fromBase64(correlation_data) };
  return {
    delay_s,
    expiry_s,
    message: {
      ...message,
      payload: Uint8Array.fromBase64(stored.payload),
      properties: { ...properties, ...bytes },
    },
  };
}

export function stored_session(session: Session): StoredSession {
  const { will, over, unsure_to } = session;
  const state: StoredState = {
    wire: session.wire,
    expiry_s: session.expiry_s,
    inflight: [...session.inflight?.values() ?? []],
    incoming: [...session.incoming?.keys() ?? []],
    connected: session.connected,
    formers: [...session.formers ?? []],
    will_due_ms: session.will_due_ms,
    ...(over === null ? {} : { over: [...over] }),
    ...(unsure_to === 0 ? {} : { unsure_to }),
    ...(will === null ? {} : { will: stored_will(will) }),
  };
  const subscriptions = [...session.subscriptions()].map(([filter, options]) => ({
    filter,
    qos: options & 3,
    options,
  }));
  return {
    id: session.id,
    subscriptions,
    cursor: session.cursor,
    expires_ms: session.connected ? 0 : session.ends_ms,
    state: JSON.stringify(state),
  };
}

/**
 * The session of a row, without a connection. One that had a connection lost it when the process
 * ended, for all that anybody can know: now.
 * @param head of the log: up to there it may have been sent messages
 * @param on_interrupted told of one that had a connection
 */
export function session_of(
  stored: StoredSession,
  answers_of: (wire: Wire) => PublishAnswers,
  now_ms: number,
  head: number,
  on_interrupted: (session: Session) => void = () => {},
): Session {
  const state = JSON.parse(stored.state) as StoredState;
  const session = new Session(stored.id, state.wire, answers_of(state.wire));
  session.transient = false;
  session.stored = true;
  session.cursor = stored.cursor;
  session.expiry_s = state.expiry_s;
  session.inflight = new Map(state.inflight.map((exchange) => [exchange.packet_id, exchange]));
  // A cursor is also written alone.
  session.over = new Set(state.over?.filter((offset) => offset > stored.cursor));
  session.incoming = new Map(state.incoming.map((packet_id) => [packet_id, 0]));
  for (const { filter, options } of stored.subscriptions) {
    session.subscribe(filter, options);
    if (SubscriptionOptions.no_local(options)) session.no_local = true;
  }
  session.will = state.will === undefined ? null : will_of(state.will);
  session.will_due_ms = state.will_due_ms;
  session.ends_ms = stored.expires_ms;
  session.formers = new Map(state.formers);
  if (state.unsure_to !== undefined && state.unsure_to > stored.cursor) {
    session.unsure_to = state.unsure_to;
  }
  if (!state.connected) return session;
  session.unsure_to = head;
  on_interrupted(session);
  if (state.expiry_s !== expiry_never_s) session.ends_ms = now_ms + state.expiry_s * 1000;
  // [MQTT-3.1.2-8]: a server that failed may publish wills when it is there again.
  if (session.will !== null) session.will_due_ms = now_ms + session.will.delay_s * 1000;
  return session;
}

/** When something is due of a stored session whose device does not come back; Infinity = never. */
export function due_ms_of(stored: StoredSession, now_ms: number): number {
  const { connected, will, will_due_ms, expiry_s } = JSON.parse(stored.state) as StoredState;
  const ends_ms = connected && expiry_s !== expiry_never_s
    ? now_ms + expiry_s * 1000
    : stored.expires_ms || Infinity;
  if (will === undefined || !connected && will_due_ms === 0) return ends_ms;
  return Math.min(ends_ms, connected ? now_ms + will.delay_s * 1000 : will_due_ms);
}
