/* The heap of lw_top against sorting: whatever comes, it keeps the largest. */
#ifndef LONGWIRE_TESTS_UNIT_TOP_H
#define LONGWIRE_TESTS_UNIT_TOP_H

#include "check.h"

#define TOP_KEYS 500u

static int compare_u32(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static void unit_top(uint64_t seed) {
  for (uint32_t rows_max = 1; rows_max <= 64; rows_max++) {
    struct lw_top_row rows[64];
    struct top_search search = {.rows = rows, .rows_max = rows_max};
    uint32_t keys[TOP_KEYS];
    uint32_t count = 1 + random_below(&seed, TOP_KEYS);
    for (uint32_t i = 0; i < count; i++) {
      keys[i] = random_below(&seed, 200); /* many are equal */
      top_add(&search, &(struct lw_top_row){.key = keys[i], .conn = i});
    }
    qsort(keys, count, sizeof keys[0], compare_u32);
    qsort(rows, search.count, sizeof rows[0], top_compare);
    CHECK(search.count == (count < rows_max ? count : rows_max), "%u rows", search.count);
    for (uint32_t i = 0; i < search.count; i++) {
      CHECK(rows[i].key == keys[count - 1 - i], "place %u: %u", i, rows[i].key);
    }
  }
}

#endif
