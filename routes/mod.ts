/** The route table (method, path, handler) and the one function that HTTP requests go through. */
import { type Code, codes } from "../core/codes.ts";
import type { Right } from "../core/permission.ts";
import type { Access } from "../core/access.ts";
import { token_of } from "./bearer.ts";
import type { Call, Context, Remote } from "./context.ts";
import { events } from "./events.ts";
import { history } from "./history.ts";
import { mqtt_socket } from "./mqtt_socket.ts";
import { healthz, metrics, readyz } from "./operations.ts";
import { count_refusal, refuse, refuse_error } from "./problem.ts";
import { publish_json, publish_raw } from "./publish.ts";

/**
 * What a route asks of a token. token: a valid one, the handler checks topics. public: none is
 * looked at. The rest: a right.
 */
type Permission = "public" | "token" | Right;

interface Route {
  readonly method: "GET" | "POST";
  readonly permission: Permission;
  /** {name} stands for one or more segments, slashes included: Call.rest. At most one. */
  readonly path: string;
  readonly handler: (call: Call, context: Context) => Response | Promise<Response>;
}

const routes: readonly Route[] = [
  { method: "POST", path: "/v1/topics/{topic}", permission: "token", handler: publish_raw },
  { method: "GET", path: "/v1/topics/{topic}/messages", permission: "token", handler: history },
  { method: "POST", path: "/v1/publish", permission: "token", handler: publish_json },
  { method: "GET", path: "/v1/events", permission: "token", handler: events },
  { method: "GET", path: "/mqtt", permission: "public", handler: mqtt_socket },
  { method: "GET", path: "/healthz", permission: "public", handler: healthz },
  { method: "GET", path: "/readyz", permission: "public", handler: readyz },
  { method: "GET", path: "/metrics", permission: "operate", handler: metrics },
];

interface Compiled extends Route {
  /** Fixed parts of the path, before and after {name}. */
  readonly prefix: string;
  readonly suffix: string;
  readonly has_rest: boolean;
}

const table: readonly Compiled[] = routes.map((route) => {
  const brace = route.path.indexOf("{");
  if (brace < 0) return { ...route, prefix: route.path, suffix: "", has_rest: false };
  const suffix = route.path.slice(route.path.indexOf("}") + 1);
  return { ...route, prefix: route.path.slice(0, brace), suffix, has_rest: true };
});

const no_query = new URLSearchParams();

/** Path and query of a request; cheaper than URL, which Deno.serve has already checked. */
function split_url(url: string): { path: string; query: URLSearchParams } {
  const path_at = url.indexOf("/", url.indexOf("//") + 2);
  const query_at = url.indexOf("?", path_at);
  if (query_at < 0) return { path: url.slice(path_at), query: no_query };
  return {
    path: url.slice(path_at, query_at),
    query: new URLSearchParams(url.slice(query_at + 1)),
  };
}

function matches(route: Compiled, path: string): boolean {
  if (!route.has_rest) return path === route.prefix;
  return path.length > route.prefix.length + route.suffix.length &&
    path.startsWith(route.prefix) && path.endsWith(route.suffix);
}

/** Answers every request; nothing is thrown. */
export function make_handler(
  context: Context,
): (request: Request, remote: Remote) => Promise<Response> {
  const say_no = (code: Code, detail: string, extra: Readonly<Record<string, string>> = {}) => {
    count_refusal(context.refused, code);
    return refuse(code, detail, 0, extra);
  };
  return async (request, remote) => {
    const { path, query } = split_url(request.url);
    const found = table.filter((route) => matches(route, path));
    const route = found.find(({ method }) => method === request.method);
    if (route === undefined) {
      if (found.length === 0) return say_no(codes.not_found, `There is nothing at ${path}`);
      const allow = found.map(({ method }) => method).join(", ");
      return say_no(codes.method_not_allowed, `${path} takes ${allow}`, { allow });
    }
    let rest = "";
    if (route.has_rest) {
      try {
        rest = decodeURIComponent(
          path.slice(route.prefix.length, path.length - route.suffix.length),
        );
      } catch {
        return say_no(codes.query_invalid, "The path is not percent-encoded UTF-8");
      }
    }
    try {
      let access: Access | Promise<Access> = context.gate.anybody;
      if (route.permission !== "public") {
        access = context.gate.access_of_call(token_of(request, query));
        if (access instanceof Promise) access = await access;
        if (route.permission !== "token") access.check_right(route.permission);
      }
      return await route.handler({ request, remote, rest, query, access }, context);
    } catch (error) {
      const response = refuse_error(error, context.refused);
      if (response.status === 500) {
        const stack = error instanceof Error ? error.stack : String(error);
        context.log.error("bug while answering a request", { path, error: stack });
      }
      return response;
    }
  };
}
