/**
 * Certificate files -> those who use them, at start and again whenever a file changes.
 * Invariant: what cannot be used changes nothing; connections that are there never notice.
 */
import { TlsError } from "./reactor.ts";
import type { TlsOptions } from "./tls.ts";

export interface CertificateFiles {
  /** PEM of a chain each, leaf first; the first answers whoever asks for no name or another. */
  readonly tls_cert: readonly string[];
  readonly tls_key: readonly string[];
  /** "" = nobody signs devices' certificates. */
  readonly tls_client_ca: string;
  readonly tls_client_auth: TlsOptions["client_auth"];
}

/** What becomes of a change; `problem` "" = it is in use. */
export type OnReload = (problem: string) => void;

/** Takes certificates for handshakes from now on; throws when they cannot be used. */
export type UseCertificates = (options: TlsOptions) => void;

const poll_ms = 2000;

function reason_of(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replace(/\.$/, "");
}

export class Certificates {
  /** The state of the files that was looked at last, good or bad. */
  #seen = "";
  #timer: ReturnType<typeof setInterval> | undefined;
  #is_looking = false;

  constructor(readonly users: readonly UseCertificates[], readonly files: CertificateFiles) {}

  /** @throws TlsError with a whole sentence */
  async load(): Promise<void> {
    this.#seen = await this.#state();
    const { tls_cert, tls_key, tls_client_ca, tls_client_auth } = this.files;
    const read = async (path: string) => {
      try {
        return await Deno.readFile(path);
      } catch (error) {
        throw new TlsError(`Cannot use TLS: ${reason_of(error)}`);
      }
    };
    const certificates = await Promise.all(tls_cert.map(async (path, index) => ({
      chain_pem: await read(path),
      key_pem: await read(tls_key[index]),
    })));
    const client_ca_pem = tls_client_ca === "" ? new Uint8Array() : await read(tls_client_ca);
    const options = { certificates, client_ca_pem, client_auth: tls_client_auth };
    try {
      for (const use of this.users) use(options);
    } catch (error) {
      throw new TlsError(`Cannot use TLS: ${reason_of(error)} (${this.#paths().join(", ")})`);
    }
  }

  /** Looks at the files from now on. */
  watch(on_reload: OnReload): void {
    this.#timer = setInterval(() => void this.#look(on_reload), poll_ms);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #paths(): string[] {
    const { tls_cert, tls_key, tls_client_ca } = this.files;
    return [...tls_cert, ...tls_key, tls_client_ca].filter((path) => path !== "");
  }

  /** Changes when a file does, or when a link leads to another: so do mounted secrets rotate. */
  async #state(): Promise<string> {
    const states = await Promise.all(
      this.#paths().map(async (path) => {
        try {
          const { mtime, size, ino } = await Deno.stat(path);
          return `${mtime?.getTime()} ${size} ${ino}`;
        } catch {
          return "gone";
        }
      }),
    );
    return states.join();
  }

  async #look(on_reload: OnReload): Promise<void> {
    if (this.#is_looking) return;
    this.#is_looking = true;
    try {
      if (await this.#state() === this.#seen) return;
      await this.load();
      on_reload("");
    } catch (error) {
      // A chain without its new key yet: said once, and looked at again when the key changes too.
      on_reload(reason_of(error));
    } finally {
      this.#is_looking = false;
    }
  }
}
