/* The hammer's host: what the service does with the reactor, at random, with a model of every link.
 */
#ifndef LONGWIRE_TESTS_HAMMER_HOST_H
#define LONGWIRE_TESTS_HAMMER_HOST_H

#include "hammer_link.h"

#define KNOWN_SLOTS 8192u
#define HOST_THREADS_MAX 8u
#define ACTIVE_MAX 8192u
#define STALE_MAX 256u
#define SLEEPER_KEEPALIVE_MS 300u
/* Codes that only the host uses: a CLOSED with one of them answers its CLOSE. */
#define CODE_BYE 20u
#define CODE_KICK 21u
#define CODE_REFUSED 22u

/* A stored message: what a replay needs to make its frames again. */
struct stored {
  uint64_t number;
  uint32_t filler_size;
  uint32_t qos;
};

/* A connection that the host has heard of. */
struct known {
  uint32_t generation;
  uint8_t is_open;
  struct link *link; /* NULL = it did not say whose it is */
};

struct host {
  struct lw_reactor *r;
  struct commands commands;
  uint64_t seed;
  struct known known[HOST_THREADS_MAX][KNOWN_SLOTS];
  uint32_t open_count;
  struct link *active[ACTIVE_MAX];
  uint32_t active_count;
  struct handle stale[STALE_MAX];
  uint32_t stale_count;
  struct stored *log; /* by seq - 1 */
  uint64_t log_count;
  uint64_t log_capacity;
  uint64_t number; /* of the last message */
  uint64_t shared; /* and of the last one of a shared subscription */
  uint32_t stamp;
  uint64_t frames; /* events of each kind */
  uint64_t violations;
  uint64_t closes;
  uint64_t behinds;
  uint64_t delivers;
  uint64_t returned;
  uint64_t publishes;
  int is_ending; /* nothing new is begun */
};

static uint32_t audience_of(const struct link *l, uint32_t topic) {
  return l->variant * TOPICS + topic;
}

static void host_send(struct host *h, struct link *l, struct handle to, unsigned protocol,
                      unsigned kind) {
  static struct wire_frame f;
  struct wire_body body = {.kind = kind};
  if (l != NULL) body.number = (uint64_t)l->number << 32 | l->welcomes++;
  wire_make(&f, protocol, &body, 0, random_below(&h->seed, 300));
  command_send(&h->commands, to, f.bytes, f.size);
}

/* Last words, then CLOSE. */
static void host_close(struct host *h, struct link *l, uint32_t code) {
  if (l->is_closing) return;
  l->is_closing = 1;
  l->close_code = code;
  if (!l->said_bye) atomic_store(&l->is_kicked, 1);
  host_send(h, l, l->handle, l->protocol, WIRE_LAST);
  command_close(&h->commands, l->handle, code);
}

static void host_leave(struct host *h, struct link *l, uint32_t topic) {
  if (!l->topics[topic]) return;
  command_audience(&h->commands, LW_COMMAND_LEAVE, l->handle, audience_of(l, topic));
  l->topics[topic] = 0;
}

static void host_leave_all(struct host *h, struct link *l) {
  for (uint32_t topic = 0; topic < TOPICS; topic++) host_leave(h, l, topic);
}

static void host_join(struct host *h, struct link *l, uint32_t topic) {
  if (l->topics[topic]) return;
  command_audience(&h->commands, LW_COMMAND_JOIN, l->handle, audience_of(l, topic));
  l->topics[topic] = 1;
}

/* It has said goodbye: once it has everything, so does the host. Only an acknowledgement of the
 * last one says so: it may have fallen behind, and the news of that be on its way. */
static void host_part(struct host *h, struct link *l) {
  uint64_t last = l->stored.count > 0 ? l->stored.values[l->stored.count - 1] : 0;
  if (l->protocol == LW_PROTOCOL_MQTT && l->acked_seq != last) return;
  if (l->said_bye && !l->is_behind && l->shared_count == 0) host_close(h, l, CODE_BYE);
}

/* ---------------------------------------------------------------- replay */

static void message_make(struct host *h, struct link *l, uint64_t seq, struct wire_frame *f,
                         struct publish *p) {
  const struct stored *s = &h->log[seq - 1];
  unsigned granted = l->protocol == LW_PROTOCOL_MQTT ? l->variant - 1u : s->qos;
  unsigned qos = s->qos < granted ? s->qos : granted;
  struct wire_body body = {.number = s->number, .seq = seq, .kind = WIRE_MESSAGE};
  wire_make(f, l->protocol, &body, qos, s->filler_size);
  *p = (struct publish){.seq = seq, .qos = qos, .packet_id_at = f->packet_id_at};
}

/* Delivers what was missed, as much as fits, and goes live when nothing is left. */
static void host_replay(struct host *h, struct link *l, const struct lw_event *event) {
  static struct wire_frame f;
  uint32_t most = random_chance(&h->seed, 20) ? 1 : 30;
  uint32_t under_way = l->deliver_count - (uint32_t)event_u64(event);
  if (!l->is_behind || l->is_closing || event->argument < under_way) return;
  uint32_t room = event->argument - under_way;
  for (uint32_t i = 0; i < room && i < most && l->replay_next < l->stored.count; i++) {
    struct publish p;
    uint64_t seq = l->stored.values[l->replay_next++];
    message_make(h, l, seq, &f, &p);
    command_deliver(&h->commands, l->handle, &p, 0, f.bytes, f.size);
    l->bytes_due += f.size;
    l->deliver_count++;
    h->delivers++;
  }
  if (l->replay_next < l->stored.count) return; /* ROOM comes again */
  command_live(&h->commands, l->handle, l->behind_count);
  l->is_behind = 0;
  host_part(h, l);
}

static void host_behind(struct host *h, struct link *l, const struct lw_event *event) {
  uint64_t seq = event_u64(event);
  h->behinds++;
  CHECK(!l->is_behind, "link %u: falls behind twice", l->number);
  CHECK(l->protocol == LW_PROTOCOL_MQTT || !link_is_exact(l), "link %u: has no window", l->number);
  l->is_behind = 1;
  l->behind_count = event->argument;
  l->replay_next = numbers_from(&l->stored, seq);
  CHECK(l->replay_next < l->stored.count && l->stored.values[l->replay_next] == seq,
        "link %u: misses %llu, which was not for it", l->number, (unsigned long long)seq);
  for (uint32_t i = l->replay_next; i < l->stored.count; i++) {
    static struct wire_frame f;
    struct publish p;
    message_make(h, l, l->stored.values[i], &f, &p);
    l->bytes_due -= f.size;
  }
}

static void host_acked(struct host *h, struct link *l, const struct lw_event *event) {
  uint64_t seq = event_u64(event);
  uint32_t at = numbers_from(&l->stored, seq);
  CHECK(seq > l->acked_seq, "link %u: acked %llu after %llu", l->number, (unsigned long long)seq,
        (unsigned long long)l->acked_seq);
  CHECK(at < l->stored.count && l->stored.values[at] == seq, "link %u: acked %llu", l->number,
        (unsigned long long)seq);
  l->acked_seq = seq;
  host_part(h, l);
}

/* ---------------------------------------------------------------- shared subscriptions */

static void host_share(struct host *h, struct link *l) {
  static struct wire_frame f;
  if (l->protocol != LW_PROTOCOL_MQTT || l->shared_count == SHARED_MAX) return;
  unsigned qos = 1 + random_below(&h->seed, 2);
  struct wire_body body = {.number = ++h->shared, .kind = WIRE_SHARED};
  wire_make(&f, l->protocol, &body, qos, random_below(&h->seed, 100));
  struct publish p = {.seq = SHARED_SEQ + body.number, .packet_id_at = f.packet_id_at};
  p.qos = qos | LW_DELIVER_SHARED | LW_DELIVER_ASIDE | LW_DELIVER_SETTLE;
  command_deliver(&h->commands, l->handle, &p, 0, f.bytes, f.size);
  l->shared[l->shared_count++] = p.seq;
}

/* One that was under way is no more. */
static void host_unshare(struct link *l, uint64_t seq) {
  uint32_t at = 0;
  while (at < l->shared_count && l->shared[at] != seq) at++;
  CHECK(at < l->shared_count, "link %u: %llx is settled, and was not under way", l->number,
        (unsigned long long)seq);
  if (at < l->shared_count) l->shared[at] = l->shared[--l->shared_count];
}

static void host_settled_one(struct host *h, struct link *l, const struct lw_inflight *s) {
  if (s->released == LW_SETTLED_RECEIVED) {
    const uint8_t pubrel[4] = {MQTT_PUBREL, 2, (uint8_t)(s->packet_id >> 8), (uint8_t)s->packet_id};
    CHECK(l->is_held && s->qos == 2, "link %u: PUBREC of %u", l->number, s->packet_id);
    command_send(&h->commands, l->handle, pubrel, sizeof pubrel);
    return;
  }
  if (s->seq < SHARED_SEQ) {
    uint32_t at = numbers_from(&l->stored, s->seq);
    CHECK(l->is_held && at < l->stored.count && l->stored.values[at] == s->seq,
          "link %u: message %llu is settled", l->number, (unsigned long long)s->seq);
    return;
  }
  if (s->released == LW_SETTLED_RETURNED) h->returned++;
  else atomic_fetch_add(&l->shared_acked, 1);
  host_unshare(l, s->seq);
  host_part(h, l);
}

static void host_settled(struct host *h, struct link *l, const struct lw_event *event) {
  const struct lw_inflight *all = (const struct lw_inflight *)(const void *)(event + 1);
  for (uint32_t i = 0; i < event->body_size / sizeof *all; i++) host_settled_one(h, l, &all[i]);
}

#include "hammer_host_events.h"

#endif
