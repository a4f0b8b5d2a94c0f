/* The machine's bound: a loop that only broadcasts. It speaks just enough MQTT for load.c (answers
 * CONNECT, SUBSCRIBE, PINGREQ and QoS 1 publishes without looking further), knows topics by exact
 * name and writes what a publisher sent to every subscriber as it came: one read, one write for
 * each subscriber. No sessions, no queues, no limits: what a real service does comes on top.
 *
 *   raw PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "framing.h"

#define READ_BYTES (256u << 10)
#define EVENTS_MAX 1024
#define TOPICS_COUNT (1u << 20) /* power of two; the table never fills in a benchmark */
/* A subscriber that takes no bytes for this long is gone. */
#define WRITE_STALL_MS 5000

struct topic {
  uint64_t hash; /* 0 = free. Names with the same hash share their subscribers: 2^-64 */
  struct conn **subscribers;
  uint32_t count, capacity;
};

struct conn {
  int fd;
  struct topic *topic;
  uint32_t place; /* among the topic's subscribers */
  uint32_t partial_bytes;
  uint8_t *partial; /* a frame whose end has not come yet */
};

static struct topic topics[TOPICS_COUNT];
static uint8_t read_buffer[READ_BYTES];
static uint8_t answers[READ_BYTES];
static int epoll_fd;

static void fail(const char *what) {
  fprintf(stderr, "Cannot %s: %s\n", what, strerror(errno));
  exit(1);
}

/* FNV-1a. */
static struct topic *topic_find(const uint8_t *name, size_t size) {
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < size; i++) hash = (hash ^ name[i]) * 1099511628211u;
  if (hash == 0) hash = 1;
  uint32_t at = (uint32_t)hash & (TOPICS_COUNT - 1);
  while (topics[at].hash && topics[at].hash != hash) at = (at + 1) & (TOPICS_COUNT - 1);
  topics[at].hash = hash;
  return &topics[at];
}

static void topic_join(struct topic *t, struct conn *c) {
  if (t->count == t->capacity) {
    t->capacity = t->capacity ? t->capacity * 2 : 1;
    t->subscribers = realloc(t->subscribers, t->capacity * sizeof(struct conn *));
    if (!t->subscribers) fail("allocate");
  }
  c->topic = t;
  c->place = t->count;
  t->subscribers[t->count++] = c;
}

static void topic_leave(struct conn *c) {
  struct topic *t = c->topic;
  if (!t) return;
  struct conn *last = t->subscribers[--t->count];
  t->subscribers[c->place] = last;
  last->place = c->place;
  c->topic = NULL;
}

/* Waits when the socket is full: the load generator always reads, so this ends. */
static void write_all(struct conn *c, const uint8_t *bytes, size_t size) {
  while (size > 0) {
    ssize_t n = send(c->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      bytes += n;
      size -= (size_t)n;
      continue;
    }
    struct pollfd writable = {.fd = c->fd, .events = POLLOUT};
    if (errno != EAGAIN || poll(&writable, 1, WRITE_STALL_MS) <= 0) return;
  }
}

static void broadcast(const struct topic *t, const uint8_t *bytes, size_t size) {
  for (uint32_t i = 0; i < t->count; i++) write_all(t->subscribers[i], bytes, size);
}

/* Puts the answer to a frame behind `answer`; returns the new end. */
static uint8_t *frame_answer(struct conn *c, const uint8_t *frame, const uint8_t *body,
                             uint8_t *answer) {
  switch (frame[0] & 0xf0) {
  case MQTT_CONNECT:
    return put_bytes(answer, (const uint8_t[]){MQTT_CONNACK, 2, 0, 0}, 4);
  case MQTT_SUBSCRIBE & 0xf0: {
    size_t topic_bytes = get_u16_big(body + 2);
    topic_join(topic_find(body + 4, topic_bytes), c);
    const uint8_t ack[] = {MQTT_SUBACK, 3, body[0], body[1], body[4 + topic_bytes]};
    return put_bytes(answer, ack, sizeof ack);
  }
  case MQTT_PINGREQ:
    return put_bytes(answer, (const uint8_t[]){MQTT_PINGRESP, 0}, 2);
  }
  return answer;
}

/* Handles every whole frame; returns the bytes used, or -1 when the peer says goodbye. Publishes to
 * the same topic that lie side by side go out as they lie. */
static long consume(struct conn *c, const uint8_t *in, size_t size) {
  const struct topic *topic = NULL;
  size_t at = 0, run = 0;
  uint8_t *answer = answers;
  while (at < size) {
    struct frame f;
    size_t body_bytes;
    long used = mqtt_cut(in + at, size - at, &f);
    if (used < 0 || (in[at] & 0xf0) == MQTT_DISCONNECT) return -1;
    if (used == 0) break;
    struct topic *next = f.kind == FRAME_MESSAGE ? topic_find(f.topic, f.topic_bytes) : NULL;
    if (next != topic) {
      if (topic) broadcast(topic, in + run, at - run);
      topic = next;
      run = at;
    }
    if (next) {
      if (f.qos) answer += mqtt_ack(answer, f.packet_id);
    } else {
      long head = mqtt_get_head(in + at, size - at, &body_bytes);
      answer = frame_answer(c, in + at, in + at + head, answer);
    }
    at += (size_t)used;
  }
  if (topic) broadcast(topic, in + run, at - run);
  write_all(c, answers, (size_t)(answer - answers));
  return (long)at;
}

static void conn_close(struct conn *c) {
  topic_leave(c);
  close(c->fd);
  free(c->partial);
  free(c);
}

static void conn_readable(struct conn *c) {
  for (;;) {
    size_t kept = c->partial_bytes, asked = READ_BYTES - kept;
    ssize_t n = recv(c->fd, read_buffer + kept, asked, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return conn_close(c);
    if (kept) memcpy(read_buffer, c->partial, kept);
    size_t size = kept + (size_t)n;
    long used = consume(c, read_buffer, size);
    if (used < 0) return conn_close(c);
    c->partial_bytes = (uint32_t)(size - (size_t)used);
    if (c->partial_bytes) {
      if (!c->partial) c->partial = malloc(FRAME_BYTES_MAX);
      if (!c->partial) fail("allocate");
      memcpy(c->partial, read_buffer + used, c->partial_bytes);
    }
    if ((size_t)n < asked) return;
  }
}

static void accept_all(int listener) {
  const int on = 1;
  int fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    struct conn *c = calloc(1, sizeof *c);
    if (!c) fail("allocate");
    c->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("watch a connection");
  }
}

static int listen_on(uint16_t port) {
  const int on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("make a socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) fail("listen");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("watch the listener");
  return fd;
}

int main(int argc, char **argv) {
  static struct epoll_event events[EVENTS_MAX];
  struct rlimit files;
  int port = argc == 2 ? atoi(argv[1]) : 0;
  if (port <= 0 || port > 65535) {
    fprintf(stderr, "Usage: raw PORT\n");
    return 2;
  }
  /* It must not outlive the benchmark. */
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  int listener = listen_on((uint16_t)port);
  for (;;) {
    int n = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
    for (int i = 0; i < n; i++) {
      struct conn *c = events[i].data.ptr;
      if (!c) {
        accept_all(listener);
        continue;
      }
      if (events[i].events & (EPOLLHUP | EPOLLERR)) {
        conn_close(c);
        continue;
      }
      conn_readable(c);
    }
  }
}
