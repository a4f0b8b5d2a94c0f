/** What the person who starts the benchmark may write, checked. */
import { parseArgs } from "node:util";

const flags = {
  help: { type: "boolean", short: "h", default: false },
  rounds: { type: "string" },
  seconds: { type: "string" },
  only: { type: "string" },
  peers: { type: "string" },
  devices: { type: "string", default: "10000" },
  rate: { type: "string", default: "20000" },
  hold: { type: "string", default: "10" },
  ping: { type: "string", default: "10" },
  sessions: { type: "string", default: "1000000" },
  messages: { type: "string", default: "1000" },
  fleet: { type: "string", default: "3000" },
  returning: { type: "string", default: "20000" },
  longwire: { type: "string" },
  settings: { type: "string" },
  json: { type: "boolean", default: false },
} as const;

/** A mistake of the person who typed the command, or a machine that is too small for it. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** @throws UsageError */
export function read_flags(args: string[]) {
  try {
    return parseArgs({ args, options: flags, allowPositionals: true });
  } catch (error) {
    throw new UsageError(`Cannot read the arguments: ${(error as Error).message}`);
  }
}

export type Values = ReturnType<typeof read_flags>["values"];

/** @throws UsageError */
export function number_of(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (text !== "" && value >= min && value <= max) return value;
  throw new UsageError(`Cannot use --${name}=${text}: expected ${min} to ${max}`);
}
