/* The command queue of one I/O thread: single producer (the host), single consumer (the thread), a
 * chain of chunks, so that a command is never refused. Records are multiples of 8 bytes and never
 * cross a chunk. Invariant: the consumer frees a chunk only after the producer has linked the next
 * one. */
#ifndef LONGWIRE_COMMAND_QUEUE_H
#define LONGWIRE_COMMAND_QUEUE_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#define COMMAND_CHUNK_BYTES (32u << 10)

struct command_chunk {
  struct command_chunk *next; /* atomic; NULL = this is the last */
  uint32_t used;              /* atomic; bytes that may be read */
  uint32_t capacity;
  uint8_t bytes[];
};

struct command_queue {
  struct command_chunk *write; /* producer's */
  uint64_t pushed_bytes;       /* producer's; payload bytes included */
  char apart[48];
  struct command_chunk *read; /* consumer's */
  uint32_t read_at;
  uint32_t zero;
  uint64_t popped_bytes; /* atomic; consumer's */
};

static inline struct command_chunk *command_chunk_new(uint32_t size) {
  uint32_t capacity = size > COMMAND_CHUNK_BYTES ? size : COMMAND_CHUNK_BYTES;
  struct command_chunk *chunk = malloc(sizeof *chunk + capacity);
  if (chunk != NULL) *chunk = (struct command_chunk){.capacity = capacity};
  return chunk;
}

static inline int command_queue_open(struct command_queue *q) {
  *q = (struct command_queue){.write = command_chunk_new(0)};
  q->read = q->write;
  return q->write == NULL ? -1 : 0;
}

static inline void command_queue_free(struct command_queue *q) {
  for (struct command_chunk *chunk = q->read; chunk != NULL;) {
    struct command_chunk *next = chunk->next;
    free(chunk);
    chunk = next;
  }
}

/* Producer: room for a record of `size` bytes (a multiple of 8); NULL when there is no memory. */
static inline void *command_queue_reserve(struct command_queue *q, uint32_t size) {
  assert(size % 8 == 0);
  struct command_chunk *chunk = q->write;
  if (chunk->capacity - chunk->used < size) {
    struct command_chunk *next = command_chunk_new(size);
    if (next == NULL) return NULL;
    __atomic_store_n(&chunk->next, next, __ATOMIC_RELEASE);
    q->write = chunk = next;
  }
  return chunk->bytes + chunk->used;
}

/* Producer: the reserved record is whole. `cost` is what it holds on to, bytes. */
static inline void command_queue_commit(struct command_queue *q, uint32_t size, uint64_t cost) {
  struct command_chunk *chunk = q->write;
  q->pushed_bytes += cost;
  __atomic_store_n(&chunk->used, chunk->used + size, __ATOMIC_RELEASE);
}

/* Consumer: the next record, or NULL. Stays valid until the next call. */
static inline void *command_queue_peek(struct command_queue *q) {
  for (;;) {
    struct command_chunk *chunk = q->read;
    if (q->read_at < __atomic_load_n(&chunk->used, __ATOMIC_ACQUIRE)) {
      return chunk->bytes + q->read_at;
    }
    struct command_chunk *next = __atomic_load_n(&chunk->next, __ATOMIC_ACQUIRE);
    if (next == NULL) return NULL;
    /* The chunk may have been filled between the two loads; linking came after that. */
    if (q->read_at < __atomic_load_n(&chunk->used, __ATOMIC_ACQUIRE)) continue;
    q->read = next;
    q->read_at = 0;
    free(chunk);
  }
}

static inline void command_queue_pop(struct command_queue *q, uint32_t size, uint64_t cost) {
  q->read_at += size;
  __atomic_store_n(&q->popped_bytes, q->popped_bytes + cost, __ATOMIC_RELAXED);
}

/* Producer: bytes pushed and not yet popped. */
static inline uint64_t command_queue_bytes(struct command_queue *q) {
  return q->pushed_bytes - __atomic_load_n(&q->popped_bytes, __ATOMIC_RELAXED);
}

#endif
