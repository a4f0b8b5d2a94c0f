/** MQTT.js as a device: what it receives can be waited for. */
import mqtt from "mqtt";
import type { IClientOptions, MqttClient } from "mqtt";
import type { Address } from "../../core/address.ts";
import type { Received } from "./mosquitto.ts";
import { Inbox, within } from "./wait.ts";

export class MqttJs {
  readonly messages: Inbox<Received>;
  /** Why the server ended it: a DISCONNECT's reason code, or undefined when it just closed. */
  readonly closed: Promise<number | undefined>;

  private constructor(readonly client: MqttClient, id: string) {
    this.messages = new Inbox(`MQTT.js ${id}`);
    client.on("message", (topic, payload, { qos, retain }) => {
      this.messages.push({ topic, qos, retain, payload: new TextDecoder().decode(payload) });
    });
    client.on("error", () => {}); // what matters of it is that the connection closes
    let reason: number | undefined;
    client.on("disconnect", ({ reasonCode }) => reason = reasonCode);
    const { promise, resolve } = Promise.withResolvers<number | undefined>();
    client.on("close", () => resolve(reason));
    this.closed = promise;
  }

  /** Connects, once; answers the client and whether the service had its session. */
  static async connect(
    { host, port }: Address,
    options: IClientOptions = {},
  ): Promise<MqttJs & { session_present: boolean }> {
    const client = mqtt.connect({
      host,
      port,
      protocol: "mqtt",
      protocolVersion: 5,
      reconnectPeriod: 0,
      ...options,
    });
    const device = new MqttJs(client, options.clientId ?? "");
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    client.once("connect", ({ sessionPresent }) => resolve(sessionPresent));
    client.once("error", reject);
    client.once("close", () => reject(new Error("closed before CONNACK")));
    const session_present = await within(promise, "CONNACK for MQTT.js");
    return Object.assign(device, { session_present });
  }

  /** Connects in vain; answers what CONNACK says. */
  static async refused(
    { host, port }: Address,
    options: IClientOptions = {},
  ): Promise<{ readonly reason_code: number; readonly server: string }> {
    const fixed = { host, port, protocol: "mqtt", protocolVersion: 5, reconnectPeriod: 0 } as const;
    const client = mqtt.connect({ ...fixed, ...options });
    client.on("error", () => {}); // it says less than the packet
    const { promise, resolve } = Promise.withResolvers<{ reason_code: number; server: string }>();
    client.on("packetreceive", (packet) => {
      if (packet.cmd !== "connack") return;
      const { reasonCode = 0, properties } = packet;
      resolve({ reason_code: reasonCode, server: properties?.serverReference ?? "" });
    });
    try {
      return await within(promise, "CONNACK for MQTT.js");
    } finally {
      await client.endAsync(true);
    }
  }

  /** Answers the granted QoS or the reason code. */
  async subscribe(filter: string, qos: 0 | 1 | 2 = 0): Promise<number> {
    const granted = await within(this.client.subscribeAsync(filter, { qos }), "SUBACK");
    return granted[0].qos;
  }

  async publish(topic: string, payload: string, qos: 0 | 1 | 2 = 0, retain = false): Promise<void> {
    await within(this.client.publishAsync(topic, payload, { qos, retain }), "PUBACK");
  }

  /** Says DISCONNECT. */
  async end(): Promise<void> {
    await within(this.client.endAsync(), "the end of MQTT.js");
  }

  /** Breaks the connection without a word, as a device that loses power. */
  async cut(): Promise<void> {
    await within(this.client.endAsync(true), "the end of MQTT.js");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cut();
  }
}
