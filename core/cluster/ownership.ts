/** A node's part in the ownership of sessions, put together: registrar, owner, and both's wires. */
import type { Etcd3 } from "etcd3";
import { codes, Refusal } from "../codes.ts";
import { format_address } from "../address.ts";
import type { Config } from "../config.ts";
import type { FleetPeers, FleetQuestion } from "../fleet.ts";
import type { Log } from "../log.ts";
import type { Message } from "../message.ts";
import { by_zones } from "../routing.ts";
import { sleep, system_clock } from "./clock.ts";
import { etcd_client, EtcdDirectory } from "./etcd.ts";
import { RulesWatch } from "./etcd_rules.ts";
import { Status } from "./health.ts";
import { Holdings } from "./holdings.ts";
import { hear_batch, NodeOutage } from "./outage.ts";
import { Membership } from "./membership.ts";
import type { Member, Ownership, SessionHolder, View } from "./mod.ts";
import { Orphans, type Rows } from "./orphans.ts";
import { type Handlers, Peers, PeerServer } from "./peer.ts";
import { PeerTls } from "./peer_tls.ts";
import { Registry } from "./registry.ts";
import type { Rules } from "./rules.ts";

export interface NodeOptions {
  readonly config: Config;
  readonly log: Log;
  readonly holder: SessionHolder;
  /** Sessions in the store, of nodes that died among them. */
  readonly rows: Rows;
  readonly rules: Rules;
  /** What changes of what the node says of itself. */
  readonly describe: () => Omit<Member, "node_id" | "run" | "zone" | "peer">;
  readonly on_drain: () => void;
  /** A message that another node could not store; answers how many hear it here. */
  readonly heard: (message: Message) => number;
}

/** How often a node says how much it holds, if it is not the same. */
const update_ms = 1000;

/** A node among others. */
export class ClusterNode implements FleetPeers {
  /** Told of each view, for what else nodes share among themselves. */
  on_view: (view: View) => void = () => {};
  readonly ownership: Ownership;
  /** Answers what other nodes ask of this node's devices, from when it serves. */
  on_asked: (question: FleetQuestion) => Promise<unknown> = () => {
    return Promise.reject(new Error("this node is starting"));
  };
  /** How messages go to the other nodes while the log is away. */
  readonly outage: NodeOutage;
  readonly #holdings: Holdings;
  readonly #registry: Registry;
  readonly #orphans: Orphans;
  readonly #peers: Peers;
  readonly #server: PeerServer;
  readonly #membership: Membership;
  #peer = "";
  #said = "";
  #timer: ReturnType<typeof setInterval> | undefined;
  #rules_watch: RulesWatch | undefined;

  private constructor(
    readonly options: NodeOptions,
    readonly etcd: Etcd3,
    /** The same on all nodes, and known to nobody else. */
    readonly secret: Uint8Array,
    readonly tls: PeerTls | undefined,
  ) {
    const { node_id } = options.config;
    const { log, holder } = options;
    const events = {
      on_view: (view: View) => this.#on_view(view),
      on_fenced: () => this.#holdings.fence(),
    };
    const directory = new EtcdDirectory(etcd);
    const membership = new Membership(directory, () => this.#self(), events, log, system_clock);
    this.#membership = membership;
    const handlers = this.#handlers();
    this.#peers = new Peers(node_id, () => membership.run, handlers, tls, {
      dead: (member) => this.#on_dead(member),
      silent: (member) => void membership.suspect(member).catch(() => {}),
    });
    this.outage = new NodeOutage(this.#peers);
    this.#registry = new Registry(node_id, this.#peers.ask_owner, Date.now() * 1000);
    this.#holdings = new Holdings(this.#peers, holder, membership, system_clock);
    const { rows } = options;
    this.#orphans = new Orphans(rows, this.#registry, this.#holdings, system_clock, log);
    this.#server = new PeerServer(handlers);
    this.ownership = this.#holdings;
  }

  /** Becomes a member; answers when this node is one. */
  static async open(options: NodeOptions): Promise<ClusterNode> {
    const { config } = options;
    const etcd = etcd_client(config.etcd);
    const tls = config.peer_cert === "" ? undefined : await PeerTls.read(config, options.log);
    const secret = await patiently(options, () => shared_secret(etcd));
    const node = new ClusterNode(options, etcd, secret, tls);
    node.#rules_watch = await patiently(options, () => {
      return RulesWatch.open(etcd, options.rules, options.log);
    });
    const port = await node.#server.listen(config.peer, tls);
    node.#peer = format_address({ ...config.peer, port });
    await patiently(options, () => node.#membership.join());
    node.#timer = setInterval(() => node.#update().catch(() => node.#said = ""), update_ms);
    return node;
  }

  get view(): View {
    return this.#membership.view;
  }

  /** Where other nodes take devices: those of its zone first, if rules say so, and the emptiest. */
  places(): readonly Member[] {
    const { config: { node_id, zone }, rules } = this.options;
    const others = [...this.view.members.values()].filter((member) => {
      return member.node_id !== node_id && !member.draining;
    });
    const is_near = rules.get("routing").in_force.drain_to === "same_zone" && zone !== "";
    return by_zones(others, is_near ? [zone] : []);
  }

  /**
   * Sessions held, sessions whose owner this node names, how often it has fenced itself, and
   * sessions of dead nodes that it has taken over.
   */
  counts() {
    const { adopted } = this.#orphans;
    const { fenced } = this.#membership;
    return { held: this.#holdings.size, registered: this.#registry.size, fenced, adopted };
  }

  /** @throws Refusal(not_found) */
  async drain(node_id: string): Promise<void> {
    if (!this.view.members.has(node_id)) {
      throw new Refusal(codes.not_found, `There is no node ${node_id}`);
    }
    await this.#peers.drain(node_id);
  }

  others(): readonly string[] {
    const { node_id } = this.options.config;
    return [...this.view.members.keys()].filter((other) => other !== node_id);
  }

  ask_fleet(node_id: string, question: FleetQuestion): Promise<unknown> {
    return this.#peers.ask_fleet(node_id, question);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#orphans.close();
    this.#rules_watch?.close();
    await this.#membership.leave();
    this.#peers.close();
    this.#server.close();
    this.tls?.close();
    this.etcd.close();
  }

  #self(): Omit<Member, "run"> {
    const { config, describe } = this.options;
    const { node_id, zone } = config;
    return { node_id, zone, peer: this.#peer, ...describe() };
  }

  #on_view(view: View): void {
    this.#peers.set_view(view);
    this.#registry.set_view(view);
    this.#holdings.set_view(view);
    this.#orphans.set_view(view);
    this.on_view(view);
  }

  #on_dead(member: Member): void {
    const { log } = this.options;
    log.warn("a node has died", { node: member.node_id });
    this.#membership.remove(member).catch((error) => {
      log.error("cannot take a dead node away", { node: member.node_id, error: String(error) });
    });
  }

  #handlers(): Handlers {
    return {
      ...session_handlers(this.#membership, () => this.#registry, () => this.#holdings),
      Fleet: async (question) => ({ answer: await this.on_asked(question) }),
      Drain: async () => {
        this.options.on_drain();
        this.#server.health.set(Status.not_serving);
        await this.#update();
        return {};
      },
      Deliver: (batch) => ({ audiences: hear_batch(batch, this.options.heard) }),
    };
  }

  async #update(): Promise<void> {
    const text = JSON.stringify(this.#self());
    if (text === this.#said) return;
    this.#said = text;
    await this.#membership.update();
  }
}

/** What a node answers to others about sessions. */
export function session_handlers(
  membership: Pick<Membership, "may_act">,
  registry: () => Registry,
  holdings: () => Holdings,
): Omit<Handlers, "Drain" | "Fleet" | "Deliver"> {
  return {
    Claim: async ({ claims, ...speaker }) => {
      if (!membership.may_act()) throw new Error("this node is no member");
      const granted = claims.map(([id, takes_over]) => registry().claim(speaker, id, takes_over));
      return { granted: await Promise.all(granted) };
    },
    Announce: ({ held, last, ...speaker }) => {
      return { taken: registry().announce(speaker, held, last) };
    },
    Release: ({ released, ...speaker }) => {
      for (const [id, grant] of released) registry().release(speaker, id, grant);
      return {};
    },
    HandOver: async (request) => ({ answer: await holdings().hand_over(request) }),
  };
}

/** How long a node that starts waits for etcd, which may just elect its leader. */
const etcd_patience_ms = 30_000;
const etcd_retry_ms = 200;

/** @throws Error with a sentence for the operator */
async function patiently<T>({ config, log }: NodeOptions, ask: () => Promise<T>): Promise<T> {
  const ends_ms = system_clock.now_ms() + etcd_patience_ms;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      const { message } = error as Error;
      if (system_clock.now_ms() > ends_ms) {
        throw new Error(`Cannot reach etcd at ${config.etcd.join(", ")}: ${message}`);
      }
      log.warn("etcd does not answer yet", { error: message });
    }
    await sleep(system_clock, etcd_retry_ms);
  }
}

const secret_key = "longwire/secret";

/** Made by whichever node is first. */
async function shared_secret(etcd: Etcd3): Promise<Uint8Array> {
  const fresh = crypto.getRandomValues(new Uint8Array(32)).toBase64();
  await etcd.if(secret_key, "Create", "==", 0).then(etcd.put(secret_key).value(fresh)).commit();
  const text = await etcd.get(secret_key).string();
  if (text === null) throw new Error("Cannot read longwire/secret from etcd");
  return Uint8Array.fromBase64(text);
}
