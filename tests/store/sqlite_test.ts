/** The SQLite store keeps the contract. */
import { SqliteStore } from "../../core/store/sqlite.ts";
import { contract_store, type Wanted } from "../contract_store.ts";

/** The same suite with everything in the window, and with next to nothing there. */
for (const tail_messages_max of [1 << 16, 1]) {
  contract_store({
    name: tail_messages_max === 1 ? "sqlite, without a tail" : "sqlite",
    forgets: "",
    async open({ messages_max, idempotency_ttl_ms }: Wanted) {
      const data = Deno.makeTempDirSync({ prefix: "longwire-store-" });
      const count = messages_max ?? 0;
      const options = {
        retention: [{ filter: "#", age_ms: 0, count, bytes: 0 }],
        idempotency_ttl_ms: idempotency_ttl_ms ?? 600_000,
        tail_messages_max,
      };
      let store = await SqliteStore.open(data, options);
      return {
        store,
        async reopen() {
          await store.close();
          return store = await SqliteStore.open(data, options);
        },
        async dispose() {
          await store.close();
          Deno.removeSync(data, { recursive: true });
        },
      };
    },
  });
}
