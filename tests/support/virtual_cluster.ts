/**
 * Nodes in a virtual world: the real Membership, Registry and Holdings, on a directory and a wire
 * that are simulated. The directory keeps what etcd promises: linearizable, leases that end no
 * earlier than their time, changes in order and each once.
 */
import { sleep } from "../../core/cluster/clock.ts";
import { Holdings, type Registrars } from "../../core/cluster/holdings.ts";
import {
  type Changes,
  type Directory,
  type Lease,
  Membership,
  type Stored,
} from "../../core/cluster/membership.ts";
import type { Member, SessionHolder, View } from "../../core/cluster/mod.ts";
import { session_handlers } from "../../core/cluster/ownership.ts";
import { type HandOver, Registry } from "../../core/cluster/registry.ts";
import type { Log } from "../../core/log.ts";
import { Host, type World } from "./virtual_world.ts";

const call_timeout_ms = 500;
/** How long a node has to do between two slices. */
const slice_ms_max = 150;

interface Record extends Stored {
  readonly lease: string;
}

interface Change {
  readonly revision: number;
  readonly stored: Stored | undefined;
  readonly node_id: string;
}

/** A node that is told of changes. */
interface Follower {
  readonly node: Host;
  readonly changes: Changes;
  /** Index of the change that it is told of next. */
  next: number;
  is_told: boolean;
}

/** etcd, as far as members need it. */
export class SimDirectory {
  readonly host: Host;
  readonly records = new Map<string, Record>();
  readonly #leases = new Map<string, number>();
  readonly #changes: Change[] = [];
  readonly #followers = new Set<Follower>();
  #revision = 1;
  #leases_made = 0;

  constructor(readonly world: World) {
    this.host = new Host(world, "etcd");
  }

  /** What a node sees of it. */
  client_of(node: Host): Directory {
    const call = <T>(run: () => T) => this.world.call(node, this.host, call_timeout_ms, run);
    return {
      grant: (ttl_s) => call(() => this.#grant(ttl_s)).then((id) => this.#lease(node, id, ttl_s)),
      put: (node_id, value, { id }, create_revision) => {
        return call(() => this.#put(node_id, value, id, create_revision));
      },
      remove: (node_id, create_revision) =>
        call(() => {
          if (this.records.get(node_id)?.create_revision === create_revision) this.#delete(node_id);
        }),
      left_s: (lease_id) =>
        call(() => {
          const left_ms = (this.#leases.get(lease_id) ?? -Infinity) - this.world.now_ms;
          return Math.max(0, Math.floor(left_ms / 1000));
        }),
      read: () => call(() => ({ revision: this.#revision, records: [...this.records.values()] })),
      follow: (revision, changes) => {
        const found = this.#changes.findIndex((change) => change.revision > revision);
        const next = found < 0 ? this.#changes.length : found;
        const follower = { node, changes, next, is_told: false };
        this.#followers.add(follower);
        this.#tell(follower);
        return Promise.resolve();
      },
    };
  }

  #lease(node: Host, id: string, ttl_s: number): Lease {
    const call = <T>(run: () => T) => this.world.call(node, this.host, call_timeout_ms, run);
    return {
      id,
      renew: () =>
        call(() => {
          if (!this.#leases.has(id)) return false;
          this.#leases.set(id, this.world.now_ms + ttl_s * 1000);
          return true;
        }),
      revoke: () => call(() => this.#end(id)),
    };
  }

  #grant(ttl_s: number): string {
    const id = String(++this.#leases_made);
    this.#leases.set(id, this.world.now_ms + ttl_s * 1000);
    this.#expire_later(id);
    return id;
  }

  #expire_later(id: string): void {
    const { world } = this;
    const ends_ms = this.#leases.get(id)!;
    const slack_ms = world.chance(0.5) ? 0 : world.between(0, 500);
    world.after(ends_ms - world.now_ms + slack_ms, this.host, () => {
      const now_ends_ms = this.#leases.get(id);
      if (now_ends_ms === undefined) return;
      if (now_ends_ms <= world.now_ms) this.#end(id);
      else this.#expire_later(id);
    });
  }

  #end(id: string): void {
    if (!this.#leases.delete(id)) return;
    for (const { node_id, lease } of [...this.records.values()]) {
      if (lease === id) this.#delete(node_id);
    }
  }

  #put(node_id: string, value: string, lease: string, create_revision: number): boolean {
    if (!this.#leases.has(lease)) throw new Error("there is no such lease");
    if ((this.records.get(node_id)?.create_revision ?? 0) !== create_revision) return false;
    const revision = ++this.#revision;
    const created = create_revision === 0 ? revision : create_revision;
    const stored = { node_id, value, create_revision: created, lease };
    this.records.set(node_id, stored);
    this.#add({ revision, stored, node_id });
    return true;
  }

  #delete(node_id: string): void {
    this.records.delete(node_id);
    this.#add({ revision: ++this.#revision, stored: undefined, node_id });
  }

  /** Tells a node of one change after the other, when it can be reached. */
  #tell(follower: Follower): void {
    const { world } = this;
    const { node, changes } = follower;
    const next = this.#changes[follower.next];
    if (next === undefined || follower.is_told) return;
    follower.is_told = true;
    const is_cut = this.host.cut_from.has(node);
    const slow_ms = world.fails(0.1) ? world.between(10, 1500) : world.between(0.1, 5);
    world.after(is_cut ? 50 : slow_ms, node, () => {
      follower.is_told = false;
      if (this.host.cut_from.has(node)) return this.#tell(follower);
      const { stored, node_id, revision } = next;
      if (stored === undefined) changes.deleted(node_id, revision);
      else changes.put(stored, revision);
      follower.next++;
      this.#tell(follower);
    });
  }

  #add(change: Change): void {
    this.#changes.push(change);
    for (const follower of this.#followers) {
      if (follower.node.dead) this.#followers.delete(follower);
      else this.#tell(follower);
    }
  }
}

const quiet = { warn() {}, error() {} } as unknown as Log;

/** One run of a node. */
export class SimNode {
  readonly host: Host;
  readonly membership: Membership;
  readonly registry: Registry;
  readonly holdings: Holdings;
  readonly handlers: ReturnType<typeof session_handlers>;

  constructor(
    readonly cluster: SimCluster,
    readonly node_id: string,
    holder_of: (node: SimNode) => SessionHolder,
  ) {
    const { world, directory } = cluster;
    // A clock that is 2 % off: ten times what hardware does.
    this.host = new Host(world, node_id, world.between(0.98, 1.02));
    const self = (): Omit<Member, "run"> => ({
      ...{ node_id, version: "", zone: "", peer: "", mqtt: "", device: "" },
      ...{ connections: 0, sessions: 0, draining: false },
      ...{ load_percent: 0, degradation: "normal", breaker: "" },
    });
    const events = {
      on_view: (view: View) => {
        this.registry.set_view(view);
        this.holdings.set_view(view);
      },
      on_fenced: () => this.holdings.fence(),
    };
    const { clock } = this.host;
    const client = directory.client_of(this.host);
    this.membership = new Membership(client, self, events, quiet, clock);
    const ask = (node_id: string, request: HandOver) => {
      return this.#call(node_id, 3000, (node) => node.handlers.HandOver(request))
        .then(({ answer }) => answer);
    };
    // Views change between the slices, of a single id.
    const rest = () => sleep(clock, world.between(0, slice_ms_max));
    const slices = { ids: world.chance(0.8) ? 1 : 1000, rest };
    this.registry = new Registry(node_id, ask, world.now_ms * 1000, slices);
    const holder = holder_of(this);
    this.holdings = new Holdings(this.#registrars(), holder, this.membership, clock, slices);
    this.handlers = session_handlers(this.membership, () => this.registry, () => this.holdings);
    this.#join();
  }

  #join(): void {
    this.membership.join().catch(() => this.host.clock.after(100, () => this.#join()));
  }

  #registrars(): Registrars {
    const speaker = (view: number) => ({
      view,
      node_id: this.node_id,
      run: this.membership.run,
    });
    return {
      claim: async (node_id, view, claims) => {
        const request = { ...speaker(view), claims };
        return (await this.#call(node_id, 3000, (node) => node.handlers.Claim(request))).granted;
      },
      announce: async (node_id, view, held, last) => {
        const request = { ...speaker(view), held, last };
        return (await this.#call(node_id, 1000, (node) => node.handlers.Announce(request))).taken;
      },
      release: async (node_id, view, released) => {
        const request = { ...speaker(view), released };
        await this.#call(node_id, 3000, (node) => node.handlers.Release(request));
      },
    };
  }

  async #call<T>(
    node_id: string,
    timeout_ms: number,
    run: (node: SimNode) => T | Promise<T>,
  ): Promise<T> {
    if (node_id === this.node_id) return await run(this);
    const node = this.cluster.nodes.get(node_id);
    const is_member = this.membership.view.members.has(node_id);
    if (node === undefined || !is_member) throw new Error(`There is no node ${node_id}`);
    return await this.cluster.world.call(this.host, node.host, timeout_ms, () => run(node));
  }
}

export class SimCluster {
  readonly directory: SimDirectory;
  readonly nodes = new Map<string, SimNode>();

  constructor(readonly world: World, readonly holder_of: (node: SimNode) => SessionHolder) {
    this.directory = new SimDirectory(world);
  }

  /** Starts a node's next run: it reaches all. */
  start(node_id: string): SimNode {
    const node = new SimNode(this, node_id, this.holder_of);
    this.nodes.set(node_id, node);
    return node;
  }

  /** Ends a node's process; the others that can reach it know soon. */
  kill(node_id: string): void {
    const node = this.nodes.get(node_id);
    if (node === undefined || node.host.dead) return;
    node.host.dead = true;
    for (const other of this.nodes.values()) {
      if (other === node || other.host.cut_from.has(node.host)) continue;
      const member = other.membership.view.members.get(node_id);
      if (member === undefined) continue;
      this.world.after(this.world.between(5, 100), other.host, () => {
        other.membership.remove(member).catch(() => {});
      });
    }
  }
}
