/**
 * What the process has open beside what the reactor holds, for operators. Invariant: what is called
 * leaked or missing was so in two scans: in one alone it may be a connection that has just come.
 */
import type { DescriptorRow, DescriptorScan } from "../ffi/reactor.ts";
import { limits } from "./limits.ts";

export interface DescriptorReport extends DescriptorScan {
  /** RFC 3339, UTC, milliseconds. */
  readonly time: string;
}

/** Whether it is the same thing, under the same number. */
function is_same(a: DescriptorRow, b: DescriptorRow): boolean {
  return a.fd === b.fd && a.role === b.role && a.target === b.target;
}

function is_wrong({ role }: DescriptorRow): boolean {
  return role !== "stranger";
}

/** The later of two scans, with what looked wrong in both. */
export function confirm(before: DescriptorScan, after: DescriptorScan): DescriptorScan {
  const rows = after.rows.filter((row) => {
    return !is_wrong(row) || before.rows.some((other) => is_same(row, other));
  });
  const count = (role: DescriptorRow["role"]) => rows.filter((row) => row.role === role).length;
  return { ...after, leaked: count("leaked"), missing: count("missing"), rows };
}

export class Descriptors {
  #last: DescriptorReport | undefined;
  #last_ms = 0;
  #scanning: Promise<DescriptorReport> | undefined;

  /** @param scan fails where the system cannot say; one at a time */
  constructor(readonly scan: () => Promise<DescriptorScan>, readonly now_ms: () => number) {}

  /** A new one; who asks while a scan is under way gets that one. */
  report(): Promise<DescriptorReport> {
    return this.#scanning ??= this.#scan().finally(() => this.#scanning = undefined);
  }

  /** The last one, unless it is too old: for metrics. undefined = the system cannot say. */
  async recent(): Promise<DescriptorReport | undefined> {
    const age_ms = this.now_ms() - this.#last_ms;
    if (this.#last !== undefined && age_ms < limits.descriptors_age_ms) return this.#last;
    return await this.report().catch(() => undefined);
  }

  async #scan(): Promise<DescriptorReport> {
    let found = await this.scan();
    if (found.rows.some(is_wrong)) {
      await new Promise((resolve) => setTimeout(resolve, limits.descriptors_confirm_ms));
      found = confirm(found, await this.scan());
    }
    this.#last_ms = this.now_ms();
    return this.#last = { time: new Date(this.#last_ms).toISOString(), ...found };
  }
}
