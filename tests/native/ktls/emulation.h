/* What a test may ask of the emulated kernel TLS, and what it has seen. */
#ifndef LONGWIRE_TESTS_KTLS_EMULATION_H
#define LONGWIRE_TESTS_KTLS_EMULATION_H

#include <stdatomic.h>

struct ktls_emulation {
  atomic_int protocol_error; /* errno that answers TCP_ULP; 0 = it has TLS */
  atomic_int cipher_refused; /* TLS_CIPHER_* that TLS_TX does not know; 0 = none */
  atomic_int keeps_keys;     /* as before Linux 6.14: a second TLS_TX is EBUSY */
  atomic_uint protocols;     /* TCP_ULP asked for */
  atomic_uint keys;          /* TLS_TX tried */
  atomic_uint records;       /* made */
  atomic_uint typed;         /* of them, with TLS_SET_RECORD_TYPE */
  atomic_uint short_sends;   /* took less than it was given */
};

extern struct ktls_emulation ktls_emulation;

#endif
