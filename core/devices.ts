/**
 * What operators of a tenant ask about its devices: a page of them, one, who listens to a topic,
 * and to let one go. Sessions are looked through in slices, so that a million stall nobody.
 */
import { codes } from "./codes.ts";
import type { TopKey, TopRow } from "../ffi/reactor.ts";
import type { Hub } from "./hub.ts";
import { is_reserved, type Namespace, plain_filter, plain_name } from "./namespace.ts";
import { filter_covers } from "./permission.ts";
import { protocol_names } from "./presence.ts";
import type { Router } from "./router.ts";
import { type Session, SubscriptionOptions } from "./session.ts";
import type { Sessions } from "./sessions.ts";
import type { TimelineJson } from "./timeline.ts";
import { filter_matches, has_wildcard, split_share } from "./topic_tree.ts";

/** Time that a search takes before everything else has a turn. */
const slice_ms = 4;
/** Connections that the reactor is asked for: it knows no tenants. */
const top_rows = 4096;
/** Sessions that are looked at before the clock is. */
const slice_sessions = 256;

/** One device as JSON. */
export interface DeviceJson {
  readonly device_id: string;
  readonly connected: boolean;
  /** Of the connection, or of the last one. */
  readonly protocol: string;
  /** Where it connects from; absent = it is not connected. */
  readonly address?: string;
  readonly subscriptions: number;
  /** `epoch:offset` up to which it has acknowledged. */
  readonly cursor: string;
  /** Messages that it has been sent and not acknowledged, as far as the service knows. */
  readonly inflight: number;
  /** When the session ends unless the device comes back, RFC 3339; absent = not by time. */
  readonly session_ends?: string;
  /** When its token does. */
  readonly token_expires?: string;
}

/** By what devices can be the worst off. */
export const worst_keys = ["queue_bytes", "heartbeat_misses", "replay_lag"] as const;
export type WorstKey = typeof worst_keys[number];

/** One that is badly off; what its key is not found with is absent. */
export interface WorstJson extends DeviceJson {
  /** Bytes that wait to be sent, and for how long none of them have left. */
  readonly queue_bytes?: number;
  readonly stalled_ms?: number;
  /** Messages of QoS 1 and 2 that it has been sent and not acknowledged. */
  readonly unacknowledged?: number;
  /** Since it was heard, and how many heartbeats that is. */
  readonly silent_ms?: number;
  readonly heartbeat_misses?: number;
  /** How many messages of the log it is behind, of all topics. */
  readonly replay_lag: number;
}

/** Who hears a topic, and by which subscription. */
export interface ListenerJson {
  readonly device_id: string;
  readonly filter: string;
  readonly qos: number;
}

/** One subscription. */
export interface FilterJson {
  readonly filter: string;
  readonly qos: number;
}

/** `next` is the `after` of the following page; null = that was all. */
export interface DevicePage<T> {
  readonly devices: readonly T[];
  readonly next: string | null;
}

/** Which page. */
export interface PageWanted {
  /** Ids after this one, in the order of UTF-16 units; "" = from the start. */
  readonly after: string;
  readonly limit: number;
}

function rfc3339(unix_ms: number): string {
  return new Date(unix_ms).toISOString();
}

/** The connections of this node that are worst off (Reactor.top). */
type Top = (by: TopKey, count: number) => Promise<TopRow[]>;

export class Devices {
  #searching: Promise<unknown> = Promise.resolve();

  constructor(
    readonly sessions: Sessions,
    readonly router: Router,
    readonly hub: Hub,
    readonly top: Top,
  ) {}

  /** Connected devices that are worst off, the worst first; those that are well are left out. */
  async worst(tenant: Namespace, by: WorstKey, count: number): Promise<WorstJson[]> {
    if (by === "replay_lag") {
      const found = await this.#furthest_behind(tenant, count);
      return found.map((session) => ({ ...this.json(session), replay_lag: this.#lag(session) }));
    }
    // Of all tenants: a tenant that is well beside many others that are not is shown fewer.
    const searching = this.#searching.catch(() => {}).then(() => this.top(by, top_rows));
    this.#searching = searching;
    const worst: WorstJson[] = [];
    for (const { conn, generation, ...row } of await searching) {
      const session = this.hub.session_of(conn, generation);
      if (session === undefined || !tenant.owns(session.id)) continue;
      const { inflight: unacknowledged, ...state } = row;
      const replay_lag = this.#lag(session);
      worst.push({ ...this.json(session), ...state, unacknowledged, replay_lag });
      if (worst.length === count) break;
    }
    return worst;
  }

  timeline(tenant: Namespace, device_id: string): TimelineJson {
    return this.hub.timeline.of(tenant.id(device_id), device_id);
  }

  /** Messages of the log that a device has not come to yet. */
  #lag({ replay }: Session): number {
    return replay === null ? 0 : Math.max(0, this.router.store.head - replay.after);
  }

  async #furthest_behind(tenant: Namespace, count: number): Promise<Session[]> {
    const found: Session[] = [];
    for await (const session of this.#all_of(tenant)) {
      const lag = this.#lag(session);
      if (lag === 0 || found.length === count && lag <= this.#lag(found.at(-1)!)) continue;
      let at = found.length;
      while (at > 0 && this.#lag(found[at - 1]) < lag) at--;
      found.splice(at, 0, session);
      if (found.length > count) found.pop();
    }
    return found;
  }

  /** Every session of a tenant, a slice at a time. */
  async *#all_of(tenant: Namespace): AsyncGenerator<Session> {
    let until_ms = performance.now() + slice_ms;
    let looked = 0;
    for (const session of this.sessions.all()) {
      if (++looked % slice_sessions === 0 && performance.now() > until_ms) {
        await new Promise((resolve) => setTimeout(resolve, 0));
        until_ms = performance.now() + slice_ms;
      }
      if (tenant.owns(session.id)) yield session;
    }
  }

  /** @param connected undefined = those that are not, too */
  async list(
    tenant: Namespace,
    { after, limit }: PageWanted,
    connected: boolean | undefined,
    prefix: string,
  ): Promise<DevicePage<DeviceJson>> {
    const wants = (session: Session, id: string) =>
      (connected === undefined || session.connected === connected) && id.startsWith(prefix);
    const found = await this.#smallest(tenant, after, limit, wants);
    return page_of(found, limit, ([, session]) => this.json(session));
  }

  /** Connected devices that hear a topic, or whose filter the given one covers. */
  async listeners(
    tenant: Namespace,
    { after, limit }: PageWanted,
    wanted: string,
  ): Promise<DevicePage<ListenerJson>> {
    const fits = has_wildcard(wanted)
      ? (filter: string) => filter_covers(wanted, filter)
      : (filter: string) => filter_matches(filter, wanted);
    const of = (session: Session) => {
      for (const [inner, options] of session.subscriptions()) {
        const filter = plain_filter(inner);
        if (fits(split_share(filter)?.filter ?? filter)) return { filter, options };
      }
      return undefined;
    };
    const wants = (session: Session) => session.connected && of(session) !== undefined;
    const found = await this.#smallest(tenant, after, limit, wants);
    const left = found.filter(([, session]) => of(session) !== undefined);
    return page_of(left, limit, ([device_id, session]) => {
      const { filter, options } = of(session)!;
      return { device_id, filter, qos: SubscriptionOptions.qos(options) };
    });
  }

  /** The session of a device. */
  find(tenant: Namespace, device_id: string): Session | undefined {
    return is_reserved(device_id) ? undefined : this.sessions.get(tenant.id(device_id));
  }

  /** The session and its subscriptions as JSON. */
  whole(session: Session): DeviceJson & { readonly filters: readonly FilterJson[] } {
    const filters = [...session.subscriptions()].map(([filter, options]) => {
      return { filter: plain_filter(filter), qos: SubscriptionOptions.qos(options) };
    });
    return { ...this.json(session), filters };
  }

  /** Closes its connection, if there is one; with `forget` its session ends too. */
  kick(session: Session, forget: boolean): void {
    this.hub.timeline.kicked(session.id);
    if (session.connected) {
      if (forget) {
        session.expiry_s = 0;
        this.sessions.changed(session);
      }
      this.hub.close(session, codes.kicked);
    } else if (forget) this.sessions.forget(session);
  }

  json(session: Session): DeviceJson {
    const { access, ends_ms } = session;
    const ends = !session.connected && ends_ms > 0 ? { session_ends: rfc3339(ends_ms) } : {};
    const expires = access !== null && access.expires_ms > 0
      ? { token_expires: rfc3339(access.expires_ms) }
      : {};
    const address = session.connected
      ? { address: this.hub.reactor.peer(session.conn, session.generation) }
      : {};
    return {
      device_id: plain_name(session.id),
      connected: session.connected,
      protocol: protocol_names[session.wire],
      ...address,
      subscriptions: session.subscription_count,
      cursor: `${this.router.store.epoch}:${session.cursor}`,
      inflight: session.inflight?.size ?? 0,
      ...ends,
      ...expires,
    };
  }

  /** The `limit + 1` smallest ids after one, of a tenant's sessions that are wanted. */
  async #smallest(
    tenant: Namespace,
    after: string,
    limit: number,
    wants: (session: Session, id: string) => boolean,
  ): Promise<[id: string, session: Session][]> {
    const found: [id: string, session: Session][] = [];
    for await (const session of this.#all_of(tenant)) {
      const id = plain_name(session.id);
      if (id <= after || found.length > limit && id >= found[limit]![0]) continue;
      if (!wants(session, id)) continue;
      found.splice(place_of(found, id), 0, [id, session]);
      if (found.length > limit + 1) found.pop();
    }
    return found;
  }
}

/** Where an id belongs among sorted ones. */
function place_of(found: readonly [string, Session][], id: string): number {
  let low = 0;
  let high = found.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (found[middle]![0] < id) low = middle + 1;
    else high = middle;
  }
  return low;
}

function page_of<T>(
  found: readonly [string, Session][],
  limit: number,
  json: (one: [string, Session]) => T,
): DevicePage<T> {
  const some = found.slice(0, limit);
  const next = found.length > limit ? some.at(-1)![0] : null;
  return { devices: some.map(json), next };
}
