/** What a running process and its machine hold: resident memory, V8's heap, files on disk. */

const text = new TextDecoder();

/** Deno itself opens /proc only to those who may do everything. */
async function read_proc(path: string): Promise<string> {
  const out = await new Deno.Command("cat", { args: [path], stderr: "null" }).output();
  return text.decode(out.stdout);
}

function kilobytes(from: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(from)?.[1] ?? NaN) * 1024;
}

/** Resident bytes of a process; NaN when it is gone. */
export async function resident_bytes(pid: number): Promise<number> {
  return kilobytes(await read_proc(`/proc/${pid}/status`), "VmRSS");
}

/** Processor time that a process has had (proc(5): fields 14 and 15 of stat, 10 ms each). */
export async function cpu_ms(pid: number): Promise<number> {
  const stat = await read_proc(`/proc/${pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // from field 3 on
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** What the kernel could still give away. */
export async function available_bytes(): Promise<number> {
  return kilobytes(await read_proc("/proc/meminfo"), "MemAvailable");
}

/** RLIMIT_NOFILE of this process and those that it starts. */
export async function descriptors_max(): Promise<number> {
  const limits = await read_proc("/proc/self/limits");
  return Number(/^Max open files\s+\d+\s+(\d+)/m.exec(limits)?.[1] ?? Infinity);
}

/** Kernel, processor and cores. */
export async function machine_line(): Promise<string> {
  const model = /^model name\s*:\s*(.+)$/m.exec(await read_proc("/proc/cpuinfo"))?.[1];
  const cores = navigator.hardwareConcurrency;
  return `Linux ${Deno.osRelease()}, ${model ?? "unknown processor"}, ${cores} cores`;
}

/** Sizes of the files in a directory, by name. */
export async function file_bytes(directory: string): Promise<Map<string, number>> {
  const sizes = new Map<string, number>();
  for await (const { name, isFile } of Deno.readDir(directory)) {
    if (isFile) sizes.set(name, (await Deno.stat(`${directory}/${name}`)).size);
  }
  return sizes;
}

/** Of V8 in another process, bytes. */
export interface Heap {
  /** What V8 has taken from the system. */
  readonly total: number;
  /** What of it objects occupy, dead ones too. */
  readonly used: number;
  /** Buffers outside of it. */
  readonly buffers: number;
}

/**
 * Asks a Deno that was started with --inspect how large its heap is.
 * @param port of the inspector
 */
export async function heap_of(port: number): Promise<Heap> {
  const list = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json();
  const socket = new WebSocket(list[0].webSocketDebuggerUrl);
  const answer = Promise.withResolvers<string>();
  socket.onopen = () => socket.send('{"id":1,"method":"Runtime.getHeapUsage"}');
  socket.onmessage = ({ data }) => answer.resolve(data);
  socket.onerror = () => answer.reject(new Error("The inspector does not answer"));
  const { result } = JSON.parse(await answer.promise);
  socket.close();
  return { total: result.totalSize, used: result.usedSize, buffers: result.backingStorageSize };
}
