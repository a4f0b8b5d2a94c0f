/* Writes command records and walks event records, as ffi/reactor.h lays them out. */
#ifndef LONGWIRE_TESTS_COMMANDS_H
#define LONGWIRE_TESTS_COMMANDS_H

#include <string.h>

#include "check.h"
#include "reactor.h"

/* Records that wait to be submitted. */
struct commands {
  uint8_t *bytes;
  size_t size;
  size_t capacity;
};

/* A connection as commands name it. */
struct handle {
  uint32_t conn;
  uint32_t generation;
};

/* Room for a record of `head_size` and `body_size` bytes, zeroed, its header filled in. */
static void *command_add(struct commands *c, unsigned type, struct handle of, size_t head_size,
                         size_t body_size) {
  size_t size = (head_size + body_size + 7) & ~(size_t)7;
  if (c->size + size > c->capacity) {
    c->capacity = (c->size + size) * 2;
    c->bytes = (realloc)(c->bytes, c->capacity); /* not a test's that fails */
    REQUIRE(c->bytes != NULL, "no memory");
  }
  struct lw_command *command = (struct lw_command *)(void *)(c->bytes + c->size);
  memset(command, 0, size);
  command->size = (uint32_t)size;
  command->type = (uint16_t)type;
  command->conn = of.conn;
  command->generation = of.generation;
  c->size += size;
  return command;
}

static inline void command_plain(struct commands *c, unsigned type, struct handle of) {
  command_add(c, type, of, sizeof(struct lw_command), 0);
}

static inline void command_send(struct commands *c, struct handle of, const void *frame,
                                uint32_t size) {
  struct lw_command_send *s = command_add(c, LW_COMMAND_SEND, of, sizeof *s, size);
  s->body_size = size;
  memcpy(s + 1, frame, size);
}

static inline void command_activate(struct commands *c, struct handle of, uint32_t keepalive_ms,
                                    uint32_t inflight_max, unsigned flags) {
  struct lw_command_activate *a = command_add(c, LW_COMMAND_ACTIVATE, of, sizeof *a, 0);
  a->head.flags = (uint16_t)flags;
  a->keepalive_ms = keepalive_ms;
  a->inflight_max = inflight_max;
}

static inline void command_close(struct commands *c, struct handle of, uint32_t code) {
  struct lw_command_close *close = command_add(c, LW_COMMAND_CLOSE, of, sizeof *close, 0);
  close->code = code;
}

static inline void command_audience(struct commands *c, unsigned type, struct handle of,
                                    uint32_t audience) {
  struct lw_command_audience *a = command_add(c, type, of, sizeof *a, 0);
  a->audience = audience;
}

/* flags: enum lw_behind_flags */
static inline void command_behind(struct commands *c, struct handle of, unsigned flags) {
  struct lw_command *behind = command_add(c, LW_COMMAND_BEHIND, of, sizeof *behind, 0);
  behind->flags = (uint16_t)flags;
}

static inline void command_live(struct commands *c, struct handle of, uint32_t behind_count) {
  struct lw_command *live = command_add(c, LW_COMMAND_LIVE, of, sizeof *live, 0);
  live->flags = (uint16_t)(LW_LIVE_SEEN | behind_count);
}

struct publish {
  uint64_t seq; /* 0 = not stored */
  uint32_t stamp;
  uint32_t key;
  unsigned qos;
  uint32_t packet_id_at;
  struct handle except;
};

static inline void command_publish(struct commands *c, const struct publish *p,
                                   const uint32_t *audiences, uint32_t count, const void *frame,
                                   uint32_t size) {
  size_t audiences_size = ((size_t)count * 4 + 7) & ~(size_t)7;
  struct lw_command_publish *out =
      command_add(c, LW_COMMAND_PUBLISH, p->except, sizeof *out, audiences_size + size);
  out->head.flags = (uint16_t)p->qos;
  out->seq = p->seq;
  out->stamp = p->stamp;
  out->key = p->key;
  out->packet_id_at = p->packet_id_at;
  out->audience_count = count;
  out->body_size = size;
  memcpy(out + 1, audiences, (size_t)count * 4);
  memcpy((uint8_t *)(out + 1) + audiences_size, frame, size);
}

/* packet_id 0 = the next free one. */
static inline void command_deliver(struct commands *c, struct handle of, const struct publish *p,
                                   uint32_t packet_id, const void *frame, uint32_t size) {
  struct lw_command_deliver *d = command_add(c, LW_COMMAND_DELIVER, of, sizeof *d, size);
  d->head.flags = (uint16_t)p->qos;
  d->seq = p->seq;
  d->packet_id_at = p->packet_id_at;
  d->packet_id = packet_id;
  d->body_size = size;
  memcpy(d + 1, frame, size);
}

/* Submits what was gathered. Returns what lw_submit returned. */
static inline int64_t commands_submit(struct commands *c, struct lw_reactor *r) {
  if (c->size == 0) return 0;
  int64_t result = lw_submit(r, c->bytes, c->size);
  c->size = 0;
  return result;
}

/* ---------------------------------------------------------------- events */

typedef void (*event_taker)(void *owner, const struct lw_event *event);

/* Shows every event that there is. Returns how many there were. */
static inline uint32_t events_walk(struct lw_reactor *r, event_taker take, void *owner) {
  uint32_t found = 0;
  int count = lw_poll(r);
  const struct lw_batch *batches = lw_batches(r);
  for (int i = 0; i < count; i++) {
    uint32_t ring_bytes = 0;
    const uint8_t *ring = lw_ring(r, batches[i].thread, &ring_bytes);
    REQUIRE(ring != NULL && batches[i].end <= ring_bytes, "batch ends at %u", batches[i].end);
    for (uint32_t at = batches[i].begin; at < batches[i].end;) {
      const struct lw_event *event = (const struct lw_event *)(const void *)(ring + at);
      REQUIRE(event->size >= 8 && event->size % 8 == 0 && event->size <= batches[i].end - at,
              "event of %u bytes", event->size);
      at += event->size;
      if (event->type == LW_EVENT_PAD) continue;
      take(owner, event);
      found++;
    }
  }
  lw_release(r);
  return found;
}

static inline struct handle handle_of(const struct lw_event *event) {
  return (struct handle){event->conn, event->generation};
}

static inline uint64_t event_u64(const struct lw_event *event) {
  uint64_t value;
  REQUIRE(event->body_size == sizeof value, "body of %u bytes", event->body_size);
  memcpy(&value, event + 1, sizeof value);
  return value;
}

#endif
