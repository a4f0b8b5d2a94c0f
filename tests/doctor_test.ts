/** `longwire doctor` and `longwire backup`, the findings and the commands. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { deno_problem, examine, findings_text, is_sound } from "../core/doctor.ts";
import { run_main, Service } from "./support/service.ts";

Deno.test("doctor: what fails is named, and what is optional does not fail the whole", async () => {
  const broken = () => Promise.reject(new Error("first line\nsecond line"));
  const findings = await examine([
    { name: "a", run: () => "fine" },
    { name: "long", optional: true, run: broken },
  ]);
  assertEquals(findings.map(({ state }) => state), ["ok", "warning"]);
  assert(is_sound(findings));
  assertEquals(
    findings_text(findings),
    "ok       a     fine\nwarning  long  first line\n               second line",
  );
  assert(!is_sound(await examine([{ name: "b", run: broken }])));
});

Deno.test("doctor: Deno versions that abort on GOAWAY are known", () => {
  const known = ["2.9.2", "2.9.3", "2.9.4", "2.9.6", "2.9.7", "2.10.0"].map((version) =>
    deno_problem(version) !== undefined
  );
  assertEquals(known, [false, false, true, true, false, false]);
});

Deno.test("doctor and backup work on the data of a running service", async () => {
  const data = await Deno.makeTempDir();
  const service = await Service.start({ data });
  try {
    const sent = await fetch(`${service.http}/v1/topics/a?retain`, {
      method: "POST",
      body: "kept",
    });
    assertEquals((await sent.json()).offset, 1);
    const doctor = run_main(["doctor", "--data", data]);
    assertEquals(await doctor.status(), 0);
    assertMatch(doctor.stdout.seen.join("\n"), /ok +store +.* is sound/);
    const copy = await Deno.makeTempDir();
    const backup = run_main(["backup", `${copy}/longwire.db`, "--data", data]);
    assertEquals(await backup.status(), 0);
    const again = run_main(["backup", `${copy}/longwire.db`, "--data", data]);
    assertEquals(await again.status(), 1);
    assertMatch(again.stderr.seen.join("\n"), /^Cannot write backup .*: it exists already$/m);
    const restored = await Service.start({ data: copy });
    try {
      const page = await (await fetch(`${restored.http}/v1/topics/a/messages`)).json();
      assertEquals(page.messages.map(({ payload }: { payload: string }) => payload), ["kept"]);
    } finally {
      await restored.stop();
    }
    await Deno.remove(copy, { recursive: true });
  } finally {
    await service.stop();
    await Deno.remove(data, { recursive: true });
  }
});
