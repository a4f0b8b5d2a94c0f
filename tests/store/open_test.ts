/**
 * Opening a data directory: who may, what is wrong with it in one sentence, and whose life it is.
 */
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { codes, Refusal } from "../../core/codes.ts";
import { problem, StoreOpenError } from "../../core/store/data_directory.ts";
import { back_up_store, check_store, SqliteStore } from "../../core/store/sqlite.ts";
import { message, read_all, text_of } from "../contract_store.ts";
import { with_data, with_database, with_store } from "./support.ts";

async function open_problem(data: string): Promise<string> {
  return (await assertRejects(() => SqliteStore.open(data), StoreOpenError)).message;
}

Deno.test("a data directory in use is refused, by name and process", async () => {
  await with_store({}, async (store, data) => {
    const expected = `Cannot open data ${data}: in use by process ${Deno.pid}`;
    assertEquals(await open_problem(data), expected);
    const script = `import { SqliteStore } from "${new URL(
      "../../core/store/sqlite.ts",
      import.meta.url,
    )}";
      await SqliteStore.open(Deno.args[0]).catch((error) => console.log(error.message));`;
    const file = `${data}/other.ts`;
    Deno.writeTextFileSync(file, script);
    const other = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-check", "-A", file, data],
    });
    const { stdout } = await other.output();
    assertEquals(new TextDecoder().decode(stdout).trim(), expected);
    assertEquals(await store.append([message("a")]), 1);
  });
});

Deno.test("a data directory is free again after its store was closed", async () => {
  await with_data(async (data) => {
    for (let time = 0; time < 3; time++) await (await SqliteStore.open(data)).close();
  });
});

Deno.test("a data directory that is made is for its owner alone", async () => {
  if (Deno.build.os === "windows") return;
  await with_data(async (root) => {
    const data = `${root}/deep/data`;
    await (await SqliteStore.open(data)).close();
    assertEquals(Deno.statSync(data).mode! & 0o777, 0o700);
  });
});

Deno.test("a path that is no directory is refused in one sentence", async () => {
  await with_data(async (data) => {
    Deno.writeTextFileSync(`${data}/file`, "");
    for (const path of [`${data}/file`, `${data}/file/below`]) {
      assertEquals(await open_problem(path), `Cannot open data ${path}: not a directory`);
    }
  });
});

Deno.test("what the system says becomes words", () => {
  const { errors } = Deno;
  assertEquals(problem(new errors.PermissionDenied("os error 13")), "permission denied");
  assertEquals(problem(Object.assign(new Error("x"), { code: "EROFS" })), "read-only file system");
  assertEquals(
    problem(Object.assign(new Error("x"), { code: "ENOSPC" })),
    "no space left on the disk",
  );
  assert(problem(new errors.NotCapable("x")).includes("--allow-write"));
  assertEquals(problem(new Error("anything else")), "anything else");
});

Deno.test({
  name: "a directory that may not be written is refused in one sentence",
  ignore: Deno.build.os === "windows" || Deno.uid() === 0, // root may write everywhere
  async fn() {
    await with_data(async (data) => {
      Deno.mkdirSync(`${data}/closed`, { mode: 0o500 });
      const path = `${data}/closed/data`;
      assertEquals(await open_problem(path), `Cannot open data ${path}: permission denied`);
    });
  },
});

Deno.test("without Deno's permissions it says which are missing", async () => {
  await with_data(async (data) => {
    const url = new URL("../../core/store/data_directory.ts", import.meta.url).href;
    const script = `import { lock_data } from "${url}";
      try { lock_data(Deno.args[0]); } catch (error) { console.log(error.message); }`;
    Deno.writeTextFileSync(`${data}/script.ts`, script);
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-check", "--no-prompt", `${data}/script.ts`, `${data}/x`],
    }).output();
    const said = new TextDecoder().decode(stdout).trim();
    const expected = "Deno was not given --allow-read and --allow-write for it";
    assertEquals(said, `Cannot open data ${data}/x: ${expected}`);
  });
});

Deno.test("a file that is no database is refused, and left as it is", async () => {
  await with_data(async (data) => {
    const text = "this is no database at all. ".repeat(100);
    Deno.writeTextFileSync(`${data}/longwire.db`, text);
    assertEquals(await open_problem(data), `Cannot open data ${data}: file is not a database`);
    assertEquals(Deno.readTextFileSync(`${data}/longwire.db`), text);
  });
});

Deno.test("a database of a newer Longwire is refused, and left as it is", async () => {
  await with_data(async (data) => {
    await (await SqliteStore.open(data)).close();
    with_database(`${data}/longwire.db`, (db) => {
      db.exec("INSERT INTO schema_version VALUES (999, 0)");
    });
    const said = await open_problem(data);
    assert(said.startsWith(`Cannot open data ${data}: written by a newer Longwire (schema 999`));
  });
});

Deno.test("after a power loss, the epoch changes with synchronous=normal alone", async () => {
  for (const synchronous of ["normal", "full"] as const) {
    await with_data(async (data) => {
      const store = await SqliteStore.open(data, { synchronous });
      await store.append([message("a", "kept")]);
      const { epoch } = store;
      await store.close();
      const reopened = await SqliteStore.open(data, { synchronous });
      assertEquals(reopened.epoch, epoch, "closed cleanly");
      await reopened.close();
      // As if the machine had gone down while the store was open.
      with_database(`${data}/longwire.db`, (db) => {
        db.exec("UPDATE meta SET value = 0 WHERE name = 'clean'");
        db.exec("UPDATE meta SET value = 'another boot' WHERE name = 'boot_id'");
      });
      const after = await SqliteStore.open(data, { synchronous });
      assertEquals(after.epoch === epoch, synchronous === "full");
      assertEquals((await read_all(after, ["a"])).messages.map(text_of), ["kept"]);
      await after.close();
    });
  }
});

Deno.test("a sound store has no findings, while it runs and after", async () => {
  await with_data(async (data) => {
    const store = await SqliteStore.open(data);
    await store.append([message("a", "x", { retain: true }), message("b/c")]);
    const subscriptions = [{ filter: "a", qos: 1, options: 1 }];
    await store.put_session({ id: "s", subscriptions, cursor: 2, expires_ms: 0, state: "" });
    assertEquals(await check_store(data), []);
    await store.close();
    assertEquals(await check_store(data), []);
  });
});

Deno.test("findings name what is wrong", async () => {
  await with_data(async (data) => {
    const store = await SqliteStore.open(data);
    await store.append([message("a", "x", { retain: true }), message("b")]);
    const subscriptions = [{ filter: "a", qos: 1, options: 1 }];
    await store.put_session({ id: "s", subscriptions, cursor: 2, expires_ms: 0, state: "" });
    await store.close();
    with_database(`${data}/longwire.db`, (db) => {
      db.exec("DELETE FROM topics WHERE name = 'a'");
      db.exec("UPDATE log SET properties = '{' WHERE offset = 2");
      db.exec("UPDATE sessions SET cursor = 77, subscriptions = '['");
      db.exec("UPDATE retained SET offset = 88");
      db.exec("DELETE FROM meta WHERE name = 'epoch'");
    });
    const findings = await check_store(data);
    for (
      const part of [
        "log: messages of topic 1",
        "log: the properties at offset 2",
        "sessions: the cursor of s",
        "sessions: the subscriptions of s",
        "retained: the message of a",
        "meta: the log has no epoch",
      ]
    ) assert(findings.some((finding) => finding.startsWith(part)), `${part}: ${findings}`);
    assertEquals(findings.length, 6);
  });
});

Deno.test("damaged pages are found", async () => {
  await with_data(async (data) => {
    const store = await SqliteStore.open(data);
    const payload = new Uint8Array(1000);
    await store.append(Array.from({ length: 500 }, (_, n) => message(`t/${n}`, "", { payload })));
    await store.close();
    const file = Deno.openSync(`${data}/longwire.db`, { write: true });
    for (let page = 30; page < 60; page++) {
      file.seekSync(page * 4096, Deno.SeekMode.Start);
      file.writeSync(new Uint8Array(200).fill(0xa5));
    }
    file.close();
    let findings: readonly string[] = [];
    try {
      findings = await check_store(data);
    } catch (error) {
      findings = [String(error)];
    }
    assert(findings.length > 0);
  });
});

Deno.test("there is nothing to check or back up where there is no database", async () => {
  await with_data(async (data) => {
    const expected = `Cannot open data ${data}: it has no longwire.db`;
    const checked = await assertRejects(() => check_store(data), StoreOpenError);
    assertEquals(checked.message, expected);
    const copied = await assertRejects(() => back_up_store(data, `${data}/x`), StoreOpenError);
    assertEquals(copied.message, expected);
  });
});

Deno.test("a backup of a running store is a store of its own", async () => {
  await with_store({}, async (store, data) => {
    await store.append(Array.from({ length: 500 }, (_, n) => message(`t/${n % 7}`, String(n))));
    await store.retain(message("r", "kept", { retain: true }));
    const writing = Promise.all(
      Array.from({ length: 200 }, () => store.append([message("later")])),
    );
    await back_up_store(data, `${data}/backup.db`);
    await writing;
    Deno.mkdirSync(`${data}/other`);
    Deno.renameSync(`${data}/backup.db`, `${data}/other/longwire.db`);
    const copy = await SqliteStore.open(`${data}/other`);
    assertNotEquals(copy.epoch, store.epoch);
    assert(copy.head >= 500 && copy.head <= store.head);
    const { messages } = await read_all(copy, ["t/+"]);
    assertEquals(messages.map(text_of), Array.from({ length: 500 }, (_, n) => String(n)));
    assertEquals((await copy.retained("r")).messages.map(text_of), ["kept"]);
    assertEquals(await copy.append([message("a")]), copy.head);
    await copy.close();
    assertEquals(await check_store(`${data}/other`), []);
  });
});

Deno.test("a backup does not overwrite, and leaves nothing when it cannot be written", async () => {
  await with_store({}, async (_store, data) => {
    Deno.writeTextFileSync(`${data}/there`, "mine");
    const over = await assertRejects(() => back_up_store(data, `${data}/there`), Error);
    assertEquals(over.message, `Cannot write backup ${data}/there: it exists already`);
    assertEquals(Deno.readTextFileSync(`${data}/there`), "mine");
    const nowhere = await assertRejects(() => back_up_store(data, `${data}/no/where`), Error);
    assert(nowhere.message.startsWith(`Cannot write backup ${data}/no/where: `));
    const names = [...Deno.readDirSync(data)].map(({ name }) => name);
    assertEquals(names.filter((name) => name.includes("partial")), []);
  });
});

Deno.test("a store that is closed refuses", async () => {
  await with_data(async (data) => {
    const store = await SqliteStore.open(data);
    await store.append([message("a")]);
    await store.close();
    const attempts = [
      () => store.append([message("a")]),
      () => store.put_cursor("s", 1),
      () => store.append_once("t", "k", [message("a")]),
    ];
    for (const attempt of attempts) {
      const refusal = await assertRejects(async () => void await attempt(), Refusal);
      assertEquals(refusal.code, codes.store_unavailable);
    }
  });
});
