/* Who may connect, and how fast: one bucket for all, and one with a count for each source address.
 * Shared by the I/O threads, because the kernel spreads one source's connections over all of them.
 * Invariant: the table is bounded, and a source that has no room in it is let in rather than kept
 * out: these bounds are for fairness, the bound on connections is what protects the process. */
#ifndef LONGWIRE_ADMISSION_H
#define LONGWIRE_ADMISSION_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "reactor.h"

#define SOURCES_MIN 1024u
#define SOURCES_MAX (1u << 20)
/* Places in which a source may lie, side by side. */
#define SOURCE_WAYS 8u
#define SOURCE_LOCKS 64u
#define NS_PER_S 1000000000ull

/* An IPv4 address, or the /64 of an IPv6 address: what one customer is given (RFC 6177). */
struct source {
  uint64_t address;
  uint64_t due_ns; /* when its bucket is full again */
  uint32_t connections;
  uint32_t family; /* 0 = free */
};

struct admission {
  uint64_t due_ns;         /* atomic: of the bucket for all */
  uint32_t connects_per_s; /* this and the next two: 0 = no bound */
  uint32_t connects_per_source_per_s;
  uint32_t connections_per_source;
  uint32_t source_count; /* power of two; 0 = sources are not looked at */
  uint64_t seed;         /* of the hash: nobody can choose addresses that meet */
  struct source *sources;
  pthread_mutex_t locks[SOURCE_LOCKS];
};

/* The generic cell rate algorithm (ITU-T I.371): one number a bucket. A second's worth may come at
 * once. Returns the new number, or 0 when there is nothing left. */
static inline uint64_t rate_next(uint64_t due_ns, uint64_t now_ns, uint32_t per_s) {
  uint64_t base = due_ns > now_ns ? due_ns : now_ns;
  uint64_t next = base + NS_PER_S / per_s;
  return next - now_ns > NS_PER_S ? 0 : next;
}

/* Returns 0, or -1 (no memory). */
static inline int admission_open(struct admission *a, const struct lw_options *o, uint64_t seed) {
  *a = (struct admission){.connects_per_s = o->connects_per_s,
                          .connects_per_source_per_s = o->connects_per_source_per_s,
                          .connections_per_source = o->connections_per_source,
                          .seed = seed | 1};
  for (uint32_t i = 0; i < SOURCE_LOCKS; i++) pthread_mutex_init(&a->locks[i], NULL);
  if (a->connects_per_source_per_s == 0 && a->connections_per_source == 0) return 0;
  uint32_t count = SOURCES_MIN;
  while (count < o->connections_max && count < SOURCES_MAX) count *= 2;
  a->sources = calloc(count, sizeof a->sources[0]);
  if (a->sources == NULL) return -1;
  a->source_count = count;
  return 0;
}

static inline void admission_free(struct admission *a) {
  free(a->sources);
  a->sources = NULL;
  a->source_count = 0;
}

/* Whether one more may connect now, whoever it is. From any I/O thread. */
static inline int admission_take(struct admission *a, uint64_t now_ns) {
  if (a->connects_per_s == 0) return 1;
  uint64_t due = __atomic_load_n(&a->due_ns, __ATOMIC_RELAXED);
  for (;;) {
    uint64_t next = rate_next(due, now_ns, a->connects_per_s);
    if (next == 0) return 0;
    if (__atomic_compare_exchange_n(&a->due_ns, &due, next, 1, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return 1;
    }
  }
}

static inline uint64_t source_key(unsigned family, const uint8_t *address) {
  uint64_t key = 0;
  memcpy(&key, address, family == 4 ? 4 : 8);
  return key;
}

/* The first of the places of a source, and their lock. */
static inline struct source *source_places(struct admission *a, uint64_t key, unsigned family,
                                           pthread_mutex_t **lock) {
  uint64_t hash = (key ^ a->seed) * 0x9e3779b97f4a7c15ull;
  hash = (hash ^ hash >> 29 ^ family) * 0xbf58476d1ce4e5b9ull;
  uint32_t set = (uint32_t)(hash >> 32) & (a->source_count / SOURCE_WAYS - 1);
  *lock = &a->locks[set % SOURCE_LOCKS];
  return &a->sources[(size_t)set * SOURCE_WAYS];
}

/* The place of a source, or one that is of no use to another; NULL = there is none. */
static inline struct source *source_find(struct source *places, uint64_t key, unsigned family,
                                         uint64_t now_ns) {
  struct source *unused = NULL;
  for (uint32_t i = 0; i < SOURCE_WAYS; i++) {
    struct source *s = &places[i];
    if (s->family == family && s->address == key) return s;
    if (s->family == 0 || (s->connections == 0 && s->due_ns <= now_ns)) unused = s;
  }
  if (unused != NULL) *unused = (struct source){.address = key, .family = family};
  return unused;
}

enum admission_answer {
  ADMISSION_REFUSED_RATE = -2,
  ADMISSION_REFUSED_COUNT = -1,
  ADMISSION_UNTRACKED = 0, /* let in and not counted */
  ADMISSION_COUNTED = 1,   /* let in; admission_leave when it goes */
};

/* Asks for one more connection of a source. From any I/O thread. */
static inline enum admission_answer admission_enter(struct admission *a, unsigned family,
                                                    const uint8_t *address, uint64_t now_ns) {
  if (a->source_count == 0 || family == 0) return ADMISSION_UNTRACKED;
  pthread_mutex_t *lock;
  uint64_t key = source_key(family, address);
  struct source *places = source_places(a, key, family, &lock);
  enum admission_answer answer = ADMISSION_UNTRACKED;
  pthread_mutex_lock(lock);
  struct source *s = source_find(places, key, family, now_ns);
  if (s != NULL) {
    uint32_t per_s = a->connects_per_source_per_s;
    uint64_t next = per_s == 0 ? s->due_ns : rate_next(s->due_ns, now_ns, per_s);
    answer = ADMISSION_COUNTED;
    if (per_s != 0 && next == 0) {
      answer = ADMISSION_REFUSED_RATE;
    } else if (a->connections_per_source != 0 && s->connections >= a->connections_per_source) {
      answer = ADMISSION_REFUSED_COUNT;
    } else {
      s->due_ns = next;
      s->connections++;
    }
  }
  pthread_mutex_unlock(lock);
  return answer;
}

/* A connection that was counted is gone. */
static inline void admission_leave(struct admission *a, unsigned family, const uint8_t *address) {
  pthread_mutex_t *lock;
  uint64_t key = source_key(family, address);
  struct source *places = source_places(a, key, family, &lock);
  pthread_mutex_lock(lock);
  for (uint32_t i = 0; i < SOURCE_WAYS; i++) {
    struct source *s = &places[i];
    if (s->family == family && s->address == key && s->connections > 0) {
      s->connections--;
      break;
    }
  }
  pthread_mutex_unlock(lock);
}

#endif
