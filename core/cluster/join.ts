/**
 * How a node becomes one of a cluster: connects to NATS, opens the log that all share, and passes
 * on what no log keeps. A node alone never loads this file.
 */
import type { NatsConnection } from "@nats-io/transport-node";
import type { Config } from "../config.ts";
import type { Log } from "../log.ts";
import type { Relay } from "../router.ts";
import { connect_nats, names_of } from "../store/nats.ts";
import type { Store } from "../store/mod.ts";
import { type Listeners, NatsRelay } from "./relay.ts";

/** Streams and subjects begin with it. */
const cluster_name = "longwire";

/** What of the node takes part. */
export interface NodeParts {
  readonly router: Listeners & { relay: Relay | null };
}

/** A node that has its store and does not serve yet. */
export interface Joining {
  readonly store: Store;
  /** Makes the parts of the node speak to the other nodes. */
  join(parts: NodeParts): Cluster;
}

export interface Cluster {
  close(): Promise<void>;
}

/** @throws Error with a sentence for the operator */
export async function begin_to_join(
  config: Config,
  log: Log,
  open_store: (nats: NatsConnection) => Promise<Store>,
): Promise<Joining> {
  const nats = await connect_nats(config.nats, `longwire ${config.node_id}`);
  const store = await open_store(nats);
  log.info("log is open", { epoch: store.epoch, stored: store.shared?.description ?? "" });
  const join = ({ router }: NodeParts) => {
    const relay = new NatsRelay(nats, names_of(cluster_name).passing_prefix, router);
    router.relay = relay;
    return {
      async close() {
        relay.close();
        await nats.close();
      },
    };
  };
  return { store, join };
}
