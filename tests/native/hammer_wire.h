/* Frames that the hammer's clients and host exchange, in the framing of both protocols. Every body
 * says whose it is and which one, and its filler follows from that: nothing can be lost, repeated,
 * torn or swapped unseen. */
#ifndef LONGWIRE_TESTS_HAMMER_WIRE_H
#define LONGWIRE_TESTS_HAMMER_WIRE_H

#include <string.h>

#include "check.h"
#include "frames.h"
#include "reactor.h"

#define WIRE_FRAME_BYTES_MAX (40u << 10)
#define WIRE_BODY_BYTES 24u /* before the filler */

enum wire_kind {
  WIRE_HELLO = 1,   /* client: the first frame */
  WIRE_FRAME = 2,   /* client: one more */
  WIRE_BYE = 3,     /* client: the last one; everything has been sent */
  WIRE_WELCOME = 4, /* host: SEND, numbered for each connection */
  WIRE_LAST = 5,    /* host: SEND before CLOSE */
  WIRE_MESSAGE = 6, /* host: PUBLISH or DELIVER */
  WIRE_SHARED = 7,  /* host: DELIVER of a shared subscription */
};

/* The body of every frame, as it lies there. */
struct wire_body {
  uint64_t number; /* link << 32 | count, or the number of a message */
  uint64_t seq;    /* of a stored message; 0 = not stored */
  uint32_t kind;   /* enum wire_kind */
  uint32_t key;    /* conflation key; 0 = none */
};

struct wire_frame {
  uint8_t bytes[WIRE_FRAME_BYTES_MAX + 16];
  uint32_t size;
  uint32_t packet_id_at;
};

static uint8_t wire_filler(uint64_t number, uint32_t i) {
  return (uint8_t)((number * 0x9e3779b97f4a7c15u >> 56) + i * 31);
}

static uint32_t wire_put_length(uint8_t *at, uint32_t length) {
  uint32_t used = 0;
  do {
    at[used++] = (uint8_t)((length & 0x7f) | (length > 127 ? 0x80 : 0));
    length >>= 7;
  } while (length > 0);
  return used;
}

/* First byte of an MQTT packet: only what the reactor does not look into may be made up. */
static uint8_t wire_mqtt_type(const struct wire_body *body, unsigned qos) {
  if (body->kind == WIRE_HELLO) return 0x10;
  if (body->kind == WIRE_WELCOME) return 0x20;
  if (body->kind == WIRE_LAST) return 0xe0;
  return (uint8_t)(0x30 | qos << 1);
}

static void wire_make(struct wire_frame *f, unsigned protocol, const struct wire_body *body,
                      unsigned qos, uint32_t filler_size) {
  uint32_t has_id = protocol == LW_PROTOCOL_MQTT && qos > 0;
  uint32_t length = WIRE_BODY_BYTES + filler_size + (has_id ? 2 : 0);
  uint32_t at = 0;
  if (protocol == LW_PROTOCOL_MQTT) {
    f->bytes[at++] = wire_mqtt_type(body, qos);
    at += wire_put_length(f->bytes + at, length);
  } else {
    memcpy(f->bytes, &length, 4);
    f->bytes[4] = (uint8_t)(body->kind == WIRE_HELLO ? LONGWIRE_HELLO : 0x10 + body->kind);
    at = LONGWIRE_HEADER_BYTES;
  }
  f->packet_id_at = has_id ? at : LW_PACKET_ID_NONE;
  if (has_id) {
    f->bytes[at++] = 0;
    f->bytes[at++] = 0;
  }
  memcpy(f->bytes + at, body, WIRE_BODY_BYTES);
  at += WIRE_BODY_BYTES;
  for (uint32_t i = 0; i < filler_size; i++) f->bytes[at++] = wire_filler(body->number, i);
  f->size = at;
}

/* What was found at the start of some bytes. */
struct wire_found {
  uint32_t size; /* of the frame; 0 = not whole */
  unsigned type; /* MQTT: first byte; Longwire: 0x100 | type */
  unsigned qos;
  uint16_t packet_id; /* 0 = none */
  uint8_t has_body;
  struct wire_body body;
};

/* Reads a frame without the reactor's own code. Returns 0, or -1 for what no peer may send. */
static int wire_read(unsigned protocol, const uint8_t *bytes, size_t size, struct wire_found *out) {
  *out = (struct wire_found){.size = 0};
  uint64_t length = 0;
  uint32_t header = LONGWIRE_HEADER_BYTES;
  if (protocol == LW_PROTOCOL_MQTT) {
    for (header = 1;; header++) {
      if (header >= size) return 0;
      if (header == 5) return -1;
      length |= (uint64_t)(bytes[header] & 0x7f) << 7 * (header - 1);
      if (bytes[header] < 128) break;
    }
    header++;
    out->type = bytes[0];
  } else {
    if (size < LONGWIRE_HEADER_BYTES) return 0;
    uint32_t body_size;
    memcpy(&body_size, bytes, 4);
    out->type = 0x100u | bytes[4];
    length = bytes[4] == LONGWIRE_HEARTBEAT ? 0 : body_size;
  }
  if (length > 2 * WIRE_FRAME_BYTES_MAX) return -1;
  if (size < header + length) return 0;
  out->size = header + (uint32_t)length;
  if (protocol == LW_PROTOCOL_MQTT && (out->type & 0xf0) == 0x30) {
    out->qos = out->type >> 1 & 3;
    if (out->qos > 0 && length >= 2) {
      out->packet_id = (uint16_t)(bytes[header] << 8 | bytes[header + 1]);
      header += 2;
    }
  }
  if (out->size < header + WIRE_BODY_BYTES) return 0;
  memcpy(&out->body, bytes + header, WIRE_BODY_BYTES);
  for (uint32_t i = header + WIRE_BODY_BYTES, k = 0; i < out->size; i++, k++) {
    if (bytes[i] != wire_filler(out->body.number, k)) return -1;
  }
  out->has_body = 1;
  return 0;
}

#endif
