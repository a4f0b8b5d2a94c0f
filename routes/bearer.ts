/** The token of a request: RFC 6750, in the header or, for browsers' streams, in the query. */
import { codes, Refusal } from "../core/codes.ts";
import { parse_query } from "./context.ts";

/**
 * "" = there is none. EventSource and WebSocket cannot send headers: a GET may have `access_token`
 * in its query instead. Throws Refusal(unauthorized) for another scheme, or for a token in both.
 */
export function token_of(request: Request, search: string): string {
  const header = request.headers.get("authorization");
  const in_query = request.method === "GET" ? parse_query(search).get("access_token") : null;
  if (header === null) return in_query ?? "";
  if (in_query !== null) throw new Refusal(codes.unauthorized, "There are two tokens");
  const found = /^bearer +([\w.~+/=-]+)$/i.exec(header);
  if (found === null) throw new Refusal(codes.unauthorized, "Authorization must be: Bearer TOKEN");
  return found[1];
}
