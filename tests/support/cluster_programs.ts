/**
 * The programs that a cluster stands on, as child processes with directories of their own: servers
 * of NATS, members of etcd. Ports are asked of the kernel, and set free for the program to take.
 */
import type { Host } from "./hosts.ts";
import { Program } from "./process.ts";
import { eventually } from "./service.ts";

const loopback = "127.0.0.1";

/** Ports that nobody listens on now. */
export function free_ports(count: number, hostname = loopback): number[] {
  const listeners = Array.from({ length: count }, () => Deno.listen({ hostname, port: 0 }));
  return listeners.map((listener) => {
    const { port } = listener.addr;
    listener.close();
    return port;
  });
}

/** `nats-server` is in a directory of the administrator on Debian. */
export function program_env(): Record<string, string> {
  return { PATH: `${Deno.env.get("PATH") ?? ""}:/usr/sbin` };
}

/** One of several programs that belong together. */
export interface Member {
  /** `127.0.0.1:4222` */
  readonly address: string;
  program: Program;
  /** Starts it again after it has ended, with what it had on disk. */
  restart(): void;
  /** Whether it answers, and has what the others have. */
  is_ready(): Promise<boolean>;
}

/** Servers, and the directory they share. */
export class Servers {
  constructor(readonly members: readonly Member[], readonly directory: string) {}

  /** Addresses, comma-separated, as the settings take them. */
  get addresses(): string {
    return this.members.map(({ address }) => address).join(",");
  }

  /** Waits until all answer, and have what the others have. */
  async ready(timeout_ms = 20_000): Promise<void> {
    for (const one of this.members) {
      await eventually(`${one.address} is ready`, () => one.is_ready(), timeout_ms);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.members.map(({ program }) => program.end("SIGKILL")));
    await Deno.remove(this.directory, { recursive: true });
  }
}

/** @param health where it says with 200 and `word` that all is well */
function member(address: string, start: () => Program, health: string, word: string): Member {
  const is_ready = async () => {
    try {
      const response = await fetch(health);
      return (await response.text()).includes(word) && response.ok;
    } catch {
      return false;
    }
  };
  const restart = () => void (one.program = start());
  const one: Member = { address, program: start(), restart, is_ready };
  return one;
}

/** Servers of NATS with JetStream; several are a cluster. */
export async function start_nats(count: 1 | 3 = 1, host = loopback): Promise<Servers> {
  const directory = await Deno.makeTempDir({ prefix: "longwire-nats-" });
  const ports = free_ports(count * 3, host);
  const routes = Array.from({ length: count }, (_, n) => `nats://${host}:${ports[n * 3 + 1]}`);
  const members = Array.from({ length: count }, (_, n) => {
    const [port, route_port, monitor_port] = ports.slice(n * 3);
    const plain = ["-a", host, "-p", `${port}`, "-js", "-sd", `${directory}/${n}`];
    const monitored = [...plain, "-m", `${monitor_port}`];
    const args = count === 1 ? monitored : [
      ...monitored,
      ...["--name", `n${n}`, "--cluster_name", "test"],
      ...["--cluster", `nats://${host}:${route_port}`, "--routes", routes.join(",")],
    ];
    const start = () => new Program("nats-server", args, { env: program_env() });
    return member(`${host}:${port}`, start, `http://${host}:${monitor_port}/healthz`, "ok");
  });
  const servers = new Servers(members, directory);
  await servers.ready();
  return servers;
}

/** Members of etcd: on this machine, or each on a host of its own. */
export async function start_etcd(
  count: 1 | 3 = 1,
  host: string | readonly Host[] = loopback,
): Promise<Servers> {
  const directory = await Deno.makeTempDir({ prefix: "longwire-etcd-" });
  const ports = typeof host === "string" ? free_ports(count * 2, host) : [];
  const places = Array.from({ length: count }, (_, n) => {
    return typeof host === "string"
      ? { name: `e${n}`, address: host, prefix: [], ports: ports.slice(n * 2) }
      : { name: `e${n}`, ...host[n]!, ports: [2379, 2380] };
  });
  const url = (address: string, port: number) => `http://${address}:${port}`;
  const all = places.map(({ name, address, ports }) => `${name}=${url(address, ports[1]!)}`);
  const members = places.map(({ name, address, prefix, ports: [port, peer_port] }) => {
    const own = url(address, port!);
    const peer = url(address, peer_port!);
    const words = [
      ...[...prefix, "etcd", "--name", name, "--data-dir", `${directory}/${name}`],
      ...["--log-level", "error", "--listen-client-urls", own, "--advertise-client-urls", own],
      ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
      ...["--initial-cluster", all.join(","), "--heartbeat-interval", "50"],
      ...["--election-timeout", "500"],
    ];
    const start = () => new Program(words[0]!, words.slice(1), { env: program_env() });
    return member(`${address}:${port}`, start, `${own}/health`, "true");
  });
  const servers = new Servers(members, directory);
  await servers.ready();
  return servers;
}
