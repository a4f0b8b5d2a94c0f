/**
 * The streams that a cluster's store lies in, made by whichever node is first. Invariant: the log's
 * epoch lies in the stream itself, so that both go together.
 */
import {
  DiscardPolicy,
  type JetStreamManager,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
  type StreamInfo,
} from "@nats-io/jetstream";
import { nanos, type NatsConnection } from "@nats-io/transport-node";
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import { retention_default } from "./mod.ts";
import type { Names } from "./nats.ts";

/** What a test makes smaller. */
export interface StreamOptions {
  readonly messages_max?: number;
  readonly idempotency_ttl_ms?: number;
}

const epoch_words = "Longwire, epoch ";

/** What is there when the store opens. */
export interface Streams {
  readonly manager: JetStreamManager;
  readonly log: StreamInfo;
  readonly retained: StreamInfo;
  readonly sessions: StreamInfo;
  readonly epoch: string;
}

/**
 * Opens the streams, and makes those that are not there: on three servers where there are three.
 * @throws Refusal(store_unavailable) where there is no JetStream
 */
export async function open_streams(
  nats: NatsConnection,
  names: Names,
  options: StreamOptions,
): Promise<Streams> {
  const manager = await jetstreamManager(nats, { timeout: 5000 });
  const log = await open_stream(manager, {
    name: names.log,
    description: epoch_words + crypto.randomUUID(),
    subjects: [`${names.log_prefix}>`],
    max_age: nanos(retention_default[0]!.age_ms),
    max_msgs: options.messages_max ?? -1,
    duplicate_window: nanos(options.idempotency_ttl_ms ?? limits.idempotency_ttl_ms),
  });
  const newest_only = { max_msgs_per_subject: 1, max_age: 0 };
  const retained = await open_stream(manager, {
    name: names.retained,
    subjects: [`${names.retained_prefix}>`],
    ...newest_only,
  });
  const sessions = await open_stream(manager, {
    name: names.sessions,
    subjects: [`${names.session_prefix}>`, `${names.cursor_prefix}>`],
    ...newest_only,
  });
  const { description = "" } = log.config;
  if (!description.startsWith(epoch_words)) {
    throw new Refusal(codes.store_unavailable, `Stream ${names.log} is not Longwire's`);
  }
  return { manager, log, retained, sessions, epoch: description.slice(epoch_words.length) };
}

type Wanted = Partial<StreamConfig> & { readonly name: string };

async function open_stream(manager: JetStreamManager, wanted: Wanted): Promise<StreamInfo> {
  const found = await find_stream(manager, wanted.name);
  if (found !== undefined) return found;
  const config = {
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    allow_direct: true,
    ...wanted,
  };
  let why: unknown;
  for (const num_replicas of [3, 1]) {
    try {
      return await manager.streams.add({ ...config, num_replicas });
    } catch (error) {
      why = error;
      // Another node was first.
      const there = await find_stream(manager, wanted.name);
      if (there !== undefined) return there;
    }
  }
  const detail = `Cannot make stream ${wanted.name}: ${(why as Error).message}`;
  throw new Refusal(codes.store_unavailable, detail);
}

async function find_stream(
  manager: JetStreamManager,
  name: string,
): Promise<StreamInfo | undefined> {
  try {
    return await manager.streams.info(name);
  } catch {
    return undefined;
  }
}
