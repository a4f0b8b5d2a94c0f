/** What operators and their machines ask: is it alive, is it ready, how is it. */
import type { Call, Context } from "./context.ts";
import { refuse } from "./problem.ts";
import { codes, Refusal } from "../core/codes.ts";

/** GET /healthz: the process answers. */
export function healthz(): Response {
  return Response.json({ status: "ok" });
}

/** GET /readyz: devices may be sent here, and what is published is kept. */
export function readyz(_call: Call, context: Context): Response {
  if (context.is_stopping()) return refuse(codes.shutting_down);
  // Without the log, a node still hands on what it is given: none is better than another.
  if (context.degradation.step === 3) return Response.json({ status: "detached" });
  const { failing } = context.store.stats();
  if (failing !== "") return refuse(codes[failing], codes[failing].meaning);
  return Response.json({ status: "ready" });
}

/** GET /metrics: Prometheus text format 0.0.4, or OpenMetrics 1.0.0 where Accept asks for it. */
export async function metrics({ request }: Call, context: Context): Promise<Response> {
  const { text, content_type } = await context.metrics.text(request.headers.get("accept"));
  return new Response(text, { headers: { "content-type": content_type, "vary": "accept" } });
}

/** GET /v1/fds: what the process has open, and what of it nobody holds. */
export async function descriptors(_call: Call, context: Context): Promise<Response> {
  try {
    return Response.json(await context.descriptors.report());
  } catch (error) {
    const detail = `Cannot read /proc/self/fd: ${(error as Error).message}`;
    throw new Refusal(codes.not_on_this_system, detail);
  }
}
