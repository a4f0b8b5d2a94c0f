/** What the client needs of a transport: one ordered stream of bytes in both directions. */

export interface Connection {
  /** The next bytes, valid until the next call; null = the peer has closed. Throws when broken. */
  read(): Promise<Uint8Array | null>;
  /** Writes all of them. Throws when broken. */
  write(bytes: Uint8Array): Promise<void>;
  /** Ends both directions and every call that waits. May be called twice. */
  close(): void;
}

/** Connects to an address that the transport understands; gives up when the signal says so. */
export type Open = (address: string, signal: AbortSignal) => Promise<Connection>;
