/** The Longwire client against a scripted service on real sockets. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Client, type ClientEvent, type ClientOptions, connect } from "../core/client.ts";
import { type ClockState, ServerClock } from "../core/client/clock.ts";
import { backoff_default, backoff_ms, RetryBudget } from "../core/client/backoff.ts";
import { codes, Refusal } from "../core/codes.ts";
import type { Frame, FrameInit } from "../core/protocol/longwire.ts";
import { filter_matches } from "../core/topic_tree.ts";
import { random_of, seed_for } from "./cases/random.ts";
import { Gone, type Peer, PeerServer, welcome } from "./support/longwire_peer.ts";

type Script = (peer: Peer, index: number) => Promise<void>;

const payload = new TextEncoder().encode("hi");

/** Delays for tests: no jitter, milliseconds instead of seconds. */
const quick: Partial<ClientOptions> = {
  backoff: { base_ms: 5, cap_ms: 40 },
  random: () => 0,
  ack_delay_ms: 20,
  connect_timeout_ms: 2000,
};

/** Runs a client against scripts; both are closed in the end, whatever happens. */
async function with_client(
  scripts: readonly Script[],
  options: Partial<ClientOptions>,
  use: (client: Client, server: PeerServer) => Promise<void>,
): Promise<void> {
  const server = new PeerServer(scripts);
  const client = connect({ address: server.address, session_id: "d1", ...quick, ...options });
  try {
    await Promise.race([use(client, server), server.failed]);
  } finally {
    await client.close();
    await server.close();
  }
}

/** Events up to and including the first of a type. */
async function until(client: Client, type: ClientEvent["type"]): Promise<ClientEvent[]> {
  const events: ClientEvent[] = [];
  for await (const event of client) {
    events.push(event);
    if (event.type === type) return events;
  }
  throw new Error(`The client ended before ${type}: ${events.map((e) => e.type)}`);
}

async function next_message(client: Client): Promise<number> {
  const event = (await until(client, "message")).at(-1)!;
  return event.type === "message" ? event.message.offset : -1;
}

function message(offset: number, topic = "t", qos: 0 | 1 = 1): FrameInit {
  return { type: "message", topic, payload, offset, qos };
}

/** Answers what needs an answer until the client goes; `seen` gets the rest. */
async function obey(peer: Peer, seen: (frame: Frame) => void = () => {}): Promise<void> {
  for (;;) {
    const frame = await peer.read();
    seen(frame);
    if (frame.type === "subscribe") {
      const results = frame.subscriptions.map(() => 0);
      await peer.send({ type: "subscribed", request_id: frame.request_id, codes: results });
    } else if (frame.type === "unsubscribe") {
      const results = frame.filters.map(() => 0);
      await peer.send({ type: "unsubscribed", request_id: frame.request_id, codes: results });
    }
  }
}

Deno.test("client: says hello, is welcomed, says goodbye", async () => {
  const script: Script = async (peer) => {
    const hello = await peer.greet();
    assertEquals(hello, {
      type: "hello",
      session_id: "d1",
      token: "secret",
      protocol_version: 1,
      keepalive_s: 7,
      resume: [],
      last_boot_id: "",
      clean: true,
      resume_secret: "",
      dictionaries: [],
    });
    assertEquals(await peer.read(), {
      type: "goodbye",
      code: 0,
      detail: "",
      retry_after_ms: 0,
    });
    await peer.drain();
  };
  const options = { token: "secret", keepalive_s: 7, clean: true };
  await with_client([script], options, async (client) => {
    const events = await until(client, "connected");
    assertEquals(events.map((event) => event.type), ["connecting", "connected"]);
    const closing = client.close();
    assertEquals(await until(client, "closed"), [
      { type: "closed", code: codes.normal, reason: codes.normal.meaning },
    ]);
    await closing;
    await assertRejects(async () => await client.subscribe("a"), Refusal);
  });
});

Deno.test("client: subscribes, publishes, unsubscribes", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const subscribe = await peer.expect("subscribe");
    assertEquals(subscribe.subscriptions, [
      { filter: "a/#", qos: 1 },
    ]);
    await peer.send({ type: "subscribed", request_id: subscribe.request_id, codes: [0] });
    const publish = await peer.expect("publish");
    assertEquals({ ...publish, request_id: 0 }, {
      type: "publish",
      request_id: 0,
      topic: "a/b",
      payload,
      qos: 1,
      retain: true,
      ttl_ms: 5,
      key: "k",
      properties: { content_type: "text/plain" },
    });
    await peer.send({ type: "published", request_id: publish.request_id, offset: 9 });
    assertEquals((await peer.expect("publish")).request_id, 0);
    const unsubscribe = await peer.expect("unsubscribe");
    assertEquals(unsubscribe.filters, ["a/#"]);
    await peer.send({ type: "unsubscribed", request_id: unsubscribe.request_id, codes: [0] });
    await peer.drain();
  };
  await with_client([script], {}, async (client) => {
    await client.subscribe("a/#");
    const options = { retain: true, ttl_ms: 5, key: "k", content_type: "text/plain" };
    assertEquals(await client.publish("a/b", payload, options), { offset: 9 });
    assertEquals(await client.publish("a/b", payload, { qos: 0 }), { offset: 0 });
    await client.unsubscribe("a/#");
  });
});

Deno.test("client: what the service refuses rejects with its code", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    const { request_id } = await peer.expect("subscribe");
    await peer.send({ type: "subscribed", request_id, codes: [codes.forbidden.number] });
    const publish = await peer.expect("publish");
    await peer.send({
      type: "published",
      request_id: publish.request_id,
      code: codes.topic_invalid.number,
      detail: "No such topic",
    });
    await peer.drain();
  };
  await with_client([script], {}, async (client) => {
    const refusal = await assertRejects(() => client.subscribe("a"), Refusal);
    assertEquals(refusal.code, codes.forbidden);
    const other = await assertRejects(() => client.publish("a", payload), Refusal);
    assertEquals([other.code, other.message], [codes.topic_invalid, "No such topic"]);
  });
});

Deno.test("client: a publish refused for the moment is repeated", async () => {
  let publishes = 0;
  const script: Script = async (peer) => {
    await peer.greet();
    for (;;) {
      const frame = await peer.read();
      if (frame.type !== "publish") continue;
      const { request_id } = frame;
      const code = ++publishes === 3 ? 0 : codes.rate_limited.number;
      await peer.send({ type: "published", request_id, code, offset: 1, retry_after_ms: 1 });
    }
  };
  await with_client([script], { retry_reserve: 4 }, async (client) => {
    await client.publish("a", payload);
    assertEquals(publishes, 3);
    const refusal = await assertRejects(() => client.publish("a", payload), Refusal);
    assertEquals(refusal.code, codes.rate_limited);
    assertEquals(publishes, 6); // two repetitions each
  });
});

Deno.test("client: acknowledges in batches, after a while and at close", async () => {
  const acks: number[] = [];
  let acked = Promise.withResolvers<void>();
  const script: Script = async (peer) => {
    await peer.greet();
    for (let offset = 1; offset <= 70; offset++) await peer.send(message(offset));
    for (;;) {
      const frame = await peer.read();
      if (frame.type !== "ack") continue;
      acks.push(frame.offset);
      acked.resolve();
    }
  };
  await with_client([script], { ack_delay_ms: 10_000 }, async (client) => {
    for (let i = 1; i <= 65; i++) assertEquals(await next_message(client), i);
    await acked.promise;
    assertEquals(acks, [64]);
  });
  assertEquals(acks, [64, 65]); // close() counts what the application had in hand

  acks.length = 0;
  acked = Promise.withResolvers<void>();
  await with_client([script], { ack_delay_ms: 30 }, async (client) => {
    for (let i = 1; i <= 3; i++) await next_message(client);
    await acked.promise;
    assertEquals(acks, [2]); // the third is still being worked on
    assertEquals(client.cursor, { epoch: "e1", offset: 2 });
  });
  assertEquals(acks, [2, 3]);
});

Deno.test("client: comes back to where it was and drops what it has seen", async () => {
  const hellos: Frame[] = [];
  const subscribed: string[][] = [];
  const scripts: Script[] = [
    async (peer) => {
      hellos.push(await peer.greet());
      const { request_id } = await peer.expect("subscribe");
      await peer.send({ type: "subscribed", request_id, codes: [0] });
      await peer.send(message(1), message(2), message(3));
      await peer.expect("ack");
    },
    async (peer) => {
      hellos.push(await peer.greet({ boot_id: "b2" }));
      await peer.send(message(2), message(3), message(4));
      await obey(peer, (frame) => {
        if (frame.type === "subscribe") subscribed.push(frame.subscriptions.map((s) => s.filter));
      });
    },
  ];
  await with_client(scripts, {}, async (client) => {
    await client.subscribe("t");
    assertEquals(await next_message(client), 1);
    assertEquals(await next_message(client), 2);
    assertEquals(await next_message(client), 3);
    const events = await until(client, "message"); // by asking for more it is done with 3
    assertEquals(events.map((e) => e.type), ["disconnected", "connecting", "connected", "message"]);
    const last = events.at(-1)!;
    assertEquals(last.type === "message" && last.message.offset, 4);
    await client.subscribe("u"); // the answers come in order: by then "t" was asked for again
  });
  const [first, second] = hellos as Extract<Frame, { type: "hello" }>[];
  assertEquals(first.resume, []);
  assertEquals(second.resume, [{ epoch: "e1", offset: 3 }]);
  assertEquals([second.resume_secret, second.last_boot_id], ["s1", "b1"]);
  assertEquals(subscribed, [["t"], ["u"]]);
});

Deno.test("client: a session that the service still has is not subscribed again", async () => {
  const seen: string[] = [];
  const scripts: Script[] = [
    async (peer) => {
      await peer.greet();
      const { request_id } = await peer.expect("subscribe");
      await peer.send({ type: "subscribed", request_id, codes: [0] });
    },
    async (peer) => {
      await peer.greet({ resumed: true });
      await peer.send(message(1));
      await obey(peer, (frame) => seen.push(frame.type));
    },
  ];
  await with_client(scripts, {}, async (client) => {
    await client.subscribe("t");
    assertEquals(await next_message(client), 1);
  });
  assertEquals(seen.filter((type) => type !== "ack"), ["goodbye"]);
});

Deno.test("client: a filter that starts earlier brings what is new only", async () => {
  const acks: number[] = [];
  const script: Script = async (peer) => {
    await peer.greet({ head_offset: 10 });
    const first = await peer.expect("subscribe");
    await peer.send({ type: "subscribed", request_id: first.request_id, codes: [0] });
    await peer.send(message(11, "a"), message(13, "a"));
    const second = await peer.expect("subscribe");
    assertEquals(second.subscriptions, [{ filter: "#", qos: 1, after: { epoch: "", offset: 4 } }]);
    await peer.send(message(5, "b"), { // before the answer: the service may
      type: "subscribed",
      request_id: second.request_id,
      codes: [0],
    });
    await peer.send(message(7, "a"), message(11, "a"), message(12, "b"), message(13, "a"));
    await peer.send(message(14, "b"));
    await obey(peer, (frame) => frame.type === "ack" && acks.push(frame.offset));
  };
  await with_client([script], { ack_messages_max: 1 }, async (client) => {
    await client.subscribe("a");
    const offsets: number[] = [];
    const take = async () => offsets.push(await next_message(client));
    for (let i = 0; i < 2; i++) await take();
    void client.subscribe("#", { after: 4 });
    for (let i = 0; i < 4; i++) await take();
    assertEquals(offsets, [11, 13, 5, 7, 12, 14]);
  });
  // Nothing was acknowledged while the service was going through old messages.
  assertEquals(acks, [14]);
});

Deno.test("client: another log is told as it is", async () => {
  const hellos: Frame[] = [];
  const scripts: Script[] = [
    async (peer) => {
      hellos.push(await peer.greet());
      await peer.send(message(8));
      await peer.expect("ack");
    },
    async (peer) => {
      hellos.push(await peer.greet({ epoch: "e2" }));
      await peer.send({ type: "gap", from: 1, to: 3 }, message(4));
      await obey(peer);
    },
  ];
  await with_client(scripts, { ack_messages_max: 1 }, async (client) => {
    assertEquals(await next_message(client), 8);
    const events = await until(client, "gap");
    assertEquals(events.at(-1), { type: "gap", epoch: "e2", from: 1, to: 3 });
    assertEquals(await next_message(client), 4);
    const more = until(client, "closed");
    await new Promise((resolve) => setTimeout(resolve, 5));
    assertEquals(client.cursor, { epoch: "e2", offset: 4 });
    await client.close();
    await more;
  });
  assertEquals(hellos.length, 2);
});

Deno.test("client: starts from the application's cursor", async () => {
  const script: Script = async (peer) => {
    const hello = await peer.greet({ head_offset: 90 });
    assertEquals(hello.type === "hello" && hello.resume, [{ epoch: "e1", offset: 41 }]);
    await peer.send(message(41), message(42));
    await obey(peer);
  };
  await with_client([script], { cursor: { epoch: "e1", offset: 41 } }, async (client) => {
    assertEquals(await next_message(client), 42);
  });
});

Deno.test("client: is refused for good, or waits as long as it is told", async () => {
  const refuse =
    (init: Partial<Extract<FrameInit, { type: "refuse" }>>): Script => async (peer) => {
      await peer.expect("hello");
      await peer.send({ type: "refuse", ...init });
      await peer.drain();
    };
  const busy = refuse({ code: codes.server_busy.number, retry_after_ms: 80 });
  const never = refuse({ code: codes.unauthorized.number, detail: "No token" });
  await with_client([busy, never], {}, async (client) => {
    const since_ms = performance.now();
    const events = await until(client, "closed");
    assert(performance.now() - since_ms >= 79, "came back too early");
    assertEquals(events.slice(1), [
      {
        type: "disconnected",
        code: codes.server_busy,
        reason: codes.server_busy.meaning,
        retry_ms: 80,
      },
      { ...events[2] },
      { type: "closed", code: codes.unauthorized, reason: "No token" },
    ]);
    await assertRejects(async () => await client.publish("a", payload), Refusal);
  });
});

Deno.test("client: ends when it is told to stay away, and comes back when it is not", async () => {
  const scripts: Script[] = [
    async (peer) => {
      await peer.greet();
      await peer.send({ type: "goodbye", code: codes.shutting_down.number, retry_after_ms: 10 });
      await peer.drain();
    },
    async (peer) => {
      await peer.greet();
      await peer.send({ type: "goodbye", code: codes.taken_over.number });
      await peer.drain();
    },
  ];
  await with_client(scripts, {}, async (client) => {
    const events = await until(client, "closed");
    assertEquals(events.map((event) => event.type), [
      "connecting",
      "connected",
      "disconnected",
      "connecting",
      "connected",
      "closed",
    ]);
    const closed = events.at(-1)!;
    assertEquals(closed.type === "closed" && closed.code, codes.taken_over);
  });
});

Deno.test("client: tells when the service takes a filter back", async () => {
  const answer = (code: number): Script => async (peer) => {
    await peer.greet();
    const { request_id } = await peer.expect("subscribe");
    await peer.send({ type: "subscribed", request_id, codes: [code] });
    if (code !== 0) await peer.drain();
  };
  const scripts = [answer(0), answer(codes.forbidden.number)];
  await with_client(scripts, {}, async (client) => {
    await client.subscribe("a");
    const event = (await until(client, "subscription_lost")).at(-1);
    assertEquals(event, { type: "subscription_lost", filter: "a", code: codes.forbidden });
  });
});

Deno.test("client: garbage from the service ends the connection, not the client", async () => {
  const scripts: Script[] = [
    async (peer) => {
      await peer.greet();
      await peer.socket.write(new TextEncoder().encode("HTTP/1.1 400 Bad Request\r\n"));
      await peer.drain();
    },
    async (peer) => {
      await peer.greet();
      await peer.drain();
    },
  ];
  await with_client(scripts, {}, async (client) => {
    const event = (await until(client, "disconnected")).at(-1)!;
    assertEquals(event.type === "disconnected" && event.code, codes.frame_too_large);
    await until(client, "connected");
  });
});

Deno.test("backoff: doubles up to its cap, with jitter upwards or full", () => {
  const delays = (random: number, jitter: "factor" | "full") =>
    [0, 1, 2, 6, 60, 2000].map((attempt) => {
      return backoff_ms(attempt, { ...backoff_default, jitter }, () => random);
    });
  assertEquals(delays(0, "factor"), [500, 1000, 2000, 30_000, 30_000, 30_000]);
  assertEquals(delays(1, "factor"), [650, 1300, 2600, 39_000, 39_000, 39_000]);
  assertEquals(delays(0, "full"), [0, 0, 0, 0, 0, 0]);
  assertEquals(delays(0.5, "full"), [250, 500, 1000, 15_000, 15_000, 15_000]);
});

Deno.test("retry budget: a tenth of the requests, and a reserve", () => {
  const budget = new RetryBudget(0.1, 3);
  let repeated = 0;
  for (let request = 0; request < 1000; request++) {
    budget.earn();
    while (budget.take()) repeated++; // a service that refuses everything, always
  }
  assert(repeated >= 100 && repeated <= 103, `${repeated} repetitions`);
});

Deno.test("client: repeats nothing while the breaker is open, then all of it", async () => {
  const asked: string[] = [];
  const script: Script = async (peer) => {
    await peer.greet();
    const refuse = (request_id: number) =>
      peer.send({
        type: "published",
        request_id,
        code: codes.breaker_open.number,
        retry_after_ms: 100,
      });
    const frames = [];
    for (let i = 0; i < 3; i++) frames.push(await peer.expect("publish"));
    for (const { request_id } of frames) await refuse(request_id);
    for (let probes = 0; probes < 2; probes++) { // one asks, the others wait
      const probe = await peer.expect("publish");
      asked.push("one");
      await refuse(probe.request_id);
    }
    const last = await peer.expect("publish");
    asked.push("one");
    await peer.send({ type: "published", request_id: last.request_id, offset: 1 });
    for (let i = 0; i < 2; i++) {
      const { request_id } = await peer.expect("publish");
      asked.push("rest");
      await peer.send({ type: "published", request_id, offset: 2 + i });
    }
    await peer.drain();
  };
  await with_client([script], { retry_reserve: 1 }, async (client) => {
    const since_ms = performance.now();
    await until(client, "connected");
    await Promise.all(["a", "b", "c"].map((topic) => client.publish(topic, payload)));
    assert(performance.now() - since_ms >= 299, "asked too early");
    assertEquals(asked, ["one", "one", "one", "rest", "rest"]);
    const events = await until(client, "breaker");
    const first = events.at(-1)!;
    assertEquals(first.type === "breaker" && first.retry_ms, 100);
  });
});

Deno.test("client: compares the clocks, and tells the server's time", async () => {
  const ahead_ms = 3_600_000;
  const script: Script = async (peer) => {
    await peer.greet({ server_time_ms: Date.now() + ahead_ms, keepalive_s: 1 });
    const status = await peer.expect("status");
    assert(Math.abs(status.timestamp_ms - Date.now() - ahead_ms) < 2000);
    await peer.send({ type: "notice", code: codes.time_ahead.number, count: 1 });
    await peer.drain();
    const beats = peer.frames.filter((frame) => frame.type === "heartbeat");
    assert(beats.every(({ time_s }) => Math.abs(time_s * 1000 - Date.now() - ahead_ms) < 5000));
  };
  await with_client([script], {}, async (client) => {
    const { clock } = (await until(client, "clock")).at(-1) as { clock: ClockState };
    assert(Math.abs(clock.offset_ms - ahead_ms) <= clock.uncertainty_ms + 5, String(clock));
    assert(client.round_trip_ms > 0);
    await client.report({ timestamp_ms: client.server_time_ms, node_id: 1, load_percent: 5 });
    const notice = (await until(client, "notice")).at(-1)!;
    assertEquals(notice.type === "notice" && notice.code, codes.time_ahead);
  });
});

Deno.test("client: of clocks, the shortest exchange stands until one was set", () => {
  let now_ms = 1000;
  const clock = new ServerClock(() => now_ms, () => now_ms);
  clock.welcomed(900, 5_000_000);
  assertEquals(clock.state, { offset_ms: 5_000_000 - 950, uncertainty_ms: 50 });
  const beat = (took_ms: number, server_ms: number): boolean => {
    clock.heartbeat_sent();
    now_ms += took_ms;
    return clock.heartbeat_came(Math.floor(server_ms / 1000));
  };
  assertEquals(beat(20, 5_000_080), false); // says less than Welcome did
  assertEquals(clock.state!.uncertainty_ms, 50);
  assertEquals(beat(20, 9_000_000), true); // the server's clock was set
  assertEquals(clock.state!.uncertainty_ms, 510);
  assertEquals(clock.heartbeat_came(1), false); // an answer to nothing
  assert(clock.round_trip_ms > 20 && clock.round_trip_ms < 100);
});

Deno.test("client: gives up after as many attempts as it may, and tells who waits", async () => {
  const script: Script = async (peer) => void await peer.expect("hello");
  await with_client([script], { attempts_max: 3 }, async (client, server) => {
    const waits = assertRejects(() => client.publish("a", payload), Refusal);
    const events = await until(client, "closed");
    const delays = events.flatMap((e) => e.type === "disconnected" ? [e.retry_ms] : []);
    assertEquals(delays, [5, 10]);
    assertEquals(server.connections, 3);
    assertEquals((await waits).code, codes.peer_closed);
  });
});

Deno.test("client: tries the next address when one does not answer", async () => {
  const script: Script = async (peer) => {
    await peer.greet();
    await peer.drain();
  };
  const other = new PeerServer([script]);
  const dead = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const dead_address = `127.0.0.1:${dead.addr.port}`;
  dead.close();
  const client = connect({ ...quick, address: [dead_address, other.address] });
  const events = await until(client, "connected");
  assertEquals(events.map((event) => event.type), [
    "connecting",
    "disconnected",
    "connecting",
    "connected",
  ]);
  assertEquals(client.session_id, "d1"); // the service's choice
  await client.close();
  await other.close();
});

Deno.test("client: goes where it is sent, at Hello and later", async () => {
  const third = new PeerServer([async (peer) => {
    await peer.greet();
    await peer.drain();
  }]);
  const second = new PeerServer([async (peer) => {
    await peer.greet();
    await peer.send({ type: "redirect", address: third.address, reason: 20, deadline_ms: 50 });
    assertEquals((await peer.read()).type, "goodbye");
    await peer.drain();
  }]);
  const first: Script = async (peer) => {
    await peer.expect("hello");
    const code = codes.session_in_use.number;
    await peer.send({ type: "refuse", code, redirect: second.address });
    await peer.drain();
  };
  await with_client([first], {}, async (client) => {
    const addresses: string[] = [];
    for await (const event of client) {
      if (event.type === "connecting") addresses.push(event.address);
      if (event.type === "disconnected") assertEquals(event.retry_ms, 0);
      if (event.type === "connected" && addresses.length === 3) break;
    }
    assertEquals(addresses.slice(1), [second.address, third.address]);
  });
  await second.close();
  await third.close();
});

Deno.test("client: a server that only ever redirects is approached ever more slowly", async () => {
  const server: PeerServer = new PeerServer([async (peer) => {
    await peer.expect("hello");
    await peer.send({ type: "refuse", code: 9, redirect: server.address });
    await peer.drain();
  }]);
  const client = connect({ address: server.address, ...quick, attempts_max: 7 });
  const events = await until(client, "closed");
  const delays = events.flatMap((e) => e.type === "disconnected" ? [e.retry_ms] : []);
  assertEquals(delays.slice(0, 4), [0, 0, 0, 0]);
  assert(delays.slice(4).every((delay) => delay >= 40), String(delays));
  await client.close();
  await server.close();
});

Deno.test("client: sends heartbeats, and ends a connection that is silent", async () => {
  let heartbeats = 0;
  const scripts: Script[] = [
    async (peer) => {
      await peer.greet({ keepalive_s: 1 });
      await peer.drain();
      heartbeats = peer.frames.filter((frame) => frame.type === "heartbeat").length;
    },
    async (peer) => {
      await peer.greet();
      await peer.drain();
    },
  ];
  await with_client(scripts, {}, async (client) => {
    const since_ms = performance.now();
    const event = (await until(client, "disconnected")).at(-1)!;
    assertEquals(event.type === "disconnected" && event.code, codes.keepalive_timeout);
    assert(performance.now() - since_ms >= 2900, "too early");
    await until(client, "connected");
  });
  assert(heartbeats >= 2, `${heartbeats} heartbeats`);
});

Deno.test("client: stops reading when the application does not keep up", async () => {
  let sent = 0;
  const script: Script = async (peer) => {
    await peer.greet();
    const big = new Uint8Array(64 << 10);
    for (; sent < 2000; sent++) {
      await peer.send({ type: "message", topic: "t", payload: big, offset: sent + 1, qos: 1 });
    }
    await peer.drain();
  };
  await with_client([script], { events_max: 8 }, async (client) => {
    await until(client, "connected");
    let before = -1;
    while (before !== sent) {
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert(sent < 2000, `all ${sent} messages were taken`);
    for (let offset = 1; offset <= 2000; offset++) {
      assertEquals(await next_message(client), offset);
    }
  });
});

Deno.test("client: close() ends at once in every state", async () => {
  const hanging: Script = (peer) => peer.drain();
  await with_client([hanging], {}, async (client) => {
    await until(client, "connecting");
    await client.close(); // before Welcome
  });
  const dead = connect({ ...quick, address: "127.0.0.1:1", backoff: { base_ms: 60_000 } });
  await until(dead, "disconnected");
  await dead.close(); // while it waits
  const stuck = connect({ ...quick, address: "h:1", open: () => new Promise(() => {}) });
  await until(stuck, "connecting");
  await stuck.close(); // while it connects
  const slow = connect({
    ...quick,
    address: "h:1",
    open: () => new Promise(() => {}),
    connect_timeout_ms: 20,
    attempts_max: 1,
  });
  const closed = (await until(slow, "closed")).at(-1)!;
  assert(closed.type === "closed" && closed.code === codes.io_error, closed.type);
});

// ------------------------------------------------------------------ a model of the service

interface Stored {
  readonly offset: number;
  readonly topic: string;
}

/** A service with one session and a log, whose connections are cut after any number of bytes. */
class Model {
  readonly log: Stored[] = [];
  readonly #filters = new Set<string>();
  #cursor = 0;
  readonly #waiting = new Set<() => void>();

  constructor(readonly random: () => number) {}

  append(topic: string): number {
    this.log.push({ offset: this.log.length + 1, topic });
    this.#wake();
    return this.log.length;
  }

  /** Every connection looks whether there is something to send. */
  #wake(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }

  /** One connection. Keeps the session with a probability of one half. */
  async serve(peer: Peer, cut_after_bytes: number): Promise<void> {
    peer.bytes_left = cut_after_bytes;
    const hello = await peer.expect("hello");
    const resumed = this.#filters.size > 0 && this.random() < 0.5;
    if (!resumed) this.#filters.clear();
    if (hello.resume.length > 0) this.#cursor = hello.resume[0].offset;
    else if (!resumed) this.#cursor = this.log.length;
    const resumed_from = hello.resume[0]?.offset ?? Infinity;
    const at = { next: this.#cursor, resumed_from };
    await peer.send({ ...welcome, resumed, head_offset: this.log.length });
    const writing = this.#write(peer, at);
    try {
      await this.#read(peer, at);
    } finally {
      at.next = -1;
      this.#wake();
      await writing;
    }
  }

  /** Sends what matches, in order, from wherever `at` stands; it may be put back. */
  async #write(peer: Peer, at: { next: number }): Promise<void> {
    try {
      while (at.next >= 0) {
        if (at.next >= this.log.length) {
          await new Promise<void>((resolve) => this.#waiting.add(resolve));
          continue;
        }
        const { offset, topic } = this.log[at.next++];
        if (![...this.#filters].some((filter) => filter_matches(filter, topic))) continue;
        await peer.send(message(offset, topic));
      }
    } catch (error) {
      if (!(error instanceof Gone)) throw error;
    }
  }

  async #read(peer: Peer, at: { next: number; resumed_from: number }): Promise<void> {
    for (;;) {
      const frame = await peer.read();
      if (frame.type === "ack") {
        assert(frame.offset <= this.log.length);
        this.#cursor = Math.max(this.#cursor, frame.offset);
      } else if (frame.type === "publish") {
        const offset = this.append(frame.topic);
        await peer.send({ type: "published", request_id: frame.request_id, offset });
      } else if (frame.type === "subscribe") {
        for (const { filter, after } of frame.subscriptions) {
          // A filter that is new to the session starts where Hello said that the device stands.
          const known = this.#filters.has(filter) ? Infinity : at.resumed_from;
          const place = after?.offset ?? known;
          this.#filters.add(filter);
          at.next = Math.min(at.next, place);
          this.#cursor = Math.min(this.#cursor, place);
        }
        this.#wake();
        const results = frame.subscriptions.map(() => 0);
        await peer.send({ type: "subscribed", request_id: frame.request_id, codes: results });
      }
    }
  }
}

/** Publishes, subscribes from the beginning in the midst of it, and counts what comes. */
async function run_model(client: Client, model: Model, random: () => number): Promise<number[]> {
  const wanted = (s: Stored) => s.topic !== "c";
  const offsets: number[] = [];
  await client.subscribe("a");
  const begin = model.log.length;
  const publishing = (async () => {
    for (let i = 0; i < 60; i++) {
      await client.publish("abc"[Math.floor(random() * 3)], payload);
      if (i === 30) await client.subscribe("b", { after: begin });
    }
    await client.publish("a", payload); // ends the rewind
    model.append("a");
  })();
  let expected = Infinity;
  void publishing.then(() => expected = model.log.slice(begin).filter(wanted).length);
  const timer = setTimeout(() => void client.close(), 20_000);
  for await (const event of client) {
    if (event.type === "message") offsets.push(event.message.offset);
    if (offsets.length >= expected) break;
  }
  clearTimeout(timer);
  await publishing;
  return offsets;
}

Deno.test("client: connections cut anywhere lose nothing and repeat nothing", async () => {
  const seed = seed_for("client cuts");
  for (let round = 0; round < 25; round++) {
    const random = random_of(seed + round);
    const model = new Model(random);
    for (let i = 0; i < 10; i++) model.append("b");
    const cuts = 4 + Math.floor(random() * 20);
    const server = new PeerServer([
      (peer, index) => model.serve(peer, index < cuts ? 1 + Math.floor(random() * 1500) : Infinity),
    ]);
    const client = connect({
      ...quick,
      address: server.address,
      backoff: { base_ms: 1, cap_ms: 2 },
      ack_messages_max: 1 + Math.floor(random() * 8),
      ack_delay_ms: 2,
    });
    const begin = model.log.length;
    const offsets = await Promise.race([run_model(client, model, random), server.failed]);
    await client.close();
    await server.close();
    const about = `LONGWIRE_TEST_SEED=${seed + round}`;
    const expected = model.log.slice(begin).filter((s) => s.topic !== "c").map((s) => s.offset);
    assertEquals(offsets.toSorted((a, b) => a - b), expected, about);
    for (const topic of ["a", "b"]) { // a filter that starts earlier comes later, in its own order
      const own = offsets.filter((offset) => model.log[offset - 1].topic === topic);
      assertEquals(own, own.toSorted((a, b) => a - b), about);
    }
  }
});
