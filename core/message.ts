/**
 * The nouns that every room passes: a message, a stored message, and where a stored message stands.
 */

/** MQTT quality of service: 0 at most once, 1 at least once, 2 exactly once. */
export type Qos = 0 | 1 | 2;

/** MQTT 5 properties that travel with a message from publisher to subscriber (section 3.3.2.3). */
export interface MessageProperties {
  readonly content_type?: string;
  readonly response_topic?: string;
  readonly correlation_data?: Uint8Array;
  /** 1 = the payload is declared to be UTF-8 text; absent or 0 = bytes. */
  readonly payload_format?: number;
  readonly user_properties?: readonly (readonly [string, string])[];
  /**
   * Session that published it, where No Local may ask for it [MQTT-3.8.3-3]. Never leaves the
   * service.
   */
  readonly publisher?: string;
}

/**
 * What a publisher hands over. Payload bytes belong to the message: nobody writes to them after.
 */
export interface Message {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: Qos;
  readonly retain: boolean;
  /** When it was received, Unix milliseconds. */
  readonly time_ms: number;
  /** Unix milliseconds after which nobody wants it; 0 = never. */
  readonly expires_ms: number;
  /** Conflation and compaction key; "" = none. */
  readonly key: string;
  readonly properties?: MessageProperties;
}

/**
 * A message in the log. `offset` counts from 1 without gaps within an epoch; 0 = not stored.
 * An epoch names one life of the log: when it changes, offsets of the old one mean nothing.
 */
export interface StoredMessage extends Message {
  readonly offset: number;
}

/** A place in the log: everything up to and including `offset` has been seen. */
export interface Cursor {
  readonly epoch: string;
  readonly offset: number;
}

/** What was done with a publish that is not stored though it might have been. */
export interface Passed {
  /** Subscriptions of connected devices, on all nodes that are known to have it. */
  readonly audience: number;
  /** Other nodes that have it. */
  readonly nodes: number;
  /** Names of those that may not have it. */
  readonly missed: readonly string[];
  /** It waits for a moment, and a newer one of its key may take its place. */
  readonly conflated: boolean;
}
