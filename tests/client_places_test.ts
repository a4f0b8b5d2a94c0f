/** The client where it runs: Node.js over TCP, and over WebSocket, against the real service. */
import { assert, assertEquals } from "@std/assert";
import { connect, zstd_of, type ZstdBinding } from "../core/client.ts";
import { codes } from "../core/codes.ts";
import { ensure_addon } from "../ffi/zstd.ts";
import { Program, test_with } from "./support/process.ts";
import { Service } from "./support/service.ts";

/** Bundles the client as `deno task client` does, elsewhere. */
async function bundle(path: string): Promise<void> {
  const args = ["bundle", "--quiet", "--platform=browser", "--external=node:net", "-o", path];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args, "core/client.ts"],
    cwd: new URL("../", import.meta.url),
  }).output();
  assert(success, new TextDecoder().decode(stderr));
}

test_with(["node"], "the client in Node.js goes on over a kill of the service", async () => {
  const directory = await Deno.makeTempDir();
  try {
    await bundle(`${directory}/client.mjs`);
    const data = `${directory}/data`;
    const first = await Service.start({ data });
    const { host, port } = first.device;
    const script = decodeURIComponent(new URL("support/node_client.mjs", import.meta.url).pathname);
    const count = 40;
    const node = new Program("node", [
      script,
      `${directory}/client.mjs`,
      `${host}:${port}`,
      String(count),
    ]);
    await node.stdout.find((line) => line.startsWith("message"), "a message");
    await first.kill();
    await node.stdout.find((line) => line === "disconnected", "the end of the connection");
    await using _second = await Service.start({ data, device: `${host}:${port}` });
    await node.stdout.find((line) => line === "round trip true, clock true", "its last words");
    assertEquals(await node.status(), 0);
    const messages = node.stdout.seen.filter((line) => line.startsWith("message"));
    const offsets = messages.map((line) => Number(line.split(" ")[1]));
    assertEquals(offsets, [...new Set(offsets)].toSorted((a, b) => a - b)); // once, in order
    const numbers = new Set(messages.map((line) => Number(line.split(" ")[2])));
    assertEquals(numbers.size, count); // a publish that was answered late may be stored twice
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("the client over WebSocket: messages, compression, reports", async () => {
  await using service = await Service.start();
  const zstd = zstd_of(await ensure_addon() as ZstdBinding);
  const address = `${service.http.replace("http", "ws")}/v1/longwire`;
  const client = connect({ address, session_id: "browser", zstd });
  try {
    await client.subscribe("a/#");
    const payload = new TextEncoder().encode('{"temperature":21.5,"humidity":40,"battery":99}');
    const { offset } = await client.publish("a/b", payload);
    for await (const event of client) {
      if (event.type === "connected") assertEquals(event.welcome.dictionaries, zstd.dictionaries);
      if (event.type !== "message") continue;
      assertEquals([event.message.offset, event.message.payload], [offset, payload]);
      break;
    }
    const timestamp_ms = client.server_time_ms;
    const reports = [1, 2, 3].map((node_id) => ({ timestamp_ms, node_id, load_percent: 7 }));
    await client.report(...reports, { ...reports[0], timestamp_ms: timestamp_ms + 1e9 });
    for await (const event of client) {
      if (event.type !== "notice") continue;
      assertEquals([event.code, event.count], [codes.time_ahead, 1]);
      break;
    }
    assertEquals(await service.metric("longwire_status_nodes"), 3);
  } finally {
    await client.close();
  }
});
