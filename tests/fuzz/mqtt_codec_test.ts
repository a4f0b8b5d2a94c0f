/**
 * The MQTT codec under damage that knows the structure of packets: it answers a packet or one of
 * its refusals, throws nothing else, and what it read is written and read as the same again.
 */
import { assert, assertEquals } from "@std/assert";
import * as mqtt from "../../core/protocol/mqtt.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { connect_of, damaged, packet_of, pick } from "./mqtt_packets.ts";

const seconds = Number(Deno.env.get("LONGWIRE_TEST_FUZZ_SECONDS") ?? 4);

/** Decodes; what is read must come out the same after encoding, and encode the same again. */
function try_bytes(bytes: Uint8Array, version: mqtt.Version | 0): boolean {
  const got = mqtt.decode(bytes, 0, bytes.length, version);
  if (got.kind !== "packet") return false;
  const { packet } = got;
  const written_in = packet.type === "connect" ? packet.version : version as mqtt.Version;
  const once = mqtt.encode(packet, written_in).slice();
  const again = mqtt.decode_frame(once, 0, once.length, version);
  assertEquals(again, packet);
  assertEquals(mqtt.encode(again, written_in), once);
  return true;
}

Deno.test("mqtt: damaged packets are read or refused, and what is read is stable", () => {
  const seed = seed_for("mqtt codec fuzz");
  const random = random_of(seed);
  const ends_ms = performance.now() + seconds * 1000;
  let [rounds, read] = [0, 0];
  while (performance.now() < ends_ms) {
    rounds++;
    const version = pick(random, [4, 5] as const);
    const is_first = random() < 0.2;
    const packet = is_first ? connect_of(random, version, "f") : packet_of(random, version);
    const state = is_first ? 0 : version;
    const is_read = try_bytes(mqtt.encode(packet, version).slice(), state);
    assert(is_read, `refused although valid: ${Deno.inspect(packet)}`);
    const bytes = damaged(random, packet, version);
    try {
      if (try_bytes(bytes, random() < 0.9 ? state : pick(random, [0, 4, 5] as const))) read++;
      for (let size = 0; size < Math.min(bytes.length, 40); size++) {
        mqtt.decode(bytes, 0, size, state); // cut anywhere
      }
    } catch (error) {
      throw new Error(`round ${rounds}, version ${version}: ${bytes.toHex()}`, { cause: error });
    }
  }
  console.log(`${rounds} packets, ${read} of the damaged ones read`);
});
