/* libFuzzer target: what a peer may send, in any pieces, and what a host may submit, in any order.
 * Nothing of it may crash, hang or leak; lw_submit refuses with -EINVAL or obeys. */
#include <stdint.h>
#include <stdlib.h>

/* Every so many allocations of the reactor fail; 0 = none does. */
static uint32_t fuzz_fails_every, fuzz_allocations;

static int fuzz_fails(void) {
  return fuzz_fails_every != 0 && ++fuzz_allocations % fuzz_fails_every == 0;
}

#define malloc(size) (fuzz_fails() ? NULL : malloc(size))
#define calloc(count, size) (fuzz_fails() ? NULL : calloc(count, size))
#define realloc(old, size) (fuzz_fails() ? NULL : realloc(old, size))
#define aligned_alloc(to, size) (fuzz_fails() ? NULL : aligned_alloc(to, size))

#include "stub_rig.h"

#define FUZZ_PEERS 4u
#define FUZZ_STEPS_MAX 64
/* Audiences are dense by contract: a table of all that 32 bits can name is memory, not a finding.
 */
#define FUZZ_AUDIENCES 0xfffu

struct fuzz {
  const uint8_t *bytes;
  size_t size;
  struct stub_rig *rig;
  struct stub_peer *peers[FUZZ_PEERS];
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const struct lw_options fuzz_options = {
    .abi_version = LW_ABI_VERSION,
    .size = sizeof(struct lw_options),
    .thread_count = 1,
    .connections_max = 3,
    .ring_bytes = 4096,
    .frame_bytes_max = 1024,
    .handshake_frame_bytes_max = 256,
    .handshake_timeout_ms = 1000,
    .out_queue_soft_bytes = 512,
    .out_queue_hard_bytes = 1024,
    .write_stall_ms = 2000,
    .linger_ms = 500,
    .command_queue_bytes_max = 1 << 20,
};

static uint8_t fuzz_byte(struct fuzz *f) {
  if (f->size == 0) return 0;
  f->size--;
  return *f->bytes++;
}

/* What the host hears means nothing here: it has said things to connections that it never heard of.
 */
static void fuzz_hear(void *owner, const struct lw_event *event) {
  (void)owner;
  if (event->size < sizeof *event || event->size - sizeof *event < event->body_size) abort();
}

static void fuzz_turn(struct fuzz *f, uint64_t ms, int is_slow_host) {
  f->rig->t->backend->now_ms += ms;
  turn(f->rig->t);
  if (!is_slow_host) events_walk(f->rig->r, fuzz_hear, NULL);
}

/* A stretch of the input, at most `most` bytes. */
static const uint8_t *fuzz_take(struct fuzz *f, size_t most, size_t *size) {
  const uint8_t *at = f->bytes;
  *size = f->size < most ? f->size : most;
  f->bytes += *size;
  f->size -= *size;
  return at;
}

/* Keeps the size of what the host's tables cost within reason; all else stays as it is. */
static void fuzz_bound_audiences(uint8_t *records, size_t size) {
  for (size_t at = 0; at + sizeof(struct lw_command) <= size;) {
    struct lw_command *command = (struct lw_command *)(void *)(records + at);
    struct lw_command_audience *of = (struct lw_command_audience *)command;
    int is_audience = command->type == LW_COMMAND_JOIN || command->type == LW_COMMAND_LEAVE;
    if (is_audience && at + sizeof *of <= size) of->audience &= FUZZ_AUDIENCES;
    if (command->size < sizeof *command || command->size % 8 != 0) return;
    at += command->size;
  }
}

/* Records as the input has them: type, handle and size are made likely, nothing is made right. */
static void fuzz_submit(struct fuzz *f) {
  size_t size;
  uint8_t tuned = fuzz_byte(f);
  const uint8_t *from = fuzz_take(f, (size_t)fuzz_byte(f) * 2, &size);
  size_t record_size = (sizeof(struct lw_command) + size + 7) & ~(size_t)7;
  uint8_t *record = (calloc)(1, record_size);
  REQUIRE(record != NULL, "no memory");
  struct lw_command *command = (struct lw_command *)(void *)record;
  memcpy(record + sizeof *command, from, size);
  command->size = (uint32_t)record_size;
  command->type = tuned & 15;
  struct stub_peer *p = f->peers[tuned >> 4 & 3];
  if (p != NULL) {
    command->conn = p->slot;
    command->generation = rig_connection(f->rig, p)->generation;
  }
  if (tuned & 0x40 && size > 0) memcpy(record, from, size < 16 ? size : 16);
  if (tuned & 0x80 && command->type == LW_COMMAND_PUBLISH) command->conn = LW_CONN_NONE;
  fuzz_bound_audiences(record, record_size);
  int64_t result = lw_submit(f->rig->r, record, record_size);
  if (result < 0 && result != -EINVAL && fuzz_fails_every == 0) abort();
  free(record);
}

static void fuzz_peer(struct fuzz *f, uint8_t what) {
  struct stub_peer **p = &f->peers[what >> 3 & 3];
  size_t size;
  if (*p == NULL) {
    *p = rig_connect(f->rig, what >> 5 & 1);
    if (!(*p)->is_open) *p = NULL;
    return;
  }
  (*p)->piece = what >> 5;
  const uint8_t *bytes = fuzz_take(f, fuzz_byte(f), &size);
  rig_feed(f->rig, *p, bytes, size);
}

/* A command that fits: what random bytes hit too seldom. */
static void fuzz_obvious(struct fuzz *f, uint8_t what) {
  struct stub_peer *p = f->peers[what >> 3 & 3];
  struct commands *c = &f->rig->commands;
  const uint32_t audience = what >> 5 & 3;
  uint8_t frame[8] = {0x32, 6, 0, 0, 0, 0, fuzz_byte(f), 7};
  uint8_t how = fuzz_byte(f);
  if (p == NULL) return;
  struct handle of = {p->slot, rig_connection(f->rig, p)->generation};
  struct publish m = {.seq = how >> 4,
                      .stamp = 1u + (how & 7),
                      .key = how & 3,
                      .qos = how & 3,
                      .packet_id_at = how & 8 ? LW_PACKET_ID_NONE : 4,
                      .except = {LW_CONN_NONE, 0}};
  switch (how >> 5) {
  case 0:
    command_activate(c, of, 500, how & 7, how >> 3 & 3);
    break;
  case 1:
    command_audience(c, LW_COMMAND_JOIN, of, audience);
    break;
  case 2:
  case 3:
    command_publish(c, &m, &audience, 1, frame, sizeof frame);
    break;
  case 4:
    command_deliver(c, of, &m, how & 3, frame, sizeof frame);
    break;
  case 5:
    command_send(c, of, frame, sizeof frame);
    break;
  case 6:
    command_close(c, of, how & 31);
    break;
  default:
    command_plain(c, LW_COMMAND_RELEASE, of);
  }
  commands_submit(c, f->rig->r);
}

static void fuzz_step(struct fuzz *f) {
  uint8_t what = fuzz_byte(f);
  struct stub_peer *p = f->peers[what >> 3 & 3];
  switch (what & 7) {
  case 0:
  case 1:
    fuzz_peer(f, what);
    break;
  case 2:
    fuzz_submit(f);
    break;
  case 3:
  case 4:
    fuzz_obvious(f, what);
    break;
  case 5:
    if (p != NULL && what & 0x80) rig_end(f->rig, p);
    else if (p != NULL) rig_unblock(f->rig, p, what & 0x40 ? UINT64_MAX : fuzz_byte(f));
    break;
  case 6:
    fuzz_turn(f, (uint64_t)(what >> 3) * 100, 0);
    break;
  default:
    fuzz_turn(f, 1, 1);
  }
  if (p != NULL && !p->is_open) f->peers[what >> 3 & 3] = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  struct fuzz f = {.bytes = bytes, .size = size, .rig = rig_open(&fuzz_options)};
  uint8_t fails_every = fuzz_byte(&f);
  fuzz_fails_every = fails_every > 100 ? 0 : fails_every;
  fuzz_allocations = 0;
  for (int step = 0; step < FUZZ_STEPS_MAX && f.size > 0; step++) fuzz_step(&f);
  for (int i = 0; i < 4; i++) fuzz_turn(&f, 1000, 0);
  fuzz_fails_every = 0;
  rig_close(f.rig);
  return 0;
}
