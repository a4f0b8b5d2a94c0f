/* The front of a TLS connection's out-queue: entries of ciphertext, in the order in which their
 * records were made. Invariant: all ciphertext lies before all plaintext, and only ciphertext is
 * ever handed to the backend. Where the kernel encrypts, alerts and key updates take the place of
 * ciphertext, one at a time, and plaintext follows. */
#ifndef LONGWIRE_OUT_SEAL_H
#define LONGWIRE_OUT_SEAL_H

#include "out_queue.h"

/* Plaintext bytes that wait. */
static inline uint32_t out_plain_bytes(const struct out_queue *q) {
  return q->bytes - q->sealed_bytes;
}

/* Puts a block of ciphertext behind the others; takes over the caller's reference. Returns 0 or -1
 * (no memory; the reference stays the caller's). */
static inline int out_push_sealed(struct out_queue *q, struct block *block) {
  if (q->count == q->capacity && out_queue_grow(q) != 0) return -1;
  q->head = (q->head - 1) & (q->capacity - 1);
  q->count++;
  for (uint32_t i = 0; i < q->sealed; i++) *out_at(q, i) = *out_at(q, i + 1);
  *out_at(q, q->sealed) = (struct out_entry){.block = block, .size = block->used};
  q->sealed++;
  q->bytes += block->used;
  q->sealed_bytes += block->used;
  return 0;
}

/* The next `size` bytes of plaintext have been encrypted. */
static inline void out_take_plain(struct out_queue *q, uint32_t size) {
  assert(size <= out_plain_bytes(q));
  uint32_t done = 0; /* entries that are used up */
  q->bytes -= size;
  while (size > 0) {
    const struct out_entry *e = out_at(q, q->sealed + done);
    uint32_t left = e->size - q->sealed_part;
    if (size < left) {
      q->sealed_part += size;
      break;
    }
    size -= left;
    q->sealed_part = 0;
    block_drop(e->block);
    done++;
  }
  if (done == 0) return;
  /* The ciphertext before them is short: it moves up, and the ring begins later. */
  for (uint32_t i = q->sealed; i-- > 0;) *out_at(q, i + done) = *out_at(q, i);
  q->head = (q->head + done) & (q->capacity - 1);
  q->count -= done;
}

/* Plaintext shall never leave. */
static inline void out_drop_plain(struct out_queue *q) {
  while (q->count > q->sealed) block_drop(out_at(q, --q->count)->block);
  q->bytes = q->sealed_bytes;
  q->sealed_part = 0;
}

#endif
