/* A device that runs deploy/device/longwire.c against the real service, and says on stdout what
 * happens to it; or, with `fuzz`, against bytes that no service would send.
 *
 *   device run host=127.0.0.1 port=7000 session=d1 filter=a/# piece=7 cut=1500 seed=1
 *   device fuzz rounds=100000 seed=1
 *
 * piece: bytes that the transport moves at once, at most; cut: connections end after some number of
 * bytes below that; report=1: a status when ready; publish=N: so many messages to `device/out`. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "longwire.h"

struct device {
  struct longwire client;
  struct longwire_tcp tcp;
  size_t piece, cut, moved, end;
  uint32_t seed, publish, answered, sent;
  const uint8_t *script; /* what the service of the fuzzer says */
  size_t script_size;
  int report;
};

static uint64_t clock_ms(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
static uint64_t wall_ms(void) { return clock_ms(CLOCK_REALTIME); }
static uint64_t monotonic_ms(void) { return clock_ms(CLOCK_MONOTONIC); }

static uint32_t next(uint32_t *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return *seed >> 8;
}

/* ------------------------------------------------------------------ a transport that misbehaves */

static int rough_open(void *context, const char *host, uint16_t port) {
  struct device *d = context;
  d->moved = 0;
  d->end = d->cut > 0 ? 1 + next(&d->seed) % d->cut : 0;
  return longwire_tcp_transport.open(&d->tcp, host, port);
}

static long rough_move(struct device *d, uint8_t *in, const uint8_t *out, size_t size) {
  if (d->end > 0 && d->moved >= d->end) return -1;
  if (d->piece > 0 && size > d->piece) size = 1 + next(&d->seed) % d->piece;
  if (d->end > 0 && size > d->end - d->moved) size = d->end - d->moved;
  long moved = in != NULL ? longwire_tcp_transport.receive(&d->tcp, in, size)
                          : longwire_tcp_transport.send(&d->tcp, out, size);
  if (moved > 0) d->moved += (size_t)moved;
  return moved;
}

static long rough_send(void *context, const uint8_t *bytes, size_t size) {
  return rough_move(context, NULL, bytes, size);
}
static long rough_receive(void *context, uint8_t *bytes, size_t size) {
  return rough_move(context, bytes, NULL, size);
}
static void rough_close(void *context) {
  longwire_tcp_transport.close(&((struct device *)context)->tcp);
}

static const struct longwire_transport rough = {rough_open, rough_send, rough_receive, rough_close};

/* ------------------------------------------------------------------ what happens is said */

static int on_message(void *user, const struct longwire_message *m) {
  (void)user;
  printf("message %llu %.*s %.*s\n", (unsigned long long)m->offset, (int)m->topic_size, m->topic,
         (int)m->payload_size, (const char *)m->payload);
  return 0;
}

static void on_published(void *user, uint32_t request_id, uint32_t code) {
  ((struct device *)user)->answered++;
  printf("published %u %u\n", request_id, code);
}

static void on_gap(void *user, uint64_t from, uint64_t to) {
  (void)user;
  printf("gap %llu %llu\n", (unsigned long long)from, (unsigned long long)to);
}

static struct device device;
static uint8_t in[4096], out[1024];

static struct longwire_options options_make(void) {
  return (struct longwire_options){.host = "127.0.0.1",
                                   .transport = &rough,
                                   .transport_context = &device,
                                   .in = in,
                                   .in_size = sizeof in,
                                   .out = out,
                                   .out_size = sizeof out,
                                   .seed = device.seed,
                                   .wall_ms = wall_ms,
                                   .monotonic_ms = monotonic_ms,
                                   .on_message = on_message,
                                   .on_published = on_published,
                                   .on_gap = on_gap,
                                   .user = &device};
}

/* The value of `name=value` among the arguments, or NULL. */
static const char *argument(int count, char **arguments, const char *name) {
  size_t size = strlen(name);
  for (int i = 2; i < count; i++) {
    if (!strncmp(arguments[i], name, size) && arguments[i][size] == '=') {
      return arguments[i] + size + 1;
    }
  }
  return NULL;
}

static uint32_t number(int count, char **arguments, const char *name) {
  const char *text = argument(count, arguments, name);
  return text != NULL ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

static void use_connection(void) {
  struct longwire *c = &device.client;
  if (device.report && longwire_report(c, 7, -3) == 0) device.report = 0;
  while (device.sent < device.publish) {
    char payload[16];
    int size = snprintf(payload, sizeof payload, "%u", device.sent);
    if (longwire_publish(c, "device/out", payload, (size_t)size, 1) < 0) break;
    device.sent++;
  }
}

static int run(int count, char **arguments) {
  struct longwire_options o = options_make();
  const char *host = argument(count, arguments, "host");
  if (host != NULL) o.host = host;
  o.port = (uint16_t)number(count, arguments, "port");
  o.session_id = argument(count, arguments, "session");
  o.filter = argument(count, arguments, "filter");
  o.keepalive_s = (uint16_t)number(count, arguments, "keepalive_s");
  device.tcp.fd = -1;
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (longwire_init(&device.client, &o) < 0) return 2;
  enum longwire_state before = LONGWIRE_WAITING;
  for (;;) {
    enum longwire_state state = longwire_poll(&device.client);
    if (state != before && state == LONGWIRE_READY) printf("ready\n");
    if (before == LONGWIRE_READY && state != before) printf("lost %u\n", device.client.code);
    if (state == LONGWIRE_STOPPED) printf("stopped %u\n", device.client.code);
    if (state == LONGWIRE_STOPPED) return 0;
    if (state == LONGWIRE_READY) use_connection();
    before = state;
    usleep(1000);
  }
}

/* ------------------------------------------------------------------ the fuzzer */

static int script_open(void *context, const char *host, uint16_t port) {
  (void)context;
  (void)host;
  (void)port;
  return 1;
}
static long script_send(void *context, const uint8_t *bytes, size_t size) {
  (void)bytes;
  struct device *d = context;
  return size > 9 ? (long)(1 + next(&d->seed) % size) : (long)size;
}
static long script_receive(void *context, uint8_t *bytes, size_t size) {
  struct device *d = context;
  size_t left = d->script_size - d->moved;
  if (left == 0) return -1;
  if (size > left) size = left;
  if (d->piece > 0 && size > d->piece) size = 1 + next(&d->seed) % d->piece;
  memcpy(bytes, d->script + d->moved, size);
  d->moved += size;
  return (long)size;
}
static void script_close(void *context) { (void)context; }

static const struct longwire_transport scripted = {script_open, script_send, script_receive,
                                                   script_close};

static uint64_t fuzz_ms;
static uint64_t fuzz_clock(void) { return fuzz_ms; }

/* What a service says: Welcome, Subscribed, two Messages, Published, Gap, Redirect, Goodbye. */
static const uint8_t words[] =
    "\x0e\0\0\0\x03\x0a\1n\x12\1e\x20\xe8\x07\x28\x0a\x3a\1s"
    "\x05\0\0\0\x06\x08\1\x12\1\0"
    "\x0d\0\0\0\x09\x0a\3a/b\x12\2hi\x18\1\x20\1"
    "\x0d\0\0\0\x09\x0a\3a/b\x12\2hi\x18\2\x20\1"
    "\x04\0\0\0\x0c\x08\1\x18\3"
    "\x04\0\0\0\x11\x10\1\x18\2"
    "\x0d\0\0\0\x0f\x0a\7"
    "h:12345\x10\x14\x18\x05"
    "\x04\0\0\0\x10\x08\x14\x18\x05";

static int fuzz(int count, char **arguments) {
  static uint8_t script[2 * sizeof words];
  uint32_t rounds = number(count, arguments, "rounds");
  if (freopen("/dev/null", "w", stdout) == NULL) return 2;
  for (uint32_t round = 0; round < rounds; round++) {
    memcpy(script, words, sizeof words - 1);
    device.script = script;
    device.script_size = sizeof words - 1;
    device.moved = 0;
    device.piece = next(&device.seed) % 3 == 0 ? 3 : 0;
    for (uint32_t i = next(&device.seed) % 4; i > 0; i--) {
      uint32_t at = next(&device.seed) % (uint32_t)device.script_size;
      if (next(&device.seed) % 4 > 0) script[at] = (uint8_t)next(&device.seed);
      else device.script_size = at + 1;
    }
    struct longwire_options o = options_make();
    o.transport = &scripted;
    o.filter = "a/b";
    o.in_size = 512 + next(&device.seed) % 64;
    o.out_size = 512;
    o.monotonic_ms = o.wall_ms = fuzz_clock;
    if (longwire_init(&device.client, &o) < 0) return 2;
    for (int polls = 0; polls < 12; polls++) {
      longwire_poll(&device.client);
      longwire_publish(&device.client, "t", "p", 1, 1);
      fuzz_ms += next(&device.seed) % 8000;
      if (device.moved == device.script_size) device.moved = 0;
    }
    longwire_stop(&device.client);
  }
  return 0;
}

int main(int count, char **arguments) {
  device.seed = number(count, arguments, "seed");
  device.piece = number(count, arguments, "piece");
  device.cut = number(count, arguments, "cut");
  device.publish = number(count, arguments, "publish");
  device.report = number(count, arguments, "report") != 0;
  if (count > 1 && !strcmp(arguments[1], "run")) return run(count, arguments);
  if (count > 1 && !strcmp(arguments[1], "fuzz")) return fuzz(count, arguments);
  fprintf(stderr, "Usage: device run|fuzz name=value ...\n");
  return 2;
}
