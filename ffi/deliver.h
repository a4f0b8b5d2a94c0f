/* From commands to bytes on their way: publishes to audiences, frames to one connection, the limits
 * of out-queues and in-flight windows. */
#ifndef LONGWIRE_DELIVER_H
#define LONGWIRE_DELIVER_H

#include "stream.h"

/* What a host that never pauses may have of one turn, before reading and timers have theirs. */
#define TURN_COMMANDS_MAX 16384u
#define TURN_DELIVERIES_MAX 65536u

/* Commands as they lie in a thread's queue: the bytes are in a block, of which the record has a
 * reference. */
struct placed {
  struct block *block;
  uint32_t offset;
  uint32_t size;
};

struct send_record {
  struct lw_command head;
  struct placed frame;
};

struct deliver_record {
  struct lw_command_deliver deliver;
  struct placed frame;
};

struct publish_record {
  struct lw_command_publish publish;
  struct placed frame;
  uint32_t audiences[];
};

static const uint8_t *frame_bytes(const struct placed *f) { return f->block->bytes + f->offset; }

/* What the host is told again of a message that it has delivered. */
#define DELIVER_FLAGS (LW_DELIVER_ASIDE | LW_DELIVER_SETTLE | LW_DELIVER_SHARED)

/* ---------------------------------------------------------------- out-queues */

/* Whether `size` more bytes would pass a bound. What gathered in this turn has its chance to leave
 * first: only a peer that does not read is slow. The connection may fail meanwhile. */
static int is_full(struct io_thread *t, struct connection *c, uint32_t size, uint32_t limit) {
  const struct out_queue *q = c->out;
  if (q == NULL || q->bytes == 0 || (uint64_t)q->bytes + size <= limit) return 0;
  if (!q->blocked) backend_flush(t, c);
  q = c->out;
  if (q == NULL || q->bytes == 0) return 0;
  /* A transport that sends on its own (io_uring) has not said yet that it is slow. */
  if (q->sending > 0 && !q->blocked) limit = t->reactor->options.out_queue_hard_bytes;
  return (uint64_t)q->bytes + size > limit;
}

/* Queues a frame that is never dropped. Past the hard bound the peer is not reading its answers. */
static void send_placed(struct io_thread *t, struct connection *c, const struct placed *f) {
  if (is_full(t, c, f->size, t->reactor->options.out_queue_hard_bytes)) {
    end(t, c, LW_CODE_SLOW_CONSUMER);
  }
  if (c->state == CLOSED) return;
  struct out_queue *q = queue_of(t, c);
  if (q == NULL || out_push(q, f->block, f->offset, f->size, 0, 0, 0) != 0) {
    end(t, c, LW_CODE_NO_MEMORY);
    return;
  }
  COUNT(t, out_queue_bytes, f->size);
  mark_dirty(t, c);
}

/* The same for a few bytes of our own. */
static void send_copy(struct io_thread *t, struct connection *c, const void *bytes, uint32_t size) {
  if (is_full(t, c, size, t->reactor->options.out_queue_hard_bytes)) {
    end(t, c, LW_CODE_SLOW_CONSUMER);
  }
  if (c->state == CLOSED) return;
  struct out_queue *q = queue_of(t, c);
  if (q == NULL || out_copy(q, bytes, size, 0) == NULL) {
    end(t, c, LW_CODE_NO_MEMORY);
    return;
  }
  COUNT(t, out_queue_bytes, size);
  mark_dirty(t, c);
}

/* The queue is full: the host is told when that begins. */
static void tell_dropping(struct io_thread *t, struct connection *c) {
  if (c->flags & IS_DROPPING) return;
  c->flags |= IS_DROPPING;
  if (c->flags & EXPOSED) mark_pending(t, c, PENDING_DROPPING);
}

/* Queues a QoS 0 frame, in the place of older ones where the bound asks for it. */
static void send_droppable(struct io_thread *t, struct connection *c,
                           const struct publish_record *r, uint32_t audience) {
  const struct placed *f = &r->frame;
  const uint32_t soft = t->reactor->options.out_queue_soft_bytes;
  const int full = is_full(t, c, f->size, soft);
  if (c->state == CLOSED) return;
  struct out_queue *q = queue_of(t, c);
  if (q == NULL) {
    COUNT(t, dropped[LW_CODE_NO_MEMORY], 1);
    return;
  }
  uint32_t before = q->bytes;
  uint32_t key = r->publish.key;
  if (key != 0 && out_replace(q, key, audience, f->block, f->offset, f->size, c->protocol)) {
    COUNT(t, dropped[LW_CODE_REPLACED], 1);
    COUNT(t, deliveries, 1);
  } else {
    if (full) {
      COUNT(t, dropped[LW_CODE_SLOW_CONSUMER], out_drop_oldest(q, f->size, soft, c->protocol));
      tell_dropping(t, c);
    }
    if (full && q->bytes > 0 && (uint64_t)q->bytes + f->size > soft) {
      COUNT(t, dropped[LW_CODE_SLOW_CONSUMER], 1);
    } else if (q->blocked && key == 0 && f->size < ARENA_FRAME_BYTES_MAX
                   ? out_copy(q, frame_bytes(f), f->size, 1) == NULL
                   : out_push(q, f->block, f->offset, f->size, 1, key, audience) != 0) {
      COUNT(t, dropped[LW_CODE_NO_MEMORY], 1);
    } else {
      COUNT(t, deliveries, 1);
    }
  }
  COUNT(t, out_queue_bytes, (int64_t)q->bytes - (int64_t)before);
  mark_dirty(t, c);
}

/* ---------------------------------------------------------------- stored messages */

static void fall_behind(struct io_thread *t, struct connection *c, uint64_t seq) {
  c->flags |= BEHIND | ROOM_WANTED;
  c->behind_seq = seq;
  c->behind_count = (uint8_t)(c->behind_count % 255 + 1);
  /* What it was sent before it fell behind is all that it got: nothing of `seq` and later. */
  c->reached_seq = seq - 1;
  if (c->flags & EXPOSED) mark_pending(t, c, PENDING_BEHIND);
  mark_dirty(t, c);
}

/* Ids above are for messages whose id follows from their seq. */
static uint16_t id_max(const struct connection *c) {
  return c->flags & HOLD_RELEASES ? LW_HELD_ID_MIN - 1 : 65535;
}

/* The id that a QoS 2 message has on every connection of a session whose releases are held; 0 =
 * any. */
static uint16_t held_id(const struct connection *c, uint64_t seq, unsigned qos) {
  if (!(c->flags & HOLD_RELEASES) || qos != 2) return 0;
  return (uint16_t)(LW_HELD_ID_MIN | (seq & (LW_HELD_ID_MIN - 1)));
}

/* Queues a QoS >= 1 frame; with a window, under a packet id written into its own copy. Returns 0 or
 * -1. */
static int send_stored(struct io_thread *t, struct connection *c, const struct placed *f,
                       uint64_t seq, uint32_t packet_id_at, uint16_t chosen_id, unsigned qos,
                       int released) {
  struct out_queue *q = queue_of(t, c);
  if (q == NULL) return -1;
  if (packet_id_at == LW_PACKET_ID_NONE) {
    if (out_push(q, f->block, f->offset, f->size, 0, 0, 0) != 0) return -1;
  } else {
    if (c->inflight == NULL && (c->inflight = inflight_new()) == NULL) return -1;
    uint16_t id =
        chosen_id != 0 ? chosen_id : inflight_id_after(c->inflight, c->packet_id, id_max(c));
    uint8_t *copy = out_copy(q, frame_bytes(f), f->size, 0);
    if (copy == NULL) return -1;
    if (inflight_push(c->inflight, seq, id, qos, chosen_id != 0) != 0) {
      COUNT(t, out_queue_bytes, f->size);
      end(t, c, LW_CODE_NO_MEMORY);
      return 0;
    }
    copy[packet_id_at] = (uint8_t)(id >> 8);
    copy[packet_id_at + 1] = (uint8_t)id;
    if (chosen_id == 0) c->packet_id = id;
    if (released) inflight_at(c->inflight, c->inflight->count - 1)->state = INFLIGHT_RELEASED;
  }
  COUNT(t, out_queue_bytes, f->size);
  COUNT(t, deliveries, 1);
  mark_dirty(t, c);
  return 0;
}

static int is_id_taken(const struct connection *c, uint16_t id) {
  return id != 0 && c->inflight != NULL && inflight_find(c->inflight, id) != NULL;
}

static void publish_stored(struct io_thread *t, struct connection *c,
                           const struct publish_record *r) {
  const struct lw_command_publish *p = &r->publish;
  if (c->flags & BEHIND) return;
  int full = is_full(t, c, r->frame.size, t->reactor->options.out_queue_soft_bytes);
  if (p->packet_id_at != LW_PACKET_ID_NONE && window_room(c) == 0) full = 1;
  if (c->state == CLOSED) return;
  unsigned qos = p->head.flags & LW_PUBLISH_QOS;
  uint16_t id = held_id(c, p->seq, qos);
  int is_taken = is_id_taken(c, id);
  if (full || is_taken || send_stored(t, c, &r->frame, p->seq, p->packet_id_at, id, qos, 0) != 0) {
    fall_behind(t, c, p->seq);
    if (is_taken) c->flags |= ID_TAKEN;
  } else {
    c->reached_seq = p->seq;
  }
}

/* ---------------------------------------------------------------- topic aliases */

/* A frame with an alias in place of its topic, or setting one. */
struct aliased {
  struct placed frame;
  uint32_t packet_id_at;
  uint32_t number;
  uint32_t sets;
  const uint8_t *topic;
  uint32_t topic_size;
};

/* Fills in what goes out in place of a frame; the caller drops its block. Returns 0 when the frame
 * goes as it is. */
static int alias_frame(struct io_thread *t, const struct connection *c, const struct placed *f,
                       uint32_t packet_id_at, struct aliased *out) {
  if (!(c->flags & USES_ALIASES)) return 0;
  const struct alias_table *table = t->aliases[c->slot];
  const uint8_t *frame = frame_bytes(f);
  struct alias_shape shape;
  if (alias_shape_of(frame, f->size, &shape) != 0) return 0;
  if (shape.topic_size < ALIAS_TOPIC_BYTES_MIN) return 0;
  out->topic = frame + shape.topic_at;
  out->topic_size = shape.topic_size;
  out->number = alias_choose(table, out->topic, out->topic_size);
  out->sets = !alias_is_set(table, out->number, out->topic, out->topic_size);
  uint32_t at = 0;
  struct block *block = alias_rewrite(frame, f->size, &shape, out->number, (int)out->sets, &at);
  if (block == NULL) return 0;
  out->frame = (struct placed){.block = block, .size = block->used};
  out->packet_id_at = packet_id_at == LW_PACKET_ID_NONE ? LW_PACKET_ID_NONE : at;
  if (c->frame_bytes_max == 0 || block->used <= c->frame_bytes_max) return 1;
  block_drop(block);
  return 0;
}

/* What was handed over is queued: from here on its alias can be used. */
static void alias_done(struct io_thread *t, struct connection *c, const struct aliased *a,
                       int is_queued) {
  if (is_queued && a->sets && c->state == ACTIVE) {
    alias_set(t->aliases[c->slot], a->number, a->topic, a->topic_size);
  }
  block_drop(a->frame.block);
}

/* Queues a QoS 0 frame that sets an alias, which is never dropped. Returns whether there is room.
 */
static int send_setting(struct io_thread *t, struct connection *c, const struct placed *f) {
  if (is_full(t, c, f->size, t->reactor->options.out_queue_soft_bytes)) return 0;
  struct out_queue *q = c->state == CLOSED ? NULL : queue_of(t, c);
  if (q == NULL || out_push(q, f->block, f->offset, f->size, 0, 0, 0) != 0) return 0;
  COUNT(t, out_queue_bytes, f->size);
  COUNT(t, deliveries, 1);
  mark_dirty(t, c);
  return 1;
}

/* Returns whether it went with an alias. A frame with a conflation key may take the place of an
 * older one, before the frame that sets the alias: it goes as it is. */
static int publish_aliased(struct io_thread *t, struct connection *c,
                           const struct publish_record *r, uint32_t audience) {
  struct aliased a;
  const struct lw_command_publish *p = &r->publish;
  if (p->key != 0 || !alias_frame(t, c, &r->frame, p->packet_id_at, &a)) return 0;
  struct publish_record own = *r;
  own.frame = a.frame;
  own.publish.packet_id_at = a.packet_id_at;
  int is_queued = 1;
  if (p->seq > 0) {
    publish_stored(t, c, &own);
    is_queued = c->reached_seq == p->seq;
  } else if (a.sets) {
    is_queued = send_setting(t, c, &a.frame);
  } else {
    send_droppable(t, c, &own, audience);
  }
  alias_done(t, c, &a, is_queued);
  return is_queued || p->seq > 0;
}

static void publish_to(struct io_thread *t, struct connection *c, const struct publish_record *r,
                       uint32_t audience) {
  if (c->frame_bytes_max != 0 && r->frame.size > c->frame_bytes_max) {
    COUNT(t, dropped[LW_CODE_FRAME_TOO_LARGE], 1);
    if (!(c->flags & BEHIND) && r->publish.seq > 0) c->reached_seq = r->publish.seq;
    return;
  }
  if (c->flags & USES_ALIASES && publish_aliased(t, c, r, audience)) return;
  if (r->publish.seq == 0) send_droppable(t, c, r, audience);
  else publish_stored(t, c, r);
}

/* Times the message that was just queued for a receiver. */
static void time_message(struct connection *c, const struct lw_command_publish *p, uint32_t told) {
  if (c->out == NULL || c->out->bytes == 0) return;
  timing_begin(&c->out->timing, p->published_us, p->stamp, told);
  struct inflight *w = c->inflight;
  if (w == NULL || w->count == 0) return;
  const struct inflight_entry *newest = inflight_at(w, w->count - 1);
  if (newest->seq != p->seq || p->seq == 0) return;
  /* Slow devices are not what a slow service is: no watch over acknowledgements. */
  timing_begin(&w->timing, p->published_us, p->stamp, told == TOLD_SLOW ? TOLD_NEVER : told);
  if (w->timing.stamp == p->stamp) w->timed_id = newest->packet_id;
}

/* Which of `count` receivers of a message is timed: any, and another one for the next message. */
static uint32_t timed_receiver(uint32_t stamp, uint32_t count) {
  return (uint32_t)((uint64_t)(stamp * 2654435761u) * count >> 32);
}

static void run_publish(struct io_thread *t, const struct publish_record *r) {
  const struct lw_command_publish *p = &r->publish;
  COUNT(t, publishes, 1);
  uint32_t follow = p->head.flags >> LW_PUBLISH_FOLLOW_SHIFT;
  uint32_t told = p->head.flags & LW_PUBLISH_WATCH ? TOLD_SLOW : TOLD_NEVER;
  for (uint32_t i = 0; i < p->audience_count; i++) {
    struct audience *a = audience_find(&t->audiences, r->audiences[i]);
    if (a == NULL) continue;
    const uint32_t *slots = audience_slots(a);
    uint32_t chosen = p->published_us == 0 ? UINT32_MAX : timed_receiver(p->stamp, a->count);
    for (uint32_t k = 0; k < a->count; k++) {
      struct connection *c = connection_at(t, slots[k]);
      if (c->state != ACTIVE || c->stamp == p->stamp) continue;
      if (p->head.conn == (t->index << 24 | c->slot) && p->head.generation == c->generation)
        continue;
      c->stamp = p->stamp;
      uint64_t before = t->stats.deliveries;
      publish_to(t, c, r, a->id);
      if ((k != chosen && follow == 0) || t->stats.deliveries == before) continue;
      time_message(c, p, follow > 0 ? TOLD_ALWAYS : told);
      if (follow > 0) follow--;
    }
  }
  /* The same message may follow in other forms, for others: only who had this one has reached it.
   */
  if (p->seq > t->seen_seq + 1) t->seen_seq = p->seq - 1;
}

/* Gives a message of LW_DELIVER_SETTLE back without sending it: as what is over, or for want of
 * room. */
static void settle_unsent(struct io_thread *t, struct connection *c,
                          const struct lw_command_deliver *d, unsigned state) {
  if (c->inflight == NULL && (c->inflight = inflight_new()) == NULL)
    return end(t, c, LW_CODE_NO_MEMORY);
  uint16_t id = (uint16_t)d->packet_id;
  if (inflight_push(c->inflight, d->seq, id, d->head.flags & LW_PUBLISH_QOS, 0) != 0) {
    return end(t, c, LW_CODE_NO_MEMORY);
  }
  struct inflight_entry *entry = inflight_at(c->inflight, c->inflight->count - 1);
  entry->state = (uint8_t)state;
  entry->flags = d->head.flags & DELIVER_FLAGS;
  mark_pending(t, c, PENDING_SETTLED);
}

/* A message of a shared subscription: comes back at once when the connection has no room for it. */
static int returns_shared(struct io_thread *t, struct connection *c,
                          const struct deliver_record *r) {
  if (!(r->deliver.head.flags & LW_DELIVER_SHARED)) return 0;
  uint32_t soft = t->reactor->options.out_queue_soft_bytes;
  int is_live = !(c->flags & BEHIND); /* else the room is promised to the replay */
  uint16_t id = held_id(c, r->deliver.seq, r->deliver.head.flags & LW_PUBLISH_QOS);
  if (is_live && window_room(c) > 0 && !is_id_taken(c, id) && !is_full(t, c, r->frame.size, soft))
    return c->state == CLOSED;
  settle_unsent(t, c, &r->deliver, INFLIGHT_RETURNED);
  return 1;
}

/* Returns whether the frame is queued. */
static int deliver(struct io_thread *t, struct connection *c, const struct deliver_record *r) {
  const struct lw_command_deliver *d = &r->deliver;
  unsigned flags = d->head.flags;
  unsigned seen = d->head.flags >> LW_DELIVER_SEEN_SHIFT;
  if (returns_shared(t, c, r)) return 0;
  if (!(flags & LW_DELIVER_SHARED)) {
    c->flags |= ROOM_WANTED;
    c->deliver_count++;
  }
  mark_dirty(t, c);
  int is_queued = 0;
  int in_order = !(flags & LW_DELIVER_ASIDE);
  if (in_order && flags & LW_DELIVER_SEEN && seen != c->behind_count) return 0;
  if (c->inflight != NULL && c->inflight->count >= window_max(t, c)) {
    end(t, c, LW_CODE_SLOW_CONSUMER);
    return 0;
  }
  if (c->frame_bytes_max != 0 && r->frame.size > c->frame_bytes_max) {
    COUNT(t, dropped[LW_CODE_FRAME_TOO_LARGE], 1);
    if (flags & LW_DELIVER_SETTLE) settle_unsent(t, c, d, INFLIGHT_SETTLED);
  } else {
    uint16_t id =
        d->packet_id != 0 ? (uint16_t)d->packet_id : held_id(c, d->seq, flags & LW_PUBLISH_QOS);
    if (d->packet_id == 0 && is_id_taken(c, id)) {
      if (in_order) {
        fall_behind(t, c, d->seq);
        c->flags |= ID_TAKEN;
        c->pending &= (uint8_t)~PENDING_ROOM;
        return 0;
      }
      id = 0; /* what is not sent again after a crash may have any */
    }
    if (send_stored(t, c, &r->frame, d->seq, d->packet_id_at, id, flags & LW_PUBLISH_QOS,
                    d->released != 0) != 0) {
      end(t, c, LW_CODE_NO_MEMORY);
      return 0;
    }
    if (c->inflight != NULL && d->packet_id_at != LW_PACKET_ID_NONE && c->inflight->count > 0) {
      inflight_at(c->inflight, c->inflight->count - 1)->flags = flags & DELIVER_FLAGS;
    }
    is_queued = 1;
  }
  if (!(flags & LW_DELIVER_ASIDE) && d->seq > c->reached_seq) c->reached_seq = d->seq;
  return is_queued;
}

static void run_deliver(struct io_thread *t, struct connection *c, const struct deliver_record *r) {
  struct aliased a;
  if (!alias_frame(t, c, &r->frame, r->deliver.packet_id_at, &a)) {
    (void)deliver(t, c, r);
    return;
  }
  struct deliver_record own = *r;
  own.frame = a.frame;
  own.deliver.packet_id_at = a.packet_id_at;
  alias_done(t, c, &a, deliver(t, c, &own));
}

/* ---------------------------------------------------------------- one connection */

static void run_activate(struct io_thread *t, struct connection *c,
                         const struct lw_command_activate *a) {
  if (c->state != HANDSHAKING) return;
  set_state(t, c, ACTIVE);
  c->seen_ms = (uint32_t)t->now_ms;
  c->timeout_ms = a->keepalive_ms;
  c->frame_bytes_max = a->frame_bytes_max;
  aliases_begin(t, c, a->topic_alias_max);
  if (a->head.flags & LW_ACTIVATE_REPORT_ACKS) c->flags |= REPORT_ACKS;
  if (a->head.flags & LW_ACTIVATE_HOLD_RELEASES) c->flags |= HOLD_RELEASES;
  uint32_t max = window_max(t, c);
  c->inflight_max = (uint16_t)(a->inflight_max < max ? a->inflight_max : max);
  if (c->flags & IS_ARMED) { /* the handshake's deadline is over, whatever comes after it */
    wheel_disarm(&t->wheel, timer_of, t, c->slot);
    c->flags &= ~(uint32_t)IS_ARMED;
  }
  timer_set(t, c);
  go_on(t, c);
}

static void run_live(struct io_thread *t, struct connection *c, unsigned flags) {
  int is_early = (c->pending & PENDING_BEHIND) != 0;
  if (flags & LW_LIVE_SEEN && (flags & 0xff) != c->behind_count) is_early = 1;
  if (is_early) {
    c->flags |= ROOM_WANTED;
    mark_dirty(t, c);
    return;
  }
  c->flags &= ~(uint32_t)(BEHIND | ROOM_WANTED);
  c->pending &= (uint8_t)~PENDING_ROOM;
}

static void run_behind(struct io_thread *t, struct connection *c, unsigned flags) {
  if (!(c->flags & BEHIND)) {
    c->behind_seq = 0;
    if (!(flags & LW_BEHIND_FROM_LIVE)) c->reached_seq = 0;
    else if (t->seen_seq > c->reached_seq) c->reached_seq = t->seen_seq;
  }
  c->flags |= BEHIND | ROOM_WANTED;
  mark_dirty(t, c);
}

static void run_plain(struct io_thread *t, struct connection *c, unsigned type) {
  switch (type) {
  case LW_COMMAND_PAUSE:
    c->flags |= READ_STOPPED;
    backend_read_stop(t, c);
    break;
  case LW_COMMAND_RESUME:
    if (c->flags & BROKEN) break;
    c->flags &= ~(uint32_t)READ_STOPPED;
    go_on(t, c);
    break;
  case LW_COMMAND_REPORT_ACKS:
    c->flags |= REPORT_ACKS;
    break;
  default:
    assert(!"unknown command");
  }
}

/* The connection of a command, if the host still means that one. */
static struct connection *named(struct io_thread *t, const struct lw_command *command) {
  uint32_t slot = command->conn & 0xffffff;
  struct connection *c = slot < t->slot_count ? connection_at(t, slot) : NULL;
  return c != NULL && c->generation == command->generation && c->state != FREE ? c : NULL;
}

static void run_on_connection(struct io_thread *t, const struct lw_command *command) {
  struct connection *c = named(t, command);
  if (c == NULL) {
    COUNT(t, stale_commands, 1);
    return;
  }
  const struct lw_command_audience *of = (const struct lw_command_audience *)command;
  switch (command->type) { /* these also hold for a connection that is gone and not released */
  case LW_COMMAND_RELEASE:
    c->flags |= RELEASED;
    free_if_over(t, c);
    return;
  case LW_COMMAND_LEAVE:
    audience_leave(&t->audiences, of->audience, c->slot);
    return;
  default:
    break;
  }
  if (c->state == DRAINING || c->state == CLOSED) {
    COUNT(t, stale_commands, 1);
    return;
  }
  switch (command->type) {
  case LW_COMMAND_SEND:
    send_placed(t, c, &((const struct send_record *)command)->frame);
    break;
  case LW_COMMAND_DELIVER:
    run_deliver(t, c, (const struct deliver_record *)command);
    break;
  case LW_COMMAND_ACTIVATE:
    run_activate(t, c, (const struct lw_command_activate *)command);
    break;
  case LW_COMMAND_CLOSE:
    drain(t, c, ((const struct lw_command_close *)command)->code);
    break;
  case LW_COMMAND_JOIN:
    if (audience_join(&t->audiences, of->audience, c->slot) != 0) end(t, c, LW_CODE_NO_MEMORY);
    break;
  case LW_COMMAND_BEHIND:
    run_behind(t, c, command->flags);
    break;
  case LW_COMMAND_LIVE:
    run_live(t, c, command->flags);
    break;
  default:
    run_plain(t, c, command->type);
  }
}

/* The bytes that a record holds on to; block is NULL for records without. */
static const struct placed *placed_of(const struct lw_command *command) {
  switch (command->type) {
  case LW_COMMAND_SEND:
    return &((const struct send_record *)command)->frame;
  case LW_COMMAND_DELIVER:
    return &((const struct deliver_record *)command)->frame;
  case LW_COMMAND_PUBLISH:
    return &((const struct publish_record *)command)->frame;
  default:
    return NULL;
  }
}

static uint64_t command_cost(const struct lw_command *command) {
  const struct placed *f = placed_of(command);
  return command->size + (f == NULL ? 0 : (uint64_t)f->size);
}

/* Carries out what the host has submitted, as much as one turn takes; without `run`, frees all of
 * it. */
static void drain_commands(struct io_thread *t, int run) {
  struct lw_command *command;
  const uint64_t deliveries_end = t->stats.deliveries + TURN_DELIVERIES_MAX;
  uint32_t count = 0;
  while ((command = command_queue_peek(&t->commands)) != NULL) {
    if (run && (count++ == TURN_COMMANDS_MAX || t->stats.deliveries >= deliveries_end)) return;
    const struct placed *f = placed_of(command);
    if (run && command->type == LW_COMMAND_PUBLISH) {
      run_publish(t, (const struct publish_record *)command);
    } else if (run) {
      run_on_connection(t, command);
    }
    uint64_t cost = command_cost(command);
    if (f != NULL) block_drop(f->block);
    command_queue_pop(&t->commands, command->size, cost);
  }
}

/* ---------------------------------------------------------------- flushing */

static uint32_t sendable(struct io_thread *t, struct connection *c) {
  return c->tls == NULL ? c->out->count : tls_seal(t, c);
}

static void sent(struct io_thread *t, struct connection *c, uint32_t size) {
  COUNT(t, bytes_out, size);
  COUNT(t, out_queue_bytes, -(int64_t)size);
  out_consume(c->out, size);
  c->out->since = (uint32_t)t->now_ms;
  if (c->out->timing.since_us != 0 && c->out->bytes == 0) {
    timing_end(t, c, &c->out->timing, LW_TRACED_SENT);
  }
}

static void check_room(struct io_thread *t, struct connection *c) {
  if ((c->flags & (BEHIND | ROOM_WANTED)) != (BEHIND | ROOM_WANTED) || c->state != ACTIVE) return;
  if (c->flags & ID_TAKEN) {
    if (is_id_taken(c, held_id(c, c->behind_seq, 2))) return;
    c->flags &= ~(uint32_t)ID_TAKEN;
  }
  if (c->out != NULL && c->out->bytes > t->reactor->options.out_queue_soft_bytes / 4) return;
  if (c->inflight_max != 0 && window_room(c) < (c->inflight_max + 1u) / 2) return;
  c->flags &= ~(uint32_t)ROOM_WANTED;
  mark_pending(t, c, PENDING_ROOM);
}

/* Sends what every connection gathered in this turn, each once. */
static void flush_dirty(struct io_thread *t) {
  for (uint32_t i = 0; i < t->dirty.count; i++) {
    struct connection *c = connection_at(t, t->dirty.slots[i]);
    c->flags &= ~(uint32_t)IS_DIRTY;
    if (c->state != CLOSED && c->out != NULL && c->out->bytes > 0) backend_flush(t, c);
    if (c->state != CLOSED) {
      if (c->out != NULL && c->out->bytes == 0 && c->out->sending == 0) queue_give_back(t, c);
      if (c->out != NULL) timer_set(t, c);
      else if (c->state == DRAINING) linger(t, c);
      check_room(t, c);
    }
    free_if_over(t, c);
  }
  t->dirty.count = 0;
}

#endif
