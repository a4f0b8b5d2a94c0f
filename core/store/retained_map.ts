/**
 * Retained messages in memory: the newest of each topic. Reading a wildcard looks at all of them.
 */
import { limits } from "../limits.ts";
import type { StoredMessage } from "../message.ts";
import { filter_matches, has_wildcard } from "../topic_tree.ts";
import { message_bytes } from "./codec.ts";
import type { RetainedPage } from "./mod.ts";

export class RetainedMap {
  readonly #messages = new Map<string, StoredMessage>();

  get size(): number {
    return this.#messages.size;
  }

  has(topic: string): boolean {
    return this.#messages.has(topic);
  }

  get(topic: string): StoredMessage | undefined {
    return this.#messages.get(topic);
  }

  /** Sets, or with an empty payload removes, the message of its topic. */
  set(message: StoredMessage): void {
    if (message.payload.length === 0) this.#messages.delete(message.topic);
    else this.#messages.set(message.topic, message);
  }

  clear(): void {
    this.#messages.clear();
  }

  drop_expired(now_ms: number): void {
    for (const [topic, message] of this.#messages) {
      if (!is_living(message, now_ms)) this.#messages.delete(topic);
    }
  }

  /** As Store.retained(). */
  page(filter: string, after: string, now_ms: number): RetainedPage {
    if (!has_wildcard(filter)) {
      const message = this.#messages.get(filter);
      const is_there = message !== undefined && is_living(message, now_ms);
      return { messages: is_there ? [message] : [], next: "" };
    }
    const found: StoredMessage[] = [];
    for (const [topic, message] of this.#messages) {
      if (topic <= after || !is_living(message, now_ms)) continue;
      if (filter_matches(filter, topic)) found.push(message);
    }
    found.sort((a, b) => a.topic < b.topic ? -1 : 1);
    let bytes = 0;
    for (let index = 0; index < found.length - 1; index++) {
      bytes += message_bytes(found[index]!);
      if (index + 1 < limits.page_messages_max && bytes < limits.page_bytes_max) continue;
      return { messages: found.slice(0, index + 1), next: found[index]!.topic };
    }
    return { messages: found, next: "" };
  }
}

function is_living({ expires_ms }: StoredMessage, now_ms: number): boolean {
  return expires_ms === 0 || expires_ms > now_ms;
}
