/**
 * The scenario `wire`: bytes of one device on the wire, from captured traffic. A day of an idle
 * device is its connection and as many heartbeats as the keepalive asks for, of which some are
 * captured; then one device is sent messages of 120 bytes, each when it has taken the one before.
 */
import { connect } from "../../core/client.ts";
import { zstd_of, type ZstdBinding } from "../../core/protocol/zstd.ts";
import { ensure_addon } from "../../ffi/zstd.ts";
import { random_of } from "../cases/random.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { Service } from "../support/service.ts";
import { Inbox } from "../support/wait.ts";
import { capture, type Traffic } from "./capture.ts";

const payload_bytes = 120;
/** Of the captured connections, and of the day that is computed from them. */
const captured_keepalive_s = 2;
const captured_cycles = 4;
const day_keepalive_s = 60;

export interface WireRow {
  readonly name: string;
  /** Connecting and subscribing. */
  readonly begin: Traffic;
  /** One heartbeat and its answer. */
  readonly cycle: Traffic;
  /** All messages. */
  readonly messages: Traffic;
}

/** A device of some protocol. */
interface WireDevice {
  /** Resolves when the next message has been taken. */
  next(): Promise<unknown>;
  end(): Promise<void>;
}

interface Protocol {
  readonly name: string;
  readonly over: "mqtt" | "device";
  connect(service: Service): Promise<WireDevice>;
}

function mqtt(version: 4 | 5): Protocol {
  return {
    name: version === 4 ? "MQTT 3.1.1" : "MQTT 5",
    over: "mqtt",
    async connect(service) {
      const device = await MqttJs.connect(service.mqtt, {
        protocolVersion: version,
        clientId: "device-1",
        clean: false,
        keepalive: captured_keepalive_s,
        reschedulePings: false,
      });
      await device.subscribe("plants/7/#", 1);
      return { next: () => device.messages.next(), end: () => device.end() };
    },
  };
}

async function longwire(is_packed: boolean): Promise<Protocol> {
  const zstd = is_packed ? { zstd: zstd_of(await ensure_addon() as ZstdBinding) } : {};
  return {
    name: is_packed ? "Longwire, zstd" : "Longwire",
    over: "device",
    async connect(service) {
      const address = `${service.device.host}:${service.device.port}`;
      const keepalive_s = captured_keepalive_s;
      const client = connect({ address, session_id: "device-1", keepalive_s, ...zstd });
      const messages = new Inbox<number>("the client");
      const reading = (async () => {
        for await (const event of client) {
          if (event.type === "message") messages.push(event.message.offset);
        }
      })();
      await client.subscribe("plants/7/#");
      const end = async () => {
        await client.close();
        await reading;
      };
      return { next: () => messages.next(), end };
    },
  };
}

/**
 * Reports of 120 bytes whose members are not those that the dictionary was trained on, or noise.
 */
function* payloads(count: number, is_text: boolean): Generator<Uint8Array<ArrayBuffer>> {
  const random = random_of(120);
  for (let i = 0; i < count; i++) {
    if (!is_text) {
      yield Uint8Array.from({ length: payload_bytes }, () => Math.floor(random() * 256));
      continue;
    }
    const text = JSON.stringify({
      pump: `p-${1000 + Math.floor(random() * 9000)}`,
      inlet_bar: Number((random() * 4).toFixed(2)),
      outlet_bar: Number((random() * 9).toFixed(2)),
      seal_leak_ml: Math.floor(random() * 90),
      shift: "night",
      at: 1_767_225_600 + i * 7,
    });
    yield new TextEncoder().encode(text.padEnd(payload_bytes));
  }
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function measure(protocol: Protocol, count: number, is_text: boolean): Promise<WireRow> {
  await using service = await Service.start();
  const { port } = service[protocol.over];
  let device!: WireDevice;
  const begin = await capture(port, async () => {
    device = await protocol.connect(service);
  });
  const idle = is_text
    ? await capture(port, () => pause(captured_cycles * captured_keepalive_s * 1000))
    : { packets: 0, ip_bytes: 0, payload_bytes: 0 };
  const messages = await capture(port, async () => {
    for (const payload of payloads(count, is_text)) {
      const taken = device.next();
      await service.publish("plants/7/pumps", payload);
      await taken;
    }
    await pause(500); // the last acknowledgement
  });
  await device.end();
  const each = (value: number) => value / captured_cycles;
  return {
    name: `${protocol.name}${is_text ? "" : ", noise"}`,
    begin,
    cycle: {
      packets: each(idle.packets),
      ip_bytes: each(idle.ip_bytes),
      payload_bytes: each(idle.payload_bytes),
    },
    messages,
  };
}

export async function wire(count: number): Promise<readonly WireRow[]> {
  const rows: WireRow[] = [];
  const protocols = [mqtt(4), mqtt(5), await longwire(false), await longwire(true)];
  for (const protocol of protocols) rows.push(await measure(protocol, count, true));
  rows.push(await measure(await longwire(true), count, false));
  return rows;
}

export function print_wire(rows: readonly WireRow[], count: number): void {
  const cycles = 86_400 / day_keepalive_s;
  console.log(
    `| | connect and subscribe | one heartbeat | day, idle, ${day_keepalive_s} s | ` +
      `${count} messages of ${payload_bytes} B |`,
  );
  console.log("|---|---|---|---|---|");
  for (const { name, begin, cycle, messages } of rows) {
    const both = ({ payload_bytes, ip_bytes }: Traffic) =>
      `${Math.round(payload_bytes)} (${Math.round(ip_bytes)})`;
    const day = (field: "payload_bytes" | "ip_bytes") => begin[field] + cycles * cycle[field];
    const idle = cycle.packets === 0
      ? ["", ""]
      : [both(cycle), `${Math.round(day("payload_bytes"))} (${Math.round(day("ip_bytes"))})`];
    console.log(`| ${[name, both(begin), ...idle, both(messages)].join(" | ")} |`);
  }
}
