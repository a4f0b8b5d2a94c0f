/** Programs that tests drive: whether they are there, and one that runs, line by line. */
import { TextLineStream } from "./line_stream.ts";
import { Inbox, within } from "./wait.ts";

/** Set by .ci/run: what is missing there is a failure, not a reason to skip. */
export const is_ci = (Deno.env.get("CI") ?? "") !== "";

export function is_installed(program: string): boolean {
  const places = (Deno.env.get("PATH") ?? "").split(":").concat("/usr/sbin", "/usr/local/sbin");
  return places.some((place) => {
    try {
      return Deno.statSync(`${place}/${program}`).isFile;
    } catch {
      return false;
    }
  });
}

/** A test that needs programs of the machine; a skipped one says which is missing. */
export function test_with(
  programs: readonly string[],
  name: string,
  run: () => Promise<void>,
): void {
  const missing = programs.filter((program) => !is_installed(program));
  if (missing.length === 0) return Deno.test(name, run);
  const reason = `${missing.join(" and ")} not installed`;
  if (!is_ci) return Deno.test.ignore(`${name} (skipped: ${reason})`, run);
  Deno.test(name, () => Promise.reject(new Error(reason)));
}

/** A child process whose lines can be waited for. */
export class Program {
  readonly stdout: Inbox<string>;
  readonly stderr: Inbox<string>;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array> | undefined;
  readonly #done: Promise<unknown>;

  constructor(command: string, args: readonly string[], options: Deno.CommandOptions = {}) {
    this.stdout = new Inbox(`stdout of ${command}`);
    this.stderr = new Inbox(`stderr of ${command}`);
    const piped = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
    this.#child = new Deno.Command(command, { ...piped, ...options, args: [...args] }).spawn();
    this.#stdin = options.stdin === "piped" ? this.#child.stdin.getWriter() : undefined;
    this.#done = Promise.all([
      read_lines(this.#child.stdout, this.stdout),
      read_lines(this.#child.stderr, this.stderr),
    ]);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Writes a line to its stdin, which must be "piped". */
  async say(line: string): Promise<void> {
    await this.#stdin!.write(new TextEncoder().encode(`${line}\n`));
  }

  /** The exit status, when it ends by itself. */
  async status(): Promise<number> {
    const { code } = await within(this.#child.status, () => `${this.stdout.name} ended`);
    await this.#done;
    return code;
  }

  /** Sends a signal and waits for the end; answers the exit status. */
  async end(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    try {
      this.#child.kill(signal);
    } catch {
      // it has ended already
    }
    return await this.status();
  }
}

async function read_lines(stream: ReadableStream<Uint8Array>, inbox: Inbox<string>) {
  for await (const line of stream.pipeThrough(new TextLineStream())) inbox.push(line);
  inbox.end();
}
