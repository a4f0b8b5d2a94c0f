/**
 * Transport over TCP, in Deno and in Node.js: addresses are `host:port`, IPv6 hosts in brackets.
 */
import type { Socket } from "node:net";
import type { Connection } from "./transport.ts";

/**
 * Opens a TCP connection without Nagle's delay. Throws TypeError for an address of another form.
 */
export async function open_tcp(address: string, signal: AbortSignal): Promise<Connection> {
  const parts = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address);
  if (parts === null) throw new TypeError(`Cannot connect to ${address}: it is not host:port`);
  const [hostname, port] = [parts[1] ?? parts[2], Number(parts[3])];
  const connection = "Deno" in globalThis
    ? await open_in_deno(hostname, port)
    : await open_in_node(hostname, port);
  if (signal.aborted) {
    connection.close();
    signal.throwIfAborted();
  }
  return connection;
}

async function open_in_deno(hostname: string, port: number): Promise<Connection> {
  const socket = await Deno.connect({ hostname, port });
  socket.setNoDelay(true);
  return new DenoConnection(socket);
}

class DenoConnection implements Connection {
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

async function open_in_node(host: string, port: number): Promise<Connection> {
  const { connect } = await import("node:net");
  return await new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(new NodeConnection(socket));
    });
  });
}

class NodeConnection implements Connection {
  readonly #chunks: AsyncIterator<Uint8Array>;

  constructor(readonly socket: Socket) {
    this.#chunks = socket[Symbol.asyncIterator]();
    socket.on("error", () => {}); // read() and write() say so
  }

  async read(): Promise<Uint8Array | null> {
    const { value, done } = await this.#chunks.next();
    return done ? null : value;
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.socket.write(bytes, (error) => error ? reject(error) : resolve());
    });
  }

  close(): void {
    this.socket.destroy();
  }
}
