/** The memory store keeps the contract, and its bounds. */
import { assertEquals, assertThrows } from "@std/assert";
import { Refusal } from "../../core/codes.ts";
import { limits } from "../../core/limits.ts";
import { MemoryStore } from "../../core/store/memory.ts";
import { contract_store, message } from "../contract_store.ts";

contract_store({
  name: "memory",
  forgets: "memory keeps nothing",
  open(wanted) {
    let store = new MemoryStore(wanted);
    return Promise.resolve({
      store,
      async reopen() {
        await store.close();
        return store = new MemoryStore(wanted);
      },
      dispose: () => store.close(),
    });
  },
});

Deno.test("memory: every append has its answer at once", () => {
  const store = new MemoryStore();
  assertEquals(store.append([message("a")]), 1);
  assertEquals(store.append_once("t", "k", [message("a")]), { offset: 2, duplicate: false });
});

Deno.test("memory: bytes are bounded, the newest message always stays", () => {
  const store = new MemoryStore({ bytes_max: 10_000 });
  const payload = new Uint8Array(1000);
  for (let n = 0; n < 100; n++) store.append([message("a", "", { payload })]);
  assertEquals([store.head, store.first], [100, 92]);
  assertEquals(store.read(["a"], 0, 100).gap, true);
  store.append([message("a", "", { payload: new Uint8Array(20_000) })]);
  assertEquals([store.head, store.first], [101, 101]);
  assertEquals(store.read(["a"], 100, 10).messages.length, 1);
});

Deno.test("memory: retained messages are refused past the limit, wholly", () => {
  const store = new MemoryStore();
  const retain = (n: number) => message(`r/${n}`, "x", { retain: true });
  for (let n = 0; n < limits.memory_retained_messages_max - 1; n++) store.retain(retain(n));
  const more = [message("plain"), retain(-1), retain(-2)];
  assertEquals(assertThrows(() => store.append(more), Refusal).code.name, "store_full");
  assertEquals(store.head, 0);
  store.append([retain(-1), retain(5)]);
  assertThrows(() => store.retain(retain(-3)), Refusal);
});

Deno.test("memory: a wildcard read looks at a bounded number of messages", () => {
  const store = new MemoryStore();
  const batch = Array.from({ length: 1000 }, (_, n) => message(`t/${n}`));
  for (let n = 0; n < 100; n++) store.append(batch);
  let after = 0;
  let pages = 0;
  while (after < store.head) {
    const { next } = store.read(["+/none"], after, 10);
    assertEquals(next - after <= limits.read_scan_messages_max + 1024, true);
    after = next;
    pages++;
  }
  assertEquals(pages > 1, true);
});
