/* The hammer's clients: raw sockets that read, check and acknowledge what they get, and send what
 * their role says. */
#ifndef LONGWIRE_TESTS_HAMMER_CLIENT_H
#define LONGWIRE_TESTS_HAMMER_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hammer_link.h"

#define ACKS_MAX 64u
#define OUT_BYTES_MAX (128u << 10)
#define IN_BYTES (96u << 10)
/* A link that must end well has this long for it, sanitizers and a busy machine included. */
#define PATIENCE_MS 30000u

/* What a listener says when there is no place. */
static const uint8_t busy_words[2][5] = {{0, 0, 0, 0, 0x7f}, {0x20, 3, 'f', 'u', 'l'}};

enum ack_state { ACK_PUBLISHED, ACK_RECEIVED, ACK_RELEASED };

/* A message with an id that is not through. */
struct ack {
  uint64_t due_ms;
  uint16_t id;
  uint8_t qos;
  uint8_t state; /* enum ack_state */
};

struct client {
  struct link *link; /* NULL = the place is free */
  int fd;
  uint64_t seed;
  uint64_t end_ms; /* when it does what its role ends with */
  uint64_t next_ms;
  uint32_t frames_sent;
  uint32_t welcomes;
  uint64_t droppable_last;
  uint64_t seq_last;
  uint64_t shared_last;
  uint64_t key_last[KEYS];
  struct ack acks[ACKS_MAX];
  uint32_t ack_count;
  uint32_t beats_out;
  uint32_t beats_in;
  uint8_t has_ended; /* its role's last deed is done */
  uint8_t is_half_closed;
  uint8_t is_deaf;  /* does not read */
  uint8_t is_stone; /* never will */
  uint8_t saw_last;
  uint8_t saw_busy;
  uint32_t in_size;
  uint32_t out_size;
  uint8_t in[IN_BYTES];
  uint8_t out[OUT_BYTES_MAX];
};

static uint64_t clock_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int client_is_exact(const struct client *c) { return link_is_exact(c->link); }

static void client_put(struct client *c, const void *bytes, uint32_t size) {
  if (c->out_size + size > OUT_BYTES_MAX) return;
  memcpy(c->out + c->out_size, bytes, size);
  c->out_size += size;
}

/* Queues one frame, numbered; what does not fit is not begun. */
static void client_frame(struct client *c, unsigned kind, uint32_t filler_size) {
  struct wire_frame *f = malloc(sizeof *f);
  REQUIRE(f != NULL, "no memory");
  struct wire_body body = {.number = (uint64_t)c->link->number << 32 | c->frames_sent,
                           .kind = kind};
  if (kind == WIRE_HELLO) body.number = (uint64_t)c->link->number << 32;
  wire_make(f, c->link->protocol, &body, 0, filler_size);
  if (c->out_size + f->size <= OUT_BYTES_MAX) {
    client_put(c, f->bytes, f->size);
    if (kind != WIRE_HELLO) c->frames_sent++;
  }
  free(f);
}

/* ---------------------------------------------------------------- acknowledging */

static void client_ack_packet(struct client *c, unsigned type, uint16_t id) {
  const uint8_t packet[4] = {(uint8_t)type, 2, (uint8_t)(id >> 8), (uint8_t)id};
  client_put(c, packet, sizeof packet);
}

static void client_note_message(struct client *c, uint16_t id, unsigned qos) {
  const struct link *l = c->link;
  CHECK(id != 0, "link %u: no packet id", l->number);
  for (uint32_t i = 0; i < c->ack_count; i++) {
    CHECK(c->acks[i].id != id, "link %u: id %u is in flight", l->number, id);
  }
  CHECK(c->ack_count < l->inflight_max, "link %u: %u in flight, %u may be", l->number,
        c->ack_count + 1, l->inflight_max);
  if (c->ack_count == ACKS_MAX) return;
  uint64_t due_ms = clock_ms() + random_below(&c->seed, 10);
  c->acks[c->ack_count++] = (struct ack){.due_ms = due_ms, .id = id, .qos = (uint8_t)qos};
}

static void client_note_release(struct client *c, uint16_t id) {
  for (uint32_t i = 0; i < c->ack_count; i++) {
    if (c->acks[i].id != id) continue;
    CHECK(c->acks[i].qos == 2 && c->acks[i].state == ACK_RECEIVED, "link %u: PUBREL %u",
          c->link->number, id);
    c->acks[i].state = ACK_RELEASED;
    return;
  }
  CHECK(c->link->role == ROLE_ROGUE, "link %u: PUBREL of %u", c->link->number, id);
}

/* Acknowledges what is due, in whatever order that is. */
static void client_acknowledge(struct client *c, uint64_t now_ms) {
  for (uint32_t i = 0; i < c->ack_count;) {
    struct ack *a = &c->acks[i];
    int is_over = a->qos == 1 || a->state == ACK_RELEASED;
    if (a->state == ACK_RECEIVED || a->due_ms > now_ms || c->out_size + 4 > OUT_BYTES_MAX) {
      i++;
      continue;
    }
    unsigned type = a->qos == 1 ? MQTT_PUBACK : is_over ? MQTT_PUBCOMP : MQTT_PUBREC;
    client_ack_packet(c, type, a->id);
    if (is_over) {
      *a = c->acks[--c->ack_count];
    } else {
      a->state = ACK_RECEIVED;
      i++;
    }
  }
}

/* ---------------------------------------------------------------- reading */

static void client_message(struct client *c, const struct wire_found *f) {
  struct link *l = c->link;
  const struct wire_body *b = &f->body;
  if (f->packet_id != 0 || f->qos > 0) client_note_message(c, f->packet_id, f->qos);
  atomic_fetch_add(&l->bytes_taken, b->key == 0 ? f->size : 0);
  if (b->key != 0) {
    CHECK(b->key <= KEYS && b->number > c->key_last[b->key - 1], "link %u: key %u", l->number,
          b->key);
    c->key_last[(b->key - 1) % KEYS] = b->number;
  } else if (b->seq != 0) {
    CHECK(b->seq > c->seq_last, "link %u: %llu comes after %llu", l->number,
          (unsigned long long)b->seq, (unsigned long long)c->seq_last);
    c->seq_last = b->seq;
    if (client_is_exact(c)) numbers_take(l, &l->stored, b->seq, "stored message");
  } else {
    CHECK(b->number > c->droppable_last, "link %u: %llu comes after %llu", l->number,
          (unsigned long long)b->number, (unsigned long long)c->droppable_last);
    c->droppable_last = b->number;
    if (client_is_exact(c)) numbers_take(l, &l->droppable, b->number, "message");
  }
}

static void client_shared(struct client *c, const struct wire_found *f) {
  client_note_message(c, f->packet_id, f->qos);
  CHECK(f->body.number > c->shared_last, "link %u: shared %llu after %llu", c->link->number,
        (unsigned long long)f->body.number, (unsigned long long)c->shared_last);
  c->shared_last = f->body.number;
  atomic_fetch_add(&c->link->shared_taken, 1);
}

/* After the last words there is nothing; before them, everything. */
static void client_last_words(struct client *c) {
  struct link *l = c->link;
  c->saw_last = 1;
  if (!client_is_exact(c)) return;
  pthread_mutex_lock(&l->lock);
  CHECK(l->droppable.taken == l->droppable.count, "link %u: %u of %u messages", l->number,
        l->droppable.taken, l->droppable.count);
  if (!atomic_load(&l->is_kicked)) {
    CHECK(l->stored.taken == l->stored.count, "link %u: %u of %u stored messages", l->number,
          l->stored.taken, l->stored.count);
    uint32_t taken = atomic_load(&l->shared_taken), acked = atomic_load(&l->shared_acked);
    CHECK(taken == acked, "link %u: %u shared messages, %u acknowledged", l->number, taken, acked);
  }
  for (uint32_t i = 0; i < KEYS; i++) {
    CHECK(c->key_last[i] == l->key_last[i], "link %u: key %u ends with %llu", l->number, i + 1,
          (unsigned long long)c->key_last[i]);
  }
  pthread_mutex_unlock(&l->lock);
}

static void client_take(struct client *c, const struct wire_found *f, const uint8_t *bytes) {
  struct link *l = c->link;
  CHECK(!c->saw_last && !c->saw_busy, "link %u: more after the last words", l->number);
  if (!f->has_body) {
    uint16_t id = (uint16_t)(bytes[2] << 8 | bytes[3]);
    if (f->type == MQTT_PUBREL && f->size == 4) client_note_release(c, id);
    else if (f->type == MQTT_PINGRESP || f->type == (0x100u | LONGWIRE_HEARTBEAT)) c->beats_in++;
    else if (f->size == 5) c->saw_busy = 1;
    else CHECK(0, "link %u: frame of type %x", l->number, f->type);
    return;
  }
  if (f->body.kind == WIRE_MESSAGE) return client_message(c, f);
  if (f->body.kind == WIRE_SHARED) return client_shared(c, f);
  uint64_t number = (uint64_t)l->number << 32 | c->welcomes++;
  int is_stranger = f->body.number == 0 && f->body.kind == WIRE_LAST; /* it never said who it is */
  CHECK(f->body.number == number || is_stranger, "link %u: SEND %llx instead of %llx", l->number,
        (unsigned long long)f->body.number, (unsigned long long)number);
  if (f->body.kind == WIRE_LAST) client_last_words(c);
}

/* Returns 1 while the connection lives, 0 when it has ended in order, -1 when it was reset. */
static int client_read(struct client *c) {
  for (int round = 0; round < 8; round++) {
    uint32_t most = IN_BYTES - c->in_size;
    if (random_chance(&c->seed, 10)) most = 1 + random_below(&c->seed, most < 200 ? most : 200);
    ssize_t size = recv(c->fd, c->in + c->in_size, most, MSG_DONTWAIT);
    if (size < 0) return errno == EAGAIN || errno == EINTR ? 1 : -1;
    if (size == 0) return 0;
    c->in_size += (uint32_t)size;
    uint32_t at = 0;
    struct wire_found f;
    while (at < c->in_size) {
      int error = wire_read(c->link->protocol, c->in + at, c->in_size - at, &f);
      CHECK(error == 0, "link %u: was sent garbage", c->link->number);
      if (error != 0) return -1;
      if (f.size == 0) break;
      client_take(c, &f, c->in + at);
      at += f.size;
    }
    c->in_size -= at;
    memmove(c->in, c->in + at, c->in_size);
  }
  return 1;
}

#include "hammer_client_roles.h"

#endif
