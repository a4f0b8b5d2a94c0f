/* Longwire client for small devices: see longwire.h. The protocol is core/protocol/longwire.proto
 * behind frames of u32 length, u8 type; here it is read and written field by field, in place. */
#include "longwire.h"

#include <string.h>

enum frame_type {
  FRAME_HEARTBEAT = 0x01,
  FRAME_HELLO = 0x02,
  FRAME_WELCOME = 0x03,
  FRAME_REFUSE = 0x04,
  FRAME_SUBSCRIBE = 0x05,
  FRAME_SUBSCRIBED = 0x06,
  FRAME_MESSAGE = 0x09,
  FRAME_ACK = 0x0a,
  FRAME_PUBLISH = 0x0b,
  FRAME_PUBLISHED = 0x0c,
  FRAME_STATUS = 0x0d,
  FRAME_REDIRECT = 0x0f,
  FRAME_GOODBYE = 0x10,
  FRAME_GAP = 0x11,
};

/* Of core/codes.ts, those after which trying again does not help. */
enum code {
  CODE_UNSUPPORTED_PROTOCOL = 8,
  CODE_TAKEN_OVER = 12,
  CODE_FILTER_INVALID = 14,
  CODE_UNAUTHORIZED = 15,
  CODE_FORBIDDEN = 16,
  CODE_CLIENT_ID_INVALID = 26,
};

#define HEADER_BYTES 5u
#define CONNECT_TIMEOUT_MS 10000u
#define STABLE_MS 10000u
#define MISSED_MAX 3u
#define OUT_BYTES_MIN 512u
/* Reads of one poll: a stream that never pauses must not keep heartbeats and answers back. */
#define READS_MAX 16

/* ------------------------------------------------------------------ writing */

struct writer {
  uint8_t *begin, *at, *end;
  int is_full;
};

static void put_byte(struct writer *w, uint8_t byte) {
  if (w->at < w->end) *w->at++ = byte;
  else w->is_full = 1;
}

static void put_varint(struct writer *w, uint64_t value) {
  for (; value > 0x7f; value >>= 7) put_byte(w, (uint8_t)(value | 0x80));
  put_byte(w, (uint8_t)value);
}

/* A field that is 0 is not written. */
static void put_number(struct writer *w, unsigned field, uint64_t value) {
  if (value == 0) return;
  put_byte(w, (uint8_t)(field << 3));
  put_varint(w, value);
}

static void put_bytes(struct writer *w, unsigned field, const void *bytes, size_t size) {
  if (size == 0) return;
  put_byte(w, (uint8_t)(field << 3 | 2));
  put_varint(w, size);
  if (size > (size_t)(w->end - w->at)) {
    w->is_full = 1;
    return;
  }
  memcpy(w->at, bytes, size);
  w->at += size;
}

static void put_text(struct writer *w, unsigned field, const char *text) {
  if (text != NULL) put_bytes(w, field, text, strlen(text));
}

static size_t varint_bytes(uint64_t value) {
  size_t size = 1;
  for (; value > 0x7f; value >>= 7) size++;
  return size;
}

static void put_u32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
}

static struct writer frame_begin(struct longwire *c) {
  uint8_t *begin = c->options.out + c->out_used;
  struct writer w = {begin, begin + HEADER_BYTES, c->options.out + c->options.out_size, 0};
  if ((size_t)(w.end - begin) < HEADER_BYTES) {
    w.at = w.end;
    w.is_full = 1;
  }
  return w;
}

/* Queues the frame whole, or not at all. */
static int frame_end(struct longwire *c, struct writer *w, enum frame_type type) {
  if (w->is_full) return -1;
  put_u32(w->begin, (uint32_t)(w->at - w->begin) - HEADER_BYTES);
  w->begin[4] = (uint8_t)type;
  c->out_used = (size_t)(w->at - c->options.out);
  return 0;
}

/* ------------------------------------------------------------------ reading */

struct reader {
  const uint8_t *at, *end;
};

struct field {
  unsigned number;
  uint64_t value;       /* of numbers */
  const uint8_t *bytes; /* of what has a size; NULL = it is a number */
  size_t size;
};

static int get_varint(struct reader *r, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 70 && r->at < r->end; shift += 7) {
    uint8_t byte = *r->at++;
    if (shift < 64) *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return 1;
  }
  return 0;
}

/* 1 = a field, 0 = there is none left, -1 = malformed. */
static int get_field(struct reader *r, struct field *f) {
  uint64_t tag, size = 0;
  if (r->at == r->end) return 0;
  if (!get_varint(r, &tag) || tag >> 3 == 0 || tag >> 32 != 0) return -1;
  *f = (struct field){.number = (unsigned)(tag >> 3)};
  switch (tag & 7) {
  case 0:
    return get_varint(r, &f->value) ? 1 : -1;
  case 1:
    size = 8;
    break;
  case 2:
    if (!get_varint(r, &size)) return -1;
    break;
  case 5:
    size = 4;
    break;
  default:
    return -1;
  }
  if (size > (uint64_t)(r->end - r->at)) return -1;
  f->bytes = r->at;
  f->size = (size_t)size;
  r->at += f->size;
  return 1;
}

/* Text with its end; "" when it does not fit. */
static void copy_text(char *out, size_t out_size, const struct field *f) {
  size_t size = f->bytes != NULL && f->size < out_size ? f->size : 0;
  if (size > 0) memcpy(out, f->bytes, size);
  out[size] = 0;
}

/* ------------------------------------------------------------------ the connection */

/* xorshift32: for jitter only. */
static uint32_t next_random(struct longwire *c) {
  c->random ^= c->random << 13;
  c->random ^= c->random >> 17;
  c->random ^= c->random << 5;
  return c->random;
}

/* A share of a time, at random. */
static uint64_t random_part(struct longwire *c, uint64_t ms) {
  return ms * (next_random(c) >> 16) / 0xffff;
}

/* As long as the backoff says, with the spread that a fleet needs, never all devices at once. */
static uint64_t own_delay(struct longwire *c) {
  uint64_t ms = (uint64_t)LONGWIRE_BACKOFF_BASE_MS << (c->attempt < 16 ? c->attempt : 16);
  if (ms > LONGWIRE_BACKOFF_CAP_MS) ms = LONGWIRE_BACKOFF_CAP_MS;
#ifdef LONGWIRE_FULL_JITTER
  return random_part(c, ms);
#else
  return ms + random_part(c, ms * LONGWIRE_JITTER_PERCENT / 100);
#endif
}

static int is_final(uint32_t code) {
  switch (code) {
  case CODE_UNSUPPORTED_PROTOCOL:
  case CODE_TAKEN_OVER:
  case CODE_FILTER_INVALID:
  case CODE_UNAUTHORIZED:
  case CODE_FORBIDDEN:
  case CODE_CLIENT_ID_INVALID:
    return 1;
  default:
    return 0;
  }
}

static void drop(struct longwire *c) {
  c->options.transport->close(c->options.transport_context);
  c->in_used = c->out_used = 0;
  c->skip = 0;
}

/* The connection is over. `after_ms`: as long as the service asked for; 0 = it did not. */
static void fail(struct longwire *c, uint32_t code, uint64_t after_ms) {
  uint64_t now_ms = c->options.monotonic_ms();
  drop(c);
  c->code = code;
  if (is_final(code)) {
    c->state = LONGWIRE_STOPPED;
    return;
  }
  if (c->state == LONGWIRE_READY && now_ms >= c->stable_ms) c->attempt = 0;
  uint64_t delay_ms = own_delay(c);
  /* What was asked for is never undercut. */
  uint64_t asked_ms = after_ms + random_part(c, after_ms * LONGWIRE_JITTER_PERCENT / 100);
  if (c->attempt < 0xffff) c->attempt++;
  c->next_ms = now_ms + (delay_ms > asked_ms ? delay_ms : asked_ms);
  c->state = LONGWIRE_WAITING;
}

/* The service sends us to `host:port`, within `within_ms`. */
static void follow(struct longwire *c, const struct field *address, uint32_t code,
                   uint64_t within_ms) {
  char text[LONGWIRE_HOST_MAX];
  copy_text(text, sizeof text, address);
  char *colon = strrchr(text, ':');
  uint32_t port = 0;
  for (const char *at = colon; at != NULL && *++at != 0;) {
    if (*at < '0' || *at > '9' || port > 65535) return fail(c, code, within_ms);
    port = port * 10 + (uint32_t)(*at - '0');
  }
  fail(c, code, within_ms);
  if (colon == NULL || port == 0 || port > 65535 || c->attempt > 4) return;
  *colon = 0;
  memcpy(c->host, text, sizeof c->host);
  c->port = (uint16_t)port;
  c->next_ms = c->options.monotonic_ms() + random_part(c, within_ms / 2);
  c->state = LONGWIRE_WAITING;
}

static void say_hello(struct longwire *c) {
  const struct longwire_options *o = &c->options;
  struct writer w = frame_begin(c);
  put_text(&w, 1, o->session_id);
  put_text(&w, 2, o->token);
  put_number(&w, 3, 1); /* version of the protocol */
  put_number(&w, 4, o->keepalive_s);
  if (c->cursor.epoch[0] != 0) {
    size_t epoch_size = strlen(c->cursor.epoch);
    size_t size = 2 + epoch_size;
    if (c->cursor.offset > 0) size += 1 + varint_bytes(c->cursor.offset);
    put_byte(&w, 5 << 3 | 2);
    put_varint(&w, size);
    put_bytes(&w, 1, c->cursor.epoch, epoch_size);
    put_number(&w, 2, c->cursor.offset);
  }
  put_text(&w, 8, c->secret);
  if (frame_end(c, &w, FRAME_HELLO) < 0) return fail(c, 0, 0);
  c->heard_ms = o->monotonic_ms();
  c->state = LONGWIRE_GREETING;
}

static void subscribe(struct longwire *c) {
  size_t size = strlen(c->options.filter);
  struct writer w = frame_begin(c);
  put_number(&w, 1, 1);
  put_byte(&w, 2 << 3 | 2);
  put_varint(&w, 1 + varint_bytes(size) + size + 2);
  put_bytes(&w, 1, c->options.filter, size);
  put_number(&w, 2, 1);
  if (frame_end(c, &w, FRAME_SUBSCRIBE) < 0) fail(c, 0, 0);
}

/* ------------------------------------------------------------------ what comes */

static void on_welcome(struct longwire *c, struct reader *r) {
  char epoch[LONGWIRE_EPOCH_MAX] = "";
  uint64_t keepalive_s = 0, head = 0, resumed = 0;
  struct field f;
  int got;
  while ((got = get_field(r, &f)) > 0) {
    if (f.number == 2) copy_text(epoch, sizeof epoch, &f);
    else if (f.number == 4) c->clock_ms = (int64_t)(f.value - c->options.wall_ms());
    else if (f.number == 5) keepalive_s = f.value;
    else if (f.number == 6) resumed = f.value;
    else if (f.number == 7) copy_text(c->secret, sizeof c->secret, &f);
    else if (f.number == 8) head = f.value;
  }
  if (got < 0 || c->state != LONGWIRE_GREETING) return fail(c, 0, 0);
  if (strcmp(epoch, c->cursor.epoch) != 0) {
    /* Another log, or the first: what is new to the service begins at its head. */
    c->cursor.offset = resumed ? 0 : head;
    memcpy(c->cursor.epoch, epoch, sizeof epoch);
  }
  uint64_t now_ms = c->options.monotonic_ms();
  c->acked = c->cursor.offset;
  c->keepalive_ms = (uint32_t)(keepalive_s == 0 || keepalive_s > 65535 ? 10 : keepalive_s) * 1000;
  c->beat_ms = now_ms + c->keepalive_ms;
  c->stable_ms = now_ms + STABLE_MS;
  c->code = 0;
  c->state = LONGWIRE_READY;
  if (!resumed) c->subscribed = 0;
  if (!c->subscribed && c->options.filter != NULL) subscribe(c);
}

static void on_message(struct longwire *c, struct reader *r) {
  struct longwire_message m = {.topic = ""};
  struct field f;
  int got;
  while ((got = get_field(r, &f)) > 0) {
    switch (f.number) {
    case 1:
      m.topic = f.bytes != NULL ? (const char *)f.bytes : "";
      m.topic_size = f.size;
      break;
    case 2:
      m.payload = f.bytes;
      m.payload_size = f.size;
      break;
    case 3:
      m.offset = f.value;
      break;
    case 4:
      m.qos = (uint8_t)f.value;
      break;
    case 5:
      m.time_ms = f.value;
      break;
    case 6:
      m.retained = f.value != 0;
      break;
    default:
      break;
    }
  }
  if (got < 0) return fail(c, 0, 0);
  /* A retained message is a copy of one that was published before: it says nothing of our place. */
  int is_in_order = m.offset > 0 && m.qos > 0 && !m.retained;
  if (is_in_order && m.offset <= c->cursor.offset) return;
  if (c->options.on_message(c->options.user, &m) != 0) return fail(c, 0, 0);
  if (is_in_order) c->cursor.offset = m.offset;
}

static void on_published(struct longwire *c, struct reader *r) {
  uint64_t request_id = 0, code = 0;
  struct field f;
  int got;
  while ((got = get_field(r, &f)) > 0) {
    if (f.number == 1) request_id = f.value;
    else if (f.number == 2) code = f.value;
  }
  if (got < 0) return fail(c, 0, 0);
  if (c->options.on_published == NULL) return;
  c->options.on_published(c->options.user, (uint32_t)request_id, (uint32_t)code);
}

static void on_subscribed(struct longwire *c, struct reader *r) {
  struct field f;
  uint64_t code = 0;
  int got;
  while ((got = get_field(r, &f)) > 0) {
    if (f.number != 2) continue;
    struct reader packed = {f.bytes, f.bytes + f.size};
    if (f.bytes == NULL) code = f.value;
    else if (f.size > 0 && !get_varint(&packed, &code)) return fail(c, 0, 0);
  }
  if (got < 0) return fail(c, 0, 0);
  if (code != 0) return fail(c, (uint32_t)code, 0);
  c->subscribed = 1;
}

static void on_gap(struct longwire *c, struct reader *r) {
  uint64_t from = 0, to = 0;
  struct field f;
  int got;
  while ((got = get_field(r, &f)) > 0) {
    if (f.number == 2) from = f.value;
    else if (f.number == 3) to = f.value;
  }
  if (got < 0) return fail(c, 0, 0);
  if (c->options.on_gap != NULL) c->options.on_gap(c->options.user, from, to);
}

/* Refuse, Goodbye and Redirect: the connection is over. */
static void on_end(struct longwire *c, struct reader *r, enum frame_type type) {
  struct field f, address = {0};
  uint64_t code = 0, after_ms = 0;
  int got;
  while ((got = get_field(r, &f)) > 0) {
    if (type == FRAME_REDIRECT) {
      if (f.number == 1) address = f;
      else if (f.number == 2) code = f.value;
    } else if (f.number == 1) {
      code = f.value;
    }
    if (f.number == 3) after_ms = f.value;
    else if (f.number == 4 && type == FRAME_REFUSE) address = f;
  }
  if (got < 0) return fail(c, 0, 0);
  if (address.size > 0) follow(c, &address, (uint32_t)code, after_ms);
  else fail(c, (uint32_t)code, after_ms);
}

static void on_frame(struct longwire *c, unsigned type, const uint8_t *body, size_t size) {
  struct reader r = {body, body + size};
  if (type == FRAME_WELCOME) return on_welcome(c, &r);
  if (type == FRAME_REFUSE || type == FRAME_REDIRECT || type == FRAME_GOODBYE) {
    return on_end(c, &r, (enum frame_type)type);
  }
  if (c->state != LONGWIRE_READY) return;
  if (type == FRAME_MESSAGE) on_message(c, &r);
  else if (type == FRAME_PUBLISHED) on_published(c, &r);
  else if (type == FRAME_SUBSCRIBED) on_subscribed(c, &r);
  else if (type == FRAME_GAP) on_gap(c, &r);
  /* Of what a newer service may say, nothing has to be known. */
}

static int is_connected(const struct longwire *c) {
  return c->state == LONGWIRE_GREETING || c->state == LONGWIRE_READY;
}

/* Deals with the whole frames in `in`, and keeps the rest. */
static void consume(struct longwire *c) {
  uint8_t *in = c->options.in;
  size_t at = 0;
  while (is_connected(c) && c->in_used - at >= HEADER_BYTES) {
    unsigned type = in[at + 4];
    uint32_t size = 0;
    for (int i = 0; i < 4; i++) size |= (uint32_t)in[at + (size_t)i] << 8 * i;
    if (type == FRAME_HEARTBEAT) size = 0;
    size_t have = c->in_used - at - HEADER_BYTES;
    if (size > c->options.in_size - HEADER_BYTES) {
      c->passed_over++;
      c->skip = size > have ? size - (uint32_t)have : 0;
      at += HEADER_BYTES + (size > have ? have : size);
      continue;
    }
    if (size > have) break;
    on_frame(c, type, in + at + HEADER_BYTES, size);
    at += HEADER_BYTES + size;
  }
  if (!is_connected(c)) return;
  memmove(in, in + at, c->in_used - at);
  c->in_used -= at;
}

/* ------------------------------------------------------------------ moving bytes */

static void acknowledge(struct longwire *c) {
  if (c->state != LONGWIRE_READY || c->cursor.offset <= c->acked) return;
  struct writer w = frame_begin(c);
  put_number(&w, 1, c->cursor.offset);
  if (frame_end(c, &w, FRAME_ACK) == 0) c->acked = c->cursor.offset;
}

static void flush(struct longwire *c) {
  const struct longwire_options *o = &c->options;
  size_t at = 0;
  while (at < c->out_used) {
    long sent = o->transport->send(o->transport_context, o->out + at, c->out_used - at);
    if (sent < 0) return fail(c, 0, 0);
    if (sent == 0) break;
    at += (size_t)sent;
  }
  memmove(o->out, o->out + at, c->out_used - at);
  c->out_used -= at;
}

static void receive(struct longwire *c) {
  const struct longwire_options *o = &c->options;
  for (int reads = 0; reads < READS_MAX && is_connected(c); reads++) {
    uint8_t *room = o->in + c->in_used;
    long got = o->transport->receive(o->transport_context, room, o->in_size - c->in_used);
    if (got < 0) return fail(c, 0, 0);
    if (got == 0) return;
    c->heard_ms = o->monotonic_ms();
    size_t size = (size_t)got, skipped = size < c->skip ? size : c->skip;
    c->skip -= (uint32_t)skipped;
    memmove(room, room + skipped, size - skipped);
    c->in_used += size - skipped;
    consume(c);
  }
}

static void beat(struct longwire *c, uint64_t now_ms) {
  if (c->state == LONGWIRE_READY && now_ms >= c->beat_ms) {
    struct writer w = frame_begin(c);
    if (frame_end(c, &w, FRAME_HEARTBEAT) == 0) {
      put_u32(w.begin, (uint32_t)(longwire_time_ms(c) / 1000));
      c->beat_ms = now_ms + c->keepalive_ms;
    }
  }
  uint64_t silence_ms =
      c->state == LONGWIRE_READY ? (uint64_t)c->keepalive_ms * MISSED_MAX : CONNECT_TIMEOUT_MS;
  if (now_ms - c->heard_ms > silence_ms) fail(c, 0, 0);
}

static void connect_on(struct longwire *c, uint64_t now_ms) {
  const struct longwire_options *o = &c->options;
  int is_sent_away = c->host[0] != 0;
  const char *host = is_sent_away ? c->host : o->host;
  int opened = o->transport->open(o->transport_context, host, is_sent_away ? c->port : o->port);
  if (opened == 0 && now_ms < c->next_ms) return;
  c->host[0] = 0; /* once: should it fail there, we begin where we began */
  if (opened > 0) say_hello(c);
  else fail(c, 0, 0);
}

/* ------------------------------------------------------------------ for the application */

int longwire_init(struct longwire *c, const struct longwire_options *options) {
  const struct longwire_options *o = options;
  if (o->host == NULL || o->transport == NULL || o->in == NULL || o->out == NULL) return -1;
  if (o->wall_ms == NULL || o->monotonic_ms == NULL || o->on_message == NULL) return -1;
  if (o->in_size < OUT_BYTES_MIN || o->out_size < OUT_BYTES_MIN) return -1;
  *c = (struct longwire){.options = *o};
  c->random = o->seed != 0 ? o->seed : 0x9e3779b9u;
  return 0;
}

enum longwire_state longwire_poll(struct longwire *c) {
  uint64_t now_ms = c->options.monotonic_ms();
  if (c->state == LONGWIRE_WAITING && now_ms >= c->next_ms) {
    c->next_ms = now_ms + CONNECT_TIMEOUT_MS;
    c->state = LONGWIRE_CONNECTING;
  }
  if (c->state == LONGWIRE_CONNECTING) connect_on(c, now_ms);
  if (is_connected(c)) receive(c);
  if (is_connected(c)) acknowledge(c);
  if (is_connected(c)) beat(c, c->options.monotonic_ms());
  if (is_connected(c)) flush(c);
  return c->state;
}

long longwire_publish(struct longwire *c, const char *topic, const void *payload, size_t size,
                      int qos) {
  if (c->state != LONGWIRE_READY) return -1;
  uint32_t request_id = qos > 0 ? c->requests % 0x7fffffffu + 1 : 0;
  struct writer w = frame_begin(c);
  put_text(&w, 1, topic);
  put_bytes(&w, 2, payload, size);
  put_number(&w, 3, request_id);
  put_number(&w, 4, qos > 0 ? 1 : 0);
  if (frame_end(c, &w, FRAME_PUBLISH) < 0) return -1;
  if (qos > 0) c->requests++;
  return (long)request_id;
}

int longwire_report(struct longwire *c, uint32_t node_id, int32_t load_percent) {
  if (c->state != LONGWIRE_READY) return -1;
  struct writer w = frame_begin(c);
  put_number(&w, 1, longwire_time_ms(c));
  put_byte(&w, 2 << 3 | 5); /* fixed32 */
  for (int i = 0; i < 4; i++) put_byte(&w, (uint8_t)(node_id >> 8 * i));
  /* sint32: zigzag */
  uint32_t zigzag = (uint32_t)load_percent << 1 ^ (load_percent < 0 ? 0xffffffffu : 0);
  put_number(&w, 3, zigzag);
  return frame_end(c, &w, FRAME_STATUS);
}

uint64_t longwire_time_ms(const struct longwire *c) {
  return c->options.wall_ms() + (uint64_t)c->clock_ms;
}

void longwire_stop(struct longwire *c) {
  if (c->state == LONGWIRE_READY) {
    acknowledge(c);
    struct writer w = frame_begin(c);
    if (frame_end(c, &w, FRAME_GOODBYE) == 0) flush(c);
  }
  if (c->state != LONGWIRE_STOPPED) drop(c);
  c->state = LONGWIRE_STOPPED;
}

/* ------------------------------------------------------------------ TCP */

#ifndef LONGWIRE_NO_TCP
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static void tcp_close(void *context) {
  struct longwire_tcp *tcp = context;
  if (tcp->fd >= 0) close(tcp->fd);
  tcp->fd = -1;
}

static int tcp_begin(struct longwire_tcp *tcp, const char *host, uint16_t port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  int yes = 1;
  if (inet_pton(AF_INET, host, &to.sin_addr) != 1) return -1;
  tcp->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (tcp->fd < 0) return -1;
  int flags = fcntl(tcp->fd, F_GETFL);
  if (flags < 0 || fcntl(tcp->fd, F_SETFL, flags | O_NONBLOCK) < 0) return -1;
  setsockopt(tcp->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (connect(tcp->fd, (struct sockaddr *)&to, sizeof to) == 0) return 1;
  return errno == EINPROGRESS ? 0 : -1;
}

static int tcp_open(void *context, const char *host, uint16_t port) {
  struct longwire_tcp *tcp = context;
  if (tcp->fd < 0) return tcp_begin(tcp, host, port);
  struct pollfd ready = {.fd = tcp->fd, .events = POLLOUT};
  if (poll(&ready, 1, 0) <= 0) return 0;
  int problem = 0;
  socklen_t size = sizeof problem;
  if (getsockopt(tcp->fd, SOL_SOCKET, SO_ERROR, &problem, &size) < 0) return -1;
  return problem == 0 ? 1 : -1;
}

static long tcp_moved(ssize_t size) {
  if (size > 0) return (long)size;
  return size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
}

static long tcp_send(void *context, const uint8_t *bytes, size_t size) {
  const struct longwire_tcp *tcp = context;
  return tcp_moved(send(tcp->fd, bytes, size, MSG_NOSIGNAL));
}

static long tcp_receive(void *context, uint8_t *bytes, size_t size) {
  const struct longwire_tcp *tcp = context;
  return tcp_moved(recv(tcp->fd, bytes, size, 0));
}

const struct longwire_transport longwire_tcp_transport = {tcp_open, tcp_send, tcp_receive,
                                                          tcp_close};
#endif
