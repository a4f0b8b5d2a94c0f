/* How the load generator talks: one table of functions for each device protocol, and MQTT 3.1.1's.
 * A protocol is added by writing its encoders and its cutter; nothing else knows any bytes. */
#ifndef LONGWIRE_BENCH_FRAMING_H
#define LONGWIRE_BENCH_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TOPIC_BYTES_MAX 32
#define PAYLOAD_BYTES_MAX 65536u
#define FRAME_BYTES_MAX (PAYLOAD_BYTES_MAX + TOPIC_BYTES_MAX + 64)

enum frame_kind {
  FRAME_OTHER = 0,  /* well-formed, and nothing that a load generator expects */
  FRAME_WELCOME,    /* code: 0 = accepted */
  FRAME_SUBSCRIBED, /* code: granted QoS, or 128 and up = refused */
  FRAME_MESSAGE,
  FRAME_ACK,
  FRAME_PONG,
};

struct frame {
  enum frame_kind kind;
  uint8_t code;
  uint8_t qos;
  uint8_t duplicate;       /* the sender says that it may have sent this before */
  uint8_t is_last;         /* acknowledgement: the sender ends the connection with it */
  uint8_t session_present; /* welcome: the server remembers an earlier connection */
  uint16_t packet_id;      /* 0 = none */
  const uint8_t *topic;
  size_t topic_bytes;
  const uint8_t *payload;
  size_t payload_bytes;
};

/* Encoders write at most FRAME_BYTES_MAX bytes and return how many. */
struct framing {
  const char *name;
  uint32_t messages_per_frame; /* a batch counts as one that is sent and acknowledged */
  bool acks_have_ids;          /* false: they come in the order of the messages, and that is all */
  /* NULL = there is no greeting. clean: nothing is left behind, nor found. */
  size_t (*hello)(uint8_t *out, const char *client_id, uint16_t keepalive_s, bool clean);
  size_t (*subscribe)(uint8_t *out, const char *topic, uint8_t qos);
  size_t (*publish)(uint8_t *out, const struct frame *message);
  size_t (*ack)(uint8_t *out, uint16_t packet_id);
  size_t (*ping)(uint8_t *out);
  size_t (*goodbye)(uint8_t *out);
  /* Bytes of the first frame of `in`; 0 = not complete yet; -1 = malformed. */
  long (*cut)(const uint8_t *in, size_t in_bytes, struct frame *out);
};

/* ------------------------------------------------------------------ MQTT 3.1.1 */

enum mqtt_packet {
  MQTT_CONNECT = 0x10,
  MQTT_CONNACK = 0x20,
  MQTT_PUBLISH = 0x30,
  MQTT_PUBACK = 0x40,
  MQTT_SUBSCRIBE = 0x82, /* the low bits are fixed [MQTT-3.8.1-1] */
  MQTT_SUBACK = 0x90,
  MQTT_PINGREQ = 0xc0,
  MQTT_PINGRESP = 0xd0,
  MQTT_DISCONNECT = 0xe0,
};

static inline uint8_t *put_u16_big(uint8_t *out, uint16_t value) {
  out[0] = (uint8_t)(value >> 8);
  out[1] = (uint8_t)value;
  return out + 2;
}

static inline uint16_t get_u16_big(const uint8_t *in) { return (uint16_t)(in[0] << 8 | in[1]); }

static inline uint8_t *put_bytes(uint8_t *out, const void *bytes, size_t size) {
  memcpy(out, bytes, size);
  return out + size;
}

static inline uint8_t *mqtt_put_string(uint8_t *out, const char *text) {
  size_t size = strlen(text);
  return put_bytes(put_u16_big(out, (uint16_t)size), text, size);
}

static inline uint8_t *mqtt_put_head(uint8_t *out, uint8_t first, size_t remaining) {
  *out++ = first;
  while (remaining >= 128) {
    *out++ = (uint8_t)(remaining | 128);
    remaining >>= 7;
  }
  *out++ = (uint8_t)remaining;
  return out;
}

/* Remaining length of a fixed header (section 2.2.3): returns the bytes of the header, 0 = not
 * complete yet, -1 = malformed. */
static inline long mqtt_get_head(const uint8_t *in, size_t in_bytes, size_t *remaining) {
  size_t value = 0;
  for (size_t i = 1; i < in_bytes; i++) {
    value |= (size_t)(in[i] & 127) << (7 * (i - 1));
    if (in[i] < 128) {
      *remaining = value;
      return (long)i + 1;
    }
    if (i == 4) return -1;
  }
  return 0;
}

static inline size_t mqtt_hello(uint8_t *out, const char *client_id, uint16_t keepalive_s,
                                bool clean) {
  uint8_t *end = mqtt_put_head(out, MQTT_CONNECT, 10 + 2 + strlen(client_id));
  end = mqtt_put_string(end, "MQTT");
  *end++ = 4; /* protocol level: 3.1.1 */
  *end++ = clean ? 0x02 : 0x00;
  end = mqtt_put_string(put_u16_big(end, keepalive_s), client_id);
  return (size_t)(end - out);
}

static inline size_t mqtt_subscribe(uint8_t *out, const char *topic, uint8_t qos) {
  uint8_t *end = mqtt_put_head(out, MQTT_SUBSCRIBE, 2 + 2 + strlen(topic) + 1);
  end = mqtt_put_string(put_u16_big(end, 1), topic);
  *end++ = qos;
  return (size_t)(end - out);
}

static inline size_t mqtt_publish(uint8_t *out, const struct frame *message) {
  size_t id_bytes = message->qos ? 2 : 0;
  size_t remaining = 2 + message->topic_bytes + id_bytes + message->payload_bytes;
  uint8_t *end = mqtt_put_head(out, (uint8_t)(MQTT_PUBLISH | message->qos << 1), remaining);
  end = put_u16_big(end, (uint16_t)message->topic_bytes);
  end = put_bytes(end, message->topic, message->topic_bytes);
  if (id_bytes) end = put_u16_big(end, message->packet_id);
  end = put_bytes(end, message->payload, message->payload_bytes);
  return (size_t)(end - out);
}

static inline size_t mqtt_ack(uint8_t *out, uint16_t packet_id) {
  out[0] = MQTT_PUBACK;
  out[1] = 2;
  put_u16_big(out + 2, packet_id);
  return 4;
}

static inline size_t mqtt_ping(uint8_t *out) {
  out[0] = MQTT_PINGREQ;
  out[1] = 0;
  return 2;
}

static inline size_t mqtt_goodbye(uint8_t *out) {
  out[0] = MQTT_DISCONNECT;
  out[1] = 0;
  return 2;
}

static inline int mqtt_cut_publish(uint8_t first, const uint8_t *body, size_t size,
                                   struct frame *out) {
  out->kind = FRAME_MESSAGE;
  out->qos = first >> 1 & 3;
  out->duplicate = first >> 3 & 1;
  if (size < 2) return -1;
  size_t at = 2 + (size_t)get_u16_big(body), id_bytes = out->qos ? 2 : 0;
  if (at + id_bytes > size) return -1;
  out->topic = body + 2;
  out->topic_bytes = at - 2;
  out->packet_id = id_bytes ? get_u16_big(body + at) : 0;
  out->payload = body + at + id_bytes;
  out->payload_bytes = size - at - id_bytes;
  return 0;
}

static inline long mqtt_cut(const uint8_t *in, size_t in_bytes, struct frame *out) {
  size_t size;
  long head = mqtt_get_head(in, in_bytes, &size);
  if (head <= 0) return head;
  if (size > FRAME_BYTES_MAX - 8) return -1;
  if (in_bytes - (size_t)head < size) return 0;
  const uint8_t *body = in + head;
  out->kind = FRAME_OTHER;
  switch (in[0] & 0xf0) {
  case MQTT_PUBLISH:
    if (mqtt_cut_publish(in[0], body, size, out)) return -1;
    break;
  case MQTT_PUBACK:
    if (size != 2) return -1;
    out->kind = FRAME_ACK;
    out->packet_id = get_u16_big(body);
    break;
  case MQTT_CONNACK:
    if (size != 2) return -1;
    out->kind = FRAME_WELCOME;
    out->code = body[1];
    out->session_present = body[0] & 1;
    break;
  case MQTT_SUBACK:
    if (size != 3) return -1;
    out->kind = FRAME_SUBSCRIBED;
    out->code = body[2];
    break;
  case MQTT_PINGRESP:
    out->kind = FRAME_PONG;
    break;
  }
  return head + (long)size;
}

static const struct framing framing_mqtt = {
    .name = "mqtt",
    .messages_per_frame = 1,
    .acks_have_ids = true,
    .hello = mqtt_hello,
    .subscribe = mqtt_subscribe,
    .publish = mqtt_publish,
    .ack = mqtt_ack,
    .ping = mqtt_ping,
    .goodbye = mqtt_goodbye,
    .cut = mqtt_cut,
};

#endif
