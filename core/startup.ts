/**
 * What a start needs beside the parts themselves, pure: sizes that the machine decides, the
 * sentences of a start that fails, and what is printed when it succeeds.
 */
import { type Address, format_address } from "./address.ts";
import type { Config } from "./config.ts";

/** Why the service cannot start, as one sentence for the person who started it. */
export class StartError extends Error {
  override readonly name = "StartError";
}

/** One core is left to JavaScript and the store. */
export function thread_count_of(setting: Config["io_threads"], cores: number): number {
  return setting === "auto" ? Math.max(1, cores - 1) : setting;
}

function threads_text(count: number): string {
  return count === 1 ? "1 I/O thread" : `${count} I/O threads`;
}

/** @throws StartError when the machine cannot hold what is asked for. */
export function check_connections(setting: Config["max_connections"], possible: number): void {
  if (setting === "auto" || setting <= possible) return;
  throw new StartError(
    `Cannot hold max_connections ${setting}: the open files that this process may have ` +
      `(ulimit -n) allow ${possible}`,
  );
}

/**
 * The backends to try, best first.
 * @param os as in Deno.build.os
 */
export function backends_of(
  { backend, kernel_tls }: Pick<Config, "backend" | "kernel_tls">,
  os: string,
): readonly ("epoll" | "uring" | "kqueue")[] {
  if (backend !== "auto") return [backend];
  if (kernel_tls === "on" && os === "linux") return ["epoll"];
  return os === "linux" ? ["uring", "epoll"] : ["kqueue"];
}

/** POSIX errors of bind() and listen(), Linux's numbers and macOS's. */
const errno_reasons: Readonly<Record<number, string>> = {
  1: "not permitted",
  12: "no memory",
  13: "permission denied",
  24: "this process has too many open files",
  38: "this kernel does not have it",
  48: "address in use",
  49: "this machine does not have that address",
  97: "this machine does not speak that kind of address",
  98: "address in use",
  99: "this machine does not have that address",
};

/** What Deno.serve throws. */
const name_reasons: Readonly<Record<string, string>> = {
  AddrInUse: "address in use",
  AddrNotAvailable: "this machine does not have that address",
  PermissionDenied: "permission denied",
};

/** Why a listener could not be had; undefined = the error does not say, so it is a bug of ours. */
function bind_reason(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (!("errno" in error)) return name_reasons[error.name];
  return errno_reasons[Math.abs(Number(error.errno))] ?? error.message; // node: counts down
}

function bind_problem(name: string, address: Address, error: unknown): unknown {
  const reason = bind_reason(error);
  if (reason === undefined) return error;
  return new StartError(`Cannot bind ${name} ${format_address(address)}: ${reason}`);
}

/** Runs what binds a listener; its failure becomes a sentence. */
export function bind<T>(name: string, address: Address, listen: (address: Address) => T): T {
  try {
    return listen(address);
  } catch (error) {
    throw bind_problem(name, address, error);
  }
}

/** The same for what takes its time. */
export async function bind_later<T>(
  name: string,
  address: Address,
  listen: (address: Address) => Promise<T>,
): Promise<T> {
  try {
    return await listen(address);
  } catch (error) {
    throw bind_problem(name, address, error);
  }
}

/** Runs what starts the I/O threads; what the system refuses becomes a sentence. */
export function start<T>(backend: string, open: () => T): T {
  try {
    return open();
  } catch (error) {
    if (!(error instanceof Error && "errno" in error)) throw error;
    const reason = errno_reasons[Number(error.errno)] ?? error.message;
    throw new StartError(`Cannot start the reactor with backend ${backend}: ${reason}`);
  }
}

/** What opening the store threw, as a sentence. */
export function store_problem(directory: string, error: unknown): StartError {
  const why = error instanceof Error ? error.message : String(error);
  const reason = why.replace(/\s+/g, " ").replace(/\.$/, "");
  return new StartError(
    reason.startsWith("Cannot ") ? reason : `Cannot open the store in ${directory}: ${reason}`,
  );
}

/** Where the service listens, ports as the kernel gave them; undefined = closed. */
export interface Listening {
  readonly http: Address | undefined;
  readonly mqtt: Address | undefined;
  readonly device: Address | undefined;
  readonly https?: Address | undefined;
  readonly mqtts?: Address | undefined;
  readonly device_tls?: Address | undefined;
}

/** Where other nodes send devices: what the operator says, or where this node listens. */
export function places_of(
  { advertise }: Pick<Config, "advertise">,
  { mqtt, device }: Pick<Listening, "mqtt" | "device">,
): { readonly mqtt: string; readonly device: string } {
  const text = (address: Address | undefined) =>
    address === undefined ? "" : format_address(address);
  return { mqtt: advertise || text(mqtt), device: text(device) };
}

/** Of an HTTP server, in this project's words. */
export function address_of(
  server: { addr: { hostname: string; port: number } } | undefined,
): Address | undefined {
  return server === undefined ? undefined : { host: server.addr.hostname, port: server.addr.port };
}

/**
 * What the start says of kernel_tls.
 * @param problem why the kernel does not encrypt; undefined = it does
 */
export function kernel_tls_text(
  { kernel_tls, mqtts, device_tls }: Pick<Config, "kernel_tls" | "mqtts" | "device_tls">,
  problem: string | undefined,
): string | undefined {
  if (kernel_tls === "off" || (mqtts === undefined && device_tls === undefined)) return undefined;
  if (problem === undefined) return "kernel_tls: the kernel encrypts what is sent";
  return `kernel_tls: not by the kernel: ${problem}`;
}

/** How this service was started, for people. */
export interface Started {
  readonly version: string;
  readonly duration_ms: number;
  readonly backend: string;
  /** Why it is not the best one that there is, in words; undefined = it is. */
  readonly backend_reason?: string | undefined;
  /** What has become of kernel_tls; undefined = it is off, or no listener speaks TLS. */
  readonly kernel_tls?: string | undefined;
  readonly thread_count: number;
  /** What compresses: "zstd-napi", or what stands in for it. */
  readonly zstd: string;
  readonly connections_max: number;
  readonly data: string;
  readonly listening: Listening;
  /** What runs Deno here: "deno" or "npx -y deno@2.9.2". */
  readonly deno: string;
}

/** Where the npm package put Deno, `deno` is no command of the shell. */
export function deno_command(executable: string, version: string): string {
  return executable.includes("node_modules") ? `npx -y deno@${version}` : "deno";
}

/** What is printed when the service is there; each command can be pasted as it is. */
export function started_text(started: Started): string {
  const { http, https, mqtt, device, mqtts, device_tls } = started.listening;
  const threads = threads_text(started.thread_count);
  const lines = [
    `Longwire ${started.version} is ready after ${Math.round(started.duration_ms)} ms: ` +
    `${started.backend}, ${threads}, ${started.zstd}, ` +
    `at most ${started.connections_max} connections, ` +
    (started.data === "memory" ? "nothing is kept" : `data in ${started.data}`),
  ];
  if (started.backend_reason !== undefined) lines.push(`(${started.backend_reason})`);
  if (started.kernel_tls !== undefined) lines.push(`(${started.kernel_tls})`);
  lines.push("");
  if (http !== undefined) lines.push(`  http    http://${format_address(http)}`);
  if (https !== undefined) lines.push(`  https   https://${format_address(https)}`);
  if (mqtt !== undefined) lines.push(`  mqtt    ${format_address(mqtt)}`);
  if (device !== undefined) lines.push(`  device  ${format_address(device)}`);
  if (mqtts !== undefined) lines.push(`  mqtts   ${format_address(mqtts)}`);
  if (device_tls !== undefined) lines.push(`  device_tls  ${format_address(device_tls)}`);
  lines.push("", "Try, each in a terminal of its own:", "");
  if (mqtt !== undefined) {
    lines.push(`  mosquitto_sub -h ${mqtt.host} -p ${mqtt.port} -t 'demo/#' -v`);
  }
  if (device !== undefined) {
    lines.push(`  ${started.deno} task longwire sub 'demo/#' --url ${format_address(device)}`);
  }
  if (http !== undefined) {
    lines.push(`  curl -d 'hello' 'http://${format_address(http)}/v1/topics/demo/greeting'`);
  }
  lines.push("");
  return lines.join("\n");
}
