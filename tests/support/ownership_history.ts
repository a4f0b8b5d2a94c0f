/**
 * What nodes have written down of sessions (tests/support/history_recorder.ts), and whether a
 * session ever had two owners. Times are milliseconds of one clock.
 */

/** A connection that was let in: its node owned the session, or said so. */
interface Owned {
  readonly node: string;
  readonly id: string;
  readonly begin_ms: number;
  end_ms: number;
}

/** One run of a node, from its start to its end. */
export interface NodeRun {
  readonly node: string;
  readonly text: string;
  /** When it was killed; Infinity = it was not. */
  readonly ended_ms: number;
}

export interface Verdict {
  readonly problems: readonly string[];
  readonly grants: number;
  readonly fences: number;
  readonly writes: number;
}

/** Two processes read the clock at most so far apart. */
const tolerance_ms = 0.1;

/** Reads one run; what was done after the lease is a problem by itself. */
function read_run({ node, text, ended_ms }: NodeRun, problems: string[]) {
  const owned: Owned[] = [];
  const open = new Map<string, Owned>();
  let lease_ms = 0;
  let fences = 0;
  let writes = 0;
  /** Nothing holds longer than the lease did: one that was renewed too late is another one. */
  const expire = (now_ms: number) => {
    if (now_ms <= lease_ms) return;
    for (const one of open.values()) one.end_ms = lease_ms;
    open.clear();
  };
  for (const line of text.split("\n").filter((line) => line !== "")) {
    const [at, what, name = ""] = line.split(" ");
    const at_ms = Number(at);
    const is_late = at_ms > lease_ms + tolerance_ms;
    expire(at_ms);
    if (what === "lease") lease_ms = Math.max(lease_ms, Number(name));
    if (what === "fence") {
      fences++;
      for (const one of open.values()) one.end_ms = at_ms;
      open.clear();
    }
    if (what === "end") {
      const one = open.get(name);
      if (one !== undefined) one.end_ms = at_ms;
      open.delete(name);
    }
    if (what === "write") writes++;
    if (is_late && (what === "grant" || what === "write")) {
      problems.push(`${node}: ${what} of ${name} at ${at}, its lease was over at ${lease_ms}`);
    }
    if (what !== "grant") continue;
    const one = { node, id: name, begin_ms: at_ms, end_ms: Infinity };
    open.set(name, one);
    owned.push(one);
  }
  for (const one of open.values()) one.end_ms = Math.min(ended_ms, lease_ms);
  return { owned, fences, writes };
}

export function judge_history(runs: readonly NodeRun[]): Verdict {
  const problems: string[] = [];
  const read = runs.map((run) => read_run(run, problems));
  const by_id = Map.groupBy(read.flatMap(({ owned }) => owned), ({ id }) => id);
  for (const [id, owned] of by_id) {
    owned.sort((a, b) => a.begin_ms - b.begin_ms);
    let last: Owned | undefined;
    for (const one of owned) {
      if (
        last !== undefined && last.node !== one.node && one.begin_ms < last.end_ms - tolerance_ms
      ) {
        problems.push(
          `${id}: ${one.node} from ${one.begin_ms}, while ${last.node} has it from ` +
            `${last.begin_ms} to ${last.end_ms}`,
        );
      }
      if (last === undefined || one.end_ms > last.end_ms) last = one;
    }
  }
  const sum = (of: "fences" | "writes") => read.reduce((total, run) => total + run[of], 0);
  const grants = read.reduce((total, { owned }) => total + owned.length, 0);
  return { problems, grants, fences: sum("fences"), writes: sum("writes") };
}
