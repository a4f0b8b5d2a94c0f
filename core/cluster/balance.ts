/**
 * When a node has more than its share of the devices, and how many of them it sends where. Pure.
 * Invariant: only who is above the mean sends, and only to who is below it, and it begins at twice
 * the margin at which it ends; so what is sent away does not come back.
 */

/** What a node says of its load, as it was a second ago. */
export interface Load {
  readonly node_id: string;
  readonly connections: number;
}

export interface BalanceOptions {
  /** Above the mean, at which a node begins to send devices away; 0 = it never does. */
  readonly percent: number;
  readonly devices_per_s: number;
}

/** So many devices to a node. */
export interface Move<Node extends Load> {
  readonly to: Node;
  readonly count: number;
}

/** Devices that were sent are counted at neither end for about so long: until they have come. */
const in_transit_ms = 4000;

/** Devices that were sent to a node. */
interface Sent {
  readonly node_id: string;
  readonly count: number;
  left_ms: number;
}

export class Balancer {
  #is_sending = false;
  /** What was sent lately, oldest first. */
  #sent: Sent[] = [];

  constructor(readonly options: BalanceOptions) {}

  /**
   * What to send in the next `time_ms`.
   * @param others that take devices
   */
  step<Node extends Load>(own: number, others: readonly Node[], time_ms: number): Move<Node>[] {
    const { percent, devices_per_s } = this.options;
    const loads = this.#with_sent(others, time_ms);
    const total = loads.reduce((sum, { connections }) => sum + connections, own);
    const mean = total / (others.length + 1);
    // Those that have come are in both for a while: it waits then, and is not at rest.
    const counted = others.reduce((sum, { connections }) => sum + connections, own);
    const counted_mean = counted / (others.length + 1);
    // What others say is a second old: less than is sent in that time is no difference.
    const margin = Math.max(mean * percent / 100, devices_per_s);
    if (percent === 0 || others.length === 0) return [];
    if (own > mean + margin) this.#is_sending = true;
    else if (own <= counted_mean + margin / 2) this.#is_sending = false;
    if (!this.#is_sending) return [];
    const room = loads.map(({ to, connections }) => {
      return { to, room: Math.max(0, mean - connections) };
    });
    const all_room = room.reduce((sum, { room }) => sum + room, 0);
    if (all_room < 1) return [];
    const rate = Math.ceil(devices_per_s * time_ms / 1000);
    const count = Math.min(rate, Math.ceil(own - mean - margin / 2));
    if (count <= 0) return [];
    let left = count;
    const moves: Move<Node>[] = [];
    for (const { to, room: own_room } of room.sort((a, b) => b.room - a.room)) {
      const share = Math.min(left, Math.ceil(count * own_room / all_room));
      if (share > 0) {
        moves.push({ to, count: share });
        this.#sent.push({ node_id: to.node_id, count: share, left_ms: in_transit_ms });
      }
      left -= share;
    }
    return moves;
  }

  /** What the others will have when those have come that were sent to them. */
  #with_sent<Node extends Load>(others: readonly Node[], time_ms: number) {
    const on_their_way = new Map<string, number>();
    for (const sent of this.#sent) {
      sent.left_ms -= time_ms;
      if (sent.left_ms <= 0) continue;
      on_their_way.set(sent.node_id, (on_their_way.get(sent.node_id) ?? 0) + sent.count);
    }
    this.#sent = this.#sent.filter(({ left_ms }) => left_ms > 0);
    return others.map((to) => {
      return { to, connections: to.connections + (on_their_way.get(to.node_id) ?? 0) };
    });
  }
}
