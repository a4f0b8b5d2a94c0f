/** A scripted Longwire service on a real socket: one function for each connection, in order. */
import {
  Decoder,
  encode,
  type Frame,
  type FrameInit,
  type FrameType,
} from "../../core/protocol/longwire.ts";

export const welcome = Object.freeze({
  type: "welcome",
  node: "n1",
  epoch: "e1",
  keepalive_s: 10,
  boot_id: "b1",
  resume_secret: "s1",
  session_id: "d1",
});

/** Thrown by `read` when the client has gone. */
export class Gone extends Error {}

/** The service's end of one connection. */
export class Peer {
  readonly #decoder = new Decoder();
  #closed = false;
  /** Frames sent by the client so far. */
  readonly frames: Frame[] = [];
  /** Bytes after which the connection is cut, in either direction; Infinity = never. */
  bytes_left = Infinity;

  constructor(readonly socket: Deno.TcpConn) {}

  /** The next frame but heartbeats. Throws Gone. */
  async read(): Promise<Frame> {
    const room = new Uint8Array(4096);
    for (;;) {
      const frame = this.#decoder.next();
      if (frame !== undefined) {
        this.frames.push(frame);
        if (frame.type !== "heartbeat") return frame;
        continue;
      }
      const size = await this.#guard(this.socket.read(room));
      if (size === null) throw new Gone();
      this.#spend(size);
      this.#decoder.push(room.subarray(0, size));
    }
  }

  /** The next frame, which must be of this type; others' acknowledgements come when they come. */
  async expect<Type extends FrameType>(type: Type): Promise<Extract<Frame, { type: Type }>> {
    let frame = await this.read();
    while (frame.type === "ack" && type !== "ack") frame = await this.read();
    if (frame.type !== type) throw new Error(`${frame.type} came instead of ${type}`);
    return frame as Extract<Frame, { type: Type }>;
  }

  /** Sends frames in one piece, or up to where the connection is to be cut. */
  async send(...frames: readonly FrameInit[]): Promise<void> {
    for (const frame of frames) {
      const bytes = encode(frame);
      if (this.bytes_left <= 0) throw new Gone();
      const allowed = bytes.subarray(0, Math.min(bytes.length, this.bytes_left));
      // At once: what another writer sends meanwhile must not follow a frame that is cut.
      this.bytes_left -= allowed.length;
      for (let at = 0; at < allowed.length;) {
        at += await this.#guard(this.socket.write(allowed.subarray(at)));
      }
      this.#spend(0);
    }
  }

  /** Hello and the answer to it. */
  async greet(answer: Partial<Extract<FrameInit, { type: "welcome" }>> = {}): Promise<Frame> {
    const hello = await this.expect("hello");
    await this.send({ ...welcome, ...answer });
    return hello;
  }

  /** Reads until the client goes. */
  async drain(): Promise<void> {
    try {
      for (;;) await this.read();
    } catch (error) {
      if (!(error instanceof Gone)) throw error;
    }
  }

  /** Cuts the connection; may be called twice. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.socket.close();
  }

  #spend(bytes: number): void {
    this.bytes_left -= bytes;
    if (this.bytes_left > 0) return;
    this.close();
    throw new Gone();
  }

  async #guard<T>(action: Promise<T>): Promise<T> {
    try {
      return await action;
    } catch {
      throw new Gone();
    }
  }
}

/** Listens, and hands each connection to the next script; the last one serves all that follow. */
export class PeerServer {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #running = new Set<Promise<void>>();
  readonly #accepting: Promise<void>;
  readonly #failed = Promise.withResolvers<never>();
  connections = 0;

  constructor(readonly scripts: readonly ((peer: Peer, index: number) => Promise<void>)[]) {
    this.#failed.promise.catch(() => {}); // whoever wants to know asks
    this.#accepting = this.#accept();
  }

  get address(): string {
    return `127.0.0.1:${(this.#listener.addr as Deno.NetAddr).port}`;
  }

  async #accept(): Promise<void> {
    for await (const socket of this.#listener) {
      const index = this.connections++;
      const script = this.scripts[Math.min(index, this.scripts.length - 1)];
      const run = this.#run(script, new Peer(socket), index);
      this.#running.add(run);
      run.finally(() => this.#running.delete(run));
    }
  }

  async #run(script: PeerServer["scripts"][number], peer: Peer, index: number): Promise<void> {
    try {
      await script(peer, index);
    } catch (error) {
      if (!(error instanceof Gone)) this.#failed.reject(error);
    }
    peer.close();
  }

  /** Rejects with what a script throws, but Gone. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /** Ends when every script has; throws what one has thrown. */
  async close(): Promise<void> {
    this.#listener.close();
    await this.#accepting;
    await Promise.all(this.#running);
    await Promise.race([this.#failed.promise, undefined]);
  }
}
