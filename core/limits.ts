/**
 * Every bound of the service, with its unit in its name, and the relations between bounds,
 * asserted at load. What an operator may change is in config.ts; what is here holds for every
 * deployment.
 */

export const limits = Object.freeze({
  /**
   * Largest frame from or to a device, header included. MQTT allows 256 MiB; no device sends that.
   */
  frame_bytes_max: 1 << 20,
  /** Largest first frame (CONNECT, Hello): nobody is known yet. */
  handshake_frame_bytes_max: 16 << 10,
  /** Largest payload of a message: leaves room in a frame for the topic and properties. */
  payload_bytes_max: (1 << 20) - (80 << 10),
  /** Largest topic name or filter, UTF-8 bytes [MQTT-4.7.3-3 allows 65,535]. */
  topic_bytes_max: 4096,
  /** Deepest topic or filter, in levels: bounds the trie walk. */
  topic_levels_max: 128,
  /** Largest client id or session id, UTF-8 bytes. */
  device_id_bytes_max: 256,
  /** Filters in one SUBSCRIBE or UNSUBSCRIBE packet. */
  filters_per_packet_max: 1024,
  /** Subscriptions of one session. */
  subscriptions_per_session_max: 1024,
  /** Changes of one subscription that a session remembers for messages from before them. */
  subscription_formers_max: 8,
  /** Items of one POST /v1/publish. */
  publish_batch_max: 10_000,
  /** Of one stream of NDJSON: lines, bytes of a line, turns whose publishes are under way. */
  publish_lines_max: 100_000,
  publish_line_bytes_max: 2 << 20,
  publish_stream_turns_max: 16,
  /** Body of one POST /v1/publish that is not NDJSON. */
  publish_body_bytes_max: 8 << 20,
  /** TLS handshakes under way at once (each holds some 50 KB meanwhile); the others wait. */
  tls_handshakes_max: 1024,
  /** First packet must be complete within this time. */
  handshake_timeout_ms: 10_000,
  /** A connection that takes no bytes for this long, with bytes waiting, is closed. */
  write_stall_ms: 30_000,
  /** A closed connection that still has a reason to deliver is given this long. */
  linger_ms: 2_000,
  /** Out-queue of one connection: past soft, QoS 0 drops oldest and QoS >= 1 falls behind. */
  out_queue_soft_bytes: 1 << 20,
  /** Past hard (control packets that a peer does not read) the connection is closed. */
  out_queue_hard_bytes: 4 << 20,
  /** QoS >= 1 publishes of one MQTT 5 connection that are not answered yet: Receive Maximum. */
  receive_max: 1024,
  /** Messages of one shared subscription that are with one member at a time. */
  shared_inflight_max: 128,
  /** How often what the service says of itself goes to those who listen. */
  sys_interval_ms: 10_000,
  /** Topic aliases that an MQTT 5 client may set [MQTT-3.3.2-9]. */
  topic_alias_max: 32,
  /** Topics that are sent to an MQTT 5 client as a number (ALIASES_MAX of ffi/alias.h). */
  topic_alias_out_max: 32,
  /** QoS >= 1 messages in flight to one MQTT connection. */
  inflight_max: 1024,
  /** Commands waiting for one I/O thread: past this, publishes are refused with queue_full. */
  command_queue_bytes_max: 64 << 20,
  /** Event ring of one I/O thread; must hold several of the largest frames. */
  ring_bytes: 4 << 20,
  /** Topics whose match result is remembered. */
  match_cache_max: 1 << 16,
  /** Longwire heartbeat interval offered to a device that asks for none. */
  keepalive_default_s: 10,
  /** A connection that misses this many heartbeats is closed. */
  heartbeats_missed_max: 3,
  /** Longest keepalive that a device may ask for; MQTT's field ends at 65,535. */
  keepalive_max_s: 65_535,
  /** Messages that the memory store keeps. */
  memory_log_messages_max: 1 << 20,
  /** Payload and topic bytes that the memory store keeps. */
  memory_log_bytes_max: 256 << 20,
  /** SUBSCRIBE and UNSUBSCRIBE of one connection that wait for its publishes to be stored. */
  deferred_steps_max: 64,
  /** Subscriptions of one session that are no more and still say what is to come. */
  subscriptions_lapsed_max: 64,
  /** Messages that one replay step of one session reads from the store. */
  replay_batch_messages: 256,
  /** Messages that one page of the log or of retained messages holds. */
  page_messages_max: 4096,
  /** A page of the log or of retained messages ends with the message that passes this size. */
  page_bytes_max: 4 << 20,
  /** Newest stored messages that the SQLite store also has in memory: read without waiting. */
  tail_messages_max: 1 << 16,
  /** Bytes of those. */
  tail_bytes_max: 64 << 20,
  /**
   * Messages that one read looks at before it answers a short page: bounds its time to about 1 ms.
   */
  read_scan_messages_max: 1 << 14,
  /** Wildcard filters whose matches within the memory window are remembered, and matches in all. */
  window_filters_max: 256,
  window_matches_max: 1 << 20,
  /** Writes that wait for the disk: past this they are refused with store_unavailable. */
  store_queue_bytes_max: 64 << 20,
  /**
   * Pages of older messages that are kept for the next session with the same filters; bytes of
   * those.
   */
  page_cache_pages_max: 4096,
  page_cache_bytes_max: 64 << 20,
  /** Sessions, retained messages and idempotency keys that the memory store keeps. */
  memory_sessions_max: 1 << 20,
  memory_retained_messages_max: 1 << 16,
  memory_idempotency_keys_max: 1 << 18,
  /** Retained messages of a cluster: every node has them in memory. */
  cluster_retained_messages_max: 1 << 18,
  /** How long a node waits for JetStream to store a message, before it refuses it. */
  cluster_store_timeout_ms: 2000,
  /** Messages of QoS 0 from other nodes that wait for a stored one of the same publisher. */
  early_messages_max: 4096,
  /** Devices that a node which is drained sends elsewhere. */
  drain_devices_per_s: 2000,
  /** Devices that a node which has more than its share sends elsewhere. */
  rebalance_devices_per_s: 100,
  /** Nodes of a cluster, and of earlier runs, that are told apart. */
  nodes_max: 1024,
  /** First levels of topics whose messages of QoS 0 a node asks for: past this, for all. */
  relay_subscriptions_max: 1024,
  /** Characters of one document of rules, and entries of one list in it. */
  rules_bytes_max: 64 << 10,
  rules_max: 64,
  /** Messages that are passed to other nodes while the log is away, and wait for their answer. */
  outage_queue_bytes_max: 16 << 20,
  outage_batch_bytes_max: 4 << 20,
  /** A node that does not answer within it has not passed a message on. */
  outage_timeout_ms: 1000,
  /** Messages that wait to be replaced by a newer one of the same key, while load is shed. */
  conflated_messages_max: 1 << 16,
  /** Messages of one page of history. */
  history_messages_max: 1000,
  /** Streams of Server-Sent Events at the same time. */
  event_streams_max: 10_000,
  /** Bytes that one of them buffers before its reader falls behind. */
  event_stream_bytes: 256 << 10,
  event_stream_keepalive_ms: 15_000,
  /** Connections to `https` at the same time. */
  https_connections_max: 20_000,
  /** MQTT over WebSocket: connections at the same time. */
  websockets_max: 10_000,
  /** Pushes that wait for the acknowledgement of their device, and for how long one may. */
  receipts_max: 100_000,
  receipt_timeout_ms_max: 120_000,
  /** JSON over WebSocket: subscriptions of one, requests of it that are not answered yet. */
  websocket_subscriptions_max: 64,
  websocket_requests_max: 256,
  /** Bytes of one that were received and not taken: past this it is closed. */
  websocket_waiting_bytes: 4 << 20,
  /** Bytes of one that its device has not read: past this nothing more is read from the reactor. */
  websocket_unread_bytes: 256 << 10,
  /** Longest Idempotency-Key, characters. */
  idempotency_key_max: 255,
  /** How long an idempotency key is remembered. */
  idempotency_ttl_ms: 600_000,
  /** Longest token, bytes. */
  token_bytes_max: 8 << 10,
  /** Topic filters in one claim of a token. */
  token_filters_max: 64,
  /** Tokens that were found good and are remembered by their hash. */
  tokens_cached_max: 1 << 14,
  /** Keys of one set, and bytes of the set. */
  keys_max: 64,
  keys_bytes_max: 256 << 10,
  /** How often a key set is read again at most, when a token names a key that is not in it. */
  keys_refetch_ms: 10_000,
  /** How long a JWKS URL may take to answer. */
  keys_timeout_ms: 5_000,
  /** Devices of one page of GET /v1/devices. */
  devices_page_max: 1000,
  /**
   * Events of all devices that are remembered (powers of two): those of connections, and those that
   * a device can bring about at will. Some 60 bytes each.
   */
  timeline_events: 1 << 16,
  timeline_noisy_events: 1 << 16,
  /** Events of one device that are shown. */
  timeline_device_events: 100,
  /** Characters of a device's id, past which it has no timeline, and of a topic in one. */
  timeline_text_max: 256,
  /** Devices of one list of those that are worst off. */
  worst_devices_max: 1000,
  /** How long other nodes have to say which devices they have. */
  fleet_timeout_ms: 2_000,
  /** How long a scan of the descriptors is good enough for metrics. */
  descriptors_age_ms: 10_000,
  /** A descriptor that looks wrong is looked at again after this. */
  descriptors_confirm_ms: 100,
  /** Tenants that the service knows at once. */
  tenants_max: 1 << 14,
  /** Tenants that have a label of their own in metrics; the others share one. */
  tenant_labels_max: 100,
  /**
   * Nodes whose newest status is kept; past it the one that has been known longest is forgotten.
   */
  status_nodes_max: 1 << 20,
  /**
   * How far ahead of ours the clock of a device may be (LONGWIRE_AHEAD_MAX_S of ffi/frames.h): it
   * was told the time in Welcome.
   */
  clock_ahead_max_ms: 60_000,
  /**
   * How long a device that may have missed Welcome can take its own silent connection over with the
   * secret of the one before.
   */
  secret_grace_ms: 30_000,
  /**
   * Compressed bodies: what may come of one is its size times this. RLE makes 1 MiB of 11 bytes, at
   * the receiver's cost; what compresses better than this is sent as it is.
   */
  zstd_ratio_max: 64,
  /** A body that becomes no more than this is no bomb, however small it is. */
  zstd_free_bytes: 4096,
  /** Larger bodies are not compressed: it would keep all others waiting for more than 1 ms. */
  zstd_body_bytes_max: 64 << 10,
  /** Webhooks of a file, and the file's bytes. */
  webhooks_max: 256,
  webhooks_bytes_max: 1 << 20,
  webhook_url_bytes_max: 2048,
  /** Of one hook: secrets that sign, filters, events of a request, requests at the same time. */
  webhook_secrets_max: 4,
  webhook_filters_max: 64,
  webhook_batch_max: 1000,
  webhook_concurrency_max: 64,
  /** Events of one hook that were read from the log and not delivered yet, and their bytes. */
  webhook_window_events: 1024,
  webhook_window_bytes: 4 << 20,
  /** Payload bytes of one batch, but for one event alone. */
  webhook_batch_bytes: 1 << 20,
  /** Of an answer: past this the connection is closed. */
  webhook_answer_bytes_max: 64 << 10,
  /** Connections that are kept open to one endpoint. */
  webhook_idle_sockets_max: 16,
  /** The longest wait between two attempts, also where Retry-After asks for more. */
  webhook_retry_ms_max: 600_000,
  /**
   * Callbacks of one device, and of all, that are not over; how long one waits for the device where
   * the message has no ttl; requests at the same time to one URL.
   */
  callbacks_per_device_max: 256,
  callbacks_max: 100_000,
  callback_wait_ms_max: 30 * 86_400_000,
  callback_concurrency: 4,
  /** Events of devices that wait while the store takes none: past this they are dropped. */
  webhook_events_waiting_max: 1 << 14,
  /** Receivers of one publish whose delivery and acknowledgement are spans of its trace. */
  trace_deliveries_max: 8,
  /** Publishes of one request over HTTP that are traced. */
  trace_publishes_max: 16,
  /** Publishes whose receivers may still be heard of by their traces. */
  traces_open_max: 4096,
  /** Traces that are kept for being slow or refused though they were not sampled. */
  traces_late_per_s: 100,
  /** How long a Longwire session is kept for a device that is away. */
  longwire_session_expiry_s: 86_400,
});

/** Throws when two bounds contradict each other. */
export function assert_limits(l: typeof limits = limits): void {
  const relations: [boolean, string][] = [
    [l.handshake_frame_bytes_max <= l.frame_bytes_max, "handshake frame <= frame"],
    [
      l.payload_bytes_max + l.topic_bytes_max + 1024 <= l.frame_bytes_max,
      "payload + topic <= frame",
    ],
    [l.frame_bytes_max <= l.out_queue_soft_bytes, "frame <= soft out-queue"],
    [l.out_queue_soft_bytes < l.out_queue_hard_bytes, "soft < hard out-queue"],
    [l.frame_bytes_max * 4 <= l.ring_bytes, "4 frames <= ring"],
    [(l.ring_bytes & (l.ring_bytes - 1)) === 0, "ring is a power of two"],
    [l.topic_bytes_max <= 65_535, "topic <= MQTT string"],
    [l.keepalive_default_s * l.heartbeats_missed_max <= 30, "liveness within 30 s"],
    [l.inflight_max <= 65_535, "in-flight <= packet ids"],
    [l.replay_batch_messages <= l.page_messages_max, "replay batch <= page"],
    [l.page_bytes_max * 4 <= l.page_cache_bytes_max, "4 pages <= page cache"],
    [l.trace_deliveries_max <= 255, "followed receivers <= one byte"],
    [l.publish_body_bytes_max <= l.store_queue_bytes_max, "publish body <= store queue"],
  ];
  for (const [holds, what] of relations) {
    if (!holds) throw new Error(`limits.ts: relation broken: ${what}`);
  }
}
assert_limits();
