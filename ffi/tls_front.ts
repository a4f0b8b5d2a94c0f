/**
 * TLS in front of a plain listener of this process: decrypts, and hands each connection on over
 * loopback. Deno.serve cannot change its certificate, and its shutdown ends WebSockets; here new
 * handshakes take the newest certificate and connections that are there never notice. Invariant:
 * as long as a connection is handed on, remote_of() knows whose it is.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import net from "node:net";
import tls from "node:tls";
import type { Certificate } from "./tls.ts";

/** Whose a connection is. */
interface Remote {
  readonly host: string;
  readonly port: number;
}

export interface TlsFrontOptions {
  /** Connections at the same time: more are closed. */
  readonly connections_max: number;
  /** A handshake must be over within this time. */
  readonly handshake_timeout_ms: number;
  /** A connection was closed because there were too many. */
  readonly on_refused: () => void;
}

const loopback = "127.0.0.1";

/** What is told to whoever speaks the only protocol that is spoken here (RFC 7301). */
const protocols = ["http/1.1"];

/** One certificate, and the names it is for. */
interface Named {
  readonly context: tls.SecureContext;
  readonly names: readonly string[];
}

/** Whether a name is what a certificate's `pattern` means (RFC 6125 section 6.4.3). */
function fits(pattern: string, name: string): boolean {
  if (!pattern.startsWith("*.")) return pattern === name;
  const dot = name.indexOf(".");
  return dot > 0 && name.slice(dot) === pattern.slice(1);
}

function named({ chain_pem, key_pem }: Certificate): Named {
  const [cert, key] = [chain_pem, key_pem].map((pem) => new TextDecoder().decode(pem));
  const leaf = new X509Certificate(cert);
  if (!leaf.checkPrivateKey(createPrivateKey(key))) {
    throw new Error("a key is not that of its certificate");
  }
  const { subjectAltName = "" } = leaf;
  const names = [...subjectAltName.matchAll(/\bDNS:([^\s,"]+)/g)].map(([, name]) => name);
  const context = tls.createSecureContext({ cert, key });
  return { context, names: names.map((name) => name.toLowerCase()) };
}

export class TlsFront {
  #certificates: readonly Named[] = [];
  #connection_count = 0;
  /** By the port from which it is handed on. */
  readonly #remotes = new Map<number, Remote>();
  #server: tls.Server | undefined;

  constructor(readonly options: TlsFrontOptions) {}

  /**
   * Sets the certificates of handshakes from now on; the first answers whoever asks for no name or
   * for another.
   * @throws Error when one cannot be used
   */
  configure(certificates: readonly Certificate[]): void {
    const all = certificates.map(named);
    const [first] = certificates.map(({ chain_pem, key_pem }) => ({
      cert: new TextDecoder().decode(chain_pem),
      key: new TextDecoder().decode(key_pem),
    }));
    this.#server?.setSecureContext(first);
    this.#certificates = all;
  }

  /** Listens, after configure(); answers the port. Each connection goes on to `target`. */
  listen(host: string, port: number, target: number): Promise<number> {
    const server = tls.createServer({
      ALPNProtocols: protocols,
      handshakeTimeout: this.options.handshake_timeout_ms,
      SNICallback: (name, answer) => answer(null, this.#context_of(name.toLowerCase())),
    }, (socket) => this.#accepted(socket, target));
    server.on("tlsClientError", () => {}); // its handshake failed, which is its own affair
    this.#server = server;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    server.once("error", reject);
    server.listen(port, host, () => resolve((server.address() as net.AddressInfo).port));
    return promise;
  }

  /** Whose connection it is that comes from this port of loopback; undefined = not handed on. */
  remote_of(port: number): Remote | undefined {
    return this.#remotes.get(port);
  }

  /** Accepts no more; connections end when the target ends them. */
  close(): void {
    this.#server?.close();
  }

  #context_of(name: string): tls.SecureContext {
    const is_of = ({ names }: Named) => names.some((pattern) => fits(pattern, name));
    return (this.#certificates.find(is_of) ?? this.#certificates[0]).context;
  }

  #accepted(socket: tls.TLSSocket, target: number): void {
    socket.on("error", () => {}); // "close" follows
    if (this.#connection_count >= this.options.connections_max) {
      this.options.on_refused();
      socket.destroy();
      return;
    }
    this.#connection_count++;
    const remote = { host: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 };
    const inner = net.connect({ host: loopback, port: target, noDelay: true });
    let local_port = 0;
    inner.on("error", () => {}); // "close" follows
    inner.on("connect", () => {
      local_port = inner.localPort ?? 0;
      this.#remotes.set(local_port, remote);
      socket.pipe(inner);
      inner.pipe(socket);
    });
    socket.on("close", () => {
      this.#connection_count--;
      inner.destroy();
    });
    inner.on("close", () => {
      this.#remotes.delete(local_port);
      socket.destroySoon();
    });
  }
}
