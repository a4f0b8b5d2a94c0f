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

/** One way to build the library. */
interface Variant {
  readonly flags: readonly string[];
  /** Behind the source: some linkers take only what was asked for before. */
  readonly libraries: readonly string[];
}

const without_tls: Variant = { flags: [], libraries: [] };

/** Where OpenSSL 3 lies, in order of preference: the compiler's own paths, then Homebrew's. */
const with_tls: readonly Variant[] = ["", "/opt/homebrew/opt/openssl@3", "/usr/local/opt/openssl@3"]
  .map((prefix) => ({
    flags: ["-DLW_TLS", ...(prefix === "" ? [] : [`-I${prefix}/include`, `-L${prefix}/lib`])],
    libraries: ["-lssl", "-lcrypto"],
  }));

/** Compiles and links only where OpenSSL 3 is there, headers and library. */
const openssl_program = `#include <openssl/ssl.h>
#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error OpenSSL 3 is needed
#endif
int main(void) { return SSL_CTX_new(TLS_server_method()) == NULL; }
`;

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Compiles into a file beside its place and renames it: two starts at once, or a killed one, never
 * leave half a library behind. Answers what the compiler says, "" = done.
 */
async function compile(
  { command }: Compiler,
  path: string,
  source: string,
  { flags, libraries }: Variant,
): Promise<string> {
  const unfinished = `${path}.${Deno.pid}.tmp`;
  const args = [...base_flags, ...flags, "-o", unfinished, source, ...libraries];
  const out = await new Deno.Command(command, { args, stdout: "null", stderr: "piped" }).output();
  if (!out.success) return new TextDecoder().decode(out.stderr).trim() || `status ${out.code}`;
  await Deno.rename(unfinished, path);
  return "";
}

async function has_openssl(compiler: Compiler, variant: Variant): Promise<boolean> {
  const path = path_of(new URL(`openssl_${Deno.pid}`, cache_directory));
  await Deno.writeTextFile(`${path}.c`, openssl_program);
  try {
    return await compile(compiler, path, `${path}.c`, variant) === "";
  } finally {
    await Deno.remove(`${path}.c`);
    if (await exists(path)) await Deno.remove(path);
  }
}

function path_of(url: URL): string {
  return decodeURIComponent(url.pathname);
}

/** @param options.tls false = without OpenSSL even where it is there */
export interface LibraryOptions {
  readonly tls?: boolean;
}

/**
 * Path of the library for a backend, built first when its cache entry is missing: with TLS where
 * OpenSSL 3 is there.
 * @throws BuildError when there is no compiler or the sources do not compile here.
 */
export async function ensure_library(
  backend: Backend,
  { tls = true }: LibraryOptions = {},
): Promise<string> {
  const compiler = await find_compiler();
  const sources = await read_sources();
  const own_flag = `-DLW_BACKEND_${backend.toUpperCase()}`;
  const place_of = async ({ flags, libraries }: Variant): Promise<string> => {
    const how = [...base_flags, own_flag, ...flags, ...libraries];
    const { command, version } = compiler;
    const key = await cache_key([command, version, Deno.build.target, ...how, ...sources.flat()]);
    return path_of(new URL(`longwire_${backend}_${key}.so`, cache_directory));
  };
  for (const variant of tls ? [...with_tls, without_tls] : [without_tls]) {
    const path = await place_of(variant);
    if (await exists(path)) return path; // where it has been built, OpenSSL was there
    await Deno.mkdir(cache_directory, { recursive: true });
    if (variant !== without_tls && !await has_openssl(compiler, variant)) continue;
    const flags = [own_flag, ...variant.flags];
    const source = path_of(new URL("reactor.c", here));
    const why = await compile(compiler, path, source, { ...variant, flags });
    if (why === "") return path;
    throw new BuildError(`Cannot build the reactor with ${compiler.command}:\n${why}`);
  }
  throw new Error("build.ts: the last variant needs nothing");
}

if (import.meta.main) console.log(await ensure_library((Deno.args[0] ?? "epoll") as Backend));
