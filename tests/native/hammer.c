/* Hammers the reactor through real sockets: a host that does everything at random, clients that
 * behave well or as badly as they can, and a model that knows what the well-behaved must get.
 * hammer [seconds] [seed] [threads]; ends with 77 where the backend cannot work. */
#include "reactor.c"

#include <dirent.h>

#include "hammer_client.h"
#include "hammer_host_loop.h"

#define CLIENT_THREADS 2u
#define CLIENTS_PER_THREAD 40u
/* Fewer than there are clients: some are told that there is no place. */
#define CONNECTIONS_MAX 72u

struct client_thread {
  pthread_t thread;
  uint64_t seed;
  uint16_t ports[2];
  struct client clients[CLIENTS_PER_THREAD];
};

static atomic_uint running; /* client threads */

static void *client_run(void *argument) {
  struct client_thread *t = argument;
  for (uint32_t open = 1; open > 0 || !atomic_load(&hammer_is_ending);) {
    open = 0;
    for (uint32_t i = 0; i < CLIENTS_PER_THREAD; i++) {
      struct client *c = &t->clients[i];
      if (c->link == NULL && !atomic_load(&hammer_is_ending) && random_chance(&t->seed, 5)) {
        c->seed = random_u64(&t->seed);
        client_begin(c, t->ports);
      }
      if (c->link != NULL) client_step(c);
      open += c->link != NULL;
    }
    sleep_ms(1);
  }
  atomic_fetch_sub(&running, 1);
  return NULL;
}

static uint32_t descriptor_count(void) {
  uint32_t count = 0;
  DIR *directory = opendir("/proc/self/fd");
  if (directory == NULL) return 0;
  while (readdir(directory) != NULL) count++;
  closedir(directory);
  return count;
}

static const struct lw_options hammer_options = {
    .abi_version = LW_ABI_VERSION,
    .size = sizeof(struct lw_options),
    .connections_max = CONNECTIONS_MAX,
    .ring_bytes = 128 << 10,
    .frame_bytes_max = 48 << 10,
    .handshake_frame_bytes_max = 4096,
    .handshake_timeout_ms = 2500,
    .out_queue_soft_bytes = 128 << 10,
    .out_queue_hard_bytes = 256 << 10,
    .write_stall_ms = 2500,
    .linger_ms = 3000,
    .command_queue_bytes_max = 64 << 20,
};

static uint16_t hammer_listen(struct lw_reactor *r, unsigned protocol) {
  struct lw_listen_options o = {.size = sizeof o, .protocol = protocol, .busy_size = 5};
  memcpy(o.address, "127.0.0.1", 10);
  memcpy(o.busy, busy_words[protocol == LW_PROTOCOL_MQTT], 5);
  int port = lw_listen(r, &o);
  REQUIRE(port > 0, "lw_listen returned %d", port);
  return (uint16_t)port;
}

#include "hammer_descriptors.h"
#include "hammer_wakeups.h"

/* Waits until the reactor has closed all that it still had. */
static void await_quiet(struct host *h, struct waiter *w, struct lw_stats *stats) {
  for (uint64_t end_ms = clock_ms() + PATIENCE_MS; clock_ms() < end_ms;) {
    host_turn(h, w);
    lw_stats(h->r, stats);
    uint64_t closed = 0;
    for (int i = 0; i < LW_CODE_COUNT; i++) closed += stats->closed[i];
    if (h->open_count == 0 && stats->connections == 0 && closed >= stats->accepted) break;
  }
}

static void check_end(const struct host *h, const struct lw_stats *s) {
  uint64_t closed = 0;
  for (int i = 0; i < LW_CODE_COUNT; i++) closed += s->closed[i];
  CHECK(h->open_count == 0, "%u connections have not been closed", h->open_count);
  CHECK(h->active_count == 0, "%u links are active", h->active_count);
  CHECK(s->connections == 0, "%llu connections are left", (unsigned long long)s->connections);
  CHECK(s->out_queue_bytes == 0, "%lld bytes wait", (long long)s->out_queue_bytes);
  CHECK(closed == s->accepted, "%llu closed of %llu", (unsigned long long)closed,
        (unsigned long long)s->accepted);
  CHECK(s->frames_in == h->frames, "%llu frames of %llu", (unsigned long long)h->frames,
        (unsigned long long)s->frames_in);
  printf(
      "%llu connections, %llu frames in, %llu messages, %llu deliveries, %llu behind, "
      "%llu replayed, %llu shared, %llu returned, %llu stale, %llu times full, %llu turns\n",
      (unsigned long long)s->accepted, (unsigned long long)s->frames_in,
      (unsigned long long)h->publishes, (unsigned long long)s->deliveries,
      (unsigned long long)h->behinds, (unsigned long long)h->delivers,
      (unsigned long long)h->shared, (unsigned long long)h->returned,
      (unsigned long long)s->stale_commands, (unsigned long long)s->ring_full,
      (unsigned long long)s->turns);
  for (int i = 0; i < LW_CODE_COUNT; i++) {
    if (s->closed[i] + s->dropped[i] == 0) continue;
    printf("code %d: closed %llu, dropped %llu\n", i, (unsigned long long)s->closed[i],
           (unsigned long long)s->dropped[i]);
  }
}

/* All that one run consists of. */
struct run {
  struct host *host;
  struct client_thread *clients;
  struct waiter waiter;
  pthread_t waiting;
};

static void run_begin(struct run *run, uint64_t seed, uint32_t thread_count) {
  *run = (struct run){.host = calloc(1, sizeof *run->host)};
  run->clients = calloc(CLIENT_THREADS, sizeof *run->clients);
  struct host *h = run->host;
  REQUIRE(h != NULL && run->clients != NULL, "no memory");
  struct lw_options options = hammer_options;
  options.thread_count = thread_count;
  int error = lw_open(&options, &h->r);
  REQUIRE(error == 0, "lw_open returned %d", error);
  uint16_t ports[2];
  for (unsigned i = 0; i < 2; i++) ports[i] = hammer_listen(h->r, LW_PROTOCOL_LONGWIRE + i);
  h->seed = random_u64(&seed);
  run->waiter.r = h->r;
  pthread_mutex_init(&run->waiter.lock, NULL);
  pthread_cond_init(&run->waiter.changed, NULL);
  atomic_store(&hammer_is_ending, 0);
  atomic_store(&running, CLIENT_THREADS);
  error = pthread_create(&run->waiting, NULL, waiter_run, &run->waiter);
  for (uint32_t i = 0; i < CLIENT_THREADS && error == 0; i++) {
    struct client_thread *t = &run->clients[i];
    t->seed = random_u64(&seed);
    memcpy(t->ports, ports, sizeof ports);
    error = pthread_create(&t->thread, NULL, client_run, t);
  }
  REQUIRE(error == 0, "no thread: %d", error);
}

static void run_join_clients(struct run *run) {
  for (uint32_t i = 0; i < CLIENT_THREADS; i++) pthread_join(run->clients[i].thread, NULL);
}

static void run_join_waiter(struct run *run) {
  pthread_mutex_lock(&run->waiter.lock);
  run->waiter.is_over = 1;
  pthread_cond_broadcast(&run->waiter.changed);
  pthread_mutex_unlock(&run->waiter.lock);
  pthread_join(run->waiting, NULL);
}

static void run_free(struct run *run) {
  free(run->host->commands.bytes);
  free(run->host->log);
  free(run->host);
  free(run->clients);
}

/* Everybody comes to an end that is in order, and the books are balanced. */
static void hammer(uint64_t seed, uint32_t seconds, uint32_t thread_count) {
  struct run run;
  run_begin(&run, seed, thread_count);
  struct host *h = run.host;
  uint64_t end_ms = clock_ms() + seconds * 1000ull;
  while (atomic_load(&running) > 0) {
    if (clock_ms() >= end_ms) {
      atomic_store(&hammer_is_ending, 1);
      h->is_ending = 1;
    }
    host_turn(h, &run.waiter);
  }
  run_join_clients(&run);
  struct lw_stats stats;
  lw_unlisten(h->r);
  await_quiet(h, &run.waiter, &stats);
  run_join_waiter(&run);
  check_end(h, &stats);
  lw_close(h->r);
  run_free(&run);
}

/* The reactor is closed while connections are in every state. */
static void hammer_abruptly(uint64_t seed, uint32_t thread_count) {
  struct run run;
  run_begin(&run, seed, thread_count);
  for (uint64_t end_ms = clock_ms() + 300; clock_ms() < end_ms;) host_turn(run.host, &run.waiter);
  run_join_waiter(&run);
  atomic_store(&hammer_is_abrupt, 1);
  lw_close(run.host->r);
  atomic_store(&hammer_is_ending, 1);
  run_join_clients(&run);
  run_free(&run);
}

int main(int argc, char **argv) {
  uint32_t seconds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 10;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
  uint32_t thread_count = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 0) : 2;
  REQUIRE(thread_count >= 1 && thread_count <= HOST_THREADS_MAX, "1 to %u threads",
          HOST_THREADS_MAX);
  printf("%s, seed %llu, %u threads\n", lw_backend(), (unsigned long long)seed, thread_count);
  fflush(stdout);
  char why[256] = "";
  if (lw_probe(why, sizeof why) != 0) {
    fprintf(stderr, "skipped: %s\n", why);
    return 77;
  }
  uint32_t descriptors = descriptor_count();
  hammer(seed, seconds, thread_count);
  hammer_wakeups(seed);
  hammer_without_descriptors();
  hammer_abruptly(seed, thread_count);
  CHECK(descriptor_count() == descriptors, "%u descriptors, %u at the start", descriptor_count(),
        descriptors);
  links_free();
  unsigned problems = atomic_load(&check_problems);
  if (problems > 0) fprintf(stderr, "%u problems\n", problems);
  return problems > 0;
}
