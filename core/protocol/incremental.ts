/**
 * The shape of an incremental decoder: a packet, more bytes needed, or a refusal; and a buffer for
 * clients that read a stream in pieces. The service itself gets whole frames from the reactor and
 * needs neither.
 */
import { type Code, codes, Refusal } from "../codes.ts";

export type Decoded<Packet> =
  | { readonly kind: "packet"; readonly packet: Packet; /** Bytes. */ readonly consumed: number }
  /** `needed`: the least number of further bytes that can change the answer. */
  | { readonly kind: "more"; readonly needed: number }
  | { readonly kind: "refused"; readonly code: Code; readonly detail: string };

/** The answer for something thrown: a Refusal becomes one, a bug of ours goes on. */
export function refused(error: unknown): Decoded<never> {
  if (!(error instanceof Refusal)) throw error;
  return { kind: "refused", code: error.code, detail: error.message };
}

/**
 * Collects chunks of a stream and cuts packets from them. Holds at most one partial frame and one
 * chunk.
 */
export class StreamDecoder<Packet> {
  #bytes = new Uint8Array(4096);
  #begin = 0;
  #end = 0;
  #broken: Refusal | undefined = undefined;

  constructor(
    readonly decode: (bytes: Uint8Array, begin: number, end: number) => Decoded<Packet>,
  ) {}

  /** Bytes that wait for the rest of their frame. */
  get buffered(): number {
    return this.#end - this.#begin;
  }

  /** Takes a chunk; the bytes are copied. */
  push(chunk: Uint8Array): void {
    const kept = this.#end - this.#begin;
    if (this.#end + chunk.length > this.#bytes.length) {
      let size = this.#bytes.length;
      while (size < kept + chunk.length) size *= 2;
      const room = size === this.#bytes.length ? this.#bytes : new Uint8Array(size);
      room.set(this.#bytes.subarray(this.#begin, this.#end));
      this.#bytes = room;
      this.#begin = 0;
      this.#end = kept;
    }
    this.#bytes.set(chunk, this.#end);
    this.#end += chunk.length;
  }

  /**
   * The next packet, or undefined until more bytes come. Throws Refusal; after one, the same one
   * always.
   */
  next(): Packet | undefined {
    if (this.#broken !== undefined) throw this.#broken;
    if (this.#begin === this.#end) return undefined;
    const got = this.decode(this.#bytes, this.#begin, this.#end);
    if (got.kind === "more") return undefined;
    if (got.kind === "refused") {
      this.#broken = new Refusal(got.code, got.detail);
      throw this.#broken;
    }
    this.#begin += got.consumed;
    if (this.#begin > this.#end) throw new Refusal(codes.internal, "A decoder consumed too much");
    if (this.#begin === this.#end) this.#begin = this.#end = 0;
    return got.packet;
  }

  /** Takes a chunk and yields every packet that is whole by now. Throws Refusal. */
  *feed(chunk: Uint8Array): Generator<Packet, void, undefined> {
    this.push(chunk);
    for (;;) {
      const packet = this.next();
      if (packet === undefined) return;
      yield packet;
    }
  }
}
