/* The rings of one I/O thread. Each has a table of direct descriptors, and the kernel allows
 * RLIMIT_NOFILE entries in one table: a thread whose tables are full opens another ring, so that
 * neither the process nor the thread is bound by that limit. Invariant: all operations on a
 * connection go through the ring whose table holds its descriptor. The thread waits on the first
 * ring; the others announce themselves to it by an eventfd, and only while it sleeps. */
#ifndef LONGWIRE_URING_TABLES_H
#define LONGWIRE_URING_TABLES_H

#include <assert.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "uring_ring.h"

#define TABLES_MAX 128u
#define TABLE_NONE 0xffffffffu
/* A descriptor is table << PLACE_BITS | place. */
#define PLACE_BITS 20u
#ifndef TABLE_SIZE_MAX                    /* a test's own */
#define TABLE_SIZE_MAX (1u << PLACE_BITS) /* IORING_MAX_FIXED_FILES */
#endif

#define RECEIVE_BUFFERS 8u
#define SEND_VECTORS 64u
#define SCRATCH_MESSAGES 256u
#define SCRATCH_VECTORS 2048u

struct table {
  struct uring ring;
  struct uring_buffers buffers;
  uint32_t used;
  uint32_t promised; /* to accepts that take one connection each */
  uint32_t messages_used;
  uint32_t vectors_used;
  /* In use until they are submitted (IORING_FEAT_SUBMIT_STABLE). */
  struct msghdr messages[SCRATCH_MESSAGES];
  struct iovec vectors[SCRATCH_VECTORS];
};

struct tables {
  struct table *at[TABLES_MAX];
  uint32_t count;
  uint32_t limit; /* how many may be opened */
  uint32_t size;  /* entries of each */
  uint32_t first; /* whose completions come first in the next turn */
  int signal_fd;  /* eventfd of all rings but the first; -1 = there is only that one */
  uint64_t signal_value;
};

static inline uint32_t table_number(int fd) { return (uint32_t)fd >> PLACE_BITS; }

static inline uint32_t table_place(int fd) { return (uint32_t)fd & ((1u << PLACE_BITS) - 1); }

static inline int table_descriptor(uint32_t number, uint32_t place) {
  return (int)(number << PLACE_BITS | place);
}

static inline struct table *table_of(const struct tables *all, int fd) {
  return all->at[table_number(fd)];
}

/* Places that are left free, so that there are some from which connections over a limit can be told
 * so. */
static inline uint32_t table_spare(uint32_t size) { return size < 256 ? 16 : size / 16; }

/* Places that a table has for `count` connections more. */
static inline int table_takes(const struct tables *all, uint32_t number, uint64_t count) {
  const struct table *table = all->at[number];
  return table->used + table->promised + table_spare(all->size) + count <= all->size;
}

static inline uint32_t table_size_of(uint64_t descriptors_max) {
  return descriptors_max < TABLE_SIZE_MAX ? (uint32_t)descriptors_max : TABLE_SIZE_MAX;
}

static inline void table_free(struct table *table) {
  if (table == NULL) return;
  uring_close(&table->ring);
  uring_buffers_free(&table->buffers);
  free(table);
}

/* A ring that is not enabled yet. The first one may be the only one and gets more of everything.
 * `receive_bytes` are all of its buffers. Returns 0 or -errno. */
static inline int table_open(struct tables *all, uint32_t receive_bytes) {
  int is_first = all->count == 0;
  struct table *table = calloc(1, sizeof *table);
  if (table == NULL) return -ENOMEM;
  int error = uring_open(&table->ring, is_first ? 2048 : 256, is_first ? 16384 : 8192);
  if (error == 0) error = uring_register_table(&table->ring, all->size);
  if (error == 0) {
    uint32_t bytes = receive_bytes / (is_first ? 1 : 4);
    error =
        uring_buffers_open(&table->buffers, &table->ring, RECEIVE_BUFFERS, bytes / RECEIVE_BUFFERS);
  }
  if (error == 0 && !is_first) {
    uring_hush(&table->ring, 1);
    error = uring_register(table->ring.fd, IORING_REGISTER_EVENTFD, &all->signal_fd, 1);
  }
  if (error != 0) {
    table_free(table);
    return error;
  }
  all->at[all->count] = table;
  __atomic_store_n(&all->count, all->count + 1, __ATOMIC_RELEASE); /* the host looks */
  return 0;
}

static inline int table_enter(struct table *table, int wait, int timeout_ms) {
  int result = uring_enter(&table->ring, wait, timeout_ms);
  if (uring_room(&table->ring) == table->ring.sq_mask + 1) {
    table->messages_used = table->vectors_used = 0;
  }
  return result;
}

static inline int table_has_scratch(const struct table *table) {
  return table->messages_used < SCRATCH_MESSAGES &&
         table->vectors_used + SEND_VECTORS <= SCRATCH_VECTORS;
}

static inline void tables_free(struct tables *all) {
  for (uint32_t i = 0; i < all->count; i++) table_free(all->at[i]);
  if (all->signal_fd >= 0) close(all->signal_fd);
}

/* In the I/O thread: opens one more ring and makes it the thread's. Returns 0 or -errno. */
static inline int tables_grow(struct tables *all, uint32_t receive_bytes) {
  if (all->count >= all->limit) return -ENFILE;
  /* Blocking: a read that found nothing would end at once and not wait. */
  if (all->signal_fd < 0) all->signal_fd = eventfd(0, EFD_CLOEXEC);
  if (all->signal_fd < 0) return -errno;
  int error = table_open(all, receive_bytes);
  if (error != 0) return error;
  error = uring_enable(&all->at[all->count - 1]->ring);
  if (error != 0) table_free(all->at[--all->count]);
  return error;
}

/* Whether a ring has something to submit, to run or to complete. */
static inline int table_is_busy(const struct table *table) {
  return uring_room(&table->ring) <= table->ring.sq_mask || uring_has_more(&table->ring) ||
         uring_is_complete(&table->ring);
}

/* Lets the other rings announce themselves; returns 0 when one of them need not any more. */
static inline int tables_may_sleep(const struct tables *all) {
  for (uint32_t i = 1; i < all->count; i++) uring_hush(&all->at[i]->ring, 0);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  for (uint32_t i = 1; i < all->count; i++) {
    if (table_is_busy(all->at[i])) return 0;
  }
  return !uring_is_complete(&all->at[0]->ring);
}

/* Submits what every ring was given and runs what is ready there; where there is nothing, waits:
 * timeout_ms long, 0 = not at all, -1 = without end. */
static inline void tables_enter(struct tables *all, int timeout_ms) {
  for (uint32_t i = 1; i < all->count; i++) {
    struct table *table = all->at[i];
    if (uring_room(&table->ring) <= table->ring.sq_mask || uring_has_more(&table->ring)) {
      table_enter(table, 1, 0);
    }
  }
  if (timeout_ms != 0 && !tables_may_sleep(all)) timeout_ms = 0;
  table_enter(all->at[0], 1, timeout_ms);
  for (uint32_t i = 1; i < all->count; i++) uring_hush(&all->at[i]->ring, 1);
}

/* Whether the kernel holds more completions than the rings show. */
static inline int tables_have_more(const struct tables *all) {
  for (uint32_t i = 0; i < all->count; i++) {
    if (uring_has_more(&all->at[i]->ring)) return 1;
  }
  return 0;
}

/* The table with room that new connections shall go to: the lowest one, so that those behind it
 * run empty. */
static inline uint32_t tables_with_room(const struct tables *all) {
  for (uint32_t i = 0; i < all->count; i++) {
    if (table_takes(all, i, 1)) return i;
  }
  return TABLE_NONE;
}

#endif
