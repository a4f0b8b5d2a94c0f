/**
 * The services that are measured: how each is started on a free loopback port with a directory of
 * its own, and stopped again by the process ids that it was given. What is not installed is said,
 * and the run goes on without it.
 */
import { type CertificateFiles, make_certificate } from "../support/certificates.ts";
import { cache_directory, ensure_program } from "./build.ts";

const project = new URL("../../", import.meta.url);
const host = "127.0.0.1";
/** Longwire builds its library when it starts for the first time, and reads a million sessions. */
const ready_ms = 180_000;
const stop_ms = 5_000;
/** Of a peer's output, kept to say why it ended. */
const output_chars_max = 4096;

/** The peer's program is not on this machine. */
export class NotInstalled extends Error {
  override readonly name = "NotInstalled";
}

/** How to run a peer. */
export interface Launch {
  readonly command: string;
  readonly args: readonly string[];
  /** Variables in addition. */
  readonly env?: Readonly<Record<string, string>>;
  /** Where it listens for HTTP; absent = it does not. */
  readonly http_port?: number;
  /** Where V8's inspector listens; absent = it does not. */
  readonly inspect_port?: number;
}

/** One kind of peer. */
export interface PeerKind {
  readonly name: string;
  readonly about: string;
  /** Prints its version and exits; undefined = it has none. */
  readonly version?: readonly [command: string, argument: string];
  readonly launch: (port: number, directory: string, options: PeerOptions) => Promise<Launch>;
}

/** What the person who starts the benchmark may choose. */
export interface PeerOptions {
  /** Command that starts Longwire, words separated by spaces; undefined = that of `task start`. */
  readonly longwire?: string | undefined;
  /** Settings that Longwire gets in addition, words separated by spaces. */
  readonly settings?: string | undefined;
  /** Longwire's heap is to be looked at. */
  readonly is_inspected?: boolean;
}

export function free_port(): number {
  const listener = Deno.listen({ hostname: host, port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  return port;
}

/** Debian keeps servers in /usr/sbin, which the PATH of a user need not name. */
export function find_program(name: string): string {
  const directories = [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/local/sbin", "/usr/sbin"];
  for (const directory of directories) {
    try {
      if (Deno.statSync(`${directory}/${name}`).isFile) return `${directory}/${name}`;
    } catch { /* not there, or not to be looked at: the next one */ }
  }
  throw new NotInstalled(`${name} is not installed`);
}

async function launch_mosquitto(
  port: number,
  directory: string,
  persistence: boolean,
  certificate?: CertificateFiles,
): Promise<Launch> {
  const command = find_program("mosquitto");
  const lines = [
    `listener ${port} ${host}`,
    ...(certificate ? [`certfile ${certificate.cert}`, `keyfile ${certificate.key}`] : []),
    "allow_anonymous true",
    "set_tcp_nodelay true",
    // 0 = no limit: dropping is not what is measured.
    "max_inflight_messages 0",
    "max_queued_messages 0",
    "log_dest none",
    `persistence ${persistence}`,
    `persistence_location ${directory}/`,
  ];
  // Started by root it would become a user who may not write to the directory.
  if (Deno.uid() === 0) lines.push("user root");
  await Deno.writeTextFile(`${directory}/mosquitto.conf`, lines.join("\n") + "\n");
  return { command, args: ["-c", `${directory}/mosquitto.conf`] };
}

async function launch_nats(port: number, directory: string): Promise<Launch> {
  const command = find_program("nats-server");
  const config = `listen: "${host}:${free_port()}"
server_name: bench
jetstream { store_dir: "${directory}" }
mqtt { listen: "${host}:${port}", max_ack_pending: 65535 }
`;
  await Deno.writeTextFile(`${directory}/nats.conf`, config);
  return { command, args: ["-c", `${directory}/nats.conf`] };
}

/** The words of the task `start`, so that what is measured is what users run. */
async function start_task(): Promise<string> {
  const config = JSON.parse(await Deno.readTextFile(new URL("deno.json", project)));
  const task: unknown = config.tasks?.start?.command ?? config.tasks?.start;
  if (typeof task === "string" && /^deno run [^'"$&|;]+$/.test(task)) return task;
  throw new NotInstalled('deno.json has no task "start" that is one plain "deno run"');
}

function words(text: string): string[] {
  return text.trim().split(/\s+/).filter((word) => word !== "");
}

/** Starts Longwire on a data directory that may have something in it. */
export async function launch_longwire(
  port: number,
  data: string,
  options: PeerOptions,
): Promise<Launch> {
  const [command = "", ...args] = words(options.longwire ?? await start_task());
  const http_port = free_port();
  const inspect_port = options.is_inspected && args[0] === "run" ? free_port() : undefined;
  if (inspect_port !== undefined) args.splice(1, 0, `--inspect=${host}:${inspect_port}`);
  args.push("--mqtt", `${host}:${port}`, "--http", `${host}:${http_port}`, "--device", `${host}:0`);
  args.push("--data", data, "--log_level", "warn", ...words(options.settings ?? ""));
  const launch = { command: command === "deno" ? Deno.execPath() : command, args, http_port };
  return inspect_port === undefined ? launch : { ...launch, inspect_port };
}

/** Every peer, by the name that --peers takes. */
export const peer_kinds: readonly PeerKind[] = [
  {
    name: "longwire",
    about: "Longwire as it starts by default: SQLite store",
    launch: (port, directory, options) => launch_longwire(port, `${directory}/data`, options),
  },
  {
    name: "longwire-memory",
    about: "Longwire with --data memory",
    launch: (port, _directory, options) => launch_longwire(port, "memory", options),
  },
  ...(["uring", "epoll"] as const).map((backend): PeerKind => ({
    name: `longwire-${backend}`,
    about: `Longwire with --data memory --backend ${backend}`,
    launch: async (port, _directory, options) => {
      const { args, ...rest } = await launch_longwire(port, "memory", options);
      return { ...rest, args: [...args, "--backend", backend] };
    },
  })),
  {
    name: "longwire-unmeasured",
    about: "Longwire with --data memory --histograms off",
    launch: async (port, _directory, options) => {
      const { args, ...rest } = await launch_longwire(port, "memory", options);
      return { ...rest, args: [...args, "--histograms", "off"] };
    },
  },
  {
    name: "longwire-traced",
    about: "Longwire with --data memory and OpenTelemetry, one of a hundred traces sampled",
    launch: async (port, _directory, options) => {
      const env = {
        OTEL_DENO: "true",
        OTEL_DENO_CONSOLE: "ignore",
        OTEL_METRICS_EXPORTER: "none",
        OTEL_TRACES_SAMPLER: "parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG: "0.01",
        // Nobody is there: a collector would take the CPU that is measured.
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://${host}:${free_port()}`,
      };
      return { ...await launch_longwire(port, "memory", options), env };
    },
  },
  {
    name: "longwire-normal",
    about:
      "Longwire with --synchronous normal: no wait for the disk, a power cut may cost something",
    launch: async (port, directory, options) => {
      const { args, ...rest } = await launch_longwire(port, `${directory}/data`, options);
      return { ...rest, args: [...args, "--synchronous", "normal"] };
    },
  },
  {
    name: "mosquitto",
    about: "no persistence, queues unlimited, TCP_NODELAY",
    version: ["mosquitto", "-h"],
    launch: (port, directory) => launch_mosquitto(port, directory, false),
  },
  {
    name: "mosquitto-persistent",
    about: "the same with persistence true: in memory, written every 30 minutes and at its end",
    version: ["mosquitto", "-h"],
    launch: (port, directory) => launch_mosquitto(port, directory, true),
  },
  {
    name: "longwire-tls",
    about: "Longwire over TLS, --data memory, P-256 certificate",
    launch: async (port, directory, options) => {
      const { cert, key } = await make_certificate(directory, "server");
      const launch = await launch_longwire(port, "memory", options);
      const args = launch.args.with(launch.args.indexOf("--mqtt"), "--mqtts");
      const tls = ["--mqtt", `${host}:0`, "--tls_cert", cert, "--tls_key", key];
      return { ...launch, args: [...args, ...tls] };
    },
  },
  {
    name: "openssl",
    about: "openssl s_server -www with such a certificate: OpenSSL's own bound",
    version: ["openssl", "version"],
    launch: async (port, directory) => {
      const { cert, key } = await make_certificate(directory, "server");
      const place = ["-accept", `${host}:${port}`, "-cert", cert, "-key", key];
      return { command: find_program("openssl"), args: ["s_server", "-www", "-quiet", ...place] };
    },
  },
  {
    name: "mosquitto-tls",
    about: "mosquitto over TLS, the same certificate, no persistence",
    version: ["mosquitto", "-h"],
    launch: async (port, directory) => {
      const certificate = await make_certificate(directory, "server");
      return await launch_mosquitto(port, directory, false, certificate);
    },
  },
  {
    name: "nats",
    about: "nats-server, its MQTT listener on JetStream (file store, synced every 2 minutes)",
    version: ["nats-server", "--version"],
    launch: launch_nats,
  },
  {
    name: "bare",
    about: "bare.ts, a Deno.serve that reads each body and discards it: Deno's bound",
    launch: (port) => {
      const source = decodeURIComponent(new URL("bare.ts", import.meta.url).pathname);
      const args = ["run", "--quiet", "--allow-net", source, `${port}`];
      return Promise.resolve({ command: Deno.execPath(), args, http_port: port });
    },
  },
  {
    name: "raw",
    about: "raw.c, a loop that only broadcasts: the machine's bound",
    launch: async (port) => ({ command: await ensure_program("raw"), args: [`${port}`] }),
  },
];

/** First line that a peer's program prints about itself; "" when it has none. */
export async function peer_version(kind: PeerKind): Promise<string> {
  if (!kind.version) return "";
  const [name, argument] = kind.version;
  const out = await new Deno.Command(find_program(name), { args: [argument] }).output();
  const printed = new TextDecoder().decode(out.stdout) + new TextDecoder().decode(out.stderr);
  return printed.split("\n")[0]!.trim();
}

/** A running peer. */
export class Peer {
  #child: Deno.ChildProcess;
  #output = "";
  #ready_s = 0;
  #ended = false;
  #read: Promise<unknown>;

  private constructor(
    readonly port: number,
    /** What it stores lies here, and goes with it. */
    readonly directory: string,
    readonly launch: Launch,
  ) {
    this.#child = new Deno.Command(launch.command, {
      args: [...launch.args],
      cwd: project,
      env: { ...launch.env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#read = Promise.all([this.#keep(this.#child.stdout), this.#keep(this.#child.stderr)]);
    this.#child.status.then(() => this.#ended = true);
  }

  /**
   * Starts a peer and waits until it accepts connections.
   * @throws NotInstalled when there is nothing to start, Error with its last words when it ends.
   */
  static async start(kind: PeerKind, options: PeerOptions): Promise<Peer> {
    const port = free_port();
    // Beside the project, not in /tmp: that may be memory, where writing through costs nothing.
    await Deno.mkdir(cache_directory, { recursive: true });
    const directory = await Deno.makeTempDir({
      dir: decodeURIComponent(cache_directory.pathname),
      prefix: "bench_data_",
    });
    let peer: Peer | undefined;
    try {
      const launch = await kind.launch(port, directory, options);
      const started_ms = performance.now();
      peer = new Peer(port, directory, launch);
      await peer.#ready();
      peer.#ready_s = (performance.now() - started_ms) / 1000;
      return peer;
    } catch (error) {
      if (peer) await peer.stop();
      else await Deno.remove(directory, { recursive: true });
      if (error instanceof Deno.errors.NotFound) throw new NotInstalled(error.message);
      throw error;
    }
  }

  /** `server=` of the load generator. */
  get address(): string {
    return `${host}:${this.port}`;
  }

  /** The same of its HTTP; undefined = it has none. */
  get http_address(): string | undefined {
    const { http_port } = this.launch;
    return http_port === undefined ? undefined : `${host}:${http_port}`;
  }

  /** From its start until it accepted connections. */
  get ready_s(): number {
    return this.#ready_s;
  }

  /** The process that was started; it may have children. */
  get pid(): number {
    return this.#child.pid;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** The end of what it printed. */
  get last_words(): string {
    return this.#output.trim();
  }

  /** Asks it to end, insists after a while, and removes what it stored. */
  async stop(): Promise<void> {
    const signal = (name: Deno.Signal) => {
      if (!this.#ended) this.#child.kill(name);
    };
    signal("SIGTERM");
    const timer = setTimeout(() => signal("SIGKILL"), stop_ms);
    await this.#child.status;
    clearTimeout(timer);
    await this.#read;
    await Deno.remove(this.directory, { recursive: true }).catch(() => {});
  }

  async #keep(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of stream) {
      const text = decoder.decode(bytes, { stream: true });
      this.#output = (this.#output + text).slice(-output_chars_max);
    }
  }

  async #ready(): Promise<void> {
    const deadline = Date.now() + ready_ms;
    while (Date.now() < deadline) {
      if (this.#ended) throw new Error(`ended at once: ${this.last_words}`);
      try {
        (await Deno.connect({ hostname: host, port: this.port })).close();
        return;
      } catch {
        await new Promise((done) => setTimeout(done, 20));
      }
    }
    throw new Error(`did not listen within ${ready_ms / 1000} s: ${this.last_words}`);
  }
}
