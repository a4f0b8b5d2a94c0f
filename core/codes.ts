/**
 * Every refusal, close and drop of the service, in one table: what it is called, what it means,
 * and how each protocol says it. Numbers are part of the wire protocol (Longwire `Refuse.code`,
 * `Goodbye.code`) and of ffi/reactor.h: never renumber, only append.
 */

/** One way in which the service says no. */
export interface Code {
  /** Longwire code; the same number in ffi/reactor.h for what the reactor finds by itself. */
  readonly number: number;
  /** snake_case name: problem+json `code`, metric label. */
  readonly name: string;
  /** One sentence for a person, no period. */
  readonly meaning: string;
  /** HTTP status, RFC 9110 section 15. */
  readonly http: number;
  /** MQTT 5 reason code (section 2.4), used in CONNACK, SUBACK, PUBACK and DISCONNECT. */
  readonly mqtt: number;
  /** MQTT 3.1.1 CONNACK return code (table 3.1): 0 = nothing fits, close without CONNACK. */
  readonly connack: number;
  /** Whether the same request may succeed later without being changed. */
  readonly retryable: boolean;
}

// deno-fmt-ignore
const rows = {
  // name: [number, meaning, HTTP, MQTT 5, CONNACK of 3.1.1, retryable]
  normal: [0, "Closed as agreed", 200, 0x00, 0, true],
  peer_closed: [1, "The device closed the connection", 499, 0x00, 0, true],
  io_error: [2, "The transport failed", 499, 0x80, 0, true],
  handshake_timeout: [3, "No valid first packet in time", 408, 0x87, 0, true],
  keepalive_timeout: [4, "Nothing heard within the keepalive", 408, 0x8d, 0, true],
  frame_too_large: [5, "The frame is larger than the limit", 413, 0x95, 0, false],
  malformed: [6, "The packet cannot be parsed", 400, 0x81, 0, false],
  protocol_error: [7, "The packet is not allowed here", 400, 0x82, 0, false],
  unsupported_protocol: [8, "This protocol or version is not spoken here", 400, 0x84, 1, false],
  server_busy: [9, "The service is busy", 503, 0x89, 3, true],
  connection_limit: [10, "The service holds as many connections as it may", 503, 0x97, 3, true],
  slow_consumer: [11, "The device reads more slowly than its limit allows", 503, 0x97, 0, true],
  taken_over: [12, "Another connection took the session over", 409, 0x8e, 0, false],
  topic_invalid: [13, "The topic name is not valid", 400, 0x90, 0, false],
  filter_invalid: [14, "The topic filter is not valid", 400, 0x8f, 0, false],
  unauthorized: [15, "No valid credentials", 401, 0x87, 5, false],
  forbidden: [16, "The credentials do not allow this", 403, 0x87, 5, false],
  payload_invalid: [17, "The payload is not of the declared form", 400, 0x99, 0, false],
  body_too_large: [18, "The body is larger than the limit", 413, 0x95, 0, false],
  rate_limited: [19, "More requests than the limit allows", 429, 0x96, 3, true],
  shutting_down: [20, "The service is stopping", 503, 0x8b, 3, true],
  session_in_use: [21, "The session is connected elsewhere", 409, 0x87, 2, true],
  not_found: [22, "There is nothing at this path", 404, 0x80, 0, false],
  method_not_allowed: [23, "The path does not take this method", 405, 0x80, 0, false],
  query_invalid: [24, "A query parameter or header is not valid", 400, 0x80, 0, false],
  json_invalid: [25, "The body is not the JSON that this call takes", 400, 0x80, 0, false],
  client_id_invalid: [26, "The client identifier is not allowed", 400, 0x85, 2, false],
  qos_unsupported: [27, "The QoS is not supported", 400, 0x9b, 0, false],
  subscription_limit: [28, "The session has as many subscriptions as it may", 429, 0x97, 0, false],
  store_unavailable: [29, "The store cannot take the message now", 503, 0x83, 3, true],
  store_full: [30, "The store is full", 507, 0x97, 3, true],
  internal: [31, "The service failed", 500, 0x80, 3, true],
  queue_full: [32, "The queue to the devices is full", 503, 0x97, 3, true],
  write_stalled: [33, "The device has taken no bytes for too long", 408, 0x97, 0, true],
  replaced: [34, "A newer message with the same key took its place", 200, 0x00, 0, false],
  kicked: [35, "An operator closed the connection", 403, 0x98, 0, true],
  resume_gap: [36, "Messages before the cursor's successor have expired", 410, 0x00, 0, false],
  packet_id_in_use: [37, "The packet identifier is in use", 400, 0x91, 0, false],
  no_memory: [38, "The process has no memory or descriptor for this", 503, 0x97, 3, true],
  auth_method: [39, "The authentication method is not supported", 400, 0x8c, 5, false],
  shared_unsupported: [40, "Shared subscriptions are not supported", 400, 0x9e, 0, false],
  topic_alias_invalid: [41, "The topic alias is out of range", 400, 0x94, 0, false],
  tls_failed: [42, "The TLS handshake or a TLS record is not valid", 400, 0x80, 0, false],
  tls_certificate: [43, "No valid client certificate", 401, 0x87, 5, false],
  tls_busy: [44, "Too many TLS handshakes are under way", 503, 0x97, 3, true],
  proxy_malformed: [45, "The PROXY header is missing or not valid", 400, 0x81, 0, false],
  proxy_forbidden: [46, "A PROXY header from a source that is not trusted", 403, 0x87, 5, false],
  connect_rate: [47, "More connects a second than the service takes", 503, 0x9f, 3, true],
  source_rate: [48, "More connects a second than one address may", 429, 0x9f, 3, true],
  source_limit: [49, "The address has as many connections as it may", 429, 0x97, 3, true],
  upgrade_required: [51, "This path speaks WebSocket only", 426, 0x80, 0, false],
  receive_maximum: [50, "More publishes in flight than Receive Maximum", 429, 0x93, 0, true],
  token_expired: [52, "The token has expired", 401, 0x87, 5, false],
  quota_exceeded: [53, "The tenant or device has used up what it may", 429, 0x97, 3, true],
  keys_unavailable: [54, "The keys for tokens cannot be had now", 503, 0x83, 3, true],
  origin_forbidden: [55, "Pages of this origin may not call the service", 403, 0x87, 5, false],
  body_timeout: [56, "The body did not come in time", 408, 0x80, 0, true],
  ack_timeout: [58, "The device has not acknowledged the message in time", 504, 0x80, 0, true],
  encoding_unsupported: [57, "The Content-Encoding is not supported", 415, 0x80, 0, false],
  fenced: [59, "The node has lost its place in the cluster", 503, 0x9c, 3, true],
  moved: [60, "Another node is to take the device", 503, 0x9c, 3, true],
  breaker_open: [61, "What the service depends on is down", 503, 0x88, 3, true],
  not_subscribed: [62, "The device does not subscribe to what is pushed", 409, 0x80, 0, true],
  denied: [70, "An operator has stopped this for now", 403, 0x87, 5, true],
  overloaded: [71, "The service takes only a part of the requests now", 503, 0x97, 3, true],
  shed: [72, "What is not stored is shed while there is too much to do", 503, 0x97, 3, true],
  not_stored: [73, "The log cannot be reached: it is not stored", 202, 0x83, 3, true],
  zstd_bomb: [80, "The compressed body becomes too large for its size", 400, 0x95, 0, false],
  zstd_dictionary: [81, "The zstd dictionary of the body is not known here", 400, 0x81, 0, false],
  zstd_malformed: [82, "The compressed body cannot be read", 400, 0x81, 0, false],
  time_ahead: [83, "The time of a heartbeat or status is in the future", 400, 0x80, 0, true],
  status_replayed: [84, "The status is not newer than the last of its node", 409, 0x80, 0, false],
  secret_replayed: [85, "The resume secret is of an earlier connection", 409, 0x87, 5, true],
  tls_rekey: [63, "The kernel does not change the key of a TLS connection", 503, 0x88, 3, true],
  not_on_this_system: [90, "The system of this node cannot say", 501, 0x80, 0, false],
  webhook_unreachable: [100, "The endpoint of a webhook cannot be reached", 502, 0x80, 0, true],
  webhook_timeout: [101, "The endpoint of a webhook did not answer in time", 504, 0x80, 0, true],
  webhook_refused: [102, "The endpoint of a webhook answered with an error", 502, 0x80, 0, true],
  webhook_forbidden: [103, "Events may not be sent to that URL", 400, 0x80, 0, false],
  webhook_gone: [104, "The endpoint of a webhook wants no more events", 410, 0x80, 0, false],
  interrupted: [106, "The service ended without a word to the device", 503, 0x80, 0, true],
  no_callbacks: [105, "Callbacks are not set up for the tenant", 409, 0x80, 0, false],
  foreign_protocol: [65, "The connection begins in another protocol", 400, 0x82, 0, false],
} as const satisfies Record<string, readonly [number, string, number, number, number, boolean]>;

/** The name of a row. */
export type CodeName = keyof typeof rows;

/** Every row by name. */
export const codes: Readonly<Record<CodeName, Code>> = Object.freeze(
  Object.fromEntries(
    Object.entries(rows).map(([name, [number, meaning, http, mqtt, connack, retryable]]) => [
      name,
      Object.freeze({ number, name, meaning, http, mqtt, connack, retryable }),
    ]),
  ) as Record<CodeName, Code>,
);

const by_number: readonly Code[] = (() => {
  const list: Code[] = [];
  for (const code of Object.values(codes)) {
    if (list[code.number] !== undefined) {
      throw new Error(`codes.ts: number ${code.number} used twice`);
    }
    list[code.number] = code;
  }
  return list;
})();

/** The row with this number; `internal` for a number that no row has. */
export function code_of(number: number): Code {
  return by_number[number] ?? codes.internal;
}

/** Every row by number; a number that no row has is `internal`. */
export const code_list: readonly Code[] = Array.from(by_number, (code) => code ?? codes.internal);

/** How many numbers there are (the highest plus one): sizes counter tables. */
export const code_count = by_number.length;

/** A refusal on its way to whoever asked: carries its row and the input it is about. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  constructor(readonly code: Code, detail?: string, readonly retry_after_ms = 0) {
    super(detail === undefined ? code.meaning : detail);
  }
}
