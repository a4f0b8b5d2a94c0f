/**
 * One connection of a soaking client: packets in and out in order, and a way to be cut off at any
 * byte. It knows the bounds that hold for one connection (Receive Maximum, Maximum Packet Size,
 * packet ids in use) and says when the service breaks them.
 */
import type { Address } from "../../../core/address.ts";
import {
  type Connack,
  type Connect,
  Decoder,
  encode,
  type Packet,
  type Publish,
} from "../../../core/protocol/mqtt.ts";
import { concat } from "../../cases/bytes.ts";
import { within } from "../../support/wait.ts";
import { now } from "./ledger.ts";

export interface LinkOwner {
  /** CONNACK, before anything else. */
  answered(link: Link, connack: Connack): void;
  /** A packet that is neither CONNACK nor PINGRESP. */
  received(link: Link, packet: Packet): void;
  /** The connection is over, whoever ended it. */
  ended(link: Link): void;
  problem(what: string): void;
}

export class Link {
  readonly opened = now();
  /** CONNACK; Infinity = not yet. */
  since = Infinity;
  is_over = false;
  /** Ours to end: what the service says to it counts no more. */
  is_cut = false;
  /** Before this the connection was whole; Infinity = as far as we know it is. */
  ending = Infinity;
  /** Nothing is read while it is set: bytes pile up in the service. */
  resume: PromiseWithResolvers<void> | null = null;
  readonly done: Promise<void>;
  readonly #decoder: Decoder;
  readonly #connack = Promise.withResolvers<Connack | undefined>();
  /** Packet ids of messages that were not acknowledged to the end. */
  readonly #open = new Set<number>();
  readonly #pongs: (() => void)[] = [];
  /** Topics that the service has given an alias. */
  readonly #aliases = new Map<number, string>();
  #out: Uint8Array[] = [];
  #writing: Promise<void> | null = null;

  private constructor(
    readonly socket: Deno.TcpConn,
    readonly connect: Connect,
    readonly owner: LinkOwner,
    /** The connection before: the service ends it first. */
    before: Link | null,
  ) {
    this.#decoder = new Decoder(connect.version);
    this.done = this.#read(before);
  }

  /** The PUBLISH with its topic, through the alias where there is one [MQTT-3.3.2-12]. */
  with_topic(packet: Publish): Publish {
    const alias = packet.properties?.topic_alias;
    if (alias === undefined) return packet;
    if (alias > (this.connect.properties?.topic_alias_maximum ?? 0)) { // [MQTT-3.1.2-26]
      this.owner.problem(`Topic Alias ${alias} is over the maximum`);
    }
    if (packet.topic !== "") this.#aliases.set(alias, packet.topic);
    return { ...packet, topic: this.#aliases.get(alias) ?? "" };
  }

  /** Connects and says CONNECT; answers the CONNACK, undefined = the connection ended instead. */
  static async open(
    { host, port }: Address,
    connect: Connect,
    owner: LinkOwner,
    before: Link | null,
  ): Promise<[Link, Promise<Connack | undefined>]> {
    const socket = await Deno.connect({ hostname: host, port });
    socket.setNoDelay(true);
    const link = new Link(socket, connect, owner, before);
    link.say(connect);
    const answer = link.#connack.promise;
    return [link, within(answer, `CONNACK for ${connect.client_id}`)];
  }

  get version() {
    return this.connect.version;
  }

  say(...packets: readonly Packet[]): void {
    if (this.is_over) return;
    for (const packet of packets) this.#out.push(encode(packet, this.version));
    this.#writing ??= this.#write();
  }

  /** Calls back when the service has answered a PINGREQ that leaves now. */
  ping(then: () => void): void {
    this.#pongs.push(then);
    this.say({ type: "pingreq" });
  }

  /** The message is acknowledged to the end: its packet id may be used again. */
  settled(packet_id: number): void {
    this.#open.delete(packet_id);
  }

  /** Ends the connection without a word; `rest` may be the begin of a packet. */
  async cut(rest?: Uint8Array): Promise<void> {
    this.is_cut = true;
    this.ending = now();
    if (rest !== undefined) {
      this.#out.push(rest);
      this.#writing ??= this.#write();
    }
    await this.#writing;
    this.#close();
    await this.done;
  }

  /** Says DISCONNECT and waits until the service has closed. */
  async leave(packet: Packet): Promise<void> {
    this.say(packet);
    this.resume?.resolve();
    await within(this.done, `the end of a connection of ${this.connect.client_id}`);
  }

  async #write(): Promise<void> {
    try {
      await Promise.resolve(); // what is said in one turn leaves together
      while (this.#out.length > 0) {
        const bytes = concat(...this.#out);
        this.#out = [];
        for (let at = 0; at < bytes.length;) at += await this.socket.write(bytes.subarray(at));
      }
    } catch {
      // the connection is over: reading says so
    }
    this.#writing = null;
  }

  async #read(before: Link | null): Promise<void> {
    const room = new Uint8Array(64 << 10);
    try {
      for (;;) {
        const size = await this.socket.read(room);
        // What the service said to the connection before, it said earlier.
        if (before !== null) await before.done;
        before = null;
        if (size === null || this.is_cut) break;
        for (const packet of this.#decoder.feed(room.subarray(0, size))) this.#take(packet);
        if (this.resume !== null) await this.resume.promise;
      }
    } catch (error) {
      const is_ours = error instanceof Deno.errors.BadResource || this.is_cut;
      if (!is_ours && !is_reset(error)) this.owner.problem(`cannot read: ${error}`);
    }
    this.#close();
    this.is_over = true;
    this.#connack.resolve(undefined);
    this.owner.ended(this);
  }

  #close(): void {
    try {
      this.socket.close();
    } catch {
      // closed before
    }
    this.resume?.resolve();
  }

  #take(packet: Packet): void {
    this.#check(packet);
    if (packet.type === "connack") {
      if (this.since < Infinity) this.owner.problem("a second CONNACK");
      this.since = now();
      this.owner.answered(this, packet);
      this.#connack.resolve(packet);
    } else if (this.since === Infinity) {
      this.owner.problem(`${packet.type} before CONNACK`);
    } else if (packet.type === "pingresp") {
      this.#pongs.shift()?.();
    } else {
      if (packet.type === "publish") this.#check_publish(packet);
      this.owner.received(this, packet);
    }
  }

  #check(packet: Packet): void {
    const { maximum_packet_bytes = Infinity } = this.connect.properties ?? {};
    if (maximum_packet_bytes === Infinity) return;
    const { length } = encode(packet, this.version);
    if (length > maximum_packet_bytes) this.owner.problem(`${packet.type} of ${length} bytes`);
  }

  #check_publish({ qos, packet_id }: Publish): void {
    if (qos === 0) return;
    if (this.#open.has(packet_id)) {
      this.owner.problem(`packet id ${packet_id} is in use on this connection`);
    }
    this.#open.add(packet_id);
    const most = this.connect.properties?.receive_maximum ?? 65_535;
    if (this.#open.size > most) this.owner.problem(`${this.#open.size} in flight, not ${most}`);
  }
}

function is_reset(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.Interrupted;
}
