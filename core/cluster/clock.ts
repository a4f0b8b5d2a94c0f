/** Time as the parts of a cluster take it: of this machine, or of a test that makes its own. */

export interface Clock {
  /** Monotonic, and goes on while the process is stopped. */
  now_ms(): number;
  /** Calls once, later; answers what calls it off. */
  after(ms: number, call: () => void): () => void;
}

export const system_clock: Clock = {
  now_ms: () => performance.now(),
  after: (ms, call) => {
    const timer = setTimeout(call, ms);
    return () => clearTimeout(timer);
  },
};

export function sleep(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => clock.after(ms, resolve));
}

/** How work that takes long is cut, so that leases are renewed between the parts. */
export interface Slices {
  /** Looked at in one go. */
  readonly ids: number;
  /** Answers when everything else has had its turn. */
  rest(): Promise<void>;
}

/** A few milliseconds each: an id takes below a microsecond. */
export const system_slices: Slices = {
  ids: 5000,
  rest: () => sleep(system_clock, 0),
};
