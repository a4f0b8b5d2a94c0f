/** What the log writes, what it hides, and that a message that repeats without end costs little. */
import { assert, assertEquals } from "@std/assert";
import { Log, type LogFields, type LogLevel } from "../core/log.ts";

const start_ms = Date.UTC(2030, 0, 2, 3, 4, 5, 6);

function log_to_memory(format: "json" | "text", level: LogLevel = "info") {
  const lines: string[] = [];
  const clock = { now_ms: start_ms };
  const write = (line: string) => {
    assert(/^[^\n\r\u2028]+\n$/.test(line), `not one line: ${JSON.stringify(line)}`);
    lines.push(line.slice(0, -1));
  };
  return { log: new Log({ level, format, write, now_ms: () => clock.now_ms }), lines, clock };
}

/** The one JSON line that an event with these fields becomes. */
function json_of(message: string, fields: LogFields): Record<string, unknown> {
  const { log, lines } = log_to_memory("json");
  log.info(message, fields);
  assertEquals(lines.length, 1);
  return JSON.parse(lines[0]!);
}

Deno.test("an event is one line of text or of JSON", () => {
  const text = log_to_memory("text");
  text.log.info("listening", { protocol: "mqtt", address: "[::1]:1883", port: 1883 });
  text.log.warn("odd", { reason: "two words", empty: "", absent: undefined, none: null });
  assertEquals(text.lines, [
    "2030-01-02T03:04:05.006Z INFO  listening protocol=mqtt address=[::1]:1883 port=1883",
    '2030-01-02T03:04:05.006Z WARN  odd reason="two words" empty="" none=null',
  ]);
  assertEquals(json_of("listening", { protocol: "mqtt", port: 1883, ok: true }), {
    time: "2030-01-02T03:04:05.006Z",
    level: "info",
    event: "listening",
    protocol: "mqtt",
    port: 1883,
    ok: true,
  });
});

Deno.test("levels below the chosen one are not written", () => {
  const levels: LogLevel[] = ["debug", "info", "warn", "error"];
  levels.forEach((level, i) => {
    const { log, lines } = log_to_memory("text", level);
    log.debug("d");
    log.info("i");
    log.warn("w");
    log.error("e");
    assertEquals(lines.length, levels.length - i, level);
  });
});

Deno.test("secrets are hidden by name, tokens by form", () => {
  const token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
  const fields = json_of(`refused ${token}`, {
    token: "a",
    resume_secret: "b",
    Password: "c",
    api_keys: ["d"],
    headers: { Authorization: "e", host: "f" },
    detail: `Bearer ${token}, sorry`,
    error: new Error(`bad ${token}`),
    key: "conflation key",
    secretary: "g",
  });
  assertEquals(fields.event, "refused [hidden]");
  for (const name of ["token", "resume_secret", "Password", "api_keys"]) {
    assertEquals(fields[name], "[hidden]", name);
  }
  assertEquals(fields.headers, '{"Authorization":"[hidden]","host":"f"}');
  assertEquals(fields.detail, "Bearer [hidden], sorry");
  assertEquals(fields.error, "Error: bad [hidden]");
  assertEquals(fields.key, "conflation key");
  assertEquals(fields.secretary, "g");
});

Deno.test("no value breaks the line, the log or its bounds", () => {
  const cycle: Record<string, unknown> = {};
  cycle.self = cycle;
  const values: [unknown, unknown][] = [
    ["a\nlevel=error", "a\nlevel=error"],
    [NaN, "NaN"],
    [10n, "10"],
    [new Uint8Array(5), "[5 bytes]"],
    [cycle, "[cannot be written]"],
    [Symbol("s"), "Symbol(s)"],
    [new TypeError("no"), "TypeError: no"],
    [{ a: [1] }, '{"a":[1]}'],
    ["x".repeat(5000), "x".repeat(1024) + "[3976 more]"],
    ["x".repeat(1023) + "😀", "x".repeat(1023) + "\ufffd[1 more]"],
  ];
  for (const [value, expected] of values) assertEquals(json_of("m", { value }).value, expected);

  const { log, lines } = log_to_memory("text");
  log.info("forged\n2030 ERROR", { "na me": "a\nb\u2028\u001b[31m" });
  assertEquals(
    lines[0]!.slice(25),
    'INFO  forged\\u000a2030 ERROR "na me"="a\\nb\\u2028\\u001b[31m"',
  );
  const many = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`f${i}`, i]));
  assertEquals(Object.keys(json_of("m", many)).length, 32 + 1 + 3);
  assertEquals(json_of("m", { time: 0, level: "error", event: "x" }).event, "m");
});

Deno.test("a message that repeats is counted, not written", () => {
  const { log, lines, clock } = log_to_memory("json");
  for (let i = 0; i < 100; i++) log.warn("refused", { i });
  log.warn("another");
  log.error("refused"); // another level is another message
  assertEquals(lines.length, 12);
  clock.now_ms += 9_999;
  log.warn("refused");
  assertEquals(lines.length, 12);
  clock.now_ms += 1;
  log.warn("refused", { i: "new window" });
  assertEquals(lines.length, 14);
  assertEquals(JSON.parse(lines[12]!), {
    message: "refused",
    not_written: 91,
    since: "2030-01-02T03:04:05.006Z",
    time: "2030-01-02T03:04:15.006Z",
    level: "warn",
    event: "repeated",
  });
  assertEquals(JSON.parse(lines[13]!).i, "new window");
});

Deno.test("a clock that goes back opens a new window", () => {
  const { log, lines, clock } = log_to_memory("text");
  for (let i = 0; i < 20; i++) log.info("tick");
  clock.now_ms -= 3_600_000;
  log.info("tick");
  assertEquals(lines.length, 12);
});

Deno.test("flush writes the counts that are left, once", () => {
  const { log, lines } = log_to_memory("text");
  for (let i = 0; i < 12; i++) log.info("tick");
  log.info("once");
  log.flush();
  log.flush();
  assertEquals(lines.length, 12);
  assert(lines[11]!.includes("repeated message=tick not_written=2"), lines[11]);
});

Deno.test("messages that never repeat are not remembered without end", () => {
  const { log, lines } = log_to_memory("text");
  for (let i = 0; i < 15; i++) log.info("first");
  for (let i = 0; i < 1000; i++) log.info(`message ${i}`);
  log.flush();
  // 10 of "first", its count when it was forgotten, 1000 others
  assertEquals(lines.length, 10 + 1 + 1000);
});
