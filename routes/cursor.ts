/** Places in the log as HTTP writes them: "epoch:offset". */
import { codes, Refusal } from "../core/codes.ts";

/**
 * Offset of a cursor in this log; 0 with `is_other_epoch` for one of another life of the log, in
 * which all offsets mean something else. Throws Refusal(query_invalid).
 */
export function parse_cursor(
  name: string,
  text: string,
  epoch: string,
): { offset: number; is_other_epoch: boolean } {
  const colon = text.lastIndexOf(":");
  const digits = text.slice(colon + 1);
  if (!/^\d{1,15}$/.test(digits)) {
    throw new Refusal(codes.query_invalid, `${name} must be epoch:offset or an offset`);
  }
  const is_other_epoch = colon >= 0 && text.slice(0, colon) !== epoch;
  return { offset: is_other_epoch ? 0 : Number(digits), is_other_epoch };
}
