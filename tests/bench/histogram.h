/* A log-linear histogram of durations: 64 buckets for each power of two, so what it answers is
 * within 1.6 % of what it was given. Recording is one increment and allocates nothing. All zero =
 * empty. */
#ifndef LONGWIRE_BENCH_HISTOGRAM_H
#define LONGWIRE_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 6
#define HISTOGRAM_STEPS (1u << HISTOGRAM_STEP_BITS)
/* 2^40 ns is 18 minutes; whatever is longer falls into the last bucket. */
#define HISTOGRAM_BITS_MAX 40
#define HISTOGRAM_BUCKETS ((HISTOGRAM_BITS_MAX - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS)

struct histogram {
  uint64_t counts[HISTOGRAM_BUCKETS];
  uint64_t total;
  uint64_t sum_ns;
  uint64_t max_ns;
};

static inline uint32_t histogram_bucket(uint64_t ns) {
  if (ns < HISTOGRAM_STEPS) return (uint32_t)ns;
  if (ns >> HISTOGRAM_BITS_MAX) return HISTOGRAM_BUCKETS - 1;
  uint32_t shift = 63u - (uint32_t)__builtin_clzll(ns) - HISTOGRAM_STEP_BITS;
  return shift * HISTOGRAM_STEPS + (uint32_t)(ns >> shift);
}

/* Smallest value that falls into a bucket. */
static inline uint64_t histogram_floor_ns(uint32_t bucket) {
  if (bucket < 2 * HISTOGRAM_STEPS) return bucket;
  uint32_t shift = bucket / HISTOGRAM_STEPS - 1;
  return (uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) << shift;
}

static inline void histogram_record(struct histogram *h, uint64_t ns) {
  h->counts[histogram_bucket(ns)]++;
  h->total++;
  h->sum_ns += ns;
  if (ns > h->max_ns) h->max_ns = ns;
}

static inline void histogram_merge(struct histogram *into, const struct histogram *from) {
  for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) into->counts[i] += from->counts[i];
  into->total += from->total;
  into->sum_ns += from->sum_ns;
  if (from->max_ns > into->max_ns) into->max_ns = from->max_ns;
}

/* The value that `share` (0 to 1) of the recorded ones do not exceed; 0 when there are none. */
static inline uint64_t histogram_percentile_ns(const struct histogram *h, double share) {
  uint64_t wanted = (uint64_t)(share * (double)h->total), seen = 0;
  if (wanted >= h->total) return h->max_ns;
  for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
    seen += h->counts[i];
    if (seen <= wanted) continue;
    uint64_t middle_ns = (histogram_floor_ns(i) + histogram_floor_ns(i + 1)) / 2;
    return middle_ns < h->max_ns ? middle_ns : h->max_ns;
  }
  return h->max_ns;
}

#endif
