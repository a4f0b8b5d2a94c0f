/**
 * Ownership of sessions in virtual time: nodes with the real membership, registry and holdings,
 * devices that come to any of them with the same ids, and everything that can happen to hosts and
 * links. Checked at every step: no session has two owners acknowledged at once, and an owner finds
 * what was acknowledged to the owners before it.
 *
 *   LONGWIRE_TEST_MODEL_SECONDS=600 [LONGWIRE_TEST_SEED=N] deno test -A
 *       tests/cluster/ownership_model_test.ts
 */
import { assert } from "@std/assert";
import type { SessionHolder } from "../../core/cluster/mod.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { SimCluster, type SimNode } from "../support/virtual_cluster.ts";
import { cut, type Host, World } from "../support/virtual_world.ts";

const node_names = ["a", "b", "c", "d"];
const session_names = ["s1", "s2", "s3"];
const run_ms = 8000;
/** At the end of some runs all is well for so long, and every device must get in. */
const calm_ms = 9000;
const calm_share = 0.2;
/** How long a write may be on its way: less than the margin of a lease. */
const write_ms_max = 60;

/** A session as one node has it. */
interface Held {
  /** How often it was written, as far as this owner knows. */
  version: number;
  connected: boolean;
}

/** What a node does for its devices, and what is seen of it. */
class Holder implements SessionHolder {
  readonly sessions = new Map<string, Held>();

  constructor(readonly node: SimNode, readonly model: Model) {}

  get #world(): World {
    return this.model.world;
  }

  async adopt(id: string, is_current: () => boolean): Promise<void> {
    if (this.sessions.has(id)) return;
    const version = await this.model.read_row(this.node.host, id);
    if (this.sessions.has(id) || !is_current()) return;
    this.sessions.set(id, { version, connected: false });
  }

  async hand_over(id: string, takes_over: boolean): Promise<boolean> {
    const held = this.sessions.get(id);
    if (held === undefined) return true;
    if (held.connected && !takes_over) return false;
    if (held.connected) {
      await new Promise<void>((resolve) => {
        this.node.host.clock.after(this.#world.between(0, 5), resolve);
      });
      this.#end(id, held);
    }
    await this.#write(id, held);
    if (this.sessions.get(id) === held) this.sessions.delete(id);
    return true;
  }

  fence(): void {
    for (const [id, held] of this.sessions) if (held.connected) this.#end(id, held);
    this.sessions.clear();
  }

  /** A device comes, as Hub lets it in. */
  async connect(id: string, takes_over: boolean): Promise<void> {
    const { holdings } = this.node;
    holdings.check();
    while (!holdings.holds(id)) {
      await holdings.claim(id, takes_over);
      holdings.check();
    }
    const held = this.sessions.get(id) ?? { version: 0, connected: false };
    this.sessions.set(id, held);
    if (held.connected) return; // the same node: one after the other, in Hub
    held.connected = true;
    this.model.acknowledged(this.node, id, held.version);
    this.#act_later(id, held);
  }

  /** Goes on as long as the device is connected: each step is written before it is answered. */
  #act_later(id: string, held: Held): void {
    this.node.host.clock.after(this.#world.between(5, 600), () => {
      this.node.holdings.check();
      if (!held.connected) return;
      this.model.acted(this.node, id);
      if (this.#world.chance(0.3)) {
        this.#end(id, held);
        if (this.#world.chance(0.3)) { // and with it the session
          this.sessions.delete(id);
          this.node.holdings.release(id);
        }
        return;
      }
      held.version++;
      this.#write(id, held).then(() => this.#act_later(id, held), () => this.#end(id, held));
    });
  }

  #end(id: string, held: Held): void {
    if (!held.connected) return;
    held.connected = false;
    this.model.ended(this.node, id);
  }

  #write(id: string, { version }: Held): Promise<void> {
    if (!this.node.holdings.may_write(id)) return Promise.reject(new Error("fenced"));
    return this.model.write_row(this.node.host, id, version);
  }
}

class Model {
  readonly world: World;
  readonly cluster: SimCluster;
  readonly holders = new Map<SimNode, Holder>();
  /** Who has acknowledged a session to its device, and not ended that. */
  readonly owners = new Map<string, Set<SimNode>>();
  /** What the store has, and what an owner was told that it has. */
  readonly rows = new Map<string, number>();
  readonly written = new Map<string, number>();
  readonly problems: string[] = [];
  acknowledgements = 0;

  constructor(readonly seed: number) {
    this.world = new World(random_of(seed));
    this.cluster = new SimCluster(this.world, (node) => {
      const holder = new Holder(node, this);
      this.holders.set(node, holder);
      return holder;
    });
  }

  /** Everything of one seed; answers what went wrong. */
  async run(): Promise<readonly string[]> {
    const { world, cluster } = this;
    const names = node_names.slice(0, 2 + Math.floor(world.random() * 3));
    for (const name of names) cluster.start(name);
    for (const id of session_names) this.#device(id);
    this.#trouble(names);
    await world.run_until(run_ms);
    if (!world.chance(calm_share)) return this.problems;
    world.is_calm = true;
    this.#heal(names);
    const before = this.acknowledgements;
    await world.run_until(run_ms + calm_ms);
    if (this.acknowledgements - before < session_names.length) {
      this.problems.push("nobody gets in though all is well");
    }
    return this.problems;
  }

  acknowledged(node: SimNode, id: string, version: number): void {
    this.acknowledgements++;
    const owners = this.owners.get(id) ?? new Set();
    this.owners.set(id, owners);
    this.acted(node, id);
    for (const other of owners) {
      if (other.host.dead || !other.membership.may_act()) owners.delete(other);
      else this.#problem(`${id} is acknowledged by ${node.node_id} and by ${other.node_id}`);
    }
    owners.add(node);
    const written = this.written.get(id) ?? 0;
    if (version < written) this.#problem(`${id} was written as ${written}, read as ${version}`);
  }

  acted(node: SimNode, id: string): void {
    if (!node.membership.may_act()) this.#problem(`${node.node_id} acts for ${id}, and may not`);
  }

  ended(node: SimNode, id: string): void {
    this.owners.get(id)?.delete(node);
  }

  /** The store is there for all, and takes what comes. */
  read_row(host: Host, id: string): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    this.world.after(this.world.between(0, 300), null, () => {
      const version = this.rows.get(id) ?? 0;
      this.world.after(this.world.between(0, 300), host, () => resolve(version));
    });
    return promise;
  }

  write_row(host: Host, id: string, version: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.world.after(this.world.between(0, write_ms_max), null, () => {
      this.rows.set(id, version);
      this.world.after(this.world.between(0, 300), host, () => {
        this.written.set(id, Math.max(version, this.written.get(id) ?? 0));
        resolve();
      });
    });
    return promise;
  }

  #problem(text: string): void {
    this.problems.push(`at ${this.world.now_ms.toFixed(1)} ms: ${text}`);
  }

  /** Comes to one node after the other. */
  #device(id: string): void {
    const { world } = this;
    world.after(world.between(10, this.world.is_calm ? 1500 : 500), null, () => {
      const nodes = [...this.cluster.nodes.values()].filter(({ host }) => !host.dead);
      const node = nodes.length > 0 ? world.pick(nodes) : undefined;
      const takes_over = this.world.is_calm || world.chance(0.8);
      if (node !== undefined) {
        world.after(0, node.host, () => {
          this.holders.get(node)!.connect(id, takes_over).catch(() => {});
        });
      }
      this.#device(id);
    });
  }

  /** What happens to the nodes and between them. */
  #trouble(names: readonly string[]): void {
    const { world, cluster } = this;
    world.after(world.between(50, 1500), null, () => {
      if (this.world.is_calm) return;
      this.#trouble(names);
      const name = world.pick(names);
      const node = cluster.nodes.get(name)!;
      const lasts_ms = world.between(10, 4000);
      // Whatever happens is taken for silence by somebody, also where it is none.
      const other = cluster.nodes.get(world.pick(names))!;
      world.after(world.between(0, 2000), other.host, () => {
        const member = other.membership.view.members.get(name);
        if (member !== undefined && other !== node) {
          other.membership.suspect(member).catch(() => {});
        }
      });
      switch (world.pick(["kill", "freeze", "freeze", "etcd", "pair", "isolate", "halves"])) {
        case "kill":
          cluster.kill(name);
          world.after(world.between(0, 3000), null, () => {
            if (cluster.nodes.get(name) === node) cluster.start(name);
          });
          break;
        case "freeze":
          if (node.host.frozen) break;
          node.host.freeze();
          world.after(lasts_ms, null, () => node.host.resume());
          break;
        case "etcd":
          return this.#cut_for([[node.host, cluster.directory.host]], lasts_ms);
        case "pair":
          return this.#cut_for([[node.host, cluster.nodes.get(world.pick(names))!.host]], lasts_ms);
        case "isolate":
          return this.#cut_for(this.#links(names, (other) => other !== name), lasts_ms);
        case "halves": {
          const side = new Set(names.filter(() => world.chance(0.5)));
          return this.#cut_for(this.#links(names, (other) => side.has(other)), lasts_ms);
        }
      }
    });
  }

  /** Links between those for which it is true (and etcd with them) and the others. */
  #links(names: readonly string[], is_one: (name: string) => boolean): [Host, Host][] {
    const host = (name: string) => this.cluster.nodes.get(name)!.host;
    const others = names.filter((name) => !is_one(name));
    const ones = names.filter(is_one).map(host).concat(this.cluster.directory.host);
    return others.flatMap((other) => ones.map((one): [Host, Host] => [host(other), one]));
  }

  #cut_for(links: readonly [Host, Host][], lasts_ms: number): void {
    for (const [a, b] of links) if (a !== b) cut(a, b, true);
    this.world.after(lasts_ms, null, () => {
      for (const [a, b] of links) cut(a, b, false);
    });
  }

  #heal(names: readonly string[]): void {
    const { cluster } = this;
    cluster.directory.host.cut_from.clear();
    for (const name of names) {
      const { host } = cluster.nodes.get(name)!;
      host.cut_from.clear();
      if (host.frozen) host.resume();
      if (host.dead) cluster.start(name);
    }
  }
}

Deno.test("model: a session has one owner, whatever happens to nodes and links", async () => {
  const seconds = Number(Deno.env.get("LONGWIRE_TEST_MODEL_SECONDS") ?? "6");
  const first = seed_for("model of ownership");
  const is_given = (Deno.env.get("LONGWIRE_TEST_SEED") ?? "") !== "";
  const begin_ms = performance.now();
  let runs = 0;
  let events = 0;
  let acknowledgements = 0;
  do {
    const model = new Model(first + runs);
    const problems = await model.run();
    assert(problems.length === 0, `LONGWIRE_TEST_SEED=${first + runs}\n${problems.join("\n")}`);
    runs++;
    events += model.world.events;
    acknowledgements += model.acknowledgements;
  } while (performance.now() - begin_ms < seconds * 1000 && !(is_given && seconds === 6));
  console.log(`${runs} runs, ${events} events, ${acknowledgements} sessions acknowledged`);
});
