/**
 * What devices report of themselves: the newest status of each node, from Status and StatusBatch
 * frames. A report from the future or from before the last one is not taken, and counted under its
 * code.
 */
import { type Code, codes } from "./codes.ts";
import { limits } from "./limits.ts";
import type { StatusReport } from "./protocol/longwire.ts";

/** Why reports of one frame were not taken. */
export interface StatusRefusal {
  readonly code: Code;
  readonly count: number;
}

export class StatusBook {
  /** Reports that were taken. */
  taken = 0;
  /** Nodes that were forgotten because newer ones needed their place. */
  forgotten = 0;
  /** Reports and heartbeats that were not taken. */
  readonly refused = new Map<Code, number>();
  readonly #newest = new Map<number, StatusReport>();

  constructor(
    readonly now_ms: () => number,
    readonly nodes_max: number = limits.status_nodes_max,
  ) {}

  /** Nodes that have reported. */
  get node_count(): number {
    return this.#newest.size;
  }

  /** The newest status of a node; undefined = it has not reported, or too many others have. */
  get(node_id: number): StatusReport | undefined {
    return this.#newest.get(node_id);
  }

  /** Takes the reports of one frame; answers the refusal of most of those it does not take. */
  take(reports: readonly StatusReport[]): StatusRefusal | undefined {
    const latest_ms = this.now_ms() + limits.clock_ahead_max_ms;
    let ahead = 0;
    let replayed = 0;
    for (const report of reports) {
      const last = this.#newest.get(report.node_id);
      if (report.timestamp_ms > latest_ms) ahead++;
      else if (last !== undefined && report.timestamp_ms <= last.timestamp_ms) replayed++;
      else this.#keep(report, last !== undefined);
    }
    if (ahead > 0) this.refuse(codes.time_ahead, ahead);
    if (replayed > 0) this.refuse(codes.status_replayed, replayed);
    if (ahead + replayed === 0) return undefined;
    return ahead >= replayed
      ? { code: codes.time_ahead, count: ahead }
      : { code: codes.status_replayed, count: replayed };
  }

  /** Counts what was not taken. */
  refuse(code: Code, count: number): void {
    this.refused.set(code, (this.refused.get(code) ?? 0) + count);
  }

  #keep(report: StatusReport, is_known: boolean): void {
    this.taken++;
    if (!is_known && this.#newest.size >= this.nodes_max) {
      const [oldest] = this.#newest.keys();
      this.#newest.delete(oldest);
      this.forgotten++;
    }
    const { timestamp_ms, node_id, load_percent } = report;
    this.#newest.set(node_id, { timestamp_ms, node_id, load_percent });
  }
}
