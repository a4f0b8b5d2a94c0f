/**
 * How a node becomes one of a cluster: connects to NATS, opens the log that all share, registers
 * with etcd, and asks the cluster before it takes a session. A node alone never loads this file.
 */
import type { NatsConnection } from "@nats-io/transport-node";
import type { Config } from "../config.ts";
import type { Log } from "../log.ts";
import type { Message } from "../message.ts";
import type { Relay } from "../router.ts";
import { connect_nats, names_of } from "../store/nats.ts";
import type { Store } from "../store/mod.ts";
import type { Ownership, SessionHolder } from "./mod.ts";
import type { Rows } from "./orphans.ts";
import { ClusterNode, type NodeOptions } from "./ownership.ts";
import { type Listeners, NatsRelay } from "./relay.ts";

/** Streams and subjects begin with it. */
const cluster_name = "longwire";

/** What of the node takes part. */
export interface NodeParts extends Pick<NodeOptions, "describe" | "on_drain" | "rules"> {
  readonly router: Listeners & { relay: Relay | null };
  readonly hub: SessionHolder & { ownership: Ownership | null; readonly sessions: Rows };
  /** Its resume secrets hold on all nodes. */
  readonly longwire: { secret_key: Uint8Array };
}

/** A node that has its store and does not serve yet. */
export interface Joining {
  readonly store: Store;
  /** Makes the parts of the node one of the cluster's; answers when it is a member. */
  join(parts: NodeParts): Promise<Joined>;
}

export interface Joined {
  readonly node: ClusterNode;
  readonly relay: NatsRelay;
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
  const join = async ({ router, hub, longwire, ...own }: NodeParts) => {
    const relay = new NatsRelay(nats, names_of(cluster_name).passing_prefix, router);
    router.relay = relay;
    const heard = (message: Message) => router.heard(message);
    const parts = { config, log, holder: hub, rows: hub.sessions, heard };
    const node = await ClusterNode.open({ ...parts, ...own });
    hub.ownership = node.ownership;
    longwire.secret_key = node.secret;
    log.info("this node is a member", {
      node: config.node_id,
      view: node.view.number,
      members: [...node.view.members.keys()].join(","),
    });
    const close = async () => {
      await node.close();
      relay.close();
      await nats.close();
    };
    return { node, relay, close };
  };
  return { store, join };
}
