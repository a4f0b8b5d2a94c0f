/* Counts the system calls of other processes, thread by thread, by the kernel's tracepoint
 * raw_syscalls:sys_enter (perf_event_open(2)). Only root may; for others nothing is counted. */
#ifndef LONGWIRE_BENCH_SYSCALLS_H
#define LONGWIRE_BENCH_SYSCALLS_H

#include <dirent.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SYSCALL_COUNTERS_MAX 512u

struct syscall_counters {
  int fds[SYSCALL_COUNTERS_MAX];
  uint32_t count;
};

/* Number of the tracepoint; 0 = it cannot be had. */
static inline uint64_t syscalls_tracepoint(void) {
  static const char *const places[] = {
      "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id",
      "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id",
  };
  for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
    unsigned long long id = 0;
    FILE *file = fopen(places[i], "re");
    if (!file) continue;
    int got = fscanf(file, "%llu", &id);
    fclose(file);
    if (got == 1) return id;
  }
  return 0;
}

/* Adds a counter for every thread that a process has now. */
static inline void syscalls_watch(struct syscall_counters *all, int pid) {
  char path[32];
  struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof attr};
  attr.config = syscalls_tracepoint();
  if (attr.config == 0) return;
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR *threads = opendir(path);
  struct dirent *thread;
  while (threads && (thread = readdir(threads)) && all->count < SYSCALL_COUNTERS_MAX) {
    int tid = atoi(thread->d_name);
    if (tid == 0) continue;
    long fd = syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd >= 0) all->fds[all->count++] = (int)fd;
  }
  if (threads) closedir(threads);
}

/* System calls since syscalls_watch. */
static inline uint64_t syscalls_sum(const struct syscall_counters *all) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < all->count; i++) {
    uint64_t value = 0;
    if (read(all->fds[i], &value, sizeof value) == (ssize_t)sizeof value) sum += value;
  }
  return sum;
}

#endif
