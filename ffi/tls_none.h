/* In the place of tls.c where OpenSSL is not: configuring TLS fails with a sentence, so no listener
 * and no connection ever asks for any of the rest. */
#ifndef LONGWIRE_TLS_NONE_H
#define LONGWIRE_TLS_NONE_H

#include <stdio.h>

#include "entrance.h"

int lw_tls_configure(struct lw_reactor *r, uint32_t context, const struct lw_tls_options *options,
                     size_t bytes, char *problem, size_t problem_size) {
  (void)r, (void)context, (void)options, (void)bytes;
  snprintf(problem, problem_size,
           "the reactor was built without OpenSSL 3; install its headers (Debian, Ubuntu: "
           "\"apt-get install libssl-dev\"; Alpine: \"apk add openssl-dev\"; macOS: "
           "\"brew install openssl@3\") and start again");
  return -ENOSYS;
}

int lw_peer_certificate(struct lw_reactor *r, uint32_t conn, uint32_t generation, char *out,
                        size_t size) {
  (void)r, (void)conn, (void)generation, (void)out, (void)size;
  return 0;
}

static int tls_is_configured(const struct lw_reactor *r, uint32_t tls) {
  (void)r;
  return tls == 0;
}

static int tls_adopt(struct io_thread *t, struct connection *c, uint32_t context) {
  (void)t, (void)c, (void)context;
  return -1;
}

static void tls_received(struct io_thread *t, struct connection *c, const uint8_t *bytes,
                         uint32_t size) {
  (void)t, (void)c, (void)bytes, (void)size;
}

static uint32_t tls_seal(struct io_thread *t, struct connection *c) {
  (void)t, (void)c;
  return 0;
}

static inline int tls_kernel_sends(const struct connection *c) {
  (void)c;
  return 0;
}

static inline void tls_message(struct connection *c, struct msghdr *message, void *control) {
  (void)c, (void)message, (void)control;
}

int lw_kernel_tls(char *why, int size) {
  snprintf(why, (size_t)size, "the reactor was built without OpenSSL 3");
  return -ENOSYS;
}

static int tls_end_write(struct io_thread *t, struct connection *c) {
  (void)t, (void)c;
  return 0;
}

static void tls_stop(struct connection *c) { (void)c; }

static void tls_free(struct connection *c) { (void)c; }

static int tls_is_waiting(const struct connection *c) {
  (void)c;
  return 0;
}

static void tls_turn(struct io_thread *t) { (void)t; }

static int tls_has_work(const struct io_thread *t) {
  (void)t;
  return 0;
}

static void tls_thread_free(struct io_thread *t) { (void)t; }

static void tls_state_free(struct lw_reactor *r) { (void)r; }

#endif
