/**
 * GET /console and /console/{file}: the operations page. Its modules are served as they are,
 * and its libraries as their packages hold them, so that there is nothing to build.
 */
import { codes, Refusal } from "../core/codes.ts";
import type { Call, Context } from "./context.ts";
import { page_file } from "./page_file.ts";

/** Files of routes/page. */
const own: readonly string[] = [
  "console.css",
  "console.js",
  "console_api.js",
  "console_charts.js",
  "console_devices.js",
  "console_messages.js",
  "console_metrics.js",
  "console_overview.js",
];

/** Files of packages: where they lie in theirs. */
const libraries: Readonly<Record<string, readonly [name: string, path: string]>> = {
  "preact.mjs": ["preact", "dist/preact.mjs"],
  "hooks.mjs": ["preact", "hooks/dist/hooks.mjs"],
  "htm.mjs": ["htm", "dist/htm.mjs"],
  "uplot.mjs": ["uplot", "dist/uPlot.esm.js"],
  "uplot.css": ["uplot", "dist/uPlot.min.css"],
};

/** Where a browser finds what modules call by name: it knows no packages. */
const addresses: Readonly<Record<string, string>> = {
  "preact": "./preact.mjs",
  "preact/hooks": "./hooks.mjs",
  "htm": "./htm.mjs",
  "uplot": "./uplot.mjs",
};

function with_addresses(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const text = new TextDecoder().decode(bytes);
  return new TextEncoder().encode(text.replace(/from ?"([a-z/]+)"/g, (whole, name) => {
    return Object.hasOwn(addresses, name) ? `from "${addresses[name]}"` : whole;
  }));
}

export function console_page(_call: Call, { read_page }: Context): Response {
  return page_file("console.html", () => read_page("console.html"));
}

export function console_file({ rest }: Call, { read_page, read_package }: Context): Response {
  if (own.includes(rest)) return page_file(rest, () => with_addresses(read_page(rest)));
  const library = Object.hasOwn(libraries, rest) ? libraries[rest] : undefined;
  if (library !== undefined) {
    return page_file(rest, () => with_addresses(read_package(...library)));
  }
  throw new Refusal(codes.not_found, `There is no "${rest}" in the console`);
}
