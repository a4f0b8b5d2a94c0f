/**
 * Sessions that nobody owns, of nodes that died: whoever names the owner of such an id owns it
 * itself, if something is due without its device, a will or the session's end. Invariant: what is
 * due happens at one node, its owner, and not at all when the device has come back before.
 */
import type { Log } from "../log.ts";
import { type Clock, sleep } from "./clock.ts";
import type { Ownership, View } from "./mod.ts";

/** What is known of sessions in the store. */
export interface Rows {
  /** Ids of those for which something is due, by `before_ms` (Unix), unless their device comes. */
  due(before_ms: number): AsyncIterable<string>;
  /** Whether this node has it in memory. */
  get(id: string): unknown;
}

/** The registrar's half of ownership, as far as it is needed here. */
export interface Names {
  /** Answers when all members have said what they own, or there is another view. */
  complete(): Promise<void>;
  /** Whether an id is this node's to give, in this view, and nobody has it. */
  is_free(view: number, id: string): boolean;
}

/** What is due later than this is looked for again, in half the time. */
const horizon_ms = 3_600_000;
const claims_at_once = 64;
const retry_ms = 1000;

export class Orphans {
  /** Sessions taken over so far. */
  adopted = 0;
  #view: View | undefined;
  #wanted = false;
  #running = false;
  #closed = false;
  #cancel = () => {};

  constructor(
    readonly rows: Rows,
    readonly names: Names,
    readonly ownership: Ownership,
    readonly clock: Clock,
    readonly log: Log,
  ) {}

  set_view(view: View): void {
    const before = this.#view;
    this.#view = view;
    const is_gone = before === undefined || [...before.members.values()].some((member) => {
      return view.members.get(member.node_id)?.run !== member.run;
    });
    if (is_gone) this.#look();
  }

  close(): void {
    this.#closed = true;
    this.#cancel();
  }

  #look(): void {
    this.#cancel();
    this.#cancel = this.clock.after(horizon_ms / 2, () => this.#look());
    this.#wanted = true;
    if (!this.#running) void this.#run();
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#wanted && !this.#closed) {
      this.#wanted = false;
      try {
        await this.names.complete();
        await this.#adopt_all(this.#view!.number);
      } catch (error) {
        this.log.warn("cannot look for sessions of dead nodes", { error: String(error) });
        this.#wanted = true;
        await sleep(this.clock, retry_ms);
      }
    }
    this.#running = false;
  }

  async #adopt_all(view: number): Promise<void> {
    let claims: Promise<void>[] = [];
    for await (const id of this.rows.due(Date.now() + horizon_ms)) {
      if (this.#closed) return;
      if (view !== this.#view!.number) { // others name it, perhaps: from the beginning
        this.#wanted = true;
        break;
      }
      if (!this.names.is_free(view, id)) continue;
      claims.push(this.#adopt(id));
      if (claims.length < claims_at_once) continue;
      await Promise.all(claims);
      claims = [];
    }
    await Promise.all(claims);
  }

  async #adopt(id: string): Promise<void> {
    try {
      await this.ownership.claim(id, false);
    } catch {
      return; // its device has come
    }
    // It may have ended, by the hand of an owner that let it go since.
    if (this.rows.get(id) === undefined) this.ownership.release(id);
    else this.adopted++;
  }
}
