/* Tables for the merge rules of epoll interest, and the timer wheel against a clock of our own. */
#ifndef LONGWIRE_TESTS_UNIT_WHEEL_H
#define LONGWIRE_TESTS_UNIT_WHEEL_H

#include "check.h"
#include "interest.h"
#include "wheel.h"

/* What a turn asks for, one wish after the other, and the one call that must come of it. */
static const struct {
  const char *name;
  uint8_t known;
  uint8_t wishes[3];
  enum interest_call call;
  uint8_t mask;
} merges[] = {
    {"nothing", 0, {0}, CALL_NOTHING, 0},
    {"ADD", 0, {5}, CALL_ADD, 5},
    {"ADD+MOD is ADD with the last mask", 0, {5, 7}, CALL_ADD, 7},
    {"ADD+MOD+MOD is ADD with the last mask", 0, {5, 7, 6}, CALL_ADD, 6},
    {"MOD", 5, {7}, CALL_MOD, 7},
    {"MOD+MOD is the last", 5, {7, 6}, CALL_MOD, 6},
    {"MOD and back is nothing", 5, {7, 5}, CALL_NOTHING, 5},
    {"ADD+DEL is nothing", 0, {5, 0}, CALL_NOTHING, 0},
    {"ADD+MOD+DEL is nothing", 0, {5, 7, 0}, CALL_NOTHING, 0},
    {"DEL", 5, {0}, CALL_DEL, 0},
    {"MOD+DEL is DEL", 5, {7, 0}, CALL_DEL, 0},
    {"DEL+ADD of a reused descriptor is MOD", 5, {0, 6}, CALL_MOD, 6},
    {"DEL+ADD with the same mask is nothing", 5, {0, 5}, CALL_NOTHING, 5},
    {"no direction but registered stays registered", 5, {4}, CALL_MOD, 4},
};

static void unit_interest(void) {
  for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
    uint8_t wanted = merges[i].known;
    int count = 3;
    while (count > 0 && merges[i].wishes[count - 1] == 0 && merges[i].mask != 0) count--;
    for (int k = 0; k < count; k++) wanted = merges[i].wishes[k];
    CHECK(wanted == merges[i].mask, "%s: mask %d", merges[i].name, wanted);
    int call = (int)interest_change(merges[i].known, wanted);
    CHECK(call == (int)merges[i].call, "%s: call %d", merges[i].name, call);
  }
}

/* ---------------------------------------------------------------- wheel */

#define WHEEL_SLOTS 64u

struct wheel_rig {
  struct wheel wheel;
  struct timer_node nodes[WHEEL_SLOTS];
  uint32_t due_tick[WHEEL_SLOTS]; /* by the clock of the test */
  uint8_t is_armed[WHEEL_SLOTS];
};

static struct timer_node *wheel_rig_node(void *owner, uint32_t slot) {
  return &((struct wheel_rig *)owner)->nodes[slot];
}

static void wheel_rig_arm(struct wheel_rig *rig, uint32_t slot, uint32_t delay_ms) {
  wheel_arm(&rig->wheel, wheel_rig_node, rig, slot, delay_ms);
  rig->is_armed[slot] = 1;
  rig->due_tick[slot] = rig->wheel.tick + delay_ms / WHEEL_TICK_MS;
}

static void wheel_rig_disarm(struct wheel_rig *rig, uint32_t slot) {
  wheel_disarm(&rig->wheel, wheel_rig_node, rig, slot);
  rig->is_armed[slot] = 0;
}

/* Turns the wheel to a tick; checks that what fires was armed and is not early. Returns how many
 * fired. */
static uint32_t wheel_rig_turn(struct wheel_rig *rig, uint32_t tick) {
  uint32_t fired = 0;
  uint32_t slot;
  while ((slot = wheel_expired(&rig->wheel, wheel_rig_node, rig, tick)) != WHEEL_NONE) {
    CHECK(slot < WHEEL_SLOTS && rig->is_armed[slot], "slot %u fired", slot);
    uint32_t ticks_early = rig->due_tick[slot] - rig->wheel.tick;
    CHECK((int32_t)ticks_early <= 0, "slot %u is %u ticks early", slot, ticks_early);
    rig->is_armed[slot] = 0;
    fired++;
  }
  CHECK(rig->wheel.tick == tick, "stands at %u instead of %u", rig->wheel.tick, tick);
  return fired;
}

static void unit_wheel_cases(void) {
  struct wheel_rig rig = {0};
  wheel_open(&rig.wheel);
  CHECK(wheel_wait_ms(&rig.wheel, 0) == -1, "an empty wheel waits for nothing");
  wheel_rig_arm(&rig, 1, 0);
  wheel_rig_arm(&rig, 2, 0);
  wheel_rig_arm(&rig, 3, 1000);
  wheel_rig_disarm(&rig, 2); /* at the head of its bucket */
  CHECK(wheel_rig_turn(&rig, 1) == 0, "a timer fires at the next tick");
  int wait_ms = wheel_wait_ms(&rig.wheel, 64);
  CHECK(wait_ms > 0 && wait_ms <= 128, "waits %d ms", wait_ms);
  CHECK(wheel_rig_turn(&rig, 3) == 1, "slot 1 is due");
  wheel_rig_arm(&rig, 4, 900);
  wheel_rig_arm(&rig, 5, 900);
  wheel_rig_arm(&rig, 6, 900);
  wheel_rig_disarm(&rig, 5); /* in the middle */
  wheel_rig_disarm(&rig, 4); /* at the end */
  CHECK(wheel_rig_turn(&rig, 1000) == 2, "slots 3 and 6 are due");
  CHECK(rig.wheel.armed == 0, "%u are armed", rig.wheel.armed);
  /* Later than one turn of the wheel: fires early, and whoever it wakes arms it again. */
  wheel_arm(&rig.wheel, wheel_rig_node, &rig, 7, 10 * 60 * 1000);
  CHECK(wheel_expired(&rig.wheel, wheel_rig_node, &rig, 1000 + WHEEL_BUCKETS) == 7,
        "not at its end");
  CHECK(wheel_expired(&rig.wheel, wheel_rig_node, &rig, 1000 + WHEEL_BUCKETS) == WHEEL_NONE,
        "twice");
}

/* Random timers while the tick counter wraps: 8.7 years of uptime. */
static void unit_wheel_random(uint64_t seed) {
  struct wheel_rig rig = {0};
  wheel_open(&rig.wheel);
  uint32_t tick = 0xffffff00u;
  rig.wheel.tick = tick;
  for (int step = 0; step < 20000; step++) {
    uint32_t slot = random_below(&seed, WHEEL_SLOTS);
    if (rig.is_armed[slot]) wheel_rig_disarm(&rig, slot);
    else wheel_rig_arm(&rig, slot, random_below(&seed, random_chance(&seed, 10) ? 60000 : 1000));
    if (random_chance(&seed, 50)) tick += random_below(&seed, 4);
    wheel_rig_turn(&rig, tick);
    for (uint32_t i = 0; i < WHEEL_SLOTS; i++) {
      if (!rig.is_armed[i]) continue;
      int32_t ticks_late = (int32_t)(tick - rig.due_tick[i]);
      CHECK(ticks_late <= 2, "slot %u is %d ticks late", i, ticks_late);
    }
    /* Sleeping for as long as it says must not make anything late. */
    int wait_ms = wheel_wait_ms(&rig.wheel, tick * WHEEL_TICK_MS);
    for (uint32_t i = 0; i < WHEEL_SLOTS && rig.is_armed[i]; i++) {
      uint32_t left_ms = (rig.nodes[i].tick - tick) * WHEEL_TICK_MS;
      CHECK(wait_ms >= 0 && (uint32_t)wait_ms <= left_ms, "sleeps %d of %u ms", wait_ms, left_ms);
    }
  }
}

static void unit_wheel(uint64_t seed) {
  unit_interest();
  unit_wheel_cases();
  unit_wheel_random(seed);
}

#endif
