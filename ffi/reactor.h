/* The contract between the reactor (C) and the service (TypeScript, or the native tests).
 *
 * Two kinds of thread meet here. The *host* is the one thread that calls these functions
 * (JavaScript's); every function is the host's unless its comment says otherwise. *I/O threads* are
 * the reactor's own. Events travel from each I/O thread to the host through one single-producer
 * single-consumer ring; commands travel back through one single-producer single-consumer queue for
 * each I/O thread. Neither side ever waits for the other's lock.
 *
 * Everything is little-endian; records start at multiples of 8 bytes.
 */
#ifndef LONGWIRE_REACTOR_H
#define LONGWIRE_REACTOR_H

#include <stddef.h>
#include <stdint.h>

#define LW_ABI_VERSION 1u

/* A connection is named by `conn` = thread << 24 | slot, and by the generation of that slot. A pair
 * whose generation is over is stale: commands for it are counted no-ops. Both fit 31 bits. */
#define LW_CONN_NONE 0x7fffffffu
#define LW_THREADS_MAX 127u
#define LW_AUDIENCE_NONE 0xffffffffu
#define LW_PACKET_ID_NONE 0xffffffffu

/* How a listener cuts frames, and what C answers by itself. */
enum lw_protocol {
  LW_PROTOCOL_LONGWIRE = 1, /* u32 + u8 type; heartbeats (type 1) are answered in C */
  /* fixed header + variable length; PINGREQ answered, PUBACK/PUBREC/PUBCOMP matched against the
   * in-flight window in C */
  LW_PROTOCOL_MQTT = 2,
};

/* Numbers of core/codes.ts that the reactor finds by itself. */
enum lw_code {
  LW_CODE_NORMAL = 0,
  LW_CODE_PEER_CLOSED = 1,
  LW_CODE_IO_ERROR = 2,
  LW_CODE_HANDSHAKE_TIMEOUT = 3,
  LW_CODE_KEEPALIVE_TIMEOUT = 4,
  LW_CODE_FRAME_TOO_LARGE = 5,
  LW_CODE_MALFORMED = 6,
  LW_CODE_PROTOCOL_ERROR = 7,
  LW_CODE_CONNECTION_LIMIT = 10,
  LW_CODE_SLOW_CONSUMER = 11,
  LW_CODE_WRITE_STALLED = 33,
  LW_CODE_REPLACED = 34,
  LW_CODE_NO_MEMORY = 38,
  LW_CODE_TLS_FAILED = 42,
  LW_CODE_TLS_CERTIFICATE = 43,
  LW_CODE_TLS_BUSY = 44,
  LW_CODE_PROXY_MALFORMED = 45,
  LW_CODE_PROXY_FORBIDDEN = 46,
  LW_CODE_CONNECT_RATE = 47,
  LW_CODE_SOURCE_RATE = 48,
  LW_CODE_SOURCE_LIMIT = 49,
  LW_CODE_TLS_REKEY = 63,
  LW_CODE_FOREIGN_PROTOCOL = 65,
  LW_CODE_COUNT = 128, /* size of the counter tables: room to grow */
};

/* ------------------------------------------------------------------ events, I/O thread -> host */

enum lw_event_type {
  LW_EVENT_PAD = 0,   /* fills the ring to its end; skip `size` bytes */
  LW_EVENT_FRAME = 1, /* body: one whole frame, header included. argument: listener id.
                         code: 1 on the first frame of a connection, else 0 */
  /* the peer broke the framing or a limit; code says how. Reading has stopped; the host answers
   * as the protocol wants and closes */
  LW_EVENT_VIOLATION = 2,
  /* the connection is gone; code says why. body: struct lw_closed. The slot stays the host's
   * until LW_COMMAND_RELEASE */
  LW_EVENT_CLOSED = 3,
  /* body: u64 seq. Every stored message up to it that was delivered here has been acknowledged.
   * Only with LW_ACTIVATE_REPORT_ACKS; at most two a turn */
  LW_EVENT_ACKED = 4,
  /* body: u64 seq, the first stored message that was NOT delivered here. None is, until
   * LW_COMMAND_LIVE: the host replays from the log. argument: number of the event, see
   * LW_LIVE_SEEN */
  LW_EVENT_BEHIND = 5,
  /* for a connection that is behind: its out-queue has drained; argument: how many more messages
   * its in-flight window takes (LW_EVENT_ROOM follows again after the next LW_COMMAND_DELIVER
   * has drained). body: u64, how many DELIVERs it has had (LW_DELIVER_SHARED aside): those that
   * were on their way when this was said take room too */
  LW_EVENT_ROOM = 6,
  /* body: struct lw_inflight, one for each message whose exchange has come to what its field
   * `released` says (enum lw_settled) */
  LW_EVENT_SETTLED = 7,
  /* body: struct lw_traced. argument: enum lw_traced_what. One that finds no room in the ring or in
   * the turn is dropped and counted */
  LW_EVENT_TRACED = 8,
  /* messages of QoS 0 for the connection begin to be dropped: its out-queue is full. Once until the
   * queue has been empty. code: why; argument: bytes that wait */
  LW_EVENT_DROPPING = 9,
  /* the peer has said its last (FIN, close_notify) and may still read. Everything that came before
   * has been handed over; the host answers it and closes. A host that does not, in the time of a
   * handshake, hears CLOSED. Only for connections that are active */
  LW_EVENT_ENDED = 10,
};

struct lw_event {
  uint32_t size; /* of the record, header included, multiple of 8 */
  uint16_t type;
  uint16_t code;
  uint32_t conn;
  uint32_t generation;
  uint32_t body_size; /* bytes used of the body */
  uint32_t argument;
};

enum lw_settled {
  LW_SETTLED_ACKED = 0, /* a message of LW_DELIVER_SETTLE: the exchange is over */
  /* a message of LW_DELIVER_SHARED: the window had no room, it was not sent */
  LW_SETTLED_RETURNED = 1,
  /* LW_ACTIVATE_HOLD_RELEASES: PUBREC came, PUBREL is the host's to send; ACKED follows */
  LW_SETTLED_RECEIVED = 2,
};

enum lw_traced_what {
  LW_TRACED_SENT = 0, /* all bytes of the message have been handed to the kernel */
  LW_TRACED_ACKED = 1,
};

/* A message that is followed (LW_PUBLISH_FOLLOW_SHIFT), or was slow (LW_PUBLISH_WATCH). */
struct lw_traced {
  uint32_t stamp; /* of its PUBLISH */
  uint32_t us;    /* since it was published */
};

/* One unacknowledged message of a closed connection, oldest first. */
struct lw_inflight {
  uint64_t seq;
  uint16_t packet_id;
  uint8_t qos;
  uint8_t released; /* QoS 2: PUBREC came, PUBREL is out */
  uint32_t flags;   /* enum lw_publish_flags, of its DELIVER */
};

struct lw_closed {
  uint64_t seen_seq;       /* no stored message after this one reached the connection's queue */
  uint64_t behind_seq;     /* first one missed when it was behind; 0 = it was not behind */
  uint32_t inflight_count; /* struct lw_inflight follow */
  uint32_t protocol;
};

/* A stretch of one ring, ready to be walked. At most two a ring and poll are never needed: a record
 * does not wrap. Offsets are into the ring memory that lw_ring() names. */
struct lw_batch {
  uint32_t thread;
  uint32_t begin;
  uint32_t end; /* begin == end: nothing; the walk goes [begin, end) and skips PAD records */
  uint32_t zero;
};

/* ------------------------------------------------------------------ commands, host -> I/O threads
 *
 * The host writes any number of records into one buffer and submits them with one call. They take
 * effect in order, per connection and between publishes. lw_submit copies what it keeps. */

enum lw_command_type {
  LW_COMMAND_SEND = 1,     /* struct lw_command_send + bytes: whole frames, never dropped */
  LW_COMMAND_ACTIVATE = 2, /* struct lw_command_activate: the handshake is over */
  LW_COMMAND_CLOSE = 3,    /* struct lw_command_close: flush, shut down writing, linger, close */
  /* struct lw_command: the host has seen LW_EVENT_CLOSED; the slot may be reused */
  LW_COMMAND_RELEASE = 4,
  LW_COMMAND_JOIN = 5, /* struct lw_command_audience; joining twice is a no-op */
  /* struct lw_command_audience: of what was joined; also valid between CLOSED and RELEASE, and
   * due by then: the slot's next connection would inherit it */
  LW_COMMAND_LEAVE = 6,
  LW_COMMAND_PUBLISH = 7, /* struct lw_command_publish + audience ids + bytes */
  /* struct lw_command_deliver + bytes: one stored message to one connection that is behind
   * (replay, redelivery) */
  LW_COMMAND_DELIVER = 8,
  /* struct lw_command, flags enum lw_behind_flags: deliver no stored message live until LIVE; ROOM
   * follows */
  LW_COMMAND_BEHIND = 9,
  /* struct lw_command: the host has replayed all that was published before this command; stored
   * messages are delivered live from here on */
  LW_COMMAND_LIVE = 10,
  LW_COMMAND_PAUSE = 11,  /* struct lw_command: stop reading from the connection */
  LW_COMMAND_RESUME = 12, /* struct lw_command: read again */
  /* struct lw_command: from now on as if it had been activated with LW_ACTIVATE_REPORT_ACKS */
  LW_COMMAND_REPORT_ACKS = 13,
};

struct lw_command {
  uint32_t size; /* of the record, header included, multiple of 8 */
  uint16_t type;
  uint16_t flags;
  uint32_t conn;       /* PUBLISH: connection to leave out (no-local), or LW_CONN_NONE */
  uint32_t generation; /* PUBLISH: of that connection */
};

enum lw_behind_flags {
  /* The connection is live: what was published before this command it has been sent. Without it,
   * nothing has reached the connection yet. */
  LW_BEHIND_FROM_LIVE = 1,
};

enum lw_live_flags {
  /* The low byte is the argument of the last LW_EVENT_BEHIND of this connection that the host has
   * seen, 0 = none. When a later one is on its way, LIVE does nothing: the host has not replayed
   * what that one misses, and ROOM and another LIVE follow. */
  LW_LIVE_SEEN = 1 << 8,
};

struct lw_command_send {
  struct lw_command head;
  uint32_t body_size;
  uint32_t zero;
};

enum lw_activate_flags {
  LW_ACTIVATE_REPORT_ACKS = 1, /* send LW_EVENT_ACKED */
  /* A session that outlives this process, QoS 2: PUBREC goes to the host (LW_SETTLED_RECEIVED),
   * which says PUBREL when it has written that down; and the packet id of a message follows from
   * its seq (from LW_HELD_ID_MIN on), so that it is the same one when the message is sent again
   * after a crash. While another has it, the connection is behind (LW_EVENT_BEHIND) and has no
   * room (LW_EVENT_ROOM). */
  LW_ACTIVATE_HOLD_RELEASES = 2,
};

#define LW_HELD_ID_MIN 0x8000u

struct lw_command_activate {
  struct lw_command head;
  uint32_t keepalive_ms; /* close after this much silence; 0 = never */
  uint32_t inflight_max; /* QoS >= 1 messages in flight to it; 0 = no window is kept */
  /* frames to it must not be larger (MQTT 5 Maximum Packet Size): larger ones are dropped and
   * counted; 0 = the reactor's own bound */
  uint32_t frame_bytes_max;
  /* MQTT 5: the aliases that its frames may carry (Topic Alias Maximum); 0 = none */
  uint32_t topic_alias_max;
};

struct lw_command_close {
  struct lw_command head;
  uint32_t code; /* counted, and given back in LW_EVENT_CLOSED */
  uint32_t zero;
};

struct lw_command_audience {
  struct lw_command head;
  uint32_t audience; /* any number the host likes, dense from 0 */
  uint32_t zero;
};

/* flags of PUBLISH and DELIVER */
enum lw_publish_flags {
  LW_PUBLISH_QOS = 3,    /* mask: 0 = droppable; 1, 2 = stored */
  LW_DELIVER_ASIDE = 4,  /* out of the log's order (a retained message): moves neither ACKED nor
                            lw_closed.seen_seq */
  LW_DELIVER_SETTLE = 8, /* LW_EVENT_SETTLED says when it is acknowledged */
  /* DELIVER to a connection that need not be behind (a shared subscription): comes back when
   * there is no room. With ASIDE and SETTLE */
  LW_DELIVER_SHARED = 16,
  /* DELIVER: bits 8 to 15 are the argument of the last LW_EVENT_BEHIND of this connection that the
   * host has seen, 0 = none. When a later one is on its way, this is dropped unless it is ASIDE:
   * the host has not replayed what comes before it. */
  LW_DELIVER_SEEN = 64,
  LW_DELIVER_SEEN_SHIFT = 8,
  /* PUBLISH: the host is told of it when it took longer than lw_options.slow_us to the socket of
   * the receiver that is timed */
  LW_PUBLISH_WATCH = 32,
  /* PUBLISH, bits 8 to 15: of how many of its receivers, on each thread, the host is told what
   * became of it (LW_EVENT_TRACED) */
  LW_PUBLISH_FOLLOW_SHIFT = 8,
};

struct lw_command_publish {
  struct lw_command head;
  uint64_t seq; /* place in the log; 0 = not stored */
  /* same stamp = same message: a connection that has had it is skipped. Never 0 */
  uint32_t stamp;
  /* hash of the conflation key; 0 = none. A waiting QoS 0 message with the same key and audience
   * is replaced */
  uint32_t key;
  /* byte offset of the two packet id bytes in the frame, or LW_PACKET_ID_NONE */
  uint32_t packet_id_at;
  uint32_t audience_count;
  uint32_t body_size;
  uint32_t published_us; /* lw_now_us() of when it came; 0 = it is not timed */
  /* uint32_t audiences[audience_count], padded to 8 bytes; then body_size bytes: one frame */
};

struct lw_command_deliver {
  struct lw_command head;
  uint64_t seq;
  uint32_t packet_id_at;
  uint32_t packet_id; /* use this id (redelivery); 0 = take the next free one */
  uint32_t body_size;
  uint32_t released; /* QoS 2 redelivery after PUBREC: the frame is a PUBREL */
};

/* ------------------------------------------------------------------ life */

struct lw_options {
  uint32_t abi_version; /* LW_ABI_VERSION */
  uint32_t size;        /* sizeof(struct lw_options) */
  uint32_t thread_count;
  uint32_t connections_max; /* 0 = as many as descriptors and memory allow, at most 2^20 */
  uint32_t ring_bytes;      /* power of two */
  uint32_t frame_bytes_max;
  uint32_t handshake_frame_bytes_max;
  uint32_t handshake_timeout_ms;
  uint32_t out_queue_soft_bytes;
  uint32_t out_queue_hard_bytes;
  uint32_t write_stall_ms;
  uint32_t linger_ms;
  uint32_t command_queue_bytes_max;
  uint32_t tls_handshakes_max;        /* under way at once, the others wait; 0 = 1024 */
  uint32_t connects_per_s;            /* 0 = no bound; so are the next two */
  uint32_t connects_per_source_per_s; /* a source is an IPv4 address or an IPv6 /64 */
  uint32_t connections_per_source;
  uint32_t slow_us; /* see LW_PUBLISH_WATCH */
};

enum lw_listen_flags {
  /* a PROXY header comes first from those of lw_trust_proxies, from nobody else */
  LW_LISTEN_PROXY = 1,
  /* one comes first from everybody: a listener of the host's own */
  LW_LISTEN_PROXY_ALWAYS = 2,
};

struct lw_listen_options {
  uint32_t size;      /* sizeof(struct lw_listen_options) */
  uint32_t protocol;  /* enum lw_protocol */
  uint32_t port;      /* 0 = the kernel picks one */
  uint32_t busy_size; /* bytes at the end of this struct that answer a connection over a limit;
                         with TLS an alert does */
  uint32_t tls;       /* 0 = none; else 1 + the context of lw_tls_configure */
  uint32_t flags;     /* enum lw_listen_flags */
  char address[48];   /* numeric IPv4 or IPv6, NUL-terminated */
  uint8_t busy[64];
  uint8_t busy_reason_at; /* where `busy` says why; 0 = it does not */
  /* MQTT: what answers a client of version 5, so that its CONNECT is awaited; size 0 = `busy` */
  uint8_t busy5_size;
  uint8_t busy5_reason_at;
  uint8_t zero;
  uint8_t busy5[16];
  uint8_t reasons[LW_CODE_COUNT]; /* what stands there, by enum lw_code */
};

/* Durations. Bucket 0 counts those up to LW_LATENCY_FIRST_US, then there are two for each power of
 * two, the last counts what is over LW_LATENCY_LAST_US. */
#define LW_LATENCY_FIRST_US 16u
#define LW_LATENCY_LAST_US (1u << 25)
#define LW_LATENCY_BUCKETS 44u

struct lw_latency {
  uint64_t counts[LW_LATENCY_BUCKETS];
  uint64_t sum_us;
};

/* Sums over all I/O threads. */
struct lw_stats {
  uint64_t connections; /* open now */
  uint64_t accepted;
  uint64_t frames_in;     /* handed to the host */
  uint64_t heartbeats_in; /* answered in C */
  uint64_t acks_in;       /* PUBACK, PUBREC, PUBCOMP matched in C */
  uint64_t bytes_in;
  uint64_t bytes_out;
  uint64_t sends; /* send system calls or operations */
  uint64_t receives;
  uint64_t publishes;  /* PUBLISH commands carried out, counted once a thread */
  uint64_t deliveries; /* frames put into out-queues by PUBLISH and DELIVER */
  uint64_t stale_commands;
  uint64_t wakeups;         /* of the host */
  uint64_t turns;           /* of the I/O threads */
  uint64_t ring_full;       /* times that reading stopped for a full ring */
  uint64_t out_queue_bytes; /* waiting now */
  uint64_t tls_handshakes;  /* completed */
  uint64_t tls_resumed;     /* of those, by a ticket */
  uint64_t tls_handshaking; /* under way now */
  uint64_t tls_objects;     /* connections that hold an OpenSSL object after it: some 14 KB each */
  uint64_t tls_kernel;      /* connections whose records the kernel has been given to make */
  uint64_t sources_untracked;      /* connects of sources that the table had no room for */
  uint64_t traced_dropped;         /* LW_EVENT_TRACED that found no room */
  uint64_t closed[LW_CODE_COUNT];  /* connections closed, by code */
  uint64_t dropped[LW_CODE_COUNT]; /* messages dropped, by code */
  /* open now: by enum lw_protocol - 1; handshaking, active, draining */
  uint64_t states[2][3];
  /* of each message, audience and thread one receiver, from published_us on: until its out-queue
   * was empty again, and until its exchange was over */
  struct lw_latency to_socket;
  struct lw_latency to_acked;
};

struct lw_peer {
  uint16_t family; /* 4 or 6 */
  uint16_t port;
  uint8_t address[16];
};

enum lw_tls_client_auth {
  LW_TLS_CLIENT_NONE = 0,
  LW_TLS_CLIENT_OPTIONAL = 1, /* a certificate that is sent must be valid */
  LW_TLS_CLIENT_REQUIRED = 2,
};

enum lw_tls_flags {
  /* a connection keeps its OpenSSL object after the handshake: for comparison */
  LW_TLS_KEEP_OBJECTS = 1,
  /* the kernel encrypts what is sent, where it can: lw_kernel_tls. Else nothing changes */
  LW_TLS_KERNEL = 2,
};

/* Followed by the client CA's PEM, then for each certificate: uint32_t chain_size, key_size, the
 * chain's PEM (leaf first), the key's. The first certificate answers who asks for no name or for
 * another. */
struct lw_tls_options {
  uint32_t size; /* sizeof(struct lw_tls_options) */
  uint32_t flags;
  uint32_t client_auth;
  uint32_t version_min; /* 0x0303 = TLS 1.2, 0x0304 = TLS 1.3 */
  uint32_t client_ca_size;
  uint32_t certificate_count;
};

struct lw_network {
  uint8_t family; /* 4 or 6 */
  uint8_t prefix; /* bits */
  uint8_t address[16];
};

/* What a descriptor is (proc(5)). */
enum lw_fd_kind {
  LW_FD_SOCKET,
  LW_FD_FILE,
  LW_FD_PIPE,
  LW_FD_EVENTFD,
  LW_FD_EPOLL,
  LW_FD_IO_URING,
  LW_FD_TIMERFD,
  LW_FD_SIGNALFD,
  LW_FD_INOTIFY,
  LW_FD_MEMORY,
  LW_FD_DEVICE,
  LW_FD_OTHER,
  LW_FD_KINDS, /* how many there are */
};

enum lw_fd_role {
  LW_FD_STRANGER, /* open, and not the reactor's: its host's */
  LW_FD_LEAKED,   /* a connection of a listener of the reactor's, which does not hold it */
  LW_FD_MISSING,  /* the reactor holds it, and it is not open: somebody else closed it */
};

/* Descriptors of this process, without 0 to 2 and the one that reads them. */
struct lw_fds {
  uint32_t size; /* sizeof(struct lw_fds) */
  uint32_t open;
  uint32_t held;   /* of those, by the reactor */
  uint32_t direct; /* connections whose descriptor is io_uring's alone: not among `open` */
  uint32_t strangers;
  uint32_t leaked;
  uint32_t missing;
  uint32_t deleted; /* files without a name: neither held nor strangers, and of no kind */
  uint32_t listed;  /* struct lw_fd that were written */
  uint32_t kinds[LW_FD_KINDS];
  uint32_t zero[3];
  uint64_t scan_ns; /* for reading the numbers */
  uint64_t total_ns;
};

struct lw_fd {
  uint32_t fd;
  uint16_t kind;
  uint16_t role;
  char target[120]; /* NUL-terminated, cut to fit */
};

enum lw_top_by {
  LW_TOP_QUEUE_BYTES = 0,
  LW_TOP_MISSES = 1,
};

#define LW_TOP_ROWS_MAX 4096u

/* How one connection is. */
struct lw_top_row {
  uint32_t conn;
  uint32_t generation;
  uint32_t key;         /* what it was looked for by */
  uint32_t queue_bytes; /* waiting to be sent */
  uint32_t stalled_ms;  /* since some of them left */
  uint32_t inflight;    /* messages of QoS 1 and 2 that it has not acknowledged */
  uint32_t silent_ms;   /* since it was heard */
  /* heartbeats that it has missed, in thousandths; 0 = it need not send any */
  uint32_t misses_milli;
};

struct lw_reactor;

/* Sizes of the structs above in order of appearance, for the host to check: lw_layout(out, n)
 * writes at most n numbers, returns how many there are. First: LW_ABI_VERSION. */
int lw_layout(uint32_t *out, int n);

/* "epoll", "uring" or "kqueue". */
const char *lw_backend(void);

/* Whether the backend can work here: 0, or -errno and in `why` (size bytes) the reason in words. */
int lw_probe(char *why, int size);

/* How many connections this process may have descriptors for. RLIMIT_NOFILE bounds the process;
 * with io_uring it bounds one table of descriptors, and a thread has up to 128 of them. */
uint32_t lw_connections_possible(uint32_t thread_count);

/* Makes the reactor and starts its threads. Returns 0 or -errno. */
int lw_open(const struct lw_options *options, struct lw_reactor **out);

/* How many connections it holds: what lw_open was told, or found. */
uint32_t lw_connections_max(const struct lw_reactor *reactor);

/* Stops the threads, closes every connection at once, frees everything. lw_wait must have returned.
 */
void lw_close(struct lw_reactor *reactor);

/* Listens on every thread (SO_REUSEPORT). Returns the port or -errno. The n-th call makes listener
 * n. */
int lw_listen(struct lw_reactor *reactor, const struct lw_listen_options *options);

/* Stops accepting on every listener; connections stay. */
void lw_unlisten(struct lw_reactor *reactor);

/* Memory of thread's ring: address and bytes. Lives as long as the reactor. */
void *lw_ring(struct lw_reactor *reactor, uint32_t thread, uint32_t *bytes);

/* Memory of the batch table: thread_count records. Lives as long as the reactor. */
struct lw_batch *lw_batches(struct lw_reactor *reactor);

/* Fills the batch table; returns how many records of it are in use. Never waits. */
int lw_poll(struct lw_reactor *reactor);

/* Ends the turn: every stretch of the last lw_poll is given back. The host may have set the `end`
 * of one lower, to the beginning of a record: from there on lw_poll finds it again. */
void lw_release(struct lw_reactor *reactor);

/* Waits until lw_poll would find something, lw_wake is called or timeout_ms is over (-1 = no end).
 * Returns 1 when there is something, else 0. The one function that blocks: call it from a thread of
 * its own
 * (`nonblocking` in Deno), one call at a time; everything else may be called meanwhile. */
int lw_wait(struct lw_reactor *reactor, int timeout_ms);

/* Ends lw_wait. From any thread. */
void lw_wake(struct lw_reactor *reactor);

/* Carries out the records in [commands, commands + bytes) and wakes the threads concerned. Returns
 * the number of bytes that wait in the fullest command queue (the host refuses publishes past
 * command_queue_bytes_max; records given here are never refused), or -EINVAL for a record that is
 * not well-formed, which is a bug of the host. */
int64_t lw_submit(struct lw_reactor *reactor, const void *commands, size_t bytes);

/* The clock of published_us: monotonic microseconds, modulo 2^32; never 0. From any thread. */
uint32_t lw_now_us(void);

/* Sums up the counters. */
void lw_stats(struct lw_reactor *reactor, struct lw_stats *out);

/* Address of a connection whose slot the host owns. Returns 0, or -ESTALE for a stale handle. */
int lw_peer(struct lw_reactor *reactor, uint32_t conn, uint32_t generation, struct lw_peer *out);

/* Who may announce another's address by a PROXY header; before the first lw_listen. Returns 0 or
 * -errno. */
int lw_trust_proxies(struct lw_reactor *reactor, const struct lw_network *networks, uint32_t count);

/* Sets TLS context 0 to 3: for handshakes from now on; connections that are there keep what they
 * have. `bytes` counts the options and what follows them. Returns 0 or -errno, with a sentence in
 * `problem`; -ENOSYS: the library was built without OpenSSL. */
int lw_tls_configure(struct lw_reactor *reactor, uint32_t context,
                     const struct lw_tls_options *options, size_t bytes, char *problem,
                     size_t problem_size);

/* Whether this kernel, with this backend, encrypts for sockets: 0, or -errno and in `why` (size
 * bytes) the reason in words. It may still refuse single cipher suites. */
int lw_kernel_tls(char *why, int size);

/* The verified certificate of a connection whose slot the host owns, as lines `name=value`: subject
 * (RFC 2253), fingerprint (SHA-256, hex), common_name, and dns, uri, email for each such name.
 * Returns the bytes written, 0 when there is no certificate, or -ESTALE for a stale handle. */
int lw_peer_certificate(struct lw_reactor *reactor, uint32_t conn, uint32_t generation, char *out,
                        size_t size);

/* Compares the descriptors that the kernel says are open with those that the reactor holds, and
 * lists what it does not hold, list_max at most, of which strangers take up to half. Takes a
 * microsecond for each descriptor: call it from a thread of its own, while the host goes on. A
 * connection that comes or goes meanwhile may look leaked: ask again. Returns 0 or -errno; -EBUSY:
 * a scan is under way; -ENOSYS: not here. */
int lw_fds(struct lw_reactor *reactor, struct lw_fds *out, struct lw_fd *list, uint32_t list_max);

/* The connections for which `by` (enum lw_top_by) is largest and not 0, the worst first, at most
 * rows_max (LW_TOP_ROWS_MAX at most). Waits until each I/O thread has looked through its own, some
 * thousands a turn: call it from a thread of its own, one call at a time. Returns how many, or
 * -errno. */
int lw_top(struct lw_reactor *reactor, uint32_t by, struct lw_top_row *rows, uint32_t rows_max);

#endif
