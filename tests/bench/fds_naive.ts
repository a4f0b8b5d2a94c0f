/**
 * What a scan of descriptors is measured against: reads a directory and each of its links, one
 * after another, and prints how many milliseconds that took. Needs --allow-all for /proc.
 */
const [directory = "", how = ""] = Deno.args;

async function walk(): Promise<Map<string, number>> {
  const kinds = new Map<string, number>();
  const count = (target: string) => {
    const kind = target.slice(0, target.indexOf(":"));
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  };
  if (how === "sync") {
    for (const { name } of Deno.readDirSync(directory)) {
      count(Deno.readLinkSync(`${directory}/${name}`));
    }
  } else {
    for await (const { name } of Deno.readDir(directory)) {
      count(await Deno.readLink(`${directory}/${name}`));
    }
  }
  return kinds;
}

const started = performance.now();
const kinds = await walk();
const ms = performance.now() - started;
console.log(JSON.stringify({ ms, sockets: kinds.get("socket") ?? 0 }));
