/* Which connections are worst off: each I/O thread looks through its own, a slice a turn, and keeps
 * the k worst in a heap. Invariant: only its I/O thread reads a connection; the host waits. */
#ifndef LONGWIRE_TOP_H
#define LONGWIRE_TOP_H

#include <stdlib.h>

#include "connection.h"

/* Slots that one turn looks at: some 100 us. */
#define TOP_SLICE_SLOTS 4096u

/* Heartbeats that a device may miss before it is closed, in thousandths: three in the Longwire
 * protocol, one and a half keepalives in MQTT [MQTT-3.1.2-22]. */
static uint32_t heartbeats_max_milli(const struct connection *c) {
  return c->protocol == LW_PROTOCOL_MQTT ? 1500 : 3000;
}

static uint32_t misses_milli(const struct connection *c, uint32_t silent_ms) {
  if (c->timeout_ms == 0) return 0;
  return (uint32_t)((uint64_t)silent_ms * heartbeats_max_milli(c) / c->timeout_ms);
}

static struct lw_top_row top_row(const struct io_thread *t, const struct connection *c) {
  uint32_t now = (uint32_t)t->now_ms;
  uint32_t silent_ms = now - c->seen_ms;
  struct lw_top_row row = {
      .conn = t->index << 24 | c->slot,
      .generation = c->generation,
      .queue_bytes = c->out == NULL ? 0 : c->out->bytes,
      .stalled_ms = c->out == NULL || c->out->bytes == 0 ? 0 : now - c->out->since,
      .inflight = c->inflight == NULL ? 0 : c->inflight->count,
      .silent_ms = silent_ms,
      .misses_milli = misses_milli(c, silent_ms),
  };
  /* Who is late by less than one heartbeat is well. */
  uint32_t misses = row.misses_milli < 1000 ? 0 : row.misses_milli;
  row.key = t->top.by == LW_TOP_QUEUE_BYTES ? row.queue_bytes : misses;
  return row;
}

/* Restores a heap whose root is the smallest key, from the root on. */
static void top_sift(struct lw_top_row *rows, uint32_t count) {
  struct lw_top_row moved = rows[0];
  uint32_t at = 0;
  for (;;) {
    uint32_t child = 2 * at + 1;
    if (child >= count) break;
    if (child + 1 < count && rows[child + 1].key < rows[child].key) child++;
    if (rows[child].key >= moved.key) break;
    rows[at] = rows[child];
    at = child;
  }
  rows[at] = moved;
}

static void top_add(struct top_search *s, const struct lw_top_row *row) {
  if (s->count == s->rows_max) {
    if (row->key <= s->rows[0].key) return;
    s->rows[0] = *row;
    return top_sift(s->rows, s->count);
  }
  uint32_t at = s->count++;
  for (; at > 0 && s->rows[(at - 1) / 2].key > row->key; at = (at - 1) / 2) {
    s->rows[at] = s->rows[(at - 1) / 2];
  }
  s->rows[at] = *row;
}

/* One slice, when the host has asked. */
static void top_turn(struct io_thread *t) {
  struct top_search *s = &t->top;
  if (!__atomic_load_n(&s->asked, __ATOMIC_ACQUIRE)) return;
  uint32_t end = s->slot + TOP_SLICE_SLOTS;
  if (end > t->slot_count) end = t->slot_count;
  for (; s->slot < end; s->slot++) {
    const struct connection *c = connection_at(t, s->slot);
    if (c->state != ACTIVE) continue;
    struct lw_top_row row = top_row(t, c);
    if (row.key > 0) top_add(s, &row);
  }
  if (s->slot < t->slot_count) return;
  struct top_wait *wait = s->wait;
  __atomic_store_n(&s->asked, 0, __ATOMIC_RELEASE);
  pthread_mutex_lock(&wait->mutex);
  wait->left--;
  pthread_cond_signal(&wait->done);
  pthread_mutex_unlock(&wait->mutex);
}

static int top_has_work(const struct io_thread *t) {
  return (int)__atomic_load_n(&t->top.asked, __ATOMIC_SEQ_CST);
}

static int top_compare(const void *a, const void *b) {
  const struct lw_top_row *x = a, *y = b;
  return x->key < y->key ? 1 : x->key > y->key ? -1 : 0;
}

int lw_top(struct lw_reactor *r, uint32_t by, struct lw_top_row *rows, uint32_t rows_max) {
  if (by > LW_TOP_MISSES || rows_max == 0 || rows_max > LW_TOP_ROWS_MAX) return -EINVAL;
  struct lw_top_row *all = malloc((size_t)r->thread_count * rows_max * sizeof *all);
  if (all == NULL) return -ENOMEM;
  struct top_wait wait = {.left = r->thread_count};
  pthread_mutex_init(&wait.mutex, NULL);
  pthread_cond_init(&wait.done, NULL);
  for (uint32_t i = 0; i < r->thread_count; i++) {
    struct io_thread *t = r->threads[i];
    struct top_search *search = &t->top;
    search->by = by;
    search->slot = search->count = 0;
    search->rows = all + (size_t)i * rows_max;
    search->rows_max = rows_max;
    search->wait = &wait;
    __atomic_store_n(&t->top.asked, 1, __ATOMIC_SEQ_CST);
    thread_wake(t);
  }
  pthread_mutex_lock(&wait.mutex);
  while (wait.left > 0) pthread_cond_wait(&wait.done, &wait.mutex);
  pthread_mutex_unlock(&wait.mutex);
  pthread_cond_destroy(&wait.done);
  pthread_mutex_destroy(&wait.mutex);
  uint32_t count = 0;
  for (uint32_t i = 0; i < r->thread_count; i++) {
    const struct top_search *s = &r->threads[i]->top;
    for (uint32_t k = 0; k < s->count; k++) all[count++] = s->rows[k];
  }
  qsort(all, count, sizeof *all, top_compare);
  if (count > rows_max) count = rows_max;
  memcpy(rows, all, count * sizeof *rows);
  free(all);
  return (int)count;
}

#endif
