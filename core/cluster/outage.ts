/**
 * Hands messages to the other nodes over gRPC while the log cannot be reached: in batches, one
 * under way to each node, so that they arrive in the order of publication. Invariant: every message
 * is answered with what was done, within the time that one batch may take and the one before it.
 */
import { limits } from "../limits.ts";
import type { Message, Passed } from "../message.ts";
import type { Outage } from "../router.ts";
import { ByteReader, ByteWriter, read_message, write_message } from "../store/codec.ts";

/** What this needs of the nodes. */
export interface OtherNodes {
  others(): readonly string[];
  /** Hands a node a batch; answers the audience there of each message of it. */
  deliver(node_id: string, batch: Uint8Array): Promise<readonly number[]>;
}

/** The audience on a node; null = it may not have it. */
type Answer = number | null;

interface Waiting {
  readonly encoded: Uint8Array;
  readonly resolve: (answer: Answer) => void;
}

/** What waits for one node. */
class Line {
  #bytes = 0;
  #is_sending = false;
  #waiting: Waiting[] = [];

  constructor(readonly nodes: OtherNodes, readonly node_id: string) {}

  get is_empty(): boolean {
    return !this.#is_sending && this.#waiting.length === 0;
  }

  push(encoded: Uint8Array): Promise<Answer> {
    if (this.#bytes > limits.outage_queue_bytes_max) return Promise.resolve(null);
    return new Promise((resolve) => {
      this.#bytes += encoded.length;
      this.#waiting.push({ encoded, resolve });
      if (this.#is_sending) return;
      this.#is_sending = true;
      // All publishes of a turn are one batch.
      setTimeout(() => this.#send_all(), 0);
    });
  }

  async #send_all(): Promise<void> {
    while (this.#waiting.length > 0) {
      let bytes = 0;
      const next = this.#waiting.findIndex(({ encoded }) => {
        return (bytes += encoded.length) > limits.outage_batch_bytes_max;
      });
      const batch = this.#waiting.splice(0, next < 0 ? this.#waiting.length : Math.max(1, next));
      const size = batch.reduce((sum, { encoded }) => sum + encoded.length, 0);
      const joined = new Uint8Array(size);
      let at = 0;
      for (const { encoded } of batch) {
        joined.set(encoded, at);
        at += encoded.length;
      }
      const answers = await this.nodes.deliver(this.node_id, joined).catch(() => []);
      this.#bytes -= size;
      for (const [index, { resolve }] of batch.entries()) resolve(answers[index] ?? null);
    }
    this.#is_sending = false;
  }
}

export class NodeOutage implements Outage {
  /** Messages that other nodes have, and those that one may not have, by node. */
  passed = 0;
  missed = 0;
  readonly #lines = new Map<string, Line>();
  readonly #out = new ByteWriter(new Uint8Array(4096));

  constructor(readonly nodes: OtherNodes) {}

  async pass(message: Message, audience: number): Promise<Passed> {
    const names = this.nodes.others();
    const encoded = this.#encode(message);
    const answers = await Promise.all(names.map((name) => this.#line(name).push(encoded)));
    const missed = names.filter((_, index) => answers[index] === null);
    const there = answers.reduce<number>((sum, answer) => sum + (answer ?? 0), 0);
    const nodes = names.length - missed.length;
    this.passed += nodes;
    this.missed += missed.length;
    return { audience: audience + there, nodes, missed, conflated: false };
  }

  send(message: Message): void {
    void this.pass(message, 0);
  }

  #line(name: string): Line {
    const known = this.#lines.get(name);
    if (known !== undefined) return known;
    for (const [other, line] of this.#lines) {
      if (line.is_empty && !this.nodes.others().includes(other)) this.#lines.delete(other);
    }
    const line = new Line(this.nodes, name);
    this.#lines.set(name, line);
    return line;
  }

  #encode(message: Message): Uint8Array {
    this.#out.size = 0;
    write_message(this.#out, message);
    return this.#out.take().slice();
  }
}

/** Hands a batch of another node on; answers the audience of each message. */
export function hear_batch(
  batch: Uint8Array,
  heard: (message: Message) => number,
): readonly number[] {
  const source = new ByteReader(new Uint8Array(batch)); // at the start of a buffer of its own
  const audiences: number[] = [];
  while (!source.done) audiences.push(heard(read_message(source)));
  return audiences;
}
