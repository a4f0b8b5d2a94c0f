/* One io_uring instance by raw system calls (io_uring_setup(2), io_uring_enter(2),
 * io_uring_register(2)): its two rings, its table of direct descriptors and its ring of receive
 * buffers. Invariant: only the thread that called uring_enable submits and completes
 * (IORING_SETUP_SINGLE_ISSUER); an SQE is filled in before the next one is asked for. */
#ifndef LONGWIRE_URING_RING_H
#define LONGWIRE_URING_RING_H

#if !__has_include(<linux/io_uring.h>)
#error "the io_uring backend needs the kernel's headers (linux/io_uring.h)"
#endif
#include <linux/io_uring.h>
#ifndef IORING_SETUP_DEFER_TASKRUN
#error "the io_uring backend needs the headers of Linux 6.1 or newer"
#endif

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the headers of 6.1. */
#define URING_PBUF_RING_INC 2u         /* 6.12: a buffer may be used up bit by bit */
#define URING_CQE_F_BUF_MORE (1u << 4) /* 6.12: it has bytes left */
#define URING_SOCKET_OP_GETSOCKOPT 2u  /* 6.7: IORING_OP_URING_CMD on a socket */

#define URING_BUFFER_GROUP 0u

/* What every ring here is made with. Completions are run only when the thread asks for them, in its
 * own context, so that none of them interrupts it; SUBMIT_ALL: one bad entry does not hold up those
 * behind it. */
#define URING_SETUP_FLAGS                                                                         \
  (IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED | \
   IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN |          \
   IORING_SETUP_TASKRUN_FLAG)

/* What the code relies on: one mapping for both rings; no completion lost; SQEs, iovecs and msghdrs
 * may be reused once submitted; a timeout in io_uring_enter; success that makes no completion. */
#define URING_FEATURES                                                        \
  (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | \
   IORING_FEAT_EXT_ARG | IORING_FEAT_CQE_SKIP)

struct uring {
  int fd; /* -1 = not open */
  uint32_t features;
  void *rings;
  size_t rings_bytes;
  struct io_uring_sqe *sqes;
  size_t sqes_bytes;
  uint32_t *sq_head; /* the kernel's */
  uint32_t *sq_tail;
  uint32_t *sq_flags;
  uint32_t sq_mask;
  uint32_t sq_used; /* tail with the entries that the kernel has not been told of */
  uint32_t *cq_head;
  uint32_t *cq_tail; /* the kernel's */
  uint32_t *cq_flags;
  uint32_t cq_mask;
  struct io_uring_cqe *cqes;
};

static inline int uring_setup(uint32_t entries, struct io_uring_params *p) {
  int fd = (int)syscall(SYS_io_uring_setup, entries, p);
  return fd < 0 ? -errno : fd;
}

static inline int uring_register(int fd, unsigned what, void *argument, unsigned count) {
  int result = (int)syscall(SYS_io_uring_register, fd, what, argument, count);
  return result < 0 ? -errno : result;
}

static inline void uring_close(struct uring *u) {
  if (u->sqes != NULL) munmap(u->sqes, u->sqes_bytes);
  if (u->rings != NULL) munmap(u->rings, u->rings_bytes);
  if (u->fd >= 0) close(u->fd);
  *u = (struct uring){.fd = -1};
}

static inline int uring_map(struct uring *u, const struct io_uring_params *p) {
  const int protection = PROT_READ | PROT_WRITE;
  size_t sq_bytes = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
  size_t cq_bytes = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  u->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
  u->sqes_bytes = p->sq_entries * sizeof(struct io_uring_sqe);
  void *rings =
      mmap(NULL, u->rings_bytes, protection, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQ_RING);
  if (rings == MAP_FAILED) return -errno;
  u->rings = rings;
  void *sqes =
      mmap(NULL, u->sqes_bytes, protection, MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQES);
  if (sqes == MAP_FAILED) return -errno;
  u->sqes = sqes;
  return 0;
}

/* Makes a ring that takes nothing until uring_enable. Returns 0 or -errno. */
static inline int uring_open(struct uring *u, uint32_t sq_entries, uint32_t cq_entries) {
  struct io_uring_params p = {.flags = URING_SETUP_FLAGS, .cq_entries = cq_entries};
  *u = (struct uring){.fd = uring_setup(sq_entries, &p)};
  if (u->fd < 0) {
    int error = u->fd;
    u->fd = -1;
    return error;
  }
  u->features = p.features;
  int error = (p.features & URING_FEATURES) == URING_FEATURES ? uring_map(u, &p) : -ENOSYS;
  if (error != 0) {
    uring_close(u);
    return error;
  }
  uint8_t *at = u->rings;
  u->sq_head = (uint32_t *)(void *)(at + p.sq_off.head);
  u->sq_tail = (uint32_t *)(void *)(at + p.sq_off.tail);
  u->sq_flags = (uint32_t *)(void *)(at + p.sq_off.flags);
  u->sq_mask = p.sq_entries - 1;
  u->cq_head = (uint32_t *)(void *)(at + p.cq_off.head);
  u->cq_tail = (uint32_t *)(void *)(at + p.cq_off.tail);
  u->cq_flags = (uint32_t *)(void *)(at + p.cq_off.flags);
  u->cq_mask = p.cq_entries - 1;
  u->cqes = (struct io_uring_cqe *)(void *)(at + p.cq_off.cqes);
  uint32_t *array = (uint32_t *)(void *)(at + p.sq_off.array);
  for (uint32_t i = 0; i < p.sq_entries; i++) array[i] = i; /* entries are used in order */
  return 0;
}

/* From the thread that will use it. */
static inline int uring_enable(struct uring *u) {
  return uring_register(u->fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* ---------------------------------------------------------------- submitting */

/* Submits what was filled in; with `wait`, also runs what has become ready and waits for one
 * completion: timeout_ms long, 0 = not at all, -1 = without end. Returns io_uring_enter's result or
 * -errno. */
static inline int uring_enter(struct uring *u, int wait, int timeout_ms) {
  struct __kernel_timespec timeout = {.tv_sec = timeout_ms / 1000,
                                      .tv_nsec = (long long)(timeout_ms % 1000) * 1000000};
  struct io_uring_getevents_arg argument = {0};
  if (timeout_ms > 0) argument.ts = (uint64_t)(uintptr_t)&timeout;
  __atomic_store_n(u->sq_tail, u->sq_used, __ATOMIC_RELEASE);
  uint32_t count = u->sq_used - __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE);
  unsigned flags = wait ? IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG : 0;
  unsigned least = wait && timeout_ms != 0 ? 1 : 0;
  long result = syscall(SYS_io_uring_enter, u->fd, count, least, flags, wait ? &argument : NULL,
                        wait ? sizeof argument : 0);
  return result < 0 ? -errno : (int)result;
}

/* How many more entries can be filled in before some have to be submitted. */
static inline uint32_t uring_room(const struct uring *u) {
  return u->sq_mask + 1 - (u->sq_used - __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE));
}

/* The next entry, empty but for what is given. When the ring is full, what is in it is submitted
 * first: the kernel refuses that only while it has no memory, and then trying again is all there is
 * to do. */
static inline struct io_uring_sqe *uring_sqe(struct uring *u, unsigned opcode, int fd,
                                             uint64_t user_data) {
  while (uring_room(u) == 0) uring_enter(u, 0, 0);
  struct io_uring_sqe *sqe = &u->sqes[u->sq_used++ & u->sq_mask];
  memset(sqe, 0, sizeof *sqe);
  sqe->opcode = (uint8_t)opcode;
  sqe->fd = fd;
  sqe->user_data = user_data;
  return sqe;
}

/* ---------------------------------------------------------------- completing */

/* Copies the oldest completion; returns 0 when there is none. */
static inline int uring_peek(const struct uring *u, struct io_uring_cqe *out) {
  uint32_t head = *u->cq_head;
  if (head == __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE)) return 0;
  const struct io_uring_cqe *cqe = &u->cqes[head & u->cq_mask];
  out->user_data = cqe->user_data;
  out->res = cqe->res;
  out->flags = cqe->flags;
  return 1;
}

static inline void uring_pop(struct uring *u) {
  __atomic_store_n(u->cq_head, *u->cq_head + 1, __ATOMIC_RELEASE);
}

static inline int uring_is_complete(const struct uring *u) {
  return *u->cq_head != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
}

/* Whether completions leave the registered eventfd alone. */
static inline void uring_hush(struct uring *u, int is_hushed) {
  __atomic_store_n(u->cq_flags, is_hushed ? IORING_CQ_EVENTFD_DISABLED : 0, __ATOMIC_RELAXED);
}

/* Whether the kernel holds more completions than the ring shows: work put off, or an overflow. */
static inline int uring_has_more(const struct uring *u) {
  uint32_t flags = __atomic_load_n(u->sq_flags, __ATOMIC_RELAXED);
  return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

/* ---------------------------------------------------------------- direct descriptors */

/* An empty table of direct descriptors. The kernel allows RLIMIT_NOFILE of them in one ring. */
static inline int uring_register_table(struct uring *u, uint32_t size) {
  struct io_uring_rsrc_register table = {.nr = size, .flags = IORING_RSRC_REGISTER_SPARSE};
  return uring_register(u->fd, IORING_REGISTER_FILES2, &table, sizeof table);
}

/* ---------------------------------------------------------------- receive buffers */

/* io_uring_buf_reg as it is since 6.4: `flags` was padding. */
struct uring_buffer_register {
  uint64_t ring_addr;
  uint32_t ring_entries;
  uint16_t bgid;
  uint16_t flags;
  uint64_t resv[3];
};

/* Buffers that the kernel takes from when data comes (io_uring_register(2),
 * IORING_REGISTER_PBUF_RING). */
struct uring_buffers {
  struct io_uring_buf_ring *ring; /* NULL = none */
  uint8_t *bytes;
  uint32_t *used; /* bytes of each buffer that the kernel has filled */
  uint32_t count; /* power of two */
  uint32_t size;  /* of one */
  uint16_t tail;
  uint8_t is_incremental;
};

static inline void uring_buffers_add(struct uring_buffers *b, uint32_t id) {
  struct io_uring_buf *entry = &b->ring->bufs[b->tail & (b->count - 1)];
  entry->addr = (uint64_t)(uintptr_t)(b->bytes + (size_t)id * b->size);
  entry->len = b->size;
  entry->bid = (uint16_t)id;
  b->used[id] = 0;
  __atomic_store_n(&b->ring->tail, ++b->tail, __ATOMIC_RELEASE);
}

static inline void uring_buffers_free(struct uring_buffers *b) {
  if (b->ring != NULL) munmap(b->ring, b->count * sizeof(struct io_uring_buf));
  free(b->bytes);
  free(b->used);
  *b = (struct uring_buffers){0};
}

/* Gives a ring `count` buffers (a power of two). Incremental ones fill up connection after
 * connection, so few large ones do; where the kernel has none, each receive takes a whole one and
 * they are cut in sixteen. */
static inline int uring_buffers_open(struct uring_buffers *b, struct uring *u, uint32_t count,
                                     uint32_t size) {
  struct uring_buffer_register r = {.bgid = URING_BUFFER_GROUP, .flags = URING_PBUF_RING_INC};
  int error = -ENOMEM;
  *b = (struct uring_buffers){.count = count, .size = size};
  for (b->is_incremental = 1;; b->is_incremental = 0) {
    size_t bytes = b->count * sizeof(struct io_uring_buf);
    void *ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) return -errno;
    b->ring = ring;
    r.ring_addr = (uint64_t)(uintptr_t)ring;
    r.ring_entries = b->count;
    error = uring_register(u->fd, IORING_REGISTER_PBUF_RING, &r, 1);
    if (error != -EINVAL || r.flags == 0) break;
    munmap(ring, bytes);
    b->ring = NULL;
    b->count *= 16;
    b->size /= 16;
    r.flags = 0;
  }
  b->bytes = malloc((size_t)b->count * b->size);
  b->used = calloc(b->count, sizeof *b->used);
  if (b->bytes == NULL || b->used == NULL) error = -ENOMEM;
  if (error != 0) {
    uring_buffers_free(b);
    return error;
  }
  for (uint32_t i = 0; i < b->count; i++) uring_buffers_add(b, i);
  return 0;
}

/* Where the bytes of a completed receive lie. */
static inline const uint8_t *uring_buffers_at(const struct uring_buffers *b, uint32_t cqe_flags) {
  uint32_t id = cqe_flags >> IORING_CQE_BUFFER_SHIFT;
  return b->bytes + (size_t)id * b->size + b->used[id];
}

/* They have been dealt with: the buffer goes back once the kernel is through with it. */
static inline void uring_buffers_done(struct uring_buffers *b, uint32_t cqe_flags, uint32_t size) {
  uint32_t id = cqe_flags >> IORING_CQE_BUFFER_SHIFT;
  if (b->is_incremental && (cqe_flags & URING_CQE_F_BUF_MORE)) b->used[id] += size;
  else uring_buffers_add(b, id);
}

#endif
