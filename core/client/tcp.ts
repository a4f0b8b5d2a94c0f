/** Transport over TCP: addresses are `host:port`, IPv6 hosts in brackets. */
import type { Connection } from "./transport.ts";

/**
 * Opens a TCP connection without Nagle's delay. Throws TypeError for an address of another form.
 */
export async function open_tcp(address: string, signal: AbortSignal): Promise<Connection> {
  const parts = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address);
  if (parts === null) throw new TypeError(`Cannot connect to ${address}: it is not host:port`);
  const socket = await Deno.connect({ hostname: parts[1] ?? parts[2], port: Number(parts[3]) });
  const connection = new TcpConnection(socket);
  if (signal.aborted) {
    connection.close();
    signal.throwIfAborted();
  }
  socket.setNoDelay(true);
  return connection;
}

class TcpConnection implements Connection {
  readonly #room = new Uint8Array(64 << 10);
  #closed = false;

  constructor(readonly socket: Deno.TcpConn) {}

  async read(): Promise<Uint8Array | null> {
    const size = await this.socket.read(this.#room);
    return size === null ? null : this.#room.subarray(0, size);
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.socket.write(bytes.subarray(at));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.socket.close();
  }
}
