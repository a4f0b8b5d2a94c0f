/** TLS between nodes, with real certificates: who is spoken to, who is not, and how they renew. */
import { Buffer } from "node:buffer";
import * as grpc from "@grpc/grpc-js";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { health_service } from "../../core/cluster/health.ts";
import { type CertificateFiles, make_certificate } from "../support/certificates.ts";
import { cluster_programs, TestCluster } from "../support/cluster.ts";
import { MqttJs } from "../support/mqtt_js.ts";
import { test_with } from "../support/process.ts";
import { eventually, failing_start, type Service } from "../support/service.ts";

const programs = [...cluster_programs, "openssl"];
const here = "IP:127.0.0.1";

function settings({ cert, key }: CertificateFiles, ca: CertificateFiles): string[] {
  return ["--peer_cert", cert, "--peer_key", key, "--peer_ca", ca.cert];
}

function read(path: string): Buffer {
  return Buffer.from(Deno.readFileSync(path));
}

/** The status that a node answers to a stranger, and the name on the certificate it shows. */
async function ask(
  peer: string,
  own?: CertificateFiles,
  ca?: CertificateFiles,
): Promise<{ status: number; shown: string; code: grpc.status }> {
  let shown = "";
  const checkServerIdentity = (_host: string, certificate: { subject: { CN?: unknown } }) => {
    shown = String(certificate.subject.CN);
    return undefined;
  };
  const credentials = ca === undefined
    ? grpc.credentials.createInsecure()
    : grpc.credentials.createSsl(
      read(ca.cert),
      own === undefined ? null : read(own.key),
      own === undefined ? null : read(own.cert),
      { checkServerIdentity: checkServerIdentity as never },
    );
  const client = new grpc.Client(peer, credentials, {
    "grpc.ssl_target_name_override": "node.longwire",
    "grpc.use_local_subchannel_pool": 1,
  });
  const { path, requestSerialize, responseDeserialize } = health_service.Check;
  try {
    return await new Promise((resolve) => {
      client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        { service: "" },
        new grpc.Metadata(),
        { deadline: Date.now() + 5000 },
        (error, answer) => {
          resolve({ status: answer?.status ?? 0, shown, code: error?.code ?? grpc.status.OK });
        },
      );
    });
  } finally {
    client.close();
  }
}

async function peer_of(node: Service, node_id: string): Promise<string> {
  const { nodes } = await (await fetch(`${node.http}/v1/nodes`)).json();
  return nodes.find((one: { node_id: string }) => one.node_id === node_id).peer;
}

/** A session is taken over from one node to the other: both have spoken. */
async function takes_over(from: Service, to: Service, clientId: string): Promise<void> {
  const options = { clientId, clean: false, properties: { sessionExpiryInterval: 60 } };
  const first = await MqttJs.connect(from.mqtt, options);
  await first.subscribe("t", 1);
  await using second = await MqttJs.connect(to.mqtt, options);
  assertEquals([second.session_present, await first.closed], [true, 0x8e]);
}

test_with(
  programs,
  "TLS between nodes: the cluster's certificates only, and renewed ones",
  async () => {
    const directory = await Deno.makeTempDir();
    try {
      const ca = await make_certificate(directory, "authority");
      const node = await make_certificate(directory, "node", { issuer: ca, names: here });
      await using cluster = await TestCluster.start(2, 1, settings(node, ca));
      const [a, b] = cluster.nodes;
      await takes_over(a, b, "d1");
      await takes_over(b, a, "d2");

      const peer = await peer_of(a, "b");
      const other_ca = await make_certificate(directory, "other-authority");
      const stranger = await make_certificate(directory, "stranger", {
        issuer: other_ca,
        names: here,
      });
      assertEquals(await ask(peer, node, ca), { status: 1, shown: "node", code: grpc.status.OK });
      for (
        const [who, own, trusted] of [
          ["plain text", undefined, undefined],
          ["no certificate", undefined, ca],
          ["one of another authority", stranger, ca],
          ["one that signs itself", other_ca, ca],
        ] as const
      ) {
        const { status, code } = await ask(peer, own, trusted);
        assertEquals([status, code], [0, grpc.status.UNAVAILABLE], who);
      }

      // Renewed in place, first to something that cannot be used.
      const renewed = await make_certificate(directory, "renewed", { issuer: ca, names: here });
      await Deno.copyFile(renewed.cert, node.cert);
      await eventually("the half of it is refused", () => {
        const says = (line: string) => line.includes("cannot be used") && line.includes("peer_key");
        return Promise.resolve(a.log.some(says) && b.log.some(says));
      });
      assertEquals((await ask(peer, renewed, ca)).shown, "node");
      await Deno.copyFile(renewed.key, node.key);
      await eventually("the new one is shown", async () => {
        return (await ask(peer, renewed, ca)).shown === "renewed";
      });
      await takes_over(a, b, "d3");
      const { length } = a.log.filter((line) => line.includes("has fenced itself"));
      assertEquals(length, 0);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);

test_with(["openssl"], "TLS between nodes: what cannot be used refuses the start", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const ca = await make_certificate(directory, "authority");
    const node = await make_certificate(directory, "node", { issuer: ca, names: here });
    const other = await make_certificate(directory, "other", { issuer: ca, names: here });
    const cluster = ["--etcd", "127.0.0.1:1", "--nats", "127.0.0.1:1"];
    assertStringIncludes(
      await failing_start([...cluster, "--peer", "0.0.0.0:0"]),
      'Cannot use --peer "0.0.0.0:0": nodes that are not on one machine need peer_cert, peer_key',
    );
    const { PeerTls } = await import("../../core/cluster/peer_tls.ts");
    const log = {} as never;
    const files = { peer_cert: node.cert, peer_key: node.key, peer_ca: ca.cert };
    for (
      const [name, path, problem] of [
        ["peer_cert", `${directory}/none`, "Cannot use peer_cert"],
        ["peer_key", other.key, "it is not that of"],
        ["peer_ca", node.key, "Cannot use peer_ca"],
      ] as const
    ) {
      const error = await PeerTls.read({ ...files, [name]: path }, log).catch((error) => error);
      assert(error instanceof Error, name);
      assertStringIncludes(error.message, problem);
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
