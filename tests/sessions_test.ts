/**
 * Sessions and the store between them: a flush of very many stalls nobody, and what a failing disk
 * refused is written when the disk is there again.
 */
import { assert, assertEquals } from "@std/assert";
import { codes, Refusal } from "../core/codes.ts";
import { Log } from "../core/log.ts";
import { type Session, Wire } from "../core/session.ts";
import { Sessions } from "../core/sessions.ts";
import { MemoryStore } from "../core/store/memory.ts";
import type { StoredSession } from "../core/store/mod.ts";

const answers = { published() {}, refused() {} };

/** A store that can be made to refuse every write, and takes each in a later turn. */
class Disk extends MemoryStore {
  fails = false;
  writes = 0;

  async #write(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.writes++;
    if (this.fails) throw new Refusal(codes.store_unavailable);
  }

  override async put_session(session: StoredSession): Promise<void> {
    await this.#write();
    super.put_session(session);
  }

  override async put_cursor(id: string, cursor: number): Promise<void> {
    await this.#write();
    super.put_cursor(id, cursor);
  }

  override async delete_session(id: string): Promise<void> {
    await this.#write();
    super.delete_session(id);
  }

  async rows(): Promise<Record<string, number>> {
    const rows: Record<string, number> = {};
    for await (const { id, cursor } of this.sessions()) rows[id] = cursor;
    return rows;
  }
}

const silent = new Log({ level: "error", format: "text", write() {}, now_ms: Date.now });

function kept_session(sessions: Sessions, id: string): Session {
  const { session } = sessions.open(id, Wire.mqtt5, answers, false);
  session.transient = false;
  session.expiry_s = 600;
  return session;
}

Deno.test("what a failing disk refused is written when it takes writes again", async () => {
  const disk = new Disk();
  const sessions = new Sessions(disk, Date.now, silent);
  const [a, b, c] = ["a", "b", "c"].map((id) => kept_session(sessions, id));
  await Promise.all([a, b, c].map((session) => sessions.keep(session)));
  disk.fails = true;
  sessions.acked(a, 7); // a cursor,
  b.move_cursor(8); // a row that nobody waits for,
  sessions.changed(b);
  sessions.forget(c); // one that is to go,
  const d = kept_session(sessions, "d"); // and one that somebody waited for
  d.move_cursor(9);
  await (sessions.keep(d) as Promise<void>).catch(() => {});
  for (let round = 0; round < 3; round++) await sessions.flush();
  assertEquals(await disk.rows(), { a: 0, b: 0, c: 0 });
  sessions.acked(a, 10); // moved again meanwhile
  disk.fails = false;
  await sessions.flush();
  assertEquals(await disk.rows(), { a: 10, b: 8, d: 9 });
  const { writes } = disk;
  await sessions.flush();
  assertEquals(disk.writes, writes, "nothing was out of date any more");
});

Deno.test("a row that could not be deleted does not outlive its successor", async () => {
  const disk = new Disk();
  const sessions = new Sessions(disk, Date.now, silent);
  const first = kept_session(sessions, "a");
  await sessions.keep(first);
  disk.fails = true;
  sessions.forget(first);
  await sessions.flush();
  disk.fails = false;
  const second = kept_session(sessions, "a");
  second.move_cursor(5);
  await sessions.keep(second);
  await sessions.flush();
  assertEquals(await disk.rows(), { a: 5 });
});

/** Counts what is written in one turn of the event loop. */
class CountingStore extends MemoryStore {
  writes = 0;

  override put_session(session: StoredSession): void {
    this.writes++;
    super.put_session(session);
  }

  override put_cursor(id: string, cursor: number): void {
    this.writes++;
    super.put_cursor(id, cursor);
  }
}

Deno.test("a flush of very many sessions lets everything else have its turns", async () => {
  const count = 200_000;
  const store = new CountingStore();
  const sessions = new Sessions(store, Date.now, silent);
  for (let n = 0; n < count; n++) {
    const session = kept_session(sessions, `device-${n}`);
    await sessions.keep(session);
    if (n % 2 === 0) sessions.acked(session, n + 1);
    else sessions.changed(session);
  }
  store.writes = 0;
  const by_turn: number[] = [];
  let is_over = false;
  const flushed = sessions.flush().then(() => is_over = true);
  for (let before = 0; !is_over;) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    by_turn.push(store.writes - before);
    before = store.writes;
  }
  await flushed;
  // A slice is a matter of milliseconds, so how many turns there are depends on the machine.
  assertEquals(by_turn.reduce((sum, each) => sum + each, 0), count);
  assert(Math.max(...by_turn) < count / 5, `${by_turn}`);
  for await (const { id, cursor } of store.sessions()) {
    const n = Number(id.slice("device-".length));
    assertEquals(cursor, n % 2 === 0 ? n + 1 : 0);
  }
});
