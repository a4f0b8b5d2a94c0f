/* Whether io_uring gives what the backend needs here: looked up where the kernel can be asked, and
 * tried where it cannot, with one connection over loopback through a ring like the real ones. */
#ifndef LONGWIRE_URING_PROBE_H
#define LONGWIRE_URING_PROBE_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "uring_ring.h"

struct uring_trial {
  struct uring ring;
  struct uring_buffers buffers;
  int listen_fd;
  int peer_fd;
  char *why; /* what failed, in words */
  int why_size;
};

/* Says why; returns the error. */
static inline int uring_trial_failed(struct uring_trial *p, int error, const char *what) {
  snprintf(p->why, (size_t)p->why_size, "%s: %s", what, strerror(-error));
  return error;
}

/* Why io_uring_setup failed: who forbids it, or what is too old. */
static inline int uring_setup_failed(struct uring_trial *p, int error) {
  if (error == -EPERM) {
    char disabled = '0';
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, &disabled, 1);
    if (fd >= 0) close(fd);
    const char *what = size == 1 && disabled != '0'
                           ? "the sysctl kernel.io_uring_disabled forbids io_uring"
                           : "a seccomp profile or container policy forbids io_uring";
    return uring_trial_failed(p, error, what);
  }
  if (error == -EINVAL || error == -ENOSYS) {
    return uring_trial_failed(p, error, "the kernel's io_uring is older than that of Linux 6.1");
  }
  return uring_trial_failed(p, error, "cannot make a ring");
}

static inline int uring_probe_operations(struct uring_trial *p) {
  static const struct {
    uint8_t opcode;
    const char *name;
  } needed[] = {
      {IORING_OP_ACCEPT, "ACCEPT"},     {IORING_OP_RECV, "RECV"},
      {IORING_OP_SEND, "SEND"},         {IORING_OP_SENDMSG, "SENDMSG"},
      {IORING_OP_POLL_ADD, "POLL_ADD"}, {IORING_OP_ASYNC_CANCEL, "ASYNC_CANCEL"},
      {IORING_OP_CLOSE, "CLOSE"},       {IORING_OP_SHUTDOWN, "SHUTDOWN"},
  };
  union {
    struct io_uring_probe head;
    uint8_t bytes[sizeof(struct io_uring_probe) + 256 * sizeof(struct io_uring_probe_op)];
  } known;
  memset(&known, 0, sizeof known);
  int error = uring_register(p->ring.fd, IORING_REGISTER_PROBE, &known, 256);
  if (error < 0) return uring_trial_failed(p, error, "cannot ask for the operations of io_uring");
  for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
    if (known.head.ops[needed[i].opcode].flags & IO_URING_OP_SUPPORTED) continue;
    char what[64];
    snprintf(what, sizeof what, "io_uring has no operation %s", needed[i].name);
    return uring_trial_failed(p, -ENOSYS, what);
  }
  return 0;
}

/* Waits at most a second for a completion of `user_data`; returns its result, or -errno. */
static inline int uring_probe_await(struct uring_trial *p, uint64_t user_data, uint32_t *flags) {
  for (int i = 0; i < 16; i++) {
    struct io_uring_cqe cqe;
    int error = uring_enter(&p->ring, 1, 1000);
    if (error < 0 && error != -EINTR && error != -EAGAIN) return error;
    while (uring_peek(&p->ring, &cqe)) {
      uring_pop(&p->ring);
      if (cqe.user_data != user_data) continue;
      *flags = cqe.flags;
      return cqe.res;
    }
  }
  return -ETIME;
}

static inline int uring_probe_connect(struct uring_trial *p) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  p->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  p->peer_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (p->listen_fd < 0 || p->peer_fd < 0) return -errno;
  if (bind(p->listen_fd, (struct sockaddr *)&address, sizeof address) != 0) return -errno;
  if (listen(p->listen_fd, 1) != 0) return -errno;
  if (getsockname(p->listen_fd, (struct sockaddr *)&address, &size) != 0) return -errno;
  if (connect(p->peer_fd, (struct sockaddr *)&address, sizeof address) != 0) return -errno;
  return send(p->peer_fd, "lw", 2, MSG_NOSIGNAL) == 2 ? 0 : -errno;
}

/* Accepts a connection into the table. Returns its place there, or -errno. */
static inline int uring_probe_accept(struct uring_trial *p) {
  uint32_t flags = 0;
  struct io_uring_sqe *sqe = uring_sqe(&p->ring, IORING_OP_ACCEPT, p->listen_fd, 1);
  sqe->ioprio = IORING_ACCEPT_MULTISHOT;
  sqe->file_index = IORING_FILE_INDEX_ALLOC;
  int place = uring_probe_await(p, 1, &flags);
  if (place < 0) return uring_trial_failed(p, place, "cannot accept a direct descriptor");
  if (flags & IORING_CQE_F_MORE) return place;
  return uring_trial_failed(p, -ENOSYS, "io_uring has no multishot accept");
}

/* The life of a connection, as the backend leads it. */
static inline int uring_probe_life(struct uring_trial *p) {
  uint32_t flags = 0;
  int place = uring_probe_accept(p);
  if (place < 0) return place;
  struct io_uring_sqe *sqe = uring_sqe(&p->ring, IORING_OP_RECV, place, 2);
  sqe->flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
  sqe->ioprio = IORING_RECV_MULTISHOT;
  sqe->buf_group = URING_BUFFER_GROUP;
  int result = uring_probe_await(p, 2, &flags);
  if (result < 0) return uring_trial_failed(p, result, "cannot receive by multishot");
  const uint32_t expected = IORING_CQE_F_MORE | IORING_CQE_F_BUFFER;
  if (result != 2 || (flags & expected) != expected ||
      memcmp(uring_buffers_at(&p->buffers, flags), "lw", 2) != 0) {
    return uring_trial_failed(p, -EIO, "a multishot receive brought something else");
  }
  sqe = uring_sqe(&p->ring, IORING_OP_SEND, place, 3);
  sqe->flags = IOSQE_FIXED_FILE;
  sqe->addr = (uint64_t)(uintptr_t) "lw";
  sqe->len = 2;
  sqe->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
  result = uring_probe_await(p, 3, &flags);
  if (result != 2) return uring_trial_failed(p, result < 0 ? result : -EIO, "cannot send");
  sqe = uring_sqe(&p->ring, IORING_OP_ASYNC_CANCEL, -1, 4);
  sqe->addr = 2;
  result = uring_probe_await(p, 4, &flags);
  if (result < 0) return uring_trial_failed(p, result, "cannot cancel a multishot receive");
  sqe = uring_sqe(&p->ring, IORING_OP_CLOSE, 0, 5);
  sqe->file_index = (uint32_t)place + 1;
  result = uring_probe_await(p, 5, &flags);
  return result < 0 ? uring_trial_failed(p, result, "cannot close a direct descriptor") : 0;
}

static inline int uring_trial_run(struct uring_trial *p) {
  int error = uring_open(&p->ring, 8, 64);
  if (error != 0) return uring_setup_failed(p, error);
  error = uring_probe_operations(p);
  if (error != 0) return error;
  error = uring_register_table(&p->ring, 4);
  if (error != 0) return uring_trial_failed(p, error, "cannot register a table of descriptors");
  error = uring_buffers_open(&p->buffers, &p->ring, 2, 4096);
  if (error != 0) return uring_trial_failed(p, error, "cannot register a ring of buffers");
  error = uring_enable(&p->ring);
  if (error != 0) return uring_trial_failed(p, error, "cannot enable a ring");
  error = uring_probe_connect(p);
  if (error != 0) return uring_trial_failed(p, error, "cannot connect over loopback to try it");
  return uring_probe_life(p);
}

/* Returns 0, or -errno and in `why` the reason in words. */
static inline int uring_probe(char *why, int size) {
  char nowhere[1];
  struct uring_trial p = {.ring.fd = -1, .listen_fd = -1, .peer_fd = -1};
  p.why = size > 0 ? why : nowhere;
  p.why_size = size > 0 ? size : 1;
  p.why[0] = 0;
  int error = uring_trial_run(&p);
  if (p.listen_fd >= 0) close(p.listen_fd);
  if (p.peer_fd >= 0) close(p.peer_fd);
  uring_close(&p.ring);
  uring_buffers_free(&p.buffers);
  return error;
}

#endif
