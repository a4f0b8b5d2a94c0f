/** `longwire rules`: reads, checks and sets the rules of a cluster, so that nobody edits etcd. */
import { take_apart, UsageError } from "../client/options.ts";
import { plain, print, say, status, with_usage } from "../client/terminal.ts";
import { place_list } from "../setting_forms.ts";
import { etcd_client } from "./etcd.ts";
import { read_document, write_document } from "./etcd_rules.ts";
import {
  document_names,
  type DocumentName,
  documents_default,
  is_document_name,
  parse_document,
} from "./rules.ts";

export const rules_help = `Read, check and set the rules of a cluster; every node follows at once

Usage: longwire rules get [name] [--etcd host:port,...]
       longwire rules set <name> <file> [--etcd host:port,...] [--revision number]
       longwire rules unset <name> [--etcd host:port,...] [--revision number]
       longwire rules check <name> <file>

  name                   ${document_names.join(", ")}
  file                   JSON; - = what comes on stdin; README.md has an example of each
  --etcd places          members of etcd (default: LONGWIRE_ETCD)
  --revision number      only if this is what is there; 0 = if nothing is (get says it on stderr)

get prints the document, or the defaults where there is none. set refuses what check refuses. The
exit status is 0 when it was done, 1 when not, 2 for wrong arguments or a document with a problem.
`;

function name_of(text: string | undefined): DocumentName {
  if (text !== undefined && is_document_name(text)) return text;
  throw new UsageError(`Cannot use rules "${text ?? ""}": there are ${document_names.join(", ")}`);
}

/** The text of a document that can be used. Throws UsageError. */
async function document_of(name: DocumentName, file: string | undefined): Promise<string> {
  if (file === undefined) throw new UsageError(`Cannot read rules ${name}: a file is missing`);
  let text: string;
  try {
    text = file === "-"
      ? await new Response(Deno.stdin.readable).text()
      : await Deno.readTextFile(file);
  } catch (error) {
    throw new UsageError(`Cannot read rules ${name}: ${plain((error as Error).message)}`);
  }
  const parsed = parse_document(name, text);
  if ("problem" in parsed) throw new UsageError(`Cannot use ${file}: ${parsed.problem}`);
  return text;
}

function places_of(text: string): readonly string[] {
  const parsed = place_list.parse(text);
  if ("problem" in parsed) throw new UsageError(`Cannot use --etcd: ${parsed.problem}`);
  if (parsed.value.length > 0) return parsed.value;
  throw new UsageError("Cannot reach etcd: --etcd is missing");
}

function revision_of(text: string | undefined): number {
  if (text === undefined) return -1;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new UsageError(`Cannot use --revision "${text}": it must be a whole number`);
}

type Client = ReturnType<typeof etcd_client>;

async function get(etcd: Client, word: string | undefined): Promise<number> {
  const names = word === undefined ? document_names : [name_of(word)];
  for (const name of names) {
    const found = await read_document(etcd, name);
    say(found === undefined ? `${name}: the defaults` : `${name}: revision ${found.revision}`);
    const text = found?.text ?? JSON.stringify(documents_default[name], null, 2);
    print(text.endsWith("\n") ? text : `${text}\n`);
  }
  return status.done;
}

async function change(
  etcd: Client,
  name: DocumentName,
  text: string | undefined,
  expected: number,
): Promise<number> {
  const revision = await write_document(etcd, name, text, expected);
  if (revision === 0) {
    say(`Cannot change rules ${name}: revision ${expected} is not what is there`);
    return status.failed;
  }
  say(`${name}: ${text === undefined ? "the defaults, since" : "revision"} ${revision}`);
  return status.done;
}

/** @param etcd_default of LONGWIRE_ETCD; answers the exit status */
export async function run_rules(args: readonly string[], etcd_default: string): Promise<number> {
  return await with_usage(args, rules_help, async () => {
    const { words: [what, word, file], values } = take_apart(args, ["etcd", "revision"], []);
    if (what === "check") {
      await document_of(name_of(word), file);
      return status.done;
    }
    if (what !== "get" && what !== "set" && what !== "unset") {
      throw new UsageError("Cannot do that with rules: there are get, set, unset and check");
    }
    const name = what === "get" && word === undefined ? undefined : name_of(word);
    const text = what === "set" ? await document_of(name!, file) : undefined;
    const expected = revision_of(values.get("revision"));
    const etcd = etcd_client(places_of(values.get("etcd") ?? etcd_default));
    try {
      if (what === "get") return await get(etcd, name);
      return await change(etcd, name!, text, expected);
    } catch (error) {
      say(`Cannot reach etcd: ${plain((error as Error).message)}`);
      return status.failed;
    } finally {
      etcd.close();
    }
  });
}
