/**
 * The newest messages of the log in memory, indexed by topic: all of the memory store's log, the
 * tail of the SQLite store's. Holds every message from `first` to `head` that was not trimmed,
 * within two bounds. Messages rest as bytes in a few large segments and become objects when they
 * are first read, so that publishing leaves the garbage collector next to nothing to carry along.
 */
import { limits } from "../limits.ts";
import type { StoredMessage } from "../message.ts";
import { filter_matches, has_wildcard } from "../topic_tree.ts";
import { ByteReader, read_stored } from "./codec.ts";
import type { Page } from "./mod.ts";

/** Matches of wildcard filters are remembered in blocks of this many offsets (a power of two). */
const block_messages = 1024;
const segment_bytes = 256 << 10;
const ring_messages_min = 64;

/** Index of the first value above `after` in a sorted list. */
function index_after(offsets: readonly number[], after: number, start = 0): number {
  let low = start;
  let high = offsets.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (offsets[middle]! <= after) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Offsets of one topic, ascending; those before `start` are gone. */
class Lane {
  start = 0;
  readonly offsets: number[] = [];

  constructor(readonly topic: string) {}

  shift(): void {
    if (++this.start < 32 || this.start * 2 < this.offsets.length) return;
    this.offsets.splice(0, this.start);
    this.start = 0;
  }
}

/** Encoded messages one after the other; append only. */
class Segment {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly reader: ByteReader;
  used = 0;

  constructor(readonly first: number, size: number) {
    this.bytes = new Uint8Array(size);
    this.reader = new ByteReader(this.bytes);
  }
}

/** What is known of each message, at its offset & (length - 1). Lengths are one power of two. */
class Ring {
  readonly lanes: (Lane | undefined)[];
  readonly messages: (StoredMessage | undefined)[];
  readonly positions: Uint32Array;
  readonly sizes: Uint32Array;
  readonly expires_ms: Float64Array;

  constructor(readonly length: number) {
    this.lanes = new Array(length).fill(undefined);
    this.messages = new Array(length).fill(undefined);
    this.positions = new Uint32Array(length);
    this.sizes = new Uint32Array(length);
    this.expires_ms = new Float64Array(length);
  }

  grown(first: number, head: number): Ring {
    const ring = new Ring(this.length * 2);
    for (let offset = first; offset <= head; offset++) {
      const from = offset & (this.length - 1);
      const to = offset & (ring.length - 1);
      ring.lanes[to] = this.lanes[from];
      ring.messages[to] = this.messages[from];
      ring.positions[to] = this.positions[from]!;
      ring.sizes[to] = this.sizes[from]!;
      ring.expires_ms[to] = this.expires_ms[from]!;
    }
    return ring;
  }
}

/** Matches of a filter in one block, as far as it has been looked at. */
interface Block {
  to: number;
  readonly offsets: number[];
}

/** Offsets that match, and how far the search for them went. */
interface Found {
  readonly offsets: number[];
  looked_at: number;
}

export class Window {
  /** Offset of the oldest message here; head + 1 = empty. */
  first: number;
  head: number;
  bytes = 0;

  #ring = new Ring(ring_messages_min);
  /** In the order of offsets; those that hold nothing any more go from the front. */
  #segments: Segment[] = [];
  readonly #lanes = new Map<string, Lane>();
  /** Newest trimmed offset of topics that lost messages above `first`. */
  readonly #trimmed = new Map<string, number>();
  /** Filter -> block number -> matches, in the order of last use. */
  readonly #blocks = new Map<string, Map<number, Block>>();
  #matches = 0;

  constructor(readonly messages_max: number, readonly bytes_max: number, head = 0) {
    this.head = head;
    this.first = head + 1;
  }

  /** Copies encoded messages (codec.ts) that are about to be pushed; answers where they begin. */
  add_bytes(encoded: Uint8Array): number {
    let segment = this.#segments.at(-1);
    if (segment === undefined || segment.bytes.length - segment.used < encoded.length) {
      segment = new Segment(this.head + 1, Math.max(segment_bytes, encoded.length));
      this.#segments.push(segment);
    }
    segment.bytes.set(encoded, segment.used);
    segment.used += encoded.length;
    return segment.used - encoded.length;
  }

  /**
   * Adds the message after `head`, which lies `position` to `position + size` in what add_bytes
   * took last. The oldest make room; the newest always stays.
   */
  push(topic: string, expires_ms: number, position: number, size: number): void {
    const offset = ++this.head;
    if (offset - this.first >= this.#ring.length) {
      this.#ring = this.#ring.grown(this.first, offset - 1);
    }
    let lane = this.#lanes.get(topic);
    if (lane === undefined) this.#lanes.set(topic, lane = new Lane(topic));
    lane.offsets.push(offset);
    const ring = this.#ring;
    const slot = offset & (ring.length - 1);
    ring.lanes[slot] = lane;
    ring.positions[slot] = position;
    ring.sizes[slot] = size;
    ring.expires_ms[slot] = expires_ms;
    this.bytes += size;
    while (
      this.first < offset &&
      (offset - this.first >= this.messages_max || this.bytes > this.bytes_max)
    ) this.#drop_first();
  }

  get(offset: number): StoredMessage | undefined {
    if (offset < this.first || offset > this.head) return undefined;
    const ring = this.#ring;
    const slot = offset & (ring.length - 1);
    const lane = ring.lanes[slot];
    if (lane === undefined) return undefined;
    const found = ring.messages[slot];
    if (found !== undefined) return found;
    const { reader } = this.#segment_of(offset);
    reader.at = ring.positions[slot]!;
    return ring.messages[slot] = read_stored(reader, offset, lane.topic);
  }

  #segment_of(offset: number): Segment {
    let low = 0;
    let high = this.#segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#segments[middle]!.first <= offset) low = middle + 1;
      else high = middle;
    }
    return this.#segments[low - 1]!;
  }

  #drop_first(): void {
    this.#clear_slot(this.first & (this.#ring.length - 1));
    this.first++;
    const second = this.#segments[1];
    if (second !== undefined && second.first <= this.first) this.#segments.shift();
  }

  #clear_slot(slot: number): void {
    const ring = this.#ring;
    const lane = ring.lanes[slot];
    if (lane === undefined) return;
    ring.lanes[slot] = undefined;
    ring.messages[slot] = undefined;
    this.bytes -= ring.sizes[slot]!;
    lane.shift();
    if (lane.start === lane.offsets.length) this.#lanes.delete(lane.topic);
  }

  /** Retention removed everything of the topic up to this offset. */
  trim_topic(topic: string, upto: number): void {
    if (upto < this.first) return;
    this.#trimmed.set(topic, Math.max(upto, this.#trimmed.get(topic) ?? 0));
    const lane = this.#lanes.get(topic);
    while (lane !== undefined && lane.offsets.length > lane.start) {
      const offset = lane.offsets[lane.start]!;
      if (offset > upto) return;
      this.#clear_slot(offset & (this.#ring.length - 1));
    }
  }

  /** Retention removed everything before this offset. */
  trim_before(offset: number): void {
    while (this.first < offset && this.first <= this.head) this.#drop_first();
    if (this.#trimmed.size === 0) return;
    for (const [topic, upto] of this.#trimmed) {
      if (upto < this.first) this.#trimmed.delete(topic);
    }
  }

  /** Empties the window; the next message is head + 1. */
  reset(head: number): void {
    this.head = head;
    this.first = head + 1;
    this.bytes = 0;
    this.#ring = new Ring(ring_messages_min);
    this.#segments = [];
    this.#lanes.clear();
    this.#trimmed.clear();
    this.#blocks.clear();
    this.#matches = 0;
  }

  /** A page as Store.read() defines it; `after` is at least first - 1. */
  read(filters: readonly string[], after: number, limit: number, now_ms: number): Page {
    const found = filters.length === 1
      ? this.#find(filters[0]!, after, limit, now_ms)
      : this.#find_any(filters, after, limit, now_ms);
    const messages: StoredMessage[] = [];
    let next = found.looked_at;
    let bytes = 0;
    for (const offset of found.offsets) {
      if (offset > found.looked_at) break;
      messages.push(this.get(offset)!);
      bytes += this.#ring.sizes[offset & (this.#ring.length - 1)]!;
      if (messages.length === limit || bytes >= limits.page_bytes_max) {
        next = offset;
        break;
      }
    }
    return { messages, next, gap: this.#trimmed.size > 0 && this.#lost(filters, after) };
  }

  #lost(filters: readonly string[], after: number): boolean {
    for (const [topic, upto] of this.#trimmed) {
      if (upto > after && filters.some((filter) => filter_matches(filter, topic))) return true;
    }
    return false;
  }

  #find_any(filters: readonly string[], after: number, limit: number, now_ms: number): Found {
    const any: Found = { offsets: [], looked_at: this.head };
    for (const filter of filters) {
      const found = this.#find(filter, after, limit, now_ms);
      any.looked_at = Math.min(any.looked_at, found.looked_at);
      for (const offset of found.offsets) any.offsets.push(offset);
    }
    any.offsets.sort((a, b) => a - b);
    let kept = 0;
    for (const offset of any.offsets) {
      if (kept === 0 || any.offsets[kept - 1] !== offset) any.offsets[kept++] = offset;
    }
    any.offsets.length = kept;
    return any;
  }

  #find(filter: string, after: number, limit: number, now_ms: number): Found {
    const found: Found = { offsets: [], looked_at: this.head };
    if (has_wildcard(filter)) {
      this.#find_wildcard(filter, after, limit, now_ms, found);
      return found;
    }
    const lane = this.#lanes.get(filter);
    if (lane !== undefined) {
      this.#collect(lane.offsets, lane.start, after, limit, now_ms, found);
    }
    return found;
  }

  /**
   * Adds living offsets above `after`; true when the limit was reached, and looked_at says where.
   */
  #collect(
    offsets: readonly number[],
    start: number,
    after: number,
    limit: number,
    now_ms: number,
    found: Found,
  ): boolean {
    const ring = this.#ring;
    for (let index = index_after(offsets, after, start); index < offsets.length; index++) {
      const offset = offsets[index]!;
      const slot = offset & (ring.length - 1);
      const expires_ms = ring.expires_ms[slot]!;
      if (ring.lanes[slot] === undefined || expires_ms !== 0 && expires_ms <= now_ms) continue;
      found.offsets.push(offset);
      if (found.offsets.length < limit) continue;
      found.looked_at = offset;
      return true;
    }
    return false;
  }

  #find_wildcard(filter: string, after: number, limit: number, now_ms: number, found: Found): void {
    const blocks = this.#blocks_of(filter);
    let budget = limits.read_scan_messages_max;
    let number = Math.floor((after + 1) / block_messages);
    for (; number * block_messages <= this.head; number++) {
      let block = blocks.get(number);
      if (block === undefined) {
        block = { to: Math.max(number * block_messages, this.first) - 1, offsets: [] };
        blocks.set(number, block);
      }
      const end = Math.min(this.head, (number + 1) * block_messages - 1);
      budget -= end - block.to;
      this.#look_at(filter, block, end);
      if (this.#collect(block.offsets, 0, after, limit, now_ms, found)) return;
      if (budget <= 0) {
        found.looked_at = end;
        return;
      }
    }
  }

  #look_at(filter: string, block: Block, end: number): void {
    const mask = this.#ring.length - 1;
    const before = block.offsets.length;
    for (let offset = block.to + 1; offset <= end; offset++) {
      const topic = this.#ring.lanes[offset & mask]?.topic;
      if (topic !== undefined && filter_matches(filter, topic)) block.offsets.push(offset);
    }
    block.to = end;
    this.#matches += block.offsets.length - before;
  }

  /** The remembered matches of a filter, as the last used; forgets what is out of bounds. */
  #blocks_of(filter: string): Map<number, Block> {
    let blocks = this.#blocks.get(filter);
    if (blocks === undefined) blocks = new Map();
    else this.#blocks.delete(filter);
    this.#blocks.set(filter, blocks);
    const oldest = Math.floor(this.first / block_messages);
    for (const [number, block] of blocks) {
      if (number >= oldest) break;
      blocks.delete(number);
      this.#matches -= block.offsets.length;
    }
    for (const [other, its_blocks] of this.#blocks) {
      if (other === filter) break;
      const within = this.#blocks.size <= limits.window_filters_max &&
        this.#matches <= limits.window_matches_max;
      if (within) break;
      this.#blocks.delete(other);
      for (const block of its_blocks.values()) this.#matches -= block.offsets.length;
    }
    return blocks;
  }
}
