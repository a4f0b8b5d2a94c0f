/**
 * NATS is killed under load and comes back: publishes are answered in time with what was done,
 * those who are connected hear them on every node, and what was called stored is there afterwards.
 */
import { assert, assertEquals } from "@std/assert";
import { hear_batch, NodeOutage, type OtherNodes } from "../../core/cluster/outage.ts";
import { cluster_programs, TestCluster } from "../support/cluster.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually, type Service } from "../support/service.ts";
import { within } from "../support/wait.ts";

/** Longest that a publish may wait while the log is away: for the store, then for a node. */
const answer_ms_max = 4000;

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly took_ms: number;
}

/** A back end that publishes all the time, numbers as payloads. */
class Load {
  readonly answers: Answer[] = [];
  #stopped = false;
  readonly #done: Promise<void>;

  constructor(readonly node: Service, readonly topic: string) {
    this.#done = this.#run();
  }

  /** The newest answer of a status; undefined = there was none. */
  last(status: number): Answer | undefined {
    return this.answers.findLast((answer) => answer.status === status);
  }

  /** Waits for so many more answers of a status. */
  async more(status: number, count: number): Promise<void> {
    const wanted = this.#count(status) + count;
    await eventually(`${count} answers ${status}`, () => {
      return Promise.resolve(this.#count(status) >= wanted);
    }, 30_000);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }

  #count(wanted: number): number {
    return this.answers.filter(({ status }) => status === wanted).length;
  }

  async #run(): Promise<void> {
    for (let n = 0; !this.#stopped; n++) {
      const begin_ms = performance.now();
      const { status, body } = await this.node.publish(this.topic, String(n));
      this.answers.push({ status, body, took_ms: performance.now() - begin_ms });
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

/** Offsets of all messages of a topic, from its history. */
async function offsets_of(node: Service, topic: string): Promise<Set<number>> {
  const offsets = new Set<number>();
  let after: string | null = "";
  while (after !== null) {
    const url = `${node.http}/v1/topics/${topic}/messages?limit=1000`;
    const page = await (await fetch(after === "" ? url : `${url}&after=${after}`)).json();
    for (const { offset } of page.messages) offsets.add(offset);
    after = page.next;
  }
  return offsets;
}

/** A node that answers when the test says so. */
class SlowNodes implements OtherNodes {
  readonly batches: { readonly topics: string[]; answer(audiences: number[] | null): void }[] = [];

  others(): readonly string[] {
    return ["b"];
  }

  deliver(_node_id: string, batch: Uint8Array): Promise<readonly number[]> {
    const topics: string[] = [];
    hear_batch(batch, ({ topic }) => topics.push(topic));
    const { promise, resolve, reject } = Promise.withResolvers<readonly number[]>();
    const answer = (audiences: number[] | null) => {
      if (audiences === null) reject(new Error("too late"));
      else resolve(audiences);
    };
    this.batches.push({ topics, answer });
    return promise;
  }
}

Deno.test("outage: one batch at a time to a node, in order, each message answered", async () => {
  const nodes = new SlowNodes();
  const outage = new NodeOutage(nodes);
  const pass = (topic: string) =>
    outage.pass({
      ...{ topic, payload: new Uint8Array(10), qos: 1, retain: false },
      ...{ time_ms: 1, expires_ms: 0, key: "" },
    }, 1);
  const first = [pass("1"), pass("2")];
  await eventually("the first batch", () => Promise.resolve(nodes.batches.length === 1));
  const second = [pass("3"), pass("4"), pass("5")]; // while the first is under way
  nodes.batches[0]!.answer([5, 7]);
  assertEquals((await Promise.all(first)).map(({ audience }) => audience), [6, 8]);
  await eventually("the second batch", () => Promise.resolve(nodes.batches.length === 2));
  nodes.batches[1]!.answer(null);
  assertEquals(
    (await Promise.all(second)).map(({ audience, nodes, missed }) => {
      return [audience, nodes, missed];
    }),
    Array(3).fill([1, 0, ["b"]]),
  );
  assertEquals(nodes.batches.map(({ topics }) => topics), [["1", "2"], ["3", "4", "5"]]);
  assertEquals([outage.passed, outage.missed], [2, 3]);
});

test_with(cluster_programs, "outage: without NATS messages pass from node to node", async () => {
  await using cluster = await TestCluster.start(2);
  const [a, b] = cluster.nodes;
  const [nats] = cluster.nats.members;
  const heard = await Promise.all([a, b].map(async (node) => {
    const device = await MqttJs.connect(node.mqtt, { clientId: `on-${node.mqtt.port}` });
    await device.subscribe("t/#", 1);
    return device;
  }));
  const publisher = await MqttJs.connect(a.mqtt, { clientId: "p5" });
  const old = await MqttJs.connect(a.mqtt, {
    ...{ clientId: "p4", protocolVersion: 4, clean: false, reconnectPeriod: 100 },
  });
  const load = new Load(a, "t/load");
  const degradation = (node: Service) => node.metric("longwire_degradation_step");
  try {
    await load.more(200, 20);
    await nats!.program.end("SIGKILL");
    const killed_ms = performance.now();
    await load.more(202, 1);
    console.log(`202 for the first time ${Math.round(performance.now() - killed_ms)} ms after`);
    await load.more(202, 50);
    const { body } = load.last(202)!;
    const { id, stored, audience, nodes, missed, code } = body;
    assertEquals({ id, stored, audience, nodes, missed, code }, {
      ...{ id: null, stored: false, audience: 2, nodes: 1, missed: [], code: "not_stored" },
    });
    await eventually("both are detached", async () => {
      return await degradation(a) === 3 && await degradation(b) === 3;
    });
    assertEquals(await (await fetch(`${b.http}/readyz`)).json(), { status: "detached" });
    await eventually("each node says so of all", async () => {
      const { nodes } = await (await fetch(`${b.http}/v1/nodes`)).json();
      return nodes.every((node: Record<string, unknown>) => node.degradation === "detached");
    });

    // Everybody who is connected hears it, from either node, QoS 0 too.
    assertEquals((await b.publish("t/from-b", "1")).status, 202);
    assertEquals((await b.publish("t/passing", "2", "qos=0")).status, 200);
    for (const device of heard) {
      await device.messages.find(({ topic }) => topic === "t/from-b", "t/from-b");
      await device.messages.find(({ topic }) => topic === "t/passing", "t/passing");
    }
    // MQTT 5 is told so, and may try again; 3.1.1 has no word for it and is not answered.
    const refused = await publisher.publish("t/five", "5", 1).then(() => "", (error) => {
      return `${error.code ?? error}`;
    });
    assertEquals(refused, String(0x83));
    const answered = old.publish("t/four", "4", 1);
    for (const device of heard) {
      for (const topic of ["t/five", "t/four"]) {
        await device.messages.find((message) => message.topic === topic, topic);
      }
    }

    // It comes back by itself.
    nats!.restart();
    const revived_ms = performance.now();
    await load.more(200, 1);
    console.log(`200 again ${Math.round(performance.now() - revived_ms)} ms after the restart`);
    await eventually("both are back", async () => {
      return await degradation(a) === 0 && await degradation(b) === 0;
    });
    await within(answered, "PUBACK for what was withheld"); // from the connection after it
    await load.more(200, 20);
    assertEquals((await offsets_of(b, "t/four")).size > 0, true);
  } finally {
    await load.stop();
    for (const device of [...heard, publisher, old]) await device.cut();
  }
  const worst_ms = Math.max(...load.answers.map(({ took_ms }) => took_ms));
  const counts = Map.groupBy(load.answers, ({ status }) => status);
  const seen = [...counts].map(([status, { length }]) => `${length} x ${status}`).join(", ");
  console.log(`answers: ${seen}; the slowest after ${Math.round(worst_ms)} ms`);
  assert(worst_ms < answer_ms_max, "every publish is answered in time");
  for (const status of counts.keys()) assert([200, 202, 503].includes(status), `${status}`);
  // What was called stored is there, and what was not is not.
  const offsets = await offsets_of(b, "t/load");
  const lost = counts.get(200)!.filter(({ body }) => !offsets.has(body.offset as number));
  assertEquals(lost.length, 0);
});
