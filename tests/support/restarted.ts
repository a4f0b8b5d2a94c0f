/** A service that is stopped or killed and started again with the same data. */
import { assertEquals } from "@std/assert";
import { type ConnectOptions, MqttClient } from "./mqtt_client.ts";
import { Service } from "./service.ts";

/** A service on a data directory of its own, that can be started again. */
export class Restarted implements AsyncDisposable {
  private constructor(
    readonly data: string,
    readonly args: readonly string[],
    public service: Service,
  ) {}

  static async start(args: readonly string[] = []): Promise<Restarted> {
    const data = await Deno.makeTempDir();
    return new Restarted(data, args, await Service.start({ data, args }));
  }

  async again(how: "stop" | "kill"): Promise<void> {
    await this.service[how]();
    this.service = await Service.start({ data: this.data, args: this.args });
  }

  async connect(options: ConnectOptions = {}) {
    return await MqttClient.connect(this.service.mqtt, options);
  }

  /** A session that outlives the connection. */
  kept(client_id: string, options: ConnectOptions = {}) {
    const properties = { session_expiry_s: 600, ...options.properties };
    return this.connect({ ...options, client_id, clean_start: false, properties });
  }

  async publish(topic: string, payload: string, qos: 1 | 2, retain = false): Promise<void> {
    const { client } = await this.connect();
    assertEquals(await client.publish(topic, payload, { qos, retain }), 0);
    await client.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service.stop();
    await Deno.remove(this.data, { recursive: true });
  }
}
