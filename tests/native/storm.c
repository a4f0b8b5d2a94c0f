/* A fleet of devices that run deploy/device/longwire.c in one process, each with a session of its
 * own: they connect, get numbered messages, lose their server and come back. Says when all are
 * there for the first time ("ready"), and in the end, in one line of JSON, how many attempts and
 * how many welcomes there were in each 100 ms, and what was lost or came twice.
 *
 *   storm port=7000 devices=10000 first=0 messages=10 seed=1 timeout_s=60 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "longwire.h"

#define BUCKET_MS 100u
#define BUCKETS 1200u
#define BUFFER_BYTES 512u
/* Connections from one address: more make connect() slow. */
#define DEVICES_PER_SOURCE 5000u

struct device {
  struct longwire client;
  struct longwire_tcp tcp;
  enum longwire_state before;
  uint32_t index, next; /* number of the message that comes next */
  char id[24];
  uint8_t in[BUFFER_BYTES], out[BUFFER_BYTES];
};

static struct device *devices;
static uint32_t count, first, complete, lost, twice, deliveries, messages;
static uint32_t attempts[BUCKETS], welcomes[BUCKETS];
static uint64_t begin_ms, lost_ms; /* when the first device lost its server */
static int epoll_fd;

static uint64_t clock_ms(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
static uint64_t wall_ms(void) { return clock_ms(CLOCK_REALTIME); }
static uint64_t monotonic_ms(void) { return clock_ms(CLOCK_MONOTONIC); }

static void bucket_add(uint32_t *buckets) {
  uint64_t at = (monotonic_ms() - begin_ms) / BUCKET_MS;
  if (at < BUCKETS) buckets[at]++;
}

static int fleet_begin(struct device *d, const char *host, uint16_t port) {
  struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = d->index};
  bucket_add(attempts);
  from.sin_addr.s_addr = htonl(0x7f010001u + ((first + d->index) / DEVICES_PER_SOURCE << 8));
  to.sin_port = htons(port);
  inet_pton(AF_INET, host, &to.sin_addr);
  d->tcp.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (d->tcp.fd < 0 || bind(d->tcp.fd, (struct sockaddr *)&from, sizeof from) < 0) return -1;
  epoll_ctl(epoll_fd, EPOLL_CTL_ADD, d->tcp.fd, &event);
  if (connect(d->tcp.fd, (struct sockaddr *)&to, sizeof to) == 0) return 1;
  return errno == EINPROGRESS ? 0 : -1;
}

static int fleet_open(void *context, const char *host, uint16_t port) {
  struct device *d = context;
  if (d->tcp.fd < 0) return fleet_begin(d, host, port);
  return longwire_tcp_transport.open(&d->tcp, host, port);
}
static long fleet_send(void *context, const uint8_t *bytes, size_t size) {
  return longwire_tcp_transport.send(&((struct device *)context)->tcp, bytes, size);
}
static long fleet_receive(void *context, uint8_t *bytes, size_t size) {
  return longwire_tcp_transport.receive(&((struct device *)context)->tcp, bytes, size);
}
static void fleet_close(void *context) {
  longwire_tcp_transport.close(&((struct device *)context)->tcp);
}
static const struct longwire_transport fleet = {fleet_open, fleet_send, fleet_receive, fleet_close};

static int on_message(void *user, const struct longwire_message *m) {
  struct device *d = user;
  char text[16] = "";
  if (m->payload_size < sizeof text) memcpy(text, m->payload, m->payload_size);
  uint32_t number = (uint32_t)strtoul(text, NULL, 10);
  deliveries++;
  if (number < d->next) {
    twice++;
    return 0;
  }
  lost += number - d->next;
  d->next = number + 1;
  if (d->next == messages) complete++;
  return 0;
}

static void device_poll(struct device *d) {
  enum longwire_state state = longwire_poll(&d->client);
  if (state == LONGWIRE_READY && d->before != state) bucket_add(welcomes);
  if (d->before == LONGWIRE_READY && state != d->before && lost_ms == 0) lost_ms = monotonic_ms();
  d->before = state;
}

static void device_make(uint32_t index, uint16_t port, uint32_t seed) {
  struct device *d = &devices[index];
  d->index = index;
  d->tcp.fd = -1;
  snprintf(d->id, sizeof d->id, "storm-%u", first + index);
  struct longwire_options o = {.host = "127.0.0.1",
                               .port = port,
                               .keepalive_s = 60,
                               .session_id = d->id,
                               .filter = "storm",
                               .transport = &fleet,
                               .transport_context = d,
                               .in = d->in,
                               .in_size = BUFFER_BYTES,
                               .out = d->out,
                               .out_size = BUFFER_BYTES,
                               .seed = (first + index + 1) * 2654435761u ^ seed,
                               .wall_ms = wall_ms,
                               .monotonic_ms = monotonic_ms,
                               .on_message = on_message,
                               .user = d};
  if (longwire_init(&d->client, &o) < 0) exit(2);
  d->client.next_ms = begin_ms + index / 5; /* the first time, nobody is in a hurry */
}

/* Those whose time has come: nothing wakes them. */
static uint32_t poll_due(void) {
  uint64_t now_ms = monotonic_ms();
  uint32_t ready = 0;
  for (uint32_t i = 0; i < count; i++) {
    const struct longwire *c = &devices[i].client;
    uint64_t due_ms = c->state == LONGWIRE_READY ? c->beat_ms : c->next_ms;
    if (c->state != LONGWIRE_STOPPED && now_ms >= due_ms) device_poll(&devices[i]);
    ready += c->state == LONGWIRE_READY && c->subscribed;
  }
  return ready;
}

static uint32_t number(int argc, char **argv, const char *name) {
  size_t size = strlen(name);
  for (int i = 1; i < argc; i++) {
    if (!strncmp(argv[i], name, size) && argv[i][size] == '=') {
      return (uint32_t)strtoul(argv[i] + size + 1, NULL, 10);
    }
  }
  return 0;
}

static void print_buckets(const char *name, const uint32_t *buckets) {
  printf(",\"%s\":[", name);
  for (uint32_t i = 0; i < BUCKETS; i++) printf("%s%u", i ? "," : "", buckets[i]);
  printf("]");
}

int main(int argc, char **argv) {
  uint16_t port = (uint16_t)number(argc, argv, "port");
  uint64_t timeout_ms = number(argc, argv, "timeout_s") * 1000ull;
  static struct epoll_event events[1024];
  int was_ready = 0;
  count = number(argc, argv, "devices");
  first = number(argc, argv, "first");
  messages = number(argc, argv, "messages");
  devices = calloc(count, sizeof *devices);
  epoll_fd = epoll_create1(0);
  begin_ms = monotonic_ms();
  if (devices == NULL || epoll_fd < 0) return 2;
  for (uint32_t i = 0; i < count; i++) device_make(i, port, number(argc, argv, "seed"));
  while (complete < count && monotonic_ms() - begin_ms < timeout_ms) {
    int woken = epoll_wait(epoll_fd, events, 1024, 5);
    for (int i = 0; i < woken; i++) device_poll(&devices[events[i].data.u32]);
    if (poll_due() == count && !was_ready) {
      was_ready = 1;
      printf("ready\n");
      fflush(stdout);
    }
  }
  /* Whatever still comes is one too many; and acknowledgements leave. */
  for (uint64_t end_ms = monotonic_ms() + 1000; monotonic_ms() < end_ms;) {
    int woken = epoll_wait(epoll_fd, events, 1024, 5);
    for (int i = 0; i < woken; i++) device_poll(&devices[events[i].data.u32]);
  }
  printf(
      "{\"begin_ms\":%llu,\"lost_ms\":%llu,\"complete\":%u,\"deliveries\":%u,\"lost\":%u,\"twice\":"
      "%u",
      (unsigned long long)begin_ms, (unsigned long long)lost_ms, complete, deliveries, lost, twice);
  print_buckets("attempts", attempts);
  print_buckets("welcomes", welcomes);
  printf("}\n");
  return 0;
}
