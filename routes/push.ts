/** POST /v1/devices/{id}/messages: one message to one device, answered when it is there. */
import { type Code, codes, Refusal } from "../core/codes.ts";
import { limits } from "../core/limits.ts";
import { device_id_problem } from "../core/namespace.ts";
import { inbox_topic } from "../core/receipts.ts";
import type { Passed } from "../core/message.ts";
import type { PublishOrigin } from "../core/session.ts";
import { topic_problem } from "../core/topic_tree.ts";
import { traceparent_name } from "../core/traceparent.ts";
import { parse_duration_ms, read_body } from "./body.ts";
import type { Call, Context, Query } from "./context.ts";
import { json_headers, passed_json } from "./published.ts";
import { admit, content_type_of, message_of, once_of, parse_qos } from "./publish.ts";

const timeout_default_ms = 5000;

/** The publish of a push. */
class Push implements PublishOrigin {
  appends_pending = 0;
  readonly #done = Promise.withResolvers<{ offset: number; audience: number } | Passed>();

  get done(): Promise<{ offset: number; audience: number } | Passed> {
    return this.#done.promise;
  }

  published(_token: number, offset: number, audience: number): void {
    this.#done.resolve({ offset, audience });
  }

  passed(_token: number, passed: Passed): void {
    this.#done.resolve(passed);
  }

  refused(_token: number, code: Code, detail: string, retry_after_ms: number): void {
    this.#done.reject(new Refusal(code, detail, retry_after_ms));
  }
}

/** How long to wait for the acknowledgement, milliseconds; 0 = not at all. */
function parse_wait(query: Query): number {
  const wait = query.get("wait") ?? "stored";
  const timeout = query.get("timeout");
  if (wait !== "acked" && wait !== "stored") {
    throw new Refusal(codes.query_invalid, `wait must be stored or acked, not "${wait}"`);
  }
  const ms = timeout === null ? timeout_default_ms : parse_duration_ms("timeout", timeout);
  if (ms < 1 || ms > limits.receipt_timeout_ms_max) {
    const most_s = limits.receipt_timeout_ms_max / 1000;
    throw new Refusal(codes.query_invalid, `timeout must be above 0 and at most ${most_s}s`);
  }
  return wait === "acked" ? ms : 0;
}

/** What hears of the receipt later: the URL of `callback`; undefined = nobody does. */
function callback_of(call: Call, { webhooks }: Context, wait_ms: number): URL | undefined {
  const text = call.query.get("callback");
  if (text === null) return undefined;
  if (wait_ms > 0) {
    throw new Refusal(codes.query_invalid, "wait=acked and callback exclude each other");
  }
  if (webhooks === null) throw new Refusal(codes.no_callbacks);
  const { tenant } = call.access;
  return webhooks.callbacks.check(text, tenant.name, tenant.id(call.rest));
}

function check_id(id: string): string {
  const why = device_id_problem(id) ?? topic_problem(id);
  if (why !== undefined) throw new Refusal(codes.client_id_invalid, `Cannot push to it: ${why}`);
  return id;
}

export async function push(call: Call, context: Context): Promise<Response> {
  const { query, access, request } = call;
  const id = check_id(call.rest);
  const topic = inbox_topic(id);
  const qos = parse_qos(query.get("qos") ?? 1);
  if (qos === 0) throw new Refusal(codes.query_invalid, "qos must be 1 or 2");
  const ttl = query.get("ttl");
  const ttl_ms = ttl === null ? 0 : parse_duration_ms("ttl", ttl);
  const wait_ms = parse_wait(query);
  const callback = callback_of(call, context, wait_ms);
  const payload = await read_body(request, limits.payload_bytes_max, context);
  const now_ms = context.now_ms();
  const inner = admit(call, topic, payload.length, now_ms);
  const { receipts, store } = context;
  const is_followed = wait_ms > 0 || callback !== undefined;
  const session = is_followed ? receipts.expect(access.tenant.id(id), inner) : undefined;
  const content_type = content_type_of(request);
  const traceparent = request.headers.get(traceparent_name);
  const options = { qos, retain: false, ttl_ms, key: "", content_type, now_ms, traceparent };
  const push = new Push();
  const message = message_of(inner, payload, options);
  context.router.publish(message, push, 0, null, once_of(call));
  const done = await push.done;
  if (!("offset" in done)) { // nothing acknowledges what is not stored
    return new Response(passed_json(store.epoch, done), { ...json_headers, status: 202 });
  }
  const { offset, audience } = done;
  const id_in_log = `${store.epoch}:${offset}`;
  if (session !== undefined) {
    try {
      if (callback === undefined) await receipts.acknowledged(session, offset, wait_ms);
      else {
        const told = { offset, topic: inner, expires_ms: message.expires_ms };
        await context.webhooks!.callbacks.add(session, told, callback);
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const detail = `${error.message}; it is stored as ${id_in_log}`;
      throw new Refusal(error.code, detail, error.retry_after_ms);
    }
  }
  const acked = session !== undefined && callback === undefined;
  const time = acked ? { time: new Date(context.now_ms()).toISOString() } : {};
  const answer = {
    id: id_in_log,
    epoch: store.epoch,
    offset,
    topic,
    audience,
    acked,
    ...time,
  };
  return Response.json(answer, { status: callback === undefined ? 200 : 202 });
}
