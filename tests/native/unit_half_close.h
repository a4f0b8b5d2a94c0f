/* Peers that have said their last and read on: what they sent is heard, what answers it arrives. */
#ifndef LONGWIRE_TESTS_UNIT_HALF_CLOSE_H
#define LONGWIRE_TESTS_UNIT_HALF_CLOSE_H

#include "stub_rig.h"

static const uint8_t half_hello[7] = {2, 0, 0, 0, LONGWIRE_HELLO, 'h', 'i'};
static const uint8_t half_frame[6] = {1, 0, 0, 0, 7, 'a'};

/* The host answers and closes: the peer must get it, then the end. */
static void half_answered(struct stub_rig *rig, struct stub_peer *p, const char *what) {
  struct stub_heard *h = rig_heard(rig, p);
  CHECK(h->ends == 1 && h->closes == 0 && p->is_open, "%s: %u ends, %u closes", what, h->ends,
        h->closes);
  p->takes = 2; /* the rest waits for the peer to read */
  command_send(&rig->commands, h->handle, "answer", 6);
  command_close(&rig->commands, h->handle, LW_CODE_PEER_CLOSED);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->closes == 1 && h->close_code == LW_CODE_PEER_CLOSED, "%s: code %u", what, h->close_code);
  CHECK(p->is_open && p->out_size == 2, "%s: closed with something left to say", what);
  rig_unblock(rig, p, 100);
  for (int i = 0; i < 2; i++) rig_turn(rig);
  CHECK(!p->is_open && p->out_size == 6 && memcmp(p->out, "answer", 6) == 0, "%s: %zu bytes", what,
        p->out_size);
  CHECK(h->ends == 1, "%s: ended %u times", what, h->ends);
}

/* After whole frames, and after part of one. */
static void half_after_frames(void) {
  for (uint32_t part = 0; part <= sizeof half_frame; part++) {
    struct stub_rig *rig = rig_open(&stub_options);
    struct stub_peer *p = rig_activate(rig, 0, 0, 0);
    rig_feed(rig, p, half_frame, sizeof half_frame);
    rig_feed(rig, p, half_frame, part);
    rig_end(rig, p);
    rig_turn(rig);
    uint32_t whole = part == sizeof half_frame ? 2 : 1;
    CHECK(rig_heard(rig, p)->frame_count == whole, "%u frames", rig_heard(rig, p)->frame_count);
    half_answered(rig, p, "after frames");
    rig_close(rig);
  }
}

/* Before the host has let it in: what it sent ahead is heard first, and nothing ends it before. */
static void half_in_handshake(void) {
  for (int frames = 0; frames < 3; frames++) {
    struct stub_rig *rig = rig_open(&stub_options);
    struct stub_peer *p = rig_connect(rig, 0);
    struct stub_heard *h = rig_heard(rig, p);
    rig_feed(rig, p, half_hello, sizeof half_hello);
    struct connection *c = rig_connection(rig, p);
    /* As a transport says it that reads unasked. */
    for (int i = 0; i < frames; i++) received(rig->t, c, half_frame, sizeof half_frame);
    received(rig->t, c, NULL, 0);
    p->has_ended = 1;
    rig_turn(rig);
    CHECK(h->frame_count == 1 && h->ends == 0 && h->closes == 0, "%u frames, %u closes",
          h->frame_count, h->closes);
    command_activate(&rig->commands, h->handle, 0, 0, 0);
    rig_submit(rig);
    rig_turn(rig);
    CHECK(h->frame_count == 1u + (uint32_t)frames, "%u frames", h->frame_count);
    half_answered(rig, p, "in the handshake");
    rig_close(rig);
  }
}

/* Nothing whole has come: nobody is owed an answer. */
static void half_before_hello(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_connect(rig, 0);
  rig_feed(rig, p, half_hello, 3);
  rig_end(rig, p);
  for (int i = 0; i < 2; i++) rig_turn(rig);
  CHECK(!p->is_open && rig->t->stats.closed[LW_CODE_PEER_CLOSED] == 1, "it is waited for");
  rig_close(rig);
}

/* Behind frames that the ring had no room for. */
static void half_behind_stalled(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 0, 0, 0);
  struct stub_heard *h = rig_heard(rig, p);
  static uint8_t big[15 << 10] = {0xfb, 0x3b, 0, 0, 7};
  for (int i = 0; i < 5; i++) rig_feed(rig, p, big, sizeof big);
  CHECK((rig_connection(rig, p)->flags & STALLED) != 0, "the ring is not full");
  rig_end(rig, p);
  received(rig->t, rig_connection(rig, p), NULL, 0);
  for (int i = 0; i < 4; i++) rig_turn(rig);
  CHECK(h->frame_count == 5, "%u frames", h->frame_count);
  half_answered(rig, p, "behind a full ring");
  rig_close(rig);
}

/* Its violation is told first, and the last words arrive. */
static void half_after_violation(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 0);
  struct stub_heard *h = rig_heard(rig, p);
  static const uint8_t broken[5] = {0x30, 255, 255, 255, 255};
  rig_feed(rig, p, broken, sizeof broken);
  p->has_ended = 1;
  received(rig->t, rig_connection(rig, p), NULL, 0);
  rig_turn(rig);
  CHECK(h->violations == 1 && h->ends == 0 && h->closes == 0, "%u violations", h->violations);
  command_send(&rig->commands, h->handle, "bye", 3);
  command_close(&rig->commands, h->handle, LW_CODE_MALFORMED);
  rig_submit(rig);
  for (int i = 0; i < 2; i++) rig_turn(rig);
  CHECK(!p->is_open && p->out_size == 3, "%zu bytes", p->out_size);
  CHECK(h->closes == 1 && h->close_code == LW_CODE_MALFORMED, "code %u", h->close_code);
  rig_close(rig);
}

/* A host that does not close, and a peer that is gone when it is answered. */
static void half_without_end(void) {
  for (int fails = 0; fails < 2; fails++) {
    struct stub_rig *rig = rig_open(&stub_options);
    struct stub_peer *p = rig_activate(rig, 0, 100, 0);
    struct stub_heard *h = rig_heard(rig, p);
    rig_end(rig, p);
    rig_turn(rig);
    rig->t->backend->now_ms += 500; /* its keepalive is over: that means nothing any more */
    rig_turn(rig);
    CHECK(h->ends == 1 && h->closes == 0 && h->violations == 0, "%u closes", h->closes);
    if (fails) failed(rig->t, rig_connection(rig, p));
    rig->t->backend->now_ms += fails ? 0 : 1000;
    for (int i = 0; i < 2; i++) rig_turn(rig);
    CHECK(h->closes == 1 && h->close_code == LW_CODE_PEER_CLOSED, "%u closes, code %u", h->closes,
          h->close_code);
    rig_close(rig);
  }
}

static void unit_half_close(void) {
  half_after_frames();
  half_in_handshake();
  half_before_hello();
  half_behind_stalled();
  half_after_violation();
  half_without_end();
}

#endif
