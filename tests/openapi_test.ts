/**
 * The OpenAPI description against the running service: every route is described, and whatever is
 * sent, valid by the description or not, there is no 500 and no hang, and every error is
 * problem+json with a name of core/codes.ts and a status that the description lists.
 */
import { assert, assertEquals } from "@std/assert";
import { type CodeName, codes } from "../core/codes.ts";
import { operations } from "../routes/describe.ts";
import { routes } from "../routes/mod.ts";
import { random_of, seed_for } from "./cases/random.ts";
import { Service } from "./support/service.ts";
import { patience_ms } from "./support/wait.ts";

type Schema = Record<string, unknown>;

interface Operation {
  readonly parameters: readonly { name: string; in: string; required?: boolean; schema: Schema }[];
  readonly requestBody?: { required: boolean; content: Record<string, { schema: Schema }> };
  readonly responses: Record<string, { content?: Record<string, unknown> }>;
}

interface Api {
  readonly openapi: string;
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { schemas: Record<string, Schema> };
}

/** Requests of each operation, half of them valid by the description. */
const rounds = 60;

/** Texts that have broken one parser or another. */
const nasty = [
  "",
  "0",
  "-1",
  "1e309",
  "NaN",
  "true",
  "null",
  "a/b",
  "+",
  "#",
  "a/#/b",
  "$SYS/x",
  "$share/g/#",
  "\u0000",
  "\ud800",
  "é/漢/🎉",
  "/".repeat(200),
  "x".repeat(5000),
  "../../etc/passwd",
  "%00",
  "__proto__",
  "constructor",
  "9".repeat(20),
  "99999999999d",
  "a:b:c:-1",
];

class Generator {
  constructor(readonly random: () => number, readonly api: Api) {}

  below(count: number): number {
    return Math.floor(this.random() * count);
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)];
  }

  /** A value that the schema allows. */
  valid(schema: Schema, depth = 0): unknown {
    const reference = schema.$ref as string | undefined;
    if (reference !== undefined) {
      return this.valid(this.api.components.schemas[reference.split("/").at(-1)!], depth);
    }
    if (schema.oneOf !== undefined) return this.valid(this.pick(schema.oneOf as Schema[]), depth);
    if (schema.enum !== undefined) return this.pick(schema.enum as unknown[]);
    switch (schema.type) {
      case "object":
        return this.#object(schema, depth);
      case "array":
        return Array.from({ length: this.below(5) }, () => {
          return this.valid(schema.items as Schema, depth + 1);
        });
      case "integer":
      case "number": {
        const { minimum = 0, maximum = 1000 } = schema as { minimum?: number; maximum?: number };
        return minimum + this.below(Math.min(maximum - minimum, 1e6) + 1);
      }
      case "boolean":
        return this.random() < 0.5;
      case "string":
        return this.#text(schema);
      default:
        return depth > 3 ? 1 : this.any(depth);
    }
  }

  #object(schema: Schema, depth: number): Schema {
    const required = schema.required as string[] ?? [];
    const excluded = (schema.not as { required?: string[] } | undefined)?.required ?? [];
    const result: Schema = {};
    for (const [name, member] of Object.entries(schema.properties as Record<string, Schema>)) {
      const is_wanted = required.includes(name) || this.random() < 0.4;
      const is_excluded = excluded.includes(name) && excluded.some((other) => other in result);
      if (is_wanted && !is_excluded) result[name] = this.valid(member, depth + 1);
    }
    return result;
  }

  #text(schema: Schema): string {
    if (schema.contentEncoding === "base64") return btoa("x".repeat(this.below(20)));
    if (schema.format === "uri") return "https://example.com/hook";
    const pattern = schema.pattern as string | undefined;
    // Samples of the patterns that the description has.
    const samples = ["5s", "250ms", "a/b", "demo", "x/é", "7", "e:12"];
    const fitting = pattern === undefined
      ? samples
      : samples.filter((text) => new RegExp(pattern, "u").test(text));
    assert(fitting.length > 0, `no sample for ${pattern}`);
    return this.pick(fitting);
  }

  /** Any JSON. */
  any(depth = 0): unknown {
    switch (this.below(depth > 3 ? 4 : 6)) {
      case 0:
        return this.pick(nasty);
      case 1:
        return this.pick([0, -1, 1.5, 1e300, 2 ** 53, null, true, false]);
      case 2:
      case 3:
        return this.random();
      case 4:
        return Array.from({ length: this.below(4) }, () => this.any(depth + 1));
      default:
        return { [this.pick(nasty)]: this.any(depth + 1), topic: this.any(depth + 1) };
    }
  }
}

interface Sent {
  readonly method: string;
  readonly url: string;
  readonly headers: Record<string, string>;
  readonly body?: string;
}

/** A request of an operation: valid by the description, or with something wrong in each place. */
function request_of(
  make: Generator,
  path: string,
  method: string,
  operation: Operation,
  is_valid: boolean,
): Sent {
  const query = new URLSearchParams();
  const headers: Record<string, string> = {};
  let place = path;
  for (const { name, in: where, required, schema } of operation.parameters) {
    if (name === "access_token" || !required && make.random() < 0.5) continue;
    const is_good = is_valid || make.random() < 0.5;
    let value = String(is_good ? make.valid(schema) : make.pick(nasty)).toWellFormed();
    if (where === "path") place = place.replace(`{${name}}`, encodeURIComponent(value));
    else if (where === "query") query.append(name, value);
    else {
      value = value.replace(/[^\x20-\x7e]/g, "?").trim();
      headers[name] = value;
    }
  }
  if (!is_valid && make.random() < 0.2) query.append(make.pick(nasty).toWellFormed(), "x");
  const url = `${place}${query.size > 0 ? `?${query}` : ""}`;
  const sent = { method: method.toUpperCase(), url, headers };
  if (operation.requestBody === undefined) return sent;
  const [type, { schema }] = make.pick(Object.entries(operation.requestBody.content));
  if (type !== "*/*") headers["content-type"] = type;
  const good = make.valid(schema);
  if (is_valid) return { ...sent, body: type.endsWith("/json") ? JSON.stringify(good) : `${good}` };
  const bodies = [JSON.stringify(make.any()) ?? "", JSON.stringify(good).slice(0, -1)];
  return { ...sent, body: make.pick([...bodies, make.pick(nasty), "[".repeat(20_000)]) };
}

/** Sends one; fails with how to repeat it. */
async function check(service: Service, sent: Sent, operation: Operation): Promise<number> {
  const about = () => JSON.stringify({ ...sent, body: sent.body?.slice(0, 300) });
  const { method, headers, body } = sent;
  const aborter = new AbortController();
  const timer = setTimeout(() => aborter.abort(), patience_ms);
  try {
    const response = await fetch(`${service.http}${sent.url}`, {
      method,
      headers,
      signal: aborter.signal,
      ...(body === undefined ? {} : { body }),
    });
    const { status } = response;
    const type = response.headers.get("content-type") ?? "";
    if (type.startsWith("text/event-stream")) {
      await response.body?.cancel();
      return status;
    }
    const text = await response.text();
    assert(status !== 500, `500 for ${about()}: ${text}`);
    assert(`${status}` in operation.responses, `${status} is not described: ${about()}: ${text}`);
    if (status < 400) return status;
    assertEquals(type, "application/problem+json", about());
    const problem = JSON.parse(text);
    const code = codes[problem.code as CodeName];
    assert(code !== undefined, `${problem.code} is no code: ${about()}`);
    assertEquals([problem.status, code.http], [status, status], about());
    if (status === 429 || status === 503) assert(response.headers.has("retry-after"), about());
    return status;
  } catch (error) {
    if (!aborter.signal.aborted) throw error;
    throw new Error(`no answer within ${patience_ms} ms: ${about()}`);
  } finally {
    clearTimeout(timer);
  }
}

Deno.test("every route is described, and every described error is a code", () => {
  const named = routes.map(({ method, path }) => `${method} ${path}`);
  assertEquals(named.filter((name) => operations[name] === undefined), []);
  const ids = named.map((name) => operations[name].id);
  assertEquals(new Set(ids).size, ids.length);
});

Deno.test("the service keeps to its OpenAPI description, whatever it is asked", async () => {
  await using service = await Service.start();
  const api: Api = await (await fetch(`${service.http}/openapi.json`)).json();
  assertEquals(api.openapi, "3.1.0");
  const make = new Generator(random_of(seed_for("openapi")), api);
  const good = new Map<string, number>();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      if ("101" in operation.responses) continue; // tests of WebSocket ask these
      const name = `${method} ${path}`;
      for (let round = 0; round < rounds; round++) {
        const is_valid = round % 2 === 0;
        const sent = request_of(make, path, method, operation, is_valid);
        const status = await check(service, sent, operation);
        if (is_valid && status < 400) good.set(name, (good.get(name) ?? 0) + 1);
      }
    }
  }
  // The fuzzer is worth nothing where all that it calls valid is refused.
  for (const name of ["post /v1/publish", "post /v1/topics/{topic}", "get /v1/events"]) {
    assert((good.get(name) ?? 0) > rounds / 4, `${name}: ${good.get(name)} of ${rounds / 2}`);
  }
  assertEquals(await service.metric('longwire_http_refusals_total{code="internal"}'), 0);
});
