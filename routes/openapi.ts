/** The OpenAPI 3.1 description, made of the route table: what is not in the table is not in it. */
import { type CodeName, codes } from "../core/codes.ts";
import { operations } from "./describe.ts";
import type { Operation } from "./operation.ts";
import { schemas } from "./schemas.ts";

/** What of a route the description is made of. */
export interface Described {
  readonly method: string;
  readonly path: string;
  readonly permission: string;
}

/** Every call may be refused so. */
const errors_of_all: readonly CodeName[] = ["query_invalid", "internal", "method_not_allowed"];
/** Every call that wants a token. */
const errors_of_token: readonly CodeName[] = ["unauthorized", "token_expired", "forbidden"];

/** Refusals by status: several codes may share one. */
function errors_of(
  operation: Operation,
  { path, permission }: Described,
): Record<string, unknown> {
  const names = new Set<CodeName>([...errors_of_all, ...operation.errors]);
  if (path.includes("{")) names.add("not_found"); // with nothing in its place
  if (permission !== "public") { for (const name of errors_of_token) names.add(name); }
  const by_status: Record<string, string[]> = {};
  for (const name of names) {
    const { http, meaning } = codes[name];
    (by_status[http] ??= []).push(`\`${name}\`: ${meaning}`);
  }
  return Object.fromEntries(
    Object.entries(by_status).map(([status, meanings]) => [status, {
      description: meanings.join("; "),
      content: {
        "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } },
      },
    }]),
  );
}

function describe(route: Described): Record<string, unknown> {
  const { method, path, permission } = route;
  const operation = operations[`${method} ${path}`];
  if (operation === undefined) return { summary: path, responses: {} };
  const { id, tag, summary, description, parameters, body, body_is_optional, answers } = operation;
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    parameters,
    ...(body === undefined ? {} : {
      requestBody: { required: body_is_optional === undefined, content: body },
    }),
    responses: { ...answers, ...errors_of(operation, route) },
    security: permission === "public" ? [] : [{ bearer: [] }],
  };
}

export function openapi(routes: readonly Described[], version: string): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    (paths[route.path] ??= {})[route.method.toLowerCase()] = describe(route);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Longwire",
      version,
      description: "A push service for fleets of devices. Where the service has no keys, no call " +
        "needs a token.",
      license: { name: "MIT", identifier: "MIT" },
    },
    paths,
    components: {
      schemas,
      securitySchemes: { bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT" } },
    },
  };
}

const texts = new WeakMap<readonly Described[], string>();

/** GET /openapi.json */
export function openapi_json(routes: readonly Described[], version: string): Response {
  let text = texts.get(routes);
  if (text === undefined) texts.set(routes, text = JSON.stringify(openapi(routes, version)));
  return new Response(text, { headers: { "content-type": "application/json" } });
}
