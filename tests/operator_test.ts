/** `longwire token`, `longwire devices` and `--token`, as an operator uses them. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { parse_devices } from "../core/client/devices.ts";
import { UsageError } from "../core/client/options.ts";
import { parse_token } from "../core/client/token.ts";
import { KeyedService } from "./support/keyed_service.ts";
import { run_main } from "./support/service.ts";
import { key_pair } from "./support/tokens.ts";

/** Runs a command to its end. */
async function run(...args: string[]) {
  const program = run_main(args);
  const code = await program.status();
  return { code, out: program.stdout.seen, err: program.stderr.seen };
}

/** The lines of stdout as JSON. */
function json(lines: readonly string[]) {
  return lines.map((line) => JSON.parse(line));
}

Deno.test("a token made on the command line opens what it says, and no more", async () => {
  const pair = await key_pair("es", "ES256");
  await using keyed = await KeyedService.start(["--issuer", "i"], [pair]);
  const key = ["--key", keyed.file, "--issuer", "i"];
  const made = await run("token", ...key, "--publish", "a/#", "--tenant", "acme", "--json");
  assertEquals(made.code, 0, made.err.join("\n"));
  const [{ token, claims, expires }] = json(made.out);
  assertEquals([claims.publish, claims.tenant, claims.iss], [["a/#"], "acme", "i"]);
  assert(Math.abs(Date.parse(expires) - Date.now() - 3_600_000) < 60_000);
  const post = async (topic: string) => {
    const response = await keyed.fetch(token, `/v1/topics/${topic}`, { method: "POST", body: "" });
    await response.body?.cancel();
    return response.status;
  };
  assertEquals([await post("a/b"), await post("b")], [200, 403]);

  const operator = await run("token", ...key, "--admin", "devices", "--subscribe", "#");
  const file = await Deno.makeTempFile();
  await Deno.writeTextFile(file, `${operator.out[0]}\n`);
  const shown = ["--token", `@${file}`];
  try {
    const device = (await keyed.mqtt(operator.out[0], { client_id: "d/1" })).client;
    await device.subscribe("x/+", 1);
    const url = ["--url", keyed.service.http];
    const list = json((await run("devices", ...url, ...shown, "--json")).out);
    assertEquals(list.map((one) => [one.device_id, one.connected]), [["d/1", true]]);
    const heard = json((await run("devices", ...url, ...shown, "--topic", "x/y", "--json")).out);
    const { node } = heard[0];
    assertEquals(heard, [{ device_id: "d/1", filter: "x/+", qos: 1, node }]);
    const one = await run("devices", "d/1", ...url, ...shown);
    assert(one.out[0].startsWith("d/1\tmqtt-5\tconnected from "), one.out.join());
    assertEquals((await run("devices", "d/1", "--kick", ...url, ...shown)).code, 0);
    await device.closed();
    const nobody = await run("devices", ...url);
    assertEquals([nobody.code, nobody.out], [1, []]);
    const { host, port } = keyed.service.device;
    const pub = await run("pub", "x", "hi", "--url", `${host}:${port}`, ...shown);
    assertEquals(pub.code, 1, "it may subscribe only");
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("wrong arguments of token and devices say what is wrong", () => {
  const wrong: [(args: string[]) => unknown, string[], RegExp][] = [
    [parse_token, [], /--key is missing/],
    [parse_token, ["--key", "k", "--publish", "a/#/b"], /--publish "a\/#\/b": #/],
    [parse_token, ["--key", "k", "--tenant", "a/b"], /--tenant "a\/b"/],
    [parse_token, ["--key", "k", "--admin", "root"], /the rights are devices and operate/],
    [parse_token, ["--key", "k", "--ttl", "soon"], /--ttl "soon"/],
    [parse_token, ["--key", "k", "--device_id", "$share/a/b"], /--device_id/],
    [parse_devices, ["--kick"], /name it/],
    [parse_devices, ["a", "b"], /takes one id/],
    [parse_devices, ["--url", "x"], /--url "x"/],
  ];
  for (const [parse, args, message] of wrong) {
    assert(message.test(assertThrows(() => parse(args), UsageError).message), args.join(" "));
  }
});
