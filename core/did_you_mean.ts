/** The name that somebody may have meant who wrote another. Pure. */

export function did_you_mean(name: string | undefined, prefix = ""): string {
  return name === undefined ? "" : `; did you mean ${prefix}${name}`;
}

/** The name that is fewest edits away, if it is near enough to be what was meant. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  let best: string | undefined;
  let best_distance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of names) {
    const distance = edit_distance(name, candidate);
    if (distance < best_distance && distance < candidate.length) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. A name longer than any setting is cut: it is near none. */
function edit_distance(a: string, b: string): number {
  a = a.slice(0, 64);
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
