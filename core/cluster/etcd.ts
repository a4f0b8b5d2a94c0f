/**
 * etcd as the directory of members: leases, records and changes by `npm:etcd3`, with a deadline on
 * every call. Invariant: whoever follows is told of each change, also when etcd's members and
 * connections come and go.
 */
import {
  circuitBreaker,
  ConsecutiveBreaker,
  ConstantBackoff,
  ExponentialBackoff,
  handleWhen,
  retry,
} from "cockatiel";
import { Etcd3, isRecoverableError } from "etcd3";
import type { Changes, Directory, Lease, Stored } from "./membership.ts";

const call_timeout_ms = 500;

const prefix = "longwire/nodes/";

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

export class EtcdDirectory implements Directory {
  constructor(readonly etcd: Etcd3) {}

  async grant(ttl_s: number): Promise<Lease> {
    const lease = this.etcd.lease(ttl_s, { autoKeepAlive: false });
    lease.on("lost", () => {}); // by its own clock, the node knows before
    const id = await lease.grant();
    return {
      id,
      renew: async () => {
        const { TTL } = await lease.keepaliveOnce({ deadline: Date.now() + call_timeout_ms });
        return Number(TTL) > 0;
      },
      revoke: async () => void await lease.revoke(),
    };
  }

  async put(node_id: string, value: string, { id }: Lease, revision: number): Promise<boolean> {
    const key = prefix + node_id;
    const { succeeded } = await this.etcd.if(key, "Create", "==", revision)
      .then(this.etcd.put(key).value(value).lease(id)).commit();
    return succeeded;
  }

  async remove(node_id: string, create_revision: number): Promise<void> {
    const key = prefix + node_id;
    await this.etcd.if(key, "Create", "==", create_revision)
      .then(this.etcd.delete().key(key)).commit();
  }

  /**
   * The leader counts the time of leases, and one that has been replaced may not know: so the term
   * is that of a quorum before and after.
   */
  async left_s(lease_id: string): Promise<number> {
    const ask = () => this.etcd.leaseClient.leaseTimeToLive({ ID: lease_id });
    const { TTL } = await ask();
    if (Number(TTL) > 0) return Number(TTL); // or it was renewed at another
    const before = await this.etcd.get(prefix).exec();
    const left = await ask();
    const after = await this.etcd.get(prefix).exec();
    const terms = [before, left, after].map(({ header }) => header.raft_term);
    if (new Set(terms).size > 1) throw new Error("etcd has another leader");
    return Math.max(0, Number(left.TTL));
  }

  async read(): Promise<{ revision: number; records: Stored[] }> {
    const { kvs, header } = await this.etcd.getAll().prefix(prefix).exec();
    return { revision: Number(header.revision), records: kvs.map(stored_of) };
  }

  async follow(revision: number, changes: Changes): Promise<void> {
    const watcher = this.etcd.watch().prefix(prefix).startRevision(String(revision + 1)).watcher();
    let told = revision;
    let is_following = false;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    watcher.on("put", (kv) => changes.put(stored_of(kv), told = Number(kv.mod_revision)));
    watcher.on("delete", ({ key, mod_revision }) => {
      changes.deleted(key.toString().slice(prefix.length), told = Number(mod_revision));
    });
    watcher.on("data", ({ events, header }) => {
      if (events.length === 0) told = Math.max(told, Number(header.revision)); // progress
    });
    // etcd3 would go on after the revision at which it was connected again, though what had
    // happened up to there may not have come before the next break.
    watcher.on("connecting", (request) => {
      Object.assign(request, { start_revision: String(told + 1) });
    });
    watcher.on("error", (error) => is_following ? changes.lost(error) : reject(error));
    watcher.on("connected", () => {
      is_following = true;
      resolve();
    });
    await promise;
  }
}

interface KeyValue {
  readonly key: { toString(): string };
  readonly value: { toString(): string };
  readonly create_revision: string;
}

function stored_of({ key, value, create_revision }: KeyValue): Stored {
  return {
    node_id: key.toString().slice(prefix.length),
    value: value.toString(),
    create_revision: Number(create_revision),
  };
}
