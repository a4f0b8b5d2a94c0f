/* The scan of descriptors (ffi/fd_scan.h), timed: best of several rounds, one line of JSON. What
 * was made stays until stdin ends, so that another may walk it meanwhile.
 *
 *   fds parse COUNT            bytes of getdents64(2), made here: what our code alone costs
 *   fds sockets COUNT          so many real descriptors of this process
 *   fds directory COUNT PATH   so many links in a directory that is made and removed
 */
#include "../../ffi/fd_scan.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define ROUNDS 7u
#define TARGET "socket:[4026531840]"

static struct fd_set_of set;

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

static double now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void said(double scan_ms, double kinds_ms, uint64_t found) {
  printf("{\"scan_ms\": %.3f, \"kinds_ms\": %.3f, \"found\": %llu}\n", scan_ms, kinds_ms,
         (unsigned long long)found);
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
}

/* Records as the kernel writes them, from descriptor 3 on. */
static void time_parse(uint32_t count) {
  uint8_t *bytes = calloc(count, 32);
  if (bytes == NULL) fail("calloc");
  size_t size = 0;
  for (uint32_t fd = FD_STANDARD; fd < count + FD_STANDARD; fd++) {
    struct fd_entry *entry = (struct fd_entry *)(void *)(bytes + size);
    int length = sprintf(entry->name, "%u", fd);
    entry->size = (uint16_t)((offsetof(struct fd_entry, name) + (size_t)length + 8) & ~7ul);
    entry->inode = fd;
    size += entry->size;
  }
  double best = 1e9;
  uint32_t found = 0;
  for (uint32_t i = 0; i < ROUNDS; i++) {
    fd_set_clear(&set);
    double begun = now_ms();
    found = fd_parse(bytes, size, UINT32_MAX, &set);
    double took = now_ms() - begun;
    if (took < best) best = took;
  }
  free(bytes);
  said(best, 0, found);
}

/* The link of each descriptor that is set; returns how many are sockets. */
static uint32_t count_sockets(int directory_fd) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < set.word_count; i++) {
    for (uint64_t left = set.words[i]; left != 0; left &= left - 1) {
      char target[64];
      uint32_t fd = i * 64 + (uint32_t)__builtin_ctzll(left);
      if (fd_target(directory_fd, fd, target, sizeof target) != 0) continue;
      count += fd_kind_of(target) == LW_FD_SOCKET;
    }
  }
  return count;
}

static void time_directory(const char *path, int is_self) {
  double best_scan = 1e9, best_kinds = 1e9;
  uint32_t found = 0;
  for (uint32_t i = 0; i < ROUNDS; i++) {
    fd_set_clear(&set);
    double begun = now_ms();
    int fd = fd_directory_open(path);
    if (fd < 0 || fd_scan(fd, is_self, &set) < 0) fail(path);
    double scanned = now_ms();
    found = count_sockets(fd);
    double ended = now_ms();
    close(fd);
    if (scanned - begun < best_scan) best_scan = scanned - begun;
    if (ended - begun < best_kinds) best_kinds = ended - begun;
  }
  said(best_scan, best_kinds, found);
}

static void time_sockets(uint32_t count) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  for (uint32_t i = 0; i < count; i++) {
    if (socket(AF_INET, SOCK_STREAM, 0) < 0) fail("socket");
  }
  time_directory("/proc/self/fd", 1);
}

/* One symbolic link under many names: a name costs the least that a directory entry can. */
static void time_links(uint32_t count, const char *path) {
  if (mkdir(path, 0700) != 0) fail(path);
  int fd = fd_directory_open(path);
  char name[16];
  for (uint32_t i = FD_STANDARD; i < count + FD_STANDARD; i++) {
    snprintf(name, sizeof name, "%u", i);
    int error = i == FD_STANDARD ? symlinkat(TARGET, fd, name) : linkat(fd, "3", fd, name, 0);
    if (error != 0) fail(name);
  }
  time_directory(path, 0);
  for (uint32_t i = FD_STANDARD; i < count + FD_STANDARD; i++) {
    snprintf(name, sizeof name, "%u", i);
    unlinkat(fd, name, 0);
  }
  close(fd);
  rmdir(path);
}

int main(int argc, char **argv) {
  uint32_t count = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
  if (argc == 3 && strcmp(argv[1], "parse") == 0) time_parse(count);
  else if (argc == 3 && strcmp(argv[1], "sockets") == 0) time_sockets(count);
  else if (argc == 4 && strcmp(argv[1], "directory") == 0) time_links(count, argv[3]);
  else return 2;
  return 0;
}
