/* The way in: limits, PROXY header, TLS, in this order. Whoever is not let in is told so in the
 * words of the listener's protocol and closed in order, never left in the backlog. */
#ifndef LONGWIRE_ENTRANCE_H
#define LONGWIRE_ENTRANCE_H

#include <time.h>

#include "deliver.h"

/* What a TLS listener answers before any handshake: a fatal alert, internal_error (RFC 8446
 * section 6); TLS has no word for busy. */
static const uint8_t busy_alert[7] = {21, 3, 3, 0, 2, 2, 80};

/* Not as of this turn: the threads share the buckets, so they must agree on the time. */
static uint64_t monotonic_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Says why, in the words of the listener's protocol. */
static void send_busy(struct io_thread *t, struct connection *c, unsigned code, int is_five) {
  const struct listener *l = &t->reactor->listeners[c->listener];
  uint8_t words[sizeof l->busy];
  uint32_t size = is_five ? l->busy5_size : l->busy_size;
  uint32_t reason_at = is_five ? l->busy5_reason_at : l->busy_reason_at;
  if (size == 0) return;
  memcpy(words, is_five ? l->busy5 : l->busy, size);
  if (reason_at > 0) words[reason_at] = l->reasons[code];
  send_copy(t, c, words, size);
}

/* Whether the answer depends on what the client says first. */
static int awaits_version(const struct io_thread *t, const struct connection *c) {
  return t->reactor->listeners[c->listener].busy5_size > 0;
}

/* A connection that is refused as soon as it has said which MQTT it speaks. */
static void await_version(struct io_thread *t, struct connection *c, unsigned code) {
  c->flags |= AWAITS_VERSION | IS_BUSY_REFUSAL;
  t->busy_count++;
  c->code = (uint8_t)code;
  uncount(t, c);
  c->seen_ms = (uint32_t)t->now_ms;
  c->timeout_ms = t->reactor->options.linger_ms;
  timer_set(t, c);
}

/* The version of a CONNECT that begins so (MQTT 5 section 3.1); 0 = it takes more bytes to tell, 4
 * = not 5, or no CONNECT. */
static int connect_version(const uint8_t *bytes, uint32_t size) {
  static const uint8_t name[6] = {0, 4, 'M', 'Q', 'T', 'T'};
  uint32_t at = 1;
  if (size == 0) return 0;
  if (bytes[0] != 0x10) return 4;
  while (at < size && at < 4 && (bytes[at] & 0x80)) at++;
  if (at < size && (bytes[at] & 0x80)) return 4; /* no length at all */
  at++;
  for (uint32_t i = 0; i < sizeof name; i++, at++) {
    if (at >= size) return 0;
    if (bytes[at] != name[i]) return 4;
  }
  if (at >= size) return 0;
  return bytes[at] == 5 ? 5 : 4;
}

/* Tells a connection that await_version() has refused, and ends it in order. */
static void answer_refused(struct io_thread *t, struct connection *c, int version) {
  c->flags &= ~(uint32_t)AWAITS_VERSION;
  send_busy(t, c, c->code, version == 5);
  drain(t, c, c->code);
}

/* connect_version() of what has come, behind the PROXY header that it may begin with. */
static int refused_version(const struct io_thread *t, const struct connection *c) {
  const uint8_t *bytes = c->kept->bytes;
  uint32_t size = c->kept->size;
  if (t->reactor->listeners[c->listener].flags != 0) {
    struct proxy_header header = proxy_parse(bytes, size);
    if (header.size == 0) return 0;
    if (header.size > 0) bytes += header.size, size -= (uint32_t)header.size;
  }
  return connect_version(bytes, size);
}

/* What comes from such a connection. */
static void refused_received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                             uint32_t size) {
  if (keep(c, bytes, size) != 0) return end(t, c, LW_CODE_NO_MEMORY);
  int version = refused_version(t, c);
  if (version != 0) answer_refused(t, c, version);
}

/* Answers a connection that was just accepted over a limit: its busy bytes, an orderly close. */
static void refuse_new(struct io_thread *t, struct connection *c, unsigned code) {
  COUNT(t, closed[code], 1);
  if (awaits_version(t, c)) {
    set_state(t, c, HANDSHAKING);
    return await_version(t, c, code);
  }
  c->flags |= IS_BUSY_REFUSAL | READ_STOPPED;
  c->code = (uint8_t)code;
  t->busy_count++;
  set_state(t, c, DRAINING);
  c->seen_ms = (uint32_t)t->now_ms;
  c->timeout_ms = t->reactor->options.linger_ms;
  send_busy(t, c, code, 0);
  mark_dirty(t, c);
  timer_set(t, c);
}

/* Ends a connection of which the host knows nothing, after what is queued. When many are being told
 * already, what is queued is sent without being waited for. */
static void finish(struct io_thread *t, struct connection *c, unsigned code) {
  if (c->state == CLOSED) return;
  if (t->busy_count >= BUSY_MAX) {
    if (c->out != NULL) backend_flush(t, c);
    return end(t, c, code);
  }
  c->flags |= IS_BUSY_REFUSAL;
  t->busy_count++;
  drain(t, c, code);
}

/* Answers one that was let in. */
static void refuse(struct io_thread *t, struct connection *c, unsigned code) {
  if (c->tls != NULL) {
    tls_stop(c);
    tls_free(c);
  }
  send_busy(t, c, code, 0);
  finish(t, c, code);
}

/* ---------------------------------------------------------------- after the address */

/* Counts the connection with its source. Returns 0, or the code of its refusal. */
static unsigned admit_source(struct io_thread *t, struct connection *c) {
  struct admission *a = &t->reactor->admission;
  switch (admission_enter(a, c->peer_family, c->peer_address, monotonic_ns())) {
  case ADMISSION_COUNTED:
    c->flags |= IS_SOURCE_COUNTED;
    return 0;
  case ADMISSION_REFUSED_RATE:
    return LW_CODE_SOURCE_RATE;
  case ADMISSION_REFUSED_COUNT:
    return LW_CODE_SOURCE_LIMIT;
  case ADMISSION_UNTRACKED:
    if (a->source_count > 0) COUNT(t, sources_untracked, 1);
  }
  return 0;
}

/* It is known whose connection this is: TLS or frames come next, or what it takes to refuse it.
 * Returns 0, or -1 when it has been refused. */
static int begin_stream(struct io_thread *t, struct connection *c) {
  const struct listener *l = &t->reactor->listeners[c->listener];
  unsigned code = admit_source(t, c);
  if (code == 0 && l->tls != 0 && tls_adopt(t, c, l->tls - 1u) != 0) code = LW_CODE_NO_MEMORY;
  if (code == 0) return 0;
  if (awaits_version(t, c) && t->busy_count < BUSY_MAX) {
    await_version(t, c, code);
    return 0;
  }
  refuse(t, c, code);
  return -1;
}

/* Looks at what may be a header; returns how many bytes it took, or -1 = it is not whole, or the
 * connection has been refused. */
static int32_t take_proxy_header(struct io_thread *t, struct connection *c, const struct kept *k) {
  if (c->flags & MUST_NOT_PROXY) {
    int begins = proxy_begins(k->bytes, k->size);
    if (begins == 1) refuse(t, c, LW_CODE_PROXY_FORBIDDEN);
    if (begins == 0) c->flags &= ~(uint32_t)MUST_NOT_PROXY;
    return begins == 0 ? 0 : -1;
  }
  if (!(c->flags & AWAITS_PROXY)) return 0;
  struct proxy_header header = proxy_parse(k->bytes, k->size);
  if (header.size < 0) refuse(t, c, LW_CODE_PROXY_MALFORMED);
  if (header.size <= 0) return -1;
  c->flags &= ~(uint32_t)AWAITS_PROXY;
  if (header.source.family != 0) {
    c->peer_family = (uint8_t)header.source.family;
    c->peer_port = header.source.port;
    memcpy(c->peer_address, header.source.address, sizeof c->peer_address);
  }
  return begin_stream(t, c) == 0 ? header.size : -1;
}

/* Goes on with what was kept since the connection came. */
static void enter_kept(struct io_thread *t, struct connection *c) {
  struct kept *kept = c->kept;
  c->kept = NULL; /* what is passed on may be kept again, and a refusal frees what is kept */
  int32_t taken = take_proxy_header(t, c, kept);
  if (taken < 0 && c->state == HANDSHAKING) {
    c->kept = kept;
    return;
  }
  if (taken >= 0 && (uint32_t)taken < kept->size) {
    pass_in(t, c, kept->bytes + taken, kept->size - (uint32_t)taken);
  }
  free(kept);
}

/* What comes before it is known whose the connection is, or whether it begins with a header. */
static void entrance_received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                              uint32_t size) {
  if (keep(c, bytes, size) != 0) return end(t, c, LW_CODE_NO_MEMORY);
  if (!(c->flags & AWAITS_ADDRESS)) enter_kept(t, c);
}

static void addressed(struct io_thread *t, struct connection *c) {
  if (!(c->flags & AWAITS_ADDRESS) || c->state != HANDSHAKING) return;
  const struct listener *l = &t->reactor->listeners[c->listener];
  c->flags &= ~(uint32_t)AWAITS_ADDRESS;
  if (l->flags & LW_LISTEN_PROXY) {
    int is_trusted = proxy_trusts(&t->reactor->proxies, c->peer_family, c->peer_address);
    c->flags |= is_trusted ? AWAITS_PROXY : MUST_NOT_PROXY;
  }
  if (l->flags & LW_LISTEN_PROXY_ALWAYS) c->flags |= AWAITS_PROXY;
  if (!(c->flags & AWAITS_PROXY) && begin_stream(t, c) != 0) return;
  if (c->kept != NULL) enter_kept(t, c);
}

/* ---------------------------------------------------------------- accepting */

/* Whether one more is let in, by what concerns all. Returns 0, or the code of the refusal. */
static unsigned admit(struct io_thread *t) {
  struct lw_reactor *r = t->reactor;
  uint32_t open = __atomic_add_fetch(&r->connection_count, 1, __ATOMIC_RELAXED);
  unsigned code = open > r->options.connections_max ? LW_CODE_CONNECTION_LIMIT : 0;
  if (code == 0 && !admission_take(&r->admission, monotonic_ns())) code = LW_CODE_CONNECT_RATE;
  if (code != 0) __atomic_fetch_sub(&r->connection_count, 1, __ATOMIC_RELAXED);
  return code;
}

static struct connection *accepted(struct io_thread *t, uint32_t index, int fd) {
  struct lw_reactor *r = t->reactor;
  const struct listener *l = &r->listeners[index];
  unsigned code = admit(t);
  struct connection *c = code != 0 && t->busy_count >= BUSY_MAX ? NULL : slot_take(t);
  if (c == NULL) {
    if (code == 0) __atomic_fetch_sub(&r->connection_count, 1, __ATOMIC_RELAXED);
    COUNT(t, closed[code != 0 ? code : LW_CODE_NO_MEMORY], 1);
    return NULL;
  }
  c->fd = fd;
  c->listener = (uint8_t)index;
  c->protocol = l->protocol;
  COUNT(t, accepted, 1);
  if (code != 0) {
    refuse_new(t, c, code);
  } else {
    set_state(t, c, HANDSHAKING);
    c->flags |= IS_COUNTED | AWAITS_ADDRESS;
    COUNT(t, connections, 1);
    c->seen_ms = (uint32_t)t->now_ms;
    c->timeout_ms = r->options.handshake_timeout_ms;
    timer_set(t, c);
    backend_address(t, c);
  }
  if (c->state != CLOSED && backend_adopt(t, c) != 0) end(t, c, LW_CODE_NO_MEMORY);
  return c;
}

#endif
