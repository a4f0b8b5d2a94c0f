/* Cutting a stream into frames, at every byte and in pieces of every size, for both protocols; what
 * is answered here; what breaks a stream. */
#ifndef LONGWIRE_TESTS_UNIT_STREAM_H
#define LONGWIRE_TESTS_UNIT_STREAM_H

#include "stub_rig.h"

#define STREAM_BYTES_MAX 8192u

struct stream {
  uint8_t bytes[STREAM_BYTES_MAX];
  uint32_t size;
  uint8_t to_host[STREAM_BYTES_MAX]; /* what of it the host must hear */
  uint32_t to_host_size;
  uint32_t to_host_count;
  uint8_t answer[64]; /* what the peer must get, times aside */
  uint32_t answer_size;
};

static void stream_add(struct stream *s, const void *frame, uint32_t size, int is_host_s) {
  memcpy(s->bytes + s->size, frame, size);
  s->size += size;
  if (!is_host_s) return;
  memcpy(s->to_host + s->to_host_size, frame, size);
  s->to_host_size += size;
  s->to_host_count++;
}

static void stream_answer(struct stream *s, const void *bytes, uint32_t size) {
  memcpy(s->answer + s->answer_size, bytes, size);
  s->answer_size += size;
}

/* A frame with a body of that many bytes. */
static void stream_add_body(struct stream *s, unsigned protocol, uint32_t body_size) {
  uint8_t frame[2048];
  uint32_t at = 0;
  if (protocol == LW_PROTOCOL_LONGWIRE) {
    for (int i = 0; i < 4; i++) frame[at++] = (uint8_t)(body_size >> 8 * i);
    frame[at++] = 7;
  } else {
    frame[at++] = 0x30;
    uint32_t rest = body_size;
    do {
      frame[at++] = (uint8_t)((rest & 0x7f) | (rest > 127 ? 0x80 : 0));
      rest >>= 7;
    } while (rest > 0);
  }
  for (uint32_t i = 0; i < body_size; i++) frame[at++] = (uint8_t)(i * 7 + s->to_host_count);
  stream_add(s, frame, at, 1);
}

static struct stream stream_of(unsigned protocol) {
  static const uint32_t sizes[] = {0, 1, 2, 60, 64, 65, 126, 127, 128, 129, 255, 256, 1000};
  struct stream s = {.size = 0};
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    stream_add_body(&s, protocol, sizes[i]);
    if (i % 4 != 1) continue;
    if (protocol == LW_PROTOCOL_LONGWIRE) {
      static const uint8_t beat[] = {0xff, 0xff, 0xff, 0x00, LONGWIRE_HEARTBEAT};
      static const uint8_t ahead[] = {0xff, 0xff, 0xff, 0xff, LONGWIRE_HEARTBEAT};
      stream_add(&s, ahead, sizeof ahead, 1); /* of the year 2106: the host judges it */
      stream_add(&s, beat, sizeof beat, 0);
      stream_answer(&s, beat, sizeof beat);
    } else {
      static const uint8_t ping[] = {MQTT_PINGREQ, 0}, pong[] = {MQTT_PINGRESP, 0};
      stream_add(&s, ping, sizeof ping, 0);
      stream_answer(&s, pong, sizeof pong);
    }
  }
  if (protocol == LW_PROTOCOL_MQTT) {
    /* Not ours to have sent, but PUBREL is what lets the peer finish; PUBACK falls on no ground.
     * What carries more than an id is the host's to check as well. */
    static const uint8_t acks[] = {MQTT_PUBREC, 2, 1, 2, MQTT_PUBACK, 2, 1, 2};
    static const uint8_t with_reason[] = {MQTT_PUBCOMP, 3, 1, 2, 0};
    static const uint8_t pubrel[] = {MQTT_PUBREL, 2, 1, 2};
    stream_add(&s, acks, sizeof acks, 0);
    stream_add(&s, with_reason, sizeof with_reason, 1);
    stream_answer(&s, pubrel, sizeof pubrel);
  }
  return s;
}

static void stream_check(struct stub_rig *rig, struct stub_peer *p, const struct stream *s,
                         unsigned protocol, const char *how, uint32_t at) {
  const struct stub_heard *h = rig_heard(rig, p);
  CHECK(h->violations == 0 && h->closes == 0, "%s %u: refused with %u", how, at, h->violation_code);
  CHECK(h->frame_count == s->to_host_count, "%s %u: %u frames", how, at, h->frame_count);
  CHECK(h->frames_size == s->to_host_size && memcmp(h->frames, s->to_host, s->to_host_size) == 0,
        "%s %u: %zu bytes differ", how, at, h->frames_size);
  CHECK(p->out_size == s->answer_size, "%s %u: answered %zu bytes", how, at, p->out_size);
  for (uint32_t i = 0; i < s->answer_size && i < p->out_size; i++) {
    if (protocol == LW_PROTOCOL_LONGWIRE && i % 5 < 4) continue; /* the time */
    CHECK(p->out[i] == s->answer[i], "%s %u: byte %u of the answer", how, at, i);
  }
  const struct connection *c = rig_connection(rig, p);
  CHECK(c->kept == NULL, "%s %u: an idle connection keeps bytes", how, at);
  CHECK(c->out == NULL, "%s %u: an idle connection has a queue", how, at);
}

static void stream_run(struct stub_rig *rig, unsigned protocol, uint32_t split, uint32_t piece) {
  uint32_t listener = protocol == LW_PROTOCOL_MQTT;
  struct stream s = stream_of(protocol);
  struct stub_peer *p = rig_activate(rig, listener, 0, 0);
  p->piece = piece;
  rig_feed(rig, p, s.bytes, split);
  if (split % 3 != 0) rig_turn(rig);
  rig_feed(rig, p, s.bytes + split, s.size - split);
  rig_turn(rig);
  stream_check(rig, p, &s, protocol, piece == 0 ? "cut at" : "pieces of",
               piece == 0 ? split : piece);
  rig_drop(rig, p);
}

static void unit_stream_cuts(void) {
  for (unsigned protocol = LW_PROTOCOL_LONGWIRE; protocol <= LW_PROTOCOL_MQTT; protocol++) {
    uint32_t size = stream_of(protocol).size;
    struct stub_rig *rig = rig_open(&stub_options);
    for (uint32_t split = 0; split <= size; split++) stream_run(rig, protocol, split, 0);
    for (uint32_t piece = 1; piece < 80; piece++) stream_run(rig, protocol, 0, piece);
    rig_close(rig);
  }
}

/* What breaks a stream, and the code that says so; the first frame has a bound of its own. */
static const struct {
  const char *name;
  uint32_t listener;
  uint8_t is_first;
  uint8_t size;
  uint8_t bytes[8];
  uint32_t code;
} breaches[] = {
    {"longwire frame of 16 MB", 0, 0, 5, {0, 0, 0, 1, 7}, LW_CODE_FRAME_TOO_LARGE},
    {"longwire frame of 4 GB", 0, 0, 5, {255, 255, 255, 255, 7}, LW_CODE_FRAME_TOO_LARGE},
    {"longwire hello of 64 kB", 0, 1, 5, {0, 0, 1, 0, 2}, LW_CODE_FRAME_TOO_LARGE},
    {"mqtt length of five bytes", 1, 0, 5, {0x30, 255, 255, 255, 255}, LW_CODE_MALFORMED},
    {"mqtt frame of 256 MB", 1, 0, 5, {0x30, 255, 255, 255, 127}, LW_CODE_FRAME_TOO_LARGE},
    {"mqtt connect of 2 kB", 1, 1, 3, {0x10, 128, 16}, LW_CODE_FRAME_TOO_LARGE},
    {"a TLS hello to mqtt", 1, 1, 6, {0x16, 3, 1, 2, 0, 1}, LW_CODE_FOREIGN_PROTOCOL},
    {"HTTP to mqtt", 1, 1, 4, {'G', 'E', 'T', ' '}, LW_CODE_FOREIGN_PROTOCOL},
    {"mqtt's first byte alone", 1, 1, 1, {0x30}, LW_CODE_FOREIGN_PROTOCOL},
    {"mqtt connect with flags", 1, 1, 1, {0x11}, LW_CODE_FOREIGN_PROTOCOL},
    {"a TLS hello to longwire", 0, 1, 6, {0x16, 3, 1, 2, 0, 1}, LW_CODE_FOREIGN_PROTOCOL},
    {"HTTP to longwire", 0, 1, 5, {'G', 'E', 'T', ' ', '/'}, LW_CODE_FOREIGN_PROTOCOL},
    {"longwire heartbeat first", 0, 1, 5, {0, 0, 0, 0, 1}, LW_CODE_FOREIGN_PROTOCOL},
    {"mqtt ack without an id", 1, 0, 3, {MQTT_PUBACK, 1, 0}, LW_CODE_MALFORMED},
    {"mqtt ack of id 0 [MQTT-2.2.1-2]", 1, 0, 4, {MQTT_PUBACK, 2, 0, 0}, LW_CODE_MALFORMED},
    {"mqtt ack with flags", 1, 0, 4, {MQTT_PUBACK | 2, 2, 0, 1}, LW_CODE_MALFORMED},
    {"mqtt empty ack", 1, 0, 2, {MQTT_PUBREC, 0}, LW_CODE_MALFORMED},
};

static void breach_run(size_t i, uint32_t piece) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = breaches[i].is_first ? rig_connect(rig, breaches[i].listener)
                                             : rig_activate(rig, breaches[i].listener, 0, 0);
  p->piece = piece;
  rig_feed(rig, p, breaches[i].bytes, breaches[i].size);
  static const uint8_t more[16] = {1, 0, 0, 0, 7, 1, 0, 0, 0, 7};
  rig_feed(rig, p, more, sizeof more);
  rig_turn(rig);
  struct stub_heard *h = rig_heard(rig, p);
  CHECK(h->violations == 1 && h->violation_code == breaches[i].code, "%s: %u times code %u",
        breaches[i].name, h->violations, h->violation_code);
  /* Regression: RESUME after a violation went on in the middle of a frame. */
  command_plain(&rig->commands, LW_COMMAND_RESUME, h->handle);
  rig_submit(rig);
  rig_feed(rig, p, more, sizeof more);
  rig_turn(rig);
  CHECK(h->violations == 1 && h->frame_count == 0, "%s: heard more", breaches[i].name);
  command_send(&rig->commands, h->handle, "bye", 3);
  command_close(&rig->commands, h->handle, breaches[i].code);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(h->closes == 1 && h->close_code == breaches[i].code, "%s: CLOSED", breaches[i].name);
  CHECK(p->out_size == 3 && p->is_write_ended && p->is_open, "%s: last word", breaches[i].name);
  CHECK(p->in_at == p->in_size, "%s: the rest is not discarded", breaches[i].name);
  rig_end(rig, p);
  rig_turn(rig);
  CHECK(!p->is_open, "%s: not closed", breaches[i].name);
  rig_close(rig);
}

static void unit_stream_breaches(void) {
  for (size_t i = 0; i < sizeof breaches / sizeof breaches[0]; i++) {
    breach_run(i, 0);
    breach_run(i, 1);
  }
}

/* After the first frame nothing is passed on, nor more than needed read, until ACTIVATE. */
static void unit_stream_handshake(void) {
  for (uint32_t piece = 0; piece < 30; piece++) {
    struct stub_rig *rig = rig_open(&stub_options);
    struct stub_peer *p = rig_connect(rig, 0);
    struct stream s = stream_of(LW_PROTOCOL_LONGWIRE);
    s.bytes[4] = s.to_host[4] = LONGWIRE_HELLO;
    p->piece = piece;
    rig_feed(rig, p, s.bytes, s.size);
    rig_turn(rig);
    struct stub_heard *h = rig_heard(rig, p);
    CHECK(h->frame_count == 1 && h->frames_size == 5, "%u frames", h->frame_count);
    CHECK(piece == 0 || p->in_at < 5 + piece, "read %zu bytes ahead", p->in_at);
    command_activate(&rig->commands, h->handle, 0, 0, 0);
    rig_submit(rig);
    rig_turn(rig);
    stream_check(rig, p, &s, LW_PROTOCOL_LONGWIRE, "activated, pieces of", piece);
    rig_close(rig);
  }
}

static void unit_stream(void) {
  unit_stream_cuts();
  unit_stream_breaches();
  unit_stream_handshake();
}

#endif
