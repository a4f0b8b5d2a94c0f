/**
 * Topic names and filters as packets bring them: what is not valid becomes a Refusal, and a bounded
 * cache turns the bytes of a topic name into its string without decoding and checking it each time.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import { filter_problem, topic_problem } from "../topic_tree.ts";
import { get_utf8 } from "./utf8.ts";

/** Throws Refusal(topic_invalid) for what nobody can publish to (MQTT 5 section 4.7). */
export function check_topic_name(topic: string): void {
  const problem = topic_problem(topic);
  if (problem !== undefined) throw new Refusal(codes.topic_invalid, problem);
}

/** Throws Refusal(filter_invalid) for what nobody can subscribe to (MQTT 5 sections 4.7, 4.8.2). */
export function check_topic_filter(filter: string): void {
  const problem = filter_problem(filter);
  if (problem !== undefined) throw new Refusal(codes.filter_invalid, problem);
}

/** Bytes of one cached topic name; longer ones are decoded each time. */
const slot_bytes = 64;
/**
 * A power of two. Direct-mapped: a newcomer takes the slot, so the cache is bounded by
 * construction.
 */
const slot_count = 1 << 14;

const slot_keys = new Uint8Array(slot_count * slot_bytes);
/** 0 = the slot is free. */
const slot_sizes = new Uint8Array(slot_count);
const slot_topics: string[] = new Array(slot_count).fill("");

/**
 * Reads and checks the topic name in [begin, end). A repeated name costs a hash and a comparison
 * (about 100 ns for 40 bytes) and is the same string object, whose own hash the match cache then
 * finds computed. Throws Refusal(malformed | topic_invalid).
 */
export function get_topic_name(bytes: Uint8Array, begin: number, end: number): string {
  const size = end - begin;
  if (size > slot_bytes) {
    if (size > limits.topic_bytes_max) { // not worth decoding
      throw new Refusal(codes.topic_invalid, `A topic of ${size} bytes`);
    }
    const topic = get_utf8(bytes, begin, end);
    check_topic_name(topic);
    return topic;
  }
  let sum = size;
  for (let i = begin; i < end; i++) sum = Math.imul(sum ^ bytes[i], 0x01000193); // FNV-1a
  const slot = (sum ^ (sum >>> 15)) & (slot_count - 1);
  if (slot_sizes[slot] === size && size > 0) {
    let at = slot * slot_bytes;
    let i = begin;
    while (i < end && bytes[i] === slot_keys[at]) {
      i += 1;
      at += 1;
    }
    if (i === end) return slot_topics[slot];
  }
  const topic = get_utf8(bytes, begin, end);
  check_topic_name(topic);
  slot_sizes[slot] = size;
  slot_topics[slot] = topic;
  for (let i = 0; i < size; i++) slot_keys[slot * slot_bytes + i] = bytes[begin + i];
  return topic;
}
