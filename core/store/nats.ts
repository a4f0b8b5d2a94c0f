/** The connection to NATS, and what streams and subjects of a cluster are called. */
import { connect, type NatsConnection } from "@nats-io/transport-node";

/** Names of streams and beginnings of subjects. */
export interface Names {
  readonly log: string;
  readonly retained: string;
  readonly sessions: string;
  /** `longwire.log.`, before a topic. */
  readonly log_prefix: string;
  readonly retained_prefix: string;
  /** Before a session's id. */
  readonly session_prefix: string;
  readonly cursor_prefix: string;
  /** Messages of QoS 0, which lie in no stream. */
  readonly passing_prefix: string;
}

/** @param name of the cluster: letters, digits, hyphens and underscores */
export function names_of(name: string): Names {
  return {
    log: `${name}_log`,
    retained: `${name}_retained`,
    sessions: `${name}_sessions`,
    log_prefix: `${name}.log.`,
    retained_prefix: `${name}.retained.`,
    session_prefix: `${name}.session.`,
    cursor_prefix: `${name}.cursor.`,
    passing_prefix: `${name}.passing.`,
  };
}

/** A connection that comes back by itself, to any of the servers; throws when none answers. */
export async function connect_nats(
  servers: readonly string[],
  client_name: string,
): Promise<NatsConnection> {
  try {
    return await connect({
      servers: [...servers],
      name: client_name,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 50,
      reconnectJitter: 50,
      pingInterval: 1000,
      maxPingOut: 2,
      timeout: 2000,
    });
  } catch (error) {
    throw new Error(`Cannot reach NATS at ${servers.join(", ")}: ${(error as Error).message}`);
  }
}
