/**
 * The process whose disk failure_test.ts takes away and gives back: appends until its stdin ends,
 * and says on stdout what became of each append: the offset, or the code that it was refused with.
 *   failing_writer.ts <data>
 */
import { Refusal } from "../../core/codes.ts";
import { SqliteStore } from "../../core/store/sqlite.ts";
import { message, read_all } from "../contract_store.ts";

const store = await SqliteStore.open(Deno.args[0]!, { retention: [] });
let over = false;
(async () => {
  for await (const _ of Deno.stdin.readable);
  over = true;
})();
const payload = new Uint8Array(2000);
const acknowledged: number[] = [];
while (!over) {
  try {
    acknowledged.push(await store.append([message("a", "", { payload })]));
    console.log(acknowledged.at(-1));
  } catch (error) {
    console.log(error instanceof Refusal ? error.code.name : String(error));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
const { messages } = await read_all(store, ["a"]);
const found = new Set(messages.map(({ offset }) => offset));
console.log(acknowledged.every((offset) => found.has(offset)) ? "all there" : "some lost");
await store.close();
