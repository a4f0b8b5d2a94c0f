/**
 * Tests of what MQTT demands of a server: steps against one real service, for version 3.1.1, 5 or
 * both. tests/cases/mqtt_conformance.ts names them beside the statements of the specifications.
 */
import type { Version } from "../../core/protocol/mqtt.ts";
import { type ConnectOptions, MqttClient } from "./mqtt_client.ts";
import { Service } from "./service.ts";
import { within } from "./wait.ts";

/** What one step is given: names of its own, and clients that end with it. */
export class Scene {
  readonly #clients: MqttClient[] = [];

  constructor(readonly service: Service, readonly version: Version, readonly number: number) {}

  /** A topic, filter or client id that no other step uses. */
  own(name: string): string {
    return `${this.number}/${name}`;
  }

  /** A TCP connection on which nothing was sent. */
  async open(): Promise<MqttClient> {
    const client = await MqttClient.open(this.service.mqtt, this.version, `client ${this.number}`);
    this.#clients.push(client);
    return client;
  }

  /** A client that must be let in. */
  async connect(options: ConnectOptions = {}): Promise<MqttClient> {
    const { client, connack } = await this.connack(options);
    if (connack.reason_code !== 0) throw new Error(`CONNACK ${connack.reason_code}`);
    return client;
  }

  /** A client and what it was told. */
  async connack(options: ConnectOptions = {}) {
    const made = await MqttClient.connect(this.service.mqtt, { version: this.version, ...options });
    this.#clients.push(made.client);
    return made;
  }

  /** A session that outlives its connections, in either version. */
  kept(client_id: string, options: ConnectOptions = {}): ConnectOptions {
    const properties = { session_expiry_s: 600, ...options.properties };
    return { ...options, client_id: this.own(client_id), clean_start: false, properties };
  }

  async end(): Promise<void> {
    for (const client of this.#clients) await client.close();
  }
}

type Run = (scene: Scene) => Promise<void>;

interface Case {
  readonly name: string;
  readonly versions: readonly Version[];
  readonly run: Run;
}

const version_names: Readonly<Record<Version, string>> = { 4: "3.1.1", 5: "5" };

/** Steps of one title; `register` makes a test of them. */
export class Suite {
  readonly #cases: Case[] = [];

  constructor(readonly title: string) {}

  /** A step for both versions. */
  both(name: string, run: Run): void {
    this.#cases.push({ name, versions: [4, 5], run });
  }

  five(name: string, run: Run): void {
    this.#cases.push({ name, versions: [5], run });
  }

  four(name: string, run: Run): void {
    this.#cases.push({ name, versions: [4], run });
  }

  register(): void {
    Deno.test(this.title, async (test) => {
      await using service = await Service.start();
      let number = 0;
      for (const { name, versions, run } of this.#cases) {
        for (const version of versions) {
          const scene = new Scene(service, version, ++number);
          await test.step(`${name} (${version_names[version]})`, async () => {
            try {
              await within(run(scene), name);
            } finally {
              await scene.end();
            }
          });
        }
      }
    });
  }
}
