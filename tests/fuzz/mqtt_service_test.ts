/**
 * The real service under sequences of valid and damaged MQTT packets: every connection ends with
 * the reason that the codec gives, a bystander is never disturbed, and nothing is left behind. 6
 * seconds, or LONGWIRE_TEST_FUZZ_SECONDS.
 */
import { assertEquals } from "@std/assert";
import * as mqtt from "../../core/protocol/mqtt.ts";
import { concat } from "../cases/bytes.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { MqttClient, payload_text } from "../support/mqtt_client.ts";
import { eventually, Service } from "../support/service.ts";
import { patience_ms, within } from "../support/wait.ts";
import {
  below,
  body_of,
  connect_of,
  damaged,
  packet_of,
  pick,
  type Random,
} from "./mqtt_packets.ts";

const seconds = Number(Deno.env.get("LONGWIRE_TEST_FUZZ_SECONDS") ?? 6);
/** Connections at the same time, each with client ids of its own. */
const lanes = 6;
const ids_of_lane = 3;

interface Sequence {
  readonly version: mqtt.Version;
  readonly bytes: Uint8Array;
  readonly count: number;
}

/** CONNECT and what follows, some of it damaged. */
function sequence_of(random: Random, lane: number): Sequence {
  const version = pick(random, [4, 5] as const);
  const connect = connect_of(random, version, `f${lane}-${below(random, ids_of_lane)}`);
  const first = random() < 0.15
    ? damaged(random, connect, version)
    : mqtt.encode(connect, version).slice();
  const parts = [first];
  const count = below(random, 8);
  for (let n = 0; n < count; n++) {
    const packet = packet_of(random, version);
    parts.push(
      random() < 0.3 ? damaged(random, packet, version) : mqtt.encode(packet, version).slice(),
    );
  }
  return { version, bytes: concat(...parts), count: parts.length };
}

/** What the codec says of the bytes: the refusal of the first bad packet, if there is one. */
function refusal_of({ bytes }: Sequence) {
  let version: mqtt.Version | 0 = 0;
  for (let at = 0; at < bytes.length;) {
    const got = mqtt.decode(bytes, at, bytes.length, version);
    if (got.kind !== "packet") return { got, version };
    if (got.packet.type === "connect") version = got.packet.version;
    if (got.packet.type === "disconnect") break; // what follows counts no more
    at += got.consumed;
  }
  return { got: undefined, version };
}

/** Reasons for which a packet may be refused that the codec takes. */
const of_state = [0x82, 0x87, 0x8d, 0x8e, 0x8f, 0x8c, 0x90, 0x93, 0x94, 0x95, 0x97, 0x99];

/** Sends everything at once or in pieces; reads to the end, which may be ours. */
async function talk(service: Service, sequence: Sequence, random: Random) {
  const { got } = refusal_of(sequence);
  const version = told_in(sequence);
  const ping = mqtt.encode({ type: "pingreq" }, version);
  const bytes = got === undefined ? concat(sequence.bytes, ping) : sequence.bytes;
  const client = await MqttClient.open(service.mqtt, version, "fuzz");
  try {
    for (let at = 0; at < bytes.length;) {
      const end = random() < 0.3
        ? Math.min(bytes.length, at + 1 + below(random, 50))
        : bytes.length;
      await client.send(bytes.subarray(at, end));
      at = end;
    }
  } catch {
    // closed by the service before everything was sent
  }
  const left: mqtt.Packet[] = [];
  // In the middle of a packet the service waits; after whole ones it answers.
  while (got?.kind !== "more" || left.length === 0 && refusal_of(sequence).version !== 0) {
    const packet = await client.next();
    if (packet === undefined || packet.type === "pingresp" && got === undefined) break;
    left.push(packet);
  }
  await client.close();
  return left;
}

/** The version in which the service answers: that of the CONNECT, 3.1.1 where it has none. */
function told_in(sequence: Sequence): mqtt.Version {
  const { version } = refusal_of(sequence);
  const [at, size] = body_of(sequence.bytes);
  return version || mqtt.connect_version(sequence.bytes, 0, at + size) || 4;
}

/** The reason codes with which a connection may end after these bytes; undefined = any end. */
function allowed_reasons(sequence: Sequence): { first: boolean; reasons: number[] } | undefined {
  const { got, version } = refusal_of(sequence);
  if (got?.kind !== "refused") return undefined;
  // What does not even begin as CONNECT does is another protocol's: it is told nothing.
  if (version === 0 && sequence.bytes[0] !== 0x10) return { first: true, reasons: [] };
  const type = version === 0 ? "connack" : "disconnect";
  return { first: version === 0, reasons: [mqtt.reason_for(type, told_in(sequence), got.code)] };
}

function check(sequence: Sequence, left: readonly mqtt.Packet[]): void {
  const [first] = left;
  if (first !== undefined) assertEquals(first.type, "connack", "what comes first");
  const ends = left.filter(({ type }) => type === "disconnect");
  assertEquals(ends.length <= 1 && (ends.length === 0 || left.at(-1) === ends[0]), true, "an end");
  const reasons = left.flatMap((packet) =>
    packet.type === "connack" || packet.type === "disconnect" ? [packet.reason_code] : []
  ).filter((reason) => reason !== 0);
  const expected = allowed_reasons(sequence);
  const fits = expected?.reasons ?? [];
  for (const reason of reasons) {
    const is_known = fits.includes(reason) || of_state.includes(reason) || sequence.version === 4 ||
      reason === 0x84;
    assertEquals(is_known, true, `reason ${reason}, not ${fits}`);
  }
  // A CONNECT that is too large is never looked into: nobody knows what it speaks.
  const is_seen = !(expected?.first && fits.includes(0x95));
  if (is_seen && fits.some((reason) => reason !== 0) && sequence.version === 5) {
    assertEquals(reasons.length, 1, `no reason, not ${fits}`);
  }
  if (expected?.first) assertEquals(left.length <= 1, true, "more than a refusal");
}

/** Under which client id a session may have begun; damage makes new ones. */
function client_id_of({ bytes }: Sequence, [connack]: readonly mqtt.Packet[]): string {
  const got = mqtt.decode(bytes, 0, bytes.length, 0);
  if (got.kind !== "packet" || got.packet.type !== "connect") return "";
  const assigned = connack?.type === "connack" ? connack.properties?.assigned_client_id : undefined;
  return assigned ?? got.packet.client_id;
}

/** Every session that fuzzing clients may have left is ended. */
async function clean_up(service: Service, client_ids: Iterable<string>): Promise<void> {
  for (const client_id of client_ids) {
    const { client, connack } = await MqttClient.connect(service.mqtt, { client_id });
    if (connack.reason_code === 0) await client.disconnect();
    else await client.close();
  }
}

class Bystander {
  #number = 0;
  private constructor(readonly listener: MqttClient, readonly speaker: MqttClient) {}

  static async start(service: Service): Promise<Bystander> {
    const listener = (await MqttClient.connect(service.mqtt, { client_id: "by" })).client;
    const speaker = (await MqttClient.connect(service.mqtt, { client_id: "speaker" })).client;
    await listener.subscribe("by/#", 2);
    return new Bystander(listener, speaker);
  }

  /** One message of each QoS arrives, and nothing else. */
  async pass(): Promise<void> {
    for (const qos of [0, 1, 2] as const) {
      const text = `${this.#number++}`;
      assertEquals(await this.speaker.publish("by/stander", text, { qos }), 0);
      assertEquals(payload_text(await this.listener.receive()), text);
    }
  }

  async end(): Promise<void> {
    await this.listener.disconnect();
    await this.speaker.disconnect();
  }
}

/** One lane: sequence after sequence until the time is over; answers how many packets. */
async function run_lane(
  service: Service,
  seed: number,
  lane: number,
  ends_ms: number,
  client_ids: Set<string>,
): Promise<number> {
  let packets = 0;
  for (let round = 0; performance.now() < ends_ms; round++) {
    const random = random_of(seed + lane * 1_000_003 + round * 17);
    const sequence = sequence_of(random, lane);
    packets += sequence.count;
    try {
      const left = await within(talk(service, sequence, random), "an end", patience_ms);
      client_ids.add(client_id_of(sequence, left));
      check(sequence, left);
    } catch (error) {
      const what = `lane ${lane}, round ${round}, version ${sequence.version}`;
      throw new Error(`${what}: ${sequence.bytes.toHex().slice(0, 4000)}`, { cause: error });
    }
  }
  return packets;
}

Deno.test("MQTT: damaged packets disturb nobody and leave nothing behind", async () => {
  const seed = seed_for("mqtt service fuzz");
  await using service = await Service.start();
  const bystander = await Bystander.start(service);
  const ends_ms = performance.now() + seconds * 1000;
  const client_ids = new Set<string>();
  const running = Array.from({ length: lanes }, (_, n) => {
    return run_lane(service, seed, n, ends_ms, client_ids);
  });
  const done = Promise.all(running);
  let is_done = false;
  done.then(() => is_done = true, () => is_done = true);
  while (!is_done) {
    await bystander.pass();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const packets = (await done).reduce((sum, count) => sum + count, 0);
  client_ids.delete("");
  await clean_up(service, client_ids);
  const left = async () => [
    await service.metric("longwire_connections"),
    await service.metric("longwire_sessions"),
    await service.metric("longwire_out_queue_bytes"),
  ];
  let now = "";
  const is_clean = async () => (now = `${await left()}`) === "2,2,0";
  await eventually("as before", is_clean).catch((error) => assertEquals(now, "2,2,0", `${error}`));
  await bystander.end();
  await eventually("nothing", async () => `${await left()}` === "0,0,0");
  assertEquals(service.log.filter((line) => /bug|error/i.test(line)), []);
  console.log(`${packets} packets`);
});
