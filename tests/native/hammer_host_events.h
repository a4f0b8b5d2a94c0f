/* The hammer's host: connections that come, speak and go. */
#ifndef LONGWIRE_TESTS_HAMMER_HOST_EVENTS_H
#define LONGWIRE_TESTS_HAMMER_HOST_EVENTS_H

#include "hammer_host.h"

static struct known *host_known(struct host *h, const struct lw_event *event) {
  uint32_t thread = event->conn >> 24, slot = event->conn & 0xffffff;
  REQUIRE(thread < HOST_THREADS_MAX && slot < KNOWN_SLOTS, "connection %x", event->conn);
  return &h->known[thread][slot];
}

/* Lets a link in, or not; in the order in which the service does it. */
static void host_admit(struct host *h, struct link *l) {
  if (random_chance(&h->seed, 3)) return host_close(h, l, CODE_REFUSED);
  if (l->role == ROLE_ROGUE && random_chance(&h->seed, 5)) return; /* runs into its deadline */
  host_send(h, l, l->handle, l->protocol, WIRE_WELCOME);
  uint32_t keepalive_ms = l->role == ROLE_SLEEPER ? SLEEPER_KEEPALIVE_MS : 20000;
  unsigned flags = LW_ACTIVATE_REPORT_ACKS | (l->is_held ? LW_ACTIVATE_HOLD_RELEASES : 0);
  command_activate(&h->commands, l->handle, keepalive_ms, l->inflight_max, flags);
  if (random_chance(&h->seed, 20)) {
    command_plain(&h->commands, LW_COMMAND_BEHIND, l->handle);
    l->is_behind = 1;
  }
  for (uint32_t i = random_below(&h->seed, 6); i > 0; i--) {
    host_join(h, l, random_below(&h->seed, TOPICS));
  }
  l->is_active = 1;
  REQUIRE(h->active_count < ACTIVE_MAX, "too many connections");
  h->active[h->active_count++] = l;
  struct lw_peer peer;
  int error = lw_peer(h->r, l->handle.conn, l->handle.generation, &peer);
  int is_known = error == 0 && peer.family == 4 && peer.address[0] == 127;
  /* A connection that was reset before it was accepted has no address any more. */
  CHECK(is_known || (l->role == ROLE_ROGUE && error == 0), "link %u: lw_peer %d", l->number, error);
}

/* The first frame of a connection says whose it is. */
static void host_hello(struct host *h, struct known *k, const struct lw_event *event,
                       const struct wire_found *found) {
  struct link *l = NULL;
  if (found->has_body && found->body.kind == WIRE_HELLO) l = link_find(found->body.number >> 32);
  if (l == NULL || l->handle.generation != 0) {
    command_close(&h->commands, handle_of(event), CODE_REFUSED);
    return;
  }
  CHECK(event->argument == (l->protocol == LW_PROTOCOL_MQTT), "listener %u", event->argument);
  k->link = l;
  l->handle = handle_of(event);
  host_admit(h, l);
}

static void host_bye(struct host *h, struct link *l) {
  uint32_t total = atomic_load(&l->frames_total);
  CHECK(l->frames_heard == total + 1, "link %u: %u frames of %u", l->number, l->frames_heard,
        total + 1);
  l->said_bye = 1;
  host_leave_all(h, l);
  host_part(h, l);
}

static void host_frame(struct host *h, const struct lw_event *event) {
  struct known *k = host_known(h, event);
  struct wire_found found;
  h->frames++;
  int is_new = !k->is_open || k->generation != event->generation;
  CHECK(!is_new || !k->is_open, "connection %x: no CLOSED before the next", event->conn);
  CHECK(event->code == is_new, "connection %x: first is %u", event->conn, event->code);
  if (is_new) {
    h->open_count++;
    *k = (struct known){.generation = event->generation, .is_open = 1};
  }
  unsigned protocol = event->argument == 1 ? LW_PROTOCOL_MQTT : LW_PROTOCOL_LONGWIRE;
  int error = wire_read(protocol, (const uint8_t *)(event + 1), event->body_size, &found);
  if (is_new && error == 0) return host_hello(h, k, event, &found);
  struct link *l = k->link;
  if (l == NULL || atomic_load(&l->is_garbled)) return;
  CHECK(error == 0 && found.size == event->body_size, "link %u: torn frame", l->number);
  if (error != 0 || !found.has_body) return;
  uint64_t number = (uint64_t)l->number << 32 | l->frames_heard;
  CHECK(found.body.number == number, "link %u: frame %llx instead of %llx", l->number,
        (unsigned long long)found.body.number, (unsigned long long)number);
  l->frames_heard++;
  if (found.body.kind == WIRE_BYE) host_bye(h, l);
}

static void host_violation(struct host *h, const struct lw_event *event) {
  struct known *k = host_known(h, event);
  h->violations++;
  if (!k->is_open || k->generation != event->generation) {
    CHECK(!k->is_open, "connection %x: no CLOSED before the next", event->conn);
    h->open_count++;
    *k = (struct known){.generation = event->generation, .is_open = 1};
  }
  if (k->link == NULL) {
    unsigned protocol = event->argument == 1 ? LW_PROTOCOL_MQTT : LW_PROTOCOL_LONGWIRE;
    host_send(h, NULL, handle_of(event), protocol, WIRE_LAST);
    command_close(&h->commands, handle_of(event), event->code);
    return;
  }
  CHECK(!link_is_exact(k->link), "link %u: violates by %u", k->link->number, event->code);
  if (k->link->role == ROLE_SLEEPER) {
    CHECK(event->code == LW_CODE_KEEPALIVE_TIMEOUT, "sleeper violates by %u", event->code);
  }
  host_close(h, k->link, event->code);
}

/* What CLOSED says of messages in flight: of its own, oldest first, ids distinct. */
static void host_check_inflight(struct link *l, const struct lw_event *event) {
  struct lw_closed closed;
  memcpy(&closed, event + 1, sizeof closed);
  const struct lw_inflight *all =
      (const struct lw_inflight *)(const void *)((const uint8_t *)(event + 1) + sizeof closed);
  CHECK(event->body_size == sizeof closed + closed.inflight_count * sizeof *all,
        "CLOSED of %u bytes", event->body_size);
  CHECK(closed.inflight_count <= l->inflight_max, "link %u: %u in flight", l->number,
        closed.inflight_count);
  uint64_t last = l->acked_seq;
  for (uint32_t i = 0; i < closed.inflight_count; i++) {
    if (all[i].seq > SHARED_SEQ) {
      host_unshare(l, all[i].seq);
    } else {
      uint32_t at = numbers_from(&l->stored, all[i].seq);
      CHECK(at < l->stored.count && l->stored.values[at] == all[i].seq, "link %u: seq in flight",
            l->number);
      CHECK(all[i].seq > last && all[i].seq <= closed.seen_seq, "link %u: %llu in flight",
            l->number, (unsigned long long)all[i].seq);
      last = all[i].seq;
    }
    for (uint32_t k = 0; k < i; k++) {
      CHECK(all[i].packet_id != all[k].packet_id, "link %u: id %u twice", l->number,
            all[i].packet_id);
    }
  }
}

/* A half-closed connection: it has heard nothing of the end yet, and is told. */
static void host_ended(struct host *h, struct link *l) {
  uint32_t total = atomic_load(&l->frames_total);
  CHECK(l->role == ROLE_LEAVER || l->role == ROLE_ROGUE, "link %u: role %u ended", l->number,
        l->role);
  if (l->role == ROLE_LEAVER) {
    CHECK(l->frames_heard == total, "link %u: %u frames of %u", l->number, l->frames_heard, total);
  }
  host_close(h, l, LW_CODE_PEER_CLOSED);
}

static void host_check_closed(struct link *l, const struct lw_event *event) {
  if (link_is_exact(l)) {
    CHECK(l->is_closing && event->code == l->close_code, "link %u: closed by %u", l->number,
          event->code);
  }
  host_check_inflight(l, event);
}

static void host_closed(struct host *h, const struct lw_event *event) {
  struct known *k = host_known(h, event);
  h->closes++;
  CHECK(k->is_open && k->generation == event->generation, "connection %x: CLOSED of a stranger",
        event->conn);
  if (!k->is_open || k->generation != event->generation) return;
  struct link *l = k->link;
  if (l != NULL) {
    host_check_closed(l, event);
    l->is_closed = l->is_closing = 1;
    if (random_chance(&h->seed, 20)) {
      command_audience(&h->commands, LW_COMMAND_JOIN, l->handle, audience_of(l, 0)); /* too late */
      command_audience(&h->commands, LW_COMMAND_LEAVE, l->handle, audience_of(l, 0));
    }
    host_leave_all(h, l);
    if (l->is_active) {
      uint32_t at = 0;
      while (h->active[at] != l) at++;
      h->active[at] = h->active[--h->active_count];
    }
  }
  k->is_open = 0;
  h->open_count--;
  command_plain(&h->commands, LW_COMMAND_RELEASE, handle_of(event));
  h->stale[h->stale_count++ % STALE_MAX] = handle_of(event);
}

static void host_take(void *owner, const struct lw_event *event) {
  struct host *h = owner;
  if (event->type == LW_EVENT_FRAME) return host_frame(h, event);
  if (event->type == LW_EVENT_VIOLATION) return host_violation(h, event);
  if (event->type == LW_EVENT_CLOSED) return host_closed(h, event);
  const struct known *k = host_known(h, event);
  CHECK(k->is_open && k->generation == event->generation && k->link != NULL,
        "connection %x: event %u of a stranger", event->conn, event->type);
  if (!k->is_open || k->link == NULL) return;
  if (event->type == LW_EVENT_ACKED) host_acked(h, k->link, event);
  else if (event->type == LW_EVENT_BEHIND) host_behind(h, k->link, event);
  else if (event->type == LW_EVENT_ROOM) host_replay(h, k->link, event);
  else if (event->type == LW_EVENT_SETTLED) host_settled(h, k->link, event);
  else if (event->type == LW_EVENT_ENDED) host_ended(h, k->link);
  else CHECK(event->type == LW_EVENT_DROPPING, "event %u", event->type);
}

#endif
