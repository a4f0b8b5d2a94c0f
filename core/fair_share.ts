/**
 * Who may have how much of what waits for the store: a tenant that publishes more than the disk
 * takes is refused before it has used up the room of the others. Invariant: there is always room
 * for one who has nothing waiting.
 *
 * Dynamic thresholds (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory
 * Packet Switches", IEEE/ACM Transactions on Networking 6(2), 1998) with a factor of 1: everybody
 * may have as much as is free. So one tenant alone has half of the room, two have a third each,
 * and what one does not use is the others'.
 */
import type { Refusal } from "./codes.ts";
import type { Message } from "./message.ts";
import { tenant_of } from "./namespace.ts";
import type { Tenants } from "./tenant.ts";

/** A refused publisher is told to come back after this: a queue is written within it. */
const retry_after_ms = 1000;

/** What a message weighs beside its payload. */
const message_bytes = 128;

function weight_of({ payload, topic }: Message): number {
  return payload.length + topic.length + message_bytes;
}

export class FairShare {
  /** Bytes that wait, by tenant; those that have nothing waiting are not in it. */
  readonly #waiting = new Map<string, number>();
  #total = 0;

  /** @param bytes_max what may wait in all */
  constructor(readonly tenants: Pick<Tenants, "get" | "count">, readonly bytes_max: number) {}

  /** Bytes that wait. */
  get total(): number {
    return this.#total;
  }

  /** Why a message may not wait too; null = it may. */
  refusal_of(message: Message): Refusal | null {
    if (this.tenants.count < 2) return null;
    const tenant = tenant_of(message.topic);
    const waiting = this.#waiting.get(tenant) ?? 0;
    if (waiting + weight_of(message) <= this.bytes_max - this.#total || waiting === 0) return null;
    const detail = `The tenant has ${waiting} bytes waiting for the disk, its fair share`;
    return this.tenants.get(tenant).over_quota(detail, retry_after_ms);
  }

  /** A message waits. */
  add(message: Message): void {
    const tenant = tenant_of(message.topic);
    const weight = weight_of(message);
    this.#waiting.set(tenant, (this.#waiting.get(tenant) ?? 0) + weight);
    this.#total += weight;
  }

  /** It is written, or cannot be. */
  remove(message: Message): void {
    const tenant = tenant_of(message.topic);
    const weight = weight_of(message);
    const left = this.#waiting.get(tenant)! - weight;
    if (left > 0) this.#waiting.set(tenant, left);
    else this.#waiting.delete(tenant);
    this.#total -= weight;
  }
}
