/**
 * Trains the zstd dictionary of the Longwire protocol on tests/dictionary/samples.ts and writes
 * core/protocol/dictionary.ts (`deno task dictionary`, which runs it at the root). Needs the
 * program `zstd`. A dictionary that was released stays as it is, under its id: one that is trained
 * anew gets another id.
 */
import { encode, type FrameInit } from "../../core/protocol/longwire.ts";
import { random_of } from "../cases/random.ts";
import { fingerprint } from "../protocol/generate.ts";
import { samples_of } from "./samples.ts";

const dictionary_id = 1;
const dictionary_bytes_max = 8192;
const samples_count = 8000;
const seed = 6;

/** Bodies of frames as they would be compressed. */
function* bodies(): Generator<Uint8Array, void, undefined> {
  const random = random_of(seed);
  const text = new TextEncoder();
  let offset = 1;
  for (const { topic, payload } of samples_of(samples_count, seed)) {
    const body = { topic, payload: text.encode(payload), qos: 1 } as const;
    offset += Math.floor(random() * 1000);
    const time_ms = 1_767_225_600_000 + Math.floor(random() * 63_072_000_000);
    const frame: FrameInit = random() < 0.7
      ? { type: "message", ...body, offset, time_ms }
      : { type: "publish", ...body, request_id: 1 + Math.floor(random() * 20_000) };
    yield encode(frame).subarray(5);
  }
}

export async function train(): Promise<Uint8Array> {
  const scratch = await Deno.makeTempDir();
  try {
    let index = 0;
    for (const body of bodies()) {
      const name = String(index++).padStart(6, "0"); // the trainer depends on their order
      await Deno.writeFile(`${scratch}/${name}`, body);
    }
    const out = `${scratch}/dictionary`;
    const args = ["-q", "--train", "-r", scratch, "-o", out, `--maxdict=${dictionary_bytes_max}`];
    const { success, stderr } = await new Deno.Command("zstd", {
      args: [...args, `--dictID=${dictionary_id}`],
    }).output();
    if (!success) throw new Error(`Cannot train: ${new TextDecoder().decode(stderr)}`);
    return await Deno.readFile(out);
  } finally {
    await Deno.remove(scratch, { recursive: true });
  }
}

/** The file that holds a dictionary: lines of base64 behind a fingerprint of the samples. */
export async function file_of(dictionary: Uint8Array): Promise<string> {
  const lines = dictionary.toBase64().match(/.{1,92}/g)!.map((line) => `  "${line}",`);
  return `/**
 * The zstd dictionary of the Longwire protocol, as zstd trained it. Written by
 * tests/dictionary/train.ts from samples ${await samples_fingerprint()}; it is part of the wire
 * protocol: under its id it never changes.
 */

/** As it stands in compressed frames. */
export const dictionary_id = ${dictionary_id};

const base64 = [
${lines.join("\n")}
];

/** The dictionary, ${dictionary.length} bytes. */
export const dictionary: Uint8Array<ArrayBuffer> = Uint8Array.from(
  atob(base64.join("")),
  (unit) => unit.charCodeAt(0),
);
`;
}

/** Of everything that training depends on, but the trainer. */
export async function samples_fingerprint(): Promise<string> {
  const all = [...samples_of(samples_count, seed)].map(({ topic, payload }) => topic + payload);
  return await fingerprint(`${dictionary_id} ${dictionary_bytes_max} ${all.join("\n")}`);
}

if (import.meta.main) {
  await Deno.writeTextFile("core/protocol/dictionary.ts", await file_of(await train()));
}
