/**
 * How nodes speak to each other: gRPC with JSON messages between runs of one program, and
 * grpc.health.v1.Health, which each node serves and watches on every other. A process that has
 * ended is known when its connection breaks and its port refuses another; a host that says
 * nothing is suspected, and left to its lease.
 */
import * as grpc from "@grpc/grpc-js";
import type { Address } from "../address.ts";
import { format_address } from "../address.ts";
import type { FleetQuestion } from "../fleet.ts";
import { limits } from "../limits.ts";
import { Health, health_service } from "./health.ts";
import type { Registrars } from "./holdings.ts";
import type { Member, View } from "./mod.ts";
import { client_credentials, host_of, server_credentials, tls_options } from "./peer_tls.ts";
import type { PeerTls } from "./peer_tls.ts";
import type { Announced, AskOwner, Granted, HandOver, Speaker } from "./registry.ts";

const call_timeout_ms = 3000;
const announce_timeout_ms = 1000;
const probe_timeout_ms = 300;
const watch_retry_ms = 100;

interface Messages {
  Claim: [
    Speaker & { claims: readonly (readonly [string, boolean])[] },
    { granted: readonly Granted[] },
  ];
  Announce: [
    Speaker & { held: readonly Announced[]; last: boolean },
    { taken: boolean },
  ];
  Release: [Speaker & { released: readonly (readonly [string, number])[] }, unknown];
  HandOver: [HandOver, { answer: "done" | "in_use" | "again" }];
  Drain: [unknown, unknown];
  /** What the node knows of devices (core/fleet.ts). */
  Fleet: [FleetQuestion, { answer: unknown }];
  /** Messages that cannot be stored, as hear_batch() of outage.ts has them. */
  Deliver: [Uint8Array, { audiences: readonly number[] }];
}

type Method = keyof Messages;

/** What a node answers to its peers. */
export type Handlers = {
  readonly [M in Method]: (request: Messages[M][0]) => Messages[M][1] | Promise<Messages[M][1]>;
};

const methods: readonly Method[] = [
  "Claim",
  "Announce",
  "Release",
  "HandOver",
  "Drain",
  "Fleet",
  "Deliver",
];
const to_bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value ?? {}));
const from_bytes = (bytes: Uint8Array): unknown => JSON.parse(new TextDecoder().decode(bytes));

/** What is asked is JSON, but for messages. */
function request_codec(method: Method) {
  if (method !== "Deliver") return { to: to_bytes, from: from_bytes };
  return {
    to: (value: unknown) => Buffer.from(value as Uint8Array),
    from: (bytes: Buffer) => bytes,
  };
}

function path_of(method: Method): string {
  return `/longwire.cluster.v1.Sessions/${method}`;
}

const definition = Object.fromEntries(methods.map((method) => [method, {
  path: path_of(method),
  requestStream: false,
  responseStream: false,
  requestSerialize: request_codec(method).to,
  requestDeserialize: request_codec(method).from,
  responseSerialize: to_bytes,
  responseDeserialize: from_bytes,
}])) as unknown as grpc.ServiceDefinition;

/** A dead peer is known within this, and its half. */
const keepalive = {
  "grpc.keepalive_time_ms": 500,
  "grpc.keepalive_timeout_ms": 500,
  "grpc.keepalive_permit_without_calls": 1,
};

export class PeerServer {
  readonly #server = new grpc.Server({
    ...keepalive,
    "grpc.max_receive_message_length": 16 << 20,
  });
  readonly health = new Health();

  constructor(readonly handlers: Handlers) {
    const answers = Object.fromEntries(methods.map((method) => [
      method,
      (call: grpc.ServerUnaryCall<unknown, unknown>, done: grpc.sendUnaryData<unknown>) => {
        const answer = async () => await this.handlers[method](call.request as never);
        answer().then((value) => done(null, value), (error) =>
          done({
            code: grpc.status.UNAVAILABLE,
            details: String(error),
          }));
      },
    ]));
    this.#server.addService(definition, answers);
    this.health.add_to(this.#server);
  }

  /** Answers the port. */
  listen(address: Address, tls: PeerTls | undefined): Promise<number> {
    const credentials = server_credentials(tls);
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(format_address(address), credentials, (error, port) => {
        if (error === null) resolve(port);
        else reject(new Error(`Cannot bind peer ${format_address(address)}: ${error.message}`));
      });
    });
  }

  close(): void {
    this.#server.forceShutdown();
  }
}

/** What is told of another node, again and again while it is so. */
export interface Found {
  /** Its process has ended. */
  dead(member: Member): void;
  /** It does not answer. */
  silent(member: Member): void;
}

/** One other node. */
class Peer {
  readonly #client: grpc.Client;
  /** Under way: closing a channel does not end them. */
  readonly #calls = new Set<grpc.ClientUnaryCall>();
  #watch: grpc.ClientReadableStream<unknown> | undefined;
  #closed = false;

  constructor(
    readonly member: Member,
    tls: PeerTls | undefined,
    readonly found: Found,
  ) {
    this.#client = new grpc.Client(member.peer, client_credentials(tls, member.peer), {
      ...keepalive,
      ...tls_options,
      "grpc.initial_reconnect_backoff_ms": 50,
      "grpc.min_reconnect_backoff_ms": 50,
      "grpc.max_reconnect_backoff_ms": 500,
      "grpc.max_receive_message_length": 16 << 20,
    });
    this.#begin_watch();
  }

  call<M extends Method>(
    method: M,
    request: Messages[M][0],
    timeout_ms: number,
  ): Promise<Messages[M][1]> {
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + timeout_ms };
      const call = this.#client.makeUnaryRequest(
        path_of(method),
        request_codec(method).to,
        from_bytes,
        request,
        new grpc.Metadata(),
        options,
        (error, answer) => {
          this.#calls.delete(call);
          if (error === null) resolve(answer as Messages[M][1]);
          else reject(error);
        },
      );
      this.#calls.add(call);
    });
  }

  close(): void {
    this.#closed = true;
    this.#watch?.cancel();
    for (const call of this.#calls) call.cancel();
    this.#client.close();
  }

  #begin_watch(): void {
    const { path, requestSerialize, responseDeserialize } = health_service.Watch;
    const watch = this.#client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      { service: "" },
      new grpc.Metadata({ waitForReady: true }),
    );
    this.#watch = watch;
    watch.on("data", () => {});
    watch.on("error", () => void this.#broken());
    watch.on("end", () => {});
  }

  /** The stream has ended: is there still a process that listens? */
  async #broken(): Promise<void> {
    if (this.#closed) return;
    const is_dead = await refuses(this.member.peer);
    if (!this.#closed) this.found[is_dead ? "dead" : "silent"](this.member);
    setTimeout(() => {
      if (!this.#closed) this.#begin_watch();
    }, watch_retry_ms);
  }
}

/** Whether nobody listens there: a host that does not answer does not say so. */
async function refuses(place: string): Promise<boolean> {
  const hostname = host_of(place);
  const signal = AbortSignal.timeout(probe_timeout_ms);
  try {
    const connection = await Deno.connect({
      hostname,
      port: Number(place.slice(place.lastIndexOf(":") + 1)),
      signal,
    });
    connection.close();
    return false;
  } catch (error) {
    return error instanceof Deno.errors.ConnectionRefused;
  }
}

/** The other members, and this node itself, which is spoken to without a wire. */
export class Peers implements Registrars {
  readonly #peers = new Map<string, Peer>();

  constructor(
    readonly node_id: string,
    /** Of this node, now. */
    readonly run: () => string,
    readonly own: Handlers,
    readonly tls: PeerTls | undefined,
    readonly found: Found,
  ) {}

  set_view({ members }: View): void {
    for (const [node_id, peer] of this.#peers) {
      if (members.get(node_id)?.run === peer.member.run) continue;
      peer.close();
      this.#peers.delete(node_id);
    }
    for (const member of members.values()) {
      if (member.node_id === this.node_id || this.#peers.has(member.node_id)) continue;
      this.#peers.set(member.node_id, new Peer(member, this.tls, this.found));
    }
  }

  async claim(
    node_id: string,
    view: number,
    claims: readonly (readonly [string, boolean])[],
  ): Promise<readonly Granted[]> {
    const request = { ...this.#speaker(view), claims };
    return (await this.#call(node_id, "Claim", request, call_timeout_ms)).granted;
  }

  async announce(
    node_id: string,
    view: number,
    held: readonly Announced[],
    last: boolean,
  ): Promise<boolean> {
    const request = { ...this.#speaker(view), held, last };
    return (await this.#call(node_id, "Announce", request, announce_timeout_ms)).taken;
  }

  async release(
    node_id: string,
    view: number,
    released: readonly (readonly [string, number])[],
  ): Promise<void> {
    const request = { ...this.#speaker(view), released };
    await this.#call(node_id, "Release", request, call_timeout_ms);
  }

  readonly ask_owner: AskOwner = async (node_id, request) => {
    return (await this.#call(node_id, "HandOver", request, call_timeout_ms)).answer;
  };

  others(): readonly string[] {
    return [...this.#peers.keys()];
  }

  async deliver(node_id: string, batch: Uint8Array): Promise<readonly number[]> {
    return (await this.#call(node_id, "Deliver", batch, limits.outage_timeout_ms)).audiences;
  }

  async drain(node_id: string): Promise<void> {
    await this.#call(node_id, "Drain", {}, call_timeout_ms);
  }

  async ask_fleet(node_id: string, question: FleetQuestion): Promise<unknown> {
    return (await this.#call(node_id, "Fleet", question, limits.fleet_timeout_ms)).answer;
  }

  close(): void {
    for (const peer of this.#peers.values()) peer.close();
    this.#peers.clear();
  }

  #speaker(view: number): Speaker {
    return { view, node_id: this.node_id, run: this.run() };
  }

  async #call<M extends Method>(
    node_id: string,
    method: M,
    request: Messages[M][0],
    timeout_ms: number,
  ): Promise<Messages[M][1]> {
    if (node_id === this.node_id) return await this.own[method](request);
    const peer = this.#peers.get(node_id);
    if (peer === undefined) throw new Error(`There is no node ${node_id}`);
    return await peer.call(method, request, timeout_ms);
  }
}
