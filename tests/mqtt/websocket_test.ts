/** MQTT over WebSocket (section 6 of both versions): what a server must do, and its bounds. */
import { assert, assertEquals } from "@std/assert";
import { limits } from "../../core/limits.ts";
import { Decoder, encode, type Packet } from "../../core/protocol/mqtt.ts";
import { proxy_header } from "../../core/protocol/proxy_header.ts";
import { concat } from "../cases/bytes.ts";
import { connect_packet, MqttClient, publish_packet } from "../support/mqtt_client.ts";
import { eventually, Service } from "../support/service.ts";
import { Inbox } from "../support/wait.ts";

/** A WebSocket to /mqtt whose packets can be waited for. */
class Socket implements AsyncDisposable {
  readonly packets = new Inbox<Packet>("WebSocket");
  readonly closed: Promise<CloseEvent>;
  readonly #decoder = new Decoder(5);

  private constructor(readonly ws: WebSocket) {
    ws.binaryType = "arraybuffer";
    ws.onmessage = ({ data }) => {
      for (const packet of this.#decoder.feed(new Uint8Array(data))) this.packets.push(packet);
    };
    ws.onerror = () => {};
    this.closed = new Promise((resolve) => ws.onclose = resolve);
    void this.closed.then(() => this.packets.end());
  }

  static async open({ http }: Service, protocols: string[] = ["mqtt"]): Promise<Socket> {
    const ws = new WebSocket(`${http.replace("http", "ws")}/mqtt`, protocols);
    const socket = new Socket(ws);
    await new Promise((resolve, reject) => {
      ws.onopen = resolve;
      void socket.closed.then(() => reject(new Error("not upgraded")));
    });
    return socket;
  }

  say(...packets: readonly Packet[]): void {
    this.ws.send(concat(...packets.map((packet) => encode(packet, 5))));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.ws.close();
    await this.closed;
  }
}

Deno.test("MQTT over WebSocket: packets cut anywhere are one stream", async () => {
  await using service = await Service.start();
  await using socket = await Socket.open(service);
  assertEquals(socket.ws.protocol, "mqtt"); // [MQTT-6.0.0-4]
  const packets: Packet[] = [connect_packet({ client_id: "ws" }), { type: "pingreq" }];
  const bytes = concat(...packets.map((packet) => encode(packet, 5)));
  for (const byte of bytes) socket.ws.send(Uint8Array.of(byte));
  assertEquals((await socket.packets.next())?.type, "connack");
  assertEquals((await socket.packets.next())?.type, "pingresp");
  socket.say({ type: "pingreq" }, { type: "pingreq" }, { type: "pingreq" });
  for (let n = 0; n < 3; n++) assertEquals((await socket.packets.next())?.type, "pingresp");
});

Deno.test("MQTT over WebSocket: messages pass both ways, large ones too", async () => {
  await using service = await Service.start();
  await using socket = await Socket.open(service);
  const { client } = await MqttClient.connect(service.mqtt);
  await client.subscribe("up", 1);
  socket.say(connect_packet());
  await socket.packets.next();
  const options = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
  const subscriptions = [{ filter: "down", qos: 1, ...options }] as const;
  socket.say({ type: "subscribe", packet_id: 1, subscriptions });
  await socket.packets.next();
  const payload = crypto.getRandomValues(new Uint8Array(60_000));
  const large = concat(...Array.from({ length: 10 }, () => payload));
  socket.say(publish_packet("up", large, { qos: 1, packet_id: 2 }));
  assertEquals((await client.receive()).payload, large);
  assertEquals((await socket.packets.next())?.type, "puback");
  await client.publish("down", large, { qos: 1 });
  const got = await socket.packets.next();
  assertEquals(got?.type === "publish" && got.payload, large);
  await client.close();
});

Deno.test("MQTT over WebSocket: a text frame ends the connection", async () => {
  await using service = await Service.start();
  await using socket = await Socket.open(service);
  socket.ws.send("MQTT"); // [MQTT-6.0.0-1]
  assertEquals((await socket.closed).code, 1003);
  await eventually("no connection is left", async () => {
    return await service.metric("longwire_connections") === 0;
  });
});

Deno.test("MQTT over WebSocket: mqtt must be offered, and the upgrade asked for", async () => {
  await using service = await Service.start();
  const plain = await fetch(`${service.http}/mqtt`);
  assertEquals([plain.status, (await plain.json()).code], [426, "upgrade_required"]);
  for (const protocols of [[], ["other"]]) { // [MQTT-6.0.0-3]
    const failed = await Socket.open(service, protocols).then(() => false, () => true);
    assert(failed);
  }
  await using other = await Socket.open(service, ["other", "mqtt"]);
  assertEquals(other.ws.protocol, "mqtt");
});

Deno.test("MQTT over WebSocket: both ends hear of the end", async () => {
  await using service = await Service.start();
  const { client: watch } = await MqttClient.connect(service.mqtt);
  await watch.subscribe("will", 1);
  const will = { topic: "will", payload: Uint8Array.of(1), qos: 1, retain: false } as const;
  const lost = await Socket.open(service);
  lost.say(connect_packet({ will, client_id: "lost" }));
  await lost.packets.next();
  lost.ws.close();
  assertEquals((await watch.receive()).topic, "will");
  const content = await Socket.open(service);
  content.say(connect_packet({ will, client_id: "content" }));
  await content.packets.next();
  content.say({ type: "disconnect", reason_code: 0 });
  content.ws.close(); // at once: DISCONNECT arrives all the same
  await eventually("one connection is left", async () => {
    return await service.metric("longwire_connections") === 1;
  });
  await watch.expect_nothing();
  const taken = await Socket.open(service);
  taken.say(connect_packet({ client_id: "same" }));
  await taken.packets.next();
  const { client: taker } = await MqttClient.connect(service.mqtt, { client_id: "same" });
  const goodbye = await taken.packets.next();
  assertEquals(goodbye?.type === "disconnect" && goodbye.reason_code, 0x8e);
  assertEquals((await taken.closed).code, 1000);
  for (const each of [taker, watch]) await each.close();
});

Deno.test("MQTT over WebSocket: a device that does not read costs bounded memory", async () => {
  await using service = await Service.start();
  const conn = await Deno.connect({
    hostname: "127.0.0.1",
    port: Number(new URL(service.http).port),
  });
  const request = [
    "GET /mqtt HTTP/1.1",
    "Host: 127.0.0.1",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol: mqtt",
  ];
  await conn.write(new TextEncoder().encode(request.join("\r\n") + "\r\n\r\n"));
  const options = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
  const subscriptions = [{ filter: "t", qos: 0, ...options }] as const;
  for (
    const packet of [connect_packet(), { type: "subscribe", packet_id: 1, subscriptions }] as const
  ) {
    const bytes = encode(packet, 5);
    await conn.write(Uint8Array.of(0x82, 0x80 | bytes.length, 0, 0, 0, 0, ...bytes)); // mask 0
  }
  await eventually("it has subscribed", async () => await service.metric("longwire_filters") === 1);
  const { client } = await MqttClient.connect(service.mqtt);
  const payload = new Uint8Array(500_000);
  const count = 60;
  for (let n = 0; n < count; n++) await client.publish("t", payload);
  await client.expect_nothing();
  const dropped = 'longwire_messages_dropped_total{code="slow_consumer"}';
  const most = limits.out_queue_soft_bytes + limits.websocket_unread_bytes + (12 << 20); // kernel
  await eventually("most of it is dropped", async () => {
    return await service.metric(dropped) >= count - most / payload.length;
  });
  conn.close();
  await client.close();
});

Deno.test("a PROXY header says whose connection it is", () => {
  const text = (host: string) => proxy_header(host, 0x1234).subarray(12).toHex();
  assertEquals(text("10.1.2.3"), "2111000c0a0102030000000012340000");
  const zeros = "0".repeat(32);
  assertEquals(text("::1"), `21210024${"0".repeat(31)}1${zeros}12340000`);
  assertEquals(text("fe80::1:2%eth0"), `21210024fe800000000000000000000000010002${zeros}12340000`);
  assertEquals(text("somewhere"), "20000000");
});
