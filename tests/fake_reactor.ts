/**
 * The reactor without sockets: carries out commands when polled, as the C library does on its own
 * threads, so that a test can stop the world between any two of them. Invariant: it keeps to the
 * contract of ffi/reactor.h (behind, in-flight window, what a closed connection leaves).
 */
import type {
  ActivateOptions,
  DeliverOptions,
  Inflight,
  PublishOptions,
  Reactor,
  ReactorHandler,
  ReactorStats,
} from "../ffi/reactor.ts";

interface Entry extends Inflight {
  readonly settle: boolean;
  done: boolean;
}

/** One connection, and what its device has been sent. */
export class FakeConnection {
  state: "handshaking" | "active" | "closing" | "gone" = "handshaking";
  exposed = false;
  behind = false;
  behind_seq = 0;
  room_wanted = false;
  reached_seq = 0;
  stamp = 0;
  inflight_max = 0;
  behind_count = 0;
  delivered = 0;
  report_acks = false;
  hold_releases = false;
  /** The message at behind_seq waits for the end of another with its packet id. */
  id_taken = false;
  packet_id = 0;
  code = 0;
  readonly window: Entry[] = [];
  acked_seq = 0;
  /** Frames that the device has not read yet. */
  readonly out: Uint8Array[] = [];

  constructor(
    readonly conn: number,
    readonly generation: number,
    readonly listener: number,
  ) {}

  get room(): number {
    return this.inflight_max === 0 ? 0xffff : this.inflight_max - this.window.length;
  }
}

/** Whether an exchange that is not over has the packet id; 0 = any will do. */
function is_taken(c: FakeConnection, packet_id: number): boolean {
  return packet_id > 0 && c.window.some((each) => !each.done && each.packet_id === packet_id);
}

/** The packet id that the message must have; 0 = any. */
function held_id(c: FakeConnection, { qos, seq }: { qos: number; seq: number }): number {
  return c.hold_releases && qos === 2 ? 0x8000 | seq % 0x8000 : 0;
}

function next_id(c: FakeConnection): number {
  const ids = c.hold_releases ? 0x7fff : 0xffff;
  do c.packet_id = c.packet_id % ids + 1; while (is_taken(c, c.packet_id));
  return c.packet_id;
}

type Event = (handler: ReactorHandler) => void;

const none = 0xffffffff;

export class FakeReactor implements Reactor {
  readonly peer_certificate = () => undefined;
  readonly backend = "fake";
  readonly pending_bytes = 0;
  readonly connections_max = 1 << 20;
  readonly commands = new Uint8Array(1 << 22);
  readonly connections: FakeConnection[] = [];
  readonly audiences = new Map<number, Set<FakeConnection>>();
  seen_seq = 0;
  stale = 0;
  #generation = 0;
  #submitted: (() => void)[] = [];
  #turn: (() => void)[] = [];
  #events: Event[] = [];
  #pending: ((end: number, packet_id_at: number) => void) | null = null;

  /** A device connects; the service hears of it with its first frame. */
  connect(listener: number): FakeConnection {
    const connection = new FakeConnection(this.connections.length, ++this.#generation, listener);
    this.connections.push(connection);
    return connection;
  }

  /** The device sends one whole frame. */
  from_device(c: FakeConnection, frame: Uint8Array): void {
    if (c.state === "closing" || c.state === "gone") return;
    const first = !c.exposed;
    c.exposed = true;
    this.#events.push((handler) =>
      handler.on_frame(c.conn, c.generation, frame, 0, frame.length, first, c.listener)
    );
  }

  /** The device acknowledges (PUBACK, or the end of a QoS 2 exchange). */
  acknowledge(c: FakeConnection, packet_id: number): void {
    const entry = c.window.find((each) => each.packet_id === packet_id && !each.done);
    if (entry === undefined || c.state !== "active") return;
    entry.done = true;
    const before = c.acked_seq;
    while (c.window[0]?.done) {
      const { seq, aside } = c.window.shift()!;
      if (!aside) c.acked_seq = Math.max(c.acked_seq, seq);
    }
    const { acked_seq } = c;
    if (c.report_acks && acked_seq !== before) {
      this.#events.push((handler) => handler.on_acked(c.conn, c.generation, acked_seq));
    }
    if (entry.settle) {
      const settled = [{ ...entry, how: "acked" as const }];
      this.#events.push((handler) => handler.on_settled(c.conn, c.generation, settled));
    }
    this.#check_room(c);
  }

  /** The connection ends, for the device or the service. */
  end(c: FakeConnection, code: number): void {
    if (c.state === "closing" || c.state === "gone") return;
    c.state = "closing";
    if (!c.behind) c.reached_seq = this.seen_seq;
    const inflight = c.window.filter((entry) => !entry.done).map((entry) => {
      const { seq, packet_id, qos, released, aside, shared } = entry;
      return { seq, packet_id, qos, released, aside, shared };
    });
    const closed = {
      seen_seq: c.reached_seq,
      behind_seq: c.behind ? c.behind_seq : 0,
      inflight,
    };
    if (c.exposed) {
      this.#events.push((handler) => handler.on_closed(c.conn, c.generation, code, closed));
    }
  }

  /** Carries out one submitted command; false when there is none. */
  step(): boolean {
    const command = this.#submitted.shift();
    command?.();
    return command !== undefined;
  }

  poll(handler: ReactorHandler): number {
    const events = this.#events;
    this.#events = [];
    for (const event of events) event(handler);
    return events.length;
  }

  flush(): void {
    this.#submitted.push(...this.#turn);
    this.#turn = [];
  }

  #command(conn: number, generation: number, run: (c: FakeConnection) => void): void {
    this.#turn.push(() => {
      const c = this.connections[conn];
      if (c.generation !== generation || c.state === "closing" || c.state === "gone") this.stale++;
      else run(c);
    });
  }

  #check_room(c: FakeConnection): void {
    if (!c.behind || !c.room_wanted || c.state !== "active") return;
    if (c.id_taken && is_taken(c, held_id(c, { qos: 2, seq: c.behind_seq }))) return;
    c.id_taken = false;
    if (c.inflight_max !== 0 && c.room < (c.inflight_max + 1) / 2) return;
    c.room_wanted = false;
    const { room, delivered } = c;
    this.#events.push((handler) => handler.on_room(c.conn, c.generation, room, delivered));
  }

  #send_stored(
    c: FakeConnection,
    frame: Uint8Array,
    options: Omit<DeliverOptions, "bytes_max" | "behind_count">,
    packet_id_at: number,
  ): void {
    if (packet_id_at === none) return void c.out.push(frame);
    const copy = frame.slice();
    let { packet_id } = options;
    if (packet_id === 0) {
      packet_id = held_id(c, options);
      if (packet_id === 0 || is_taken(c, packet_id)) packet_id = next_id(c);
    }
    copy[packet_id_at] = packet_id >> 8;
    copy[packet_id_at + 1] = packet_id & 0xff;
    c.window.push({
      ...options,
      shared: options.shared ?? false,
      settle: options.settle ?? false,
      packet_id,
      done: false,
    });
    c.out.push(copy);
  }

  begin_publish(publish: PublishOptions, audiences: readonly number[], _bytes_max: number): number {
    const options = { ...publish };
    const names = [...audiences];
    this.#pending = (end, packet_id_at) => {
      const frame = this.commands.slice(0, end);
      this.#turn.push(() => this.#publish(options, names, frame, packet_id_at));
    };
    return 0;
  }

  end_publish(end: number, packet_id_at: number): void {
    this.#pending!(end, packet_id_at);
  }

  #publish(options: PublishOptions, names: number[], frame: Uint8Array, at: number): void {
    for (const name of names) {
      for (const c of this.audiences.get(name) ?? []) {
        if (c.state !== "active" || c.stamp === options.stamp) continue;
        if (c.conn === options.except_conn && c.generation === options.except_generation) continue;
        c.stamp = options.stamp;
        if (options.seq === 0) c.out.push(frame);
        else if (!c.behind && is_taken(c, held_id(c, options))) this.#wait_for_id(c, options.seq);
        else if (!c.behind && at !== none && c.room === 0) this.#fall_behind(c, options.seq);
        else if (!c.behind) {
          const { seq, qos } = options;
          this.#send_stored(
            c,
            frame,
            { seq, qos, packet_id: 0, released: false, aside: false },
            at,
          );
        }
      }
    }
    this.seen_seq = Math.max(this.seen_seq, options.seq);
  }

  #wait_for_id(c: FakeConnection, seq: number): void {
    this.#fall_behind(c, seq);
    c.id_taken = true;
  }

  #fall_behind(c: FakeConnection, seq: number): void {
    c.behind = c.room_wanted = true;
    c.behind_seq = seq;
    c.reached_seq = seq - 1;
    const count = c.behind_count = c.behind_count % 255 + 1;
    this.#events.push((handler) => handler.on_behind(c.conn, c.generation, seq, count));
  }

  begin_deliver(conn: number, generation: number, deliver: DeliverOptions): number {
    const options = { ...deliver };
    this.#pending = (end, packet_id_at) => {
      const frame = this.commands.slice(0, end);
      this.#command(conn, generation, (c) => {
        c.room_wanted = true;
        if (!options.shared) {
          c.room_wanted = true;
          c.delivered++;
        }
        if (!options.aside && options.behind_count !== c.behind_count) return;
        const { aside, packet_id, seq } = options;
        if (!aside && packet_id === 0 && is_taken(c, held_id(c, options))) {
          return this.#wait_for_id(c, seq);
        }
        this.#send_stored(c, frame, options, packet_id_at);
        if (!options.aside) c.reached_seq = Math.max(c.reached_seq, options.seq);
        this.#check_room(c);
      });
    };
    return 0;
  }

  end_deliver(end: number, packet_id_at: number): void {
    this.#pending!(end, packet_id_at);
  }

  begin_send(conn: number, generation: number, _bytes_max: number): number {
    this.#pending = (end) => {
      const frame = this.commands.slice(0, end);
      this.#command(conn, generation, (c) => c.out.push(frame));
    };
    return 0;
  }

  end_send(end: number): void {
    this.#pending!(end, none);
  }

  send(conn: number, generation: number, frame: Uint8Array): void {
    const copy = frame.slice();
    this.#command(conn, generation, (c) => c.out.push(copy));
  }

  activate(conn: number, generation: number, options: ActivateOptions): void {
    this.#command(conn, generation, (c) => {
      c.state = "active";
      c.inflight_max = options.inflight_max;
      c.report_acks = options.report_acks;
      c.hold_releases = options.hold_releases;
    });
  }

  close_connection(conn: number, generation: number, code: number): void {
    this.#command(conn, generation, (c) => this.end(c, code));
  }

  release(conn: number, generation: number): void {
    this.#turn.push(() => {
      const c = this.connections[conn];
      if (c.generation === generation) c.state = "gone";
      for (const [name, members] of this.audiences) {
        if (members.has(c)) throw new Error(`released while still in audience ${name}`);
      }
    });
  }

  join(conn: number, generation: number, audience: number): void {
    this.#command(conn, generation, (c) => {
      const members = this.audiences.get(audience) ?? new Set();
      this.audiences.set(audience, members.add(c));
    });
  }

  leave(conn: number, _generation: number, audience: number): void {
    this.#turn.push(() => this.audiences.get(audience)?.delete(this.connections[conn]));
  }

  behind(conn: number, generation: number, from_live: boolean): void {
    this.#command(conn, generation, (c) => {
      if (!c.behind) {
        c.behind_seq = 0;
        c.reached_seq = from_live ? Math.max(c.reached_seq, this.seen_seq) : 0;
      }
      c.behind = c.room_wanted = true;
      this.#check_room(c);
    });
  }

  live(conn: number, generation: number, behind_count: number): void {
    this.#command(conn, generation, (c) => {
      if (behind_count === c.behind_count) c.behind = c.room_wanted = false;
      else c.room_wanted = true;
    });
  }

  pause(): void {}
  resume(): void {}
  report_acks(): void {}
  unlisten(): void {}
  wake(): void {}
  close(): void {}
  now_us(): number {
    return Math.floor(performance.now() * 1000) % 0x1_0000_0000 || 1;
  }
  listen(): number {
    return 0;
  }
  wait(): Promise<boolean> {
    return Promise.resolve(this.#events.length > 0);
  }
  peer(): string {
    return "fake";
  }
  /** Of nothing, for tests that count something of their own. */
  readonly no_stats = {
    closed: [],
    dropped: [],
    states: {
      longwire: { handshaking: 0, active: 0, draining: 0 },
      mqtt: { handshaking: 0, active: 0, draining: 0 },
    },
    to_socket: { counts: [], sum_us: 0 },
    to_acked: { counts: [], sum_us: 0 },
  };
  stats(): ReactorStats {
    throw new Error("a fake reactor counts nothing");
  }
}
