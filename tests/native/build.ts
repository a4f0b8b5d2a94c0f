/**
 * Builds the C programs that test the reactor, once for each way to build them: each lies in the
 * project's build cache under a name that is the hash of its sources, flags and compiler.
 */
import { BuildError, cache_directory } from "../../ffi/build.ts";

const here = new URL(".", import.meta.url);
const reactor = new URL("../../ffi/", here);
const device = new URL("../../deploy/device/", here);
const base_flags = ["-g", "-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Wshadow"];
const text = new TextDecoder();

/** One way to build a program. */
export interface Build {
  /** A C file beside this one, without its ending. */
  readonly program: string;
  /** Part of the file's name. */
  readonly variant: string;
  /** The first that is there is taken. */
  readonly compilers: readonly string[];
  readonly flags: readonly string[];
  /** C files beside the program's own. */
  readonly sources?: readonly string[];
  /** Behind the source: some linkers take only what was asked for before. */
  readonly libraries?: readonly string[];
}

/** What makes the reactor run on a backend: Linux's kqueue is emulated, the backend is the same. */
export function backend_parts(backend: string): Required<Pick<Build, "flags" | "sources">> {
  const flags = [`-DLW_BACKEND_${backend.toUpperCase()}`];
  if (backend !== "kqueue" || Deno.build.os !== "linux") return { flags, sources: [] };
  const emulation = new URL("kqueue/", here);
  return {
    flags: [...flags, `-I${path_of(emulation)}`],
    sources: [path_of(new URL("emulation.c", emulation))],
  };
}

/** What adds the client for small devices to a program. */
export const device_parts = {
  flags: [`-I${path_of(device)}`],
  sources: [path_of(new URL("longwire.c", device))],
} as const;

/** What leads a program's calls to the emulation of Linux's kernel TLS. */
export const kernel_tls_parts: Required<Pick<Build, "flags" | "sources">> = {
  flags: ["setsockopt", "sendmsg", "close"].map((name) => `-Wl,--wrap=${name}`),
  sources: [path_of(new URL("ktls/emulation.c", here))],
};

export const any_compiler = ["cc", "gcc", "clang"] as const;

/** How the tests are built: what each of them finds is not found by the others. */
export const sanitizers = {
  address: ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
  thread: ["-O1", "-fsanitize=thread"],
  none: ["-O2"],
} as const;

interface Compiler {
  readonly command: string;
  readonly version: string;
}

async function find_compiler(commands: readonly string[]): Promise<Compiler> {
  for (const command of commands) {
    try {
      const out = await new Deno.Command(command, { args: ["--version"] }).output();
      if (out.success) return { command, version: text.decode(out.stdout) };
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  throw new BuildError(`Cannot build the native tests: no ${commands.join(", ")} found`);
}

function path_of(url: URL): string {
  return decodeURIComponent(url.pathname);
}

function flags_of({ version }: Compiler, { flags }: Build): string[] {
  // GCC warns that ThreadSanitizer does not see fences; none of ours stands alone.
  const is_gcc = !version.includes("clang");
  const quiet = is_gcc && flags.includes("-fsanitize=thread") ? ["-Wno-tsan"] : [];
  return [...base_flags, ...flags, ...quiet, `-I${path_of(reactor)}`];
}

/** Does nothing, with a fuzzer as without. */
const probe_program = "int LLVMFuzzerTestOneInput(const unsigned char *b, unsigned long n) {\n" +
  "  return !b && n;\n}\n";
let probe_count = 0;

/**
 * Why programs cannot be built with these flags, or do not run here, in the words of the compiler
 * or of the program (a sanitizer may not get along with a kernel); "" = they can.
 */
export async function flags_problem(
  compilers: readonly string[],
  flags: readonly string[],
  libraries: readonly string[] = [],
): Promise<string> {
  const path = path_of(new URL(`probe_${Deno.pid}_${++probe_count}`, cache_directory));
  const has_main = flags.some((flag) => flag.includes("fuzzer"));
  try {
    const { command } = await find_compiler(compilers);
    await Deno.mkdir(cache_directory, { recursive: true });
    await Deno.writeTextFile(
      `${path}.c`,
      has_main ? probe_program : `${probe_program}int main(void) {return 0;}\n`,
    );
    const args = [...flags, "-o", path, `${path}.c`, ...libraries];
    return await problem_of(command, args) || await problem_of(path, ["-runs=1"]);
  } catch (error) {
    if (error instanceof BuildError) return error.message;
    throw error;
  } finally {
    for (const made of [path, `${path}.c`]) await Deno.remove(made).catch(() => {});
  }
}

/** First line of what a program that fails has to say; "" = it does not fail. */
async function problem_of(command: string, args: readonly string[]): Promise<string> {
  const { success, stderr } = await new Deno.Command(command, { args: [...args] }).output();
  const [first = ""] = text.decode(stderr).trim().split("\n");
  return success ? "" : first || `${command} fails`;
}

function read_sources(): string[] {
  const emulation = new URL("kqueue/", here);
  const directories = [
    here,
    reactor,
    device,
    emulation,
    new URL("sys/", emulation),
    new URL("ktls/", here),
  ];
  return directories.flatMap((directory) => {
    const names = [...Deno.readDirSync(directory)].map(({ name }) => name);
    const sources = names.filter((name) => /\.[ch]$/.test(name)).sort();
    return sources.flatMap((name) => [name, Deno.readTextFileSync(new URL(name, directory))]);
  });
}

async function hash(parts: readonly string[]): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify(parts));
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex().slice(0, 16);
}

/**
 * Path of a program, built first when its cache entry is missing.
 * @throws BuildError when there is no compiler, or the sources do not compile without a warning.
 */
export async function ensure_program(build: Build): Promise<string> {
  const compiler = await find_compiler(build.compilers);
  const flags = flags_of(compiler, build);
  const key = await hash([compiler.version, Deno.build.target, ...flags, ...read_sources()]);
  const name = `native_${build.program}_${build.variant}_${key}`;
  const path = path_of(new URL(name, cache_directory));
  try {
    await Deno.stat(path);
    return path;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  await Deno.mkdir(cache_directory, { recursive: true });
  // Built aside and renamed: a killed build never leaves half a program behind.
  const unfinished = `${path}.${Deno.pid}.tmp`;
  const sources = [path_of(new URL(`${build.program}.c`, here)), ...(build.sources ?? [])];
  const { success, stderr } = await new Deno.Command(compiler.command, {
    args: [...flags, "-o", unfinished, ...sources, ...(build.libraries ?? [])],
    stdout: "null",
    stderr: "piped",
  }).output();
  const words = text.decode(stderr).trim();
  if (!success || words !== "") {
    throw new BuildError(`Cannot build ${build.program} with ${compiler.command}:\n${words}`);
  }
  await Deno.rename(unfinished, path);
  return path;
}
