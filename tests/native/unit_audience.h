/* Audiences (inline, as a list, indexed) against a naive set, at random and at their borders. */
#ifndef LONGWIRE_TESTS_UNIT_AUDIENCE_H
#define LONGWIRE_TESTS_UNIT_AUDIENCE_H

#include "audience.h"
#include "check.h"

#define NAIVE_IDS 40u
#define NAIVE_SLOTS 600u

struct naive {
  uint8_t is_member[NAIVE_IDS][NAIVE_SLOTS];
  uint32_t counts[NAIVE_IDS];
};

/* Ids that meet in the table, so that removal has to move entries back. */
static uint32_t naive_id(uint32_t i) { return i % 2 == 0 ? i : i * 65536u; }

static void naive_compare(const struct audience_table *t, const struct naive *n, uint32_t i) {
  struct audience *a = audience_find(t, naive_id(i));
  CHECK((a != NULL) == (n->counts[i] > 0), "audience %u with %u members", i, n->counts[i]);
  if (a == NULL) return;
  CHECK(a->count == n->counts[i], "audience %u: %u instead of %u", i, a->count, n->counts[i]);
  const uint32_t *slots = audience_slots(a);
  uint8_t seen[NAIVE_SLOTS] = {0};
  for (uint32_t k = 0; k < a->count; k++) {
    CHECK(slots[k] < NAIVE_SLOTS && n->is_member[i][slots[k]], "%u is no member", slots[k]);
    CHECK(seen[slots[k]]++ == 0, "audience %u has %u twice", i, slots[k]);
    CHECK(audience_position(a, slots[k]) == k, "audience %u finds %u elsewhere", i, slots[k]);
  }
}

static void naive_change(struct audience_table *t, struct naive *n, uint32_t i, uint32_t slot,
                         int joins) {
  uint8_t *is_member = &n->is_member[i][slot];
  if (joins) {
    CHECK(audience_join(t, naive_id(i), slot) == 0, "no memory");
    n->counts[i] += *is_member == 0;
  } else {
    audience_leave(t, naive_id(i), slot);
    n->counts[i] -= *is_member != 0;
  }
  *is_member = joins != 0;
}

/* Up and down over each border: 2 (inline), 8 and on (list), 64 (indexed). */
static void unit_audience_borders(void) {
  static struct naive n;
  struct audience_table t = {0};
  memset(&n, 0, sizeof n);
  CHECK(audience_find(&t, 0) == NULL, "an empty table finds nothing");
  audience_leave(&t, 0, 0);
  for (uint32_t slot = 0; slot < 300; slot++) {
    naive_change(&t, &n, 1, slot, 1);
    naive_change(&t, &n, 1, slot / 2, 1); /* joins twice */
    naive_compare(&t, &n, 1);
  }
  for (uint32_t slot = 0; slot < 300; slot++) {
    naive_change(&t, &n, 1, slot * 7 % 300, 0);
    naive_change(&t, &n, 1, slot * 7 % 300, 0);
    naive_change(&t, &n, 1, NAIVE_SLOTS - 1, 0);
    naive_compare(&t, &n, 1);
  }
  CHECK(t.count == 0, "%u entries are left", t.count);
  audience_table_free(&t);
}

static void unit_audience_random(uint64_t seed) {
  static struct naive n;
  struct audience_table t = {0};
  memset(&n, 0, sizeof n);
  for (int step = 0; step < 100000; step++) {
    /* Phases of mostly joining and mostly leaving, so that audiences grow large and end. */
    uint32_t join_percent = step / 10000 % 2 == 0 ? 70 : 30;
    uint32_t i = random_below(&seed, random_chance(&seed, 50) ? 3 : NAIVE_IDS);
    uint32_t slot = random_below(&seed, i == 0 ? 70 : NAIVE_SLOTS);
    naive_change(&t, &n, i, slot, random_chance(&seed, join_percent));
    if (step % 97 == 0) naive_compare(&t, &n, random_below(&seed, NAIVE_IDS));
  }
  for (uint32_t i = 0; i < NAIVE_IDS; i++) naive_compare(&t, &n, i);
  audience_table_free(&t);
}

/* Many audiences of one: the common case, and the table's own growth. */
static void unit_audience_many(void) {
  struct audience_table t = {0};
  for (uint32_t id = 0; id < 50000; id++) CHECK(audience_join(&t, id, id % 1000) == 0, "memory");
  for (uint32_t id = 0; id < 50000; id += 2) audience_leave(&t, id, id % 1000);
  CHECK(t.count == 25000, "%u audiences", t.count);
  for (uint32_t id = 0; id < 50000; id++) {
    CHECK((audience_find(&t, id) != NULL) == (id % 2 == 1), "audience %u", id);
  }
  audience_table_free(&t);
}

static void unit_audience(uint64_t seed) {
  unit_audience_borders();
  unit_audience_random(seed);
  unit_audience_many();
}

#endif
