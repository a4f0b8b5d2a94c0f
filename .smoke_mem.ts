import { Fanout } from "./core/fanout.ts";
import { Sessions } from "./core/sessions.ts";
import { Log } from "./core/log.ts";
const reactor: any = { join() {}, leave() {} };
const log = new Log({ level: "error", format: "text", write() {}, now_ms: Date.now });
const f = new Fanout(reactor, Date.now);
const s = new Sessions({} as any, Date.now, log);
const N = 500000;
(globalThis as any).gc(); const b = Deno.memoryUsage();
const slots: any[] = [];
for (let i = 0; i < N; i++) {
  const { session } = s.open("device-" + i, 1, null as any, true);
  session.conn = i; session.generation = 1; session.cursor = 5;
  const t = "devices/" + i + "/inbox";
  session.subscribe(t, 1); f.join(session, t, 1); slots[i] = session;
}
(globalThis as any).gc(); const a = Deno.memoryUsage();
console.log("heap/device", (a.heapUsed - b.heapUsed) / N, "rss/device", (a.rss - b.rss) / N, slots.length, s.count, f.filter_count);
