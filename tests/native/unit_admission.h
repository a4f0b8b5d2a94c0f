/* Admission: the bucket for all, sources against a naive model, and a table that is full. */
#ifndef LONGWIRE_TESTS_UNIT_ADMISSION_H
#define LONGWIRE_TESTS_UNIT_ADMISSION_H

#include "admission.h"
#include "check.h"

static void unit_admission_rate(void) {
  struct admission a;
  struct lw_options o = {.connects_per_s = 10};
  uint64_t now_ns = 5 * NS_PER_S;
  REQUIRE(admission_open(&a, &o, 1) == 0, "no memory");
  int taken = 0;
  for (int i = 0; i < 100; i++) taken += admission_take(&a, now_ns);
  CHECK(taken == 10, "%d at once, not a second's worth", taken);
  for (int ms = 0; ms < 3000; ms++) taken += admission_take(&a, now_ns + (uint64_t)ms * 1000000);
  CHECK(taken == 10 + 29, "%d in three seconds", taken);
  admission_free(&a);
  o.connects_per_s = 0;
  REQUIRE(admission_open(&a, &o, 1) == 0, "no memory");
  CHECK(a.source_count == 0, "no bound needs no table");
  for (int i = 0; i < 1000; i++) CHECK(admission_take(&a, 0), "no bound");
  const uint8_t address[16] = {1};
  CHECK(admission_enter(&a, 4, address, 0) == ADMISSION_UNTRACKED, "nobody is counted");
  admission_free(&a);
}

#define MODEL_SOURCES 40

/* Every answer follows from what was let in before; sources do not disturb one another. */
static void unit_admission_sources(uint64_t seed) {
  struct admission a;
  struct lw_options o = {
      .connects_per_source_per_s = 3, .connections_per_source = 5, .connections_max = 5000};
  struct {
    double tokens;
    double at_s;
    uint32_t connections;
  } model[MODEL_SOURCES] = {0};
  REQUIRE(admission_open(&a, &o, seed) == 0, "no memory");
  CHECK(a.source_count == 8192, "%u places", a.source_count);
  for (int i = 0; i < MODEL_SOURCES; i++) model[i].tokens = 3;
  uint64_t now_ns = NS_PER_S;
  for (int step = 0; step < 200000; step++) {
    uint32_t i = random_below(&seed, MODEL_SOURCES);
    uint8_t address[16] = {(uint8_t)i, 2, 3, 4};
    unsigned family = i % 2 == 0 ? 4 : 6;
    /* Of an IPv6 address only the first half is whose it is. */
    if (family == 6) address[8 + random_below(&seed, 8)] = (uint8_t)random_below(&seed, 256);
    now_ns += random_below(&seed, 1000000) + 1;
    if (random_chance(&seed, 40)) {
      if (model[i].connections == 0) continue;
      admission_leave(&a, family, address);
      model[i].connections--;
      continue;
    }
    double now_s = (double)now_ns / 1e9;
    model[i].tokens += (now_s - model[i].at_s) * 3;
    if (model[i].tokens > 3) model[i].tokens = 3;
    model[i].at_s = now_s;
    enum admission_answer answer = admission_enter(&a, family, address, now_ns);
    if (model[i].tokens > 0.9999 && model[i].tokens < 1.0001) { /* rounding may say either */
      model[i].tokens -= answer == ADMISSION_COUNTED;
      model[i].connections += answer == ADMISSION_COUNTED;
      continue;
    }
    enum admission_answer expected = model[i].tokens < 1         ? ADMISSION_REFUSED_RATE
                                     : model[i].connections == 5 ? ADMISSION_REFUSED_COUNT
                                                                 : ADMISSION_COUNTED;
    CHECK(answer == expected, "step %d: %d instead of %d", step, answer, expected);
    if (expected != ADMISSION_COUNTED) continue;
    model[i].tokens -= 1;
    model[i].connections++;
  }
  admission_free(&a);
}

/* More sources than places: the rest are let in uncounted, and places come back. */
static void unit_admission_full(uint64_t seed) {
  struct admission a;
  struct lw_options o = {.connections_per_source = 1, .connections_max = 1};
  REQUIRE(admission_open(&a, &o, seed) == 0, "no memory");
  uint32_t counted = 0;
  static uint8_t is_counted[5000];
  for (uint32_t i = 0; i < 5000; i++) {
    uint8_t address[16] = {(uint8_t)i, (uint8_t)(i >> 8), 1, 1};
    is_counted[i] = admission_enter(&a, 4, address, 1) == ADMISSION_COUNTED;
    counted += is_counted[i];
  }
  CHECK(counted > SOURCES_MIN / 2 && counted <= SOURCES_MIN, "%u counted", counted);
  for (uint32_t i = 0; i < 5000; i++) {
    uint8_t address[16] = {(uint8_t)i, (uint8_t)(i >> 8), 1, 1};
    enum admission_answer answer = admission_enter(&a, 4, address, 1);
    CHECK(answer == (is_counted[i] ? ADMISSION_REFUSED_COUNT : ADMISSION_UNTRACKED), "%u", i);
  }
  for (uint32_t i = 0; i < 5000; i++) {
    uint8_t address[16] = {(uint8_t)i, (uint8_t)(i >> 8), 1, 1};
    if (is_counted[i]) admission_leave(&a, 4, address);
  }
  uint8_t address[16] = {200, 200, 200, 200};
  CHECK(admission_enter(&a, 4, address, 2) == ADMISSION_COUNTED, "a place is free again");
  admission_free(&a);
}

static void unit_admission(uint64_t seed) {
  unit_admission_rate();
  unit_admission_sources(seed);
  unit_admission_full(seed);
}

#endif
