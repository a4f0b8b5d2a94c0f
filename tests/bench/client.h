/* Many device connections in one thread: edge-triggered epoll, one read buffer for all of them,
 * nothing allocated for a connection that keeps up. It knows connecting, subscribing, acknowledging
 * and leaving; what messages mean is its owner's, through two hooks. */
#ifndef LONGWIRE_BENCH_CLIENT_H
#define LONGWIRE_BENCH_CLIENT_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "framing.h"

#define READ_BYTES (256u << 10)
#define EVENTS_MAX 1024
/* With more connections of one source address the kernel's search for a free port slows sharply. */
#define CONNECTIONS_PER_SOURCE 8000u
/* From here up in 127.0.0.0/8: clear of the addresses that services listen on. */
#define SOURCE_FIRST 0x7f010001u
/* MQTT packet ids are 1 to 65535. */
#define PACKET_IDS 65535u

enum conn_state {
  CONN_CLOSED = 0,
  CONN_CONNECTING,
  CONN_GREETING, /* hello is sent */
  CONN_SUBSCRIBING,
  CONN_READY,
  CONN_LEAVING, /* goodbye is sent: the end of the connection is no news any more */
};

struct conn {
  int fd;
  uint8_t state;
  bool subscribes; /* false: a publisher, ready when it is welcome */
  uint32_t index;  /* the owner's: which device, pair or stream */
  uint32_t partial_bytes, partial_capacity;
  uint32_t out_bytes, out_capacity;
  uint8_t *partial;  /* a frame whose end has not come yet */
  uint8_t *out;      /* what the socket did not take */
  uint64_t sequence; /* subscriber: the next one expected */
  uint64_t acked;    /* publisher: messages acknowledged, in order */
  void *layer;       /* the transport's, between begin and end */
  char topic[TOPIC_BYTES_MAX];
};

/* How bytes reach the wire. Reading and writing answer like recv and send: -1 and EAGAIN when
 * nothing moves. */
struct transport {
  const char *name;
  int (*begin)(struct conn *c); /* when TCP is connected; -1 = it cannot. NULL = nothing to do */
  void (*end)(struct conn *c);  /* before the socket is closed; NULL = nothing to do */
  ssize_t (*read)(struct conn *c, void *out, size_t size);
  ssize_t (*write)(struct conn *c, const void *bytes, size_t size);
  bool short_read_is_end; /* less than asked for means that nothing is left */
  bool is_layered;        /* what was read may be what writing waited for */
};

/* Everything that went wrong or is counted for the connections of one client. */
struct client_counts {
  uint64_t ready;
  uint64_t renewed; /* connections that the server ended with an answer, as it may */
  uint64_t failed;  /* never became ready */
  uint64_t closed;  /* by the other side, after it was ready */
  uint64_t malformed;
  uint64_t refused; /* welcome or subscription answered with a refusal, or not as expected */
  uint64_t acks_out_of_order;
  uint64_t pings, pongs;
  uint64_t reads, writes;
};

struct client {
  const struct framing *framing;
  const struct transport *transport;
  const struct sockaddr_in *servers; /* connections take them in turn */
  uint32_t servers_count;
  uint32_t source_address; /* host order; of the first CONNECTIONS_PER_SOURCE connections */
  uint32_t client_tag;     /* makes client ids of different runs and processes differ */
  /* Devices whose sessions outlive their connections: ids are PREFIX-number. NULL = others: their
   * ids are made of the tag, and a run leaves nothing behind. */
  const char *id_prefix;
  uint32_t id_first, id_step;
  bool expects_session; /* those devices were here before */
  uint16_t keepalive_s;
  uint8_t qos;
  int epoll_fd;
  struct conn *conns;
  uint32_t conns_count, opened;
  uint32_t connecting, connecting_max;
  int last_errno; /* of the newest failure */
  struct client_counts counts;
  void *owner;
  void (*on_message)(struct client *cl, struct conn *c, const struct frame *f, uint64_t now_ns);
  void (*on_ack)(struct client *cl, struct conn *c);
  void (*on_ready)(struct client *cl, struct conn *c); /* NULL = nobody asks */
  uint8_t read_buffer[READ_BYTES];
  uint8_t ack_buffer[READ_BYTES]; /* an acknowledgement is never longer than its message */
};

static inline uint64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (memory) return memory;
  fprintf(stderr, "Cannot allocate %zu x %zu bytes\n", count, size);
  exit(2);
}

/* Keeps `size` bytes in a buffer that grows to what was needed once and stays. */
static inline void keep_bytes(uint8_t **buffer, uint32_t *used, uint32_t *capacity,
                              const uint8_t *bytes, size_t size) {
  if (*used + size > *capacity) {
    uint32_t wanted = *capacity ? *capacity : 512;
    while (wanted < *used + size) wanted *= 2;
    *buffer = realloc(*buffer, wanted);
    if (!*buffer) {
      fprintf(stderr, "Cannot allocate %u bytes\n", wanted);
      exit(2);
    }
    *capacity = wanted;
  }
  memmove(*buffer + *used, bytes, size);
  *used += (uint32_t)size;
}

/* ------------------------------------------------------------------ plain TCP */

static ssize_t plain_read(struct conn *c, void *out, size_t size) {
  return recv(c->fd, out, size, MSG_DONTWAIT);
}

static ssize_t plain_write(struct conn *c, const void *bytes, size_t size) {
  return send(c->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static const struct transport transport_plain = {
    .name = "tcp", .read = plain_read, .write = plain_write, .short_read_is_end = true};

/* ------------------------------------------------------------------ life of a connection */

static inline void conn_close(struct client *cl, struct conn *c, int why_errno) {
  if (c->state == CONN_CLOSED) return;
  if (c->state == CONN_READY) cl->counts.closed++;
  if (c->state != CONN_READY && c->state != CONN_LEAVING) {
    cl->counts.failed++;
    cl->connecting--;
  }
  if (c->state != CONN_LEAVING && why_errno) cl->last_errno = why_errno;
  c->state = CONN_CLOSED;
  if (c->layer) cl->transport->end(c);
  close(c->fd);
  free(c->partial);
  free(c->out);
  c->partial = c->out = NULL;
  c->partial_bytes = c->partial_capacity = c->out_bytes = c->out_capacity = 0;
}

static inline void conn_ready(struct client *cl, struct conn *c) {
  c->state = CONN_READY;
  cl->counts.ready++;
  cl->connecting--;
  if (cl->on_ready) cl->on_ready(cl, c);
}

/* Sends now what the socket takes and keeps the rest: order is never lost. */
static inline void conn_send(struct client *cl, struct conn *c, const uint8_t *bytes, size_t size) {
  if (c->state == CONN_CLOSED || size == 0) return;
  size_t sent = 0;
  if (c->out_bytes == 0) {
    ssize_t n = cl->transport->write(c, bytes, size);
    cl->counts.writes++;
    if (n < 0 && errno != EAGAIN) return conn_close(cl, c, errno);
    if (n > 0) sent = (size_t)n;
  }
  if (sent < size) {
    keep_bytes(&c->out, &c->out_bytes, &c->out_capacity, bytes + sent, size - sent);
  }
}

static inline void conn_flush(struct client *cl, struct conn *c) {
  size_t sent = 0;
  while (sent < c->out_bytes) {
    ssize_t n = cl->transport->write(c, c->out + sent, c->out_bytes - sent);
    cl->counts.writes++;
    if (n < 0 && errno != EAGAIN) return conn_close(cl, c, errno);
    if (n <= 0) break;
    sent += (size_t)n;
  }
  memmove(c->out, c->out + sent, c->out_bytes - sent);
  c->out_bytes -= (uint32_t)sent;
}

static inline void conn_greet(struct client *cl, struct conn *c) {
  char client_id[64];
  uint8_t frame[512];
  uint32_t number = (uint32_t)(c - cl->conns);
  if (!cl->framing->hello) return conn_ready(cl, c);
  if (cl->id_prefix) {
    snprintf(client_id, sizeof client_id, "%.32s-%u", cl->id_prefix,
             cl->id_first + number * cl->id_step);
  } else {
    snprintf(client_id, sizeof client_id, "lw%08x-%x", cl->client_tag, number);
  }
  c->state = CONN_GREETING;
  bool clean = cl->id_prefix == NULL;
  conn_send(cl, c, frame, cl->framing->hello(frame, client_id, cl->keepalive_s, clean));
}

/* Opens a connection; its life goes on in the loop. */
static inline void client_open(struct client *cl, struct conn *c) {
  uint32_t number = (uint32_t)(c - cl->conns);
  const int on = 1;
  struct sockaddr_in source = {.sin_family = AF_INET};
  source.sin_addr.s_addr = htonl(cl->source_address + number / CONNECTIONS_PER_SOURCE);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) {
    cl->last_errno = errno;
    cl->counts.failed++;
    return;
  }
  c->state = CONN_CONNECTING;
  cl->connecting++;
  /* The port is then chosen when the destination is known, so 8,000 connections do not use up the
   * ports of their address. */
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (bind(c->fd, (struct sockaddr *)&source, sizeof source)) return conn_close(cl, c, errno);
  const struct sockaddr_in *server = &cl->servers[number % cl->servers_count];
  int result = connect(c->fd, (const struct sockaddr *)server, sizeof *server);
  if (result && errno != EINPROGRESS) return conn_close(cl, c, errno);
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
  if (epoll_ctl(cl->epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) conn_close(cl, c, errno);
}

/* The server ends the connection after its answer: the next message goes over another. */
static inline void conn_renew(struct client *cl, struct conn *c) {
  c->state = CONN_LEAVING;
  conn_close(cl, c, 0);
  cl->counts.ready--;
  cl->counts.renewed++;
  client_open(cl, c);
}

/* ------------------------------------------------------------------ reading */

static inline void conn_welcome(struct client *cl, struct conn *c, const struct frame *f) {
  uint8_t frame[512];
  if (f->code || f->session_present != cl->expects_session) {
    cl->counts.refused++;
    return conn_close(cl, c, EACCES);
  }
  if (!c->subscribes) return conn_ready(cl, c);
  c->state = CONN_SUBSCRIBING;
  conn_send(cl, c, frame, cl->framing->subscribe(frame, c->topic, cl->qos));
}

static inline void conn_subscribed(struct client *cl, struct conn *c, const struct frame *f) {
  if (f->code == cl->qos) return conn_ready(cl, c);
  cl->counts.refused++;
  conn_close(cl, c, EACCES);
}

/* Acknowledgements come in the order of the messages [MQTT-4.6.0-2]. */
static inline void conn_acked(struct client *cl, struct conn *c, const struct frame *f) {
  bool is_expected = f->packet_id == c->acked % PACKET_IDS + 1;
  if (cl->framing->acks_have_ids && !is_expected) cl->counts.acks_out_of_order++;
  c->acked++;
  if (cl->on_ack) cl->on_ack(cl, c);
}

/* Handles every whole frame; returns the bytes used, or -1 when the connection was closed. */
static inline long conn_consume(struct client *cl, struct conn *c, const uint8_t *in, size_t size,
                                uint64_t now_ns) {
  size_t at = 0, ack_bytes = 0;
  while (at < size) {
    struct frame f;
    long used = cl->framing->cut(in + at, size - at, &f);
    if (used == 0) break;
    if (used < 0) {
      cl->counts.malformed++;
      conn_close(cl, c, EPROTO);
      return -1;
    }
    at += (size_t)used;
    if (f.kind == FRAME_MESSAGE) {
      cl->on_message(cl, c, &f, now_ns);
      if (f.qos) ack_bytes += cl->framing->ack(cl->ack_buffer + ack_bytes, f.packet_id);
    } else if (f.kind == FRAME_ACK) {
      conn_acked(cl, c, &f);
      if (f.is_last) {
        conn_renew(cl, c);
        return -1;
      }
    } else if (f.kind == FRAME_PONG) {
      cl->counts.pongs++;
    } else if (f.kind == FRAME_WELCOME && c->state == CONN_GREETING) {
      conn_welcome(cl, c, &f);
    } else if (f.kind == FRAME_SUBSCRIBED && c->state == CONN_SUBSCRIBING) {
      conn_subscribed(cl, c, &f);
    } else {
      cl->counts.malformed++;
      conn_close(cl, c, EPROTO);
    }
    if (c->state == CONN_CLOSED) return -1;
  }
  /* All acknowledgements of one read leave in one write. */
  conn_send(cl, c, cl->ack_buffer, ack_bytes);
  return c->state == CONN_CLOSED ? -1 : (long)at;
}

static inline void conn_readable(struct client *cl, struct conn *c) {
  for (;;) {
    size_t kept = c->partial_bytes;
    size_t asked = READ_BYTES - kept;
    ssize_t n = cl->transport->read(c, cl->read_buffer + kept, asked);
    cl->counts.reads++;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return conn_close(cl, c, n < 0 ? errno : ECONNRESET);
    if (kept) memcpy(cl->read_buffer, c->partial, kept);
    c->partial_bytes = 0;
    size_t size = kept + (size_t)n;
    long used = conn_consume(cl, c, cl->read_buffer, size, monotonic_ns());
    if (used < 0) return;
    if ((size_t)used < size) {
      keep_bytes(&c->partial, &c->partial_bytes, &c->partial_capacity, cl->read_buffer + used,
                 size - (size_t)used);
    }
    if ((size_t)n < asked && cl->transport->short_read_is_end) return;
  }
}

/* ------------------------------------------------------------------ the loop */

static inline void client_event(struct client *cl, struct conn *c, uint32_t events) {
  if (c->state == CONN_CLOSED) return;
  if (c->state == CONN_CONNECTING) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return conn_close(cl, c, error);
    if (!(events & EPOLLOUT)) return;
    if (cl->transport->begin && cl->transport->begin(c) != 0) return conn_close(cl, c, ENOMEM);
    conn_greet(cl, c);
    return;
  }
  if (events & EPOLLOUT && c->out_bytes) conn_flush(cl, c);
  if (c->state == CONN_CLOSED || !(events & ~(uint32_t)EPOLLOUT)) return;
  conn_readable(cl, c);
  if (cl->transport->is_layered && c->state != CONN_CLOSED && c->out_bytes) conn_flush(cl, c);
  /* An orderly end after the last bytes makes no new edge: look once more. */
  if (c->state != CONN_CLOSED && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) conn_readable(cl, c);
}

/* Waits at most wait_ms for events and handles them; keeps some connections opening. */
static inline void client_turn(struct client *cl, int wait_ms) {
  static struct epoll_event events[EVENTS_MAX];
  while (cl->connecting < cl->connecting_max && cl->opened < cl->conns_count)
    client_open(cl, &cl->conns[cl->opened++]);
  int n = epoll_wait(cl->epoll_fd, events, EVENTS_MAX, wait_ms);
  for (int i = 0; i < n; i++) {
    if (events[i].data.ptr) client_event(cl, events[i].data.ptr, events[i].events);
  }
}

static inline bool client_settled(const struct client *cl) {
  return cl->opened == cl->conns_count && cl->connecting == 0;
}

/* Says goodbye and waits a little for the other side to close, so that its log stays clean and its
 * connections are gone before the next run. */
static inline void client_leave(struct client *cl, uint64_t wait_ms) {
  uint8_t frame[16];
  size_t size = cl->framing->goodbye(frame);
  const struct linger reset = {.l_onoff = 1, .l_linger = 0};
  uint64_t deadline_ns = monotonic_ns() + wait_ms * 1000000u;
  uint32_t left = 0;
  cl->opened = cl->conns_count;
  for (uint32_t i = 0; i < cl->conns_count; i++) {
    struct conn *c = &cl->conns[i];
    if (c->state == CONN_READY) {
      c->state = CONN_LEAVING;
      conn_send(cl, c, frame, size);
    } else {
      conn_close(cl, c, ETIMEDOUT);
    }
  }
  do {
    client_turn(cl, 10);
    while (left < cl->conns_count && cl->conns[left].state == CONN_CLOSED) left++;
  } while (left < cl->conns_count && monotonic_ns() < deadline_ns);
  for (; left < cl->conns_count; left++) {
    struct conn *c = &cl->conns[left];
    /* A reset leaves no port in TIME_WAIT. */
    if (c->state != CONN_CLOSED) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    conn_close(cl, c, 0);
  }
  close(cl->epoll_fd);
}

#endif
