/* How long messages take: buckets against their bounds, and what is timed, followed and watched of
 * one connection. */
#ifndef LONGWIRE_TESTS_UNIT_LATENCY_H
#define LONGWIRE_TESTS_UNIT_LATENCY_H

#include "unit_reactor.h"

static void unit_latency_buckets(void) {
  uint32_t bucket = 0;
  for (uint32_t bound = LW_LATENCY_FIRST_US; bound <= LW_LATENCY_LAST_US; bound *= 2) {
    CHECK(latency_bucket(bound) == bucket, "%u falls into %u", bound, latency_bucket(bound));
    CHECK(latency_bucket(bound + 1) == bucket + 1, "over %u is not in the next", bound);
    if (bound == LW_LATENCY_LAST_US) break;
    CHECK(latency_bucket(bound + bound / 2) == bucket + 1, "%u and a half", bound);
    CHECK(latency_bucket(bound + bound / 2 + 1) == bucket + 2, "over %u and a half", bound);
    bucket += 2;
  }
  CHECK(bucket + 2 == LW_LATENCY_BUCKETS, "%u buckets", bucket + 2);
  CHECK(latency_bucket(0) == 0 && latency_bucket(UINT32_MAX) == LW_LATENCY_BUCKETS - 1, "the ends");
}

/* Publishes number `seq` as one that is timed; flags beside the QoS. */
static void rig_publish_timed(struct stub_rig *rig, uint64_t seq, unsigned flags, uint32_t age_us) {
  rig_publish(rig, seq, 1);
  size_t size = sizeof(struct lw_command_publish) + 8 + 8;
  struct lw_command_publish *p = (void *)(rig->commands.bytes + rig->commands.size - size);
  REQUIRE(p->head.type == LW_COMMAND_PUBLISH && p->seq == seq, "not the last record");
  p->head.flags |= (uint16_t)flags;
  p->published_us = lw_now_us() - age_us;
}

static uint64_t timed(const struct lw_latency *l) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < LW_LATENCY_BUCKETS; i++) total += l->counts[i];
  return total;
}

static void unit_latency_rig(void) {
  struct lw_options options = stub_options;
  options.slow_us = 1000 * 1000;
  struct stub_rig *rig = rig_open(&options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 10);
  struct stub_heard *h = rig_heard(rig, p);
  struct lw_stats *stats = &rig->t->stats;
  CHECK(stats->states[1][1] == 1 && stats->states[1][0] == 0, "not active");
  rig_join(rig, h);
  rig_publish(rig, 1, 1); /* published_us 0: not timed */
  rig_publish_timed(rig, 2, 0, 5000);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(timed(&stats->to_socket) == 1 && stats->to_socket.sum_us >= 5000, "sent");
  CHECK(timed(&stats->to_acked) == 0 && h->traced_count == 0, "too early");
  rig_ack(rig, p, MQTT_PUBACK, 1);
  CHECK(timed(&stats->to_acked) == 0, "the other one");
  rig_ack(rig, p, MQTT_PUBACK, 2);
  CHECK(timed(&stats->to_acked) == 1 && stats->to_acked.sum_us >= 5000, "acknowledged");
  rig_publish_timed(rig, 3, 4u << LW_PUBLISH_FOLLOW_SHIFT, 100);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->traced_count == 1 && h->traced_what == LW_TRACED_SENT, "%u told", h->traced_count);
  rig_ack(rig, p, MQTT_PUBACK, 3);
  rig_turn(rig);
  CHECK(h->traced_count == 2 && h->traced_what == LW_TRACED_ACKED, "%u told", h->traced_count);
  CHECK(h->traced.us >= 100, "in %u us", h->traced.us);
  rig_publish_timed(rig, 4, LW_PUBLISH_WATCH, 100); /* fast: nobody is told */
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->traced_count == 2, "%u told", h->traced_count);
  p->takes = 0; /* it reads no more: what is watched is told when it has read it all */
  rig_publish_timed(rig, 5, LW_PUBLISH_WATCH, options.slow_us + 1);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->traced_count == 2 && timed(&stats->to_socket) == 3, "it has not left");
  rig_unblock(rig, p, UINT64_MAX);
  rig_turn(rig);
  CHECK(h->traced_count == 3 && h->traced_what == LW_TRACED_SENT, "%u told", h->traced_count);
  rig_drop(rig, p);
  CHECK(stats->states[1][1] == 0 && stats->states[1][2] == 0, "still there");
  rig_close(rig);
}

static void unit_latency(void) {
  unit_latency_buckets();
  unit_latency_rig();
}

#endif
