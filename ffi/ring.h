/* The event ring of one I/O thread: single producer (the thread), single consumer (the host).
 * Positions grow for ever and are masked; a record never wraps, a PAD record fills the end instead.
 * An empty ring goes back to its start once in a while: memory that a burst needed once is not
 * touched again, one stretch of it after the other, by those who came later.
 */
#ifndef LONGWIRE_RING_H
#define LONGWIRE_RING_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "reactor.h"

/* How often, in bytes, the producer looks whether the ring is empty. Power of two. */
#define RING_HOME_BYTES (64u << 10)

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

/* Fills the ring up to its end: the next record is its first. A multiple of 8 bytes, perhaps less
 * than a header: size and type are all that is read. */
static inline void ring_pad(struct ring *r, uint64_t at) {
  uint32_t pad[2] = {(uint32_t)(r->capacity - at), LW_EVENT_PAD};
  memcpy(r->bytes + at, pad, sizeof pad);
  __atomic_store_n(&r->head, r->head + pad[0], __ATOMIC_RELEASE);
}

/* Whether a record of `size` bytes at `at` should rather be the first of the ring. */
static inline int ring_goes_home(struct ring *r, uint64_t at, uint64_t size) {
  if (((at ^ (at + size)) & ~(uint64_t)(RING_HOME_BYTES - 1)) == 0 || size > at) return 0;
  return ring_free_bytes(r) == r->capacity;
}

/* Room for one record with that body, padding at the end included; NULL when there is none. Fill it
 * in, then ring_commit. */
static inline struct lw_event *ring_reserve(struct ring *r, uint32_t body_size) {
  uint64_t size = (sizeof(struct lw_event) + body_size + 7) & ~(uint64_t)7;
  uint64_t at = r->head & (r->capacity - 1);
  uint64_t to_end = r->capacity - at;
  int goes_home = size > to_end || ring_goes_home(r, at, size);
  uint64_t needed = goes_home ? size + to_end : size;
  if (r->capacity - (r->head - r->tail_seen) < needed && ring_free_bytes(r) < needed) {
    if (needed > r->needed) r->needed = needed;
    return NULL;
  }
  if (goes_home) {
    ring_pad(r, at);
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
