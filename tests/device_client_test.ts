/** The client for small devices (deploy/device) against the real service, under a sanitizer. */
import { assert, assertEquals } from "@std/assert";
import { codes } from "../core/codes.ts";
import { seed_for } from "./cases/random.ts";
import { any_compiler, device_parts, ensure_program, sanitizers } from "./native/build.ts";
import { Program } from "./support/process.ts";
import { eventually, Service } from "./support/service.ts";

const program = await ensure_program({
  program: "device",
  variant: "address",
  compilers: any_compiler,
  flags: [...sanitizers.address, ...device_parts.flags, "-DLONGWIRE_BACKOFF_CAP_MS=100u"],
  sources: device_parts.sources,
});

function run_device({ device: { host, port } }: Service, ...args: string[]): Program {
  return new Program(program, ["run", `host=${host}`, `port=${port}`, "session=small", ...args]);
}

/** Offsets of the messages that a device was given. */
function offsets_of({ stdout }: Program): number[] {
  const lines = stdout.seen.filter((line) => line.startsWith("message "));
  return lines.map((line) => Number(line.split(" ")[1]));
}

Deno.test("C client: subscribes, publishes, reports, and is told what it must know", async () => {
  await using service = await Service.start();
  const device = run_device(service, "filter=down/#", "publish=3", "report=1");
  await device.stdout.find((line) => line === "ready", "a connection");
  for (const id of [1, 2, 3]) {
    await device.stdout.find((line) => line === `published ${id} 0`, `publish ${id}`);
  }
  await eventually("the status is known", async () => {
    return await service.metric("longwire_status_nodes") === 1;
  });
  await service.publish("down/x", "hello");
  await device.stdout.find((line) => line === "message 4 down/x hello", "the message");
  await service.publish("down/x", new Uint8Array(8000)); // larger than its buffer
  await service.publish("down/x", "after");
  await device.stdout.find((line) => line === "message 6 down/x after", "what follows");
  assertEquals(await device.end("SIGKILL"), 137);
});

Deno.test("C client: what the service refuses for good stops it", async () => {
  await using service = await Service.start();
  const device = run_device(service, "filter=a/#/b");
  const code = codes.filter_invalid.number;
  await device.stdout.find((line) => line === `stopped ${code}`, "the end");
  assertEquals(await device.status(), 0);
});

Deno.test("C client: pieces, cuts and kills: each message once, in order", async () => {
  const seed = seed_for("C client");
  const data = await Deno.makeTempDir();
  try {
    let service = await Service.start({ data });
    const device_place = `${service.device.host}:${service.device.port}`;
    const device = run_device(service, "filter=down/#", "piece=7", "cut=900", `seed=${seed}`);
    await device.stdout.find((line) => line === "ready", "a connection");
    let last = 0;
    for (let round = 0; round < 3; round++) {
      for (let n = 0; n < 10; n++) {
        last = Number((await service.publish("down/x", `${round}.${n}`)).body.offset);
      }
      await service.kill();
      service = await Service.start({ data, device: device_place });
    }
    await device.stdout.find((line) => line.startsWith(`message ${last} `), "the last message");
    await device.end("SIGKILL");
    await service.stop();
    const expected = Array.from({ length: last }, (_, i) => i + 1);
    assertEquals(offsets_of(device), expected);
    assertEquals(device.stderr.seen, []); // a sanitizer would have spoken
  } finally {
    await Deno.remove(data, { recursive: true });
  }
});

Deno.test("C client: bytes that no service would send do no harm", async () => {
  const seed = seed_for("C client fuzz") || 1;
  const { success, stderr } = await new Deno.Command(program, {
    args: ["fuzz", "rounds=500000", `seed=${seed}`],
  }).output();
  assert(success, new TextDecoder().decode(stderr));
});

Deno.test("C client: its codes are those of core/codes.ts, and final", async () => {
  const source = new URL("../deploy/device/longwire.c", import.meta.url);
  const text = await Deno.readTextFile(source);
  const found = [...text.matchAll(/\bCODE_(\w+) = (\d+)/g)];
  assert(found.length >= 6);
  for (const [, name, number] of found) {
    const code = codes[name.toLowerCase() as keyof typeof codes];
    assertEquals([code?.number, code?.retryable], [Number(number), false], name);
  }
});
