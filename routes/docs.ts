/** GET / and /docs/{file}: the docs page, which a script makes of openapi.json. */
import { codes, Refusal } from "../core/codes.ts";
import type { Call, Context } from "./context.ts";
import { page_file } from "./page_file.ts";

const names: readonly string[] = ["docs.css", "docs.js"];

export function docs_page(_call: Call, { read_page }: Context): Response {
  return page_file("index.html", () => read_page("index.html"));
}

export function docs_file({ rest }: Call, { read_page }: Context): Response {
  if (names.includes(rest)) return page_file(rest, () => read_page(rest));
  throw new Refusal(codes.not_found, `There is no "${rest}" in the docs`);
}
