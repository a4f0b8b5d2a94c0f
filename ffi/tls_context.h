/* Certificates, names and tickets: what lw_tls_configure is given becomes OpenSSL contexts, one a
 * certificate. Invariant: a context never changes after it was published; a newer one takes its
 * place, and the older is freed when the last handshake that began with it is over. */
#ifndef LONGWIRE_TLS_CONTEXT_H
#define LONGWIRE_TLS_CONTEXT_H

#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <stdio.h>

#include "entrance.h"
#include "tls.h"

/* Mozilla's "intermediate" for TLS 1.2: forward secrecy and authenticated encryption only; CCM is
 * for small devices (RFC 7251). TLS 1.3 has no others. */
#define TLS_12_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!aNULL"

static uint64_t tls_clock_s(void) { return monotonic_ms() / 1000 + 1; }

/* ---------------------------------------------------------------- tickets */

/* The key that makes tickets now. Older ones still read theirs until they fall off the end. */
static const struct tls_ticket_key *ticket_key_now(struct tls_state *s) {
  struct tls_ticket_key *keys = s->ticket_keys;
  uint64_t now_s = tls_clock_s();
  if (keys[0].made_s != 0 && now_s - keys[0].made_s < TLS_TICKET_KEY_S) return &keys[0];
  struct tls_ticket_key fresh = {.made_s = now_s};
  if (RAND_bytes(fresh.name, sizeof fresh.name) != 1 ||
      RAND_priv_bytes(fresh.cipher_key, sizeof fresh.cipher_key) != 1 ||
      RAND_priv_bytes(fresh.mac_key, sizeof fresh.mac_key) != 1) {
    return keys[0].made_s != 0 ? &keys[0] : NULL;
  }
  memmove(keys + 1, keys, (TLS_TICKET_KEYS - 1) * sizeof keys[0]);
  keys[0] = fresh;
  return &keys[0];
}

static const struct tls_ticket_key *ticket_key_named(const struct tls_state *s,
                                                     const uint8_t *name) {
  for (uint32_t i = 0; i < TLS_TICKET_KEYS; i++) {
    const struct tls_ticket_key *key = &s->ticket_keys[i];
    uint64_t age_s = tls_clock_s() - key->made_s;
    if (key->made_s == 0 || age_s >= (uint64_t)TLS_TICKET_KEY_S * TLS_TICKET_KEYS) continue;
    if (memcmp(key->name, name, sizeof key->name) == 0) return key;
  }
  return NULL;
}

static int ticket_set_keys(const struct tls_ticket_key *key, const uint8_t *iv,
                           EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int is_new) {
  char digest[] = "SHA256";
  uint8_t mac_key[32];
  memcpy(mac_key, key->mac_key, sizeof mac_key);
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, mac_key, sizeof mac_key),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_end(),
  };
  int done = EVP_MAC_CTX_set_params(mac, parameters) == 1 &&
             EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->cipher_key, iv, is_new) == 1;
  OPENSSL_cleanse(mac_key, sizeof mac_key);
  return done;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): no session is kept here, the device brings it along. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                     EVP_MAC_CTX *mac, int is_new) {
  const struct tls_context *context = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
  struct tls_state *s = context->state;
  int result = 0; /* no such key: a full handshake */
  pthread_mutex_lock(&s->lock);
  const struct tls_ticket_key *now = ticket_key_now(s);
  const struct tls_ticket_key *key = is_new ? now : ticket_key_named(s, name);
  if (key != NULL && is_new) {
    memcpy(name, key->name, sizeof key->name);
    if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) != 1) key = NULL;
  }
  /* 2 = a new ticket, because its key will not be read for much longer. */
  if (key != NULL && ticket_set_keys(key, iv, cipher, mac, is_new)) result = key == now ? 1 : 2;
  pthread_mutex_unlock(&s->lock);
  return result;
}

/* ---------------------------------------------------------------- names */

/* Whether `name`, in lower case, is what a certificate's `pattern` means (RFC 6125 section
 * 6.4.3). */
static int name_fits(const char *pattern, const char *name) {
  if (pattern[0] != '*' || pattern[1] != '.') return strcmp(pattern, name) == 0;
  const char *dot = strchr(name, '.');
  return dot != NULL && dot != name && strcmp(pattern + 1, dot) == 0;
}

/* SNI (RFC 6066 section 3): a name that no certificate has is answered with the first one. */
static int on_server_name(SSL *ssl, int *alert, void *argument) {
  const struct tls_context *context = argument;
  const char *asked = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
  char name[256];
  size_t size = asked == NULL ? 0 : strlen(asked);
  (void)alert;
  if (size == 0 || size >= sizeof name) return SSL_TLSEXT_ERR_NOACK;
  for (size_t i = 0; i <= size; i++) {
    name[i] = (char)(asked[i] >= 'A' && asked[i] <= 'Z' ? asked[i] + 32 : asked[i]);
  }
  for (uint32_t i = 0; i < context->name_count; i++) {
    if (!name_fits(context->names[i].name, name)) continue;
    SSL_set_SSL_CTX(ssl, context->names[i].certificate);
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_NOACK;
}

/* Returns 0 or -1 (no memory, or too many). Text with a NUL inside is no name. */
static int context_add_name(struct tls_context *context, SSL_CTX *certificate, const uint8_t *text,
                            int size) {
  if (size <= 0 || size > 255 || memchr(text, 0, (size_t)size) != NULL) return 0;
  if (context->name_count == TLS_NAMES_MAX) return -1;
  char *name = malloc((size_t)size + 1);
  if (name == NULL) return -1;
  for (int i = 0; i < size; i++) {
    name[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
  }
  name[size] = 0;
  struct tls_name *added = &context->names[context->name_count++];
  *added = (struct tls_name){.name = name, .certificate = certificate};
  return 0;
}

/* The DNS names of a certificate; its common name when it has none (RFC 6125 section 6.4.4). */
static int context_add_names(struct tls_context *context, SSL_CTX *certificate) {
  X509 *leaf = SSL_CTX_get0_certificate(certificate);
  GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
  int result = 0;
  int found = 0;
  for (int i = 0; i < sk_GENERAL_NAME_num(names) && result == 0; i++) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_DNS) continue;
    found = 1;
    result = context_add_name(context, certificate, ASN1_STRING_get0_data(name->d.dNSName),
                              ASN1_STRING_length(name->d.dNSName));
  }
  GENERAL_NAMES_free(names);
  X509_NAME *subject = X509_get_subject_name(leaf);
  int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (found || at < 0) return result;
  const ASN1_STRING *common = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
  return context_add_name(context, certificate, ASN1_STRING_get0_data(common),
                          ASN1_STRING_length(common));
}

/* ---------------------------------------------------------------- one certificate */

/* What ALPN calls the protocols (IANA's registry; "mqtt" is there). */
static const uint8_t alpn_mqtt[] = {4, 'm', 'q', 't', 't'};
static const uint8_t alpn_longwire[] = {10, 'l', 'o', 'n', 'g', 'w', 'i', 'r', 'e', '/', '1'};

/* A client that offers only other protocols is refused (RFC 7301 section 3.2). */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_size,
                   const unsigned char *offered, unsigned offered_size, void *argument) {
  const struct tls_object *object = SSL_get_app_data(ssl);
  int is_mqtt = object->connection->protocol == LW_PROTOCOL_MQTT;
  const uint8_t *own = is_mqtt ? alpn_mqtt : alpn_longwire;
  unsigned own_size = is_mqtt ? sizeof alpn_mqtt : sizeof alpn_longwire;
  unsigned char *chosen = NULL;
  (void)argument;
  int found = SSL_select_next_proto(&chosen, out_size, own, own_size, offered, offered_size);
  *out = chosen;
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* The value of a hexadecimal digit, or -1. */
static int digit_of(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

static int secret_of(const char *hex, uint8_t *out) {
  size_t size = strlen(hex) / 2;
  if (size > RECORD_SECRET_BYTES_MAX) return -1;
  for (size_t i = 0; i < size; i++) {
    int high = digit_of(hex[2 * i]);
    int low = digit_of(hex[2 * i + 1]);
    if (high < 0 || low < 0) return -1;
    out[i] = (uint8_t)(high << 4 | low);
  }
  return 0;
}

/* SSL_CTX_set_keylog_callback(3) is OpenSSL's public way to the secrets; each line is
 * "LABEL client_random secret". From the server's on, records are counted: each used a number. */
static void on_secret(const SSL *ssl, const char *line) {
  struct tls_object *object = SSL_get_app_data(ssl);
  const char *secret = strrchr(line, ' ');
  if (object == NULL || secret == NULL) return;
  if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0 ||
      strncmp(line, "CLIENT_RANDOM ", 14) == 0) {
    object->has_in_secret = secret_of(secret + 1, object->in_secret) == 0;
  } else if (strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0) {
    object->has_out_secret = secret_of(secret + 1, object->out_secret) == 0;
    object->records_out = 0;
  }
}

/* SSL_CTX_set_msg_callback(3): the header of every record that is written passes here. */
static void on_message(int is_write, int version, int type, const void *bytes, size_t size,
                       SSL *ssl, void *argument) {
  struct tls_object *object = SSL_get_app_data(ssl);
  (void)version, (void)bytes, (void)size, (void)argument;
  if (is_write && type == SSL3_RT_HEADER && object != NULL) object->records_out++;
}

/* What went wrong last, in OpenSSL's words; forgets all of it. */
static const char *tls_reason(void) {
  const char *reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return reason == NULL ? "reason unknown" : reason;
}

/* Keys with a passphrase are refused: there is nobody to ask. */
static int no_passphrase(char *buffer, int size, int is_write, void *argument) {
  (void)buffer, (void)size, (void)is_write, (void)argument;
  return -1;
}

/* Leaf first, then what leads to a root. Returns NULL, or what is wrong. */
static const char *use_chain(SSL_CTX *ctx, const uint8_t *pem, uint32_t size) {
  const char *wrong = NULL;
  BIO *bio = BIO_new_mem_buf(pem, (int)size);
  X509 *leaf = bio == NULL ? NULL : PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL);
  X509 *next = NULL;
  if (leaf == NULL || SSL_CTX_use_certificate(ctx, leaf) != 1) {
    wrong = tls_reason();
    goto done;
  }
  while ((next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL) {
    if (SSL_CTX_add0_chain_cert(ctx, next) != 1) {
      X509_free(next);
      wrong = tls_reason();
      goto done;
    }
  }
  ERR_clear_error(); /* the end of the text is an error to PEM_read_bio */
done:
  X509_free(leaf);
  BIO_free(bio);
  return wrong;
}

static const char *use_key(SSL_CTX *ctx, const uint8_t *pem, uint32_t size) {
  const char *wrong = NULL;
  BIO *bio = BIO_new_mem_buf(pem, (int)size);
  EVP_PKEY *key = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
  if (key == NULL || SSL_CTX_use_PrivateKey(ctx, key) != 1 || SSL_CTX_check_private_key(ctx) != 1) {
    wrong = tls_reason();
  }
  EVP_PKEY_free(key);
  BIO_free(bio);
  return wrong;
}

/* Whoever signs devices' certificates: their names are sent along with the request for one. */
static const char *use_client_ca(SSL_CTX *ctx, const uint8_t *pem, uint32_t size) {
  X509_STORE *store = SSL_CTX_get_cert_store(ctx);
  BIO *bio = BIO_new_mem_buf(pem, (int)size);
  X509 *each = NULL;
  int count = 0;
  while (bio != NULL && (each = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL) {
    count += X509_STORE_add_cert(store, each) == 1 && SSL_CTX_add_client_CA(ctx, each) == 1;
    X509_free(each);
  }
  BIO_free(bio);
  ERR_clear_error();
  return count == 0 ? "the client CA holds no certificate" : NULL;
}

/* ---------------------------------------------------------------- a whole context */

/* One certificate of lw_tls_configure. */
struct tls_pem {
  const uint8_t *chain;
  const uint8_t *key;
  uint32_t chain_size;
  uint32_t key_size;
};

/* Tickets are read only under the client CA and the rules under which they were made. */
static int set_session_context(SSL_CTX *ctx, const struct lw_tls_options *o, const uint8_t *ca) {
  uint8_t digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_MD_CTX *md = EVP_MD_CTX_new();
  int done = md != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
             EVP_DigestUpdate(md, &o->client_auth, sizeof o->client_auth) == 1 &&
             EVP_DigestUpdate(md, ca, o->client_ca_size) == 1 &&
             EVP_DigestFinal_ex(md, digest, &size) == 1 &&
             SSL_CTX_set_session_id_context(ctx, digest, size) == 1;
  EVP_MD_CTX_free(md);
  return done;
}

static int set_rules(SSL_CTX *ctx, struct tls_context *context, const struct lw_tls_options *o,
                     const uint8_t *ca) {
  int verify = o->client_auth == LW_TLS_CLIENT_NONE ? SSL_VERIFY_NONE : SSL_VERIFY_PEER;
  if (o->client_auth == LW_TLS_CLIENT_REQUIRED) verify |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  SSL_CTX_set_verify(ctx, verify, NULL);
  SSL_CTX_set_app_data(ctx, context);
  SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_timeout(ctx, (TLS_TICKET_KEYS - 1) * TLS_TICKET_KEY_S);
  SSL_CTX_set_num_tickets(ctx, 1); /* a device has one connection at a time */
  SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
  SSL_CTX_set_tlsext_servername_callback(ctx, on_server_name);
  SSL_CTX_set_tlsext_servername_arg(ctx, context);
  SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
  SSL_CTX_set_keylog_callback(ctx, on_secret);
  SSL_CTX_set_msg_callback(ctx, on_message);
  return SSL_CTX_set_min_proto_version(ctx, (int)o->version_min) == 1 &&
         SSL_CTX_set_cipher_list(ctx, TLS_12_CIPHERS) == 1 && set_session_context(ctx, o, ca);
}

/* Returns NULL, or what is wrong; the certificate belongs to the context either way. */
static const char *context_add(struct tls_context *context, const struct lw_tls_options *o,
                               const uint8_t *ca, const struct tls_pem *pem) {
  SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
  if (ctx == NULL) return tls_reason();
  context->certificates[context->certificate_count++] = ctx;
  if (!set_rules(ctx, context, o, ca)) return tls_reason();
  const char *wrong = use_chain(ctx, pem->chain, pem->chain_size);
  if (wrong == NULL) wrong = use_key(ctx, pem->key, pem->key_size);
  if (wrong == NULL && o->client_auth != LW_TLS_CLIENT_NONE) {
    wrong = use_client_ca(ctx, ca, o->client_ca_size);
  }
  if (wrong == NULL && context_add_names(context, ctx) != 0) wrong = "it has too many names";
  return wrong;
}

static void context_drop(struct tls_context *context) {
  if (context == NULL) return;
  if (__atomic_fetch_sub(&context->references, 1, __ATOMIC_ACQ_REL) != 1) return;
  for (uint32_t i = 0; i < context->certificate_count; i++) SSL_CTX_free(context->certificates[i]);
  for (uint32_t i = 0; i < context->name_count; i++) free(context->names[i].name);
  free(context);
}

/* Cuts the next certificate off the options. Returns 0, or -1 when they end before it does. */
static int pem_cut(const uint8_t **at, const uint8_t *end, struct tls_pem *out) {
  uint32_t sizes[2];
  if ((size_t)(end - *at) < sizeof sizes) return -1;
  memcpy(sizes, *at, sizeof sizes);
  *at += sizeof sizes;
  if (sizes[0] > INT32_MAX || sizes[1] > INT32_MAX) return -1;
  if ((size_t)(end - *at) < (size_t)sizes[0] + sizes[1]) return -1;
  *out = (struct tls_pem){*at, *at + sizes[0], sizes[0], sizes[1]};
  *at += sizes[0] + sizes[1];
  return 0;
}

static int tls_options_problem(const struct lw_tls_options *o, size_t bytes) {
  if (bytes < sizeof *o || o->size != sizeof *o) return 1;
  if (o->client_auth > LW_TLS_CLIENT_REQUIRED) return 1;
  if (o->client_ca_size > bytes - sizeof *o || o->client_ca_size > INT32_MAX) return 1;
  if (o->client_auth != LW_TLS_CLIENT_NONE && o->client_ca_size == 0) return 1;
  return o->certificate_count == 0 || o->certificate_count > TLS_CERTIFICATES_MAX;
}

/* The reactor's state, made with the first context. TLS outlives no thread: OpenSSL must not be
 * cleaned up by exit() while one of ours still uses it. */
static struct tls_state *state_of(struct lw_reactor *r) {
  if (r->tls != NULL) return r->tls;
  OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
  struct tls_state *s = calloc(1, sizeof *s);
  if (s == NULL) return NULL;
  pthread_mutex_init(&s->lock, NULL);
  r->tls = s;
  return s;
}

int lw_tls_configure(struct lw_reactor *r, uint32_t number, const struct lw_tls_options *o,
                     size_t bytes, char *problem, size_t problem_size) {
  if (number >= TLS_CONTEXTS_MAX || tls_options_problem(o, bytes)) {
    snprintf(problem, problem_size, "the options are not valid");
    return -EINVAL;
  }
  const uint8_t *ca = (const uint8_t *)(o + 1);
  const uint8_t *at = ca + o->client_ca_size;
  const uint8_t *end = (const uint8_t *)o + bytes;
  struct tls_state *s = state_of(r);
  struct tls_context *context = calloc(1, sizeof *context);
  if (s == NULL || context == NULL) {
    free(context);
    snprintf(problem, problem_size, "there is no memory");
    return -ENOMEM;
  }
  *context = (struct tls_context){.references = 1, .flags = o->flags, .state = s};
  for (uint32_t i = 0; i < o->certificate_count; i++) {
    struct tls_pem pem;
    const char *wrong = "the options end before it does";
    if (pem_cut(&at, end, &pem) == 0) wrong = context_add(context, o, ca, &pem);
    if (wrong == NULL) continue;
    snprintf(problem, problem_size, "certificate %u: %s", i + 1, wrong);
    context_drop(context);
    return -EINVAL;
  }
  pthread_mutex_lock(&s->lock);
  struct tls_context *before = s->contexts[number];
  s->contexts[number] = context;
  pthread_mutex_unlock(&s->lock);
  context_drop(before);
  return 0;
}

static int tls_is_configured(const struct lw_reactor *r, uint32_t tls) {
  if (tls == 0) return 1;
  return tls <= TLS_CONTEXTS_MAX && r->tls != NULL && r->tls->contexts[tls - 1] != NULL;
}

/* The context that handshakes begin with now, with a reference for the caller. */
static struct tls_context *context_now(struct tls_state *s, uint32_t number) {
  pthread_mutex_lock(&s->lock);
  struct tls_context *context = s->contexts[number];
  __atomic_fetch_add(&context->references, 1, __ATOMIC_RELAXED);
  pthread_mutex_unlock(&s->lock);
  return context;
}

static void tls_state_free(struct lw_reactor *r) {
  struct tls_state *s = r->tls;
  if (s == NULL) return;
  for (uint32_t i = 0; i < TLS_CONTEXTS_MAX; i++) context_drop(s->contexts[i]);
  pthread_mutex_destroy(&s->lock);
  OPENSSL_cleanse(s, sizeof *s);
  free(s);
  r->tls = NULL;
}

#endif
