/** What the OpenAPI description (3.1) knows of a route, beside what the table says. */
import type { CodeName } from "../core/codes.ts";

/** JSON Schema 2020-12. */
export type Schema = Readonly<Record<string, unknown>>;

export interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly description: string;
  readonly schema: Schema;
  readonly required?: true;
  readonly example?: unknown;
}

/** A form that a body may have. */
export interface MediaType {
  readonly schema: Schema;
  readonly example?: unknown;
}

export interface Operation {
  /** Name of the generated client's function. */
  readonly id: string;
  /** Group on the docs page. */
  readonly tag: "Publish" | "Read" | "Devices" | "Webhooks" | "Operate";
  readonly summary: string;
  readonly description?: string;
  readonly parameters: readonly Parameter[];
  /** By media type; absent = the call has no body. */
  readonly body?: Readonly<Record<string, MediaType>>;
  readonly body_is_optional?: true;
  /** By status: the answers that are no errors. */
  readonly answers: Readonly<
    Record<string, { description: string; content?: Readonly<Record<string, MediaType>> }>
  >;
  /** Codes that it may be refused with, beside those of every call. */
  readonly errors: readonly CodeName[];
}

export const text: Schema = Object.freeze({ type: "string" });
export const flag: Schema = Object.freeze({ type: "boolean" });

export function ref(name: string): Schema {
  return { $ref: `#/components/schemas/${name}` };
}

export function integer(minimum: number, maximum: number): Schema {
  return { type: "integer", minimum, maximum };
}

/** An object whose members are all required, but those of `optional`. */
export function object(
  properties: Readonly<Record<string, Schema>>,
  optional: readonly string[] = [],
): Schema {
  const required = Object.keys(properties).filter((name) => !optional.includes(name));
  return { type: "object", properties, required };
}

export function query(
  name: string,
  description: string,
  schema: Schema,
  example?: unknown,
): Parameter {
  const parameter: Parameter = { name, in: "query", description, schema };
  return example === undefined ? parameter : { ...parameter, example };
}

export function path(name: string, description: string, example: string, schema = text): Parameter {
  return { name, in: "path", required: true, description, schema, example };
}

/** An answer with a JSON body. */
export function json(description: string, schema: Schema) {
  return { description, content: { "application/json": { schema } } };
}
