/**
 * The real service as a child process: started as `deno task start` does, on ports that are free.
 */
import type { Address } from "../../core/address.ts";
import manifest from "../../deno.json" with { type: "json" };
import { Program } from "./process.ts";

const root = new URL("../../", import.meta.url);

/** What a task of deno.json gives to Deno, without the `deno` in front. */
function task_args(task: "start" | "longwire"): string[] {
  return manifest.tasks[task].command.split(" ").slice(1);
}

/**
 * Variables of whoever runs the tests must not change what is tested; an empty one is as good as
 * none.
 */
const own_settings = Object.fromEntries(
  Object.keys(Deno.env.toObject()).filter((name) => name.startsWith("LONGWIRE_")).map((name) => {
    return [name, ""];
  }),
);

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** A command that runs it, such as one that enters another host. */
  readonly prefix?: readonly string[];
  /** A module that is executed before it. */
  readonly preload?: URL;
}

/** Runs a command of main.ts with the permissions of its task. */
export function run_main(args: readonly string[], options: RunOptions = {}): Program {
  const task = ["pub", "sub", "token", "devices", "fds"].includes(args[0]) ? "longwire" : "start";
  const [run, ...rest] = task_args(task);
  const preload = options.preload === undefined ? [] : [`--preload=${options.preload}`];
  const words = [...options.prefix ?? [], Deno.execPath(), run!, ...preload, ...rest, ...args];
  return new Program(words[0]!, words.slice(1), {
    cwd: root,
    env: { ...own_settings, NO_COLOR: "1", ...options.env },
  });
}

/** Starts the service for nothing; answers what it said on stderr before it ended with 1. */
export async function failing_start(
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const program = run_main(["serve", ...args], options);
  const code = await program.status().catch(() => program.end("SIGKILL"));
  const said = program.stderr.seen.join("\n");
  if (code === 1 && program.stdout.seen.length === 0) return said;
  throw new Error(`status ${code}: ${program.stdout.seen.join("\n")}\n${said}`);
}

const any_port = "127.0.0.1:0";

export interface ServiceOptions extends RunOptions {
  /** A directory; "" = memory. */
  readonly data?: string;
  /** Where devices find it; absent = on any free port. */
  readonly device?: string;
  /** The same for HTTP and MQTT. */
  readonly http?: string;
  readonly mqtt?: string;
  readonly args?: readonly string[];
}

export class Service {
  private constructor(
    readonly program: Program,
    /** `http://127.0.0.1:41234` */
    readonly http: string,
    readonly mqtt: Address,
    readonly device: Address,
    /** Only with settings that open them. */
    readonly mqtts: Address | undefined,
    readonly device_tls: Address | undefined,
    /** `https://127.0.0.1:41234` */
    readonly https: string | undefined,
  ) {}

  /** Starts one and waits until it has said where it listens. */
  static async start(
    {
      data = "",
      device: place = any_port,
      http: web = any_port,
      mqtt: broker = any_port,
      args = [],
      ...options
    }: ServiceOptions = {},
  ): Promise<Service> {
    const listeners = ["--http", web, "--mqtt", broker, "--device", place];
    const store = ["--data", data === "" ? "memory" : data];
    const program = run_main(["serve", ...listeners, ...store, ...args], options);
    const places: Record<string, string> = {};
    for (;;) {
      const line = await program.stdout.next();
      if (line === undefined) {
        const code = await program.status();
        throw new Error(`the service ended with ${code}: ${program.stderr.seen.join("\n")}`);
      }
      const found = /^ {2}(https?|mqtts?|device(?:_tls)?)\s+(\S+)$/.exec(line);
      if (found !== null) places[found[1]] = found[2];
      else if (line.startsWith("Try")) break;
    }
    const { http, https, mqtt, device, mqtts, device_tls } = places;
    const maybe = (place?: string) => place === undefined ? undefined : address_of(place);
    const tls = [maybe(mqtts), maybe(device_tls), https] as const;
    return new Service(program, http, address_of(mqtt), address_of(device), ...tls);
  }

  get log(): readonly string[] {
    return this.program.stderr.seen;
  }

  /** Stops it as an operator would; answers the exit status. */
  stop(): Promise<number> {
    return this.program.end("SIGTERM");
  }

  /** Stops it as a power cut would. */
  kill(): Promise<number> {
    return this.program.end("SIGKILL");
  }

  /** Stops it when the test ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /**
   * One value of /metrics: `longwire_connections`, `longwire_x_total{code="malformed"}`; 0 = not
   * there.
   */
  async metric(series: string): Promise<number> {
    const response = await fetch(`${this.http}/metrics`);
    const line = (await response.text()).split("\n").find((line) => line.startsWith(`${series} `));
    return line === undefined ? 0 : Number(line.slice(series.length + 1));
  }

  /** Publishes over HTTP; answers the status and the JSON body. */
  async publish(
    topic: string,
    payload: string | Uint8Array<ArrayBuffer>,
    query = "",
  ): Promise<{ status: number; body: Record<string, unknown> }> {
    const url = `${this.http}/v1/topics/${topic}${query === "" ? "" : `?${query}`}`;
    const response = await fetch(url, { method: "POST", body: payload });
    return { status: response.status, body: await response.json() };
  }
}

function address_of(text: string): Address {
  const colon = text.lastIndexOf(":");
  return { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) };
}

/** Keeps asking until the answer fits: for what the service shows and does not announce. */
export async function eventually(
  what: string,
  check: () => Promise<boolean>,
  timeout_ms = 10_000,
): Promise<void> {
  const ends_ms = performance.now() + timeout_ms;
  while (!await check()) {
    if (performance.now() > ends_ms) throw new Error(`not within ${timeout_ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
