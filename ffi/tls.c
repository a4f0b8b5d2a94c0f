/* TLS of connections, the same on every backend: what is received goes through here to the frames,
 * what is queued goes through here to the backend. Handshakes are counted and take turns, so that
 * devices that come back all at once cost neither memory nor those who are connected. */
#include "tls_context.h"
#include "tls_kernel.h"

static void tls_established(struct io_thread *t, struct connection *c);

/* ---------------------------------------------------------------- what leaves */

/* Adds bytes as they go on the wire. Returns 0, or -1 when the connection had to be closed. */
static int send_sealed(struct io_thread *t, struct connection *c, struct block *block) {
  struct out_queue *q = queue_of(t, c);
  if (q == NULL || out_push_sealed(q, block) != 0) {
    block_drop(block);
    end(t, c, LW_CODE_NO_MEMORY);
    return -1;
  }
  COUNT(t, out_queue_bytes, block->used);
  mark_dirty(t, c);
  if (q->bytes <= t->reactor->options.out_queue_hard_bytes + 2 * TLS_SEAL_BYTES) return 0;
  end(t, c, LW_CODE_SLOW_CONSUMER); /* alerts and key updates that it does not read */
  return -1;
}

/* One record of our own: an alert or a handshake message. Returns 0 or -1. */
static int send_record(struct io_thread *t, struct connection *c, uint8_t type,
                       const uint8_t *bytes, uint32_t size) {
  if (tls_kernel_sends(c)) return kernel_record(t, c, type, bytes, size);
  const struct record_suite *suite = &record_suites[c->tls->suite];
  struct record_piece piece = {.bytes = bytes, .size = size};
  struct block *block = block_new(size + RECORD_OVERHEAD_BYTES_MAX);
  if (block == NULL) {
    end(t, c, LW_CODE_NO_MEMORY);
    return -1;
  }
  block->used =
      record_seal(&t->tls->ciphers, suite, &c->tls->keys.out, type, &piece, 1, size, block->bytes);
  if (block->used > 0) return send_sealed(t, c, block);
  block_drop(block);
  end(t, c, LW_CODE_TLS_FAILED);
  return -1;
}

static int send_alert(struct io_thread *t, struct connection *c, uint8_t level, uint8_t alert) {
  const uint8_t body[2] = {level, alert};
  return send_record(t, c, RECORD_ALERT, body, sizeof body);
}

/* The peer broke the record layer: it is told why, and nothing else is believed or sent. */
static void tls_fail(struct io_thread *t, struct connection *c, uint8_t alert) {
  if (send_alert(t, c, 2, alert) != 0) return;
  c->tls->mode = TLS_ENDED;
  struct out_queue *q = c->out;
  if (q != NULL && out_plain_bytes(q) > 0) {
    COUNT(t, out_queue_bytes, -(uint64_t)out_plain_bytes(q));
    out_drop_plain(q);
  }
  drain(t, c, LW_CODE_TLS_FAILED);
}

/* A new key for what we send, announced with the old one (RFC 8446 section 4.6.3). */
static int update_out_key(struct io_thread *t, struct connection *c) {
  static const uint8_t key_update[5] = {24, 0, 0, 1, 0};
  if (tls_kernel_sends(c)) return kernel_update(t, c, key_update, sizeof key_update);
  if (send_record(t, c, RECORD_HANDSHAKE, key_update, sizeof key_update) != 0) return -1;
  if (record_update(&record_suites[c->tls->suite], &c->tls->keys.out) == 0) return 0;
  end(t, c, LW_CODE_TLS_FAILED);
  return -1;
}

#define SEAL_PIECES 256u

/* The plaintext of the next record, at most `room` bytes; returns its size. */
static uint32_t gather_record(const struct out_queue *q, uint32_t room, struct record_piece *pieces,
                              uint32_t *count) {
  uint32_t size = 0;
  if (room > RECORD_PLAIN_BYTES_MAX) room = RECORD_PLAIN_BYTES_MAX;
  *count = 0;
  for (uint32_t i = q->sealed; i < q->count && *count < SEAL_PIECES && size < room; i++) {
    const struct out_entry *e = out_at(q, i);
    uint32_t skip = i == q->sealed ? q->sealed_part : 0;
    uint32_t take = e->size - skip < room - size ? e->size - skip : room - size;
    pieces[(*count)++] = (struct record_piece){e->block->bytes + e->offset + skip, take};
    size += take;
  }
  return size;
}

static void seal_records(struct io_thread *t, struct connection *c) {
  const struct record_suite *suite = &record_suites[c->tls->suite];
  struct record_keys *keys = &c->tls->keys;
  if (keys->out.sequence >= RECORD_KEY_USES_MAX && !suite->is_tls12 && update_out_key(t, c) != 0) {
    return;
  }
  struct out_queue *q = c->out;
  uint32_t plain = out_plain_bytes(q);
  if (plain > TLS_SEAL_BYTES) plain = TLS_SEAL_BYTES;
  uint32_t overhead = (plain / RECORD_PLAIN_BYTES_MAX + 2) * RECORD_OVERHEAD_BYTES_MAX;
  struct block *block = block_new(plain + overhead);
  if (block == NULL) return end(t, c, LW_CODE_NO_MEMORY);
  while (out_plain_bytes(q) > 0 && block_room(block) > RECORD_OVERHEAD_BYTES_MAX) {
    struct record_piece pieces[SEAL_PIECES];
    uint32_t count;
    uint32_t room = block_room(block) - RECORD_OVERHEAD_BYTES_MAX;
    uint32_t size = gather_record(q, room, pieces, &count);
    uint32_t written = record_seal(&t->tls->ciphers, suite, &keys->out, RECORD_DATA, pieces, count,
                                   size, block->bytes + block->used);
    if (written == 0) {
      block_drop(block);
      return end(t, c, LW_CODE_TLS_FAILED);
    }
    block->used += written;
    out_take_plain(q, size);
    COUNT(t, out_queue_bytes, -(uint64_t)size);
  }
  (void)send_sealed(t, c, block);
}

/* The same by OpenSSL's object, which writes through object_write. */
static void seal_by_object(struct io_thread *t, struct connection *c) {
  struct out_queue *q = c->out;
  while (out_plain_bytes(q) > 0 && q->sealed_bytes < TLS_SEAL_BYTES) {
    struct record_piece pieces[SEAL_PIECES];
    uint32_t count;
    size_t written = 0;
    uint32_t size = gather_record(q, RECORD_PLAIN_BYTES_MAX, pieces, &count);
    const uint8_t *bytes = pieces[0].bytes;
    if (count > 1) {
      uint8_t *at = t->tls->gathered;
      for (uint32_t i = 0; i < count; i++) {
        memcpy(at, pieces[i].bytes, pieces[i].size);
        at += pieces[i].size;
      }
      bytes = t->tls->gathered;
    }
    ERR_clear_error();
    if (SSL_write_ex(c->tls->object->ssl, bytes, size, &written) != 1) {
      ERR_clear_error();
      return end(t, c, LW_CODE_TLS_FAILED);
    }
    out_take_plain(q, size);
    COUNT(t, out_queue_bytes, -(uint64_t)size);
  }
}

static uint32_t tls_seal(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  const struct out_queue *q = c->out;
  if (s->sender == SENDER_KERNEL_NEXT && s->mode == TLS_RECORDS) {
    if (q->sealed > 0) return q->sealed;
    kernel_take(t, c);
  }
  if (s->sender == SENDER_KERNEL) return kernel_sendable(t, c);
  if (q->sealed_bytes < TLS_SEAL_LOW_BYTES && out_plain_bytes(q) > 0) {
    if (s->mode == TLS_RECORDS) seal_records(t, c);
    else if (s->mode == TLS_OBJECT) seal_by_object(t, c);
  }
  return c->state == CLOSED || c->out == NULL ? 0 : c->out->sealed;
}

/* Says close_notify (RFC 8446 section 6.1), once; returns whether there is something to send. */
static int tls_end_write(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  uint8_t mode = s->mode;
  s->mode = TLS_ENDED;
  if (mode == TLS_RECORDS) return send_alert(t, c, 1, ALERT_CLOSE_NOTIFY) == 0;
  if (mode != TLS_OBJECT) return 0;
  ERR_clear_error();
  (void)SSL_shutdown(s->object->ssl);
  ERR_clear_error();
  return c->out != NULL;
}

/* ---------------------------------------------------------------- the object */

/* What the object reads is what has just been received; what it writes is queued. */
static int object_read(BIO *bio, char *out, size_t size, size_t *done) {
  struct tls_object *o = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  if (o->in_size == 0) {
    BIO_set_retry_read(bio);
    return 0;
  }
  *done = size < o->in_size ? size : o->in_size;
  memcpy(out, o->in, *done);
  o->in += *done;
  o->in_size -= (uint32_t)*done;
  return 1;
}

/* The connection is not closed here, whatever goes wrong: the object is at work. */
static int object_write(BIO *bio, const char *bytes, size_t size, size_t *done) {
  struct tls_object *o = BIO_get_data(bio);
  struct connection *c = o->connection;
  struct out_queue *q = queue_of(o->thread, c);
  struct block *block = q == NULL ? NULL : block_new((uint32_t)size);
  BIO_clear_retry_flags(bio);
  if (block == NULL) return 0;
  block_append(block, bytes, (uint32_t)size);
  if (out_push_sealed(q, block) != 0) {
    block_drop(block);
    return 0;
  }
  COUNT(o->thread, out_queue_bytes, size);
  mark_dirty(o->thread, c);
  *done = size;
  return 1;
}

static long object_control(BIO *bio, int command, long number, void *pointer) {
  (void)bio, (void)number, (void)pointer;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *object_method;

static void object_method_make(void) {
  BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "longwire");
  if (m == NULL) return;
  if (BIO_meth_set_read_ex(m, object_read) != 1 || BIO_meth_set_write_ex(m, object_write) != 1 ||
      BIO_meth_set_ctrl(m, object_control) != 1) {
    BIO_meth_free(m);
    return;
  }
  object_method = m;
}

static BIO *object_bio(struct tls_object *o) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, object_method_make);
  BIO *bio = object_method == NULL ? NULL : BIO_new(object_method);
  if (bio == NULL) return NULL;
  BIO_set_data(bio, o);
  BIO_set_init(bio, 1);
  return bio;
}

static void object_free(struct tls *s) {
  struct tls_object *o = s->object;
  if (o == NULL) return;
  s->object = NULL;
  if (o->is_counted) {
    o->thread->tls->handshaking--;
    COUNT(o->thread, tls_handshaking, -1);
  } else {
    COUNT(o->thread, tls_objects, -1);
  }
  SSL_free(o->ssl);
  context_drop(o->context);
  OPENSSL_cleanse(o, sizeof *o);
  free(o);
  ERR_clear_error();
}

/* Begins the handshake. Returns 0 or -1 (no memory). */
static int object_new(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  struct tls_object *o = calloc(1, sizeof *o);
  if (o == NULL) return -1;
  s->object = o;
  s->mode = TLS_HANDSHAKE;
  o->thread = t;
  o->connection = c;
  o->is_counted = 1;
  t->tls->handshaking++;
  COUNT(t, tls_handshaking, 1);
  o->context = context_now(t->reactor->tls, s->context);
  s->is_object_kept = (o->context->flags & LW_TLS_KEEP_OBJECTS) != 0;
  if (o->context->flags & LW_TLS_KERNEL) s->sender = SENDER_KERNEL_NEXT;
  BIO *bio = object_bio(o);
  o->ssl = bio == NULL ? NULL : SSL_new(o->context->certificates[0]);
  if (o->ssl == NULL) {
    BIO_free(bio);
    object_free(s);
    return -1;
  }
  SSL_set_bio(o->ssl, bio, bio);
  SSL_set_app_data(o->ssl, o);
  SSL_set_accept_state(o->ssl);
  return 0;
}

/* ---------------------------------------------------------------- what comes */

/* The same as keep(), for bytes of the wire. Returns 0 or -1. */
static int keep_cipher(struct connection *c, const uint8_t *bytes, uint32_t size) {
  struct kept *plain = c->kept;
  c->kept = c->tls->cipher;
  int result = keep(c, bytes, size);
  c->tls->cipher = c->kept;
  c->kept = plain;
  return result;
}

/* Whether the connection still takes what the peer says. */
static int is_open(const struct connection *c, uint8_t mode) {
  return c->state != CLOSED && c->state != DRAINING && c->tls->mode == mode;
}

static void read_by_object(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                           uint32_t size) {
  struct tls_object *o = c->tls->object;
  o->in = bytes;
  o->in_size = size;
  while (is_open(c, TLS_OBJECT)) {
    size_t done = 0;
    ERR_clear_error();
    if (SSL_read_ex(o->ssl, t->tls->plain, sizeof t->tls->plain, &done) == 1) {
      pass_on(t, c, t->tls->plain, (uint32_t)done);
      continue;
    }
    int error = SSL_get_error(o->ssl, 0);
    ERR_clear_error();
    if (error == SSL_ERROR_ZERO_RETURN) return ended(t, c);
    if (error == SSL_ERROR_WANT_READ) return;
    c->tls->mode = TLS_ENDED; /* its alert is queued */
    return drain(t, c, LW_CODE_TLS_FAILED);
  }
}

/* TLS 1.3 has one message that a client may send after its handshake, and it comes alone because
 * the key changes behind it (RFC 8446 section 5.1). TLS 1.2 could ask for a new handshake. */
static void take_handshake_record(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                                  uint32_t size) {
  const struct record_suite *suite = &record_suites[c->tls->suite];
  if (suite->is_tls12) {
    (void)send_alert(t, c, 1, ALERT_NO_RENEGOTIATION); /* RFC 5246 section 7.2.2 */
    return;
  }
  static const uint8_t head[4] = {24, 0, 0, 1};
  if (size != 5 || memcmp(bytes, head, sizeof head) != 0) {
    return tls_fail(t, c, ALERT_UNEXPECTED_MESSAGE);
  }
  if (bytes[4] > 1) return tls_fail(t, c, ALERT_ILLEGAL_PARAMETER);
  if (record_update(suite, &c->tls->keys.in) != 0) return end(t, c, LW_CODE_TLS_FAILED);
  if (bytes[4] == 1) (void)update_out_key(t, c);
}

static void take_alert(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                       uint32_t size) {
  if (size != 2) return tls_fail(t, c, ALERT_DECODE_ERROR);
  if (bytes[1] == ALERT_CLOSE_NOTIFY) return ended(t, c);
  int is_warning =
      record_suites[c->tls->suite].is_tls12 ? bytes[0] == 1 : bytes[1] == ALERT_USER_CANCELED;
  if (!is_warning) end(t, c, LW_CODE_TLS_FAILED);
}

/* Deals with one whole record. */
static void take_record(struct io_thread *t, struct connection *c, const uint8_t *record,
                        uint32_t size) {
  const struct record_suite *suite = &record_suites[c->tls->suite];
  uint8_t type = 0;
  int32_t plain =
      record_open(&t->tls->ciphers, suite, &c->tls->keys.in, record, size, t->tls->plain, &type);
  if (plain < 0) return tls_fail(t, c, (uint8_t)-plain);
  if (type == RECORD_DATA) {
    if (plain > 0) pass_on(t, c, t->tls->plain, (uint32_t)plain);
  } else if (type == RECORD_HANDSHAKE) {
    take_handshake_record(t, c, t->tls->plain, (uint32_t)plain);
  } else if (type == RECORD_ALERT) {
    take_alert(t, c, t->tls->plain, (uint32_t)plain);
  } else {
    tls_fail(t, c, ALERT_UNEXPECTED_MESSAGE);
  }
}

/* Completes the record that is kept in part; returns how many of the new bytes went into it. */
static uint32_t complete_record(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                                uint32_t size) {
  const struct record_suite *suite = &record_suites[c->tls->suite];
  uint32_t have = c->tls->cipher->size;
  uint32_t whole = RECORD_HEADER_BYTES;
  if (have >= whole) whole = (uint32_t)record_cut(suite, c->tls->cipher->bytes, have);
  uint32_t take = whole - have < size ? whole - have : size;
  if (keep_cipher(c, bytes, take) != 0) {
    end(t, c, LW_CODE_NO_MEMORY);
    return take;
  }
  struct kept *kept = c->tls->cipher;
  int32_t cut = record_cut(suite, kept->bytes, kept->size);
  if (cut >= 0 && (cut == 0 || kept->size < (uint32_t)cut)) return take;
  c->tls->cipher = NULL;
  if (cut < 0) tls_fail(t, c, (uint8_t)-cut);
  else take_record(t, c, kept->bytes, (uint32_t)cut);
  free(kept);
  return take;
}

static void read_records(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                         uint32_t size) {
  uint32_t at = 0;
  while (at < size && is_open(c, TLS_RECORDS)) {
    if (c->tls->cipher != NULL) {
      at += complete_record(t, c, bytes + at, size - at);
      continue;
    }
    int32_t cut = record_cut(&record_suites[c->tls->suite], bytes + at, size - at);
    if (cut < 0) return tls_fail(t, c, (uint8_t)-cut);
    if (cut == 0 || (uint32_t)cut > size - at) {
      if (keep_cipher(c, bytes + at, size - at) != 0) end(t, c, LW_CODE_NO_MEMORY);
      return;
    }
    take_record(t, c, bytes + at, (uint32_t)cut);
    at += (uint32_t)cut;
  }
}

static void tls_received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                         uint32_t size) {
  struct tls *s = c->tls;
  if (s->mode == TLS_RECORDS) return read_records(t, c, bytes, size);
  if (s->mode == TLS_OBJECT) return read_by_object(t, c, bytes, size);
  if (s->mode == TLS_ENDED) return;
  if (keep_cipher(c, bytes, size) != 0) return end(t, c, LW_CODE_NO_MEMORY);
  if (c->flags & TLS_QUEUED) return;
  if (slot_list_push(&t->tls->queue, c->slot) != 0) return end(t, c, LW_CODE_NO_MEMORY);
  c->flags |= TLS_QUEUED;
}

/* ---------------------------------------------------------------- the handshake is over */

static void write_name(BIO *out, const char *label, const ASN1_STRING *text) {
  const unsigned char *bytes = ASN1_STRING_get0_data(text);
  int size = ASN1_STRING_length(text);
  for (int i = 0; i < size; i++) {
    if (bytes[i] < 0x20 || bytes[i] == 0x7f) return; /* it would end the line */
  }
  BIO_printf(out, "%s=%.*s\n", label, size, (const char *)bytes);
}

static void write_alternative_names(BIO *out, X509 *certificate) {
  GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
  for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
    const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
    if (name->type == GEN_DNS) write_name(out, "dns", name->d.dNSName);
    if (name->type == GEN_URI) write_name(out, "uri", name->d.uniformResourceIdentifier);
    if (name->type == GEN_EMAIL) write_name(out, "email", name->d.rfc822Name);
  }
  GENERAL_NAMES_free(names);
}

/* The lines of lw_peer_certificate. The common name is UTF-8, whatever the certificate has. */
static int write_certificate(BIO *out, X509 *certificate) {
  uint8_t digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  X509_NAME *subject = X509_get_subject_name(certificate);
  BIO_puts(out, "subject=");
  X509_NAME_print_ex(out, subject, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
  if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1) return -1;
  BIO_puts(out, "\nfingerprint=");
  for (unsigned i = 0; i < size; i++) BIO_printf(out, "%02x", digest[i]);
  BIO_puts(out, "\n");
  int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  unsigned char *utf8 = NULL;
  int common = at < 0 ? -1
                      : ASN1_STRING_to_UTF8(
                            &utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  ASN1_STRING *text = common < 0 ? NULL : ASN1_STRING_new();
  if (text != NULL && ASN1_STRING_set(text, utf8, common) == 1) {
    write_name(out, "common_name", text);
  }
  ASN1_STRING_free(text);
  OPENSSL_free(utf8);
  write_alternative_names(out, certificate);
  return 0;
}

/* Keeps what the certificate says. Returns 0, or the code that ends the connection. A ticket brings
 * the certificate of the first handshake along: it may have expired since. */
static unsigned keep_certificate(struct tls *s) {
  X509 *certificate = SSL_get1_peer_certificate(s->object->ssl);
  if (certificate == NULL) return 0;
  unsigned code = LW_CODE_TLS_CERTIFICATE;
  BIO *out = NULL;
  char *text = NULL;
  if (SSL_get_verify_result(s->object->ssl) != X509_V_OK) goto done;
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0) goto done;
  code = LW_CODE_NO_MEMORY;
  out = BIO_new(BIO_s_mem());
  if (out == NULL || write_certificate(out, certificate) != 0) goto done;
  long size = BIO_get_mem_data(out, &text);
  s->peer = malloc((size_t)size + 1);
  if (s->peer == NULL) goto done;
  memcpy(s->peer, text, (size_t)size);
  s->peer[size] = 0;
  code = 0;
done:
  BIO_free(out);
  X509_free(certificate);
  return code;
}

/* Takes the keys out of the object. Returns 0, or -1 when it has to stay. */
static int keys_of_object(struct tls *s) {
  const struct tls_object *o = s->object;
  int index = record_suite_find(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(o->ssl)));
  int is_tls12 = SSL_version(o->ssl) == TLS1_2_VERSION;
  if (s->is_object_kept || index < 0 || SSL_has_pending(o->ssl)) return -1;
  const struct record_suite *suite = &record_suites[index];
  if (suite->is_tls12 != is_tls12 || !o->has_in_secret) return -1;
  s->suite = (uint8_t)index;
  if (is_tls12) {
    uint8_t randoms[64];
    if (SSL_get_server_random(o->ssl, randoms, 32) != 32) return -1;
    if (SSL_get_client_random(o->ssl, randoms + 32, 32) != 32) return -1;
    return record_derive_tls12(suite, o->in_secret, randoms, &s->keys);
  }
  if (!o->has_out_secret) return -1;
  memcpy(s->keys.in.secret, o->in_secret, suite->secret_bytes);
  memcpy(s->keys.out.secret, o->out_secret, suite->secret_bytes);
  if (record_derive(suite, &s->keys.in) != 0 || record_derive(suite, &s->keys.out) != 0) return -1;
  s->keys.out.sequence = o->records_out; /* the ticket has been one */
  return 0;
}

/* It is told nothing more, or what it was told leaves first and then it is closed in order. */
static void let_go(struct io_thread *t, struct connection *c, unsigned code) {
  object_free(c->tls);
  c->tls->mode = TLS_ENDED;
  finish(t, c, code);
}

static void tls_established(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  COUNT(t, tls_handshakes, 1);
  if (SSL_session_reused(s->object->ssl)) COUNT(t, tls_resumed, 1);
  unsigned code = keep_certificate(s);
  if (code != 0) return let_go(t, c, code);
  const uint8_t *rest = s->object->in;
  uint32_t rest_size = s->object->in_size;
  if (keys_of_object(s) == 0) {
    object_free(s);
    s->mode = TLS_RECORDS;
  } else {
    s->mode = TLS_OBJECT;
    s->object->is_counted = 0;
    t->tls->handshaking--;
    COUNT(t, tls_handshaking, -1);
    COUNT(t, tls_objects, 1);
  }
  if (rest_size > 0) tls_received(t, c, rest, rest_size);
}

/* ---------------------------------------------------------------- handshakes take turns */

static unsigned handshake_code(void) {
  int reason = ERR_GET_REASON(ERR_peek_last_error());
  ERR_clear_error();
  int is_certificate = reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE ||
                       reason == SSL_R_CERTIFICATE_VERIFY_FAILED ||
                       reason == SSL_R_NO_CERTIFICATE_SET;
  return is_certificate ? LW_CODE_TLS_CERTIFICATE : LW_CODE_TLS_FAILED;
}

/* Goes on with what has come. */
static void handshake_step(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  struct kept *came = s->cipher;
  s->cipher = NULL;
  if (s->object == NULL && object_new(t, c) != 0) {
    free(came);
    return end(t, c, LW_CODE_NO_MEMORY);
  }
  SSL *ssl = s->object->ssl;
  s->object->in = came == NULL ? NULL : came->bytes;
  s->object->in_size = came == NULL ? 0 : came->size;
  ERR_clear_error();
  int done = SSL_do_handshake(ssl);
  if (done == 1) tls_established(t, c);
  else if (SSL_get_error(ssl, done) != SSL_ERROR_WANT_READ) let_go(t, c, handshake_code());
  free(came);
}

static uint32_t handshakes_max(const struct io_thread *t) {
  uint32_t all = t->reactor->options.tls_handshakes_max;
  if (all == 0) all = TLS_HANDSHAKES_DEFAULT;
  uint32_t own = all / t->reactor->options.thread_count;
  return own > 0 ? own : 1;
}

/* Forgets those that were closed while they waited: their slots are wanted. */
static void purge_waiting(struct io_thread *t) {
  struct slot_list *waiting = &t->tls->waiting;
  if (waiting->count == 0 || t->now_ms - t->tls->purged_ms < 1000) return;
  t->tls->purged_ms = t->now_ms;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < waiting->count; i++) {
    struct connection *c = connection_at(t, waiting->slots[i]);
    if (c->state == HANDSHAKING && c->tls != NULL) {
      waiting->slots[kept++] = waiting->slots[i];
      continue;
    }
    c->flags &= ~(uint32_t)TLS_QUEUED;
    free_if_over(t, c);
  }
  waiting->count = kept;
}

/* One connection of the queue. */
static void take_turn(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  int is_alive = c->state == HANDSHAKING && s != NULL;
  if (is_alive && s->object == NULL && t->tls->handshaking >= handshakes_max(t)) {
    backend_read_stop(t, c);
    if (slot_list_push(&t->tls->waiting, c->slot) == 0) return;
  }
  c->flags &= ~(uint32_t)TLS_QUEUED;
  if (is_alive) handshake_step(t, c);
  if (takes_bytes(c)) backend_read(t, c);
  free_if_over(t, c);
}

static void tls_turn(struct io_thread *t) {
  struct tls_thread *tls = t->tls;
  if (tls == NULL) return;
  struct slot_list *waiting = &tls->waiting;
  uint32_t admitted = 0;
  for (; admitted < waiting->count; admitted++) {
    if (tls->handshaking + admitted >= handshakes_max(t)) break;
    if (slot_list_push(&tls->queue, waiting->slots[admitted]) != 0) break;
  }
  slot_list_drop(waiting, admitted);
  purge_waiting(t);
  if (tls->queue.count == 0) return;
  uint64_t begin_ns = monotonic_ns();
  uint32_t done = 0;
  while (done < tls->queue.count && (done == 0 || monotonic_ns() - begin_ns < TLS_TURN_NS)) {
    take_turn(t, connection_at(t, tls->queue.slots[done++]));
  }
  slot_list_drop(&tls->queue, done);
  /* The others wait for the next turn: what they send meanwhile stays with the kernel. */
  for (uint32_t i = tls->stopped_count > done ? tls->stopped_count - done : 0; i < tls->queue.count;
       i++) {
    struct connection *c = connection_at(t, tls->queue.slots[i]);
    if (c->state == HANDSHAKING) backend_read_stop(t, c);
  }
  tls->stopped_count = tls->queue.count;
}

static int tls_has_work(const struct io_thread *t) {
  const struct tls_thread *tls = t->tls;
  if (tls == NULL) return 0;
  return tls->queue.count > 0 || (tls->waiting.count > 0 && tls->handshaking < handshakes_max(t));
}

/* ---------------------------------------------------------------- life */

static int thread_open(struct io_thread *t) {
  if (t->tls != NULL) return 0;
  struct tls_thread *tls = calloc(1, sizeof *tls);
  if (tls == NULL) return -1;
  if (record_ciphers_open(&tls->ciphers) != 0) {
    free(tls);
    return -1;
  }
  t->tls = tls;
  return 0;
}

static int tls_adopt(struct io_thread *t, struct connection *c, uint32_t context) {
  if (thread_open(t) != 0) return -1;
  struct tls *s = calloc(1, sizeof *s);
  if (s == NULL) return -1;
  s->context = (uint8_t)context;
  c->tls = s;
  return 0;
}

/* Whether its handshake has not begun, for want of a place. */
static int tls_is_waiting(const struct connection *c) {
  return c->tls != NULL && c->tls->mode == TLS_WAITING && (c->flags & TLS_QUEUED);
}

/* Nothing more is read or encrypted; what the host may still ask for stays. */
static void tls_stop(struct connection *c) {
  struct tls *s = c->tls;
  object_free(s);
  free(s->cipher);
  s->cipher = NULL;
  s->mode = TLS_ENDED;
  OPENSSL_cleanse(&s->keys, sizeof s->keys);
}

static void tls_free(struct connection *c) {
  struct tls *s = c->tls;
  if (s == NULL) return;
  c->tls = NULL;
  object_free(s);
  free(s->cipher);
  free(s->peer);
  OPENSSL_cleanse(s, sizeof *s);
  free(s);
}

static void tls_thread_free(struct io_thread *t) {
  if (t->tls == NULL) return;
  record_ciphers_free(&t->tls->ciphers);
  free(t->tls->queue.slots);
  free(t->tls->waiting.slots);
  free(t->tls);
  t->tls = NULL;
}

int lw_peer_certificate(struct lw_reactor *r, uint32_t conn, uint32_t generation, char *out,
                        size_t size) {
  const struct connection *c = connection_named(r, conn, generation);
  if (c == NULL) return -ESTALE;
  if (c->tls == NULL || c->tls->peer == NULL) return 0;
  size_t length = strlen(c->tls->peer);
  if (length > size) length = size;
  memcpy(out, c->tls->peer, length);
  return (int)length;
}
