/* Kernel TLS for what is sent (Linux, Documentation/networking/tls.rst): after the handshake the
 * socket is given key, iv and counter, and takes plaintext from then on; alerts and key updates go
 * with their record type beside them. Receiving stays with tls_record.h, which sees both.
 * Invariant: what was encrypted here has left before the kernel is given the key, and a kernel that
 * refuses once is not asked for every connection. */
#ifndef LONGWIRE_TLS_KERNEL_H
#define LONGWIRE_TLS_KERNEL_H

#include "tls.h"

/* Numbers of linux/tls.h, linux/tcp.h and linux/socket.h, which older headers lack. */
enum kernel_tls {
  KERNEL_TCP_ULP = 31,
  KERNEL_SOL_TLS = 282,
  KERNEL_TLS_TX = 1,
  KERNEL_SET_RECORD_TYPE = 1,
  KERNEL_TLS_1_2 = 0x0303,
  KERNEL_TLS_1_3 = 0x0304,
};

/* struct tls12_crypto_info_aes_gcm_256 and ..._chacha20_poly1305, the largest. */
#define KERNEL_KEY_BYTES_MAX 56u

/* Writes what TLS_TX takes (struct tls12_crypto_info_*, for either version): version, cipher, iv,
 * key, salt, number of the next record. AES-GCM has 4 bytes of salt and 8 of iv, which are the
 * explicit nonce of TLS 1.2: there it goes on counting as record_seal did. ChaCha20-Poly1305 has 12
 * bytes of iv. Returns the size. */
static inline uint32_t kernel_key(const struct record_suite *suite,
                                  const struct record_direction *d,
                                  uint8_t out[KERNEL_KEY_BYTES_MAX]) {
  static const uint16_t ciphers[CIPHER_COUNT] = {
      [CIPHER_AES_128_GCM] = 51, [CIPHER_AES_256_GCM] = 52, [CIPHER_CHACHA20_POLY1305] = 54};
  const uint16_t head[2] = {suite->is_tls12 ? KERNEL_TLS_1_2 : KERNEL_TLS_1_3,
                            ciphers[suite->cipher]};
  const uint32_t salt = suite->cipher == CIPHER_CHACHA20_POLY1305 ? 0 : 4;
  uint8_t *at = out;
  memcpy(at, head, sizeof head);
  at += sizeof head;
  if (record_explicit_bytes(suite) > 0) record_put_u64(at, d->sequence);
  else memcpy(at, d->iv + salt, RECORD_NONCE_BYTES - salt);
  at += RECORD_NONCE_BYTES - salt;
  memcpy(at, d->key, suite->key_bytes);
  at += suite->key_bytes;
  memcpy(at, d->iv, salt);
  at += salt;
  record_put_u64(at, d->sequence);
  return (uint32_t)(at + 8 - out);
}

/* Whether the kernel encrypts what is sent. */
static inline int tls_kernel_sends(const struct connection *c) {
  return c->tls != NULL && c->tls->sender == SENDER_KERNEL;
}

#ifdef BACKEND_HAS_SOCKETS

static int send_sealed(struct io_thread *t, struct connection *c, struct block *block);
static int update_out_key(struct io_thread *t, struct connection *c);

static int kernel_set_protocol(int fd) {
  return setsockopt(fd, IPPROTO_TCP, KERNEL_TCP_ULP, "tls", sizeof "tls");
}

static int kernel_set_key(const struct connection *c) {
  uint8_t key[KERNEL_KEY_BYTES_MAX];
  const struct tls *s = c->tls;
  uint32_t size = kernel_key(&record_suites[s->suite], &s->keys.out, key);
  int result = setsockopt(c->fd, KERNEL_SOL_TLS, KERNEL_TLS_TX, key, size);
  OPENSSL_cleanse(key, sizeof key);
  return result;
}

/* Whether the reason was this connection's, or the moment's: another may fare better. */
static int is_passing(int error) {
  return error == ENOTCONN || error == ENOMEM || error == ENOBUFS || error == EINTR;
}

/* Hands the key over. When the kernel refuses, the connection's records are made here, and so are
 * those of later ones: of all, or of its cipher suite. */
static void kernel_take(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  struct tls_thread *tls = t->tls;
  s->sender = SENDER_RECORDS;
  if (tls->kernel_refuses & 1u << s->suite) return;
  if (kernel_set_protocol(c->fd) != 0) {
    if (!is_passing(errno)) tls->kernel_refuses = UINT32_MAX;
  } else if (kernel_set_key(c) != 0) {
    if (!is_passing(errno)) tls->kernel_refuses |= 1u << s->suite;
  } else {
    s->sender = SENDER_KERNEL;
    COUNT(t, tls_kernel, 1);
  }
}

/* Queues a record of our own ahead of all plaintext. Returns 0, or -1 when the connection had to be
 * closed. */
static int kernel_record(struct io_thread *t, struct connection *c, uint8_t type,
                         const uint8_t *bytes, uint32_t size) {
  struct out_queue *q = c->out;
  struct block *block = block_new(size);
  if (block == NULL) {
    end(t, c, LW_CODE_NO_MEMORY);
    return -1;
  }
  block_append(block, bytes, size);
  if (q != NULL && q->sealed == 0) { /* what has left of the first frame is no longer in front */
    q->sealed_part += q->sent;
    q->sent = 0;
  }
  if (send_sealed(t, c, block) != 0) return -1;
  out_at(c->out, c->out->sealed - 1)->type = type;
  return 0;
}

/* The same as update_out_key(): the new key is set when the message has left. One answers all that
 * came before it (RFC 8446 section 4.6.3). */
static int kernel_update(struct io_thread *t, struct connection *c, const uint8_t *message,
                         uint32_t size) {
  if (c->tls->is_key_due) return 0;
  if (t->tls->kernel_keeps_keys) {
    drain(t, c, LW_CODE_TLS_REKEY);
    return -1;
  }
  if (kernel_record(t, c, RECORD_HANDSHAKE, message, size) != 0) return -1;
  c->tls->is_key_due = 1;
  return 0;
}

/* Kernels before 6.14 answer EBUSY. The peer has been told of the new key by then, so that it would
 * understand nothing more. Returns 0 or -1. */
static int kernel_change_key(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  s->is_key_due = 0;
  if (record_update(&record_suites[s->suite], &s->keys.out) != 0) {
    end(t, c, LW_CODE_TLS_FAILED);
    return -1;
  }
  if (kernel_set_key(c) == 0) return 0;
  if (!is_passing(errno)) t->tls->kernel_keeps_keys = 1;
  end(t, c, LW_CODE_TLS_REKEY);
  return -1;
}

/* Entries that the kernel may be given: one record of our own, or all plaintext. 0 = none, or the
 * connection was closed. */
static uint32_t kernel_sendable(struct io_thread *t, struct connection *c) {
  struct tls *s = c->tls;
  struct out_queue *q = c->out;
  int is_announced = q->sealed == 0 || out_at(q, 0)->type != RECORD_HANDSHAKE;
  if (s->is_key_due && is_announced && kernel_change_key(t, c) != 0) return 0;
  if (s->keys.out.sequence >= RECORD_KEY_USES_MAX && !record_suites[s->suite].is_tls12 &&
      s->mode == TLS_RECORDS && c->state != DRAINING && update_out_key(t, c) != 0) {
    return 0;
  }
  if (q->sealed > 0) return 1;
  q->sent += q->sealed_part;
  q->sealed_part = 0;
  return s->mode == TLS_RECORDS ? q->count : 0;
}

/* Says what kind of record the first entry is. Of plaintext, counts records: no fewer than the
 * kernel will make of it, which ends one at 2^14 bytes or 17 stretches of pages. */
static inline void tls_message(struct connection *c, struct msghdr *message, void *control) {
  const struct out_entry *first = out_at(c->out, 0);
  if (c->out->sealed == 0) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) bytes += message->msg_iov[i].iov_len;
    c->tls->keys.out.sequence += 1 + message->msg_iovlen + bytes / 4096;
    return;
  }
  message->msg_control = control;
  message->msg_controllen = CMSG_SPACE(sizeof(uint8_t));
  struct cmsghdr *head = CMSG_FIRSTHDR(message);
  head->cmsg_level = KERNEL_SOL_TLS;
  head->cmsg_type = KERNEL_SET_RECORD_TYPE;
  head->cmsg_len = CMSG_LEN(sizeof(uint8_t));
  *CMSG_DATA(head) = (uint8_t)first->type;
}

int lw_kernel_tls(char *why, int size) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int error = fd < 0 ? errno : 0;
  /* A kernel that has it says that this socket is not connected. */
  if (error == 0 && kernel_set_protocol(fd) != 0 && errno != ENOTCONN) error = errno;
  if (fd >= 0) close(fd);
  if (size > 0) why[0] = 0;
  if (error == ENOENT || error == ENOPROTOOPT) {
    snprintf(why, (size_t)size,
             "this kernel has no TLS, or its module is not loaded: modprobe tls");
  } else if (error != 0) {
    snprintf(why, (size_t)size, "%s", strerror(error));
  }
  return -error;
}

#else

static uint32_t kernel_sendable(struct io_thread *t, struct connection *c) {
  (void)t, (void)c;
  return 0;
}

static void kernel_take(struct io_thread *t, struct connection *c) {
  (void)t;
  c->tls->sender = SENDER_RECORDS;
}

static int kernel_record(struct io_thread *t, struct connection *c, uint8_t type,
                         const uint8_t *bytes, uint32_t size) {
  (void)t, (void)c, (void)type, (void)bytes, (void)size;
  return -1;
}

static int kernel_update(struct io_thread *t, struct connection *c, const uint8_t *message,
                         uint32_t size) {
  (void)t, (void)c, (void)message, (void)size;
  return -1;
}

static inline void tls_message(struct connection *c, struct msghdr *message, void *control) {
  (void)c, (void)message, (void)control;
}

int lw_kernel_tls(char *why, int size) {
  snprintf(why, (size_t)size, "backend %s has no descriptors to give it", backend_name());
  return -ENOSYS;
}

#endif

#endif
