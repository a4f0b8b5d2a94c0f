/** Runs probe.c beside a measurement: how long a service's event loop was away meanwhile. */
import { ensure_program } from "./build.ts";

/** Microseconds, as probe.c prints them. */
interface Times {
  readonly samples: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** What probe.c prints. */
export interface Stalls {
  /** From request to answer. */
  readonly answer_us: Times;
  /** How late the probe itself woke: what the machine makes anybody wait. */
  readonly late_us: Times;
}

const interval_ms = 10;

/** A running probe. */
export class Probe {
  #child: Deno.ChildProcess;

  private constructor(command: string, address: string) {
    this.#child = new Deno.Command(command, {
      args: [address, `${interval_ms}`],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  }

  /** @param address of the service's HTTP */
  static async start(address: string): Promise<Probe> {
    return new Probe(await ensure_program("probe"), address);
  }

  /**
   * Ends it.
   * @throws Error with its words when it could not measure
   */
  async end(): Promise<Stalls> {
    await this.#child.stdin.close();
    const { stdout, stderr } = await this.#child.output();
    const text = new TextDecoder();
    const words = text.decode(stderr).trim();
    if (words !== "") throw new Error(`The probe failed: ${words}`);
    return JSON.parse(text.decode(stdout));
  }
}
