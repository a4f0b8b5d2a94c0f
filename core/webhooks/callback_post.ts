/** Sends what callbacks have to tell, each URL at its own pace: a dead one delays no other. */
import { limits } from "../limits.ts";
import { Namespace, plain_name, tenant_of } from "../namespace.ts";
import { type CloudEvent, own_event, source_of, structured } from "./cloud_event.ts";
import { bury } from "./dead_letter.ts";
import { callbacks_name, type Endpointing } from "./definition.ts";
import { Endpoint, new_counts } from "./endpoint.ts";
import type { HookParts } from "./hook_runner.ts";

/** How soon something is tried again that failed here, and not at the endpoint. */
const again_ms = 1000;

/** Why a message will not be acknowledged, as far as anybody can know. */
export type Undelivered = "expired" | "removed" | "session_ended" | "unsubscribed";

/** What became of a message. */
export interface Outcome {
  readonly acknowledged: boolean;
  /** Only of one that was not. */
  readonly reason?: Undelivered;
  /** Unix milliseconds. */
  readonly time_ms: number;
}

/** One callback, as it is stored. */
export interface StoredCallback {
  /** Of the message, epoch:offset, and its topic as the service knows it. */
  readonly id: string;
  readonly offset: number;
  readonly topic: string;
  readonly url: string;
  /** When it is told that the message has expired, Unix milliseconds. */
  readonly expires_ms: number;
  /** Absent = it is not known yet. */
  readonly outcome?: Outcome;
}

/** One callback that is not over. */
export interface Callback {
  /** Device id as the service knows it. */
  readonly device: string;
  readonly stored: StoredCallback;
  readonly outcome: Outcome | undefined;
}

/** What goes to one URL in the name of one tenant. */
interface Lane {
  readonly tenant: string;
  readonly url: string;
  readonly waiting: Callback[];
  sending: number;
  /** null = callbacks are not set up for the tenant at the moment. */
  endpoint: Endpoint | null;
}

export class CallbackPost {
  readonly counts = new_counts();
  readonly #lanes = new Map<string, Lane>();
  #endpointings: ReadonlyMap<string, Endpointing> = new Map();
  #stopped = false;

  constructor(readonly parts: HookParts, readonly on_over: (callback: Callback) => void) {}

  /** From now on it is sent so; what is being tried is tried anew. */
  use(endpointings: ReadonlyMap<string, Endpointing>): void {
    this.#endpointings = endpointings;
    for (const lane of this.#lanes.values()) {
      const before = lane.endpoint;
      lane.endpoint = this.#endpoint(lane.tenant, lane.url);
      before?.stop();
      this.#fill(lane);
    }
  }

  send(callback: Callback): void {
    const tenant = tenant_of(callback.device);
    const { url } = callback.stored;
    const name = `${tenant} ${url}`;
    let lane = this.#lanes.get(name);
    if (lane === undefined) {
      const endpoint = this.#endpoint(tenant, url);
      this.#lanes.set(name, lane = { tenant, url, waiting: [], sending: 0, endpoint });
    }
    lane.waiting.push(callback);
    this.#fill(lane);
  }

  stop(): void {
    this.#stopped = true;
    for (const { endpoint } of this.#lanes.values()) endpoint?.stop();
  }

  #endpoint(tenant: string, url: string): Endpoint | null {
    const endpointing = this.#endpointings.get(tenant);
    if (endpointing === undefined) return null;
    const { sender, now_ms } = this.parts;
    return new Endpoint(new URL(url), {}, endpointing, sender, this.counts, now_ms);
  }

  #fill(lane: Lane): void {
    while (lane.sending < limits.callback_concurrency && lane.waiting.length > 0) {
      if (lane.endpoint === null || this.#stopped) return;
      const callback = lane.waiting.shift()!;
      lane.sending++;
      this.#deliver(lane, lane.endpoint, callback).catch((error) => {
        this.parts.log.error("bug while sending a callback", { error: String(error) });
        setTimeout(() => this.send(callback), again_ms);
      }).finally(() => {
        lane.sending--;
        if (lane.sending === 0 && lane.waiting.length === 0) {
          this.#lanes.delete(`${lane.tenant} ${lane.url}`);
        } else this.#fill(lane);
      });
    }
  }

  async #deliver(lane: Lane, endpoint: Endpoint, callback: Callback): Promise<void> {
    const event = this.#event(callback);
    const outcome = await endpoint.deliver(structured(event));
    if (this.#stopped) return;
    if (outcome.kind === "stopped" && !endpoint.is_gone) {
      lane.waiting.unshift(callback); // there are other secrets
      return;
    }
    if (outcome.kind === "stopped") this.counts.given_up++; // it wants no more of them
    if (outcome.kind === "given_up") {
      const names = new Namespace(lane.tenant);
      const is_stopped = () => this.#stopped;
      const { reason } = outcome;
      if (!await bury(this.parts, names, callbacks_name, event, reason, is_stopped)) return;
    }
    this.on_over(callback);
  }

  #event({ device, stored, outcome }: Callback): CloudEvent {
    const { acknowledged, reason, time_ms } = outcome!;
    const { id } = stored;
    const device_id = plain_name(device);
    const given = {
      id: `${id}-receipt`,
      source: source_of(tenant_of(device)),
      subject: device_id,
      sequence: String(stored.offset),
      time_ms,
    };
    const topic = plain_name(stored.topic);
    const data = { device_id, message: { id, topic }, ...(acknowledged ? {} : { reason }) };
    return own_event(acknowledged ? "acknowledged" : "undelivered", given, data);
  }
}
