/**
 * Longwire frames as bytes: what each of them is, or why it is refused. One table for decoding,
 * encoding, truncation and byte-by-byte feeding.
 */
import type { CodeName } from "../../core/codes.ts";
import { limits } from "../../core/limits.ts";
import type { Frame } from "../../core/protocol/longwire.ts";
import { bytes_of, concat } from "./bytes.ts";

export interface LongwireCase {
  readonly note: string;
  readonly bytes: Uint8Array;
  /** What the bytes are; absent = they are refused. */
  readonly packet?: Frame;
  readonly refusal?: CodeName;
  /** The frame has another form, which is what encode() writes. */
  readonly one_way: boolean;
}

/** A frame: u32 little-endian, type, body. */
export function frame(type: number, body: Uint8Array): Uint8Array {
  const head = new Uint8Array(5);
  new DataView(head.buffer).setUint32(0, body.length, true);
  head[4] = type;
  return concat(head, body);
}

const list: LongwireCase[] = [];

/** In the body, [ "text" ] is a string or nested message behind its size. */
function accept(note: string, type: number, body: string, packet: Frame, one_way = false): void {
  list.push({ note, bytes: frame(type, bytes_of(body)), packet, one_way });
}

function refuse(note: string, type: number, body: string | Uint8Array, refusal: CodeName): void {
  const bytes = frame(type, typeof body === "string" ? bytes_of(body) : body);
  list.push({ note, bytes, refusal, one_way: true });
}

function refuse_raw(note: string, notation: string, refusal: CodeName): void {
  list.push({ note, bytes: bytes_of(notation), refusal, one_way: true });
}

// ------------------------------------------------------------------ the frame itself

list.push(
  {
    note: "heartbeat: five bytes in all",
    bytes: bytes_of("00f15365 01"),
    packet: { type: "heartbeat", time_s: 1700000000 },
    one_way: false,
  },
  {
    note: "heartbeat at the end of u32",
    bytes: bytes_of("ffffffff 01"),
    packet: { type: "heartbeat", time_s: 0xffffffff },
    one_way: false,
  },
  {
    note: "heartbeat at 0",
    bytes: bytes_of("00000000 01"),
    packet: { type: "heartbeat", time_s: 0 },
    one_way: false,
  },
);
refuse_raw("type 0", "00000000 00", "malformed");
refuse_raw("unknown type", "00000000 13", "malformed");
refuse_raw("unknown type, compressed", "00000000 ff", "malformed");
refuse_raw("compressed heartbeat", "00000000 81", "malformed");
refuse_raw("compressed, nothing agreed", "02000000 8a 0801", "protocol_error");
refuse_raw("body past the limit", "fcff0f00 09", "frame_too_large");
refuse_raw("body of 4 GiB", "ffffffff 09", "frame_too_large");

// ------------------------------------------------------------------ Hello, Welcome, Refuse

const hello: Frame = {
  type: "hello",
  session_id: "d1",
  token: "",
  protocol_version: 1,
  keepalive_s: 0,
  resume: [],
  last_boot_id: "",
  clean: false,
  resume_secret: "",
  dictionaries: [],
};
accept("Hello, least", 0x02, `0a ["d1"] 1801`, hello);
accept("Hello without session id", 0x02, "1801", { ...hello, session_id: "" });
accept(
  "Hello, all fields",
  0x02,
  `0a ["d1"] 12 ["tok"] 1801 200a 2a [0a ["e"] 1007] 2a [] 32 ["b"] 3801 42 ["s"] ` +
    "4a [0100]",
  {
    ...hello,
    token: "tok",
    keepalive_s: 10,
    resume: [{ epoch: "e", offset: 7 }, { epoch: "", offset: 0 }],
    last_boot_id: "b",
    clean: true,
    resume_secret: "s",
    dictionaries: [1, 0],
  },
);
accept(
  "Hello with fields of a later version",
  0x02,
  `0a ["d1"] 1801 f8ff0301 a206 ["x"]`,
  hello,
  true,
);
accept("the last value of a field stands", 0x02, `0a ["d0"] 0a ["d1"] 1801`, hello, true);
refuse("Hello of version 0", 0x02, `0a ["d1"]`, "unsupported_protocol");
refuse("Hello of version 2", 0x02, `0a ["d1"] 1802`, "unsupported_protocol");
refuse(
  "Hello, session id over the limit",
  0x02,
  `0a ["${"x".repeat(limits.device_id_bytes_max + 1)}"] 1801`,
  "client_id_invalid",
);
refuse(
  "Hello, session id over the limit in bytes only",
  0x02,
  `0a ["${"ü".repeat(limits.device_id_bytes_max / 2 + 1)}"] 1801`,
  "client_id_invalid",
);
refuse("Hello, session id not UTF-8", 0x02, "0a [ff] 1801", "malformed");
refuse("Hello, session id with surrogate", 0x02, "0a [eda080] 1801", "malformed");
refuse("Hello, session id with U+0000", 0x02, "0a [6100] 1801", "malformed");
refuse("Hello, field past the end", 0x02, "1801 0a 05 61", "malformed");
refuse("Hello, cursor past the end", 0x02, `1801 2a [0a 05 61]`, "malformed");
refuse("Hello, half a number", 0x02, "18", "malformed");
refuse("Hello, number of 11 bytes", 0x02, "18 8080808080808080808001", "malformed");
refuse("Hello, group that does not end", 0x02, "1801 a306", "malformed");
refuse("Hello, field number 0", 0x02, "1801 0001", "malformed");
refuse("Hello, wire type 7", 0x02, "1801 0f01", "malformed");
refuse("Hello, offset past 2^53", 0x02, "1801 2a [10 8080808080808010]", "malformed");
refuse("Hello, too many dictionaries", 0x02, `1801 4a [${"01".repeat(65)}]`, "malformed");
refuse("Hello, too many cursors", 0x02, `1801 ${"2a00".repeat(65)}`, "malformed");
refuse("more fields than any frame has", 0x02, `1801 ${"3801".repeat(20_000)}`, "malformed");

const welcome: Frame = {
  type: "welcome",
  node: "",
  epoch: "",
  limits: {
    frame_bytes_max: 0,
    payload_bytes_max: 0,
    topic_bytes_max: 0,
    filters_per_frame_max: 0,
    subscriptions_max: 0,
  },
  server_time_ms: 0,
  keepalive_s: 0,
  resumed: false,
  resume_secret: "",
  head_offset: 0,
  boot_id: "",
  session_id: "",
  dictionaries: [],
};
accept("Welcome, empty", 0x03, "", welcome, true);
accept(
  "Welcome, all fields",
  0x03,
  `0a ["n1"] 12 ["e1"] 1a [08808040 10808002 188020 208008 2803] 20 fbfce1b4ab33 280a 3001 ` +
    `3a ["s"] 40 ffffffffffffff0f 4a ["b"] 52 ["d1"] 5a [00]`,
  {
    type: "welcome",
    node: "n1",
    epoch: "e1",
    limits: {
      frame_bytes_max: 1 << 20,
      payload_bytes_max: 32768,
      topic_bytes_max: 4096,
      filters_per_frame_max: 1024,
      subscriptions_max: 3,
    },
    server_time_ms: 1764000038523,
    keepalive_s: 10,
    resumed: true,
    resume_secret: "s",
    head_offset: Number.MAX_SAFE_INTEGER,
    boot_id: "b",
    session_id: "d1",
    dictionaries: [0],
  },
);
accept("Refuse, empty", 0x04, "", {
  type: "refuse",
  code: 0,
  detail: "",
  retry_after_ms: 0,
  redirect: "",
});
accept("Refuse, all fields", 0x04, `0809 12 ["busy"] 18e807 22 ["h:1"]`, {
  type: "refuse",
  code: 9,
  detail: "busy",
  retry_after_ms: 1000,
  redirect: "h:1",
});

// ------------------------------------------------------------------ Subscribe, Unsubscribe

accept(
  "Subscribe",
  0x05,
  `0801 12 [0a ["a/+"]] 12 [0a ["#"] 1001 1a [0a ["e"] 1005]] 12 [0a ["b"] 1002 1a []]`,
  {
    type: "subscribe",
    request_id: 1,
    subscriptions: [
      { filter: "a/+", qos: 0 },
      { filter: "#", qos: 1, after: { epoch: "e", offset: 5 } },
      { filter: "b", qos: 2, after: { epoch: "", offset: 0 } },
    ],
  },
);
refuse("Subscribe without filters", 0x05, "0801", "protocol_error");
refuse("Subscribe with empty filter", 0x05, "0801 12 []", "filter_invalid");
refuse("Subscribe with bad filter", 0x05, `0801 12 [0a ["a/#/b"]]`, "filter_invalid");
refuse("Subscribe with bad share", 0x05, `0801 12 [0a ["$share/g"]]`, "filter_invalid");
refuse("Subscribe with QoS 3", 0x05, `0801 12 [0a ["a"] 1003]`, "qos_unsupported");
refuse(
  "Subscribe with too many filters",
  0x05,
  `0801 ${"12 [0a 01 61] ".repeat(limits.filters_per_packet_max + 1)}`,
  "subscription_limit",
);
accept("Subscribed", 0x06, "0801 12 [000e9c01]", {
  type: "subscribed",
  request_id: 1,
  codes: [0, 14, 156],
});
accept("Subscribed, codes not packed", 0x06, "0801 1000 100e", {
  type: "subscribed",
  request_id: 1,
  codes: [0, 14],
}, true);
accept("Unsubscribe", 0x07, `0802 12 ["a/+"] 12 ["$share/g/#"]`, {
  type: "unsubscribe",
  request_id: 2,
  filters: ["a/+", "$share/g/#"],
});
refuse("Unsubscribe without filters", 0x07, "0802", "protocol_error");
refuse("Unsubscribe with bad filter", 0x07, `12 ["a+"]`, "filter_invalid");
accept("Unsubscribed", 0x08, "0802 12 [00]", { type: "unsubscribed", request_id: 2, codes: [0] });

// ------------------------------------------------------------------ Message, Ack

const message: Frame = {
  type: "message",
  topic: "a/b",
  payload: new Uint8Array(0),
  offset: 0,
  qos: 0,
  time_ms: 0,
  retain: false,
  key: "",
  expires_ms: 0,
  epoch: "",
};
accept("Message, least", 0x09, `0a ["a/b"]`, message);
accept("Message, QoS 1", 0x09, `0a ["a/b"] 12 ["hi"] 187b 2001 28 fbfce1b4ab33`, {
  ...message,
  payload: bytes_of('"hi"'),
  offset: 123,
  qos: 1,
  time_ms: 1764000038523,
});
accept(
  "Message, all fields",
  0x09,
  `0a ["ä/☃"] 12 [00ff] 1801 2002 2801 3001 3a ["k"] 40808080 08 4a ["e"] 52 ["t/p"] 5a ["r/t"] ` +
    `62 [01] 72 [0a ["n"] 12 ["v"]] 72 []`,
  {
    ...message,
    topic: "ä/☃",
    payload: Uint8Array.of(0, 0xff),
    offset: 1,
    qos: 2,
    time_ms: 1,
    retain: true,
    key: "k",
    expires_ms: 16777216,
    epoch: "e",
    properties: {
      content_type: "t/p",
      response_topic: "r/t",
      correlation_data: Uint8Array.of(1),
      user_properties: [["n", "v"], ["", ""]],
    },
  },
);
accept("Message of text", 0x09, `0a ["a/b"] 12 ["ü"] 6801`, {
  ...message,
  payload: bytes_of('"ü"'),
  properties: { payload_format: 1 },
});
refuse("Message without topic", 0x09, "1201 00", "topic_invalid");
refuse("Message with wildcard", 0x09, `0a ["a/#"]`, "topic_invalid");
refuse("Message with QoS 3", 0x09, `0a ["a"] 2003`, "qos_unsupported");
refuse("Message, offset past 2^53", 0x09, `0a ["a"] 18 8080808080808010`, "malformed");
refuse("Message, text that is none", 0x09, `0a ["a"] 12 [ff] 6801`, "payload_invalid");
accept("Ack", 0x0a, "08 ffffffffffffff0f", {
  type: "ack",
  offset: Number.MAX_SAFE_INTEGER,
  epoch: "",
});
accept("Ack of another epoch", 0x0a, `0801 12 ["e"]`, { type: "ack", offset: 1, epoch: "e" });
accept("Ack of nothing", 0x0a, "", { type: "ack", offset: 0, epoch: "" });
refuse("Ack past 2^53", 0x0a, "08 8080808080808010", "malformed");
refuse("Ack of 64 ones", 0x0a, "08 ffffffffffffffffff01", "malformed");
refuse("Ack, wrong wire type, half", 0x0a, "0a 05", "malformed");

// ------------------------------------------------------------------ Publish, Published

const publish: Frame = {
  type: "publish",
  request_id: 0,
  topic: "a/b",
  payload: new Uint8Array(0),
  qos: 0,
  retain: false,
  ttl_ms: 0,
  key: "",
};
accept("Publish, least", 0x0b, `0a ["a/b"]`, publish);
accept("Publish, QoS 1", 0x0b, `0a ["a/b"] 12 ["hi"] 1807 2001`, {
  ...publish,
  request_id: 7,
  payload: bytes_of('"hi"'),
  qos: 1,
});
accept(
  "Publish, all fields",
  0x0b,
  `0a ["a/b"] 12 ["hi"] 18ffffffff0f 2002 2801 30e807 3a ["k"] 42 ["t/p"] 4a ["r"] 52 [00] 5801 ` +
    `62 [0a ["n"] 12 ["v"]]`,
  {
    ...publish,
    request_id: 0xffffffff,
    payload: bytes_of('"hi"'),
    qos: 2,
    retain: true,
    ttl_ms: 1000,
    key: "k",
    properties: {
      content_type: "t/p",
      response_topic: "r",
      correlation_data: Uint8Array.of(0),
      payload_format: 1,
      user_properties: [["n", "v"]],
    },
  },
);
refuse("Publish without topic", 0x0b, "1801", "topic_invalid");
refuse("Publish with wildcard", 0x0b, `0a ["+"]`, "topic_invalid");
refuse("Publish, topic over the limit", 0x0b, `0a ["${"x".repeat(4097)}"]`, "topic_invalid");
refuse("Publish, topic not UTF-8", 0x0b, "0a [c328]", "malformed");
refuse("Publish, QoS 1 without request id", 0x0b, `0a ["a"] 2001`, "protocol_error");
refuse("Publish, QoS 3", 0x0b, `0a ["a"] 1801 2003`, "qos_unsupported");
refuse("Publish, payload format 2", 0x0b, `0a ["a"] 5802`, "protocol_error");
refuse("Publish, text that is none", 0x0b, `0a ["a"] 12 [c3] 5801`, "payload_invalid");
refuse("Publish, response topic with wildcard", 0x0b, `0a ["a"] 4a ["#"]`, "topic_invalid");
accept("Published", 0x0c, "0807 187b", {
  type: "published",
  request_id: 7,
  code: 0,
  offset: 123,
  detail: "",
  retry_after_ms: 0,
});
accept("Published, refused", 0x0c, `0807 1013 22 ["slow"] 28e807`, {
  type: "published",
  request_id: 7,
  code: 19,
  offset: 0,
  detail: "slow",
  retry_after_ms: 1000,
});

// ------------------------------------------------------------------ Status and the rest

accept("Status", 0x0d, "08 fbfce1b4ab33 15 efbeadde 1827", {
  type: "status",
  timestamp_ms: 1764000038523,
  node_id: 0xdeadbeef,
  load_percent: -20,
});
accept("Status, empty", 0x0d, "", { type: "status", timestamp_ms: 0, node_id: 0, load_percent: 0 });
refuse("Status, half a node id", 0x0d, "15 efbead", "malformed");
accept(
  "StatusBatch",
  0x0e,
  "0a [f6f9c3e9d666 0a 03] 12 [01 04 01] 1a [14 00 28]",
  {
    type: "status_batch",
    reports: [
      { timestamp_ms: 1764000038523, node_id: 0xffffffff, load_percent: 10 },
      { timestamp_ms: 1764000038528, node_id: 1, load_percent: 10 },
      { timestamp_ms: 1764000038526, node_id: 0, load_percent: 30 },
    ],
  },
);
accept("StatusBatch, empty", 0x0e, "", { type: "status_batch", reports: [] });
refuse("StatusBatch, columns differ", 0x0e, "0a [00 00] 12 [00] 1a [00 00]", "malformed");
refuse("StatusBatch, before 1970", 0x0e, "0a [01] 12 [00] 1a [00]", "malformed");
refuse("StatusBatch, half a column", 0x0e, "0a 02 00", "malformed");
refuse(
  "StatusBatch, too many",
  0x0e,
  `0a [${"00".repeat(10_001)}] 12 [${"00".repeat(10_001)}] 1a [${"00".repeat(10_001)}]`,
  "malformed",
);
accept("Redirect", 0x0f, `0a ["h:7000"] 1014 188827`, {
  type: "redirect",
  address: "h:7000",
  reason: 20,
  deadline_ms: 5000,
});
accept("Goodbye", 0x10, `0814 12 ["bye"] 18e807`, {
  type: "goodbye",
  code: 20,
  detail: "bye",
  retry_after_ms: 1000,
});
accept("Gap", 0x11, `0a ["e"] 1001 18ac02`, { type: "gap", epoch: "e", from: 1, to: 300 });

accept("Notice", 0x12, `0837 1003 1a ["late"]`, {
  type: "notice",
  code: 55,
  count: 3,
  detail: "late",
});

export const longwire_cases: readonly LongwireCase[] = list;
