/**
 * The reactor as TypeScript sees it: the only Deno.dlopen of the project, the layout of
 * ffi/reactor.h checked at load, commands gathered in one buffer and submitted once a turn,
 * events walked in place. Invariant: no view of ring memory outlives the call in which a handler
 * was given it.
 */

import { type DescriptorScan, read_scan, row_bytes, scan_bytes } from "./descriptors.ts";
import {
  type Network,
  pack_networks,
  pack_tls_options,
  parse_peer_certificate,
  type PeerCertificate,
  type TlsOptions,
} from "./tls.ts";
export type { DescriptorKind, DescriptorRow, DescriptorScan } from "./descriptors.ts";
export type { PeerCertificate } from "./tls.ts";

const abi_version = 1;

/** sizeof of the structs of reactor.h in order of appearance, after the ABI version. */
const top_row_words = 8;
// deno-fmt-ignore
const layout = [
  abi_version, 24, 8, 16, 24, 16, 16, 24, 32, 24, 24, 48, 40, 72, 284, 360, 3000, 20, 24, 18,
  scan_bytes, row_bytes, top_row_words * 4,
];
/** Descriptors that one scan lists. */
const scan_rows_max = 512;

const event_header_bytes = 24;
const command_bytes_max = 4 << 20;

const symbols = {
  lw_layout: { parameters: ["buffer", "i32"], result: "i32" },
  lw_backend: { parameters: [], result: "pointer" },
  lw_probe: { parameters: ["buffer", "i32"], result: "i32" },
  lw_connections_possible: { parameters: ["u32"], result: "u32" },
  lw_open: { parameters: ["buffer", "buffer"], result: "i32" },
  lw_connections_max: { parameters: ["pointer"], result: "u32" },
  lw_close: { parameters: ["pointer"], result: "void" },
  lw_listen: { parameters: ["pointer", "buffer"], result: "i32" },
  lw_unlisten: { parameters: ["pointer"], result: "void" },
  lw_ring: { parameters: ["pointer", "u32", "buffer"], result: "pointer" },
  lw_batches: { parameters: ["pointer"], result: "pointer" },
  lw_poll: { parameters: ["pointer"], result: "i32" },
  lw_release: { parameters: ["pointer"], result: "void" },
  lw_wait: { parameters: ["pointer", "i32"], result: "i32", nonblocking: true },
  lw_wake: { parameters: ["pointer"], result: "void" },
  lw_submit: { parameters: ["pointer", "buffer", "usize"], result: "i64" },
  lw_now_us: { parameters: [], result: "u32" },
  lw_stats: { parameters: ["pointer", "buffer"], result: "void" },
  lw_peer: { parameters: ["pointer", "u32", "u32", "buffer"], result: "i32" },
  lw_trust_proxies: { parameters: ["pointer", "buffer", "u32"], result: "i32" },
  lw_tls_configure: {
    parameters: ["pointer", "u32", "buffer", "usize", "buffer", "usize"],
    result: "i32",
  },
  lw_kernel_tls: { parameters: ["buffer", "i32"], result: "i32" },
  lw_peer_certificate: {
    parameters: ["pointer", "u32", "u32", "buffer", "usize"],
    result: "i32",
  },
  lw_fds: { parameters: ["pointer", "buffer", "buffer", "u32"], result: "i32", nonblocking: true },
  lw_top: { parameters: ["pointer", "u32", "buffer", "u32"], result: "i32", nonblocking: true },
} as const;

/** No connection: for publishes that leave nobody out. */
export const conn_none = 0x7fffffff;
/** `packet_id_at` of a frame that carries no packet id. */
export const packet_id_none = 0xffffffff;

/** How a listener cuts frames (enum lw_protocol). */
export const protocols = { longwire: 1, mqtt: 2 } as const;

const Event = {
  pad: 0,
  frame: 1,
  violation: 2,
  closed: 3,
  acked: 4,
  behind: 5,
  room: 6,
  settled: 7,
  traced: 8,
  dropping: 9,
  ended: 10,
} as const;
const Command = {
  send: 1,
  activate: 2,
  close: 3,
  release: 4,
  join: 5,
  leave: 6,
  publish: 7,
  deliver: 8,
  behind: 9,
  live: 10,
  pause: 11,
  resume: 12,
  report_acks: 13,
} as const;

/** A call of the library failed; `errno` is POSIX's, positive. */
export class ReactorError extends Error {
  override readonly name = "ReactorError";
  constructor(readonly call: string, readonly errno: number) {
    super(`${call} failed: errno ${errno}`);
  }
}

/** One unacknowledged message of a connection that closed, oldest first. */
export interface Inflight {
  readonly seq: number;
  readonly packet_id: number;
  readonly qos: number;
  /** QoS 2: the peer has the message (PUBREC came); only PUBREL and PUBCOMP are left. */
  readonly released: boolean;
  /** Out of the log's order: a retained message, or one of a shared subscription. */
  readonly aside: boolean;
  /** Of a shared subscription. */
  readonly shared: boolean;
}

/** What has become of one message (struct lw_inflight of an LW_EVENT_SETTLED). */
export interface Settled extends Inflight {
  /**
   * acked: the exchange is over. returned: no room, it was not sent. received: QoS 2, PUBREC came
   * and PUBREL is the service's to send; acked follows.
   */
  readonly how: "acked" | "returned" | "received";
}

/** What a connection leaves behind (struct lw_closed). */
export interface Closed {
  /** No stored message after this one reached the connection. */
  readonly seen_seq: number;
  /** First stored message that was missed; 0 = the connection was not behind. */
  readonly behind_seq: number;
  readonly inflight: readonly Inflight[];
}

/** Who gets the events of a poll; views of `bytes` die when the call returns. */
export interface ReactorHandler {
  /** What follows until the next call lay in this many bytes of one ring. */
  on_stretch(bytes: number): void;
  /** One whole frame in bytes[begin, end). `first` = the first of its connection. */
  on_frame(
    conn: number,
    generation: number,
    bytes: Uint8Array,
    begin: number,
    end: number,
    first: boolean,
    listener: number,
  ): void;
  /** The peer broke framing or a limit (codes.ts number); reading has stopped. */
  on_violation(conn: number, generation: number, code: number, listener: number): void;
  on_closed(conn: number, generation: number, code: number, closed: Closed): void;
  /** The peer has said its last, and may still read: to be answered, then closed. */
  on_ended(conn: number, generation: number): void;
  on_acked(conn: number, generation: number, seq: number): void;
  /** `count` numbers the event: see Reactor.live(). */
  on_behind(conn: number, generation: number, seq: number, count: number): void;
  /**
   * `delivered`: how many messages of deliver() it has had by then, modulo 2^32, `shared` aside.
   */
  on_room(conn: number, generation: number, messages: number, delivered: number): void;
  /** Only for messages whose delivery asked for it (`settle`), and with `hold_releases`. */
  on_settled(conn: number, generation: number, settled: readonly Settled[]): void;
  /** Of a message that is followed or was slow: `us` since it was published. */
  on_traced(conn: number, generation: number, what: Traced, stamp: number, us: number): void;
  /** Messages of QoS 0 for it begin to be dropped; not again before its queue has been empty. */
  on_dropping(conn: number, generation: number, code: number, queue_bytes: number): void;
}

/** enum lw_top_by */
export const top_keys = ["queue_bytes", "heartbeat_misses"] as const;
export type TopKey = typeof top_keys[number];

/** How one connection is (struct lw_top_row). */
export interface TopRow {
  readonly conn: number;
  readonly generation: number;
  readonly queue_bytes: number;
  /** Since some of them left. */
  readonly stalled_ms: number;
  /** Messages of QoS 1 and 2 that it has not acknowledged; Longwire: always 0. */
  readonly inflight: number;
  readonly silent_ms: number;
  /** With fractions; 0 = it need not send any. */
  readonly heartbeat_misses: number;
}

/** enum lw_traced_what: it has left for the device, the device has acknowledged it. */
export type Traced = "sent" | "acked";
const traced_whats: readonly Traced[] = ["sent", "acked"];

export interface ReactorOptions {
  readonly thread_count: number;
  /** 0 = as many as this process may have descriptors for. */
  readonly connections_max: number;
  readonly ring_bytes: number;
  readonly frame_bytes_max: number;
  readonly handshake_frame_bytes_max: number;
  readonly handshake_timeout_ms: number;
  readonly out_queue_soft_bytes: number;
  readonly out_queue_hard_bytes: number;
  readonly write_stall_ms: number;
  readonly linger_ms: number;
  readonly command_queue_bytes_max: number;
  /** TLS handshakes under way at once; the others wait. */
  readonly tls_handshakes_max: number;
  /**
   * Connects a second, of all and of one source address; connections of one source. 0 = no bound.
   */
  readonly connects_per_s?: number;
  readonly connects_per_source_per_s?: number;
  readonly connections_per_source?: number;
  /** See PublishOptions.watch. */
  readonly slow_us?: number;
}

export interface ListenOptions {
  readonly protocol: number;
  /** Numeric IPv4 or IPv6 address. */
  readonly address: string;
  /** 0 = the kernel picks one. */
  readonly port: number;
  /** What answers a connection over a limit. */
  readonly busy: BusyAnswer;
  /** TLS context of configure_tls; undefined = no TLS. */
  readonly tls?: number | undefined;
  /**
   * A PROXY header comes first: from those of trust_proxies and from nobody else, or from
   * everybody, when the listener is the service's own.
   */
  readonly proxy?: "none" | "trusted" | "always";
}

/** Whole frames, at most 64 bytes (16 for MQTT 5), and where in them stands why. */
export interface BusyAnswer {
  readonly frame: Uint8Array;
  /** 0 = nowhere. */
  readonly reason_at: number;
  /** For clients of MQTT 5, whose CONNECT is awaited; absent = all get `frame`. */
  readonly five?: { readonly frame: Uint8Array; readonly reason_at: number };
  /** What stands at `reason_at`, by number of the code. */
  readonly reasons: readonly number[];
}

/**
 * Sums over all I/O threads (struct lw_stats); `closed` and `dropped` are indexed by code number.
 */
export interface ReactorStats {
  readonly counters: Readonly<Record<(typeof stat_names)[number], number>>;
  readonly closed: readonly number[];
  readonly dropped: readonly number[];
  /** Open connections by protocol and state. */
  readonly states: Readonly<Record<keyof typeof protocols, ConnectionStates>>;
  /** From publish() until the message has left for one of its receivers, or was acknowledged. */
  readonly to_socket: Latency;
  readonly to_acked: Latency;
}

export interface ConnectionStates {
  readonly handshaking: number;
  readonly active: number;
  readonly draining: number;
}

/** struct lw_latency: how often durations were up to each of its bounds, and at last: longer. */
export interface Latency {
  readonly counts: readonly number[];
  readonly sum_us: number;
}

const latency_buckets = 44;

const stat_names = [
  "connections",
  "accepted",
  "frames_in",
  "heartbeats_in",
  "acks_in",
  "bytes_in",
  "bytes_out",
  "sends",
  "receives",
  "publishes",
  "deliveries",
  "stale_commands",
  "wakeups",
  "turns",
  "ring_full",
  "out_queue_bytes",
  "tls_handshakes",
  "tls_resumed",
  "tls_handshaking",
  "tls_objects",
  "tls_kernel",
  "sources_untracked",
  "traced_dropped",
] as const;
const code_count = 128;

/** enum lw_listen_flags */
const listen_flags = { none: 0, trusted: 1, always: 2 } as const;
/** sizeof(struct lw_listen_options) */
const listen_options_bytes = 284;
/** What lw_peer_certificate may write: longer names are left out. */
const certificate_bytes_max = 4096;

/** What the rest of the service may ask of the reactor; tests/fake_reactor.ts is another. */
export interface Reactor {
  readonly backend: string;
  /** How many connections it holds at once. */
  readonly connections_max: number;
  /** Bytes that waited in the fullest command queue at the last flush. */
  readonly pending_bytes: number;
  /** The turn's command buffer: `begin_*` answers where a frame goes, `end_*` how far it went. */
  readonly commands: Uint8Array;
  listen(options: ListenOptions): number;
  unlisten(): void;
  /**
   * Hands over what has happened; answers how many events that were. What has not been come to at
   * `until_ms` (performance.now()) stays for the next call.
   */
  poll(handler: ReactorHandler, until_ms?: number): number;
  wait(timeout_ms: number): Promise<boolean>;
  wake(): void;
  begin_send(conn: number, generation: number, bytes_max: number): number;
  end_send(end: number): void;
  send(conn: number, generation: number, frame: Uint8Array): void;
  activate(conn: number, generation: number, options: ActivateOptions): void;
  close_connection(conn: number, generation: number, code: number): void;
  release(conn: number, generation: number): void;
  join(conn: number, generation: number, audience: number): void;
  leave(conn: number, generation: number, audience: number): void;
  begin_publish(publish: PublishOptions, audiences: readonly number[], bytes_max: number): number;
  end_publish(end: number, packet_id_at: number): void;
  begin_deliver(conn: number, generation: number, deliver: DeliverOptions): number;
  end_deliver(end: number, packet_id_at: number): void;
  /** @param from_live the connection has been sent what was published until now */
  behind(conn: number, generation: number, from_live: boolean): void;
  /** @param behind_count of the last on_behind of this connection; 0 = there was none */
  live(conn: number, generation: number, behind_count: number): void;
  pause(conn: number, generation: number): void;
  resume(conn: number, generation: number): void;
  /** on_acked from now on, whatever it was activated with. */
  report_acks(conn: number, generation: number): void;
  flush(): void;
  /** Monotonic microseconds, modulo 2^32; never 0. */
  now_us(): number;
  stats(): ReactorStats;
  peer(conn: number, generation: number): string;
  /** The verified certificate of a device; undefined = it has shown none. */
  peer_certificate(conn: number, generation: number): PeerCertificate | undefined;
  close(): void;
}

/** What only whoever opens the reactor does with it. */
export interface OwnReactor extends Reactor {
  /** Sets a TLS context (0 to 3) for handshakes from now on. Throws TlsError. */
  configure_tls(context: number, options: TlsOptions): void;
  /** Why the kernel does not encrypt here, in words; undefined = it does. */
  kernel_tls_problem(): string | undefined;
  /** Whose PROXY headers are believed; before the first listen(). */
  trust_proxies(networks: readonly Network[]): void;
  /**
   * What the process has open beside what the reactor holds; one at a time, and what comes or goes
   * meanwhile may look leaked. Throws ReactorError: ENOSYS where there is no /proc.
   */
  descriptors(): Promise<DescriptorScan>;
  /**
   * The connections that are worst off and not well, the worst first; one call at a time.
   * @param count at most 4096
   */
  top(by: TopKey, count: number): Promise<TopRow[]>;
}

/** Certificates cannot be used; the message says why, and begins small. */
export class TlsError extends Error {
  override readonly name = "TlsError";
}

export interface ActivateOptions {
  /** Close after this much silence; 0 = never. */
  readonly keepalive_ms: number;
  /** QoS >= 1 messages in flight; 0 = no window. */
  readonly inflight_max: number;
  /** Larger frames are dropped instead of sent; 0 = no bound of its own. */
  readonly frame_bytes_max: number;
  readonly report_acks: boolean;
  /**
   * QoS 2 of a session that outlives the process: PUBREC is reported as settled, `received`, and
   * PUBREL waits for the service; packet ids follow from the place in the log.
   */
  readonly hold_releases: boolean;
  /** MQTT 5: as many topics are sent as a number; absent or 0 = none [MQTT-3.1.2-26]. */
  readonly topic_alias_max?: number;
}

export interface PublishOptions {
  /** 0 = not stored. */
  readonly seq: number;
  /** Same stamp = same message. Never 0. */
  readonly stamp: number;
  /** Hash of the conflation key; 0 = none. */
  readonly key: number;
  readonly qos: number;
  /** Connection left out (no-local), or conn_none. */
  readonly except_conn: number;
  readonly except_generation: number;
  /** now_us() of when it came; 0 = it is not timed. */
  readonly published_us: number;
  /** Of how many receivers (up to 255, on each I/O thread) on_traced tells; 0 = of none. */
  readonly follow: number;
  /** on_traced tells of the receiver that is timed, when it took more than `slow_us`. */
  readonly watch: boolean;
}

export interface DeliverOptions {
  readonly seq: number;
  readonly qos: number;
  /** 0 = the next free one. */
  readonly packet_id: number;
  readonly released: boolean;
  /** Out of the log's order (a retained message): moves no cursor. */
  readonly aside: boolean;
  /** on_settled says when it is acknowledged. */
  readonly settle?: boolean;
  /** Of a shared subscription: the connection need not be behind, and it may come back. */
  readonly shared?: boolean;
  /** Of the last on_behind of this connection: unless aside, void when there is a later one. */
  readonly behind_count: number;
  readonly bytes_max: number;
}

function check(call: string, result: number): number {
  if (result < 0) throw new ReactorError(call, -result);
  return result;
}

class NativeReactor implements OwnReactor {
  readonly backend: string;
  readonly connections_max: number;
  readonly commands = new Uint8Array(command_bytes_max);
  pending_bytes = 0;

  readonly #words = new Uint32Array(this.commands.buffer);
  /** Stretches walked: tells whose turn is next. */
  #polled = 0;
  /** End of the last whole record; a record being written starts here. */
  #used = 0;
  /** Where the body of the record being written starts. */
  #body = 0;
  readonly #library: Deno.DynamicLibrary<typeof symbols>;
  readonly #call: Deno.DynamicLibrary<typeof symbols>["symbols"];
  readonly #handle: Deno.PointerValue;
  readonly #rings: { bytes: Uint8Array; words: Uint32Array }[] = [];
  readonly #batches: Uint32Array;
  readonly #stats = new BigUint64Array(
    stat_names.length + 2 * code_count + 6 + 2 * (latency_buckets + 1),
  );
  #waiting: Promise<unknown> = Promise.resolve();
  #scanning: Promise<unknown> = Promise.resolve();
  #searching: Promise<unknown> = Promise.resolve();
  /** False = no device has been asked for a certificate. */
  #asks_certificates = false;

  constructor(path: string, options: ReactorOptions) {
    this.#library = Deno.dlopen(path, symbols);
    this.#call = this.#library.symbols;
    this.#check_layout(path);
    this.backend = Deno.UnsafePointerView.getCString(this.#call.lw_backend()!);
    const out = new BigUint64Array(1);
    check("lw_open", this.#call.lw_open(pack_options(options), out));
    this.#handle = Deno.UnsafePointer.create(out[0]);
    this.connections_max = this.#call.lw_connections_max(this.#handle);
    const bytes = new Uint32Array(1);
    for (let thread = 0; thread < options.thread_count; thread++) {
      const pointer = this.#call.lw_ring(this.#handle, thread, bytes)!;
      const memory = Deno.UnsafePointerView.getArrayBuffer(pointer, bytes[0]);
      this.#rings.push({ bytes: new Uint8Array(memory), words: new Uint32Array(memory) });
    }
    this.#batches = new Uint32Array(
      Deno.UnsafePointerView.getArrayBuffer(
        this.#call.lw_batches(this.#handle)!,
        options.thread_count * 16,
      ),
    );
  }

  #check_layout(path: string): void {
    const found = new Uint32Array(64);
    const count = this.#call.lw_layout(found, found.length);
    if (count !== layout.length || layout.some((size, index) => size !== found[index])) {
      throw new Error(
        `Cannot use ${path}: it was built for another layout ` +
          `(${found.slice(0, count).join()} instead of ${layout.join()})`,
      );
    }
  }

  listen(options: ListenOptions): number {
    const raw = new Uint8Array(listen_options_bytes);
    const words = new Uint32Array(raw.buffer);
    const tls = options.tls === undefined ? 0 : options.tls + 1;
    const { protocol, port, busy, proxy = "none" } = options;
    const { frame, five, reasons } = busy;
    words.set([raw.length, protocol, port, frame.length, tls, listen_flags[proxy]]);
    raw.set(new TextEncoder().encode(options.address).subarray(0, 47), 24);
    raw.set(frame, 72);
    raw.set([busy.reason_at, five?.frame.length ?? 0, five?.reason_at ?? 0], 136);
    if (five !== undefined) raw.set(five.frame, 140);
    raw.set(reasons, 156);
    return check("lw_listen", this.#call.lw_listen(this.#handle, raw));
  }

  unlisten(): void {
    this.#call.lw_unlisten(this.#handle);
  }

  poll(handler: ReactorHandler, until_ms = Infinity): number {
    const count = this.#call.lw_poll(this.#handle);
    if (count === 0) return 0;
    let events = 0;
    // Not always the same thread first: time may be over before the last.
    for (let left = count; left > 0; left--) {
      const at = (this.#polled++ % count) * 4;
      const ring = this.#rings[this.#batches[at]];
      const begin = this.#batches[at + 1];
      const end = this.#batches[at + 2];
      const is_late = events > 0 && performance.now() >= until_ms;
      const stretch = { begin, end: is_late ? begin : end };
      handler.on_stretch(end - begin);
      events += walk(ring.bytes, ring.words, stretch, handler, until_ms);
      this.#batches[at + 2] = stretch.end;
    }
    this.#polled++; // so that it is another's turn when `count` stays the same
    this.#call.lw_release(this.#handle);
    return events;
  }

  async wait(timeout_ms: number): Promise<boolean> {
    const wait = this.#call.lw_wait(this.#handle, timeout_ms);
    this.#waiting = wait;
    return await wait === 1;
  }

  wake(): void {
    this.#call.lw_wake(this.#handle);
  }

  async descriptors(): Promise<DescriptorScan> {
    const raw = new Uint8Array(scan_bytes);
    const rows = new Uint8Array(scan_rows_max * row_bytes);
    const scan = this.#call.lw_fds(this.#handle, raw, rows, scan_rows_max);
    this.#scanning = scan;
    check("lw_fds", await scan);
    return read_scan(raw, rows);
  }

  async top(by: TopKey, count: number): Promise<TopRow[]> {
    const words = new Uint32Array(count * top_row_words);
    const search = this.#call.lw_top(this.#handle, top_keys.indexOf(by), words, count);
    this.#searching = search;
    const found = check("lw_top", await search);
    return Array.from({ length: found }, (_, index) => {
      const row = words.subarray(index * top_row_words, (index + 1) * top_row_words);
      const [conn, generation, , queue_bytes, stalled_ms, inflight, silent_ms, misses] = row;
      const heartbeat_misses = misses / 1000;
      return { conn, generation, queue_bytes, stalled_ms, inflight, silent_ms, heartbeat_misses };
    });
  }

  /** Starts a record of at most `bytes_max`; answers its first word's index. */
  #begin(type: number, conn: number, generation: number, bytes_max: number): number {
    if (this.#used + bytes_max + 8 > command_bytes_max) {
      this.flush();
      if (bytes_max + 8 > command_bytes_max) throw new RangeError(`record of ${bytes_max} bytes`);
    }
    const word = this.#used >>> 2;
    this.#words[word + 1] = type;
    this.#words[word + 2] = conn;
    this.#words[word + 3] = generation;
    return word;
  }

  /** Closes the record that reaches to the byte `end`. */
  #end(end: number): void {
    const size = (end - this.#used + 7) & ~7;
    this.#words[this.#used >>> 2] = size;
    this.#used += size;
  }

  #plain(type: number, conn: number, generation: number): void {
    this.#begin(type, conn, generation, 16);
    this.#end(this.#used + 16);
  }

  begin_send(conn: number, generation: number, bytes_max: number): number {
    this.#begin(Command.send, conn, generation, 24 + bytes_max);
    return this.#body = this.#used + 24;
  }

  end_send(end: number): void {
    const word = this.#used >>> 2;
    this.#words[word + 4] = end - this.#body;
    this.#words[word + 5] = 0;
    this.#end(end);
  }

  send(conn: number, generation: number, frame: Uint8Array): void {
    const at = this.begin_send(conn, generation, frame.length);
    this.commands.set(frame, at);
    this.end_send(at + frame.length);
  }

  activate(conn: number, generation: number, options: ActivateOptions): void {
    const word = this.#begin(Command.activate, conn, generation, 32);
    const flags = (options.report_acks ? 1 : 0) | (options.hold_releases ? 2 : 0);
    this.#words[word + 1] = Command.activate | flags << 16;
    this.#words[word + 4] = options.keepalive_ms;
    this.#words[word + 5] = options.inflight_max;
    this.#words[word + 6] = options.frame_bytes_max;
    this.#words[word + 7] = options.topic_alias_max ?? 0;
    this.#end(this.#used + 32);
  }

  close_connection(conn: number, generation: number, code: number): void {
    const word = this.#begin(Command.close, conn, generation, 24);
    this.#words[word + 4] = code;
    this.#words[word + 5] = 0;
    this.#end(this.#used + 24);
  }

  release(conn: number, generation: number): void {
    this.#plain(Command.release, conn, generation);
  }

  #audience(type: number, conn: number, generation: number, audience: number): void {
    const word = this.#begin(type, conn, generation, 24);
    this.#words[word + 4] = audience;
    this.#words[word + 5] = 0;
    this.#end(this.#used + 24);
  }

  join(conn: number, generation: number, audience: number): void {
    this.#audience(Command.join, conn, generation, audience);
  }

  leave(conn: number, generation: number, audience: number): void {
    this.#audience(Command.leave, conn, generation, audience);
  }

  begin_publish(publish: PublishOptions, audiences: readonly number[], bytes_max: number): number {
    const header = 48 + ((audiences.length * 4 + 7) & ~7);
    const { except_conn, except_generation } = publish;
    const word = this.#begin(Command.publish, except_conn, except_generation, header + bytes_max);
    const flags = publish.qos | (publish.watch ? 32 : 0) | publish.follow << 8;
    this.#words[word + 1] = Command.publish | flags << 16;
    this.#words[word + 4] = publish.seq;
    this.#words[word + 5] = publish.seq / 0x1_0000_0000;
    this.#words[word + 6] = publish.stamp;
    this.#words[word + 7] = publish.key;
    this.#words[word + 9] = audiences.length;
    this.#words[word + 11] = publish.published_us;
    for (let index = 0; index < audiences.length; index++) {
      this.#words[word + 12 + index] = audiences[index];
    }
    return this.#body = this.#used + header;
  }

  end_publish(end: number, packet_id_at: number): void {
    const word = this.#used >>> 2;
    this.#words[word + 8] = packet_id_at;
    this.#words[word + 10] = end - this.#body;
    this.#end(end);
  }

  begin_deliver(conn: number, generation: number, deliver: DeliverOptions): number {
    const word = this.#begin(Command.deliver, conn, generation, 40 + deliver.bytes_max);
    const { aside, settle, shared, behind_count } = deliver;
    const flags = deliver.qos | (aside ? 4 : 0) | (settle ? 8 : 0) | (shared ? 16 : 0) |
      64 | behind_count << 8;
    this.#words[word + 1] = Command.deliver | flags << 16;
    this.#words[word + 4] = deliver.seq;
    this.#words[word + 5] = deliver.seq / 0x1_0000_0000;
    this.#words[word + 7] = deliver.packet_id;
    this.#words[word + 9] = deliver.released ? 1 : 0;
    return this.#body = this.#used + 40;
  }

  end_deliver(end: number, packet_id_at: number): void {
    const word = this.#used >>> 2;
    this.#words[word + 6] = packet_id_at;
    this.#words[word + 8] = end - this.#body;
    this.#end(end);
  }

  behind(conn: number, generation: number, from_live: boolean): void {
    const word = this.#begin(Command.behind, conn, generation, 16);
    this.#words[word + 1] = Command.behind | (from_live ? 1 : 0) << 16;
    this.#end(this.#used + 16);
  }

  live(conn: number, generation: number, behind_count: number): void {
    const word = this.#begin(Command.live, conn, generation, 16);
    this.#words[word + 1] = Command.live | (0x100 | behind_count) << 16;
    this.#end(this.#used + 16);
  }

  pause(conn: number, generation: number): void {
    this.#plain(Command.pause, conn, generation);
  }

  resume(conn: number, generation: number): void {
    this.#plain(Command.resume, conn, generation);
  }

  report_acks(conn: number, generation: number): void {
    this.#plain(Command.report_acks, conn, generation);
  }

  flush(): void {
    if (this.#used === 0 && this.pending_bytes === 0) return;
    const pending = this.#call.lw_submit(this.#handle, this.commands, BigInt(this.#used));
    this.#used = 0;
    this.pending_bytes = check("lw_submit", Number(pending));
  }

  now_us(): number {
    return this.#call.lw_now_us();
  }

  stats(): ReactorStats {
    this.#call.lw_stats(this.#handle, this.#stats);
    const numbers = Array.from(this.#stats, Number);
    let at = 0;
    const take = (count: number) => numbers.slice(at, at += count);
    const values = take(stat_names.length);
    const counters = Object.fromEntries(stat_names.map((name, index) => [name, values[index]]));
    const states = () => {
      const [handshaking, active, draining] = take(3);
      return { handshaking, active, draining };
    };
    const latency = () => ({ counts: take(latency_buckets), sum_us: take(1)[0] });
    return {
      counters: counters as ReactorStats["counters"],
      closed: take(code_count),
      dropped: take(code_count),
      states: { longwire: states(), mqtt: states() },
      to_socket: latency(),
      to_acked: latency(),
    };
  }

  peer(conn: number, generation: number): string {
    const raw = new Uint8Array(20);
    if (this.#call.lw_peer(this.#handle, conn, generation, raw) < 0) return "";
    const halves = new Uint16Array(raw.buffer);
    if (halves[0] === 4) return `${raw.subarray(4, 8).join(".")}:${halves[1]}`;
    const groups = [];
    for (let at = 4; at < 20; at += 2) groups.push((raw[at] << 8 | raw[at + 1]).toString(16));
    return `[${groups.join(":")}]:${halves[1]}`;
  }

  peer_certificate(conn: number, generation: number): PeerCertificate | undefined {
    if (!this.#asks_certificates) return undefined;
    const raw = new Uint8Array(certificate_bytes_max);
    const size = this.#call.lw_peer_certificate(
      this.#handle,
      conn,
      generation,
      raw,
      BigInt(raw.length),
    );
    if (size <= 0) return undefined;
    return parse_peer_certificate(new TextDecoder().decode(raw.subarray(0, size)));
  }

  configure_tls(context: number, options: TlsOptions): void {
    const raw = pack_tls_options(options);
    const problem = new Uint8Array(512);
    const size = BigInt(raw.length);
    const room = BigInt(problem.length);
    if (this.#call.lw_tls_configure(this.#handle, context, raw, size, problem, room) !== 0) {
      throw new TlsError(new TextDecoder().decode(problem.subarray(0, problem.indexOf(0))));
    }
    if (options.client_auth !== "none") this.#asks_certificates = true;
  }

  kernel_tls_problem(): string | undefined {
    return problem_of(this.#call.lw_kernel_tls);
  }

  trust_proxies(networks: readonly Network[]): void {
    const raw = pack_networks(networks);
    check("lw_trust_proxies", this.#call.lw_trust_proxies(this.#handle, raw, networks.length));
  }

  close(): void {
    this.wake();
    // The parked wait() still runs in the library: it must return before the memory goes.
    void Promise.all([this.#waiting, this.#scanning, this.#searching]).then(() => {
      this.#call.lw_close(this.#handle);
      this.#library.close();
    });
  }
}

function pack_options(options: ReactorOptions): Uint32Array<ArrayBuffer> {
  return new Uint32Array([
    abi_version,
    72,
    options.thread_count,
    options.connections_max,
    options.ring_bytes,
    options.frame_bytes_max,
    options.handshake_frame_bytes_max,
    options.handshake_timeout_ms,
    options.out_queue_soft_bytes,
    options.out_queue_hard_bytes,
    options.write_stall_ms,
    options.linger_ms,
    options.command_queue_bytes_max,
    options.tls_handshakes_max,
    options.connects_per_s ?? 0,
    options.connects_per_source_per_s ?? 0,
    options.connections_per_source ?? 0,
    options.slow_us ?? 0,
  ]);
}

function u64(words: Uint32Array, word: number): number {
  return words[word] + words[word + 1] * 0x1_0000_0000;
}

/** One struct lw_inflight. */
function read_inflight(words: Uint32Array, at: number): Inflight {
  const packed = words[at + 2];
  const flags = words[at + 3];
  return {
    seq: u64(words, at),
    packet_id: packed & 0xffff,
    qos: packed >>> 16 & 0xff,
    released: packed >>> 24 !== 0,
    aside: (flags & 4) !== 0,
    shared: (flags & 16) !== 0,
  };
}

function read_closed(words: Uint32Array, body: number): Closed {
  const inflight: Inflight[] = [];
  const count = words[body + 4];
  for (let index = 0; index < count; index++) {
    inflight.push(read_inflight(words, body + 6 + index * 4));
  }
  return { seen_seq: u64(words, body), behind_seq: u64(words, body + 2), inflight };
}

const settled_ways = ["acked", "returned", "received"] as const;

function read_settled(words: Uint32Array, body: number, body_bytes: number): Settled[] {
  const settled: Settled[] = [];
  for (let at = body; at < body + body_bytes / 4; at += 4) {
    const how = settled_ways[words[at + 2] >>> 24];
    settled.push({ ...read_inflight(words, at), how, released: how === "received" });
  }
  return settled;
}

/** Events between two looks at the clock. */
const look_events = 16;

/**
 * Walks the records of one stretch of a ring; answers how many there were. Where time was over
 * before its end, that is its end.
 */
function walk(
  bytes: Uint8Array,
  words: Uint32Array,
  stretch: { begin: number; end: number },
  handler: ReactorHandler,
  until_ms: number,
): number {
  const { begin, end } = stretch;
  let events = 0;
  for (let at = begin; at < end;) {
    if (events % look_events === look_events - 1 && performance.now() >= until_ms) {
      stretch.end = at;
      break;
    }
    const word = at >>> 2;
    const packed = words[word + 1];
    const code = packed >>> 16;
    const conn = words[word + 2];
    const generation = words[word + 3];
    const body = at + event_header_bytes;
    const argument = words[word + 5];
    events++;
    switch (packed & 0xffff) {
      case Event.frame:
        handler.on_frame(
          conn,
          generation,
          bytes,
          body,
          body + words[word + 4],
          code === 1,
          argument,
        );
        break;
      case Event.violation:
        handler.on_violation(conn, generation, code, argument);
        break;
      case Event.closed:
        handler.on_closed(conn, generation, code, read_closed(words, body >>> 2));
        break;
      case Event.acked:
        handler.on_acked(conn, generation, u64(words, body >>> 2));
        break;
      case Event.behind:
        handler.on_behind(conn, generation, u64(words, body >>> 2), argument);
        break;
      case Event.room:
        handler.on_room(conn, generation, argument, words[body >>> 2]);
        break;
      case Event.settled:
        handler.on_settled(conn, generation, read_settled(words, body >>> 2, words[word + 4]));
        break;
      case Event.traced: {
        const [stamp, us] = words.subarray(body >>> 2, (body >>> 2) + 2);
        handler.on_traced(conn, generation, traced_whats[argument], stamp, us);
        break;
      }
      case Event.dropping:
        handler.on_dropping(conn, generation, code, argument);
        break;
      case Event.ended:
        handler.on_ended(conn, generation);
        break;
      case Event.pad:
        break;
      default:
        throw new Error(`event of unknown type ${packed & 0xffff}`);
    }
    at += words[word];
  }
  return events;
}

/** Why the library at `path` cannot work on this machine, in words; undefined = it can. */
export function probe_library(path: string): string | undefined {
  const library = Deno.dlopen(path, symbols);
  const problem = problem_of(library.symbols.lw_probe);
  library.close();
  return problem;
}

/** Why a thing cannot be had here, in the library's words; undefined = it can. */
function problem_of(
  probe: (why: Uint8Array<ArrayBuffer>, size: number) => number,
): string | undefined {
  const why = new Uint8Array(256);
  const result = probe(why, why.length);
  if (result === 0) return undefined;
  const text = new TextDecoder().decode(why.subarray(0, why.indexOf(0)));
  return text === "" ? `errno ${-result}` : text;
}

/** How many connections this process may have with that many I/O threads. */
export function connections_possible(path: string, thread_count: number): number {
  const library = Deno.dlopen(path, symbols);
  const count = library.symbols.lw_connections_possible(thread_count);
  library.close();
  return count;
}

/** Loads the library at `path` and starts its threads. */
export function open_reactor(path: string, options: ReactorOptions): OwnReactor {
  return new NativeReactor(path, options);
}
