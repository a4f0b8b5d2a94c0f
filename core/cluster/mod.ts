/**
 * What nodes of a cluster know of each other. A view is who is a member, with a number that grows:
 * two nodes that have the same number have the same members. A session has one owner, named by the
 * registrar of its id in the view; a node alone owns every session and needs none of this.
 */

/** What a node says of itself. */
export interface Member {
  readonly node_id: string;
  /** One run of the node: another one is another member. */
  readonly run: string;
  readonly version: string;
  /** "" = it is not said. */
  readonly zone: string;
  /** host:port of gRPC. */
  readonly peer: string;
  /** host:port that devices may be sent to. */
  readonly mqtt: string;
  readonly device: string;
  readonly connections: number;
  readonly sessions: number;
  /** It takes no devices any more. */
  readonly draining: boolean;
  /** How much it has to do; 100 = it is about to hold publishers back. */
  readonly load_percent: number;
  /** How far it holds back, one of step_names (degradation.ts). */
  readonly degradation: string;
  /** State of its breaker; "" = it has none. */
  readonly breaker: string;
}

export interface View {
  /** 0 = nothing is known yet. */
  readonly number: number;
  readonly members: ReadonlyMap<string, Member>;
}

export const no_view: View = { number: 0, members: new Map() };

/** Who owns sessions, asked by whoever lets devices in. */
export interface Ownership {
  /** Whether this node owns the session now: from one moment to the next it may not. */
  holds(id: string): boolean;
  /**
   * Makes this node the owner; whichever had it has written it down and forgotten it.
   * @param takes_over also from a device that is connected
   * @param is_wanted whether who claims it still waits; absent = yes
   * @throws Refusal: session_in_use, server_busy
   */
  claim(id: string, takes_over: boolean, is_wanted?: () => boolean): Promise<void>;
  /** The session has ended. */
  release(id: string): void;
  /**
   * Whether this node may write the session's row: it owns it, or hands it over just now. Another
   * node's row would be written over otherwise.
   */
  may_write(id: string): boolean;
  /** Fences this node if it has lost its right to act: asked before anything is done in a turn. */
  check(): void;
}

/** What a node does for those who own its sessions after it. */
export interface SessionHolder {
  /**
   * Reads what the owner before this one left. `is_current`: whether this node is still the owner
   * by the grant for which it reads; what it has read otherwise is out of date.
   */
  adopt(id: string, is_current: () => boolean): Promise<void>;
  /**
   * Ends the session's connection, writes it down and forgets it; false = it is connected, and was
   * not to be taken over.
   */
  hand_over(id: string, takes_over: boolean): Promise<boolean>;
  /** Others may own the sessions of this node by now: ends all connections, writes nothing. */
  fence(): void;
}

/** FNV-1a over UTF-16 units. */
export function hash_of(text: string): number {
  let value = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    value = Math.imul(value ^ text.charCodeAt(index), 0x01000193);
  }
  return value >>> 0;
}

/** The finalizer of MurmurHash3, as int32 that compare as the unsigned results do. */
function weight_of(id_hash: number, seed: number): number {
  let value = id_hash ^ seed;
  value = Math.imul(value ^ value >>> 16, 0x85ebca6b);
  value = Math.imul(value ^ value >>> 13, 0xc2b2ae35);
  return (value ^ value >>> 16) ^ 0x80000000;
}

function seed_of(node_id: string): number {
  return Math.imul(hash_of(node_id), 0x9e3779b1);
}

/**
 * Names the registrar of an id by rendezvous hashing: when a node comes or goes, only the ids that
 * are its own move. All nodes must compute the same, also those of another version.
 */
export class Rendezvous {
  readonly #names: readonly string[];
  readonly #seeds: Int32Array;

  constructor(node_ids: Iterable<string>) {
    this.#names = [...node_ids].sort();
    this.#seeds = Int32Array.from(this.#names, seed_of);
  }

  /** "" = there are no nodes. */
  registrar_of(id: string): string {
    const seeds = this.#seeds;
    if (seeds.length === 0) return "";
    const hash = hash_of(id);
    let best = 0;
    let best_weight = weight_of(hash, seeds[0]!);
    for (let index = 1; index < seeds.length; index++) {
      const weight = weight_of(hash, seeds[index]!);
      if (weight <= best_weight) continue;
      best = index;
      best_weight = weight;
    }
    return this.#names[best]!;
  }
}

/** What differs between a view and the one before it. */
export class ViewChange {
  readonly number: number;
  /** Members that have gone; also those of which there is another run. */
  readonly lost: ReadonlySet<string>;
  readonly #joined: readonly { readonly node_id: string; readonly seed: number }[];

  constructor(before: View, view: View) {
    this.number = view.number;
    const is_lost = ({ node_id, run }: Member) => view.members.get(node_id)?.run !== run;
    const lost = [...before.members.values()].filter(is_lost);
    this.lost = new Set(lost.map(({ node_id }) => node_id));
    this.#joined = [...view.members.keys()].filter((node_id) => !before.members.has(node_id))
      .map((node_id) => ({ node_id, seed: seed_of(node_id) }));
  }

  /** Whether an id whose registrar was this one has another one now, or another run of it. */
  moves(id: string, registrar: string): boolean {
    if (this.lost.has(registrar)) return true;
    if (this.#joined.length === 0) return false;
    if (registrar === "") return true;
    const hash = hash_of(id);
    const weight = weight_of(hash, seed_of(registrar));
    return this.#joined.some(({ node_id, seed }) => {
      const other = weight_of(hash, seed);
      return other > weight || other === weight && node_id < registrar;
    });
  }
}
