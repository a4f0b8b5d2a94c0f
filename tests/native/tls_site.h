/* A host whose listeners speak TLS, its authority and its clients. */
#ifndef LONGWIRE_TESTS_TLS_SITE_H
#define LONGWIRE_TESTS_TLS_SITE_H

#include "tls_peer.h"

/* A host with two listeners, and whatever identities a test wants. */
struct site {
  struct host host;
  struct identity ca;
  struct identity server;
  SSL_CTX *client;
  uint16_t longwire_port;
  uint16_t mqtt_port;
};

static struct tls_setup site_setup;

static inline void site_use(struct site *s, const struct identity *server,
                            struct lw_tls_options o) {
  setup_begin(&site_setup, o, o.client_auth == LW_TLS_CLIENT_NONE ? NULL : &s->ca);
  setup_certificate(&site_setup, server);
  setup_use(&site_setup, s->host.r, 0);
}

static inline void site_open(struct site *s, const struct lw_options *options,
                             struct lw_tls_options o) {
  *s = (struct site){0};
  s->ca = identity_make("authority", (struct identity_options){0});
  s->server = identity_make("first",
                            (struct identity_options){.issuer = &s->ca, .names = "DNS:first.test"});
  host_open(&s->host, options);
  site_use(s, &s->server, o);
  s->longwire_port = host_listen(&s->host, LW_PROTOCOL_LONGWIRE, 1, 0);
  s->mqtt_port = host_listen(&s->host, LW_PROTOCOL_MQTT, 1, 0);
  host_start(&s->host);
  s->client = SSL_CTX_new(TLS_client_method());
}

static inline void site_close(struct site *s) {
  host_close(&s->host);
  SSL_CTX_free(s->client);
  identity_free(&s->ca);
  identity_free(&s->server);
}

/* Whether a client gets through, all the way to its echo: in TLS 1.3 it shakes hands before the
 * server has looked at its certificate. */
static inline int gets_through(struct site *s) {
  struct client c = client_open(s->client, s->longwire_port, NULL, NULL);
  int result = c.ssl != NULL && client_echo(&c, 10, 1);
  ERR_clear_error();
  client_close(&c);
  return result;
}

#endif
