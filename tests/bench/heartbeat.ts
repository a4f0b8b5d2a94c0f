/**
 * The scenario `heartbeat`: what one report of one device costs on the wire and in the encoder, as
 * JSON, as protobuf, compressed alone and in batches. Bytes are those of whole frames (JSON: of the
 * text alone); every decoder's result is compared with what was encoded.
 */
import { ensure_addon } from "../../ffi/zstd.ts";
import {
  decode_frame,
  encode,
  encode_small,
  type StatusReport,
  type Zstd,
} from "../../core/protocol/longwire.ts";
import { zstd_of, type ZstdBinding } from "../../core/protocol/zstd.ts";
import { random_of } from "../cases/random.ts";

const batch_reports = 64;
const batches = 256;
/**
 * Each measurement runs at least so long, and the best of several counts: others use the machine.
 */
const round_ms = 60;
const rounds = 5;

export interface HeartbeatRow {
  readonly name: string;
  /** For each report. */
  readonly bytes: number;
  readonly encode_ns: number;
  readonly decode_ns: number;
}

/** A way to write some reports and to read them again. */
interface Form {
  readonly name: string;
  readonly batch: boolean;
  /** Node ids of the reports. */
  readonly ids: "neighbours" | "any";
  encode(reports: readonly StatusReport[]): Uint8Array;
  decode(bytes: Uint8Array): readonly StatusReport[];
}

/** Reports of one gateway within ten seconds, as they come. */
function* make_reports(ids: Form["ids"]): Generator<StatusReport[], void, undefined> {
  const random = random_of(64);
  let now_ms = 1_767_225_600_000;
  for (let batch = 0; batch < batches; batch++) {
    const first = Math.floor(random() * 2 ** 31);
    yield Array.from({ length: batch_reports }, (_, i) => ({
      timestamp_ms: now_ms += Math.floor(random() * 10_000 * 2 / batch_reports),
      node_id: ids === "neighbours" ? first + i : Math.floor(random() * 2 ** 32),
      load_percent: Math.floor(20 + random() * 40),
    }));
  }
}

function reports_in(bytes: Uint8Array, zstd?: Zstd): readonly StatusReport[] {
  const frame = decode_frame(bytes, 0, bytes.length, zstd?.decompress);
  if (frame.type === "status_batch") return frame.reports;
  if (frame.type !== "status") throw new Error(`${frame.type} came back`);
  const { timestamp_ms, node_id, load_percent } = frame;
  return [{ timestamp_ms, node_id, load_percent }];
}

function forms(zstd: Zstd): Form[] {
  const text = new TextEncoder();
  const texts = new TextDecoder();
  const one = { batch: false, ids: "any" } as const;
  const json = {
    encode: (reports: readonly StatusReport[]) => text.encode(JSON.stringify(reports[0])),
    decode: (bytes: Uint8Array) => [JSON.parse(texts.decode(bytes))],
  };
  const many = (ids: Form["ids"], packed: Zstd | undefined) => ({
    batch: true,
    ids,
    encode: (reports: readonly StatusReport[]) =>
      encode_small({ type: "status_batch", reports }, packed),
    decode: (bytes: Uint8Array) => reports_in(bytes, packed),
  });
  return [
    { name: "JSON", ...one, ...json },
    {
      name: "protobuf (Status)",
      ...one,
      encode: (reports) => encode({ type: "status", ...reports[0] }),
      decode: reports_in,
    },
    {
      name: "protobuf + zstd, alone",
      ...one,
      encode: (reports) => encode_small({ type: "status", ...reports[0] }, zstd),
      decode: (bytes) => reports_in(bytes, zstd),
    },
    { name: `${batch_reports} in a StatusBatch`, ...many("neighbours", undefined) },
    { name: `${batch_reports} in a StatusBatch + zstd`, ...many("neighbours", zstd) },
    { name: `${batch_reports} + zstd, node ids at random`, ...many("any", zstd) },
  ];
}

/** Best time of one call, nanoseconds. */
function time_ns(calls: readonly (() => unknown)[]): number {
  let best_ns = Infinity;
  for (let round = 0; round < rounds; round++) {
    const begin_ms = performance.now();
    let count = 0;
    while (performance.now() - begin_ms < round_ms) {
      for (const call of calls) call();
      count += calls.length;
    }
    best_ns = Math.min(best_ns, (performance.now() - begin_ms) * 1e6 / count);
  }
  return best_ns;
}

function measure(form: Form): HeartbeatRow {
  const all = [...make_reports(form.ids)];
  const inputs = form.batch ? all : all.flat().slice(0, 4096).map((report) => [report]);
  const frames = inputs.map((reports) => form.encode(reports).slice());
  for (const [i, bytes] of frames.entries()) {
    const got = JSON.stringify(form.decode(bytes));
    if (got !== JSON.stringify(inputs[i])) throw new Error(`${form.name}: ${got} came back`);
  }
  const per_frame = form.batch ? batch_reports : 1;
  const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
  return {
    name: form.name,
    bytes: bytes / frames.length / per_frame,
    encode_ns: time_ns(inputs.map((reports) => () => form.encode(reports))) / per_frame,
    decode_ns: time_ns(frames.map((frame) => () => form.decode(frame))) / per_frame,
  };
}

export async function heartbeat(): Promise<readonly HeartbeatRow[]> {
  const zstd = zstd_of(await ensure_addon() as ZstdBinding);
  const beat = () => encode({ type: "heartbeat", time_s: 1_767_225_600 });
  const frame = beat();
  return [
    {
      name: "heartbeat frame",
      bytes: frame.length,
      encode_ns: time_ns([beat]),
      decode_ns: time_ns([() => decode_frame(frame, 0, frame.length)]),
    },
    ...forms(zstd).map(measure),
  ];
}

export function print_heartbeat(rows: readonly HeartbeatRow[]): void {
  console.log("| heartbeat | bytes | encode ns | decode ns |");
  console.log("|---|---|---|---|");
  for (const { name, bytes, encode_ns, decode_ns } of rows) {
    const numbers = [bytes.toFixed(1).replace(".0", ""), encode_ns.toFixed(0)];
    console.log(`| ${name} | ${numbers.join(" | ")} | ${decode_ns.toFixed(0)} |`);
  }
}
