/* The scan of /proc/self/fd beside what the reactor holds: what is ours, who is a stranger, what
 * was lost on purpose and what somebody else closed; and the parser of getdents64 against snprintf.
 * descriptors [seed] */
#include "reactor.c"

#include <sys/timerfd.h>
#include <time.h>

#include "check.h"

#define CONNECTIONS 8u
#define ROWS 128u

static const struct lw_options options = {
    .abi_version = LW_ABI_VERSION,
    .size = sizeof(struct lw_options),
    .thread_count = 2,
    .connections_max = 64,
    .ring_bytes = 1 << 16,
    .frame_bytes_max = 4096,
    .handshake_frame_bytes_max = 1024,
    .handshake_timeout_ms = 60000,
    .out_queue_soft_bytes = 1 << 16,
    .out_queue_hard_bytes = 1 << 17,
    .write_stall_ms = 60000,
    .linger_ms = 100,
    .command_queue_bytes_max = 1 << 20,
};

struct scan {
  struct lw_fds counts;
  struct lw_fd rows[ROWS];
};

static struct scan scan(struct lw_reactor *r) {
  struct scan s = {0};
  int error = lw_fds(r, &s.counts, s.rows, ROWS);
  REQUIRE(error == 0, "lw_fds returned %d", error);
  return s;
}

/* The row of a descriptor; NULL = it is not listed. */
static const struct lw_fd *row_of(const struct scan *s, int fd) {
  for (uint32_t i = 0; i < s->counts.listed; i++) {
    if (s->rows[i].fd == (uint32_t)fd) return &s->rows[i];
  }
  return NULL;
}

static void check_row(const struct scan *s, int fd, enum lw_fd_kind kind, enum lw_fd_role role) {
  const struct lw_fd *row = row_of(s, fd);
  CHECK(row != NULL, "descriptor %d is not listed", fd);
  if (row == NULL) return;
  CHECK(row->kind == kind && row->role == role, "%d is of kind %u, role %u (%s)", fd, row->kind,
        row->role, row->target);
}

/* What a process may have besides. */
static void test_strangers(struct lw_reactor *r) {
  struct scan before = scan(r);
  int pipes[2];
  REQUIRE(pipe(pipes) == 0, "pipe: errno %d", errno);
  const struct {
    int fd;
    enum lw_fd_kind kind;
  } rows[] = {
      {pipes[0], LW_FD_PIPE},
      {pipes[1], LW_FD_PIPE},
      {socket(AF_INET, SOCK_STREAM, 0), LW_FD_SOCKET},
      {eventfd(0, 0), LW_FD_EVENTFD},
      {timerfd_create(CLOCK_MONOTONIC, 0), LW_FD_TIMERFD},
      {open("/dev/null", O_RDONLY), LW_FD_DEVICE},
      {open("/proc/self/status", O_RDONLY), LW_FD_FILE},
  };
  uint32_t count = sizeof rows / sizeof rows[0];
  char path[] = "/tmp/longwire_XXXXXX";
  int deleted = mkstemp(path);
  unlink(path);
  struct scan after = scan(r);
  for (uint32_t i = 0; i < count; i++) check_row(&after, rows[i].fd, rows[i].kind, LW_FD_STRANGER);
  CHECK(row_of(&after, deleted) == NULL, "a file without a name is listed");
  CHECK(after.counts.deleted == before.counts.deleted + 1, "%u deleted", after.counts.deleted);
  CHECK(after.counts.open == before.counts.open + count + 1, "%u open", after.counts.open);
  CHECK(after.counts.strangers == before.counts.strangers + count, "%u", after.counts.strangers);
  CHECK(after.counts.held == before.counts.held, "%u held", after.counts.held);
  for (uint32_t i = 0; i < count; i++) close(rows[i].fd);
  close(deleted);
}

static uint32_t connections_of(struct lw_reactor *r) {
  struct lw_stats stats;
  lw_stats(r, &stats);
  return (uint32_t)stats.connections;
}

/* Clients of a listener; the reactor has accepted all of them. */
static void connect_all(struct lw_reactor *r, int *clients) {
  struct lw_listen_options listen = {
      .size = sizeof listen, .protocol = LW_PROTOCOL_LONGWIRE, .address = "127.0.0.1"};
  int port = lw_listen(r, &listen);
  REQUIRE(port > 0, "lw_listen returned %d", port);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (uint32_t i = 0; i < CONNECTIONS; i++) {
    clients[i] = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(connect(clients[i], (struct sockaddr *)&to, sizeof to) == 0, "errno %d", errno);
  }
  while (connections_of(r) < CONNECTIONS) lw_wait(r, 1);
}

#ifndef BACKEND_HAS_TABLES
/* Any connection that the reactor holds. */
static struct connection *any_connection(struct lw_reactor *r) {
  for (uint32_t i = 0; i < r->thread_count; i++) {
    const struct io_thread *t = r->threads[i];
    for (uint32_t slot = 0; slot < t->slot_count; slot++) {
      if (connection_at(t, slot)->fd >= 0) return connection_at(t, slot);
    }
  }
  REQUIRE(0, "there is no connection");
  return NULL;
}

/* The reactor forgets one, and somebody else closes one: each is named. */
static void test_lost(struct lw_reactor *r) {
  struct connection *c = any_connection(r);
  int fd = c->fd;
  c->fd = -1;
  struct scan leaked = scan(r);
  check_row(&leaked, fd, LW_FD_SOCKET, LW_FD_LEAKED);
  CHECK(leaked.counts.leaked == 1 && leaked.counts.missing == 0, "%u leaked, %u missing",
        leaked.counts.leaked, leaked.counts.missing);
  c->fd = fd;
  int other = dup(fd);
  close(fd);
  struct scan missing = scan(r);
  check_row(&missing, fd, LW_FD_OTHER, LW_FD_MISSING);
  check_row(&missing, other, LW_FD_SOCKET, LW_FD_LEAKED);
  CHECK(missing.counts.missing == 1, "%u missing", missing.counts.missing);
  REQUIRE(dup2(other, fd) == fd, "errno %d", errno);
  close(other);
}
#endif

static void test_connections(struct lw_reactor *r) {
  int clients[CONNECTIONS];
  struct scan before = scan(r);
  connect_all(r, clients);
  struct scan after = scan(r);
  uint32_t listeners = r->thread_count;
#ifdef BACKEND_HAS_TABLES
  CHECK(after.counts.direct == CONNECTIONS, "%u direct", after.counts.direct);
  CHECK(after.counts.held == before.counts.held + listeners, "%u held", after.counts.held);
#else
  uint32_t held = before.counts.held + listeners + CONNECTIONS;
  CHECK(after.counts.direct == 0 && after.counts.held == held, "%u held", after.counts.held);
  test_lost(r);
#endif
  CHECK(after.counts.strangers == before.counts.strangers + CONNECTIONS, "%u strangers",
        after.counts.strangers);
  CHECK(after.counts.leaked == 0 && after.counts.missing == 0, "%u leaked, %u missing",
        after.counts.leaked, after.counts.missing);
  for (uint32_t i = 0; i < CONNECTIONS; i++) close(clients[i]);
  while (connections_of(r) > 0) lw_wait(r, 1);
}

/* Entries in the kernel's form, random numbers among them: the bitmap has those and no others. */
static void test_parser(uint64_t seed) {
  static struct fd_set_of set;
  static uint8_t bytes[1 << 16] __attribute__((aligned(8)));
  static uint8_t is_there[1 << 12];
  size_t size = 0;
  uint32_t expected = 0;
  const char *dots[] = {".", "..", "0", "1", "2"};
  for (uint32_t i = 0; i < 1000; i++) {
    char name[16];
    uint32_t fd = random_below(&seed, sizeof is_there);
    if (i < 5) snprintf(name, sizeof name, "%s", dots[i]);
    else snprintf(name, sizeof name, "%u", fd);
    if (i >= 5 && (fd < FD_STANDARD || is_there[fd]++)) continue;
    expected += i >= 5 && fd != 77;
    struct fd_entry *entry = (struct fd_entry *)(void *)(bytes + size);
    entry->size = (uint16_t)((offsetof(struct fd_entry, name) + strlen(name) + 8) & ~7ul);
    memcpy(entry->name, name, strlen(name) + 1);
    size += entry->size;
  }
  uint32_t count = fd_parse(bytes, size, 77, &set);
  CHECK(count == expected, "%u of %u", count, expected);
  for (uint32_t fd = 0; fd < sizeof is_there; fd++) {
    int has = fd_set_has(&set, fd);
    CHECK(has == (is_there[fd] && fd != 77), "%u is %d", fd, has);
  }
}

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
  printf("%s, seed %llu\n", lw_backend(), (unsigned long long)seed);
  fflush(stdout);
  test_parser(seed);
  struct lw_reactor *r;
  int error = lw_open(&options, &r);
  REQUIRE(error == 0, "lw_open returned %d", error);
  test_strangers(r);
  test_connections(r);
  lw_close(r);
  unsigned problems = atomic_load(&check_problems);
  if (problems > 0) fprintf(stderr, "%u problems\n", problems);
  return problems > 0;
}
