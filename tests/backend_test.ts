/** Which backend is taken where the best one cannot be had, and what is said of it. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { choose_backend } from "../ffi/backend.ts";
import { BuildError } from "../ffi/build.ts";
import { run_main } from "./support/service.ts";

const is_linux = Deno.build.os === "linux";

Deno.test({
  name: "what cannot be built is passed over, and the reason is told",
  ignore: !is_linux, // there is no kqueue to build on
  fn: async () => {
    const chosen = await choose_backend(["kqueue", "epoll"]);
    assertEquals(chosen.backend, "epoll");
    assertMatch(chosen.reason ?? "", /^not kqueue: Cannot build the reactor with .*event\.h/);
    assert(chosen.possible(1) > 0);
    assertEquals(chosen.possible(2), chosen.possible(1), "descriptors are the process's");
    await assertRejects(() => choose_backend(["kqueue"]), BuildError, "event.h");
  },
});

Deno.test({
  name: "the first backend that works is taken without a word",
  ignore: !is_linux,
  fn: async () => {
    assertEquals((await choose_backend(["epoll", "kqueue"])).reason, undefined);
  },
});

Deno.test({
  name: "more connections than descriptors allow is refused at the start",
  ignore: !is_linux,
  fn: async () => {
    const listeners = ["http", "mqtt", "device"].flatMap((name) => [`--${name}`, "127.0.0.1:0"]);
    const program = run_main([
      "serve",
      ...listeners,
      ...["--data", "memory", "--backend", "epoll", "--max_connections", "16000000"],
    ]);
    assertEquals(await program.status(), 1);
    assertMatch(
      program.stderr.seen.join("\n"),
      /^Cannot hold max_connections 16000000: .* allow \d+$/,
    );
  },
});
