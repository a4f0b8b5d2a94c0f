/**
 * `deno task test`: hands its arguments to `deno test` and ends with one line that counts, taken
 * from the runner's own summary. The exit status is the runner's.
 */
import { ensure_addon } from "../ffi/zstd.ts";
import { TextLineStream } from "./support/line_stream.ts";

// Once, before many services would each begin to build it.
await ensure_addon().catch((error) => console.error(`Without zstd-napi: ${error.message}`));

const test = new Deno.Command(Deno.execPath(), {
  args: ["test", ...Deno.args],
  env: { NO_COLOR: "1" },
  stdin: "null",
  stdout: "piped",
}).spawn();

let passed = 0;
let failed = 0;
for await (const line of test.stdout.pipeThrough(new TextLineStream())) {
  console.log(line);
  const summary = /^(?:ok|FAILED) \| (\d+) passed(?: \(.*?\))? \| (\d+) failed/.exec(line);
  if (summary !== null) [passed, failed] = [Number(summary[1]), Number(summary[2])];
}
const { code } = await test.status;
// What does not even load is in no summary.
if (code !== 0 && failed === 0) failed = 1;
console.log(`${passed} passed, ${failed} failed`);
Deno.exit(code);
