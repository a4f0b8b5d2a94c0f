/* The reactor: I/O threads that hold the connections, and the turn that each of them repeats. The
 * parts are in the headers, in the order in which they build on one another: block, ring,
 * command_queue, audience, frames, latency, inflight, out_queue, wheel; internal (structs, and the
 * seam to the backend), connection, stream, deliver, host. One backend is included at the end. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <sys/resource.h>

#include "host.h"
#include "top.h"

#if defined(LW_BACKEND_FILE) /* a test's own */
#include LW_BACKEND_FILE
#elif defined(LW_BACKEND_URING)
#include "backend_uring.c"
#elif defined(LW_BACKEND_KQUEUE)
#include "backend_kqueue.c"
#elif defined(LW_BACKEND_EPOLL) || defined(__linux__)
#include "backend_epoll.c"
#else
#include "backend_kqueue.c"
#endif

#ifdef LW_TLS
#include "tls.c"
#else
#include "tls_none.h"
#endif

#include "descriptors.h"

static void closed(struct io_thread *t, struct connection *c) {
  c->flags |= DESCRIPTOR_GONE;
  c->fd = -1;
  queue_give_back(t, c);
  free_if_over(t, c);
}

static void update_listeners(struct io_thread *t) {
  /* Read in this order: what is to end has been asked for before. */
  uint32_t unlisten = __atomic_exchange_n(&t->unlisten_asked, 0, __ATOMIC_SEQ_CST);
  uint32_t asked = __atomic_load_n(&t->listeners_asked, __ATOMIC_SEQ_CST);
  for (; t->listeners_seen < asked; t->listeners_seen++) backend_listen(t, t->listeners_seen);
  for (uint32_t i = 0; i < unlisten; i++) {
    if (t->listen_fds[i] >= 0) backend_unlisten(t, i);
    t->listen_fds[i] = -1;
  }
}

/* ---------------------------------------------------------------- one turn */

static void timed_out(struct io_thread *t, struct connection *c) {
  uint32_t now = (uint32_t)t->now_ms;
  uint32_t stall_ms = t->reactor->options.write_stall_ms;
  int is_stalled =
      c->out != NULL && c->out->bytes > 0 && (int32_t)(now - c->out->since) >= (int32_t)stall_ms;
  if (c->state == DRAINING) return close_now(t, c);
  if (is_stalled) return end(t, c, LW_CODE_WRITE_STALLED);
  if (c->flags & AWAITS_VERSION) return answer_refused(t, c, 4);
  if (c->flags & HALF_CLOSED) return end(t, c, LW_CODE_PEER_CLOSED);
  if (c->state == HANDSHAKING && tls_is_waiting(c)) return refuse(t, c, LW_CODE_TLS_BUSY);
  if (c->state == HANDSHAKING) return end(t, c, LW_CODE_HANDSHAKE_TIMEOUT);
  if (!takes_frames(c)) { /* nobody listens: its silence says nothing */
    c->seen_ms = now;
    return;
  }
  /* The host may have a last word for a device that has fallen silent. */
  c->timeout_ms = 0;
  violate(t, c, LW_CODE_KEEPALIVE_TIMEOUT);
}

static void run_timers(struct io_thread *t) {
  uint32_t tick = (uint32_t)(t->now_ms / WHEEL_TICK_MS);
  uint32_t slot;
  while ((slot = wheel_expired(&t->wheel, timer_of, t, tick)) != WHEEL_NONE) {
    struct connection *c = connection_at(t, slot);
    c->flags &= ~(uint32_t)IS_ARMED;
    int64_t due = due_ms(t, c);
    if (due == 0) timed_out(t, c);
    if (c->state != CLOSED && c->state != FREE) timer_set(t, c);
  }
}

/* Connections that had more to read than one turn takes. */
static void read_ready(struct io_thread *t) {
  struct slot_list now = t->ready;
  t->ready = t->ready_now;
  t->ready_now = now;
  for (uint32_t i = 0; i < now.count; i++) {
    struct connection *c = connection_at(t, now.slots[i]);
    c->flags &= ~(uint32_t)IS_READY;
    if (takes_bytes(c)) backend_read(t, c);
    free_if_over(t, c);
  }
  t->ready_now.count = 0;
}

/* Tells what became of messages that are followed; what finds no room is dropped. */
static void emit_traced(struct io_thread *t) {
  for (uint32_t i = 0; i < t->traced_count; i++) {
    const struct traced *one = &t->traced[i];
    struct lw_event *event = ring_reserve(&t->ring, sizeof one->body);
    if (event == NULL) {
      COUNT(t, traced_dropped, t->traced_count - i);
      break;
    }
    event->type = LW_EVENT_TRACED;
    event->code = 0;
    event->conn = one->conn;
    event->generation = one->generation;
    event->argument = one->what;
    memcpy(event + 1, &one->body, sizeof one->body);
    ring_commit(&t->ring, event);
  }
  t->traced_count = 0;
}

static void emit_events(struct io_thread *t) {
  uint32_t i = 0;
  for (; i < t->eventful.count; i++) {
    struct connection *c = connection_at(t, t->eventful.slots[i]);
    if (!emit_pending(t, c)) break;
    c->flags &= ~(uint32_t)IS_EVENTFUL;
    window_trim(c);
    free_if_over(t, c);
  }
  slot_list_drop(&t->eventful, i);
}

static void wake_host(struct io_thread *t) {
  struct lw_reactor *r = t->reactor;
  if (t->ring.head == t->head_told) return;
  t->head_told = t->ring.head;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&r->host_waits, __ATOMIC_SEQ_CST) &&
      __atomic_exchange_n(&r->host_waits, 0, __ATOMIC_SEQ_CST)) {
    COUNT(t, wakeups, 1);
    wakeup_ring(&r->host_wakeup);
  }
}

/* Whether something asks for a turn that no wakeup will announce. Called with `sleeping` set. */
static int has_work(struct io_thread *t) {
  if (t->ready.count > 0 || command_queue_peek(&t->commands) != NULL) return 1;
  if (tls_has_work(t) || top_has_work(t)) return 1;
  if (__atomic_load_n(&t->listeners_asked, __ATOMIC_SEQ_CST) != t->listeners_seen) return 1;
  if (__atomic_load_n(&t->unlisten_asked, __ATOMIC_SEQ_CST)) return 1;
  if (__atomic_load_n(&t->reactor->stopping, __ATOMIC_SEQ_CST)) return 1;
  if (t->stalled.count == 0 && t->eventful.count == 0) return 0;
  __atomic_store_n(&t->ring_wanted, 1, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return ring_has_room(&t->ring);
}

static void read_clock(struct io_thread *t) {
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  t->now_s = (uint32_t)ts.tv_sec;
  t->now_ms = monotonic_ms() - t->reactor->start_ms;
}

static void turn(struct io_thread *t) {
  __atomic_store_n(&t->sleeping, 1, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  int timeout_ms = has_work(t) ? 0 : wheel_wait_ms(&t->wheel, (uint32_t)t->now_ms);
  backend_wait(t, timeout_ms);
  __atomic_store_n(&t->sleeping, 0, __ATOMIC_SEQ_CST);
  update_listeners(t);
  resume_stalled(t);
  read_ready(t);
  tls_turn(t);
  top_turn(t);
  drain_commands(t, 1);
  run_timers(t);
  flush_dirty(t);
  emit_traced(t);
  emit_events(t);
  COUNT(t, turns, 1);
  wake_host(t);
}

static void *run(void *argument) {
  struct io_thread *t = argument;
  read_clock(t);
  while (!__atomic_load_n(&t->reactor->stopping, __ATOMIC_SEQ_CST)) turn(t);
  return NULL;
}

/* ---------------------------------------------------------------- life */

static void slot_list_free(struct slot_list *l) { free(l->slots); }

static void thread_free(struct io_thread *t) {
  if (t == NULL) return;
  drain_commands(t, 0);
  for (uint32_t slot = 0; slot < t->slot_count; slot++) {
    struct connection *c = connection_at(t, slot);
    free(c->kept);
    out_queue_free(c->out);
    inflight_free(c->inflight);
    aliases_forget(t, c);
    tls_free(c);
  }
  for (uint32_t i = 0; i < SLOT_CHUNKS_MAX && t->chunks[i] != NULL; i++) free(t->chunks[i]);
  while (t->spare_queues != NULL) {
    struct out_queue *next = t->spare_queues->next;
    out_queue_free(t->spare_queues);
    t->spare_queues = next;
  }
  struct slot_list *lists[] = {&t->free_slots, &t->dirty,     &t->eventful,
                               &t->ready,      &t->ready_now, &t->stalled};
  for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) slot_list_free(lists[i]);
  free(t->aliases);
  tls_thread_free(t);
  audience_table_free(&t->audiences);
  command_queue_free(&t->commands);
  ring_free(&t->ring);
  free(t);
}

/* A thread that is not started yet; NULL and *error when it cannot be made. */
static struct io_thread *thread_new(struct lw_reactor *r, uint32_t index, int *error) {
  struct io_thread *t = calloc(1, sizeof *t);
  *error = -ENOMEM;
  if (t == NULL) return NULL;
  t->reactor = r;
  t->index = index;
  for (uint32_t i = 0; i < LISTENERS_MAX; i++) t->listen_fds[i] = -1;
  wheel_open(&t->wheel);
  if (command_queue_open(&t->commands) != 0) goto fail;
  if (ring_open(&t->ring, r->options.ring_bytes) != 0) goto fail;
  *error = backend_open(t);
  if (*error == 0) return t;
fail:
  ring_free(&t->ring);
  command_queue_free(&t->commands);
  free(t);
  return NULL;
}

void lw_close(struct lw_reactor *r) {
  if (r == NULL) return;
  __atomic_store_n(&r->stopping, 1, __ATOMIC_SEQ_CST);
  for (uint32_t i = 0; i < r->thread_count; i++) {
    backend_wake(r->threads[i]);
    pthread_join(r->threads[i]->thread, NULL);
    backend_shut(r->threads[i]);
    thread_free(r->threads[i]);
  }
  for (uint32_t i = 0; i < r->audience_capacity; i++) free(r->audiences[i].counts);
  free(r->audiences);
  free(r->batches);
  arena_free(&r->arena);
  admission_free(&r->admission);
  tls_state_free(r);
  wakeup_close(&r->host_wakeup);
  free(r);
}

static int options_problem(const struct lw_options *o) {
  if (o->abi_version != LW_ABI_VERSION || o->size != sizeof *o) return 1;
  if (o->thread_count < 1 || o->thread_count > LW_THREADS_MAX) return 1;
  if (o->ring_bytes < 4096 || (o->ring_bytes & (o->ring_bytes - 1)) != 0) return 1;
  if (o->handshake_frame_bytes_max > o->frame_bytes_max) return 1;
  return (uint64_t)o->frame_bytes_max * 2 + 1024 > o->ring_bytes;
}

/* Descriptors that are not connections': listeners, the host's store and HTTP, its runtime's own.
 */
#define DESCRIPTORS_RESERVED 256
/* Of the kernel, for both buffers of a connection, and ours. */
#define CONNECTION_MEMORY_BYTES (16u << 10)
#define CONNECTIONS_AUTO_MAX (1u << 20)

uint32_t lw_connections_possible(uint32_t thread_count) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024 - DESCRIPTORS_RESERVED;
#ifdef BACKEND_HAS_TABLES /* of direct descriptors: they are not the process's */
  return table_connections(limit.rlim_cur, thread_count);
#else
  (void)thread_count;
  if (limit.rlim_cur >= UINT32_MAX) return UINT32_MAX - DESCRIPTORS_RESERVED;
  return limit.rlim_cur > DESCRIPTORS_RESERVED ? (uint32_t)limit.rlim_cur - DESCRIPTORS_RESERVED
                                               : 1;
#endif
}

/* What descriptors and memory allow. */
static uint32_t connections_auto(uint32_t thread_count) {
  uint32_t count = lw_connections_possible(thread_count);
  uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
  uint64_t held = memory / CONNECTION_MEMORY_BYTES;
  if (held < count) count = (uint32_t)held;
  return count < CONNECTIONS_AUTO_MAX ? count : CONNECTIONS_AUTO_MAX;
}

uint32_t lw_connections_max(const struct lw_reactor *r) { return r->options.connections_max; }

int lw_open(const struct lw_options *options, struct lw_reactor **out) {
  *out = NULL;
  if (options_problem(options)) return -EINVAL;
  int error = -ENOMEM;
  struct lw_reactor *r = calloc(1, sizeof *r);
  if (r == NULL) return error;
  r->options = *options;
  if (options->connections_max == 0) {
    r->options.connections_max = connections_auto(options->thread_count);
  }
  r->start_ms = monotonic_ms();
  r->host_wakeup = (struct wakeup){-1, -1};
  if (admission_open(&r->admission, &r->options, r->start_ms ^ (uintptr_t)r) != 0) goto fail;
  r->batches = calloc(options->thread_count, sizeof *r->batches);
  if (r->batches == NULL) goto fail;
  error = wakeup_open(&r->host_wakeup);
  if (error != 0) goto fail;
  while (r->thread_count < options->thread_count) {
    struct io_thread *t = thread_new(r, r->thread_count, &error);
    if (t == NULL) goto fail;
    error = -pthread_create(&t->thread, NULL, run, t);
    if (error != 0) {
      backend_shut(t);
      thread_free(t);
      goto fail;
    }
    r->threads[r->thread_count++] = t;
  }
  *out = r;
  return 0;
fail:
  lw_close(r);
  return error;
}
