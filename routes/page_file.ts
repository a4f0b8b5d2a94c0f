/** How the service's own pages are served: read once, nothing from elsewhere, in nobody's frame. */

const types: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  mjs: "text/javascript; charset=utf-8",
};

const policy = "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'";

const files = new Map<string, Uint8Array<ArrayBuffer>>();

/**
 * The answer with a file. They are few and small: each is read once.
 * @param name distinct among all pages, with an ending of `types`
 */
export function page_file(name: string, read: () => Uint8Array<ArrayBuffer>): Response {
  let bytes = files.get(name);
  if (bytes === undefined) files.set(name, bytes = read());
  return new Response(bytes, {
    headers: {
      "content-type": types[name.slice(name.lastIndexOf(".") + 1)],
      "cache-control": "no-cache",
      "content-security-policy": policy,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
    },
  });
}
