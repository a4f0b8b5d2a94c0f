/**
 * Membership: each node keeps a record in etcd alive under a lease, and watches those of all.
 * Invariant: a node acts as a member only while its own clock says that its lease holds, counted
 * from when the keepalive that succeeded was sent; so when etcd has taken a member away, that
 * member knows. Views are numbered by the revision of the last record that came or went.
 */
import {
  circuitBreaker,
  ConsecutiveBreaker,
  ConstantBackoff,
  ExponentialBackoff,
  handleWhen,
  retry,
} from "cockatiel";
import { Etcd3, isRecoverableError, type Lease } from "etcd3";
import type { Log } from "../log.ts";
import type { Member, View } from "./mod.ts";

/** The shortest that etcd grants with its default election timeout of 1 s. */
const lease_ttl_s = 2;
/** The node fences itself this long before etcd may take its lease. */
const lease_margin_ms = 100;
const keepalive_ms = 350;
const call_timeout_ms = 500;
const check_ms = 25;

const prefix = "longwire/nodes/";

export interface MembershipEvents {
  /** Every view, in order, also those without this node. */
  on_view(view: View): void;
  /** The lease is over: others may own what this node owned. */
  on_fenced(): void;
}

export function etcd_client(hosts: readonly string[]): Etcd3 {
  const recoverable = handleWhen(isRecoverableError);
  return new Etcd3({
    hosts: hosts.map((host) => `http://${host}`),
    dialTimeout: 1000,
    grpcOptions: { "grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 1000 },
    defaultCallOptions: (call) => call.isStream ? {} : { deadline: Date.now() + call_timeout_ms },
    faultHandling: {
      host: () =>
        circuitBreaker(recoverable, { halfOpenAfter: 250, breaker: new ConsecutiveBreaker(3) }),
      global: retry(recoverable, { maxAttempts: 3, backoff: new ConstantBackoff(20) }),
      // Typed for an older cockatiel, whose factories had a duration of their own.
      watchBackoff: Object.assign(new ExponentialBackoff({ initialDelay: 50, maxDelay: 500 }), {
        duration: 0,
      }),
    },
  });
}

/** A record and its place in etcd. */
interface Known {
  readonly member: Member;
  readonly create_revision: string;
}

export class Membership {
  /** How often this node had to fence itself. */
  fenced = 0;
  #known = new Map<string, Known>();
  #number = 0;
  #lease: Lease | undefined;
  /** performance.now() until which the node may act; 0 = it is no member. */
  #valid_to_ms = 0;
  #registering = false;
  #closed = false;
  #asking = false;
  #asked_ms = 0;
  readonly #timer: ReturnType<typeof setInterval>;

  private constructor(
    readonly etcd: Etcd3,
    /** What this node says of itself now. */
    readonly self: () => Member,
    readonly events: MembershipEvents,
    readonly log: Log,
  ) {
    this.#timer = setInterval(() => this.#check(), check_ms);
  }

  /** Becomes a member: answers when this node has seen itself in a view. */
  static async join(
    etcd: Etcd3,
    self: () => Member,
    events: MembershipEvents,
    log: Log,
  ): Promise<Membership> {
    const membership = new Membership(etcd, self, events, log);
    await membership.#watch();
    await membership.#register();
    return membership;
  }

  /** Whether this node is a member, by its own clock. */
  may_act(): boolean {
    return performance.now() < this.#valid_to_ms;
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
    const key = prefix + node_id;
    await this.etcd.if(key, "Create", "==", Number(known.create_revision))
      .then(this.etcd.delete().key(key)).commit();
  }

  /** Writes what this node says of itself, if it is a member. */
  async update(): Promise<void> {
    const lease = this.#lease;
    if (lease === undefined || !this.may_act()) return;
    const key = prefix + this.self().node_id;
    const known = this.#known.get(this.self().node_id);
    if (known?.member.run !== this.self().run) return;
    const id = await lease.grant();
    await this.etcd.if(key, "Create", "==", Number(known.create_revision))
      .then(this.etcd.put(key).value(JSON.stringify(this.self())).lease(id)).commit();
  }

  async leave(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#valid_to_ms = 0;
    await this.#lease?.revoke().catch(() => {});
  }

  async #watch(): Promise<void> {
    const found = await this.etcd.getAll().prefix(prefix).exec();
    for (const { key, value, create_revision } of found.kvs) {
      this.#learn(key.toString(), value.toString(), create_revision);
    }
    const revision = Number(found.header.revision);
    this.#number = revision;
    const watcher = await this.etcd.watch().prefix(prefix).startRevision(String(revision + 1))
      .create();
    watcher.on("put", ({ key, value, create_revision, mod_revision }) => {
      this.#learn(key.toString(), value.toString(), create_revision);
      if (create_revision === mod_revision) this.#changed(mod_revision);
    });
    watcher.on("delete", ({ key, mod_revision }) => {
      this.#known.delete(key.toString().slice(prefix.length));
      this.#changed(mod_revision);
    });
    watcher.on("error", (error) => this.log.error("etcd watch failed", { error: String(error) }));
  }

  #learn(key: string, value: string, create_revision: string): void {
    const node_id = key.slice(prefix.length);
    try {
      this.#known.set(node_id, { member: JSON.parse(value), create_revision });
    } catch {
      this.log.error("a member's record is not JSON", { node_id });
    }
  }

  #changed(revision: string): void {
    this.#number = Number(revision);
    const { node_id, run } = this.self();
    const is_member = this.#known.get(node_id)?.member.run === run;
    if (!is_member && this.#valid_to_ms > 0) this.#fence("another node has taken it away");
    this.events.on_view(this.view);
  }

  /** Puts this node's record there, once that of an earlier run is gone. */
  async #register(): Promise<void> {
    this.#registering = true;
    while (!this.#closed) {
      try {
        await this.#lease?.revoke().catch(() => {});
        const sent_ms = performance.now();
        const lease = this.etcd.lease(lease_ttl_s, { autoKeepAlive: false });
        lease.on("lost", () => {}); // by its own clock, the node knows before
        const id = await lease.grant();
        const member = this.self();
        const key = prefix + member.node_id;
        const { succeeded } = await this.etcd.if(key, "Create", "==", 0)
          .then(this.etcd.put(key).value(JSON.stringify(member)).lease(id)).commit();
        if (succeeded) {
          this.#lease = lease;
          this.#valid_to_ms = sent_ms + lease_ttl_s * 1000 - lease_margin_ms;
          break;
        }
        // Its lease ends within its time, if its process has.
        await lease.revoke().catch(() => {});
      } catch (error) {
        this.log.warn("cannot register with etcd", { error: String(error) });
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    this.#registering = false;
  }

  #check(): void {
    const now_ms = performance.now();
    if (this.#valid_to_ms > 0 && now_ms >= this.#valid_to_ms) this.#fence("its lease is over");
    if (this.#lease === undefined || this.#registering || this.#asking) return;
    if (now_ms - this.#asked_ms < keepalive_ms) return;
    this.#asking = true;
    this.#asked_ms = now_ms;
    const lease = this.#lease;
    lease.keepaliveOnce({ deadline: Date.now() + call_timeout_ms }).then(({ TTL }) => {
      const is_alive = lease === this.#lease && Number(TTL) > 0 && this.#valid_to_ms > 0;
      if (is_alive) this.#valid_to_ms = now_ms + lease_ttl_s * 1000 - lease_margin_ms;
    }).catch(() => {}).finally(() => this.#asking = false);
  }

  /** Stops acting, now, and becomes a member again under a new lease. */
  #fence(why: string): void {
    this.#valid_to_ms = 0;
    this.fenced++;
    this.log.warn("this node has fenced itself", { why });
    this.events.on_fenced();
    if (!this.#closed && !this.#registering) void this.#register();
  }
}
