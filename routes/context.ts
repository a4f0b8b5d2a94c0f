/**
 * What a route is given: the parts of the service that routes speak to, and the call it answers.
 */
import type { ClusterNode } from "../core/cluster/ownership.ts";
import type { Degradation } from "../core/cluster/degradation.ts";
import type { Rules } from "../core/cluster/rules.ts";
import type { Access } from "../core/access.ts";
import type { Code } from "../core/codes.ts";
import type { Descriptors } from "../core/descriptors.ts";
import type { Fleet } from "../core/fleet.ts";
import type { Gate } from "../core/gate.ts";
import type { Log } from "../core/log.ts";
import type { Metrics } from "../core/metrics.ts";
import type { Receipts } from "../core/receipts.ts";
import type { Router } from "../core/router.ts";
import type { Store } from "../core/store/mod.ts";
import type { Webhooks } from "../core/webhooks/mod.ts";

/** What devices speak over WebSocket: also the name of the subprotocol. */
export type DeviceProtocol = "mqtt" | "longwire";

export interface Context {
  /** Of the service. */
  readonly version: string;
  /** Within which a request must have brought its body. */
  readonly body_timeout_s: number;
  /** A file of routes/page. */
  readonly read_page: (name: string) => Uint8Array<ArrayBuffer>;
  /** A file of a package, by its path there. */
  readonly read_package: (name: string, path: string) => Uint8Array<ArrayBuffer>;
  readonly gate: Gate;
  /** null = this node is alone. */
  readonly cluster: ClusterNode | null;
  readonly descriptors: Descriptors;
  readonly fleet: Fleet;
  readonly rules: Rules;
  readonly degradation: Pick<Degradation, "step">;
  readonly router: Router;
  readonly store: Store;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly receipts: Receipts;
  /** null = they are not set up. */
  readonly webhooks: Webhooks | null;
  /** Unix milliseconds. */
  readonly now_ms: () => number;
  readonly is_stopping: () => boolean;
  /** A connection to a device listener of this service, as one that comes from `remote`. */
  readonly open_bridge: Readonly<
    Record<DeviceProtocol, (remote: Remote) => Promise<RawConnection>>
  >;
  /** What HTTP has refused, calls and items of batches, by code: for metrics. */
  readonly refused: Map<Code, number>;
}

/** Whose a connection is. */
export interface Remote {
  readonly host: string;
  readonly port: number;
}

/** A stream of bytes each way. */
export interface RawConnection {
  /** Bytes read; null = the stream has ended. */
  read(room: Uint8Array): Promise<number | null>;
  /** Bytes written. */
  write(bytes: Uint8Array): Promise<number>;
  close(): void;
}

/** What Deno.serve knows of a request besides the request. */
export interface ServeInfo {
  readonly remoteAddr: { readonly hostname: string; readonly port: number };
}

/** Names and values of a query string. */
export interface Query {
  get(name: string): string | null;
  getAll(name: string): string[];
  has(name: string): boolean;
  keys(): Iterable<string>;
}

/** A query without escapes, as most are: URLSearchParams would take a microsecond for it. */
class PlainQuery implements Query {
  readonly #pairs: (readonly [name: string, value: string])[] = [];

  constructor(search: string) {
    for (const part of search === "" ? [] : search.split("&")) {
      if (part === "") continue;
      const equals = part.indexOf("=");
      if (equals < 0) this.#pairs.push([part, ""]);
      else this.#pairs.push([part.slice(0, equals), part.slice(equals + 1)]);
    }
  }

  get(name: string): string | null {
    for (const pair of this.#pairs) if (pair[0] === name) return pair[1];
    return null;
  }

  getAll(name: string): string[] {
    return this.#pairs.filter((pair) => pair[0] === name).map((pair) => pair[1]);
  }

  has(name: string): boolean {
    return this.get(name) !== null;
  }

  keys(): Iterable<string> {
    return this.#pairs.map((pair) => pair[0]);
  }
}

const no_query: Query = new PlainQuery("");

/** What follows the question mark, application/x-www-form-urlencoded. */
export function parse_query(search: string): Query {
  if (search === "") return no_query;
  return /[%+]/.test(search) ? new URLSearchParams(search) : new PlainQuery(search);
}

/** One request on its way through the table. What is dear and seldom wanted is made when asked. */
export class Call {
  constructor(
    /** What the caller may do; of a public route, what somebody without a token may. */
    readonly access: Access,
    readonly request: Request,
    readonly info: ServeInfo,
    /** As it was sent, percent-encoded. */
    readonly path: string,
    /** Decoded part of the path that stands for {name}; "" when the route has none. */
    readonly rest: string,
    /** What follows the question mark; "" = nothing. */
    readonly search: string,
  ) {}

  get query(): Query {
    return parse_query(this.search);
  }

  get remote(): Remote {
    const { hostname, port } = this.info.remoteAddr;
    return { host: hostname, port };
  }
}
