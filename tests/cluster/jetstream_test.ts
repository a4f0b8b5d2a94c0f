/** The store of a cluster keeps the contract of all stores, on a real nats-server. */
import type { NatsConnection } from "@nats-io/transport-node";
import { connect_nats } from "../../core/store/nats.ts";
import { JetStreamStore } from "../../core/store/jetstream.ts";
import { contract_store } from "../contract_store.ts";
import { start_nats } from "../support/cluster_programs.ts";
import { is_installed } from "../support/process.ts";

const missing = is_installed("nats-server") ? "" : "nats-server not installed";

contract_store({
  name: "jetstream",
  forgets: "",
  missing,
  async open(wanted) {
    const servers = await start_nats();
    const connections: NatsConnection[] = [];
    const open = async () => {
      const nats = await connect_nats([servers.addresses], "test");
      connections.push(nats);
      return await JetStreamStore.open(nats, wanted);
    };
    let store = await open();
    return {
      store,
      async reopen() {
        await store.close();
        return store = await open();
      },
      async dispose() {
        await store.close();
        for (const nats of connections) await nats.close();
        await servers[Symbol.asyncDispose]();
      },
    };
  },
});
