/* The descriptors of this process beside what the reactor holds: who is a stranger, what leaked,
 * what is gone. The host's, while I/O threads open and close: what looks wrong in one scan may be a
 * connection that has just come, so that the host asks twice. */
#ifndef LONGWIRE_DESCRIPTORS_H
#define LONGWIRE_DESCRIPTORS_H

#include "fd_scan.h"

_Static_assert(sizeof(struct lw_fds) == 112 && sizeof(struct lw_fd) == 128, "ffi/descriptors.ts");

#ifdef __linux__

/* One scan at a time: these are large. */
static struct fd_set_of fds_open;
static struct fd_set_of fds_held;
/* Of the held ones, those whose kind is read: all others are sockets. */
static struct fd_set_of fds_looked_at;
static uint32_t fds_scanning;

static void hold_fd(int fd, int is_socket) {
  if (fd < 0) return;
  fd_set_add(&fds_held, (uint32_t)fd);
  if (!is_socket) fd_set_add(&fds_looked_at, (uint32_t)fd);
}

/* Connections whose descriptors are the process's; returns those whose are not. */
static uint32_t hold_connections(const struct io_thread *t) {
  uint32_t slot_count = __atomic_load_n(&t->slot_count, __ATOMIC_ACQUIRE);
  uint32_t direct = 0;
  for (uint32_t slot = 0; slot < slot_count; slot++) {
    const struct connection *c = connection_at(t, slot);
    int fd = __atomic_load_n(&c->fd, __ATOMIC_RELAXED);
    if (fd < 0) continue;
#ifdef BACKEND_HAS_TABLES
    direct++;
#else
    hold_fd(fd, 1);
#endif
  }
  return direct;
}

static uint32_t hold_all(const struct lw_reactor *r) {
  int fds[BACKEND_FDS_MAX];
  uint32_t direct = 0;
  hold_fd(r->host_wakeup.read_fd, 0);
  hold_fd(r->host_wakeup.write_fd, 0);
  for (uint32_t i = 0; i < r->thread_count; i++) {
    const struct io_thread *t = r->threads[i];
    uint32_t count = backend_fds(t, fds);
    for (uint32_t k = 0; k < count; k++) hold_fd(fds[k], 0);
    for (uint32_t k = 0; k < LISTENERS_MAX; k++) {
      hold_fd(__atomic_load_n(&t->listen_fds[k], __ATOMIC_RELAXED), 1);
    }
    direct += hold_connections(t);
  }
  return direct;
}

/* A connection of one of our listeners that the reactor does not hold: nobody else accepts them. */
static int is_leaked(const struct lw_reactor *r, int fd) {
  int listens = 0;
  socklen_t size = sizeof listens;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens) return 0;
  int port = port_of(fd);
  for (uint32_t i = 0; port > 0 && i < r->listener_count; i++) {
    if (r->listeners[i].port == port) return 1;
  }
  return 0;
}

struct fds_report {
  struct lw_fds *counts;
  struct lw_fd *list;
  uint32_t list_max;
};

static void report_fd(struct fds_report *report, uint32_t fd, enum lw_fd_kind kind,
                      enum lw_fd_role role, const char *target) {
  /* However many strangers there are, those that something is wrong with have room. */
  uint32_t max = role == LW_FD_STRANGER ? report->list_max / 2 : report->list_max;
  if (report->counts->listed >= max) return;
  struct lw_fd *row = &report->list[report->counts->listed++];
  *row = (struct lw_fd){.fd = fd, .kind = (uint16_t)kind, .role = (uint16_t)role};
  snprintf(row->target, sizeof row->target, "%s", target);
}

/* An open descriptor that is not, or not for certain, a socket of the reactor. */
static void look_at(const struct lw_reactor *r, int directory_fd, uint32_t fd,
                    struct fds_report *report) {
  char target[sizeof((struct lw_fd *)0)->target];
  if (fd_target(directory_fd, fd, target, sizeof target) != 0) return; /* closed since */
  struct lw_fds *counts = report->counts;
  if (fd_is_deleted(target)) {
    counts->deleted++;
    return;
  }
  enum lw_fd_kind kind = fd_kind_of(target);
  counts->kinds[kind]++;
  if (fd_set_has(&fds_held, fd)) {
    counts->held++;
  } else if (kind == LW_FD_SOCKET && is_leaked(r, (int)fd)) {
    counts->leaked++;
    report_fd(report, fd, kind, LW_FD_LEAKED, target);
  } else {
    counts->strangers++;
    report_fd(report, fd, kind, LW_FD_STRANGER, target);
  }
}

static void compare_fds(const struct lw_reactor *r, int directory_fd, struct fds_report *report) {
  uint32_t word_count =
      fds_open.word_count > fds_held.word_count ? fds_open.word_count : fds_held.word_count;
  struct lw_fds *counts = report->counts;
  for (uint32_t i = 0; i < word_count; i++) {
    uint64_t open = fds_open.words[i];
    uint64_t plain = fds_held.words[i] & ~fds_looked_at.words[i];
    counts->held += (uint32_t)__builtin_popcountll(open & plain);
    counts->kinds[LW_FD_SOCKET] += (uint32_t)__builtin_popcountll(open & plain);
    for (uint64_t left = open & ~plain; left != 0; left &= left - 1) {
      look_at(r, directory_fd, i * 64 + (uint32_t)__builtin_ctzll(left), report);
    }
    for (uint64_t left = fds_held.words[i] & ~open; left != 0; left &= left - 1) {
      uint32_t fd = i * 64 + (uint32_t)__builtin_ctzll(left);
      /* It has come since, unless it is the scan's own, for which the number was free. */
      if (fd < FD_STANDARD) continue;
      if ((int)fd != directory_fd && fcntl((int)fd, F_GETFD) >= 0) continue;
      counts->missing++;
      report_fd(report, fd, LW_FD_OTHER, LW_FD_MISSING, "");
    }
  }
}

int lw_fds(struct lw_reactor *r, struct lw_fds *out, struct lw_fd *list, uint32_t list_max) {
  if (__atomic_exchange_n(&fds_scanning, 1, __ATOMIC_ACQUIRE)) return -EBUSY;
  uint64_t begun = monotonic_ns();
  *out = (struct lw_fds){.size = sizeof *out};
  int directory_fd = fd_directory_open("/proc/self/fd");
  int64_t result = directory_fd;
  if (directory_fd >= 0) {
    result = fd_scan(directory_fd, 1, &fds_open);
    out->scan_ns = monotonic_ns() - begun;
  }
  if (result >= 0) {
    /* Held ones are read after open ones: what was closed in between is not held any more. */
    out->open = (uint32_t)result;
    out->direct = hold_all(r);
    compare_fds(r, directory_fd, &(struct fds_report){out, list, list_max});
    out->total_ns = monotonic_ns() - begun;
  }
  if (directory_fd >= 0) close(directory_fd);
  struct fd_set_of *sets[] = {&fds_open, &fds_held, &fds_looked_at};
  for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) fd_set_clear(sets[i]);
  __atomic_store_n(&fds_scanning, 0, __ATOMIC_RELEASE);
  return result < 0 ? (int)result : 0;
}

#else

int lw_fds(struct lw_reactor *r, struct lw_fds *out, struct lw_fd *list, uint32_t list_max) {
  (void)r, (void)list, (void)list_max;
  *out = (struct lw_fds){.size = sizeof *out};
  return -ENOSYS;
}

#endif
#endif
