/**
 * What can keep the service from starting: each is one sentence for the person who started it, and
 * exit status 1. And what it says when it starts.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { help_text } from "../core/config_help.ts";
import { failing_start, run_main, Service } from "./support/service.ts";

const free_ports = ["--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--device", "127.0.0.1:0"];

Deno.test("a port that is in use", async () => {
  await using service = await Service.start();
  const { mqtt, device, http } = service;
  const cases = [
    ["mqtt", `${mqtt.host}:${mqtt.port}`],
    ["device", `${device.host}:${device.port}`],
    ["http", http.slice("http://".length)],
  ];
  for (const [name, address] of cases) {
    const args = free_ports.map((arg, index) =>
      free_ports[index - 1] === `--${name}` ? address : arg
    );
    const said = await failing_start([...args, "--data", "memory"]);
    assertEquals(said, `Cannot bind ${name} ${address}: address in use`);
  }
});

Deno.test("a machine without a C compiler", async () => {
  const empty = await Deno.makeTempDir();
  try {
    const args = [...free_ports, "--data", "memory"];
    const said = await failing_start(args, { env: { PATH: empty } });
    assertMatch(said, /^Cannot build the reactor: no C compiler found; install one \(.*\)$/);
  } finally {
    await Deno.remove(empty);
  }
});

Deno.test("a data directory that is a file, and one inside it", async () => {
  const file = await Deno.makeTempFile();
  try {
    for (const data of [file, `${file}/below`]) {
      const said = await failing_start([...free_ports, "--data", data]);
      assertEquals(said, `Cannot open data ${data}: not a directory`);
    }
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("a data directory that another service has", async () => {
  const data = await Deno.makeTempDir();
  try {
    await using service = await Service.start({ data });
    const said = await failing_start([...free_ports, "--data", data]);
    assertEquals(said, `Cannot open data ${data}: in use by process ${service.program.pid}`);
  } finally {
    await Deno.remove(data, { recursive: true });
  }
});

Deno.test("settings that are wrong, all of them at once", async () => {
  const args = [
    "--mqtt",
    "0.0.0.0:1883",
    "--http",
    "nowhere",
    "--io_threads",
    "many",
    "--prot",
    "1",
  ];
  const said = (await failing_start(args)).split("\n");
  assertEquals(said.length, 4);
  for (const line of said) assertMatch(line, /^Cannot .*[^.]$/);
});

Deno.test("--help, also behind two dashes, prints every setting", async () => {
  for (const args of [["--help"], ["--", "--help"], ["help"]]) {
    const program = run_main(args);
    assertEquals(await program.status(), 0);
    assertEquals(`${program.stdout.seen.join("\n")}\n`, `${help_text()}\n`);
  }
  for (const usage of ["pub <topic> [payload]", "sub <filter>"]) {
    const program = run_main([usage.slice(0, 3), "--help"]);
    assertEquals(await program.status(), 0);
    assert(program.stdout.seen.includes(`Usage: longwire ${usage} [--option value ...]`));
  }
});

Deno.test("pub and sub say what is wrong: 2 for arguments, 1 for the service", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const nobody = `127.0.0.1:${listener.addr.port}`;
  listener.close();
  const cases: [args: string[], code: number, said: RegExp][] = [
    [["sub"], 2, /^Cannot subscribe: a topic filter is missing$/],
    [["sub", "a#"], 2, /^Cannot subscribe to "a#": # must be the whole of the last level$/],
    [["sub", "a", "--qos", "3"], 2, /^Cannot use --qos "3": it must be 0, 1 or 2$/],
    [["pub", "a/+", "m"], 2, /^Cannot publish to "a\/\+": a topic must not contain the wildcards/],
    [["pub", "a", "m", "--url", nobody], 1, /^Cannot connect to 127\.0\.0\.1:\d+: .*refused$/],
    [["sub", "a", "--url", nobody], 1, /^Cannot connect to 127\.0\.0\.1:\d+: .*refused$/],
  ];
  for (const [args, code, said] of cases) {
    const program = run_main(args);
    assertEquals([args, await program.status()], [args, code]);
    assertMatch(program.stderr.seen.join("\n"), said);
  }
});

Deno.test("a start says where it listens and what to try", async () => {
  await using service = await Service.start();
  const lines = service.program.stdout;
  assertMatch(lines.seen[0], /^Longwire \d+\.\d+\.\d+ is ready after \d+ ms: /);
  const { http, mqtt, device } = service;
  for (
    const command of [
      `mosquitto_sub -h 127.0.0.1 -p ${mqtt.port} -t 'demo/#' -v`,
      `task longwire sub 'demo/#' --url 127.0.0.1:${device.port}`,
      `curl -d 'hello' '${http}/v1/topics/demo/greeting'`,
    ]
  ) {
    await lines.find((line) => line.trim().endsWith(command), command);
  }
});
