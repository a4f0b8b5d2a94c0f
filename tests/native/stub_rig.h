/* One I/O thread of the reactor on the stub backend, turned by hand, with a host that notes what it
 * hears. */
#ifndef LONGWIRE_TESTS_STUB_RIG_H
#define LONGWIRE_TESTS_STUB_RIG_H

#define LW_BACKEND_FILE "../tests/native/stub_backend.h" /* from where reactor.c lies */
#include "reactor.c"

#include "check.h"
#include "commands.h"

/* What the host has heard of one connection. */
struct stub_heard {
  struct handle handle; /* conn 0, generation 0 = never heard of */
  uint8_t *frames;      /* one after the other */
  size_t frames_size;
  uint32_t frame_count;
  uint32_t violations;
  uint32_t violation_code;
  uint32_t ends;
  uint32_t closes;
  uint32_t close_code;
  struct lw_closed closed;
  struct lw_inflight inflight[64];
  uint64_t acked_seq;
  uint64_t behind_seq; /* of the last BEHIND */
  uint32_t behind_count;
  uint32_t rooms;
  uint32_t room;
  struct lw_inflight settled[64];
  uint32_t settled_count;
  struct lw_traced traced; /* the last one, and what of it */
  uint32_t traced_what;
  uint32_t traced_count;
  uint32_t droppings;
};

struct stub_rig {
  struct lw_reactor *r;
  struct io_thread *t;
  struct commands commands;
  struct stub_heard heard[STUB_PEERS]; /* by slot: released only by rig_close */
};

static const struct lw_options stub_options = {
    .abi_version = LW_ABI_VERSION,
    .size = sizeof(struct lw_options),
    .thread_count = 1,
    .connections_max = STUB_PEERS,
    .ring_bytes = 64 << 10,
    .frame_bytes_max = 16 << 10,
    .handshake_frame_bytes_max = 1024,
    .handshake_timeout_ms = 1000,
    .out_queue_soft_bytes = 4096,
    .out_queue_hard_bytes = 16 << 10,
    .write_stall_ms = 2000,
    .linger_ms = 500,
    .command_queue_bytes_max = 1 << 20,
};

static struct stub_rig *rig_open(const struct lw_options *options) {
  struct stub_rig *rig = calloc(1, sizeof *rig);
  REQUIRE(rig != NULL, "no memory");
  int error = lw_open(options, &rig->r);
  REQUIRE(error == 0, "lw_open returned %d", error);
  struct io_thread *t = rig->t = rig->r->threads[0];
  stub_await_parked(t->backend);
  rig->r->listener_count = 2;
  rig->r->listeners[0].protocol = LW_PROTOCOL_LONGWIRE;
  rig->r->listeners[1].protocol = LW_PROTOCOL_MQTT;
  for (int i = 0; i < 2; i++) {
    rig->r->listeners[i].busy_size = 4;
    memcpy(rig->r->listeners[i].busy, "busy", 4);
  }
  t->now_ms = t->backend->now_ms = 1000;
  return rig;
}

static void rig_close(struct stub_rig *rig) {
  lw_close(rig->r);
  for (int i = 0; i < STUB_PEERS; i++) free(rig->heard[i].frames);
  free(rig->commands.bytes);
  free(rig);
}

static void rig_take_closed(struct stub_heard *h, const struct lw_event *event) {
  h->closes++;
  h->close_code = event->code;
  memcpy(&h->closed, event + 1, sizeof h->closed);
  size_t size = h->closed.inflight_count * sizeof h->inflight[0];
  CHECK(event->body_size == sizeof h->closed + size, "CLOSED of %u bytes", event->body_size);
  if (size > sizeof h->inflight) size = sizeof h->inflight;
  memcpy(h->inflight, (const uint8_t *)(event + 1) + sizeof h->closed, size);
}

static void rig_take_settled(struct stub_heard *h, const struct lw_event *event) {
  uint32_t count = event->body_size / (uint32_t)sizeof h->settled[0];
  CHECK(count > 0 && event->body_size % sizeof h->settled[0] == 0, "SETTLED of %u bytes",
        event->body_size);
  REQUIRE(h->settled_count + count <= 64, "%u settled", count);
  memcpy(&h->settled[h->settled_count], event + 1, event->body_size);
  h->settled_count += count;
}

static inline void rig_take(void *owner, const struct lw_event *event) {
  struct stub_rig *rig = owner;
  uint32_t slot = event->conn & 0xffffff;
  REQUIRE(slot < STUB_PEERS, "slot %u", slot);
  struct stub_heard *h = &rig->heard[slot];
  int is_new = h->handle.generation != event->generation;
  if (is_new) {
    free(h->frames);
    *h = (struct stub_heard){.handle = handle_of(event)};
  }
  CHECK(h->closes == 0, "event %u after CLOSED", event->type);
  if (event->type == LW_EVENT_FRAME) {
    CHECK(event->code == is_new, "first is %u", event->code);
    h->frames = realloc(h->frames, h->frames_size + event->body_size + 1);
    REQUIRE(h->frames != NULL, "no memory");
    memcpy(h->frames + h->frames_size, event + 1, event->body_size);
    h->frames_size += event->body_size;
    h->frame_count++;
  } else if (event->type == LW_EVENT_VIOLATION) {
    h->violations++;
    h->violation_code = event->code;
  } else if (event->type == LW_EVENT_ENDED) {
    h->ends++;
  } else if (event->type == LW_EVENT_CLOSED) {
    rig_take_closed(h, event);
  } else if (event->type == LW_EVENT_ACKED) {
    h->acked_seq = event_u64(event);
  } else if (event->type == LW_EVENT_BEHIND) {
    h->behind_seq = event_u64(event);
    h->behind_count = event->argument;
  } else if (event->type == LW_EVENT_ROOM) {
    h->rooms++;
    h->room = event->argument;
  } else if (event->type == LW_EVENT_SETTLED) {
    rig_take_settled(h, event);
  } else if (event->type == LW_EVENT_TRACED) {
    memcpy(&h->traced, event + 1, sizeof h->traced);
    h->traced_what = event->argument;
    h->traced_count++;
  } else if (event->type == LW_EVENT_DROPPING) {
    CHECK(event->code == LW_CODE_SLOW_CONSUMER, "code %u", event->code);
    h->droppings++;
  } else {
    CHECK(0, "event %u", event->type);
  }
}

/* One turn of the thread and one of the host. */
static inline void rig_turn(struct stub_rig *rig) {
  turn(rig->t);
  /* A poll shows what lies up to the end of the ring's memory, the next one what follows. */
  for (int i = 0; i < 2; i++) events_walk(rig->r, rig_take, rig);
}

static inline void rig_submit(struct stub_rig *rig) {
  int64_t result = commands_submit(&rig->commands, rig->r);
  CHECK(result >= 0, "lw_submit returned %lld", (long long)result);
}

static inline void rig_pass(struct stub_rig *rig, uint64_t ms) {
  rig->t->backend->now_ms += ms;
  rig_turn(rig);
}

/* A new connection; returns its peer. */
static struct stub_peer *rig_connect(struct stub_rig *rig, uint32_t listener) {
  struct stub_peer *peers = rig->t->backend->peers;
  int fd = 0;
  while (fd < STUB_PEERS && peers[fd].is_open) fd++;
  REQUIRE(fd < STUB_PEERS, "too many peers");
  free(peers[fd].in);
  free(peers[fd].out);
  peers[fd] = (struct stub_peer){.takes = UINT64_MAX, .is_used = 1, .is_open = 1};
  if (accepted(rig->t, listener, fd) == NULL) peers[fd].is_open = 0;
  return &peers[fd];
}

static struct connection *rig_connection(const struct stub_rig *rig, const struct stub_peer *p) {
  return connection_at(rig->t, p->slot);
}

static inline struct stub_heard *rig_heard(struct stub_rig *rig, const struct stub_peer *p) {
  return &rig->heard[p->slot];
}

/* Bytes from the peer; the reactor reads them at once, if it wants any. */
static void rig_feed(struct stub_rig *rig, struct stub_peer *p, const void *bytes, size_t size) {
  p->in = (realloc)(p->in, p->in_size + size + 1);
  REQUIRE(p->in != NULL, "no memory");
  memcpy(p->in + p->in_size, bytes, size);
  p->in_size += size;
  struct connection *c = rig_connection(rig, p);
  if (p->is_open && c->state != CLOSED && takes_bytes(c)) backend_read(rig->t, c);
}

static inline void rig_end(struct stub_rig *rig, struct stub_peer *p) {
  p->has_ended = 1;
  struct connection *c = rig_connection(rig, p);
  if (p->is_open && c->state != CLOSED && takes_bytes(c)) backend_read(rig->t, c);
}

/* The peer ends an active connection, and the host has nothing left to say. */
static inline void rig_leave(struct stub_rig *rig, struct stub_peer *p) {
  rig_end(rig, p);
  rig_turn(rig);
  command_close(&rig->commands, rig_heard(rig, p)->handle, LW_CODE_PEER_CLOSED);
  rig_submit(rig);
  rig_turn(rig);
}

/* The peer is through with it, and so is the host: the slot is free. */
static inline void rig_drop(struct stub_rig *rig, struct stub_peer *p) {
  struct handle of = rig_heard(rig, p)->handle;
  rig_leave(rig, p);
  command_plain(&rig->commands, LW_COMMAND_RELEASE, of);
  rig_submit(rig);
  rig_turn(rig);
}

/* The peer reads again. */
static inline void rig_unblock(struct stub_rig *rig, struct stub_peer *p, uint64_t takes) {
  p->takes = takes;
  struct connection *c = rig_connection(rig, p);
  if (!p->is_open || c->out == NULL || !c->out->blocked) return;
  c->out->blocked = 0;
  mark_dirty(rig->t, c);
}

/* Connects, says hello and is activated. */
static inline struct stub_peer *rig_activate(struct stub_rig *rig, uint32_t listener,
                                             uint32_t keepalive_ms, uint32_t inflight_max) {
  static const uint8_t hello[2][7] = {{2, 0, 0, 0, 2, 'h', 'i'},
                                      {0x10, 5, 'h', 'e', 'l', 'l', 'o'}};
  struct stub_peer *p = rig_connect(rig, listener);
  rig_feed(rig, p, hello[listener], sizeof hello[0]);
  rig_turn(rig);
  struct stub_heard *h = rig_heard(rig, p);
  CHECK(h->frame_count == 1, "%u frames", h->frame_count);
  command_activate(&rig->commands, h->handle, keepalive_ms, inflight_max, LW_ACTIVATE_REPORT_ACKS);
  rig_submit(rig);
  rig_turn(rig);
  h->frames_size = h->frame_count = 0;
  return p;
}

#endif
