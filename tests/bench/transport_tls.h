/* TLS under the load generator's connections: OpenSSL over the socket, whatever version the server
 * prefers. The certificate is not verified: the load is what is measured. */
#ifndef LONGWIRE_BENCH_TRANSPORT_TLS_H
#define LONGWIRE_BENCH_TRANSPORT_TLS_H

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>

#include "client.h"

/* One for the process, made when the first connection needs it. */
static SSL_CTX *tls_context;

static SSL_CTX *tls_context_make(void) {
  SSL_CTX *made = SSL_CTX_new(TLS_client_method());
  if (!made) {
    fprintf(stderr, "Cannot use OpenSSL\n");
    exit(2);
  }
  /* What is not sent yet moves when a buffer grows. */
  SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                             SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_verify(made, SSL_VERIFY_NONE, NULL);
  SSL_CTX_set_session_cache_mode(made, SSL_SESS_CACHE_OFF);
  signal(SIGPIPE, SIG_IGN); /* OpenSSL writes to sockets without MSG_NOSIGNAL */
  return made;
}

static int tls_begin(struct conn *c) {
  if (!tls_context) tls_context = tls_context_make();
  SSL *ssl = SSL_new(tls_context);
  if (!ssl || SSL_set_fd(ssl, c->fd) != 1) return -1;
  SSL_set_connect_state(ssl);
  c->layer = ssl;
  return 0;
}

static void tls_end(struct conn *c) {
  SSL_free(c->layer);
  c->layer = NULL;
}

/* What recv and send would say. */
static ssize_t tls_result(struct conn *c, int result) {
  if (result > 0) return result;
  switch (SSL_get_error(c->layer, result)) {
  case SSL_ERROR_WANT_READ:
  case SSL_ERROR_WANT_WRITE:
    errno = EAGAIN;
    return -1;
  case SSL_ERROR_ZERO_RETURN:
    return 0;
  case SSL_ERROR_SYSCALL:
    return errno ? -1 : 0;
  default:
    errno = EPROTO;
    return -1;
  }
}

static ssize_t tls_read(struct conn *c, void *out, size_t size) {
  ERR_clear_error();
  errno = 0;
  return tls_result(c, SSL_read(c->layer, out, (int)size));
}

static ssize_t tls_write(struct conn *c, const void *bytes, size_t size) {
  ERR_clear_error();
  errno = 0;
  ssize_t done = tls_result(c, SSL_write(c->layer, bytes, (int)size));
  if (done != 0) return done;
  errno = ECONNRESET; /* the server said goodbye: nothing is taken any more */
  return -1;
}

static const struct transport transport_tls = {.name = "tls",
                                               .begin = tls_begin,
                                               .end = tls_end,
                                               .read = tls_read,
                                               .write = tls_write,
                                               .is_layered = true};

#endif
