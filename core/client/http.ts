/** How commands ask a service over HTTP. */
import { UsageError } from "./options.ts";

const url_default = "http://127.0.0.1:8080";

/** What `--url` says, without a slash at its end. Throws UsageError. */
export function http_url(text = url_default): string {
  if (URL.parse(text)?.protocol.startsWith("http") === true) return text.replace(/\/$/, "");
  throw new UsageError(`Cannot use --url "${text}": it must be like ${url_default}`);
}

/** One call, JSON. Throws an Error that says why not. */
export async function ask(url: string, token: string, method = "GET"): Promise<unknown> {
  const headers: Record<string, string> = token === "" ? {} : { authorization: `Bearer ${token}` };
  const response = await fetch(url, { method, headers });
  const body = await response.json();
  if (response.ok) return body;
  throw new Error(body.detail ?? `the service answers ${response.status}`);
}
