/**
 * Topic filters -> values (MQTT 5 section 4.7). A filter without wildcards is one entry of one Map,
 * a filter with wildcards a path in a trie, and what a topic matched is remembered. Pure: no I/O,
 * no clock.
 *
 * Clause ids are those of MQTT 5; where MQTT 3.1.1 numbers the same clause otherwise, its id
 * follows.
 */
import { limits } from "./limits.ts";
import { is_reserved } from "./namespace.ts";

const nul = 0x00;
const hash = 0x23;
const dollar = 0x24;
const plus = 0x2b;
const slash = 0x2f;

const share_prefix = "$share/";

/**
 * Why `topic` cannot be published to, or undefined when it can. The sentence does not repeat the
 * topic (it may be 64 KiB long): the caller names it.
 */
export function topic_problem(topic: string): string | undefined {
  const problem = text_problem(topic, "topic");
  if (problem !== undefined) return problem;
  // [MQTT-4.7.0-1], 3.1.1: [MQTT-4.7.1-1], and [MQTT-3.3.2-2] of both
  if (has_wildcard(topic)) return "a topic must not contain the wildcards + and #";
  return undefined;
}

/** Why `filter` (also `$share/group/filter`) cannot be subscribed to, or undefined when it can. */
export function filter_problem(filter: string): string | undefined {
  const problem = text_problem(filter, "filter");
  if (problem !== undefined) return problem;
  if (!filter.startsWith(share_prefix)) return wildcard_problem(filter, 0);
  const group_end = filter.indexOf("/", share_prefix.length);
  // [MQTT-4.8.2-1], [MQTT-4.8.2-2]: a group of one character or more, "/", then a filter
  if (group_end === share_prefix.length || filter.length === share_prefix.length) {
    return "the group after $share/ must not be empty";
  }
  if (group_end === -1 || group_end + 1 === filter.length) {
    return "$share/ must be followed by a group, / and a filter";
  }
  if (has_wildcard(filter.slice(share_prefix.length, group_end))) {
    return "the group after $share/ must not contain + or #"; // [MQTT-4.8.2-2]
  }
  if (is_reserved(filter, group_end + 1)) return "a filter must not begin with $ and U+0001";
  return wildcard_problem(filter, group_end + 1);
}

/**
 * The two parts of a shared filter, or undefined for a filter that is not shared. The filter must
 * be one in which `filter_problem` finds nothing.
 */
export function split_share(filter: string): { group: string; filter: string } | undefined {
  if (!filter.startsWith(share_prefix)) return undefined;
  const group_end = filter.indexOf("/", share_prefix.length);
  return {
    group: filter.slice(share_prefix.length, group_end),
    filter: filter.slice(group_end + 1),
  };
}

/** Whether a filter is that of a shared subscription. */
export function is_shared(filter: string): boolean {
  return filter.startsWith(share_prefix);
}

/** Whether a filter holds `+` or `#`, so that it may match more than the topic of the same name. */
export function has_wildcard(filter: string): boolean {
  for (let i = 0; i < filter.length; i++) {
    const unit = filter.charCodeAt(i);
    if (unit === plus || unit === hash) return true;
  }
  return false;
}

/** Whether a valid filter, not shared, matches a valid topic. */
export function filter_matches(filter: string, topic: string): boolean {
  if (topic.charCodeAt(0) === dollar) {
    // [MQTT-4.7.2-1]: a leading wildcard keeps out of $SYS and its like
    const first = filter.charCodeAt(0);
    if (first === plus || first === hash) return false;
  }
  let f = 0;
  let t = 0;
  while (f < filter.length) {
    const unit = filter.charCodeAt(f);
    if (unit === hash) return true;
    if (unit === plus) {
      while (t < topic.length && topic.charCodeAt(t) !== slash) t++;
      f++;
    } else if (t < topic.length && topic.charCodeAt(t) === unit) {
      f++;
      t++;
    } else {
      // [MQTT-4.7.1-1], 3.1.1: [MQTT-4.7.1-2]: "a/#" includes the parent level, "a"
      return t === topic.length && unit === slash && f + 2 === filter.length &&
        filter.charCodeAt(f + 1) === hash;
    }
  }
  return t === topic.length;
}

/** What topics and filters have in common: length, levels and well-formed text. */
function text_problem(text: string, what: "topic" | "filter"): string | undefined {
  if (text.length === 0) return `a ${what} must have at least one character`; // [MQTT-4.7.3-1]
  // Where tenants lie (namespace.ts). Section 1.5.4 lets a server refuse control characters.
  if (is_reserved(text)) return `a ${what} must not begin with $ and U+0001`;
  let bytes = 0;
  let levels = 1;
  // A text has at least as many bytes as UTF-16 units: what is far too long is not even read.
  if (text.length > limits.topic_bytes_max) bytes = text.length;
  for (let i = 0; i < text.length && bytes <= limits.topic_bytes_max; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) {
      bytes += 1;
      if (unit === slash) levels++;
      else if (unit === nul) return `a ${what} must not contain U+0000`; // [MQTT-4.7.3-2]
    } else if (unit < 0x800) {
      bytes += 2;
    } else if (unit < 0xd800 || unit > 0xdfff) {
      bytes += 3;
    } else {
      const next = text.charCodeAt(i + 1); // NaN at the end, which fails the test below
      if (unit > 0xdbff || !(next >= 0xdc00 && next <= 0xdfff)) {
        return `a ${what} must not contain half a surrogate pair`; // [MQTT-1.5.4-1], [MQTT-1.5.3-1]
      }
      bytes += 4;
      i++;
    }
  }
  // [MQTT-4.7.3-3] allows 65,535 bytes and any number of levels; limits.ts says why this does not
  if (bytes > limits.topic_bytes_max) {
    return `a ${what} must not be longer than ${limits.topic_bytes_max} bytes of UTF-8`;
  }
  if (levels > limits.topic_levels_max) {
    return `a ${what} must not have more than ${limits.topic_levels_max} levels`;
  }
  return undefined;
}

/** Where wildcards may stand in the filter that begins at index `start` of `text`. */
function wildcard_problem(text: string, start: number): string | undefined {
  const end = text.length;
  for (let i = start; i < end; i++) {
    const unit = text.charCodeAt(i);
    if (unit !== plus && unit !== hash) continue;
    const opens_level = i === start || text.charCodeAt(i - 1) === slash;
    if (unit === hash && (!opens_level || i + 1 !== end)) {
      return "# must be the whole of the last level"; // [MQTT-4.7.1-1], 3.1.1: [MQTT-4.7.1-2]
    }
    if (!opens_level || (i + 1 !== end && text.charCodeAt(i + 1) !== slash)) {
      return "+ must be the whole of its level"; // [MQTT-4.7.1-2], 3.1.1: [MQTT-4.7.1-3]
    }
  }
  return undefined;
}

/**
 * One level of the trie. Most levels of most fleets have one child ("devices/<id>/+/state"), and a
 * Map of one entry costs some 200 bytes: so the first child stands in two fields, and the Map comes
 * with the second. All fields undefined = nothing here, the parent removes it.
 */
class Level<T> {
  /** Value of the filter that ends at this level. */
  here: T | undefined = undefined;
  /** Value of the filter that ends with "/#" below this level ("#" at the root). */
  below: T | undefined = undefined;
  /** Child for "+". */
  any: Level<T> | undefined = undefined;
  #only_name: string | undefined = undefined;
  #only: Level<T> | undefined = undefined;
  #children: Map<string, Level<T>> | undefined = undefined;

  child(name: string): Level<T> | undefined {
    if (this.#children !== undefined) return this.#children.get(name);
    return this.#only_name === name ? this.#only : undefined;
  }

  add_child(name: string, child: Level<T>): void {
    if (this.#children !== undefined) {
      this.#children.set(name, child);
    } else if (this.#only_name === undefined) {
      this.#only_name = name;
      this.#only = child;
    } else {
      this.#children = new Map([[this.#only_name, this.#only!], [name, child]]);
      this.#only_name = this.#only = undefined;
    }
  }

  remove_child(name: string): void {
    if (this.#children === undefined) {
      this.#only_name = this.#only = undefined;
      return;
    }
    this.#children.delete(name);
    if (this.#children.size > 1) return;
    for (const [last_name, last] of this.#children) {
      this.#only_name = last_name;
      this.#only = last;
    }
    this.#children = undefined;
  }

  get empty(): boolean {
    return this.here === undefined && this.below === undefined && this.any === undefined &&
      this.#only === undefined && this.#children === undefined;
  }

  *children(): Generator<[string, Level<T>]> {
    if (this.any !== undefined) yield ["+", this.any];
    if (this.#only !== undefined) yield [this.#only_name!, this.#only];
    if (this.#children !== undefined) yield* this.#children;
  }
}

/** What one topic matched when the wildcards were at `version`; 0 = must be looked up again. */
class Remembered<T> {
  constructor(public version: number, public found: readonly T[]) {}
}

const nothing: readonly never[] = Object.freeze([]);

/** Cost of one remembered topic beside its text and matches: Map entry, object, array; a guess. */
const remembered_bytes = 128;

/** What a remembered topic may cost on average, before topics are forgotten sooner. */
const remembered_bytes_average_max = 512;

/**
 * A set of filters with one value each, and the values that a topic matches.
 *
 * What `match` found is remembered in two generations: when the young one is full it becomes the
 * old one and the old one is forgotten, so that a hit is one Map lookup and no topic in use is
 * forgotten. A change of an exact filter touches the memory of its own topic only. A change of a
 * wildcard makes every remembered result stale in one step: each is looked up again when it is next
 * asked for (one walk down the trie), and stays the same array if it comes out the same.
 *
 * A Map of V8 ends at 2^24 entries: `set` of one exact filter more throws RangeError.
 *
 * Filters must be valid (`filter_problem`) and not shared (`split_share` first): the tree asserts
 * it.
 */
export class TopicTree<T extends NonNullable<unknown>> {
  readonly #exact = new Map<string, T>();
  readonly #root = new Level<T>();
  #wildcard_count = 0;
  #version = 1;
  #young = new Map<string, Remembered<T>>();
  #old = new Map<string, Remembered<T>>();
  #young_bytes = 0;
  readonly #generation_size_max: number;

  /** @param match_cache_max how many topics are remembered at most; 0 = none */
  constructor(match_cache_max: number = limits.match_cache_max) {
    this.#generation_size_max = Math.floor(match_cache_max / 2);
  }

  /** How many filters there are. */
  get size(): number {
    return this.#exact.size + this.#wildcard_count;
  }

  /** Counts the levels of the trie, root excluded: walks all of it, for tests and diagnosis. */
  count_levels(): number {
    const count = (level: Level<T>): number => {
      let levels = 0;
      for (const [, child] of level.children()) levels += 1 + count(child);
      return levels;
    };
    return count(this.#root);
  }

  /** The value of this very filter, not of what it matches. */
  get(filter: string): T | undefined {
    if (!has_wildcard(filter)) return this.#exact.get(filter);
    const names = filter.split("/");
    const is_below = names[names.length - 1] === "#";
    if (is_below) names.pop();
    let level: Level<T> | undefined = this.#root;
    for (const name of names) {
      level = name === "+" ? level.any : level.child(name);
      if (level === undefined) return undefined;
    }
    return is_below ? level.below : level.here;
  }

  /** Adds a filter, or gives it another value. */
  set(filter: string, value: T): void {
    if (!has_wildcard(filter)) {
      if (filter === "") throw new Error("topic_tree.ts: an empty filter was set");
      this.#exact.set(filter, value);
      this.#forget(filter);
      return;
    }
    const problem = filter.startsWith(share_prefix)
      ? "it is a shared filter"
      : wildcard_problem(filter, 0);
    if (problem !== undefined) throw new Error(`topic_tree.ts: "${filter}" was set: ${problem}`);
    const names = filter.split("/");
    const is_below = names[names.length - 1] === "#";
    if (is_below) names.pop();
    let level = this.#root;
    for (const name of names) level = this.#descend(level, name);
    if ((is_below ? level.below : level.here) === undefined) this.#wildcard_count++;
    if (is_below) level.below = value;
    else level.here = value;
    this.#version++;
  }

  /** Removes a filter; false when there was none. */
  delete(filter: string): boolean {
    if (!has_wildcard(filter)) {
      if (!this.#exact.delete(filter)) return false;
      this.#forget(filter);
      return true;
    }
    if (!this.#remove(this.#root, filter.split("/"), 0)) return false;
    this.#wildcard_count--;
    this.#version++;
    return true;
  }

  /**
   * Values of every filter that matches a valid topic, the exact one first, each filter once. The
   * array is shared with other callers and must not be changed; it is the same one until a filter
   * that matches the topic comes, goes or changes its value (or the topic was forgotten).
   */
  match(topic: string): readonly T[] {
    const remembered = this.#young.get(topic);
    if (remembered !== undefined && remembered.version === this.#version) return remembered.found;
    return this.#match_again(topic, remembered ?? this.#old.get(topic));
  }

  /** Every filter and its value, exact ones first. Changes made meanwhile may or may not show. */
  *entries(): Generator<[string, T]> {
    yield* this.#exact;
    yield* wildcard_entries(this.#root, "");
  }

  #match_again(topic: string, remembered: Remembered<T> | undefined): readonly T[] {
    if (remembered !== undefined && remembered.version === this.#version) {
      this.#remember(topic, remembered); // from the old generation
      return remembered.found;
    }
    const found = this.#find(topic);
    if (this.#generation_size_max === 0) return found;
    if (remembered === undefined) {
      remembered = new Remembered(this.#version, found);
    } else {
      if (!same_values(remembered.found, found)) remembered.found = found;
      remembered.version = this.#version;
    }
    this.#remember(topic, remembered);
    return remembered.found;
  }

  #find(topic: string): readonly T[] {
    const exact = this.#exact.get(topic);
    if (this.#wildcard_count === 0) return exact === undefined ? nothing : [exact];
    const found: T[] = exact === undefined ? [] : [exact];
    const names = topic.split("/");
    if (topic.charCodeAt(0) === dollar) {
      const level = this.#root.child(names[0]!); // no wildcard in the first level [MQTT-4.7.2-1]
      if (level !== undefined) collect(level, names, 1, found);
    } else {
      collect(this.#root, names, 0, found);
    }
    return found.length === 0 ? nothing : found;
  }

  /**
   * Both bounds hold: on topics, and on bytes, because a topic may be long and match many filters.
   * A topic looked up again counts again, so a generation under churn ends sooner: an estimate, on
   * the safe side.
   */
  #remember(topic: string, remembered: Remembered<T>): void {
    this.#young.set(topic, remembered);
    this.#young_bytes += remembered_bytes + topic.length + remembered.found.length * 8;
    if (
      this.#young.size >= this.#generation_size_max ||
      this.#young_bytes >= this.#generation_size_max * remembered_bytes_average_max
    ) {
      this.#old = this.#young;
      this.#young = new Map();
      this.#young_bytes = 0;
    }
  }

  /** A topic is remembered by one object, though both generations may hold it. */
  #forget(topic: string): void {
    const remembered = this.#young.get(topic) ?? this.#old.get(topic);
    if (remembered !== undefined) remembered.version = 0;
  }

  #descend(level: Level<T>, name: string): Level<T> {
    if (name === "+") return level.any ??= new Level();
    let child = level.child(name);
    if (child === undefined) {
      child = new Level();
      level.add_child(name, child);
    }
    return child;
  }

  /** Removes the filter `names[depth...]` below `level`, and every level that is empty after it. */
  #remove(level: Level<T>, names: string[], depth: number): boolean {
    if (depth === names.length) {
      if (level.here === undefined) return false;
      level.here = undefined;
      return true;
    }
    const name = names[depth]!;
    if (name === "#" && depth + 1 === names.length) {
      if (level.below === undefined) return false;
      level.below = undefined;
      return true;
    }
    const child = name === "+" ? level.any : level.child(name);
    if (child === undefined || !this.#remove(child, names, depth + 1)) return false;
    if (child.empty) {
      if (name === "+") level.any = undefined;
      else level.remove_child(name);
    }
    return true;
  }
}

/**
 * Values of the filters below `level` that match `names[depth...]`. It visits a level of the trie
 * once at most, and is no deeper than the deepest filter. Known cost: filters that mix "+" and
 * names at every level can make it visit most of the trie.
 */
function collect<T>(level: Level<T>, names: string[], depth: number, found: T[]): void {
  if (level.below !== undefined) found.push(level.below); // also the parent itself [MQTT-4.7.1-1]
  if (depth === names.length) {
    if (level.here !== undefined) found.push(level.here);
    return;
  }
  const child = level.child(names[depth]!);
  if (child !== undefined) collect(child, names, depth + 1, found);
  if (level.any !== undefined) collect(level.any, names, depth + 1, found);
}

function* wildcard_entries<T>(level: Level<T>, prefix: string): Generator<[string, T]> {
  if (level.below !== undefined) yield [prefix + "#", level.below];
  if (level.here !== undefined) yield [prefix.slice(0, -1), level.here];
  for (const [name, child] of level.children()) {
    yield* wildcard_entries(child, prefix + name + "/");
  }
}

function same_values<T>(a: readonly T[], b: readonly T[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i]) return false;
  }
  return true;
}
