/**
 * Shared subscriptions (MQTT 5 section 4.8.2): which sessions belong to which group, and what
 * becomes of a message when its member goes. A group lives as long as a session subscribes to it,
 * connected or not; where one of these outlives its connection, the group outlives the process.
 *
 * Promise: QoS 1 at least once, QoS 2 exactly once to one member, but after a crash (not a stop) at
 * least once. A QoS 1 message whose member loses its connection goes to another member at once; a
 * QoS 2 one stays with its member, and goes with its session [MQTT-4.8.2-4], [MQTT-4.8.2-5].
 */
import type { Inflight, Settled } from "../ffi/reactor.ts";
import type { Log } from "./log.ts";
import type { Router } from "./router.ts";
import type { Exchange, Session } from "./session.ts";
import type { Sessions } from "./sessions.ts";
import { Group, Member } from "./shared_group.ts";
import type { StoredSession } from "./store/mod.ts";
import { is_shared, split_share } from "./topic_tree.ts";

/** A group and those that subscribe to it, connected or not. */
interface Entry {
  readonly group: Group;
  readonly subscribers: Set<Session>;
  /** What its row in the store says; "" = there is none. */
  written: string;
}

export class SharedSubscriptions {
  /** By `$share/group/filter`. */
  readonly #entries = new Map<string, Entry>();
  /** Groups in which a connected session has, or had, a part. */
  readonly #members = new Map<Session, Map<string, Member>>();

  constructor(readonly router: Router, readonly sessions: Sessions, readonly log: Log) {
    sessions.groups = this;
  }

  get count(): number {
    return this.#entries.size;
  }

  /** A group of an earlier run; its subscribers are told of after all groups. */
  load(record: StoredSession): void {
    const { unsettled } = JSON.parse(record.state) as { unsettled: number[] };
    const { head } = this.router.store;
    this.#add(record.id, record.cursor, unsettled, head).written = record.state + record.cursor;
  }

  /** What an earlier run left subscribed; a group without a record begins now. */
  loaded(session: Session): void {
    for (const [filter] of session.subscriptions()) {
      if (is_shared(filter)) this.#entry(filter).subscribers.add(session);
    }
    for (const { seq, group } of session.inflight?.values() ?? []) {
      if (group !== undefined) this.#entries.get(group)?.group.leave_out(seq);
    }
  }

  /** Groups that nobody subscribes to any more, after all is loaded. */
  prune(): void {
    for (const [filter, { subscribers }] of this.#entries) {
      if (subscribers.size === 0) this.#drop(filter);
    }
  }

  #add(filter: string, after: number, unsettled: readonly number[], unsure_to: number): Entry {
    const { filter: plain } = split_share(filter)!;
    const group = new Group(this.router, this.log, plain, after, unsettled, unsure_to);
    const entry = { group, subscribers: new Set<Session>(), written: "" };
    this.#entries.set(filter, entry);
    return entry;
  }

  #entry(filter: string): Entry {
    return this.#entries.get(filter) ?? this.#add(filter, this.router.dispatched, [], 0);
  }

  #drop(filter: string): void {
    const entry = this.#entries.get(filter);
    if (entry === undefined) return;
    this.#entries.delete(filter);
    if (entry.written !== "") this.sessions.delete_record(filter);
  }

  /** A connected session is a member from now on, or its options have changed. */
  join(session: Session, filter: string, options: number): void {
    const entry = this.#entry(filter);
    const { group, subscribers } = entry;
    subscribers.add(session);
    // Durable with the subscription: from here on nothing may be missed.
    if (!session.transient && entry.written === "") {
      this.sessions.put_record(record_of(filter, entry));
    }
    let of_session = this.#members.get(session);
    if (of_session === undefined) this.#members.set(session, of_session = new Map());
    const member = of_session.get(filter);
    if (member !== undefined) {
      member.options = options;
      member.gone = false;
      group.room();
      return;
    }
    const added = new Member(session, options);
    of_session.set(filter, added);
    group.add(added);
  }

  /** A connected session has unsubscribed: what it has been sent it completes [MQTT-3.10.4-3]. */
  part(session: Session, filter: string): void {
    const member = this.#members.get(session)?.get(filter);
    if (member !== undefined) {
      member.gone = true;
      this.#remove_if_over(member, filter);
    }
    this.#unsubscribe(session, filter);
  }

  #unsubscribe(session: Session, filter: string): void {
    const entry = this.#entries.get(filter);
    if (!entry?.subscribers.delete(session)) return;
    if (entry.subscribers.size === 0) this.#drop(filter);
  }

  #remove_if_over(member: Member, filter: string): void {
    if (!member.gone || member.assigned.size > 0) return;
    this.#entries.get(filter)?.group.remove(member);
    const of_session = this.#members.get(member.session);
    of_session?.delete(filter);
    if (of_session?.size === 0) this.#members.delete(member.session);
  }

  /** The session has ended. */
  forget(session: Session): void {
    for (const [filter] of session.subscriptions()) {
      if (is_shared(filter)) this.#unsubscribe(session, filter);
    }
  }

  /** The session's connection takes live messages again. */
  live(session: Session): void {
    for (const filter of this.#members.get(session)?.keys() ?? []) {
      this.#entries.get(filter)?.group.room();
    }
  }

  /** Which group's message it is that came to this; undefined = the group is gone. */
  settled(session: Session, settled: Settled): string | undefined {
    for (const [filter, member] of this.#members.get(session) ?? []) {
      const { seq, packet_id, how } = settled;
      const known = member.assigned.get(seq);
      if (known === undefined || known !== 0 && known !== packet_id) continue;
      if (how === "received") member.assigned.set(seq, packet_id);
      else this.#settle(filter, member, seq, how);
      return filter;
    }
    return undefined;
  }

  #settle(filter: string, member: Member, seq: number, how: "acked" | "returned"): void {
    member.assigned.delete(seq);
    const entry = this.#entries.get(filter);
    if (entry !== undefined) {
      if (how === "acked") {
        member.blocked = false;
        entry.group.room();
      } else {
        entry.group.block(member);
        entry.group.take_back([seq]);
      }
    }
    this.#remove_if_over(member, filter);
  }

  /**
   * The session's connection is gone. Answers the exchanges that it goes on with when it is back:
   * those of QoS 2.
   */
  closed(session: Session, inflight: readonly Inflight[]): Exchange[] {
    const kept: Exchange[] = [];
    const of_session = this.#members.get(session);
    if (of_session === undefined) return kept;
    this.#members.delete(session);
    for (const [filter, member] of of_session) {
      const back: number[] = [];
      for (const [offset, packet_id] of member.assigned) {
        const open = inflight.find((each) =>
          each.shared && each.seq === offset && (packet_id === 0 || each.packet_id === packet_id) &&
          !kept.some((other) => other.packet_id === each.packet_id)
        );
        // What the connection does not list it has never been sent.
        if (open?.qos === 2) kept.push({ ...open, group: filter });
        else back.push(offset);
      }
      member.assigned.clear();
      const entry = this.#entries.get(filter);
      entry?.group.remove(member);
      if (back.length > 0) entry?.group.take_back(back);
    }
    return kept;
  }

  unwritten(filter: string): void {
    const entry = this.#entries.get(filter);
    if (entry !== undefined) entry.written = "not written";
  }

  /** Rows that are out of date: those of groups that outlive the process. */
  *changes(): Generator<StoredSession> {
    for (const [filter, entry] of this.#entries) {
      if (!outlives_process(entry)) continue;
      const before = entry.written;
      const record = record_of(filter, entry);
      if (entry.written !== before) yield record;
    }
  }
}

function outlives_process({ subscribers }: Entry): boolean {
  for (const session of subscribers) if (!session.transient) return true;
  return false;
}

/** The row of a group, which is taken as written. */
function record_of(filter: string, entry: Entry): StoredSession {
  const { after, unsettled } = entry.group;
  const state = JSON.stringify({ unsettled });
  entry.written = state + after;
  return { id: filter, subscriptions: [], cursor: after, expires_ms: 0, state };
}
