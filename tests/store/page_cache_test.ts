/** Pages that sessions share: a cursor within a page gets its rest, bounds hold, gaps stay true. */
import { assertEquals } from "@std/assert";
import type { Page } from "../../core/store/mod.ts";
import { PageCache } from "../../core/store/page_cache.ts";
import { message } from "../contract_store.ts";
import { with_data, with_store_in } from "./support.ts";

function page(offsets: readonly number[], next: number, gap = false): Page {
  return { messages: offsets.map((offset) => ({ ...message("a"), offset })), next, gap };
}

function offsets(found: Page | undefined): number[] | undefined {
  return found?.messages.map(({ offset }) => offset);
}

Deno.test("a cursor within a page gets the rest of it", () => {
  const cache = new PageCache();
  cache.put("a", 10, page([12, 15, 18], 20), 0);
  cache.put("a", 20, page([21, 25], 30), 0);
  assertEquals(offsets(cache.get("a", 10, 100, 0)), [12, 15, 18]);
  assertEquals(offsets(cache.get("a", 12, 100, 0)), [15, 18]);
  assertEquals(offsets(cache.get("a", 19, 100, 0)), []);
  assertEquals(cache.get("a", 19, 100, 0)!.next, 20);
  assertEquals(offsets(cache.get("a", 20, 100, 0)), [21, 25]);
  assertEquals(cache.get("a", 9, 100, 0), undefined);
  assertEquals(cache.get("a", 30, 100, 0), undefined);
  assertEquals(cache.get("b", 10, 100, 0), undefined);
});

Deno.test("a smaller limit takes less of a page", () => {
  const cache = new PageCache();
  cache.put("a", 10, page([12, 15, 18], 20), 0);
  const part = cache.get("a", 10, 2, 0)!;
  assertEquals([offsets(part), part.next], [[12, 15], 15]);
  assertEquals(cache.get("a", 10, 3, 0)!.next, 20);
});

Deno.test("a gap belongs to the beginning of a page alone", () => {
  const cache = new PageCache();
  cache.put("a", 10, page([12, 15], 20, true), 0);
  assertEquals(cache.get("a", 10, 100, 0)!.gap, true);
  assertEquals(cache.get("a", 12, 100, 0), undefined);
});

Deno.test("messages expire and pages grow old in the cache too", () => {
  const cache = new PageCache();
  const [first, second] = page([11, 12], 20).messages;
  const brief = { ...second!, expires_ms: 500 };
  cache.put("a", 10, { messages: [first!, brief], next: 20, gap: false }, 0);
  assertEquals(offsets(cache.get("a", 10, 100, 499)), [11, 12]);
  assertEquals(offsets(cache.get("a", 10, 100, 500)), [11]);
  assertEquals(cache.get("a", 10, 100, 1e6), undefined);
});

Deno.test("pages and bytes are bounded, the least used go first", () => {
  const few = new PageCache(3, 1 << 20);
  for (let n = 0; n < 3; n++) few.put(`f${n}`, 0, page([1], 2), 0);
  few.get("f0", 0, 1, 0);
  few.put("f3", 0, page([1], 2), 0);
  assertEquals(["f0", "f1", "f2", "f3"].map((name) => few.get(name, 0, 1, 0) !== undefined), [
    true,
    false,
    true,
    true,
  ]);
  const small = new PageCache(100, 2000);
  for (let n = 0; n < 50; n++) small.put("a", n, page([n + 1], n + 1), 0);
  const kept = Array.from({ length: 50 }, (_, n) => small.get("a", n, 1, 0)).filter(Boolean);
  assertEquals(kept.length > 1 && kept.length < 10, true);
});

Deno.test("a fleet that returns reads the disk once", async () => {
  await with_data(async (data) => {
    const messages = Array.from({ length: 1000 }, (_, n) => message(`fleet/${n % 3}`, `${n}`));
    await with_store_in(data, {}, async (store) => void await store.append(messages));
    await with_store_in(data, {}, async (store) => {
      const cursors = Array.from({ length: 500 }, (_, n) => n % 7);
      await Promise.all(cursors.map(async (cursor) => {
        let count = 0;
        for (let after = cursor; after < store.head;) {
          const found = await store.read(["fleet/+"], after, 256);
          count += found.messages.length;
          after = found.next;
        }
        assertEquals(count, 1000 - cursor);
      }));
      const { reads_hit, reads_missed } = store.stats();
      assertEquals(reads_hit >= 500 * 4 - 7 * 4, true, `${reads_hit} reads from memory`);
      assertEquals(reads_missed <= 7 * 4, true, `${reads_missed} reads from disk`);
    });
  });
});
