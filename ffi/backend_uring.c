/* The io_uring backend: connections are direct descriptors in the tables of a thread's rings
 * (uring_tables.h), so that RLIMIT_NOFILE bounds a table and not the process. Accepting and
 * receiving are multishot, everything else is gathered and submitted by the one io_uring_enter(2)
 * that a ring has in a turn.
 * Invariant: `interest` of a connection counts its operations in the kernel; closed() is called
 * when it is zero, so a slot is never used again while a completion may name it. A send never stays
 * in the kernel: it is MSG_DONTWAIT, and where it meets a full socket a poll waits in its place. */
#include "uring_probe.h"
#include "uring_tables.h"

/* Completions of one wait: then commands and timers have their turn. */
#define COMPLETIONS_PER_WAIT 2048u
/* And bytes: a flooding connection may bring many small frames, and each of them takes its time. */
#define RECEIVED_PER_WAIT READ_TURN_BYTES
/* What is kept of a connection from which nothing is taken before its receive is cancelled. A
 * device may well send its first packets without waiting for the answer to its hello. */
#define UNASKED_BYTES_MAX (16u << 10)
#define ACCEPTS_AT_ONCE 64u
#define REFUSALS_PER_TURN 256
#define QUERIES_PER_CHUNK 256u
#define QUERY_CHUNKS_MAX 64u
#define QUERY_NONE 0xffffffffu

/* What a completion belongs to: bits 24 to 31 of user_data. Below them is the slot, or what is
 * said here; above them the slot's generation. */
enum operation {
  OPERATION_NONE = 0, /* nobody waits for it */
  OPERATION_WAKEUP,
  OPERATION_TABLES,     /* another ring has something */
  OPERATION_ACCEPT,     /* number of the listener */
  OPERATION_ACCEPT_ONE, /* the same */
  OPERATION_REFUSE,     /* number of the listener: a poll, while the table is full */
  OPERATION_REFUSED,    /* close of a descriptor that became no connection */
  OPERATION_ADDRESS,    /* number of the query */
  OPERATION_RECEIVE,
  OPERATION_SEND,
  OPERATION_WRITABLE, /* a poll, while the socket is full */
  OPERATION_SHUTDOWN,
  OPERATION_CLOSE,
  OPERATION_CANCEL_RECEIVE, /* comes only when it did not find its target */
  OPERATION_CANCEL_WRITABLE,
};

/* Bits of connection.backend_flags. */
enum backend_flags {
  RECEIVING = 1 << 0,      /* the multishot receive is submitted */
  RECEIVE_ENDING = 1 << 1, /* and is being cancelled */
  RECEIVE_WANTED = 1 << 2, /* it shall go on when it ends */
  POLLING = 1 << 3,        /* waits until the socket takes more */
  POLL_ENDING = 1 << 4,
  SHUTTING = 1 << 5, /* shutdown is under way */
  CLOSING = 1 << 6,
  HAD_BUFFERS = 1 << 7, /* the receive has brought something since it was submitted */
};

/* The address of a peer, being asked for. */
struct query {
  uint32_t slot;
  uint32_t next; /* in the list of free ones */
  struct sockaddr_in6 address;
};

struct backend {
  struct tables tables;
  struct wakeup wakeup;
  uint8_t is_enabled;
  uint8_t has_no_addresses;           /* the kernel cannot tell the peer of a direct descriptor */
  uint8_t is_refusing[LISTENERS_MAX]; /* OPERATION_REFUSE is under way */
  uint8_t is_ipv6[LISTENERS_MAX];
  uint32_t multishot[LISTENERS_MAX]; /* the table whose accept goes on and on, or TABLE_NONE */
  uint32_t accepts[LISTENERS_MAX];   /* that take one connection each */
  uint32_t backlog;                  /* connections that may wait at one listener */
  uint32_t received_bytes;           /* of this wait */
  struct query *queries[QUERY_CHUNKS_MAX];
  uint32_t query_count;
  uint32_t query_free; /* the first one of the list, or QUERY_NONE */
};

#define BACKEND_HAS_TABLES

static const char *backend_name(void) { return "uring"; }

int lw_probe(char *why, int size) { return uring_probe(why, size); }

static uint64_t data_of(enum operation operation, uint32_t number) {
  return (uint64_t)operation << 24 | number;
}

static uint64_t data_for(enum operation operation, const struct connection *c) {
  return (uint64_t)c->generation << 32 | (uint64_t)operation << 24 | c->slot;
}

/* The ring that the thread waits on. */
static struct uring *first_ring(struct io_thread *t) { return &t->backend->tables.at[0]->ring; }

static struct uring *ring_of(struct io_thread *t, int fd) {
  return &table_of(&t->backend->tables, fd)->ring;
}

/* An entry for an operation on a descriptor of a table. */
static struct io_uring_sqe *sqe_on(struct io_thread *t, int fd, unsigned opcode,
                                   uint64_t user_data) {
  struct io_uring_sqe *sqe = uring_sqe(ring_of(t, fd), opcode, (int)table_place(fd), user_data);
  sqe->flags = IOSQE_FIXED_FILE;
  return sqe;
}

/* An entry for an operation on the connection's descriptor. */
static struct io_uring_sqe *sqe_for(struct io_thread *t, struct connection *c, unsigned opcode,
                                    enum operation operation) {
  c->interest++;
  return sqe_on(t, c->fd, opcode, data_for(operation, c));
}

/* Cancels what has that user_data. Only when it does not find it does it make a completion. */
static struct io_uring_sqe *cancel(struct uring *ring, uint64_t target, uint64_t user_data) {
  struct io_uring_sqe *sqe = uring_sqe(ring, IORING_OP_ASYNC_CANCEL, -1, user_data);
  sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
  sqe->addr = target;
  return sqe;
}

static void cancel_for(struct io_thread *t, struct connection *c, enum operation target,
                       enum operation missed) {
  cancel(ring_of(t, c->fd), data_for(target, c), data_for(missed, c));
}

/* ---------------------------------------------------------------- life */

/* What the tables of all threads hold. Connections are spread over the threads by chance
 * (SO_REUSEPORT), and a thread may have more than its share. */
static uint32_t table_connections(uint64_t descriptors_max, uint32_t thread_count) {
  uint32_t size = table_size_of(descriptors_max);
  uint64_t sum = (uint64_t)(size - table_spare(size)) * TABLES_MAX * thread_count;
  sum = sum > BUSY_MAX ? sum - BUSY_MAX : 1;
  return sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
}

/* What listen(2) makes of the backlog that it is asked for. */
static uint32_t read_backlog(void) {
  unsigned value = 4096;
  FILE *file = fopen("/proc/sys/net/core/somaxconn", "re");
  if (file == NULL) return value;
  if (fscanf(file, "%u", &value) != 1 || value > 65535) value = 65535;
  fclose(file);
  return value;
}

static int open_tables(struct io_thread *t) {
  struct tables *all = &t->backend->tables;
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return -errno;
  uint64_t wanted = (uint64_t)t->reactor->options.connections_max + BUSY_MAX + 64;
  wanted += wanted / 8; /* spare places */
  all->size = table_size_of(files.rlim_cur < wanted ? files.rlim_cur : wanted);
  uint64_t limit = wanted / (all->size - table_spare(all->size)) + 1;
  all->limit = limit < TABLES_MAX ? (uint32_t)limit : TABLES_MAX;
  /* Together they are what one flooding connection brings before the others have theirs. */
  return table_open(all, READ_TURN_BYTES);
}

static int backend_open(struct io_thread *t) {
  struct backend *b = calloc(1, sizeof *b);
  if (b == NULL) return -ENOMEM;
  t->backend = b;
  b->tables.signal_fd = -1;
  b->query_free = QUERY_NONE;
  b->backlog = read_backlog();
  for (uint32_t i = 0; i < LISTENERS_MAX; i++) b->multishot[i] = TABLE_NONE;
  int error = wakeup_open(&b->wakeup);
  if (error == 0) error = open_tables(t);
  if (error != 0) backend_shut(t);
  return error;
}

/* The thread is over, and with it all of its operations: the kernel cancels them at its exit. What
 * they refer to it releases a little later; until then a listener would hold on to its port. */
static void backend_shut(struct io_thread *t) {
  struct backend *b = t->backend;
  for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
    if (t->listen_fds[i] < 0) continue;
    shutdown(t->listen_fds[i], SHUT_RDWR);
    close(t->listen_fds[i]);
  }
  tables_free(&b->tables);
  wakeup_close(&b->wakeup);
  for (uint32_t i = 0; i < QUERY_CHUNKS_MAX; i++) free(b->queries[i]);
  free(b);
}

static uint32_t backend_fds(const struct io_thread *t, int *fds) {
  const struct backend *b = t->backend;
  fds[0] = b->wakeup.read_fd;
  fds[1] = b->tables.signal_fd;
  uint32_t count = 2;
  uint32_t tables = __atomic_load_n(&b->tables.count, __ATOMIC_ACQUIRE);
  for (uint32_t i = 0; i < tables; i++) fds[count++] = b->tables.at[i]->ring.fd;
  return count;
}

static void backend_wake(struct io_thread *t) { wakeup_ring(&t->backend->wakeup); }

/* Multishot polls report edges: the counter of the eventfd need never be read. */
static void await_wakeup(struct io_thread *t) {
  struct io_uring_sqe *sqe = uring_sqe(first_ring(t), IORING_OP_POLL_ADD,
                                       t->backend->wakeup.read_fd, data_of(OPERATION_WAKEUP, 0));
  sqe->len = IORING_POLL_ADD_MULTI;
  sqe->poll32_events = POLLIN;
}

/* That another ring has something is all that it says: every turn looks at every ring. */
static void await_tables(struct io_thread *t) {
  struct tables *all = &t->backend->tables;
  struct io_uring_sqe *sqe =
      uring_sqe(first_ring(t), IORING_OP_READ, all->signal_fd, data_of(OPERATION_TABLES, 0));
  sqe->addr = (uint64_t)(uintptr_t)&all->signal_value;
  sqe->len = sizeof all->signal_value;
}

/* In the I/O thread: from here on the ring is its own. */
static void enable(struct io_thread *t) {
  int error = uring_enable(first_ring(t));
  assert(error == 0);
  (void)error;
  /* Only shutdowns need a worker of the kernel: one thread beside each of ours is plenty. */
  uint32_t workers[2] = {1, 1};
  uring_register(first_ring(t)->fd, IORING_REGISTER_IOWQ_MAX_WORKERS, workers, 2);
  t->backend->is_enabled = 1;
  await_wakeup(t);
}

/* ---------------------------------------------------------------- accepting */

/* A multishot accept takes all that wait, at once, and when its table is full it closes a
 * connection without a word: it is for tables that have room for all. */
static int takes_backlog(struct io_thread *t, uint32_t table) {
  const struct backend *b = t->backend;
  return table_takes(&b->tables, table, (uint64_t)b->backlog * t->listeners_seen);
}

static struct io_uring_sqe *accept_on(struct io_thread *t, uint32_t index, uint32_t table,
                                      enum operation operation) {
  struct io_uring_sqe *sqe = uring_sqe(&t->backend->tables.at[table]->ring, IORING_OP_ACCEPT,
                                       t->listen_fds[index], data_of(operation, index));
  sqe->file_index = IORING_FILE_INDEX_ALLOC;
  return sqe;
}

static void accept_one(struct io_thread *t, uint32_t index, uint32_t table) {
  struct backend *b = t->backend;
  accept_on(t, index, table, OPERATION_ACCEPT_ONE);
  b->tables.at[table]->promised++;
  b->accepts[index]++;
}

/* The tables are full: connections are taken in the old way, only to be told so. */
static void refuse_on(struct io_thread *t, uint32_t index) {
  if (t->backend->is_refusing[index]) return;
  struct io_uring_sqe *sqe = uring_sqe(first_ring(t), IORING_OP_POLL_ADD, t->listen_fds[index],
                                       data_of(OPERATION_REFUSE, index));
  sqe->poll32_events = POLLIN;
  t->backend->is_refusing[index] = 1;
}

/* A table with room, a new one if need be; TABLE_NONE when there is none. */
static uint32_t table_to_fill(struct io_thread *t) {
  struct tables *all = &t->backend->tables;
  uint32_t number = tables_with_room(all);
  if (number != TABLE_NONE || tables_grow(all, READ_TURN_BYTES) != 0) return number;
  if (all->count == 2) await_tables(t);
  return all->count - 1;
}

/* Takes connections, or says no to them. */
static void accept_next(struct io_thread *t, uint32_t index) {
  struct backend *b = t->backend;
  uint32_t table = table_to_fill(t);
  if (table == TABLE_NONE) {
    if (b->accepts[index] == 0) refuse_on(t, index);
  } else if (takes_backlog(t, table)) {
    accept_on(t, index, table, OPERATION_ACCEPT)->ioprio = IORING_ACCEPT_MULTISHOT;
    b->multishot[index] = table;
  } else {
    while (b->accepts[index] < ACCEPTS_AT_ONCE && table_takes(&b->tables, table, 1)) {
      accept_one(t, index, table);
    }
  }
}

static int backend_listen(struct io_thread *t, uint32_t index) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (getsockname(t->listen_fds[index], (struct sockaddr *)&address, &size) != 0) return -errno;
  t->backend->is_ipv6[index] = address.ss_family == AF_INET6;
  accept_next(t, index);
  return 0;
}

static void backend_unlisten(struct io_thread *t, uint32_t index) {
  struct tables *all = &t->backend->tables;
  for (uint32_t i = 0; i < all->count; i++) {
    struct uring *ring = &all->at[i]->ring;
    cancel(ring, data_of(OPERATION_ACCEPT, index), OPERATION_NONE);
    cancel(ring, data_of(OPERATION_ACCEPT_ONE, index), OPERATION_NONE)->cancel_flags =
        IORING_ASYNC_CANCEL_ALL;
    if (i == 0) cancel(ring, data_of(OPERATION_REFUSE, index), OPERATION_NONE);
    /* What is not submitted yet names the descriptor by its number: it must not be another's then.
     */
    table_enter(all->at[i], 0, 0);
  }
  close(t->listen_fds[index]);
}

static void close_direct(struct io_thread *t, int fd, uint64_t user_data) {
  struct io_uring_sqe *sqe = uring_sqe(ring_of(t, fd), IORING_OP_CLOSE, 0, user_data);
  sqe->file_index = table_place(fd) + 1;
}

/* The reactor has no slot for it: its busy bytes, and away with it. */
static void refuse_direct(struct io_thread *t, uint32_t index, int fd) {
  const struct listener *l = &t->reactor->listeners[index];
  struct io_uring_sqe *sqe = sqe_on(t, fd, IORING_OP_SEND, OPERATION_NONE);
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  sqe->addr = (uint64_t)(uintptr_t)l->busy;
  sqe->len = l->busy_size;
  sqe->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
  close_direct(t, fd, data_of(OPERATION_REFUSED, 0));
}

static void take_accepted(struct io_thread *t, uint32_t table, uint32_t index, int32_t result) {
  if (result < 0) return;
  int fd = table_descriptor(table, (uint32_t)result);
  t->backend->tables.at[table]->used++;
  if (accepted(t, index, fd) == NULL) refuse_direct(t, index, fd);
}

static void on_accept(struct io_thread *t, uint32_t table, uint32_t index,
                      const struct io_uring_cqe *cqe) {
  struct backend *b = t->backend;
  take_accepted(t, table, index, cqe->res);
  if (t->listen_fds[index] < 0 || b->multishot[index] != table) return;
  int is_over = !(cqe->flags & IORING_CQE_F_MORE);
  if (is_over && cqe->res == -ECANCELED) return; /* an earlier one of this table */
  if (!is_over && takes_backlog(t, table)) return;
  if (!is_over) {
    cancel(&b->tables.at[table]->ring, data_of(OPERATION_ACCEPT, index), OPERATION_NONE);
  }
  b->multishot[index] = TABLE_NONE;
  accept_next(t, index);
}

static void on_accept_one(struct io_thread *t, uint32_t table, uint32_t index, int32_t result) {
  struct backend *b = t->backend;
  b->tables.at[table]->promised--;
  b->accepts[index]--;
  take_accepted(t, table, index, result);
  if (t->listen_fds[index] < 0 || b->multishot[index] != TABLE_NONE) return;
  if (b->accepts[index] <= ACCEPTS_AT_ONCE / 2) accept_next(t, index);
}

static void on_refuse(struct io_thread *t, uint32_t index, const struct io_uring_cqe *cqe) {
  struct backend *b = t->backend;
  const struct listener *l = &t->reactor->listeners[index];
  uint8_t discarded[256];
  int count = 0;
  b->is_refusing[index] = 0;
  if (t->listen_fds[index] < 0) return;
  for (; cqe->res > 0 && count < REFUSALS_PER_TURN; count++) {
    int fd = accept4(t->listen_fds[index], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) break;
    send(fd, l->busy, l->busy_size, MSG_NOSIGNAL | MSG_DONTWAIT);
    /* Bytes that nobody has read would make the close a reset, and that destroys the answer. */
    while (recv(fd, discarded, sizeof discarded, MSG_DONTWAIT) == (ssize_t)sizeof discarded) {
    }
    close(fd);
    COUNT(t, closed[LW_CODE_CONNECTION_LIMIT], 1);
  }
  /* Without even one descriptor to say so: the kernel accepts and drops, one after the other. */
  int is_out_of_descriptors = cqe->res > 0 && count == 0 && (errno == EMFILE || errno == ENFILE);
  if (is_out_of_descriptors) accept_one(t, index, 0);
  else accept_next(t, index);
}

/* A place in a table is free again. */
static void give_back_descriptor(struct io_thread *t, uint32_t table) {
  struct backend *b = t->backend;
  b->tables.at[table]->used--;
  if (!table_takes(&b->tables, table, 1)) return;
  for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
    if (!b->is_refusing[i]) continue;
    b->is_refusing[i] = 0;
    cancel(first_ring(t), data_of(OPERATION_REFUSE, i), OPERATION_NONE); /* on_refuse goes on */
  }
}

/* ---------------------------------------------------------------- addresses */

static struct query *query_at(const struct backend *b, uint32_t number) {
  return &b->queries[number / QUERIES_PER_CHUNK][number % QUERIES_PER_CHUNK];
}

/* Number of a query that is free, or QUERY_NONE. */
static uint32_t query_take(struct backend *b) {
  uint32_t number = b->query_free;
  if (number != QUERY_NONE) {
    b->query_free = query_at(b, number)->next;
    return number;
  }
  number = b->query_count;
  uint32_t chunk = number / QUERIES_PER_CHUNK;
  if (chunk == QUERY_CHUNKS_MAX) return QUERY_NONE;
  if (b->queries[chunk] == NULL) {
    b->queries[chunk] = malloc(QUERIES_PER_CHUNK * sizeof(struct query));
    if (b->queries[chunk] == NULL) return QUERY_NONE;
  }
  b->query_count++;
  return number;
}

/* getpeername(2) has no descriptor to ask about; a socket command with SO_PEERNAME has (Linux 6.7).
 * It is answered before the first byte is received: both are submitted in this order. */
static void backend_address(struct io_thread *t, struct connection *c) {
  struct backend *b = t->backend;
  uint32_t number = b->has_no_addresses ? QUERY_NONE : query_take(b);
  if (number == QUERY_NONE) return addressed(t, c);
  struct query *query = query_at(b, number);
  query->slot = c->slot;
  uint64_t user_data = (uint64_t)c->generation << 32 | data_of(OPERATION_ADDRESS, number);
  struct io_uring_sqe *sqe = sqe_on(t, c->fd, IORING_OP_URING_CMD, user_data);
  /* It wants the very size that it will answer. */
  uint32_t size = b->is_ipv6[c->listener] ? sizeof query->address : sizeof(struct sockaddr_in);
  sqe->cmd_op = URING_SOCKET_OP_GETSOCKOPT;
  sqe->addr = (uint64_t)SO_PEERNAME << 32 | SOL_SOCKET; /* optname and level */
  sqe->file_index = size;                               /* optlen */
  sqe->addr3 = (uint64_t)(uintptr_t)&query->address;    /* optval */
}

static void on_address(struct io_thread *t, uint64_t user_data, int32_t result) {
  struct backend *b = t->backend;
  uint32_t number = (uint32_t)user_data & 0xffffff;
  struct query *query = query_at(b, number);
  struct connection *c = connection_at(t, query->slot);
  query->next = b->query_free;
  b->query_free = number;
  if (result < 0) {
    if (result == -EOPNOTSUPP || result == -EINVAL) b->has_no_addresses = 1;
  }
  if (c->generation != (uint32_t)(user_data >> 32)) return;
  if (result < 0) return addressed(t, c);
  const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&query->address;
  c->peer_family = v4->sin_family == AF_INET ? 4 : 6;
  c->peer_port = ntohs(v4->sin_port); /* at the same place in both */
  if (c->peer_family == 4) memcpy(c->peer_address, &v4->sin_addr, 4);
  else memcpy(c->peer_address, &query->address.sin6_addr, 16);
  addressed(t, c);
}

/* ---------------------------------------------------------------- receiving */

static void receive_on(struct io_thread *t, struct connection *c) {
  struct io_uring_sqe *sqe = sqe_for(t, c, IORING_OP_RECV, OPERATION_RECEIVE);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->ioprio = IORING_RECV_MULTISHOT;
  sqe->buf_group = URING_BUFFER_GROUP;
  c->backend_flags |= RECEIVING;
  c->backend_flags &= (uint8_t)~HAD_BUFFERS;
}

static void backend_read(struct io_thread *t, struct connection *c) {
  c->backend_flags |= RECEIVE_WANTED;
  if (!(c->backend_flags & (RECEIVING | CLOSING))) receive_on(t, c);
}

static void cancel_receive(struct io_thread *t, struct connection *c) {
  c->backend_flags |= RECEIVE_ENDING;
  cancel_for(t, c, OPERATION_RECEIVE, OPERATION_CANCEL_RECEIVE);
}

static void backend_read_stop(struct io_thread *t, struct connection *c) {
  c->backend_flags &= (uint8_t)~RECEIVE_WANTED;
  if ((c->backend_flags & (RECEIVING | RECEIVE_ENDING)) == RECEIVING) cancel_receive(t, c);
}

static int backend_adopt(struct io_thread *t, struct connection *c) {
  backend_read(t, c);
  return 0;
}

/* ENOBUFS is no error (io_uring_prep_recv_multishot(3)): others had the buffers, which are back by
 * the time the receive is submitted again; and it goes before those that had them. */
static void on_receive(struct io_thread *t, struct connection *c, const struct io_uring_cqe *cqe) {
  int is_last = !(cqe->flags & IORING_CQE_F_MORE);
  if (is_last) {
    c->backend_flags &= (uint8_t) ~(RECEIVING | RECEIVE_ENDING);
    c->interest--;
  }
  if (cqe->flags & IORING_CQE_F_BUFFER) {
    uint32_t size = cqe->res > 0 ? (uint32_t)cqe->res : 0;
    struct uring_buffers *buffers = &table_of(&t->backend->tables, c->fd)->buffers;
    t->backend->received_bytes += size;
    c->backend_flags |= HAD_BUFFERS;
    if (size > 0) received(t, c, uring_buffers_at(buffers, cqe->flags), size);
    uring_buffers_done(buffers, cqe->flags, size);
  }
  if (c->state == CLOSED) return;
  if (cqe->res == 0) return received(t, c, NULL, 0);
  if (cqe->res < 0 && cqe->res != -ENOBUFS && cqe->res != -ECANCELED && cqe->res != -EINTR) {
    return failed(t, c);
  }
  if (!takes_bytes(c) && c->kept != NULL && c->kept->size > UNASKED_BYTES_MAX) {
    backend_read_stop(t, c);
  }
  if (!(c->backend_flags & RECEIVE_WANTED)) return;
  /* The one that had the buffers lets the others go first: a receive takes all that there are. */
  if (cqe->res == -ENOBUFS && (c->backend_flags & HAD_BUFFERS)) mark_ready(t, c);
  else backend_read(t, c);
}

/* ---------------------------------------------------------------- sending */

/* Fills in a send of many stretches; returns how many bytes they are, 0 when there is no room. */
static uint32_t send_many(struct table *table, struct io_uring_sqe *sqe, const struct out_queue *q,
                          uint32_t ready) {
  struct msghdr *message = &table->messages[table->messages_used];
  struct iovec *vectors = &table->vectors[table->vectors_used];
  uint32_t count = 0;
  uint32_t size = 0;
  for (; count < ready && count < SEND_VECTORS; count++) {
    const struct out_entry *e = out_at(q, count);
    uint32_t skip = count == 0 ? q->sent : 0;
    vectors[count] = (struct iovec){e->block->bytes + e->offset + skip, e->size - skip};
    size += e->size - skip;
  }
  *message = (struct msghdr){.msg_iov = vectors, .msg_iovlen = count};
  table->messages_used++;
  table->vectors_used += count;
  sqe->opcode = IORING_OP_SENDMSG;
  sqe->addr = (uint64_t)(uintptr_t)message;
  sqe->len = 1;
  return size;
}

static void backend_flush(struct io_thread *t, struct connection *c) {
  struct out_queue *q = c->out;
  if (q->sending > 0 || q->blocked) return;
  uint32_t ready = sendable(t, c);
  if (ready == 0) return;
  struct table *table = table_of(&t->backend->tables, c->fd);
  if (ready > 1 && !table_has_scratch(table)) table_enter(table, 0, 0);
  struct io_uring_sqe *sqe = sqe_for(t, c, IORING_OP_SEND, OPERATION_SEND);
  sqe->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
  if (ready > 1 && table_has_scratch(table)) {
    q->sending = send_many(table, sqe, q, ready);
  } else {
    const struct out_entry *e = out_at(q, 0);
    sqe->addr = (uint64_t)(uintptr_t)(e->block->bytes + e->offset + q->sent);
    sqe->len = q->sending = e->size - q->sent;
  }
  COUNT(t, sends, 1);
}

static void cancel_poll(struct io_thread *t, struct connection *c) {
  if ((c->backend_flags & (POLLING | POLL_ENDING)) != POLLING) return;
  c->backend_flags |= POLL_ENDING;
  cancel_for(t, c, OPERATION_WRITABLE, OPERATION_CANCEL_WRITABLE);
}

static void poll_on(struct io_thread *t, struct connection *c, int is_multishot) {
  struct io_uring_sqe *sqe = sqe_for(t, c, IORING_OP_POLL_ADD, OPERATION_WRITABLE);
  sqe->poll32_events = POLLOUT;
  sqe->len = is_multishot ? IORING_POLL_ADD_MULTI : 0;
  c->backend_flags |= POLLING;
}

/* The socket is full: a poll waits for room, so that what is queued stays free to be dropped,
 * replaced and moved to memory of its own. */
static void block_writing(struct io_thread *t, struct connection *c) {
  c->out->blocked = 1;
  out_detach(c->out);
  if (!(c->backend_flags & POLLING)) poll_on(t, c, 0);
}

/* Polls also end when the peer has shut down its writing (POLLRDHUP), whether it was asked for or
 * not: to wait on behind that, one is needed that tells of it once and goes on. */
static void on_writable(struct io_thread *t, struct connection *c, const struct io_uring_cqe *cqe) {
  int is_last = !(cqe->flags & IORING_CQE_F_MORE);
  if (is_last) {
    c->backend_flags &= (uint8_t) ~(POLLING | POLL_ENDING);
    c->interest--;
  }
  if (c->state == CLOSED || c->out == NULL || !c->out->blocked) return cancel_poll(t, c);
  if (cqe->res > 0 && cqe->res & (POLLOUT | POLLERR | POLLHUP)) {
    cancel_poll(t, c);
    c->out->blocked = 0;
    mark_dirty(t, c); /* an error shows when it sends */
  } else if (is_last) {
    poll_on(t, c, cqe->res > 0);
  }
}

static void on_send(struct io_thread *t, struct connection *c, int32_t result) {
  c->interest--;
  uint32_t asked = c->out->sending;
  c->out->sending = 0;
  if (c->state == CLOSED) return;
  if (result < 0 && result != -EAGAIN && result != -EINTR) return failed(t, c);
  if (result > 0) sent(t, c, (uint32_t)result);
  if (result == -EAGAIN || (result >= 0 && (uint32_t)result < asked)) return block_writing(t, c);
  mark_dirty(t, c); /* to send what has come in between, or to say that all is sent */
}

static void backend_end_write(struct io_thread *t, struct connection *c) {
  c->backend_flags |= SHUTTING;
  sqe_for(t, c, IORING_OP_SHUTDOWN, OPERATION_SHUTDOWN)->len = SHUT_WR;
}

/* ---------------------------------------------------------------- closing */

static void close_now_direct(struct io_thread *t, struct connection *c) {
  c->interest++;
  close_direct(t, c->fd, data_for(OPERATION_CLOSE, c));
}

/* A shutdown is run by a worker of the kernel, which looks its descriptor up only then: were that
 * closed and its place taken by a new connection, it would be the new one's writing that ends. */
static void backend_close(struct io_thread *t, struct connection *c) {
  backend_read_stop(t, c);
  cancel_poll(t, c);
  c->backend_flags |= CLOSING;
  if (!(c->backend_flags & SHUTTING)) close_now_direct(t, c);
}

static void on_shutdown(struct io_thread *t, struct connection *c) {
  c->interest--;
  c->backend_flags &= (uint8_t)~SHUTTING;
  if (c->backend_flags & CLOSING) close_now_direct(t, c);
}

/* A cancel misses its target while that is being run; then it has ended, or is to be found now. */
static void on_cancel_missed(struct io_thread *t, struct connection *c, enum operation operation) {
  if (operation == OPERATION_CANCEL_RECEIVE && c->backend_flags & RECEIVE_ENDING) {
    cancel_receive(t, c);
  } else if (operation == OPERATION_CANCEL_WRITABLE && c->backend_flags & POLL_ENDING) {
    c->backend_flags &= (uint8_t)~POLL_ENDING;
    cancel_poll(t, c);
  }
}

/* ---------------------------------------------------------------- the wait */

static void complete_for(struct io_thread *t, struct connection *c, enum operation operation,
                         const struct io_uring_cqe *cqe) {
  switch (operation) {
  case OPERATION_RECEIVE:
    on_receive(t, c, cqe);
    break;
  case OPERATION_SEND:
    on_send(t, c, cqe->res);
    break;
  case OPERATION_WRITABLE:
    on_writable(t, c, cqe);
    break;
  case OPERATION_SHUTDOWN:
    on_shutdown(t, c);
    break;
  case OPERATION_CLOSE:
    c->interest--;
    give_back_descriptor(t, table_number(c->fd));
    break;
  default:
    on_cancel_missed(t, c, operation);
  }
  if (c->backend_flags & CLOSING && c->interest == 0) {
    c->backend_flags = 0;
    closed(t, c);
  }
}

static void complete(struct io_thread *t, uint32_t table, const struct io_uring_cqe *cqe) {
  uint32_t number = (uint32_t)cqe->user_data & 0xffffff;
  enum operation operation = (enum operation)((uint32_t)cqe->user_data >> 24);
  switch (operation) {
  case OPERATION_NONE:
    break;
  case OPERATION_WAKEUP:
    if (!(cqe->flags & IORING_CQE_F_MORE)) await_wakeup(t);
    break;
  case OPERATION_TABLES:
    await_tables(t);
    break;
  case OPERATION_ACCEPT:
    on_accept(t, table, number, cqe);
    break;
  case OPERATION_ACCEPT_ONE:
    on_accept_one(t, table, number, cqe->res);
    break;
  case OPERATION_REFUSE:
    on_refuse(t, number, cqe);
    break;
  case OPERATION_REFUSED:
    give_back_descriptor(t, table);
    break;
  case OPERATION_ADDRESS:
    on_address(t, cqe->user_data, cqe->res);
    break;
  default: {
    struct connection *c = connection_at(t, number);
    int is_stale = c->generation != (uint32_t)(cqe->user_data >> 32);
    /* Only a cancel that nobody waits for can come so late. */
    assert(!is_stale || operation >= OPERATION_CANCEL_RECEIVE);
    if (!is_stale) complete_for(t, c, operation, cqe);
  }
  }
}

static int takes_more(const struct backend *b, uint32_t count) {
  return count < COMPLETIONS_PER_WAIT && b->received_bytes < RECEIVED_PER_WAIT;
}

/* Goes round the rings; the one at which the turn was over is the last of the next. Returns how
 * many completions there have been. */
static uint32_t complete_some(struct io_thread *t, uint32_t count) {
  struct backend *b = t->backend;
  struct tables *all = &b->tables;
  struct io_uring_cqe cqe;
  for (uint32_t i = 0; i < all->count && takes_more(b, count); i++) {
    uint32_t number = all->first < all->count ? all->first : 0;
    struct uring *ring = &all->at[number]->ring;
    for (; takes_more(b, count) && uring_peek(ring, &cqe); count++) {
      uring_pop(ring);
      complete(t, number, &cqe);
    }
    all->first = number + 1;
  }
  return count;
}

static void backend_wait(struct io_thread *t, int timeout_ms) {
  struct backend *b = t->backend;
  if (!b->is_enabled) enable(t);
  uint32_t count = 0;
  b->received_bytes = 0;
  do {
    /* The kernel runs some twenty receives in one call (IO_LOCAL_TW_DEFAULT_MAX), then returns. */
    tables_enter(&b->tables, count > 0 ? 0 : timeout_ms);
    if (count == 0) read_clock(t);
    uint32_t before = count;
    count = complete_some(t, count);
    if (count == before) break;
  } while (takes_more(b, count) && tables_have_more(&b->tables));
}
