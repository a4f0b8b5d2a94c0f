/* The host's side: everything that reactor.h declares, called by the one host thread unless said
 * otherwise. */
#ifndef LONGWIRE_HOST_H
#define LONGWIRE_HOST_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#include "entrance.h"

#define HOST_AUDIENCE_MANY WHEEL_NONE

static uint64_t monotonic_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- wakeups */

static int wakeup_open(struct wakeup *w) {
#ifdef __linux__
  w->read_fd = w->write_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return w->read_fd < 0 ? -errno : 0;
#else
  int fds[2];
  if (pipe(fds) != 0) return -errno;
  for (int i = 0; i < 2; i++) {
    fcntl(fds[i], F_SETFL, O_NONBLOCK);
    fcntl(fds[i], F_SETFD, FD_CLOEXEC);
  }
  *w = (struct wakeup){.read_fd = fds[0], .write_fd = fds[1]};
  return 0;
#endif
}

static void wakeup_ring(const struct wakeup *w) {
  uint64_t one = 1;
  /* A full counter or pipe means that it has been rung already. */
  ssize_t ignored = write(w->write_fd, &one, sizeof one);
  (void)ignored;
}

static void wakeup_clear(const struct wakeup *w) {
  uint64_t buffer[8];
  while (read(w->read_fd, buffer, sizeof buffer) == sizeof buffer) {
  }
}

static void wakeup_close(struct wakeup *w) {
  if (w->read_fd >= 0) close(w->read_fd);
  if (w->write_fd >= 0 && w->write_fd != w->read_fd) close(w->write_fd);
}

/* Wakes a thread that sleeps. What it shall see was stored before. */
static void thread_wake(struct io_thread *t) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&t->sleeping, __ATOMIC_SEQ_CST) &&
      __atomic_exchange_n(&t->sleeping, 0, __ATOMIC_SEQ_CST)) {
    backend_wake(t);
  }
}

static int host_has_events(const struct lw_reactor *r) {
  for (uint32_t i = 0; i < r->thread_count; i++) {
    const struct ring *ring = &r->threads[i]->ring;
    uint64_t tail = __atomic_load_n(&ring->tail, __ATOMIC_RELAXED);
    if (__atomic_load_n(&ring->head, __ATOMIC_SEQ_CST) != tail) return 1;
  }
  return 0;
}

int lw_wait(struct lw_reactor *r, int timeout_ms) {
  uint64_t deadline = monotonic_ms() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms);
  int found = 0;
  for (;;) {
    /* Said first, looked second: who puts an event in after the look finds the flag. */
    __atomic_store_n(&r->host_waits, 1, __ATOMIC_SEQ_CST);
    found = host_has_events(r);
    if (found || __atomic_exchange_n(&r->wake_asked, 0, __ATOMIC_SEQ_CST)) break;
    int left = -1;
    if (timeout_ms >= 0) {
      uint64_t now = monotonic_ms();
      if (now >= deadline) break;
      left = (int)(deadline - now);
    }
    struct pollfd p = {.fd = r->host_wakeup.read_fd, .events = POLLIN};
    poll(&p, 1, left);
    wakeup_clear(&r->host_wakeup);
  }
  __atomic_store_n(&r->host_waits, 0, __ATOMIC_SEQ_CST);
  return found;
}

void lw_wake(struct lw_reactor *r) {
  __atomic_store_n(&r->wake_asked, 1, __ATOMIC_SEQ_CST);
  wakeup_ring(&r->host_wakeup);
}

/* ---------------------------------------------------------------- events */

void *lw_ring(struct lw_reactor *r, uint32_t thread, uint32_t *bytes) {
  if (thread >= r->thread_count) return NULL;
  *bytes = (uint32_t)r->threads[thread]->ring.capacity;
  return r->threads[thread]->ring.bytes;
}

struct lw_batch *lw_batches(struct lw_reactor *r) {
  return r->batches;
}

int lw_poll(struct lw_reactor *r) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < r->thread_count; i++) {
    struct lw_batch batch = {.thread = i};
    if (ring_peek(&r->threads[i]->ring, &batch.begin, &batch.end)) r->batches[count++] = batch;
  }
  r->batch_count = count;
  return (int)count;
}

void lw_release(struct lw_reactor *r) {
  for (uint32_t i = 0; i < r->batch_count; i++) {
    struct io_thread *t = r->threads[r->batches[i].thread];
    ring_consume(&t->ring, r->batches[i].end - r->batches[i].begin);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&t->ring_wanted, __ATOMIC_SEQ_CST)) {
      __atomic_store_n(&t->ring_wanted, 0, __ATOMIC_SEQ_CST);
      thread_wake(t);
    }
  }
  r->batch_count = 0;
}

/* ---------------------------------------------------------------- commands */

static int audiences_grow(struct lw_reactor *r, uint32_t audience) {
  uint32_t capacity = r->audience_capacity == 0 ? 1024 : r->audience_capacity;
  while (capacity <= audience) capacity *= 2;
  if (capacity == r->audience_capacity) return 0;
  struct host_audience *grown = realloc(r->audiences, capacity * sizeof *grown);
  if (grown == NULL) return -ENOMEM;
  memset(grown + r->audience_capacity, 0, (capacity - r->audience_capacity) * sizeof *grown);
  r->audiences = grown;
  r->audience_capacity = capacity;
  return 0;
}

/* Keeps count of the threads on which an audience has members. Returns 0 or -errno. */
static int audience_count(struct lw_reactor *r, uint32_t audience, uint32_t thread, int change) {
  if (audience >= 0x40000000u) return -EINVAL;
  int error = audiences_grow(r, audience);
  if (error != 0) return error;
  struct host_audience *a = &r->audiences[audience];
  if (change < 0 && a->members == 0) return 0; /* leaves what nobody joined */
  if (a->counts == NULL && a->members > 0 && a->thread != thread) {
    a->counts = calloc(r->thread_count, sizeof *a->counts);
    if (a->counts == NULL) return -ENOMEM;
    a->counts[a->thread] = a->members;
    a->thread = HOST_AUDIENCE_MANY;
  }
  a->members += (uint32_t)change;
  if (a->counts != NULL) a->counts[thread] += (uint32_t)change;
  else a->thread = thread;
  if (a->members == 0) {
    free(a->counts);
    a->counts = NULL;
  }
  return 0;
}

static int push(struct lw_reactor *r, struct io_thread *t, const struct lw_command *command,
                uint32_t head_size, const struct placed *placed, const void *rest,
                uint32_t rest_size) {
  (void)r;
  uint32_t placed_size = placed == NULL ? 0 : (uint32_t)sizeof *placed;
  uint32_t size = (head_size + placed_size + rest_size + 7) & ~7u;
  uint8_t *at = command_queue_reserve(&t->commands, size);
  if (at == NULL) return -ENOMEM;
  memcpy(at, command, head_size);
  ((struct lw_command *)(void *)at)->size = size;
  if (placed != NULL) {
    memcpy(at + head_size, placed, placed_size);
    block_keep(placed->block);
  }
  if (rest_size > 0) memcpy(at + head_size + placed_size, rest, rest_size);
  command_queue_commit(&t->commands, size, command_cost((struct lw_command *)(void *)at));
  return 0;
}

/* Puts the bytes of a record into the arena and the record into the queue of its thread. */
static int push_placed(struct lw_reactor *r, struct io_thread *t, const struct lw_command *command,
                       uint32_t head_size, const void *bytes, uint32_t size) {
  struct placed placed = {.size = size};
  placed.block = arena_append(&r->arena, bytes, size, &placed.offset);
  if (placed.block == NULL) return -ENOMEM;
  int error = push(r, t, command, head_size, &placed, NULL, 0);
  block_drop(placed.block);
  return error;
}

/* Whether any of the audiences has members on the thread. */
static int wants(const struct lw_reactor *r, const uint32_t *audiences, uint32_t count,
                 uint32_t thread) {
  for (uint32_t i = 0; i < count; i++) {
    if (audiences[i] >= r->audience_capacity) continue;
    const struct host_audience *a = &r->audiences[audiences[i]];
    if (a->members == 0) continue;
    if (a->counts == NULL ? a->thread == thread : a->counts[thread] > 0) return 1;
  }
  return 0;
}

static int submit_publish(struct lw_reactor *r, const struct lw_command_publish *p) {
  const uint8_t *audiences = (const uint8_t *)(p + 1);
  uint64_t audiences_size = ((uint64_t)p->audience_count * 4 + 7) & ~(uint64_t)7;
  if (p->stamp == 0 || p->body_size == 0) return -EINVAL;
  if (sizeof *p + audiences_size + p->body_size > p->head.size) return -EINVAL;
  if (p->packet_id_at != LW_PACKET_ID_NONE && (uint64_t)p->packet_id_at + 2 > p->body_size) {
    return -EINVAL;
  }
  struct placed placed = {.size = p->body_size};
  const uint32_t *ids = (const uint32_t *)(const void *)audiences;
  int error = 0;
  for (uint32_t i = 0; i < r->thread_count && error == 0; i++) {
    if (!wants(r, ids, p->audience_count, i)) continue;
    if (placed.block == NULL) {
      const uint8_t *bytes = audiences + audiences_size;
      placed.block = arena_append(&r->arena, bytes, p->body_size, &placed.offset);
      if (placed.block == NULL) return -ENOMEM;
    }
    error = push(r, r->threads[i], &p->head, sizeof *p, &placed, ids, p->audience_count * 4);
  }
  if (placed.block != NULL) block_drop(placed.block);
  return error;
}

/* Sizes of the fixed parts of records, by type; 0 = no such type. */
static uint32_t head_size_of(unsigned type) {
  switch (type) {
  case LW_COMMAND_SEND:
    return sizeof(struct lw_command_send);
  case LW_COMMAND_ACTIVATE:
    return sizeof(struct lw_command_activate);
  case LW_COMMAND_CLOSE:
    return sizeof(struct lw_command_close);
  case LW_COMMAND_JOIN:
  case LW_COMMAND_LEAVE:
    return sizeof(struct lw_command_audience);
  case LW_COMMAND_PUBLISH:
    return sizeof(struct lw_command_publish);
  case LW_COMMAND_DELIVER:
    return sizeof(struct lw_command_deliver);
  case LW_COMMAND_RELEASE:
  case LW_COMMAND_BEHIND:
  case LW_COMMAND_LIVE:
  case LW_COMMAND_PAUSE:
  case LW_COMMAND_RESUME:
  case LW_COMMAND_REPORT_ACKS:
    return sizeof(struct lw_command);
  default:
    return 0;
  }
}

static int submit_one(struct lw_reactor *r, const struct lw_command *command) {
  uint32_t head_size = head_size_of(command->type);
  if (head_size == 0 || command->size < head_size) return -EINVAL;
  if (command->type == LW_COMMAND_PUBLISH) {
    return submit_publish(r, (const struct lw_command_publish *)command);
  }
  uint32_t thread = command->conn >> 24;
  if (thread >= r->thread_count) return -EINVAL;
  struct io_thread *t = r->threads[thread];
  const uint8_t *bytes = (const uint8_t *)command + head_size;
  if (command->type == LW_COMMAND_SEND) {
    uint32_t size = ((const struct lw_command_send *)command)->body_size;
    if (size == 0 || size > command->size - head_size) return -EINVAL;
    return push_placed(r, t, command, sizeof *command, bytes, size);
  }
  if (command->type == LW_COMMAND_DELIVER) {
    const struct lw_command_deliver *d = (const struct lw_command_deliver *)command;
    if (d->body_size == 0 || d->body_size > command->size - head_size) return -EINVAL;
    if (d->packet_id_at != LW_PACKET_ID_NONE && (uint64_t)d->packet_id_at + 2 > d->body_size) {
      return -EINVAL;
    }
    return push_placed(r, t, command, head_size, bytes, d->body_size);
  }
  if (command->type == LW_COMMAND_CLOSE &&
      ((const struct lw_command_close *)command)->code >= LW_CODE_COUNT) {
    return -EINVAL;
  }
  if (command->type == LW_COMMAND_JOIN || command->type == LW_COMMAND_LEAVE) {
    uint32_t audience = ((const struct lw_command_audience *)command)->audience;
    int change = command->type == LW_COMMAND_JOIN ? 1 : -1;
    int error = audience_count(r, audience, thread, change);
    if (error != 0) return error;
  }
  return push(r, t, command, head_size, NULL, NULL, 0);
}

int64_t lw_submit(struct lw_reactor *r, const void *commands, size_t bytes) {
  const uint8_t *at = commands;
  const uint8_t *all = at + bytes;
  int error = 0;
  while (at < all && error == 0) {
    const struct lw_command *command = (const struct lw_command *)(const void *)at;
    if ((size_t)(all - at) < sizeof *command || command->size < sizeof *command ||
        command->size % 8 != 0 || command->size > (size_t)(all - at)) {
      error = -EINVAL;
      break;
    }
    error = submit_one(r, command);
    at += command->size;
  }
  uint64_t fullest = 0;
  for (uint32_t i = 0; i < r->thread_count; i++) {
    uint64_t waiting = command_queue_bytes(&r->threads[i]->commands);
    if (waiting > 0) thread_wake(r->threads[i]);
    if (waiting > fullest) fullest = waiting;
  }
  return error != 0 ? error : (int64_t)fullest;
}

/* ---------------------------------------------------------------- listening */

static int parse_address(const struct lw_listen_options *o, struct sockaddr_storage *out,
                         socklen_t *size) {
  memset(out, 0, sizeof *out);
  struct sockaddr_in *v4 = (struct sockaddr_in *)out;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
  if (o->port > 65535 || memchr(o->address, 0, sizeof o->address) == NULL) return -EINVAL;
  if (inet_pton(AF_INET, o->address, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons((uint16_t)o->port);
    *size = sizeof *v4;
    return 0;
  }
  if (inet_pton(AF_INET6, o->address, &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)o->port);
    *size = sizeof *v6;
    return 0;
  }
  return -EINVAL;
}

static int set_option(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof value);
}

/* What accepted connections inherit: no delay, layered liveness (tcp(7)). */
static void set_connection_options(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
#endif
#ifdef TCP_USER_TIMEOUT
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 90000);
#endif
}

/* What spreads connections over the sockets of one port: on FreeBSD that is another option. */
#ifdef SO_REUSEPORT_LB
#define REUSE_PORT SO_REUSEPORT_LB
#else
#define REUSE_PORT SO_REUSEPORT
#endif

/* A bound socket; a listening one when `reuse`, so that every thread has its own. Returns it or
 * -errno. */
static int bind_socket(const struct sockaddr_storage *address, socklen_t size, int reuse) {
  int fd = socket(address->ss_family, SOCK_STREAM, 0);
  if (fd < 0) return -errno;
  int error = 0;
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (address->ss_family == AF_INET6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (reuse && set_option(fd, SOL_SOCKET, REUSE_PORT, 1) != 0) goto fail;
  if (bind(fd, (const struct sockaddr *)address, size) != 0) goto fail;
  if (reuse) {
    set_connection_options(fd);
    if (listen(fd, 65535) != 0) goto fail; /* the kernel lowers it to its somaxconn */
  }
  return fd;
fail:
  error = -errno;
  close(fd);
  return error;
}

static int port_of(int fd) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) return -errno;
  return address.ss_family == AF_INET ? ntohs(((struct sockaddr_in *)&address)->sin_port)
                                      : ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
}

static void set_port(struct sockaddr_storage *address, int port) {
  if (address->ss_family == AF_INET)
    ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
  else ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
}

static int listen_problem(const struct lw_listen_options *o) {
  if (o->size != sizeof *o) return 1;
  if (o->busy_size > sizeof o->busy || o->busy5_size > sizeof o->busy5) return 1;
  return o->busy_reason_at > o->busy_size || o->busy5_reason_at > o->busy5_size;
}

/* What answers a connection over a limit; who is to speak TLS cannot be told in the clear. */
static void set_busy(struct listener *l, const struct lw_listen_options *o) {
  if (o->tls != 0) {
    l->busy_size = sizeof busy_alert;
    memcpy(l->busy, busy_alert, sizeof busy_alert);
    return;
  }
  l->busy_size = (uint8_t)o->busy_size;
  l->busy_reason_at = o->busy_reason_at;
  l->busy5_size = o->protocol == LW_PROTOCOL_MQTT ? o->busy5_size : 0;
  l->busy5_reason_at = o->busy5_reason_at;
  memcpy(l->busy, o->busy, sizeof l->busy);
  memcpy(l->busy5, o->busy5, sizeof l->busy5);
  memcpy(l->reasons, o->reasons, sizeof l->reasons);
}

int lw_listen(struct lw_reactor *r, const struct lw_listen_options *o) {
  uint32_t index = r->listener_count;
  struct sockaddr_storage address;
  socklen_t size = 0;
  if (listen_problem(o) || index == LISTENERS_MAX) return -EINVAL;
  if (o->protocol != LW_PROTOCOL_LONGWIRE && o->protocol != LW_PROTOCOL_MQTT) return -EINVAL;
  if (!tls_is_configured(r, o->tls)) return -EINVAL;
  int error = parse_address(o, &address, &size);
  if (error != 0) return error;
  /* Without SO_REUSEPORT first: another service that has it would share the port without a word. */
  int probe = bind_socket(&address, size, 0);
  if (probe < 0) return probe;
  int port = port_of(probe);
  close(probe);
  if (port < 0) return port;
  set_port(&address, port);
  struct listener *l = &r->listeners[index];
  *l = (struct listener){.port = (uint16_t)port,
                         .protocol = (uint8_t)o->protocol,
                         .tls = (uint8_t)o->tls,
                         .flags = (uint8_t)o->flags};
  set_busy(l, o);
  uint32_t made = 0;
  for (; made < r->thread_count; made++) {
    int fd = bind_socket(&address, size, 1);
    if (fd < 0) {
      error = fd;
      break;
    }
    r->threads[made]->listen_fds[index] = fd;
  }
  if (error != 0) {
    while (made-- > 0) {
      close(r->threads[made]->listen_fds[index]);
      r->threads[made]->listen_fds[index] = -1;
    }
    return error;
  }
  r->listener_count++;
  for (uint32_t i = 0; i < r->thread_count; i++) {
    __atomic_store_n(&r->threads[i]->listeners_asked, index + 1, __ATOMIC_SEQ_CST);
    thread_wake(r->threads[i]);
  }
  return port;
}

void lw_unlisten(struct lw_reactor *r) {
  for (uint32_t i = 0; i < r->thread_count; i++) {
    __atomic_store_n(&r->threads[i]->unlisten_asked, r->listener_count, __ATOMIC_SEQ_CST);
    thread_wake(r->threads[i]);
  }
}

/* ---------------------------------------------------------------- looking */

uint32_t lw_now_us(void) { return clock_us(); }

void lw_stats(struct lw_reactor *r, struct lw_stats *out) {
  memset(out, 0, sizeof *out);
  uint64_t *sums = (uint64_t *)(void *)out;
  for (uint32_t i = 0; i < r->thread_count; i++) {
    const uint64_t *counters = (const uint64_t *)(const void *)&r->threads[i]->stats;
    for (size_t k = 0; k < sizeof *out / sizeof *sums; k++) {
      sums[k] += __atomic_load_n(&counters[k], __ATOMIC_RELAXED);
    }
  }
}

/* A connection whose slot the host owns; NULL for a stale handle. */
static const struct connection *connection_named(const struct lw_reactor *r, uint32_t conn,
                                                 uint32_t generation) {
  uint32_t thread = conn >> 24;
  uint32_t slot = conn & 0xffffff;
  if (thread >= r->thread_count) return NULL;
  const struct io_thread *t = r->threads[thread];
  if (slot / SLOTS_PER_CHUNK >= SLOT_CHUNKS_MAX || t->chunks[slot / SLOTS_PER_CHUNK] == NULL) {
    return NULL;
  }
  const struct connection *c = connection_at(t, slot);
  return __atomic_load_n(&c->generation, __ATOMIC_RELAXED) == generation ? c : NULL;
}

int lw_peer(struct lw_reactor *r, uint32_t conn, uint32_t generation, struct lw_peer *out) {
  const struct connection *c = connection_named(r, conn, generation);
  if (c == NULL) return -ESTALE;
  *out = (struct lw_peer){.family = c->peer_family, .port = c->peer_port};
  memcpy(out->address, c->peer_address, sizeof out->address);
  return 0;
}

int lw_trust_proxies(struct lw_reactor *r, const struct lw_network *networks, uint32_t count) {
  if (r->listener_count > 0 || count > PROXY_NETWORKS_MAX) return -EINVAL;
  for (uint32_t i = 0; i < count; i++) {
    unsigned bits = networks[i].family == 4 ? 32 : networks[i].family == 6 ? 128 : 0;
    if (bits == 0 || networks[i].prefix > bits) return -EINVAL;
    r->proxies.networks[i] = networks[i];
  }
  r->proxies.count = count;
  return 0;
}

int lw_layout(uint32_t *out, int n) {
  const uint32_t layout[] = {
      LW_ABI_VERSION,
      sizeof(struct lw_event),
      sizeof(struct lw_traced),
      sizeof(struct lw_inflight),
      sizeof(struct lw_closed),
      sizeof(struct lw_batch),
      sizeof(struct lw_command),
      sizeof(struct lw_command_send),
      sizeof(struct lw_command_activate),
      sizeof(struct lw_command_close),
      sizeof(struct lw_command_audience),
      sizeof(struct lw_command_publish),
      sizeof(struct lw_command_deliver),
      sizeof(struct lw_options),
      sizeof(struct lw_listen_options),
      sizeof(struct lw_latency),
      sizeof(struct lw_stats),
      sizeof(struct lw_peer),
      sizeof(struct lw_tls_options),
      sizeof(struct lw_network),
      sizeof(struct lw_fds),
      sizeof(struct lw_fd),
      sizeof(struct lw_top_row),
  };
  int count = (int)(sizeof layout / sizeof layout[0]);
  for (int i = 0; i < count && i < n; i++) out[i] = layout[i];
  return count;
}

const char *lw_backend(void) { return backend_name(); }

#endif
