/**
 * Builds the C programs of the benchmark, once: each lies in the project's build cache under a name
 * that is the hash of its sources, flags and compiler, so that a stale one can never be measured.
 */

const here = new URL(".", import.meta.url);

/** What the benchmark makes lies here, programs and the data of peers. */
export const cache_directory = new URL("../../.build/", here);

const flags = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Wshadow"];

/** What went wrong, as one sentence for the person who started the benchmark. */
export class BuildError extends Error {
  override readonly name = "BuildError";
}

const text = new TextDecoder();

/** The first compiler that answers, and what it calls itself. */
async function find_compiler(): Promise<[command: string, version: string]> {
  for (const command of ["cc", "gcc", "clang"]) {
    try {
      const out = await new Deno.Command(command, { args: ["--version"] }).output();
      if (out.success) return [command, text.decode(out.stdout)];
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  throw new BuildError("Cannot build the benchmark: no C compiler found; install cc, gcc or clang");
}

async function hash(parts: readonly string[]): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify(parts));
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex().slice(0, 16);
}

/**
 * Path of the program made of `name`.c and the headers beside it.
 * @throws BuildError when there is no compiler or the source does not compile here.
 */
export async function ensure_program(
  name: "fds" | "fleet" | "load" | "load_tls" | "probe" | "raw",
): Promise<string> {
  const [command, version] = await find_compiler();
  const sources = name === "load_tls" ? ["load_tls.c", "load.c"] : [`${name}.c`];
  if (name === "fds") sources.push("../../ffi/fd_scan.h", "../../ffi/reactor.h");
  const libraries = name === "load_tls" ? ["-lssl", "-lcrypto"] : [];
  for await (const entry of Deno.readDir(here)) {
    if (entry.name.endsWith(".h")) sources.push(entry.name);
  }
  const texts = sources.sort().map((source) => Deno.readTextFileSync(new URL(source, here)));
  const key = await hash([version, Deno.build.target, ...flags, ...sources, ...texts]);
  const path = decodeURIComponent(new URL(`bench_${name}_${key}`, cache_directory).pathname);
  try {
    await Deno.stat(path);
    return path;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  await Deno.mkdir(cache_directory, { recursive: true });
  // Built aside and renamed: a killed build never leaves half a program behind.
  const unfinished = `${path}.${Deno.pid}.tmp`;
  const source = decodeURIComponent(new URL(`${name}.c`, here).pathname);
  const args = [...flags, "-o", unfinished, source, ...libraries];
  const out = await new Deno.Command(command, { args }).output();
  if (!out.success) {
    throw new BuildError(`Cannot build ${name}.c with ${command}:\n${text.decode(out.stderr)}`);
  }
  await Deno.rename(unfinished, path);
  return path;
}
