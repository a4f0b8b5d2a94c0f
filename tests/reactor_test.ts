/** ffi/reactor.ts against the real library: what no other test of the service sees from outside. */
import { assert, assertEquals } from "@std/assert";
import { busy_packet } from "../core/device_mqtt.ts";
import { limits } from "../core/limits.ts";
import { encode } from "../core/protocol/mqtt.ts";
import { choose_backend } from "../ffi/backend.ts";
import { open_reactor, protocols, type ReactorHandler } from "../ffi/reactor.ts";
import { connect_packet, MqttClient } from "./support/mqtt_client.ts";
import { eventually } from "./support/service.ts";

const frames = 500;

/** Lets devices in, and notes the packet ids of what they send. */
function noting(activate: (conn: number, generation: number) => void, ids: number[]) {
  const ignore = () => {};
  return {
    on_frame: (conn, generation, bytes, begin, _end, first) => {
      if (first) activate(conn, generation);
      else ids.push(bytes[begin + 2]! << 8 | bytes[begin + 3]!);
    },
    on_violation: ignore,
    on_closed: ignore,
    on_ended: ignore,
    on_acked: ignore,
    on_behind: ignore,
    on_room: ignore,
    on_settled: ignore,
    on_stretch: ignore,
    on_traced: ignore,
    on_dropping: ignore,
  } satisfies ReactorHandler;
}

Deno.test("a poll whose time is over leaves the rest for the next, in order", async () => {
  const { path } = await choose_backend(["kqueue", "epoll"]);
  const options = {
    ...limits,
    thread_count: 2,
    connections_max: 16,
    connects_per_s: 0,
    connects_per_source_per_s: 0,
    connections_per_source: 0,
  };
  const reactor = open_reactor(path, options);
  try {
    const host = "127.0.0.1";
    const listen = {
      protocol: protocols.mqtt,
      address: host,
      port: 0,
      busy: busy_packet,
    };
    const port = reactor.listen(listen);
    const ids: number[] = [];
    const options = {
      keepalive_ms: 0,
      inflight_max: 0,
      frame_bytes_max: 0,
      report_acks: false,
      hold_releases: false,
    };
    const handler = noting((conn, generation) => {
      reactor.activate(conn, generation, options);
      reactor.flush();
    }, ids);
    await using client = await MqttClient.open({ host, port });
    const wanted = Array.from({ length: frames }, (_, index) => index + 1);
    const bytes = wanted.map((packet_id) => {
      return encode({ type: "unsubscribe", packet_id, filters: ["a"] }, 5);
    });
    await client.say(connect_packet());
    for (const each of bytes) await client.send(each);
    let most = 0;
    await eventually("all frames", () => {
      most = Math.max(most, reactor.poll(handler, 0));
      return Promise.resolve(ids.length === frames);
    });
    assertEquals(ids, wanted);
    assert(most > 0 && most <= 32, `${most} events in one poll`);
    assertEquals(reactor.poll(handler, 0), 0);
  } finally {
    reactor.close();
  }
});
