/**
 * One webhook at work: follows the log from a cursor as a device that is away would, sends what
 * matches, and moves the cursor when it was taken or is a dead letter. Invariants: everything up to
 * the cursor is over; the events of one topic, or of one device, go one after another; at most a
 * window of events is in memory, however far behind the hook is.
 */
import { hash_of } from "../cluster/mod.ts";
import { Follower, type Sink } from "../follower.ts";
import { limits } from "../limits.ts";
import type { Log } from "../log.ts";
import type { Message, StoredMessage } from "../message.ts";
import { Namespace, plain_name } from "../namespace.ts";
import type { Router } from "../router.ts";
import type { Store, StoredSession } from "../store/mod.ts";
import { filter_matches } from "../topic_tree.ts";
import {
  batched,
  binary,
  type CloudEvent,
  event_of,
  own_event,
  type Parcel,
  source_of,
  structured,
} from "./cloud_event.ts";
import type { Hook } from "./definition.ts";
import { bury } from "./dead_letter.ts";
import { Endpoint, type EndpointCounts } from "./endpoint.ts";
import type { Sender } from "./sender.ts";
import {
  dead_topic,
  device_event_kinds,
  event_filter,
  event_of_topic,
  hook_row,
} from "./topics.ts";

export interface HookParts {
  readonly router: Router;
  readonly store: Store;
  readonly sender: Sender;
  readonly log: Log;
  readonly now_ms: () => number;
}

/** What waits to be sent. */
interface Item {
  /** The cursor may stand here when it is over. */
  readonly offset: number;
  readonly bytes: number;
  readonly event: () => CloudEvent;
}

/** Items that go one after another. */
interface Lane {
  readonly items: Item[];
  running: boolean;
}

/** What GET /v1/webhooks says of a hook. */
export interface HookStatus {
  readonly name: string;
  readonly tenant: string;
  readonly url: string;
  readonly events: readonly string[];
  readonly filters: readonly string[];
  readonly circuit: string;
  /** Place in the log, epoch:offset. */
  readonly cursor: string;
  /** Messages of the log behind its head, whether they match or not. */
  readonly behind: number;
  readonly delivered: number;
  readonly attempts: number;
  readonly dead_letters: number;
  readonly problem: string | null;
}

/** How soon something is tried again that failed here, and not at the endpoint. */
const again_ms = 1000;
/** Dead letters of one read. */
const replay_page = 64;

export class HookRunner implements Sink {
  readonly is_reader = true;
  readonly endpoint: Endpoint;
  readonly #names: Namespace;
  readonly #lanes: readonly Lane[];
  #follower: Follower | null = null;
  #queued = 0;
  #queued_bytes = 0;
  /** As the store has it; -1 = it does not have it. */
  #written = -1;
  #stopped = false;
  #replaying = false;

  constructor(readonly hook: Hook, readonly parts: HookParts, counts: EndpointCounts) {
    const { url, headers, concurrency } = hook;
    this.endpoint = new Endpoint(url, headers, hook, parts.sender, counts, parts.now_ms);
    this.#names = new Namespace(hook.tenant);
    this.#lanes = Array.from({ length: concurrency }, () => ({ items: [], running: false }));
  }

  readonly #is_over = () => this.#stopped;

  get row(): string {
    return hook_row(this.hook.tenant, this.hook.name);
  }

  /** Begins where an earlier run stopped; undefined = with what is published from now on. */
  start(record: StoredSession | undefined): void {
    const { store, router } = this.parts;
    let after = record?.cursor ?? router.dispatched;
    const is_other_log = record !== undefined && record.state !== store.epoch;
    if (is_other_log) {
      after = store.first - 1;
      this.gap(0, after + 1);
    }
    this.#written = record === undefined || is_other_log ? -1 : after;
    this.#follow(after);
    this.flush();
  }

  /** Everything up to here is over. */
  get cursor(): number {
    let cursor = this.#follower?.position ?? 0;
    for (const { items: [first] } of this.#lanes) {
      if (first !== undefined) cursor = Math.min(cursor, first.offset - 1);
    }
    return Math.max(cursor, this.#written);
  }

  get behind(): number {
    return Math.max(0, this.parts.router.dispatched - this.cursor);
  }

  /** Events that were read from the log and are not over. */
  get queued(): number {
    return this.#queued;
  }

  /** Writes the cursor down: events that were over since come again after a kill. */
  async flush(): Promise<void> {
    const { cursor } = this;
    const { store, log } = this.parts;
    if (cursor === this.#written) return;
    const is_new = this.#written < 0;
    this.#written = cursor;
    const row = { id: this.row, subscriptions: [], cursor, expires_ms: 0, state: store.epoch };
    try {
      await (is_new ? store.put_session(row) : store.put_cursor(this.row, cursor));
    } catch (error) {
      if (is_new) this.#written = -1;
      log.warn("cannot write the cursor of a webhook", { hook: this.hook.name, error });
    }
  }

  /** Sends nothing more; what is on its way may arrive, and comes again later. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#follower?.close();
    this.endpoint.stop();
    await this.flush();
  }

  status(): HookStatus {
    const { name, tenant, url, events, filters } = this.hook;
    const { store } = this.parts;
    const { cursor, endpoint: { counts, state, problem } } = this;
    return {
      name,
      tenant,
      url: `${url.origin}${url.pathname}`, // a query may hold a secret
      events,
      filters,
      circuit: state,
      cursor: `${store.epoch}:${cursor}`,
      behind: this.behind,
      delivered: counts.delivered,
      attempts: counts.attempts,
      dead_letters: counts.given_up,
      problem: problem === "" ? null : problem,
    };
  }

  // ---------------------------------------------------------------- what comes from the log

  #follow(after: number): void {
    const { events, filters } = this.hook;
    const wanted = events.includes("message") ? [...filters] : [];
    for (const kind of device_event_kinds) {
      if (events.includes(kind)) wanted.push(event_filter(kind));
    }
    const inner = wanted.map((filter) => this.#names.filter(filter));
    this.#follower = new Follower(this.parts.router, inner, after, this);
    this.#follower.room();
  }

  has_room(): boolean {
    return this.#queued < limits.webhook_window_events &&
      this.#queued_bytes < limits.webhook_window_bytes;
  }

  write(message: Message, offset: number): void {
    if (offset === 0) return; // QoS 0 lies in no log
    const topic = plain_name(message.topic);
    const device_event = event_of_topic(topic);
    if (device_event?.kind === "acknowledged" && !this.#is_acknowledgement_wanted(message)) return;
    // The payload lies in memory of the reactor, unless it was read from the log.
    const stored: StoredMessage = { ...message, offset, payload: message.payload.slice() };
    const { epoch } = this.parts.store;
    const bytes = topic.length + stored.payload.length;
    this.#add(device_event?.device_id ?? topic, {
      offset,
      bytes,
      event: () => event_of(stored, epoch),
    });
  }

  gap(from: number, to: number): void {
    const { epoch } = this.parts.store;
    const { name, tenant } = this.hook;
    const time_ms = this.parts.now_ms();
    const given = {
      id: `${epoch}:${to - 1}-gap`,
      source: source_of(tenant),
      subject: name,
      sequence: String(to - 1),
      time_ms,
    };
    const data = { epoch, from: from + 1, to: to - 1 };
    const event = () => own_event("gap", given, data);
    this.#add("", { offset: to - 1, bytes: 0, event });
  }

  failed(error: unknown): void {
    const { log } = this.parts;
    log.warn("cannot read the log for a webhook", { hook: this.hook.name, error: String(error) });
    const after = this.#follower?.after ?? 0;
    setTimeout(() => {
      if (!this.#stopped) this.#follow(after);
    }, again_ms);
  }

  #is_acknowledgement_wanted({ payload }: Message): boolean {
    const { message } = JSON.parse(new TextDecoder().decode(payload));
    return this.hook.filters.some((filter) => filter_matches(filter, message.topic));
  }

  // ---------------------------------------------------------------- what goes to the endpoint

  #add(key: string, item: Item): void {
    const lane = this.#lanes[hash_of(key) % this.#lanes.length]!;
    lane.items.push(item);
    this.#queued++;
    this.#queued_bytes += item.bytes;
    if (!lane.running) this.#run(lane);
  }

  #run(lane: Lane): void {
    lane.running = true;
    this.#empty(lane).catch((error) => {
      const { log } = this.parts;
      log.error("bug while sending events", { hook: this.hook.name, error: String(error) });
    }).finally(() => {
      lane.running = false;
      if (lane.items.length > 0 && !this.#stopped) setTimeout(() => this.#resume(lane), again_ms);
    });
  }

  #resume(lane: Lane): void {
    if (!lane.running && !this.#stopped && !this.endpoint.is_gone) this.#run(lane);
  }

  async #empty(lane: Lane): Promise<void> {
    await Promise.resolve(); // what comes in the same turn may go in the same batch
    while (lane.items.length > 0) {
      const some = this.#take(lane);
      if (!await this.#send(some.map(({ event }) => event()))) return;
      lane.items.splice(0, some.length);
      this.#queued -= some.length;
      for (const { bytes } of some) this.#queued_bytes -= bytes;
      this.#follower?.room();
    }
  }

  /** What goes into one request; it stays in the lane until it is over. */
  #take({ items }: Lane): readonly Item[] {
    let bytes = items[0]!.bytes;
    let count = 1;
    while (count < Math.min(items.length, this.hook.batch)) {
      bytes += items[count]!.bytes;
      if (bytes > limits.webhook_batch_bytes) break;
      count++;
    }
    return items.slice(0, count);
  }

  #parcel(events: readonly CloudEvent[]): Parcel {
    if (this.hook.batch > 1) return batched(events);
    return this.hook.mode === "binary" ? binary(events[0]!) : structured(events[0]!);
  }

  /** Answers when all are over; false = not any more. */
  async #send(events: readonly CloudEvent[]): Promise<boolean> {
    const outcome = await this.endpoint.deliver(this.#parcel(events));
    if (outcome.kind === "stopped") return false;
    if (outcome.kind === "delivered") return true;
    if (events.length === 1) {
      const { name } = this.hook;
      return await bury(this.parts, this.#names, name, events[0]!, outcome.reason, this.#is_over);
    }
    // One of them may be what the endpoint cannot take: the others are not to go with it.
    for (const event of events) if (!await this.#send([event])) return false;
    return true;
  }

  // ---------------------------------------------------------------- dead letters once more

  /** Sends the dead letters after an offset again, in the background; false = it is doing so. */
  replay(after: number): boolean {
    if (this.#replaying) return false;
    this.#replaying = true;
    const { log } = this.parts;
    this.#replay(after).catch((error) => {
      log.warn("cannot replay dead letters", { hook: this.hook.name, error: String(error) });
    }).finally(() => this.#replaying = false);
    return true;
  }

  async #replay(after: number): Promise<void> {
    const { store } = this.parts;
    const { head } = store; // those that become dead again are not tried again
    const topic = this.#names.topic(dead_topic(this.hook.name));
    while (after < head) {
      const page = await store.read([topic], after, replay_page);
      for (const { offset, payload } of page.messages) {
        if (offset > head) return;
        const event = await this.#event_of_letter(payload);
        if (!await this.#send([event])) return;
      }
      after = page.next;
    }
  }

  /** From the message in the log where it is still there, for that is exact. */
  async #event_of_letter(payload: Uint8Array): Promise<CloudEvent> {
    const { event } = JSON.parse(new TextDecoder().decode(payload));
    const { data, data_base64, ...attributes } = event;
    const { store } = this.parts;
    const [, offset] = /^(?:.*):(\d+)$/.exec(attributes.id) ?? [];
    if (attributes.id === `${store.epoch}:${offset}`) {
      const message = await store.get(Number(offset));
      if (message !== undefined) return event_of(message, store.epoch);
    }
    const text = typeof data === "string" ? data : data === undefined ? "" : JSON.stringify(data);
    const bytes = data_base64 === undefined
      ? new TextEncoder().encode(text)
      : Uint8Array.fromBase64(data_base64);
    return { attributes, data: bytes };
  }
}
