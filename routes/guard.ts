/**
 * What a request must be before any route sees it. Browsers send along what they are told by any
 * page: so a page of another origin is answered only where the operator lists it, and without keys
 * the service answers to addresses only, for any name may be made to mean this machine.
 */
import { type Code, codes } from "../core/codes.ts";
import type { ServeInfo } from "./context.ts";
import { count_refusal, refuse } from "./problem.ts";

type Handler = (request: Request, info: ServeInfo) => Response | Promise<Response>;

export interface GuardOptions {
  /** Origins whose pages may call; "*" among them = every page. */
  readonly cors_origins: readonly string[];
  /** Without keys everybody who gets through may do everything. */
  readonly is_open: boolean;
  readonly refused: Map<Code, number>;
}

const cors_methods = "GET, POST, DELETE";
const cors_headers =
  "authorization, content-type, content-encoding, idempotency-key, last-event-id, traceparent";
const cors_exposed = "retry-after, www-authenticate";
const preflight_s = 600;

/** Names that a request was good under: few, for each is an address of this machine. */
const hosts_max = 64;

/** Whether a host of a URL is an address, or the name that every browser keeps to this machine. */
function is_address(host: string): boolean {
  const name = host.replace(/:\d*$/, "").toLowerCase();
  return name === "localhost" || name.startsWith("[") || /^\d+(\.\d+){3}$/.test(name);
}

/** Puts the guard before a handler. */
export function guard(handler: Handler, options: GuardOptions): Handler {
  const { is_open, refused } = options;
  const origins = new Set(options.cors_origins);
  const good_hosts = new Set<string>();
  const say_no = (detail?: string) => {
    count_refusal(refused, codes.origin_forbidden);
    return refuse(codes.origin_forbidden, detail);
  };
  const answers_to = (host: string) => {
    if (good_hosts.has(host)) return true;
    if (!is_address(host)) return false;
    if (good_hosts.size < hosts_max) good_hosts.add(host);
    return true;
  };
  return (request, info) => {
    const { url } = request;
    const host_at = url.indexOf("//") + 2;
    const host = url.slice(host_at, url.indexOf("/", host_at));
    if (is_open && !answers_to(host)) {
      return say_no("Without keys the service answers to its address only, not to a name");
    }
    const origin = request.headers.get("origin");
    if (origin === null || URL.parse(origin)?.host === host) return handler(request, info);
    if (!origins.has(origin) && !origins.has("*")) {
      return say_no();
    }
    const cors = { "access-control-allow-origin": origin, vary: "origin" };
    const is_preflight = request.method === "OPTIONS" &&
      request.headers.has("access-control-request-method");
    return is_preflight ? preflight(cors) : with_headers(handler(request, info), cors);
  };
}

/** Fetch standard, section 3.3.3. */
function preflight(cors: Readonly<Record<string, string>>): Response {
  return new Response(null, {
    status: 204,
    headers: {
      ...cors,
      "access-control-allow-methods": cors_methods,
      "access-control-allow-headers": cors_headers,
      "access-control-max-age": String(preflight_s),
    },
  });
}

async function with_headers(
  answer: Response | Promise<Response>,
  cors: Readonly<Record<string, string>>,
): Promise<Response> {
  const response = await answer;
  if (response.status === 101) return response; // a WebSocket, to which CORS does not apply
  for (const [name, value] of Object.entries(cors)) response.headers.set(name, value);
  response.headers.set("access-control-expose-headers", cors_exposed);
  return response;
}
