/* Where frames begin and end: the only thing of the protocols that the reactor must know to cut a
 * stream. */
#ifndef LONGWIRE_FRAMES_H
#define LONGWIRE_FRAMES_H

#include <stdint.h>

#include "reactor.h"

#define LONGWIRE_HEADER_BYTES 5u
#define LONGWIRE_HEARTBEAT 0x01u
#define LONGWIRE_HELLO 0x02u
/* A heartbeat from further ahead is the host's to judge (limits.clock_ahead_max_ms). */
#define LONGWIRE_AHEAD_MAX_S 60u

struct cut {
  uint64_t size; /* of the whole frame; 0 = the header is not whole yet */
  int code;      /* enum lw_code when the stream is broken, else 0 */
};

/* Longwire: u32 length of the body, u8 type; a heartbeat (type 1) carries the time in place of a
 * length. */
static inline struct cut cut_longwire(const uint8_t *bytes, uint64_t size) {
  if (size < LONGWIRE_HEADER_BYTES) return (struct cut){0};
  if (bytes[4] == LONGWIRE_HEARTBEAT) return (struct cut){.size = LONGWIRE_HEADER_BYTES};
  uint32_t body = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                  (uint32_t)bytes[3] << 24;
  return (struct cut){.size = (uint64_t)LONGWIRE_HEADER_BYTES + body};
}

/* MQTT: one byte of type and flags, then the remaining length in one to four bytes [MQTT-1.5.5-1].
 */
static inline struct cut cut_mqtt(const uint8_t *bytes, uint64_t size) {
  uint64_t length = 0;
  for (unsigned i = 1; i < 5; i++) {
    if (i >= size) return (struct cut){0};
    length |= (uint64_t)(bytes[i] & 0x7f) << (7 * (i - 1));
    if ((bytes[i] & 0x80) == 0) return (struct cut){.size = 1 + i + length};
  }
  return (struct cut){.code = LW_CODE_MALFORMED};
}

static inline struct cut cut_frame(unsigned protocol, const uint8_t *bytes, uint64_t size) {
  return protocol == LW_PROTOCOL_MQTT ? cut_mqtt(bytes, size) : cut_longwire(bytes, size);
}

/* MQTT control packets that are answered, matched or awaited here: first byte. */
enum {
  MQTT_CONNECT = 0x10,
  MQTT_PUBACK = 0x40,
  MQTT_PUBREC = 0x50,
  MQTT_PUBREL = 0x62,
  MQTT_PUBCOMP = 0x70,
  MQTT_PINGREQ = 0xc0,
  MQTT_PINGRESP = 0xd0,
};

/* Whether what a connection begins with is not of its protocol: TLS or HTTP on the wrong port, or
 * another packet than CONNECT [MQTT-3.1.0-1]. Told by the first byte of MQTT, the fifth of
 * Longwire, so that nobody waits for the rest of what those would announce. */
static inline int is_foreign(unsigned protocol, const uint8_t *bytes, uint64_t size) {
  if (protocol == LW_PROTOCOL_MQTT) return size > 0 && bytes[0] != MQTT_CONNECT;
  return size >= LONGWIRE_HEADER_BYTES && bytes[4] != LONGWIRE_HELLO;
}

#endif
