/* Blocks: counted byte buffers that out-queues point into. The host fills arena blocks with the
 * frames of consecutive commands, so that frames which leave together also lie together. Invariant:
 * bytes below `used` that a command or a queue entry covers never change while it does. */
#ifndef LONGWIRE_BLOCK_H
#define LONGWIRE_BLOCK_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct block {
  uint32_t references; /* atomic */
  uint32_t capacity;
  uint32_t used;
  uint32_t zero;
  uint8_t bytes[];
};

/* An arena block, and the largest frame that shares one. */
#define ARENA_BYTES (64u << 10)
#define ARENA_FRAME_BYTES_MAX (16u << 10)

/* A block with one reference, or NULL. */
static inline struct block *block_new(uint32_t capacity) {
  struct block *b = malloc(sizeof *b + capacity);
  if (b == NULL) return NULL;
  *b = (struct block){.references = 1, .capacity = capacity};
  return b;
}

static inline struct block *block_keep(struct block *b) {
  __atomic_fetch_add(&b->references, 1, __ATOMIC_RELAXED);
  return b;
}

static inline void block_drop(struct block *b) {
  if (__atomic_fetch_sub(&b->references, 1, __ATOMIC_ACQ_REL) == 1) free(b);
}

static inline uint32_t block_room(const struct block *b) { return b->capacity - b->used; }

/* Copies bytes to the end of a block that has room for them; returns their offset. */
static inline uint32_t block_append(struct block *b, const void *bytes, uint32_t size) {
  assert(size <= block_room(b));
  uint32_t offset = b->used;
  memcpy(b->bytes + offset, bytes, size);
  b->used += size;
  return offset;
}

/* Where the host puts the bytes of commands: fills one block after the other. */
struct arena {
  struct block *current; /* NULL = none yet */
};

/* Copies bytes into the arena. Returns a block with a reference for the caller, or NULL (no
 * memory). */
static inline struct block *arena_append(struct arena *a, const void *bytes, uint32_t size,
                                         uint32_t *offset) {
  if (size > ARENA_FRAME_BYTES_MAX) {
    struct block *own = block_new(size);
    if (own != NULL) *offset = block_append(own, bytes, size);
    return own;
  }
  if (a->current == NULL || block_room(a->current) < size) {
    if (a->current != NULL) block_drop(a->current);
    a->current = block_new(ARENA_BYTES);
    if (a->current == NULL) return NULL;
  }
  *offset = block_append(a->current, bytes, size);
  return block_keep(a->current);
}

static inline void arena_free(struct arena *a) {
  if (a->current != NULL) block_drop(a->current);
  a->current = NULL;
}

#endif
