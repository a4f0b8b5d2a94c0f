/* HTTP/1.1 publishes as more protocols of the load generator: a request is a message, or a batch of
 * them in JSON or NDJSON, its answer 200 the acknowledgement, and a connection is kept alive.
 * Nothing can be subscribed to. */
#ifndef LONGWIRE_BENCH_FRAMING_HTTP_H
#define LONGWIRE_BENCH_FRAMING_HTTP_H

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "framing.h"

#define HTTP_HEAD_BYTES_MAX 4096u
/* Messages of one batch: as many as a frame of the load generator has room for. */
#define HTTP_BATCH_MESSAGES 256u
#define HTTP_BATCH_PAYLOAD_BYTES_MAX 128u
#define HTTP_ANSWER_BYTES_MAX (128u << 10)

static inline size_t http_publish(uint8_t *out, const struct frame *message) {
  int head = snprintf((char *)out, HTTP_HEAD_BYTES_MAX,
                      "POST /v1/topics/%.*s?qos=%u HTTP/1.1\r\nhost: localhost\r\n"
                      "content-length: %zu\r\n\r\n",
                      (int)message->topic_bytes, (const char *)message->topic, message->qos,
                      message->payload_bytes);
  put_bytes(out + head, message->payload, message->payload_bytes);
  return (size_t)head + message->payload_bytes;
}

/* A connection has no words of its own for a heartbeat or a goodbye. */
static inline size_t http_nothing(uint8_t *out) {
  (void)out;
  return 0;
}

/* Bytes of the body that a head announces; -1 = none, or in a form that is not expected here. */
static inline long http_body_bytes(const char *head, size_t head_bytes) {
  static const char name[] = "content-length:";
  const char *end = head + head_bytes;
  for (const char *line = head; line < end; line++) {
    if ((size_t)(end - line) < sizeof name) break;
    if (!strncasecmp(line, name, sizeof name - 1)) return strtol(line + sizeof name - 1, NULL, 10);
    line = memchr(line, '\n', (size_t)(end - line));
    if (!line) break;
  }
  return -1;
}

/* Bytes of a chunked body (RFC 9112 section 7.1), its end included; 0 = not complete yet, -1 =
 * malformed. */
static inline long http_chunked_bytes(const uint8_t *in, size_t in_bytes) {
  for (size_t at = 0;;) {
    const char *line = (const char *)in + at;
    const char *end = memchr(line, '\n', in_bytes - at);
    if (!end) return in_bytes - at > 32 ? -1 : 0;
    char *digits_end;
    unsigned long size = strtoul(line, &digits_end, 16);
    if (digits_end == line || size > HTTP_ANSWER_BYTES_MAX) return -1;
    at += (size_t)(end - line) + 1 + size + 2;
    if (at > in_bytes) return 0;
    if (size == 0) return (long)at;
  }
}

static inline long http_cut(const uint8_t *in, size_t in_bytes, struct frame *out) {
  static const char success[] = "HTTP/1.1 200 ", refusal[] = "\"code\":";
  const uint8_t *end = memmem(in, in_bytes, "\r\n\r\n", 4);
  if (!end) return in_bytes > HTTP_HEAD_BYTES_MAX ? -1 : 0;
  size_t head_bytes = (size_t)(end - in) + 4;
  long body_bytes = http_body_bytes((const char *)in, head_bytes);
  if (head_bytes < sizeof success || body_bytes > (long)HTTP_ANSWER_BYTES_MAX) return -1;
  if (body_bytes < 0) { /* of a length that was not known before */
    body_bytes = http_chunked_bytes(in + head_bytes, in_bytes - head_bytes);
    if (body_bytes <= 0) return body_bytes;
  }
  if (in_bytes - head_bytes < (size_t)body_bytes) return 0;
  bool is_good = !memcmp(in, success, sizeof success - 1) &&
                 !memmem(in + head_bytes, (size_t)body_bytes, refusal, sizeof refusal - 1);
  static const char ends[] = "connection: close";
  bool is_last = memmem(in, head_bytes, ends, sizeof ends - 1) != NULL;
  *out = (struct frame){.kind = is_good ? FRAME_ACK : FRAME_OTHER, .is_last = is_last};
  return (long)head_bytes + body_bytes;
}

/* One message of a batch. The payload is text: what is published is counted, not what is in it. */
static inline size_t http_item(char *out, const struct frame *message) {
  char *end = out + sprintf(out, "{\"topic\":\"%.*s\",\"qos\":%u,\"payload\":\"",
                            (int)message->topic_bytes, (const char *)message->topic, message->qos);
  memset(end, 'x', message->payload_bytes);
  end += message->payload_bytes;
  *end++ = '"';
  *end++ = '}';
  return (size_t)(end - out);
}

static inline size_t http_batch(uint8_t *out, const struct frame *message, bool is_ndjson) {
  static char body[HTTP_BATCH_MESSAGES * (HTTP_BATCH_PAYLOAD_BYTES_MAX + TOPIC_BYTES_MAX + 64)];
  char *end = body;
  if (message->payload_bytes > HTTP_BATCH_PAYLOAD_BYTES_MAX) abort(); /* usage() has said so */
  if (!is_ndjson) *end++ = '[';
  for (uint32_t i = 0; i < HTTP_BATCH_MESSAGES; i++) {
    end += http_item(end, message);
    *end++ = is_ndjson ? '\n' : ',';
  }
  if (!is_ndjson) end[-1] = ']';
  int head = snprintf((char *)out, HTTP_HEAD_BYTES_MAX,
                      "POST /v1/publish HTTP/1.1\r\nhost: localhost\r\n"
                      "content-type: application/%s\r\ncontent-length: %zu\r\n\r\n",
                      is_ndjson ? "x-ndjson" : "json", (size_t)(end - body));
  put_bytes(out + head, body, (size_t)(end - body));
  return (size_t)head + (size_t)(end - body);
}

static inline size_t http_publish_json(uint8_t *out, const struct frame *message) {
  return http_batch(out, message, false);
}

static inline size_t http_publish_ndjson(uint8_t *out, const struct frame *message) {
  return http_batch(out, message, true);
}

static const struct framing framing_http = {
    .name = "http",
    .messages_per_frame = 1,
    .acks_have_ids = false,
    .publish = http_publish,
    .ping = http_nothing,
    .goodbye = http_nothing,
    .cut = http_cut,
};

static const struct framing framing_http_json = {
    .name = "http-json",
    .messages_per_frame = HTTP_BATCH_MESSAGES,
    .acks_have_ids = false,
    .publish = http_publish_json,
    .ping = http_nothing,
    .goodbye = http_nothing,
    .cut = http_cut,
};

static const struct framing framing_http_ndjson = {
    .name = "http-ndjson",
    .messages_per_frame = HTTP_BATCH_MESSAGES,
    .acks_have_ids = false,
    .publish = http_publish_ndjson,
    .ping = http_nothing,
    .goodbye = http_nothing,
    .cut = http_cut,
};

#endif
