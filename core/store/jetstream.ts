/**
 * The store of a cluster: a log in a NATS JetStream stream that every node follows as a whole, its
 * newest part in memory. An offset is a sequence number of the stream, so all nodes mean the same
 * by it. Invariant: `head` only moves by what the stream says, in its order, and an append is
 * answered when JetStream has acknowledged it and the node has come to it.
 *
 * Every node follows everything, because `dispatched` (core/router.ts) is one number: with a
 * consumer for each filter, nobody could say that nothing up to an offset is missing. What a node
 * passes on of QoS 0 it follows by interest, see core/cluster/relay.ts.
 */
import type { NatsConnection } from "@nats-io/transport-node";
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import type { Message, StoredMessage } from "../message.ts";
import { filter_matches } from "../topic_tree.ts";
import {
  ByteReader,
  ByteWriter,
  read_message_row,
  read_session,
  read_stored,
  write_message,
  write_session,
} from "./codec.ts";
import { JetStreamFollower } from "./jetstream_follower.ts";
import { type Ack, JetStreamPublisher } from "./jetstream_publisher.ts";
import { type Found, read_stream } from "./jetstream_reader.ts";
import { JetStreamRetained } from "./jetstream_retained.ts";
import { open_streams, type StreamOptions, type Streams } from "./jetstream_streams.ts";
import type {
  Appended,
  Offsets,
  Page,
  RetainedPage,
  SharedLog,
  Soon,
  Store,
  StoredSession,
  StoreStats,
} from "./mod.ts";
import { type Names, names_of } from "./nats.ts";
import { PageCache } from "./page_cache.ts";
import { cover_of, subject_of, token_of } from "./subjects.ts";
import { Window } from "./window.ts";

export interface JetStreamOptions extends StreamOptions {
  /** Of the cluster, where several share the servers of NATS. */
  readonly name?: string;
}

/** First byte of a record: its form. */
const form = 1;
const tick_ms = 250;
/** How often the stream is looked at, and how long that may take. */
const look_ms = 1000;
const open_timeout_ms = 30_000;
const batch_messages = 1024;

/** An append under way. */
class Call {
  readonly done = Promise.withResolvers<Appended>();
  readonly offsets: number[] = [];
  error: unknown = undefined;
  is_new = false;
  left: number;

  constructor(count: number) {
    this.left = count;
  }

  get last(): number {
    return this.offsets.at(-1)!;
  }

  stored(index: number, { seq, duplicate }: Ack): void {
    this.offsets[index] = seq;
    if (!duplicate) this.is_new = true;
  }

  end(): void {
    if (this.error !== undefined) return this.done.reject(this.error);
    const [first] = this.offsets;
    const is_dense = this.offsets.every((offset, index) => offset === first! + index);
    this.done.resolve({ offset: is_dense ? first! : this.offsets, duplicate: !this.is_new });
  }
}

export class JetStreamStore implements Store, SharedLog {
  readonly epoch: string;
  readonly shared: SharedLog = this;
  on_stored: (message: StoredMessage) => void = () => {};
  has_room: () => boolean = () => true;

  readonly #names: Names;
  readonly #window: Window;
  readonly #publisher: JetStreamPublisher;
  readonly #log: JetStreamFollower;
  readonly #retained: JetStreamRetained;
  readonly #retained_log: JetStreamFollower;
  readonly #pages = new PageCache();
  readonly #reads = new Map<string, Promise<Page>>();
  readonly #out = new ByteWriter(new Uint8Array(4096));
  /** In the order of calls, which is the order of answers. */
  readonly #calls: Call[] = [];
  /** Calls under way by idempotency key. */
  readonly #keyed = new Map<string, Promise<Appended>>();
  readonly #timer: ReturnType<typeof setInterval>;
  #first: number;
  /** Where the stream ends, as far as is known: `head` comes to it. */
  #stream_end: number;
  #asked_ms = 0;
  #asking = false;
  #failing: StoreStats["failing"] = "";
  #appended = 0;
  #commits_failed = 0;
  #expired = 0;
  #reads_hit = 0;
  #reads_missed = 0;
  #closed = false;

  private constructor(
    readonly nats: NatsConnection,
    readonly streams: Streams,
    names: Names,
    retained_end: number,
    on_retained: () => void,
  ) {
    this.#names = names;
    const { manager, log, epoch } = streams;
    this.epoch = epoch;
    this.#first = log.state.first_seq;
    this.#stream_end = log.state.last_seq;
    const after = Math.max(this.#first, this.#stream_end - limits.tail_messages_max + 1) - 1;
    this.#first = Math.max(1, this.#first);
    this.#window = new Window(limits.tail_messages_max, limits.tail_bytes_max, Math.max(0, after));
    this.#publisher = new JetStreamPublisher(nats, limits.cluster_store_timeout_ms);
    this.#retained = new JetStreamRetained({
      prefix: names.retained_prefix,
      publisher: this.#publisher,
      newest: (subject) => this.#newest(names.retained, subject),
      remove: async (seq) => void await manager.streams.deleteMessage(names.retained, seq, false),
    });
    this.#retained_log = new JetStreamFollower(nats, manager, names.retained, 0, (seq, data) => {
      this.#retained.hear(seq, data);
      if (seq >= retained_end) on_retained();
    });
    if (retained_end === 0) on_retained();
    this.#log = new JetStreamFollower(nats, manager, names.log, this.#window.head, (seq, data) => {
      this.#hear(seq, data as Uint8Array<ArrayBuffer>);
    });
    this.#log.has_room = () => this.has_room();
    this.#timer = setInterval(() => this.#tick(), tick_ms);
    void this.#watch_connection();
  }

  /**
   * Opens the cluster's store, and makes it where there is none. The connection stays the caller's.
   * @throws Refusal(store_unavailable)
   */
  static async open(nats: NatsConnection, options: JetStreamOptions = {}): Promise<JetStreamStore> {
    const names = names_of(options.name ?? "longwire");
    const streams = await open_streams(nats, names, options);
    const retained = Promise.withResolvers<void>();
    const { last_seq, messages } = streams.retained.state;
    const retained_end = messages === 0 ? 0 : last_seq;
    const store = new JetStreamStore(nats, streams, names, retained_end, retained.resolve);
    const until_ms = performance.now() + open_timeout_ms;
    await retained.promise;
    while (store.head < store.#stream_end) {
      if (performance.now() > until_ms) {
        throw new Refusal(codes.store_unavailable, "The log cannot be read in time");
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return store;
  }

  get head(): number {
    return this.#window.head;
  }

  get first(): number {
    return this.#first;
  }

  give_up(): void {
    this.#publisher.fail_all("NATS does not answer");
  }

  get description(): string {
    const { num_replicas } = this.streams.log.config;
    return `${num_replicas} replica${num_replicas === 1 ? "" : "s"}`;
  }

  append(messages: readonly Message[]): Promise<Offsets> {
    return this.#append(messages, "").then(({ offset }) => offset);
  }

  append_once(scope: string, key: string, messages: readonly Message[]): Promise<Appended> {
    const id = token_of(JSON.stringify([scope, key]));
    const before = this.#keyed.get(id);
    const done = before === undefined ? this.#append(messages, id) : this.#repeated(before);
    if (before !== undefined) return done.then((appended) => appended);
    this.#keyed.set(id, done);
    done.finally(() => this.#keyed.delete(id)).catch(() => {});
    return done.then((appended) => appended); // as late as append(): answers keep their order
  }

  /** The same call is under way: what becomes of it becomes of this one, in its place. */
  #repeated(before: Promise<Appended>): Promise<Appended> {
    const call = new Call(1);
    this.#calls.push(call);
    before.then(({ offset }) => {
      call.offsets.push(...typeof offset === "number" ? [offset] : offset);
    }, (error) => call.error = error).finally(() => {
      call.left = 0;
      this.#answer();
    });
    return call.done.promise;
  }

  #append(messages: readonly Message[], id: string): Promise<Appended> {
    if (this.#publisher.queue_bytes > limits.store_queue_bytes_max) {
      throw new Refusal(codes.store_unavailable, "Too much waits for NATS", 1000);
    }
    this.#retained.assert_room(messages);
    const call = new Call(messages.length);
    this.#calls.push(call);
    for (const [index, message] of messages.entries()) {
      void this.#store(call, index, message, id === "" ? {} : { id: `${id}:${index}` });
    }
    return call.done.promise;
  }

  async #store(call: Call, index: number, message: Message, how: { id?: string }): Promise<void> {
    try {
      const subject = subject_of(this.#names.log_prefix, message.topic);
      const ack = await this.#publisher.publish(subject, this.#encode(message), how);
      this.#stream_end = Math.max(this.#stream_end, ack.seq);
      if (message.retain && !ack.duplicate) {
        await this.#retained.put({ ...message, offset: ack.seq });
      }
      call.stored(index, ack);
      this.#appended++;
      this.#failing = "";
    } catch (error) {
      call.error ??= error;
      this.#commits_failed++;
      this.#failing = "store_unavailable";
    }
    call.left--;
    this.#answer();
  }

  /** Answers those calls that are stored, and that the node has come to, in the order of calls. */
  #answer(): void {
    for (;;) {
      const [call] = this.#calls;
      if (call === undefined || call.left > 0) return;
      if (call.error === undefined && call.last > this.head && !this.#closed) return;
      this.#calls.shift();
      call.end();
    }
  }

  #encode(message: Message): Uint8Array {
    const out = this.#out;
    out.size = 0;
    out.u8(form);
    write_message(out, message);
    return out.take().slice();
  }

  /** The next message of the log. */
  #hear(seq: number, data: Uint8Array<ArrayBuffer>): void {
    const window = this.#window;
    if (seq !== window.head + 1) window.reset(seq - 1); // retention was quicker
    if (seq > this.#stream_end) this.#stream_end = seq;
    const row = data[0] === form ? read_message_row(new ByteReader(data.slice(1))) : undefined;
    if (row === undefined) {
      window.reset(seq); // of a later version: as if it had expired
    } else {
      const encoded = data.subarray(1);
      window.push(row.topic, row.expires_ms, window.add_bytes(encoded), encoded.length);
      const message = window.get(seq)!;
      if (message.retain) this.#retained.expect(message, Date.now());
      this.on_stored(message);
    }
    if (this.#calls.length > 0) this.#answer();
  }

  read(filters: readonly string[], after: number, limit: number): Soon<Page> {
    if (after >= this.head) return { messages: [], next: after, gap: false };
    const now_ms = Date.now();
    const most = Math.min(limit, limits.page_messages_max);
    const start = Math.max(after, this.#first - 1);
    if (start >= this.#window.first - 1) {
      this.#reads_hit++;
      if (start >= this.head) return { messages: [], next: this.head, gap: true };
      const page = this.#window.read(filters, start, most, now_ms);
      return after < start ? { ...page, gap: true } : page;
    }
    const name = filters.join("\0");
    const known = this.#pages.get(name, after, most, now_ms);
    if (known !== undefined) {
      this.#reads_hit++;
      return known;
    }
    const request = `${after} ${name}`;
    let read = this.#reads.get(request);
    if (read === undefined) {
      this.#reads_missed++;
      read = this.#read_old(filters, after).finally(() => this.#reads.delete(request));
      this.#reads.set(request, read);
    }
    return read.then((page) => {
      this.#pages.put(name, after, page, Date.now());
      return this.#pages.get(name, after, most, Date.now()) ?? page;
    });
  }

  /** A page of what is not in memory. */
  async #read_old(filters: readonly string[], after: number): Promise<Page> {
    const { head } = this;
    const subject = cover_of(this.#names.log_prefix, filters);
    const messages: StoredMessage[] = [];
    const gap = after + 1 < this.#first;
    const { manager } = this.streams;
    const { log } = this.#names;
    let bytes = 0;
    let next = head;
    for await (const batch of read_stream(this.nats, manager, log, subject, after + 1, 1024)) {
      for (const found of batch) {
        if (found.seq > head) return { messages, next: head, gap };
        const message = stored_of(found);
        if (message !== undefined && is_wanted(message, filters)) {
          messages.push(message);
          bytes += found.data.length;
        }
        const is_full = messages.length >= limits.page_messages_max ||
          bytes >= limits.page_bytes_max;
        if (is_full) return { messages, next: found.seq, gap };
        next = found.left === 0 ? head : found.seq;
      }
    }
    return { messages, next: Math.max(after, next), gap };
  }

  get(offset: number): Soon<StoredMessage | undefined> {
    if (offset < this.#first || offset >= this.#window.first) return this.#window.get(offset);
    return this.#get(offset);
  }

  async #get(seq: number): Promise<StoredMessage | undefined> {
    const { manager } = this.streams;
    const found = await this.#ask(() => manager.streams.getMessage(this.#names.log, { seq }));
    return found === null ? undefined : stored_of({
      seq,
      subject: found.subject,
      data: found.data as Uint8Array<ArrayBuffer>,
      left: 0,
    });
  }

  retained(filter: string, after = ""): RetainedPage {
    return this.#retained.map.page(filter, after, Date.now());
  }

  retained_count(): number {
    return this.#retained.map.size;
  }

  async retain(message: Message): Promise<void> {
    this.#retained.assert_room([message]);
    await this.#retained.put_passing(message);
  }

  async put_session(session: StoredSession): Promise<void> {
    const out = this.#out;
    out.size = 0;
    out.u8(form);
    write_session(out, session);
    await this.#put(this.#names.session_prefix, session.id, out.take().slice());
  }

  async put_cursor(id: string, cursor: number): Promise<void> {
    const record = new Uint8Array(9);
    record[0] = form;
    new DataView(record.buffer).setFloat64(1, cursor, true);
    await this.#put(this.#names.cursor_prefix, id, record);
  }

  async delete_session(id: string): Promise<void> {
    const filter = this.#names.session_prefix + token_of(id);
    const { sessions } = this.#names;
    // An empty record first: it stands in order with the writes before and after it.
    await this.#put(this.#names.session_prefix, id, new Uint8Array());
    const newest = await this.#newest(sessions, filter);
    if (newest === undefined || newest.data.length > 0) return;
    await this.streams.manager.streams.deleteMessage(sessions, newest.seq, false).catch(() => {});
  }

  async #put(prefix: string, id: string, record: Uint8Array): Promise<void> {
    await this.#publisher.publish(prefix + token_of(id), record);
  }

  async session(id: string): Promise<StoredSession | undefined> {
    const { sessions, session_prefix, cursor_prefix } = this.#names;
    const token = token_of(id);
    const [found, moved] = await Promise.all([
      this.#newest(sessions, session_prefix + token),
      this.#newest(sessions, cursor_prefix + token),
    ]);
    if (found === undefined) return undefined;
    const session = session_of(found.data);
    if (session === undefined || moved === undefined || moved.seq < found.seq) return session;
    return { ...session, cursor: cursor_of(moved.data) };
  }

  async *sessions(): AsyncGenerator<StoredSession> {
    const { sessions, session_prefix, cursor_prefix } = this.#names;
    const { manager } = this.streams;
    const read = (subject: string) =>
      read_stream(this.nats, manager, sessions, subject, 1, batch_messages);
    const cursors = new Map<string, { seq: number; cursor: number }>();
    for await (const batch of read(`${cursor_prefix}>`)) {
      for (const { seq, subject, data } of batch) {
        cursors.set(subject.slice(cursor_prefix.length), { seq, cursor: cursor_of(data) });
      }
    }
    for await (const batch of read(`${session_prefix}>`)) {
      for (const { seq, subject, data } of batch) {
        const session = session_of(data);
        if (session === undefined) continue;
        const moved = cursors.get(subject.slice(session_prefix.length));
        yield moved === undefined || moved.seq < seq
          ? session
          : { ...session, cursor: moved.cursor };
      }
    }
  }

  async #newest(
    stream: string,
    last_by_subj: string,
  ): Promise<{ seq: number; data: Uint8Array<ArrayBuffer> } | undefined> {
    const { manager } = this.streams;
    const found = await this.#ask(() => manager.streams.getMessage(stream, { last_by_subj }));
    if (found === null) return undefined;
    return { seq: found.seq, data: found.data as Uint8Array<ArrayBuffer> };
  }

  async #ask<T>(question: () => Promise<T>): Promise<T> {
    try {
      return await question();
    } catch (error) {
      throw new Refusal(codes.store_unavailable, `NATS: ${(error as Error).message}`, 1000);
    }
  }

  stats(): StoreStats {
    return {
      failing: this.#failing,
      appended: this.#appended,
      commits: this.#appended,
      commits_failed: this.#commits_failed,
      queue_bytes: this.#publisher.queue_bytes,
      lag_messages: Math.max(0, this.#stream_end - this.head),
      silent_ms: this.#publisher.silent_ms,
      reads_hit: this.#reads_hit,
      reads_missed: this.#reads_missed,
      trimmed: this.#first - 1 - this.#expired,
      expired: this.#expired,
    };
  }

  async close(): Promise<void> {
    const until_ms = performance.now() + limits.cluster_store_timeout_ms;
    while (
      (this.#calls.length > 0 || this.#publisher.queue_bytes > 0) &&
      performance.now() < until_ms
    ) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    this.#closed = true;
    clearInterval(this.#timer);
    this.#publisher.close();
    this.#log.close();
    this.#retained_log.close();
    this.#answer();
  }

  /** What was on its way when the connection ended may have got lost: those who wait are told. */
  async #watch_connection(): Promise<void> {
    for await (const { type } of this.nats.status()) {
      if (this.#closed) return;
      if (type === "disconnect") {
        this.#failing = "store_unavailable";
        this.#publisher.fail_all("The connection to NATS was lost");
        this.#publisher.asked();
      }
      if (type !== "reconnect") continue;
      this.#asked_ms = 0;
      this.#log.restart();
      this.#retained_log.restart();
    }
  }

  #tick(): void {
    const now_ms = Date.now();
    this.#retained.tick(now_ms);
    const rest_ms = this.#publisher.silent_ms > 0 ? 0 : look_ms;
    if (this.#asking || now_ms - this.#asked_ms < rest_ms) return;
    this.#asked_ms = now_ms;
    this.#asking = true;
    this.#look_at_stream(now_ms).then(() => {
      this.#failing = "";
    }, () => {
      this.#failing = "store_unavailable";
    }).finally(() => this.#asking = false);
  }

  /** Learns where the log begins by now, and takes away what has expired at its beginning. */
  async #look_at_stream(now_ms: number): Promise<void> {
    const { manager } = this.streams;
    this.#publisher.asked();
    const { promise: too_late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error("No answer in time")), look_ms);
    const info = manager.streams.info(this.#names.log);
    const { state } = await Promise.race([info, too_late]).finally(() => clearTimeout(timer));
    this.#publisher.answered();
    this.#stream_end = Math.max(this.#stream_end, state.last_seq);
    this.#first = Math.max(1, state.first_seq);
    this.#window.trim_before(this.#first);
    let last = this.#first - 1;
    while (last < this.head && is_expired(this.#window.get(last + 1), now_ms)) last++;
    if (last < this.#first) return;
    await manager.streams.purge(this.#names.log, { seq: last + 1 });
    this.#expired += last + 1 - this.#first;
    this.#first = last + 1;
    this.#window.trim_before(this.#first);
  }
}

function is_expired(message: StoredMessage | undefined, now_ms: number): boolean {
  return message !== undefined && message.expires_ms !== 0 && message.expires_ms <= now_ms;
}

function is_wanted(message: StoredMessage, filters: readonly string[]): boolean {
  return !is_expired(message, Date.now()) &&
    filters.some((filter) => filter_matches(filter, message.topic));
}

function stored_of({ seq, data }: Found): StoredMessage | undefined {
  if (data[0] !== form) return undefined;
  const source = new ByteReader(data.slice(1));
  const { topic } = read_message_row(source);
  source.at = 0;
  return read_stored(source, seq, topic);
}

function session_of(data: Uint8Array<ArrayBuffer>): StoredSession | undefined {
  if (data[0] !== form) return undefined; // deleted, or of a later version
  const source = new ByteReader(data.slice());
  source.at = 1;
  return read_session(source);
}

function cursor_of(data: Uint8Array<ArrayBuffer>): number {
  return new DataView(data.buffer, data.byteOffset).getFloat64(1, true);
}
