/** Retention and housekeeping of the SQLite store: rules by filter, gaps, counts over restarts. */
import { assert, assertEquals } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { Namespace } from "../../core/namespace.ts";
import { ByteWriter, Op, write_message } from "../../core/store/codec.ts";
import type { RetentionRule } from "../../core/store/mod.ts";
import { type Database, migrate } from "../../core/store/schema.ts";
import { SqliteStore } from "../../core/store/sqlite.ts";
import { LogReader } from "../../core/store/sqlite_reader.ts";
import { LogWriter } from "../../core/store/sqlite_writer.ts";
import { eventually, message, read_all, text_of } from "../contract_store.ts";
import { with_data, with_database, with_store, with_store_in } from "./support.ts";

function rule(filter: string, bounds: Partial<RetentionRule>): RetentionRule {
  return { filter, age_ms: 0, count: 0, bytes: 0, ...bounds };
}

const hour_ms = 3_600_000;

/** Waits until retention has removed this many messages since the store was opened. */
function trimmed(store: SqliteStore, count: number): Promise<void> {
  return eventually(`${count} trimmed`, () => store.stats().trimmed === count);
}

async function count_of(store: SqliteStore, filter: string): Promise<number> {
  return (await read_all(store, [filter])).messages.length;
}

for (const tail_messages_max of [1 << 16, 1]) {
  const where = tail_messages_max === 1 ? "on disk" : "in memory";

  Deno.test(`each rule bounds its own topics, the first that matches (${where})`, async () => {
    const retention = [
      rule("a/kept", {}),
      rule("a/#", { count: 50 }),
      rule("old/#", { age_ms: hour_ms }),
      rule("big", { bytes: 20_000 }),
    ];
    await with_store({ retention, tail_messages_max }, async (store) => {
      const payload = new Uint8Array(1000);
      const time_ms = Date.now() - 2 * hour_ms;
      for (let n = 0; n < 200; n++) {
        await store.append([
          message(`a/${n % 5}`, `${n}`),
          message("a/kept", `${n}`),
          message("old/x", `${n}`, n < 150 ? { time_ms } : {}),
          message("big", "", { payload }),
          message("free", `${n}`),
        ]);
      }
      await trimmed(store, 150 + 150 + 180);
      assertEquals(await count_of(store, "a/+"), 250);
      assertEquals(await count_of(store, "old/x"), 50);
      assertEquals(await count_of(store, "big"), 20);
      const { messages } = await read_all(store, ["a/1", "a/2", "a/3", "a/4", "a/0"]);
      assertEquals(messages.map(text_of), Array.from({ length: 50 }, (_, n) => `${150 + n}`));
      assertEquals(await count_of(store, "a/kept"), 200);
      assertEquals(await count_of(store, "free"), 200);
      assertEquals(store.first, 2, "a/kept is still there from the start");
    });
  });

  Deno.test(`a gap is known by topic (${where})`, async () => {
    const retention = [rule("a", { count: 10 })];
    await with_store({ retention, tail_messages_max }, async (store) => {
      for (let n = 0; n < 100; n++) await store.append([message("a"), message("b/c")]);
      await trimmed(store, 90);
      const gap = async (filters: string[], after: number) =>
        (await store.read(filters, after, 1000)).gap;
      assertEquals(await gap(["a"], 0), true);
      assertEquals(await gap(["b/c"], 0), false);
      assertEquals(await gap(["b/+"], 0), false);
      assertEquals(await gap(["+"], 0), true);
      assertEquals(await gap(["b/+", "a"], 0), true);
      // The newest that was trimmed is message 179, the 90th of topic a.
      assertEquals(await gap(["a"], 178), true);
      assertEquals(await gap(["a"], 179), false);
      assertEquals(await gap(["#"], 179), false);
    });
  });
}

Deno.test("a rule bounds each tenant apart, and knows topics as the tenant does", async () => {
  await with_data(async (data) => {
    const retention = [rule("a/#", { count: 10 }), rule("#", { bytes: 1e9 })];
    const acme = new Namespace("acme");
    const many = (topic: string, n: number) => Array.from({ length: n }, () => message(topic));
    const counts = async (store: SqliteStore) => {
      return [await count_of(store, "a/b"), await count_of(store, acme.topic("a/b"))];
    };
    await with_store_in(data, { retention }, async (store) => {
      await store.append([...many("a/b", 5), ...many(acme.topic("a/b"), 100), message("end")]);
      await trimmed(store, 90);
      assertEquals(await counts(store), [5, 10]);
    });
    for (const saved of [true, false]) { // counts of a clean close, and counted anew
      if (!saved) {
        with_database(`${data}/longwire.db`, (db) => {
          db.exec("DELETE FROM meta WHERE name = 'retention'");
        });
      }
      await with_store_in(data, { retention }, async (store) => {
        await store.append([...many(acme.topic("a/b"), 7), ...many("a/b", 1), message("end")]);
        await trimmed(store, 7);
        assertEquals(await counts(store), [saved ? 6 : 7, 10]);
      });
    }
  });
});

Deno.test("counts survive a clean close, a crash and new rules", async () => {
  await with_data(async (data) => {
    const retention = [rule("a", { count: 100 }), rule("#", { bytes: 1_000_000 })];
    const more = (store: SqliteStore, n: number) =>
      store.append(Array.from({ length: n }, () => message("a", "x")));
    await with_store_in(data, { retention }, async (store) => {
      await more(store, 90);
    });
    await with_store_in(data, { retention }, async (store) => {
      await more(store, 30);
      await trimmed(store, 20);
      assertEquals(await count_of(store, "a"), 100);
    });
    with_database(`${data}/longwire.db`, (db) => {
      db.exec("DELETE FROM meta WHERE name = 'retention'");
    });
    await with_store_in(data, { retention }, async (store) => {
      await more(store, 30);
      await trimmed(store, 30);
      assertEquals(await count_of(store, "a"), 100);
    });
    await with_store_in(data, { retention: [rule("#", { count: 7 })] }, async (store) => {
      await trimmed(store, 93);
      await more(store, 1);
      await trimmed(store, 94);
      assertEquals(await count_of(store, "a"), 7);
    });
  });
});

Deno.test("counts saved by a close are not believed after a crash", async () => {
  await with_data(async (data) => {
    const path = `${data}/longwire.db`;
    const retention = [rule("a", { count: 100 })];
    await with_store_in(data, { retention }, async (store) => {
      await store.append(Array.from({ length: 50 }, () => message("a")));
    });
    // As if later writes had not been followed by a close: the saved counts name an older head.
    with_database(path, (db) => {
      const insert = db.prepare("INSERT INTO log VALUES (?, 1, 1, ?, 0, NULL, NULL, x'00')");
      for (let offset = 51; offset <= 140; offset++) insert.run(offset, Date.now());
    });
    await with_store_in(data, { retention }, async (store) => {
      await trimmed(store, 40);
      assertEquals(await count_of(store, "a"), 100);
    });
    // A run that only trims and is killed leaves the head where the counts were saved: they were
    // believed, and the store trimmed what was not to be trimmed.
    const store = await SqliteStore.open(data, { retention });
    with_database(path, (db) => {
      assertEquals(db.prepare("SELECT 1 FROM meta WHERE name = 'retention'").get(), undefined);
    });
    await store.close();
  });
});

Deno.test("what expired by itself is deleted, and uncounted", async () => {
  const retention = [rule("#", { count: 100 })];
  await with_store({ retention }, async (store, data) => {
    const expires_ms = Date.now() + 30;
    await store.append(Array.from({ length: 60 }, () => message("a", "", { expires_ms })));
    await store.append(Array.from({ length: 60 }, () => message("b")));
    await eventually("expired", () => store.stats().expired + store.stats().trimmed === 60);
    await store.append(Array.from({ length: 30 }, () => message("b")));
    await new Promise((resolve) => setTimeout(resolve, 600));
    const { messages, gap } = await read_all(store, ["b"]);
    assertEquals([messages.length, gap], [90, false]);
    await store.close();
    with_database(`${data}/longwire.db`, (db) => {
      assertEquals(db.prepare("SELECT count(*) AS n FROM log").get()!.n, 90);
    });
  });
});

Deno.test("topics without messages are swept out when nobody can miss them", async () => {
  await with_data(async (data) => {
    await with_store_in(data, { retention: [rule("trim/#", { count: 1 })] }, async (store) => {
      const expires_ms = Date.now() - 1;
      await store.append([
        message("brief", "", { expires_ms }),
        message("trim/1"),
        message("trim/2"),
        message("kept"),
      ]);
      await eventually("removed", () => store.stats().expired + store.stats().trimmed === 2);
    });
    await with_store_in(data, { retention: [] }, async (store) => {
      await new Promise((resolve) => setTimeout(resolve, 400));
      assertEquals((await store.read(["trim/1"], 0, 1)).gap, true);
      assertEquals((await store.read(["brief"], 0, 1)).gap, false);
    });
    with_database(`${data}/longwire.db`, (db) => {
      const names = db.prepare("SELECT name FROM topics ORDER BY id").all();
      assertEquals(names.map(({ name }) => name), ["trim/1", "trim/2", "kept"]);
    });
  });
});

Deno.test("of very many trimmed topics only that there were some is remembered", () => {
  const db = new DatabaseSync(":memory:") as unknown as Database;
  migrate(db);
  const settings = { idempotency_ttl_ms: 1, tail_messages_max: 1, topics_empty_max: 1000 };
  const writer = new LogWriter(db, { ...settings, retention: [rule("#", { count: 10 })] });
  const out = new ByteWriter(new Uint8Array(1 << 16));
  out.u8(Op.append);
  out.u32(1500);
  for (let n = 0; n < 1500; n++) write_message(out, message(`t/${n}`));
  writer.apply(out.take());
  while (writer.maintain() !== undefined);
  const reader = new LogReader(db);
  const gap_of = (after: number) => reader.read(["never"], after, 1, writer.head).at(-1);
  assertEquals(db.prepare("SELECT count(*) AS n FROM topics").get()!.n, 10);
  // The newest message that was trimmed is the 1490th.
  assertEquals([gap_of(0), gap_of(1489), gap_of(1490)], [1, 1, 0]);
  writer.apply(out.take());
  assertEquals(writer.head, 3000);
  db.close();
});

Deno.test("retained messages and idempotency keys go when their time is over", async () => {
  await with_store({ idempotency_ttl_ms: 50 }, async (store, data) => {
    const expires_ms = Date.now() + 50;
    for (let n = 0; n < 100; n++) {
      await store.retain(message(`r/${n}`, "x", { retain: true, expires_ms }));
      await store.append_once("t", `k${n}`, [message("a")]);
    }
    await new Promise((resolve) => setTimeout(resolve, 1200));
    await store.close();
    with_database(`${data}/longwire.db`, (db) => {
      for (const table of ["retained", "idempotency"]) {
        assertEquals(db.prepare(`SELECT count(*) AS n FROM ${table}`).get()!.n, 0, table);
      }
    });
  });
});

Deno.test("large trims go in small steps: an append never waits long", async () => {
  await with_data(async (data) => {
    const time_ms = Date.now() - 2 * hour_ms;
    await with_store_in(data, { retention: [] }, async (store) => {
      const payload = new Uint8Array(200);
      for (let n = 0; n < 40; n++) {
        await store.append(
          Array.from({ length: 1000 }, (_, i) => message(`t/${i % 50}`, "", { time_ms, payload })),
        );
      }
    });
    await with_store_in(data, { retention: [rule("#", { age_ms: hour_ms })] }, async (store) => {
      let worst_ms = 0;
      let appends = 0;
      while (store.first < 40_000) {
        const started_ms = performance.now();
        await store.append([message("live")]);
        worst_ms = Math.max(worst_ms, performance.now() - started_ms);
        appends++;
      }
      console.log(`${appends} appends meanwhile, the worst took ${worst_ms.toFixed(1)} ms`);
      // In one go it would be one or two.
      assert(appends > 10, `${appends} appends`);
    });
  });
});
