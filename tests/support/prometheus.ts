/** A real Prometheus that scrapes one target, and what it says when it is asked. */
import { free_ports, program_env } from "./cluster_programs.ts";
import { Program } from "./process.ts";
import { eventually } from "./service.ts";

/** One value by its labels. */
export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface ScrapeOptions {
  readonly job?: string;
  readonly interval_ms?: number;
  readonly timeout_ms?: number;
}

export class Prometheus implements AsyncDisposable {
  private constructor(
    readonly program: Program,
    /** `127.0.0.1:9090` */
    readonly address: string,
    readonly directory: string,
  ) {}

  /** Starts one that scrapes `target` (host:port), and waits until it has. */
  static async start(
    target: string,
    { job = "longwire", interval_ms = 250, timeout_ms = 200 }: ScrapeOptions = {},
  ): Promise<Prometheus> {
    const directory = await Deno.makeTempDir({ prefix: "longwire-prometheus-" });
    const [port] = free_ports(1);
    const config = `${directory}/prometheus.yml`;
    await Deno.writeTextFile(
      config,
      `global: {scrape_interval: ${interval_ms}ms, scrape_timeout: ${timeout_ms}ms}
scrape_configs:
- {job_name: ${job}, static_configs: [{targets: ["${target}"]}]}
`,
    );
    const program = new Program("prometheus", [
      `--config.file=${config}`,
      `--storage.tsdb.path=${directory}/data`,
      `--web.listen-address=127.0.0.1:${port}`,
      "--log.level=error",
      "--enable-feature=exemplar-storage",
    ], { env: program_env() });
    const prometheus = new Prometheus(program, `127.0.0.1:${port}`, directory);
    await eventually("the target is up", async () => {
      const [up] = await prometheus.query("up").catch(() => []);
      return up?.value === 1;
    }, 20_000);
    return prometheus;
  }

  /** What a query says now. */
  async query(query: string): Promise<Sample[]> {
    const url = `http://${this.address}/api/v1/query?query=${encodeURIComponent(query)}`;
    const { status, error, data } = await (await fetch(url)).json();
    if (status !== "success") throw new Error(`${query}: ${error}`);
    return data.result.map(({ metric, value }: { metric: Sample["metric"]; value: string[] }) => {
      return { metric, value: Number(value[1]) };
    });
  }

  /** Traces that a metric has shown as examples in the last hour. */
  async exemplars(query: string): Promise<string[]> {
    const now_s = Date.now() / 1000;
    const range = `&start=${now_s - 3600}&end=${now_s + 60}`;
    const url = `http://${this.address}/api/v1/query_exemplars?query=${query}${range}`;
    const { data } = await (await fetch(url)).json();
    return data.flatMap(({ exemplars }: { exemplars: { labels: { trace_id: string } }[] }) => {
      return exemplars.map(({ labels }) => labels.trace_id);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.program.end("SIGKILL");
    await Deno.remove(this.directory, { recursive: true });
  }
}
