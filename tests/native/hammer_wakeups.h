/* One connection and one question at a time: with nothing else going on, a wakeup that is lost
 * between the threads is an answer that never comes. */
#ifndef LONGWIRE_TESTS_HAMMER_WAKEUPS_H
#define LONGWIRE_TESTS_HAMMER_WAKEUPS_H

#include "hammer_client.h"
#include "hammer_host_loop.h"

#define WAKEUP_ROUNDS 3000u
#define WAKEUP_PATIENCE_MS 10000
/* Several times what the ring holds, and more than one turn reads of it, while the host looks away.
 */
#define WAKEUP_FLOOD_BYTES (2u << 20)

struct questions {
  uint16_t port;
  uint64_t seed;
};

static void spin(uint32_t count) {
  for (volatile uint32_t i = 0; i < count; i++) continue;
}

/* Asks, waits for the answer, asks again. */
static void *questions_run(void *argument) {
  struct questions *q = argument;
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(q->port)};
  struct timeval patience = {.tv_sec = WAKEUP_PATIENCE_MS / 1000};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  REQUIRE(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "errno %d", errno);
  for (uint32_t round = 0; round < WAKEUP_ROUNDS; round++) {
    const uint8_t question[6] = {1, 0, 0, 0, LONGWIRE_HELLO, (uint8_t)round};
    uint8_t answer[6] = {0};
    ssize_t sent = send(fd, question, sizeof question, MSG_NOSIGNAL);
    ssize_t size = recv(fd, answer, sizeof answer, MSG_WAITALL);
    CHECK(sent == 6 && size == 6 && answer[5] == (uint8_t)round, "round %u: %zd bytes", round,
          size);
    if (size != 6) break;
    spin(random_below(&q->seed, 3000));
  }
  static const uint8_t silent[1024] = {0xfb, 3, 0, 0, 8}; /* wants no answer */
  for (uint32_t sent = 0; sent < WAKEUP_FLOOD_BYTES; sent += sizeof silent) {
    ssize_t size = send(fd, silent, sizeof silent, MSG_NOSIGNAL);
    REQUIRE(size == sizeof silent, "%zd bytes sent, errno %d", size, errno);
  }
  close(fd);
  return NULL;
}

struct answers {
  struct commands commands;
  uint32_t count;
  uint32_t silent_bytes;
  int is_closed;
};

static void answers_take(void *owner, const struct lw_event *event) {
  struct answers *a = owner;
  if (event->type == LW_EVENT_CLOSED) {
    a->is_closed = 1;
    command_plain(&a->commands, LW_COMMAND_RELEASE, handle_of(event));
  } else if (event->type == LW_EVENT_ENDED) {
    command_close(&a->commands, handle_of(event), LW_CODE_PEER_CLOSED);
  } else if (event->body_size > 6) {
    a->silent_bytes += event->body_size;
  } else if (event->type == LW_EVENT_FRAME) {
    if (event->code == 1) command_activate(&a->commands, handle_of(event), 0, 0, 0);
    command_send(&a->commands, handle_of(event), event + 1, event->body_size);
    a->count++;
  }
}

static void hammer_wakeups(uint64_t seed) {
  struct answers a = {.count = 0};
  struct lw_reactor *r;
  struct lw_options options = hammer_options;
  options.thread_count = 1;
  options.ring_bytes = 512 << 10;
  int error = lw_open(&options, &r);
  REQUIRE(error == 0, "lw_open returned %d", error);
  struct questions q = {.port = hammer_listen(r, LW_PROTOCOL_LONGWIRE), .seed = seed};
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, questions_run, &q) == 0, "no thread");
  while (!a.is_closed) {
    int found = lw_wait(r, WAKEUP_PATIENCE_MS);
    CHECK(found, "after %u answers nothing more is heard", a.count);
    if (!found) break;
    if (a.count == WAKEUP_ROUNDS) sleep_ms(20);
    events_walk(r, answers_take, &a);
    spin(random_below(&seed, 3000));
    commands_submit(&a.commands, r);
  }
  CHECK(a.count == WAKEUP_ROUNDS, "%u questions", a.count);
  CHECK(a.silent_bytes == WAKEUP_FLOOD_BYTES, "%u bytes of the flood", a.silent_bytes);
  pthread_join(thread, NULL);
  lw_close(r);
  free(a.commands.bytes);
}

#endif
