/** GET / and /docs/{file}: the docs page, which a script makes of openapi.json. */
import { codes, Refusal } from "../core/codes.ts";
import type { Call, Context } from "./context.ts";

const types: Readonly<Record<string, string>> = {
  "index.html": "text/html; charset=utf-8",
  "docs.css": "text/css; charset=utf-8",
  "docs.js": "text/javascript; charset=utf-8",
};

/** Nothing from elsewhere, nothing in another's frame. */
const policy = "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'";

const files = new Map<string, Uint8Array<ArrayBuffer>>();

/** The files are few and small: each is read once. */
function file(name: string, context: Context): Response {
  const type = Object.hasOwn(types, name) ? types[name] : undefined;
  if (type === undefined) throw new Refusal(codes.not_found, `There is no "${name}" in the docs`);
  let bytes = files.get(name);
  if (bytes === undefined) {
    bytes = context.read_page(name);
    files.set(name, bytes);
  }
  return new Response(bytes, {
    headers: {
      "content-type": type,
      "cache-control": "no-cache",
      "content-security-policy": policy,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
    },
  });
}

export function docs_page(_call: Call, context: Context): Response {
  return file("index.html", context);
}

export function docs_file({ rest }: Call, context: Context): Response {
  return file(rest, context);
}
