/**
 * One shared subscription: a consumer of the log with a cursor of its own, whose messages go to one
 * connected member each, in turn (MQTT 5 section 4.8.2). Invariant: a stored message after the
 * cursor is yet to be read; one before it was settled, is with a member, or waits in `#returned`.
 */
import { Follower, type Sink } from "./follower.ts";
import { limits } from "./limits.ts";
import type { Log } from "./log.ts";
import type { Message, StoredMessage } from "./message.ts";
import type { Router } from "./router.ts";
import { type Session, SubscriptionOptions } from "./session.ts";

/** How long a member that had no room is left out, unless it acknowledges something before. */
const blocked_ms = 50;
/** How long after the log could not be read it is tried again. */
const retry_ms = 1000;

/** A connected session of a group. */
export class Member {
  /** Offset of each message that is with the member -> its packet id, 0 = not known yet. */
  readonly assigned = new Map<number, number>();
  /** The connection had no room for the last message that it was offered. */
  blocked = false;
  /** It has unsubscribed: what it has it keeps, and gets no more. */
  gone = false;

  constructor(readonly session: Session, public options: number) {}

  get has_room(): boolean {
    const { session } = this;
    return !this.gone && !this.blocked && !session.closing && session.replay === null &&
      this.assigned.size < limits.shared_inflight_max;
  }
}

export class Group implements Sink {
  readonly #members: Member[] = [];
  /** Index of the member whose turn it is. */
  #turn = 0;
  #follower: Follower | null = null;
  /** Where the follower goes on, while there is none. */
  #after: number;
  /** Offsets that were with a member and have to go to another, ascending. */
  readonly #returned: number[];
  #reading = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param filter without `$share/group/`
   * @param returned offsets up to `after` that are not settled
   * @param unsure_to what follows them, up to this offset, a service that was killed may have sent
   */
  constructor(
    readonly router: Router,
    readonly log: Log,
    readonly filter: string,
    after: number,
    returned: readonly number[],
    readonly unsure_to: number,
  ) {
    this.#after = after;
    this.#returned = [...returned];
  }

  get after(): number {
    return this.#follower?.after ?? this.#after;
  }

  /** Offsets before `after` that would have to be delivered again after a crash. */
  get unsettled(): number[] {
    const offsets = [...this.#returned];
    for (const { assigned } of this.#members) offsets.push(...assigned.keys());
    return offsets.sort((a, b) => a - b);
  }

  get member_count(): number {
    return this.#members.length;
  }

  add(member: Member): void {
    this.#members.push(member);
    this.router.fanout.use_own(member.session);
    this.room();
  }

  /** The member's connection is gone, or it has unsubscribed and settled everything. */
  remove(member: Member): void {
    const index = this.#members.indexOf(member);
    if (index < 0) return;
    this.#members.splice(index, 1);
    if (this.#turn > index) this.#turn--;
    this.router.fanout.drop_own(member.session);
    if (this.#members.length > 0) return;
    this.#after = this.after;
    this.#follower?.close();
    this.#follower = null;
    clearTimeout(this.#timer);
  }

  /** The message of this offset is with a session, or nobody wants it any more. */
  leave_out(offset: number): void {
    const index = this.#returned.indexOf(offset);
    if (index >= 0) this.#returned.splice(index, 1);
  }

  /** Messages that a member had go to others. */
  take_back(offsets: readonly number[]): void {
    this.#returned.push(...offsets);
    this.#returned.sort((a, b) => a - b);
    this.room();
  }

  /** The member had no room for a message. */
  block(member: Member): void {
    member.blocked = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      for (const each of this.#members) each.blocked = false;
      this.room();
      this.router.schedule_turn();
    }, blocked_ms);
  }

  /** A member takes more: what came back goes first. */
  room(): void {
    if (this.#members.length === 0) return;
    this.#redeliver();
    if (this.#follower !== null) return this.#follower.room();
    const follower = new Follower(this.router, [this.filter], this.#after, this);
    this.#follower = follower;
    follower.room();
  }

  #redeliver(): void {
    while (this.#returned.length > 0 && !this.#reading && this.has_room()) {
      const [offset] = this.#returned;
      const found = this.router.store.get(offset);
      if (!(found instanceof Promise)) {
        this.#give_again(offset, found);
        continue;
      }
      this.#reading = true;
      found.then((message) => {
        this.#reading = false;
        this.#give_again(offset, message); // older ones may have come back meanwhile
        this.room();
        this.router.schedule_turn();
      }).catch((error) => {
        this.#reading = false;
        this.#unreadable(error);
      });
    }
  }

  /** @param message undefined = it is not in the log any more */
  #give_again(offset: number, message: StoredMessage | undefined): void {
    const { expires_ms = 0 } = message ?? {};
    const is_wanted = message !== undefined &&
      (expires_ms === 0 || expires_ms > this.router.now_ms());
    if (is_wanted && !this.#give(message, offset)) return;
    this.leave_out(offset);
  }

  has_room(): boolean {
    return this.#members.some((member) => member.has_room);
  }

  write(message: Message, offset: number): void {
    if (!this.#give(message, offset) && offset > 0) this.take_back([offset]);
  }

  gap(): void {
    // What retention removed is counted by the store; MQTT has no word for it.
  }

  failed(error: unknown): void {
    this.#after = this.after;
    this.#follower = null; // it has closed itself
    this.#unreadable(error);
  }

  #unreadable(error: unknown): void {
    this.log.error("cannot read the store", { filter: this.filter, error: String(error) });
    setTimeout(() => this.room(), retry_ms);
  }

  /** Hands a message to the member whose turn it is; false = none has room. */
  #give(message: Message, offset: number): boolean {
    const count = this.#members.length;
    for (let tried = 0; tried < count; tried++) {
      const member = this.#members[this.#turn % count];
      this.#turn = (this.#turn + 1) % count;
      if (!member.has_room) continue;
      const { session, options } = member;
      if (Math.min(SubscriptionOptions.qos(options), message.qos) === 0) { // [MQTT-4.8.2-3]
        this.router.fanout.send_own(session, message, options);
        return true;
      }
      member.assigned.set(offset, 0);
      const dup = offset <= this.unsure_to;
      this.router.fanout.deliver(session, { ...message, offset }, options, { shared: true, dup });
      return true;
    }
    return false;
  }
}
