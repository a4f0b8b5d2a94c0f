/* What a TLS connection carries: every cipher suite, every size, records cut at every byte, new
 * keys, and what an attacker or a broken device could send in their place. */
#ifndef LONGWIRE_TESTS_TLS_STREAMS_H
#define LONGWIRE_TESTS_TLS_STREAMS_H

#include "tls_peer.h"

/* One server with one certificate of each kind of key; the name that is asked for chooses. */
struct streams {
  struct host host;
  SSL_CTX *client;
  uint16_t port;
  uint32_t flags; /* enum lw_tls_flags */
  uint64_t seed;
};

static void streams_open(struct streams *s, uint32_t flags, uint64_t seed) {
  static struct tls_setup setup;
  struct identity ca = identity_make("authority", (struct identity_options){0});
  struct identity ec =
      identity_make("ec", (struct identity_options){.issuer = &ca, .names = "DNS:ec.test"});
  struct identity rsa = identity_make(
      "rsa", (struct identity_options){.issuer = &ca, .names = "DNS:rsa.test", .is_rsa = 1});
  s->flags = flags;
  s->seed = seed;
  host_open(&s->host, &host_options);
  setup_begin(&setup, (struct lw_tls_options){.flags = flags}, NULL);
  setup_certificate(&setup, &ec);
  setup_certificate(&setup, &rsa);
  setup_use(&setup, s->host.r, 0);
  s->port = host_listen(&s->host, LW_PROTOCOL_LONGWIRE, 1, 0);
  host_start(&s->host);
  s->client = SSL_CTX_new(TLS_client_method());
  identity_free(&ec);
  identity_free(&rsa);
  identity_free(&ca);
}

static void streams_close(struct streams *s) {
  host_close(&s->host);
  SSL_CTX_free(s->client);
}

/* The version that clients speak from now on. */
static void streams_version(struct streams *s, int version) {
  SSL_CTX_set_min_proto_version(s->client, version);
  SSL_CTX_set_max_proto_version(s->client, version);
}

static struct client streams_client(struct streams *s) {
  struct client c = client_open(s->client, s->port, NULL, "ec.test");
  REQUIRE(c.ssl != NULL, "no handshake");
  return c;
}

/* ------------------------------------------------------------------ what must work */

static void test_suites(struct streams *s) {
  static const struct {
    int version;
    const char *suite;
    const char *name;
  } cases[] = {
      {TLS1_3_VERSION, "TLS_AES_128_GCM_SHA256", "ec.test"},
      {TLS1_3_VERSION, "TLS_AES_256_GCM_SHA384", "rsa.test"},
      {TLS1_3_VERSION, "TLS_CHACHA20_POLY1305_SHA256", "ec.test"},
      {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256", "ec.test"},
      {TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384", "ec.test"},
      {TLS1_2_VERSION, "ECDHE-ECDSA-CHACHA20-POLY1305", "ec.test"},
      {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-CCM8", "ec.test"}, /* tls_record.h does not know it */
      {TLS1_2_VERSION, "ECDHE-RSA-AES128-GCM-SHA256", "rsa.test"},
      {TLS1_2_VERSION, "ECDHE-RSA-AES256-GCM-SHA384", "rsa.test"},
      {TLS1_2_VERSION, "ECDHE-RSA-CHACHA20-POLY1305", "rsa.test"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    streams_version(s, cases[i].version);
    if (cases[i].version == TLS1_3_VERSION) SSL_CTX_set_ciphersuites(s->client, cases[i].suite);
    else SSL_CTX_set_cipher_list(s->client, cases[i].suite);
    struct client c = client_open(s->client, s->port, NULL, cases[i].name);
    CHECK(c.ssl != NULL, "no handshake with %s", cases[i].suite);
    if (c.ssl == NULL) continue;
    CHECK(strcmp(SSL_get_cipher(c.ssl), cases[i].suite) == 0, "%s instead of %s",
          SSL_get_cipher(c.ssl), cases[i].suite);
    for (uint32_t size = 0; size < 1000000; size = size * 3 + 1) {
      CHECK(client_echo(&c, size, s->seed + size), "%s: echo of %u", cases[i].suite, size);
    }
    client_close(&c);
  }
  SSL_CTX_set_ciphersuites(s->client, TLS_DEFAULT_CIPHERSUITES);
  SSL_CTX_set_cipher_list(s->client, "DEFAULT");
}

/* Around the border of a record, and frames that share records in all ways. */
static void test_sizes(struct streams *s) {
  struct client c = streams_client(s);
  for (uint32_t size = 16384 - 40; size < 16384 + 40; size++) {
    CHECK(client_echo(&c, size, size), "echo of %u", size);
  }
  for (int round = 0; round < 100; round++) {
    uint32_t sizes[8];
    for (int i = 0; i < 8; i++) {
      sizes[i] = random_below(&s->seed, random_chance(&s->seed, 20) ? 40000 : 200);
      uint8_t *frame = frame_make(sizes[i], sizes[i]);
      size_t done;
      CHECK(SSL_write_ex(c.ssl, frame, 5 + (size_t)sizes[i], &done) == 1, "write");
      free(frame);
    }
    for (int i = 0; i < 8; i++) {
      uint8_t *frame = frame_make(sizes[i], sizes[i]);
      uint8_t *back = malloc(5 + (size_t)sizes[i]);
      CHECK(client_read(&c, back, 5 + (size_t)sizes[i]) &&
                memcmp(frame, back, 5 + (size_t)sizes[i]) == 0,
            "frame %d of %u bytes", i, sizes[i]);
      free(frame);
      free(back);
    }
  }
  client_close(&c);
}

/* A client whose bytes pass through our hands: `wire` holds what it wants to send. */
struct wired {
  SSL *ssl;
  BIO *wire;
  int fd;
};

/* Sends what the client has, in pieces of random size; `step` 1 = each byte alone. */
static void wired_send(struct wired *w, uint32_t step, uint64_t *seed) {
  uint8_t bytes[512];
  for (;;) {
    uint32_t want = step > 1 ? 1 + random_below(seed, step) : 1;
    int size = BIO_read(w->wire, bytes, (int)want);
    if (size <= 0) return;
    send_all(w->fd, bytes, (size_t)size);
  }
}

static void wired_receive(struct wired *w) {
  uint8_t bytes[4096];
  ssize_t size = recv(w->fd, bytes, sizeof bytes, 0);
  if (size > 0) BIO_write(SSL_get_rbio(w->ssl), bytes, (int)size);
}

static struct wired wired_open(struct streams *s, uint32_t step) {
  struct wired w = {
      .ssl = SSL_new(s->client), .wire = BIO_new(BIO_s_mem()), .fd = tcp_connect(s->port)};
  SSL_set_bio(w.ssl, BIO_new(BIO_s_mem()), w.wire);
  SSL_set_connect_state(w.ssl);
  for (int i = 0; i < 100 && !SSL_is_init_finished(w.ssl); i++) {
    SSL_do_handshake(w.ssl);
    wired_send(&w, step, &s->seed);
    if (!SSL_is_init_finished(w.ssl)) wired_receive(&w);
  }
  CHECK(SSL_is_init_finished(w.ssl), "no handshake in steps of %u", step);
  return w;
}

static void wired_close(struct wired *w) {
  SSL_free(w->ssl);
  close(w->fd);
}

/* Reads so much plaintext. Returns whether it came. */
static int wired_read(struct wired *w, uint8_t *out, size_t size) {
  while (size > 0) {
    size_t done = 0;
    if (SSL_read_ex(w->ssl, out, size, &done) == 1) {
      out += done;
      size -= done;
      continue;
    }
    if (SSL_get_error(w->ssl, 0) != SSL_ERROR_WANT_READ) return 0;
    uint8_t probe;
    if (recv(w->fd, &probe, 1, MSG_PEEK) <= 0) return 0;
    wired_receive(w);
  }
  return 1;
}

/* Every record, the handshake's too, arrives in pieces. */
static void test_pieces(struct streams *s) {
  static const uint32_t steps[] = {1, 2, 7, 100};
  for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
    struct wired w = wired_open(s, steps[i]);
    for (uint32_t size = 0; size < 700; size = size * 2 + 3) {
      uint8_t *frame = frame_make(size, size);
      uint8_t back[1024];
      SSL_write(w.ssl, frame, (int)(5 + size));
      wired_send(&w, steps[i], &s->seed);
      CHECK(wired_read(&w, back, 5 + size) && memcmp(frame, back, 5 + size) == 0,
            "echo of %u in steps of %u", size, steps[i]);
      free(frame);
    }
    wired_close(&w);
  }
}

static void test_key_updates(struct streams *s) {
  struct client c = streams_client(s);
  for (int i = 0; i < 50; i++) {
    int kind = i % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED;
    CHECK(SSL_key_update(c.ssl, kind) == 1, "cannot ask for new keys");
    if (client_echo(&c, 100 + (uint32_t)i * 500, (uint64_t)i)) continue;
    /* Linux before 6.14 keeps the first key. */
    int is_kernel = (s->flags & LW_TLS_KERNEL) != 0;
    CHECK(is_kernel && host_stats(&s->host).closed[LW_CODE_TLS_REKEY] > 0, "echo after update %d",
          i);
    break;
  }
  client_close(&c);
}

/* ------------------------------------------------------------------ what must not */

/* A client that writes records itself, with the keys that its handshake left in `line`. */
struct forger {
  struct client client;
  struct record_ciphers ciphers;
  struct record_keys keys; /* `in`: what the server reads */
  const struct record_suite *suite;
  int alert; /* the last one that the server sent, -1 = none */
};

static struct {
  char client[256]; /* CLIENT_TRAFFIC_SECRET_0 or CLIENT_RANDOM, hexadecimal */
  int alert;
} seen;

static void see_secret(const SSL *ssl, const char *line) {
  (void)ssl;
  if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0 ||
      strncmp(line, "CLIENT_RANDOM ", 14) == 0) {
    snprintf(seen.client, sizeof seen.client, "%s", strrchr(line, ' ') + 1);
  }
}

static void see_alert(const SSL *ssl, int where, int value) {
  (void)ssl;
  if (where & SSL_CB_READ && where & SSL_CB_ALERT) seen.alert = value & 0xff;
}

static void forger_open(struct forger *f, struct streams *s) {
  uint8_t secret[64];
  SSL_CTX_set_keylog_callback(s->client, see_secret);
  SSL_CTX_set_info_callback(s->client, see_alert);
  seen.alert = -1;
  *f = (struct forger){.client = streams_client(s)};
  REQUIRE(record_ciphers_open(&f->ciphers) == 0, "no ciphers");
  uint16_t id = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(f->client.ssl));
  f->suite = &record_suites[record_suite_find(id)];
  for (size_t i = 0; i < strlen(seen.client) / 2; i++) {
    unsigned byte = 0;
    sscanf(seen.client + 2 * i, "%2x", &byte);
    secret[i] = (uint8_t)byte;
  }
  if (f->suite->is_tls12) {
    uint8_t randoms[64];
    SSL_get_server_random(f->client.ssl, randoms, 32);
    SSL_get_client_random(f->client.ssl, randoms + 32, 32);
    record_derive_tls12(f->suite, secret, randoms, &f->keys);
  } else {
    memcpy(f->keys.in.secret, secret, f->suite->secret_bytes);
    record_derive(f->suite, &f->keys.in);
  }
}

static void forger_close(struct forger *f) {
  SSL_set_quiet_shutdown(f->client.ssl, 1);
  client_close(&f->client);
  record_ciphers_free(&f->ciphers);
}

/* Makes a record of any type; returns its size. */
static uint32_t forge(struct forger *f, uint8_t type, const void *bytes, uint32_t size,
                      uint8_t *out) {
  struct record_piece piece = {.bytes = bytes, .size = size};
  return record_seal(&f->ciphers, f->suite, &f->keys.in, type, &piece, size > 0, size, out);
}

static void forge_send(struct forger *f, uint8_t type, const void *bytes, uint32_t size) {
  static uint8_t record[20000];
  send_all(f->client.fd, record, forge(f, type, bytes, size, record));
}

/* Whether the server still echoes. */
static int forger_echo(struct forger *f) {
  static const uint8_t frame[8] = {3, 0, 0, 0, 2, 'a', 'b', 'c'};
  uint8_t back[8];
  forge_send(f, RECORD_DATA, frame, sizeof frame);
  return client_read(&f->client, back, sizeof back) && memcmp(frame, back, sizeof back) == 0;
}

/* The server ends the connection: with this alert, or without a word (-1). */
static void forger_expect_end(struct forger *f, struct streams *s, int alert, unsigned code,
                              uint64_t before, const char *what) {
  uint8_t byte;
  size_t done;
  CHECK(SSL_read_ex(f->client.ssl, &byte, 1, &done) != 1, "%s: it goes on", what);
  /* OpenSSL's own alerts are its own; that it ends is what counts. */
  if (!(s->flags & LW_TLS_KEEP_OBJECTS)) {
    CHECK(seen.alert == alert, "%s: alert %d, not %d", what, seen.alert, alert);
  }
  ERR_clear_error();
  await_closed(&s->host, code, before + 1);
}

struct forgery {
  const char *what;
  uint8_t type;
  uint8_t bytes[8];
  uint32_t size;
  int alert; /* -1 = none; -2 = it goes on */
  unsigned code;
};

static void test_forgeries(struct streams *s, const struct forgery *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct forgery *each = &cases[i];
    struct forger f;
    forger_open(&f, s);
    CHECK(forger_echo(&f), "%s: no echo before", each->what);
    uint64_t before = host_stats(&s->host).closed[each->code];
    forge_send(&f, each->type, each->bytes, each->size);
    if (each->alert == -2) CHECK(forger_echo(&f), "%s: no echo after", each->what);
    else forger_expect_end(&f, s, each->alert, each->code, before, each->what);
    forger_close(&f);
  }
}

static void test_forgeries_13(struct streams *s) {
  static const struct forgery cases[] = {
      {"nothing", RECORD_DATA, {0}, 0, -2, LW_CODE_TLS_FAILED},
      {"padding", 0, {RECORD_DATA, 0, 0}, 3, -2, LW_CODE_TLS_FAILED},
      {"only padding", 0, {0}, 7, 10, LW_CODE_TLS_FAILED},
      {"a ticket", RECORD_HANDSHAKE, {4, 0, 0, 4, 1, 2, 3, 4}, 8, 10, LW_CODE_TLS_FAILED},
      {"key update 2", RECORD_HANDSHAKE, {24, 0, 0, 1, 2}, 5, 47, LW_CODE_TLS_FAILED},
      {"two messages", RECORD_HANDSHAKE, {24, 0, 0, 1, 0, 24}, 6, 10, LW_CODE_TLS_FAILED},
      {"an unknown type", 99, {1, 2, 3}, 3, 10, LW_CODE_TLS_FAILED},
      {"user_canceled", RECORD_ALERT, {1, 90}, 2, -2, LW_CODE_TLS_FAILED},
      {"a fatal alert", RECORD_ALERT, {2, 80}, 2, -1, LW_CODE_TLS_FAILED},
      {"a long alert", RECORD_ALERT, {2, 80, 0}, 3, 50, LW_CODE_TLS_FAILED},
      {"close_notify", RECORD_ALERT, {1, 0}, 2, 0, LW_CODE_PEER_CLOSED},
  };
  /* OpenSSL would wait for the rest; no client cuts these five bytes. */
  static const struct forgery half[] = {
      {"half a message", RECORD_HANDSHAKE, {24, 0, 0}, 3, 10, LW_CODE_TLS_FAILED},
  };
  test_forgeries(s, cases, sizeof cases / sizeof cases[0]);
  if (!(s->flags & LW_TLS_KEEP_OBJECTS)) test_forgeries(s, half, 1);
}

static void test_forgeries_12(struct streams *s) {
  static const struct forgery cases[] = {
      {"nothing", RECORD_DATA, {0}, 0, -2, LW_CODE_TLS_FAILED},
      {"change_cipher_spec", RECORD_CHANGE_CIPHER_SPEC, {1}, 1, 10, LW_CODE_TLS_FAILED},
      {"a warning", RECORD_ALERT, {1, 90}, 2, -2, LW_CODE_TLS_FAILED},
      {"a fatal alert", RECORD_ALERT, {2, 80}, 2, -1, LW_CODE_TLS_FAILED},
      {"close_notify", RECORD_ALERT, {1, 0}, 2, 0, LW_CODE_PEER_CLOSED},
  };
  test_forgeries(s, cases, sizeof cases / sizeof cases[0]);
}

/* Raw records that nobody made with the keys. */
static void test_broken_records(struct streams *s) {
  static const uint8_t head_too_long[5] = {23, 3, 3, 0xff, 0xff};
  static const uint8_t plain_data[8] = {23, 3, 3, 0, 3, 1, 2, 3};
  static const uint8_t handshake[9] = {22, 3, 3, 0, 4, 1, 0, 0, 0};
  static const uint8_t no_version[8] = {23, 9, 9, 0, 3, 1, 2, 3};
  static const struct {
    const char *what;
    const uint8_t *bytes;
    size_t size;
    int alert;
  } cases[] = {
      {"a record that is too long", head_too_long, sizeof head_too_long, 22},
      {"plaintext", plain_data, sizeof plain_data, 20},
      {"a plain handshake record", handshake, sizeof handshake, -3},
      {"another version", no_version, sizeof no_version, 50},
      {"an HTTP request", (const uint8_t *)"GET / HTTP/1.1\r\n\r\n", 18, 10},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct forger f;
    forger_open(&f, s);
    uint64_t before = host_stats(&s->host).closed[LW_CODE_TLS_FAILED];
    int alert = cases[i].alert != -3 ? cases[i].alert : f.suite->is_tls12 ? 20 : 10;
    send_all(f.client.fd, cases[i].bytes, cases[i].size);
    forger_expect_end(&f, s, alert, LW_CODE_TLS_FAILED, before, cases[i].what);
    forger_close(&f);
  }
}

/* One bit of a record is another, wherever it is; or the record comes twice. */
static void test_tampering(struct streams *s) {
  uint8_t record[64];
  static const uint8_t frame[8] = {3, 0, 0, 0, 2, 'a', 'b', 'c'};
  for (int i = 0; i < 40; i++) {
    struct forger f;
    forger_open(&f, s);
    uint64_t before = host_stats(&s->host).closed[LW_CODE_TLS_FAILED];
    uint32_t size = forge(&f, RECORD_DATA, frame, sizeof frame, record);
    if (i % 4 == 0) {
      send_all(f.client.fd, record, size); /* the replay is what must fail */
      uint8_t back[8];
      CHECK(client_read(&f.client, back, sizeof back), "no echo before the replay");
    } else {
      uint32_t at = RECORD_HEADER_BYTES + random_below(&s->seed, size - RECORD_HEADER_BYTES);
      record[at] ^= (uint8_t)(1 << random_below(&s->seed, 8));
    }
    send_all(f.client.fd, record, size);
    forger_expect_end(&f, s, 20, LW_CODE_TLS_FAILED, before, "a record tampered with");
    forger_close(&f);
  }
}

/* A client that says close_notify and reads on gets what it is owed, then close_notify; with the
 * TCP stream ended behind it, too. */
static void test_half_close(struct streams *s) {
  for (int ends_tcp = 0; ends_tcp < 2; ends_tcp++) {
    struct client c = streams_client(s);
    uint32_t sizes[] = {100, 300000};
    for (int i = 0; i < 2; i++) {
      uint8_t *frame = frame_make(sizes[i], 7);
      size_t done = 0;
      SSL_write_ex(c.ssl, frame, 5 + (size_t)sizes[i], &done);
      free(frame);
    }
    SSL_shutdown(c.ssl);
    if (ends_tcp) shutdown(c.fd, SHUT_WR);
    size_t expected = 10 + sizes[0] + sizes[1], came = 0, done = 0;
    uint8_t back[4096];
    while (SSL_read_ex(c.ssl, back, sizeof back, &done) == 1) came += done;
    CHECK(came == expected, "%zu bytes of %zu", came, expected);
    int is_told = (SSL_get_shutdown(c.ssl) & SSL_RECEIVED_SHUTDOWN) != 0;
    CHECK(is_told, "no close_notify, with TCP ended %d", ends_tcp);
    SSL_free(c.ssl);
    close(c.fd);
  }
}

/* Noise of all lengths in place of records: nothing of it may do more than end the connection. */
static void test_noise(struct streams *s) {
  for (int i = 0; i < 200; i++) {
    uint8_t noise[300];
    uint32_t size = 1 + random_below(&s->seed, sizeof noise);
    for (uint32_t k = 0; k < size; k++) noise[k] = (uint8_t)random_below(&s->seed, 256);
    if (random_chance(&s->seed, 70)) noise[0] = RECORD_DATA;
    if (random_chance(&s->seed, 70)) noise[1] = 3;
    if (random_chance(&s->seed, 70)) noise[3] = (uint8_t)random_below(&s->seed, 2);
    struct client c = streams_client(s);
    send_all(c.fd, noise, size);
    SSL_set_quiet_shutdown(c.ssl, 1);
    client_close(&c);
  }
}

#endif
