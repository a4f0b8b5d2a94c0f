/* Records against the vectors of RFC 8448, and the sealed front of an out-queue against a plain
 * list of bytes. */
#ifndef LONGWIRE_TESTS_UNIT_SEAL_H
#define LONGWIRE_TESTS_UNIT_SEAL_H

#include "check.h"
#include "out_seal.h"
#include "tls_record.h"

static uint32_t from_hex(const char *hex, uint8_t *out) {
  uint32_t size = 0;
  unsigned byte;
  for (; hex[0] != 0 && sscanf(hex, "%2x", &byte) == 1; hex += hex[2] == ' ' ? 3 : 2) {
    out[size++] = (uint8_t)byte;
  }
  return size;
}

/* RFC 8448 section 3, the client's application data. */
static void unit_record_vectors(void) {
  const struct record_suite *suite = &record_suites[record_suite_find(0x1301)];
  struct record_direction d = {0};
  uint8_t key[32];
  uint8_t iv[12];
  uint8_t wanted[128];
  uint8_t plain[50];
  uint8_t record[128];
  struct record_ciphers ciphers;
  from_hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5", d.secret);
  REQUIRE(record_derive(suite, &d) == 0, "no key");
  from_hex("17422dda596ed5d9acd890e3c63f5051", key);
  from_hex("5b78923dee08579033e523d9", iv);
  CHECK(memcmp(d.key, key, 16) == 0, "key");
  CHECK(memcmp(d.iv, iv, 12) == 0, "iv");
  REQUIRE(record_ciphers_open(&ciphers) == 0, "no ciphers");
  for (uint8_t i = 0; i < sizeof plain; i++) plain[i] = i;
  struct record_piece pieces[3] = {{plain, 20}, {plain + 20, 1}, {plain + 21, 29}};
  uint32_t size = record_seal(&ciphers, suite, &d, RECORD_DATA, pieces, 3, sizeof plain, record);
  uint32_t wanted_size = from_hex(
      "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc "
      "ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd "
      "1e 3d ea e6 3a ee bb 21 69 49 15 e4",
      wanted);
  CHECK(size == wanted_size && memcmp(record, wanted, size) == 0, "record of %u bytes", size);
  record_ciphers_free(&ciphers);
}

/* Every suite opens what it seals, whatever the size, and with the next key too. */
static void unit_record_pairs(uint64_t seed) {
  struct record_ciphers ciphers;
  static uint8_t plain[RECORD_PLAIN_BYTES_MAX];
  static uint8_t record[RECORD_PLAIN_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX];
  static uint8_t back[RECORD_BODY_BYTES_MAX];
  REQUIRE(record_ciphers_open(&ciphers) == 0, "no ciphers");
  for (size_t i = 0; i < sizeof record_suites / sizeof record_suites[0]; i++) {
    const struct record_suite *suite = &record_suites[i];
    struct record_direction out = {0};
    for (size_t k = 0; k < sizeof out.secret; k++) out.secret[k] = (uint8_t)random_u64(&seed);
    if (suite->is_tls12) memcpy(out.key, out.secret, 32);
    else record_derive(suite, &out);
    struct record_direction in = out;
    for (int round = 0; round < 60; round++) {
      uint32_t size =
          round < 3 ? RECORD_PLAIN_BYTES_MAX - (uint32_t)round : random_below(&seed, 300);
      uint8_t type = 0;
      for (uint32_t k = 0; k < size; k++) plain[k] = (uint8_t)random_u64(&seed);
      struct record_piece piece = {plain, size};
      uint32_t sealed =
          record_seal(&ciphers, suite, &out, RECORD_DATA, &piece, size > 0, size, record);
      CHECK(record_cut(suite, record, sealed) == (int32_t)sealed, "%x: cut", suite->id);
      int32_t opened = record_open(&ciphers, suite, &in, record, sealed, back, &type);
      CHECK(opened == (int32_t)size && type == RECORD_DATA && memcmp(plain, back, size) == 0,
            "%x: %d of %u", suite->id, opened, size);
      if (suite->is_tls12 || round % 10 != 0) continue;
      CHECK(record_update(suite, &out) == 0 && record_update(suite, &in) == 0, "no new key");
    }
  }
  record_ciphers_free(&ciphers);
}

/* ------------------------------------------------------------------ the queue */

#define SEAL_MODEL_BYTES (1u << 16)

/* What the queue must hold: ciphertext (here: plaintext turned over), then plaintext. */
struct seal_model {
  uint8_t bytes[SEAL_MODEL_BYTES];
  uint32_t size;
  uint32_t sealed;
};

static void seal_check(const struct out_queue *q, const struct seal_model *m, uint64_t step) {
  uint32_t at = 0;
  CHECK(q->bytes == m->size && q->sealed_bytes == m->sealed, "step %llu: %u of %u, %u of %u",
        (unsigned long long)step, q->bytes, m->size, q->sealed_bytes, m->sealed);
  for (uint32_t i = 0; i < q->count; i++) {
    const struct out_entry *e = out_at(q, i);
    uint32_t skip = out_skip(q, i);
    CHECK(skip < e->size, "step %llu: an empty entry", (unsigned long long)step);
    if (i == q->sealed) CHECK(at == m->sealed, "step %llu: border", (unsigned long long)step);
    CHECK(memcmp(m->bytes + at, e->block->bytes + e->offset + skip, e->size - skip) == 0,
          "step %llu: entry %u", (unsigned long long)step, i);
    at += e->size - skip;
  }
  CHECK(at == m->size, "step %llu: %u bytes", (unsigned long long)step, at);
}

static void seal_some(struct out_queue *q, struct seal_model *m, uint64_t *seed) {
  uint32_t plain = m->size - m->sealed;
  uint32_t size = plain == 0 ? 0 : random_below(seed, plain) + 1;
  struct block *block = block_new(size + 10);
  REQUIRE(block != NULL, "no memory");
  for (uint32_t i = 0; i < size; i++) {
    uint8_t turned = (uint8_t)~m->bytes[m->sealed + i];
    block_append(block, &turned, 1);
    m->bytes[m->sealed + i] = turned;
  }
  if (size == 0) block_append(block, "0123456789", 10); /* a record of our own */
  if (size > 0) out_take_plain(q, size);
  else {
    memmove(m->bytes + m->sealed + 10, m->bytes + m->sealed, plain);
    memcpy(m->bytes + m->sealed, "0123456789", 10);
    m->size += 10;
  }
  REQUIRE(out_push_sealed(q, block) == 0, "no memory");
  m->sealed += size == 0 ? 10 : size;
}

static void unit_sealed_queue(uint64_t seed) {
  static struct seal_model m;
  struct out_queue *q = out_queue_new();
  REQUIRE(q != NULL, "no memory");
  for (uint64_t step = 0; step < 100000; step++) {
    uint32_t dice = random_below(&seed, 100);
    if (dice < 45 && m.size < SEAL_MODEL_BYTES / 2) {
      uint32_t size = random_below(&seed, 90) + 1;
      uint8_t *at = m.bytes + m.size;
      for (uint32_t i = 0; i < size; i++) at[i] = (uint8_t)random_u64(&seed);
      struct block *block = block_new(size);
      REQUIRE(block != NULL, "no memory");
      block_append(block, at, size);
      int done = random_chance(&seed, 50) ? out_copy(q, at, size, 0) != NULL
                                          : out_push(q, block, 0, size, 0, 0, 0) == 0;
      REQUIRE(done, "no memory");
      block_drop(block);
      m.size += size;
    } else if (dice < 65 && m.size < SEAL_MODEL_BYTES / 2) {
      seal_some(q, &m, &seed);
    } else if (dice < 98 && m.sealed > 0) {
      uint32_t size = random_below(&seed, m.sealed) + 1;
      out_consume(q, size);
      memmove(m.bytes, m.bytes + size, m.size - size);
      m.size -= size;
      m.sealed -= size;
    } else if (dice == 98) {
      out_detach(q);
    } else if (dice == 99 && random_chance(&seed, 5)) {
      out_drop_plain(q);
      m.size = m.sealed;
    }
    seal_check(q, &m, step);
  }
  out_queue_free(q);
}

static void unit_seal(uint64_t seed) {
  unit_record_vectors();
  unit_record_pairs(seed);
  unit_sealed_queue(seed);
}

#endif
