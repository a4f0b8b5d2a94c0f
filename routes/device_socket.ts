/**
 * GET /mqtt and /v1/longwire: the device protocols over WebSocket (MQTT 5 section 6). The socket is
 * a stream of bytes to and from a connection of the reactor, which does all the rest. Bounded both
 * ways: what the device does not read stays in the reactor, what the reactor does not read ends the
 * connection.
 */
import { codes } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import type { Call, Context, DeviceProtocol, RawConnection } from "./context.ts";
import { refuse } from "./problem.ts";

/** Close codes of WebSocket (RFC 6455 section 7.4.1, and its IANA registry). */
const Close = { normal: 1000, unsupported_data: 1003, failed: 1011, try_again: 1013 } as const;

/** What is read from the reactor at once: little for an idle device, more for a busy one. */
const read_bytes = 4 << 10;
const read_bytes_more = 64 << 10;
/** How often it is looked whether a slow device has read. */
const poll_ms = 10;

/** One socket and its connection. */
class Bridge {
  /** What came from the device and was not written yet. */
  readonly #waiting: Uint8Array[] = [];
  #waiting_bytes = 0;
  #connection: RawConnection | null = null;
  #writing = false;
  /** The device will send no more: what waits is written, then the connection ends. */
  #ended = false;

  constructor(readonly socket: WebSocket, readonly on_end: () => void) {
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = () => this.#closed();
    socket.onerror = () => {}; // onclose follows
  }

  async run(open: () => Promise<RawConnection>): Promise<void> {
    try {
      this.#connection = await open();
      void this.#write();
      await this.#read(this.#connection);
      await this.#close(Close.normal);
    } catch {
      await this.#close(Close.failed);
    }
  }

  #received(data: unknown): void {
    if (this.#ended) return;
    if (!(data instanceof ArrayBuffer)) { // [MQTT-6.0.0-1]
      void this.#close(Close.unsupported_data);
      return;
    }
    this.#waiting.push(new Uint8Array(data));
    this.#waiting_bytes += data.byteLength;
    // A WebSocket cannot be told to wait: who sends much faster than it is read has to come back.
    if (this.#waiting_bytes <= limits.websocket_waiting_bytes) void this.#write();
    else void this.#close(Close.try_again);
  }

  /** Packets may be cut anywhere: what comes is one stream [MQTT-6.0.0-2]. */
  async #write(): Promise<void> {
    const connection = this.#connection;
    if (this.#writing || connection === null) return;
    this.#writing = true;
    try {
      for (let chunk = this.#waiting.shift(); chunk !== undefined; chunk = this.#waiting.shift()) {
        for (let at = 0; at < chunk.length;) at += await connection.write(chunk.subarray(at));
        this.#waiting_bytes -= chunk.length;
      }
      if (this.#ended) connection.close();
    } catch {
      // The reactor has closed it: #read() says so.
    }
    this.#writing = false;
  }

  async #read(connection: RawConnection): Promise<void> {
    const few = new Uint8Array(read_bytes);
    let more: Uint8Array | null = null;
    for (;;) {
      const room: Uint8Array = more ?? few;
      const size = await connection.read(room);
      if (size === null) return;
      if (this.socket.readyState === WebSocket.OPEN) this.socket.send(room.slice(0, size));
      while (this.socket.bufferedAmount > limits.websocket_unread_bytes) await turn();
      if (size < room.length) more = null;
      else more ??= new Uint8Array(read_bytes_more);
    }
  }

  /** The connection is over, or must be. */
  async #close(code: number): Promise<void> {
    const ends_ms = performance.now() + limits.linger_ms;
    while (this.socket.bufferedAmount > 0 && performance.now() < ends_ms) await turn();
    if (this.socket.readyState === WebSocket.OPEN) this.socket.close(code);
    this.#closed();
  }

  #closed(): void {
    if (this.#ended) return;
    this.#ended = true;
    void this.#write(); // a DISCONNECT may still wait
    this.on_end();
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, poll_ms));
}

let open_sockets = 0;

function offers(request: Request, protocol: DeviceProtocol): boolean {
  const offered = request.headers.get("sec-websocket-protocol") ?? "";
  return offered.split(",").some((name) => name.trim() === protocol);
}

/**
 * Upgrades requests; the subprotocol must be that of the path: for MQTT [MQTT-6.0.0-3] and
 * [MQTT-6.0.0-4] say so.
 */
export function device_socket(
  protocol: DeviceProtocol,
): (call: Call, context: Context) => Response {
  return ({ request, remote }, context) => {
    if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
      return refuse(codes.upgrade_required, undefined, 0, { upgrade: "websocket" });
    }
    if (!offers(request, protocol)) {
      return refuse(codes.query_invalid, `Sec-WebSocket-Protocol must offer ${protocol}`);
    }
    if (context.is_stopping()) return refuse(codes.shutting_down);
    if (open_sockets >= limits.websockets_max) return refuse(codes.connection_limit);
    const { socket, response } = Deno.upgradeWebSocket(request, { protocol });
    open_sockets++;
    const bridge = new Bridge(socket, () => open_sockets--);
    void bridge.run(() => context.open_bridge[protocol](remote));
    return response;
  };
}
