/** Compressed bodies: what is worth it, what comes back, and every way in which one can be bad. */
import { assert, assertEquals } from "@std/assert";
import * as zlib from "node:zlib";
import * as longwire from "../../core/protocol/longwire.ts";
import {
  dictionary_id,
  type ZlibZstd,
  type Zstd,
  zstd_of,
  zstd_of_zlib,
  type ZstdBinding,
} from "../../core/protocol/zstd.ts";
import { limits } from "../../core/limits.ts";
import { ensure_addon } from "../../ffi/zstd.ts";
import { bytes_of, concat } from "../cases/bytes.ts";
import { frame } from "../cases/longwire_cases.ts";
import { random_of, seed_for } from "../cases/random.ts";
import { samples_of } from "../dictionary/samples.ts";
import { samples_fingerprint } from "../dictionary/train.ts";
import { refusal_of } from "./codec_suite.ts";

const napi = zstd_of(await ensure_addon() as ZstdBinding);
const plain = zstd_of_zlib(zlib as unknown as ZlibZstd);
const both: readonly Zstd[] = [napi, plain];

const text = (value: string) => new TextEncoder().encode(value);
const max = limits.frame_bytes_max;

Deno.test("zstd: messages of fleets become much smaller, and come back", () => {
  let before = 0;
  let after = 0;
  for (const { topic, payload } of samples_of(300, 77)) { // not the seed of training
    const message = { type: "publish", topic, payload: text(payload), request_id: 1 } as const;
    const bytes = longwire.encode_small(message, napi);
    before += longwire.encode(message).length;
    after += bytes.length;
    const got = longwire.decode_frame(bytes, 0, bytes.length, napi.decompress);
    assertEquals(got.type === "publish" && got.payload, message.payload);
  }
  assert(after < 0.5 * before, `${before} to ${after} bytes`);
});

Deno.test("zstd: random bodies of every size come back, or are left as they are", () => {
  const random = random_of(seed_for("zstd bodies"));
  for (let round = 0; round < 2000; round++) {
    const size = Math.floor(2 ** (random() * 17));
    const values = 1 + Math.floor(random() * 256);
    const body = Uint8Array.from({ length: size }, () => Math.floor(random() * values));
    for (const zstd of both) {
      const packed = zstd.compress(body)?.slice();
      if (packed === undefined) continue;
      assert(packed.length < body.length, `${body.length} to ${packed.length} bytes`);
      assertEquals(zstd.decompress(packed, max), body);
    }
  }
});

Deno.test("zstd: each library reads what the other writes without a dictionary", () => {
  const body = text(JSON.stringify(Array.from({ length: 99 }, (_, id) => ({ id, ok: true }))));
  const packed = plain.compress(body)!;
  assertEquals(napi.decompress(packed, max), body);
  assertEquals(plain.decompress(packed, max), body);
});

Deno.test("zstd: what would be a bomb is sent as it is, and refused when it comes", () => {
  const zeros = new Uint8Array(60_000);
  for (const zstd of both) {
    assertEquals(zstd.compress(zeros), undefined);
    const some = zeros.subarray(0, limits.zstd_free_bytes); // little comes of it
    assertEquals(zstd.decompress(zstd.compress(some)!, max), some);
  }
  const bomb = new Uint8Array(zlib.zstdCompressSync(new Uint8Array(1 << 20), sized(1 << 20)));
  for (const zstd of both) {
    assertEquals(refusal_of(() => zstd.decompress(bomb.subarray(4), 2 << 20)), "zstd_bomb");
    const small = refusal_of(() => zstd.decompress(bomb.subarray(4), 1 << 19));
    assertEquals(small, "frame_too_large");
  }
});

function sized(size: number): zlib.ZstdOptions {
  return { pledgedSrcSize: size } as zlib.ZstdOptions;
}

/** A body that is compressed with the dictionary. */
const good = napi.compress(
  longwire.encode({
    type: "publish",
    topic: "devices/device-1/telemetry",
    payload: text('{"temperature":21.5,"humidity":40,"battery":99}'),
  }).subarray(5),
)!.slice();

const bad: readonly [what: string, body: Uint8Array, refusal: string][] = [
  ["nothing", bytes_of(""), "zstd_malformed"],
  ["one byte", good.slice(0, 1), "zstd_malformed"],
  ["a header cut short", good.slice(0, 2), "zstd_malformed"],
  ["a body cut short", good.slice(0, -1), "zstd_malformed"],
  ["a byte too many", concat(good, bytes_of("00")), "zstd_malformed"],
  ["the reserved bit", concat(bytes_of("28"), good.subarray(1)), "zstd_malformed"],
  ["no content size", bytes_of("00 58 01 00 00"), "zstd_malformed"],
  ["another dictionary", concat(good.subarray(0, 1), bytes_of("02"), good.subarray(2)), "dict"],
  ["a dictionary of four bytes", bytes_of("23 ffffffff 01 09 00 00 61"), "dict"],
  ["a size that is too large", concat(good.subarray(0, 2), bytes_of("ff"), good.subarray(3)), ""],
];

Deno.test("zstd: every bad body has its code", () => {
  assertEquals(
    [good[0] & 0x23, good[1]],
    [0x21, dictionary_id],
    "the header that is damaged below",
  );
  for (const [what, body, refusal] of bad) {
    const expected = refusal === "dict" ? "zstd_dictionary" : refusal || "zstd_malformed";
    const whole = frame(0x8b, body);
    const got = refusal_of(() => {
      longwire.decode_frame(whole, 0, whole.length, napi.decompress);
    });
    assertEquals(got, expected, what);
  }
  assertEquals(refusal_of(() => plain.decompress(good, max)), "zstd_dictionary");
  const whole = frame(0x8b, good);
  assertEquals(refusal_of(() => longwire.decode_frame(whole, 0, whole.length)), "protocol_error");
});

Deno.test("zstd: random damage is refused or read, within its bounds", () => {
  const random = random_of(seed_for("zstd damage"));
  for (let round = 0; round < 20_000; round++) {
    const body = good.slice(0, round % 3 === 0 ? Math.floor(random() * good.length) : undefined);
    for (let times = 0; times < 3; times++) {
      body[Math.floor(random() * body.length)] ^= 1 << Math.floor(random() * 8);
    }
    const refusal = refusal_of(() => {
      assert(napi.decompress(body, 4096).length <= 4096);
    });
    const known = [undefined, "zstd_malformed", "zstd_dictionary", "zstd_bomb", "frame_too_large"];
    assert(known.includes(refusal), refusal);
  }
});

Deno.test("zstd: the dictionary is of the samples that are kept", async () => {
  const place = new URL("../../core/protocol/dictionary.ts", import.meta.url);
  const expected = `samples ${await samples_fingerprint()};`;
  assert((await Deno.readTextFile(place)).includes(expected), `expected ${expected}`);
});
