/* The reactor's parts, each alone: tables and naive models in one process, no sockets.
 * unit [seed] */
#include "stub_rig.h"

#include "unit_alias.h"
#include "unit_audience.h"
#include "unit_half_close.h"
#include "unit_inflight.h"
#include "unit_latency.h"
#include "unit_out_queue.h"
#include "unit_queues.h"
#include "unit_reactor.h"
#include "unit_reactor_settle.h"
#include "unit_stream.h"
#include "unit_top.h"
#include "unit_wheel.h"

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
  printf("seed %llu\n", (unsigned long long)seed);
  fflush(stdout);
  unit_wheel(seed);
  unit_alias();
  unit_audience(seed);
  unit_ring(seed);
  unit_command_queue(seed);
  unit_inflight(seed);
  unit_out_queue(seed);
  unit_stream();
  unit_half_close();
  unit_reactor(seed);
  unit_settle();
  unit_latency();
  unit_top(seed);
  unsigned problems = atomic_load(&check_problems);
  if (problems > 0) fprintf(stderr, "%u problems\n", problems);
  return problems > 0;
}
