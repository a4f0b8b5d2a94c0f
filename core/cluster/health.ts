/**
 * grpc.health.v1.Health, the protocol that gRPC's own tools and Kubernetes ask: Check and Watch of
 * one server, whose messages are two fields.
 */
import type * as grpc from "@grpc/grpc-js";

/** ServingStatus. */
export const Status = { serving: 1, not_serving: 2, service_unknown: 3 } as const;
export type Status = (typeof Status)[keyof typeof Status];

/** gRPC takes a message that is falsy for none. */
interface Request {
  readonly service: string;
}

interface Answer {
  readonly status: number;
}

/** HealthCheckRequest: field 1 is the name of a service, "" = the server. */
const read_request = (bytes: Uint8Array): Request => ({
  service: bytes.length < 2 ? "" : new TextDecoder().decode(bytes.subarray(2)),
});
const write_request = ({ service }: Request): Buffer => {
  const name = new TextEncoder().encode(service);
  return Buffer.from(name.length === 0 ? [] : [0x0a, name.length, ...name]);
};
/** HealthCheckResponse: field 1 is the status. */
const read_answer = (bytes: Uint8Array): Answer => ({ status: bytes[1] ?? 0 });
const write_answer = ({ status }: Answer): Buffer => Buffer.from([0x08, status]);

function method(name: string, responseStream: boolean) {
  return {
    path: `/grpc.health.v1.Health/${name}`,
    requestStream: false as const,
    responseStream,
    requestSerialize: write_request,
    requestDeserialize: read_request,
    responseSerialize: write_answer,
    responseDeserialize: read_answer,
  };
}

export const health_service = { Check: method("Check", false), Watch: method("Watch", true) };

const not_found = 5;

/** What a server says of itself. */
export class Health {
  #status: Status = Status.serving;
  readonly #watchers = new Set<grpc.ServerWritableStream<Request, Answer>>();

  set(status: Status): void {
    this.#status = status;
    for (const watcher of this.#watchers) watcher.write({ status });
  }

  add_to(server: grpc.Server): void {
    server.addService(health_service as unknown as grpc.ServiceDefinition, {
      Check: (call: grpc.ServerUnaryCall<Request, Answer>, done: grpc.sendUnaryData<Answer>) => {
        if (call.request.service === "") done(null, { status: this.#status });
        else done({ code: not_found, details: "There is no such service" });
      },
      Watch: (call: grpc.ServerWritableStream<Request, Answer>) => {
        if (call.request.service !== "") return void call.write({ status: Status.service_unknown });
        this.#watchers.add(call);
        call.on("cancelled", () => this.#watchers.delete(call));
        call.write({ status: this.#status });
      },
    });
  }
}
