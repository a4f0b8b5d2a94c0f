/* The in-flight window against a naive one: order, acknowledgements out of order, packet ids that
 * wrap, and ids of the host's choice. */
#ifndef LONGWIRE_TESTS_UNIT_INFLIGHT_H
#define LONGWIRE_TESTS_UNIT_INFLIGHT_H

#include "check.h"
#include "inflight.h"

static void unit_inflight_order(void) {
  struct inflight *w = inflight_new();
  REQUIRE(w != NULL, "no memory");
  uint16_t last = 65530; /* wraps after five: 0 is no packet id [MQTT-2.2.1-2] */
  const uint16_t expected[] = {65531, 65532, 65533, 65534, 65535, 1, 2, 3, 4, 5};
  for (uint32_t i = 0; i < 10; i++) {
    last = inflight_next_id(w, last);
    CHECK(last == expected[i], "id %u instead of %u", last, expected[i]);
    CHECK(inflight_push(w, 100 + i, last, 1, 0) == 0, "no memory");
  }
  /* Out of order: what left the window counts only up to the oldest that has not. */
  inflight_done(w, inflight_find(w, 65533));
  inflight_done(w, inflight_find(w, 65532));
  CHECK(w->acked_seq == 0 && w->count == 10, "acked %u", (unsigned)w->acked_seq);
  CHECK(inflight_find(w, 65533) == NULL, "found twice");
  inflight_done(w, inflight_find(w, 65531));
  CHECK(w->acked_seq == 102 && w->count == 7, "acked %u", (unsigned)w->acked_seq);
  inflight_done(w, inflight_find(w, 5));
  CHECK(w->acked_seq == 102, "acked %u", (unsigned)w->acked_seq);
  for (uint16_t id = 65534; id != 5; id = inflight_next_id(w, id)) {
    CHECK(inflight_find(w, id) != NULL, "id %u is not there", id);
    inflight_done(w, inflight_find(w, id));
  }
  CHECK(w->acked_seq == 109 && w->count == 0, "acked %u", (unsigned)w->acked_seq);
  inflight_free(w);
}

/* Redelivery keeps the old ids: new ones step over them until the window was empty once. */
static void unit_inflight_chosen(void) {
  struct inflight *w = inflight_new();
  REQUIRE(w != NULL, "no memory");
  CHECK(inflight_push(w, 1, 2, 1, 1) == 0 && inflight_push(w, 2, 4, 2, 1) == 0, "no memory");
  CHECK(inflight_push(w, 3, 1, 1, 1) == 0, "no memory");
  const uint16_t expected[] = {3, 5, 6};
  uint16_t last = 0;
  for (uint32_t i = 0; i < 3; i++) {
    last = inflight_next_id(w, last);
    CHECK(last == expected[i], "id %u instead of %u", last, expected[i]);
    CHECK(inflight_push(w, 10 + i, last, 1, 0) == 0, "no memory");
  }
  inflight_done(w, inflight_find(w, 4));
  CHECK(inflight_next_id(w, 3) == 4, "an id that came back is not given");
  for (uint16_t id = 1; id < 7; id++) {
    if (id != 4) inflight_done(w, inflight_find(w, id));
  }
  CHECK(w->count == 0 && w->chosen == 0, "%u left, %u chosen", w->count, w->chosen);
  inflight_free(w);
}

#define NAIVE_WINDOW 3000u

static void unit_inflight_random(uint64_t seed) {
  static struct {
    uint64_t seq;
    uint16_t id;
    uint8_t is_done;
  } naive[240000];
  struct inflight *w = inflight_new();
  REQUIRE(w != NULL, "no memory");
  uint32_t first = 0, end = 0;
  uint16_t last = 0;
  for (int step = 0; step < 240000; step++) {
    uint32_t fill = step / 50000 % 2 == 0 ? 60 : 40;
    if (end - first < NAIVE_WINDOW && random_chance(&seed, fill)) {
      last = inflight_next_id(w, last);
      CHECK(inflight_push(w, 1 + end, last, 1, 0) == 0, "no memory");
      naive[end].seq = 1 + end;
      naive[end++].id = last;
    } else if (first < end) {
      uint32_t i = first + random_below(&seed, end - first < 8 ? end - first : 8);
      struct inflight_entry *entry = inflight_find(w, naive[i].id);
      CHECK((entry == NULL) == naive[i].is_done, "id %u", naive[i].id);
      if (entry == NULL) continue;
      CHECK(entry->seq == naive[i].seq, "id %u names another message", naive[i].id);
      inflight_done(w, entry);
      naive[i].is_done = 1;
    }
    while (first < end && naive[first].is_done) first++;
    CHECK(w->count == end - first, "%u instead of %u", w->count, end - first);
    CHECK(w->acked_seq == first, "acked %u instead of %u", (unsigned)w->acked_seq, first);
  }
  CHECK(end > 65535, "packet ids have not wrapped: %u messages", end);
  inflight_free(w);
}

static void unit_inflight(uint64_t seed) {
  unit_inflight_order();
  unit_inflight_chosen();
  unit_inflight_random(seed);
}

#endif
