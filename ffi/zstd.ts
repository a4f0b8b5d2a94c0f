/**
 * The native part of zstd-napi: found where npm's install script put it, or built from the
 * package's sources with the C and C++ compilers of the machine, once. It must never keep the
 * service from starting: who asks gets the addon, or a reason.
 */
import { createRequire } from "node:module";
import { cache_directory } from "./build.ts";

const require = createRequire(import.meta.url);

/** Why there is no addon, as one sentence for the person who started the service. */
export class AddonError extends Error {
  override readonly name = "AddonError";
}

/** Directory of a package, with its slash. */
export function package_directory(name: string): string {
  const main: string = require.resolve(name);
  const inside = `/node_modules/${name}/`;
  return main.slice(0, main.lastIndexOf(inside) + inside.length);
}

function path_of(url: URL): string {
  return decodeURIComponent(url.pathname);
}

/** Where our own build lies; N-API is stable, so neither Deno nor the compiler is in its name. */
function built_path(): string {
  const { version } = require("zstd-napi/package.json");
  return path_of(new URL(`zstd_${version}_${Deno.build.target}.node`, cache_directory));
}

/** The addon, if it is there: npm's prebuilt one or ours. Undefined = it has to be built. */
export function load_addon(): unknown {
  for (const place of ["zstd-napi/binding.js", built_path()]) {
    try {
      return require(place);
    } catch {
      // not there, or not for this machine
    }
  }
  return undefined;
}

const c_flags = ["-c", "-O2", "-fPIC", "-pthread", "-fvisibility=hidden"];
/** As in deps/zstd.gyp. */
const c_defines = [
  "XXH_NAMESPACE=ZSTD_",
  "ZSTDERRORLIB_VISIBLE=",
  "ZSTDLIB_VISIBLE=",
  "ZSTD_MULTITHREAD",
  "ZSTD_NO_TRACE",
];
/** As in binding.gyp. */
const cpp_defines = [
  "NAPI_VERSION=8",
  "NODE_ADDON_API_DISABLE_DEPRECATED",
  "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
  "NODE_API_NO_EXTERNAL_BUFFERS_ALLOWED",
  "BUILDING_NODE_EXTENSION",
  "NODE_GYP_MODULE_NAME=binding",
];
const cpp_sources = ["binding", "cctx", "cdict", "constants", "dctx", "ddict"];

const link_flags = Deno.build.os === "darwin"
  ? ["-bundle", "-undefined", "dynamic_lookup"]
  : ["-shared", "-pthread", "-Wl,-z,noexecstack,-z,relro,-z,now"];

/** One call of a compiler, without `-o`. */
interface Step {
  readonly command: string;
  readonly args: readonly string[];
  readonly object: string;
}

async function run(command: string, args: string[]): Promise<void> {
  let out: Deno.CommandOutput;
  try {
    out = await new Deno.Command(command, { args, stdout: "null", stderr: "piped" }).output();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new AddonError(`${command} is not installed`);
  }
  if (out.success) return;
  const said = new TextDecoder().decode(out.stderr).trim().split("\n").slice(0, 3).join(" ");
  throw new AddonError(`${command} failed: ${said}`);
}

/** One compiler call for each source, the slowest first. */
function compile_steps(scratch: string): Step[] {
  const zstd_napi = package_directory("zstd-napi");
  const include = [
    `${package_directory("node-api-headers")}include`,
    package_directory("node-addon-api"),
    `${zstd_napi}deps/zstd/lib`,
  ].map((directory) => `-I${directory}`);
  const steps: Step[] = [];
  for (const name of cpp_sources) {
    const defines = cpp_defines.map((define) => `-D${define}`);
    const flags = [...c_flags, "-std=gnu++17", "-fexceptions", ...defines, ...include];
    const args = [...flags, `${zstd_napi}src/${name}.cc`];
    steps.push({ command: "c++", args, object: `${scratch}/${name}.o` });
  }
  const listed = Deno.readTextFileSync(`${zstd_napi}deps/zstd.gyp`);
  for (const name of new Set([...listed.matchAll(/zstd\/lib\/[\w/]+\.[cS]/g)].map(([n]) => n))) {
    const args = [
      ...c_flags,
      ...c_defines.map((define) => `-D${define}`),
      `${zstd_napi}deps/${name}`,
    ];
    steps.push({ command: "cc", args, object: `${scratch}/${name.replaceAll("/", "_")}.o` });
  }
  return steps;
}

/** A build that has made nothing for so long was killed. */
const stale_ms = 60_000;
/** How often whoever waits for another process's build looks. */
const poll_ms = 2000;

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Waits until this process may build in the directory: one does at a time; false = it is done. */
async function take_turn(scratch: string, path: string): Promise<boolean> {
  await Deno.mkdir(cache_directory, { recursive: true });
  for (;;) {
    if (await exists(path)) return false;
    try {
      await Deno.mkdir(scratch);
      return true;
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    }
    try {
      const { mtime } = await Deno.stat(scratch);
      if (Date.now() - (mtime?.getTime() ?? 0) > stale_ms) {
        await Deno.utime(scratch, new Date(), new Date());
        return true;
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, poll_ms));
  }
}

/** What a killed build has finished is not compiled again. */
async function compile({ command, args, object }: Step): Promise<void> {
  if (await exists(object)) return;
  await run(command, [...args, "-o", `${object}.tmp`]);
  await Deno.rename(`${object}.tmp`, object);
}

/**
 * Builds the addon, on all cores, and puts it into its place when it is whole. Some 20 s of one
 * core; a process that comes second waits for the first.
 * @throws AddonError
 */
export async function build_addon(): Promise<unknown> {
  const path = built_path();
  const scratch = `${path}.building`;
  try {
    if (!await take_turn(scratch, path)) return require(path);
    const steps = compile_steps(scratch);
    const objects = steps.map(({ object }) => object);
    const work = async () => {
      for (let step = steps.shift(); step !== undefined; step = steps.shift()) await compile(step);
    };
    const workers = await Promise.allSettled(
      Array.from({ length: navigator.hardwareConcurrency }, work),
    );
    for (const worker of workers) if (worker.status === "rejected") throw worker.reason;
    const unfinished = `${scratch}/binding.node`;
    await run("c++", [...link_flags, "-o", unfinished, ...objects]);
    await Deno.rename(unfinished, path);
    await Deno.remove(scratch, { recursive: true });
    return require(path);
  } catch (error) {
    throw error instanceof AddonError ? error : new AddonError(String(error));
  }
}

/** The addon, built when it is not there. @throws AddonError */
export async function ensure_addon(): Promise<unknown> {
  return load_addon() ?? await build_addon();
}

if (import.meta.main) console.log(Object.keys(await ensure_addon() as object).join(" "));
