/* What happens when the process has no descriptors left: who connects is told so and closed, not
 * left to rot in the backlog, and who is connected stays. */
#ifndef LONGWIRE_TESTS_HAMMER_DESCRIPTORS_H
#define LONGWIRE_TESTS_HAMMER_DESCRIPTORS_H

#include <poll.h>
#include <sys/resource.h>

#include "hammer_client.h"

#define CONNECTING 30u
#define SPARE_DESCRIPTORS 10u

/* The limit that leaves so many: descriptors are given from below. */
static rlim_t descriptor_limit(uint32_t spare) {
  rlim_t limit = 0;
  for (uint32_t free_count = 0; free_count < spare; limit++) {
    free_count += fcntl((int)limit, F_GETFD) < 0;
  }
  return limit;
}

/* How many are told that there is no place, and then closed. */
static uint32_t count_refused(const int *fds, uint32_t count) {
  uint32_t refused = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint8_t words[8];
    struct pollfd p = {.fd = fds[i], .events = POLLIN};
    if (poll(&p, 1, i == 0 ? 1000 : 50) != 1) continue;
    ssize_t size = recv(fds[i], words, sizeof words, MSG_WAITALL);
    CHECK(size == 5 && memcmp(words, busy_words[0], 5) == 0, "%zd bytes of an answer", size);
    refused++;
  }
  return refused;
}

static void hammer_without_descriptors(void) {
  if (strcmp(lw_backend(), "uring") == 0) return; /* its connections take none */
  struct lw_reactor *r;
  struct lw_options options = hammer_options;
  options.thread_count = 1;
  int error = lw_open(&options, &r);
  REQUIRE(error == 0, "lw_open returned %d", error);
  uint16_t port = hammer_listen(r, LW_PROTOCOL_LONGWIRE);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fds[CONNECTING];
  for (uint32_t i = 0; i < CONNECTING; i++) {
    fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fds[i] >= 0, "socket: errno %d", errno);
  }
  struct rlimit before, now;
  getrlimit(RLIMIT_NOFILE, &before);
  now = before;
  now.rlim_cur = descriptor_limit(SPARE_DESCRIPTORS);
  setrlimit(RLIMIT_NOFILE, &now);
  /* From here on only the reactor takes descriptors: nobody takes the one that it keeps for this.
   */
  for (uint32_t i = 0; i < CONNECTING; i++) {
    CHECK(connect(fds[i], (struct sockaddr *)&to, sizeof to) == 0, "connect: errno %d", errno);
  }
  uint32_t refused = count_refused(fds, CONNECTING);
  setrlimit(RLIMIT_NOFILE, &before);
  struct lw_stats stats;
  lw_stats(r, &stats);
  CHECK(refused == CONNECTING - SPARE_DESCRIPTORS, "%u refused", refused);
  CHECK(stats.connections == SPARE_DESCRIPTORS, "%u stay", (unsigned)stats.connections);
  CHECK(stats.closed[LW_CODE_NO_MEMORY] == refused, "%u closed",
        (unsigned)stats.closed[LW_CODE_NO_MEMORY]);
  for (uint32_t i = 0; i < CONNECTING; i++) close(fds[i]);
  lw_close(r);
}

#endif
