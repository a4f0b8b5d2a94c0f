/**
 * The newest messages of the log in memory, indexed by topic: all of the memory store's log, the
 * tail of the SQLite store's. Holds every message from `first` to `head` that was not trimmed,
 * within two bounds.
 */
import { limits } from "../limits.ts";
import type { Message, StoredMessage } from "../message.ts";
import { filter_matches, has_wildcard } from "../topic_tree.ts";
import type { Page } from "./mod.ts";

/** Matches of wildcard filters are remembered in blocks of this many offsets (a power of two). */
const block_messages = 1024;

/** Topic, payload, key and property bytes of a message, roughly (text counts UTF-16 units). */
export function message_bytes(message: Message): number {
  let bytes = message.topic.length + message.payload.length + message.key.length;
  const properties = message.properties;
  if (properties === undefined) return bytes;
  bytes += (properties.content_type?.length ?? 0) + (properties.response_topic?.length ?? 0) +
    (properties.correlation_data?.length ?? 0);
  for (const [name, value] of properties.user_properties ?? []) {
    bytes += name.length + value.length;
  }
  return bytes;
}

/**
 * What a message becomes when it is stored. Written out: every stored message has this one shape.
 */
export function stored(message: Message, offset: number): StoredMessage {
  const { topic, payload, qos, retain, time_ms, expires_ms, key, properties } = message;
  return properties === undefined
    ? { topic, payload, qos, retain, time_ms, expires_ms, key, offset }
    : { topic, payload, qos, retain, time_ms, expires_ms, key, offset, properties };
}

/** Index of the first value above `after` in a sorted list. */
export function index_after(offsets: readonly number[], after: number, start = 0): number {
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

  shift(): void {
    if (++this.start < 32 || this.start * 2 < this.offsets.length) return;
    this.offsets.splice(0, this.start);
    this.start = 0;
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

  /** Ring: the message at offset o is at o & (length - 1); undefined = trimmed or not yet there. */
  #ring: (StoredMessage | undefined)[];
  readonly #topics = new Map<string, Lane>();
  /** Newest trimmed offset of topics that lost messages above `first`. */
  readonly #trimmed = new Map<string, number>();
  /** Filter -> block number -> matches, in the order of last use. */
  readonly #blocks = new Map<string, Map<number, Block>>();
  #matches = 0;

  constructor(readonly messages_max: number, readonly bytes_max: number, head = 0) {
    this.head = head;
    this.first = head + 1;
    this.#ring = new Array(64).fill(undefined);
  }

  get(offset: number): StoredMessage | undefined {
    if (offset < this.first || offset > this.head) return undefined;
    return this.#ring[offset & (this.#ring.length - 1)];
  }

  /** Adds the message after `head`; the oldest make room, and the newest always stays. */
  push(message: StoredMessage): void {
    if (message.offset !== this.head + 1) {
      throw new Error(`window: ${message.offset} does not follow ${this.head}`);
    }
    if (message.offset - this.first >= this.#ring.length) this.#grow();
    this.head = message.offset;
    this.#ring[message.offset & (this.#ring.length - 1)] = message;
    this.bytes += message_bytes(message);
    let lane = this.#topics.get(message.topic);
    if (lane === undefined) this.#topics.set(message.topic, lane = new Lane());
    lane.offsets.push(message.offset);
    while (
      this.first < this.head &&
      (this.head - this.first >= this.messages_max || this.bytes > this.bytes_max)
    ) this.drop_first();
  }

  /** Forgets the message at `first`. */
  drop_first(): void {
    const slot = this.first & (this.#ring.length - 1);
    const message = this.#ring[slot];
    this.#ring[slot] = undefined;
    this.first++;
    if (message === undefined) return;
    this.bytes -= message_bytes(message);
    this.#shift(message.topic, this.#topics.get(message.topic)!);
  }

  /** Retention removed everything of the topic up to this offset. */
  trim_topic(topic: string, upto: number): void {
    if (upto < this.first) return;
    this.#trimmed.set(topic, Math.max(upto, this.#trimmed.get(topic) ?? 0));
    const lane = this.#topics.get(topic);
    while (lane !== undefined && lane.offsets.length > lane.start) {
      const offset = lane.offsets[lane.start]!;
      if (offset > upto) return;
      const slot = offset & (this.#ring.length - 1);
      this.bytes -= message_bytes(this.#ring[slot]!);
      this.#ring[slot] = undefined;
      this.#shift(topic, lane);
    }
  }

  /** Retention removed everything before this offset. */
  trim_before(offset: number): void {
    while (this.first < offset && this.first <= this.head) this.drop_first();
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
    this.#ring = new Array(64).fill(undefined);
    this.#topics.clear();
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
      const message = this.get(offset)!;
      messages.push(message);
      bytes += message_bytes(message);
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
    const lane = this.#topics.get(filter);
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
    for (let index = index_after(offsets, after, start); index < offsets.length; index++) {
      const offset = offsets[index]!;
      const message = this.#ring[offset & (this.#ring.length - 1)];
      if (message === undefined) continue;
      if (message.expires_ms !== 0 && message.expires_ms <= now_ms) continue;
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
      const message = this.#ring[offset & mask];
      if (message !== undefined && filter_matches(filter, message.topic)) {
        block.offsets.push(offset);
      }
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

  #shift(topic: string, lane: Lane): void {
    lane.shift();
    if (lane.start === lane.offsets.length) this.#topics.delete(topic);
  }

  #grow(): void {
    const grown: (StoredMessage | undefined)[] = new Array(this.#ring.length * 2).fill(undefined);
    for (let offset = this.first; offset <= this.head; offset++) {
      grown[offset & (grown.length - 1)] = this.#ring[offset & (this.#ring.length - 1)];
    }
    this.#ring = grown;
  }
}
