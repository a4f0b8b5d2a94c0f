/**
 * Membership: each node keeps a record in a directory alive under a lease, and follows those of
 * all. Invariant: a node acts as a member only while its own clock says that its lease holds,
 * counted from when the renewal that succeeded was sent, and once it has seen itself among the
 * members; so when the directory has taken a member away, that member knows. Views are numbered by
 * the revision of the last record that came or went.
 */
import type { Log } from "../log.ts";
import { type Clock, sleep } from "./clock.ts";
import type { Member, View } from "./mod.ts";

/** One second more than a node may act: others need not wait until the directory ends a lease. */
const lease_ttl_s = 3;
/** How long a node may act after it asked for the renewal that succeeded, and not a moment more. */
export const act_s = 2;
/** The node fences itself this long before another may take its record away. */
const lease_margin_ms = 100;
const keepalive_ms = 350;
const register_retry_ms = 100;
/** How often, and for how long, a member is looked at that says nothing to this node. */
const suspect_ms = 50;
const suspect_max_ms = 3000;

export interface Lease {
  readonly id: string;
  /** False = it is over. Throws where nobody answers in time. */
  renew(): Promise<boolean>;
  revoke(): Promise<void>;
}

/** What a node says of itself, as it lies there. */
export interface Stored {
  readonly node_id: string;
  readonly value: string;
  /** Of the record: it is another one when it was gone in between. */
  readonly create_revision: number;
}

/** What happens to records, each change once and in the order of revisions. */
export interface Changes {
  put(stored: Stored, revision: number): void;
  deleted(node_id: string, revision: number): void;
  /** No more of them can be told. */
  lost(error: unknown): void;
}

/** Where the records lie: linearizable, and takes what hangs on a lease away when that is over. */
export interface Directory {
  grant(ttl_s: number): Promise<Lease>;
  /** Writes a record where that of `create_revision` is, 0 = where none is; false = it is not. */
  put(node_id: string, value: string, lease: Lease, create_revision: number): Promise<boolean>;
  /** Takes that record away, if it is still there. */
  remove(node_id: string, create_revision: number): Promise<void>;
  /**
   * Seconds that a lease has left at least, a whole number; 0 also when it is over. Throws where
   * nobody can say for certain that it was not renewed at another place.
   */
  left_s(lease_id: string): Promise<number>;
  read(): Promise<{ readonly revision: number; readonly records: readonly Stored[] }>;
  /** Tells of every change after a revision. */
  follow(revision: number, changes: Changes): Promise<void>;
}

export interface MembershipEvents {
  /** Every view, in order, also those without this node. */
  on_view(view: View): void;
  /** The lease is over: others may own what this node owned. */
  on_fenced(): void;
}

/** A record, read. */
interface Known {
  readonly member: Member;
  readonly create_revision: number;
}

export class Membership {
  /** How often this node had to fence itself. */
  fenced = 0;
  #known = new Map<string, Known>();
  #number = 0;
  #lease: Lease | undefined;
  /** Of the clock, until which the node may act; 0 = it is no member. */
  #valid_to_ms = 0;
  /** It has seen its own record. */
  #is_seen = false;
  /** Of the record that was written last: its lease. */
  #run = "";
  readonly #joined = Promise.withResolvers<void>();
  #registering = false;
  #following = Promise.resolve();
  #closed = false;
  #asking = false;
  #asked_ms = 0;
  #cancel_check = () => {};
  /** Runs of members that are being looked at. */
  readonly #suspects = new Set<string>();

  constructor(
    readonly directory: Directory,
    /** What this node says of itself now. */
    readonly self: () => Omit<Member, "run">,
    readonly events: MembershipEvents,
    readonly log: Log,
    readonly clock: Clock,
  ) {}

  /** Becomes a member: answers when this node has seen itself in a view. */
  async join(): Promise<void> {
    await this.#follow();
    await this.#register();
    await this.#joined.promise;
  }

  /** Whether this node is a member, by its own clock and by what it has seen. */
  may_act(): boolean {
    return this.#is_seen && this.clock.now_ms() < this.#valid_to_ms;
  }

  /** Fences this node if it has lost its right to act: before it does anything after a pause. */
  check(): void {
    if (this.#valid_to_ms > 0 && this.clock.now_ms() >= this.#valid_to_ms) {
      this.#fence("its lease is over");
    }
  }

  /** Names the record that this node wrote last. */
  get run(): string {
    return this.#run;
  }

  get view(): View {
    return {
      number: this.#number,
      members: new Map([...this.#known].map(([id, { member }]) => [id, member])),
    };
  }

  /** Takes a member away whose process is known to have ended. */
  async remove({ node_id, run }: Member): Promise<void> {
    const known = this.#known.get(node_id);
    if (known === undefined || known.member.run !== run || !this.may_act()) return;
    await this.directory.remove(node_id, known.create_revision);
  }

  /**
   * Takes a member away that says nothing, once it has not renewed its lease for so long that it
   * does not act any more: a renewal that comes later is answered too late for it.
   */
  async suspect(member: Member): Promise<void> {
    const { node_id, run } = member;
    const is_member = () => this.#known.get(node_id)?.member.run === run && this.may_act();
    if (this.#suspects.has(run)) return;
    this.#suspects.add(run);
    const until_ms = this.clock.now_ms() + suspect_max_ms;
    try {
      while (is_member() && this.clock.now_ms() < until_ms) {
        const left_s = await this.directory.left_s(run).catch(() => lease_ttl_s);
        if (left_s < lease_ttl_s - act_s) {
          await this.remove(member);
          return this.log.warn("a silent node was taken away", { node: node_id });
        }
        await sleep(this.clock, suspect_ms);
      }
    } finally {
      this.#suspects.delete(run);
    }
  }

  /** Writes what this node says of itself, if it is a member. */
  async update(): Promise<void> {
    const known = this.#known.get(this.self().node_id);
    if (this.#lease === undefined || known === undefined || !this.may_act()) return;
    await this.#put(this.#lease, known.create_revision);
  }

  #put(lease: Lease, create_revision: number): Promise<boolean> {
    const member: Member = { ...this.self(), run: lease.id };
    return this.directory.put(member.node_id, JSON.stringify(member), lease, create_revision);
  }

  async leave(): Promise<void> {
    this.#closed = true;
    this.#cancel_check();
    this.#valid_to_ms = 0;
    await this.#lease?.revoke().catch(() => {});
  }

  async #follow(): Promise<void> {
    const { revision, records } = await this.directory.read();
    this.#known.clear();
    for (const stored of records) this.#learn(stored);
    this.#number = revision;
    await this.directory.follow(revision, {
      put: (stored, revision) => {
        if (revision <= this.#number) return;
        this.#learn(stored);
        if (stored.create_revision === revision) this.#changed(revision);
      },
      deleted: (node_id, revision) => {
        if (revision <= this.#number) return;
        this.#known.delete(node_id);
        this.#changed(revision);
      },
      lost: (error) => this.#lost(error),
    });
  }

  /** Nobody says who is a member any more: what others call a view is not known here. */
  #lost(error: unknown): void {
    if (this.#closed) return;
    this.log.error("cannot follow who is a member", { error: String(error) });
    this.#following = this.#follow_again();
    if (this.#valid_to_ms > 0) this.#fence("it does not see who is a member");
  }

  async #follow_again(): Promise<void> {
    while (!this.#closed) {
      await sleep(this.clock, register_retry_ms);
      try {
        return await this.#follow();
      } catch (error) {
        this.log.warn("cannot read who is a member", { error: String(error) });
      }
    }
  }

  #learn({ node_id, value, create_revision }: Stored): void {
    try {
      this.#known.set(node_id, { member: JSON.parse(value), create_revision });
    } catch {
      this.log.error("a member's record is not JSON", { node_id });
    }
  }

  #changed(revision: number): void {
    this.#number = revision;
    const run = this.#known.get(this.self().node_id)?.member.run;
    if (this.#is_seen && run !== this.#run) this.#fence("another node has taken it away");
    else if (run !== undefined && run === this.#run) this.#is_seen = true;
    this.events.on_view(this.view);
    if (this.may_act()) this.#joined.resolve();
  }

  /** Puts this node's record there, once that of an earlier run is gone. */
  async #register(): Promise<void> {
    this.#registering = true;
    while (!this.#closed) {
      try {
        await this.#lease?.revoke().catch(() => {});
        await this.#following;
        const sent_ms = this.clock.now_ms();
        const lease = await this.directory.grant(lease_ttl_s);
        this.#lease = lease; // revoked, should nobody say whether the record is there
        this.#run = lease.id;
        this.#is_seen = false; // what it may have seen is the record of an earlier lease
        if (await this.#put(lease, 0)) {
          this.#extend(sent_ms);
          break;
        }
        // The lease of an earlier run ends within its time, if its process has.
      } catch (error) {
        this.log.warn("cannot register with etcd", { error: String(error) });
      }
      await sleep(this.clock, register_retry_ms);
    }
    this.#registering = false;
    if (this.#closed) await this.#lease?.revoke().catch(() => {});
    if (this.may_act()) this.#joined.resolve();
    this.#asked_ms = this.clock.now_ms();
    this.#check_later();
  }

  #extend(sent_ms: number): void {
    this.#valid_to_ms = sent_ms + act_s * 1000 - lease_margin_ms;
  }

  /** Looks again when the lease is to be renewed, or is over. */
  #check_later(): void {
    this.#cancel_check();
    if (this.#closed) return;
    const renew_ms = this.#asking ? Infinity : this.#asked_ms + keepalive_ms;
    const next_ms = Math.min(this.#valid_to_ms, renew_ms) - this.clock.now_ms();
    this.#cancel_check = this.clock.after(Math.max(1, next_ms), () => this.#check());
  }

  #check(): void {
    this.check();
    if (this.#registering) return; // it goes on when that is done
    const now_ms = this.clock.now_ms();
    const lease = this.#lease;
    if (lease !== undefined && !this.#asking && now_ms - this.#asked_ms >= keepalive_ms - 1) {
      this.#asking = true;
      this.#asked_ms = now_ms;
      lease.renew().then((is_alive) => {
        if (is_alive && lease === this.#lease && this.#valid_to_ms > 0) {
          this.check(); // an answer that comes after the end of the lease does not undo it
          if (this.#valid_to_ms > 0) this.#extend(now_ms);
        }
      }).catch(() => {}).finally(() => {
        this.#asking = false;
        if (!this.#registering) this.#check_later();
      });
    }
    this.#check_later();
  }

  /** Stops acting, now, and becomes a member again under a new lease. */
  #fence(why: string): void {
    this.#valid_to_ms = 0;
    this.#is_seen = false;
    this.fenced++;
    this.log.warn("this node has fenced itself", { why });
    this.events.on_fenced();
    if (!this.#closed && !this.#registering) void this.#register();
  }
}
