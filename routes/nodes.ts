/** Nodes of the cluster: what they say of themselves, and the call that empties one. */
import { codes, Refusal } from "../core/codes.ts";
import type { Call, Context } from "./context.ts";

/** GET /v1/nodes: this node's view; of one that is alone, an empty one. */
export function nodes(_call: Call, { cluster }: Context): Response {
  if (cluster === null) return Response.json({ view: 0, nodes: [] });
  const { number, members } = cluster.view;
  return Response.json({ view: number, nodes: [...members.values()] });
}

/** POST /v1/nodes/{id}/drain: answered when it has begun. */
export async function drain_node({ rest }: Call, { cluster }: Context): Promise<Response> {
  if (cluster === null) throw new Refusal(codes.not_found, "This node is not in a cluster");
  await cluster.drain(rest);
  return Response.json({ node: rest, draining: true }, { status: 202 });
}
