/** The clients of Eclipse Mosquitto: MQTT as somebody else wrote it. */
import type { Address } from "../../core/address.ts";
import { Program } from "./process.ts";

export const mosquitto_programs = ["mosquitto_pub", "mosquitto_sub", "stdbuf"] as const;

export interface Received {
  readonly topic: string;
  readonly qos: number;
  readonly retain: boolean;
  readonly payload: string;
}

function place({ host, port }: Address): string[] {
  return ["-h", host, "-p", String(port)];
}

/**
 * A mosquitto_sub that has subscribed. `-d` makes it say what happens to it, stdbuf makes it say so
 * at once.
 */
export class MosquittoSub {
  readonly program: Program;

  private constructor(address: Address, args: readonly string[]) {
    const format = "message %t %q %r %p";
    this.program = new Program("stdbuf", [
      ...["-oL", "mosquitto_sub"],
      ...place(address),
      ...["-d", "-F", format],
      ...args,
    ]);
  }

  /** Starts one; `args` as on its command line, such as -t, -q, -i, -c, -V. */
  static async start(address: Address, ...args: string[]): Promise<MosquittoSub> {
    const sub = new MosquittoSub(address, args);
    await sub.program.stdout.find((line) => line.startsWith("Subscribed"), "a SUBACK");
    return sub;
  }

  /** The next message. */
  async next(): Promise<Received> {
    const line = await this.program.stdout.find((line) => line.startsWith("message "), "a message");
    const [, topic, qos, retain, payload] = /^message (\S+) (\d) (\d) (.*)$/.exec(line)!;
    return { topic, qos: Number(qos), retain: retain === "1", payload };
  }

  /** Stops it with SIGINT: it says DISCONNECT. */
  async stop(): Promise<void> {
    await this.program.end("SIGINT");
  }

  /** Ends it as a device that loses power. */
  async kill(): Promise<void> {
    await this.program.end("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** Runs mosquitto_pub to its end; answers its exit status. */
export async function mosquitto_pub(address: Address, ...args: string[]): Promise<number> {
  return await new Program("mosquitto_pub", [...place(address), ...args]).status();
}
