/**
 * Every error that HTTP answers, in one form: problem+json (RFC 9457) with a name of core/codes.ts.
 */
import { type Code, codes, Refusal } from "../core/codes.ts";

/** Told to those who ask again later, when nothing better is known, seconds. */
const retry_after_default_s = 1;

/** The body of an error, also of one item of a batch. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly code: string;
  readonly detail: string;
}

export function problem(code: Code, detail: string = code.meaning): Problem {
  return {
    type: `urn:longwire:error:${code.name}`,
    title: code.meaning,
    status: code.http,
    code: code.name,
    detail,
  };
}

/** The response that says `code`; 429 and 503 carry Retry-After (RFC 9110 section 10.2.3). */
export function refuse(
  code: Code,
  detail?: string,
  retry_after_ms = 0,
  extra: Readonly<Record<string, string>> = {},
): Response {
  const headers: Record<string, string> = {
    "content-type": "application/problem+json",
    ...extra,
  };
  if (code.http === 429 || code.http === 503) {
    headers["retry-after"] = String(Math.ceil(retry_after_ms / 1000) || retry_after_default_s);
  }
  // RFC 6750 section 3: a call without a token is told no more than that it needs one.
  if (code.http === 401) headers["www-authenticate"] ??= 'Bearer error="invalid_token"';
  return new Response(JSON.stringify(problem(code, detail)), { status: code.http, headers });
}

/** Counts a refusal by its code. */
export function count_refusal(counts: Map<Code, number>, code: Code): void {
  counts.set(code, (counts.get(code) ?? 0) + 1);
}

/** What a handler threw, as a response: a Refusal says itself, anything else is a bug of ours. */
export function refuse_error(error: unknown, counts: Map<Code, number>): Response {
  const refusal = error instanceof Refusal ? error : new Refusal(codes.internal);
  count_refusal(counts, refusal.code);
  return refuse(refusal.code, refusal.message, refusal.retry_after_ms);
}
