/* A link: one connection of the hammer, as its client, the host and the model of both see it. */
#ifndef LONGWIRE_TESTS_HAMMER_LINK_H
#define LONGWIRE_TESTS_HAMMER_LINK_H

#include <pthread.h>

#include "check.h"
#include "commands.h"
#include "hammer_wire.h"

#define TOPICS 16u
/* Variants of a topic's audience: Longwire, then MQTT by granted QoS. */
#define VARIANTS 4u
#define AUDIENCES (TOPICS * VARIANTS)
/* A topic has one conflation key: messages of one key never overtake one another. */
#define KEYS TOPICS
#define LINKS_MAX (1u << 20)
#define SHARED_MAX 64u
/* Messages of shared subscriptions are no part of the log: their seqs lie above all of it. */
#define SHARED_SEQ (1ull << 40)

enum link_role {
  ROLE_GOOD,    /* reads, answers, says goodbye: gets exactly what it must */
  ROLE_LEAVER,  /* the same, but half-closes: all that it sent is heard, and it is told so */
  ROLE_BREAKER, /* breaks the protocol and reads on: hears why */
  ROLE_SLEEPER, /* falls silent and reads on: hears why */
  ROLE_MUTE,    /* never finishes its first frame: is closed in time */
  ROLE_ROGUE,   /* anything: resets, stalls, floods, half-closes, garbage */
  ROLE_COUNT,
};

/* Message numbers that are due, oldest first. */
struct numbers {
  uint64_t *values;
  uint32_t count;
  uint32_t capacity;
  uint32_t taken; /* the client's: how many of them have come */
};

struct link {
  /* Set before the connection is made. */
  uint32_t number;
  uint8_t protocol;
  uint8_t role;
  uint8_t variant; /* of the audiences that it joins */
  uint8_t is_held; /* LW_ACTIVATE_HOLD_RELEASES */
  uint16_t inflight_max;

  /* Between client and host. */
  pthread_mutex_t lock;
  struct numbers droppable;  /* QoS 0 without a key, in this order */
  struct numbers stored;     /* seqs, in this order */
  uint64_t key_last[KEYS];   /* number of the newest message of a key; 0 = none */
  atomic_ullong bytes_taken; /* of messages, read by it */
  atomic_uint frames_total;  /* sent before the last one; UINT32_MAX = not known yet */
  atomic_uint is_kicked;     /* closed before it said goodbye: stored messages may be missing */
  atomic_uint shared_taken;  /* messages of shared subscriptions, read by it */
  atomic_uint shared_acked;  /* and those that the host knows to be acknowledged */
  atomic_uint is_garbled;    /* what it sends from now on means nothing */

  /* The host's. */
  struct handle handle;
  uint32_t frames_heard;
  uint32_t welcomes;
  uint32_t replay_next; /* index into stored: the next to be delivered while behind */
  uint32_t behind_count;
  uint32_t deliver_count;
  uint64_t acked_seq;
  uint64_t shared[SHARED_MAX]; /* under way to it */
  uint32_t shared_count;
  uint64_t bytes_due; /* of messages, on their way to it */
  uint32_t close_code;
  uint8_t topics[TOPICS]; /* joined */
  uint8_t is_active;
  uint8_t is_behind;
  uint8_t is_closing; /* CLOSE is out */
  uint8_t said_bye;
  uint8_t is_closed;
  uint8_t is_paused;
};

/* All that ever were: a link's number is its index. */
static struct {
  pthread_mutex_t lock;
  uint32_t count;
  struct link *all[LINKS_MAX];
} links = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* No new links, and those that are there come to their end. */
static atomic_int hammer_is_ending;
/* The reactor is being closed under them: nothing is promised to anybody any more. */
static atomic_int hammer_is_abrupt;

static struct link *link_new(uint64_t *seed, unsigned role) {
  struct link *l = calloc(1, sizeof *l);
  REQUIRE(l != NULL, "no memory");
  pthread_mutex_init(&l->lock, NULL);
  l->role = (uint8_t)role;
  l->protocol = random_chance(seed, 60) ? LW_PROTOCOL_MQTT : LW_PROTOCOL_LONGWIRE;
  l->variant = l->protocol == LW_PROTOCOL_MQTT ? (uint8_t)(1 + random_below(seed, 3)) : 0;
  l->inflight_max = l->protocol == LW_PROTOCOL_MQTT ? (uint16_t)(1 + random_below(seed, 40)) : 0;
  l->is_held = l->variant == 3 && random_chance(seed, 50);
  atomic_store(&l->frames_total, UINT32_MAX);
  pthread_mutex_lock(&links.lock);
  REQUIRE(links.count < LINKS_MAX, "too many links");
  l->number = links.count;
  links.all[links.count++] = l;
  pthread_mutex_unlock(&links.lock);
  return l;
}

/* NULL for a number that nobody has: made up by a rogue. */
static struct link *link_find(uint64_t number) {
  struct link *found = NULL;
  pthread_mutex_lock(&links.lock);
  if (number < links.count) found = links.all[number];
  pthread_mutex_unlock(&links.lock);
  return found;
}

static void links_free(void) {
  for (uint32_t i = 0; i < links.count; i++) {
    free(links.all[i]->droppable.values);
    free(links.all[i]->stored.values);
    pthread_mutex_destroy(&links.all[i]->lock);
    free(links.all[i]);
  }
}

/* Whether the model knows exactly what the link must get. */
static int link_is_exact(const struct link *l) {
  return l->role == ROLE_GOOD || l->role == ROLE_LEAVER;
}

static void numbers_add(struct numbers *n, uint64_t value) {
  if (n->count == n->capacity) {
    n->capacity = n->capacity == 0 ? 64 : n->capacity * 2;
    n->values = realloc(n->values, n->capacity * sizeof n->values[0]);
    REQUIRE(n->values != NULL, "no memory");
  }
  n->values[n->count++] = value;
}

/* Index of the first value that is not below. */
static uint32_t numbers_from(const struct numbers *n, uint64_t value) {
  uint32_t low = 0, high = n->count;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (n->values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* Takes the next due number; complains when it is another. */
static void numbers_take(struct link *l, struct numbers *n, uint64_t value, const char *what) {
  pthread_mutex_lock(&l->lock);
  if (n->taken >= n->count) {
    CHECK(0, "link %u: %s %llu was never due", l->number, what, (unsigned long long)value);
  } else {
    uint64_t due = n->values[n->taken++];
    CHECK(due == value, "link %u: %s %llu came, %llu was due", l->number, what,
          (unsigned long long)value, (unsigned long long)due);
    /* One mistake is one complaint. */
    if (due != value) n->taken = numbers_from(n, value) + 1;
  }
  pthread_mutex_unlock(&l->lock);
}

#endif
