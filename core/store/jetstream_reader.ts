/** Reads parts of a stream that are not in memory: a consumer of its own for each reading. */
import { AckPolicy, DeliverPolicy, type JetStreamManager } from "@nats-io/jetstream";
import { createInbox, type Msg, nanos, type NatsConnection } from "@nats-io/transport-node";
import { codes, Refusal } from "../codes.ts";

/** A message of a stream; `left` = how many that fit the subject come after it. */
export interface Found {
  readonly seq: number;
  readonly subject: string;
  readonly data: Uint8Array<ArrayBuffer>;
  readonly left: number;
}

const read_timeout_ms = 3000;

/**
 * The messages of a subject from a place on, in batches; nothing more when it has caught up.
 * @throws Refusal(store_unavailable) where NATS does not answer
 */
export async function* read_stream(
  nats: NatsConnection,
  manager: JetStreamManager,
  stream: string,
  subject: string,
  from_seq: number,
  batch: number,
): AsyncGenerator<Found[]> {
  let name: string | undefined;
  try {
    const info = await manager.consumers.add(stream, {
      filter_subject: subject,
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: Math.max(1, from_seq),
      ack_policy: AckPolicy.None,
      inactive_threshold: nanos(10_000),
      max_deliver: 1,
      mem_storage: true,
      num_replicas: 1,
    });
    name = info.name;
    let left = info.num_pending;
    while (left > 0) {
      const found = await next_batch(nats, `$JS.API.CONSUMER.MSG.NEXT.${stream}.${name}`, batch);
      if (found.length === 0) return;
      left = found.at(-1)!.left;
      yield found;
    }
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(codes.store_unavailable, `Cannot read ${stream}: ${String(error)}`, 1000);
  } finally {
    if (name !== undefined) manager.consumers.delete(stream, name).catch(() => {});
  }
}

/** Answers of one request: as many as are there, `batch` at most. */
function next_batch(nats: NatsConnection, subject: string, batch: number): Promise<Found[]> {
  return new Promise((resolve, reject) => {
    const found: Found[] = [];
    const inbox = createInbox();
    const end = (why?: string) => {
      clearTimeout(timer);
      subscription.unsubscribe();
      if (why === undefined) resolve(found);
      else reject(new Refusal(codes.store_unavailable, `Cannot read the log: ${why}`, 1000));
    };
    const timer = setTimeout(() => end("no answer in time"), read_timeout_ms);
    const subscription = nats.subscribe(inbox, {
      callback: (error, message) => {
        if (error !== null) return end(error.message);
        const code = message.headers?.code ?? 0;
        // Nothing (more) is there, or the request is over.
        if (message.data.length === 0 && (code === 404 || code === 408)) return end();
        if (message.data.length === 0 && code >= 400) return end(`status ${code}`);
        found.push(found_of(message));
        if (found.length === batch) end();
      },
    });
    nats.publish(subject, JSON.stringify({ batch, no_wait: true }), { reply: inbox });
  });
}

function found_of(message: Msg): Found {
  const parts = (message.reply ?? "").split(".");
  const from = parts.length >= 11 ? 7 : 5;
  return {
    seq: Number(parts[from]),
    subject: message.subject,
    data: message.data as Uint8Array<ArrayBuffer>,
    left: Number(parts[from + 3]),
  };
}
