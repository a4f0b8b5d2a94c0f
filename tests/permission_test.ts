/** What a list of topic filters allows: against all topics of a small world, and against tricks. */
import { assert, assertEquals } from "@std/assert";
import { Namespace, plain_filter, plain_name, tenant_of } from "../core/namespace.ts";
import { fill_in, filter_covers, is_allowed, template_problem } from "../core/permission.ts";
import { filter_matches, filter_problem, topic_problem } from "../core/topic_tree.ts";

const words = ["a", "b", "", "$x"];

/** Every text of up to `levels_max` levels out of some. */
function texts(of: readonly string[], levels_max: number): string[] {
  let longest = of.map((word) => [word]);
  const all = [...longest];
  for (let levels = 2; levels <= levels_max; levels++) {
    longest = longest.flatMap((start) => of.map((word) => [...start, word]));
    all.push(...longest);
  }
  return [...new Set(all.map((names) => names.join("/")))];
}

Deno.test("a filter covers another when every topic that the other matches is its own", () => {
  const topics = texts(words, 4).filter((topic) => topic_problem(topic) === undefined);
  const filters = texts(["a", "$x", "", "+", "#"], 3).filter((filter) => {
    return filter_problem(filter) === undefined;
  });
  const matched = new Map(filters.map((filter) => [
    filter,
    new Set(topics.filter((topic) => filter_matches(filter, topic))),
  ]));
  let covered = 0;
  for (const outer of filters) {
    for (const inner of filters) {
      const expected = matched.get(inner)!.isSubsetOf(matched.get(outer)!);
      const covers = filter_covers(outer, inner);
      if (covers) assert(expected, `${outer} does not cover ${inner}`);
      // "/#" would match the topic "" too, which does not exist: so it may be refused.
      else assert(!expected || inner === "/#", `${outer} covers ${inner}`);
      if (expected) covered++;
    }
  }
  assert(covered > filters.length, "there are such pairs");
});

Deno.test("placeholders stand for one plain level", () => {
  const fill = (template: string, device_id: string) =>
    fill_in(template, { device_id, tenant: { name: "acme" } });
  assertEquals(fill("{tenant}/{device_id}/#", "d1"), "acme/d1/#");
  assertEquals(fill("x-{device_id}", "d1"), "x-d1");
  for (const id of ["+", "#", "a/b", "", "a/#", "/", "+/+", "x".repeat(5000), "\u{d800}"]) {
    assertEquals(fill("devices/{device_id}/#", id), undefined, id);
  }
  for (const id of ["$SYS", "$presence", "$\u0001acme"]) {
    assertEquals(fill("{device_id}/#", id), undefined, id);
  }
  assertEquals(fill("{device_id}", "{tenant}"), "{tenant}"); // filled in once, not again
  assertEquals(template_problem("devices/{device_id}/#"), undefined);
  for (const template of ["", "a/#/b", "a+", "$share/g/a", "a\0", "$\u0001acme/#"]) {
    assert(template_problem(template) !== undefined, template);
  }
});

Deno.test("wildcards do not reach what begins with a dollar", () => {
  const nobody = { device_id: "", tenant: { name: "default" } };
  const all = (name: string) => is_allowed(["#", "+/#"], nobody, name);
  assert(all("a") && all("#") && all("+/a") && all("/") && all("a/$x"));
  for (const name of ["$SYS/#", "$presence/a", "$presence/+", "$x"]) assert(!all(name), name);
});

Deno.test("names of a tenant come back as they went in, and cannot be made outside", () => {
  const acme = new Namespace("acme");
  const other = new Namespace("acme2");
  for (const topic of ["a", "a/b", "/", "$SYS/x", "$presence/d", "$x"]) {
    const inner = acme.topic(topic);
    assertEquals([plain_name(inner), tenant_of(inner)], [topic, "acme"]);
    assert(topic_problem(inner) !== undefined && filter_problem(inner) !== undefined);
    assert(filter_problem(`$share/g/${inner}`) !== undefined);
    for (const filter of ["#", "+/#", "+/+", "$SYS/#", "+/+/+", "/#"]) {
      assert(!filter_matches(filter, inner), `the default tenant's ${filter}`);
      assert(!filter_matches(other.filter(filter), inner), `another tenant's ${filter}`);
      assertEquals(
        filter_matches(acme.filter(filter), inner),
        filter_matches(filter, topic),
        `its own ${filter} and ${topic}`,
      );
    }
  }
  for (const filter of ["a/#", "#", "$share/g/#", "$share/g/$SYS/x"]) {
    assertEquals(plain_filter(acme.filter(filter)), filter);
  }
  const usual = new Namespace("default");
  assertEquals([usual.topic("a"), usual.filter("#"), usual.id("d")], ["a", "#", "d"]);
  assertEquals([plain_name(acme.id("d/1")), acme.owns(acme.id("d"))], ["d/1", true]);
  assertEquals([acme.owns(other.id("d")), usual.owns(acme.id("d")), acme.owns("d")], [
    false,
    false,
    false,
  ]);
});
