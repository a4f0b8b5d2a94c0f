/* Commands: stale ones, senseless ones, slots that are used again, and the connection limit. */
#ifndef LONGWIRE_TESTS_UNIT_REACTOR_COMMANDS_H
#define LONGWIRE_TESTS_UNIT_REACTOR_COMMANDS_H

#include "unit_reactor.h"

static void refused(struct stub_rig *rig, const char *what) {
  int64_t result = commands_submit(&rig->commands, rig->r);
  CHECK(result == -EINVAL, "%s: %lld", what, (long long)result);
}

static void unit_senseless_commands(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 0, 0, 0);
  struct handle of = rig_heard(rig, p)->handle;
  struct commands *c = &rig->commands;
  /* Regression: the code indexes the counters. */
  command_close(c, of, LW_CODE_COUNT);
  refused(rig, "CLOSE with a code that nobody counts");
  command_close(c, of, 0xffffffff);
  refused(rig, "CLOSE with a code that nobody counts");
  command_send(c, of, "", 0);
  refused(rig, "SEND of nothing");
  command_plain(c, 99, of);
  refused(rig, "an unknown type");
  command_plain(c, 0, of);
  refused(rig, "no type");
  command_plain(c, LW_COMMAND_CLOSE, of);
  refused(rig, "CLOSE that is too short");
  command_plain(c, LW_COMMAND_PAUSE, (struct handle){1u << 24, 1});
  refused(rig, "a thread that there is not");
  command_audience(c, LW_COMMAND_JOIN, of, LW_AUDIENCE_NONE);
  refused(rig, "no audience");
  struct lw_command *raw = command_add(c, LW_COMMAND_PAUSE, of, sizeof *raw, 0);
  raw->size = 12;
  refused(rig, "a size that is no multiple of 8");
  raw = command_add(c, LW_COMMAND_PAUSE, of, sizeof *raw, 0);
  raw->size = 24;
  refused(rig, "a record past the end");
  struct publish m = {.stamp = 0, .packet_id_at = LW_PACKET_ID_NONE, .except = {LW_CONN_NONE, 0}};
  const uint32_t audience = 0;
  command_publish(c, &m, &audience, 1, "abc", 3);
  refused(rig, "PUBLISH with stamp 0");
  m.stamp = 1;
  m.packet_id_at = 2;
  command_publish(c, &m, &audience, 1, "abc", 3);
  refused(rig, "a packet id past the end");
  command_deliver(c, of, &m, 0, "abc", 3);
  refused(rig, "a packet id past the end");
  rig_turn(rig);
  CHECK(p->is_open && rig->t->stats.stale_commands == 0, "something of it was carried out");
  rig_close(rig);
}

/* A slot that was released is used again under the next generation: old commands miss it. */
static void unit_stale_commands(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 0, 0, 0);
  struct handle of = rig_heard(rig, p)->handle;
  rig_leave(rig, p);
  CHECK(rig_heard(rig, p)->closes == 1, "not closed");
  command_send(&rig->commands, of, "x", 1); /* gone, and the host has not released it */
  command_audience(&rig->commands, LW_COMMAND_JOIN, of, 1);
  command_audience(&rig->commands, LW_COMMAND_LEAVE, of, 1);
  command_plain(&rig->commands, LW_COMMAND_RELEASE, of);
  command_plain(&rig->commands, LW_COMMAND_RELEASE, of);
  rig_submit(rig);
  for (int i = 0; i < 3; i++) rig_turn(rig);
  CHECK(rig->t->stats.stale_commands == 3, "%u", (unsigned)rig->t->stats.stale_commands);
  struct stub_peer *next = rig_activate(rig, 0, 0, 0);
  struct handle now = rig_heard(rig, next)->handle;
  CHECK(now.conn == of.conn && now.generation == of.generation + 1, "slot %x", now.conn);
  command_send(&rig->commands, of, "x", 1);
  command_close(&rig->commands, of, LW_CODE_NORMAL);
  command_plain(&rig->commands, LW_COMMAND_RELEASE, of);
  rig_submit(rig);
  rig_turn(rig);
  CHECK(next->is_open && next->out_size == 0, "a stale command hit the next connection");
  CHECK(rig->t->stats.stale_commands == 6, "%u", (unsigned)rig->t->stats.stale_commands);
  struct lw_peer peer;
  CHECK(lw_peer(rig->r, of.conn, of.generation, &peer) == -ESTALE, "the address of a stale handle");
  CHECK(lw_peer(rig->r, now.conn, now.generation, &peer) == 0 && peer.family == 4, "no address");
  rig_close(rig);
}

/* Regression: the record of a short command lies at the very end of its chunk, and was read past
 * it. */
static void unit_commands_at_chunk_end(void) {
  struct stub_rig *rig = rig_open(&stub_options);
  struct stub_peer *p = rig_activate(rig, 0, 0, 0);
  struct handle of = rig_heard(rig, p)->handle;
  for (int i = 0; i < 3 * (int)COMMAND_CHUNK_BYTES / 16; i++) {
    command_plain(&rig->commands, i % 2 == 0 ? LW_COMMAND_PAUSE : LW_COMMAND_RESUME, of);
  }
  rig_submit(rig);
  rig_turn(rig);
  CHECK(command_queue_bytes(&rig->t->commands) == 0, "commands are left");
  rig_close(rig);
}

/* Over the limit: an answer, FIN, and the place of a connection that went is free at once. */
static void unit_connection_limit(void) {
  struct lw_options options = stub_options;
  options.connections_max = 2;
  struct stub_rig *rig = rig_open(&options);
  struct stub_peer *p = rig_activate(rig, 0, 0, 0);
  rig_activate(rig, 1, 0, 0);
  struct stub_peer *late = rig_connect(rig, 0);
  rig_feed(rig, late, "hello hello", 11);
  rig_turn(rig);
  CHECK(late->out_size == 4 && memcmp(late->out, "busy", 4) == 0, "%zu bytes", late->out_size);
  CHECK(late->is_open && late->is_write_ended && late->in_at == 11, "no FIN");
  rig_end(rig, late);
  rig_turn(rig);
  CHECK(!late->is_open && rig->t->busy_count == 0, "%u are busy", rig->t->busy_count);
  CHECK(rig->t->stats.connections == 2, "%u open", (unsigned)rig->t->stats.connections);
  CHECK(rig->t->stats.closed[LW_CODE_CONNECTION_LIMIT] == 1, "not counted");
  command_close(&rig->commands, rig_heard(rig, p)->handle, LW_CODE_NORMAL);
  rig_submit(rig);
  rig_turn(rig);
  struct stub_peer *next = rig_activate(rig, 0, 0, 0);
  CHECK(next->is_open && rig->t->stats.connections == 2, "no place");
  rig_close(rig);
}

/* Regression: a window whose CLOSED would not have fitted the ring stopped every event of the
 * thread. */
static void unit_window_and_ring(void) {
  struct lw_options options = stub_options;
  options.ring_bytes = 4096;
  options.frame_bytes_max = options.handshake_frame_bytes_max = 1024;
  struct stub_rig *rig = rig_open(&options);
  struct stub_peer *p = rig_activate(rig, 1, 0, 65535);
  struct stub_heard *h = rig_heard(rig, p);
  rig_join(rig, h);
  for (uint64_t seq = 1; seq <= 300; seq++) rig_publish(rig, seq, 1);
  rig_submit(rig);
  rig_turn(rig);
  rig_got(p, "as many as CLOSED can name", 1, 64, 1);
  CHECK(h->behind_seq == 65, "behind %llu", (unsigned long long)h->behind_seq);
  struct publish d = {.seq = 65, .qos = 1, .packet_id_at = ID_AT};
  command_deliver(&rig->commands, h->handle, &d, 0, numbered(65, 1), 8); /* more than it was told */
  rig_submit(rig);
  rig_turn(rig);
  rig_turn(rig);
  CHECK(h->closes == 1 && h->closed.inflight_count == 64, "%u in flight", h->closed.inflight_count);
  rig_close(rig);
}

static void unit_reactor(uint64_t seed) {
  unit_behind();
  unit_live_too_early();
  unit_behind_from_live();
  unit_closed_inflight();
  unit_last_words();
  unit_ring_full();
  unit_ring_slow_host(seed);
  unit_burst();
  unit_slow_peer();
  unit_deadlines();
  unit_senseless_commands();
  unit_stale_commands();
  unit_commands_at_chunk_end();
  unit_connection_limit();
  unit_window_and_ring();
}

#endif
