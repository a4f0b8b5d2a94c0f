/** The route table (method, path, handler) and the one function that HTTP requests go through. */
import { type Code, codes } from "../core/codes.ts";
import type { Right } from "../core/permission.ts";
import type { Access } from "../core/access.ts";
import { token_of } from "./bearer.ts";
import { Call, type Context, type ServeInfo } from "./context.ts";
import { console_file, console_page } from "./console.ts";
import { device, devices, kick_device, presence, timeline } from "./devices.ts";
import { device_socket } from "./device_socket.ts";
import { docs_file, docs_page } from "./docs.ts";
import { events } from "./events.ts";
import { history } from "./history.ts";
import { json_socket } from "./json_socket.ts";
import { descriptors, healthz, metrics, readyz } from "./operations.ts";
import { drain_node, nodes } from "./nodes.ts";
import { openapi_json } from "./openapi.ts";
import { push } from "./push.ts";
import { count_refusal, refuse, refuse_error } from "./problem.ts";
import { rules } from "./rules.ts";
import { publish_raw } from "./publish.ts";
import { publish_many } from "./publish_batch.ts";
import { replay_webhook, webhooks } from "./webhooks.ts";

/**
 * What a route asks of a token. token: a valid one, the handler checks topics. public: none is
 * looked at. The rest: a right.
 */
type Permission = "public" | "token" | Right;

interface Route {
  readonly method: "GET" | "POST" | "DELETE";
  readonly permission: Permission;
  /** {name} stands for one or more segments, slashes included: Call.rest. At most one. */
  readonly path: string;
  readonly handler: (call: Call, context: Context) => Response | Promise<Response>;
}

export const routes: readonly Route[] = [
  { method: "POST", path: "/v1/topics/{topic}", permission: "token", handler: publish_raw },
  { method: "GET", path: "/v1/topics/{topic}/messages", permission: "token", handler: history },
  { method: "POST", path: "/v1/publish", permission: "token", handler: publish_many },
  { method: "GET", path: "/v1/events", permission: "token", handler: events },
  { method: "GET", path: "/v1/devices", permission: "devices", handler: devices },
  {
    method: "GET",
    path: "/v1/devices/{id}/timeline",
    permission: "devices",
    handler: timeline,
  },
  { method: "GET", path: "/v1/devices/{id}", permission: "devices", handler: device },
  { method: "DELETE", path: "/v1/devices/{id}", permission: "devices", handler: kick_device },
  { method: "GET", path: "/v1/presence", permission: "devices", handler: presence },
  {
    method: "POST",
    path: "/v1/devices/{id}/messages",
    permission: "token",
    handler: push,
  },
  { method: "GET", path: "/v1/webhooks", permission: "devices", handler: webhooks },
  {
    method: "POST",
    path: "/v1/webhooks/{name}/replay",
    permission: "devices",
    handler: replay_webhook,
  },
  { method: "GET", path: "/v1/ws", permission: "token", handler: json_socket },
  { method: "GET", path: "/mqtt", permission: "public", handler: device_socket("mqtt") },
  { method: "GET", path: "/v1/longwire", permission: "public", handler: device_socket("longwire") },
  { method: "GET", path: "/", permission: "public", handler: docs_page },
  { method: "GET", path: "/docs/{file}", permission: "public", handler: docs_file },
  { method: "GET", path: "/console", permission: "public", handler: console_page },
  { method: "GET", path: "/console/{file}", permission: "public", handler: console_file },
  {
    method: "GET",
    path: "/openapi.json",
    permission: "public",
    handler: (_call, { version }) => openapi_json(routes, version),
  },
  { method: "GET", path: "/v1/rules", permission: "operate", handler: rules },
  { method: "GET", path: "/v1/nodes", permission: "operate", handler: nodes },
  { method: "POST", path: "/v1/nodes/{id}/drain", permission: "operate", handler: drain_node },
  { method: "GET", path: "/v1/fds", permission: "operate", handler: descriptors },
  { method: "GET", path: "/healthz", permission: "public", handler: healthz },
  { method: "GET", path: "/readyz", permission: "public", handler: readyz },
  { method: "GET", path: "/metrics", permission: "operate", handler: metrics },
];

interface Compiled extends Route {
  /** Fixed parts of the path, before and after {name}. */
  readonly prefix: string;
  readonly suffix: string;
}

/** Routes by their whole path, those without {name}; and the others. */
const exact = new Map<string, Route[]>();
const open: Compiled[] = [];
for (const route of routes) {
  const brace = route.path.indexOf("{");
  if (brace < 0) {
    const same = exact.get(route.path);
    if (same === undefined) exact.set(route.path, [route]);
    else same.push(route);
  } else {
    const suffix = route.path.slice(route.path.indexOf("}") + 1);
    open.push({ ...route, prefix: route.path.slice(0, brace), suffix });
  }
}

function matches(route: Compiled, path: string): boolean {
  return path.length > route.prefix.length + route.suffix.length &&
    path.startsWith(route.prefix) && path.endsWith(route.suffix);
}

/** What the part of a path between prefix and suffix says; undefined = it is not valid. */
function decode_rest(route: Compiled, path: string): string | undefined {
  const text = path.slice(route.prefix.length, path.length - route.suffix.length);
  if (!text.includes("%")) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** The routes for a path that do not take its method: why there is no answer. */
function no_route(path: string): Refused {
  const found = [...exact.get(path) ?? [], ...open.filter((route) => matches(route, path))];
  if (found.length === 0) return { code: codes.not_found, detail: `There is nothing at ${path}` };
  const allow = [...new Set(found.map(({ method }) => method))].join(", ");
  return { code: codes.method_not_allowed, detail: `${path} takes ${allow}`, extra: { allow } };
}

interface Refused {
  readonly code: Code;
  readonly detail: string;
  readonly extra?: Readonly<Record<string, string>>;
}

type Handler = (request: Request, info: ServeInfo) => Response | Promise<Response>;

/** Answers every request; nothing is thrown. */
export function make_handler(context: Context): Handler {
  const say_no = ({ code, detail, extra }: Refused) => {
    count_refusal(context.refused, code);
    return refuse(code, detail, 0, extra);
  };
  const failed = (error: unknown, path: string) => {
    const response = refuse_error(error, context.refused);
    if (response.status === 500) {
      const stack = error instanceof Error ? error.stack : String(error);
      context.log.error("bug while answering a request", { path, error: stack });
    }
    return response;
  };
  const run = (
    route: Route,
    [request, info, path, rest, search]: [Request, ServeInfo, string, string, string],
  ) => {
    const go = (access: Access) => {
      return route.handler(new Call(access, request, info, path, rest, search), context);
    };
    const check = (access: Access) => {
      if (route.permission !== "token") access.check_right(route.permission as Right);
      return go(access);
    };
    try {
      let answer: Response | Promise<Response>;
      if (route.permission === "public" || context.gate.is_open) {
        answer = go(context.gate.anybody);
      } else {
        const access = context.gate.access_of_call(token_of(request, search));
        answer = access instanceof Promise ? access.then(check) : check(access);
      }
      return answer instanceof Promise ? answer.catch((error) => failed(error, path)) : answer;
    } catch (error) {
      return failed(error, path);
    }
  };
  return (request, info) => {
    // Cheaper than URL, which Deno.serve has already checked.
    const { url, method } = request;
    const path_at = url.indexOf("/", url.indexOf("//") + 2);
    const query_at = url.indexOf("?", path_at);
    const path = query_at < 0 ? url.slice(path_at) : url.slice(path_at, query_at);
    const search = query_at < 0 ? "" : url.slice(query_at + 1);
    for (const route of exact.get(path) ?? none) {
      if (route.method === method) return run(route, [request, info, path, "", search]);
    }
    for (const route of open) {
      if (route.method !== method || !matches(route, path)) continue;
      const rest = decode_rest(route, path);
      if (rest !== undefined) return run(route, [request, info, path, rest, search]);
      return say_no({
        code: codes.query_invalid,
        detail: "The path is not percent-encoded UTF-8",
      });
    }
    return say_no(no_route(path));
  };
}

const none: readonly Route[] = [];
