/**
 * Our client in Node.js: `node node_client.mjs client.js host:port count`. Publishes and listens
 * until `count` messages have come, and prints each, and what happens to the connection.
 */
import { argv, exit } from "node:process";

const [, , bundle, address, count] = argv;
const { connect } = await import(bundle);
const client = connect({ address, session_id: "node", backoff: { base_ms: 50 } });
const offsets = new Set();

client.subscribe("up/#").then(async () => {
  for (let n = 0; n < Number(count); n++) {
    const { offset } = await client.publish("up/node", new TextEncoder().encode(String(n)));
    console.log(`published ${offset}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});

for await (const event of client) {
  if (event.type === "message") {
    const { offset, payload } = event.message;
    console.log(`message ${offset} ${new TextDecoder().decode(payload)}`);
    offsets.add(offset);
    if (new TextDecoder().decode(payload) === String(Number(count) - 1)) break;
  } else console.log(event.type);
}
console.log(`round trip ${client.round_trip_ms > 0}, clock ${client.clock !== undefined}`);
await client.close();
exit(0);
