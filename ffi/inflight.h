/* The in-flight window of one MQTT connection: QoS >= 1 messages sent and not yet acknowledged, oldest
 * first. It exists only while something is in flight. */
#ifndef LONGWIRE_INFLIGHT_H
#define LONGWIRE_INFLIGHT_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "reactor.h"

enum inflight_state { INFLIGHT_SENT = 0, INFLIGHT_RELEASED = 1, INFLIGHT_DONE = 2 };

struct inflight_entry {
  uint64_t seq;
  uint16_t packet_id;
  uint8_t qos;
  uint8_t state; /* enum inflight_state */
  uint32_t aside; /* LW_DELIVER_ASIDE */
};

struct inflight {
  uint64_t acked_seq; /* highest seq that has left the window; 0 = none yet */
  uint32_t head;      /* position of the oldest, masked by capacity - 1 */
  uint32_t count;     /* entries between the oldest and the newest, done ones included */
  uint32_t capacity;  /* power of two */
  uint32_t chosen;    /* entries whose id the host chose: ids may then be out of sequence */
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
    if (entry->packet_id == packet_id && entry->state != INFLIGHT_DONE) return entry;
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

/* The packet id after `last` that is free. Ids follow one another, so without ids of the host's choice a
 * window far smaller than 65,535 never meets one of its own. */
static inline uint16_t inflight_next_id(const struct inflight *w, uint16_t last) {
  uint16_t id = last;
  do {
    id = id == 65535 ? 1 : (uint16_t)(id + 1);
  } while (w->chosen > 0 && inflight_find(w, id) != NULL);
  return id;
}

/* Adds the newest. Returns 0 or -1 (no memory). */
static inline int inflight_push(struct inflight *w, uint64_t seq, uint16_t packet_id, unsigned qos,
                                int is_chosen) {
  if (w->count == w->capacity && inflight_grow(w) != 0) return -1;
  *inflight_at(w, w->count) = (struct inflight_entry){.seq = seq, .packet_id = packet_id,
                                                      .qos = (uint8_t)qos};
  w->count++;
  w->chosen += is_chosen != 0;
  return 0;
}

/* Ends one exchange and drops what is done from the old end. */
static inline void inflight_done(struct inflight *w, struct inflight_entry *entry) {
  entry->state = INFLIGHT_DONE;
  while (w->count > 0 && inflight_at(w, 0)->state == INFLIGHT_DONE) {
    uint64_t seq = inflight_at(w, 0)->seq;
    if (!inflight_at(w, 0)->aside && seq > w->acked_seq) w->acked_seq = seq;
    w->head = (w->head + 1) & (w->capacity - 1);
    w->count--;
  }
  if (w->count == 0) w->chosen = 0;
}

#endif
