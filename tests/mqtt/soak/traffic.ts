/**
 * What the clients of a soak do, drawn from one seed: who they are, how they connect, what they
 * publish and ask for, when they leave and how.
 */
import type { Qos } from "../../../core/message.ts";
import type { Version } from "../../../core/protocol/mqtt.ts";
import type { Device, Plan } from "./device.ts";
import type { Options } from "./held.ts";

export type Random = () => number;

/** What a client is like, through all of its connections. */
export interface Role {
  readonly name: string;
  readonly versions: readonly Version[];
  /** Its session outlives its connections, mostly. */
  readonly is_kept: boolean;
  /** It may begin anew, or end its session. */
  readonly forgets: boolean;
  /** Reads and acknowledges slowly, takes few messages at a time. */
  readonly is_slow: boolean;
  /** Maximum Packet Size. */
  readonly bytes_max: number;
  /** Shared subscriptions that it takes part in, and whether it never leaves them. */
  readonly shares: readonly string[];
  readonly stays: boolean;
}

const kept: Role = {
  name: "kept",
  versions: [4, 5],
  is_kept: true,
  forgets: true,
  is_slow: false,
  bytes_max: Infinity,
  shares: [],
  stays: false,
};

export const share_1 = "$share/one/q/one/#";
export const share_2 = "$share/two/q/two";

export const roles: readonly Role[] = [
  kept,
  { ...kept, versions: [5] },
  { ...kept, versions: [4], forgets: false },
  { ...kept, versions: [5], forgets: false },
  { ...kept, name: "brief", is_kept: false },
  { ...kept, name: "brief", is_kept: false, versions: [5] },
  { ...kept, name: "slow", is_slow: true, versions: [5] },
  { ...kept, name: "slow", is_slow: true, forgets: false },
  { ...kept, name: "small", bytes_max: 700, versions: [5] },
  { ...kept, name: "member", forgets: false, shares: [share_1, share_2], stays: true },
  { ...kept, name: "member", forgets: false, shares: [share_1, share_2], versions: [5] },
  { ...kept, name: "member", shares: [share_1], is_slow: true, versions: [5] },
  { ...kept, name: "member", shares: [share_1], is_kept: false },
];

const live_topics = ["s/a", "s/b", "s/b/c", "s/b/d/e", "t/x", "s/é/😀"];
const shared_topics = ["q/one/a", "q/one/b/c", "q/two"];
const filters = [
  ...["s/a", "s/b/c", "s/+", "s/#", "s/b/+", "+/b/#", "s/+/c", "t/x", "+/x", "s/é/+", "#", "+/#"],
  ...["r/#", "r/+/0", "w/#", "q/#", "+/+"],
];

export function pick<T>(random: Random, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)];
}

function chance(random: Random, of: number): boolean {
  return random() < of;
}

export function plan_of(random: Random, role: Role): Plan {
  const version = pick(random, role.versions);
  const forgets = role.forgets && chance(random, 0.12);
  const lasts = role.is_kept && !(role.forgets && chance(random, 0.05));
  const clean = role.is_kept ? forgets : chance(random, 0.5);
  // In 3.1.1 one flag says both: whether to begin anew, and whether to end with the connection.
  const expiry_s = version === 4 && clean && role.is_kept ? 0 : lasts ? 600 : 0;
  return {
    version,
    clean: version === 4 ? expiry_s === 0 : clean,
    expiry_s,
    keepalive_s: pick(random, [0, 5, 60]),
    receive_maximum: version === 5 && role.is_slow ? pick(random, [1, 2, 7, 40]) : 0,
    bytes_max: version === 5 ? role.bytes_max : Infinity,
    ack_delay_ms: role.is_slow ? pick(random, [1, 5, 30]) : 0,
    will: chance(random, 0.3)
      ? { qos: pick<Qos>(random, [1, 2]), delay_s: pick(random, [0, 0, 1]), retain: false }
      : null,
  };
}

export function options_of(random: Random): Options {
  return {
    qos: pick<Qos>(random, [0, 1, 1, 2, 2]),
    no_local: chance(random, 0.15),
    retain_as_published: chance(random, 0.2),
    retain_handling: pick(random, [0, 0, 1, 2] as const),
    identifier: chance(random, 0.3) ? pick(random, [1, 2, 127, 128, 268_435_455]) : 0,
  };
}

/** What a client asks for in a session that has just begun. */
function subscribe_first(device: Device, random: Random, role: Role): void {
  const plain = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
  device.subscribe(["end"], { ...plain, qos: 1, identifier: 0 });
  if (role.shares.length === 0) {
    device.subscribe([pick(random, filters)], options_of(random));
    return;
  }
  for (const share of role.shares) {
    device.subscribe([share], { ...plain, qos: share === share_1 ? 1 : 2, identifier: 0 });
  }
}

function publish_some(device: Device, random: Random): void {
  const count = chance(random, 0.1) ? 60 : 1 + Math.floor(random() * 6);
  const topic = chance(random, 0.2) ? pick(random, shared_topics) : pick(random, live_topics);
  const with_alias = chance(random, 0.3);
  for (let n = 0; n < count; n++) {
    const qos = pick<Qos>(random, [0, 1, 1, 2, 2]);
    const is_retained = chance(random, 0.1);
    const is_big = chance(random, 0.03);
    const is_removal = is_retained && chance(random, 0.15);
    device.publish({
      topic: is_retained ? `r/${device.id}/${pick(random, [0, 1])}` : topic,
      qos: is_retained && qos === 0 ? 1 : qos,
      retain: is_retained,
      size: is_removal ? 0 : is_big ? 20_000 : 10 + Math.floor(random() * 200),
      expiry_s: chance(random, 0.05) ? 1 : 0,
    }, with_alias);
  }
}

function change_subscriptions(device: Device, random: Random, role: Role): void {
  const { session } = device;
  if (session === null) return;
  if (role.shares.length > 0) {
    if (role.stays) return;
    const share = pick(random, role.shares);
    const plain = { no_local: false, retain_as_published: false, retain_handling: 0 } as const;
    if (session.active(share) !== undefined) device.unsubscribe([share]);
    else device.subscribe([share], { ...plain, qos: share === share_1 ? 1 : 2, identifier: 0 });
    return;
  }
  const has = session.filters().filter((filter) => filter !== "end");
  if (has.length > 0 && chance(random, has.length / 8)) {
    device.unsubscribe(has.length > 1 && chance(random, 0.3) ? has.slice(0, 2) : [has[0]]);
    return;
  }
  const wanted = new Set([pick(random, filters)]);
  if (chance(random, 0.3)) wanted.add(pick(random, filters));
  if (has.length > 0 && chance(random, 0.3)) wanted.add(pick(random, has));
  device.subscribe([...wanted], options_of(random));
}

/** Connects until it is let in. */
export async function connect(device: Device, random: Random, role: Role): Promise<void> {
  for (;;) {
    const { session } = device;
    if (await device.connect(plan_of(random, role))) {
      if (device.session !== session && device.session !== null) {
        subscribe_first(device, random, role);
      }
      return;
    }
    await sleep(20);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Reads nothing for a while. */
async function stall(device: Device, random: Random): Promise<void> {
  const { link, session } = device;
  if (link === null || session === null) return;
  session.is_narrow = true; // QoS 0 may be dropped
  link.resume = Promise.withResolvers();
  device.note("reads nothing");
  await sleep(random() * 150);
  link.resume.resolve();
  link.resume = null;
}

/** One client at work until the time is over; ends connected. */
export async function work(
  device: Device,
  random: Random,
  role: Role,
  ends_ms: number,
): Promise<void> {
  while (performance.now() < ends_ms) {
    if (device.link === null) await connect(device, random, role);
    const dice = random();
    if (dice < 0.62) publish_some(device, random);
    else if (dice < 0.82) change_subscriptions(device, random, role);
    else if (dice < 0.85) await device.leave();
    else if (dice < 0.90) await device.cut(chance(random, 0.4));
    else if (dice < 0.93) await connect(device, random, role); // takes over
    else if (dice < 0.95 && role.is_slow) await stall(device, random);
    await sleep(random() * (device.link === null ? 80 : 30));
  }
  if (device.link === null) await connect(device, random, role);
}
