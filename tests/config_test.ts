/** Settings from flags, environment and file: what is taken, what is refused, in which words. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { format_address } from "../core/address.ts";
import { help_text, settings_markdown } from "../core/config_help.ts";
import { type Config, ConfigError, parse_command, parse_config, settings } from "../core/config.ts";
import { parse_network } from "../core/network.ts";

const defaults: Config = {
  config: "",
  http: { host: "127.0.0.1", port: 8080 },
  mqtt: { host: "127.0.0.1", port: 1883 },
  device: { host: "127.0.0.1", port: 7000 },
  mqtts: undefined,
  https: undefined,
  device_tls: undefined,
  tls_cert: [],
  tls_key: [],
  tls_client_ca: "",
  tls_client_auth: "none",
  kernel_tls: "off",
  proxy_protocol: [],
  connects_per_s: 0,
  connects_per_source_per_s: 0,
  connections_per_source: 0,
  data: "./data",
  synchronous: "full",
  data_bytes_max: 0,
  retention: [{ filter: "#", age_ms: 7 * 86_400_000, count: 0, bytes: 0 }],
  backend: "auto",
  io_threads: "auto",
  max_connections: "auto",
  node_id: "localhost",
  keys: "",
  jwks: "",
  issuer: "",
  audience: "",
  clock_skew_s: 5,
  cors_origins: [],
  certificate_devices: "off",
  certificate_publish: ["devices/{device_id}/#"],
  certificate_subscribe: ["devices/{device_id}/#"],
  tenant_connections: 0,
  tenant_subscriptions: 0,
  tenant_publishes_per_s: 0,
  tenant_bytes_per_s: 0,
  tenants: "",
  webhooks: "",
  webhook_networks: [],
  device_publishes_per_s: 0,
  device_bytes_per_s: 0,
  etcd: [],
  nats: [],
  prometheus: "",
  rules: "",
  advertise: "",
  peer: { host: "127.0.0.1", port: 7100 },
  peer_cert: "",
  peer_key: "",
  peer_ca: "",
  zone: "",
  log_level: "info",
  histograms: "on",
  body_timeout_s: 30,
  trace_slow_ms: 500,
  rebalance_percent: 25,
  rebalance_plain: "off",
  shutdown_timeout_s: 10,
};

interface Input {
  readonly args?: string[];
  readonly env?: Record<string, string>;
  /** Text of the only file there is, longwire.json. */
  readonly file?: string;
}

function parse({ args = [], env = {}, file }: Input): Config {
  return parse_config(args, env, (path) => {
    if (path !== "longwire.json" || file === undefined) throw new Error("no such file.");
    return file;
  });
}

Deno.test("with nothing given everything has its default", () => {
  const config = parse({ env: { PATH: "/bin", LONGWIRESOMETHING: "1", LONGWIRE_TEST_SEED: "1" } });
  assertEquals(config, defaults);
  assertEquals(parse_config([], {}, () => "", "gateway-7").node_id, "gateway-7");
  assert(Object.isFrozen(config) && Object.isFrozen(config.mqtt));
});

Deno.test("every setting can be written in all its forms", () => {
  const cases: [string[], Partial<Config>][] = [
    [["--mqtt", "127.0.0.2:1884"], { mqtt: { host: "127.0.0.2", port: 1884 } }],
    [["--mqtt=127.0.0.1:0"], { mqtt: { host: "127.0.0.1", port: 0 } }],
    [["--mqtt", "localhost:1"], { mqtt: { host: "127.0.0.1", port: 1 } }],
    [["--mqtt", "LOCALHOST:65535"], { mqtt: { host: "127.0.0.1", port: 65_535 } }],
    [["--device", "[::1]:7000"], { device: { host: "::1", port: 7000 } }],
    [["--device", "[0:0:0:0:0:0:0:1]:7"], { device: { host: "::1", port: 7 } }],
    [["--http", "off", "--device=off"], { http: undefined, device: undefined }],
    [["--tls_cert", "a.pem, b.pem", "--tls_key=a.key,b.key"], {
      tls_cert: ["a.pem", "b.pem"],
      tls_key: ["a.key", "b.key"],
    }],
    [["--proxy_protocol", "off"], { proxy_protocol: [] }],
    [["--proxy_protocol", "10.0.0.0/8,fd00::/8"], {
      proxy_protocol: [
        { address: new Uint8Array([10, 0, 0, 0]), prefix_bits: 8 },
        { address: new Uint8Array([0xfd, ...new Array(15).fill(0)]), prefix_bits: 8 },
      ],
    }],
    [["--connects_per_s", "500", "--connects-per-source-per-s=5"], {
      connects_per_s: 500,
      connects_per_source_per_s: 5,
    }],
    [["--connections_per_source", "3"], { connections_per_source: 3 }],
    [["--data", "memory"], { data: "memory" }],
    [["--data=/var/lib/a=b"], { data: "/var/lib/a=b" }],
    [["--synchronous", "normal"], { synchronous: "normal" }],
    [["--data_bytes_max", "20GB"], { data_bytes_max: 2e10 }],
    [["--data-bytes-max=64MiB"], { data_bytes_max: 64 * 2 ** 20 }],
    [["--retention", "a:count=5", "--retention=b/#:forever; c:bytes=1kB"], {
      retention: [
        { filter: "a", age_ms: 0, count: 5, bytes: 0 },
        { filter: "b/#", age_ms: 0, count: 0, bytes: 0 },
        { filter: "c", age_ms: 0, count: 0, bytes: 1000 },
      ],
    }],
    [["--backend", "uring"], { backend: "uring" }],
    [["--io_threads", "2"], { io_threads: 2 }],
    [["--io-threads", "127"], { io_threads: 127 }],
    [["--max_connections", "1000000"], { max_connections: 1_000_000 }],
    [["--max-connections=auto"], { max_connections: "auto" }],
    [["--node_id", "node-1.eu"], { node_id: "node-1.eu" }],
    [["--log_level", "debug"], { log_level: "debug" }],
    [["--histograms", "off"], { histograms: "off" }],
    [["--shutdown_timeout_s", "0"], { shutdown_timeout_s: 0 }],
    // one port for all is no clash when the kernel picks it
    [["--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0"], {
      mqtt: { host: "127.0.0.1", port: 0 },
      http: { host: "127.0.0.1", port: 0 },
    }],
  ];
  for (const [args, expected] of cases) {
    assertEquals(parse({ args }), { ...defaults, ...expected }, args.join(" "));
  }
});

Deno.test("a flag beats the environment, the environment the file, the file the default", () => {
  const file = JSON.stringify({ io_threads: 1, shutdown_timeout_s: 1, data: "from-file" });
  const config = parse({
    args: ["--config", "longwire.json", "--io_threads", "3"],
    env: {
      LONGWIRE_IO_THREADS: "2",
      LONGWIRE_SHUTDOWN_TIMEOUT_S: "2",
      LONGWIRE_DATA: "", // not set
    },
    file,
  });
  assertEquals(config, {
    ...defaults,
    config: "longwire.json",
    io_threads: 3,
    shutdown_timeout_s: 2,
    data: "from-file",
  });
  assertEquals(parse({ env: { LONGWIRE_CONFIG: "longwire.json" }, file }).io_threads, 1);
  const rules = JSON.stringify({ retention: ["a:count=1", "#:age=1d"] });
  const listed = parse({ env: { LONGWIRE_CONFIG: "longwire.json" }, file: rules });
  assertEquals(listed.retention.map(({ filter }) => filter), ["a", "#"]);
});

Deno.test("what loses is not checked, so that a flag can mend a broken environment", () => {
  const config = parse({ args: ["--io_threads", "3"], env: { LONGWIRE_IO_THREADS: "many" } });
  assertEquals(config.io_threads, 3);
});

Deno.test("every problem is named, with where it came from", () => {
  const cases: [Input, string[]][] = [
    [{ args: ["--mqtt", "0.0.0.0:99999"] }, [
      'Cannot use --mqtt "0.0.0.0:99999": the port must be 0 to 65535',
    ]],
    [{ env: { LONGWIRE_IO_THREADS: "many" } }, [
      'Cannot use LONGWIRE_IO_THREADS "many": it must be auto or a whole number from 1 to 127',
    ]],
    [{ args: ["--config=longwire.json"], file: '{"backend": "iocp"}' }, [
      'Cannot use backend "iocp" in longwire.json: it must be auto, epoll, uring or kqueue',
    ]],
    [{ args: ["--data_bytes_max", "10kB"] }, [
      'Cannot use --data_bytes_max "10kB": it must be 0 or a size of at least 1MB, ' +
      "such as 500MB, 20GB or 64GiB",
    ]],
    [{ args: ["--shutdown-timeout-s", "1.5"] }, [
      'Cannot use --shutdown-timeout-s "1.5": it must be a whole number from 0 to 3600',
    ]],
    [{ args: ["--synchronous", "off"] }, [
      'Cannot use --synchronous "off": it must be full or normal',
    ]],
    [{ args: ["--node_id", "a b"] }, [
      'Cannot use --node_id "a b": a node name is 1 to 63 letters, digits, dots, hyphens and ' +
      "underscores",
    ]],
    [{ args: ["--data="] }, ['Cannot use --data "": a value is missing']],
    [{ args: ["--node_id="] }, ['Cannot use --node_id "": a value is missing']],
    [{ args: ["--data", "a\0"] }, ['Cannot use --data "a\0": a path must not contain U+0000']],
    [{ args: ["--mqtt"] }, ["Cannot use --mqtt: a value is missing (host:port or off)"]],
    [{ args: ["--mqtt", "--http", "off"] }, [
      "Cannot use --mqtt: a value is missing (host:port or off)",
    ]],
    [{ args: ["--http", "off", "--http=off"] }, ['Cannot use --http "off": it is given twice']],
    [{ args: ["now", "-v"] }, [
      'Cannot use argument "now": settings are written --name value',
      'Cannot use argument "-v": settings are written --name value',
    ]],
    // all in one go
    [{ args: ["--mqtt", "1883"], env: { LONGWIRE_DEVICE: "x:1", LONGWIRE_BACKEND: "?" } }, [
      'Cannot use --mqtt "1883": it must be host:port or off',
      'Cannot use LONGWIRE_DEVICE "x:1": the host must be an IPv4 address, an IPv6 address in [] ' +
      "or localhost",
      'Cannot use LONGWIRE_BACKEND "?": it must be auto, epoll, uring or kqueue',
    ]],
  ];
  for (const [input, problems] of cases) assertEquals(problems_of(input), problems);
});

Deno.test("unknown names are refused, with the nearest one", () => {
  const cases: [Input, string[]][] = [
    [{ args: ["--mqt", "off"] }, [
      "Cannot use --mqt: there is no such setting; did you mean --mqtt",
    ]],
    [{ args: ["--io-thread=2"] }, [
      "Cannot use --io-thread: there is no such setting; did you mean --io_threads",
    ]],
    [{ args: ["--verbose"] }, ["Cannot use --verbose: there is no such setting"]],
    [{ args: ["--toString", "x"] }, ["Cannot use --toString: there is no such setting"]],
    [{ env: { LONGWIRE_HTPP: "off" } }, [
      "Cannot use LONGWIRE_HTPP: there is no such setting; did you mean LONGWIRE_HTTP",
    ]],
    [{ env: { LONGWIRE_http: "off" } }, [
      "Cannot use LONGWIRE_http: there is no such setting; did you mean LONGWIRE_HTTP",
    ]],
    [{ args: ["--config", "longwire.json"], file: '{"max-connections": 5}' }, [
      "Cannot use max-connections in longwire.json: there is no such setting; " +
      "did you mean max_connections",
    ]],
  ];
  for (const [input, problems] of cases) assertEquals(problems_of(input), problems);
});

Deno.test("variables that Kubernetes sets for a Service are nobody's error", () => {
  const env = {
    LONGWIRE_SERVICE_HOST: "10.0.0.7",
    LONGWIRE_SERVICE_PORT: "1883",
    LONGWIRE_SERVICE_PORT_MQTT: "1883",
    LONGWIRE_PORT: "tcp://10.0.0.7:1883",
    LONGWIRE_PORT_1883_TCP: "tcp://10.0.0.7:1883",
    LONGWIRE_PORT_1883_TCP_PROTO: "tcp",
    LONGWIRE_PORT_1883_TCP_PORT: "1883",
    LONGWIRE_PORT_1883_TCP_ADDR: "10.0.0.7",
    LONGWIRE_PEER_PORT: "tcp://10.0.0.8:7100",
    LONGWIRE_PEER_SERVICE_HOST: "10.0.0.8",
  };
  assertEquals(parse({ env }), defaults);
  assertEquals(problems_of({ env: { LONGWIRE_MQTT_PORT: "1883" } }).length, 1);
});

Deno.test("a file that cannot be used says why", () => {
  const cases: [string | undefined, RegExp][] = [
    [undefined, /^Cannot read --config "longwire.json": no such file$/],
    ["{", /^Cannot read --config "longwire.json": .*JSON/],
    ["[]", /must hold one JSON object$/],
    ["null", /must hold one JSON object$/],
    ['{"mqtt": true}', /^Cannot use mqtt true in longwire.json: it must be a string or a number$/],
    ['{"mqtt": null}', /^Cannot use mqtt null in/],
    ['{"io_threads": 2.5}', /^Cannot use io_threads "2.5" in longwire.json: it must be auto or/],
    [
      '{"config": "other.json"}',
      /^Cannot use config in longwire.json: a file cannot name another$/,
    ],
    ['{"__proto__": 1}', /^Cannot use __proto__ in longwire.json: there is no such setting$/],
  ];
  for (const [file, expected] of cases) {
    const args = ["--config", "longwire.json"];
    const problems = problems_of(file === undefined ? { args } : { args, file });
    assertEquals(problems.length, 1, problems.join("\n"));
    assert(expected.test(problems[0]!), problems[0]);
  }
  assertEquals(problems_of({ args: ["--config="] }), [
    'Cannot use --config "": a value is missing',
  ]);
});

Deno.test("addresses that are none are refused", () => {
  const hosts = [
    "",
    "*",
    "example.org",
    "256.0.0.1",
    "127.1",
    "01.2.3.4",
    "[",
    "[::g]",
    "[fe80::1%1]",
  ];
  for (const host of hosts) problem_of(`${host}:1883`);
  for (const port of ["", "-1", "65536", "1e3", " 1", "0x1", "000001"]) {
    problem_of(`127.0.0.1:${port}`);
  }
  for (const text of ["1883", "::1:1883", "::1", "OFF", "http://127.0.0.1:1"]) problem_of(text);

  function problem_of(mqtt: string): void {
    const [problem, ...others] = problems_of({ env: { LONGWIRE_MQTT: mqtt } });
    assert(problem?.startsWith(`Cannot use LONGWIRE_MQTT "${mqtt}": `), `${mqtt}: ${problem}`);
    assertEquals(others, []);
  }
});

Deno.test("without keys it listens on loopback only", () => {
  for (const host of ["127.0.0.1", "127.255.255.254", "[::1]", "localhost"]) {
    for (const name of ["http", "mqtt", "device"]) parse({ args: [`--${name}`, `${host}:9`] });
  }
  for (const host of ["0.0.0.0", "[::]", "10.0.0.1", "128.0.0.1", "[::ffff:7f00:1]", "[fe80::1]"]) {
    for (const name of ["http", "mqtt", "device"]) {
      const [problem, ...others] = problems_of({ args: [`--${name}`, `${host}:9`] });
      assert(
        problem?.startsWith(
          `Cannot listen on ${host}:9 without keys: --${name} must be a loopback address`,
        ),
        problem,
      );
      assertEquals(others, []);
    }
  }
  const file = '{"mqtt": "0.0.0.0:1883"}';
  const [problem] = problems_of({ args: ["--config", "longwire.json"], file });
  assert(problem?.includes(": mqtt in longwire.json must be a loopback address"), problem);
});

Deno.test("listeners do not clash and are not all off", () => {
  assertEquals(problems_of({ args: ["--device", "localhost:1883"] }), [
    'Cannot use --device "127.0.0.1:1883": mqtt listens there',
  ]);
  assertEquals(problems_of({ args: ["--http", "off", "--mqtt", "off", "--device", "off"] }), [
    "Cannot serve: all listeners are off",
  ]);
});

Deno.test("TLS settings need and fit one another", () => {
  const files = ["--tls_cert", "a.pem", "--tls_key", "a.key"];
  const cases: [args: string[], problems: string[]][] = [
    [["--mqtts", "127.0.0.1:8883"], [
      "Cannot use --mqtts: tls_cert and tls_key are missing",
    ]],
    [["--device_tls", "127.0.0.1:0", "--tls_cert", "a.pem"], [
      "Cannot use --tls_cert: it names 1 files, and tls_key names 0",
    ]],
    [[...files, "--tls_client_auth", "required"], [
      'Cannot use --tls_client_auth "required": tls_client_ca is missing',
    ]],
    [[...files, "--tls_client_ca", "ca.pem"], [
      "Cannot use --tls_client_ca: tls_client_auth is none, so nobody is asked",
    ]],
    [["--kernel_tls", "on", "--backend", "uring"], [
      'Cannot use --kernel_tls "on": it needs backend epoll, not uring',
    ]],
    [["--proxy_protocol", "10.0.0.1/8"], [
      'Cannot use --proxy_protocol "10.0.0.1/8": "10.0.0.1/8" has ones behind its prefix',
    ]],
  ];
  for (const [args, problems] of cases) assertEquals(problems_of({ args }), problems);
});

Deno.test("networks are read as RFC 4632 and RFC 4291 write them", () => {
  const all: [text: string, hex: string, prefix_bits: number][] = [
    ["0.0.0.0/0", "00000000", 0],
    ["192.0.2.7", "c0000207", 32],
    ["10.128.0.0/9", "0a800000", 9],
    ["::/0", "00".repeat(16), 0],
    ["2001:db8::/32", "20010db8" + "00".repeat(12), 32],
    ["::1", "00".repeat(15) + "01", 128],
    ["1:2:3:4:5:6:7:8/128", "00010002000300040005000600070008", 128],
    ["::ffff:1.2.3.4", "00".repeat(10) + "ffff01020304", 128],
  ];
  for (const [text, hex, prefix_bits] of all) {
    assertEquals(parse_network(text), { address: Uint8Array.fromHex(hex), prefix_bits }, text);
  }
  const none = [
    "",
    "10.0.0.0/33",
    "10.0.0/8",
    "::/129",
    "10.0.0.0/",
    "10.0.0.0/8/8",
    "a.b/8",
    "/8",
  ];
  for (const text of [...none, "fd00::1/64", "::1::/8", "10.0.0.0/-1", "010.0.0.0/8"]) {
    assertEquals(typeof parse_network(text), "string", text);
  }
});

Deno.test("the command comes off the front", () => {
  const cases: [string[], string, string[]][] = [
    [[], "serve", []],
    [["--mqtt", "off"], "serve", ["--mqtt", "off"]],
    [["serve", "--mqtt", "off"], "serve", ["--mqtt", "off"]],
    [["pub", "a/b", "--help"], "pub", ["a/b", "--help"]],
    [["help"], "help", []],
    [["--help"], "help", ["--help"]],
    [["serve", "-h"], "help", ["-h"]],
  ];
  for (const [args, name, rest] of cases) assertEquals(parse_command(args), { name, args: rest });
  assertThrows(
    () => parse_command(["serv"]),
    ConfigError,
    'Cannot run "serv": there is no such command; did you mean serve',
  );
  assertThrows(() => parse_command(["toString"]), ConfigError);
});

Deno.test("help and README name every setting and its default, within 100 columns", () => {
  const help = help_text();
  const markdown = settings_markdown();
  for (const [name, { fallback }] of Object.entries(settings)) {
    assert(help.includes(`  --${name} `), name);
    assert(markdown.includes(`| \`${name}\` | ${fallback === "" ? "none" : `\`${fallback}\``} |`));
  }
  for (const command of ["serve", "pub", "sub", "doctor"]) assert(help.includes(`  ${command} `));
  for (const line of help.split("\n")) assert(line.length <= 100, line);
  assert(help.endsWith("\n") && markdown.endsWith("|\n"));
  for (const row of markdown.trim().split("\n")) assertEquals(row.split("|").length, 6, row);
});

Deno.test("an address is written as it is read", () => {
  assertEquals(format_address({ host: "::1", port: 7000 }), "[::1]:7000");
  assertEquals(format_address({ host: "127.0.0.1", port: 0 }), "127.0.0.1:0");
});

function problems_of(input: Input): readonly string[] {
  const error = assertThrows(() => parse(input), ConfigError);
  for (const problem of error.problems) assert(!problem.endsWith("."), problem);
  assertEquals(error.message, error.problems.join("\n"));
  return error.problems;
}

Deno.test("a cluster has both etcd and NATS, and TLS between machines", () => {
  const both = ["--etcd", "e1:2379, e2:2379", "--nats", "[::1]:4222"];
  const { etcd, nats } = parse({ args: both });
  assertEquals({ etcd, nats }, { etcd: ["e1:2379", "e2:2379"], nats: ["[::1]:4222"] });
  assertEquals(problems_of({ args: ["--etcd", "e1:2379"] }), [
    "Cannot use --etcd: a cluster needs nats too",
  ]);
  assertEquals(problems_of({ args: ["--nats", "n1"] }), [
    'Cannot use --nats "n1": "n1" is not host:port',
  ]);
  assertEquals(problems_of({ args: [...both, "--peer", "10.0.0.1:7100"] }), [
    'Cannot use --peer "10.0.0.1:7100": nodes that are not on one machine need peer_cert, ' +
    "peer_key and peer_ca",
  ]);
  assertEquals(problems_of({ args: [...both, "--peer_cert", "x.pem"] }), [
    "Cannot speak TLS between nodes: peer_cert, peer_key and peer_ca go together",
  ]);
});
