/**
 * A client of MQTT 3.1.1 and 5 for tests, packet by packet: it does nothing of its own accord, so a
 * test says exactly what is sent and sees exactly what comes.
 */
import type { Address } from "../../core/address.ts";
import {
  type Connack,
  type Connect,
  Decoder,
  encode,
  type Packet,
  type PacketType,
  type Publish,
  type Subscription,
  type Version,
} from "../../core/protocol/mqtt.ts";
import type { Qos } from "../../core/message.ts";
import { concat } from "../cases/bytes.ts";
import { RawConnection } from "./raw.ts";

type Of<Type extends PacketType> = Extract<Packet, { type: Type }>;

export interface ConnectOptions extends Partial<Omit<Connect, "type" | "version">> {
  readonly version?: Version;
}

export type SubscribeOptions = Partial<Omit<Subscription, "filter">>;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class MqttClient extends RawConnection<Packet> {
  #packet_id = 0;
  /** Packets that came while another was waited for. */
  readonly #held: Packet[] = [];

  constructor(conn: Deno.TcpConn, readonly version: Version, readonly name: string) {
    super(conn, name, new Decoder(version));
  }

  /** A TCP connection on which nothing was sent. */
  static async open(
    { host, port }: Address,
    version: Version = 5,
    name = "client",
  ): Promise<MqttClient> {
    const conn = await Deno.connect({ hostname: host, port });
    conn.setNoDelay(true);
    return new MqttClient(conn, version, name);
  }

  /** Sends CONNECT and waits for the CONNACK, whatever it says. */
  static async connect(
    address: Address,
    options: ConnectOptions = {},
  ): Promise<{ client: MqttClient; connack: Connack }> {
    const packet = connect_packet(options);
    const client = await MqttClient.open(address, packet.version, packet.client_id);
    await client.say(packet);
    return { client, connack: await client.expect("connack") };
  }

  /** Sends packets, in one piece. */
  async say(...packets: readonly Packet[]): Promise<void> {
    await this.send(concat(...packets.map((packet) => encode(packet, this.version))));
  }

  /** The next packet; undefined = the service closed the connection. */
  next(timeout_ms?: number): Promise<Packet | undefined> {
    const held = this.#held.shift();
    return held === undefined ? this.packets.next(timeout_ms) : Promise.resolve(held);
  }

  /** The next packet, which must be of this type. */
  async expect<Type extends PacketType>(type: Type): Promise<Of<Type>> {
    const packet = await this.next();
    if (packet?.type === type) return packet as Of<Type>;
    throw new Error(`${this.name}: ${type} expected, not ${text_of(packet)}`);
  }

  /** A packet identifier that this method has not given lately. */
  packet_id(): number {
    return this.#packet_id = this.#packet_id % 65_535 + 1;
  }

  /** SUBSCRIBE with one filter; answers its reason code. PUBLISH packets may not come before it. */
  async subscribe(
    filter: string,
    qos: Qos = 0,
    options: SubscribeOptions = {},
    subscription_id = 0,
  ): Promise<number> {
    const subscription = {
      filter,
      qos,
      no_local: false,
      retain_as_published: false,
      retain_handling: 0,
      ...options,
    } as const;
    const packet_id = this.packet_id();
    const properties = subscription_id === 0 ? {} : { properties: { subscription_id } };
    await this.say({ type: "subscribe", packet_id, subscriptions: [subscription], ...properties });
    const suback = await this.expect("suback");
    if (suback.packet_id !== packet_id || suback.reason_codes.length !== 1) {
      throw new Error(`${this.name}: another SUBACK: ${text_of(suback)}`);
    }
    return suback.reason_codes[0];
  }

  async unsubscribe(filter: string): Promise<readonly number[]> {
    const packet_id = this.packet_id();
    await this.say({ type: "unsubscribe", packet_id, filters: [filter] });
    return (await this.expect("unsuback")).reason_codes;
  }

  /** PUBLISH, and its exchange up to the end; answers the reason code. */
  async publish(
    topic: string,
    payload: string | Uint8Array,
    options: Partial<Omit<Publish, "type" | "topic" | "payload">> = {},
  ): Promise<number> {
    const qos = options.qos ?? 0;
    const packet_id = qos === 0 ? 0 : options.packet_id ?? this.packet_id();
    await this.say(publish_packet(topic, payload, { ...options, packet_id }));
    if (qos === 0) return 0;
    const first = await this.expect(qos === 1 ? "puback" : "pubrec");
    if (qos === 1 || first.reason_code >= 0x80) return first.reason_code;
    await this.say({ type: "pubrel", packet_id, reason_code: 0 });
    return (await this.expect("pubcomp")).reason_code;
  }

  /** The next packet, a PUBLISH, acknowledged to the end. */
  async receive(): Promise<Publish> {
    const packet = await this.expect("publish");
    await this.acknowledge(packet);
    return packet;
  }

  async acknowledge({ qos, packet_id }: Publish): Promise<void> {
    if (qos === 0) return;
    await this.say({ type: qos === 1 ? "puback" : "pubrec", packet_id, reason_code: 0 });
    if (qos === 1) return;
    for (;;) { // other packets may come before it
      const packet = await this.packets.next();
      if (packet === undefined) throw new Error(`${this.name}: closed before PUBREL`);
      if (packet.type === "pubrel" && packet.packet_id === packet_id) break;
      this.#held.push(packet);
    }
    await this.say({ type: "pubcomp", packet_id, reason_code: 0 });
  }

  /** Fails when a packet comes before the answer to a PINGREQ. */
  async expect_nothing(): Promise<void> {
    await this.say({ type: "pingreq" });
    await this.expect("pingresp");
  }

  /** Fails when a PUBLISH of another topic comes before the answer to a PINGREQ. */
  async expect_nothing_but(is_expected: (topic: string) => boolean): Promise<void> {
    await this.say({ type: "pingreq" });
    for (;;) {
      const packet = await this.next();
      if (packet?.type === "pingresp") return;
      if (packet?.type === "publish" && is_expected(packet.topic)) await this.acknowledge(packet);
      else throw new Error(`${this.name}: not expected: ${text_of(packet)}`);
    }
  }

  /** DISCONNECT, as a client that is content. */
  async disconnect(packet: Partial<Of<"disconnect">> = {}): Promise<void> {
    await this.say({ type: "disconnect", reason_code: 0, ...packet });
    await this.closed();
    await this.close();
  }

  /** Ends the connection without a word. */
  close(): Promise<void> {
    return this[Symbol.asyncDispose]();
  }
}

export function connect_packet(options: ConnectOptions = {}): Connect {
  return {
    type: "connect",
    version: 5,
    clean_start: true,
    keepalive_s: 60,
    client_id: "",
    ...options,
  };
}

export function publish_packet(
  topic: string,
  payload: string | Uint8Array,
  options: Partial<Omit<Publish, "type" | "topic" | "payload">> = {},
): Publish {
  const bytes = typeof payload === "string" ? encoder.encode(payload) : payload;
  return {
    type: "publish",
    topic,
    payload: bytes,
    qos: 0,
    retain: false,
    dup: false,
    packet_id: 0,
    ...options,
  };
}

export function payload_text({ payload }: Publish): string {
  return decoder.decode(payload);
}

function text_of(packet: Packet | undefined): string {
  return packet === undefined ? "the end of the connection" : Deno.inspect(packet);
}
