/**
 * MQTT: mixed traffic of many clients against the real service, with a model of what each must have
 * seen: no loss, no wrong repetition, no disorder. 15 seconds, or LONGWIRE_TEST_SOAK_SECONDS; each
 * stretch prints its seed, LONGWIRE_TEST_SEED repeats the first one.
 */
import { seed_for } from "../cases/random.ts";
import { type Interruption, World } from "./soak/world.ts";

const seconds = Number(Deno.env.get("LONGWIRE_TEST_SOAK_SECONDS") ?? 12);
const kinds: readonly Interruption[] = ["none", "stop", "kill"];
/** How many rounds one service and its clients live. */
const rounds = 3;
const round_ms = 1200;

/** One service and its clients. */
async function stretch(seed: number): Promise<void> {
  const world = await World.start(seed);
  try {
    for (let round = 0; round < rounds; round++) {
      await world.round(round, round_ms, round === 1 ? kinds[seed % kinds.length] : "none");
    }
    const { published, delivered, connections } = world.figures;
    console.log(`${published} published, ${delivered} delivered, ${connections} connections`);
  } finally {
    await world.end();
  }
}

Deno.test("MQTT: every client sees what it must and nothing else, whatever happens", async () => {
  const ends_ms = performance.now() + seconds * 1000;
  for (let seed = seed_for("soak"); performance.now() < ends_ms; seed = seed + 1 >>> 0) {
    console.log(`LONGWIRE_TEST_SEED=${seed}`);
    await stretch(seed);
  }
});
