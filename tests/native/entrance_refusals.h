/* Who is over a limit is told so in the words of the MQTT that it speaks, as soon as it has said
 * which; whoever says nothing, or goes, costs no more than its place for a while. */
#ifndef LONGWIRE_TESTS_ENTRANCE_REFUSALS_H
#define LONGWIRE_TESTS_ENTRANCE_REFUSALS_H

#include "entrance_limits.h"

struct refusal_case {
  const char *bytes;
  uint32_t size;
  const char *answer;
};

#define BUSY_OF_4 "busy"
#define BUSY_OF_5 "\x20\x03*5\x97"

/* Version 3.1.1 and 5, remaining lengths of one and four bytes; no CONNECT, and none at all. */
static const struct refusal_case refusal_cases[] = {
    {"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", 14, BUSY_OF_4},
    {"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00", 15, BUSY_OF_5},
    {"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05", 12, BUSY_OF_5},
    {"\x10\xff\xff\xff\xff\x00\x04MQTT\x05", 12, BUSY_OF_4},
    {"\x10\x0c\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00", 16, BUSY_OF_4},
    {"\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00", 15, BUSY_OF_4},
    {"GET / HTTP/1.1\r\n", 16, BUSY_OF_4},
    {"\x10\x0d\x00\x04MQ", 6, BUSY_OF_4},
    {"", 0, BUSY_OF_4},
};

static void refusals_open(struct host *h, uint16_t *port) {
  struct lw_options options = host_options;
  options.connections_max = 1;
  options.linger_ms = 300;
  host_open(h, &options);
  struct lw_listen_options o = {.size = sizeof o,
                                .protocol = LW_PROTOCOL_MQTT,
                                .busy_size = 4,
                                .busy = BUSY_OF_4,
                                .busy5_size = 5,
                                .busy5_reason_at = 4,
                                .busy5 = "\x20\x03*5?",
                                .address = "127.0.0.1"};
  o.reasons[LW_CODE_CONNECTION_LIMIT] = 0x97;
  int made = lw_listen(h->r, &o);
  REQUIRE(made > 0, "lw_listen returned %d", made);
  *port = (uint16_t)made;
  host_start(h);
}

/* Waits until that many connections are open. */
static void await_open(struct host *h, uint64_t count) {
  for (int i = 0; i < PATIENCE_S * 1000; i++) {
    if (host_stats(h).connections == count) return;
    usleep(1000);
  }
  CHECK(0, "%llu are open, not %llu", (unsigned long long)host_stats(h).connections,
        (unsigned long long)count);
}

static void test_refusals(void) {
  static struct host h;
  uint16_t port;
  refusals_open(&h, &port);
  int there = tcp_connect(port);
  await_open(&h, 1); /* else another thread may take the next one for the first */
  uint64_t refused = 0;
  for (size_t i = 0; i < sizeof refusal_cases / sizeof refusal_cases[0]; i++) {
    const struct refusal_case *each = &refusal_cases[i];
    for (uint32_t step = 1; step <= 16; step += 15, refused++) {
      uint8_t answer[8];
      int fd = tcp_connect(port);
      for (uint32_t at = 0; at < each->size; at += step) {
        uint32_t left = each->size - at;
        /* The version is known: what follows may find the connection closed. */
        send(fd, each->bytes + at, left < step ? left : step, MSG_NOSIGNAL);
      }
      size_t size = recv_all(fd, answer, sizeof answer);
      CHECK(size == strlen(each->answer) && memcmp(answer, each->answer, size) == 0,
            "case %zu, %u at once: %zu bytes", i, step, size);
      close(fd);
    }
  }
  for (int i = 0; i < 200; i++, refused++) { /* who goes before, in order or not */
    struct linger at_once = {.l_onoff = 1};
    int fd = tcp_connect(port);
    if (i % 2) send_all(fd, (const uint8_t *)"\x10\x0d\x00", 3);
    if (i % 4 < 2) setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
  }
  await_closed(&h, LW_CODE_CONNECTION_LIMIT, refused);
  close(there);
  await_closed(&h, LW_CODE_PEER_CLOSED, 1);
  CHECK(host_stats(&h).closed[LW_CODE_CONNECTION_LIMIT] == refused, "counted twice");
  host_close(&h);
}

#endif
