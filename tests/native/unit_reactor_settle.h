/* Messages whose end the host is told of one by one: shared subscriptions, and QoS 2 exchanges that
 * outlive the process. */
#ifndef LONGWIRE_TESTS_UNIT_REACTOR_SETTLE_H
#define LONGWIRE_TESTS_UNIT_REACTOR_SETTLE_H

#include "unit_reactor.h"

#define SHARED (LW_DELIVER_SHARED | LW_DELIVER_ASIDE | LW_DELIVER_SETTLE)

static void rig_deliver(struct stub_rig *rig, struct handle to, uint64_t seq, unsigned flags) {
  struct publish d = {.seq = seq, .qos = flags, .packet_id_at = ID_AT};
  command_deliver(&rig->commands, to, &d, 0, numbered(seq, flags & LW_PUBLISH_QOS), 8);
}

static void settled(struct stub_heard *h, uint32_t i, uint64_t seq, unsigned what) {
  CHECK(i < h->settled_count, "%u settled", h->settled_count);
  CHECK(h->settled[i].seq == seq && h->settled[i].released == what, "%u: message %llu came to %u",
        i, (unsigned long long)h->settled[i].seq, h->settled[i].released);
}

/* What the window has no room for comes back; what is acknowledged does too; neither is in ACKED.
 */
static void unit_shared(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 3);
  struct stub_heard *h = rig_heard(rig, p);
  rig_join(rig, h);
  for (uint64_t seq = 1; seq <= 4; seq++) rig_deliver(rig, h->handle, seq, 1 | SHARED);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "shared", 1, 3, 1);
  CHECK(h->settled_count == 1, "%u settled", h->settled_count);
  settled(h, 0, 4, LW_SETTLED_RETURNED);
  rig_ack(rig, p, MQTT_PUBACK, 2);
  rig_turn(rig);
  settled(h, 1, 2, LW_SETTLED_ACKED);
  CHECK(h->settled[1].packet_id == 2 && h->settled[1].flags == SHARED, "id %u, flags %x",
        h->settled[1].packet_id, h->settled[1].flags);
  rig_ack(rig, p, MQTT_PUBACK, 2); /* twice is once */
  rig_ack(rig, p, MQTT_PUBACK, 1);
  rig_turn(rig);
  CHECK(h->settled_count == 3, "%u settled", h->settled_count);
  settled(h, 2, 1, LW_SETTLED_ACKED);
  CHECK(h->acked_seq == 0 && h->rooms == 0, "acked %u", (unsigned)h->acked_seq);
  rig_publish(rig, 10, 1);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "live beside it", 10, 1, 4);
  p->has_failed = 1;
  rig_feed(rig, p, "", 0);
  rig_turn(rig);
  CHECK(h->closed.inflight_count == 2 && h->closed.seen_seq >= 9, "%u in flight",
        h->closed.inflight_count);
  CHECK(h->inflight[0].seq == 3 && h->inflight[0].flags == SHARED, "the first is another's");
  CHECK(h->inflight[1].seq == 10 && h->inflight[1].flags == 0, "the second is of the log");
  rig_close(rig);
}

/* PUBREC goes to the host, PUBREL comes from it, and the id follows from the seq. */
static void unit_held_releases(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_connect(rig, 1);
  static const uint8_t hello[] = {0x10, 0};
  rig_feed(rig, p, hello, sizeof hello);
  rig_turn(rig);
  struct stub_heard *h = rig_heard(rig, p);
  command_activate(&rig->commands, h->handle, 0, 8,
                   LW_ACTIVATE_REPORT_ACKS | LW_ACTIVATE_HOLD_RELEASES);
  rig_join(rig, h);
  rig_publish(rig, 5, 2);
  rig_publish(rig, 6, 2);
  rig_publish(rig, 7, 1);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(p->out_size == 24 && p->out[4] == 0x80 && p->out[5] == 5 && p->out[12] == 0x80, "ids");
  CHECK(p->out[20] < 0x80, "an id of QoS 1 among the held ones");
  uint32_t free_id = (uint32_t)p->out[20] << 8 | p->out[21];
  p->out_size = 0;
  rig_ack(rig, p, MQTT_PUBREC, LW_HELD_ID_MIN | 5);
  rig_ack(rig, p, MQTT_PUBREC, LW_HELD_ID_MIN | 5);
  rig_turn(rig);
  CHECK(p->out_size == 0 && h->settled_count == 1, "PUBREL without the host");
  settled(h, 0, 5, LW_SETTLED_RECEIVED);
  rig_ack(rig, p, MQTT_PUBREC, LW_HELD_ID_MIN | 5); /* what the host has heard may not be durable */
  rig_turn(rig);
  CHECK(p->out_size == 0 && h->settled_count == 1, "PUBREL for a PUBREC that came again");
  const uint8_t pubrel[] = {MQTT_PUBREL, 2, 0x80, 5};
  command_send(&rig->commands, h->handle, pubrel, sizeof pubrel);
  rig_submit(rig);
  rig_ack(rig, p, MQTT_PUBCOMP, LW_HELD_ID_MIN | 5);
  rig_turn(rig);
  CHECK(h->acked_seq == 5 && p->out_size == 4, "acked %u", (unsigned)h->acked_seq);
  settled(h, 1, 5, LW_SETTLED_ACKED);
  rig_ack(rig, p, MQTT_PUBACK, free_id);
  rig_ack(rig, p, MQTT_PUBREC, LW_HELD_ID_MIN | 6);
  p->has_failed = 1;
  rig_feed(rig, p, "", 0);
  rig_turn(rig);
  /* Received in the turn in which it was lost: both events say so. */
  settled(h, 2, 6, LW_SETTLED_RECEIVED);
  CHECK(h->closed.inflight_count == 1 && h->inflight[0].released == 1, "%u in flight",
        h->closed.inflight_count);
  CHECK(h->acked_seq == 5, "acked %u past what is in flight", (unsigned)h->acked_seq);
  rig_close(rig);
}

/* A message whose packet id another has waits for the end of that one's exchange, and what was
 * handed over after it waits with it. */
static void unit_held_id_taken(void) {
  const uint64_t later = 5 + LW_HELD_ID_MIN;
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_connect(rig, 1);
  static const uint8_t hello[] = {0x10, 0};
  rig_feed(rig, p, hello, sizeof hello);
  rig_turn(rig);
  struct stub_heard *h = rig_heard(rig, p);
  command_activate(&rig->commands, h->handle, 0, 8,
                   LW_ACTIVATE_REPORT_ACKS | LW_ACTIVATE_HOLD_RELEASES);
  rig_join(rig, h);
  rig_publish(rig, 5, 2);
  rig_publish(rig, later, 2);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(p->out_size == 8 && h->behind_seq == later && h->rooms == 0, "behind %u, %u rooms",
        (unsigned)h->behind_seq, h->rooms);
  const unsigned seen = LW_DELIVER_SEEN;
  rig_deliver(rig, h->handle, later, 2 | seen | 1 << LW_DELIVER_SEEN_SHIFT);
  rig_deliver(rig, h->handle, later + 1, 2 | seen | 1 << LW_DELIVER_SEEN_SHIFT);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(p->out_size == 8 && h->behind_seq == later && h->rooms == 0, "%zu bytes, %u rooms",
        p->out_size, h->rooms);
  rig_ack(rig, p, MQTT_PUBREC, LW_HELD_ID_MIN | 5);
  rig_turn(rig);
  rig_ack(rig, p, MQTT_PUBCOMP, LW_HELD_ID_MIN | 5);
  rig_turn(rig);
  CHECK(h->rooms == 1, "%u rooms", h->rooms);
  rig_deliver(rig, h->handle, later, 2 | seen | 2 << LW_DELIVER_SEEN_SHIFT);
  rig_deliver(rig, h->handle, later + 1, 2 | seen | 2 << LW_DELIVER_SEEN_SHIFT);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(p->out_size == 24, "%zu bytes", p->out_size);
  CHECK(p->out[12] == 0x80 && p->out[13] == 5 && p->out[20] == 0x80 && p->out[21] == 6, "ids");
  rig_close(rig);
}

/* A frame too large for this peer is not sent, and its end is told as if it had been. */
static void unit_too_large(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_connect(rig, 1);
  static const uint8_t hello[] = {0x10, 0};
  rig_feed(rig, p, hello, sizeof hello);
  rig_turn(rig);
  struct stub_heard *h = rig_heard(rig, p);
  command_activate(&rig->commands, h->handle, 0, 8, 0);
  struct lw_command_activate *a = (struct lw_command_activate *)(void *)rig->commands.bytes;
  a->frame_bytes_max = 7;
  rig_join(rig, h);
  rig_publish(rig, 0, 0);
  rig_publish(rig, 1, 1);
  rig_deliver(rig, h->handle, 2, 1 | SHARED);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(p->out_size == 0 && rig->t->stats.dropped[LW_CODE_FRAME_TOO_LARGE] == 3, "%u dropped",
        (unsigned)rig->t->stats.dropped[LW_CODE_FRAME_TOO_LARGE]);
  settled(h, 0, 2, LW_SETTLED_ACKED);
  CHECK(h->behind_seq == 0, "behind for what it cannot take");
  rig_close(rig);
}

static void unit_settle(void) {
  unit_shared();
  unit_held_releases();
  unit_held_id_taken();
  unit_too_large();
}

#endif
