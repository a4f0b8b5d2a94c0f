/** The follower of a stream, on a real nats-server: held back, and with its server gone. */
import { assert, assertEquals } from "@std/assert";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { JetStreamFollower } from "../../core/store/jetstream_follower.ts";
import { connect_nats } from "../../core/store/nats.ts";
import { start_nats } from "../support/cluster_programs.ts";
import { test_with } from "../support/process.ts";
import { eventually } from "../support/service.ts";

const payload_bytes = 64 << 10;
const messages = 1600;
/** nats-server's JsFlowControlMaxPending. */
const window_bytes = 32 << 20;

test_with(
  ["nats-server"],
  "follower: what finds no room waits, and most of it in NATS",
  async () => {
    await using servers = await start_nats();
    const nats = await connect_nats([servers.addresses], "test");
    const manager = await jetstreamManager(nats);
    await manager.streams.add({ name: "s", subjects: ["s.>"] });
    const heard: number[] = [];
    let has_room = false;
    const follower = new JetStreamFollower(nats, manager, "s", 0, (seq) => heard.push(seq));
    follower.has_room = () => has_room;
    const stream = jetstream(nats);
    const publish = (count: number) =>
      Promise.all(Array.from({ length: count }, () => {
        return stream.publish("s.x", new Uint8Array(payload_bytes));
      }));
    for (let sent = 0; sent < messages; sent += 100) await publish(100);
    // The server waits for an answer to its flow control: no more comes.
    const most = window_bytes / payload_bytes + 100;
    for (let before = -1; before !== follower.waiting;) {
      before = follower.waiting;
      await stream.publish("s.x", new Uint8Array(payload_bytes));
    }
    assert(follower.waiting > 0 && follower.waiting <= most, `${follower.waiting} wait here`);
    assertEquals(heard, []);
    has_room = true;
    const { state } = await manager.streams.info("s");
    await eventually("all come", () => Promise.resolve(heard.length === state.last_seq));
    assertEquals(heard, Array.from({ length: state.last_seq }, (_, n) => n + 1));
    assertEquals(follower.restarts, 0);

    // Its server is killed and comes back: it goes on where it was.
    const [server] = servers.members;
    await server!.program.end("SIGKILL");
    server!.restart();
    await eventually("the server is back", () => publish(1).then(() => true, () => false));
    await eventually("it goes on", () => Promise.resolve(heard.at(-1)! > state.last_seq));
    assertEquals(heard, Array.from({ length: heard.length }, (_, n) => n + 1));
    follower.close();
    await nats.close();
  },
);
