/* A hashed timer wheel (Varghese and Lauck 1987, scheme 6) over connection slots: one timer a
 * connection, in doubly linked lists by slot number, so that a timer costs 12 bytes and no
 * allocation. A timer that fires early is armed again by whoever it wakes: a frame only stamps the
 * time. */
#ifndef LONGWIRE_WHEEL_H
#define LONGWIRE_WHEEL_H

#include <assert.h>
#include <stdint.h>

#define WHEEL_TICK_MS 64u
#define WHEEL_BUCKETS 1024u /* power of two: 65 s a turn */
#define WHEEL_NONE 0xffffffffu

struct timer_node {
  uint32_t next; /* slot, or WHEEL_NONE */
  uint32_t previous;
  uint32_t tick; /* when it fires; meaningless while it is not armed */
};

struct wheel {
  uint32_t buckets[WHEEL_BUCKETS]; /* first slot, or WHEEL_NONE */
  uint32_t tick;                   /* the last one that was turned */
  uint32_t armed;
};

/* The node of a slot: the owner of the slots says where it lies. */
typedef struct timer_node *(*wheel_node)(void *owner, uint32_t slot);

static inline void wheel_open(struct wheel *w) {
  for (unsigned i = 0; i < WHEEL_BUCKETS; i++) w->buckets[i] = WHEEL_NONE;
  w->tick = 0;
  w->armed = 0;
}

/* Fires not before delay_ms, and at most one tick late; delays past one turn fire early, at its
 * end. */
static inline void wheel_arm(struct wheel *w, wheel_node node_of, void *owner, uint32_t slot,
                             uint32_t delay_ms) {
  uint32_t ticks = delay_ms / WHEEL_TICK_MS + 2;
  if (ticks >= WHEEL_BUCKETS) ticks = WHEEL_BUCKETS - 1;
  struct timer_node *node = node_of(owner, slot);
  node->tick = w->tick + ticks;
  uint32_t *bucket = &w->buckets[node->tick & (WHEEL_BUCKETS - 1)];
  node->previous = WHEEL_NONE;
  node->next = *bucket;
  if (*bucket != WHEEL_NONE) node_of(owner, *bucket)->previous = slot;
  *bucket = slot;
  w->armed++;
}

static inline void wheel_disarm(struct wheel *w, wheel_node node_of, void *owner, uint32_t slot) {
  struct timer_node *node = node_of(owner, slot);
  if (node->previous != WHEEL_NONE) {
    node_of(owner, node->previous)->next = node->next;
  } else {
    uint32_t *bucket = &w->buckets[node->tick & (WHEEL_BUCKETS - 1)];
    assert(*bucket == slot);
    *bucket = node->next;
  }
  if (node->next != WHEEL_NONE) node_of(owner, node->next)->previous = node->previous;
  w->armed--;
}

/* Takes one slot whose time has come by `tick`, disarmed; WHEEL_NONE when there is no more. */
static inline uint32_t wheel_expired(struct wheel *w, wheel_node node_of, void *owner,
                                     uint32_t tick) {
  while (w->armed > 0 && (int32_t)(tick - w->tick) > 0) {
    uint32_t slot = w->buckets[(w->tick + 1) & (WHEEL_BUCKETS - 1)];
    if (slot != WHEEL_NONE) {
      wheel_disarm(w, node_of, owner, slot);
      return slot;
    }
    w->tick++;
  }
  if (w->armed == 0) w->tick = tick;
  return WHEEL_NONE;
}

/* Milliseconds until the next tick that may fire something; -1 = nothing is armed. */
static inline int wheel_wait_ms(const struct wheel *w, uint32_t now_ms) {
  if (w->armed == 0) return -1;
  uint32_t ahead = 1;
  while (ahead < WHEEL_BUCKETS &&
         w->buckets[(w->tick + ahead) & (WHEEL_BUCKETS - 1)] == WHEEL_NONE) {
    ahead++;
  }
  int32_t wait_ms = (int32_t)((w->tick + ahead) * WHEEL_TICK_MS - now_ms);
  return wait_ms > 0 ? wait_ms : 0;
}

#endif
