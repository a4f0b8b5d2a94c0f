/* Both ends of the native TLS tests: a host that echoes frames in a thread of its own, and clients
 * made of blocking sockets and OpenSSL. */
#ifndef LONGWIRE_TESTS_TLS_PEER_H
#define LONGWIRE_TESTS_TLS_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "tls_certificates.h"

/* A test waits so long for what must happen, however busy the machine is. */
#define PATIENCE_S 60

static inline uint64_t monotonic_us_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* ------------------------------------------------------------------ the host */

struct host {
  struct lw_reactor *r;
  struct commands commands;
  pthread_t thread;
  atomic_int stopping;
  atomic_uint first_frames;
  atomic_uint closes;
  atomic_uint close_code; /* of the last close */
  atomic_uint close_next; /* close the connection of the next frame after its echo */
  pthread_mutex_t lock;   /* of the rest, which is of the connection that came last */
  char certificate[4096];
  struct lw_peer peer;
};

static void host_note(struct host *h, struct handle of) {
  pthread_mutex_lock(&h->lock);
  int size =
      lw_peer_certificate(h->r, of.conn, of.generation, h->certificate, sizeof h->certificate - 1);
  CHECK(size >= 0, "lw_peer_certificate returned %d", size);
  h->certificate[size > 0 ? size : 0] = 0;
  CHECK(lw_peer(h->r, of.conn, of.generation, &h->peer) == 0, "lw_peer failed");
  pthread_mutex_unlock(&h->lock);
}

/* Read it after the echo of that connection. */
static inline struct lw_peer host_peer(struct host *h) {
  pthread_mutex_lock(&h->lock);
  struct lw_peer peer = h->peer;
  pthread_mutex_unlock(&h->lock);
  return peer;
}

static inline void host_certificate(struct host *h, char *out) {
  pthread_mutex_lock(&h->lock);
  memcpy(out, h->certificate, sizeof h->certificate);
  pthread_mutex_unlock(&h->lock);
}

static void host_take(void *owner, const struct lw_event *event) {
  struct host *h = owner;
  struct handle of = handle_of(event);
  if (event->type == LW_EVENT_FRAME) {
    if (event->code == 1) {
      host_note(h, of);
      command_activate(&h->commands, of, 0, 0, 0);
      atomic_fetch_add(&h->first_frames, 1);
    }
    command_send(&h->commands, of, event + 1, event->body_size);
    if (atomic_exchange(&h->close_next, 0)) command_close(&h->commands, of, LW_CODE_NORMAL);
  } else if (event->type == LW_EVENT_VIOLATION) {
    command_close(&h->commands, of, event->code);
  } else if (event->type == LW_EVENT_ENDED) {
    command_close(&h->commands, of, LW_CODE_PEER_CLOSED);
  } else if (event->type == LW_EVENT_CLOSED) {
    atomic_store(&h->close_code, event->code);
    atomic_fetch_add(&h->closes, 1);
    command_plain(&h->commands, LW_COMMAND_RELEASE, of);
  }
}

static void *host_run(void *argument) {
  struct host *h = argument;
  while (!atomic_load(&h->stopping)) {
    lw_wait(h->r, 1000);
    while (events_walk(h->r, host_take, h) > 0) commands_submit(&h->commands, h->r);
  }
  return NULL;
}

static const struct lw_options host_options = {
    .abi_version = LW_ABI_VERSION,
    .size = sizeof(struct lw_options),
    .thread_count = 2,
    .connections_max = 2000,
    .ring_bytes = 4 << 20,
    .frame_bytes_max = 1 << 20,
    .handshake_frame_bytes_max = 1 << 20,
    .handshake_timeout_ms = 10000,
    .out_queue_soft_bytes = 1 << 20,
    .out_queue_hard_bytes = 4 << 20,
    .write_stall_ms = 10000,
    .linger_ms = 1000,
    .command_queue_bytes_max = 16 << 20,
};

static void host_open(struct host *h, const struct lw_options *options) {
  *h = (struct host){.lock = PTHREAD_MUTEX_INITIALIZER};
  int error = lw_open(options, &h->r);
  REQUIRE(error == 0, "lw_open returned %d", error);
}

/* After lw_listen. */
static void host_start(struct host *h) {
  REQUIRE(pthread_create(&h->thread, NULL, host_run, h) == 0, "no thread");
}

static void host_close(struct host *h) {
  atomic_store(&h->stopping, 1);
  lw_wake(h->r);
  pthread_join(h->thread, NULL);
  lw_close(h->r);
  free(h->commands.bytes);
}

/* Returns the port. */
static inline uint16_t host_listen(struct host *h, enum lw_protocol protocol, uint32_t tls,
                                   uint32_t flags) {
  struct lw_listen_options o = {.size = sizeof o,
                                .protocol = protocol,
                                .tls = tls,
                                .flags = flags,
                                .busy_size = 4,
                                .busy = "busy",
                                .address = "127.0.0.1"};
  int port = lw_listen(h->r, &o);
  REQUIRE(port > 0, "lw_listen returned %d", port);
  return (uint16_t)port;
}

static struct lw_stats host_stats(struct host *h) {
  struct lw_stats stats;
  lw_stats(h->r, &stats);
  return stats;
}

/* Waits until that many connections have been closed with the code. */
static void await_closed(struct host *h, unsigned code, uint64_t count) {
  for (int i = 0; i < PATIENCE_S * 1000; i++) {
    if (host_stats(h).closed[code] >= count) return;
    usleep(1000);
  }
  CHECK(0, "%llu closed with code %u, not %llu", (unsigned long long)host_stats(h).closed[code],
        code, (unsigned long long)count);
}

/* ------------------------------------------------------------------ clients */

/* A blocking connection to the port of 127.0.0.1. */
static int tcp_connect(uint16_t port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  REQUIRE(fd >= 0, "no socket");
  REQUIRE(connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "cannot connect");
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

static inline void send_all(int fd, const void *bytes, size_t size) {
  const uint8_t *at = bytes;
  while (size > 0) {
    ssize_t done = send(fd, at, size, MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return; /* what it meant shows in what comes back */
    at += done;
    size -= (size_t)done;
  }
}

/* Receives so much, less only when the stream ends. Returns how much came. */
static inline size_t recv_all(int fd, void *bytes, size_t size) {
  size_t used = 0;
  while (used < size) {
    ssize_t done = recv(fd, (uint8_t *)bytes + used, size - used, 0);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) break;
    used += (size_t)done;
  }
  return used;
}

struct client {
  SSL *ssl;
  int fd;
};

/* Connects and shakes hands; `ssl` is NULL when that failed (then `fd` is closed). */
static inline struct client client_open(SSL_CTX *ctx, uint16_t port, SSL_SESSION *session,
                                        const char *name) {
  struct client c = {.ssl = SSL_new(ctx), .fd = tcp_connect(port)};
  SSL_set_fd(c.ssl, c.fd);
  if (session != NULL) SSL_set_session(c.ssl, session);
  if (name != NULL) SSL_set_tlsext_host_name(c.ssl, name);
  if (SSL_connect(c.ssl) == 1) return c;
  SSL_free(c.ssl);
  close(c.fd);
  ERR_clear_error();
  return (struct client){.fd = -1};
}

static inline void client_close(struct client *c) {
  if (c->ssl == NULL) return;
  SSL_shutdown(c->ssl);
  SSL_free(c->ssl);
  close(c->fd);
  *c = (struct client){.fd = -1};
}

/* A Longwire frame with `size` bytes of body that `seed` repeats. */
static uint8_t *frame_make(uint32_t size, uint64_t seed) {
  uint8_t *frame = malloc(5 + (size_t)size);
  REQUIRE(frame != NULL, "no memory");
  memcpy(frame, &size, 4);
  frame[4] = 2;
  for (uint32_t i = 0; i < size; i++) frame[5 + i] = (uint8_t)(random_u64(&seed) >> 56);
  return frame;
}

/* Reads exactly so much. Returns whether it came. */
static int client_read(struct client *c, uint8_t *out, size_t size) {
  while (size > 0) {
    size_t done = 0;
    if (SSL_read_ex(c->ssl, out, size, &done) != 1) return 0;
    out += done;
    size -= done;
  }
  return 1;
}

/* Sends a frame and gets it back. Returns whether it came, unchanged. */
static inline int client_echo(struct client *c, uint32_t size, uint64_t seed) {
  uint8_t *frame = frame_make(size, seed);
  uint8_t *back = malloc(5 + (size_t)size);
  size_t done = 0;
  int is_same = back != NULL && SSL_write_ex(c->ssl, frame, 5 + (size_t)size, &done) == 1 &&
                client_read(c, back, 5 + (size_t)size) &&
                memcmp(frame, back, 5 + (size_t)size) == 0;
  free(frame);
  free(back);
  return is_same;
}

#endif
