/* One connection and the host, turn by turn: in-flight windows, falling behind and coming back,
 * last words. */
#ifndef LONGWIRE_TESTS_UNIT_REACTOR_H
#define LONGWIRE_TESTS_UNIT_REACTOR_H

#include "stub_rig.h"

#define ID_AT 4u

/* An MQTT PUBLISH of 8 bytes: topic "", id, then its number. */
static const uint8_t *numbered(uint64_t number, unsigned qos) {
  static uint8_t frame[8];
  frame[0] = (uint8_t)(0x30 | qos << 1);
  frame[1] = 6;
  frame[6] = (uint8_t)(number >> 8);
  frame[7] = (uint8_t)number;
  return frame;
}

static void rig_publish(struct stub_rig *rig, uint64_t seq, unsigned qos) {
  static uint32_t stamp;
  const uint32_t audience = 3;
  struct publish p = {.seq = seq, .stamp = ++stamp, .qos = qos, .except = {LW_CONN_NONE, 0}};
  p.packet_id_at = qos == 0 ? LW_PACKET_ID_NONE : ID_AT;
  command_publish(&rig->commands, &p, &audience, 1, numbered(seq, qos), 8);
}

static void rig_join(struct stub_rig *rig, const struct stub_heard *h) {
  command_audience(&rig->commands, LW_COMMAND_JOIN, h->handle, 3);
}

static void rig_ack(struct stub_rig *rig, struct stub_peer *p, unsigned type, uint32_t id) {
  const uint8_t ack[4] = {(uint8_t)type, 2, (uint8_t)(id >> 8), (uint8_t)id};
  rig_feed(rig, p, ack, sizeof ack);
}

/* Checks that the peer has got exactly these messages since the last call; ids must follow `id`. */
static void rig_got(struct stub_peer *p, const char *when, uint64_t first, uint32_t count,
                    uint32_t id) {
  CHECK(p->out_size == count * 8, "%s: %zu bytes, not %u frames", when, p->out_size, count);
  for (uint32_t i = 0; i < count && i < p->out_size / 8; i++) {
    const uint8_t *frame = p->out + i * 8;
    uint64_t seq = (uint64_t)frame[6] << 8 | frame[7];
    uint32_t found = (uint32_t)frame[4] << 8 | frame[5];
    CHECK(seq == first + i, "%s: message %llu", when, (unsigned long long)seq);
    CHECK(id == 0 || found == id + i, "%s: id %u", when, found);
  }
  p->out_size = 0;
}

/* The window fills, the connection falls behind, is replayed to and comes back. */
static void unit_behind(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 4);
  struct stub_heard *h = rig_heard(rig, p);
  rig_join(rig, h);
  for (uint64_t seq = 1; seq <= 7; seq++) rig_publish(rig, seq, 1);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "full", 1, 4, 1);
  CHECK(h->behind_seq == 5 && h->behind_count == 1, "behind %llu",
        (unsigned long long)h->behind_seq);
  CHECK(h->rooms == 0, "room in a full window");
  rig_ack(rig, p, MQTT_PUBACK, 2);
  rig_ack(rig, p, MQTT_PUBACK, 3);
  rig_turn(rig);
  CHECK(h->acked_seq == 0 && h->rooms == 0, "room and acks behind the oldest: %u", h->rooms);
  rig_ack(rig, p, MQTT_PUBACK, 1);
  rig_turn(rig);
  CHECK(h->acked_seq == 3 && h->rooms == 1 && h->room == 3, "acked %u, room %u",
        (unsigned)h->acked_seq, h->room);
  for (uint64_t seq = 5; seq <= 7; seq++) {
    struct publish d = {.seq = seq, .qos = 1, .packet_id_at = ID_AT};
    command_deliver(&rig->commands, h->handle, &d, 0, numbered(seq, 1), 8);
  }
  command_live(&rig->commands, h->handle, h->behind_count);
  rig_publish(rig, 8, 1); /* full again */
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "replayed", 5, 3, 5);
  CHECK(h->behind_seq == 8 && h->behind_count == 2, "behind %llu",
        (unsigned long long)h->behind_seq);
  for (uint32_t id = 4; id <= 7; id++) rig_ack(rig, p, MQTT_PUBACK, id);
  rig_turn(rig);
  CHECK(h->acked_seq == 7 && h->rooms == 2 && h->room == 4, "room %u", h->room);
  struct publish d = {.seq = 8, .qos = 1, .packet_id_at = ID_AT};
  command_deliver(&rig->commands, h->handle, &d, 0, numbered(8, 1), 8);
  command_live(&rig->commands, h->handle, h->behind_count);
  rig_publish(rig, 9, 1);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "live", 8, 2, 8);
  CHECK(rig_connection(rig, p)->inflight->count == 2, "two are in flight");
  rig_close(rig);
}

/* Regression: LIVE for an earlier replay overtook the news that the connection had fallen behind
 * again, and what it missed was never replayed. */
static void unit_live_too_early(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 1);
  struct stub_heard *h = rig_heard(rig, p);
  rig_join(rig, h);
  rig_publish(rig, 1, 1);
  rig_publish(rig, 2, 1);
  command_plain(&rig->commands, LW_COMMAND_BEHIND, h->handle);
  command_live(&rig->commands, h->handle, 0);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->behind_seq == 2 && h->behind_count == 1, "behind %llu",
        (unsigned long long)h->behind_seq);
  rig_ack(rig, p, MQTT_PUBACK, 1);
  rig_publish(rig, 3, 1);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "not live", 1, 1, 1);
  CHECK(h->rooms == 1, "no room is told");
  command_live(&rig->commands, h->handle, 1);
  rig_publish(rig, 4, 1);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "live", 4, 1, 2);
  rig_close(rig);
}

/* Regression: BEHIND for a connection that was live forgot what that had been sent, and all of it
 * came once more on the next connection. */
static void unit_behind_from_live(void) {
  for (int from_live = 0; from_live < 2; from_live++) {
    struct stub_rig *rig = rig_open(&stub_options);
    struct stub_peer *p = rig_activate(rig, 1, 0, 4);
    struct stub_heard *h = rig_heard(rig, p);
    rig_join(rig, h);
    rig_publish(rig, 1, 1);
    rig_publish(rig, 2, 1);
    rig_submit(rig);
    rig_turn(rig);
    rig_got(p, "live", 1, 2, 1);
    unsigned flags = from_live ? LW_BEHIND_FROM_LIVE : 0;
    command_behind(&rig->commands, h->handle, flags);
    command_close(&rig->commands, h->handle, LW_CODE_NORMAL);
    rig_submit(rig);
    rig_turn(rig);
    CHECK(h->closes == 1 && h->closed.behind_seq == 0, "%u closes", h->closes);
    CHECK(h->closed.seen_seq == (from_live ? 2 : 0), "seen %u", (unsigned)h->closed.seen_seq);
    rig_close(rig);
  }
}

/* What CLOSED says of what was in flight, QoS 2 half-way included. */
static void unit_closed_inflight(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 10);
  struct stub_heard *h = rig_heard(rig, p);
  rig_join(rig, h);
  for (uint64_t seq = 11; seq <= 15; seq++) rig_publish(rig, seq, seq == 13 ? 1 : 2);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "in flight", 11, 5, 1);
  rig_ack(rig, p, MQTT_PUBREC, 1);
  rig_ack(rig, p, MQTT_PUBCOMP, 2); /* before PUBREC: means nothing */
  rig_ack(rig, p, MQTT_PUBACK, 3);
  rig_ack(rig, p, MQTT_PUBREC, 4);
  rig_ack(rig, p, MQTT_PUBCOMP, 4);
  rig_turn(rig);
  CHECK(p->out_size == 8, "%zu bytes of PUBREL", p->out_size);
  p->has_failed = 1;
  rig_feed(rig, p, "", 0);
  rig_turn(rig);
  CHECK(h->closes == 1 && h->close_code == LW_CODE_IO_ERROR, "code %u", h->close_code);
  CHECK(h->closed.seen_seq == 15 && h->closed.behind_seq == 0, "seen %u",
        (unsigned)h->closed.seen_seq);
  CHECK(h->closed.inflight_count == 3, "%u in flight", h->closed.inflight_count);
  const uint64_t seqs[] = {11, 12, 15};
  for (uint32_t i = 0; i < 3; i++) {
    const struct lw_inflight *e = &h->inflight[i];
    CHECK(e->seq == seqs[i] && e->packet_id == seqs[i] - 10 && e->qos == 2, "entry %u", i);
    CHECK(e->released == (i == 0), "entry %u is released", i);
  }
  rig_close(rig);
}

/* Regression: the answer of a half-closed connection was thrown away when the ring had been full
 * before. */
static void unit_last_words(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 0, 0, 0);
  struct stub_heard *h = rig_heard(rig, p);
  static uint8_t big[15 << 10] = {0xfb, 0x3b, 0, 0, 7};
  for (int i = 0; i < 5; i++) rig_feed(rig, p, big, sizeof big);
  rig_end(rig, p);
  struct connection *c = rig_connection(rig, p);
  CHECK((c->flags & STALLED) != 0, "the ring is not full");
  c->flags |= END_PENDING; /* as a transport that reads unasked says it */
  p->takes = 2;
  command_send(&rig->commands, h->handle, "last", 4);
  command_close(&rig->commands, h->handle, LW_CODE_PROTOCOL_ERROR);
  rig_submit(rig);
  rig_turn(rig);
  rig_turn(rig);
  CHECK(p->is_open && h->closes == 1, "closed with something left to say");
  rig_unblock(rig, p, 100);
  rig_turn(rig);
  rig_turn(rig);
  CHECK(!p->is_open && p->out_size == 4 && memcmp(p->out, "last", 4) == 0, "%zu bytes",
        p->out_size);
  rig_close(rig);
}

#include "unit_reactor_bounds.h"

#endif
