/* The out-queue against a naive list of frames: merging, partial sends, dropping the oldest,
 * replacing by key, letting go of shared memory. */
#ifndef LONGWIRE_TESTS_UNIT_OUT_QUEUE_H
#define LONGWIRE_TESTS_UNIT_OUT_QUEUE_H

#include "check.h"
#include "out_queue.h"

#define OUT_FRAMES_MAX 4096u
#define OUT_FRAME_BYTES_MAX 400u

/* A frame that still waits, whole or in part. */
struct out_naive {
  uint8_t bytes[OUT_FRAME_BYTES_MAX];
  uint32_t size;
  uint32_t sent;
  uint32_t key;
  uint32_t audience;
  uint8_t droppable;
  uint8_t was_cut; /* sent in part when the transport was blocked: its end must still leave */
};

struct out_rig {
  struct out_queue *queue;
  struct arena arena;
  struct out_naive frames[OUT_FRAMES_MAX];
  uint32_t count;
  uint32_t bytes;
  uint32_t number;
  uint8_t frame[ARENA_FRAME_BYTES_MAX]; /* being made */
};

/* An MQTT PUBLISH with its number inside, so that two frames are never equal. */
static uint32_t out_make(struct out_rig *rig, uint32_t size) {
  uint8_t *frame = rig->frame;
  size = size < 8 ? 8 : size > OUT_FRAME_BYTES_MAX ? OUT_FRAME_BYTES_MAX : size;
  uint32_t header = size - 2 < 128 ? 2 : 3;
  uint32_t length = size - header;
  frame[0] = 0x30;
  frame[1] = (uint8_t)(header == 2 ? length : (length & 0x7f) | 0x80);
  if (header == 3) frame[2] = (uint8_t)(length >> 7);
  rig->number++;
  for (uint32_t i = header; i < size; i++) frame[i] = (uint8_t)(rig->number >> 8 * (i % 4));
  return size;
}

static void out_forget(struct out_rig *rig, uint32_t i) {
  rig->bytes -= rig->frames[i].size - rig->frames[i].sent;
  rig->count--;
  memmove(&rig->frames[i], &rig->frames[i + 1], (rig->count - i) * sizeof rig->frames[0]);
}

static void out_note(struct out_rig *rig, const uint8_t *frame, uint32_t size, int droppable,
                     uint32_t key, uint32_t audience) {
  REQUIRE(rig->count < OUT_FRAMES_MAX, "too many frames");
  struct out_naive *n = &rig->frames[rig->count++];
  *n = (struct out_naive){.size = size, .key = key, .audience = audience};
  n->droppable = droppable != 0;
  memcpy(n->bytes, frame, size);
  rig->bytes += size;
}

/* Puts one frame, shared or copied, at the end of both. */
static void out_put(struct out_rig *rig, uint32_t size, int is_copy, int droppable, uint32_t key) {
  uint32_t audience = key == 0 ? 0 : 7;
  const uint8_t *frame = rig->frame;
  size = out_make(rig, size);
  if (is_copy) {
    CHECK(out_copy(rig->queue, frame, size, droppable) != NULL, "no memory");
    key = 0;
  } else {
    uint32_t offset;
    struct block *b = arena_append(&rig->arena, frame, size, &offset);
    REQUIRE(b != NULL, "no memory");
    CHECK(out_push(rig->queue, b, offset, size, droppable, key, audience) == 0, "no memory");
    block_drop(b);
  }
  out_note(rig, frame, size, droppable, key, audience);
}

/* The same bytes in the same order. */
static void out_compare(const struct out_rig *rig, const char *after) {
  const struct out_queue *q = rig->queue;
  CHECK(q->bytes == rig->bytes, "%s: %u bytes instead of %u", after, q->bytes, rig->bytes);
  uint32_t frame = 0, at = rig->count > 0 ? rig->frames[0].sent : 0;
  for (uint32_t i = 0; i < q->count; i++) {
    const struct out_entry *e = out_at(q, i);
    for (uint32_t k = i == 0 ? q->sent : 0; k < e->size; k++) {
      REQUIRE(frame < rig->count, "%s: more bytes than there are frames", after);
      const struct out_naive *n = &rig->frames[frame];
      REQUIRE(e->block->bytes[e->offset + k] == n->bytes[at], "%s: frame %u differs at %u of %u",
              after, frame, at, n->size);
      if (++at < n->size) continue;
      frame++;
      at = frame < rig->count ? rig->frames[frame].sent : 0;
    }
  }
  CHECK(frame == rig->count, "%s: %u frames instead of %u", after, frame, rig->count);
}

static void out_send(struct out_rig *rig, uint32_t size) {
  if (size > rig->bytes) size = rig->bytes;
  out_consume(rig->queue, size);
  rig->bytes -= size;
  while (size > 0) {
    struct out_naive *n = &rig->frames[0];
    uint32_t left = n->size - n->sent;
    if (size < left) {
      n->sent += size;
      return;
    }
    size -= left;
    n->sent = n->size;
    out_forget(rig, 0);
  }
}

/* Whether a frame may go: whole, droppable, and not behind one that was cut in the same stretch. */
static void out_drop(struct out_rig *rig, uint32_t needed, uint32_t limit) {
  uint32_t before = rig->queue->bytes;
  uint32_t dropped = out_drop_oldest(rig->queue, needed, limit, LW_PROTOCOL_MQTT);
  uint32_t gone = before - rig->queue->bytes;
  for (uint32_t i = 0; i < rig->count && dropped > 0;) {
    struct out_naive *n = &rig->frames[i];
    if (!n->droppable || n->sent > 0 || n->was_cut) {
      i++;
      continue;
    }
    gone -= n->size;
    dropped--;
    out_forget(rig, i);
  }
  CHECK(dropped == 0 && gone == 0, "%u frames and %u bytes too many went", dropped, gone);
}

static void out_put_or_replace(struct out_rig *rig, uint32_t size, uint32_t key) {
  const uint8_t *frame = rig->frame;
  size = out_make(rig, size);
  uint32_t offset;
  struct block *b = arena_append(&rig->arena, frame, size, &offset);
  REQUIRE(b != NULL, "no memory");
  int replaced = out_replace(rig->queue, key, 7, b, offset, size, LW_PROTOCOL_MQTT);
  uint32_t i = rig->count;
  while (i-- > 0 && !(rig->frames[i].key == key && rig->frames[i].audience == 7)) continue;
  int may = i < rig->count && rig->frames[i].sent == 0;
  CHECK(replaced == may, "key %u: replaced %d instead of %d", key, replaced, may);
  if (replaced) {
    rig->bytes += size - rig->frames[i].size;
    rig->frames[i].size = size;
    memcpy(rig->frames[i].bytes, frame, size);
  } else {
    CHECK(out_push(rig->queue, b, offset, size, 1, key, 7) == 0, "no memory");
    out_note(rig, frame, size, 1, key, 7);
  }
  block_drop(b);
}

/* A frame of which a part has left is no longer told apart from what lies behind it in its stretch.
 */
static void out_let_go(struct out_rig *rig) {
  struct out_queue *q = rig->queue;
  uint32_t was_droppable = q->count > 0 ? out_at(q, 0)->droppable : 0;
  uint32_t left = q->count > 0 ? out_at(q, 0)->size - q->sent : 0;
  out_detach(q);
  if (q->count == 0 || out_at(q, 0)->droppable == was_droppable) return;
  for (uint32_t i = 0; left > 0; i++) {
    left -= rig->frames[i].size - rig->frames[i].sent;
    rig->frames[i].was_cut = 1;
  }
}

#include "unit_out_queue_cases.h"

#endif
