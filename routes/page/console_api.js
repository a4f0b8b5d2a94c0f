/** How the console asks the service: the public API, with the token of this tab. */

const token_key = "longwire.token";

export function token() {
  return sessionStorage.getItem(token_key) ?? "";
}

/** Kept in this tab only: it is gone when the tab is. */
export function set_token(text) {
  if (text === "") sessionStorage.removeItem(token_key);
  else sessionStorage.setItem(token_key, text);
}

/** The service has said no, or has not answered (status 0). */
export class ApiError extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  /** A token is missing, or has not the right. */
  get is_denied() {
    return this.status === 401 || this.status === 403;
  }
}

/**
 * The response of a call that went well. Throws ApiError.
 * @param path relative, so that the page works behind a proxy that adds a prefix
 */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token() !== "") headers.authorization = `Bearer ${token()}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The service does not answer");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const detail = body.detail ?? body.title ?? `The service answers ${response.status}`;
  throw new ApiError(response.status, body.code ?? "", detail);
}

export async function ask_json(path, options) {
  return await (await ask(path, options)).json();
}

/** Reads Server-Sent Events by fetch: EventSource cannot send a token in a header. */
export async function* events_of(path, signal) {
  const response = await ask(path, { signal });
  let text = "";
  for await (const part of chunks_of(response.body.pipeThrough(new TextDecoderStream()))) {
    text += part;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const fields = text.slice(0, end).split("\n").map((line) => line.split(/: ?(.*)/s));
      const field = (name) => fields.find(([key]) => key === name)?.[1] ?? "";
      const data = field("data");
      if (data !== "") yield { event: field("event"), data: JSON.parse(data) };
    }
  }
}

/** Not every browser lets a stream be iterated. */
async function* chunks_of(stream) {
  const reader = stream.getReader();
  try {
    for (let read; !(read = await reader.read()).done;) yield read.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
