/** What a start decides for the operator, and its sentences. */
import { assertEquals, assertThrows } from "@std/assert";
import * as startup from "../core/startup.ts";

Deno.test("auto leaves one core to the rest, and is never nothing", () => {
  const cases: [setting: number | "auto", cores: number, threads: number][] = [
    ["auto", 1, 1],
    ["auto", 2, 1],
    ["auto", 8, 7],
    [3, 8, 3],
  ];
  for (const [setting, cores, threads] of cases) {
    assertEquals(startup.thread_count_of(setting, cores), threads);
  }
});

Deno.test("more connections than descriptors allow is one sentence", () => {
  startup.check_connections("auto", 18_000);
  startup.check_connections(18_000, 18_000);
  const refused = assertThrows(() => startup.check_connections(18_001, 18_000));
  assertEquals(
    refused.message,
    "Cannot hold max_connections 18001: the open files that this process may have (ulimit -n) " +
      "allow 18000",
  );
});

Deno.test("auto tries the backends of the system, best first", () => {
  const auto = { backend: "auto", kernel_tls: "off" } as const;
  assertEquals(startup.backends_of(auto, "linux"), ["uring", "epoll"]);
  assertEquals(startup.backends_of(auto, "darwin"), ["kqueue"]);
  assertEquals(startup.backends_of({ ...auto, backend: "epoll" }, "linux"), ["epoll"]);
  // io_uring's connections have no descriptor that the kernel could be given a key for.
  assertEquals(startup.backends_of({ ...auto, kernel_tls: "on" }, "linux"), ["epoll"]);
  assertEquals(startup.backends_of({ ...auto, kernel_tls: "on" }, "darwin"), ["kqueue"]);
});

Deno.test("the start says what has become of kernel_tls", () => {
  const place = { host: "127.0.0.1", port: 8883 };
  const config = { kernel_tls: "on", mqtts: place, device_tls: undefined } as const;
  assertEquals(
    startup.kernel_tls_text(config, undefined),
    "kernel_tls: the kernel encrypts what is sent",
  );
  assertEquals(
    startup.kernel_tls_text(config, "no module"),
    "kernel_tls: not by the kernel: no module",
  );
  assertEquals(startup.kernel_tls_text({ ...config, mqtts: undefined }, "no module"), undefined);
  assertEquals(startup.kernel_tls_text({ ...config, kernel_tls: "off" }, undefined), undefined);
});

/** As ffi/reactor.ts throws it. */
function errno_error(errno: number): Error {
  return Object.assign(new Error(`lw_listen failed: errno ${errno}`), { errno });
}

function throwing(error: Error): () => never {
  return () => {
    throw error;
  };
}

Deno.test("a listener that cannot be had is one sentence, a bug stays one", () => {
  const cases: [error: Error, sentence: string][] = [
    [errno_error(98), "Cannot bind mqtt [::1]:1883: address in use"],
    [errno_error(13), "Cannot bind mqtt [::1]:1883: permission denied"],
    [errno_error(7777), "Cannot bind mqtt [::1]:1883: lw_listen failed: errno 7777"],
    [new Deno.errors.AddrInUse("in use"), "Cannot bind mqtt [::1]:1883: address in use"],
    [new TypeError("a bug"), "a bug"],
  ];
  for (const [error, sentence] of cases) {
    const bind = () => startup.bind("mqtt", { host: "::1", port: 1883 }, throwing(error));
    assertEquals(assertThrows(bind).message, sentence);
  }
  const start = () => startup.start("uring", throwing(errno_error(38)));
  const sentence = "Cannot start the reactor with backend uring: this kernel does not have it";
  assertEquals(assertThrows(start).message, sentence);
});

Deno.test("a store that cannot be opened is one sentence", () => {
  const own = new Error("Cannot open data /x: not a directory");
  assertEquals(startup.store_problem("/x", own).message, own.message);
  const other = startup.store_problem("/x", new Error("database disk\nimage is malformed."));
  assertEquals(other.message, "Cannot open the store in /x: database disk image is malformed");
});

Deno.test("what is printed names what listens, and nothing else", () => {
  const text = startup.started_text({
    version: "1.2.3",
    duration_ms: 12.6,
    backend: "epoll",
    thread_count: 1,
    zstd: "zstd-napi",
    connections_max: 99,
    data: "memory",
    listening: { http: undefined, mqtt: { host: "::1", port: 1883 }, device: undefined },
    deno: startup.deno_command("/x/node_modules/deno/deno", "2.9.2"),
  });
  assertEquals(text.split("\n").filter((line) => line !== ""), [
    "Longwire 1.2.3 is ready after 13 ms: epoll, 1 I/O thread, zstd-napi, " +
    "at most 99 connections, nothing is kept",
    "  mqtt    [::1]:1883",
    "Try, each in a terminal of its own:",
    "  mosquitto_sub -h ::1 -p 1883 -t 'demo/#' -v",
  ]);
  assertEquals(startup.deno_command("/x/node_modules/deno/deno", "2.9.2"), "npx -y deno@2.9.2");
  assertEquals(startup.deno_command("/usr/bin/deno", "2.9.2"), "deno");
});
