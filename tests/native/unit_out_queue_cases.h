/* Cases of the out-queue: each by hand, then all of them at random. */
#ifndef LONGWIRE_TESTS_UNIT_OUT_QUEUE_CASES_H
#define LONGWIRE_TESTS_UNIT_OUT_QUEUE_CASES_H

#include "unit_out_queue.h"

static struct out_rig *out_rig_new(void) {
  struct out_rig *rig = calloc(1, sizeof *rig);
  REQUIRE(rig != NULL && (rig->queue = out_queue_new()) != NULL, "no memory");
  return rig;
}

static void out_rig_free(struct out_rig *rig) {
  out_queue_free(rig->queue);
  arena_free(&rig->arena);
  free(rig);
}

static void unit_out_merge(void) {
  struct out_rig *rig = out_rig_new();
  for (int i = 0; i < 10; i++) out_put(rig, 100, 0, 1, 0);
  CHECK(rig->queue->count == 1, "%u stretches of what lies together", rig->queue->count);
  out_put(rig, 100, 0, 0, 0);
  CHECK(rig->queue->count == 2, "what is never dropped is apart from what may be");
  out_put(rig, 100, 0, 1, 5);
  out_put(rig, 100, 0, 1, 0);
  CHECK(rig->queue->count == 4, "what can be replaced is apart: %u", rig->queue->count);
  out_compare(rig, "merging");
  out_rig_free(rig);
}

static void unit_out_drop(void) {
  struct out_rig *rig = out_rig_new();
  for (int i = 0; i < 10; i++) out_put(rig, 100, 0, 1, 0);
  out_send(rig, 150); /* the second has begun to leave and must end */
  out_drop(rig, 0, 700);
  CHECK(rig->count == 7 && rig->queue->bytes == 650, "%u bytes", rig->queue->bytes);
  CHECK(rig->queue->count == 2, "the stretch is split: %u", rig->queue->count);
  out_compare(rig, "a split");
  out_put(rig, 100, 1, 0, 0);
  out_drop(rig, 0, 0);
  out_compare(rig, "dropping all that may be");
  CHECK(rig->queue->bytes == 150, "%u bytes", rig->queue->bytes);
  out_send(rig, 50);
  out_send(rig, 100);
  CHECK(rig->queue->bytes == 0 && rig->queue->count == 0, "%u left", rig->queue->count);
  out_rig_free(rig);
}

/* What was sent ends just where a frame ends: the stretch before the cut is empty and must not
 * stay. */
static void unit_out_drop_at_border(void) {
  struct out_rig *rig = out_rig_new();
  for (int i = 0; i < 4; i++) out_put(rig, 100, 0, 1, 0);
  out_send(rig, 200);
  out_drop(rig, 0, 0);
  CHECK(rig->queue->bytes == 0, "%u bytes", rig->queue->bytes);
  for (int i = 0; i < 3; i++) out_put(rig, 60, 1, 1, 0);
  out_compare(rig, "queueing after everything was dropped");
  out_send(rig, 180);
  out_rig_free(rig);
}

static void unit_out_replace(void) {
  struct out_rig *rig = out_rig_new();
  out_put_or_replace(rig, 100, 1);
  out_put_or_replace(rig, 100, 2);
  out_put_or_replace(rig, 50, 1);
  CHECK(rig->count == 2 && rig->bytes == 150, "%u frames", rig->count);
  out_compare(rig, "replacing");
  out_send(rig, 1);
  out_put_or_replace(rig, 80, 1); /* the one that has begun to leave stays */
  CHECK(rig->count == 3, "%u frames", rig->count);
  out_compare(rig, "not replacing");
  out_rig_free(rig);
}

/* Regression: a keyed frame sent in part was moved into a block of its own with its key: the next
 * one with that key took the place of its rest, and the peer lost the framing. */
static void unit_out_replace_detached(void) {
  struct out_rig *rig = out_rig_new();
  out_put_or_replace(rig, 100, 1);
  out_send(rig, 30);
  out_let_go(rig);
  CHECK(rig->queue->sent == 0, "the shared block was not let go");
  out_put_or_replace(rig, 90, 1);
  CHECK(rig->count == 2, "%u frames", rig->count);
  out_compare(rig, "replacing what was let go");
  out_rig_free(rig);
}

/* Regression: a stretch that is no frame made the search for its end run for ever. */
static void unit_out_malformed(void) {
  static const uint8_t broken[][6] = {{0x30, 0xff, 0xff, 0xff, 0xff, 0xff},
                                      {0x30, 0x7f, 1, 2, 3, 4}};
  for (int i = 0; i < 2; i++) {
    struct out_queue *q = out_queue_new();
    struct block *b = block_new(64);
    REQUIRE(q != NULL && b != NULL, "no memory");
    uint32_t offset = block_append(b, broken[i], sizeof broken[i]);
    CHECK(out_push(q, b, offset, sizeof broken[i], 1, 0, 0) == 0, "no memory");
    out_drop_oldest(q, 1, 0, LW_PROTOCOL_MQTT);
    CHECK(q->bytes == 0, "%u bytes are left", q->bytes);
    block_drop(b);
    out_queue_free(q);
  }
}

static void unit_out_random(uint64_t seed) {
  struct out_rig *rig = out_rig_new();
  for (int step = 0; step < 60000; step++) {
    uint32_t what = random_below(&seed, 100);
    uint32_t size = 8 + random_below(&seed, OUT_FRAME_BYTES_MAX - 8);
    const char *after = "putting";
    if (what < 45 && rig->count < OUT_FRAMES_MAX / 2) {
      out_put(rig, size, random_chance(&seed, 30), random_chance(&seed, 60), 0);
    } else if (what < 60 && rig->count < OUT_FRAMES_MAX / 2) {
      out_put_or_replace(rig, size, 1 + random_below(&seed, 5));
      after = "replacing";
    } else if (what < 80) {
      out_send(rig, random_below(&seed, random_chance(&seed, 10) ? 20000 : 600));
      after = "sending";
    } else if (what < 90) {
      out_drop(rig, size, random_below(&seed, 20000));
      after = "dropping";
    } else {
      out_let_go(rig);
      after = "letting go";
    }
    if (step % 4 == 0) out_compare(rig, after);
  }
  out_rig_free(rig);
}

static void unit_out_queue(uint64_t seed) {
  unit_out_merge();
  unit_out_drop();
  unit_out_drop_at_border();
  unit_out_replace();
  unit_out_replace_detached();
  unit_out_malformed();
  unit_out_random(seed);
}

#endif
