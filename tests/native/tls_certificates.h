/* Certificates for the native TLS tests, made in memory: an authority, and what it signs. */
#ifndef LONGWIRE_TESTS_TLS_CERTIFICATES_H
#define LONGWIRE_TESTS_TLS_CERTIFICATES_H

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "check.h"

struct identity {
  X509 *certificate;
  EVP_PKEY *key;
};

static void identity_free(struct identity *who) {
  X509_free(who->certificate);
  EVP_PKEY_free(who->key);
  *who = (struct identity){0};
}

static void add_extension(X509 *certificate, X509 *issuer, int nid, const char *value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
  X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
  REQUIRE(extension != NULL, "extension %s", value);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

/* What identity_make is told beside the common name. */
struct identity_options {
  const struct identity *issuer; /* NULL = it signs itself, and is an authority */
  const char *names;             /* subjectAltName as in openssl.cnf; NULL = none */
  int is_rsa;                    /* else P-256 */
  int days;                      /* 0 = 30; negative = expired so long ago */
};

static struct identity identity_make(const char *common_name, struct identity_options o) {
  struct identity who = {.certificate = X509_new()};
  who.key = o.is_rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");
  REQUIRE(who.certificate != NULL && who.key != NULL, "no memory");
  static long serial = 1;
  ASN1_INTEGER_set(X509_get_serialNumber(who.certificate), serial++);
  X509_set_version(who.certificate, X509_VERSION_3);
  long days = o.days == 0 ? 30 : o.days;
  X509_gmtime_adj(X509_getm_notBefore(who.certificate), -86400 * (days < 0 ? 1 - days : 1));
  X509_gmtime_adj(X509_getm_notAfter(who.certificate), 86400 * days);
  X509_NAME *name = X509_get_subject_name(who.certificate);
  X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8, (const unsigned char *)"Tests", -1, -1, 0);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1,
                             0);
  X509 *issuer = o.issuer == NULL ? who.certificate : o.issuer->certificate;
  X509_set_issuer_name(who.certificate, X509_get_subject_name(issuer));
  X509_set_pubkey(who.certificate, who.key);
  if (o.issuer == NULL) {
    add_extension(who.certificate, issuer, NID_basic_constraints, "critical,CA:TRUE");
  }
  if (o.names != NULL) add_extension(who.certificate, issuer, NID_subject_alt_name, o.names);
  EVP_PKEY *signer = o.issuer == NULL ? who.key : o.issuer->key;
  REQUIRE(X509_sign(who.certificate, signer, EVP_sha256()) > 0, "cannot sign %s", common_name);
  return who;
}

/* PEM of one or the other; the caller frees it. */
static char *pem_of(const struct identity *who, int is_key, uint32_t *size) {
  BIO *bio = BIO_new(BIO_s_mem());
  if (is_key) PEM_write_bio_PrivateKey(bio, who->key, NULL, NULL, 0, NULL, NULL);
  else PEM_write_bio_X509(bio, who->certificate);
  char *bytes = NULL;
  long length = BIO_get_mem_data(bio, &bytes);
  char *copy = malloc((size_t)length + 1);
  REQUIRE(copy != NULL, "no memory");
  memcpy(copy, bytes, (size_t)length);
  copy[length] = 0;
  *size = (uint32_t)length;
  BIO_free(bio);
  return copy;
}

/* Options of lw_tls_configure, being written. */
struct tls_setup {
  uint8_t bytes[64 << 10];
  size_t size;
};

static void setup_add(struct tls_setup *s, const void *bytes, size_t size) {
  REQUIRE(s->size + size <= sizeof s->bytes, "setup of %zu bytes", s->size + size);
  if (size > 0) memcpy(s->bytes + s->size, bytes, size);
  s->size += size;
}

/* enum lw_tls_flags of every context. */
static uint32_t setup_flags;

/* `ca` is NULL where nobody is asked for a certificate. */
static void setup_begin(struct tls_setup *s, struct lw_tls_options o, const struct identity *ca) {
  uint32_t ca_size = 0;
  char *ca_pem = ca == NULL ? NULL : pem_of(ca, 0, &ca_size);
  s->size = 0;
  o.size = sizeof o;
  o.flags |= setup_flags;
  if (o.version_min == 0) o.version_min = 0x0303;
  o.client_ca_size = ca_size;
  setup_add(s, &o, sizeof o);
  setup_add(s, ca_pem, ca_size);
  free(ca_pem);
}

static void setup_certificate(struct tls_setup *s, const struct identity *who) {
  uint32_t sizes[2];
  char *chain = pem_of(who, 0, &sizes[0]);
  char *key = pem_of(who, 1, &sizes[1]);
  setup_add(s, sizes, sizeof sizes);
  setup_add(s, chain, sizes[0]);
  setup_add(s, key, sizes[1]);
  free(chain);
  free(key);
  ((struct lw_tls_options *)(void *)s->bytes)->certificate_count++;
}

static void setup_use(const struct tls_setup *s, struct lw_reactor *r, uint32_t context) {
  char problem[256] = "";
  const struct lw_tls_options *o = (const struct lw_tls_options *)(const void *)s->bytes;
  int error = lw_tls_configure(r, context, o, s->size, problem, sizeof problem);
  REQUIRE(error == 0, "lw_tls_configure returned %d: %s", error, problem);
}

#endif
