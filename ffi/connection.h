/* The life of a connection: slots, states, timers, and the events that wait for room in the ring.
 */
#ifndef LONGWIRE_CONNECTION_H
#define LONGWIRE_CONNECTION_H

#include "internal.h"

/* Which state may follow which: rows from, columns to (FREE, HANDSHAKING, ACTIVE, DRAINING,
 * CLOSED). */
static const uint8_t transitions[5][5] = {
    [FREE] = {0, 1, 0, 1, 0}, /* DRAINING: a connection over the limit */
    [HANDSHAKING] = {0, 0, 1, 1, 1}, [ACTIVE] = {0, 0, 0, 1, 1},
    [DRAINING] = {0, 0, 0, 0, 1},    [CLOSED] = {1, 0, 0, 0, 0},
};

static void count_state(struct io_thread *t, const struct connection *c, int change) {
  if (c->state == FREE || c->state == CLOSED) return;
  COUNT(t, states[c->protocol - 1][c->state - HANDSHAKING], change);
}

static void set_state(struct io_thread *t, struct connection *c, enum connection_state state) {
  assert(transitions[c->state][state]);
  count_state(t, c, -1);
  c->state = (uint8_t)state;
  count_state(t, c, 1);
}

/* A message that was timed has come to its end. */
static void timing_end(struct io_thread *t, const struct connection *c, struct timing *timing,
                       unsigned what) {
  struct timing over = *timing;
  *timing = (struct timing){0};
  uint32_t us = since_us(over.since_us);
  uint32_t bucket = latency_bucket(us);
  if (what == LW_TRACED_SENT) {
    COUNT(t, to_socket.counts[bucket], 1);
    COUNT(t, to_socket.sum_us, us);
  } else {
    COUNT(t, to_acked.counts[bucket], 1);
    COUNT(t, to_acked.sum_us, us);
  }
  if (over.told == TOLD_NEVER) return;
  if (over.told == TOLD_SLOW && us <= t->reactor->options.slow_us) return;
  if (t->traced_count == TRACED_MAX) {
    COUNT(t, traced_dropped, 1);
    return;
  }
  t->traced[t->traced_count++] = (struct traced){.conn = t->index << 24 | c->slot,
                                                 .generation = c->generation,
                                                 .what = what,
                                                 .body = {.stamp = over.stamp, .us = us}};
}

static struct timer_node *timer_of(void *owner, uint32_t slot) {
  return &connection_at(owner, slot)->timer;
}

static void mark_dirty(struct io_thread *t, struct connection *c) {
  if ((c->flags & IS_DIRTY) || slot_list_push(&t->dirty, c->slot) != 0) return;
  c->flags |= IS_DIRTY;
}

static void mark_pending(struct io_thread *t, struct connection *c, unsigned event) {
  c->pending |= (uint8_t)event;
  if ((c->flags & IS_EVENTFUL) || slot_list_push(&t->eventful, c->slot) != 0) return;
  c->flags |= IS_EVENTFUL;
}

/* Reading goes on in the next turn. */
static inline void mark_ready(struct io_thread *t, struct connection *c) {
  if ((c->flags & IS_READY) || slot_list_push(&t->ready, c->slot) != 0) return;
  c->flags |= IS_READY;
}

/* A slot to use, its generation that of a new connection; NULL when there is no memory. */
static struct connection *slot_take(struct io_thread *t) {
  if (t->free_slots.count > 0) {
    return connection_at(t, t->free_slots.slots[--t->free_slots.count]);
  }
  uint32_t chunk = t->slot_count / SLOTS_PER_CHUNK;
  if (chunk == SLOT_CHUNKS_MAX) return NULL;
  if (t->chunks[chunk] == NULL) {
    t->chunks[chunk] = aligned_alloc(64, SLOTS_PER_CHUNK * sizeof(struct connection));
    if (t->chunks[chunk] == NULL) return NULL;
    memset(t->chunks[chunk], 0, SLOTS_PER_CHUNK * sizeof(struct connection));
  }
  struct connection *c = connection_at(t, t->slot_count);
  *c = (struct connection){.slot = t->slot_count, .generation = 1, .fd = -1};
  __atomic_store_n(&t->slot_count, t->slot_count + 1, __ATOMIC_RELEASE); /* the host looks */
  return c;
}

/* Forgets the topic aliases of a connection. */
static void aliases_forget(struct io_thread *t, struct connection *c) {
  if (!(c->flags & USES_ALIASES)) return;
  alias_table_free(t->aliases[c->slot]);
  t->aliases[c->slot] = NULL;
  c->flags &= ~(uint32_t)USES_ALIASES;
}

/* Begins them. Without memory there are none: topics are sent as they are. */
static void aliases_begin(struct io_thread *t, struct connection *c, uint32_t count) {
  if (count == 0) return;
  if (c->slot >= t->alias_slots) {
    uint32_t slots = c->slot + 1 > 2 * t->alias_slots ? c->slot + 1 : 2 * t->alias_slots;
    struct alias_table **grown = realloc(t->aliases, slots * sizeof *grown);
    if (grown == NULL) return;
    memset(grown + t->alias_slots, 0, (slots - t->alias_slots) * sizeof *grown);
    t->aliases = grown;
    t->alias_slots = slots;
  }
  t->aliases[c->slot] = alias_table_new(count);
  if (t->aliases[c->slot] != NULL) c->flags |= USES_ALIASES;
}

static void slot_give_back(struct io_thread *t, struct connection *c) {
  aliases_forget(t, c);
  set_state(t, c, FREE);
  uint32_t generation = c->generation % 0x3fffffff + 1;
  *c = (struct connection){.slot = c->slot, .fd = -1};
  __atomic_store_n(&c->generation, generation, __ATOMIC_RELAXED);
  /* Without memory for the list the slot is never used again: lost, but harmless. */
  (void)slot_list_push(&t->free_slots, c->slot);
}

static struct out_queue *queue_take(struct io_thread *t) {
  struct out_queue *q = t->spare_queues;
  if (q == NULL) return out_queue_new();
  t->spare_queues = q->next;
  t->spare_queue_count--;
  q->next = NULL;
  return q;
}

static void queue_give_back(struct io_thread *t, struct connection *c) {
  struct out_queue *q = c->out;
  c->out = NULL;
  c->flags &= ~(uint32_t)IS_DROPPING;
  if (q == NULL) return;
  COUNT(t, out_queue_bytes, -(uint64_t)q->bytes);
  if (t->spare_queue_count >= 4096 || q->capacity > 64) {
    out_queue_free(q);
    return;
  }
  out_queue_clear(q);
  q->next = t->spare_queues;
  t->spare_queues = q;
  t->spare_queue_count++;
}

/* The queue of a connection, made when there is none; NULL when there is no memory. */
static struct out_queue *queue_of(struct io_thread *t, struct connection *c) {
  if (c->out != NULL) return c->out;
  c->out = queue_take(t);
  if (c->out != NULL) c->out->since = (uint32_t)t->now_ms;
  return c->out;
}

/* ---------------------------------------------------------------- timers */

/* Milliseconds until the connection is due for something; -1 = never. */
static int64_t due_ms(const struct io_thread *t, const struct connection *c) {
  int64_t due = -1;
  uint32_t now = (uint32_t)t->now_ms;
  if (c->timeout_ms > 0) {
    int32_t left = (int32_t)(c->seen_ms + c->timeout_ms - now);
    due = left > 0 ? left : 0;
  }
  if (c->out != NULL && c->out->bytes > 0 && c->state != DRAINING) {
    int32_t left = (int32_t)(c->out->since + t->reactor->options.write_stall_ms - now);
    if (left < 0) left = 0;
    if (due < 0 || left < due) due = left;
  }
  return due;
}

static void timer_set(struct io_thread *t, struct connection *c) {
  int64_t due = c->state == CLOSED ? -1 : due_ms(t, c);
  if (c->flags & IS_ARMED) {
    uint32_t fires = (uint32_t)((t->now_ms + (uint64_t)(due < 0 ? 0 : due)) / WHEEL_TICK_MS) + 2;
    /* One that fires too early looks again: only a nearer deadline has to be told to the wheel. */
    if (due >= 0 && (int32_t)(fires - c->timer.tick) >= 0) return;
    wheel_disarm(&t->wheel, timer_of, t, c->slot);
    c->flags &= ~(uint32_t)IS_ARMED;
  }
  if (due < 0) return;
  wheel_arm(&t->wheel, timer_of, t, c->slot, (uint32_t)due);
  c->flags |= IS_ARMED;
}

/* ---------------------------------------------------------------- closing */

static void free_if_over(struct io_thread *t, struct connection *c) {
  uint32_t exposed = c->flags & EXPOSED;
  if (c->state != CLOSED || !(c->flags & DESCRIPTOR_GONE)) return;
  if (exposed && !(c->flags & RELEASED)) return;
  /* A list still names it. */
  if (c->flags & (IS_DIRTY | IS_EVENTFUL | IS_READY | STALLED | TLS_QUEUED)) return;
  inflight_free(c->inflight);
  tls_free(c);
  slot_give_back(t, c);
}

static void forget_source(struct io_thread *t, struct connection *c) {
  if (!(c->flags & IS_SOURCE_COUNTED)) return;
  c->flags &= ~(uint32_t)IS_SOURCE_COUNTED;
  admission_leave(&t->reactor->admission, c->peer_family, c->peer_address);
}

/* Stops being counted: from here on the connection is nobody's but ours. */
static void uncount(struct io_thread *t, struct connection *c) {
  if (!(c->flags & IS_COUNTED)) return;
  c->flags &= ~(uint32_t)IS_COUNTED;
  __atomic_fetch_sub(&t->reactor->connection_count, 1, __ATOMIC_RELAXED);
  forget_source(t, c);
  COUNT(t, connections, -1);
  COUNT(t, closed[c->code], 1);
}

/* The descriptor goes now. */
static void close_now(struct io_thread *t, struct connection *c) {
  if (c->state == CLOSED) return;
  if (c->flags & IS_BUSY_REFUSAL) t->busy_count--;
  set_state(t, c, CLOSED);
  uncount(t, c);
  timer_set(t, c);
  free(c->kept);
  c->kept = NULL;
  if (c->tls != NULL) tls_stop(c);
  /* What the kernel still reads from stays until it says that it has: see closed(). */
  if (c->out != NULL && c->out->sending == 0) queue_give_back(t, c);
  backend_close(t, c);
}

/* The connection is of no more use to the host: tells it, once. */
static void tell_closed(struct io_thread *t, struct connection *c, unsigned code) {
  c->code = (uint8_t)code;
  c->pending &= (uint8_t) ~(PENDING_ROOM | PENDING_VIOLATION | PENDING_DROPPING | PENDING_ENDED);
  if (!(c->flags & BEHIND) && t->seen_seq > c->reached_seq) c->reached_seq = t->seen_seq;
  if (c->flags & EXPOSED) mark_pending(t, c, PENDING_CLOSED);
}

/* Ends a connection at once. */
static void end(struct io_thread *t, struct connection *c, unsigned code) {
  if (c->state == CLOSED) return;
  if (c->state != DRAINING) tell_closed(t, c, code);
  close_now(t, c);
}

/* All is sent: says so with FIN, then waits for the peer's. Closing at once would send RST when the
 * peer has sent something that was not read, and the RST may destroy the last frame before the peer
 * reads it. */
static void linger(struct io_thread *t, struct connection *c) {
  int is_said = c->flags & WRITE_ENDED;
  if (!is_said && c->tls != NULL && tls_end_write(t, c)) return; /* close_notify leaves first */
  if (c->flags & END_PENDING) return close_now(t, c);            /* the peer's came first */
  if (is_said) return;
  c->flags |= WRITE_ENDED;
  backend_end_write(t, c);
}

/* Ends a connection after what is queued: flush, FIN, read and discard, close. */
static void drain(struct io_thread *t, struct connection *c, unsigned code) {
  if (c->state == DRAINING || c->state == CLOSED) return;
  tell_closed(t, c, code);
  set_state(t, c, DRAINING);
  uncount(t, c);
  free(c->kept);
  c->kept = NULL;
  c->flags &= ~(uint32_t)READ_STOPPED;
  c->seen_ms = (uint32_t)t->now_ms;
  c->timeout_ms = t->reactor->options.linger_ms;
  timer_set(t, c);
  mark_dirty(t, c);
  backend_read(t, c);
}

/* ---------------------------------------------------------------- events that wait */

static struct lw_event *event_reserve(struct io_thread *t, struct connection *c, unsigned type,
                                      unsigned code, uint32_t argument, uint32_t body_size) {
  struct lw_event *event = ring_reserve(&t->ring, body_size);
  if (event == NULL) return NULL;
  event->type = (uint16_t)type;
  event->code = (uint16_t)code;
  event->conn = t->index << 24 | c->slot;
  event->generation = c->generation;
  event->argument = argument;
  return event;
}

static int emit_u64(struct io_thread *t, struct connection *c, unsigned type, uint32_t argument,
                    uint64_t value) {
  struct lw_event *event = event_reserve(t, c, type, 0, argument, sizeof value);
  if (event == NULL) return 0;
  memcpy(event + 1, &value, sizeof value);
  ring_commit(&t->ring, event);
  return 1;
}

static int emit_plain(struct io_thread *t, struct connection *c, unsigned type, unsigned code,
                      uint32_t argument) {
  struct lw_event *event = event_reserve(t, c, type, code, argument, 0);
  if (event == NULL) return 0;
  ring_commit(&t->ring, event);
  return 1;
}

static int emit_closed(struct io_thread *t, struct connection *c) {
  struct inflight *w = c->inflight;
  uint32_t count = 0;
  for (uint32_t i = 0; w != NULL && i < w->count; i++) {
    count += inflight_at(w, i)->state < INFLIGHT_DONE;
  }
  struct lw_closed body = {
      .seen_seq = c->reached_seq,
      .behind_seq = c->flags & BEHIND ? c->behind_seq : 0,
      .inflight_count = count,
      .protocol = c->protocol,
  };
  uint32_t size = (uint32_t)(sizeof body + count * sizeof(struct lw_inflight));
  struct lw_event *event = event_reserve(t, c, LW_EVENT_CLOSED, c->code, c->listener, size);
  if (event == NULL) return 0;
  uint8_t *at = (uint8_t *)(event + 1);
  memcpy(at, &body, sizeof body);
  at += sizeof body;
  for (uint32_t i = 0; i < count || (w != NULL && i < w->count); i++) {
    const struct inflight_entry *entry = inflight_at(w, i);
    if (entry->state >= INFLIGHT_DONE) continue;
    struct lw_inflight each = {.seq = entry->seq,
                               .packet_id = entry->packet_id,
                               .qos = entry->qos,
                               .released = entry->state != INFLIGHT_SENT,
                               .flags = entry->flags};
    memcpy(at, &each, sizeof each);
    at += sizeof each;
  }
  ring_commit(&t->ring, event);
  return 1;
}

static void check_room(struct io_thread *t, struct connection *c);

/* What one LW_EVENT_SETTLED holds at most. */
#define SETTLED_MAX 64u

/* What has come of a message that the host is to be told of, and then no more: enum lw_settled. */
static unsigned settle(struct inflight_entry *entry) {
  unsigned state = entry->state;
  entry->state = state == INFLIGHT_RECEIVED ? INFLIGHT_RELEASED : INFLIGHT_DONE;
  if (state == INFLIGHT_SETTLED) return LW_SETTLED_ACKED;
  return state == INFLIGHT_RETURNED ? LW_SETTLED_RETURNED : LW_SETTLED_RECEIVED;
}

static int emit_settled(struct io_thread *t, struct connection *c) {
  struct inflight *w = c->inflight;
  struct lw_inflight all[SETTLED_MAX];
  struct inflight_entry *told[SETTLED_MAX];
  uint32_t count;
  if (w == NULL) return 1;
  uint64_t before = w->acked_seq;
  do {
    count = 0;
    for (uint32_t i = 0; i < w->count && count < SETTLED_MAX; i++) {
      struct inflight_entry *entry = inflight_at(w, i);
      int is_untold = entry->state > INFLIGHT_DONE || entry->state == INFLIGHT_RECEIVED;
      if (is_untold) told[count++] = entry;
    }
    if (count == 0) break;
    uint32_t size = (uint32_t)(count * sizeof all[0]);
    struct lw_event *event = event_reserve(t, c, LW_EVENT_SETTLED, 0, 0, size);
    if (event == NULL) return 0;
    for (uint32_t i = 0; i < count; i++) {
      struct inflight_entry *entry = told[i];
      all[i] = (struct lw_inflight){.seq = entry->seq,
                                    .packet_id = entry->packet_id,
                                    .qos = entry->qos,
                                    .flags = entry->flags};
      all[i].released = (uint8_t)settle(entry);
    }
    memcpy(event + 1, all, size);
    ring_commit(&t->ring, event);
    inflight_drop_done(w);
  } while (count == SETTLED_MAX);
  if ((c->flags & REPORT_ACKS) && w->acked_seq != before) c->pending |= PENDING_ACKED;
  check_room(t, c);
  return 1;
}

/* The largest in-flight window: there are 65,535 packet ids, and lw_closed must always fit the
 * ring. */
static uint32_t window_max(const struct io_thread *t, const struct connection *c) {
  uint32_t ids = c->flags & HOLD_RELEASES ? LW_HELD_ID_MIN - 1 : 0xffff;
  uint64_t fits = t->ring.capacity / 4 / sizeof(struct lw_inflight);
  return fits < ids ? (uint32_t)fits : ids;
}

/* How many more messages the in-flight window takes. */
static uint32_t window_room(const struct connection *c) {
  if (c->inflight_max == 0) return 0xffff;
  uint32_t used = c->inflight == NULL ? 0 : c->inflight->count;
  return used < c->inflight_max ? c->inflight_max - used : 0;
}

static int emit_acked(struct io_thread *t, struct connection *c) {
  if (!(c->pending & PENDING_ACKED)) return 1;
  if (!emit_u64(t, c, LW_EVENT_ACKED, 0, c->inflight->acked_seq)) return 0;
  c->pending &= (uint8_t)~PENDING_ACKED;
  return 1;
}

/* Writes the pending events of one connection, in order; returns 0 when the ring has no more room.
 */
static int emit_pending(struct io_thread *t, struct connection *c) {
  /* Before SETTLED: the host writes a session down when it hears that, and how far the device has
   * come belongs to it. After SETTLED once more: what that ends may be acknowledged, too. */
  if (!emit_acked(t, c)) return 0;
  if (c->pending & PENDING_SETTLED) {
    if (!emit_settled(t, c)) return 0;
    c->pending &= (uint8_t)~PENDING_SETTLED;
  }
  if (!emit_acked(t, c)) return 0;
  if (c->pending & PENDING_BEHIND) {
    if (!emit_u64(t, c, LW_EVENT_BEHIND, c->behind_count, c->behind_seq)) return 0;
    c->pending &= (uint8_t)~PENDING_BEHIND;
  }
  if (c->pending & PENDING_DROPPING) {
    uint32_t bytes = c->out == NULL ? 0 : c->out->bytes;
    if (!emit_plain(t, c, LW_EVENT_DROPPING, LW_CODE_SLOW_CONSUMER, bytes)) return 0;
    c->pending &= (uint8_t)~PENDING_DROPPING;
  }
  if (c->pending & PENDING_VIOLATION) {
    if (!emit_plain(t, c, LW_EVENT_VIOLATION, c->code, c->listener)) return 0;
    c->pending &= (uint8_t)~PENDING_VIOLATION;
    c->flags |= EXPOSED;
  }
  if (c->pending & PENDING_ENDED) {
    if (!emit_plain(t, c, LW_EVENT_ENDED, 0, c->listener)) return 0;
    c->pending &= (uint8_t)~PENDING_ENDED;
  }
  if (c->pending & PENDING_ROOM) {
    if (!emit_u64(t, c, LW_EVENT_ROOM, window_room(c), c->deliver_count)) return 0;
    c->pending &= (uint8_t)~PENDING_ROOM;
  }
  if (c->pending & PENDING_CLOSED) {
    if (!emit_closed(t, c)) return 0;
    c->pending &= (uint8_t)~PENDING_CLOSED;
  }
  return 1;
}

/* Frees the window of a connection that has nothing in flight. */
static void window_trim(struct connection *c) {
  if (c->inflight == NULL || c->inflight->count > 0) return;
  if (c->pending & (PENDING_ACKED | PENDING_SETTLED)) return;
  inflight_free(c->inflight);
  c->inflight = NULL;
}

#endif
