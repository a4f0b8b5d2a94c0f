/**
 * The table of conformance is whole: every statement of both standards stands in it once, and what
 * it names as its test exists.
 */
import { assert, assertEquals } from "@std/assert";
import { type Statement, statements_4, statements_5 } from "./cases/mqtt_conformance.ts";

/** How many statements each section has, from the appendices B of the standards. */
const counts_5: Readonly<Record<string, number>> = {
  "1.5.4": 3,
  "1.5.5": 1,
  "1.5.7": 1,
  "2.1.3": 1,
  "2.2.1": 6, // the standard has no 2.2.1-1
  "2.2.2": 1,
  "3.1.0": 2,
  "3.1.2": 30,
  "3.1.3": 12,
  "3.1.4": 6,
  "3.2.0": 2,
  "3.2.2": 22,
  "3.3.1": 13,
  "3.3.2": 20,
  "3.3.4": 10,
  "3.4.2": 3,
  "3.5.2": 3,
  "3.6.1": 1,
  "3.6.2": 3,
  "3.7.2": 3,
  "3.8.1": 1,
  "3.8.3": 5,
  "3.8.4": 8,
  "3.9.2": 2,
  "3.9.3": 2,
  "3.10.1": 1,
  "3.10.3": 2,
  "3.10.4": 6,
  "3.11.2": 2,
  "3.11.3": 2,
  "3.12.4": 1,
  "3.14.0": 1,
  "3.14.1": 1,
  "3.14.2": 4,
  "3.14.4": 3,
  "3.15.1": 1,
  "3.15.2": 3,
  "4.1.0": 2,
  "4.2.0": 1,
  "4.3.1": 1,
  "4.3.2": 5,
  "4.3.3": 13,
  "4.4.0": 2,
  "4.5.0": 2,
  "4.6.0": 6,
  "4.7.0": 1,
  "4.7.1": 2,
  "4.7.2": 1,
  "4.7.3": 4,
  "4.8.2": 6,
  "4.9.0": 3,
  "4.12.0": 7,
  "4.12.1": 2,
  "4.13.1": 1,
  "4.13.2": 1,
  "6.0.0": 4,
};
const counts_4: Readonly<Record<string, number>> = {
  "1.5.3": 3,
  "2.2.2": 2,
  "2.3.1": 7,
  "3.1.0": 2,
  "3.1.2": 24,
  "3.1.3": 11,
  "3.1.4": 5,
  "3.2.0": 1,
  "3.2.2": 6,
  "3.3.1": 12,
  "3.3.2": 3,
  "3.3.4": 1,
  "3.3.5": 2,
  "3.6.1": 1,
  "3.8.1": 1,
  "3.8.3": 4,
  "3.8.4": 6,
  "3.9.3": 2,
  "3.10.1": 1,
  "3.10.3": 2,
  "3.10.4": 6,
  "3.12.4": 1,
  "3.14.1": 1,
  "3.14.4": 3,
  "4.1.0": 2,
  "4.2.0": 1,
  "4.3.1": 1,
  "4.3.2": 2,
  "4.3.3": 2,
  "4.4.0": 1,
  "4.5.0": 2,
  "4.6.0": 6,
  "4.7.1": 3,
  "4.7.2": 1,
  "4.7.3": 4,
  "4.8.0": 2,
  "6.0.0": 4,
};

/** Ids as the standards number them. */
function ids_of(counts: Readonly<Record<string, number>>): string[] {
  return Object.entries(counts).flatMap(([section, count]) => {
    const numbers = Array.from({ length: count }, (_, index) => index + 1);
    return numbers.map((number) => `MQTT-${section}-${number}`);
  }).filter((id) => id !== "MQTT-2.2.1-1");
}

async function test_sources(directory: URL): Promise<string> {
  let text = "";
  for await (const { name, isDirectory } of Deno.readDir(directory)) {
    if (isDirectory) text += await test_sources(new URL(`${name}/`, directory));
    else if (name.endsWith("_test.ts")) text += await Deno.readTextFile(new URL(name, directory));
  }
  return text;
}

/** Names of tests and steps: texts that a test file holds as a whole. */
async function test_names(): Promise<Set<string>> {
  const names = new Set<string>();
  const text = await test_sources(new URL("./", import.meta.url));
  for (const [, name] of text.matchAll(/"((?:[^"\\\n]|\\.)+)"/g)) names.add(name);
  return names;
}

const standards: [name: string, statements: readonly Statement[], counts: typeof counts_5][] = [
  ["5.0", statements_5, counts_5],
  ["3.1.1", statements_4, counts_4],
];

for (const [name, statements, counts] of standards) {
  Deno.test(`MQTT ${name}: every statement is in the table, once`, () => {
    const listed = statements.map(({ id }) => id).sort();
    assertEquals(listed, ids_of(counts).sort());
  });

  Deno.test(`MQTT ${name}: every statement has a test that exists, or says why not`, async () => {
    const names = await test_names();
    for (const { id, tests, why_none, meaning } of statements) {
      assert(meaning !== "", id);
      assertEquals(tests.length === 0, why_none !== "", id);
      for (const test of tests) assert(names.has(test), `${id}: there is no test "${test}"`);
    }
  });
}
