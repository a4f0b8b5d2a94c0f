/**
 * Connections byte by byte, for what no proper client would send, and for what it would never show.
 */
import type { Address } from "../../core/address.ts";
import type { StreamDecoder } from "../../core/protocol/incremental.ts";
import * as longwire from "../../core/protocol/longwire.ts";
import * as mqtt from "../../core/protocol/mqtt.ts";
import { Inbox } from "./wait.ts";

/** A TCP connection whose incoming packets can be waited for; `undefined` from next() = closed. */
export class RawConnection<Packet> implements AsyncDisposable {
  readonly packets: Inbox<Packet>;
  readonly #done: Promise<void>;
  received_bytes = 0;

  protected constructor(
    readonly socket: Deno.TcpConn,
    name: string,
    readonly decoder: StreamDecoder<Packet>,
  ) {
    this.packets = new Inbox(name);
    this.#done = this.#read();
  }

  async #read(): Promise<void> {
    const room = new Uint8Array(64 << 10);
    try {
      for (;;) {
        const size = await this.socket.read(room);
        if (size === null) return;
        this.received_bytes += size;
        for (const packet of this.decoder.feed(room.subarray(0, size))) this.packets.push(packet);
      }
    } catch {
      // reset, or closed by the test: the end of it all the same
    } finally {
      this.packets.end();
    }
  }

  async send(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.socket.write(bytes.subarray(at));
  }

  /** Waits until the service has closed the connection; answers what came before. */
  async closed(): Promise<Packet[]> {
    const rest: Packet[] = [];
    for (;;) {
      const packet = await this.packets.next();
      if (packet === undefined) return rest;
      rest.push(packet);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.socket.close();
    } catch {
      // closed already
    }
    await this.#done;
  }
}

/** The packet, which must be of this type. */
export function of_type<Packet extends { type: string }, Type extends Packet["type"]>(
  packet: Packet | undefined,
  type: Type,
): Extract<Packet, { type: Type }> {
  if (packet?.type === type) return packet as Extract<Packet, { type: Type }>;
  throw new Error(`not ${type}: ${JSON.stringify(packet)}`);
}

function open({ host, port }: Address): Promise<Deno.TcpConn> {
  return Deno.connect({ hostname: host, port });
}

export class RawMqtt extends RawConnection<mqtt.Packet> {
  static async open(address: Address, version: mqtt.Version = 5): Promise<RawMqtt> {
    return new RawMqtt(await open(address), "raw MQTT", new mqtt.Decoder(version));
  }

  /** One that has been let in. */
  static async connect(
    address: Address,
    connect: Partial<mqtt.Connect> = {},
  ): Promise<RawMqtt> {
    const version = connect.version ?? 5;
    const raw = await RawMqtt.open(address, version);
    const packet: mqtt.Connect = {
      type: "connect",
      version,
      clean_start: true,
      keepalive_s: 0,
      client_id: "",
      ...connect,
    };
    await raw.send(mqtt.encode(packet, version));
    const answer = await raw.packets.next();
    if (answer?.type === "connack" && answer.reason_code === 0) return raw;
    throw new Error(`not let in: ${JSON.stringify(answer)}`);
  }
}

export class RawLongwire extends RawConnection<longwire.Frame> {
  static async open(
    address: Address,
    decompress?: longwire.Decompress,
  ): Promise<RawLongwire> {
    const decoder = new longwire.Decoder(undefined, decompress);
    return new RawLongwire(await open(address), "raw Longwire", decoder);
  }

  frame(frame: longwire.FrameInit): Promise<void> {
    return this.send(longwire.encode(frame));
  }

  /** The next frame, heartbeats left out. */
  async next(): Promise<longwire.Frame> {
    return await this.packets.find(({ type }) => type !== "heartbeat", "a frame");
  }

  /** The next frame, which must be of this type. */
  async expect<Type extends longwire.FrameType>(
    type: Type,
  ): Promise<Extract<longwire.Frame, { type: Type }>> {
    return of_type(await this.packets.next(), type);
  }

  async subscribe(filter: string): Promise<void> {
    await this.frame({ type: "subscribe", request_id: 1, subscriptions: [{ filter, qos: 1 }] });
    await this.expect("subscribed");
  }

  /** One that has been let in, and its Welcome. */
  static async connect(
    address: Address,
    hello: Partial<longwire.Hello> = {},
    decompress?: longwire.Decompress,
  ): Promise<[RawLongwire, longwire.Welcome]> {
    const raw = await RawLongwire.open(address, decompress);
    await raw.frame({ protocol_version: 1, ...hello, type: "hello" });
    const answer = await raw.next();
    if (answer.type === "welcome") return [raw, answer];
    throw new Error(`not let in: ${JSON.stringify(answer)}`);
  }
}
