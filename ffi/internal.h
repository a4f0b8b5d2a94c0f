// clang-format off
/* What the parts of the reactor share: connection, I/O thread, reactor, the seam to the backend.
 *
 * The seam is at operations that complete. A backend is one file with these static functions:
 *
 *   backend_open(t), backend_shut(t)   per thread; open returns 0 or -errno
 *   backend_wait(t, timeout_ms)        runs what has completed by the calls below; -1 = no timeout
 *   backend_wake(t)                    from the host: ends backend_wait
 *   backend_listen(t, index)           accepts on t->listen_fds[index] from now on; 0 or -errno
 *   backend_unlisten(t, index)         stops; the descriptor is closed by the backend
 *   backend_adopt(t, c)                c was just accepted: data may come; 0 or -errno
 *   backend_read(t, c)                 c wants data again: after a stop, or its turn was over
 *   backend_read_stop(t, c)            c wants no data; received() keeps what still comes
 *   backend_flush(t, c)                sends from c->out until empty or the transport is full
 *   backend_end_write(t, c)            shutdown(SHUT_WR), when all is sent
 *   backend_close(t, c)                closes the descriptor, deferred, then calls closed()
 *   backend_address(t, c)              finds c->peer_* and calls addressed(), at once or later
 *   backend_fds(t, fds)                from the host: what it has opened for itself
 *
 * and calls back, on its thread:
 *
 *   accepted(t, index, fd)             a new connection; NULL = refused, the backend closes fd
 *   addressed(t, c)                    c->peer_* is known, or cannot be: peer_family 0
 *   received(t, c, bytes, size)        data; size 0 = end of stream; bytes die when it returns
 *   failed(t, c)                       the transport failed
 *   sent(t, c, size)                   the first `size` bytes of c->out have left
 *   closed(t, c)                       the descriptor is gone: the slot may be used again
 *   sendable(t, c)                     entries at the front of c->out that may be sent now: with
 *                                      TLS this call encrypts them, unless the kernel does;
 *                                      0 = none, or c was closed
 *
 * c->fd belongs to the backend: a descriptor, or an index of a registered table. Data may come
 * unasked (io_uring): received() copies aside what it cannot pass on. Memory in flight to the
 * kernel is counted in c->out->sending and not touched until sent().
 */
// clang-format on
#ifndef LONGWIRE_INTERNAL_H
#define LONGWIRE_INTERNAL_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>

#include "admission.h"
#include "alias.h"
#include "audience.h"
#include "block.h"
#include "command_queue.h"
#include "inflight.h"
#include "latency.h"
#include "out_queue.h"
#include "proxy.h"
#include "reactor.h"
#include "ring.h"
#include "wheel.h"

#define SLOTS_PER_CHUNK 1024u
#define SLOT_CHUNKS_MAX (1u << 14) /* 16,777,216 slots: 24 bits */
#define LISTENERS_MAX 8u
/* Descriptors of one backend that are no connections' and no listeners'. */
#define BACKEND_FDS_MAX 160u
#define READ_BYTES (64u << 10)
/* What one connection may bring in one turn before the others have theirs. */
#define READ_TURN_BYTES (256u << 10)
#define FRAME_KEEP_BYTES_MIN 64u
/* Connections over the limit that are being told so; past this they are closed without a word. */
#define BUSY_MAX 256u

enum connection_state {
  FREE = 0,    /* the slot is not in use */
  HANDSHAKING, /* frames go to the host; ACTIVATE or the handshake timeout comes next */
  ACTIVE,
  DRAINING, /* nothing more comes or goes but what is queued; then lingering */
  CLOSED,   /* the descriptor is being closed, or is closed and the host still has the slot */
};

enum connection_flags {
  EXPOSED = 1 << 0,  /* the host knows it: CLOSED will be sent, RELEASE awaited */
  RELEASED = 1 << 1, /* the host has given the slot back */
  DESCRIPTOR_GONE = 1 << 2,
  READ_STOPPED = 1 << 3, /* by the host or by a violation */
  STALLED = 1 << 4,      /* the ring was full: frames wait in `kept` */
  END_PENDING = 1 << 5,  /* the stream ended, behind what is still to be passed on or sent */
  WRITE_ENDED = 1 << 6,  /* SHUT_WR is done or asked for */
  BEHIND = 1 << 7,       /* stored messages are not delivered live */
  ROOM_WANTED = 1 << 8,  /* say so when there is room for more */
  REPORT_ACKS = 1 << 9,
  IS_DIRTY = 1 << 10,          /* in t->dirty: flush at the end of the turn */
  IS_EVENTFUL = 1 << 11,       /* in t->eventful */
  IS_READY = 1 << 12,          /* in t->ready: has more to read */
  IS_ARMED = 1 << 13,          /* in the wheel */
  IS_BUSY_REFUSAL = 1 << 14,   /* over the limit, being told */
  IS_COUNTED = 1 << 15,        /* in the number of connections */
  TLS_QUEUED = 1 << 16,        /* in a list of its thread's handshakes: what comes waits */
  AWAITS_PROXY = 1 << 17,      /* a PROXY header comes first */
  MUST_NOT_PROXY = 1 << 18,    /* it must not, and what came is too short to tell */
  IS_SOURCE_COUNTED = 1 << 19, /* in the connections of its source */
  AWAITS_ADDRESS = 1 << 20,    /* addressed() has not been called */
  HOLD_RELEASES = 1 << 21,     /* LW_ACTIVATE_HOLD_RELEASES */
  BROKEN = 1 << 22,            /* the peer violated the protocol: nothing more is read from it */
  AWAITS_VERSION = 1 << 23,    /* refused, and told so in the words of its MQTT version */
  USES_ALIASES = 1 << 24,      /* it has a table in t->aliases */
  IS_DROPPING = 1 << 25,       /* the host has been told, LW_EVENT_DROPPING */
  HALF_CLOSED = 1 << 26,       /* the stream ended, and the host is told: LW_EVENT_ENDED */
  ID_TAKEN = 1 << 27, /* the message at behind_seq waits for the end of another with its id */
};

/* Events that wait to be written to the ring; bits of connection.pending. */
enum pending_events {
  PENDING_VIOLATION = 1 << 0,
  PENDING_BEHIND = 1 << 1,
  PENDING_ROOM = 1 << 2,
  PENDING_ACKED = 1 << 3,
  PENDING_CLOSED = 1 << 4,
  PENDING_SETTLED = 1 << 5,
  PENDING_DROPPING = 1 << 6,
  PENDING_ENDED = 1 << 7,
};

/* Bytes that could not be passed on yet: part of a frame, or frames that the ring had no room for.
 */
struct kept {
  uint32_t size;
  uint32_t capacity;
  uint8_t bytes[];
};

/* A million of these are held: fields are ordered by size, lists of connections live in the thread.
 */
struct connection {
  struct tls *tls; /* NULL = none */
  struct kept *kept;
  struct out_queue *out;
  struct inflight *inflight;
  uint64_t behind_seq;  /* first stored message not delivered; 0 = none yet */
  uint64_t reached_seq; /* the last one that was sent here; once closed: lw_closed.seen_seq */
  struct timer_node timer;
  int32_t fd;
  uint32_t generation;
  uint32_t slot;
  uint32_t stamp;      /* of the last publish */
  uint32_t seen_ms;    /* when a frame came, or lingering began */
  uint32_t timeout_ms; /* 0 = never */
  uint32_t frame_bytes_max;
  uint32_t flags;
  uint16_t inflight_max;
  uint16_t packet_id; /* the last one given */
  uint16_t peer_port;
  uint8_t state; /* enum connection_state */
  uint8_t protocol;
  uint8_t listener;
  uint8_t pending;
  uint8_t code; /* enum lw_code: of the violation, then of the close */
  uint8_t peer_family;
  uint8_t peer_address[16];
  uint8_t interest;        /* the backend's: what the kernel has been told */
  uint8_t interest_wanted; /* the backend's: what it shall be told, when on the change list */
  uint8_t backend_flags;
  uint8_t behind_count;   /* LW_EVENT_BEHIND so far, 1 to 255 and round again; 0 = none */
  uint32_t deliver_count; /* see LW_EVENT_ROOM */
};
_Static_assert(sizeof(struct connection) <= 128, "a connection takes two cache lines");

struct slot_list {
  uint32_t *slots;
  uint32_t count;
  uint32_t capacity;
};

/* An LW_EVENT_TRACED that waits for the end of the turn. */
struct traced {
  uint32_t conn;
  uint32_t generation;
  uint32_t what; /* enum lw_traced_what */
  struct lw_traced body;
};

struct listener {
  uint16_t port;
  uint8_t protocol;
  uint8_t tls;   /* 0 = none; else 1 + context */
  uint8_t flags; /* enum lw_listen_flags */
  uint8_t busy_size;
  uint8_t busy_reason_at; /* this and what follows: as in lw_listen_options */
  uint8_t busy5_size;
  uint8_t busy5_reason_at;
  uint8_t busy[64];
  uint8_t busy5[16];
  uint8_t reasons[LW_CODE_COUNT];
};

struct lw_reactor;
struct backend;
struct tls;
struct tls_thread;
struct tls_state;

/* The host, waiting for all threads. */
struct top_wait {
  pthread_mutex_t mutex;
  pthread_cond_t done;
  uint32_t left; /* threads that are not through */
};

/* What lw_top has asked of one thread (top.h). */
struct top_search {
  uint32_t asked; /* atomic: the fields below are the thread's until it is 0 again */
  uint32_t by;    /* enum lw_top_by */
  uint32_t slot;  /* the next to be looked at */
  uint32_t count;
  uint32_t rows_max;
  struct lw_top_row *rows; /* a heap: the smallest key comes first */
  struct top_wait *wait;
};

struct io_thread {
  struct lw_reactor *reactor;
  struct backend *backend;
  uint32_t index;
  pthread_t thread;
  struct ring ring;
  struct command_queue commands;
  uint32_t sleeping;        /* atomic: in backend_wait, a command must wake it */
  uint32_t ring_wanted;     /* atomic: the host's lw_release must wake it */
  uint32_t listeners_asked; /* atomic: listeners that the host has set up */
  uint32_t listeners_seen;
  uint32_t unlisten_asked; /* atomic: end that many listeners; 0 = nothing is asked */
  int listen_fds[LISTENERS_MAX];
  struct connection *chunks[SLOT_CHUNKS_MAX];
  uint32_t slot_count; /* ever used */
  struct slot_list free_slots;
  struct alias_table **aliases; /* by slot; NULL = none has asked for any */
  uint32_t alias_slots;         /* entries of it */
  struct slot_list dirty;
  struct slot_list eventful;
  struct slot_list ready;
  struct slot_list ready_now; /* the ready list of the turn that is being read */
  struct slot_list stalled;
  struct wheel wheel;
  struct audience_table audiences;
  uint64_t now_ms; /* monotonic, as of this turn */
  uint32_t now_s;  /* Unix time */
  uint32_t busy_count;
  uint64_t seen_seq;  /* every stored PUBLISH up to it has been carried out in all its forms */
  uint64_t head_told; /* ring head when the host was last woken */
  struct out_queue *spare_queues;
  uint32_t spare_queue_count;
  struct tls_thread *tls; /* NULL = no TLS connection has been here */
  struct traced traced[TRACED_MAX];
  uint32_t traced_count;
  struct top_search top;
  struct lw_stats stats; /* this thread's; others read it */
};

/* Where the host keeps on which threads an audience has members. */
struct host_audience {
  uint32_t members;
  uint32_t thread;  /* the one, or WHEEL_NONE = see counts */
  uint32_t *counts; /* by thread; NULL while there is one */
};

/* Ends a sleep in poll(2): an eventfd, or a pipe where there is none. */
struct wakeup {
  int read_fd;
  int write_fd;
};

struct lw_reactor {
  struct lw_options options;
  uint32_t thread_count;
  uint32_t connection_count; /* atomic: over all threads */
  uint32_t stopping;         /* atomic */
  uint32_t host_waits;       /* atomic */
  uint32_t wake_asked;       /* atomic */
  struct wakeup host_wakeup;
  uint64_t start_ms;
  struct arena arena; /* the host's */
  struct host_audience *audiences;
  uint32_t audience_capacity;
  struct lw_batch *batches;
  uint32_t batch_count;
  struct listener listeners[LISTENERS_MAX];
  uint32_t listener_count;
  struct admission admission;
  struct proxy_trust proxies;
  struct tls_state *tls; /* NULL = lw_tls_configure has not been called */
  struct io_thread *threads[LW_THREADS_MAX];
};

/* Counters are written by one thread and read by the host. */
#define COUNT(t, field, n) \
  __atomic_store_n(&(t)->stats.field, (t)->stats.field + (uint64_t)(n), __ATOMIC_RELAXED)

/* The backend's side of the seam. */
static int backend_open(struct io_thread *t);
static void backend_shut(struct io_thread *t);
static void backend_wait(struct io_thread *t, int timeout_ms);
static void backend_wake(struct io_thread *t);
static int backend_listen(struct io_thread *t, uint32_t index);
static void backend_unlisten(struct io_thread *t, uint32_t index);
static int backend_adopt(struct io_thread *t, struct connection *c);
static void backend_read(struct io_thread *t, struct connection *c);
static void backend_read_stop(struct io_thread *t, struct connection *c);
static void backend_flush(struct io_thread *t, struct connection *c);
static void backend_end_write(struct io_thread *t, struct connection *c);
static void backend_close(struct io_thread *t, struct connection *c);
static void backend_address(struct io_thread *t, struct connection *c);
/* From the host: the backend's own descriptors, at most BACKEND_FDS_MAX; returns how many. */
static uint32_t backend_fds(const struct io_thread *t, int *fds);
static const char *backend_name(void);

/* The reactor's side. */
static struct connection *accepted(struct io_thread *t, uint32_t index, int fd);
static void addressed(struct io_thread *t, struct connection *c);
static void received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                     uint32_t size);
static void failed(struct io_thread *t, struct connection *c);
static void sent(struct io_thread *t, struct connection *c, uint32_t size);
static void closed(struct io_thread *t, struct connection *c);
static uint32_t sendable(struct io_thread *t, struct connection *c);
/* Every backend calls it when its wait is over, before anything else. */
static void read_clock(struct io_thread *t);

/* What the rest asks of TLS: tls.c, or tls_none.h where there is no OpenSSL. */
static int tls_adopt(struct io_thread *t, struct connection *c, uint32_t context);
static void tls_received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                         uint32_t size);
/* sendable() of a connection with TLS. */
static uint32_t tls_seal(struct io_thread *t, struct connection *c);
/* Whether c->fd takes plaintext; then, before each sendmsg(2): `control` has room for a byte. */
static inline int tls_kernel_sends(const struct connection *c);
static inline void tls_message(struct connection *c, struct msghdr *message, void *control);
static int tls_end_write(struct io_thread *t, struct connection *c);
static void tls_stop(struct connection *c);
static void tls_free(struct connection *c);
/* Whether tls of lw_listen_options names a context; 0 = no TLS, always does. */
static int tls_is_configured(const struct lw_reactor *r, uint32_t tls);
static int tls_is_waiting(const struct connection *c);
static void tls_turn(struct io_thread *t);
static int tls_has_work(const struct io_thread *t);
static void tls_thread_free(struct io_thread *t);
static void tls_state_free(struct lw_reactor *r);

static inline int slot_list_push(struct slot_list *l, uint32_t slot) {
  if (l->count == l->capacity) {
    uint32_t capacity = l->capacity == 0 ? 64 : l->capacity * 2;
    uint32_t *slots = realloc(l->slots, capacity * sizeof *slots);
    if (slots == NULL) return -1;
    l->slots = slots;
    l->capacity = capacity;
  }
  l->slots[l->count++] = slot;
  return 0;
}

/* Takes the first `count` out. */
static inline void slot_list_drop(struct slot_list *l, uint32_t count) {
  l->count -= count;
  if (l->count > 0) memmove(l->slots, l->slots + count, l->count * sizeof l->slots[0]);
}

static inline struct connection *connection_at(const struct io_thread *t, uint32_t slot) {
  return &t->chunks[slot / SLOTS_PER_CHUNK][slot % SLOTS_PER_CHUNK];
}

#endif
