/* Topic aliases: what becomes of a frame, and which topics share a number. */
#ifndef LONGWIRE_UNIT_ALIAS_H
#define LONGWIRE_UNIT_ALIAS_H

#include "../../ffi/alias.h"
#include "check.h"

struct alias_case {
  const char *frame;
  uint32_t size;
  int sets;
  const char *expected;
  uint32_t expected_size;
  uint32_t packet_id_at;
};

#define BYTES(text) text, sizeof(text) - 1

static void check_alias_case(const struct alias_case *each, uint32_t index) {
  struct alias_shape shape;
  uint32_t at = 0;
  const uint8_t *frame = (const uint8_t *)each->frame;
  CHECK(alias_shape_of(frame, each->size, &shape) == 0, "case %u", index);
  struct block *block = alias_rewrite(frame, each->size, &shape, 5, each->sets, &at);
  CHECK(
      block->used == each->expected_size && memcmp(block->bytes, each->expected, block->used) == 0,
      "case %u: %u bytes", index, block->used);
  CHECK(at == each->packet_id_at, "case %u: packet id at %u", index, at);
  block_drop(block);
}

static void test_alias_frames(void) {
  static const struct alias_case cases[] = {
      /* QoS 0, no properties, payload "x" */
      {BYTES("\x30\x08\0\4abcd\0x"), 1, BYTES("\x30\x0b\0\4abcd\3\x23\0\5x"), 8},
      {BYTES("\x30\x08\0\4abcd\0x"), 0, BYTES("\x30\x07\0\0\3\x23\0\5x"), 4},
      /* QoS 1, packet id 0x0102, a property (payload format), no payload */
      {BYTES("\x3a\x0b\0\4abcd\1\2\2\1\1"), 1, BYTES("\x3a\x0e\0\4abcd\1\2\5\x23\0\5\1\1"), 8},
      {BYTES("\x3a\x0b\0\4abcd\1\2\2\1\1"), 0, BYTES("\x3a\x0a\0\0\1\2\5\x23\0\5\1\1"), 4},
  };
  for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check_alias_case(&cases[i], i);
}

/* Lengths that need one byte more than before, and frames that are none. */
static void test_alias_borders(void) {
  uint8_t frame[300] = {0x30, 0, 0, 0, 4, 'a', 'b', 'c', 'd', 126};
  struct alias_shape shape;
  uint32_t at = 0;
  uint32_t size = 10 + 126;
  frame[1] = (uint8_t)(0x80 | (size - 3)); /* 133 = 0x85 0x01 */
  frame[2] = 1;
  CHECK(alias_shape_of(frame, size, &shape) == 0 && shape.properties == 126, "properties");
  struct block *block = alias_rewrite(frame, size, &shape, 32, 1, &at);
  /* 129 bytes of properties take two bytes to say so. */
  CHECK(block->used == size + 4 && block->bytes[9] == 0x81 && block->bytes[10] == 1, "grown");
  CHECK(block->bytes[1] == (0x80 | ((size + 1) & 0x7f)) && block->bytes[2] == 1, "length");
  block_drop(block);
  for (uint32_t cut = 0; cut < size; cut++) {
    uint8_t *part = malloc(cut + 1); /* so that the sanitizer sees what is read behind it */
    memcpy(part, frame, cut);
    CHECK(alias_shape_of(part, cut, &shape) != 0, "cut at %u", cut);
    free(part);
  }
  CHECK(alias_shape_of((const uint8_t *)"\x62\2\0\1", 4, &shape) != 0, "a PUBREL");
}

static void test_alias_table(void) {
  struct alias_table *t = alias_table_new(1000);
  CHECK(t->count == ALIASES_MAX, "%u aliases", t->count);
  alias_table_free(t);
  t = alias_table_new(1); /* all topics share it */
  const uint8_t *first = (const uint8_t *)"first", *other = (const uint8_t *)"other";
  CHECK(alias_choose(t, first, 5) == 1 && !alias_is_set(t, 1, first, 5), "not set yet");
  alias_set(t, 1, first, 5);
  CHECK(alias_is_set(t, 1, first, 5) && !alias_is_set(t, 1, first, 4), "set");
  alias_set(t, alias_choose(t, other, 5), other, 5);
  CHECK(alias_is_set(t, 1, other, 5) && !alias_is_set(t, 1, first, 5), "set anew");
  alias_table_free(t);
}

static void unit_alias(void) {
  test_alias_frames();
  test_alias_borders();
  test_alias_table();
}

#endif
