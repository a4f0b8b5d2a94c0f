/** The real service with a key, and clients that show tokens of it. */
import type { JWTPayload } from "jose";
import { MqttClient } from "./mqtt_client.ts";
import type { ConnectOptions } from "./mqtt_client.ts";
import { RawLongwire } from "./raw.ts";
import { Service } from "./service.ts";
import { all_claims, key_set, make_token, secret_key, type TestKey } from "./tokens.ts";

const encoder = new TextEncoder();

export class KeyedService implements AsyncDisposable {
  readonly key: TestKey;

  private constructor(
    readonly service: Service,
    readonly keys: readonly TestKey[],
    readonly file: string,
  ) {
    this.key = keys[0];
  }

  /** @param keys the first of them is used; absent = a secret */
  static async start(
    args: readonly string[] = [],
    keys: readonly TestKey[] = [secret_key("k1")],
  ): Promise<KeyedService> {
    const file = await Deno.makeTempFile({ suffix: ".json" });
    await Deno.writeTextFile(file, key_set(...keys));
    const service = await Service.start({ args: ["--keys", file, ...args] });
    return new KeyedService(service, keys, file);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service.stop();
    await Deno.remove(this.file);
  }

  token(claims: JWTPayload = all_claims): Promise<string> {
    return make_token(this.key, claims);
  }

  /** A call with a token; `path` begins with a slash. */
  fetch(token: string, path: string, init: RequestInit = {}): Promise<Response> {
    const headers = { authorization: `Bearer ${token}`, ...init.headers };
    return fetch(`${this.service.http}${path}`, { ...init, headers });
  }

  /** CONNECT with a token as its password, and the CONNACK. */
  mqtt(token: string, options: ConnectOptions = {}) {
    const shown = { username: "x", password: encoder.encode(token) };
    return MqttClient.connect(this.service.mqtt, { ...shown, ...options });
  }

  /** A Longwire connection that has been let in. */
  async longwire(token: string, session_id: string): Promise<RawLongwire> {
    return (await RawLongwire.connect(this.service.device, { token, session_id }))[0];
  }

  /** One value of /metrics. */
  async metric(series: string): Promise<number> {
    const response = await this.fetch(await this.token(), "/metrics");
    const line = (await response.text()).split("\n").find((line) => line.startsWith(`${series} `));
    return line === undefined ? 0 : Number(line.slice(series.length + 1));
  }
}
