/**
 * `longwire doctor`: one line for each thing that a service needs of its machine, with what to do
 * about it when it is not there. The checks themselves are handed in; nothing is changed.
 */

/** One check. `run` answers what was found; it throws an Error whose message says what is wrong. */
export interface Check {
  readonly name: string;
  readonly run: () => Promise<string> | string;
  /** The service runs without it. */
  readonly optional?: boolean;
}

export interface Finding {
  readonly name: string;
  readonly state: "ok" | "warning" | "failed";
  readonly detail: string;
}

export async function examine(checks: readonly Check[]): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { name, run, optional = false } of checks) {
    try {
      findings.push({ name, state: "ok", detail: await run() });
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      findings.push({ name, state: optional ? "warning" : "failed", detail });
    }
  }
  return findings;
}

/** Whether a service would run. */
export function is_sound(findings: readonly Finding[]): boolean {
  return findings.every(({ state }) => state !== "failed");
}

export function findings_text(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ name }) => name.length));
  return findings.map(({ name, state, detail }) =>
    `${state.padEnd(7)}  ${name.padEnd(width)}  ${detail.replaceAll("\n", "\n".padEnd(width + 12))}`
  ).join("\n");
}

/** denoland/deno#36788: node:http2 aborts the process when a peer says GOAWAY. */
export function deno_problem(version: string): string | undefined {
  const [major, minor, patch] = version.split(".").map(Number);
  const aborts = major === 2 && minor === 9 && patch >= 4 && patch <= 6;
  return aborts ? `Deno ${version} aborts when a gRPC peer says GOAWAY: use 2.9.2` : undefined;
}
