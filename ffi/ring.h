/* The event ring of one I/O thread: single producer (the thread), single consumer (the host).
 * Positions grow for ever and are masked; a record never wraps, a PAD record fills the end instead.
 */
#ifndef LONGWIRE_RING_H
#define LONGWIRE_RING_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "reactor.h"

struct ring {
  uint8_t *bytes;
  uint64_t capacity;  /* power of two */
  uint64_t head;      /* producer's; atomic store, the host loads it */
  uint64_t tail_seen; /* producer's copy of tail */
  uint64_t needed;    /* producer's: what the largest record that was refused wants; 0 = none was */
  char apart[32];     /* keeps the two writers' cache lines apart */
  uint64_t tail;      /* host's; atomic store, the producer loads it */
};

static inline int ring_open(struct ring *r, uint32_t capacity) {
  assert(capacity >= 4096 && (capacity & (capacity - 1)) == 0);
  *r = (struct ring){.capacity = capacity};
  r->bytes = aligned_alloc(64, capacity);
  return r->bytes == NULL ? -1 : 0;
}

static inline void ring_free(struct ring *r) { free(r->bytes); }

static inline uint64_t ring_free_bytes(struct ring *r) {
  r->tail_seen = __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE);
  return r->capacity - (r->head - r->tail_seen);
}

/* Producer: whether it is worth trying again after a record was refused. */
static inline int ring_has_room(struct ring *r) {
  uint64_t wanted = r->needed > r->capacity / 4 ? r->needed : r->capacity / 4;
  return ring_free_bytes(r) >= wanted;
}

/* Room for one record with that body, padding at the end included; NULL when there is none. Fill it
 * in, then ring_commit. */
static inline struct lw_event *ring_reserve(struct ring *r, uint32_t body_size) {
  uint64_t size = (sizeof(struct lw_event) + body_size + 7) & ~(uint64_t)7;
  uint64_t at = r->head & (r->capacity - 1);
  uint64_t to_end = r->capacity - at;
  uint64_t needed = size <= to_end ? size : size + to_end;
  if (r->capacity - (r->head - r->tail_seen) < needed && ring_free_bytes(r) < needed) {
    if (needed > r->needed) r->needed = needed;
    return NULL;
  }
  if (size > to_end) {
    /* to_end is a multiple of 8, perhaps less than a header: size and type are all that is read. */
    uint32_t pad[2] = {(uint32_t)to_end, LW_EVENT_PAD};
    memcpy(r->bytes + at, pad, sizeof pad);
    __atomic_store_n(&r->head, r->head + to_end, __ATOMIC_RELEASE);
    at = 0;
  }
  struct lw_event *event = (struct lw_event *)(void *)(r->bytes + at);
  event->size = (uint32_t)size;
  event->body_size = body_size;
  return event;
}

static inline void ring_commit(struct ring *r, const struct lw_event *event) {
  __atomic_store_n(&r->head, r->head + event->size, __ATOMIC_RELEASE);
}

/* Host: the stretch that can be walked now. Returns 0 when there is none. */
static inline int ring_peek(struct ring *r, uint32_t *begin, uint32_t *end) {
  uint64_t head = __atomic_load_n(&r->head, __ATOMIC_ACQUIRE);
  if (head == r->tail) return 0;
  uint64_t at = r->tail & (r->capacity - 1);
  uint64_t size = head - r->tail;
  if (size > r->capacity - at) size = r->capacity - at;
  *begin = (uint32_t)at;
  *end = (uint32_t)(at + size);
  return 1;
}

/* Host: gives back what ring_peek showed. */
static inline void ring_consume(struct ring *r, uint32_t size) {
  __atomic_store_n(&r->tail, r->tail + size, __ATOMIC_RELEASE);
}

#endif
