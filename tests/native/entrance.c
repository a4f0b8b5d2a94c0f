/* The way into the reactor: PROXY headers, admission and records as tables and models, then through
 * real sockets, plain and over TLS.
 * entrance [seed] */
#include "reactor.c"

#include "entrance_refusals.h"
#include "unit_admission.h"
#include "unit_seal.h"

/* ThreadSanitizer makes a flood so slow that what it shows is not the reactor's. */
#if defined(__SANITIZE_THREAD__)
#define IS_TIMED 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IS_TIMED 0
#endif
#endif
#ifndef IS_TIMED
#define IS_TIMED 1
#endif

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
  printf("%s, seed %llu\n", lw_backend(), (unsigned long long)seed);
  fflush(stdout);
  unit_proxy(seed);
  unit_admission(seed);
  unit_seal(seed);
  test_proxy_cases();
  test_proxy_truncations();
  test_proxy_of_strangers();
  test_proxy_over_tls();
  test_rate_of_all();
  test_rate_of_sources();
  test_count_of_sources();
  test_sources_behind_proxy();
  test_crowd();
  test_refusals();
  if (IS_TIMED) {
    test_flood(0);
    test_flood(1);
  }
  unsigned problems = atomic_load(&check_problems);
  if (problems > 0) fprintf(stderr, "%u problems\n", problems);
  return problems > 0;
}
