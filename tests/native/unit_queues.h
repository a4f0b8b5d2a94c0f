/* The event ring (wrapping, padding, two threads), the command queue across its chunks with two
 * threads, and the in-flight window. */
#ifndef LONGWIRE_TESTS_UNIT_QUEUES_H
#define LONGWIRE_TESTS_UNIT_QUEUES_H

#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "command_queue.h"
#include "inflight.h"
#include "ring.h"

/* ---------------------------------------------------------------- ring */

struct ring_rig {
  struct ring ring;
  uint64_t seed;
  uint32_t records;
};

/* Bodies say their number and repeat it: a torn or lost record shows. */
static uint32_t ring_body_size(uint64_t *seed) { return 4 + random_below(seed, 900); }

static int ring_put(struct ring *r, uint32_t number, uint32_t size) {
  struct lw_event *event = ring_reserve(r, size);
  if (event == NULL) return 0;
  event->type = LW_EVENT_FRAME;
  event->conn = number;
  memset(event + 1, (int)(number & 0xff), size);
  ring_commit(r, event);
  return 1;
}

/* Walks what there is; returns how many records it found. */
static uint32_t ring_take(struct ring *r, uint32_t expected, uint64_t *seed) {
  uint32_t begin, end, found = 0;
  if (!ring_peek(r, &begin, &end)) return 0;
  CHECK(end <= r->capacity && begin < end, "stretch %u to %u", begin, end);
  for (uint32_t at = begin; at < end;) {
    const struct lw_event *event = (const struct lw_event *)(const void *)(r->bytes + at);
    REQUIRE(event->size >= 8 && event->size % 8 == 0 && event->size <= end - at, "%u", event->size);
    if (event->type != LW_EVENT_PAD) {
      uint32_t size = ring_body_size(seed);
      CHECK(event->conn == expected + found, "%u instead of %u", event->conn, expected + found);
      CHECK(event->body_size == size, "record %u has %u bytes", event->conn, event->body_size);
      const uint8_t *body = (const uint8_t *)(event + 1);
      for (uint32_t i = 0; i < event->body_size; i++) {
        REQUIRE(body[i] == (event->conn & 0xff), "record %u is torn", event->conn);
      }
      found++;
    }
    at += event->size;
  }
  ring_consume(r, end - begin);
  return found;
}

static void *ring_producer(void *argument) {
  struct ring_rig *rig = argument;
  uint64_t seed = rig->seed;
  for (uint32_t i = 0; i < rig->records; i++) {
    uint32_t size = ring_body_size(&seed);
    while (!ring_put(&rig->ring, i, size)) sched_yield();
  }
  return NULL;
}

static void unit_ring_cases(void) {
  struct ring r;
  REQUIRE(ring_open(&r, 4096) == 0, "no memory");
  uint32_t begin, end;
  CHECK(!ring_peek(&r, &begin, &end), "an empty ring shows something");
  CHECK(ring_reserve(&r, 4096) == NULL, "more than the ring was given");
  /* Records end exactly at the end: no padding, and full is full. */
  for (uint32_t i = 0; i < 4; i++) CHECK(ring_put(&r, i, 1000), "record %u", i);
  CHECK(!ring_put(&r, 4, 1), "a full ring took a record");
  CHECK(ring_peek(&r, &begin, &end) && begin == 0 && end == 4096, "%u to %u", begin, end);
  ring_consume(&r, 1024);
  CHECK(!ring_put(&r, 4, 1001), "a record overtook the reader");
  CHECK(ring_put(&r, 4, 1000), "a freed stretch is not used");
  ring_consume(&r, 3072);
  CHECK(ring_peek(&r, &begin, &end) && begin == 0 && end == 1024, "%u to %u", begin, end);
  ring_consume(&r, 1024);
  /* The smallest pad is smaller than a header. */
  CHECK(ring_put(&r, 5, 4096 - 1024 - sizeof(struct lw_event) - 8), "record 5");
  ring_consume(&r, 4096 - 1024 - 8);
  CHECK(ring_put(&r, 6, 16), "record 6");
  CHECK(ring_peek(&r, &begin, &end) && begin == 4088 && end == 4096, "%u to %u", begin, end);
  const struct lw_event *pad = (const struct lw_event *)(const void *)(r.bytes + begin);
  CHECK(pad->type == LW_EVENT_PAD && pad->size == 8, "type %u, size %u", pad->type, pad->size);
  ring_consume(&r, 8);
  CHECK(ring_peek(&r, &begin, &end) && begin == 0 && end == 40, "%u to %u", begin, end);
  ring_free(&r);
}

static void unit_ring(uint64_t seed) {
  unit_ring_cases();
  struct ring_rig rig = {.seed = seed, .records = 20000};
  REQUIRE(ring_open(&rig.ring, 4096) == 0, "no memory");
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, ring_producer, &rig) == 0, "no thread");
  for (uint32_t taken = 0; taken < rig.records;) {
    uint32_t found = ring_take(&rig.ring, taken, &seed);
    taken += found;
    if (found == 0) sched_yield();
  }
  pthread_join(thread, NULL);
  CHECK(rig.ring.head == rig.ring.tail, "something is left");
  ring_free(&rig.ring);
}

/* ---------------------------------------------------------------- command queue */

struct command_rig {
  struct command_queue queue;
  uint64_t seed;
  uint32_t records;
};

/* Mostly small, some larger than a chunk. */
static uint32_t command_size(uint64_t *seed) {
  uint32_t limit = random_chance(seed, 1) ? 3 * COMMAND_CHUNK_BYTES : 500;
  return 8 + random_below(seed, limit) / 8 * 8;
}

static void *command_producer(void *argument) {
  struct command_rig *rig = argument;
  uint64_t seed = rig->seed;
  for (uint32_t i = 0; i < rig->records; i++) {
    uint32_t size = command_size(&seed);
    uint8_t *at = command_queue_reserve(&rig->queue, size);
    REQUIRE(at != NULL, "no memory");
    memset(at, (int)(i & 0xff), size);
    memcpy(at, &size, sizeof size);
    command_queue_commit(&rig->queue, size, size);
  }
  return NULL;
}

static void unit_command_queue(uint64_t seed) {
  struct command_rig rig = {.seed = seed, .records = 20000};
  REQUIRE(command_queue_open(&rig.queue) == 0, "no memory");
  CHECK(command_queue_peek(&rig.queue) == NULL, "an empty queue shows something");
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, command_producer, &rig) == 0, "no thread");
  for (uint32_t i = 0; i < rig.records; i++) {
    uint8_t *at;
    while ((at = command_queue_peek(&rig.queue)) == NULL) sched_yield();
    uint32_t size;
    memcpy(&size, at, sizeof size);
    REQUIRE(size == command_size(&seed), "record %u has %u bytes", i, size);
    for (uint32_t k = 4; k < size; k++) REQUIRE(at[k] == (i & 0xff), "record %u is torn", i);
    command_queue_pop(&rig.queue, size, size);
  }
  pthread_join(thread, NULL);
  CHECK(command_queue_peek(&rig.queue) == NULL, "something is left");
  CHECK(command_queue_bytes(&rig.queue) == 0, "bytes are left");
  command_queue_free(&rig.queue);
}

#endif
