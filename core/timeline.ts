/**
 * What has happened to devices of late, for whoever asks about one. The events of all devices lie
 * in two rings of the process, so that memory is bounded whatever there is of devices, and how far
 * back they go depends on how much happens; what a device can bring about as often as it likes has
 * a ring of its own, so that it does not push out the rest.
 */
import type { Code } from "./codes.ts";
import { limits } from "./limits.ts";
import { protocol_names } from "./presence.ts";
import type { Wire } from "./session.ts";

/** What happens, and what its text and its number say; "" = it has none. */
const kinds = {
  connected: { text: "protocol", number: "resumed" },
  subscribed: { text: "filter", number: "qos" },
  unsubscribed: { text: "filter", number: "" },
  /** It reads more slowly than is published: stored messages come from the log from now on. */
  behind: { text: "", number: "offset" },
  caught_up: { text: "", number: "" },
  /** Its queue is full: messages of QoS 0 are being dropped. */
  dropping: { text: "", number: "queue_bytes" },
  refused: { text: "topic", number: "" },
  kicked: { text: "", number: "" },
  disconnected: { text: "", number: "" },
} as const;
type Kind = keyof typeof kinds;
const kind_names = Object.keys(kinds) as Kind[];
const noisy: ReadonlySet<Kind> = new Set(["subscribed", "unsubscribed", "dropping", "refused"]);

/** One event as JSON, beside what `kinds` names. */
export interface TimelineEvent {
  /** RFC 3339, UTC, milliseconds. */
  readonly time: string;
  readonly event: Kind;
  /** Name of a code of core/codes.ts; absent = none is needed. */
  readonly reason?: string;
  readonly [detail: string]: unknown;
}

/** Of one device. */
export interface TimelineJson {
  readonly device_id: string;
  /** What happened before this is not known; null = all since the service began is. */
  readonly since: string | null;
  /** Newest first. */
  readonly events: readonly TimelineEvent[];
}

const block_shift = 12;
const block_events = 1 << block_shift;

/** Events side by side, made when they are needed. */
class Block {
  readonly orders = new Float64Array(block_events);
  readonly times_ms = new Float64Array(block_events);
  readonly numbers = new Float64Array(block_events);
  readonly kinds = new Uint8Array(block_events);
  readonly codes: (Code | null)[] = new Array(block_events).fill(null);
  readonly ids: string[] = new Array(block_events).fill("");
  readonly texts: string[] = new Array(block_events).fill("");
}

/** What is written, but for its time and whose it is. `order` numbers the events of both rings. */
interface Entry {
  readonly order: number;
  readonly kind: Kind;
  readonly code: Code | null;
  readonly text: string;
  readonly number: number;
}

interface Found {
  readonly order: number;
  readonly event: TimelineEvent;
}

class Ring {
  readonly #blocks: Block[] = [];
  /** Events that have been written since the beginning. */
  #count = 0;

  /** @param events_max a power of two, at least one block */
  constructor(readonly events_max: number) {}

  add(time_ms: number, id: string, { order, kind, code, text, number }: Entry): void {
    const place = this.#count++ & (this.events_max - 1);
    const block = this.#blocks[place >> block_shift] ??= new Block();
    const at = place & (block_events - 1);
    block.orders[at] = order;
    block.times_ms[at] = time_ms;
    block.numbers[at] = number;
    block.kinds[at] = kind_names.indexOf(kind);
    block.codes[at] = code;
    block.ids[at] = id;
    block.texts[at] = text;
  }

  /** When the oldest event was that is still there; 0 = none has been forgotten. */
  get since_ms(): number {
    if (this.#count <= this.events_max) return 0;
    const place = this.#count & (this.events_max - 1);
    return this.#blocks[place >> block_shift].times_ms[place & (block_events - 1)];
  }

  /** The last events of a device, newest first: some 10 ns for each event of the ring. */
  last(id: string, events_max: number): Found[] {
    const found: Found[] = [];
    const end = Math.max(0, this.#count - this.events_max);
    for (let index = this.#count - 1; index >= end && found.length < events_max; index--) {
      const place = index & (this.events_max - 1);
      const block = this.#blocks[place >> block_shift];
      const at = place & (block_events - 1);
      if (block.ids[at] !== id) continue;
      found.push({ order: block.orders[at], event: event_of(block, at) });
    }
    return found;
  }
}

function event_of(block: Block, at: number): TimelineEvent {
  const event = kind_names[block.kinds[at]];
  const { text, number } = kinds[event];
  const code = block.codes[at];
  const value = block.numbers[at];
  return {
    time: new Date(block.times_ms[at]).toISOString(),
    event,
    ...(code === null ? {} : { reason: code.name }),
    ...(text === "" || block.texts[at] === "" ? {} : { [text]: block.texts[at] }),
    ...(number === "" ? {} : { [number]: number === "resumed" ? value === 1 : value }),
  };
}

/** A copy that does not hold on to the long text it is the beginning of. */
function shortened(text: string): string {
  if (text.length <= limits.timeline_text_max) return text;
  const start = text.slice(0, limits.timeline_text_max - 3);
  return new TextDecoder().decode(new TextEncoder().encode(`${start}...`));
}

/** Ids are the service's own (namespace.ts). */
export class Timeline {
  readonly #quiet = new Ring(limits.timeline_events);
  readonly #noisy = new Ring(limits.timeline_noisy_events);
  #order = 0;

  constructor(readonly now_ms: () => number) {}

  /** @param resumed its session had been there before */
  connected(id: string, wire: Wire, resumed: boolean): void {
    this.#add("connected", id, null, protocol_names[wire], resumed ? 1 : 0);
  }

  subscribed(id: string, filter: string, qos: number): void {
    this.#add("subscribed", id, null, filter, qos);
  }

  unsubscribed(id: string, filter: string): void {
    this.#add("unsubscribed", id, null, filter, 0);
  }

  behind(id: string, offset: number): void {
    this.#add("behind", id, null, "", offset);
  }

  caught_up(id: string): void {
    this.#add("caught_up", id, null, "", 0);
  }

  dropping(id: string, code: Code, queue_bytes: number): void {
    this.#add("dropping", id, code, "", queue_bytes);
  }

  /** @param topic "" = not one topic was refused, but all */
  refused(id: string, code: Code, topic: string): void {
    this.#add("refused", id, code, topic, 0);
  }

  kicked(id: string): void {
    this.#add("kicked", id, null, "", 0);
  }

  disconnected(id: string, code: Code): void {
    this.#add("disconnected", id, code, "", 0);
  }

  /** What is known of a device; `device_id` is how its tenant calls it. */
  of(id: string, device_id: string): TimelineJson {
    const wanted = limits.timeline_device_events;
    const found = [...this.#quiet.last(id, wanted), ...this.#noisy.last(id, wanted)];
    found.sort((a, b) => b.order - a.order);
    const since_ms = Math.max(this.#quiet.since_ms, this.#noisy.since_ms);
    return {
      device_id,
      since: since_ms === 0 ? null : new Date(since_ms).toISOString(),
      events: found.slice(0, wanted).map(({ event }) => event),
    };
  }

  /** Ids that are very long have no timeline: they would be held on to. */
  #add(kind: Kind, id: string, code: Code | null, text: string, number: number): void {
    if (id.length > limits.timeline_text_max) return;
    const ring = noisy.has(kind) ? this.#noisy : this.#quiet;
    const order = ++this.#order;
    ring.add(this.now_ms(), id, { order, kind, code, text: shortened(text), number });
  }
}
