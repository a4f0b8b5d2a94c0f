/**
 * Retained messages of a cluster: a stream that keeps the newest of each topic, and what it holds
 * in memory on every node. Invariant: where several nodes retain for a topic, the message that
 * stands later in the log wins on all of them: it is put in place of one that is known, or not at
 * all.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Message, StoredMessage } from "../message.ts";
import { ByteReader, ByteWriter, read_stored, write_message } from "./codec.ts";
import { Conflict, type JetStreamPublisher } from "./jetstream_publisher.ts";
import { RetainedMap } from "./retained_map.ts";
import { subject_of } from "./subjects.ts";

/** First byte of a record: its form. */
const form = 1;
const attempts_max = 8;
/** A message of the log that its publisher has not retained by then is retained for it. */
const repair_ms = 2000;
/** A topic without a retained message is forgotten after this. */
const tombstone_ms = 60_000;

/** Where the newest record of a topic lies, and whose offset it holds; 0 = not of the log. */
interface Place {
  readonly seq: number;
  readonly offset: number;
}

/** The stream, as far as it is needed here. */
export interface RetainedStream {
  readonly prefix: string;
  readonly publisher: JetStreamPublisher;
  /** The newest record of a subject. */
  newest(subject: string): Promise<{ seq: number; data: Uint8Array<ArrayBuffer> } | undefined>;
  remove(seq: number): Promise<void>;
}

export class JetStreamRetained {
  readonly map = new RetainedMap();
  readonly #places = new Map<string, Place>();
  readonly #out = new ByteWriter(new Uint8Array(4096));
  /** Puts of a topic that are under way; those that wait are of the log, the newest counts. */
  readonly #putting = new Map<string, Promise<void>>();
  /** Of the log, and not seen here yet. */
  readonly #awaited = new Map<string, { message: StoredMessage; due_ms: number }>();
  readonly #tombstones: { topic: string; seq: number; due_ms: number }[] = [];

  constructor(readonly stream: RetainedStream) {}

  assert_room(messages: readonly Message[]): void {
    let added = 0;
    for (const { retain, payload, topic } of messages) {
      if (retain && payload.length > 0 && !this.map.has(topic)) added++;
    }
    if (added === 0 || this.map.size + added <= limits.cluster_retained_messages_max) return;
    throw new Refusal(codes.store_full, `The cluster holds ${this.map.size} retained messages`);
  }

  /** A record of the stream. */
  hear(seq: number, data: Uint8Array): void {
    const message = decode(data as Uint8Array<ArrayBuffer>);
    if (message !== undefined) this.#apply(seq, message);
  }

  /** A message of the log that is to be retained, by whichever node stored it. */
  expect(message: StoredMessage, now_ms: number): void {
    if ((this.#places.get(message.topic)?.offset ?? 0) >= message.offset) return;
    this.#awaited.set(message.topic, { message, due_ms: now_ms + repair_ms });
  }

  /** Retains what nobody else did, and forgets what is gone. */
  tick(now_ms: number): void {
    for (const [topic, { message, due_ms }] of this.#awaited) {
      if ((this.#places.get(topic)?.offset ?? 0) >= message.offset) this.#awaited.delete(topic);
      else if (due_ms <= now_ms) {
        this.#awaited.delete(topic);
        this.put(message).catch(() => this.expect(message, now_ms));
      }
    }
    this.map.drop_expired(now_ms);
    while (this.#tombstones.length > 0 && this.#tombstones[0]!.due_ms <= now_ms) {
      const { topic, seq } = this.#tombstones.shift()!;
      if (this.#places.get(topic)?.seq !== seq) continue;
      this.#places.delete(topic);
      this.stream.remove(seq).catch(() => {}); // another node has, or it does no harm
    }
  }

  /** Retains a message that is not in the log. */
  async put_passing(message: Message): Promise<void> {
    const subject = subject_of(this.stream.prefix, message.topic);
    const { seq } = await this.stream.publisher.publish(subject, this.#encode(message, 0));
    this.#apply(seq, { ...message, payload: message.payload.slice(), offset: 0 });
  }

  /** Retains a message of the log, unless there is a newer one. One at a time for each topic. */
  async put(message: StoredMessage): Promise<void> {
    const { topic } = message;
    for (let before = this.#putting.get(topic); before !== undefined;) {
      await before.catch(() => {});
      before = this.#putting.get(topic);
    }
    if ((this.#places.get(topic)?.offset ?? 0) >= message.offset) return;
    const putting = this.#put(message);
    this.#putting.set(topic, putting);
    try {
      await putting;
    } finally {
      if (this.#putting.get(topic) === putting) this.#putting.delete(topic);
    }
  }

  async #put(message: StoredMessage): Promise<void> {
    const subject = subject_of(this.stream.prefix, message.topic);
    const record = this.#encode(message, message.offset);
    for (let attempt = 0; attempt < attempts_max; attempt++) {
      const { seq: after_seq, offset } = this.#places.get(message.topic) ?? { seq: 0, offset: 0 };
      if (offset >= message.offset) return;
      try {
        const { seq } = await this.stream.publisher.publish(subject, record, { after_seq });
        this.#apply(seq, { ...message, payload: message.payload.slice() });
        return;
      } catch (error) {
        if (!(error instanceof Conflict)) throw error;
        const newest = await this.stream.newest(subject);
        if (newest !== undefined) this.hear(newest.seq, newest.data);
        else this.#places.delete(message.topic);
      }
    }
    throw new Refusal(codes.store_unavailable, `Too many retain for ${message.topic} at once`);
  }

  #apply(seq: number, message: StoredMessage): void {
    const { topic, offset } = message;
    const place = this.#places.get(topic);
    if (place !== undefined && place.seq >= seq) return;
    this.#places.set(topic, { seq, offset: Math.max(offset, place?.offset ?? 0) });
    this.map.set(message);
    if (message.payload.length > 0) return;
    this.#tombstones.push({ topic, seq, due_ms: Date.now() + tombstone_ms });
  }

  #encode(message: Message, offset: number): Uint8Array<ArrayBuffer> {
    const out = this.#out;
    out.size = 0;
    out.u8(form);
    out.f64(offset);
    write_message(out, message);
    return out.take().slice();
  }
}

function decode(data: Uint8Array<ArrayBuffer>): StoredMessage | undefined {
  if (data[0] !== form) return undefined;
  const source = new ByteReader(data.slice());
  source.at = 1;
  const offset = source.f64();
  const start = source.at;
  source.at += 17; // flags and two times, before the topic
  const topic = source.topic();
  source.at = start;
  return read_stored(source, offset, topic);
}
