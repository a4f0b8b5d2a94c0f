/* PROXY headers through real sockets: whom they are taken from, what the host is told, and what
 * becomes of those who break the rules. */
#ifndef LONGWIRE_TESTS_ENTRANCE_PROXY_H
#define LONGWIRE_TESTS_ENTRANCE_PROXY_H

#include "tls_site.h"
#include "unit_proxy.h"

static const struct lw_network loopback = {4, 8, {127}};
static const struct lw_network elsewhere = {4, 8, {10}};

/* A host whose listeners take PROXY headers from one network. */
static void proxied_open(struct site *s, const struct lw_options *options,
                         const struct lw_network *trusted, uint16_t *plain_port) {
  *s = (struct site){0};
  s->ca = identity_make("authority", (struct identity_options){0});
  s->server = identity_make("first", (struct identity_options){.issuer = &s->ca});
  host_open(&s->host, options);
  CHECK(lw_trust_proxies(s->host.r, trusted, 1) == 0, "lw_trust_proxies");
  site_use(s, &s->server, (struct lw_tls_options){0});
  s->longwire_port = host_listen(&s->host, LW_PROTOCOL_LONGWIRE, 1, LW_LISTEN_PROXY);
  *plain_port = host_listen(&s->host, LW_PROTOCOL_LONGWIRE, 0, LW_LISTEN_PROXY);
  CHECK(lw_trust_proxies(s->host.r, trusted, 1) == -EINVAL, "listeners are there already");
  host_start(&s->host);
  s->client = SSL_CTX_new(TLS_client_method());
}

static const uint8_t small_frame[8] = {3, 0, 0, 0, 2, 'a', 'b', 'c'};

/* Whether a connection that begins with these bytes gets its frame back. */
static int raw_echo(uint16_t port, const void *header, size_t size, size_t step) {
  uint8_t all[600];
  uint8_t back[8];
  memcpy(all, header, size);
  memcpy(all + size, small_frame, sizeof small_frame);
  int fd = tcp_connect(port);
  for (size_t at = 0; at < size + sizeof small_frame; at += step) {
    size_t left = size + sizeof small_frame - at;
    send_all(fd, all + at, left < step ? left : step);
  }
  size_t got = recv_all(fd, back, sizeof back);
  close(fd);
  return got == sizeof back && memcmp(back, small_frame, sizeof back) == 0;
}

static void check_peer(struct host *h, const struct proxy_case *each) {
  struct lw_peer peer = host_peer(h);
  uint8_t address[16] = {127, 0, 0, 1};
  unsigned family = each->family == 0 ? 4 : each->family;
  if (each->family != 0) {
    memset(address, 0, sizeof address);
    inet_pton(each->family == 4 ? AF_INET : AF_INET6, each->address, address);
    CHECK(peer.port == each->port, "%s: port %u", each->what, peer.port);
  }
  CHECK(peer.family == family && memcmp(peer.address, address, sizeof address) == 0, "%s: address",
        each->what);
}

static void test_proxy_cases(void) {
  static struct site s;
  uint16_t port;
  proxied_open(&s, &host_options, &loopback, &port);
  for (size_t i = 0; i < sizeof proxy_cases / sizeof proxy_cases[0]; i++) {
    const struct proxy_case *each = &proxy_cases[i];
    CHECK(raw_echo(port, each->bytes, each->size, 1000), "%s: no echo", each->what);
    check_peer(&s.host, each);
    CHECK(raw_echo(port, each->bytes, each->size, 1), "%s, in pieces: no echo", each->what);
    check_peer(&s.host, each);
  }
  uint64_t refused = 0;
  for (size_t i = 0; i < sizeof proxy_bad / sizeof proxy_bad[0]; i++) {
    const struct proxy_case *each = &proxy_bad[i];
    uint8_t answer[8];
    int fd = tcp_connect(port);
    send_all(fd, each->bytes, each->size);
    CHECK(recv_all(fd, answer, sizeof answer) == 4 && memcmp(answer, "busy", 4) == 0,
          "%s: not refused in words", each->what);
    close(fd);
    await_closed(&s.host, LW_CODE_PROXY_MALFORMED, ++refused);
  }
  site_close(&s);
}

/* Every header, cut at every byte and followed by the end of the stream. */
static void test_proxy_truncations(void) {
  struct lw_options options = host_options;
  static struct site s;
  uint16_t port;
  uint64_t cut = 0;
  options.handshake_timeout_ms = 1500;
  proxied_open(&s, &options, &loopback, &port);
  for (size_t i = 0; i < sizeof proxy_cases / sizeof proxy_cases[0]; i++) {
    for (uint32_t size = 0; size < proxy_cases[i].size; size++, cut++) {
      int fd = tcp_connect(port);
      send_all(fd, proxy_cases[i].bytes, size);
      close(fd);
    }
  }
  await_closed(&s.host, LW_CODE_PEER_CLOSED, cut);
  int fd = tcp_connect(port); /* and one that stays open: the handshake's deadline holds */
  send_all(fd, "PROXY TCP4", 10);
  await_closed(&s.host, LW_CODE_HANDSHAKE_TIMEOUT, 1);
  close(fd);
  CHECK(host_stats(&s.host).connections == 0, "something is left");
  site_close(&s);
}

static void test_proxy_of_strangers(void) {
  static struct site s;
  uint16_t port;
  uint64_t refused = 0;
  proxied_open(&s, &host_options, &elsewhere, &port);
  CHECK(raw_echo(port, "", 0, 1000) && raw_echo(port, "", 0, 1), "no echo without a header");
  for (size_t i = 0; i < sizeof proxy_cases / sizeof proxy_cases[0]; i++) {
    const struct proxy_case *each = &proxy_cases[i];
    CHECK(!raw_echo(port, each->bytes, each->size, i % 2 == 0 ? 1000 : 1), "%s", each->what);
    await_closed(&s.host, LW_CODE_PROXY_FORBIDDEN, ++refused);
  }
  CHECK(host_stats(&s.host).frames_in == 2, "what was refused reached the host");
  /* Over TLS the same: before the handshake. */
  int fd = tcp_connect(s.longwire_port);
  uint8_t alert[16];
  send_all(fd, proxy_cases[0].bytes, proxy_cases[0].size);
  CHECK(recv_all(fd, alert, sizeof alert) == 7 && alert[0] == 21, "no alert");
  close(fd);
  CHECK(gets_through(&s), "no handshake without a header");
  site_close(&s);
}

static void test_proxy_over_tls(void) {
  static struct site s;
  uint16_t port;
  proxied_open(&s, &host_options, &loopback, &port);
  for (size_t i = 0; i < sizeof proxy_cases / sizeof proxy_cases[0]; i++) {
    struct client c = {.ssl = SSL_new(s.client), .fd = tcp_connect(s.longwire_port)};
    send_all(c.fd, proxy_cases[i].bytes, proxy_cases[i].size);
    SSL_set_fd(c.ssl, c.fd);
    CHECK(SSL_connect(c.ssl) == 1 && client_echo(&c, 100, 1), "%s: no echo", proxy_cases[i].what);
    check_peer(&s.host, &proxy_cases[i]);
    client_close(&c);
  }
  CHECK(!gets_through(&s), "a handshake without a header");
  await_closed(&s.host, LW_CODE_PROXY_MALFORMED, 1);
  site_close(&s);
}

#endif
