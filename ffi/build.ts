/**
 * Builds the reactor library with whatever C compiler there is, once: the result lies in a cache
 * under a name that is the hash of sources, flags and compiler, so a stale library can never be
 * loaded.
 */

const here = new URL(".", import.meta.url);

/** Where the library is kept, relative to the project. */
export const cache_directory = new URL("../.build/", here);

const warnings = ["-Wall", "-Wextra", "-Wshadow"];
const base_flags = ["-O2", "-g", "-std=gnu11", "-fPIC", "-shared", "-pthread", ...warnings];

/** The reactor's backends, as in the setting `backend`. */
export type Backend = "epoll" | "uring" | "kqueue";

/** What went wrong, as one sentence for the person who started the service. */
export class BuildError extends Error {
  override readonly name = "BuildError";
}

interface Compiler {
  readonly command: string;
  /** First line of `--version`: part of the cache key. */
  readonly version: string;
}

async function find_compiler(): Promise<Compiler> {
  for (const command of ["cc", "gcc", "clang"]) {
    try {
      const out = await new Deno.Command(command, {
        args: ["--version"],
        stdout: "piped",
        stderr: "null",
      }).output();
      if (!out.success) continue;
      const [version = ""] = new TextDecoder().decode(out.stdout).split("\n");
      return { command, version };
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) continue;
      throw error;
    }
  }
  throw new BuildError(
    "Cannot build the reactor: no C compiler found; install one " +
      '(Debian, Ubuntu: "apt-get install gcc libc6-dev"; Alpine: "apk add build-base"; ' +
      'macOS: "xcode-select --install")',
  );
}

/** Every C file and header beside this one, by name, in a fixed order. */
async function read_sources(): Promise<[name: string, text: Uint8Array][]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(here)) {
    if (entry.isFile && /\.[ch]$/.test(entry.name)) names.push(entry.name);
  }
  names.sort();
  return await Promise.all(
    names.map(async (name): Promise<[string, Uint8Array]> => [
      name,
      await Deno.readFile(new URL(name, here)),
    ]),
  );
}

async function cache_key(parts: readonly (string | Uint8Array)[]): Promise<string> {
  const encoder = new TextEncoder();
  const chunks: Uint8Array[] = [];
  for (const part of parts) {
    const bytes = typeof part === "string" ? encoder.encode(part) : part;
    chunks.push(encoder.encode(`${bytes.length}:`), bytes);
  }
  const digest = await crypto.subtle.digest(
    "SHA-256",
    await new Blob(chunks as BlobPart[]).bytes(),
  );
  return new Uint8Array(digest).toHex().slice(0, 16);
}

/**
 * Path of the library for a backend, built first when its cache entry is missing.
 * @throws BuildError when there is no compiler or the sources do not compile here.
 */
export async function ensure_library(backend: Backend): Promise<string> {
  const compiler = await find_compiler();
  const flags = [...base_flags, `-DLW_BACKEND_${backend.toUpperCase()}`];
  const sources = await read_sources();
  const key = await cache_key([
    compiler.command,
    compiler.version,
    Deno.build.target,
    ...flags,
    ...sources.flat(),
  ]);
  const path = decodeURIComponent(
    new URL(`longwire_${backend}_${key}.so`, cache_directory).pathname,
  );
  try {
    await Deno.stat(path);
    return path;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  await Deno.mkdir(cache_directory, { recursive: true });
  // Built aside and renamed: two starts at once, or a killed one, never leave half a library
  // behind.
  const unfinished = `${path}.${Deno.pid}.tmp`;
  const source = decodeURIComponent(new URL("reactor.c", here).pathname);
  const out = await new Deno.Command(compiler.command, {
    args: [...flags, "-o", unfinished, source],
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!out.success) {
    const why = new TextDecoder().decode(out.stderr).trim();
    throw new BuildError(`Cannot build the reactor with ${compiler.command}:\n${why}`);
  }
  await Deno.rename(unfinished, path);
  return path;
}

if (import.meta.main) console.log(await ensure_library((Deno.args[0] ?? "epoll") as Backend));
