/**
 * What a client holds of a session and what the service must hold of it: its subscriptions over
 * time, and every delivery. It judges: what had to come, what may not have come.
 */
import type { Qos } from "../../../core/message.ts";
import { filter_matches, is_shared } from "../../../core/topic_tree.ts";
import type { Message } from "./ledger.ts";

/** Options of a subscription, from SUBSCRIBE to its replacement. */
export interface Options {
  readonly qos: Qos;
  readonly no_local: boolean;
  readonly retain_as_published: boolean;
  readonly retain_handling: 0 | 1 | 2;
  /** Subscription Identifier; 0 = none. */
  readonly identifier: number;
}

interface Edition extends Options {
  readonly asked: number;
  /** SUBACK; Infinity = it has not come, and may never. */
  granted: number;
}

/** One filter, from its first SUBSCRIBE to UNSUBACK. */
export interface Subscription {
  readonly filter: string;
  readonly asked: number;
  granted: number;
  /** UNSUBSCRIBE left, UNSUBACK came; Infinity = not so. */
  leaving: number;
  left: number;
  readonly editions: Edition[];
}

/** A PUBLISH that came, or came again. */
export interface Delivery {
  readonly message: Message;
  readonly qos: Qos;
  readonly dup: boolean;
  readonly retain: boolean;
  readonly at: number;
  /** Number of the connection, counted over the whole session, and when it was opened. */
  readonly connection: number;
  readonly opened: number;
  readonly identifiers: readonly number[];
  /** The service must know that it was acknowledged. */
  is_settled: boolean;
}

/** A SUBSCRIBE that brings retained messages. */
export interface Asking {
  readonly filter: string;
  readonly asked: number;
  granted: number;
  readonly connection: number;
  /** Whether it has to bring them: Retain Handling, and whether it was new. */
  readonly is_sure: boolean;
}

/** A session of the service: from a CONNECT that found none to its end. */
export class Session {
  readonly subscriptions: Subscription[] = [];
  readonly askings: Asking[] = [];
  readonly deliveries = new Map<Message, Delivery[]>();
  /** All of them in the order of arrival. */
  readonly arrivals: Delivery[] = [];
  connections = 0;
  /** CONNACK of the connection that is open now; Infinity = none is. */
  open_since = Infinity;
  /** The open connection reads so slowly, or takes so little, that QoS 0 may be dropped. */
  is_narrow = false;
  /** Least Maximum Packet Size of its connections; Infinity = none. */
  bytes_max = Infinity;
  /** From here on it may have ended, and has. */
  ending = Infinity;
  ended = Infinity;
  /** Times that the service was killed: what it had not written down comes again. */
  kills = 0;

  constructor(readonly client_id: string, readonly begun: number) {}

  active(filter: string): Subscription | undefined {
    return this.subscriptions.find((each) => each.filter === filter && each.leaving === Infinity);
  }

  subscribe(filter: string, options: Options, at: number): Subscription {
    let subscription = this.active(filter);
    const limbo = this.subscriptions.some((each) => each.filter === filter && each.left > at);
    if (options.retain_handling !== 2 && !is_shared(filter)) {
      const is_sure = options.retain_handling === 0 || !limbo;
      const connection = this.connections;
      this.askings.push({ filter, asked: at, granted: Infinity, connection, is_sure });
    }
    if (subscription === undefined) {
      subscription = {
        filter,
        asked: at,
        granted: Infinity,
        leaving: Infinity,
        left: Infinity,
        editions: [],
      };
      this.subscriptions.push(subscription);
    }
    subscription.editions.push({ ...options, asked: at, granted: Infinity });
    return subscription;
  }

  /** SUBACK for what was asked at that time. */
  granted(filter: string, asked: number, at: number): void {
    for (const asking of this.askings) {
      if (asking.filter === filter && asking.asked === asked) asking.granted = at;
    }
    for (const subscription of this.subscriptions) {
      const edition = subscription.editions.find((each) => each.asked === asked);
      if (subscription.filter !== filter || edition === undefined) continue;
      edition.granted = at;
      subscription.granted = Math.min(subscription.granted, at);
    }
  }

  leave(filter: string, at: number): void {
    for (const each of this.subscriptions) {
      if (each.filter === filter) each.leaving = Math.min(each.leaving, at);
    }
  }

  /** UNSUBACK for what was asked at that time. */
  left(filter: string, asked: number, at: number): void {
    for (const each of this.subscriptions) {
      if (each.filter === filter && each.asked < asked) each.left = Math.min(each.left, at);
    }
  }

  /** Subscriptions in force, as far as the client knows, shared ones or the others. */
  filters(shared = false): string[] {
    return this.subscriptions.filter(({ filter, leaving, granted }) => {
      return leaving === Infinity && granted < Infinity &&
        is_shared(filter) === shared;
    }).map(({ filter }) => filter);
  }

  note(delivery: Delivery): void {
    this.arrivals.push(delivery);
    const list = this.deliveries.get(delivery.message);
    if (list === undefined) this.deliveries.set(delivery.message, [delivery]);
    else list.push(delivery);
  }

  /** Editions that may have been in force at some time from `begin` to `end`. */
  static editions(of: Subscription, begin: number, end: number): Edition[] {
    return of.editions.filter((edition, index) => {
      const next = of.editions.slice(index + 1).find(({ granted }) => granted < Infinity);
      return edition.asked <= end && (next === undefined || next.granted >= begin);
    });
  }

  /** Subscriptions, not shared, for which the message may come. */
  possible(message: Message): Subscription[] {
    const { topic, begun, ended, publisher } = message;
    return this.subscriptions.filter((each) => {
      return !is_shared(each.filter) && filter_matches(each.filter, topic) &&
        each.asked <= ended && Math.min(each.left, this.ended) >= begun &&
        !(publisher === this.client_id &&
          Session.editions(each, begun, ended).every(({ no_local }) => no_local));
    });
  }

  /** Subscriptions, not shared, for which it has to come; each in force from before it till now. */
  certain(message: Message): Subscription[] {
    const { begun, is_sure, publisher } = message;
    if (!is_sure) return [];
    return this.possible(message).filter((each) => {
      return each.granted < begun && each.leaving === Infinity &&
        !(publisher === this.client_id &&
          Session.editions(each, begun, Infinity).some(({ no_local }) => no_local));
    });
  }

  /** The least QoS at which the message has to come; -1 = it need not. */
  least_qos(message: Message): number {
    let least = -1;
    for (const each of this.certain(message)) {
      const qos = Session.editions(each, message.begun, Infinity).map(({ qos }) => qos);
      least = Math.max(least, Math.min(message.qos, ...qos));
    }
    return least;
  }

  most_qos(message: Message): number {
    let most = -1;
    for (const each of this.possible(message)) {
      const qos = Session.editions(each, message.begun, Infinity).map(({ qos }) => qos);
      most = Math.max(most, Math.min(message.qos, Math.max(...qos)));
    }
    return most;
  }
}
