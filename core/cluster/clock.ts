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
