/** `longwire fds`: what a running service has open, and what of it is lost. */
import type { DescriptorReport } from "../descriptors.ts";
import { ask, http_url } from "./http.ts";
import { take_apart, UsageError } from "./options.ts";
import { plain, print, say, status, token_from, with_usage } from "./terminal.ts";

export const fds_help = `Show what a service has open, beside what its reactor holds

Usage: longwire fds [--option value ...]

  --url http://host:port where the service answers HTTP (default http://127.0.0.1:8080)
  --token text or @file  what the service is shown, where it has keys (right: operate)
  --all                  list strangers too: what is the runtime's own, and HTTP's
  --json                 the answer as it is

The exit status is 0 when nothing is lost, 1 when something is or the service has not answered, 2
for wrong arguments.
`;

interface FdsOptions {
  readonly url: string;
  readonly token: string;
  readonly all: boolean;
  readonly json: boolean;
}

/** @throws UsageError */
export function parse_fds(args: readonly string[]): FdsOptions {
  const { words, values, flags } = take_apart(args, ["url", "token"], ["all", "json"]);
  if (words.length > 0) throw new UsageError(`Cannot use "${words[0]}": fds takes options only`);
  const token = values.get("token") ?? "";
  return {
    url: http_url(values.get("url")),
    token,
    all: flags.has("all"),
    json: flags.has("json"),
  };
}

/** What a person reads: counts, then a line for each that is lost. */
export function fds_text(report: DescriptorReport, all: boolean): string {
  const { open, held, direct, strangers, leaked, missing, deleted, kinds, rows } = report;
  const of_kinds = Object.entries(kinds).filter(([, count]) => count > 0);
  const lines = [
    `open       ${open} (${of_kinds.map(([kind, count]) => `${count} ${kind}`).join(", ")})`,
    `held       ${held} by the reactor; ${direct} connections are io_uring's and take none`,
    `strangers  ${strangers}; ${deleted} files without a name`,
    `leaked     ${leaked}`,
    `missing    ${missing}`,
    `read in    ${(report.total_us / 1000).toFixed(1)} ms`,
  ];
  for (const { fd, role, kind, target } of rows) {
    if (all || role !== "stranger") lines.push(`${role}\t${fd}\t${kind}\t${plain(target)}`);
  }
  return `${lines.join("\n")}\n`;
}

/** Answers the exit status. */
export async function run_fds(args: readonly string[]): Promise<number> {
  return await with_usage(args, fds_help, async () => {
    const { url, all, json, ...options } = parse_fds(args);
    const token = await token_from(options.token);
    try {
      const report = await ask(`${url}/v1/fds`, token) as DescriptorReport;
      print(json ? `${JSON.stringify(report)}\n` : fds_text(report, all));
      return report.leaked + report.missing === 0 ? status.done : status.failed;
    } catch (error) {
      const why = plain(error instanceof Error ? error.message : String(error));
      say(`Cannot ask ${url}: ${why}`);
      return status.failed;
    }
  });
}
