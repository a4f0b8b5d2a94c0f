/* From bytes to frames: cuts what comes in, answers heartbeats, matches acknowledgements, hands the
 * rest to the host. Invariant: an idle connection keeps no bytes; `kept` holds part of a frame, or
 * what the ring, the host or a handshake made wait. */
#ifndef LONGWIRE_STREAM_H
#define LONGWIRE_STREAM_H

#include "connection.h"

static void send_copy(struct io_thread *t, struct connection *c, const void *bytes, uint32_t size);
static void entrance_received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                              uint32_t size);
static void refused_received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                             uint32_t size);

/* Whether frames may be passed on now. After the first frame of a connection nothing is, until
 * ACTIVATE: the host never has to keep what a device sends ahead of its answer. */
static int takes_frames(const struct connection *c) {
  if (c->flags & (STALLED | READ_STOPPED | TLS_QUEUED | HALF_CLOSED)) return 0;
  return c->state == ACTIVE || (c->state == HANDSHAKING && !(c->flags & EXPOSED));
}

/* Whether it is worth reading: frames may be passed on, or what comes is thrown away. */
static int takes_bytes(const struct connection *c) {
  return takes_frames(c) || c->state == DRAINING;
}

static void violate(struct io_thread *t, struct connection *c, unsigned code) {
  c->code = (uint8_t)code;
  c->flags |= READ_STOPPED | BROKEN;
  backend_read_stop(t, c);
  mark_pending(t, c, PENDING_VIOLATION);
}

/* Appends to what is kept. Memory grows with what came, not with what a header announces. */
static int keep(struct connection *c, const uint8_t *bytes, uint32_t size) {
  uint32_t used = c->kept == NULL ? 0 : c->kept->size;
  uint32_t capacity = c->kept == NULL ? 0 : c->kept->capacity;
  if (used + size > capacity) {
    if (capacity == 0) capacity = FRAME_KEEP_BYTES_MIN;
    while (capacity < used + size) capacity *= 2;
    struct kept *grown = realloc(c->kept, sizeof *grown + capacity);
    if (grown == NULL) return -1;
    c->kept = grown;
    c->kept->capacity = capacity;
  }
  memcpy(c->kept->bytes + used, bytes, size);
  c->kept->size = used + size;
  return 0;
}

/* The ring has no room: this connection waits until the host has read on. */
static void stall(struct io_thread *t, struct connection *c) {
  COUNT(t, ring_full, 1);
  if (slot_list_push(&t->stalled, c->slot) != 0) return end(t, c, LW_CODE_NO_MEMORY);
  c->flags |= STALLED;
  backend_read_stop(t, c);
}

/* Whether PUBREL waits until the host has written down that PUBREC came. */
static int hold_release(struct io_thread *t, struct connection *c, struct inflight_entry *entry) {
  if (!(c->flags & HOLD_RELEASES) || entry == NULL || entry->qos != 2) return 0;
  /* The host has been told: its PUBREL is out, or on its way. */
  if (entry->state == INFLIGHT_RELEASED) return 1;
  entry->state = INFLIGHT_RECEIVED;
  entry->flags |= LW_DELIVER_SETTLE;
  mark_pending(t, c, PENDING_SETTLED);
  return 1;
}

/* PUBACK, PUBREC, PUBCOMP against the in-flight window (MQTT 5 section 4.3, 3.1.1 section 4.3). */
static void take_ack(struct io_thread *t, struct connection *c, const uint8_t *frame,
                     uint32_t size) {
  uint32_t at = 1;
  while (frame[at] & 0x80) at++;
  at++;
  if (size < at + 2 || (frame[0] & 0x0f) != 0) return violate(t, c, LW_CODE_MALFORMED);
  uint16_t id = (uint16_t)(frame[at] << 8 | frame[at + 1]);
  unsigned reason = size > at + 2 ? frame[at + 2] : 0;
  if (id == 0) return violate(t, c, LW_CODE_MALFORMED);
  COUNT(t, acks_in, 1);
  struct inflight_entry *entry = c->inflight == NULL ? NULL : inflight_find(c->inflight, id);
  int is_over = 0;
  if (frame[0] == MQTT_PUBREC) {
    is_over = entry != NULL && entry->qos == 2 && reason >= 0x80;
    if (reason < 0x80 && hold_release(t, c, entry)) return;
    if (reason < 0x80) {
      /* Also for an id that is not known: only PUBREL lets the peer finish. */
      if (entry != NULL && entry->qos == 2) entry->state = INFLIGHT_RELEASED;
      uint8_t pubrel[4] = {MQTT_PUBREL, 2, (uint8_t)(id >> 8), (uint8_t)id};
      send_copy(t, c, pubrel, sizeof pubrel);
    }
  } else if (entry != NULL) {
    is_over = frame[0] == MQTT_PUBACK ? entry->qos == 1 : entry->state != INFLIGHT_SENT;
  }
  if (!is_over) return;
  if (c->inflight->timing.since_us != 0 && c->inflight->timed_id == id) {
    timing_end(t, c, &c->inflight->timing, LW_TRACED_ACKED);
  }
  if (entry->flags & LW_DELIVER_SETTLE) {
    entry->state = INFLIGHT_SETTLED;
    return mark_pending(t, c, PENDING_SETTLED);
  }
  uint64_t before = c->inflight->acked_seq;
  inflight_done(c->inflight, entry);
  if ((c->flags & REPORT_ACKS) && c->inflight->acked_seq != before)
    mark_pending(t, c, PENDING_ACKED);
  window_trim(c);
  if (c->flags & BEHIND) mark_dirty(t, c); /* there may be room now */
}

static void answer_heartbeat(struct io_thread *t, struct connection *c) {
  COUNT(t, heartbeats_in, 1);
  if (c->protocol == LW_PROTOCOL_MQTT) {
    static const uint8_t pingresp[2] = {MQTT_PINGRESP, 0};
    send_copy(t, c, pingresp, sizeof pingresp);
    return;
  }
  uint32_t s = t->now_s;
  uint8_t beat[5] = {(uint8_t)s, (uint8_t)(s >> 8), (uint8_t)(s >> 16), (uint8_t)(s >> 24),
                     LONGWIRE_HEARTBEAT};
  send_copy(t, c, beat, sizeof beat);
}

/* Whether it is one that needs no host. A device that has no clock yet sends the past. */
static int is_heartbeat(const struct io_thread *t, const struct connection *c, const uint8_t *frame,
                        uint32_t size) {
  if (c->state != ACTIVE) return 0;
  if (c->protocol == LW_PROTOCOL_LONGWIRE) {
    uint32_t time_s = (uint32_t)frame[0] | (uint32_t)frame[1] << 8 | (uint32_t)frame[2] << 16 |
                      (uint32_t)frame[3] << 24;
    return frame[4] == LONGWIRE_HEARTBEAT && time_s <= (uint64_t)t->now_s + LONGWIRE_AHEAD_MAX_S;
  }
  return frame[0] == MQTT_PINGREQ && size == 2;
}

static int is_ack(const struct connection *c, const uint8_t *frame) {
  if (c->state != ACTIVE || c->protocol != LW_PROTOCOL_MQTT) return 0;
  unsigned type = frame[0] & 0xf0;
  return type == MQTT_PUBACK || type == MQTT_PUBREC || type == MQTT_PUBCOMP;
}

/* Deals with one whole frame; returns 0, and nothing is done, when the ring has no room for it. */
static int take_frame(struct io_thread *t, struct connection *c, const uint8_t *frame,
                      uint32_t size) {
  int acknowledges = is_ack(c, frame);
  struct lw_event *event = NULL;
  /* Properties of acknowledgements, and lengths that 3.1.1 does not know, are the host's to check.
   */
  if (!is_heartbeat(t, c, frame, size) && !(acknowledges && size == 4)) {
    int first = !(c->flags & EXPOSED);
    event = event_reserve(t, c, LW_EVENT_FRAME, first, c->listener, size);
    if (event == NULL) return 0;
  } else if (!acknowledges) {
    answer_heartbeat(t, c);
  }
  if (acknowledges) take_ack(t, c, frame, size);
  if (event != NULL && !(c->flags & BROKEN) && c->state != CLOSED) {
    memcpy(event + 1, frame, size);
    c->flags |= EXPOSED;
    ring_commit(&t->ring, event);
    COUNT(t, frames_in, 1);
  }
  /* The handshake has one deadline, however it trickles in. */
  if (c->state == ACTIVE) c->seen_ms = (uint32_t)t->now_ms;
  return 1;
}

/* Passes on the whole frames at the start of `bytes`; returns how many bytes are dealt with. */
static uint32_t consume(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                        uint32_t size) {
  const struct lw_options *o = &t->reactor->options;
  uint32_t at = 0;
  while (at < size && takes_frames(c)) {
    if (c->state == HANDSHAKING && is_foreign(c->protocol, bytes + at, size - at)) {
      violate(t, c, LW_CODE_FOREIGN_PROTOCOL);
      return size;
    }
    struct cut cut = cut_frame(c->protocol, bytes + at, size - at);
    uint32_t max = c->state == HANDSHAKING ? o->handshake_frame_bytes_max : o->frame_bytes_max;
    if (cut.code != 0 || cut.size > max) {
      violate(t, c, cut.code != 0 ? (unsigned)cut.code : LW_CODE_FRAME_TOO_LARGE);
      return size;
    }
    if (cut.size == 0 || cut.size > size - at) break;
    if (!take_frame(t, c, bytes + at, (uint32_t)cut.size)) {
      stall(t, c);
      break;
    }
    at += (uint32_t)cut.size;
  }
  return at;
}

/* Completes the frame that is kept in part; returns how many of the new bytes went into it. */
static uint32_t complete_kept(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                              uint32_t size) {
  uint32_t used = 0;
  while (c->kept != NULL && used < size && takes_frames(c)) {
    struct cut cut = cut_frame(c->protocol, c->kept->bytes, c->kept->size);
    uint64_t missing = cut.size == 0 ? 1 : cut.size - c->kept->size;
    uint32_t take = missing < size - used ? (uint32_t)missing : size - used;
    if (keep(c, bytes + used, take) != 0) {
      end(t, c, LW_CODE_NO_MEMORY);
      return size;
    }
    used += take;
    if (consume(t, c, c->kept->bytes, c->kept->size) == 0) continue;
    free(c->kept);
    c->kept = NULL;
  }
  return used;
}

/* Everything that the peer has said is passed on: the host answers it, in bounded time. Part of a
 * frame may be kept, which nobody will complete. */
static void half_close(struct io_thread *t, struct connection *c) {
  if (c->state != ACTIVE) return end(t, c, LW_CODE_PEER_CLOSED);
  c->flags |= HALF_CLOSED;
  backend_read_stop(t, c);
  c->seen_ms = (uint32_t)t->now_ms;
  c->timeout_ms = t->reactor->options.handshake_timeout_ms;
  timer_set(t, c);
  mark_pending(t, c, PENDING_ENDED);
}

/* The stream is over, and the peer may still read: what it was told to wait for, what it sent and
 * what is queued comes first. */
static void ended(struct io_thread *t, struct connection *c) {
  int waits = c->flags & (EXPOSED | BROKEN) || (c->kept != NULL && !takes_frames(c));
  if (!waits && c->state != DRAINING) return end(t, c, LW_CODE_PEER_CLOSED);
  int was_known = c->flags & END_PENDING;
  c->flags |= END_PENDING;
  if (c->state == DRAINING && c->out == NULL) linger(t, c);
  else if (!was_known && c->state == ACTIVE && takes_frames(c)) half_close(t, c);
}

/* Takes bytes of the device's protocol. */
static void pass_on(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                    uint32_t size) {
  uint32_t used = complete_kept(t, c, bytes, size);
  if (c->kept == NULL) used += consume(t, c, bytes + used, size - used);
  if (used < size && c->state != CLOSED && keep(c, bytes + used, size - used) != 0) {
    end(t, c, LW_CODE_NO_MEMORY);
  }
}

/* Takes bytes of the stream that the device began: TLS, or its protocol. */
static void pass_in(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                    uint32_t size) {
  if (c->flags & AWAITS_VERSION) refused_received(t, c, bytes, size);
  else if (c->tls != NULL) tls_received(t, c, bytes, size);
  else pass_on(t, c, bytes, size);
}

static void received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                     uint32_t size) {
  COUNT(t, receives, 1);
  COUNT(t, bytes_in, size);
  if (c->state == CLOSED) return;
  if (size == 0) return ended(t, c);
  if (c->state == DRAINING || c->flags & HALF_CLOSED) return;
  if (c->flags & (AWAITS_ADDRESS | AWAITS_PROXY | MUST_NOT_PROXY)) {
    entrance_received(t, c, bytes, size);
  } else {
    pass_in(t, c, bytes, size);
  }
}

/* A peer that had ended the stream may well be gone when it is answered. */
static void failed(struct io_thread *t, struct connection *c) {
  end(t, c, c->flags & END_PENDING ? LW_CODE_PEER_CLOSED : LW_CODE_IO_ERROR);
}

/* Passes on what was kept while it could not be, then reads on. */
static void go_on(struct io_thread *t, struct connection *c) {
  struct kept *kept = c->kept;
  if (kept != NULL && takes_frames(c)) {
    c->kept = NULL;
    uint32_t used = consume(t, c, kept->bytes, kept->size);
    if (used < kept->size && c->state != CLOSED &&
        keep(c, kept->bytes + used, kept->size - used) != 0) {
      end(t, c, LW_CODE_NO_MEMORY);
    }
    free(kept);
  }
  if (!takes_frames(c)) return;
  if (c->flags & END_PENDING) half_close(t, c);
  else backend_read(t, c);
}

/* The host has read on: those that waited for room in the ring go on, in the order in which they
 * stopped. */
static void resume_stalled(struct io_thread *t) {
  if (!ring_has_room(&t->ring)) return;
  t->ring.needed = 0;
  uint32_t count = t->stalled.count;
  uint32_t i = 0;
  for (; i < count && ring_free_bytes(&t->ring) >= t->ring.capacity / 8; i++) {
    struct connection *c = connection_at(t, t->stalled.slots[i]);
    c->flags &= ~(uint32_t)STALLED;
    go_on(t, c);
    free_if_over(t, c);
  }
  slot_list_drop(&t->stalled, i);
}

#endif
