/**
 * A process of Longwire clients (core/client.ts) that live through failures; it obeys as fleet.c
 * does, and counts what its applications were given twice.
 *
 *     failover_clients.ts servers=10.0.0.1:7000,10.0.0.2:7000 devices=300 topics=10 password=TOKEN
 */
import { type Client, type ClientEvent, connect } from "../../core/client.ts";
import { codes } from "../../core/codes.ts";
import { TextLineStream } from "../support/line_stream.ts";

const served_ms = 1000;
const examples_max = 40;
const unserved_max = 3;
/** What the published figures need of a client: README.md, "A cluster". */
const settings = {
  keepalive_s: 1,
  silence_max_ms: 1250,
  connect_timeout_ms: 3000,
  backoff: { base_ms: 100, cap_ms: 1000, jitter: "full" },
} as const;

class Application {
  readonly seen = new Set<number>();
  twice = 0;
  silence_ms = 0;
  got_ms = 0;
  #client: Client | undefined;
  #address = "";
  subscribed = false;

  constructor(readonly number: number, readonly fleet: Fleet) {
    this.go_home();
  }

  get topic(): number {
    return Math.floor(this.number / this.fleet.servers.length) % this.fleet.topics;
  }

  get is_home(): boolean {
    const { servers } = this.fleet;
    return this.subscribed && this.#address === servers[this.number % servers.length];
  }

  /** For people who look for what is wrong. */
  describe(now_ms: number): string {
    const where = this.subscribed ? `at ${this.#address}` : "not connected";
    const { epoch, offset } = this.#client!.cursor;
    const silence_ms = Math.round(now_ms - this.got_ms);
    return `${this.number} ${where}, ${silence_ms} ms silent, cursor ${epoch}:${offset}`;
  }

  /** The longest time without a message since `begin_ms`. */
  silence_to(now_ms: number): number {
    return Math.max(this.silence_ms, now_ms - Math.max(this.got_ms, this.fleet.begin_ms));
  }

  /** Is a new run of the application: it goes on where the one before stood. */
  go_home(): void {
    const { servers, prefix, password: token } = this.fleet;
    const before = this.#client;
    const address = servers.map((_, n) => servers[(this.number + n) % servers.length]!);
    const session_id = `${prefix}-${this.number}`;
    const begin = () => {
      const cursor = before === undefined ? {} : { cursor: before.cursor };
      const client = connect({ address, session_id, token, ...settings, ...cursor });
      this.#client = client;
      this.#subscribe(client);
      void this.#run(client);
    };
    this.subscribed = false;
    if (before === undefined) begin();
    else before.close().then(begin);
  }

  /** Until the service agrees, or another run has begun. */
  #subscribe(client: Client): void {
    client.subscribe(`fleet/${this.topic}`).catch((error) => {
      if (client !== this.#client) return;
      console.error(String(error));
      setTimeout(() => this.#client === client && this.subscribed && this.#subscribe(client), 500);
    });
  }

  async #run(client: Client): Promise<void> {
    for await (const event of client) this.#on_event(event);
  }

  #on_event(event: ClientEvent): void {
    if (event.type === "connecting") this.#address = event.address;
    else if (event.type === "connected") this.subscribed = true;
    else if (event.type === "disconnected") {
      this.subscribed = false;
      this.fleet.reconnects++;
    } else if (event.type === "gap") this.fleet.gaps++;
    else if (event.type === "closed" && event.code !== codes.normal) this.go_home();
    else if (event.type === "message") {
      const number = Number(new TextDecoder().decode(event.message.payload));
      if (this.seen.has(number)) this.twice++;
      this.seen.add(number);
      const now_ms = performance.now();
      this.silence_ms = this.silence_to(now_ms);
      this.got_ms = now_ms;
    }
  }
}

class Fleet {
  begin_ms = 0;
  reconnects = 0;
  gaps = 0;
  readonly applications: Application[];

  constructor(
    readonly servers: readonly string[],
    readonly devices: number,
    readonly topics: number,
    readonly password: string,
    readonly prefix: string,
  ) {
    this.applications = Array.from({ length: devices }, (_, n) => new Application(n, this));
  }

  obey(command: string): unknown {
    const [word, ...numbers] = command.split(" ");
    const now_ms = performance.now();
    const { applications } = this;
    const count = (fits: (one: Application) => boolean) => applications.filter(fits).length;
    switch (word) {
      case "state":
        return {
          subscribed: count(({ subscribed }) => subscribed),
          served: count(({ subscribed, got_ms }) => subscribed && now_ms - got_ms < served_ms),
          home: count(({ is_home }) => is_home),
          unserved: applications.filter(({ got_ms }) => now_ms - got_ms >= served_ms)
            .slice(0, unserved_max).map((one) => one.describe(now_ms)),
        };
      case "begin":
        this.begin_ms = now_ms;
        for (const one of applications) one.silence_ms = one.twice = 0;
        this.reconnects = this.gaps = 0;
        return {};
      case "report":
        return {
          repeated: applications.reduce((sum, { twice }) => sum + twice, 0),
          reconnects: this.reconnects,
          wrong: this.gaps,
          silences_ms: applications.map((one) => Math.round(one.silence_to(now_ms))),
        };
      case "lost":
        return this.#lost(...numbers.map(Number) as [number, number, number]);
      case "home":
        for (const one of applications) if (!one.is_home) one.go_home();
        return {};
      default:
        return { unknown: true };
    }
  }

  #lost(topic: number, first: number, last: number) {
    const examples: string[] = [];
    let lost = 0;
    for (const one of this.applications) {
      if (one.topic !== topic) continue;
      for (let number = first; number <= last; number++) {
        if (one.seen.has(number)) continue;
        if (lost++ < examples_max) examples.push(`${number} of ${one.number}`);
      }
    }
    return { lost, examples };
  }
}

if (import.meta.main) {
  const given = new Map(Deno.args.map((text) => {
    const at = text.indexOf("=");
    return [text.slice(0, at), text.slice(at + 1)];
  }));
  const fleet = new Fleet(
    (given.get("servers") ?? "").split(","),
    Number(given.get("devices")),
    Number(given.get("topics")),
    given.get("password") ?? "",
    given.get("prefix") ?? "client",
  );
  const lines = Deno.stdin.readable.pipeThrough(new TextLineStream());
  for await (const line of lines) console.log(JSON.stringify(fleet.obey(line)));
  Deno.exit(0);
}
