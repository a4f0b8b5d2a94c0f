/** What a service has open: GET /v1/fds and `longwire fds` at the running program. */
import { assert, assertEquals } from "@std/assert";
import { confirm } from "../core/descriptors.ts";
import type { DescriptorRow, DescriptorScan } from "../ffi/reactor.ts";
import { MqttClient } from "./support/mqtt_client.ts";
import { eventually, run_main, Service } from "./support/service.ts";

const devices = 20;

async function fds(service: Service): Promise<DescriptorScan> {
  const response = await fetch(`${service.http}/v1/fds`);
  assertEquals(response.status, 200);
  return await response.json();
}

for (const backend of ["epoll", "uring"]) {
  const ignore = Deno.build.os !== "linux";
  Deno.test({
    name: `descriptors: ${backend} holds what is connected, and nothing is lost`,
    ignore,
    fn: async () => {
      await using service = await Service.start({ args: ["--backend", backend] });
      const before = await fds(service);
      const clients = await Promise.all(Array.from({ length: devices }, async (_, index) => {
        return (await MqttClient.connect(service.mqtt, { client_id: `d${index}` })).client;
      }));
      const after = await fds(service);
      const more = backend === "epoll" ? "held" : "direct";
      assertEquals(after[more] - before[more], devices);
      assertEquals([after.leaked, after.missing], [0, 0]);
      assert(
        after.kinds.eventfd > 0 && after.kinds[backend === "epoll" ? "epoll" : "io_uring"] > 0,
      );
      assertEquals(await service.metric('longwire_descriptors_lost{how="leaked"}'), 0);
      assert(await service.metric('longwire_descriptors{kind="socket"}') > 0);
      for (const client of clients) client.close();
      await eventually("all are gone", async () => (await fds(service))[more] === before[more]);
      const program = run_main(["fds", "--url", service.http, "--all"]);
      assertEquals(await program.status(), 0, program.stderr.seen.join("\n"));
      assert(program.stdout.seen.some((line) => /^leaked +0$/.test(line)), "leaked");
      assert(program.stdout.seen.some((line) => line.startsWith("stranger\t")), "strangers");
    },
  });
}

Deno.test("descriptors: what looks wrong in one scan only is not called lost", () => {
  const row = (fd: number, role: DescriptorRow["role"], target: string): DescriptorRow => {
    return { fd, role, kind: "socket", target };
  };
  const scan = (...rows: DescriptorRow[]) => ({ leaked: 9, missing: 9, rows }) as never;
  const before = scan(row(7, "leaked", "socket:[1]"), row(8, "leaked", "socket:[2]"));
  const stranger = row(5, "stranger", "socket:[9]");
  const kept = row(7, "leaked", "socket:[1]");
  // 8 is another socket by now, 9 is new.
  const others = [row(8, "leaked", "socket:[3]"), row(9, "missing", "")];
  const { leaked, missing, rows } = confirm(before, scan(stranger, kept, ...others));
  assertEquals([leaked, missing, rows], [1, 0, [stranger, kept]]);
});
