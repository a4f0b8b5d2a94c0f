/**
 * The owner's half of ownership: which sessions this node holds. Invariant: it takes a grant only
 * in the view in which it was given, and says in every view what it holds before it takes any.
 */
import { codes, Refusal } from "../codes.ts";
import type { Membership } from "./membership.ts";
import { no_view, type Ownership, Rendezvous, type SessionHolder } from "./mod.ts";
import { type View, ViewChange } from "./mod.ts";
import { type Clock, sleep, type Slices, system_slices } from "./clock.ts";
import type { Announced, Granted, HandOver } from "./registry.ts";

/** How this node speaks to registrars, itself among them. What cannot be reached throws. */
export interface Registrars {
  claim(
    node_id: string,
    view: number,
    claims: readonly (readonly [id: string, takes_over: boolean])[],
  ): Promise<readonly Granted[]>;
  /** False = it is in another view. */
  announce(
    node_id: string,
    view: number,
    held: readonly Announced[],
    last: boolean,
  ): Promise<boolean>;
  release(
    node_id: string,
    view: number,
    released: readonly (readonly [string, number])[],
  ): Promise<void>;
}

/** How long a device waits for its session, before it is told to come back later. */
export const claim_timeout_ms = 5000;
const retry_ms = 20;
const batch_ids = 1000;

interface Pending {
  readonly id: string;
  readonly takes_over: boolean;
  readonly done: PromiseWithResolvers<void>;
  readonly ends_ms: number;
  /** Whether those who claim it still wait. */
  readonly wanted: (() => boolean)[];
  /** Grants up to this one are void: another node has been granted the session since. */
  void_to: number;
  /** What was read of the session is older than what this node itself has written since. */
  is_stale: boolean;
}

function nobody_says(): Refusal {
  const why = "The cluster cannot say who owns the session";
  return new Refusal(codes.server_busy, why, 1000);
}

export class Holdings implements Ownership {
  #view: View = no_view;
  #rendezvous = new Rendezvous([]);
  /** By id, the grant. */
  readonly #held = new Map<string, number>();
  /** Of the last view in which all that is held was looked at, and what has changed since. */
  #looked_at = this.#rendezvous;
  #changes: ViewChange[] = [];
  readonly #pending = new Map<string, Pending>();
  /** Held, and not read yet: by whom that is done. */
  readonly #arriving = new Map<string, Pending>();
  /** Held, and being handed over. */
  readonly #leaving = new Set<string>();
  /** Claims that no call is under way for, by registrar. */
  readonly #queues = new Map<string, Pending[]>();
  readonly #asking = new Set<string>();
  /** Sessions whose registrar has changed, and does not know of them yet. */
  readonly #unannounced = new Set<string>();
  readonly #released = new Map<string, [id: string, grant: number][]>();

  constructor(
    readonly registrars: Registrars,
    readonly holder: SessionHolder,
    readonly membership: Pick<Membership, "may_act" | "check">,
    readonly clock: Clock,
    readonly slices: Slices = system_slices,
  ) {}

  get size(): number {
    return this.#held.size;
  }

  holds(id: string): boolean {
    return this.#held.has(id) && !this.#leaving.has(id) && !this.#arriving.has(id) &&
      this.membership.may_act();
  }

  may_write(id: string): boolean {
    return this.#held.has(id) && this.membership.may_act();
  }

  check(): void {
    this.membership.check();
  }

  claim(id: string, takes_over: boolean, is_wanted = () => true): Promise<void> {
    if (this.holds(id)) return Promise.resolve();
    const under_way = this.#pending.get(id) ?? this.#arriving.get(id);
    if (under_way !== undefined) {
      under_way.wanted.push(is_wanted);
      return under_way.done.promise;
    }
    const done = Promise.withResolvers<void>();
    const ends_ms = this.clock.now_ms() + claim_timeout_ms;
    const pending = {
      id,
      takes_over,
      done,
      ends_ms,
      wanted: [is_wanted],
      void_to: 0,
      is_stale: false,
    };
    this.#pending.set(id, pending);
    this.#enqueue(pending);
    return done.promise;
  }

  release(id: string): void {
    const grant = this.#held.get(id);
    if (grant === undefined) return;
    this.#drop(id);
    const registrar = this.#rendezvous.registrar_of(id);
    const released = this.#released.get(registrar);
    if (released !== undefined) return void released.push([id, grant]);
    this.#released.set(registrar, [[id, grant]]);
    this.clock.after(retry_ms, () => void this.#tell_released(registrar));
  }

  /** A new view: says what this node holds, to everyone, before it takes anything in it. */
  set_view(view: View): void {
    const before = this.#view;
    this.#view = view;
    this.#rendezvous = new Rendezvous(view.members.keys());
    this.#changes.push(new ViewChange(before, view));
    void this.#announce_all(view);
    for (const queue of this.#queues.values()) {
      for (const pending of queue.splice(0)) this.#enqueue(pending);
    }
    for (const pending of this.#pending.values()) pending.void_to = 0;
    this.#released.clear(); // whoever is asked to hand over what it has not says so
  }

  /** Forgets what it held: others may own it. */
  fence(): void {
    this.#held.clear();
    this.#arriving.clear();
    this.#unannounced.clear();
    this.holder.fence();
  }

  /** The registrar takes a session away, for another node. */
  async hand_over({ view, id, grant, takes_over }: HandOver): Promise<"done" | "in_use" | "again"> {
    if (view !== this.#view.number) return "again";
    const pending = this.#pending.get(id);
    if (pending !== undefined) pending.void_to = Math.max(pending.void_to, grant);
    const held = this.#held.get(id);
    if (held === undefined) return "done";
    if (this.#leaving.has(id)) return "again";
    this.#leaving.add(id);
    try {
      if (!await this.holder.hand_over(id, takes_over)) return "in_use";
      const arriving = this.#arriving.get(id);
      if (this.#held.get(id) === held) this.#drop(id);
      else if (arriving !== undefined) arriving.is_stale = true; // granted anew meanwhile
      return "done";
    } finally {
      this.#leaving.delete(id);
    }
  }

  #drop(id: string): void {
    this.#held.delete(id);
    this.#arriving.delete(id);
    this.#unannounced.delete(id);
  }

  #enqueue(pending: Pending): void {
    // A device that has gone may be at another node by now: it is not to be taken from there.
    if (!pending.wanted.some((is_wanted) => is_wanted())) {
      this.#pending.delete(pending.id);
      return pending.done.reject(new Refusal(codes.peer_closed));
    }
    if (this.clock.now_ms() > pending.ends_ms) {
      this.#pending.delete(pending.id);
      pending.done.reject(nobody_says());
      return;
    }
    const registrar = this.#rendezvous.registrar_of(pending.id);
    const queue = this.#queues.get(registrar);
    if (queue === undefined) this.#queues.set(registrar, [pending]);
    else queue.push(pending);
    if (this.#asking.has(registrar)) return;
    this.#asking.add(registrar);
    // What comes in the same turn goes with it.
    queueMicrotask(() => void this.#ask(registrar));
  }

  /** Asks a registrar for what waits, a batch at a time. */
  async #ask(registrar: string): Promise<void> {
    for (;;) {
      const queue = this.#queues.get(registrar);
      if (queue === undefined || queue.length === 0) break;
      const batch = queue.splice(0, batch_ids);
      const view = this.#view.number;
      let granted: readonly Granted[] = [];
      if (this.membership.may_act() && registrar !== "") {
        try {
          const claims = batch.map(({ id, takes_over }) => [id, takes_over] as const);
          granted = await this.registrars.claim(registrar, view, claims);
        } catch {
          // Nothing is granted: the registrar may be gone.
        }
      }
      const again = batch.filter((pending, index) => !this.#settle(pending, granted[index], view));
      if (again.length > 0) {
        await sleep(this.clock, retry_ms);
        for (const pending of again) this.#enqueue(pending);
      }
    }
    this.#queues.delete(registrar);
    this.#asking.delete(registrar);
  }

  /** False = it is to be asked for again. */
  #settle(pending: Pending, granted: Granted | undefined, view: number): boolean {
    if (granted === undefined || granted.kind === "again") return false;
    if (granted.kind === "in_use") {
      this.#pending.delete(pending.id);
      pending.done.reject(new Refusal(codes.session_in_use));
      return true;
    }
    if (
      view !== this.#view.number || granted.grant <= pending.void_to || !this.membership.may_act()
    ) {
      return false;
    }
    this.#pending.delete(pending.id);
    this.#held.set(pending.id, granted.grant);
    void this.#adopt(pending);
    return true;
  }

  /** Who waits goes on when the session is there as the owner before left it. */
  async #adopt(pending: Pending): Promise<void> {
    const { id, done, takes_over } = pending;
    // Grants do not tell: two registrars may have given the same number.
    const is_mine = () => this.#arriving.get(id) === pending;
    const is_current = () => is_mine() && !pending.is_stale && !this.#leaving.has(id);
    this.#arriving.set(id, pending);
    try {
      do {
        while (is_mine() && this.#leaving.has(id)) await sleep(this.clock, retry_ms);
        pending.is_stale = false;
        if (is_mine()) await this.holder.adopt(id, is_current);
      } while (is_mine() && !is_current());
    } catch (error) {
      if (is_mine()) this.release(id);
      return done.reject(error);
    }
    if (is_mine()) {
      this.#arriving.delete(id);
      return done.resolve();
    }
    await sleep(this.clock, retry_ms); // it was taken away meanwhile
    if (this.clock.now_ms() > pending.ends_ms) return done.reject(nobody_says());
    const is_wanted = () => pending.wanted.some((is_wanted) => is_wanted());
    this.claim(id, takes_over, is_wanted).then(done.resolve, done.reject);
  }

  /**
   * Looks at all that is held, then speaks to each member. Nothing is granted to this node in a
   * view before it has spoken, so what it looks at is all from earlier ones. A view that comes
   * meanwhile begins anew, with this one's change among those to be looked at.
   */
  async #announce_all(view: View): Promise<void> {
    const ids = new Map<string, string[]>();
    for (const node_id of view.members.keys()) ids.set(node_id, []);
    let left = this.slices.ids;
    for (const id of this.#held.keys()) {
      if (this.#unannounced.has(id) || this.#has_moved(id)) {
        this.#unannounced.add(id);
        ids.get(this.#rendezvous.registrar_of(id))?.push(id);
      }
      if (--left > 0) continue;
      await this.slices.rest();
      if (view.number !== this.#view.number) return;
      left = this.slices.ids;
    }
    this.#looked_at = this.#rendezvous;
    this.#changes = [];
    for (const [node_id, held] of ids) void this.#announce(node_id, held, view.number);
  }

  /** Whether a registrar that knew of it may not know of it any more. */
  #has_moved(id: string): boolean {
    const registrar = this.#looked_at.registrar_of(id);
    return this.#changes.some((change) => change.moves(id, registrar));
  }

  /** @param ids what a member is to name the owner of from now on */
  async #announce(node_id: string, ids: readonly string[], view: number): Promise<void> {
    const is_current = () => view === this.#view.number;
    while (is_current()) {
      try {
        if (await this.#send_held(node_id, ids, view)) return;
      } catch {
        // It may be gone, or does not know of the view yet.
      }
      await sleep(this.clock, retry_ms);
    }
  }

  /** False = the view is not theirs, or not this node's any more. */
  async #send_held(node_id: string, ids: readonly string[], view: number): Promise<boolean> {
    const { slices } = this;
    const size = Math.min(batch_ids, slices.ids);
    for (let at = 0; at === 0 || at < ids.length; at += size) {
      const part: Announced[] = [];
      for (const id of ids.slice(at, at + size)) {
        const grant = this.#held.get(id);
        if (grant !== undefined) part.push([id, grant]);
      }
      const is_last = at + size >= ids.length;
      if (!await this.registrars.announce(node_id, view, part, is_last)) return false;
      if (at % slices.ids + size >= slices.ids) await slices.rest();
      if (view !== this.#view.number) return false;
    }
    for (let at = 0; at < ids.length; at += slices.ids) {
      if (at > 0) await slices.rest();
      if (view !== this.#view.number) return false;
      for (const id of ids.slice(at, at + slices.ids)) this.#unannounced.delete(id);
    }
    return true;
  }

  async #tell_released(registrar: string): Promise<void> {
    const released = this.#released.get(registrar) ?? [];
    this.#released.delete(registrar);
    if (released.length === 0) return;
    try {
      await this.registrars.release(registrar, this.#view.number, released);
    } catch {
      // Then the registrar asks for it to be handed over, some day.
    }
  }
}
