/**
 * Which backend it is: the first one that this machine can build and run, and the reason why not a
 * better one. Only building and trying say so: versions of kernels and containers do not.
 */
import { type Backend, BuildError, ensure_library } from "./build.ts";
import { connections_possible, probe_library } from "./reactor.ts";

/** A library that works here. */
export interface Chosen {
  readonly backend: Backend;
  /** Of the library. */
  readonly path: string;
  /** Why it is not the first of the candidates; undefined = it is. */
  readonly reason: string | undefined;
  /** How many connections that many I/O threads can hold. */
  possible(thread_count: number): number;
}

/** The first error of a compiler, behind the line that names the compiler. */
function one_line(message: string): string {
  const [first = "", ...said] = message.split("\n");
  const error = said.find((line) => line.includes("error:")) ?? said[0] ?? "";
  return `${first} ${error.replace(/^.*error: /, "")}`.trim();
}

/**
 * @param candidates best first
 * @throws BuildError when the last of them cannot be built or does not work here.
 */
export async function choose_backend(candidates: readonly Backend[]): Promise<Chosen> {
  const reasons: string[] = [];
  for (const backend of candidates) {
    const is_last = backend === candidates.at(-1);
    let path: string;
    try {
      path = await ensure_library(backend);
    } catch (error) {
      if (is_last || !(error instanceof BuildError)) throw error;
      reasons.push(`not ${backend}: ${one_line(error.message)}`);
      continue;
    }
    const problem = probe_library(path);
    if (problem === undefined) {
      const reason = reasons.length > 0 ? reasons.join("; ") : undefined;
      return { backend, path, reason, possible: (count) => connections_possible(path, count) };
    }
    if (is_last) throw new BuildError(`Cannot use backend ${backend}: ${problem}`);
    reasons.push(`not ${backend}: ${problem}`);
  }
  throw new RangeError("choose_backend: no candidates");
}
