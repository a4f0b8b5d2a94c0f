/**
 * What a session, or a group of a shared subscription, had to see and may not have seen: the
 * promises of MQTT and of the README as functions of what was published, asked and delivered.
 */
import { filter_matches, split_share } from "../../../core/topic_tree.ts";
import type { Asking, Delivery, Session } from "./held.ts";
import type { Ledger, Message } from "./ledger.ts";

/** Room for a PUBLISH around its payload: topic, properties, header. */
const around_payload_bytes = 300;
/** The clock by which the service ages messages is another than that of the test. */
const clock_margin_ms = 50;

/** Whether one asking for retained messages may bring the message. */
function may_bring(asking: Asking, message: Message, ledger: Ledger): boolean {
  if (!message.retain || !filter_matches(asking.filter, message.topic)) return false;
  return !ledger.retained.get(message.topic)!.some((other) => {
    return other.number > message.number && other.is_sure && other.ended < asking.asked &&
      message.copies === 1; // sent again, it is the last one again
  });
}

class Verdict {
  readonly problems: string[] = [];
  readonly #askings: readonly Asking[];
  readonly #most_qos: number;

  constructor(
    readonly session: Session,
    readonly message: Message,
    readonly deliveries: readonly Delivery[],
    ledger: Ledger,
  ) {
    this.#askings = session.askings.filter((asking) => may_bring(asking, message, ledger));
    this.#most_qos = session.most_qos(message);
  }

  #wrong(what: string, { qos, dup, retain, connection }: Delivery): void {
    const { client_id } = this.session;
    const how = `QoS ${qos}${dup ? " DUP" : ""}${retain ? " RETAIN" : ""}`;
    this.problems.push(`${client_id}: ${this.message.id} ${what} (${how}, conn ${connection})`);
  }

  judge(): string[] {
    const { message, deliveries } = this;
    for (const delivery of deliveries) {
      if (message.is_never) this.#wrong("was never sent whole, or withdrawn", delivery);
      this.#judge_place(delivery);
      this.#judge_expiry(delivery);
      this.#judge_repetition(delivery);
    }
    const live = this.#most_qos >= 0 ? message.copies : 0;
    const fresh_max = live + this.#askings.length;
    const counted = deliveries.filter(({ dup, qos }) => !dup || qos === 2);
    if (counted.length > fresh_max) {
      this.#wrong(`came ${counted.length} times, not ${fresh_max}`, counted.at(-1)!);
    }
    return this.problems;
  }

  #judge_place(delivery: Delivery): void {
    const { session, message } = this;
    const { retain, qos, dup, at } = delivery;
    const possible = session.possible(message);
    const editions = possible.flatMap((each) => each.editions);
    const asked = this.#askings.filter((asking) => asking.asked < at);
    if (retain) {
      const as_published = message.retain && editions.some((each) => each.retain_as_published);
      if (!as_published && asked.length === 0) this.#wrong("came as retained, unasked", delivery);
    } else if (this.#most_qos < 0) {
      this.#wrong("came without a subscription", delivery);
    }
    if (qos > message.qos) this.#wrong("came at a better QoS", delivery);
    if (!retain && qos > this.#most_qos) this.#wrong("came above the granted QoS", delivery);
    if (!retain && !dup && qos < session.least_qos(message)) {
      this.#wrong("came below the granted QoS", delivery);
    }
    const identifiers = new Set(editions.map(({ identifier }) => identifier));
    for (const each of session.subscriptions) {
      // What is sent again carries those that match then.
      const may_count = dup && filter_matches(each.filter, message.topic);
      if (!may_count && !asked.some(({ filter }) => filter === each.filter)) continue;
      for (const { identifier } of each.editions) identifiers.add(identifier);
    }
    if (delivery.identifiers.some((identifier) => !identifiers.has(identifier))) {
      this.#wrong(`came with the identifiers ${delivery.identifiers}`, delivery);
    }
  }

  #judge_expiry(delivery: Delivery): void {
    const { expiry_s, ended } = this.message;
    if (expiry_s === 0 || delivery.dup) return;
    const over = ended + expiry_s * 1000 + clock_margin_ms;
    if (delivery.opened > over) this.#wrong("came though it had expired", delivery);
  }

  /** DUP: only after a reconnect, and only of what the service cannot know to be acknowledged. */
  #judge_repetition(delivery: Delivery): void {
    if (!delivery.dup) return;
    const { message, session } = this;
    if (delivery.qos === 0) this.#wrong("came at QoS 0 with DUP", delivery);
    if (delivery.connection === 1) this.#wrong("came with DUP at once", delivery);
    const before = this.deliveries.slice(0, this.deliveries.indexOf(delivery));
    const settled = before.filter((each) => each.is_settled);
    if (settled.length >= message.copies + this.#askings.length && session.kills === 0) {
      this.#wrong("came again after it was acknowledged", delivery);
    }
    const here = before.filter(({ connection }) => connection === delivery.connection);
    if (here.length >= message.copies + this.#askings.length) {
      this.#wrong("came again on one connection", delivery);
    }
  }
}

/** Whether a message comes to the session as to a member of a group: the group is judged. */
function is_shared_out(session: Session, { topic }: Message): boolean {
  return session.subscriptions.some((each) => {
    const share = split_share(each.filter);
    return share !== undefined && filter_matches(share.filter, topic);
  });
}

/** The order of each publisher on each topic, stored messages and others apart. */
function disorder(session: Session): string[] {
  const problems: string[] = [];
  const last = new Map<string, Message>();
  const seen = new Set<Message>();
  for (const { message, retain, qos } of session.arrivals) {
    if (retain || seen.has(message) || message.copies > 1) continue;
    if (is_shared_out(session, message)) continue;
    seen.add(message);
    const kind = qos > 0 ? "stored" : "others";
    const line = `${message.publisher} ${message.topic} ${kind}`;
    const before = last.get(line);
    if (before !== undefined && before.number > message.number) {
      problems.push(`${session.client_id}: ${message.id} came after ${before.id}`);
    }
    last.set(line, message);
  }
  return problems;
}

/** Everything that a session may not have seen. Deliveries of shared subscriptions are not its. */
export function wrong(session: Session, ledger: Ledger): string[] {
  const problems = disorder(session);
  for (const [message, deliveries] of session.deliveries) {
    if (is_shared_out(session, message)) continue;
    problems.push(...new Verdict(session, message, deliveries, ledger).judge());
  }
  return problems;
}

/**
 * Whether one that the same publisher sent after a message that expires came before that
 * could expire: then it was its turn before that. Else the service may have been too slow for it
 * [MQTT-3.3.2-5].
 */
function was_in_time(session: Session, { publisher, topic, number, begun, expiry_s }: Message) {
  const expires = begun + expiry_s * 1000;
  return session.arrivals.some(({ message, at, retain, qos }) => {
    return at < expires && message.number > number && message.publisher === publisher &&
      message.topic === topic && !retain && qos > 0;
  });
}

/** Whether a message has to have come by now, that is, when everything has come to rest. */
function is_due(session: Session, message: Message): boolean {
  if (!message.is_sure || message.is_never || message.size === 0) return false;
  if (message.size + around_payload_bytes > session.bytes_max) return false;
  const least_qos = session.least_qos(message);
  if (least_qos < 0) return false;
  const was_there = session.open_since < message.begun && !session.is_narrow &&
    (message.expiry_s === 0 || was_in_time(session, message));
  return was_there || least_qos > 0 && message.expiry_s === 0;
}

/** The retained messages that an asking had to bring, each the oldest that will do. */
function due_retained(session: Session, asking: Asking, ledger: Ledger): Message[] {
  const { filter, asked, granted, connection, is_sure } = asking;
  const is_kept = session.active(filter) !== undefined;
  if (!is_sure || granted === Infinity || connection !== session.connections) return [];
  if (!is_kept || session.open_since === Infinity || session.is_narrow) return [];
  const due: Message[] = [];
  for (const [topic, messages] of ledger.retained) {
    if (!filter_matches(filter, topic)) continue;
    const at = messages.findLastIndex(({ is_sure, ended }) => is_sure && ended < asked);
    const rest = messages.slice(Math.max(0, at));
    const is_plain = rest.every(({ size, expiry_s, is_sure }, index) => {
      return size > 0 && expiry_s === 0 && (index > 0 || is_sure) &&
        size + around_payload_bytes < session.bytes_max;
    });
    // One that nobody knows the fate of may have come in between, and be gone by now.
    const is_known = messages.slice(0, at).every(({ is_sure, is_never, copies }) => {
      return is_never || is_sure && copies === 1;
    });
    const is_own = messages[0].publisher === session.client_id;
    if (at >= 0 && is_plain && is_known && !is_own) due.push(messages[at]);
  }
  return due;
}

/** What a session had to see and did not. */
export function missing(session: Session, messages: Iterable<Message>, ledger: Ledger): string[] {
  const problems: string[] = [];
  if (session.ended < Infinity || session.ending < Infinity) return problems;
  for (const message of messages) {
    if (!session.deliveries.has(message) && is_due(session, message)) {
      problems.push(`${session.client_id}: ${message.id} on ${message.topic} is missing`);
    }
  }
  for (const asking of session.askings) {
    for (const message of due_retained(session, asking, ledger)) {
      const came = session.arrivals.some((each) => {
        return each.retain && each.at > asking.asked && each.message.topic === message.topic &&
          each.message.number >= message.number;
      });
      const what = `retained ${message.id} for ${asking.filter}`;
      if (!came) problems.push(`${session.client_id}: ${what} is missing`);
    }
  }
  return problems;
}

/** What one group of a shared subscription saw: all sessions that ever were members. */
export class GroupJudge {
  constructor(
    /** `$share/group/filter` */
    readonly share: string,
    readonly qos: 1 | 2,
    readonly members: () => Iterable<Session>,
  ) {}

  #deliveries(message: Message): Delivery[] {
    return [...this.members()].flatMap((session) => session.deliveries.get(message) ?? [])
      .sort((a, b) => a.at - b.at);
  }

  #is_ours({ topic, is_sure, is_never, qos }: Message): boolean {
    return is_sure && !is_never && qos > 0 &&
      filter_matches(split_share(this.share)!.filter, topic);
  }

  /** @param since when the member that stays had subscribed */
  missing(messages: Iterable<Message>, since: number): string[] {
    const problems: string[] = [];
    for (const message of messages) {
      if (!this.#is_ours(message) || message.begun < since || message.expiry_s > 0) continue;
      if (this.#deliveries(message).length > 0) continue;
      problems.push(`${this.share}: ${message.id} is missing`);
    }
    return problems;
  }

  /** @param is_crash the service was killed: at least once is all that is promised */
  wrong(messages: Iterable<Message>, is_crash: boolean): string[] {
    const problems: string[] = [];
    for (const message of messages) {
      if (!this.#is_ours(message)) continue;
      const deliveries = this.#deliveries(message);
      const effective = Math.min(this.qos, message.qos);
      const settled = deliveries.filter(({ is_settled }) => is_settled);
      const count = effective === 2 ? deliveries.length : settled.length;
      if (count <= message.copies || is_crash) continue;
      problems.push(`${this.share}: ${message.id} came ${count} times, not ${message.copies}`);
    }
    return problems;
  }
}
