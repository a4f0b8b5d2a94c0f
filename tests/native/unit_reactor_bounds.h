/* Bounds of the reactor: full rings, full queues, deadlines, limits, and commands that make no
 * sense. */
#ifndef LONGWIRE_TESTS_UNIT_REACTOR_BOUNDS_H
#define LONGWIRE_TESTS_UNIT_REACTOR_BOUNDS_H

#include "unit_reactor.h"

/* Regression: with a quarter of the ring free, but no room for the record that waits, the thread
 * spun. */
static void unit_ring_full(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 0, 0, 0);
  static uint8_t big[16 << 10] = {0xfb, 0x3f, 0, 0, 7};
  static uint8_t small[9 << 10] = {0xfb, 0x23, 0, 0, 7};
  for (int i = 0; i < 4; i++) rig_feed(rig, p, big, sizeof big);
  for (int i = 0; i < 3; i++) rig_feed(rig, p, small, sizeof small);
  uint64_t before = rig->t->stats.ring_full;
  for (int i = 0; i < 10; i++) turn(rig->t);
  CHECK(before == 1 && rig->t->stats.ring_full == 1, "tried %u times",
        (unsigned)rig->t->stats.ring_full);
  CHECK(rig->t->backend->timeout_ms != 0, "does not sleep while the ring is full");
  for (int i = 0; i < 4; i++) rig_turn(rig);
  struct stub_heard *h = rig_heard(rig, p);
  CHECK(h->frame_count == 7 && h->closes == 0, "%u frames", h->frame_count);
  /* A third of the ring is free, and the frame wants more than that, its padding included. */
  rig_close(rig);
}

/* A ring of 4 kB, frames of all sizes, a slow host: never spins, never loses. */
static void unit_ring_slow_host(uint64_t seed) {
  struct lw_options options = stub_options;
  options.ring_bytes = 4096;
  options.frame_bytes_max = options.handshake_frame_bytes_max = 1500;
  struct stub_rig *rig = rig_open(&options);
  struct stub_peer *peers[4];
  uint64_t sent[4] = {0};
  for (int i = 0; i < 4; i++) peers[i] = rig_activate(rig, 0, 0, 0);
  for (int step = 0; step < 5000; step++) {
    uint8_t frame[1500] = {0};
    int i = (int)random_below(&seed, 4);
    uint32_t size = 5 + random_below(&seed, random_chance(&seed, 30) ? 1495 : 100);
    frame[0] = (uint8_t)((size - 5) & 0xff);
    frame[1] = (uint8_t)((size - 5) >> 8);
    frame[4] = 9;
    if (peers[i]->in_size - peers[i]->in_at < 20000) {
      rig_feed(rig, peers[i], frame, size);
      sent[i] += size;
    }
    turn(rig->t);
    uint64_t tries = rig->t->stats.ring_full;
    turn(rig->t);
    turn(rig->t);
    CHECK(rig->t->stats.ring_full <= tries + 4 && rig->t->backend->timeout_ms != 0, "spins");
    if (random_chance(&seed, 60)) events_walk(rig->r, rig_take, rig);
  }
  for (int i = 0; i < 1000; i++) rig_turn(rig);
  for (int i = 0; i < 4; i++) {
    struct stub_heard *h = rig_heard(rig, peers[i]);
    CHECK(h->frames_size == sent[i], "%zu of %llu bytes", h->frames_size,
          (unsigned long long)sent[i]);
  }
  rig_close(rig);
}

/* Regression: a burst larger than the soft bound was dropped, or made a connection fall behind,
 * though its peer took all that it was sent. */
static void unit_burst(void) {
  for (unsigned qos = 0; qos <= 1; qos++) {
    struct stub_rig *rig = rig_open(&stub_options);
    struct stub_peer *p = rig_activate(rig, 1, 0, 0);
    struct stub_heard *h = rig_heard(rig, p);
    rig_join(rig, h);
    for (uint64_t seq = 1; seq <= 2000; seq++) {
      uint32_t audience = 3;
      struct publish m = {.seq = qos == 0 ? 0 : seq,
                          .stamp = (uint32_t)seq,
                          .qos = qos,
                          .packet_id_at = LW_PACKET_ID_NONE,
                          .except = {LW_CONN_NONE, 0}};
      command_publish(&rig->commands, &m, &audience, 1, numbered(seq, qos), 8);
    }
    rig_submit(rig);
    rig_turn(rig);
    rig_got(p, "burst", 1, 2000, 0);
    CHECK(h->behind_seq == 0 && rig->t->stats.dropped[LW_CODE_SLOW_CONSUMER] == 0, "dropped some");
    CHECK(rig->t->backend->flushes < 10, "%u system calls", rig->t->backend->flushes);
    rig_close(rig);
  }
}

/* A peer that takes nothing: QoS 0 keeps the newest, QoS 1 stops at the soft bound, answers at the
 * hard one. */
static void unit_slow_peer(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 0);
  struct stub_heard *h = rig_heard(rig, p);
  rig_join(rig, h);
  p->takes = 0;
  for (uint64_t seq = 1; seq <= 1000; seq++) {
    uint32_t audience = 3;
    struct publish m = {
        .stamp = (uint32_t)seq, .packet_id_at = LW_PACKET_ID_NONE, .except = {LW_CONN_NONE, 0}};
    command_publish(&rig->commands, &m, &audience, 1, numbered(seq, 0), 8);
  }
  rig_submit(rig);
  rig_turn(rig);
  CHECK(rig->t->stats.dropped[LW_CODE_SLOW_CONSUMER] == 1000 - 512, "%u dropped",
        (unsigned)rig->t->stats.dropped[LW_CODE_SLOW_CONSUMER]);
  CHECK(h->droppings == 1, "told %u times", h->droppings);
  CHECK(rig->t->stats.out_queue_bytes == 4096, "%u bytes", (unsigned)rig->t->stats.out_queue_bytes);
  rig_publish(rig, 5, 1);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->behind_seq == 5 && h->rooms == 0, "behind %llu", (unsigned long long)h->behind_seq);
  rig_unblock(rig, p, 4000);
  rig_turn(rig);
  rig_got(p, "the newest", 489, 500, 0);
  CHECK(h->rooms == 1 && h->room == 0xffff, "room %u", h->room);
  static const uint8_t answer[1024] = {0x30, 0xfd, 7};
  for (int i = 0; i < 16; i++) command_send(&rig->commands, h->handle, answer, sizeof answer);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->closes == 1 && h->close_code == LW_CODE_SLOW_CONSUMER, "code %u", h->close_code);
  rig_turn(rig);
  CHECK(rig->t->stats.out_queue_bytes == 0 && rig->t->stats.connections == 0,
        "what is closed counts");
  rig_close(rig);
}

/* Deadlines: handshake, silence, a peer that does not read, lingering. */
static void unit_deadlines(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *mute = rig_connect(rig, 0);
  rig_pass(rig, 900);
  CHECK(mute->is_open, "the handshake ended early");
  rig_pass(rig, 300);
  rig_turn(rig);
  CHECK(!mute->is_open && rig->t->stats.closed[LW_CODE_HANDSHAKE_TIMEOUT] == 1,
        "no handshake timeout");
  struct stub_peer *p = rig_activate(rig, 0, 1000, 0);
  struct stub_heard *h = rig_heard(rig, p);
  for (int i = 0; i < 5; i++) {
    static const uint8_t beat[] = {0, 0, 0, 0, LONGWIRE_HEARTBEAT};
    rig_pass(rig, 900);
    rig_feed(rig, p, beat, sizeof beat);
    rig_turn(rig);
  }
  CHECK(h->violations == 0 && h->frame_count == 0 && p->out_size == 25, "%u violations",
        h->violations);
  /* Regression: who is not listened to cannot be called silent. */
  command_plain(&rig->commands, LW_COMMAND_PAUSE, h->handle);
  rig_submit(rig);
  for (int i = 0; i < 5; i++) rig_pass(rig, 900);
  CHECK(h->violations == 0, "silent while paused");
  command_plain(&rig->commands, LW_COMMAND_RESUME, h->handle);
  rig_submit(rig);
  for (int i = 0; i < 3; i++) rig_pass(rig, 900);
  CHECK(h->violations == 1 && h->violation_code == LW_CODE_KEEPALIVE_TIMEOUT, "not silent");
  command_close(&rig->commands, h->handle, LW_CODE_KEEPALIVE_TIMEOUT);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(p->is_open && p->is_write_ended, "no FIN");
  rig_pass(rig, 400);
  CHECK(p->is_open, "did not linger");
  rig_pass(rig, 300);
  rig_turn(rig);
  CHECK(!p->is_open, "lingers for ever");
  struct stub_peer *deaf = rig_activate(rig, 0, 0, 0);
  deaf->takes = 1;
  command_send(&rig->commands, rig_heard(rig, deaf)->handle, "hello", 5);
  rig_submit(rig);
  rig_pass(rig, 1900);
  CHECK(deaf->is_open, "stalled early");
  rig_pass(rig, 300);
  rig_pass(rig, 1900);
  rig_turn(rig);
  CHECK(!deaf->is_open && rig->t->stats.closed[LW_CODE_WRITE_STALLED] == 1, "never stalled");
  rig_close(rig);
}

#include "unit_reactor_commands.h"

#endif
