/* The hammer's host: what it does of its own accord, and its loop. The waiting is done in another
 * thread, as the service has it done. */
#ifndef LONGWIRE_TESTS_HAMMER_HOST_LOOP_H
#define LONGWIRE_TESTS_HAMMER_HOST_LOOP_H

#include <time.h>

#include "hammer_host.h"

/* More than this on its way to a link that must get everything: publishing waits. */
#define DUE_BYTES_MAX (48u << 10)
/* More than this still to be replayed: nothing is added. */
#define BACKLOG_MAX 300u

static void sleep_ms(uint32_t ms) {
  struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
  nanosleep(&ts, NULL);
}

/* ---------------------------------------------------------------- publishing */

/* One message to be published, and which audiences of each variant it goes to. */
struct outgoing {
  struct wire_body body;
  unsigned qos;
  uint32_t filler_size;
  uint32_t topics[3];
  uint32_t topic_count;
  struct link *except; /* NULL = none */
};

/* Says what a variant of a message will do: each link that is in one of its audiences has it due.
 */
static void host_note(struct host *h, const struct outgoing *o, unsigned variant, uint64_t seq,
                      uint32_t frame_size) {
  for (uint32_t i = 0; i < h->active_count; i++) {
    struct link *l = h->active[i];
    int is_member = 0;
    for (uint32_t k = 0; k < o->topic_count; k++) is_member |= l->topics[o->topics[k]];
    if (!is_member || l->variant != variant || l->is_closing || l == o->except) continue;
    pthread_mutex_lock(&l->lock);
    if (seq != 0) numbers_add(&l->stored, seq);
    else if (o->body.key != 0) l->key_last[o->body.key - 1] = o->body.number;
    else numbers_add(&l->droppable, o->body.number);
    pthread_mutex_unlock(&l->lock);
    /* Messages with a key may be replaced: they do not count as due. */
    if ((seq == 0 && o->body.key == 0) || (seq != 0 && !l->is_behind)) l->bytes_due += frame_size;
  }
}

static void host_publish_variant(struct host *h, const struct outgoing *o, unsigned variant) {
  static struct wire_frame f;
  unsigned granted = variant == 0 ? o->qos : variant - 1;
  unsigned qos = o->qos < granted ? o->qos : granted;
  struct wire_body body = o->body;
  struct publish p = {.stamp = h->stamp, .qos = qos, .key = body.key, .except = {LW_CONN_NONE, 0}};
  uint32_t audiences[3];
  for (uint32_t i = 0; i < o->topic_count; i++) audiences[i] = variant * TOPICS + o->topics[i];
  body.seq = p.seq = qos > 0 ? h->log_count : 0;
  unsigned protocol = variant == 0 ? LW_PROTOCOL_LONGWIRE : LW_PROTOCOL_MQTT;
  wire_make(&f, protocol, &body, qos, o->filler_size);
  p.packet_id_at = f.packet_id_at;
  if (o->except != NULL) p.except = o->except->handle;
  host_note(h, o, variant, p.seq, f.size);
  command_publish(&h->commands, &p, audiences, o->topic_count, f.bytes, f.size);
}

static void host_publish(struct host *h) {
  struct outgoing o = {.qos = random_below(&h->seed, 3)};
  o.body = (struct wire_body){.number = ++h->number, .kind = WIRE_MESSAGE};
  o.filler_size = random_below(&h->seed, random_chance(&h->seed, 2) ? 20000 : 300);
  o.topic_count = 1 + random_below(&h->seed, 3);
  for (uint32_t i = 0; i < o.topic_count; i++) o.topics[i] = random_below(&h->seed, TOPICS);
  if (h->active_count > 0 && random_chance(&h->seed, 10)) {
    o.except = h->active[random_below(&h->seed, h->active_count)];
  }
  if (o.qos == 0 && random_chance(&h->seed, 20)) {
    o.topic_count = 1;
    o.body.key = o.topics[0] + 1;
  }
  if (++h->stamp == 0) h->stamp = 1;
  if (o.qos > 0) {
    if (h->log_count == h->log_capacity) {
      h->log_capacity = h->log_capacity == 0 ? 4096 : h->log_capacity * 2;
      h->log = realloc(h->log, h->log_capacity * sizeof h->log[0]);
      REQUIRE(h->log != NULL, "no memory");
    }
    h->log[h->log_count++] = (struct stored){o.body.number, o.filler_size, o.qos};
  }
  h->publishes++;
  for (unsigned variant = VARIANTS; variant-- > 0;) host_publish_variant(h, &o, variant);
}

/* Whether every link that must get everything has most of it; who cannot follow leaves. */
static int host_may_publish(struct host *h) {
  int may = 1;
  for (uint32_t i = 0; i < h->active_count; i++) {
    struct link *l = h->active[i];
    if (l->is_closing || !link_is_exact(l)) continue;
    if (l->is_behind && l->stored.count - l->replay_next > BACKLOG_MAX) host_leave_all(h, l);
    uint64_t taken = atomic_load(&l->bytes_taken);
    if (l->bytes_due > taken && l->bytes_due - taken > DUE_BYTES_MAX) may = 0;
  }
  return may;
}

/* ---------------------------------------------------------------- other deeds */

/* Commands for connections that are gone, or never were. */
static void host_stale(struct host *h) {
  if (h->stale_count == 0) return;
  uint32_t count = h->stale_count < STALE_MAX ? h->stale_count : STALE_MAX;
  struct handle of = h->stale[random_below(&h->seed, count)];
  static const uint16_t types[] = {LW_COMMAND_PAUSE, LW_COMMAND_RESUME, LW_COMMAND_BEHIND,
                                   LW_COMMAND_LIVE, LW_COMMAND_RELEASE};
  if (random_chance(&h->seed, 10)) of.generation += 1000000;
  command_plain(&h->commands, types[random_below(&h->seed, 5)], of);
  command_send(&h->commands, of, "stale", 5);
  command_close(&h->commands, of, LW_CODE_NORMAL);
  struct publish p = {.seq = 1, .qos = 1, .packet_id_at = LW_PACKET_ID_NONE};
  command_deliver(&h->commands, of, &p, 7, "stale", 5);
}

static void host_deed(struct host *h, struct link *l) {
  uint32_t what = random_below(&h->seed, 100);
  uint32_t topic = random_below(&h->seed, TOPICS);
  if (l->is_closing || l->said_bye) return;
  if (what < 30) {
    if (l->stored.count - l->replay_next <= BACKLOG_MAX || !l->is_behind) host_join(h, l, topic);
  } else if (what < 50) {
    host_leave(h, l, topic);
  } else if (what < 70) {
    for (uint32_t i = random_below(&h->seed, 5); i > 0; i--) {
      host_send(h, l, l->handle, l->protocol, WIRE_WELCOME);
    }
  } else if (what < 80) {
    command_plain(&h->commands, LW_COMMAND_PAUSE, l->handle);
    l->is_paused = 1;
  } else if (what < 82) {
    host_close(h, l, CODE_KICK);
  } else if (what < 92) {
    for (uint32_t i = random_below(&h->seed, 4); i > 0; i--) host_share(h, l);
  } else if (what < 95 && l->role == ROLE_ROGUE) {
    for (int i = 0; i < 800; i++) host_send(h, l, l->handle, l->protocol, WIRE_WELCOME);
  }
}

static void host_act(struct host *h) {
  for (uint32_t i = 0; i < h->active_count; i++) {
    struct link *l = h->active[i];
    if (!l->is_paused || l->is_closing || !random_chance(&h->seed, 20)) continue;
    command_plain(&h->commands, LW_COMMAND_RESUME, l->handle);
    l->is_paused = 0;
  }
  if (h->is_ending || h->active_count == 0) return;
  for (uint32_t i = random_below(&h->seed, 8); i > 0; i--) {
    host_deed(h, h->active[random_below(&h->seed, h->active_count)]);
  }
  if (random_chance(&h->seed, 20)) host_stale(h);
  if (!host_may_publish(h)) return;
  for (uint32_t i = random_below(&h->seed, 20); i > 0; i--) host_publish(h);
}

/* ---------------------------------------------------------------- the loop */

/* The thread that waits in the host's place. */
struct waiter {
  struct lw_reactor *r;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int is_asked;
  int is_over;
};

static void *waiter_run(void *argument) {
  struct waiter *w = argument;
  pthread_mutex_lock(&w->lock);
  while (!w->is_over) {
    if (w->is_asked) {
      pthread_mutex_unlock(&w->lock);
      lw_wait(w->r, 20);
      pthread_mutex_lock(&w->lock);
      w->is_asked = 0;
      pthread_cond_broadcast(&w->changed);
    } else {
      pthread_cond_wait(&w->changed, &w->lock);
    }
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

static void waiter_ask(struct waiter *w) {
  pthread_mutex_lock(&w->lock);
  w->is_asked = 1;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

static void waiter_await(struct waiter *w) {
  pthread_mutex_lock(&w->lock);
  while (w->is_asked) pthread_cond_wait(&w->changed, &w->lock);
  pthread_mutex_unlock(&w->lock);
}

static void host_submit(struct host *h) {
  int64_t result = commands_submit(&h->commands, h->r);
  CHECK(result >= 0, "lw_submit returned %lld", (long long)result);
}

/* Asks who is worst off: while all of them come and go. */
static void host_look(struct host *h) {
  struct lw_top_row rows[32];
  uint32_t by = random_below(&h->seed, LW_TOP_MISSES + 1);
  int count = lw_top(h->r, by, rows, 32);
  CHECK(count >= 0 && count <= 32, "lw_top returned %d", count);
  for (int i = 0; i < count; i++) {
    CHECK(rows[i].key > 0 && (i == 0 || rows[i].key <= rows[i - 1].key), "row %d: %u", i,
          rows[i].key);
  }
}

/* One turn of the host; now and then it is slow, and the rings fill. */
static void host_turn(struct host *h, struct waiter *w) {
  waiter_ask(w);
  host_act(h);
  host_submit(h);
  if (random_chance(&h->seed, 5)) lw_wake(h->r);
  if (random_chance(&h->seed, 1)) sleep_ms(random_below(&h->seed, 150));
  if (random_chance(&h->seed, 3)) host_look(h);
  waiter_await(w);
  events_walk(h->r, host_take, h);
  host_submit(h);
}

#endif
