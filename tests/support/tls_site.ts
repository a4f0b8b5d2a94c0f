/** What a test of TLS needs: certificates, a service with TLS listeners, and OpenSSL's client. */
import type { Address } from "../../core/address.ts";
import { type CertificateFiles, make_certificate } from "./certificates.ts";
import { Service, type ServiceOptions } from "./service.ts";
import { within } from "./wait.ts";

const any_port = "127.0.0.1:0";
const decoder = new TextDecoder();

/** A service that was started with every TLS listener. */
export type TlsService = Service & {
  readonly mqtts: Address;
  readonly device_tls: Address;
  readonly https: string;
};

/** A directory with an authority and a server's certificate for 127.0.0.1; gone after the test. */
export class TlsSite {
  private constructor(
    readonly directory: string,
    readonly ca: CertificateFiles,
    readonly server: CertificateFiles,
  ) {}

  static async make(): Promise<TlsSite> {
    const directory = await Deno.makeTempDir();
    const ca = await make_certificate(directory, "authority");
    const options = { issuer: ca, names: "DNS:localhost,DNS:first.test,IP:127.0.0.1" };
    return new TlsSite(directory, ca, await make_certificate(directory, "first", options));
  }

  get ca_pem(): string {
    return Deno.readTextFileSync(this.ca.cert);
  }

  /** Settings that name the certificate. */
  get settings(): string[] {
    return ["--tls_cert", this.server.cert, "--tls_key", this.server.key];
  }

  /** Starts the service with every TLS listener. */
  start(args: readonly string[] = [], options: ServiceOptions = {}): Promise<TlsService> {
    const certificate = args.includes("--tls_cert") ? [] : this.settings;
    const listeners = ["--mqtts", "--device_tls", "--https"].flatMap((name) => [name, any_port]);
    const all = [...listeners, ...certificate, ...args];
    return Service.start({ ...options, args: all }) as Promise<TlsService>;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.directory, { recursive: true });
  }
}

/** No device says this: the service ends the connection, after it has sent its ticket. */
const nonsense = new Uint8Array(64);

/** Runs `openssl s_client` until the service has sent it away; answers its output. */
export async function s_client(
  { host, port }: Address,
  ...args: readonly string[]
): Promise<string> {
  const child = new Deno.Command("openssl", {
    args: ["s_client", "-connect", `${host}:${port}`, ...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(nonsense);
  const { stdout, stderr } = await within(child.output(), "the end of s_client");
  await writer.close().catch(() => {}); // there is nobody to read it
  return decoder.decode(stdout) + decoder.decode(stderr);
}
