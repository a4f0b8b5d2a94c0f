/**
 * deploy/ebpf/fdwatch.bt: a program that loses one descriptor among hundreds that it closes,
 * watched by bpftrace in the running kernel, which names the function.
 */
import { assert, assertEquals } from "@std/assert";
import { any_compiler, ensure_program } from "./native/build.ts";
import { is_ci, Program } from "./support/process.ts";

const script = decodeURIComponent(new URL("../deploy/ebpf/fdwatch.bt", import.meta.url).pathname);

/** Why bpftrace cannot be used here; "" = it can. */
async function problem(): Promise<string> {
  if (Deno.build.os !== "linux") return "it is Linux's";
  try {
    const program = "tracepoint:syscalls:sys_enter_close { exit(); } interval:s:1 { exit(); }";
    const out = await new Deno.Command("bpftrace", { args: ["-e", program] }).output();
    const said = new TextDecoder().decode(out.stderr).trim().split("\n").at(-1) ?? "";
    return out.success ? "" : said || `status ${out.code}`;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "bpftrace is not installed";
    throw error;
  }
}

/** The gate installs bpftrace; a kernel or container that forbids it is skipped there, too. */
const why = await problem();
const ignore = why !== "" && !(is_ci && why.includes("not installed"));

Deno.test({
  name: `fdwatch.bt names who never closed a descriptor${ignore ? ` (skipped: ${why})` : ""}`,
  ignore,
  fn: async () => {
    assertEquals(why, "");
    const path = await ensure_program({
      program: "leak",
      variant: "frames",
      compilers: any_compiler,
      flags: ["-O1", "-fno-omit-frame-pointer"],
    });
    const leaking = new Deno.Command(path, { stdin: "piped", stdout: "piped" }).spawn();
    const stdin = leaking.stdin.getWriter();
    const stdout = leaking.stdout.getReader();
    const watching = new Program("bpftrace", [script, String(leaking.pid)], {});
    for (let line: string | undefined = ""; !line?.startsWith("Watching");) {
      line = await watching.stdout.next(20_000);
      if (line === undefined) throw new Error(watching.stderr.seen.join("\n"));
    }
    await stdin.write(new Uint8Array(1));
    await stdout.read(); // it has done its work, and still runs: its functions can be named
    assertEquals(await watching.end("SIGINT"), 0, watching.stderr.seen.join("\n"));
    await stdin.close();
    await stdout.cancel();
    assertEquals((await leaking.status).code, 0);
    const found = watching.stdout.seen.join("\n").match(/@open\[[^\]]*\]: \d+/g) ?? [];
    assertEquals(found.length, 1, found.join("\n"));
    assert(/__GI___socket|\bsocket\b/.test(found[0]!), found[0]);
    assert(/\bforget_a_socket\+/.test(found[0]!) && found[0]!.endsWith(": 1"), found[0]);
  },
});
