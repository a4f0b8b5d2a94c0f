/** The rules of the cluster as this node knows them; they are set with `longwire rules`. */
import { document_names } from "../core/cluster/rules.ts";
import type { Call, Context } from "./context.ts";

/** GET /v1/rules: what is in force, since which revision, and why not the newest. */
export function rules(_call: Call, { rules }: Context): Response {
  return Response.json(Object.fromEntries(document_names.map((name) => {
    const { revision, in_force, problem, refused_revision } = rules.get(name);
    const refused = problem === "" ? {} : { refused: { revision: refused_revision, problem } };
    return [name, { revision, in_force, ...refused }];
  })));
}
