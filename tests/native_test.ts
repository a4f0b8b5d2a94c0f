/**
 * The reactor's own tests, in C: units of its parts, a hammer on its sockets and a fuzzer on what
 * peers and hosts may say, each built with the sanitizers that the compiler has. Longer runs:
 * LONGWIRE_NATIVE_SECONDS=300.
 */
import { fail } from "@std/assert";
import { cache_directory } from "../ffi/build.ts";
import { seed_for } from "./cases/random.ts";
import {
  any_compiler,
  backend_parts,
  type Build,
  ensure_program,
  flags_problem,
  kernel_tls_parts,
  sanitizers,
} from "./native/build.ts";

const is_ci = (Deno.env.get("CI") ?? "") !== "";
const seconds = Number(Deno.env.get("LONGWIRE_NATIVE_SECONDS") ?? 3);
/** Of the fuzzer, whose finds need time. */
const fuzz_seconds = is_ci ? Math.max(60, seconds) : seconds;
const seed = String(seed_for("native"));
const text = new TextDecoder();

/** A program that crashes must say where, and one that hangs must end. */
const environment = {
  ASAN_OPTIONS: "detect_leaks=1:abort_on_error=0",
  UBSAN_OPTIONS: "print_stacktrace=1",
  TSAN_OPTIONS: "halt_on_error=0:second_deadlock_stack=1",
};

/** What a program answers where the kernel lacks what it tests. */
const skipped_status = 77;

async function run(build: Build, args: readonly string[], timeout_s: number): Promise<void> {
  const path = await ensure_program(build);
  const { success, code, signal, stdout, stderr } = await new Deno.Command(path, {
    args: [...args],
    env: environment,
    signal: AbortSignal.timeout(timeout_s * 1000),
  }).output();
  if (success) return;
  if (code === skipped_status) return console.log(text.decode(stderr).trim());
  const end = signal === null ? `status ${code}` : signal;
  fail(`${end}\n${text.decode(stdout)}\n${text.decode(stderr).slice(-8000)}`);
}

/** Registers a test; where the compiler cannot build it, it is skipped, except in the gate. */
async function native_test(
  name: string,
  build: Build,
  args: readonly string[],
  timeout_s: number,
): Promise<void> {
  const problem = await flags_problem(build.compilers, build.flags, build.libraries);
  const test = () => problem === "" ? run(build, args, timeout_s) : fail(problem);
  if (problem === "" || is_ci) Deno.test(name, test);
  else Deno.test.ignore(`${name} (skipped: ${problem})`, test);
}

type Sanitizer = keyof typeof sanitizers;

const every_sanitizer = ["address", "thread", "none"] as const;
const backends: Record<string, readonly Sanitizer[]> = Deno.build.os === "linux"
  ? { epoll: every_sanitizer, uring: every_sanitizer, kqueue: ["address", "thread"] }
  : { kqueue: every_sanitizer };

for (const [variant, flags] of Object.entries(sanitizers)) {
  await native_test(
    `the reactor's parts hold, sanitizer ${variant}, seed ${seed}`,
    { program: "unit", variant, compilers: any_compiler, flags },
    [seed],
    120,
  );
}

for (const [backend, variants] of Object.entries(backends)) {
  for (const sanitizer of variants) {
    const parts = backend_parts(backend);
    const flags = [...sanitizers[sanitizer], ...parts.flags];
    const variant = `${backend}_${sanitizer}`;
    await native_test(
      `the reactor stands the hammer on ${backend}, sanitizer ${sanitizer}, seed ${seed}`,
      { program: "hammer", variant, compilers: any_compiler, ...parts, flags },
      [String(seconds), seed],
      seconds + 120,
    );
  }
}

for (const backend of Deno.build.os === "linux" ? ["epoll", "uring"] : []) {
  const parts = backend_parts(backend);
  const flags = [...sanitizers.address, ...parts.flags];
  const how = { variant: `${backend}_address`, compilers: any_compiler, ...parts, flags };
  const name = `lost descriptors are found on ${backend}, seed ${seed}`;
  await native_test(name, { program: "descriptors", ...how }, [seed], 60);
}

if (Deno.build.os === "linux") {
  // Tables so small that threads need several; ThreadSanitizer sees who rings at which ring.
  const parts = backend_parts("uring");
  const flags = [...sanitizers.thread, ...parts.flags, "-DTABLE_SIZE_MAX=64u"];
  await native_test(
    `the reactor stands the hammer on io_uring's smallest tables, seed ${seed}`,
    { program: "hammer", variant: "uring_tables", compilers: any_compiler, ...parts, flags },
    [String(seconds), seed],
    seconds + 120,
  );
}

const tls_programs = [
  ["tls", "TLS keeps its word to good and bad peers"],
  ["entrance", "PROXY headers and admission decide who comes in"],
] as const;
for (const [program, what] of tls_programs) {
  for (const [backend, variants] of Object.entries(backends)) {
    for (const sanitizer of variants) {
      if (sanitizer === "none" && backend !== "epoll") continue; // the hammer is enough
      const parts = backend_parts(backend);
      const flags = [...sanitizers[sanitizer], "-DLW_TLS", ...parts.flags];
      const libraries = ["-lssl", "-lcrypto"];
      const variant = `${backend}_${sanitizer}`;
      await native_test(
        `${what} on ${backend}, sanitizer ${sanitizer}, seed ${seed}`,
        { program, variant, compilers: any_compiler, ...parts, flags, libraries },
        [seed],
        180,
      );
    }
  }
}

if (Deno.build.os === "linux") {
  const tls_flags = ["-DLW_TLS", ...backend_parts("epoll").flags];
  const libraries = ["-lssl", "-lcrypto"];
  const args = [seed, "kernel"];
  for (const sanitizer of ["address", "thread"] as const) {
    const { sources } = kernel_tls_parts;
    const flags = [...sanitizers[sanitizer], ...tls_flags, ...kernel_tls_parts.flags];
    const variant = `kernel_${sanitizer}`;
    const how = { variant, compilers: any_compiler, flags, sources, libraries };
    const by = `an emulated kernel, sanitizer ${sanitizer}, seed ${seed}`;
    await native_test(`TLS keeps its word by ${by}`, { program: "tls", ...how }, args, 180);
    const own = `refusals and new keys are dealt with by ${by}`;
    await native_test(own, { program: "tls_kernel", ...how }, [seed], 120);
  }
  // Where this kernel has TLS; else the program says so and is done.
  const flags = [...sanitizers.none, ...tls_flags];
  const plain = {
    program: "tls",
    variant: "epoll_none",
    compilers: any_compiler,
    flags,
    libraries,
  };
  await native_test(`TLS keeps its word by the kernel, seed ${seed}`, plain, args, 180);
}

// What the fuzzer learns is kept for the next time; what breaks the reactor lies beside it.
const corpus = decodeURIComponent(new URL("fuzz_frames/", cache_directory).pathname);
await Deno.mkdir(corpus, { recursive: true });
await native_test(
  "no bytes of a peer and no records of a host break the reactor",
  {
    program: "fuzz_frames",
    variant: "fuzzer",
    compilers: ["clang"],
    flags: ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined", "-O1"],
  },
  [
    `-max_total_time=${fuzz_seconds}`,
    "-max_len=2048",
    `-seed=${Number(seed) || 1}`,
    `-artifact_prefix=${corpus}../`,
    corpus,
  ],
  fuzz_seconds + 60,
);
