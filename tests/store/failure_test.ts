/**
 * A full disk, a failing disk, a dead worker, more than the disk takes: refused, and over when it
 * is.
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type CodeName, codes, Refusal } from "../../core/codes.ts";
import { check_store, type SqliteStore } from "../../core/store/sqlite.ts";
import { eventually, message, read_all, text_of } from "../contract_store.ts";
import { with_data, with_store } from "./support.ts";

const payload = new Uint8Array(10_000);

async function refused(code: CodeName, run: () => Promise<unknown>): Promise<Refusal> {
  const refusal = await assertRejects(async () => void await run(), Refusal);
  assertEquals(refusal.code, codes[code]);
  return refusal;
}

/** Appends until it is refused; answers how often it was not. */
async function fill(store: SqliteStore, more = {}): Promise<[number, Refusal]> {
  for (let count = 0;; count++) {
    try {
      await store.append([message("fill", "", { payload, ...more })]);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return [count, error];
    }
  }
}

Deno.test("a full store refuses with 507, and goes on when there is room again", async () => {
  const options = { retention: [], database_bytes_max: 1 << 20 };
  await with_store(options, async (store) => {
    const [kept] = await fill(store);
    assert(kept > 50, `${kept} before it was full`);
    assertEquals(store.stats().failing, "store_full");
    const refusal = await refused(
      "store_full",
      () => store.append([message("a", "", { payload })]),
    );
    assert(refusal.message.startsWith(codes.store_full.meaning), refusal.message);
    assert(refusal.retry_after_ms > 0);
    assertEquals(store.head, kept);
    assertEquals((await read_all(store, ["fill"])).messages.length, kept);
  });
  await with_store(options, async (store) => {
    const [kept] = await fill(store, { expires_ms: Date.now() + 1500 });
    assert(kept > 50);
    await eventually("there is room again", async () => {
      try {
        return await store.append([message("a", "", { payload })]) === kept + 1;
      } catch (error) {
        assert(error instanceof Refusal && error.code === codes.store_full);
        return false;
      }
    });
    assertEquals(store.stats().failing, "");
  });
});

Deno.test("a store that failed finds out by itself that it can write again", async () => {
  await with_store({ retention: [], database_bytes_max: 1 << 20 }, async (store) => {
    await fill(store);
    assertEquals(store.stats().failing, "store_full");
    await eventually("a probe", () => store.stats().failing === "");
  });
});

Deno.test("what is refused was not written at all, and uses no offset", async () => {
  const options = { retention: [], database_bytes_max: 1 << 20, tail_messages_max: 1 };
  await with_store(options, async (store, data) => {
    const [kept] = await fill(store);
    const session = { id: "s", subscriptions: [], cursor: 0, expires_ms: 0, state: "" };
    const turn = [
      store.append([message("small")]),
      store.put_session(session),
      store.append_once("t", "k", [message("big", "", { payload })]),
      store.retain(message("r", "x", { retain: true })),
    ];
    for (const one of turn) await refused("store_full", () => one as Promise<unknown>);
    assertEquals(await store.append([message("small", "after")]), kept + 1);
    assertEquals(await store.append_once("t", "k", [message("k")]), {
      offset: kept + 2,
      duplicate: false,
    });
    for await (const found of store.sessions()) throw new Error(`${found.id} was written`);
    assertEquals((await store.retained("r")).messages, []);
    assertEquals((await read_all(store, ["small"])).messages.map(text_of), ["after"]);
    assertEquals(await check_store(data), []);
  });
});

Deno.test("more than the disk takes is refused with 503, and what waits is written", async () => {
  await with_store({ retention: [], queue_bytes_max: 200_000 }, async (store) => {
    const answers: Promise<number>[] = [];
    const append = async () => await store.append([message("a", "", { payload })]);
    for (let n = 0; n < 100; n++) answers.push(append());
    const settled = await Promise.allSettled(answers);
    const written = settled.filter(({ status }) => status === "fulfilled").length;
    assert(written >= 20 && written <= 25, `${written} were written`);
    for (const one of settled.slice(written)) {
      assert(one.status === "rejected" && one.reason.code === codes.store_unavailable);
    }
    assertEquals(store.stats().queue_bytes, 0);
    assertEquals(await store.append([message("a")]), written + 1);
  });
});

/** Lines of a child, and a way to wait for one. */
function lines_of(child: Deno.ChildProcess) {
  const lines: string[] = [];
  let partial = "";
  const ended = (async () => {
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
      const parts = (partial + part).split("\n");
      partial = parts.pop()!;
      lines.push(...parts);
    }
  })();
  const wait = (what: string, fits: (line: string) => boolean, from: number) =>
    eventually(what, () => lines.slice(from).some(fits));
  return { lines, wait, ended };
}

const is_offset = (line: string) => /^\d+$/.test(line);

async function is_there(command: string, ...args: string[]): Promise<boolean> {
  try {
    return (await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output())
      .success;
  } catch {
    return false;
  }
}

const has_prlimit = Deno.build.os === "linux" && await is_there("prlimit", "--version");

Deno.test({
  name: "a disk that fails refuses with 503, and the store goes on when the disk does",
  ignore: !has_prlimit, // writes fail where the file size limit is: Linux, with prlimit
  async fn() {
    await with_data(async (data) => {
      const script = new URL("./failing_writer.ts", import.meta.url);
      // Ignored signals stay ignored over exec: writes fail with EFBIG, an I/O error to SQLite.
      const args = ["run", "--quiet", "--no-check", "-A", script.href, data];
      const child = new Deno.Command("sh", {
        args: ["-c", `trap "" XFSZ; exec "$0" "$@"`, Deno.execPath(), ...args],
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      const limit = async (bytes: string) => {
        const args = ["--pid", String(child.pid), `--fsize=${bytes}:unlimited`];
        assert((await new Deno.Command("prlimit", { args }).output()).success);
      };
      const { lines, wait, ended } = lines_of(child);
      await wait("appends", is_offset, 0);
      for (let time = 0; time < 3; time++) {
        const { size } = Deno.statSync(`${data}/longwire.db-wal`);
        await limit(String(size + 20_000));
        const failing = lines.length;
        await wait("refused", (line) => line === "store_unavailable", failing);
        await limit("unlimited");
        await wait("goes on", is_offset, lines.length);
      }
      await child.stdin.close();
      await ended;
      const { success } = await child.status;
      assertEquals([success, lines.at(-1)], [true, "all there"]);
      const offsets = lines.filter(is_offset).map(Number);
      assertEquals(offsets, [...new Set(offsets)].sort((a, b) => a - b));
    });
  },
});

/** A file system of a few megabytes that only the superuser can make. */
async function mount_tiny(path: string): Promise<boolean> {
  if (Deno.build.os !== "linux" || Deno.uid() !== 0) return false;
  Deno.mkdirSync(path);
  return await is_there("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", path);
}

Deno.test("a file system without room refuses with 507, and the store goes on after", async () => {
  await with_data(async (root) => {
    const data = `${root}/tiny`;
    if (!await mount_tiny(data)) return console.log("skipped: no file system can be mounted here");
    try {
      const child = new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          "--quiet",
          "--no-check",
          "-A",
          new URL("./failing_writer.ts", import.meta.url).href,
          data,
        ],
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      const { lines, wait, ended } = lines_of(child);
      await wait("appends", is_offset, 0);
      for (let time = 0; time < 3; time++) {
        const filler = Deno.openSync(`${data}/filler`, { write: true, create: true });
        try {
          const zeros = new Uint8Array(64 << 10);
          while (true) if (filler.writeSync(zeros) === 0) break;
        } catch { /* no room left */ }
        filler.close();
        await wait("refused", (line) => line === "store_full", lines.length);
        Deno.removeSync(`${data}/filler`);
        await wait("goes on", is_offset, lines.length);
      }
      await child.stdin.close();
      await ended;
      await child.status;
      assertEquals(lines.at(-1), "all there");
      const unexpected = lines.slice(0, -1).filter((line) =>
        !is_offset(line) && line !== "store_full"
      );
      assertEquals(unexpected, []);
    } finally {
      assert(await is_there("umount", data));
    }
  });
});

/** Makes the next workers known, so that a test can let one die. */
function watch_workers(): { workers: Worker[]; [Symbol.dispose](): void } {
  const workers: Worker[] = [];
  const original = globalThis.Worker;
  globalThis.Worker = class extends original {
    constructor(url: string | URL, options?: WorkerOptions) {
      super(url, options);
      workers.push(this);
    }
  };
  return {
    workers,
    [Symbol.dispose]() {
      globalThis.Worker = original;
    },
  };
}

function die(worker: Worker): void {
  worker.dispatchEvent(new ErrorEvent("error", { message: "killed by a test", cancelable: true }));
}

Deno.test("a writer that dies fails what it had, and another takes over", async () => {
  using watched = watch_workers();
  await with_store({ retention: [] }, async (store) => {
    const { epoch } = store;
    for (let time = 0; time < 3; time++) {
      const before = await store.append([message("a", "before")]);
      const lost = store.append([message("a", "unknown")]);
      const session = store.put_cursor("s", 1);
      die(watched.workers.at(time === 0 ? 0 : -1)!);
      await refused("store_unavailable", () => lost);
      await refused("store_unavailable", () => session);
      await refused("store_unavailable", async () => await store.append([message("a")]));
      await eventually("goes on", async () => {
        try {
          return await store.append([message("a", "after")]) > before;
        } catch (error) {
          assert(error instanceof Refusal && error.code === codes.store_unavailable);
          return false;
        }
      });
      assertEquals([store.epoch, store.stats().failing], [epoch, ""]);
    }
    const { messages } = await read_all(store, ["a"]);
    assertEquals(messages.map(({ offset }) => offset), messages.map((_, index) => index + 1));
    assertEquals(messages.filter((one) => text_of(one) === "before").length, 3);
    assertEquals(messages.filter((one) => text_of(one) === "after").length, 3);
  });
});

Deno.test("a reader that dies fails its reads, and another takes over", async () => {
  using watched = watch_workers();
  await with_store({ tail_messages_max: 1 }, async (store) => {
    for (let n = 0; n < 10; n++) await store.append([message("a", String(n))]);
    const page = store.read(["a"], 0, 5);
    die(watched.workers[1]!);
    await refused("store_unavailable", () => Promise.resolve(page));
    await eventually("reads again", async () => {
      try {
        return (await store.read(["a"], 1, 5)).messages.length === 5;
      } catch {
        return false;
      }
    });
    assertEquals(await store.append([message("a")]), 11);
  });
});
