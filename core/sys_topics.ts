/**
 * What the service says of itself under `$SYS/broker/`, in the names that operators of MQTT brokers
 * know: sent to who subscribes as if it were retained, and to all who listen every ten seconds.
 * Nothing is made up into messages while nobody listens.
 */
import type { Reactor } from "../ffi/reactor.ts";
import type { Hub } from "./hub.ts";
import { limits } from "./limits.ts";
import type { StoredMessage } from "./message.ts";
import type { Router } from "./router.ts";
import type { Sessions } from "./sessions.ts";
import type { RetainedPage, Soon, Store } from "./store/mod.ts";
import { filter_matches } from "./topic_tree.ts";

export interface SysParts {
  readonly reactor: Reactor;
  readonly router: Router;
  readonly sessions: Sessions;
  readonly hub: Hub;
  readonly store: Store;
  /** Counts what the reactor does not: packets that MQTT answers with. */
  readonly mqtt: { readonly sent: number };
  readonly version: string;
  readonly now_ms: () => number;
}

const root = "$SYS/broker/";

/** What is counted from the start on, and shown as a number for each minute too. */
interface Counts {
  readonly "messages/received": number;
  readonly "messages/sent": number;
  readonly "publish/messages/received": number;
  readonly "publish/messages/sent": number;
  readonly "publish/messages/dropped": number;
  readonly "bytes/received": number;
  readonly "bytes/sent": number;
  readonly "sockets/opened": number;
}

/** Topic of the load of each count, behind `load/`. */
const loads: Readonly<Record<keyof Counts, string>> = {
  "messages/received": "messages/received",
  "messages/sent": "messages/sent",
  "publish/messages/received": "publish/received",
  "publish/messages/sent": "publish/sent",
  "publish/messages/dropped": "publish/dropped",
  "bytes/received": "bytes/received",
  "bytes/sent": "bytes/sent",
  "sockets/opened": "sockets",
};

const names = Object.keys(loads) as (keyof Counts)[];
const minutes = [1, 5, 15] as const;

/** Averages over 1, 5 and 15 minutes that fade exponentially, as those of Unix do. */
class Load {
  readonly #averages = minutes.map(() => 0);

  add(per_minute: number, interval_ms: number): void {
    for (const [index, minute] of minutes.entries()) {
      const fading = Math.exp(-interval_ms / (minute * 60_000));
      this.#averages[index] = per_minute + fading * (this.#averages[index] - per_minute);
    }
  }

  *entries(topic: string): Generator<[topic: string, value: string]> {
    for (const [index, minute] of minutes.entries()) {
      yield [`load/${topic}/${minute}min`, this.#averages[index].toFixed(2)];
    }
  }
}

export class SysTopics {
  readonly #begin_ms: number;
  readonly #loads = new Map(names.map((name) => [name, new Load()]));
  #before: Counts;
  #sampled_ms: number;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(readonly parts: SysParts) {
    this.#begin_ms = this.#sampled_ms = parts.now_ms();
    this.#before = this.#counts();
    parts.router.own_topics = this;
  }

  start(): void {
    this.#timer = setInterval(() => void this.tick(), limits.sys_interval_ms);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Takes a sample, and sends the values to those who listen. */
  async tick(): Promise<void> {
    this.#sample();
    const { fanout } = this.parts.router;
    for (const message of await this.#messages((topic) => fanout.is_heard(topic))) {
      fanout.dispatch(message, 0, null, 0);
    }
    this.parts.router.schedule_turn();
  }

  /** What matches a filter, as if it were retained; undefined = nothing of it can match. */
  retained(filter: string): Soon<RetainedPage> | undefined {
    if (!filter.startsWith("$SYS/")) return undefined;
    return this.#messages((topic) => filter_matches(filter, topic)).then((messages) => {
      return { messages, next: "" };
    });
  }

  #counts(): Counts {
    const { reactor, router, mqtt } = this.parts;
    const { counters, dropped } = reactor.stats();
    const sum = (numbers: readonly number[]) => numbers.reduce((total, each) => total + each, 0);
    return {
      "messages/received": counters.frames_in + counters.heartbeats_in + counters.acks_in,
      "messages/sent": counters.deliveries + counters.heartbeats_in + mqtt.sent,
      "publish/messages/received": sum(router.stats.published),
      "publish/messages/sent": counters.deliveries,
      "publish/messages/dropped": sum(dropped),
      "bytes/received": counters.bytes_in,
      "bytes/sent": counters.bytes_out,
      "sockets/opened": counters.accepted,
    };
  }

  #sample(): void {
    const now_ms = this.parts.now_ms();
    const counts = this.#counts();
    const interval_ms = Math.max(1, now_ms - this.#sampled_ms);
    for (const name of names) {
      const per_minute = (counts[name] - this.#before[name]) * 60_000 / interval_ms;
      this.#loads.get(name)!.add(per_minute, interval_ms);
    }
    this.#before = counts;
    this.#sampled_ms = now_ms;
  }

  /** Messages of the topics that somebody wants. */
  async #messages(wants: (topic: string) => boolean): Promise<StoredMessage[]> {
    const messages: StoredMessage[] = [];
    const time_ms = this.parts.now_ms();
    for (const [name, read] of this.#topics()) {
      const topic = root + name;
      if (!wants(topic)) continue;
      const payload = new TextEncoder().encode(String(await read()));
      const message = { topic, payload, qos: 0, retain: true, time_ms, expires_ms: 0 } as const;
      messages.push({ ...message, key: "", offset: 0 });
    }
    return messages;
  }

  /** Every topic below the root, and how its value is had. */
  *#topics(): Generator<[name: string, read: () => Soon<string | number>]> {
    const { hub, sessions, store, version, now_ms } = this.parts;
    yield ["version", () => `longwire version ${version}`];
    yield ["uptime", () => `${Math.floor((now_ms() - this.#begin_ms) / 1000)} seconds`];
    yield ["clients/total", () => sessions.count];
    yield ["clients/connected", () => sessions.connected];
    yield ["clients/active", () => sessions.connected]; // its name of old
    yield ["clients/disconnected", () => sessions.count - sessions.connected];
    yield ["clients/inactive", () => sessions.count - sessions.connected];
    yield ["clients/maximum", () => sessions.connected_max];
    yield ["clients/expired", () => sessions.expired];
    yield ["subscriptions/count", () => sessions.subscriptions];
    yield ["shared_subscriptions/count", () => hub.shared.count];
    yield ["retained messages/count", () => store.retained_count()];
    yield ["store/messages/count", () => store.head - store.first + 1];
    yield ["messages/stored", () => store.head - store.first + 1]; // its name of old
    for (const name of names) {
      if (name !== "sockets/opened") yield [name, () => this.#counts()[name]];
    }
    for (const [name, load] of this.#loads) {
      for (const [topic, value] of load.entries(loads[name])) yield [topic, () => value];
    }
  }
}
