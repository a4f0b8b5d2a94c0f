/* TLS records without OpenSSL's connection object: after a handshake two keys, two counters and
 * one secret a direction are all that TLS needs (RFC 8446 section 5, RFC 5246 section 6.2.3.3),
 * 208 bytes in place of some 14 KB. OpenSSL does the handshake and the ciphers; this file does
 * nonces, headers and key updates. Invariant: no sequence number is used twice with a key. */
#ifndef LONGWIRE_TLS_RECORD_H
#define LONGWIRE_TLS_RECORD_H

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdint.h>
#include <string.h>

#define RECORD_HEADER_BYTES 5u
#define RECORD_PLAIN_BYTES_MAX (1u << 14)
/* What a record may add to its plaintext: RFC 8446 section 5.2 allows 256 more, RFC 5246 2,048. */
#define RECORD_BODY_BYTES_MAX (RECORD_PLAIN_BYTES_MAX + 256u)
#define RECORD_TAG_BYTES 16u
#define RECORD_NONCE_BYTES 12u
/* Header, explicit nonce (TLS 1.2, AES-GCM) or inner type (TLS 1.3), tag. */
#define RECORD_OVERHEAD_BYTES_MAX (RECORD_HEADER_BYTES + 8u + RECORD_TAG_BYTES)
/* AES-GCM keeps its margin for 2^24.5 records (RFC 8446 section 5.5): a new key comes before. */
#ifndef RECORD_KEY_USES_MAX
#define RECORD_KEY_USES_MAX (1u << 24)
#endif
#define RECORD_SECRET_BYTES_MAX 48u

enum record_type {
  RECORD_CHANGE_CIPHER_SPEC = 20,
  RECORD_ALERT = 21,
  RECORD_HANDSHAKE = 22,
  RECORD_DATA = 23,
};

enum alert {
  ALERT_CLOSE_NOTIFY = 0,
  ALERT_UNEXPECTED_MESSAGE = 10,
  ALERT_BAD_RECORD_MAC = 20,
  ALERT_RECORD_OVERFLOW = 22,
  ALERT_ILLEGAL_PARAMETER = 47,
  ALERT_DECODE_ERROR = 50,
  ALERT_INTERNAL_ERROR = 80,
  ALERT_USER_CANCELED = 90,
  ALERT_NO_RENEGOTIATION = 100,
};

enum record_cipher {
  CIPHER_AES_128_GCM,
  CIPHER_AES_256_GCM,
  CIPHER_CHACHA20_POLY1305,
  CIPHER_COUNT,
};

struct record_suite {
  uint16_t id;    /* IANA's */
  uint8_t cipher; /* enum record_cipher */
  uint8_t key_bytes;
  uint8_t secret_bytes; /* of the hash: 32 = SHA-256, 48 = SHA-384 */
  uint8_t is_tls12;
};

static const struct record_suite record_suites[] = {
    {0x1301, CIPHER_AES_128_GCM, 16, 32, 0},       {0x1302, CIPHER_AES_256_GCM, 32, 48, 0},
    {0x1303, CIPHER_CHACHA20_POLY1305, 32, 32, 0}, {0xc02b, CIPHER_AES_128_GCM, 16, 32, 1},
    {0xc02f, CIPHER_AES_128_GCM, 16, 32, 1},       {0xc02c, CIPHER_AES_256_GCM, 32, 48, 1},
    {0xc030, CIPHER_AES_256_GCM, 32, 48, 1},       {0xcca8, CIPHER_CHACHA20_POLY1305, 32, 32, 1},
    {0xcca9, CIPHER_CHACHA20_POLY1305, 32, 32, 1},
};

/* Index of a suite that records can be made for, or -1. */
static inline int record_suite_find(uint16_t id) {
  for (int i = 0; i < (int)(sizeof record_suites / sizeof record_suites[0]); i++) {
    if (record_suites[i].id == id) return i;
  }
  return -1;
}

struct record_direction {
  uint64_t sequence;                       /* of the next record */
  uint8_t secret[RECORD_SECRET_BYTES_MAX]; /* TLS 1.3: the next key comes from it */
  uint8_t key[32];
  uint8_t iv[RECORD_NONCE_BYTES];
  uint32_t zero;
};

struct record_keys {
  struct record_direction in;
  struct record_direction out;
};

/* The ciphers of one thread: contexts are keyed anew for each record. */
struct record_ciphers {
  EVP_CIPHER_CTX *seal[CIPHER_COUNT];
  EVP_CIPHER_CTX *open[CIPHER_COUNT];
};

static inline void record_ciphers_free(struct record_ciphers *r) {
  for (int i = 0; i < CIPHER_COUNT; i++) {
    EVP_CIPHER_CTX_free(r->seal[i]);
    EVP_CIPHER_CTX_free(r->open[i]);
  }
  *r = (struct record_ciphers){0};
}

/* Returns 0 or -1. */
static inline int record_ciphers_open(struct record_ciphers *r) {
  static const char *const names[CIPHER_COUNT] = {"AES-128-GCM", "AES-256-GCM",
                                                  "ChaCha20-Poly1305"};
  *r = (struct record_ciphers){0};
  for (int i = 0; i < CIPHER_COUNT; i++) {
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, names[i], NULL);
    r->seal[i] = EVP_CIPHER_CTX_new();
    r->open[i] = EVP_CIPHER_CTX_new();
    int done = cipher != NULL && r->seal[i] != NULL && r->open[i] != NULL &&
               EVP_EncryptInit_ex2(r->seal[i], cipher, NULL, NULL, NULL) == 1 &&
               EVP_DecryptInit_ex2(r->open[i], cipher, NULL, NULL, NULL) == 1;
    EVP_CIPHER_free(cipher);
    if (!done) {
      record_ciphers_free(r);
      return -1;
    }
  }
  return 0;
}

/* ---------------------------------------------------------------- keys */

static inline const EVP_MD *record_digest(const struct record_suite *suite) {
  return suite->secret_bytes == 48 ? EVP_sha384() : EVP_sha256();
}

/* HKDF-Expand-Label with an empty context (RFC 8446 section 7.1): never more than one hash long
 * here, so one round of HKDF-Expand (RFC 5869 section 2.3). Returns 0 or -1. */
static inline int record_expand(const struct record_suite *suite, const uint8_t *secret,
                                const char *label, uint8_t *out, uint8_t size) {
  uint8_t info[32];
  uint8_t block[EVP_MAX_MD_SIZE];
  size_t label_size = strlen(label);
  size_t at = 0;
  info[at++] = 0;
  info[at++] = size;
  info[at++] = (uint8_t)(6 + label_size);
  memcpy(info + at, "tls13 ", 6);
  memcpy(info + at + 6, label, label_size);
  at += 6 + label_size;
  info[at++] = 0;
  info[at++] = 1;
  const EVP_MD *digest = record_digest(suite);
  if (HMAC(digest, secret, suite->secret_bytes, info, at, block, NULL) == NULL) return -1;
  memcpy(out, block, size);
  OPENSSL_cleanse(block, sizeof block);
  return 0;
}

/* Key and iv of the secret (RFC 8446 section 7.3). */
static inline int record_derive(const struct record_suite *suite, struct record_direction *d) {
  d->sequence = 0;
  if (record_expand(suite, d->secret, "key", d->key, suite->key_bytes) != 0) return -1;
  return record_expand(suite, d->secret, "iv", d->iv, RECORD_NONCE_BYTES);
}

/* The next generation of keys (RFC 8446 section 7.2). */
static inline int record_update(const struct record_suite *suite, struct record_direction *d) {
  uint8_t next[RECORD_SECRET_BYTES_MAX];
  if (record_expand(suite, d->secret, "traffic upd", next, suite->secret_bytes) != 0) return -1;
  memcpy(d->secret, next, suite->secret_bytes);
  OPENSSL_cleanse(next, sizeof next);
  return record_derive(suite, d);
}

/* P_hash of the TLS 1.2 PRF (RFC 5246 section 5). Returns 0 or -1. */
static inline int record_prf(const EVP_MD *digest, const uint8_t *secret, size_t secret_size,
                             const uint8_t *seed, size_t seed_size, uint8_t *out, size_t size) {
  uint8_t a[EVP_MAX_MD_SIZE + 128];
  uint8_t block[EVP_MAX_MD_SIZE];
  size_t hash = (size_t)EVP_MD_get_size(digest);
  if (seed_size > 128) return -1;
  if (HMAC(digest, secret, (int)secret_size, seed, seed_size, a, NULL) == NULL) return -1;
  while (size > 0) {
    memcpy(a + hash, seed, seed_size);
    if (HMAC(digest, secret, (int)secret_size, a, hash + seed_size, block, NULL) == NULL) return -1;
    size_t take = size < hash ? size : hash;
    memcpy(out, block, take);
    out += take;
    size -= take;
    if (HMAC(digest, secret, (int)secret_size, a, hash, block, NULL) == NULL) return -1;
    memcpy(a, block, hash);
  }
  OPENSSL_cleanse(block, sizeof block);
  return 0;
}

/* Both directions of a server from the master secret of TLS 1.2 (RFC 5246 section 6.3); `randoms`
 * is the server's, then the client's. The Finished messages were record 0 of each direction. */
static inline int record_derive_tls12(const struct record_suite *suite, const uint8_t *master,
                                      const uint8_t randoms[64], struct record_keys *keys) {
  uint8_t seed[13 + 64];
  uint8_t block[2 * (32 + RECORD_NONCE_BYTES)];
  size_t key = suite->key_bytes;
  size_t iv = suite->cipher == CIPHER_CHACHA20_POLY1305 ? RECORD_NONCE_BYTES : 4;
  memcpy(seed, "key expansion", 13);
  memcpy(seed + 13, randoms, 64);
  if (record_prf(record_digest(suite), master, 48, seed, sizeof seed, block, 2 * (key + iv)) != 0) {
    return -1;
  }
  memcpy(keys->in.key, block, key);
  memcpy(keys->out.key, block + key, key);
  memcpy(keys->in.iv, block + 2 * key, iv);
  memcpy(keys->out.iv, block + 2 * key + iv, iv);
  keys->in.sequence = keys->out.sequence = 1;
  OPENSSL_cleanse(block, sizeof block);
  return 0;
}

/* ---------------------------------------------------------------- records */

/* A stretch of plaintext. */
struct record_piece {
  const uint8_t *bytes;
  uint32_t size;
};

static inline void record_put_u64(uint8_t *out, uint64_t value) {
  for (int i = 0; i < 8; i++) out[i] = (uint8_t)(value >> (56 - 8 * i));
}

/* What AES-GCM of TLS 1.2 sends with each record (RFC 5288 section 3). */
static inline uint32_t record_explicit_bytes(const struct record_suite *suite) {
  return suite->is_tls12 && suite->cipher != CIPHER_CHACHA20_POLY1305 ? 8 : 0;
}

/* The nonce: the counter exclusive-or the iv (RFC 8446 section 5.3, RFC 7905 section 2), or
 * behind its salt. */
static inline void record_nonce(const struct record_suite *suite, const struct record_direction *d,
                                const uint8_t *explicit_part, uint8_t nonce[RECORD_NONCE_BYTES]) {
  memcpy(nonce, d->iv, RECORD_NONCE_BYTES);
  if (record_explicit_bytes(suite) > 0) {
    memcpy(nonce + 4, explicit_part, 8);
    return;
  }
  uint8_t counter[8];
  record_put_u64(counter, d->sequence);
  for (int i = 0; i < 8; i++) nonce[4 + i] ^= counter[i];
}

/* The additional data: returns its size. TLS 1.3 takes the header as it is on the wire, TLS 1.2
 * the counter and the plaintext's size (RFC 5246 section 6.2.3.3). */
static inline int record_additional(const struct record_suite *suite,
                                    const struct record_direction *d, const uint8_t *header,
                                    uint32_t plain_size, uint8_t out[13]) {
  if (!suite->is_tls12) {
    memcpy(out, header, RECORD_HEADER_BYTES);
    return RECORD_HEADER_BYTES;
  }
  record_put_u64(out, d->sequence);
  memcpy(out + 8, header, 3);
  out[11] = (uint8_t)(plain_size >> 8);
  out[12] = (uint8_t)plain_size;
  return 13;
}

/* Writes one record of `size` plaintext bytes, at most RECORD_PLAIN_BYTES_MAX, in `count` pieces.
 * `out` has room for RECORD_OVERHEAD_BYTES_MAX more. Returns the record's size, or 0 when the
 * cipher fails. */
static inline uint32_t record_seal(const struct record_ciphers *ciphers,
                                   const struct record_suite *suite, struct record_direction *d,
                                   uint8_t type, const struct record_piece *pieces, uint32_t count,
                                   uint32_t size, uint8_t *out) {
  EVP_CIPHER_CTX *ctx = ciphers->seal[suite->cipher];
  uint32_t explicit_bytes = record_explicit_bytes(suite);
  uint32_t body = explicit_bytes + size + !suite->is_tls12 + RECORD_TAG_BYTES;
  uint8_t nonce[RECORD_NONCE_BYTES];
  uint8_t additional[13];
  int done = 0;
  out[0] = suite->is_tls12 ? type : RECORD_DATA;
  out[1] = 3;
  out[2] = 3;
  out[3] = (uint8_t)(body >> 8);
  out[4] = (uint8_t)body;
  uint8_t *at = out + RECORD_HEADER_BYTES;
  if (explicit_bytes > 0) record_put_u64(at, d->sequence);
  record_nonce(suite, d, at, nonce);
  at += explicit_bytes;
  int additional_size = record_additional(suite, d, out, size, additional);
  if (EVP_EncryptInit_ex2(ctx, NULL, d->key, nonce, NULL) != 1) return 0;
  if (EVP_EncryptUpdate(ctx, NULL, &done, additional, additional_size) != 1) return 0;
  for (uint32_t i = 0; i < count; i++) {
    if (EVP_EncryptUpdate(ctx, at, &done, pieces[i].bytes, (int)pieces[i].size) != 1) return 0;
    at += done;
  }
  if (!suite->is_tls12) { /* TLSInnerPlaintext.type (RFC 8446 section 5.2) */
    if (EVP_EncryptUpdate(ctx, at, &done, &type, 1) != 1) return 0;
    at += done;
  }
  if (EVP_EncryptFinal_ex(ctx, at, &done) != 1) return 0;
  at += done;
  if (EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, RECORD_TAG_BYTES, at) != 1) return 0;
  d->sequence++;
  return RECORD_HEADER_BYTES + body;
}

/* Size of the record at the start of `bytes`, header included; 0 = its header is not whole; a
 * negative number is the alert that answers it. Types of the outside: TLS 1.3 has application
 * data only. */
static inline int32_t record_cut(const struct record_suite *suite, const uint8_t *bytes,
                                 uint32_t size) {
  if (size < RECORD_HEADER_BYTES) return 0;
  uint32_t body = (uint32_t)bytes[3] << 8 | bytes[4];
  int is_known = suite->is_tls12 ? bytes[0] >= RECORD_CHANGE_CIPHER_SPEC && bytes[0] <= RECORD_DATA
                                 : bytes[0] == RECORD_DATA;
  if (!is_known) return -ALERT_UNEXPECTED_MESSAGE;
  if (bytes[1] != 3) return -ALERT_DECODE_ERROR;
  if (body > RECORD_BODY_BYTES_MAX) return -ALERT_RECORD_OVERFLOW;
  return (int32_t)(RECORD_HEADER_BYTES + body);
}

/* Decrypts a whole record into `out`, which has room for RECORD_BODY_BYTES_MAX. Returns the
 * plaintext's size and sets its type; a negative number is the alert that answers it. */
static inline int32_t record_open(const struct record_ciphers *ciphers,
                                  const struct record_suite *suite, struct record_direction *d,
                                  const uint8_t *record, uint32_t record_size, uint8_t *out,
                                  uint8_t *type) {
  EVP_CIPHER_CTX *ctx = ciphers->open[suite->cipher];
  uint32_t explicit_bytes = record_explicit_bytes(suite);
  uint32_t body = record_size - RECORD_HEADER_BYTES;
  uint8_t nonce[RECORD_NONCE_BYTES];
  uint8_t additional[13];
  uint8_t tag[RECORD_TAG_BYTES];
  int done = 0;
  if (body < explicit_bytes + RECORD_TAG_BYTES) return -ALERT_BAD_RECORD_MAC;
  uint32_t size = body - explicit_bytes - RECORD_TAG_BYTES;
  const uint8_t *at = record + RECORD_HEADER_BYTES;
  record_nonce(suite, d, at, nonce);
  at += explicit_bytes;
  memcpy(tag, at + size, sizeof tag);
  int additional_size = record_additional(suite, d, record, size, additional);
  if (EVP_DecryptInit_ex2(ctx, NULL, d->key, nonce, NULL) != 1 ||
      EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, RECORD_TAG_BYTES, tag) != 1 ||
      EVP_DecryptUpdate(ctx, NULL, &done, additional, additional_size) != 1 ||
      EVP_DecryptUpdate(ctx, out, &done, at, (int)size) != 1) {
    return -ALERT_INTERNAL_ERROR;
  }
  int rest = 0;
  if (EVP_DecryptFinal_ex(ctx, out + done, &rest) != 1) return -ALERT_BAD_RECORD_MAC;
  d->sequence++;
  *type = record[0];
  if (!suite->is_tls12) { /* the type is the last byte that is not padding (RFC 8446 section 5.4) */
    while (size > 0 && out[size - 1] == 0) size--;
    if (size == 0) return -ALERT_UNEXPECTED_MESSAGE;
    *type = out[--size];
  }
  return size > RECORD_PLAIN_BYTES_MAX ? -ALERT_RECORD_OVERFLOW : (int32_t)size;
}

#endif
