/** Documents of rules by themselves: what they say, and how they say that they cannot be used. */
import { assertEquals } from "@std/assert";
import { breaker_default } from "../../core/cluster/breaker.ts";
import { degradation_default } from "../../core/cluster/degradation.ts";
import {
  document_names,
  type DocumentName,
  documents_default,
  parse_document,
  Rules,
} from "../../core/cluster/rules.ts";

Deno.test("rules: what is absent has its default", () => {
  for (const name of document_names) {
    assertEquals(parse_document(name, "{}"), { value: documents_default[name] });
  }
  const rule = { name: "r", query: "up", below: 1 };
  assertEquals(parse_document("breaker", JSON.stringify({ rules: [rule] })), {
    value: { ...breaker_default, rules: [{ ...rule, above: null }] },
  });
  assertEquals(parse_document("degradation", `{"shed": {"queue_bytes": 1}, "recover": 0.25}`), {
    value: {
      ...degradation_default,
      shed: { ...degradation_default.shed, queue_bytes: 1 },
      recover: 0.25,
    },
  });
  const limits = { tenant: { publishes_per_s: 5 }, tenants: { acme: { connections: 0 } } };
  assertEquals(parse_document("limits", JSON.stringify(limits)), { value: limits });
  const denial = { name: "d", tenant: "", publish: ["a/#"], connect: false };
  assertEquals(parse_document("routing", `{"deny": [{"name": "d", "publish": ["a/#"]}]}`), {
    value: { deny: [denial], place: [], drain_to: "same_zone" },
  });
});

Deno.test("rules: one sentence says what is wrong, and where", () => {
  const wrong: [DocumentName, string, string][] = [
    ["limits", "[]", "limits must be an object"],
    ["limits", `{"tenants": {"a b": {}}}`, '"a b" cannot be a name in limits.tenants'],
    [
      "limits",
      `{"tenant": {"connections": 1.5}}`,
      "limits.tenant.connections must be a whole number",
    ],
    ["limits", `{"tenat": {}}`, 'limits has no member "tenat"; did you mean tenant'],
    ["breaker", `{"open_ms": -1}`, "breaker.open_ms must be a number from 0 to 3600000"],
    ["breaker", `{"rules": 1}`, "breaker.rules must be a list of at most 64"],
    [
      "breaker",
      `{"rules": [{"name": "r", "query": "up"}]}`,
      "breaker.rules[0] must have below or above",
    ],
    ["routing", `{"drain_to": "x"}`, "routing.drain_to must be same_zone or any_zone"],
    [
      "routing",
      `{"deny": [{"name": "x", "publish": ["a/#/b"]}]}`,
      "routing.deny[0].publish[0] must be a topic filter",
    ],
    ["routing", `{"place": [{}]}`, "routing.place[0].tenant must be a tenant's name"],
    ["degradation", `{"recover": 2}`, "degradation.recover must be a number from 0 to 1"],
    [
      "degradation",
      `{"shed": {"queue": 1}}`,
      'degradation.shed has no member "queue"',
    ],
  ];
  for (const [name, text, problem] of wrong) {
    assertEquals(parse_document(name, text), { problem }, text);
  }
  const not_json = parse_document("limits", "{");
  assertEquals("problem" in not_json && not_json.problem.startsWith("limits is not JSON: "), true);
});

Deno.test("rules: the last good document stays in force", () => {
  const rules = new Rules();
  const heard: number[] = [];
  rules.use("breaker", ({ open_ms }) => heard.push(open_ms));
  assertEquals(rules.take("breaker", 5, `{"open_ms": 1}`), "");
  assertEquals(rules.take("breaker", 4, `{"open_ms": 2}`), ""); // older: known already
  assertEquals(rules.take("breaker", 6, `{"open_ms": "x"}`) === "", false);
  const { revision, refused_revision, in_force: { open_ms } } = rules.get("breaker");
  assertEquals([revision, refused_revision, open_ms, rules.refused], [5, 6, 1, 1]);
  assertEquals(rules.take("breaker", 7, undefined), ""); // deleted: the defaults
  assertEquals(heard, [breaker_default.open_ms, 1, breaker_default.open_ms]);
  assertEquals(rules.get("breaker").problem, "");
});
