/* The descriptors of a process, read from /proc/<pid>/fd (proc(5)): their numbers into a bitmap by
 * raw getdents64(2), and of those that are asked for, what they are. Invariant: nothing is
 * allocated for an entry, and what is not a number, 0 to 2 and the scan's own descriptor do not
 * count. */
#ifndef LONGWIRE_FD_SCAN_H
#define LONGWIRE_FD_SCAN_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "reactor.h"

/* Larger numbers are not seen: Linux gives the smallest that is free. */
#define FDS_MAX (1u << 24)
#define FD_WORDS (FDS_MAX / 64)
#define FD_STANDARD 3u
#define FD_BUFFER_BYTES (256u << 10)

/* One bit for each descriptor. Pages that are never touched cost nothing. */
struct fd_set_of {
  uint64_t words[FD_WORDS];
  uint32_t word_count; /* beyond it all are 0 */
};

/* linux_dirent64: what getdents64 writes. */
struct fd_entry {
  uint64_t inode;
  int64_t next;
  uint16_t size; /* of the record */
  uint8_t type;
  char name[];
};

static inline void fd_set_add(struct fd_set_of *set, uint32_t fd) {
  uint32_t word = fd / 64;
  if (word >= FD_WORDS) return;
  set->words[word] |= 1ull << (fd % 64);
  if (word >= set->word_count) set->word_count = word + 1;
}

static inline int fd_set_has(const struct fd_set_of *set, uint32_t fd) {
  return fd < FDS_MAX && (set->words[fd / 64] >> (fd % 64) & 1);
}

static inline void fd_set_clear(struct fd_set_of *set) {
  memset(set->words, 0, set->word_count * sizeof set->words[0]);
  set->word_count = 0;
}

/* Adds the numbers that `size` bytes of getdents64 name, but 0 to 2 and `own`; returns how many. */
static inline uint32_t fd_parse(const uint8_t *bytes, size_t size, uint32_t own,
                                struct fd_set_of *set) {
  uint32_t count = 0;
  for (size_t at = 0; at < size;) {
    const struct fd_entry *entry = (const struct fd_entry *)(const void *)(bytes + at);
    at += entry->size;
    const char *name = entry->name;
    uint32_t fd = (uint32_t)(*name - '0');
    if (fd > 9) continue; /* "." and ".." */
    for (name++; *name != 0; name++) fd = fd * 10 + (uint32_t)(*name - '0');
    if (fd < FD_STANDARD || fd == own) continue;
    fd_set_add(set, fd);
    count++;
  }
  return count;
}

#ifdef __linux__

static inline int fd_directory_open(const char *directory) {
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

/* Reads the directory `fd` from its beginning. `is_self`: it is of this process, and `fd` is in it.
 * One thread at a time.
 * Returns how many were added, or -errno. */
static inline int64_t fd_scan(int fd, int is_self, struct fd_set_of *set) {
  static uint8_t buffer[FD_BUFFER_BYTES] __attribute__((aligned(8)));
  int64_t count = 0;
  for (;;) {
    long size = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
    if (size < 0) return -errno;
    if (size == 0) return count;
    count += fd_parse(buffer, (size_t)size, is_self ? (uint32_t)fd : UINT32_MAX, set);
  }
}

static inline int fd_begins(const char *text, const char *with) {
  return strncmp(text, with, strlen(with)) == 0;
}

/* What a link of /proc/<pid>/fd leads to. */
static inline enum lw_fd_kind fd_kind_of(const char *target) {
  static const struct {
    const char *begin;
    enum lw_fd_kind kind;
  } rows[] = {
      {"socket:", LW_FD_SOCKET},
      {"pipe:", LW_FD_PIPE},
      {"anon_inode:[eventfd]", LW_FD_EVENTFD},
      {"anon_inode:[eventpoll]", LW_FD_EPOLL},
      {"anon_inode:[io_uring]", LW_FD_IO_URING},
      {"anon_inode:[timerfd]", LW_FD_TIMERFD},
      {"anon_inode:[signalfd]", LW_FD_SIGNALFD},
      {"anon_inode:inotify", LW_FD_INOTIFY},
      {"/memfd:", LW_FD_MEMORY},
      {"/dev/shm/", LW_FD_FILE},
      {"/dev/", LW_FD_DEVICE},
      {"/", LW_FD_FILE},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    if (fd_begins(target, rows[i].begin)) return rows[i].kind;
  }
  return LW_FD_OTHER;
}

/* A file that has no name any more; a memfd(2) never has one. */
static inline int fd_is_deleted(const char *target) {
  static const char end[] = " (deleted)";
  size_t size = strlen(target);
  return size >= sizeof end && target[0] == '/' && !fd_begins(target, "/memfd:") &&
         strcmp(target + size - (sizeof end - 1), end) == 0;
}

/* The link of one descriptor, cut to `size`. Returns 0 or -errno: it is closed by now. */
static inline int fd_target(int directory_fd, uint32_t fd, char *target, size_t size) {
  char name[12];
  char *at = name + sizeof name - 1;
  *at = 0;
  do *--at = (char)('0' + fd % 10);
  while ((fd /= 10) > 0);
  ssize_t length = readlinkat(directory_fd, at, target, size - 1);
  if (length < 0) return -errno;
  target[length] = 0;
  return 0;
}

#endif
#endif
