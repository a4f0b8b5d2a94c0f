/**
 * Who comes and goes, as messages in the log for the webhooks that want to know: stored in the turn
 * in which it happens, and nothing is made where no hook of the tenant asks for it.
 */
import { type Code, codes } from "../codes.ts";
import { in_slices } from "../dirty.ts";
import type { DeviceWatcher } from "../hub.ts";
import { Namespace, plain_name, tenant_of } from "../namespace.ts";
import { protocol_names } from "../presence.ts";
import type { Session } from "../session.ts";
import type { Hook } from "./definition.ts";
import type { EventLog } from "./event_log.ts";
import { filter_matches } from "../topic_tree.ts";
import { json_message } from "./publish.ts";
import { device_event_kinds, type DeviceEventKind, event_topic } from "./topics.ts";

/** Which tenants have a hook for a kind of event. */
export class Wanted {
  readonly #tenants = new Map<DeviceEventKind, Map<string, Namespace>>();
  /** Of hooks for acknowledgements, by tenant: filters as the tenant knows them. */
  readonly #acknowledged = new Map<string, readonly string[]>();

  use(hooks: readonly Hook[]): void {
    for (const kind of device_event_kinds) {
      const tenants = hooks.filter(({ events }) => events.includes(kind)).map(({ tenant }) =>
        tenant
      );
      this.#tenants.set(kind, new Map(tenants.map((name) => [name, new Namespace(name)])));
    }
    this.#acknowledged.clear();
    for (const { tenant, events, filters } of hooks) {
      if (!events.includes("acknowledged")) continue;
      this.#acknowledged.set(tenant, [...this.#acknowledged.get(tenant) ?? [], ...filters]);
    }
  }

  any(kind: DeviceEventKind): boolean {
    return (this.#tenants.get(kind)?.size ?? 0) > 0;
  }

  /** Whether a hook of the tenant wants to know who acknowledges what is published there. */
  is_acknowledgement_of(tenant: string, topic: string): boolean {
    const filters = this.#acknowledged.get(tenant);
    return filters !== undefined && filters.some((filter) => filter_matches(filter, topic));
  }

  /** Names of the tenant of a device, if it wants this; `id` as the service knows it. */
  names_for(id: string, kind: DeviceEventKind): Namespace | undefined {
    const tenants = this.#tenants.get(kind);
    return tenants === undefined || tenants.size === 0 ? undefined : tenants.get(tenant_of(id));
  }
}

export class DeviceEvents implements DeviceWatcher {
  constructor(
    readonly wanted: Wanted,
    readonly log: EventLog,
    readonly now_ms: () => number,
    /** Sees to it that acknowledgements of a connection are reported. */
    readonly report_acks: (session: Session) => void,
  ) {}

  joined(session: Session): void {
    if (this.wanted.names_for(session.id, "acknowledged") !== undefined) this.report_acks(session);
    this.#tell(session, "connected", {});
  }

  left(session: Session, code: Code): void {
    this.#tell(session, "disconnected", { reason: code.name, detail: code.meaning });
  }

  /** Sessions whose connections ended with an earlier process, which could not say so. */
  interrupted(sessions: readonly Session[]): void {
    if (!this.wanted.any("disconnected")) return;
    void in_slices(sessions, (session) => this.left(session, codes.interrupted));
  }

  #tell(session: Session, kind: DeviceEventKind, more: Readonly<Record<string, string>>): void {
    const names = this.wanted.names_for(session.id, kind);
    if (names === undefined) return;
    const device_id = plain_name(session.id);
    const topic = names.topic(event_topic(device_id, kind));
    const data = { device_id, protocol: protocol_names[session.wire], ...more };
    this.log.write(json_message(topic, data, this.now_ms()));
  }
}
