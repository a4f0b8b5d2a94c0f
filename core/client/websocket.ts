/**
 * Transport over WebSocket, for browsers: addresses are `ws://` or `wss://` URLs of the service's
 * /v1/longwire. Frames may be cut anywhere: what comes is one stream.
 */
import { deferred } from "./deferred.ts";
import type { Connection } from "./transport.ts";

/** What was received and not read: a WebSocket cannot be told to wait, so past it it ends. */
const received_bytes_max = 16 << 20;
/** What was written and has not left: past it the writer waits. */
const unsent_bytes_max = 1 << 20;
/** How often it is looked whether that has left. */
const poll_ms = 10;

/** Opens a WebSocket with the subprotocol `longwire`. */
export async function open_websocket(address: string, signal: AbortSignal): Promise<Connection> {
  const socket = new WebSocket(address, "longwire");
  const connection = new SocketConnection(socket);
  const give_up = () => connection.close();
  signal.addEventListener("abort", give_up);
  try {
    await connection.opened;
  } finally {
    signal.removeEventListener("abort", give_up);
  }
  return connection;
}

class SocketConnection implements Connection {
  readonly opened: Promise<void>;
  readonly #received: Uint8Array[] = [];
  #received_bytes = 0;
  #reader: (() => void) | undefined = undefined;
  #problem: Error | undefined = undefined;
  #ended = false;

  constructor(readonly socket: WebSocket) {
    const { promise, resolve, reject } = deferred<void>();
    this.opened = promise;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => resolve();
    socket.onmessage = ({ data }) => this.#take(data);
    socket.onerror = () => {}; // onclose follows and says more
    socket.onclose = ({ code }) => {
      reject(new Error(`the WebSocket was closed with ${code}`));
      if (code !== 1000 && code !== 1005) {
        this.#problem ??= new Error(`the WebSocket was closed with ${code}`);
      }
      this.#end();
    };
  }

  #take(data: unknown): void {
    if (!(data instanceof ArrayBuffer)) {
      this.#problem = new Error("the WebSocket brought text");
      return this.close();
    }
    this.#received.push(new Uint8Array(data));
    this.#received_bytes += data.byteLength;
    if (this.#received_bytes > received_bytes_max) {
      this.#problem = new Error("the WebSocket brings more than is read");
      return this.close();
    }
    this.#reader?.();
  }

  #end(): void {
    this.#ended = true;
    this.#reader?.();
  }

  async read(): Promise<Uint8Array | null> {
    while (this.#received.length === 0 && !this.#ended) {
      const { promise, resolve } = deferred<void>();
      this.#reader = resolve;
      await promise;
      this.#reader = undefined;
    }
    const chunk = this.#received.shift();
    if (chunk !== undefined) {
      this.#received_bytes -= chunk.length;
      return chunk;
    }
    if (this.#problem !== undefined) throw this.#problem;
    return null;
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#ended) throw this.#problem ?? new Error("the WebSocket is closed");
    this.socket.send(bytes as Uint8Array<ArrayBuffer>);
    while (this.socket.bufferedAmount > unsent_bytes_max && !this.#ended) {
      await new Promise((resolve) => setTimeout(resolve, poll_ms));
    }
  }

  close(): void {
    this.#end();
    this.socket.close();
  }
}
