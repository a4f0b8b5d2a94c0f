/**
 * What every Store does (core/store/mod.ts), one suite for all: tests/store/*_test.ts run it with
 * their implementation. A part that an implementation does not promise is skipped with its reason.
 */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import type { Message, StoredMessage } from "../core/message.ts";
import type { Offsets, Soon, Store, StoredSession } from "../core/store/mod.ts";
import { filter_matches } from "../core/topic_tree.ts";
import { random_of, seed_for } from "./cases/random.ts";

/** What a test asks of the store that it gets. */
export interface Wanted {
  /** Keep about this many of the newest messages. */
  readonly messages_max?: number;
  readonly idempotency_ttl_ms?: number;
}

/** A store under test. */
export interface Subject {
  readonly store: Store;
  /** Closes the store and opens it again. */
  reopen(): Promise<Store>;
  /** Closes it and removes what it left. */
  dispose(): Promise<void>;
}

export interface Implementation {
  readonly name: string;
  open(wanted: Wanted): Promise<Subject>;
  /** Why nothing survives a restart; "" = everything does. */
  readonly forgets: string;
  /** Why it cannot run on this machine; absent or "" = it can. */
  readonly missing?: string;
}

/** A message with everything at its plainest. */
export function message(topic: string, payload = "", more: Partial<Message> = {}): Message {
  return {
    topic,
    payload: new TextEncoder().encode(payload),
    qos: 1,
    retain: false,
    time_ms: Date.now(),
    expires_ms: 0,
    key: "",
    ...more,
  };
}

export function text_of({ payload }: Message): string {
  return new TextDecoder().decode(payload);
}

/** Every message after an offset, page by page, and whether any page had a gap. */
export async function read_all(
  store: Store,
  filters: readonly string[],
  after = 0,
  limit = 100,
): Promise<{ messages: StoredMessage[]; gap: boolean }> {
  const messages: StoredMessage[] = [];
  let gap = false;
  while (after < store.head) {
    const page = await store.read(filters, after, limit);
    assert(page.messages.length <= limit, "a page has at most limit messages");
    assert(page.next > after || page.next >= store.head, "a page makes progress");
    for (const { offset } of page.messages) assert(offset > after && offset <= page.next);
    messages.push(...page.messages);
    gap ||= page.gap;
    after = page.next;
  }
  return { messages, gap };
}

/** Waits until something holds that happens in the background; fails after five seconds. */
export async function eventually(what: string, holds: () => unknown): Promise<void> {
  for (const until = Date.now() + 5000; Date.now() < until;) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`not within 5 s: ${what}`);
}

function at_once<T>(answer: Soon<T>): T {
  if (answer instanceof Promise) throw new Error("an answer that must not be a promise is one");
  return answer;
}

async function all_sessions(store: Store): Promise<Map<string, StoredSession>> {
  const found = new Map<string, StoredSession>();
  for await (const session of store.sessions()) {
    assert(!found.has(session.id), "a session comes once");
    found.set(session.id, session);
  }
  return found;
}

function session(id: string, more: Partial<StoredSession> = {}): StoredSession {
  return {
    id,
    subscriptions: [{ filter: "a/b", qos: 1, options: 1 }],
    cursor: 0,
    expires_ms: 0,
    state: "",
    ...more,
  };
}

type Test = (subject: Subject) => Promise<void>;

/** Registers the suite. */
export function contract_store(implementation: Implementation): void {
  const { name, forgets, missing = "" } = implementation;
  const test = (what: string, run: Test, wanted: Wanted = {}, ignore = missing) =>
    Deno.test({
      name: `${name}: ${what}${ignore === "" ? "" : ` (skipped: ${ignore})`}`,
      ignore: ignore !== "",
      async fn() {
        const subject = await implementation.open(wanted);
        try {
          await run(subject);
        } finally {
          await subject.dispose();
        }
      },
    });
  const lasting = (what: string, run: Test, wanted: Wanted = {}) =>
    test(what, run, wanted, missing === "" ? forgets : missing);

  log_tests(test);
  read_tests(test);
  expiry_tests(test);
  retained_page_tests(test);
  retained_tests(test);
  session_tests(test);
  once_tests(test);
  lasting_tests(lasting);
}

type Register = (what: string, run: Test, wanted?: Wanted) => void;

function log_tests(test: Register): void {
  test("offsets count from 1, in the order of calls and within them", async ({ store }) => {
    assertEquals([store.head, store.first], [0, 1]);
    const answers = await Promise.all([
      store.append([message("a", "1"), message("b", "2")]),
      store.append([message("a", "3")]),
      store.append([message("c", "4"), message("a", "5"), message("b", "6")]),
    ]);
    assertEquals(answers, [1, 3, 4]);
    assertEquals([store.head, store.first], [6, 1]);
    assertEquals(await store.append([message("a", "7")]), 7);
    const { messages } = await read_all(store, ["#"]);
    assertEquals(messages.map(text_of), ["1", "2", "3", "4", "5", "6", "7"]);
    assertEquals(messages.map(({ offset }) => offset), [1, 2, 3, 4, 5, 6, 7]);
  });

  test("answers come in the order of calls", async ({ store }) => {
    const order: string[] = [];
    const note = (what: string) => () => order.push(what);
    await Promise.all([
      Promise.resolve(store.append([message("a")])).then(note("1")),
      Promise.resolve(store.append_once("t", "k", [message("a")])).then(note("2")),
      Promise.resolve(store.append([message("a")])).then(note("3")),
      Promise.resolve(store.append_once("t", "k", [message("a")])).then(note("4")),
    ]);
    assertEquals(order, ["1", "2", "3", "4"]);
  });

  test("a message comes back as it went in", async ({ store, reopen }) => {
    const sent: Message[] = [
      message("plain", "x"),
      message("empty", ""),
      message("größe/温度/🌡", "ünï", { qos: 2, key: "schlüssel" }),
      message("all", "p", {
        qos: 2,
        retain: true,
        time_ms: 1_790_000_000_123,
        expires_ms: 4_000_000_000_000,
        key: "k",
        properties: {
          content_type: "application/json",
          response_topic: "re/ply",
          correlation_data: new Uint8Array([0, 255, 10, 0]),
          payload_format: 1,
          user_properties: [["a", "1"], ["a", "2"], ["", ""]],
        },
      }),
      message("none", "p", { properties: {} }),
      message("binary", "", { payload: new Uint8Array(300).map((_, index) => index) }),
      message("view", "", { payload: new Uint8Array(1000).fill(7).subarray(10, 20) }),
    ];
    await store.append(sent);
    const expected = sent.map((one, index) => ({ ...one, offset: index + 1 }));
    assertEquals((await read_all(store, ["#"])).messages, expected);
    const again = await reopen();
    if (again.head > 0) assertEquals((await read_all(again, ["#"])).messages, expected);
  });

  edge_tests(test);
}

function edge_tests(test: Register): void {
  test("turns that overtake the disk keep their order", async ({ store }) => {
    const answers: Promise<Offsets>[] = [];
    const append = async (messages: Message[]) => await store.append(messages);
    for (let turn = 0; turn < 12; turn++) {
      answers.push(append(Array.from({ length: 3000 }, (_, n) => message("a", `${turn}.${n}`))));
      await Promise.resolve();
    }
    const firsts = await Promise.all(answers);
    assertEquals(firsts, firsts.map((_, turn) => turn * 3000 + 1));
    const { messages } = await read_all(store, ["a"], 0, 4096);
    assertEquals(text_of(messages[17_003]!), "5.2003");
    assertEquals(messages.length, 36_000);
  });

  test("a page at the head comes at once, whatever was appended before", async ({ store }) => {
    for (let index = 1; index <= 20; index++) {
      await store.append([message(`t/${index % 3}`, String(index))]);
      const page = at_once(store.read(["t/+"], store.head - 1, 10));
      assertEquals([page.messages.length, page.next, page.gap], [1, store.head, false]);
      const empty = at_once(store.read(["t/+"], store.head, 10));
      assertEquals(empty, { messages: [], next: store.head, gap: false });
    }
  });

  test("a cursor beyond the head reads nothing and stays", async ({ store }) => {
    await store.append([message("a")]);
    assertEquals(await store.read(["#"], 50, 10), { messages: [], next: 50, gap: false });
  });

  test("closing writes what was handed over", async ({ store, reopen }) => {
    const answer = store.append([message("a", "last")]);
    const done = store.put_session(session("s"));
    const again = await reopen();
    assertEquals(await answer, 1);
    await done;
    assert(again.head === 0 || text_of((await read_all(again, ["a"])).messages[0]!) === "last");
  });
}

function read_tests(test: Register): void {
  test("a page holds at most limit messages and says where to go on", async ({ store }) => {
    await store.append([1, 2, 3, 4, 5].map((n) => message(n % 2 ? "odd" : "even", String(n))));
    const page = await store.read(["odd"], 0, 2);
    assertEquals(page.messages.map(text_of), ["1", "3"]);
    assertEquals([page.next, page.gap], [3, false]);
    const rest = await store.read(["odd"], page.next, 2);
    assertEquals(rest.messages.map(text_of), ["5"]);
    assertEquals(rest.next, 5);
    const none = await store.read(["never"], 0, 2);
    assertEquals(none, { messages: [], next: 5, gap: false });
  });

  test("filters match as MQTT says, each message once", async ({ store }) => {
    const topics = ["a", "a/b", "a/b/c", "b/b", "/a", "a/", "$SYS/a", "$SYS/b/c", "ab"];
    await store.append(topics.map((topic) => message(topic, topic)));
    const read = async (...filters: string[]) =>
      (await read_all(store, filters)).messages.map(text_of);
    assertEquals(await read("#"), topics.filter((topic) => !topic.startsWith("$")));
    assertEquals(await read("a/#"), ["a", "a/b", "a/b/c", "a/"]);
    assertEquals(await read("+/b"), ["a/b", "b/b"]);
    assertEquals(await read("+"), ["a", "ab"]);
    assertEquals(await read("a/+"), ["a/b", "a/"]);
    assertEquals(await read("/+"), ["/a"]);
    assertEquals(await read("$SYS/#"), ["$SYS/a", "$SYS/b/c"]);
    assertEquals(await read("a/#", "+/b", "a/b"), ["a", "a/b", "a/b/c", "b/b", "a/"]);
    assertEquals(await read("a/b", "a"), ["a", "a/b"]);
    assertEquals(await read(), []);
  });

  test("a page ends with the message that passes its size", async ({ store }) => {
    const payload = new Uint8Array(900_000);
    await store.append(Array.from({ length: 12 }, () => message("big", "", { payload })));
    const page = await store.read(["big"], 0, 100);
    assert(page.messages.length >= 1 && page.messages.length <= 6, String(page.messages.length));
    assertEquals(page.next, page.messages.at(-1)!.offset);
    assertEquals((await read_all(store, ["big"])).messages.length, 12);
  });

  test("random traffic reads as a model says", async ({ store, reopen }) => {
    const random = random_of(seed_for("random traffic reads as a model says"));
    const pick = (n: number) => Math.floor(random() * n);
    const topic = () => Array.from({ length: 1 + pick(3) }, () => "xyz"[pick(3)]).join("/");
    const model: Message[] = [];
    const filters = ["#", "x/#", "+/y", "x/y/z", "x", "z/+", "+/+/z", "y/#"];
    let now = store;
    for (let round = 0; round < 60; round++) {
      const sent = Array.from(
        { length: 1 + pick(40) },
        (_, index) => message(topic(), `${round}.${index}`),
      );
      assertEquals(await now.append(sent), model.length + 1);
      model.push(...sent);
      if (round === 40) now = await reopen();
      if (now.head === 0) return;
      const some = Array.from({ length: 1 + pick(3) }, () => filters[pick(filters.length)]!);
      const after = pick(model.length);
      const expected = model.slice(after)
        .filter((one) => some.some((filter) => filter_matches(filter, one.topic)));
      const { messages, gap } = await read_all(now, some, after, 1 + pick(50));
      assertEquals(messages.map(text_of), expected.map(text_of), `${some} after ${after}`);
      assertEquals(gap, false);
    }
  });
}

function expiry_tests(test: Register): void {
  test("expired messages are not read and leave no gap", async ({ store }) => {
    const soon = Date.now() + 60;
    await store.append([
      message("a", "past", { expires_ms: 1 }),
      message("a", "soon", { expires_ms: soon }),
      message("a", "late", { expires_ms: soon + 3_600_000 }),
      message("a", "never"),
    ]);
    const texts = async (filter: string) => (await read_all(store, [filter])).messages.map(text_of);
    assert((await texts("a")).includes("late"));
    await eventually("expired", async () => (await texts("a")).length === 2);
    assertEquals(await texts("a"), ["late", "never"]);
    assertEquals(await texts("+"), ["late", "never"]);
    assertEquals((await read_all(store, ["#"])).gap, false);
  });

  test("what retention removed is a gap for those before it", async ({ store }) => {
    for (let index = 1; index <= 40; index++) {
      await store.append(Array.from({ length: 10 }, () => message(`t/${index % 4}`)));
    }
    await eventually("retention", () => store.first > 200);
    const { messages, gap } = await read_all(store, ["t/+"]);
    assertEquals(gap, true);
    assert(messages.length >= 100 && messages.length <= 200, String(messages.length));
    assertEquals(messages.map(({ offset }) => offset).at(-1), 400);
    // Retention may remove more between the look at where the log begins and the read.
    await eventually("no gap", async () => {
      return !(await read_all(store, ["t/1"], store.first - 1)).gap;
    });
    assertEquals((await read_all(store, ["t/1"], store.head - 20)).gap, false);
    assertEquals(await store.append([message("t/1")]), 401);
  }, { messages_max: 100 });
}

function retained_tests(test: Register): void {
  const texts = async (store: Store, filter: string) =>
    (await store.retained(filter)).messages.map(text_of).sort();

  test("the newest retained message of a topic is kept, an empty one removes", async (subject) => {
    const { store } = subject;
    assertEquals(await texts(store, "#"), []);
    await store.retain(message("a/b", "1", { retain: true, qos: 0 }));
    await store.retain(message("a/b", "2", { retain: true, qos: 0 }));
    await store.retain(message("a/c", "3", { retain: true, qos: 0 }));
    await store.retain(message("$SYS/x", "4", { retain: true, qos: 0 }));
    assertEquals(await texts(store, "a/b"), ["2"]);
    assertEquals(await texts(store, "a/+"), ["2", "3"]);
    assertEquals(await texts(store, "#"), ["2", "3"]);
    assertEquals(await texts(store, "$SYS/#"), ["4"]);
    assertEquals(await store.retained_count(), 3);
    await store.retain(message("a/b", "", { retain: true, qos: 0 }));
    assertEquals(await texts(store, "#"), ["3"]);
    assertEquals(await store.retained_count(), 2);
    assertEquals(store.head, 0);
  });

  test("a message is found by its offset, also when it has expired", async ({ store }) => {
    await store.append([message("a", "1"), message("$b", "2", { expires_ms: 1 })]);
    assertEquals([text_of((await store.get(1))!), (await store.get(1))?.offset], ["1", 1]);
    assertEquals((await store.get(2))?.topic, "$b");
    assertEquals(await store.get(3), undefined);
    assertEquals(await store.get(0), undefined);
  });

  test("appending retains too, with the offset", async ({ store }) => {
    await store.append([
      message("a", "1", { retain: true }),
      message("b", "2"),
      message("a", "3", { retain: true }),
    ]);
    const { messages } = await store.retained("a");
    assertEquals(messages.map((one) => [text_of(one), one.offset, one.retain]), [["3", 3, true]]);
    assertEquals(await texts(store, "#"), ["3"]);
    await store.append([message("a", "", { retain: true })]);
    assertEquals(await texts(store, "#"), []);
    assertEquals((await read_all(store, ["a"])).messages.length, 3);
  });

  test("retained messages expire", async ({ store }) => {
    const expires_ms = Date.now() + 60;
    await store.retain(message("a", "short", { retain: true, expires_ms }));
    await store.retain(message("b", "long", { retain: true }));
    await eventually("expired", async () => (await texts(store, "#")).length === 1);
    assertEquals(await texts(store, "a"), []);
    assertEquals(await texts(store, "+"), ["long"]);
  });
}

function retained_page_tests(test: Register): void {
  test("many retained messages come in pages, each once", async ({ store }) => {
    const all = Array.from({ length: 9000 }, (_, n) => `r/${n}`);
    await Promise.all(all.map((topic) => store.retain(message(topic, topic, { retain: true }))));
    const found = new Set<string>();
    let after = "";
    let pages = 0;
    do {
      const page = await store.retained("r/#", after);
      for (const { topic } of page.messages) {
        assert(!found.has(topic), `${topic} twice`);
        found.add(topic);
      }
      after = page.next;
      pages++;
    } while (after !== "");
    assertEquals(found.size, all.length);
    assert(pages > 1);
  });
}

function session_tests(test: Register): void {
  test("sessions are put, replaced, moved and deleted", async ({ store }) => {
    const full = session("größe", {
      subscriptions: [
        { filter: "a/+/ü", qos: 2, options: 4294967295 },
        { filter: "#", qos: 0, options: 0 },
      ],
      cursor: 9007199254740991,
      expires_ms: 1_790_000_000_123,
      state: '{"will":"ü"}',
    });
    await store.put_session(full);
    await store.put_session(session("b", { cursor: 1 }));
    await store.put_session(session("c", { subscriptions: [] }));
    assertEquals((await all_sessions(store)).get("größe"), full);
    await store.put_session(session("b", { cursor: 2, state: "x" }));
    await Promise.all([store.put_cursor("b", 5), store.put_cursor("nobody", 6)]);
    await Promise.all([store.put_cursor("b", 7), store.put_cursor("b", 8)]);
    await store.delete_session("c");
    await store.delete_session("nobody");
    const found = await all_sessions(store);
    assertEquals([...found.keys()].sort(), ["b", "größe"]);
    assertEquals(found.get("b"), session("b", { cursor: 8, state: "x" }));
  });

  test("what is put after a cursor overrules it", async ({ store }) => {
    await store.put_session(session("a"));
    await store.put_session(session("b"));
    await Promise.all([
      store.put_cursor("a", 5),
      store.put_session(session("a", { cursor: 3 })),
      store.put_cursor("b", 5),
      store.delete_session("b"),
      store.put_cursor("b", 6),
    ]);
    const found = await all_sessions(store);
    assertEquals([...found.values()], [session("a", { cursor: 3 })]);
  });

  test("many sessions come once each", async ({ store }) => {
    const count = 20_000;
    const puts = [];
    for (let n = 0; n < count; n++) puts.push(store.put_session(session(`s${n}`, { cursor: n })));
    for (let n = 0; n < count; n++) puts.push(store.put_cursor(`s${n}`, n + 1));
    await Promise.all(puts);
    const found = await all_sessions(store);
    assertEquals(found.size, count);
    for (let n = 0; n < count; n += 997) assertEquals(found.get(`s${n}`)!.cursor, n + 1);
    for await (const _ of store.sessions()) break;
  });
}

function once_tests(test: Register): void {
  test("an idempotency key appends once in its scope", async ({ store }) => {
    const put = (scope: string, key: string) =>
      store.append_once(scope, key, [message("a", "1"), message("a", "2")]);
    assertEquals(await put("t", "k"), { offset: 1, duplicate: false });
    assertEquals(await put("t", "k"), { offset: 1, duplicate: true });
    assertEquals(await put("t", "other"), { offset: 3, duplicate: false });
    assertEquals(await put("u", "k"), { offset: 5, duplicate: false });
    assertEquals(await Promise.all([put("t", "x"), put("t", "x"), store.append([message("b")])]), [
      { offset: 7, duplicate: false },
      { offset: 7, duplicate: true },
      9,
    ]);
    assertEquals(store.head, 9);
    assertEquals((await read_all(store, ["#"])).messages.length, 9);
  });

  const idempotency_ttl_ms = 200;

  test("an idempotency key is forgotten after its time", async ({ store }) => {
    const put = () => store.append_once("t", "k", [message("a")]);
    const until = Date.now() + idempotency_ttl_ms;
    assertEquals(await put(), { offset: 1, duplicate: false });
    const again = await put();
    // On a machine that is very busy the time may be over by now.
    if (Date.now() < until) assertEquals(again, { offset: 1, duplicate: true });
    await new Promise((resolve) => setTimeout(resolve, idempotency_ttl_ms + 20));
    const { head } = store;
    assertEquals(await put(), { offset: head + 1, duplicate: false });
  }, { idempotency_ttl_ms });
}

function lasting_tests(test: Register): void {
  test("everything survives closing and opening", async ({ store, reopen }) => {
    await store.append([message("a", "1"), message("a", "2", { retain: true })]);
    await store.append_once("t", "k", [message("b", "3")]);
    await store.put_session(session("s", { cursor: 2, state: "{}" }));
    const { epoch } = store;
    const again = await reopen();
    assertEquals([again.epoch, again.head, again.first], [epoch, 3, 1]);
    assertEquals((await read_all(again, ["#"])).messages.map(text_of), ["1", "2", "3"]);
    assertEquals((await again.retained("#")).messages.map(text_of), ["2"]);
    assertEquals([...(await all_sessions(again)).values()].map(({ cursor }) => cursor), [2]);
    assertEquals(await again.append_once("t", "k", [message("b", "3")]), {
      offset: 3,
      duplicate: true,
    });
    assertEquals(await again.append([message("a", "4")]), 4);
  });

  test("the head survives when every message is gone", async ({ store, reopen }) => {
    await store.append([1, 2, 3].map(() => message("a", "x", { expires_ms: Date.now() - 1 })));
    await eventually("expired", () => store.stats().expired >= 2);
    const again = await reopen();
    assertEquals(again.head, 3);
    assertEquals(await again.append([message("a")]), 4);
    assertNotEquals(again.first, 1);
  });
}
