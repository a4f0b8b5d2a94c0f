/**
 * A hundred nodes and a hundred million devices, as far as one process can say: real rendezvous,
 * registry and topic tree, one node whole and the rest in proportion. What is measured
 * on a sample says so. The network is virtual: messages are counted, not sent.
 */
import { type Slices, system_clock, system_slices } from "../../core/cluster/clock.ts";
import { Holdings } from "../../core/cluster/holdings.ts";
import { Rendezvous, type View } from "../../core/cluster/mod.ts";
import { type Announced, type Granted, Registry } from "../../core/cluster/registry.ts";
import { TopicTree } from "../../core/topic_tree.ts";

const node_count = 100;
const device_count = 100_000_000;
const per_node = device_count / node_count;
/** Ids of which the registrar is computed before and after a node is lost. */
const sample = 2_000_000;
/** Devices whose own filters are in the tree of the sample. */
const tree_devices = 200_000;
/** Devices in a group, and how many groups are looked at. */
const group_sizes = [10, 100, 1000];
/** Stored messages a second that one node takes from JetStream, doing nothing else. */
const follow_per_s = 168_000;

export interface Simulated {
  readonly hash_ns: number;
  readonly fullest: number;
  readonly moved_share: number;
  readonly moved_needlessly: number;
  readonly registry_bytes: number;
  readonly registry_view_ms: number;
  readonly registry_block_ms: number;
  readonly holdings_view_ms: number;
  readonly holdings_block_ms: number;
  readonly announced_ids: number;
  readonly announce_calls: number;
  /** Nodes at which somebody listens, by kind of topic. */
  readonly interested: readonly (readonly [kind: string, nodes: number])[];
}

function id_of(n: number): string {
  return `device-${n}`;
}

function view_of(number: number, names: readonly string[]): View {
  const rest = { version: "", zone: "", peer: "", mqtt: "", device: "", connections: 0 };
  const members = names.map((node_id) => {
    const load = { sessions: 0, draining: false, load_percent: 0, degradation: "", breaker: "" };
    return [node_id, { node_id, run: node_id, ...rest, ...load }] as const;
  });
  return { number, members: new Map(members) };
}

/** Every id of the sample in two views: where it was, and where it is. */
function rehash(names: readonly string[]) {
  const before = new Rendezvous(names);
  const after = new Rendezvous(names.slice(1));
  const counts = new Map<string, number>();
  let moved = 0;
  let moved_needlessly = 0;
  for (let n = 0; n < sample; n++) {
    const id = id_of(n);
    const was = before.registrar_of(id);
    counts.set(was, (counts.get(was) ?? 0) + 1);
    if (was === after.registrar_of(id)) continue;
    moved++;
    if (was !== names[0]) moved_needlessly++;
  }
  const begin_ms = performance.now();
  for (let n = 0; n < 200_000; n++) before.registrar_of(id_of(n));
  const ns = (performance.now() - begin_ms) * 1e6 / 200_000;
  const fullest = Math.max(...counts.values()) / (sample / node_count);
  return { hash_ns: ns, fullest, moved_share: moved / sample, moved_needlessly };
}

/** Slices of which each is timed: the event loop is held for so long. */
class TimedSlices implements Slices {
  readonly ids = system_slices.ids;
  longest_ms = 0;
  /** When the last slice ended. */
  ended_ms = 0;
  #began_ms = 0;

  begin(): void {
    this.#began_ms = performance.now();
    this.longest_ms = 0;
  }

  end(): void {
    this.ended_ms = performance.now();
    this.longest_ms = Math.max(this.longest_ms, this.ended_ms - this.#began_ms);
  }

  async rest(): Promise<void> {
    this.end();
    await system_slices.rest();
    this.#began_ms = performance.now();
  }
}

/** Until nobody has asked for a rest for a while. */
async function settled(slices: TimedSlices): Promise<void> {
  do await new Promise((resolve) => setTimeout(resolve, 500)); while (
    performance.now() - slices.ended_ms < 500
  );
}

/** One node's registry, whole: what it takes, and how long a view without one node takes. */
async function registry_of(names: readonly string[]) {
  const own = names[1]!;
  const slices = new TimedSlices();
  const registry = new Registry(own, () => Promise.resolve("done"), 1e15, slices);
  const first = view_of(1, names);
  registry.set_view(first);
  const rendezvous = new Rendezvous(names);
  const ids: Announced[] = [];
  for (let n = 0; ids.length < per_node; n++) {
    if (rendezvous.registrar_of(id_of(n)) === own) ids.push([id_of(n), n]);
  }
  const before = Deno.memoryUsage().heapUsed;
  for (const [index, node_id] of names.entries()) {
    const held = ids.filter((_, n) => n % node_count === index);
    registry.announce({ view: 1, node_id, run: node_id }, held, true);
  }
  const bytes = (Deno.memoryUsage().heapUsed - before) / ids.length;
  slices.begin();
  const begin_ms = performance.now();
  registry.set_view(view_of(2, names.slice(1)));
  await settled(slices);
  const registry_view_ms = slices.ended_ms - begin_ms;
  return { registry_bytes: bytes, registry_view_ms, registry_block_ms: slices.longest_ms };
}

/** What one node holds, whole: how long a view without one node takes, until all is said. */
async function holdings_of(names: readonly string[]) {
  const slices = new TimedSlices();
  const registrars = {
    claim: (_node: string, _view: number, claims: readonly unknown[]) => {
      return Promise.resolve(claims.map((): Granted => ({ kind: "granted", grant: 1 })));
    },
    announce: () => Promise.resolve(true),
    release: () => Promise.resolve(),
  };
  const holder = {
    adopt: () => Promise.resolve(),
    hand_over: () => Promise.resolve(true),
    fence: () => {},
  };
  const membership = { may_act: () => true, check: () => {} };
  const holdings = new Holdings(registrars, holder, membership, system_clock, slices);
  holdings.set_view(view_of(1, names));
  for (let first = 0; first < per_node; first += 10_000) {
    const claims = Array.from(
      { length: 10_000 },
      (_, n) => holdings.claim(id_of(first + n), false),
    );
    await Promise.all(claims);
  }
  slices.begin();
  const begin_ms = performance.now();
  holdings.set_view(view_of(2, names.slice(1)));
  await settled(slices);
  const holdings_view_ms = slices.ended_ms - begin_ms;
  return { holdings_view_ms, holdings_block_ms: slices.longest_ms };
}

/** At how many nodes a message is wanted: a tree of filters to the nodes of those who listen. */
function interest(): [string, number][] {
  const tree = new TopicTree<Set<number>>(0);
  const node_of = () => Math.floor(Math.random() * node_count);
  for (let n = 0; n < tree_devices; n++) tree.set(`d/${n}/#`, new Set([node_of()]));
  for (const size of group_sizes) {
    for (let group = 0; group < 200; group++) {
      tree.set(`g/${size}/${group}`, new Set(Array.from({ length: size }, node_of)));
    }
  }
  tree.set("all/#", new Set(Array.from({ length: node_count }, (_, n) => n)));
  const nodes = (topics: readonly string[]) => {
    const counts = topics.map((topic) => new Set(tree.match(topic).flatMap((at) => [...at])).size);
    return counts.reduce((sum, count) => sum + count, 0) / counts.length;
  };
  const of_device = Array.from({ length: 1000 }, (_, n) => `d/${n * 7}/command`);
  return [
    ["one device", nodes(of_device)],
    ...group_sizes.map((size): [string, number] => {
      const topics = Array.from({ length: 200 }, (_, group) => `g/${size}/${group}`);
      return [`a group of ${size}`, nodes(topics)];
    }),
    ["everybody", nodes(["all/x"])],
  ];
}

export async function simulate(): Promise<Simulated> {
  const names = Array.from({ length: node_count }, (_, n) => `node-${n}`);
  const rehashed = rehash(names);
  const announced_ids = per_node * rehashed.moved_share;
  const others = node_count - 1;
  const batches = Math.ceil(announced_ids / others / 1000);
  const announce_calls = others * others * batches;
  const rest = { announced_ids, announce_calls, interested: interest() };
  return { ...rehashed, ...await registry_of(names), ...await holdings_of(names), ...rest };
}

export function print_simulated(one: Simulated): void {
  const rows: [string, string][] = [
    ["registrar of an id among 100 nodes", `${one.hash_ns.toFixed(0)} ns`],
    ["of all 100 M ids, on one core", `${(one.hash_ns * device_count / 1e9).toFixed(0)} s`],
    ["ids at the fullest registrar, to the mean", one.fullest.toFixed(3)],
    ["ids that move when one node is lost", `${(one.moved_share * 100).toFixed(2)} %`],
    ["of those, not from the lost node", `${one.moved_needlessly}`],
    ["registry of a node, an id", `${one.registry_bytes.toFixed(0)} B`],
    ["registry of a node", `${(one.registry_bytes * per_node / 1e6).toFixed(0)} MB`],
    ["lost node: registry's new view", `${one.registry_view_ms.toFixed(0)} ms`],
    ["of that, the longest block", `${one.registry_block_ms.toFixed(1)} ms`],
    ["lost node: holdings' new view", `${one.holdings_view_ms.toFixed(0)} ms`],
    ["of that, the longest block", `${one.holdings_block_ms.toFixed(1)} ms`],
    ["lost node: ids each node announces", `${one.announced_ids.toFixed(0)}`],
    ["lost node: calls between nodes", `${one.announce_calls}`],
    ["copies of a stored publish, as it is", `${node_count - 1}`],
    ...one.interested.map(([kind, nodes]): [string, string] => {
      return [`nodes that want one to ${kind}`, nodes.toFixed(1)];
    }),
    ["a message from each device in so long fills every node", ""],
  ];
  const fills_min = device_count / follow_per_s / 60;
  rows[rows.length - 1]![1] = `${fills_min.toFixed(1)} min`;
  console.log("| 100 nodes, 100 million devices | |\n|---|---|");
  for (const [what, figure] of rows) console.log(`| ${what} | ${figure} |`);
}

if (import.meta.main) print_simulated(await simulate());
