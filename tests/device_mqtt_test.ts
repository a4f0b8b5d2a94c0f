/** The MQTT driver against a reactor without sockets: what the real service is not set to do. */
import { assertEquals } from "@std/assert";
import { MqttDriver } from "../core/device_mqtt.ts";
import { codes } from "../core/codes.ts";
import { Hub } from "../core/hub.ts";
import { Log } from "../core/log.ts";
import {
  type Connack,
  decode_frame,
  encode,
  type Packet,
  type Version,
} from "../core/protocol/mqtt.ts";
import { Router } from "../core/router.ts";
import { Sessions } from "../core/sessions.ts";
import { MemoryStore } from "../core/store/memory.ts";
import { FakeReactor } from "./fake_reactor.ts";
import { connect_packet } from "./support/mqtt_client.ts";

/** A service of one device that has sent CONNECT, and what it has been answered. */
function service_of(keepalive_max_s: number, version: Version, keepalive_s: number) {
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
  return { hub, sessions, router, reactor, device, keepalive_s: keepalive_ms / 1500 };
}

function packet_of(frame: Uint8Array, version: Version): Packet {
  return decode_frame(frame, 0, frame.length, version);
}

/** What CONNACK says, and the keep alive that the reactor is told, seconds. */
function connect(keepalive_max_s: number, version: Version, keepalive_s: number) {
  const service = service_of(keepalive_max_s, version, keepalive_s);
  const connack = packet_of(service.device.out[0], version) as Connack;
  return [connack.properties?.server_keepalive_s, service.keepalive_s];
}

Deno.test("a device that is sent elsewhere is told where (3.14.2.2.5)", () => {
  for (const [code, is_named] of [["moved", true], ["moved", false], ["fenced", false]] as const) {
    const { hub, sessions, router, reactor, device } = service_of(60, 5, 60);
    const [session] = [...sessions.all()];
    const place = is_named ? { mqtt: "other:1883", device: "other:7000" } : undefined;
    hub.close(session, codes[code], "go", place);
    router.end_turn();
    while (reactor.step());
    const last = packet_of(device.out.at(-1)!, 5);
    const reference = is_named ? { server_reference: "other:1883" } : {};
    assertEquals(last, {
      type: "disconnect",
      reason_code: 0x9c, // Use another server
      properties: { reason_string: "go", ...reference },
    });
  }
  const { hub, sessions, router, reactor, device } = service_of(60, 4, 60);
  hub.close([...sessions.all()][0], codes.moved);
  router.end_turn();
  while (reactor.step());
  assertEquals(device.out.length, 1); // 3.1.1 has no word for it
});

Deno.test("a keep alive over the service's maximum is replaced", () => {
  assertEquals(connect(60, 5, 30), [undefined, 30]);
  assertEquals(connect(60, 5, 60), [undefined, 60]);
  assertEquals(connect(60, 5, 61), [60, 60]);
  assertEquals(connect(60, 5, 0), [60, 60]);
  assertEquals(connect(60, 4, 61), [undefined, 61]); // cannot be told of another
  assertEquals(connect(65_535, 5, 0), [undefined, 0]);
  assertEquals(connect(65_535, 5, 65_535), [undefined, 65_535]);
});
