/* Admission through real sockets: who is over a limit hears so, everybody else is served; and one
 * that floods does not make the others wait. */
#ifndef LONGWIRE_TESTS_ENTRANCE_LIMITS_H
#define LONGWIRE_TESTS_ENTRANCE_LIMITS_H

#include "entrance_proxy.h"

/* A connection from 127.0.0.`last` that has sent a frame. */
static int connect_from(unsigned last, uint16_t port) {
  struct sockaddr_in from = {.sin_family = AF_INET};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  from.sin_addr.s_addr = htonl(0x7f000000u + last);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  REQUIRE(bind(fd, (struct sockaddr *)&from, sizeof from) == 0, "cannot bind");
  REQUIRE(connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "cannot connect");
  send_all(fd, small_frame, sizeof small_frame);
  return fd;
}

enum answer { ANSWER_NONE, ANSWER_ECHO, ANSWER_BUSY };

/* What such a connection got. "busy" must be followed by an orderly end. */
static enum answer answer_of(int fd) {
  uint8_t answer[8];
  size_t size = recv_all(fd, answer, sizeof answer);
  if (size == sizeof answer && memcmp(answer, small_frame, sizeof answer) == 0) return ANSWER_ECHO;
  return size == 4 && memcmp(answer, "busy", 4) == 0 ? ANSWER_BUSY : ANSWER_NONE;
}

struct answers {
  int fds[600];
  uint32_t count;
  uint32_t echoes;
};

static void answers_add(struct answers *a, uint32_t count, unsigned last, uint16_t port) {
  uint32_t end = a->count + count;
  for (; a->count < end; a->count++) a->fds[a->count] = connect_from(last, port);
}

/* Reads all answers and closes; returns how many were echoes. */
static uint32_t answers_take(struct answers *a) {
  a->echoes = 0;
  for (uint32_t i = 0; i < a->count; i++) {
    enum answer answer = answer_of(a->fds[i]);
    CHECK(answer != ANSWER_NONE, "connection %u got no answer", i);
    a->echoes += answer == ANSWER_ECHO;
  }
  while (a->count > 0) close(a->fds[--a->count]);
  return a->echoes;
}

static void limited_open(struct host *h, const struct lw_options *options, uint16_t *port) {
  host_open(h, options);
  *port = host_listen(h, LW_PROTOCOL_LONGWIRE, 0, 0);
  host_start(h);
}

static void test_rate_of_all(void) {
  struct lw_options options = host_options;
  static struct host h;
  static struct answers a;
  uint16_t port;
  options.connects_per_s = 20;
  options.linger_ms = 3000;
  limited_open(&h, &options, &port);
  uint64_t begin_us = monotonic_us_now();
  answers_add(&a, 200, 1, port);
  uint32_t echoes = answers_take(&a);
  uint32_t most = 20 + (uint32_t)((monotonic_us_now() - begin_us) / 50000) + 1;
  CHECK(echoes >= 20 && echoes <= most, "%u were let in, %u may be", echoes, most);
  await_closed(&h, LW_CODE_CONNECT_RATE, 200 - echoes);
  usleep(1100 * 1000);
  answers_add(&a, 10, 1, port);
  CHECK(answers_take(&a) == 10, "a second later not all were let in");
  host_close(&h);
}

static void test_rate_of_sources(void) {
  struct lw_options options = host_options;
  static struct host h;
  static struct answers a;
  uint16_t port;
  options.connects_per_source_per_s = 5;
  limited_open(&h, &options, &port);
  uint64_t begin_us = monotonic_us_now();
  answers_add(&a, 8, 2, port);
  answers_add(&a, 5, 3, port);
  answers_add(&a, 6, 4, port);
  uint32_t echoes = answers_take(&a);
  uint32_t most = 15 + 3 * (1 + (uint32_t)((monotonic_us_now() - begin_us) / 200000));
  CHECK(echoes >= 15 && echoes <= most, "%u were let in, not 15 to %u", echoes, most);
  await_closed(&h, LW_CODE_SOURCE_RATE, 19 - echoes);
  host_close(&h);
}

static void test_count_of_sources(void) {
  struct lw_options options = host_options;
  static struct host h;
  static struct answers a;
  uint16_t port;
  options.connections_per_source = 3;
  limited_open(&h, &options, &port);
  for (int round = 0; round < 3; round++) {
    answers_add(&a, 5, 2, port); /* two too many */
    answers_add(&a, 3, 3, port);
    CHECK(answers_take(&a) == 6, "%u were let in, not 6", a.echoes);
    await_closed(&h, LW_CODE_SOURCE_LIMIT, 2 * (uint64_t)(round + 1));
    await_closed(&h, LW_CODE_PEER_CLOSED, 6 * (uint64_t)(round + 1)); /* and then places are free */
  }
  host_close(&h);
}

/* Behind a balancer the device's address counts, not the balancer's; over TLS an alert answers. */
static void test_sources_behind_proxy(void) {
  struct lw_options options = host_options;
  static struct site s;
  uint16_t port;
  int fds[4];
  static const char first[] = "PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n";
  static const char second[] = "PROXY TCP4 192.0.2.2 192.0.2.9 1 2\r\n";
  options.connections_per_source = 2;
  proxied_open(&s, &options, &loopback, &port);
  for (int i = 0; i < 4; i++) {
    const char *header = i < 3 ? first : second;
    fds[i] = tcp_connect(port);
    send_all(fds[i], header, strlen(header));
    send_all(fds[i], small_frame, sizeof small_frame);
    enum answer answer = answer_of(fds[i]);
    CHECK(answer == (i == 2 ? ANSWER_BUSY : ANSWER_ECHO), "connection %d got %d", i, answer);
  }
  int fd = tcp_connect(s.longwire_port);
  uint8_t alert[8];
  send_all(fd, first, strlen(first));
  CHECK(recv_all(fd, alert, sizeof alert) == 7 && alert[0] == 21 && alert[6] == 80, "no alert");
  close(fd);
  for (int i = 0; i < 4; i++) close(fds[i]);
  await_closed(&s.host, LW_CODE_SOURCE_LIMIT, 2);
  site_close(&s);
}

/* Many more than are told so at one time: the rest are not waited for, and nobody is left over. */
static void test_crowd(void) {
  struct lw_options options = host_options;
  static struct host h;
  static struct answers a;
  uint16_t port;
  uint32_t answered = 0;
  options.connections_max = 10;
  options.thread_count = 1;
  limited_open(&h, &options, &port);
  answers_add(&a, 600, 1, port);
  for (uint32_t i = 0; i < a.count; i++) {
    answered += answer_of(a.fds[i]) != ANSWER_NONE;
    close(a.fds[i]);
  }
  CHECK(answered >= 10 + 100, "%u of 600 were answered", answered);
  await_closed(&h, LW_CODE_PEER_CLOSED, 10);
  /* Where a ring's table is full (io_uring), the kernel drops one before it says so. */
  await_closed(&h, LW_CODE_CONNECTION_LIMIT, 580);
  host_close(&h);
}

/* ------------------------------------------------------------------ fairness */

struct flood {
  pthread_t writer;
  pthread_t reader;
  int fd;
  int is_heartbeats; /* answered by the I/O thread; else frames for the host */
  atomic_int is_over;
  atomic_ullong bytes;
};

static void *flood_write(void *argument) {
  struct flood *f = argument;
  static const uint8_t beat[5] = {0, 0, 0, 0, 1};
  uint8_t bytes[40000];
  size_t used = 0;
  while (used + sizeof small_frame <= sizeof bytes) {
    size_t size = f->is_heartbeats ? sizeof beat : sizeof small_frame;
    memcpy(bytes + used, f->is_heartbeats ? beat : small_frame, size);
    used += size;
  }
  while (!atomic_load(&f->is_over)) {
    send_all(f->fd, bytes, used);
    atomic_fetch_add(&f->bytes, used);
  }
  return NULL;
}

static void *flood_read(void *argument) {
  struct flood *f = argument;
  static uint8_t bytes[1 << 16];
  while (recv(f->fd, bytes, sizeof bytes, 0) > 0) {
  }
  return NULL;
}

static int compare_u64(const void *a, const void *b) {
  const uint64_t *left = a;
  const uint64_t *right = b;
  return (*left > *right) - (*left < *right);
}

#define FAIR_ROUNDS 60

/* One connection sends without end, on the one I/O thread that there is: another's frames come back
 * all the same, and soon (ffi/internal.h, READ_TURN_BYTES). */
static void test_flood(int is_heartbeats) {
  struct lw_options options = host_options;
  static struct host h;
  uint16_t port;
  uint64_t times_us[FAIR_ROUNDS];
  options.thread_count = 1;
  options.out_queue_hard_bytes = 256 << 20; /* the flood shall go on, however slowly it reads */
  limited_open(&h, &options, &port);
  struct flood f = {.fd = connect_from(2, port), .is_heartbeats = is_heartbeats};
  CHECK(answer_of(f.fd) == ANSWER_ECHO, "no echo");
  int fd = connect_from(3, port);
  CHECK(answer_of(fd) == ANSWER_ECHO, "no echo");
  pthread_create(&f.writer, NULL, flood_write, &f);
  pthread_create(&f.reader, NULL, flood_read, &f);
  usleep(300 * 1000);
  uint64_t bytes = atomic_load(&f.bytes);
  for (int i = 0; i < FAIR_ROUNDS; i++) {
    uint64_t begin_us = monotonic_us_now();
    send_all(fd, small_frame, sizeof small_frame);
    CHECK(answer_of(fd) == ANSWER_ECHO, "round %d: no echo", i);
    times_us[i] = monotonic_us_now() - begin_us;
  }
  CHECK(atomic_load(&f.bytes) > bytes, "the flood had stopped");
  qsort(times_us, FAIR_ROUNDS, sizeof times_us[0], compare_u64);
  printf("beside a flood of %s: median %llu us, worst %llu us\n",
         is_heartbeats ? "heartbeats" : "frames", (unsigned long long)times_us[FAIR_ROUNDS / 2],
         (unsigned long long)times_us[FAIR_ROUNDS - 1]);
  /* A turn is some milliseconds; being starved is for ever. */
  CHECK(times_us[FAIR_ROUNDS / 2] < 5000 * 1000, "a frame takes %llu us",
        (unsigned long long)times_us[FAIR_ROUNDS / 2]);
  atomic_store(&f.is_over, 1);
  shutdown(f.fd, SHUT_RDWR);
  pthread_join(f.writer, NULL);
  pthread_join(f.reader, NULL);
  close(f.fd);
  close(fd);
  host_close(&h);
}

#endif
