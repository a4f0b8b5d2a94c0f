/**
 * Where events of the service's own lie in the log: `$events/{device_id}/{kind}`, stored like any
 * message and published by nobody else; and where those lie that a hook's endpoint never took:
 * `$dead/{hook}`. Names are those that a tenant knows. Pure.
 */
/** What is stored of devices. */
export const device_event_kinds = ["connected", "disconnected", "acknowledged"] as const;
export type DeviceEventKind = typeof device_event_kinds[number];

/** A device id as one level, as in `$presence/`. */
function level_of(device_id: string): string {
  return device_id.replace(/[%/+#]/g, (unit) => encodeURIComponent(unit));
}

export function event_topic(device_id: string, kind: DeviceEventKind): string {
  return `$events/${level_of(device_id)}/${kind}`;
}

export function event_filter(kind: DeviceEventKind): string {
  return `$events/+/${kind}`;
}

export function dead_topic(hook: string): string {
  return `$dead/${hook}`;
}

/** What an event's topic says; undefined = it is a message's. */
export function event_of_topic(
  topic: string,
): { readonly kind: DeviceEventKind; readonly device_id: string } | undefined {
  const match = /^\$events\/([^/]*)\/(connected|disconnected|acknowledged)$/.exec(topic);
  if (match === null) return undefined;
  const device_id = match[1]!.replace(/%(25|2F|2B|23)/g, (unit) => decodeURIComponent(unit));
  return { kind: match[2] as DeviceEventKind, device_id };
}

/** Where a row of the service's own lies among the sessions: no device id is like it. */
const row_prefix = "$\u0001/";

export function is_own_row(id: string): boolean {
  return id.startsWith(row_prefix);
}

const hook_prefix = `${row_prefix}hook/`;

export function hook_row(tenant: string, name: string): string {
  return `${hook_prefix}${tenant}/${name}`;
}

export function is_hook_row(row: string): boolean {
  return row.startsWith(hook_prefix);
}

const callbacks_prefix = `${row_prefix}callbacks/`;

/** @param device as the service knows it */
export function callbacks_row(device: string): string {
  return callbacks_prefix + device;
}

/** Undoes callbacks_row(); undefined = the row is of something else. */
export function device_of_row(row: string): string | undefined {
  return row.startsWith(callbacks_prefix) ? row.slice(callbacks_prefix.length) : undefined;
}
