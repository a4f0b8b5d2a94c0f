/** Durations as people write them. */

const unit_ms: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/**
 * "90", "90s", "1500ms", "5m", "2h", "1d" -> milliseconds; a bare number counts seconds. undefined
 * = the text is no duration.
 */
export function duration_ms(text: string): number | undefined {
  const match = /^(\d{1,12}(?:\.\d{1,3})?)(ms|s|m|h|d)?$/.exec(text);
  return match === null ? undefined : Math.round(Number(match[1]) * unit_ms[match[2] ?? "s"]);
}
