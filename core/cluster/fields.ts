/**
 * Reads JSON documents of operators strictly: a member that is absent takes its default, one that
 * is unknown or wrong is said with its path. Pure.
 */
import { did_you_mean, nearest } from "../did_you_mean.ts";

/** Why a document cannot be used, as one sentence without a period. */
export class FieldProblem extends Error {
  override readonly name = "FieldProblem";
}

type Members = Readonly<Record<string, unknown>>;

/** Members of one object. */
export class Fields {
  readonly #members: Members;
  readonly #known: string[] = [];

  /** @param path of the object, for people: "limits", "breaker.rules[0]" */
  constructor(value: unknown, readonly path: string) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new FieldProblem(`${path} must be an object`);
    }
    this.#members = value as Members;
  }

  number(name: string, fallback: number, least: number, most: number): number {
    const value = this.#take(name) ?? fallback;
    const is_good = typeof value === "number" && value >= least && value <= most;
    if (!is_good) throw this.#problem(name, `must be a number from ${least} to ${most}`);
    return value;
  }

  whole(name: string, fallback: number, least: number, most: number): number {
    const value = this.number(name, fallback, least, most);
    if (!Number.isInteger(value)) throw this.#problem(name, "must be a whole number");
    return value;
  }

  /** @param form what it must be, for people: "a topic filter" */
  text(name: string, fallback: string, form: string, fits: (text: string) => boolean): string {
    const value = this.#take(name) ?? fallback;
    if (typeof value === "string" && fits(value)) return value;
    throw this.#problem(name, `must be ${form}`);
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.#take(name) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.#problem(name, "must be true or false");
  }

  /** A number, or null, which an absent one is too. */
  maybe_number(name: string): number | null {
    const value = this.#take(name) ?? null;
    if (value === null || typeof value === "number" && Number.isFinite(value)) return value;
    throw this.#problem(name, "must be a number");
  }

  /** An absent list is `fallback`. */
  list<T>(
    name: string,
    count_max: number,
    fallback: readonly T[],
    read: (value: unknown, path: string) => T,
  ): readonly T[] {
    const value = this.#take(name);
    if (value === undefined) return fallback;
    if (!Array.isArray(value) || value.length > count_max) {
      throw this.#problem(name, `must be a list of at most ${count_max}`);
    }
    return value.map((each, index) => read(each, `${this.path}.${name}[${index}]`));
  }

  /** An absent object is an empty one. */
  object<T>(name: string, read: (fields: Fields) => T): T {
    return read(new Fields(this.#take(name) ?? {}, `${this.path}.${name}`));
  }

  /** An object whose members have names of the operator's. */
  map<T>(
    name: string,
    fits: (name: string) => boolean,
    read: (fields: Fields) => T,
  ): Readonly<Record<string, T>> {
    const path = `${this.path}.${name}`;
    const value = this.#take(name) ?? {};
    const { ...members } = new Fields(value, path).#members;
    return Object.fromEntries(
      Object.entries(members).map(([key, each]) => {
        if (!fits(key)) throw new FieldProblem(`"${key}" cannot be a name in ${path}`);
        return [key, read(new Fields(each, `${path}.${key}`))];
      }),
    );
  }

  /** Nothing else may be there. */
  end(): void {
    for (const name of Object.keys(this.#members)) {
      if (this.#known.includes(name)) continue;
      const hint = did_you_mean(nearest(name, this.#known));
      throw new FieldProblem(`${this.path} has no member "${name}"${hint}`);
    }
  }

  #take(name: string): unknown {
    this.#known.push(name);
    return Object.hasOwn(this.#members, name) ? this.#members[name] : undefined;
  }

  #problem(name: string, what: string): FieldProblem {
    return new FieldProblem(`${this.path}.${name} ${what}`);
  }
}

/** One of a list of texts. */
export function text_of(form: string, fits: (text: string) => boolean) {
  return (value: unknown, path: string): string => {
    if (typeof value === "string" && fits(value)) return value;
    throw new FieldProblem(`${path} must be ${form}`);
  };
}
