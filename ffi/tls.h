/* What a TLS connection, a thread and a context of certificates consist of. A connection goes
 * through three modes: its handshake waits for its turn, OpenSSL's object does the handshake, and
 * then two keys are all that is left (tls_record.h); cipher suites that tls_record.h does not know
 * keep the object. Invariant: what the peer may see as plaintext is encrypted when the backend asks
 * for it and not before, so that until then it can be dropped, replaced and shared. */
#ifndef LONGWIRE_TLS_H
#define LONGWIRE_TLS_H

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "connection.h"
#include "out_seal.h"
#include "tls_record.h"

#define TLS_CONTEXTS_MAX 4u
#define TLS_CERTIFICATES_MAX 64u
#define TLS_NAMES_MAX 1024u
#define TLS_HANDSHAKES_DEFAULT 1024u
/* Handshakes may have this much of a turn: who is connected does not wait for who connects. */
#define TLS_TURN_NS 2000000u
/* Plaintext that is encrypted ahead of the transport: four full records. */
#define TLS_SEAL_BYTES (4u * RECORD_PLAIN_BYTES_MAX)
/* Less ciphertext than this waits: more is made, so that it leaves in the same call. */
#define TLS_SEAL_LOW_BYTES RECORD_PLAIN_BYTES_MAX
/* How long tickets are made with a key, and how long they can be read after that. */
#ifndef TLS_TICKET_KEY_S
#define TLS_TICKET_KEY_S (12u * 3600u)
#endif
#define TLS_TICKET_KEYS 3u

enum tls_mode {
  TLS_WAITING = 0, /* nothing has come, or what came waits for a place among the handshakes */
  TLS_HANDSHAKE,   /* there is an object, counted among the handshakes */
  TLS_OBJECT,      /* OpenSSL's object reads and writes records */
  TLS_RECORDS,     /* this library does: `keys` */
  TLS_ENDED,       /* nothing more is read or encrypted */
};

/* Who encrypts in mode TLS_RECORDS. */
enum tls_sender {
  SENDER_RECORDS = 0,
  SENDER_KERNEL_NEXT, /* LW_TLS_KERNEL: it is asked when all that was encrypted here has left */
  SENDER_KERNEL,
};

/* OpenSSL's object and what is wanted only beside it. */
struct tls_object {
  SSL *ssl;
  struct io_thread *thread;
  struct connection *connection;
  struct tls_context *context; /* one reference */
  const uint8_t *in;           /* what the object may read */
  uint32_t in_size;
  uint32_t records_out; /* written with the keys of the server's last secret */
  uint8_t is_counted;   /* among the handshakes under way */
  uint8_t has_in_secret;
  uint8_t has_out_secret;
  uint8_t in_secret[RECORD_SECRET_BYTES_MAX]; /* TLS 1.2: the master secret */
  uint8_t out_secret[RECORD_SECRET_BYTES_MAX];
};

struct tls {
  struct tls_object *object; /* NULL = none yet, or none any more */
  struct kept *cipher;       /* part of a record, or a handshake that waits; NULL = nothing */
  char *peer;                /* lw_peer_certificate; NULL = no certificate */
  uint8_t mode;              /* enum tls_mode */
  uint8_t context;
  uint8_t suite;          /* index of record_suites */
  uint8_t is_object_kept; /* LW_TLS_KEEP_OBJECTS */
  uint8_t sender;         /* enum tls_sender */
  uint8_t is_key_due;     /* SENDER_KERNEL: KeyUpdate is queued or sent, the key is the old one */
  uint8_t zero[2];
  struct record_keys keys;
};

/* One server name and its certificate. */
struct tls_name {
  char *name; /* lower case; "*.x" = any one label before .x */
  SSL_CTX *certificate;
};

/* What lw_tls_configure made; never changed after that. */
struct tls_context {
  uint32_t references; /* atomic */
  uint32_t flags;      /* enum lw_tls_flags */
  struct tls_state *state;
  SSL_CTX *certificates[TLS_CERTIFICATES_MAX];
  uint32_t certificate_count;
  uint32_t name_count;
  struct tls_name names[TLS_NAMES_MAX];
};

struct tls_ticket_key {
  uint64_t made_s; /* 0 = there is none */
  uint8_t name[16];
  uint8_t cipher_key[32];
  uint8_t mac_key[32];
};

/* The reactor's. */
struct tls_state {
  pthread_mutex_t lock; /* of all that follows */
  struct tls_context *contexts[TLS_CONTEXTS_MAX];
  struct tls_ticket_key ticket_keys[TLS_TICKET_KEYS]; /* newest first */
};

/* An I/O thread's. */
struct tls_thread {
  struct record_ciphers ciphers;
  struct slot_list queue;   /* have something to say in their handshake */
  struct slot_list waiting; /* have too, but as many handshakes as may are under way */
  uint32_t handshaking;
  uint32_t stopped_count; /* of the queue, from its front: the backend does not read them */
  uint64_t purged_ms;
  uint32_t kernel_refuses;              /* bits: suites that the kernel is not asked for again */
  uint32_t kernel_keeps_keys;           /* the kernel has refused to change one */
  uint8_t plain[RECORD_BODY_BYTES_MAX]; /* of what came */
  uint8_t gathered[RECORD_PLAIN_BYTES_MAX]; /* of what leaves by an object */
};

#endif
