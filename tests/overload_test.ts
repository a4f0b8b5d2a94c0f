/** A service with too much to do, because a device reads nothing: what it holds back, and how. */
import { assert, assertEquals } from "@std/assert";
import { codes } from "../core/codes.ts";
import { encode } from "../core/protocol/mqtt.ts";
import { connect_packet } from "./support/mqtt_client.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { eventually, Service } from "./support/service.ts";

/** What a device that reads nothing makes wait is over these. */
const rules = {
  degradation: {
    throttle: { out_queue_bytes: 20_000, event_loop_delay_ms: 0 },
    shed: { out_queue_bytes: 200_000, event_loop_delay_ms: 0 },
    rise_ms: 200,
    fall_ms: 300,
    admission: { k: 2, window_ms: 2000 },
  },
};

const block = new Uint8Array(100_000);

/** A device that subscribes and reads nothing from then on. */
async function deaf_device({ mqtt: { host, port } }: Service): Promise<Deno.TcpConn> {
  const conn = await Deno.connect({ hostname: host, port });
  const options = {
    qos: 0,
    no_local: false,
    retain_as_published: false,
    retain_handling: 0,
  } as const;
  const subscriptions = [{ filter: "blocks", ...options }];
  const packets = [
    encode(connect_packet({ client_id: "deaf" }), 5),
    encode({ type: "subscribe", packet_id: 1, subscriptions }, 5),
  ];
  for (const packet of packets) await conn.write(packet);
  return conn;
}

Deno.test("overload: throttles, sheds, and goes back by itself", async () => {
  const directory = await Deno.makeTempDir({ prefix: "longwire-rules-" });
  await Deno.writeTextFile(`${directory}/rules.json`, JSON.stringify(rules));
  try {
    await using service = await Service.start({ args: ["--rules", `${directory}/rules.json`] });
    const step = () => service.metric("longwire_degradation_step");
    await using listener = await MqttJs.connect(service.mqtt, { clientId: "listener" });
    await listener.subscribe("t/#");
    await using publisher = await MqttJs.connect(service.mqtt, { clientId: "publisher" });
    assertEquals((await service.publish("t/1", "normal")).status, 200);
    const deaf = await deaf_device(service);
    await eventually("shedding", async () => {
      await service.publish("blocks", block, "qos=0");
      return await step() === 2;
    });

    // What is not stored and has no key goes; of each key the newest is passed on.
    const shed = await service.publish("t/2", "x", "qos=0");
    assertEquals([shed.status, shed.body.code], [503, "shed"]);
    const conflated = await Promise.all(Array.from({ length: 20 }, (_, n) => {
      return service.publish("t/3", `${n}`, "qos=0&key=k");
    }));
    assertEquals(new Set(conflated.map(({ status }) => status)), new Set([202]));
    assertEquals([conflated[0]!.body.conflated, conflated[0]!.body.stored], [true, false]);
    await listener.messages.find(({ topic }) => topic === "t/3", "the newest of a key");
    const replaced = await service.metric(`longwire_messages_shed_total{code="replaced"}`);
    assert(replaced > 0 && replaced < 20);
    assert(await service.metric(`longwire_messages_shed_total{code="shed"}`) > 0);

    // Back ends are turned away by chance, and told when to come again; some get through.
    const answers: Response[] = [];
    await eventually("some are turned away", async () => {
      const answer = await fetch(`${service.http}/v1/topics/t/4`, { method: "POST", body: "x" });
      await answer.body?.cancel();
      answers.push(answer);
      return answers.filter(({ status }) => status === 503).length >= 20;
    });
    const refused = answers.find(({ status }) => status === 503)!;
    assert(Number(refused.headers.get("retry-after")) >= 1);
    const rejected = await service.metric(`longwire_admission_rejected_total{request="publish"}`);
    assert(rejected >= 20);
    await eventually("a connect is turned away", async () => {
      return (await MqttJs.refused(service.mqtt)).reason_code === codes.overloaded.mqtt;
    });
    // Devices that are connected are not refused: they wait.
    for (let n = 0; n < 5; n++) await publisher.publish("t/5", `${n}`, 1);
    assert(await service.metric("longwire_publishers_slowed_total") > 0);

    // When the reason is gone, so are the steps, one after the other.
    deaf.close();
    await eventually("back to normal", async () => await step() === 0);
    assertEquals((await service.publish("t/6", "normal")).status, 200);
    assertEquals((await service.publish("t/6", "normal", "qos=0")).status, 200);
    const entered = async (name: string) => {
      return await service.metric(`longwire_degradations_total{step="${name}"}`);
    };
    const throttled = await entered("throttling"); // on the way up it may be passed by
    assert(throttled === 1 || throttled === 2);
    assertEquals([await entered("shedding"), await entered("normal")], [1, 1]);
    const said = service.log.filter((line) => line.includes('"degradation"')).length;
    assertEquals(said, throttled + 2);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
