/** Traffic of one TCP port as tcpdump captures it on the loopback interface, counted. */
import { TextLineStream } from "../support/line_stream.ts";
import { UsageError } from "./flags.ts";

/** Both directions together. */
export interface Traffic {
  /** Packets, those without payload included. */
  readonly packets: number;
  /** Bytes of IP packets: IP and TCP headers, options and payload. */
  readonly ip_bytes: number;
  /** Bytes of TCP payload: what the protocol itself says. */
  readonly payload_bytes: number;
}

/** Of a pcap file (link type Ethernet, as Linux's loopback has it): IPv4 and TCP only. */
export function count_traffic(pcap: Uint8Array): Traffic {
  const view = new DataView(pcap.buffer, pcap.byteOffset, pcap.byteLength);
  const little = view.getUint32(0, true) === 0xa1b2c3d4;
  let [packets, ip_bytes, payload_bytes] = [0, 0, 0];
  for (let at = 24; at + 16 <= pcap.length;) {
    const captured = view.getUint32(at + 8, little);
    const ip = at + 16 + 14;
    const total = view.getUint16(ip + 2);
    const ip_header = (view.getUint8(ip) & 15) * 4;
    const tcp_header = (view.getUint8(ip + ip_header + 12) >> 4) * 4;
    packets++;
    ip_bytes += total;
    payload_bytes += total - ip_header - tcp_header;
    at += 16 + captured;
  }
  return { packets, ip_bytes, payload_bytes };
}

/** Runs something while the traffic of a port is captured. @throws UsageError without tcpdump */
export async function capture(port: number, run: () => Promise<void>): Promise<Traffic> {
  const path = await Deno.makeTempFile({ suffix: ".pcap" });
  try {
    const args = ["-i", "lo", "-U", "--immediate-mode", "-s", "96", "-w", path, `tcp port ${port}`];
    const child = new Deno.Command("tcpdump", { args, stderr: "piped" }).spawn();
    const lines = child.stderr.pipeThrough(new TextLineStream()).getReader();
    for (;;) {
      const { value, done } = await lines.read();
      if (done) throw new UsageError("Cannot capture: tcpdump ends; it may need root");
      if (value.includes("listening on")) break;
    }
    lines.releaseLock();
    await run();
    // What was sent last is on its way through the kernel's buffer.
    await new Promise((resolve) => setTimeout(resolve, 300));
    child.kill("SIGINT");
    await child.status;
    return count_traffic(await Deno.readFile(path));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new UsageError("Cannot capture: tcpdump is not installed");
  } finally {
    await Deno.remove(path);
  }
}
