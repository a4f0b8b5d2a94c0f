/**
 * The habits of the house as tests: who may import whom, how long a function or a line may be, how
 * a file opens, what no file may hold, that no file is dead. A problem names file:line. What is
 * right and cannot be expressed in these rules changes the rule, with its reason, not the count of
 * problems.
 */
import { assertEquals, fail } from "@std/assert";
import { code_count, codes } from "../core/codes.ts";
import { settings_markdown } from "../core/config_help.ts";

const root = new URL("../", import.meta.url);
const function_lines_goal = 70;
const function_lines_max = 90;
const columns_max = 100;

// ------------------------------------------------------------------------------ the files

/** What belongs to the project, as git sees it; a copy without git is walked instead. */
async function project_paths(): Promise<string[]> {
  try {
    const out = await new Deno.Command("git", {
      args: ["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
      cwd: root,
      stderr: "null",
    }).output();
    const paths = new TextDecoder().decode(out.stdout).split("\0").filter((path) => path !== "");
    if (out.success && paths.length > 0) return [...new Set(paths)].sort();
  } catch (error) {
    const is_absent = error instanceof Deno.errors.NotFound ||
      error instanceof Deno.errors.NotCapable;
    if (!is_absent) throw error;
  }
  return walk("").sort();
}

function walk(directory: string): string[] {
  const skipped = [".git", "node_modules", ".build", "data", "coverage"];
  return [...Deno.readDirSync(new URL(directory || ".", root))].flatMap((entry) => {
    if (skipped.includes(entry.name)) return [];
    return entry.isDirectory ? walk(`${directory}${entry.name}/`) : [directory + entry.name];
  });
}

/** Text of a file; undefined when it is gone (deleted, not committed) or not text. */
function read_text(path: string): string | undefined {
  try {
    const text = Deno.readTextFileSync(new URL(encodeURI(path), root));
    return text.includes("\0") ? undefined : text;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.IsADirectory) return;
    throw error;
  }
}

const texts = new Map<string, string>();
for (const path of await project_paths()) {
  const text = read_text(path);
  if (text !== undefined) texts.set(path, text);
}
const manifest = JSON.parse(texts.get("deno.json") ?? "{}");

/** deno.json says what is generated: the formatter and the linter leave the same files alone. */
const generated = new Set<string>(manifest.lint?.exclude ?? []);

function is_hand_written(path: string): boolean {
  return !generated.has(path) && !path.startsWith("tests/cases/");
}

const sources = [...texts].filter(([path]) => /\.(ts|c|h)$/.test(path) && is_hand_written(path));

/** Fails with every problem, so that one run shows all there is to mend. */
function expect_none(problems: readonly string[]): void {
  if (problems.length > 0) fail(`${problems.length} found\n${problems.join("\n")}`);
}

// ------------------------------------------------------------------------------ TypeScript

interface Import {
  /** As written. */
  readonly specifier: string;
  readonly line: number;
  /** `url`: new URL("./x.ts", import.meta.url), as workers and libraries are named. */
  readonly kind: "value" | "type" | "dynamic" | "url";
}

interface Use {
  /** "Deno.dlopen", "fetch", "new Date". */
  readonly name: string;
  readonly line: number;
}

interface Span {
  readonly line: number;
  readonly line_count: number;
}

interface Module {
  readonly imports: Import[];
  readonly functions: Span[];
  /** Members of `Deno` as values, and what reads a clock or does I/O. */
  readonly uses: Use[];
}

// deno-lint-ignore no-explicit-any
type Node = any;

/** What one TypeScript file imports, defines and uses, read by Deno's own parser. */
function parse_module(path: string, text: string): Module {
  const module: Module = { imports: [], functions: [], uses: [] };
  const line_of = line_finder(text);
  const add_import = (source: Node, kind: Import["kind"], node: Node) => {
    const specifier = source?.type === "Literal" ? String(source.value) : undefined;
    if (specifier === undefined) {
      module.uses.push({ name: "import(?)", line: line_of(node.range[0]) });
    } else module.imports.push({ specifier, kind, line: line_of(node.range[0]) });
  };
  const add_function = ({ range: [begin, end] }: Node) => {
    const line = line_of(begin);
    module.functions.push({ line, line_count: line_of(end - 1) - line + 1 });
  };
  const add_use = (name: string, node: Node) =>
    module.uses.push({ name, line: line_of(node.range[0]) });
  const visitor = {
    ImportDeclaration: (node: Node) =>
      add_import(node.source, kind_of(node.importKind, "importKind", node.specifiers), node),
    ExportNamedDeclaration: (node: Node) => {
      if (!node.source) return;
      add_import(node.source, kind_of(node.exportKind, "exportKind", node.specifiers), node);
    },
    ExportAllDeclaration: (node: Node) =>
      add_import(node.source, kind_of(node.exportKind, "exportKind", []), node),
    ImportExpression: (node: Node) => add_import(node.source, "dynamic", node),
    TSImportType: (node: Node) => add_import(node.argument.literal, "type", node),
    FunctionDeclaration: add_function,
    FunctionExpression: add_function,
    ArrowFunctionExpression: add_function,
    MemberExpression: (node: Node) => {
      if (node.object.type !== "Identifier") return;
      add_use(`${node.object.name}.${node.computed ? "?" : node.property.name}`, node);
    },
    VariableDeclarator: (node: Node) => {
      if (node.init?.type === "Identifier" && node.init.name === "Deno") add_use("Deno.?", node);
    },
    CallExpression: (node: Node) => {
      if (node.callee.type === "Identifier") add_use(node.callee.name, node);
    },
    NewExpression: (node: Node) => {
      if (node.callee.type !== "Identifier") return;
      const [first, second] = node.arguments;
      add_use(`new ${node.callee.name}(${first === undefined ? "" : "?"})`, node);
      if (node.callee.name !== "URL" || first?.type !== "Literal") return;
      const is_own = second?.type === "MemberExpression" && second.object.type === "MetaProperty";
      if (is_own && /^\.{1,2}\//.test(String(first.value))) add_import(first, "url", node);
    },
  };
  run_visitor(path, text, visitor);
  return module;
}

/** `import { type A, type B }` binds nothing at run time either. */
function kind_of(declared: string, field: string, specifiers: Node[]): "value" | "type" {
  if (declared === "type") return "type";
  return specifiers.length > 0 && specifiers.every((one) => one[field] === "type")
    ? "type"
    : "value";
}

function run_visitor(path: string, text: string, visitor: Record<string, (node: Node) => void>) {
  const plugin = { name: "house", rules: { read: { create: () => visitor } } };
  (Deno as Node).lint.runPlugin(plugin, path, text);
}

function line_finder(text: string): (index: number) => number {
  const starts = [0];
  for (let i = text.indexOf("\n"); i !== -1; i = text.indexOf("\n", i + 1)) starts.push(i + 1);
  return (index) => {
    let low = 0;
    let high = starts.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (starts[middle]! <= index) low = middle;
      else high = middle;
    }
    return low + 1;
  };
}

const modules = new Map<string, Module>(
  sources.filter(([path]) => path.endsWith(".ts")).map((
    [path, text],
  ) => [path, parse_module(path, text)]),
);

/** The file in the project that a relative specifier names; undefined for all others. */
function resolve(from: string, specifier: string): string | undefined {
  if (!/^\.{1,2}\//.test(specifier)) return undefined;
  return decodeURIComponent(new URL(specifier, `file:///${encodeURI(from)}`).pathname.slice(1));
}

interface Edge extends Import {
  readonly from: string;
  readonly to: string;
}

function edges_of(from: string): Edge[] {
  return (modules.get(from)?.imports ?? []).flatMap((one) => {
    const to = resolve(from, one.specifier);
    return to === undefined ? [] : [{ ...one, from, to }];
  });
}

const edges = [...modules.keys()].flatMap(edges_of);

// ------------------------------------------------------------------------------ who imports whom

const is_test = (path: string) => path.startsWith("tests/");
const is_concrete = (path: string) =>
  /^core\/store\/(memory|sqlite|jetstream)\w*\.ts$/.test(path) ||
  /^core\/cluster\/(etcd|peer|prometheus)\w*\.ts$/.test(path);
const knows_sessions = (path: string) => /^core\/(sessions?|hub)\.ts$/.test(path);
/** Pure by rule: no I/O, no clock, nor in anything that they import. */
const is_pure = (path: string) =>
  /^core\/(protocol\/.*|topic_tree\.ts|cluster\/(breaker|degradation|admission|fields|rules)\.ts)$/
    .test(path);

/** The first folder, or the file itself at the root. */
function room_of(path: string): string {
  return path.includes("/") ? path.slice(0, path.indexOf("/")) : path;
}

const rooms: Readonly<Record<string, readonly string[]>> = {
  // deno.json holds the version.
  "main.ts": ["main.ts", "core", "ffi", "routes", "deno.json"],
  core: ["core"],
  ffi: ["ffi"],
  routes: ["routes", "core"],
};

/** Why `from` may not import `to`, by section 2 of the design; undefined when it may. */
function import_problem(
  { from, to, kind }: Pick<Edge, "from" | "to" | "kind">,
): string | undefined {
  if (is_test(from)) return undefined;
  if (is_test(to)) return "nothing imports tests";
  const room = room_of(from);
  const allowed = rooms[room];
  if (allowed === undefined) return `there is no rule for "${room}": add one to house_test.ts`;
  if (room === "core" && to === "ffi/reactor.ts") {
    return kind === "type" ? undefined : "core may import only types from ffi/reactor.ts";
  }
  if (!allowed.includes(room_of(to))) return `${room} imports ${allowed.join(" and ")} only`;
  if (/^core\/(store|cluster)\//.test(from) && knows_sessions(to)) {
    return "store and cluster know no sessions";
  }
  const is_neighbour = from.slice(0, from.lastIndexOf("/")) === to.slice(0, to.lastIndexOf("/"));
  if (is_concrete(to) && kind !== "type" && from !== "main.ts" && !is_neighbour) {
    return "only main.ts names concrete stores and clusters";
  }
  return undefined;
}

Deno.test("imports keep to the rules of the design", () => {
  expect_none(edges.flatMap((edge) => {
    const problem = import_problem(edge);
    return problem === undefined
      ? []
      : [`${edge.from}:${edge.line}: imports ${edge.to}: ${problem}`];
  }));
});

Deno.test("imports name files that exist and packages that deno.json pins", () => {
  const problems: string[] = [];
  for (const [path, { imports, uses }] of modules) {
    for (const { specifier, line, kind } of imports) {
      const to = resolve(path, specifier);
      const at = `${path}:${line}`;
      if (to !== undefined) {
        // A URL may name a directory, or a file that is made later.
        if (kind !== "url" && !texts.has(to)) problems.push(`${at}: there is no ${to}`);
      } else if (!specifier.startsWith("node:") && !is_pinned(specifier)) {
        problems.push(`${at}: "${specifier}" is not in the imports of deno.json`);
      }
    }
    for (const { name, line } of uses) {
      if (name === "import(?)" && !is_test(path)) {
        problems.push(`${path}:${line}: imports what no rule can read: use a literal`);
      }
    }
  }
  expect_none(problems);
});

function is_pinned(specifier: string): boolean {
  return Object.keys(manifest.imports ?? {}).some((name) =>
    name === specifier || (name.endsWith("/") && specifier.startsWith(name))
  );
}

Deno.test("imports have no cycles", () => {
  const problems: string[] = [];
  const state = new Map<string, "open" | "done">();
  const trail: string[] = [];
  const visit = (path: string) => {
    state.set(path, "open");
    trail.push(path);
    for (const { to, line, kind } of edges_of(path)) {
      if (kind === "url" || to === path) continue; // a worker is another program
      if (state.get(to) === "open") {
        const cycle = [...trail.slice(trail.indexOf(to)), to];
        problems.push(`${path}:${line}: closes the cycle ${cycle.join(" -> ")}`);
      } else if (!state.has(to)) visit(to);
    }
    trail.pop();
    state.set(path, "done");
  };
  for (const path of modules.keys()) {
    if (!state.has(path)) visit(path);
  }
  expect_none(problems);
});

Deno.test("only core/store/sqlite touches node:sqlite", () => {
  const problems: string[] = [];
  for (const [path, { imports }] of modules) {
    if (is_test(path) || /^core\/store\/sqlite\w*\.ts$/.test(path)) continue;
    for (const { specifier, line } of imports) {
      if (specifier === "node:sqlite") problems.push(`${path}:${line}: imports node:sqlite`);
    }
  }
  expect_none(problems);
});

/** Who may use which members of `Deno`; the first row that fits a member decides. */
const deno_rules: readonly (readonly [member: RegExp, users: RegExp, rule: string])[] = [
  [/^dlopen$/, /^ffi\/reactor\.ts$/, "ffi/reactor.ts holds the only Deno.dlopen"],
  [/^Unsafe/, /^(ffi|tests)\//, "pointers stay in ffi"],
  [/^(Command|run)$/, /^(ffi|tests)\/|^main\.ts$/, "only ffi and main.ts start processes"],
  [
    /^(env|args|exit|exitCode|addSignalListener|removeSignalListener|\?)$/,
    /^tests\/|^main\.ts$|^ffi\/build\.ts$/,
    "main.ts reads the environment and hands it on",
  ],
  [/^(upgradeWebSocket|errors)$/, /^(?!core\/[^/]*$|core\/protocol\/)/, "core does no I/O"],
  [
    /./,
    /^(tests|ffi|core\/client|core\/store|core\/cluster)\/|^main\.ts$/,
    "I/O belongs to ffi, store, cluster and main.ts",
  ],
];

function deno_problem(path: string, member: string): string | undefined {
  const [, users, rule] = deno_rules.find(([members]) => members.test(member))!;
  return users.test(path) ? undefined : rule;
}

Deno.test("Deno is used only where the design allows it", () => {
  const problems: string[] = [];
  for (const [path, { uses }] of modules) {
    for (const { name, line } of uses) {
      if (!name.startsWith("Deno.")) continue;
      const problem = deno_problem(path, name.slice("Deno.".length));
      if (problem !== undefined) problems.push(`${path}:${line}: uses ${name}: ${problem}`);
    }
  }
  expect_none(problems);
});

const impure_use = new RegExp(
  "^((Deno|console|performance|process)\\..*|Date\\.(now|\\?)|Date|new Date\\(\\)" +
    "|fetch|set(Timeout|Interval|Immediate)|new (WebSocket|EventSource|Worker)\\(.*\\))$",
);
const impure_import = new RegExp(
  "^node:(fs|net|http|https|http2|tls|dgram|dns|os|process|child_process|timers|sqlite" +
    "|perf_hooks|readline|worker_threads)\\b",
);

Deno.test("protocol, topic_tree and breaker do no I/O and read no clock", () => {
  const problems: string[] = [];
  const todo = [...modules.keys()].filter(is_pure);
  const seen = new Set(todo);
  for (const path of todo) { // grows while it runs
    for (const { name, line } of modules.get(path)?.uses ?? []) {
      if (impure_use.test(name)) problems.push(`${path}:${line}: uses ${name}`);
    }
    for (const { specifier, line, kind } of modules.get(path)?.imports ?? []) {
      if (impure_import.test(specifier)) problems.push(`${path}:${line}: imports ${specifier}`);
      const to = resolve(path, specifier);
      if (to === undefined || kind === "type" || seen.has(to)) continue;
      seen.add(to);
      todo.push(to);
    }
  }
  expect_none(problems);
});

// ------------------------------------------------------------------------------ no dead files

Deno.test("every module is reached from main.ts, a test or another entry", () => {
  const entries = [...modules.keys()].filter((path) =>
    path === "main.ts" || /^tests\/(.*_test|(bench|fuzz)\/[^/]*)\.ts$/.test(path)
  );
  const starts = [JSON.stringify(manifest.exports ?? ""), JSON.stringify(manifest.tasks ?? {})];
  starts.push(texts.get(".ci/run") ?? "");
  for (const [path] of starts.join("\n").matchAll(/[\w-][\w/.-]*\.ts\b/g)) entries.push(path);
  const reached = new Set(entries);
  for (const path of reached) { // grows while it runs
    for (const { to } of edges_of(path)) reached.add(to);
  }
  const problems = [...modules.keys()].filter((path) => !reached.has(path));
  expect_none(problems.map((path) => `${path}:1: nothing imports it`));
});

Deno.test("every C file, header and table is named by another file", () => {
  const problems: string[] = [];
  for (const path of texts.keys()) {
    if (!/\.(c|h|proto)$/.test(path)) continue;
    const name = path.slice(path.lastIndexOf("/") + 1);
    const stem = name.replace(/\.c$/, "");
    const is_named = [...texts].some(([other, text]) =>
      other !== path && !other.endsWith(".md") && other !== "tests/house_test.ts" &&
      (text.includes(name) || (path.startsWith("tests/") && text.includes(`"${stem}"`)))
    );
    if (!is_named) problems.push(`${path}:1: no other file names it`);
  }
  expect_none(problems);
});

// ------------------------------------------------------------------------------ size and form

/** C without comments, texts and preprocessor lines; every newline stays where it was. */
function bare_c(text: string): string {
  const blank = (part: string) => part.replace(/[^\n]/g, " ");
  return text
    .replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|"(?:\\[\s\S]|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'/g, blank)
    .replace(/^[ \t]*#(?:\\\n|[^\n])*/gm, blank);
}

/** Functions of a C file, from the first line of the head to the closing brace. */
function c_functions(text: string): Span[] | "unbalanced" {
  const code = bare_c(text);
  const line_of = line_finder(code);
  const functions: Span[] = [];
  let depth = 0;
  let head = 0;
  let begin = -1;
  for (let i = 0; i < code.length; i++) {
    const letter = code[i];
    if (letter === "{") {
      const before = code.slice(head, i);
      const is_function = /\)\s*$/.test(before) && !before.includes("=");
      if (depth++ === 0) begin = is_function ? head + before.search(/\S/) : -1;
    } else if (letter === "}") {
      if (--depth < 0) return "unbalanced";
      if (depth === 0 && begin !== -1) {
        const line = line_of(begin);
        functions.push({ line, line_count: line_of(i) - line + 1 });
      }
    }
    if (depth === 0 && (letter === ";" || letter === "}")) head = i + 1;
  }
  return depth === 0 ? functions : "unbalanced";
}

Deno.test(`functions have about ${function_lines_goal} lines at most`, () => {
  const problems: string[] = [];
  for (const [path, text] of sources) {
    const functions = modules.get(path)?.functions ?? c_functions(text);
    if (functions === "unbalanced") {
      problems.push(`${path}:1: braces do not balance: no #if may open a block alone`);
      continue;
    }
    for (const { line, line_count } of functions) {
      const words = `${path}:${line}: function of ${line_count} lines`;
      if (line_count > function_lines_max) problems.push(words);
      else if (line_count > function_lines_goal) console.log(`%c${words}`, "color: yellow");
    }
  }
  expect_none(problems);
});

Deno.test(`lines have ${columns_max} columns at most`, () => {
  const problems: string[] = [];
  for (const [path, text] of sources) {
    text.split("\n").forEach((line, i) => {
      const columns = [...line].length;
      if (columns > columns_max) problems.push(`${path}:${i + 1}: ${columns} columns`);
    });
  }
  expect_none(problems);
});

Deno.test("files open with a comment that says what they are for", () => {
  const problems: string[] = [];
  for (const [path, text] of sources) {
    const opening = text.replace(
      /^(#!.*\n|\/\/ (deno-lint-ignore|deno-fmt-ignore|@ts-).*\n|\s)*/,
      "",
    );
    if (!/^\/[*/]\**\s*(\S+\s+){3}/.test(opening)) problems.push(`${path}:1: no opening comment`);
  }
  expect_none(problems);
});

/** Built from parts, or this file would find itself. */
const unfinished = new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "X".repeat(3)].join("|")})\\b`);
/** A comment that is a whole statement: prose that begins so does not end with ; or {. */
const dead_statement = new RegExp(
  "^\\s*(//|/\\*)\\s*(" +
    "(const|let|var|return|import|export|await|throw|if|for|while|switch|static|struct)\\b.*" +
    "|[\\w.>-]+\\(.*\\)|[\\w.>\\[\\]-]+ [-+|&]?= .*)[;{]\\s*(\\*/)?$",
);

Deno.test("no file holds unfinished or commented-out code", () => {
  const problems: string[] = [];
  for (const [path, text] of texts) {
    text.split("\n").forEach((line, i) => {
      if (unfinished.test(line)) problems.push(`${path}:${i + 1}: unfinished: ${line.trim()}`);
      if (/\.(ts|c|h)$/.test(path) && dead_statement.test(line)) {
        problems.push(`${path}:${i + 1}: commented-out code: ${line.trim()}`);
      }
    });
  }
  expect_none(problems);
});

// ------------------------------------------------------------------------------ what no file holds

const local_path = /(?<![\w.$~)}\]*-])\/(home|root|Users|work)\/[\w.-]|\b[A-Z]:\\+Users\b/;
const registry = new RegExp(
  "//[^\\s\"'`/]*(registry|artifactory|nexus|verdaccio|jfrog|codeartifact|npmjs\\.org)" +
    "|^\\s*(@[\\w-]+:)?registry\\s*=|(^|[:\\s])_auth(Token)?\\s*=(?!=)|NPM_CONFIG_REGISTRY\\s*=",
  "i",
);

/** What a line of `path` gives away about the machine it was written on. */
function local_problem(path: string, line: string): string | undefined {
  const own_root = decodeURIComponent(root.pathname).replace(/\/$/, "");
  // A root of one segment ("/app") is likely to be somebody else's path too.
  const is_telling = own_root.lastIndexOf("/") > 0;
  if (local_path.test(line) || (is_telling && line.includes(own_root))) {
    return "path of one machine";
  }
  if (registry.test(line)) return "package registry";
  if (path === "deno.lock" && /:\/\/|"tarball"/.test(line)) return "where a package was fetched";
  return undefined;
}

Deno.test("no file names a path of one machine or a package registry", () => {
  const problems: string[] = [];
  for (const [path, text] of texts) {
    text.split("\n").forEach((line, i) => {
      const problem = local_problem(path, line);
      if (problem !== undefined) {
        problems.push(`${path}:${i + 1}: ${problem}: ${line.trim().slice(0, 120)}`);
      }
    });
  }
  expect_none(problems);
});

// ------------------------------------------------------------------------------ what must agree

Deno.test("enum lw_code of ffi/reactor.h agrees with core/codes.ts", () => {
  const header = texts.get("ffi/reactor.h") ?? fail("there is no ffi/reactor.h");
  const begin = header.indexOf("enum lw_code {");
  const body = header.slice(begin, header.indexOf("};", begin));
  const line_of = line_finder(header);
  const problems: string[] = [];
  const numbers = [...body.matchAll(/\bLW_CODE_(\w+)\s*=\s*(\w+)/g)];
  for (const { 1: name = "", 2: text = "", index } of numbers) {
    const at = `ffi/reactor.h:${line_of(begin + index)}`;
    const number = Number(text);
    if (name === "COUNT") {
      if (number < code_count) problems.push(`${at}: room for ${number} of ${code_count} codes`);
      continue;
    }
    const row = Object.values(codes).find((code) => code.name === name.toLowerCase());
    if (row?.number !== number) problems.push(`${at}: ${name} is ${row?.number} in core/codes.ts`);
  }
  if (numbers.length < 2) problems.push("ffi/reactor.h:1: enum lw_code was not found");
  expect_none(problems);
});

Deno.test("the settings table of the README is the one of core/config.ts", () => {
  const readme = texts.get("README.md") ?? "";
  if (readme.includes(settings_markdown().trim())) return;
  const at = readme.split("\n").findIndex((line) => line.startsWith("| setting |")) + 1;
  fail(`README.md:${at || 1}: the table must be\n${settings_markdown()}`);
});

// ------------------------------------------------------------------------------ the rules
// themselves

Deno.test("the rules see what they must", () => {
  const source = [
    'import a, { type B } from "./a.ts";',
    'import { type C, type D } from "../c.ts";',
    'import type { E } from "e";',
    'export * from "./f.ts"; export type { G } from "./g.ts";',
    'const h = await import("./h.ts"); type I = import("./i.ts").I;',
    'new Worker(new URL("./j.ts", import.meta.url), {}); new URL("./k.ts", "http://k");',
    'const no = `import "./no.ts"`; // import "./no.ts"',
    "class K { long() {\n return Deno.dlopen;\n } }",
  ].join("\n");
  const module = parse_module("core/x.ts", source);
  const seen = module.imports.map(({ kind, specifier, line }) => `${line} ${kind} ${specifier}`);
  assertEquals(seen, [
    "1 value ./a.ts",
    "2 type ../c.ts",
    "3 type e",
    "4 value ./f.ts",
    "4 type ./g.ts",
    "5 dynamic ./h.ts",
    "5 type ./i.ts",
    "6 url ./j.ts",
  ]);
  assertEquals(module.functions, [{ line: 8, line_count: 3 }]);
  assertEquals(module.uses.find(({ name }) => name === "Deno.dlopen")?.line, 9);
  assertEquals(resolve("core/store/x.ts", "../codes.ts"), "core/codes.ts");
});

Deno.test("the rules find C functions and nothing else", () => {
  const source = [
    "struct s { int (*f)(void); };",
    "static const int a[] = { 1, '{', 2 }; /* { */",
    "#define BLOCK do { \\",
    "  {",
    "static int // {",
    "f(void)",
    "{",
    '  if (a) { puts("}"); }',
    "}",
    "enum e { A };",
    "int g(void) { return 1; }",
  ].join("\n");
  assertEquals(c_functions(source), [{ line: 5, line_count: 5 }, { line: 11, line_count: 1 }]);
  assertEquals(c_functions("int f(void) {"), "unbalanced");
});

Deno.test("the import rules are those of the design", () => {
  const cases: [from: string, to: string, kind: Import["kind"], allowed: boolean][] = [
    ["main.ts", "core/store/sqlite.ts", "value", true],
    ["main.ts", "tests/fake_reactor.ts", "value", false],
    ["core/hub.ts", "ffi/reactor.ts", "type", true],
    ["core/hub.ts", "ffi/reactor.ts", "value", false],
    ["core/hub.ts", "ffi/build.ts", "type", false],
    ["core/hub.ts", "routes/mod.ts", "type", false],
    ["core/router.ts", "core/store/mod.ts", "value", true],
    ["core/router.ts", "core/store/memory.ts", "value", false],
    ["core/store/sqlite.ts", "core/store/memory.ts", "value", true],
    ["core/store/sqlite.ts", "core/session.ts", "type", false],
    ["routes/publish.ts", "core/router.ts", "value", true],
    ["routes/publish.ts", "ffi/reactor.ts", "type", false],
    ["ffi/reactor.ts", "core/codes.ts", "value", false],
    ["elsewhere/x.ts", "core/codes.ts", "value", false],
    ["tests/x_test.ts", "ffi/reactor.ts", "value", true],
  ];
  for (const [from, to, kind, allowed] of cases) {
    assertEquals(import_problem({ from, to, kind }) === undefined, allowed, `${from} -> ${to}`);
  }
  assertEquals(deno_problem("core/hub.ts", "dlopen") === undefined, false);
  assertEquals(deno_problem("ffi/reactor.ts", "dlopen"), undefined);
  assertEquals(deno_problem("core/log.ts", "stderr") === undefined, false);
  assertEquals(deno_problem("core/store/sqlite.ts", "mkdirSync"), undefined);
  assertEquals(deno_problem("routes/events.ts", "upgradeWebSocket"), undefined);
  assertEquals(deno_problem("routes/events.ts", "Command") === undefined, false);
});

Deno.test("the rules tell prose from code and paths of machines from others", () => {
  const slashes = "//";
  const dead = ["const a = 1;", "if (x) {", "call(a, b);", "return x;", "a.b = c;"];
  const prose = ["for the reader; and", "if it is there {x}", "a sentence.", "see f(x): it waits"];
  for (const line of dead) assertEquals(dead_statement.test(`  ${slashes} ${line}`), true, line);
  for (const line of prose) assertEquals(dead_statement.test(`${slashes} ${line}`), false, line);
  const bad = [
    "/ho" + "me/me/x",
    'cd "/ro' + 'ot/x"',
    "file:///Use" + "rs/me",
    "C:\\Use" + "rs\\x",
  ];
  const good = ["https://a.example/home/x", "a/work/b", "/usr/include", "../home/x", "/workers/x"];
  for (const line of bad) assertEquals(local_problem("x", line), "path of one machine", line);
  for (const line of good) assertEquals(local_problem("x", line), undefined, line);
  assertEquals(local_problem("deno.lock", '"x": "htt' + 'ps://a"'), "where a package was fetched");
  assertEquals(local_problem("x", "htt" + "p://npm-regis" + "try.local/x"), "package registry");
});
