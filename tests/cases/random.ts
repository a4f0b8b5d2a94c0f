/** Random numbers that can be had again: every random test prints its seed and takes it back. */

/** Returns numbers in [0, 1) that depend on the seed alone (mulberry32). */
export function random_of(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** The seed that LONGWIRE_TEST_SEED gives, else a new one; printed with the test's name. */
export function seed_for(test: string): number {
  const given = Deno.env.get("LONGWIRE_TEST_SEED") ?? "";
  const seed = given === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(given) >>> 0;
  console.log(`${test}: LONGWIRE_TEST_SEED=${seed}`);
  return seed;
}
