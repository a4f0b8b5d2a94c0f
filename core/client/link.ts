/**
 * One connection of a client: frames in and out, heartbeats, and the end of a connection that has
 * gone silent. Whatever ends it, `next` throws a Refusal that says why.
 */
import { codes, Refusal } from "../codes.ts";
import { limits } from "../limits.ts";
import {
  Decoder,
  encode_small,
  type Frame,
  type FrameInit,
  type Zstd,
} from "../protocol/longwire.ts";
import type { ServerClock } from "./clock.ts";
import type { Connection } from "./transport.ts";

/** Frames waiting for the socket; past it nothing more is taken. */
const out_bytes_max = 8 << 20;

export class Link {
  readonly #decoder: Decoder;
  /** What the service can read; undefined = nothing is compressed. */
  #packing: Zstd | undefined = undefined;
  #out: Uint8Array[] = [];
  #out_bytes = 0;
  #flushing: Promise<void> | undefined = undefined;
  #failure: Refusal | undefined = undefined;
  #heartbeat: ReturnType<typeof setInterval> | undefined = undefined;
  #silence_ms: number;

  /** `silence_ms`: how long the first frame may take. */
  constructor(readonly connection: Connection, silence_ms: number, readonly zstd?: Zstd) {
    this.#silence_ms = silence_ms;
    this.#decoder = new Decoder(undefined, zstd?.decompress);
  }

  /** Whether a frame sent now may still leave. */
  get is_open(): boolean {
    return this.#failure === undefined;
  }

  /**
   * Sends a heartbeat in each interval. `silence_max_ms` without anything end the connection;
   * 0 = three of the server's heartbeats missed.
   */
  keep_alive(keepalive_s: number, clock: ServerClock, silence_max_ms: number): void {
    this.#silence_ms = silence_max_ms || keepalive_s * 1000 * limits.heartbeats_missed_max;
    this.#heartbeat = setInterval(() => {
      clock.heartbeat_sent();
      this.send({ type: "heartbeat", time_s: Math.floor(clock.time_ms / 1000) });
    }, keepalive_s * 1000);
  }

  /** The service can read bodies that are compressed with these. */
  compress(dictionaries: readonly number[]): void {
    const all = this.zstd?.dictionaries.every((id) => dictionaries.includes(id)) ?? false;
    this.#packing = all ? this.zstd : undefined;
  }

  /** Queues a frame; all that is queued leaves in one write. Throws Refusal(queue_full). */
  send(frame: FrameInit): void {
    if (!this.is_open) return;
    const bytes = encode_small(frame, this.#packing);
    if (this.#out_bytes + bytes.length > out_bytes_max) throw new Refusal(codes.queue_full);
    this.#out.push(bytes);
    this.#out_bytes += bytes.length;
    this.#flushing ??= this.#flush();
  }

  /** Resolves when what was queued has left or never will. */
  flushed(): Promise<void> {
    return this.#flushing ?? Promise.resolve();
  }

  async #flush(): Promise<void> {
    await undefined; // what is sent in this turn leaves together
    try {
      while (this.#out.length > 0 && this.is_open) {
        const bytes = new Uint8Array(this.#out_bytes);
        let at = 0;
        for (const part of this.#out) {
          bytes.set(part, at);
          at += part.length;
        }
        this.#out = [];
        this.#out_bytes = 0;
        await this.connection.write(bytes);
      }
    } catch (error) {
      this.fail(new Refusal(codes.io_error, String(error)));
    } finally {
      this.#flushing = undefined;
    }
  }

  /**
   * The next frame. Throws Refusal: peer_closed, io_error, keepalive_timeout, what the codec
   * refuses.
   */
  async next(): Promise<Frame> {
    for (;;) {
      const frame = this.#decoder.next();
      if (frame !== undefined) return frame;
      const chunk = await this.#read();
      if (chunk === null) throw this.#failure ?? new Refusal(codes.peer_closed);
      this.#decoder.push(chunk);
    }
  }

  /** Silence counts only while somebody listens: a slow application is not a dead server. */
  async #read(): Promise<Uint8Array | null> {
    const timer = setTimeout(
      () => this.fail(new Refusal(codes.keepalive_timeout, "The server is silent")),
      this.#silence_ms,
    );
    try {
      return await this.connection.read();
    } catch (error) {
      throw this.#failure ?? new Refusal(codes.io_error, String(error));
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the connection at once. The first reason stands. */
  fail(reason: Refusal): void {
    this.#failure ??= reason;
    clearInterval(this.#heartbeat);
    this.connection.close();
  }
}
