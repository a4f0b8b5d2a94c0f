/**
 * Pages of the log that were read lately, for the next session with the same filters: a fleet that
 * returns reads the same pages. A cursor within a page gets the rest of it, so sessions that left
 * at different times soon read in step. What a page holds may be gone from the log by now.
 */
import { limits } from "../limits.ts";
import { message_bytes } from "./codec.ts";
import type { Page } from "./mod.ts";

/** How long a page is kept, and shows what may be gone. */
const ttl_ms = 10_000;
/** What a message costs beside its bytes. */
const message_overhead_bytes = 200;

interface Cached {
  readonly filters: string;
  readonly after: number;
  readonly page: Page;
  readonly bytes: number;
  readonly made_ms: number;
}

export class PageCache {
  /** By filters, pages in the order of their `after`. */
  readonly #pages = new Map<string, Cached[]>();
  /** In the order of last use. */
  readonly #used = new Set<Cached>();
  #bytes = 0;

  constructor(
    readonly pages_max: number = limits.page_cache_pages_max,
    readonly bytes_max: number = limits.page_cache_bytes_max,
  ) {}

  /** The page after `after`, or the part of one that begins there. */
  get(filters: string, after: number, limit: number, now_ms: number): Page | undefined {
    const pages = this.#pages.get(filters);
    if (pages === undefined) return undefined;
    const cached = pages[index_of(pages, after)];
    // What a page says of gaps, it says of its own beginning.
    if (cached === undefined || cached.page.next <= after) return undefined;
    if (cached.page.gap && cached.after !== after) return undefined;
    if (cached.made_ms <= now_ms - ttl_ms) {
      this.#drop(cached);
      return undefined;
    }
    this.#used.delete(cached);
    this.#used.add(cached);
    return part_of(cached.page, after, limit, now_ms);
  }

  put(filters: string, after: number, page: Page, now_ms: number): void {
    if (page.next <= after) return;
    let pages = this.#pages.get(filters);
    if (pages === undefined) this.#pages.set(filters, pages = []);
    const index = index_of(pages, after);
    if (pages[index]?.after === after) this.#drop(pages[index]!);
    let bytes = filters.length + message_overhead_bytes;
    for (const message of page.messages) bytes += message_bytes(message) + message_overhead_bytes;
    const cached = { filters, after, page, bytes, made_ms: now_ms };
    pages = this.#pages.get(filters);
    if (pages === undefined) this.#pages.set(filters, pages = []);
    pages.splice(index_of(pages, after) + 1, 0, cached);
    this.#used.add(cached);
    this.#bytes += bytes;
    this.#forget(now_ms);
  }

  clear(): void {
    this.#pages.clear();
    this.#used.clear();
    this.#bytes = 0;
  }

  #forget(now_ms: number): void {
    for (const cached of this.#used) {
      const kept = this.#used.size <= this.pages_max && this.#bytes <= this.bytes_max &&
        cached.made_ms > now_ms - ttl_ms;
      if (kept) return;
      this.#drop(cached);
    }
  }

  #drop(cached: Cached): void {
    const pages = this.#pages.get(cached.filters)!;
    pages.splice(pages.indexOf(cached), 1);
    if (pages.length === 0) this.#pages.delete(cached.filters);
    this.#used.delete(cached);
    this.#bytes -= cached.bytes;
  }
}

/** Index of the last page that begins at or before `after`; -1 = none. */
function index_of(pages: readonly Cached[], after: number): number {
  let low = 0;
  let high = pages.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (pages[middle]!.after <= after) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function part_of(page: Page, after: number, limit: number, now_ms: number): Page {
  const messages = [];
  for (const message of page.messages) {
    if (message.offset <= after) continue;
    if (message.expires_ms !== 0 && message.expires_ms <= now_ms) continue;
    if (messages.length === limit) {
      return { messages, next: messages.at(-1)!.offset, gap: page.gap };
    }
    messages.push(message);
  }
  return { messages, next: page.next, gap: page.gap };
}
