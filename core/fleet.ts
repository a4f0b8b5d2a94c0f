/**
 * The devices of all nodes: asks this node and, in a cluster, every other, and puts the answers
 * together. Invariant: an answer says which nodes it covers, and which have not answered in time.
 */
import { codes, Refusal } from "./codes.ts";
import type {
  DeviceJson,
  DevicePage,
  Devices,
  ListenerJson,
  PageWanted,
  WorstJson,
  WorstKey,
} from "./devices.ts";
import { Namespace } from "./namespace.ts";
import type { TimelineJson } from "./timeline.ts";

type Whole = ReturnType<Devices["whole"]>;

/** What one node asks another, by operation: question and answer; null = no such device here. */
export interface FleetCalls {
  list: [{ page: PageWanted; connected?: boolean; prefix: string }, DevicePage<DeviceJson>];
  worst: [{ by: WorstKey; count: number }, readonly WorstJson[]];
  listeners: [{ page: PageWanted; topic: string }, DevicePage<ListenerJson>];
  device: [{ id: string }, Whole | null];
  timeline: [{ id: string }, TimelineJson];
  kick: [{ id: string; forget: boolean }, { disconnected: boolean } | null];
}
export type FleetCall = keyof FleetCalls;

/** A question on its way to another node. */
export interface FleetQuestion<C extends FleetCall = FleetCall> {
  readonly call: C;
  /** Name of the tenant. */
  readonly tenant: string;
  readonly question: FleetCalls[C][0];
}

/** Which nodes an answer covers. */
export interface Coverage {
  readonly nodes: readonly string[];
  /** Members that have not answered. */
  readonly missing: readonly string[];
}

/** The other nodes. */
export interface FleetPeers {
  /** Members of the cluster, this node aside. */
  others(): readonly string[];
  /** Rejects when the node does not answer in time. */
  ask_fleet(node_id: string, question: FleetQuestion): Promise<unknown>;
}

type Handlers = {
  readonly [C in FleetCall]: (
    tenant: Namespace,
    question: FleetCalls[C][0],
  ) => FleetCalls[C][1] | Promise<FleetCalls[C][1]>;
};

interface Answers<T> extends Coverage {
  readonly answers: readonly { readonly node: string; readonly answer: T }[];
}

export class Fleet {
  readonly #handlers: Handlers = {
    list: (tenant, { page, connected, prefix }) => {
      return this.devices.list(tenant, page, connected, prefix);
    },
    worst: (tenant, { by, count }) => this.devices.worst(tenant, by, count),
    listeners: (tenant, { page, topic }) => this.devices.listeners(tenant, page, topic),
    device: (tenant, { id }) => {
      const session = this.devices.find(tenant, id);
      return session === undefined ? null : this.devices.whole(session);
    },
    timeline: (tenant, { id }) => this.devices.timeline(tenant, id),
    kick: (tenant, { id, forget }) => {
      const session = this.devices.find(tenant, id);
      if (session === undefined) return null;
      const disconnected = session.connected;
      this.devices.kick(session, forget);
      return { disconnected };
    },
  };

  constructor(
    readonly node_id: string,
    readonly devices: Devices,
    /** null = this node is alone. */
    readonly peers: FleetPeers | null,
  ) {}

  async list(
    tenant: Namespace,
    page: PageWanted,
    connected: boolean | undefined,
    prefix: string,
  ): Promise<DevicePage<DeviceJson & { node: string }> & Coverage> {
    const wanted = connected === undefined ? {} : { connected };
    return this.#page(await this.#all(tenant, "list", { page, prefix, ...wanted }), page.limit);
  }

  async listeners(
    tenant: Namespace,
    page: PageWanted,
    topic: string,
  ): Promise<DevicePage<ListenerJson & { node: string }> & Coverage> {
    return this.#page(await this.#all(tenant, "listeners", { page, topic }), page.limit);
  }

  /** The worst first. */
  async worst(
    tenant: Namespace,
    by: WorstKey,
    count: number,
  ): Promise<DevicePage<WorstJson & { node: string }> & Coverage> {
    const { answers, nodes, missing } = await this.#all(tenant, "worst", { by, count });
    const devices = answers
      .flatMap(({ node, answer }) => answer.map((one) => ({ ...one, node })))
      .sort((a, b) => (b[by] ?? 0) - (a[by] ?? 0))
      .slice(0, count);
    return { devices, next: null, nodes, missing };
  }

  /** Throws Refusal(not_found). */
  async device(tenant: Namespace, id: string): Promise<Whole & { node: string }> {
    const { answers } = await this.#all(tenant, "device", { id });
    const found = answers.filter(({ answer }) => answer !== null);
    const best = found.find(({ answer }) => answer!.connected) ?? found[0];
    if (best === undefined) throw no_session();
    return { ...best.answer!, node: best.node };
  }

  /** Of every node that it has been connected to; a device that nobody has heard of has none. */
  async timeline(tenant: Namespace, id: string): Promise<TimelineJson & Coverage> {
    const { answers, nodes, missing } = await this.#all(tenant, "timeline", { id });
    const events = answers
      .flatMap(({ node, answer }) => answer.events.map((event) => ({ ...event, node })))
      .sort((a, b) => a.time < b.time ? 1 : a.time > b.time ? -1 : 0); // stable: as each node says
    const since = answers.map(({ answer }) => answer.since).filter((time) => time !== null);
    return { device_id: id, since: since.sort().at(-1) ?? null, events, nodes, missing };
  }

  /** Whether it was connected. Throws Refusal(not_found). */
  async kick(tenant: Namespace, id: string, forget: boolean): Promise<boolean> {
    const { answers } = await this.#all(tenant, "kick", { id, forget });
    const found = answers.flatMap(({ answer }) => answer === null ? [] : [answer]);
    if (found.length === 0) throw no_session();
    return found.some(({ disconnected }) => disconnected);
  }

  /** What this node has to say. */
  async answer<C extends FleetCall>(asked: FleetQuestion<C>): Promise<FleetCalls[C][1]> {
    const handler: Handlers[C] = this.#handlers[asked.call];
    return await handler(new Namespace(asked.tenant), asked.question);
  }

  async #all<C extends FleetCall>(
    tenant: Namespace,
    call: C,
    question: FleetCalls[C][0],
  ): Promise<Answers<FleetCalls[C][1]>> {
    const asked: FleetQuestion<C> = { call, tenant: tenant.name, question };
    const own = { node: this.node_id, answer: await this.answer(asked) };
    const { peers } = this;
    if (peers === null) return { answers: [own], nodes: [this.node_id], missing: [] };
    const others = peers.others();
    const settled = await Promise.allSettled(
      others.map((node_id) => peers.ask_fleet(node_id, asked as FleetQuestion)),
    );
    const answers = [own];
    const missing: string[] = [];
    for (const [index, result] of settled.entries()) {
      if (result.status === "rejected") missing.push(others[index]);
      else answers.push({ node: others[index], answer: result.value as FleetCalls[C][1] });
    }
    return { answers, nodes: answers.map(({ node }) => node), missing };
  }

  /** One page of those of all nodes, by id; a device that two know of is where it is connected. */
  #page<T extends { readonly device_id: string; readonly connected?: boolean }>(
    { answers, nodes, missing }: Answers<DevicePage<T>>,
    limit: number,
  ): DevicePage<T & { node: string }> & Coverage {
    const by_id = new Map<string, T & { node: string }>();
    for (const { node, answer } of answers) {
      for (const one of answer.devices) {
        const known = by_id.get(one.device_id);
        if (known === undefined || one.connected) by_id.set(one.device_id, { ...one, node });
      }
    }
    // Past the end of a page that goes on, a node may have devices that it has not named.
    const ends = answers.flatMap(({ answer }) => answer.next === null ? [] : [answer.next]);
    const end = ends.length === 0 ? undefined : ends.reduce((a, b) => a < b ? a : b);
    const known = [...by_id.values()]
      .filter(({ device_id }) => end === undefined || device_id <= end)
      .sort((a, b) => a.device_id < b.device_id ? -1 : 1);
    const devices = known.slice(0, limit);
    const is_more = end !== undefined || known.length > limit;
    return { devices, next: is_more ? devices.at(-1)?.device_id ?? null : null, nodes, missing };
  }
}

function no_session(): Refusal {
  return new Refusal(codes.not_found, "There is no session of this device");
}
