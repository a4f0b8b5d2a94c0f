/* What waits to be sent on one connection: stretches of blocks, oldest first. Frames that lie
 * together in a block are one entry, so a pipelined fan-out is one stretch of shared memory a
 * connection. A queue exists only while something waits. Invariant: bytes from the head up to
 * `sent` have left, and what the backend has in flight is not changed or dropped. */
#ifndef LONGWIRE_OUT_QUEUE_H
#define LONGWIRE_OUT_QUEUE_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "frames.h"
#include "latency.h"

#define OUT_ENTRIES_MIN 4u
/* First private block of a queue; the next ones double up to the largest. */
#define OUT_PRIVATE_BYTES_MIN 512u
#define OUT_PRIVATE_BYTES_MAX (16u << 10)

struct out_entry {
  struct block *block;
  uint32_t offset;
  uint32_t size;
  uint32_t droppable; /* QoS 0 */
  uint32_t key;       /* conflation key; 0 = none */
  uint32_t audience;
  uint32_t type; /* kernel TLS: of a record of our own (out_seal.h); 0 = it is none */
};

struct out_queue {
  struct out_entry *entries; /* ring */
  uint32_t head;
  uint32_t count;
  uint32_t capacity;      /* power of two */
  uint32_t sent;          /* bytes of the first entry that have left */
  uint32_t bytes;         /* waiting */
  uint32_t sending;       /* bytes that the backend has in flight, from the front */
  uint32_t since;         /* when it last made progress, ms */
  uint32_t blocked;       /* the transport took no more: shared memory is not held on to */
  uint32_t sealed;        /* TLS: entries at the front that are ciphertext (out_seal.h) */
  uint32_t sealed_bytes;  /* of them that have not left */
  uint32_t sealed_part;   /* bytes of the first entry behind them that are ciphertext by now */
  struct timing timing;   /* of a message in it: until the queue is empty */
  struct block *tail;     /* private block that takes more; one reference; NULL = none */
  struct out_queue *next; /* in the thread's pool */
};

static inline struct out_queue *out_queue_new(void) {
  struct out_queue *q = calloc(1, sizeof *q);
  if (q == NULL) return NULL;
  q->capacity = OUT_ENTRIES_MIN;
  q->entries = malloc(q->capacity * sizeof q->entries[0]);
  if (q->entries != NULL) return q;
  free(q);
  return NULL;
}

static inline struct out_entry *out_at(const struct out_queue *q, uint32_t i) {
  return &q->entries[(q->head + i) & (q->capacity - 1)];
}

/* Empties the queue; its memory stays for the next use, if it is small. */
static inline void out_queue_clear(struct out_queue *q) {
  for (uint32_t i = 0; i < q->count; i++) block_drop(out_at(q, i)->block);
  if (q->tail != NULL) block_drop(q->tail);
  struct out_entry *entries = q->entries;
  uint32_t capacity = q->capacity;
  *q = (struct out_queue){.entries = entries, .capacity = capacity};
}

static inline void out_queue_free(struct out_queue *q) {
  if (q == NULL) return;
  out_queue_clear(q);
  free(q->entries);
  free(q);
}

static inline int out_queue_grow(struct out_queue *q) {
  struct out_entry *entries = malloc(2 * q->capacity * sizeof entries[0]);
  if (entries == NULL) return -1;
  for (uint32_t i = 0; i < q->count; i++) entries[i] = *out_at(q, i);
  free(q->entries);
  q->entries = entries;
  q->capacity *= 2;
  q->head = 0;
  return 0;
}

/* Adds a stretch of a block, taking a reference of its own. Returns 0 or -1 (no memory). */
static inline int out_push(struct out_queue *q, struct block *block, uint32_t offset, uint32_t size,
                           int droppable, uint32_t key, uint32_t audience) {
  if (q->count > 0 && key == 0) {
    struct out_entry *last = out_at(q, q->count - 1);
    if (last->block == block && last->offset + last->size == offset && last->key == 0 &&
        last->droppable == (uint32_t)droppable) {
      last->size += size;
      q->bytes += size;
      return 0;
    }
  }
  if (q->count == q->capacity && out_queue_grow(q) != 0) return -1;
  *out_at(q, q->count) = (struct out_entry){.block = block_keep(block),
                                            .offset = offset,
                                            .size = size,
                                            .droppable = (uint32_t)droppable,
                                            .key = key,
                                            .audience = audience};
  q->count++;
  q->bytes += size;
  return 0;
}

/* Copies bytes into the queue's private memory. Returns where they lie, or NULL (no memory): a
 * packet id may still be written there in this turn. */
static inline uint8_t *out_copy(struct out_queue *q, const void *bytes, uint32_t size,
                                int droppable) {
  if (q->tail == NULL || block_room(q->tail) < size) {
    uint32_t capacity = q->tail == NULL ? OUT_PRIVATE_BYTES_MIN : q->tail->capacity * 2;
    if (capacity > OUT_PRIVATE_BYTES_MAX) capacity = OUT_PRIVATE_BYTES_MAX;
    struct block *fresh = block_new(size > capacity ? size : capacity);
    if (fresh == NULL) return NULL;
    if (q->tail != NULL) block_drop(q->tail);
    q->tail = fresh;
  }
  uint32_t offset = block_append(q->tail, bytes, size);
  if (out_push(q, q->tail, offset, size, droppable, 0, 0) != 0) return NULL;
  return q->tail->bytes + offset;
}

/* Bytes at the start of entry i that are gone: sent, or with TLS encrypted. */
static inline uint32_t out_skip(const struct out_queue *q, uint32_t i) {
  return (i == 0 ? q->sent : 0) + (i == q->sealed ? q->sealed_part : 0);
}

/* The first `size` bytes have left. */
static inline void out_consume(struct out_queue *q, uint32_t size) {
  assert(size <= q->bytes);
  q->bytes -= size;
  if (q->sealed > 0) {
    assert(size <= q->sealed_bytes);
    q->sealed_bytes -= size;
  }
  while (size > 0) {
    struct out_entry *first = out_at(q, 0);
    uint32_t left = first->size - q->sent;
    if (size < left) {
      q->sent += size;
      return;
    }
    size -= left;
    q->sent = 0;
    block_drop(first->block);
    q->head = (q->head + 1) & (q->capacity - 1);
    q->count--;
    if (q->sealed > 0) q->sealed--;
  }
}

/* Where the frame that begins at `at` ends; the rest of the stretch is one frame when it is broken.
 */
static inline uint32_t out_frame_end(const struct out_entry *e, uint32_t at, unsigned protocol) {
  struct cut cut = cut_frame(protocol, e->block->bytes + e->offset + at, e->size - at);
  return cut.size == 0 || cut.size > e->size - at ? e->size : at + (uint32_t)cut.size;
}

/* Bytes of entry i that may not be touched: sent, or in flight, up to the end of a frame begun. */
static inline uint32_t out_busy(const struct out_queue *q, uint32_t i, unsigned protocol) {
  uint32_t fixed = out_skip(q, i);
  uint64_t before = 0; /* bytes between the front and this entry's first unsent byte */
  for (uint32_t k = 0; k < i; k++) before += out_at(q, k)->size - out_skip(q, k);
  if (q->sending > before) fixed += (uint32_t)(q->sending - before);
  const struct out_entry *e = out_at(q, i);
  uint32_t at = 0;
  while (at < fixed && at < e->size) at = out_frame_end(e, at, protocol);
  return at;
}

/* Takes [from, to) out of entry i. Returns 0, or -1 (no memory, nothing done). */
static inline int out_cut(struct out_queue *q, uint32_t i, uint32_t from, uint32_t to) {
  struct out_entry *e = out_at(q, i);
  uint32_t size = e->size;
  if (from > 0 && to < size) {
    if (q->count == q->capacity && out_queue_grow(q) != 0) return -1;
    for (uint32_t k = q->count; k > i + 1; k--) *out_at(q, k) = *out_at(q, k - 1);
    q->count++;
    e = out_at(q, i);
    *out_at(q, i + 1) = *e;
    block_keep(e->block);
    out_at(q, i + 1)->offset += to;
    out_at(q, i + 1)->size -= to;
    e->size = from;
  } else if (from > 0) {
    e->size = from;
  } else if (to < size) {
    e->offset += to;
    e->size -= to;
  } else {
    block_drop(e->block);
    for (uint32_t k = i; k + 1 < q->count; k++) *out_at(q, k) = *out_at(q, k + 1);
    q->count--;
  }
  q->bytes -= to - from;
  return 0;
}

/* Drops the oldest QoS 0 frames until `needed` bytes are free under `limit`, or none is left to
 * drop. Returns how many frames went. */
static inline uint32_t out_drop_oldest(struct out_queue *q, uint32_t needed, uint32_t limit,
                                       unsigned protocol) {
  uint32_t dropped = 0;
  for (uint32_t i = 0; i < q->count && (uint64_t)q->bytes + needed > limit;) {
    const struct out_entry *e = out_at(q, i);
    uint32_t from = e->droppable ? out_busy(q, i, protocol) : e->size;
    if (from == e->size) {
      i++;
      continue;
    }
    uint32_t to = from;
    uint32_t frames = 0;
    while (to < e->size && (uint64_t)q->bytes - (to - from) + needed > limit) {
      to = out_frame_end(e, to, protocol);
      frames++;
    }
    uint32_t count = q->count;
    if (out_cut(q, i, from, to) != 0) break;
    dropped += frames;
    if (q->count >= count) i++;
  }
  return dropped;
}

/* Puts a newer frame in the place of the one that waits with the same key and audience. Returns 1
 * when there was one that could be replaced. */
static inline int out_replace(struct out_queue *q, uint32_t key, uint32_t audience,
                              struct block *block, uint32_t offset, uint32_t size,
                              unsigned protocol) {
  for (uint32_t i = q->count; i-- > 0;) {
    struct out_entry *e = out_at(q, i);
    if (e->key != key || e->audience != audience) continue;
    if (out_busy(q, i, protocol) > 0) return 0;
    block_drop(e->block);
    q->bytes += size - e->size;
    e->block = block_keep(block);
    e->offset = offset;
    e->size = size;
    return 1;
  }
  return 0;
}

/* The transport is blocked: what holds on to much more shared memory than it has to send is copied.
 */
static inline void out_detach(struct out_queue *q) {
  uint64_t in_flight = q->sending;
  for (uint32_t i = 0; i < q->count; i++) {
    struct out_entry *e = out_at(q, i);
    uint32_t skip = out_skip(q, i);
    uint32_t left = e->size - skip;
    if (in_flight > 0) {
      in_flight -= in_flight < left ? in_flight : left;
      continue;
    }
    if (e->block == q->tail || left >= e->block->capacity / 4) continue;
    struct block *own = block_new(left);
    if (own == NULL) return;
    block_append(own, e->block->bytes + e->offset + skip, left);
    /* A frame partly sent keeps only its rest: its border is lost, so it can no longer be dropped
     * or replaced. */
    if (skip > 0) e->droppable = e->key = 0;
    block_drop(e->block);
    e->block = own;
    e->offset = 0;
    e->size = left;
    if (i == 0) q->sent = 0;
    if (i == q->sealed) q->sealed_part = 0;
  }
}

#endif
