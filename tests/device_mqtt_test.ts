/** The MQTT driver against a reactor without sockets: what the real service is not set to do. */
import { assertEquals } from "@std/assert";
import { MqttDriver } from "../core/device_mqtt.ts";
import { Hub } from "../core/hub.ts";
import { Log } from "../core/log.ts";
import { type Connack, decode_frame, encode, type Version } from "../core/protocol/mqtt.ts";
import { Router } from "../core/router.ts";
import { Sessions } from "../core/sessions.ts";
import { MemoryStore } from "../core/store/memory.ts";
import { FakeReactor } from "./fake_reactor.ts";
import { connect_packet } from "./support/mqtt_client.ts";

/** What CONNACK says, and the keep alive that the reactor is told, seconds. */
function connect(keepalive_max_s: number, version: Version, keepalive_s: number) {
  const reactor = new FakeReactor();
  const store = new MemoryStore();
  const router = new Router(reactor, store, Date.now);
  const log = new Log({ level: "warn", format: "text", write: () => {}, now_ms: Date.now });
  const sessions = new Sessions(store, Date.now, log);
  const hub = new Hub(reactor, router, sessions, log);
  const options = { keepalive_max_s };
  hub.drivers.push(new MqttDriver(reactor, router, sessions, hub, Date.now, options));
  let keepalive_ms = -1;
  const activate = reactor.activate.bind(reactor);
  reactor.activate = (conn, generation, options) => {
    keepalive_ms = options.keepalive_ms;
    activate(conn, generation, options);
  };
  const device = reactor.connect(0);
  reactor.from_device(device, encode(connect_packet({ version, keepalive_s }), version));
  reactor.poll(hub);
  router.end_turn();
  while (reactor.step());
  const [frame] = device.out;
  const connack = decode_frame(frame, 0, frame.length, version) as Connack;
  return [connack.properties?.server_keepalive_s, keepalive_ms / 1500];
}

Deno.test("a keep alive over the service's maximum is replaced", () => {
  assertEquals(connect(60, 5, 30), [undefined, 30]);
  assertEquals(connect(60, 5, 60), [undefined, 60]);
  assertEquals(connect(60, 5, 61), [60, 60]);
  assertEquals(connect(60, 5, 0), [60, 60]);
  assertEquals(connect(60, 4, 61), [undefined, 61]); // cannot be told of another
  assertEquals(connect(65_535, 5, 0), [undefined, 0]);
  assertEquals(connect(65_535, 5, 65_535), [undefined, 65_535]);
});
