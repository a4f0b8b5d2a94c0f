/* Topic aliases to a client (MQTT 5 section 3.3.2.3.4): in place of its topic a PUBLISH carries a
 * number that an earlier one has set. Invariant: a frame that uses an alias is queued behind the
 * one that set it, and what sets one is neither dropped nor replaced. */
#ifndef LONGWIRE_ALIAS_H
#define LONGWIRE_ALIAS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"

#define ALIASES_MAX 32u
/* A shorter topic costs no more than the property that replaces it. */
#define ALIAS_TOPIC_BYTES_MIN 4u
#define ALIAS_PROPERTY 0x23
#define ALIAS_PROPERTY_BYTES 3u

struct alias {
  uint8_t *topic; /* NULL = not set */
  uint32_t topic_size;
};

struct alias_table {
  uint32_t count;
  struct alias aliases[]; /* the first one is number 1 */
};

static inline struct alias_table *alias_table_new(uint32_t count) {
  if (count > ALIASES_MAX) count = ALIASES_MAX;
  struct alias_table *t = calloc(1, sizeof *t + count * sizeof t->aliases[0]);
  if (t != NULL) t->count = count;
  return t;
}

static inline void alias_table_free(struct alias_table *t) {
  if (t == NULL) return;
  for (uint32_t i = 0; i < t->count; i++) free(t->aliases[i].topic);
  free(t);
}

/* Where the parts of a PUBLISH of MQTT 5 lie (section 3.3). */
struct alias_shape {
  uint32_t topic_at;
  uint32_t topic_size;
  uint32_t packet_id_size; /* 2, or 0 with QoS 0; behind the topic */
  uint32_t properties;     /* bytes of them */
  uint32_t rest_at;        /* the properties, then the payload */
};

/* Reads a Variable Byte Integer [MQTT-1.5.5-1] at *at; returns 0, or -1 when it is none. */
static inline int alias_read_number(const uint8_t *bytes, uint32_t size, uint32_t *at,
                                    uint32_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 28 && *at < size; shift += 7) {
    uint8_t byte = bytes[(*at)++];
    *value |= (uint32_t)(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return 0;
  }
  return -1;
}

static inline uint32_t alias_write_number(uint8_t *out, uint32_t value) {
  uint32_t size = 0;
  do {
    out[size++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
    value >>= 7;
  } while (value > 0);
  return size;
}

static inline uint32_t alias_number_size(uint32_t value) {
  return value < 1u << 7 ? 1 : value < 1u << 14 ? 2 : value < 1u << 21 ? 3 : 4;
}

/* Returns 0, or -1: no PUBLISH. */
static inline int alias_shape_of(const uint8_t *frame, uint32_t size, struct alias_shape *s) {
  uint32_t at = 1;
  uint32_t length;
  if (size < 2 || frame[0] >> 4 != 3) return -1;
  if (alias_read_number(frame, size, &at, &length) != 0 || length != size - at) return -1;
  if (size - at < 2) return -1;
  s->topic_size = (uint32_t)frame[at] << 8 | frame[at + 1];
  s->topic_at = at + 2;
  s->packet_id_size = frame[0] & 6 ? 2 : 0;
  if (size - s->topic_at < (uint64_t)s->topic_size + s->packet_id_size) return -1;
  at = s->topic_at + s->topic_size + s->packet_id_size;
  if (alias_read_number(frame, size, &at, &s->properties) != 0) return -1;
  s->rest_at = at;
  return s->properties <= size - at ? 0 : -1;
}

/* The alias for a topic, from 1 on. Topics share numbers by chance: setting one anew costs three
 * bytes. */
static inline uint32_t alias_choose(const struct alias_table *t, const uint8_t *topic,
                                    uint32_t size) {
  uint32_t hash = 2166136261u; /* FNV-1a */
  for (uint32_t i = 0; i < size; i++) hash = (hash ^ topic[i]) * 16777619u;
  return (hash ^ hash >> 16) % t->count + 1;
}

static inline int alias_is_set(const struct alias_table *t, uint32_t number, const uint8_t *topic,
                               uint32_t size) {
  const struct alias *a = &t->aliases[number - 1];
  return a->topic != NULL && a->topic_size == size && memcmp(a->topic, topic, size) == 0;
}

/* The frame that set it is queued. Without memory it is simply not set. */
static inline void alias_set(struct alias_table *t, uint32_t number, const uint8_t *topic,
                             uint32_t size) {
  struct alias *a = &t->aliases[number - 1];
  free(a->topic);
  a->topic = malloc(size);
  a->topic_size = size;
  if (a->topic != NULL) memcpy(a->topic, topic, size);
}

/* The frame with the alias, in a block of its own: with its topic when it `sets` it. Says where its
 * packet id would lie. Returns NULL without memory. */
static inline struct block *alias_rewrite(const uint8_t *frame, uint32_t size,
                                          const struct alias_shape *s, uint32_t number, int sets,
                                          uint32_t *packet_id_at) {
  uint32_t properties = s->properties + ALIAS_PROPERTY_BYTES;
  uint32_t topic_size = sets ? s->topic_size : 0;
  uint32_t length = 2 + topic_size + s->packet_id_size + alias_number_size(properties) +
                    ALIAS_PROPERTY_BYTES + (size - s->rest_at);
  struct block *block = block_new(1 + alias_number_size(length) + length);
  if (block == NULL) return NULL;
  uint8_t head[16];
  uint32_t at = 0;
  head[at++] = frame[0];
  at += alias_write_number(head + at, length);
  head[at++] = (uint8_t)(topic_size >> 8);
  head[at++] = (uint8_t)topic_size;
  block_append(block, head, at);
  if (sets) block_append(block, frame + s->topic_at, topic_size);
  *packet_id_at = block->used;
  block_append(block, frame + s->topic_at + s->topic_size, s->packet_id_size);
  at = alias_write_number(head, properties);
  head[at++] = ALIAS_PROPERTY;
  head[at++] = (uint8_t)(number >> 8);
  head[at++] = (uint8_t)number;
  block_append(block, head, at);
  block_append(block, frame + s->rest_at, size - s->rest_at);
  return block;
}

#endif
