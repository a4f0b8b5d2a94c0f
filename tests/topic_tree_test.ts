/**
 * Topic names, filters and the tree: the examples of MQTT section 4.7 as one table, and a seeded
 * walk of changes checked against a matcher too simple to be wrong.
 */
import { assert, assertEquals, assertStrictEquals, assertThrows, fail } from "@std/assert";
import { limits } from "../core/limits.ts";
import {
  filter_matches,
  filter_problem,
  has_wildcard,
  split_share,
  topic_problem,
  TopicTree,
} from "../core/topic_tree.ts";
import { random_of, seed_for } from "./cases/random.ts";

/** filter, topics that it matches, topics that it does not */
const matching: [string, string[], string[]][] = [
  // section 4.7.1.2
  [
    "sport/tennis/player1/#",
    [
      "sport/tennis/player1",
      "sport/tennis/player1/ranking",
      "sport/tennis/player1/score/wimbledon",
    ],
    ["sport/tennis/player10", "sport/tennis", "sport/tennis/player2"],
  ],
  ["sport/#", ["sport", "sport/", "sport/a"], ["sports", "spor", "/sport"]],
  ["#", ["a", "/", "//", "a/b/c", "/finance"], ["$SYS", "$SYS/uptime", "$"]],
  // section 4.7.1.3
  [
    "sport/tennis/+",
    ["sport/tennis/player1", "sport/tennis/player2", "sport/tennis/"],
    ["sport/tennis/player1/ranking", "sport/tennis"],
  ],
  ["sport/+", ["sport/"], ["sport", "sport/a/b"]],
  ["+", ["finance", "a"], ["/finance", "/", "a/", "$SYS"]],
  ["+/+", ["/finance", "/", "a/b", "a/"], ["finance", "a/b/c", "$SYS/a"]],
  ["/+", ["/finance", "/"], ["//", "finance", "a/"]],
  ["+/tennis/#", ["sport/tennis", "/tennis", "sport/tennis/a/b"], ["tennis", "$SYS/tennis"]],
  ["sport/+/player1", ["sport/tennis/player1", "sport//player1"], ["sport/player1"]],
  ["+/#", ["a", "a/b", "/", "/a/b"], ["$SYS", "$SYS/a"]],
  ["+/+/#", ["a/b", "a/b/c", "/"], ["a"]],
  // section 4.7.2
  ["$SYS/#", ["$SYS", "$SYS/", "$SYS/monitor/Clients"], ["SYS", "$SY", "$SYSTEM"]],
  ["$SYS/monitor/+", ["$SYS/monitor/Clients"], ["$SYS/monitor", "SYS/monitor/Clients"]],
  ["+/monitor/Clients", ["SYS/monitor/Clients"], ["$SYS/monitor/Clients"]],
  ["a/+/c", ["a/$b/c"], []],
  ["a/#", ["a/$SYS"], []],
  // section 4.7.3: case, spaces, leading and trailing separators all count
  ["ACCOUNTS", ["ACCOUNTS"], ["Accounts", "ACCOUNTS/", "/ACCOUNTS"]],
  ["Accounts payable", ["Accounts payable"], ["Accountspayable"]],
  ["/finance", ["/finance"], ["finance", "//finance"]],
  ["/", ["/"], ["a", "//"]],
  ["a//b", ["a//b"], ["a/b", "a///b"]],
  ["a/+//#", ["a/b/", "a/b//c", "a//"], ["a/b", "a/b/c"]],
  // U+FEFF is a character like others [MQTT-1.5.4-3]; normal forms are not folded
  ["\ufeffa", ["\ufeffa"], ["a"]],
  ["é/+", ["é/1"], ["e\u0301/1"]],
  ["😀/#", ["😀", "😀/😀"], ["\u{1f601}"]],
];

Deno.test("filters match as MQTT section 4.7 says", () => {
  for (const [filter, yes, no] of matching) {
    assertEquals(filter_problem(filter), undefined, filter);
    const tree = new TopicTree<string>();
    tree.set(filter, filter);
    for (const topic of [...yes, ...no]) {
      const expected = yes.includes(topic);
      assertEquals(topic_problem(topic), undefined, topic);
      assertEquals(filter_matches(filter, topic), expected, `"${filter}" on "${topic}"`);
      assertEquals(tree.match(topic), expected ? [filter] : [], `tree: "${filter}" on "${topic}"`);
    }
  }
});

const text = {
  longest: "é".repeat(limits.topic_bytes_max / 2),
  too_long: "é".repeat(limits.topic_bytes_max / 2) + "a",
  deepest: "/".repeat(limits.topic_levels_max - 1),
  too_deep: "/".repeat(limits.topic_levels_max),
};

Deno.test("topic names are refused for what they are", () => {
  const cases: [string, RegExp | undefined][] = [
    ["a", undefined],
    ["/", undefined],
    ["$SYS/x", undefined],
    ["a b/\u0001/\uffff/\u{10ffff}", undefined],
    [text.longest, undefined],
    [text.deepest, undefined],
    ["", /at least one character/],
    ["a\0", /U\+0000/],
    ["+", /wildcards/],
    ["a/#", /wildcards/],
    ["a+b", /wildcards/],
    ["\ud800", /surrogate/],
    ["\ud800a", /surrogate/],
    ["a/\udc00", /surrogate/],
    ["\udc00\ud800", /surrogate/],
    ["\ud83d\ud83d\ude00", /surrogate/],
    [text.too_long, /4096 bytes/],
    ["a".repeat(limits.topic_bytes_max + 1), /4096 bytes/],
    [text.too_deep, /128 levels/],
  ];
  for (const [topic, problem] of cases) check(topic_problem(topic), problem, topic);
});

Deno.test("topic filters are refused for what they are", () => {
  const cases: [string, RegExp | undefined][] = [
    ["#", undefined],
    ["+", undefined],
    ["+/+/#", undefined],
    ["/+/", undefined],
    ["$share", undefined],
    ["$share/g/a", undefined],
    ["$share/g/#", undefined],
    ["$share/g//", undefined],
    ["$shared/+", undefined],
    [text.longest, undefined],
    ["", /at least one character/],
    ["a\0/#", /U\+0000/],
    ["\udfff/#", /surrogate/],
    ["a#", /^# must/],
    ["a/b#", /^# must/],
    ["#/a", /^# must/],
    ["sport/tennis/#/ranking", /^# must/],
    ["##", /^# must/],
    ["+#", /\+ must/],
    ["sport+", /\+ must/],
    ["+a", /\+ must/],
    ["a/+b/c", /\+ must/],
    ["++", /\+ must/],
    ["$share/", /must not be empty/],
    ["$share//a", /must not be empty/],
    ["$share/g", /followed by a group/],
    ["$share/g/", /followed by a group/],
    ["$share/+/a", /group after/],
    ["$share/g#/a", /group after/],
    ["$share/g/a#", /^# must/],
    ["$share/g/#/a", /^# must/],
    [text.too_long, /4096 bytes/],
    [text.too_deep + "#", /128 levels/],
  ];
  for (const [filter, problem] of cases) check(filter_problem(filter), problem, filter);
});

function check(got: string | undefined, expected: RegExp | undefined, input: string): void {
  const about = `${JSON.stringify(input.slice(0, 60))}: ${got}`;
  if (expected === undefined) return assertEquals(got, undefined, about);
  assert(got !== undefined && expected.test(got) && !got.endsWith("."), about);
}

Deno.test("a shared filter comes apart into group and filter", () => {
  assertEquals(split_share("$share/g/a/+"), { group: "g", filter: "a/+" });
  assertEquals(split_share("$share/g//"), { group: "g", filter: "/" });
  assertEquals(split_share("a/$share/g"), undefined);
  assertEquals(split_share("$shared/g/a"), undefined);
});

Deno.test("get, set, delete, size and entries agree for every form of filter", () => {
  const filters = matching.map(([filter]) => filter);
  const tree = new TopicTree<number>();
  filters.forEach((filter, i) => tree.set(filter, i)); // 0 is a value like others
  filters.forEach((filter, i) => assertEquals(tree.get(filter), i, filter));
  assertEquals(tree.size, filters.length);
  assertEquals(new Map(tree.entries()), new Map(filters.map((filter, i) => [filter, i])));
  assertEquals([...tree.entries()].length, filters.length);
  for (const absent of ["nothing", "sport", "sport/+/#", "a/+", "+/#/", "x/#", "+/+/+"]) {
    assertEquals(tree.get(absent), undefined, absent);
    assertEquals(tree.delete(absent), false, absent);
  }
  filters.forEach((filter) => tree.set(filter, -1));
  assertEquals(tree.size, filters.length);
  for (const filter of filters) {
    assertEquals(tree.get(filter), -1);
    assertEquals(tree.delete(filter), true);
    assertEquals(tree.delete(filter), false);
    assertEquals(tree.get(filter), undefined);
  }
  assertEquals(tree.size, 0);
  assertEquals([...tree.entries()], []);
});

Deno.test("the tree asserts that its filters are valid and not shared", () => {
  const tree = new TopicTree<number>();
  for (const filter of ["", "a#", "+a", "#/a", "$share/g/+"]) {
    assertThrows(() => tree.set(filter, 1), Error, "topic_tree.ts", filter);
  }
  assertEquals(tree.size, 0);
});

Deno.test("a match stays the same array until something that matches changes", () => {
  const tree = new TopicTree<string>();
  tree.set("a/b", "exact");
  tree.set("a/+", "wild");
  const first = tree.match("a/b");
  assertEquals(first, ["exact", "wild"]);
  assertStrictEquals(tree.match("a/b"), first);

  tree.set("a/c", "other exact filter");
  tree.set("x/#", "wildcard that does not match");
  tree.delete("x/#");
  tree.set("a/+", "wild"); // the value it has
  tree.set("a/b", "exact");
  assertStrictEquals(tree.match("a/b"), first);

  const steps: [() => void, string[]][] = [
    [() => tree.set("a/#", "more"), ["exact", "more", "wild"]],
    [() => tree.delete("a/b"), ["more", "wild"]],
    [() => tree.set("a/b", "again"), ["again", "more", "wild"]],
    [() => tree.set("a/b", "changed"), ["changed", "more", "wild"]],
    [() => tree.set("a/+", "changed too"), ["changed", "more", "changed too"]],
    [() => tree.delete("a/#"), ["changed", "changed too"]],
    [() => tree.delete("a/+"), ["changed"]],
    [() => tree.delete("a/b"), []],
  ];
  for (const [change, expected] of steps) {
    const before = tree.match("a/b");
    const copy = [...before];
    change();
    assertEquals(tree.match("a/b"), expected);
    assertEquals(before, copy); // who still holds it sees no change
  }
});

Deno.test("exact filters that come and go leave the matches of other topics alone", () => {
  const tree = new TopicTree<number>();
  tree.set("fleet/#", 1);
  const first = tree.match("fleet/all");
  for (let i = 0; i < 100_000; i++) tree.set(`fleet/${i}`, i);
  assertStrictEquals(tree.match("fleet/all"), first);
  for (let i = 0; i < 100_000; i++) tree.delete(`fleet/${i}`);
  assertStrictEquals(tree.match("fleet/all"), first);
});

Deno.test("what is remembered is bounded and never wrong", () => {
  for (const match_cache_max of [0, 1, 2, 3, 8]) {
    const tree = new TopicTree<number>(match_cache_max);
    for (let i = 0; i < 20; i++) tree.set(`t/${i}`, i);
    const hot = tree.match("t/0");
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 20; i++) {
        assertEquals(tree.match(`t/${i}`), [i]);
        // In use all the time: it outlives those that pass by
        if (match_cache_max >= 8) assertStrictEquals(tree.match("t/0"), hot);
        else assertEquals(tree.match("t/0"), [0]);
      }
    }
    for (let i = 0; i < 20; i++) tree.set(`t/${i}`, -i);
    for (let i = 0; i < 20; i++) assertEquals(tree.match(`t/${i}`), [-i]);
  }
});

Deno.test("the trie is as small after deletes as before", () => {
  const filters = ["a/b/c/+", "a/b/#", "a/+/c/d/#", "a/b/x/+", "a/b/y/+", "+/+/+", "#", "+"];
  for (const order of [filters, filters.toReversed()]) {
    const tree = new TopicTree<string>();
    for (const filter of filters) tree.set(filter, filter);
    const left = new Set(filters);
    for (const filter of order) {
      tree.delete(filter);
      left.delete(filter);
      assertEquals(new Set([...tree.entries()].map(([key]) => key)), left);
      assertEquals(tree.count_levels(), levels_needed(left), `after ${filter}`);
    }
  }
});

/** Levels in the trie: each is one prefix of some filter, "#" belonging to the level above it. */
function levels_needed(filters: Iterable<string>): number {
  const prefixes = new Set<string>();
  for (const filter of filters) {
    const names = filter.split("/");
    if (names.at(-1) === "#") names.pop();
    names.forEach((_, i) => prefixes.add(names.slice(0, i + 1).join("/")));
  }
  return prefixes.size;
}

Deno.test("random changes and matches agree with a naive matcher", () => {
  const seed = seed_for("topic tree");
  const random = random_of(seed);
  const pick = <V>(from: readonly V[]): V => from[Math.floor(random() * from.length)]!;
  const names = ["a", "b", "", "$SYS", "longer-than-thirteen-units", "é😀"];
  const topic_of = () => {
    const topic = Array.from({ length: 1 + Math.floor(random() * 5) }, () => pick(names)).join("/");
    return topic === "" ? "a" : topic;
  };
  const filter_of = () => {
    const levels = topic_of().split("/").map((name) => random() < 0.25 ? "+" : name);
    if (random() < 0.3) levels[levels.length - (random() < 0.5 ? 1 : 0)] = "#";
    return levels.join("/") || "+";
  };
  const tree = new TopicTree<number>(64); // small: topics are forgotten all the time
  const naive = new Map<string, number>();
  for (let step = 0; step < 20_000; step++) {
    const about = `seed ${seed}, step ${step}`;
    const act = random();
    // A tide, so that the tree is empty, small and large in turn
    const grows = Math.floor(step / 2_000) % 2 === 0;
    if (act < 0.3) {
      const filter = filter_of();
      assertEquals(filter_problem(filter), undefined, about);
      if (grows ? random() < 0.8 : random() < 0.1) {
        tree.set(filter, step);
        naive.set(filter, step);
      } else {
        assertEquals(tree.delete(filter), naive.delete(filter), about);
      }
    } else if (act < 0.4 && !grows && naive.size > 0) {
      const filter = pick([...naive.keys()]);
      assertEquals(tree.delete(filter), naive.delete(filter), about);
    } else {
      const topic = topic_of();
      const expected: number[] = [];
      for (const [filter, value] of naive) {
        const matches = naive_matches(filter, topic);
        if (matches) expected.push(value);
        if (filter_matches(filter, topic) !== matches) fail(`${about}: "${filter}" on "${topic}"`);
      }
      assertEquals(tree.match(topic).toSorted(), expected.toSorted(), about);
    }
    assertEquals(tree.size, naive.size, about);
  }
  assertEquals(new Map(tree.entries()), naive, `seed ${seed}`);
  for (const [filter, value] of naive) {
    assertEquals(tree.get(filter), value);
    assertEquals(has_wildcard(filter), /[+#]/.test(filter));
    assert(tree.delete(filter));
  }
  assertEquals(tree.size, 0);
  assertEquals(tree.count_levels(), 0);
});

/** Section 4.7 word by word, level by level. */
function naive_matches(filter: string, topic: string): boolean {
  const filters = filter.split("/");
  const topics = topic.split("/");
  if (topic.startsWith("$") && (filters[0] === "+" || filters[0] === "#")) return false;
  if (filters.at(-1) === "#") {
    filters.pop();
    if (topics.length < filters.length) return false;
    topics.length = filters.length;
  }
  return filters.length === topics.length &&
    filters.every((name, i) => name === "+" || name === topics[i]);
}
