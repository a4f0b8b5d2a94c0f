/**
 * What a machine must allow before a million devices connect to it: settings of the kernel, put
 * back afterwards, and memory.
 */
import { UsageError } from "./flags.ts";
import { available_bytes } from "./footprint.ts";
import { find_program } from "./peers.ts";

/** Of both ends of a connection: two sockets, the service's session, the generator's record. */
const bytes_per_device = 8000;
/** Left to everything else. */
const bytes_reserved = 1 << 30;

/** Ends the run before it begins when memory cannot be enough. */
export async function check_memory(devices: number): Promise<void> {
  const needed = devices * bytes_per_device + bytes_reserved;
  const available = await available_bytes();
  if (needed <= available) return;
  const [is, has] = [needed, available].map((bytes) => (bytes / 1e9).toFixed(1));
  throw new UsageError(`Cannot hold ${devices} devices: they need ${is} GB, ${has} GB are free`);
}

/** Least values; a kernel that does not have one is left alone. */
function wanted_settings(devices: number): readonly (readonly [name: string, least: number])[] {
  return [
    // Else a burst of connects meets a full backlog, and waits a second for its next try.
    ["net.core.somaxconn", 65_535],
    ["net.ipv4.tcp_max_syn_backlog", 65_535],
    // Loopback queues whole packets here; what does not fit is lost and sent again much later.
    ["net.core.netdev_max_backlog", 200_000],
    // Both ends are files of this machine.
    ["fs.file-max", 2 * devices + 200_000],
    ["net.netfilter.nf_conntrack_max", 2 * devices + 100_000],
  ];
}

/** Kernel settings that were raised, until they are put back. */
export class KernelSettings {
  #raised: [name: string, before: number, after: number][] = [];

  /** Raises what is too low, where this process may: only root may. */
  async raise_for(devices: number): Promise<void> {
    if (Deno.uid() !== 0) return;
    for (const [name, least] of wanted_settings(devices)) {
      const before = Number(await sysctl("-n", name) || NaN);
      if (!(before < least)) continue;
      await sysctl("-w", `${name}=${least}`);
      this.#raised.push([name, before, least]);
    }
  }

  async restore(): Promise<void> {
    for (const [name, before] of this.#raised.splice(0)) await sysctl("-w", `${name}=${before}`);
  }

  /** "" = none was raised. */
  toString(): string {
    return this.#raised.map(([name, from, to]) => `${name} ${from} -> ${to}`).join(", ");
  }
}

async function sysctl(...args: string[]): Promise<string> {
  const command = new Deno.Command(find_program("sysctl"), { args, stderr: "null" });
  return new TextDecoder().decode((await command.output()).stdout).trim();
}
