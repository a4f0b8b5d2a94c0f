/** Sizes as people write them. */

const unit_bytes: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** "1GB", "64MiB", "1.5TB", "1000" -> whole bytes; undefined = the text is no size. */
export function size_bytes(text: string): number | undefined {
  const match = /^(\d{1,12}(?:\.\d{1,3})?)([A-Za-z]{1,3})?$/.exec(text);
  const unit = unit_bytes[match?.[2] ?? "B"];
  if (match === null || unit === undefined) return undefined;
  const bytes = Math.round(Number(match[1]) * unit);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
