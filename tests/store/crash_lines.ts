/** What crash_writer.ts tells crash_test.ts, and what both know of the traffic. */
import type { RetentionRule } from "../../core/store/mod.ts";

export const trimmed_count = 300;
export const crash_retention: readonly RetentionRule[] = [
  { filter: "trim/#", age_ms: 0, count: trimmed_count, bytes: 0 },
];

/** One line of stdout. A line that was cut off by the kill does not count. */
export type Line =
  | { kind: "open"; epoch: string; head: number }
  /** Answered. Each message: its topic, and the `run.sequence` that its payload begins with. */
  | { kind: "appended"; first: number; messages: [string, string][]; key?: string }
  /** Tried or answered, in the order of `version`; state "" = deleted. */
  | { kind: "session"; id: string; version: number; state: string; answered: boolean }
  /** A backup is complete; it was begun when the log ended at `head`. */
  | { kind: "backup"; head: number };

/** `run.sequence checksum filling`: says by itself whether it is whole. */
export function payload_of(run: number, sequence: number, filling: number): string {
  const text = "x".repeat(filling);
  const name = `${run}.${sequence}`;
  return `${name} ${checksum(name + text)} ${text}`;
}

/** The run and sequence of a payload; throws when it is not what was sent. */
export function parse_payload(payload: string): { run: number; sequence: number; name: string } {
  const [name = "", sum, text = ""] = payload.split(" ");
  if (checksum(name + text) !== Number(sum)) throw new Error(`not what was sent: ${name}`);
  const [run, sequence] = name.split(".").map(Number) as [number, number];
  return { run, sequence, name };
}

/** FNV-1a. */
function checksum(text: string): number {
  let value = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    value = Math.imul(value ^ text.charCodeAt(index), 0x01000193) >>> 0;
  }
  return value;
}
