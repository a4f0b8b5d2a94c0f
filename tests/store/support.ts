/** What the tests of the SQLite store share: directories that go away, databases to look into. */
import { DatabaseSync } from "node:sqlite";
import { type SqliteOptions, SqliteStore } from "../../core/store/sqlite.ts";

/** Runs with a data directory that is removed afterwards. */
export async function with_data(run: (data: string) => Promise<void>): Promise<void> {
  const data = Deno.makeTempDirSync({ prefix: "longwire-store-" });
  try {
    await run(data);
  } finally {
    Deno.removeSync(data, { recursive: true });
  }
}

/** Runs with a store in a directory that is removed afterwards. */
export function with_store(
  options: SqliteOptions,
  run: (store: SqliteStore, data: string) => Promise<void>,
): Promise<void> {
  return with_data((data) => with_store_in(data, options, (store) => run(store, data)));
}

export async function with_store_in(
  data: string,
  options: SqliteOptions,
  run: (store: SqliteStore) => Promise<void>,
): Promise<void> {
  const store = await SqliteStore.open(data, options);
  try {
    await run(store);
  } finally {
    await store.close();
  }
}

/** Runs SQL on a database that nobody has open. */
export function with_database<T>(path: string, run: (db: DatabaseSync) => T): T {
  const db = new DatabaseSync(path);
  try {
    return run(db);
  } finally {
    db.close();
  }
}

/** The program, without types checked and with every permission, on arguments; stdout is piped. */
export function spawn_script(url: URL, ...args: string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-check", "-A", url.href, ...args],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}
