/* How long a service's event loop is away: asks GET /healthz every few milliseconds over one
 * connection and keeps the times of the answers, until standard input ends. Then it prints one line
 * of JSON. `late_us` is by how much the probe itself woke too late: what this machine makes anybody
 * wait, so what an answer took beyond that is the service's.
 *
 *   probe 127.0.0.1:8080 10
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

/* A service that does not answer for so long is given up. */
#define ANSWER_S_MAX 120

static const char request[] = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

static uint64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int fail(const char *what) {
  fprintf(stderr, "Cannot %s: %s\n", what, strerror(errno));
  return -1;
}

static int connect_to(const char *address) {
  struct sockaddr_in server = {.sin_family = AF_INET};
  const struct timeval limit = {.tv_sec = ANSWER_S_MAX};
  const int on = 1;
  char host[64];
  unsigned port;
  if (sscanf(address, "%63[0-9.]:%u", host, &port) != 2 || port > 65535 ||
      inet_pton(AF_INET, host, &server.sin_addr) != 1) {
    errno = EINVAL;
    return fail("use the address");
  }
  server.sin_port = htons((uint16_t)port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail("open a socket");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (connect(fd, (struct sockaddr *)&server, sizeof server)) return fail("connect");
  return fd;
}

/* One request and its answer, which is so short that it comes in one piece. */
static int ask(int fd) {
  static char answer[16384];
  if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1) return -1;
  ssize_t size = recv(fd, answer, sizeof answer - 1, 0);
  if (size <= 0) return -1;
  answer[size] = 0;
  return strncmp(answer, "HTTP/1.1 200", 12) ? -1 : 0;
}

/* Waits until `until_ns`; answers whether standard input is still open. */
static int wait_until(uint64_t until_ns) {
  struct pollfd input = {.fd = 0, .events = POLLIN};
  uint64_t now_ns = monotonic_ns();
  uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
  struct timespec left = {(time_t)(left_ns / 1000000000u), (long)(left_ns % 1000000000u)};
  char rest[64];
  if (ppoll(&input, 1, &left, NULL) <= 0) return 1;
  return read(0, rest, sizeof rest) > 0;
}

static void print_histogram(const char *name, const struct histogram *h) {
  printf("\"%s\":{\"samples\":%llu,\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name,
         (unsigned long long)h->total, (double)histogram_percentile_ns(h, 0.5) / 1e3,
         (double)histogram_percentile_ns(h, 0.99) / 1e3,
         (double)histogram_percentile_ns(h, 0.999) / 1e3, (double)h->max_ns / 1e3);
}

int main(int argc, char **argv) {
  static struct histogram answers, late;
  uint64_t interval_ns = argc > 2 ? strtoull(argv[2], NULL, 10) * 1000000u : 0;
  if (argc != 3 || interval_ns == 0) {
    fprintf(stderr, "Usage: probe 127.0.0.1:8080 interval_ms\n");
    return 2;
  }
  int fd = connect_to(argv[1]);
  if (fd < 0) return 2;
  uint64_t due_ns = monotonic_ns();
  while (wait_until(due_ns)) {
    uint64_t sent_ns = monotonic_ns();
    if (due_ns <= sent_ns) histogram_record(&late, sent_ns - due_ns);
    if (ask(fd)) {
      fail("get an answer");
      break;
    }
    uint64_t now_ns = monotonic_ns();
    histogram_record(&answers, now_ns - sent_ns);
    due_ns += interval_ns;
    if (due_ns < now_ns) due_ns = now_ns + interval_ns;
  }
  printf("{");
  print_histogram("answer_us", &answers);
  printf(",");
  print_histogram("late_us", &late);
  printf("}\n");
  return 0;
}
