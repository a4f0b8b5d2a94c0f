/* How long messages take: log-linear histograms, and which message of a queue or of a window is
 * timed. Timing costs a look at the clock for each message that is timed, and one of each turn and
 * connection is, at most. */
#ifndef LONGWIRE_LATENCY_H
#define LONGWIRE_LATENCY_H

#include <stdint.h>
#include <time.h>

#include "reactor.h"

/* Messages that the host is to be told of and that wait for the end of the turn. */
#define TRACED_MAX 256u

/* The message of a queue or of a window that is timed. */
struct timing {
  uint32_t since_us; /* when it was published; 0 = none is timed */
  uint32_t stamp;    /* lw_command_publish.stamp */
  uint32_t told;     /* enum timing_told */
};

enum timing_told {
  TOLD_NEVER = 0,
  TOLD_SLOW = 1, /* the host is told when it took longer than lw_options.slow_us */
  TOLD_ALWAYS = 2,
};

/* Monotonic microseconds, modulo 2^32; never 0. */
static inline uint32_t clock_us(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  uint32_t us = (uint32_t)((uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000);
  return us == 0 ? 1 : us;
}

/* Microseconds since, less than 71 minutes; the host's clock and ours are one, but not read at one
 * moment: up to a second in the future is now. */
static inline uint32_t since_us(uint32_t then_us) {
  uint32_t us = clock_us() - then_us;
  return us > UINT32_MAX - 1000000 ? 0 : us;
}

/* Which bucket of struct lw_latency counts a duration: bounds belong to the bucket below. */
static inline uint32_t latency_bucket(uint32_t us) {
  uint32_t below = us == 0 ? 0 : us - 1;
  if (below < LW_LATENCY_FIRST_US) return 0;
  if (below >= LW_LATENCY_LAST_US) return LW_LATENCY_BUCKETS - 1;
  uint32_t bits = 31u - (uint32_t)__builtin_clz(below);
  return 2 * (bits - 4) + 1 + (below >> (bits - 1) & 1);
}

/* Times a message, unless one that matters as much is timed already. */
static inline void timing_begin(struct timing *timing, uint32_t since, uint32_t stamp,
                                uint32_t told) {
  if (timing->since_us != 0 && told <= timing->told) return;
  *timing = (struct timing){.since_us = since, .stamp = stamp, .told = told};
}

#endif
