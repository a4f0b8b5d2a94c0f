/* Who may speak TLS, as whom, and how fast: names, protocols, tickets, client certificates, new
 * certificates, and handshakes that never end. */
#ifndef LONGWIRE_TESTS_TLS_HANDSHAKES_H
#define LONGWIRE_TESTS_TLS_HANDSHAKES_H

#include "tls_site.h"

static const char *common_name_of(const struct client *c) {
  static char name[128];
  X509 *certificate = SSL_get1_peer_certificate(c->ssl);
  X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof name);
  X509_free(certificate);
  return name;
}

/* ------------------------------------------------------------------ names and protocols */

static void test_alpn(void) {
  static const struct {
    int is_mqtt;
    const char *offered; /* NULL = nothing */
    const char *chosen;  /* NULL = refused */
  } cases[] = {
      {0, NULL, ""},
      {0, "\x0alongwire/1", "longwire/1"},
      {0, "\x02h2\x0alongwire/1", "longwire/1"},
      {0, "\x04mqtt", NULL},
      {1, NULL, ""},
      {1, "\x04mqtt", "mqtt"},
      {1, "\x08http/1.1", NULL},
  };
  static struct site s;
  site_open(&s, &host_options, (struct lw_tls_options){0});
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const char *offered = cases[i].offered == NULL ? "" : cases[i].offered;
    SSL_CTX_set_alpn_protos(s.client, (const unsigned char *)offered, (unsigned)strlen(offered));
    uint16_t port = cases[i].is_mqtt ? s.mqtt_port : s.longwire_port;
    struct client c = client_open(s.client, port, NULL, NULL);
    const unsigned char *chosen = NULL;
    unsigned size = 0;
    if (c.ssl != NULL) SSL_get0_alpn_selected(c.ssl, &chosen, &size);
    CHECK((c.ssl == NULL) == (cases[i].chosen == NULL), "case %zu", i);
    if (c.ssl != NULL && cases[i].chosen != NULL) {
      const char *wanted = cases[i].chosen;
      CHECK(size == strlen(wanted) && (size == 0 || memcmp(chosen, wanted, size) == 0),
            "case %zu: %.*s", i, (int)size, (const char *)chosen);
    }
    client_close(&c);
  }
  CHECK(host_stats(&s.host).closed[LW_CODE_TLS_FAILED] == 2, "refused handshakes are counted");
  site_close(&s);
}

static void test_names(void) {
  static const struct {
    const char *asked; /* NULL = no name */
    const char *got;
  } cases[] = {
      {NULL, "first"},           {"first.test", "first"},    {"elsewhere.test", "first"},
      {"second.test", "second"}, {"SECOND.Test", "second"},  {"a.wild.test", "second"},
      {"wild.test", "first"},    {"a.b.wild.test", "first"}, {"bare.test", "bare.test"},
  };
  static struct site s;
  site_open(&s, &host_options, (struct lw_tls_options){0});
  struct identity second = identity_make(
      "second",
      (struct identity_options){.issuer = &s.ca, .names = "DNS:second.test,DNS:*.wild.test"});
  /* Without alternative names its common name counts. */
  struct identity bare = identity_make("bare.test", (struct identity_options){.issuer = &s.ca});
  setup_begin(&site_setup, (struct lw_tls_options){0}, NULL);
  setup_certificate(&site_setup, &s.server);
  setup_certificate(&site_setup, &second);
  setup_certificate(&site_setup, &bare);
  setup_use(&site_setup, s.host.r, 0);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct client c = client_open(s.client, s.longwire_port, NULL, cases[i].asked);
    CHECK(c.ssl != NULL, "no handshake for %s", cases[i].asked);
    if (c.ssl == NULL) continue;
    CHECK(strcmp(common_name_of(&c), cases[i].got) == 0, "%s got %s", cases[i].asked,
          common_name_of(&c));
    client_close(&c);
  }
  identity_free(&second);
  identity_free(&bare);
  site_close(&s);
}

/* ------------------------------------------------------------------ tickets */

/* A connection whose ticket is read: TLS 1.3 sends it after the handshake. */
static SSL_SESSION *ticket_of(struct site *s, SSL_SESSION *session, int *was_resumed) {
  struct client c = client_open(s->client, s->longwire_port, session, NULL);
  REQUIRE(c.ssl != NULL, "no handshake");
  CHECK(client_echo(&c, 10, 1), "no echo");
  *was_resumed = SSL_session_reused(c.ssl);
  SSL_SESSION *ticket = SSL_get1_session(c.ssl);
  CHECK(SSL_SESSION_has_ticket(ticket), "no ticket");
  client_close(&c);
  return ticket;
}

/* TLS_TICKET_KEY_S is two seconds in this test: a key makes tickets for two, and reads for four
 * more; sessions are over after four. */
static void test_tickets(void) {
  static struct site s;
  static const int versions[2] = {TLS1_2_VERSION, TLS1_3_VERSION};
  SSL_SESSION *first[2];
  int resumed;
  site_open(&s, &host_options, (struct lw_tls_options){0});
  for (int round = 0; round < 3; round++) {
    /* Then another key makes tickets, and the one before still reads them; then it is too old. */
    if (round > 0) usleep(round == 1 ? 2200 * 1000 : 4500 * 1000);
    for (int i = 0; i < 2; i++) {
      SSL_CTX_set_min_proto_version(s.client, versions[i]);
      SSL_CTX_set_max_proto_version(s.client, versions[i]);
      if (round == 0) {
        first[i] = ticket_of(&s, NULL, &resumed);
        CHECK(!resumed, "%x: resumed without a ticket", (unsigned)versions[i]);
      }
      SSL_SESSION_free(ticket_of(&s, first[i], &resumed));
      CHECK(resumed == (round < 2), "%x, round %d: resumed %d", (unsigned)versions[i], round,
            resumed);
    }
  }
  CHECK(host_stats(&s.host).tls_resumed == 4, "resumptions are counted");
  CHECK(host_stats(&s.host).tls_handshakes == 8, "handshakes are counted");
  for (int i = 0; i < 2; i++) SSL_SESSION_free(first[i]);
  site_close(&s);
}

/* ------------------------------------------------------------------ client certificates */

static void client_uses(struct site *s, const struct identity *who) {
  SSL_CTX_free(s->client);
  s->client = SSL_CTX_new(TLS_client_method());
  if (who == NULL) return;
  SSL_CTX_use_certificate(s->client, who->certificate);
  SSL_CTX_use_PrivateKey(s->client, who->key);
}

static void test_client_certificates(unsigned client_auth) {
  static struct site s;
  site_open(&s, &host_options, (struct lw_tls_options){.client_auth = client_auth});
  struct identity good = identity_make(
      "device \xc3\xa9 1", (struct identity_options){
                               .issuer = &s.ca, .names = "DNS:d1.test,URI:urn:device:1,email:a@b"});
  struct identity stranger = identity_make("stranger", (struct identity_options){0});
  struct identity expired =
      identity_make("old", (struct identity_options){.issuer = &s.ca, .days = -2});
  uint64_t refused = 0;
  static char text[sizeof s.host.certificate];
  for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
    client_uses(&s, NULL);
    SSL_CTX_set_max_proto_version(s.client, version);
    int may = client_auth == LW_TLS_CLIENT_OPTIONAL;
    CHECK(gets_through(&s) == may, "%x: without a certificate", (unsigned)version);
    refused += !may;
    host_certificate(&s.host, text);
    if (may) CHECK(text[0] == 0, "a certificate from nowhere");
    const struct identity *bad[] = {&stranger, &expired};
    for (int i = 0; i < 2; i++, refused++) {
      client_uses(&s, bad[i]);
      SSL_CTX_set_max_proto_version(s.client, version);
      CHECK(!gets_through(&s), "%x: with bad certificate %d", (unsigned)version, i);
    }
    client_uses(&s, &good);
    SSL_CTX_set_max_proto_version(s.client, version);
    SSL_SESSION *ticket = NULL;
    for (int round = 0; round < 2; round++) { /* the second time by its ticket */
      int resumed;
      SSL_SESSION *next = ticket_of(&s, ticket, &resumed);
      CHECK(resumed == round, "%x: resumed %d", (unsigned)version, resumed);
      host_certificate(&s.host, text);
      CHECK(strstr(text, "subject=CN=device \xc3\xa9 1,O=Tests\n") != NULL &&
                strstr(text, "\ncommon_name=device \xc3\xa9 1\n") != NULL &&
                strstr(text, "\ndns=d1.test\n") != NULL &&
                strstr(text, "\nuri=urn:device:1\n") != NULL &&
                strstr(text, "\nemail=a@b\n") != NULL && strstr(text, "\nfingerprint=") != NULL,
            "%x, round %d: %s", (unsigned)version, round, text);
      SSL_SESSION_free(ticket);
      ticket = next;
    }
    SSL_SESSION_free(ticket);
  }
  await_closed(&s.host, LW_CODE_TLS_CERTIFICATE, refused);
  identity_free(&good);
  identity_free(&stranger);
  identity_free(&expired);
  site_close(&s);
}

/* ------------------------------------------------------------------ new certificates */

static void test_reload(void) {
  static struct site s;
  site_open(&s, &host_options, (struct lw_tls_options){0});
  struct identity next = identity_make("next", (struct identity_options){.issuer = &s.ca});
  struct client before = client_open(s.client, s.longwire_port, NULL, NULL);
  REQUIRE(before.ssl != NULL, "no handshake");
  /* One that is in the middle of its handshake keeps what it began with. */
  struct client half = {.ssl = SSL_new(s.client), .fd = tcp_connect(s.longwire_port)};
  site_use(&s, &next, (struct lw_tls_options){0});
  struct client after = client_open(s.client, s.longwire_port, NULL, NULL);
  REQUIRE(after.ssl != NULL, "no handshake after");
  CHECK(strcmp(common_name_of(&before), "first") == 0, "got %s", common_name_of(&before));
  CHECK(strcmp(common_name_of(&after), "next") == 0, "got %s", common_name_of(&after));
  CHECK(client_echo(&before, 1000, 1) && client_echo(&after, 1000, 2), "no echo");
  SSL_set_fd(half.ssl, half.fd);
  CHECK(SSL_connect(half.ssl) == 1 && client_echo(&half, 10, 3), "half a handshake was dropped");

  char problem[256];
  uint8_t *bytes = site_setup.bytes;
  struct lw_tls_options *o = (struct lw_tls_options *)(void *)bytes;
  static uint8_t saved[sizeof site_setup.bytes];
  memcpy(saved, bytes, site_setup.size);
  for (size_t size = 0; size < site_setup.size; size += 97) { /* cut short everywhere */
    CHECK(lw_tls_configure(s.host.r, 0, o, size, problem, sizeof problem) == -EINVAL, "%zu", size);
  }
  uint64_t seed = 7;
  for (int i = 0; i < 200; i++) { /* and garbled: it may be refused, and must not be believed */
    bytes[sizeof *o + random_below(&seed, (uint32_t)(site_setup.size - sizeof *o))] ^= 0x55;
    (void)lw_tls_configure(s.host.r, 1, o, site_setup.size, problem, sizeof problem);
    memcpy(bytes, saved, site_setup.size);
  }
  setup_begin(&site_setup, (struct lw_tls_options){0}, NULL); /* a key that is another's */
  setup_certificate(&site_setup, &(struct identity){next.certificate, s.server.key});
  CHECK(lw_tls_configure(s.host.r, 0, o, site_setup.size, problem, sizeof problem) == -EINVAL &&
            strstr(problem, "certificate 1: ") == problem,
        "%s", problem);
  struct client still = client_open(s.client, s.longwire_port, NULL, NULL);
  CHECK(still.ssl != NULL && strcmp(common_name_of(&still), "next") == 0, "a bad one was taken");
  client_close(&before);
  client_close(&after);
  client_close(&half);
  client_close(&still);
  identity_free(&next);
  site_close(&s);
}

/* ------------------------------------------------------------------ what never ends, or never
 * was */

static void test_garbage(void) {
  static const struct {
    const char *bytes;
    size_t size;
  } cases[] = {
      {"GET / HTTP/1.1\r\n\r\n", 18},
      {"\x10\x0f\0\4MQTT\4\2\0\0\0\3abc", 17}, /* MQTT without TLS */
      {"\x16\x03\x01\x00\x05hello", 10},
      {"\x16\x03\x01\xff\xff", 5},
      {"\x80\x2e\x01\x03\x01\0\0\0\0\0\0", 11}, /* SSL 2 */
      {"\0", 1},
  };
  struct lw_options options = host_options;
  static struct site s;
  options.handshake_timeout_ms = 1000;
  site_open(&s, &options, (struct lw_tls_options){0});
  size_t count = sizeof cases / sizeof cases[0];
  for (size_t i = 0; i < count; i++) {
    int fd = tcp_connect(s.longwire_port);
    send_all(fd, cases[i].bytes, cases[i].size);
    uint8_t answer[64];
    while (recv(fd, answer, sizeof answer, 0) > 0) {
    }
    close(fd);
  }
  struct lw_stats stats = host_stats(&s.host);
  uint64_t closed = stats.closed[LW_CODE_TLS_FAILED] + stats.closed[LW_CODE_HANDSHAKE_TIMEOUT];
  CHECK(closed == count, "%llu of %zu were closed", (unsigned long long)closed, count);
  CHECK(stats.tls_handshaking == 0 && stats.connections == 0, "something is left");
  CHECK(gets_through(&s), "nobody gets through any more");
  site_close(&s);
}

/* The first bytes of a ClientHello, and then nothing. */
static int stalled_connect(struct site *s) {
  int fd = tcp_connect(s->longwire_port);
  send_all(fd, "\x16\x03\x01\x02\x00\x01", 6);
  return fd;
}

static void await_handshaking(struct site *s, uint64_t count) {
  for (int i = 0; i < PATIENCE_S * 1000 && host_stats(&s->host).tls_handshaking != count; i++) {
    usleep(1000);
  }
  CHECK(host_stats(&s->host).tls_handshaking == count, "not %llu", (unsigned long long)count);
}

/* As many handshakes as may be are stalled: the next one waits, and has its turn when they end. */
static void test_bound(void) {
  struct lw_options options = host_options;
  static struct site s;
  int stalled[4];
  options.thread_count = 1;
  options.tls_handshakes_max = 4;
  options.handshake_timeout_ms = 4000;
  site_open(&s, &options, (struct lw_tls_options){0});
  for (int i = 0; i < 4; i++) stalled[i] = stalled_connect(&s);
  await_handshaking(&s, 4);
  usleep(1500 * 1000);
  CHECK(gets_through(&s), "it did not get its turn");
  CHECK(host_stats(&s.host).closed[LW_CODE_HANDSHAKE_TIMEOUT] == 4, "it did not wait for it");
  CHECK(host_stats(&s.host).closed[LW_CODE_TLS_BUSY] == 0, "somebody was refused");
  for (int i = 0; i < 4; i++) close(stalled[i]);
  site_close(&s);
}

/* Those who wait longer than a handshake may take are told so, by an alert. */
static void test_too_long(void) {
  struct lw_options options = host_options;
  static struct site s;
  int stalled[10];
  unsigned alerts = 0;
  options.thread_count = 1;
  options.tls_handshakes_max = 1;
  options.handshake_timeout_ms = 400;
  site_open(&s, &options, (struct lw_tls_options){0});
  for (int i = 0; i < 10; i++) stalled[i] = stalled_connect(&s);
  for (int i = 0; i < 10; i++) {
    uint8_t alert[8] = {0};
    alerts += recv_all(stalled[i], alert, sizeof alert) == 7 && alert[0] == 21 && alert[6] == 80;
    close(stalled[i]);
  }
  struct lw_stats stats = host_stats(&s.host);
  uint64_t busy = stats.closed[LW_CODE_TLS_BUSY];
  /* When they came, and the timer's ticks, decide how many got a place in the end. */
  CHECK(busy >= 1 && alerts == busy, "%llu refused, %u alerts", (unsigned long long)busy, alerts);
  await_closed(&s.host, LW_CODE_HANDSHAKE_TIMEOUT, 10 - busy);
  site_close(&s);
}

#endif
