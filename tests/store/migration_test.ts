/**
 * Every schema version that was ever released opens, with everything in it; migrations are atomic.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { type Database, migrate, migrations, schema_version } from "../../core/store/schema.ts";
import { check_store, SqliteStore } from "../../core/store/sqlite.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { message, read_all, text_of } from "../contract_store.ts";
import { fixture_epoch, fixtures } from "./fixtures.ts";
import { spawn_script, with_data, with_database } from "./support.ts";

Deno.test("every released version has a fixture, and they count from 1", () => {
  const versions = migrations.map(({ version }) => version);
  assertEquals(versions, versions.map((_, index) => index + 1));
  assertEquals(Object.keys(fixtures).map(Number), versions);
});

for (const [version, build] of Object.entries(fixtures)) {
  Deno.test(`a database of version ${version} opens with everything in it`, async () => {
    await with_data(async (data) => {
      build(`${data}/longwire.db`);
      const store = await SqliteStore.open(data, { retention: [] });
      assertEquals([store.epoch, store.head, store.first], [fixture_epoch, 5, 3]);
      const { messages, gap } = await read_all(store, ["a/b", "größe"]);
      assertEquals(messages.map(text_of), ["three", "four", "five"]);
      assertEquals(gap, true);
      assertEquals(messages[1], {
        ...message("größe", "four", { qos: 2, retain: true, key: "k" }),
        offset: 4,
        time_ms: 1_790_000_000_004,
        expires_ms: 4_000_000_000_000,
        properties: {
          content_type: "text/plain",
          user_properties: [["x", "y"]],
          correlation_data: new Uint8Array([0, 255]),
        },
      });
      const retained = await store.retained("#");
      assertEquals(retained.messages.map((one) => [one.topic, one.offset]), [
        ["größe", 4],
        ["status", 0],
      ]);
      const sessions = [];
      for await (const session of store.sessions()) sessions.push(session);
      assertEquals(sessions, [
        {
          id: "s1",
          subscriptions: [
            { filter: "a/+", qos: 1, options: 17 },
            { filter: "größe", qos: 2, options: 4294967295 },
          ],
          cursor: 4,
          expires_ms: 0,
          state: '{"will":"gone"}',
        },
        { id: "s2", subscriptions: [], cursor: 5, expires_ms: 4_000_000_000_000, state: "" },
      ]);
      const once = await store.append_once("tenant", "key", [message("never")]);
      assertEquals(once, { offset: 5, duplicate: true });
      assertEquals(await store.append([message("a/b", "six")]), 6);
      await store.close();
      assertEquals(await check_store(data), []);
    });
  });
}

Deno.test("a migrated database is like a new one", async () => {
  for (const build of Object.values(fixtures)) {
    await with_data((data) => {
      const schema_of = (path: string, before?: (path: string) => void) => {
        before?.(path);
        return with_database(path, (db) => {
          migrate(db as unknown as Database);
          const rows = db.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY name").all();
          return rows.map(({ type, name, sql }) => `${type} ${name} ${plain(String(sql))}`);
        });
      };
      assertEquals(schema_of(`${data}/old`, build), schema_of(`${data}/new`));
      return Promise.resolve();
    });
  }
});

/** SQL without comments and layout. */
function plain(sql: string): string {
  return sql.replace(/--[^\n]*/g, " ").replace(/IF NOT EXISTS /, "").replace(/\s+/g, " ")
    .replace(/ ?([(),]) ?/g, "$1");
}

Deno.test("a migration that fails leaves the database as it was", () => {
  const db = new DatabaseSync(":memory:") as unknown as Database;
  migrate(db);
  const broken = [...migrations, {
    version: migrations.length + 1,
    sql: "CREATE TABLE extra (a); INSERT INTO nowhere VALUES (1)",
  }];
  assertThrows(() => migrate(db, broken), Error, "nowhere");
  assertEquals(schema_version(db), migrations.length);
  assertEquals(db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'extra'").get(), undefined);
  migrate(db);
});

/** Six, or as many as crash_test.ts is asked for. */
const kills = Number(Deno.env.get("LONGWIRE_TEST_CRASHES") ?? 6);

Deno.test("killed while it migrates, a database is of the old version or the new", async () => {
  const random = random_of(seed_for("killed migrations"));
  const script = new URL("./migration_writer.ts", import.meta.url);
  let finished = 0;
  for (let time = 0; time < kills; time++) {
    await with_data(async (data) => {
      const path = `${data}/longwire.db`;
      const child = spawn_script(script, path);
      const reader = child.stdout.getReader();
      const said = new TextDecoder().decode((await reader.read()).value);
      assertEquals(said, "begins\n");
      await new Promise((resolve) => setTimeout(resolve, random() * 120));
      try {
        child.kill("SIGKILL");
      } catch { /* it was quicker */ }
      await reader.cancel();
      await child.stderr.cancel();
      await child.status;
      with_database(path, (db) => {
        const version = schema_version(db as unknown as Database);
        const rows = Number(db.prepare("SELECT count(*) AS n FROM work").get()!.n);
        const moved = Number(db.prepare("SELECT count(*) AS n FROM work WHERE a < 0").get()!.n);
        assert(version === 1 || version === 2, `version ${version}`);
        assertEquals([rows, moved], [100_000, version === 1 ? 0 : 100_000]);
        if (version === 2) finished++;
      });
    });
  }
  console.log(`${finished} of ${kills} were done before the kill`);
});
