/**
 * Follows a stream: every message from some place on, in order, without a gap, for as long as the
 * process lives. It is JetStream's ordered push consumer: one that loses a message, its server or
 * its connection is made again where it had come to.
 */
import { AckPolicy, DeliverPolicy, type JetStreamManager, ReplayPolicy } from "@nats-io/jetstream";
import {
  createInbox,
  type Msg,
  nanos,
  type NatsConnection,
  type Subscription,
} from "@nats-io/transport-node";

const heartbeat_ms = 500;
const silence_max_ms = 1250;
/** A request for a consumer may get lost with the connection or with the stream's leader. */
const making_max_ms = 1500;
const watch_ms = 250;
const retry_ms = 100;
/** How often room is looked for, while there is none. */
const room_ms = 5;

/** Tells of one message; `data` may be kept. */
export type Hear = (seq: number, data: Uint8Array, subject: string) => void;

export class JetStreamFollower {
  /** How often the consumer had to be made again. */
  restarts = -1;
  /** Whether hear() may be called; while it may not, the server sends 32 MB more at most. */
  has_room: () => boolean = () => true;
  #subscription: Subscription | undefined;
  /** Counts consumers: what comes of an earlier one is not looked at. */
  #run = 0;
  #is_made = false;
  #consumer_seq = 0;
  #heard_ms = 0;
  #closed = false;
  #again: ReturnType<typeof setTimeout> | undefined;
  /** What came and waits for room, in order. */
  #waiting: Msg[] = [];
  #draining: ReturnType<typeof setTimeout> | undefined;
  readonly #timer: ReturnType<typeof setInterval>;

  /** @param after messages up to this place are not wanted */
  constructor(
    readonly nats: NatsConnection,
    readonly manager: JetStreamManager,
    readonly stream: string,
    public after: number,
    readonly hear: Hear,
  ) {
    this.#timer = setInterval(() => {
      const max_ms = this.#is_made ? silence_max_ms : making_max_ms;
      if (performance.now() - this.#heard_ms > max_ms) this.restart();
    }, watch_ms);
    this.restart();
  }

  /** How many messages wait for room. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Makes the consumer again, behind the last message that was heard. */
  restart(): void {
    if (this.#closed) return;
    this.#end_run();
    this.restarts++;
    this.#heard_ms = performance.now();
    const run = this.#run;
    const deliver_subject = createInbox();
    this.#subscription = this.nats.subscribe(deliver_subject, {
      callback: (error, message) => {
        if (error === null && run === this.#run) this.#arrived(message);
      },
    });
    this.#make(deliver_subject).then(() => {
      if (run !== this.#run) return;
      this.#is_made = true;
      this.#heard_ms = performance.now();
    }, () => {
      if (run === this.#run) this.#again = setTimeout(() => this.restart(), retry_ms);
    });
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#end_run();
  }

  /** What waits comes again, of the next consumer. */
  #end_run(): void {
    this.#run++;
    this.#is_made = false;
    this.#consumer_seq = 0;
    this.#waiting = [];
    clearTimeout(this.#again);
    clearTimeout(this.#draining);
    this.#subscription?.unsubscribe();
  }

  async #make(deliver_subject: string): Promise<void> {
    await this.manager.consumers.add(this.stream, {
      deliver_subject,
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: this.after + 1,
      ack_policy: AckPolicy.None,
      replay_policy: ReplayPolicy.Instant,
      flow_control: true,
      idle_heartbeat: nanos(heartbeat_ms),
      inactive_threshold: nanos(5000),
      max_deliver: 1,
      mem_storage: true,
      num_replicas: 1,
    });
  }

  #arrived(message: Msg): void {
    this.#heard_ms = performance.now();
    if (this.#waiting.length === 0 && this.has_room()) return this.#on_message(message);
    if (is_heartbeat(message)) return; // the next one says the same
    this.#waiting.push(message);
    if (this.#waiting.length === 1) this.#drain_later();
  }

  #drain_later(): void {
    this.#draining = setTimeout(() => {
      const run = this.#run;
      const waiting = this.#waiting;
      let done = 0;
      while (done < waiting.length && this.has_room() && run === this.#run) {
        this.#on_message(waiting[done++]!);
      }
      waiting.splice(0, done);
      if (run === this.#run && waiting.length > 0) this.#drain_later();
    }, room_ms);
  }

  #on_message(message: Msg): void {
    const { reply = "", data } = message;
    if (is_of_server(message)) {
      // A request of flow control, or a heartbeat that says that one was lost.
      const stalled = reply !== "" ? reply : message.headers!.get("Nats-Consumer-Stalled");
      if (stalled !== "") this.nats.publish(stalled);
      const last = message.headers!.get("Nats-Last-Consumer");
      if (last !== "" && Number(last) !== this.#consumer_seq) this.restart();
      return;
    }
    // $JS.ACK.[domain.account.]stream.consumer.delivered.stream seq.consumer seq.time.pending
    const parts = reply.split(".");
    const from = parts.length >= 11 ? 7 : 5;
    const seq = Number(parts[from]);
    const consumer_seq = Number(parts[from + 1]);
    if (consumer_seq !== this.#consumer_seq + 1) return this.restart();
    this.#consumer_seq = consumer_seq;
    if (seq <= this.after) return;
    this.hear(seq, data, message.subject);
    this.after = seq;
  }
}

/** A request of flow control, to be answered when all before it is done, or a heartbeat. */
function is_of_server({ data, headers }: Msg): boolean {
  return data.length === 0 && headers?.code === 100;
}

function is_heartbeat(message: Msg): boolean {
  return is_of_server(message) && (message.reply ?? "") === "";
}
