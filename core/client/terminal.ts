/** What every command has to do with a terminal: output, exit status, help and wrong arguments. */
import { UsageError } from "./options.ts";

export const status = { done: 0, failed: 1, usage: 2 } as const;

const encoder = new TextEncoder();

export function print(text: string): void {
  const bytes = encoder.encode(text);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}

export function say(text: string): void {
  const bytes = encoder.encode(`${text}\n`);
  for (let at = 0; at < bytes.length;) at += Deno.stderr.writeSync(bytes.subarray(at));
}

/** A system's message without its full stop and number. */
export function plain(reason: string): string {
  return reason.replace(/ \(os error \d+\)/, "").replace(/\.$/, "");
}

/** What `--token` says: the token, or `@` and the file that holds it. Throws UsageError. */
export async function token_from(text: string): Promise<string> {
  if (!text.startsWith("@")) return text;
  try {
    return (await Deno.readTextFile(text.slice(1))).trim();
  } catch (error) {
    const why = plain(error instanceof Error ? error.message : String(error));
    throw new UsageError(`Cannot read the token: ${why}`);
  }
}

/** Help and wrong arguments, the same for all commands. */
export async function with_usage(
  args: readonly string[],
  help: string,
  run: () => Promise<number>,
): Promise<number> {
  if (args.includes("--help") || args.includes("-h")) {
    print(help);
    return status.done;
  }
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    say(error.message);
    return status.usage;
  }
}
