/* The in-flight window of one MQTT connection: QoS >= 1 messages sent and not yet acknowledged,
 * oldest first. It exists only while something is in flight. */
#ifndef LONGWIRE_INFLIGHT_H
#define LONGWIRE_INFLIGHT_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "latency.h"

enum inflight_state {
  INFLIGHT_SENT = 0,
  INFLIGHT_RELEASED = 1, /* QoS 2: PUBREC came */
  INFLIGHT_RECEIVED = 2, /* the same, and the host is still to be told */
  INFLIGHT_DONE = 3,
  INFLIGHT_SETTLED = 4,  /* over, and the host is still to be told */
  INFLIGHT_RETURNED = 5, /* never sent, and the host is still to be told */
};

struct inflight_entry {
  uint64_t seq;
  uint16_t packet_id;
  uint8_t qos;
  uint8_t state;  /* enum inflight_state */
  uint32_t flags; /* enum lw_publish_flags, of its DELIVER */
};

struct inflight {
  uint64_t acked_seq; /* highest seq that has left the window; 0 = none yet */
  uint32_t head;      /* position of the oldest, masked by capacity - 1 */
  uint32_t count;     /* entries between the oldest and the newest, done ones included */
  uint32_t capacity;  /* power of two */
  uint32_t chosen;    /* entries whose id the host chose: ids may then be out of sequence */
  struct timing timing;
  uint32_t timed_id; /* packet id of the message that is timed */
  struct inflight_entry *entries;
};

static inline struct inflight *inflight_new(void) {
  struct inflight *w = calloc(1, sizeof *w);
  if (w == NULL) return NULL;
  w->capacity = 8;
  w->entries = malloc(w->capacity * sizeof w->entries[0]);
  if (w->entries == NULL) {
    free(w);
    return NULL;
  }
  return w;
}

static inline void inflight_free(struct inflight *w) {
  if (w == NULL) return;
  free(w->entries);
  free(w);
}

static inline struct inflight_entry *inflight_at(const struct inflight *w, uint32_t i) {
  return &w->entries[(w->head + i) & (w->capacity - 1)];
}

static inline struct inflight_entry *inflight_find(const struct inflight *w, uint16_t packet_id) {
  for (uint32_t i = 0; i < w->count; i++) {
    struct inflight_entry *entry = inflight_at(w, i);
    if (entry->packet_id == packet_id && entry->state < INFLIGHT_DONE) return entry;
  }
  return NULL;
}

static inline int inflight_grow(struct inflight *w) {
  struct inflight_entry *entries = malloc(2 * w->capacity * sizeof entries[0]);
  if (entries == NULL) return -1;
  for (uint32_t i = 0; i < w->count; i++) entries[i] = *inflight_at(w, i);
  free(w->entries);
  w->entries = entries;
  w->capacity *= 2;
  w->head = 0;
  return 0;
}

/* The packet id after `last` that is free, at most `max`. Ids follow one another, so without ids of
 * the host's choice a window far smaller than `max` never meets one of its own. */
static inline uint16_t inflight_id_after(const struct inflight *w, uint16_t last, uint16_t max) {
  uint16_t id = last;
  do {
    id = id >= max ? 1 : (uint16_t)(id + 1);
  } while (w->chosen > 0 && inflight_find(w, id) != NULL);
  return id;
}

static inline uint16_t inflight_next_id(const struct inflight *w, uint16_t last) {
  return inflight_id_after(w, last, 65535);
}

/* Adds the newest. Returns 0 or -1 (no memory). */
static inline int inflight_push(struct inflight *w, uint64_t seq, uint16_t packet_id, unsigned qos,
                                int is_chosen) {
  if (w->count == w->capacity && inflight_grow(w) != 0) return -1;
  *inflight_at(w, w->count) =
      (struct inflight_entry){.seq = seq, .packet_id = packet_id, .qos = (uint8_t)qos};
  w->count++;
  w->chosen += is_chosen != 0;
  return 0;
}

/* Drops what is done from the old end. */
static inline void inflight_drop_done(struct inflight *w) {
  while (w->count > 0 && inflight_at(w, 0)->state == INFLIGHT_DONE) {
    const struct inflight_entry *oldest = inflight_at(w, 0);
    if (!(oldest->flags & LW_DELIVER_ASIDE) && oldest->seq > w->acked_seq)
      w->acked_seq = oldest->seq;
    w->head = (w->head + 1) & (w->capacity - 1);
    w->count--;
  }
  if (w->count == 0) w->chosen = 0;
}

/* Ends one exchange. */
static inline void inflight_done(struct inflight *w, struct inflight_entry *entry) {
  entry->state = INFLIGHT_DONE;
  inflight_drop_done(w);
}

#endif
