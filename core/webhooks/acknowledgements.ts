/**
 * What devices acknowledge, as events in the log: found from how far the cursor of a session moves,
 * so nothing has to be remembered of a delivery, however long the device was away.
 */
import type { Log } from "../log.ts";
import type { StoredMessage } from "../message.ts";
import { plain_name, tenant_of } from "../namespace.ts";
import { type Exchange, type Former, type Session, SubscriptionOptions } from "../session.ts";
import type { AcknowledgementWatcher } from "../sessions.ts";
import type { Page, Store } from "../store/mod.ts";
import { filter_matches, is_shared } from "../topic_tree.ts";
import type { Wanted } from "./device_events.ts";
import type { EventLog } from "./event_log.ts";
import { json_message } from "./publish.ts";
import { event_topic } from "./topics.ts";

export interface AcknowledgementParts {
  readonly store: Store;
  readonly log: Log;
  readonly now_ms: () => number;
}

/** A subscription, as it is and as it was. */
interface Heard {
  readonly filter: string;
  readonly options: number;
  readonly formers: readonly Former[];
}

/** What a device is done with: after one offset, up to another, without some. */
interface Range {
  readonly session: Session;
  readonly heard: readonly Heard[];
  readonly to: number;
  readonly open: ReadonlySet<number>;
}

const page_messages = 256;

/** Options for a message of an offset; -1 = it was not for this subscription. */
function options_at({ options, formers }: Heard, offset: number): number {
  const former = formers.find(({ until }) => offset <= until);
  return former === undefined ? options : former.options;
}

/** Whether a session was sent a message that it has to acknowledge. */
function was_sent({ session, heard }: Range, message: StoredMessage): boolean {
  return heard.some((one) => {
    const options = options_at(one, message.offset);
    if (options < 0 || SubscriptionOptions.qos(options) === 0) return false;
    if (!filter_matches(one.filter, message.topic)) return false;
    return !(SubscriptionOptions.no_local(options) && session.has_published(message));
  });
}

export class Acknowledgements implements AcknowledgementWatcher {
  constructor(
    readonly wanted: Wanted,
    readonly events: EventLog,
    readonly parts: AcknowledgementParts,
  ) {}

  acked(session: Session, to: number, open: ReadonlyMap<number, Exchange> | null): void {
    if (this.wanted.names_for(session.id, "acknowledged") === undefined) return;
    const heard: Heard[] = [];
    for (const [filter, options] of session.subscriptions()) {
      if (is_shared(filter)) continue;
      heard.push({ filter, options, formers: session.formers?.get(filter) ?? [] });
    }
    if (heard.length === 0) return;
    const offsets = new Set([...open?.values() ?? []].map(({ seq }) => seq));
    this.#read({ session, heard, to, open: offsets }, session.cursor);
  }

  settled(session: Session, offset: number): void {
    if (this.wanted.names_for(session.id, "acknowledged") === undefined) return;
    const found = this.parts.store.get(offset);
    const tell = (message: StoredMessage | undefined) => {
      if (message !== undefined) this.#tell(session, message);
    };
    if (found instanceof Promise) found.then(tell).catch((error) => this.#unreadable(error));
    else tell(found);
  }

  /** At once where the messages are in memory: then the event is stored before the cursor is. */
  #read(range: Range, after: number): void {
    const filters = range.heard.map(({ filter }) => filter);
    while (after < range.to) {
      const page = this.parts.store.read(filters, after, page_messages);
      if (page instanceof Promise) {
        page.then((read) => {
          this.#tell_page(range, read);
          this.#read(range, read.next);
        }).catch((error) => this.#unreadable(error));
        return;
      }
      this.#tell_page(range, page);
      after = page.next;
    }
  }

  #tell_page(range: Range, { messages }: Page): void {
    for (const message of messages) {
      const { offset } = message;
      if (offset > range.to || range.open.has(offset)) continue;
      if (was_sent(range, message)) this.#tell(range.session, message);
    }
  }

  #tell(session: Session, { topic, offset }: StoredMessage): void {
    const names = this.wanted.names_for(session.id, "acknowledged");
    const plain = plain_name(topic);
    if (names === undefined) return;
    if (!this.wanted.is_acknowledgement_of(tenant_of(session.id), plain)) return;
    const { store, now_ms } = this.parts;
    const device_id = plain_name(session.id);
    const message = { id: `${store.epoch}:${offset}`, topic: plain };
    const event = names.topic(event_topic(device_id, "acknowledged"));
    this.events.write(json_message(event, { device_id, message }, now_ms()));
  }

  #unreadable(error: unknown): void {
    const { log } = this.parts;
    log.error("cannot read what a device has acknowledged", { error: String(error) });
  }
}
