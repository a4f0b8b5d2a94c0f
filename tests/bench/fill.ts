/** Fills a store with sessions of devices that are away, in the form in which the service does. */
import { expiry_never_s, Session, Wire } from "../../core/session.ts";
import { stored_session } from "../../core/session_record.ts";
import { SqliteStore } from "../../core/store/sqlite.ts";

/** Sessions that are handed over in one turn. */
const turn_sessions = 1000;

/** Nobody publishes here. */
const no_answers = { published() {}, refused() {} };

/**
 * Sessions of MQTT clients with clean session 0 and one subscription of QoS 1. Their client ids are
 * `prefix`-0, -1 and so on.
 * @param data the directory of the store, which has none of them
 */
export async function fill_sessions(
  data: string,
  count: number,
  prefix: string,
  filter: string,
): Promise<void> {
  // Not the service's setting: nobody needs these sessions if the power fails now.
  const store = await SqliteStore.open(data, { synchronous: "normal" });
  try {
    let before: unknown;
    for (let first = 0; first < count; first += turn_sessions) {
      let last: unknown;
      for (let number = first; number < Math.min(first + turn_sessions, count); number++) {
        const session = new Session(`${prefix}-${number}`, Wire.mqtt4, no_answers);
        session.transient = false;
        session.expiry_s = expiry_never_s;
        session.cursor = store.head;
        session.subscribe(filter, 1);
        last = store.put_session(stored_session(session));
      }
      // One turn is encoded while another is written.
      await before;
      before = last;
    }
    await before;
  } finally {
    await store.close();
  }
}
