/** Puts what the service has to say itself into the log, and answers when it is there. */
import { type Code, Refusal } from "../codes.ts";
import type { Message } from "../message.ts";
import type { Router } from "../router.ts";
import type { PublishOrigin } from "../session.ts";

const encoder = new TextEncoder();

/** A message of QoS 1 whose payload is JSON. */
export function json_message(topic: string, data: unknown, time_ms: number): Message {
  return {
    topic,
    payload: encoder.encode(JSON.stringify(data)),
    qos: 1,
    retain: false,
    time_ms,
    expires_ms: 0,
    key: "",
    properties: { content_type: "application/json", payload_format: 1 },
  };
}

class OwnPublish implements PublishOrigin {
  appends_pending = 0;
  readonly done = Promise.withResolvers<void>();

  published(): void {
    this.done.resolve();
  }

  refused(_token: number, code: Code, detail: string): void {
    this.done.reject(new Refusal(code, detail));
  }
}

/** Rejects with Refusal. */
export function publish_stored(router: Router, message: Message): Promise<void> {
  const origin = new OwnPublish();
  router.publish(message, origin, 0, null);
  return origin.done.promise;
}
