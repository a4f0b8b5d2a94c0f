/* HTTP/1.1 publishes as one more protocol of the load generator: a request is a message, its answer
 * 200 the acknowledgement, and a connection is kept alive. Nothing can be subscribed to. */
#ifndef LONGWIRE_BENCH_FRAMING_HTTP_H
#define LONGWIRE_BENCH_FRAMING_HTTP_H

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "framing.h"

#define HTTP_HEAD_BYTES_MAX 4096u

static inline size_t http_publish(uint8_t *out, const struct frame *message) {
  int head = snprintf((char *)out, HTTP_HEAD_BYTES_MAX,
                      "POST /v1/topics/%.*s?qos=%u HTTP/1.1\r\nhost: longwire\r\n"
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

static inline long http_cut(const uint8_t *in, size_t in_bytes, struct frame *out) {
  static const char success[] = "HTTP/1.1 200 ";
  const uint8_t *end = memmem(in, in_bytes, "\r\n\r\n", 4);
  if (!end) return in_bytes > HTTP_HEAD_BYTES_MAX ? -1 : 0;
  size_t head_bytes = (size_t)(end - in) + 4;
  long body_bytes = http_body_bytes((const char *)in, head_bytes);
  if (head_bytes < sizeof success || body_bytes < 0 || body_bytes > (long)PAYLOAD_BYTES_MAX) {
    return -1;
  }
  if (in_bytes - head_bytes < (size_t)body_bytes) return 0;
  *out = (struct frame){.kind = memcmp(in, success, sizeof success - 1) ? FRAME_OTHER : FRAME_ACK};
  return (long)head_bytes + body_bytes;
}

static const struct framing framing_http = {
    .name = "http",
    .acks_have_ids = false,
    .publish = http_publish,
    .ping = http_nothing,
    .goodbye = http_nothing,
    .cut = http_cut,
};

#endif
