/** A node that is emptied, or ends: its devices go where they are told, and miss nothing. */
import { assert, assertEquals } from "@std/assert";
import { type Client, connect } from "../../core/client.ts";
import { cluster_programs, members_of, TestCluster } from "../support/cluster.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually, type Service } from "../support/service.ts";

const persistent = { clean: false, properties: { sessionExpiryInterval: 3600 } };

/** A Longwire client that knows of one node only, and writes down what it gets. */
class Follower {
  readonly client: Client;
  readonly heard: string[] = [];
  readonly places: string[] = [];
  readonly ended: Promise<void>;

  constructor({ device: { host, port } }: Service, session_id: string) {
    this.client = connect({ address: `${host}:${port}`, session_id });
    this.ended = this.#read();
  }

  async #read(): Promise<void> {
    for await (const event of this.client) {
      if (event.type === "connecting") this.places.push(event.address);
      if (event.type === "message") {
        this.heard.push(new TextDecoder().decode(event.message.payload));
      }
    }
  }

  async close(): Promise<void> {
    await this.client.close();
    await this.ended;
  }
}

function place_of({ device: { host, port } }: Service): string {
  return `${host}:${port}`;
}

test_with(
  cluster_programs,
  "drain: Longwire clients follow, with nothing lost or twice",
  async () => {
    await using cluster = await TestCluster.start(2);
    const [a, b] = cluster.nodes;
    const followers = Array.from({ length: 5 }, (_, n) => new Follower(a, `f${n}`));
    try {
      for (const { client } of followers) await client.subscribe("t/+");
      let published = 0;
      let is_over = false;
      const publish = async () => {
        while (!is_over) {
          assertEquals((await b.publish("t/http", `h${published++}`)).status, 200);
        }
      };
      // One of them publishes too, over the move.
      const own = async () => {
        for (let n = 0; n < 200; n++) {
          await followers[0]!.client.publish("t/own", new TextEncoder().encode(`o${n}`));
        }
      };
      const publishing = publish();
      const owning = own();
      const [first] = followers;
      await eventually("traffic", () => Promise.resolve(first!.heard.length > 50));
      const drain = await fetch(`${b.http}/v1/nodes/a/drain`, { method: "POST" });
      assertEquals((await drain.json()).draining, true);
      await eventually("drained", () => {
        return Promise.resolve(a.log.some((line) => line.includes("drained")));
      });
      await owning;
      is_over = true;
      await publishing;
      const of = (follower: Follower, kind: string) => {
        return follower.heard.filter((text) => text.startsWith(kind));
      };
      const expected = (kind: string, count: number) => {
        return Array.from({ length: count }, (_, n) => `${kind}${n}`);
      };
      for (const follower of followers) {
        await eventually("everything", () => {
          return Promise.resolve(follower.heard.length >= published + 200);
        });
        assertEquals(of(follower, "h"), expected("h", published));
        // One whose answer was cut off with the connection is published again.
        assertEquals([...new Set(of(follower, "o"))], expected("o", 200));
        assert(of(follower, "o").length <= 201);
        assertEquals(follower.places, [place_of(a), place_of(b)]);
      }
    } finally {
      for (const follower of followers) await follower.close();
    }
  },
);

test_with(
  cluster_programs,
  "drain: a node that is ended sends its devices away first",
  async () => {
    await using cluster = await TestCluster.start(2);
    const [a, b] = cluster.nodes;
    const follower = new Follower(a, "f");
    try {
      await follower.client.subscribe("t");
      const five = await MqttJs.connect(a.mqtt, { clientId: "five", ...persistent });
      const four = await MqttJs.connect(a.mqtt, {
        clientId: "four",
        clean: false,
        protocolVersion: 4,
      });
      for (const device of [five, four]) await device.subscribe("t", 1);
      const told = new Promise<string | undefined>((resolve) => {
        five.client.on("disconnect", ({ properties }) => resolve(properties?.serverReference));
      });
      const begin_ms = performance.now();
      assertEquals(await a.stop(), 0);
      assert(performance.now() - begin_ms < 10_000);
      assertEquals(await told, `${b.mqtt.host}:${b.mqtt.port}`);
      assertEquals(await five.closed, 0x9c);
      assertEquals(await four.closed, undefined); // 3.1.1 has no word for it
      assert(a.log.some((line) => line.includes("drained")));
      await cluster.settled(1, [b]);
      assertEquals(await members_of(b), ["b"]);
      await b.publish("t", "x");
      await eventually("the follower hears it", () => Promise.resolve(follower.heard.length === 1));
      for (const [clientId, protocolVersion] of [["five", 5], ["four", 4]] as const) {
        const options = protocolVersion === 5 ? persistent : { clean: false };
        await using back = await MqttJs.connect(b.mqtt, { clientId, protocolVersion, ...options });
        assertEquals(back.session_present, true);
        assertEquals((await back.messages.next())?.payload, "x");
      }
    } finally {
      await follower.close();
    }
  },
);

test_with(cluster_programs, "drain: a second SIGTERM does not wait for it", async () => {
  await using cluster = await TestCluster.start(2);
  const [a] = cluster.nodes;
  const device = await MqttJs.connect(a.mqtt, { clientId: "d", ...persistent });
  await device.subscribe("t", 1);
  // The store takes nothing: what is known of the session cannot be left for others.
  const [nats] = cluster.nats.members;
  Deno.kill(nats!.program.pid, "SIGSTOP");
  try {
    const { pid } = a.program;
    Deno.kill(pid, "SIGTERM");
    await eventually("draining", () => {
      return Promise.resolve(a.log.some((line) => line.includes("draining")));
    });
    // Two signals within a second are one (main.ts), and the drain goes on for eight.
    let status: number | undefined;
    a.program.status().then((code) => status = code);
    await eventually("the end", () => {
      try {
        if (status === undefined) Deno.kill(pid, "SIGTERM");
      } catch {
        // it has just ended
      }
      return Promise.resolve(status !== undefined);
    }, 6000);
    assertEquals(status, 143);
  } finally {
    Deno.kill(nats!.program.pid, "SIGCONT");
    await device.cut();
  }
});
