/* A backend without sockets: peers are byte buffers, time stands until a test moves it, and
 * everything happens in the thread that opened the reactor: the reactor's own is parked in its
 * first wait. Reads come in pieces of a chosen size, in memory that is freed at once. */
#include <limits.h>

#define STUB_PEERS 16

struct stub_peer {
  uint8_t *in;
  size_t in_size;
  size_t in_at;
  uint8_t *out;
  size_t out_size;
  uint64_t takes;  /* bytes until it is blocked */
  uint32_t piece;  /* largest read; 0 = no bound */
  uint32_t slot;   /* of its connection */
  uint8_t is_used; /* now or before */
  uint8_t is_open; /* its descriptor is */
  uint8_t has_ended;
  uint8_t has_failed;
  uint8_t is_stopped;     /* the reactor wants no data */
  uint8_t is_write_ended; /* SHUT_WR came */
};

struct backend {
  struct stub_peer peers[STUB_PEERS];
  struct slot_list closing;
  uint64_t now_ms;
  int timeout_ms; /* of the last wait: 0 = it would have spun */
  uint32_t flushes;
  pthread_t driver; /* turns the thread by hand */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int is_parked; /* the reactor's thread is out of the way */
  int is_over;   /* it may go on, and end */
};

static const char *backend_name(void) { return "stub"; }

static struct stub_peer *stub_peer_of(struct io_thread *t, const struct connection *c) {
  assert(c->fd >= 0 && c->fd < STUB_PEERS);
  return &t->backend->peers[c->fd];
}

static int backend_open(struct io_thread *t) {
  struct backend *b = t->backend = calloc(1, sizeof *t->backend);
  if (b == NULL) return -ENOMEM;
  b->closing.slots = calloc(STUB_PEERS, sizeof b->closing.slots[0]);
  b->closing.capacity = STUB_PEERS;
  if (b->closing.slots == NULL) return -ENOMEM;
  b->driver = pthread_self();
  pthread_mutex_init(&b->lock, NULL);
  pthread_cond_init(&b->changed, NULL);
  return 0;
}

static void stub_park(struct backend *b) {
  pthread_mutex_lock(&b->lock);
  b->is_parked = 1;
  pthread_cond_broadcast(&b->changed);
  while (!b->is_over) pthread_cond_wait(&b->changed, &b->lock);
  pthread_mutex_unlock(&b->lock);
}

static void stub_await_parked(struct backend *b) {
  pthread_mutex_lock(&b->lock);
  while (!b->is_parked) pthread_cond_wait(&b->changed, &b->lock);
  pthread_mutex_unlock(&b->lock);
}

static void backend_shut(struct io_thread *t) {
  for (int i = 0; i < STUB_PEERS; i++) {
    free(t->backend->peers[i].in);
    free(t->backend->peers[i].out);
  }
  pthread_mutex_destroy(&t->backend->lock);
  pthread_cond_destroy(&t->backend->changed);
  free(t->backend->closing.slots);
  free(t->backend);
}

static void backend_wake(struct io_thread *t) {
  struct backend *b = t->backend;
  if (!__atomic_load_n(&t->reactor->stopping, __ATOMIC_SEQ_CST)) return;
  pthread_mutex_lock(&b->lock);
  b->is_over = 1;
  pthread_cond_broadcast(&b->changed);
  pthread_mutex_unlock(&b->lock);
}

static int backend_listen(struct io_thread *t, uint32_t index) {
  (void)t;
  (void)index;
  return 0;
}

static void backend_unlisten(struct io_thread *t, uint32_t index) { close(t->listen_fds[index]); }

static int backend_adopt(struct io_thread *t, struct connection *c) {
  stub_peer_of(t, c)->slot = c->slot;
  return 0;
}

static void backend_read_stop(struct io_thread *t, struct connection *c) {
  stub_peer_of(t, c)->is_stopped = 1;
}

static void backend_read(struct io_thread *t, struct connection *c) {
  struct stub_peer *p = stub_peer_of(t, c);
  p->is_stopped = 0;
  while (takes_bytes(c) && p->in_at < p->in_size) {
    size_t size = p->in_size - p->in_at;
    if (p->piece != 0 && size > p->piece) size = p->piece;
    uint8_t *bytes = (malloc)(size); /* not a test's that fails */
    if (bytes == NULL) abort();
    memcpy(bytes, p->in + p->in_at, size);
    p->in_at += size;
    received(t, c, bytes, (uint32_t)size);
    free(bytes);
  }
  if (!takes_bytes(c)) return;
  if (p->has_failed) failed(t, c);
  else if (p->has_ended) received(t, c, NULL, 0);
}

static void backend_flush(struct io_thread *t, struct connection *c) {
  struct stub_peer *p = stub_peer_of(t, c);
  t->backend->flushes++;
  if (p->has_failed) return failed(t, c);
  while (c->out != NULL && c->out->bytes > 0 && !c->out->blocked && sendable(t, c) > 0) {
    const struct out_entry *e = out_at(c->out, 0);
    uint32_t size = e->size - c->out->sent;
    if (size > p->takes) size = (uint32_t)p->takes;
    if (size > 0) {
      uint8_t *out = (realloc)(p->out, p->out_size + size);
      if (out == NULL) abort();
      memcpy(out + p->out_size, e->block->bytes + e->offset + c->out->sent, size);
      p->out = out;
      p->out_size += size;
      p->takes -= size;
      sent(t, c, size);
    }
    if (p->takes == 0 && c->out->bytes > 0) {
      c->out->blocked = 1;
      out_detach(c->out);
    } else if (size == 0) {
      sent(t, c, 0);
      break;
    }
  }
}

static void backend_end_write(struct io_thread *t, struct connection *c) {
  stub_peer_of(t, c)->is_write_ended = 1;
}

static void backend_close(struct io_thread *t, struct connection *c) {
  struct slot_list *closing = &t->backend->closing;
  assert(closing->count < closing->capacity); /* no more than there are peers */
  closing->slots[closing->count++] = c->slot;
}

static uint32_t backend_fds(const struct io_thread *t, int *fds) {
  (void)t, (void)fds;
  return 0;
}

static void backend_address(struct io_thread *t, struct connection *c) {
  c->peer_family = 4;
  c->peer_port = (uint16_t)c->fd;
  addressed(t, c);
}

static void backend_wait(struct io_thread *t, int timeout_ms) {
  struct backend *b = t->backend;
  if (!pthread_equal(pthread_self(), b->driver)) return stub_park(b);
  b->timeout_ms = timeout_ms;
  for (uint32_t i = 0; i < b->closing.count; i++) {
    struct connection *c = connection_at(t, b->closing.slots[i]);
    stub_peer_of(t, c)->is_open = 0;
    closed(t, c);
  }
  b->closing.count = 0;
  read_clock(t);
  t->now_ms = b->now_ms;
}
