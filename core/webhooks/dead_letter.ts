/** What an endpoint never took, as a message in the log that people can read, and replay. */
import { limits } from "../limits.ts";
import type { Log } from "../log.ts";
import type { Namespace } from "../namespace.ts";
import type { Router } from "../router.ts";
import { type CloudEvent, event_json } from "./cloud_event.ts";
import type { GivenUp } from "./endpoint.ts";
import { json_message, publish_stored } from "./publish.ts";
import { dead_topic } from "./topics.ts";

export interface BurialParts {
  readonly router: Router;
  readonly log: Log;
  readonly now_ms: () => number;
}

/** How soon the store is asked again that has not taken it. */
const again_ms = 1000;

/** Stores the dead letter of an event of a hook; false = the service stops before it is stored. */
export async function bury(
  { router, log, now_ms }: BurialParts,
  names: Namespace,
  hook: string,
  event: CloudEvent,
  reason: GivenUp,
  is_stopped: () => boolean,
): Promise<boolean> {
  const { code, detail, attempts, first_attempt_ms } = reason;
  const letter = {
    hook,
    code: code.name,
    detail,
    attempts,
    first_attempt: new Date(first_attempt_ms).toISOString(),
    event: JSON.parse(event_json(event)),
  };
  const topic = names.topic(dead_topic(hook));
  let message = json_message(topic, letter, now_ms());
  if (message.payload.length > limits.payload_bytes_max) {
    // The message that it is about has the data.
    message = json_message(topic, { ...letter, event: event.attributes }, now_ms());
  }
  log.warn("event given up", { hook, event: event.attributes.id, code: code.name });
  while (!is_stopped()) {
    try {
      await publish_stored(router, message);
      return true;
    } catch (error) {
      log.warn("cannot store a dead letter", { hook, error: String(error) });
      await new Promise((resolve) => setTimeout(resolve, again_ms));
    }
  }
  return false;
}
