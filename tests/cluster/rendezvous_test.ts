/** Who names the owner of an id: evenly shared, moved no more than needed, told by changes. */
import { assert, assertEquals } from "@std/assert";
import { type Member, Rendezvous, type View, ViewChange } from "../../core/cluster/mod.ts";
import { random_of, seed_for } from "../cases/random.ts";

const ids = Array.from({ length: 100_000 }, (_, n) => `device-${n}`);

function view_of(number: number, runs: ReadonlyMap<string, string>): View {
  const members = [...runs].map(([node_id, run]) => [node_id, { node_id, run } as Member] as const);
  return { number, members: new Map(members) };
}

Deno.test("rendezvous: 100 nodes have the same share, whatever order they are told in", () => {
  const names = Array.from({ length: 100 }, (_, n) => `node-${n}`);
  const rendezvous = new Rendezvous(names);
  const turned = new Rendezvous(names.toReversed());
  const counts = new Map<string, number>();
  for (const id of ids) {
    const registrar = rendezvous.registrar_of(id);
    assertEquals(turned.registrar_of(id), registrar);
    counts.set(registrar, (counts.get(registrar) ?? 0) + 1);
  }
  const mean = ids.length / names.length;
  const most = Math.max(...counts.values());
  const least = Math.min(...names.map((name) => counts.get(name) ?? 0));
  assert(most < mean * 1.2 && least > mean * 0.8, `${least} to ${most}, mean ${mean}`);
});

Deno.test("rendezvous: nodes of all versions name the same registrar", () => {
  const names = Array.from({ length: 7 }, (_, n) => `node-${n}`);
  const rendezvous = new Rendezvous(names);
  const named = ids.slice(0, 12).map((id) => rendezvous.registrar_of(id).slice(5)).join("");
  assertEquals(named, "111152060564");
});

Deno.test("rendezvous: a change of the view says which ids it moves", () => {
  const seed = seed_for("changes of views");
  const random = random_of(seed);
  const runs = new Map<string, string>();
  let before = view_of(0, runs);
  for (let number = 1; number < 200; number++) {
    const node_id = `node-${Math.floor(random() * 12)}`;
    if (runs.has(node_id) && random() < 0.6) runs.delete(node_id);
    else runs.set(node_id, `run-${number}`);
    const view = view_of(number, runs);
    const change = new ViewChange(before, view);
    const [was, is] = [new Rendezvous(before.members.keys()), new Rendezvous(runs.keys())];
    for (let n = 0; n < 200; n++) {
      const id = ids[Math.floor(random() * ids.length)]!;
      const [one, other] = [was.registrar_of(id), is.registrar_of(id)];
      const is_same = one === other && before.members.get(one)?.run === runs.get(other);
      assertEquals(change.moves(id, one), !is_same, `seed ${seed}, view ${number}, ${id}`);
      if (one === other) continue;
      assert(!runs.has(one) || !before.members.has(other), `${id} moved needlessly, seed ${seed}`);
    }
    before = view;
  }
});
