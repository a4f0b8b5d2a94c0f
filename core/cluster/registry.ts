/**
 * The registrar's half of ownership: which node owns each of the ids that are this node's to name.
 * Invariant: in a view nobody is granted anything before every member has said what it holds, and
 * what was granted in an earlier view counts only if its owner has said so since. So an id never
 * has two owners, as long as a node that is no member any more acts as none: it fences itself
 * before its lease ends (membership.ts).
 */
import { type Slices, system_slices } from "./clock.ts";
import { no_view, Rendezvous, type View, ViewChange } from "./mod.ts";

/** What a registrar answers to a claim. */
export type Granted =
  | { readonly kind: "granted"; readonly grant: number }
  /** The owner's device is connected, and was not to be taken over. */
  | { readonly kind: "in_use" }
  /** Ask again: in another view, or when the owner has answered. */
  | { readonly kind: "again" };

/** What an owner holds, and by which grant, of this registrar or of one before it. */
export type Announced = readonly [id: string, grant: number];

/** Who says something, and which view it is in. */
export interface Speaker {
  readonly view: number;
  readonly node_id: string;
  readonly run: string;
}

interface Owner {
  readonly node_id: string;
  /** Of this registrar. */
  readonly grant: number;
  /** By which the owner has it. */
  readonly held_by: number;
  /** Number of the view in which this is known to be so. */
  view: number;
}

/** What a registrar asks an owner. */
export interface HandOver {
  readonly view: number;
  readonly id: string;
  /** Grants up to this one are void. */
  readonly grant: number;
  readonly takes_over: boolean;
}

/** "done": it does not own the session any more. Throws where it cannot be reached. */
export type AskOwner = (node_id: string, request: HandOver) => Promise<"done" | "in_use" | "again">;

export class Registry {
  #view: View = no_view;
  #rendezvous = new Rendezvous([]);
  /** Some are of earlier views: `#owner_of` says which of them still count. */
  readonly #owners = new Map<string, Owner>();
  /** Changes of the view that not all owners were looked at for. */
  #changes: ViewChange[] = [];
  #sweeping = false;
  /** Members that have said what they hold, in this view. */
  readonly #announced = new Set<string>();
  #complete = Promise.withResolvers<void>();
  /** Claims of an id are looked at one after the other. */
  readonly #turns = new Map<string, Promise<Granted>>();
  #grant: number;

  /** @param first_grant greater than any that an earlier run of this node has used */
  constructor(
    readonly node_id: string,
    readonly ask_owner: AskOwner,
    first_grant: number,
    readonly slices: Slices = system_slices,
  ) {
    this.#grant = first_grant;
  }

  get size(): number {
    return this.#owners.size;
  }

  set_view(view: View): void {
    const before = this.#view;
    this.#view = view;
    this.#rendezvous = new Rendezvous(view.members.keys());
    this.#changes.push(new ViewChange(before, view));
    if (!this.#sweeping) void this.#sweep();
    this.#announced.clear();
    this.#complete.resolve(); // whoever waited sees that it is another view
    this.#complete = Promise.withResolvers<void>();
  }

  /**
   * A member says what it holds of what this node names owners of. `is_last`: that was all, and
   * what comes later is a call that was given up and made again, and is out of date by now.
   */
  announce(speaker: Speaker, held: readonly Announced[], is_last: boolean): boolean {
    if (!this.#is_heard(speaker)) return false;
    const { node_id } = speaker;
    if (this.#announced.has(node_id)) return true;
    for (const [id, held_by] of held) {
      this.#grant = Math.max(this.#grant, held_by); // no later one has that number
      this.#set_owner(id, node_id, ++this.#grant, held_by);
    }
    if (is_last) this.#announced.add(node_id);
    if (this.#is_complete) this.#complete.resolve();
    return true;
  }

  claim(speaker: Speaker, id: string, takes_over: boolean): Promise<Granted> {
    const before = this.#turns.get(id);
    const turn = (before ?? Promise.resolve()).then(() => this.#claim(speaker, id, takes_over));
    this.#turns.set(id, turn);
    return turn.finally(() => {
      if (this.#turns.get(id) === turn) this.#turns.delete(id);
    });
  }

  /** Answers when all members have said what they hold, or there is another view. */
  complete(): Promise<void> {
    return this.#is_complete ? Promise.resolve() : this.#complete.promise;
  }

  /** Whether an id is this node's to give, in this view, and nobody has it. */
  is_free(view: number, id: string): boolean {
    return view === this.#view.number && this.#is_complete && this.#owner_of(id) === undefined &&
      this.#rendezvous.registrar_of(id) === this.node_id;
  }

  get #is_complete(): boolean {
    return this.#announced.size === this.#view.members.size;
  }

  /**
   * The owner has no such session any more; a later grant of the same node is not meant, nor one of
   * another registrar that has the same number.
   */
  release(speaker: Speaker, id: string, grant: number): void {
    if (!this.#is_heard(speaker)) return;
    const { node_id } = speaker;
    const owner = this.#owner_of(id);
    if (owner?.node_id === node_id && owner.held_by === grant) this.#owners.delete(id);
  }

  #set_owner(id: string, node_id: string, grant: number, held_by: number): void {
    this.#owners.set(id, { node_id, grant, held_by, view: this.#view.number });
  }

  #owner_of(id: string): Owner | undefined {
    const owner = this.#owners.get(id);
    return owner !== undefined && this.#is_valid(id, owner) ? owner : undefined;
  }

  /** Whether it was this node's to name the owner, and the owner was there, ever since. */
  #is_valid(id: string, owner: Owner): boolean {
    for (const change of this.#changes) {
      if (change.number <= owner.view) continue;
      if (change.lost.has(owner.node_id) || change.moves(id, this.node_id)) return false;
    }
    owner.view = this.#view.number;
    return true;
  }

  /** Forgets owners that do not count any more. A change that comes meanwhile has the next pass. */
  async #sweep(): Promise<void> {
    this.#sweeping = true;
    while (this.#changes.length > 0) {
      const { number } = this.#view;
      let left = this.slices.ids;
      for (const [id, owner] of this.#owners) {
        if (!this.#is_valid(id, owner)) this.#owners.delete(id);
        if (--left > 0) continue;
        await this.slices.rest();
        left = this.slices.ids;
      }
      this.#changes = this.#changes.filter((change) => change.number > number);
    }
    this.#sweeping = false;
  }

  /** Of the same view, and a member in it: another process of that name is not meant. */
  #is_heard({ view, node_id, run }: Speaker): boolean {
    return view === this.#view.number && this.#view.members.get(node_id)?.run === run;
  }

  async #claim(speaker: Speaker, id: string, takes_over: boolean): Promise<Granted> {
    if (!this.#is_heard(speaker)) return { kind: "again" };
    if (!this.#is_complete) {
      // Others give their call up in time; this node itself would wait for as long as it takes.
      if (speaker.node_id === this.node_id) return { kind: "again" };
      await this.#complete.promise;
    }
    if (!this.#is_heard(speaker)) return { kind: "again" };
    const { view, node_id } = speaker;
    const owner = this.#owner_of(id);
    if (owner !== undefined && owner.node_id !== node_id) {
      let answer: "done" | "in_use" | "again";
      try {
        const request = { view, id, grant: owner.grant, takes_over };
        answer = await this.ask_owner(owner.node_id, request);
      } catch {
        answer = "again"; // it may be gone: then the next view says so
      }
      if (answer === "in_use") return { kind: "in_use" };
      if (answer === "again" || view !== this.#view.number) return { kind: "again" };
    }
    const grant = ++this.#grant;
    this.#set_owner(id, node_id, grant, grant);
    return { kind: "granted", grant };
  }
}
