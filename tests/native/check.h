/* What the native tests share: a check that says where it failed and goes on, and random numbers
 * that a seed repeats. */
#ifndef LONGWIRE_TESTS_CHECK_H
#define LONGWIRE_TESTS_CHECK_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PROBLEMS_SHOWN 15u

/* Of all threads. */
static atomic_uint check_problems;

/* Counts a problem and prints it; after a few dozen only counts. */
#define CHECK(condition, ...)                                                    \
  do {                                                                           \
    if (!(condition) && atomic_fetch_add(&check_problems, 1) < PROBLEMS_SHOWN) { \
      flockfile(stderr);                                                         \
      fprintf(stderr, "%s:%d: %s is false: ", __FILE__, __LINE__, #condition);   \
      fprintf(stderr, __VA_ARGS__);                                              \
      fputc('\n', stderr);                                                       \
      funlockfile(stderr);                                                       \
    }                                                                            \
  } while (0)

/* Nothing after it would mean anything. */
#define REQUIRE(condition, ...)                                                              \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      fprintf(stderr, "%s:%d: cannot go on, %s is false: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__);                                                          \
      fputc('\n', stderr);                                                                   \
      exit(1);                                                                               \
    }                                                                                        \
  } while (0)

/* splitmix64 (Steele, Lea, Flood 2014): any seed is a good one. */
static inline uint64_t random_u64(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* 0 to limit - 1. */
static inline uint32_t random_below(uint64_t *state, uint32_t limit) {
  return (uint32_t)((random_u64(state) >> 32) * limit >> 32);
}

static inline int random_chance(uint64_t *state, uint32_t percent) {
  return random_below(state, 100) < percent;
}

#endif
