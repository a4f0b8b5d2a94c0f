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
const watch_ms = 250;
const retry_ms = 100;

/** Tells of one message; `data` may be kept. */
export type Hear = (seq: number, data: Uint8Array, subject: string) => void;

export class JetStreamFollower {
  /** How often the consumer had to be made again. */
  restarts = -1;
  #subscription: Subscription | undefined;
  #consumer_seq = 0;
  #heard_ms = 0;
  #making = false;
  #closed = false;
  #again: ReturnType<typeof setTimeout> | undefined;
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
      if (performance.now() - this.#heard_ms > silence_max_ms) this.restart();
    }, watch_ms);
    this.restart();
  }

  /** Makes the consumer again, behind the last message that was heard. */
  restart(): void {
    if (this.#closed || this.#making) return;
    clearTimeout(this.#again);
    this.#making = true;
    this.restarts++;
    this.#subscription?.unsubscribe();
    const deliver_subject = createInbox();
    this.#consumer_seq = 0;
    this.#heard_ms = performance.now();
    const subscription = this.nats.subscribe(deliver_subject, {
      callback: (error, message) => {
        if (error === null && subscription === this.#subscription) this.#on_message(message);
      },
    });
    this.#subscription = subscription;
    this.#make(deliver_subject).catch(() => {
      this.#again = setTimeout(() => this.restart(), retry_ms);
    }).finally(() => this.#making = false);
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    clearTimeout(this.#again);
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

  #on_message(message: Msg): void {
    this.#heard_ms = performance.now();
    const { reply = "", data } = message;
    if (data.length === 0 && message.headers?.code === 100) {
      // A request of flow control, or a heartbeat that says that one was lost.
      const stalled = reply !== "" ? reply : message.headers.get("Nats-Consumer-Stalled");
      if (stalled !== "") this.nats.publish(stalled);
      const last = message.headers.get("Nats-Last-Consumer");
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
