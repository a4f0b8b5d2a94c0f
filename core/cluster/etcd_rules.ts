/**
 * Rules in etcd: followed by every node, and written by `longwire rules`. Beside each document lies
 * a copy of the last good one, for a node that starts while the newest cannot be used. Invariant: a
 * node that cannot reach etcd, or is given what it cannot use, goes on with what was in force.
 */
import type { Etcd3, Watcher } from "etcd3";
import type { Log } from "../log.ts";
import { document_names, type DocumentName, is_document_name, type Rules } from "./rules.ts";

const prefix = "longwire/rules/";
const copy_prefix = "longwire/rules_in_force/";

/** What a watch has missed is found after this long at most. */
const look_again_ms = 5000;

/** A document as it lies in etcd. */
export interface StoredDocument {
  readonly revision: number;
  readonly text: string;
}

export class RulesWatch {
  #watcher: Watcher | undefined;
  readonly #timer: ReturnType<typeof setInterval>;
  #looking = false;

  private constructor(readonly etcd: Etcd3, readonly rules: Rules, readonly log: Log) {
    this.#timer = setInterval(() => {
      if (this.#looking) return;
      this.#looking = true;
      this.#look().catch(() => {}).finally(() => this.#looking = false);
    }, look_again_ms);
  }

  /** Answers when what is in etcd has been read; throws where that cannot be. */
  static async open(etcd: Etcd3, rules: Rules, log: Log): Promise<RulesWatch> {
    const watch = new RulesWatch(etcd, rules, log);
    const copies = await etcd.getAll().prefix(copy_prefix).exec();
    const current = new Set((await watch.#found()).documents.keys());
    for (const { key, value } of copies.kvs) {
      const name = key.toString().slice(copy_prefix.length);
      if (!is_document_name(name) || !current.has(name)) continue;
      const { revision, text }: StoredDocument = JSON.parse(value.toString());
      rules.take(name, revision, text);
    }
    const revision = await watch.#look();
    const watcher = await etcd.watch().prefix(prefix).startRevision(String(revision + 1)).create();
    watch.#watcher = watcher;
    watcher.on("put", ({ key, value, mod_revision }) => {
      watch.#hear(key.toString().slice(prefix.length), Number(mod_revision), value.toString());
    });
    watcher.on("delete", ({ key, mod_revision }) => {
      watch.#hear(key.toString().slice(prefix.length), Number(mod_revision), undefined);
    });
    // What came while it was not connected may not come again.
    watcher.on("connected", () => void watch.#look().catch(() => {}));
    watcher.on("error", (error) => log.error("etcd watch of rules failed", { error: `${error}` }));
    return watch;
  }

  close(): void {
    clearInterval(this.#timer);
    this.#watcher?.cancel().catch(() => {});
  }

  /** Reads everything; answers the revision of etcd that it was read at. */
  async #look(): Promise<number> {
    const { documents, revision } = await this.#found();
    for (const name of document_names) {
      const document = documents.get(name);
      if (document !== undefined) this.#hear(name, document.revision, document.text);
      else if (this.rules.get(name).revision > 0) this.#hear(name, revision, undefined);
    }
    return revision;
  }

  async #found(): Promise<{ documents: Map<string, StoredDocument>; revision: number }> {
    const found = await this.etcd.getAll().prefix(prefix).exec();
    const documents = new Map<string, StoredDocument>();
    for (const { key, value, mod_revision } of found.kvs) {
      const document = { revision: Number(mod_revision), text: value.toString() };
      documents.set(key.toString().slice(prefix.length), document);
    }
    return { documents, revision: Number(found.header.revision) };
  }

  #hear(name: string, revision: number, text: string | undefined): void {
    const { rules, log } = this;
    if (!is_document_name(name)) return log.warn("there are no such rules", { document: name });
    const before = rules.get(name).revision;
    const problem = rules.take(name, revision, text);
    if (problem !== "") {
      log.error("rules cannot be used", { document: name, revision, problem, in_force: before });
    } else if (rules.get(name).revision !== before) {
      log.info("rules are in force", { document: name, revision, from: before });
      this.#keep(name, revision, text).catch((error) => {
        log.warn("cannot keep a copy of rules", { document: name, error: String(error) });
      });
    }
  }

  async #keep(name: DocumentName, revision: number, text: string | undefined): Promise<void> {
    const key = copy_prefix + name;
    if (text === undefined) await this.etcd.delete().key(key).exec();
    else await this.etcd.put(key).value(JSON.stringify({ revision, text })).exec();
  }
}

/** What lies in etcd; undefined = nothing does. */
export async function read_document(
  etcd: Etcd3,
  name: DocumentName,
): Promise<StoredDocument | undefined> {
  const { kvs: [found] } = await etcd.get(prefix + name).exec();
  if (found === undefined) return undefined;
  return { revision: Number(found.mod_revision), text: found.value.toString() };
}

/**
 * Writes a document that is known to be good; answers its revision, 0 = it was changed meanwhile.
 * @param text undefined = takes it away
 * @param expected revision that is replaced; -1 = whichever is there, 0 = none
 */
export async function write_document(
  etcd: Etcd3,
  name: DocumentName,
  text: string | undefined,
  expected: number,
): Promise<number> {
  const key = prefix + name;
  const change = text === undefined ? etcd.delete().key(key) : etcd.put(key).value(text);
  if (expected < 0) return Number((await change.exec()).header.revision);
  const { succeeded, header } = await etcd.if(key, "Mod", "==", expected).then(change).commit();
  return succeeded ? Number(header.revision) : 0;
}
