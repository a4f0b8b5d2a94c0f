/** What lw_fds writes (struct lw_fds and struct lw_fd of reactor.h), read. */

/** enum lw_fd_kind */
export const descriptor_kinds = [
  "socket",
  "file",
  "pipe",
  "eventfd",
  "epoll",
  "io_uring",
  "timerfd",
  "signalfd",
  "inotify",
  "memory",
  "device",
  "other",
] as const;
export type DescriptorKind = typeof descriptor_kinds[number];

/** enum lw_fd_role */
const roles = ["stranger", "leaked", "missing"] as const;
export type DescriptorRole = typeof roles[number];

/** One descriptor that the reactor does not hold, or that it holds and is not open. */
export interface DescriptorRow {
  readonly fd: number;
  readonly role: DescriptorRole;
  readonly kind: DescriptorKind;
  /** What /proc says it is: `socket:[1234]`, a path; "" = nothing, it is missing. */
  readonly target: string;
}

/** Descriptors of this process, without 0 to 2. */
export interface DescriptorScan {
  readonly open: number;
  readonly held: number;
  /** Connections whose descriptors are io_uring's alone: they are not open for the process. */
  readonly direct: number;
  readonly strangers: number;
  readonly leaked: number;
  readonly missing: number;
  /** Files without a name: of no kind, and neither held nor strangers. */
  readonly deleted: number;
  readonly kinds: Readonly<Record<DescriptorKind, number>>;
  /** For reading the numbers, and for everything. */
  readonly scan_us: number;
  readonly total_us: number;
  /** Not all: a few hundred. */
  readonly rows: readonly DescriptorRow[];
}

/** sizeof(struct lw_fds) and sizeof(struct lw_fd). */
export const scan_bytes = 112;
export const row_bytes = 128;
const kinds_at = 9;
const times_at = 96;
const target_at = 8;

/** Reads a scan, and the rows that it listed. */
export function read_scan(raw: Uint8Array<ArrayBuffer>, rows: Uint8Array): DescriptorScan {
  const words = new Uint32Array(raw.buffer);
  const times = new BigUint64Array(raw.buffer, times_at);
  const [, open, held, direct, strangers, leaked, missing, deleted, listed] = words;
  const kinds = Object.fromEntries(
    descriptor_kinds.map((kind, index) => [kind, words[kinds_at + index]]),
  ) as Record<DescriptorKind, number>;
  const text = new TextDecoder();
  const read_row = (_: unknown, index: number): DescriptorRow => {
    const row = rows.subarray(index * row_bytes, (index + 1) * row_bytes);
    const view = new DataView(row.buffer, row.byteOffset, row_bytes);
    const target = row.subarray(target_at, row.indexOf(0, target_at));
    return {
      fd: view.getUint32(0, true),
      role: roles[view.getUint16(6, true)],
      kind: descriptor_kinds[view.getUint16(4, true)],
      target: text.decode(target),
    };
  };
  return {
    open,
    held,
    direct,
    strangers,
    leaked,
    missing,
    deleted,
    kinds,
    scan_us: Number(times[0]) / 1000,
    total_us: Number(times[1]) / 1000,
    rows: Array.from({ length: listed }, read_row),
  };
}
