/**
 * The least that Deno can do with a publish over HTTP: read the body, discard it, answer. What a
 * service on Deno.serve can reach at best; `deno run --allow-net bare.ts 8080`.
 */
Deno.serve(
  { hostname: "127.0.0.1", port: Number(Deno.args[0]), onListen() {} },
  async (request) => {
    await request.bytes();
    return new Response("{}");
  },
);
