/**
 * The forms in which values of settings are written: what each takes, and why it does not take
 * something. Pure.
 */
import { type Address, parse_address, type Parsed } from "./address.ts";
import { type Network, parse_network } from "./network.ts";
import { template_problem } from "./permission.ts";
import { parse_retention, retention_form } from "./retention.ts";
import { size_bytes } from "./size.ts";
import type { RetentionRule } from "./store/mod.ts";

/** A form of value. */
export interface Type<T> {
  /** What may be written, for people. */
  readonly form: string;
  readonly parse: (text: string) => Parsed<T>;
}

/** PROXY_NETWORKS_MAX of ffi/proxy.h */
const networks_max = 64;

export const listener: Type<Address | undefined> = {
  form: "host:port or off",
  parse: (text) => text === "off" ? { value: undefined } : parse_address(text),
};

export const path: Type<string> = {
  form: "path",
  parse: (text) =>
    text.includes("\0") ? { problem: "a path must not contain U+0000" } : { value: text },
};

export const path_list: Type<readonly string[]> = {
  form: "paths, comma-separated",
  parse: (text) => {
    const paths = text === "" ? [] : text.split(",").map((each) => each.trim());
    if (text.includes("\0")) return { problem: "a path must not contain U+0000" };
    return paths.includes("") ? { problem: "a path is empty" } : { value: paths };
  },
};

/** A name or a numeric address with a port. */
const place_text = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})$/;

function place_problem(text: string): string | undefined {
  const port = Number(place_text.exec(text)?.[1] ?? 0);
  return port > 0 && port <= 65_535 ? undefined : `"${text}" is not host:port`;
}

export const place: Type<string> = {
  form: "host:port",
  parse: (text) => {
    const problem = text === "" ? undefined : place_problem(text);
    return problem === undefined ? { value: text } : { problem };
  },
};

export const place_list: Type<readonly string[]> = {
  form: "host:port, comma-separated",
  parse: (text) => {
    const places = text === "" ? [] : text.split(",").map((each) => each.trim());
    const problem = places.map(place_problem).find((found) => found !== undefined);
    return problem === undefined ? { value: places } : { problem };
  },
};

export const always_listener: Type<Address> = {
  form: "host:port",
  parse: (text) => parse_address(text),
};

export const network_list: Type<readonly Network[]> = {
  form: "networks, comma-separated, or off",
  parse: (text) => {
    const networks: Network[] = [];
    for (const each of text === "off" ? [] : text.split(",")) {
      const network = parse_network(each.trim());
      if (typeof network === "string") return { problem: network };
      networks.push(network);
    }
    if (networks.length > networks_max) return { problem: `at most ${networks_max} networks` };
    return { value: networks };
  },
};

export const template_list: Type<readonly string[]> = {
  form: "topic filters, comma-separated",
  parse: (text) => {
    const templates = text === "" ? [] : text.split(",").map((each) => each.trim());
    for (const template of templates) {
      const problem = template_problem(template);
      if (problem !== undefined) return { problem };
    }
    return { value: templates };
  },
};

/** RFC 6454 section 6.2: scheme, host and port, as a browser writes them. */
export const origin_list: Type<readonly string[]> = {
  form: "origins, comma-separated, or off",
  parse: (text) => {
    const origins = text === "off" ? [] : text.split(",").map((each) => each.trim());
    for (const origin of origins) {
      if (origin !== "*" && URL.parse(origin)?.origin !== origin) {
        return { problem: `an origin is like https://app.example, not "${origin}"` };
      }
    }
    return { value: origins };
  },
};

export const any_text: Type<string> = { form: "text", parse: (text) => ({ value: text }) };

export const keys_url: Type<string> = {
  form: "URL",
  parse: (text) => {
    if (text === "") return { value: text };
    const url = URL.parse(text);
    if (url === null) return { problem: "it is not a URL" };
    const is_local = url.hostname === "localhost" || url.hostname === "[::1]" ||
      url.hostname.startsWith("127.");
    if (url.protocol === "https:" || url.protocol === "http:" && is_local) return { value: text };
    return { problem: "it must begin with https://, or the keys could be anybody's" };
  },
};

/** Smaller ones hold next to nothing beyond their own schema. */
const data_bytes_min = 1e6;

export const data_size: Type<number> = {
  form: "0 or a size, such as 20GB",
  parse: (text) => {
    const bytes = size_bytes(text);
    if (bytes === 0 || bytes !== undefined && bytes >= data_bytes_min) return { value: bytes };
    return { problem: "it must be 0 or a size of at least 1MB, such as 500MB, 20GB or 64GiB" };
  },
};

export const retention_rules: Type<readonly RetentionRule[]> = {
  form: retention_form,
  parse: (text) => {
    const rules = parse_retention(text);
    return typeof rules === "string" ? { problem: rules } : { value: rules };
  },
};

export const node_name: Type<string> = {
  form: "name",
  parse: (text) =>
    text === "" || /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(text)
      ? { value: text }
      : { problem: "a node name is 1 to 63 letters, digits, dots, hyphens and underscores" },
};

export function choice<T extends string>(...values: readonly T[]): Type<T> {
  return {
    form: values.join(", "),
    parse: (text) => {
      const value = values.find((name) => name === text);
      if (value !== undefined) return { value };
      return { problem: `it must be ${values.slice(0, -1).join(", ")} or ${values.at(-1)}` };
    },
  };
}

export function whole_number(min: number, max: number): Type<number> {
  return {
    form: `${min} to ${max}`,
    parse: (text) => {
      const value = parse_whole(text, min, max);
      if (value !== undefined) return { value };
      return { problem: `it must be a whole number from ${min} to ${max}` };
    },
  };
}

export function auto_or_number(min: number, max: number): Type<number | "auto"> {
  return {
    form: `auto or ${min} to ${max}`,
    parse: (text) => {
      const value = text === "auto" ? text : parse_whole(text, min, max);
      if (value !== undefined) return { value };
      return { problem: `it must be auto or a whole number from ${min} to ${max}` };
    },
  };
}

function parse_whole(text: string, min: number, max: number): number | undefined {
  const value = Number(text);
  return /^\d{1,15}$/.test(text) && value >= min && value <= max ? value : undefined;
}
