/* Kernel TLS as far as the reactor uses it, where the kernel has none: the linker leads the calls
 * of a test program here (-Wl,--wrap). It behaves as net/tls/tls_sw.c does: sendmsg(2) takes
 * plaintext, makes a record of up to 2^14 bytes and is done with it; what TCP does not take waits
 * and leaves by itself; EAGAIN while something waits. Records are made from what TLS_TX was given
 * alone, with structs of linux/tls.h. It takes less than it could at times, as the kernel may. */
#define _GNU_SOURCE
#include "emulation.h"

#include <assert.h>
#include <errno.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#define DESCRIPTORS_MAX 65536
#define RECORD_BYTES_MAX 16384u
#define FRAGMENTS_MAX 17u
#define ALERT 21
#define HANDSHAKE 22
#define DATA 23

struct ktls_emulation ktls_emulation;

int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
int __real_close(int fd);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_close(int fd);

/* Of a socket with the protocol. */
struct sender {
  uint8_t has_protocol;
  uint16_t version; /* 0 = no key yet */
  uint16_t cipher;
  uint32_t key_bytes;
  uint8_t key[32];
  uint8_t nonce[12]; /* salt, then iv */
  uint8_t sequence[8];
  uint8_t *waiting; /* records that TCP has not taken */
  size_t waiting_size;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that follows */
static pthread_cond_t has_waiting = PTHREAD_COND_INITIALIZER;
static struct sender senders[DESCRIPTORS_MAX];
static int waiting_fds[DESCRIPTORS_MAX]; /* of those with `waiting`, and maybe others */
static int waiting_count;
static uint64_t random_state = 1;

static uint32_t random_below(uint32_t limit) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 33) % limit;
}

/* ---------------------------------------------------------------- records */

static void count_up(uint8_t *bytes, int size) {
  while (size-- > 0 && ++bytes[size] == 0) {
  }
}

static int is_chacha(const struct sender *s) { return s->cipher == TLS_CIPHER_CHACHA20_POLY1305; }

/* Makes a record at `out` (RFC 8446 section 5.2, RFC 5288, RFC 7905); returns its size. */
static size_t make_record(struct sender *s, uint8_t type, const uint8_t *plain, uint32_t size,
                          uint8_t *out) {
  const int is_13 = s->version == TLS_1_3_VERSION;
  const int counts_iv = !is_13 && !is_chacha(s);
  const EVP_CIPHER *cipher = is_chacha(s)         ? EVP_chacha20_poly1305()
                             : s->key_bytes == 16 ? EVP_aes_128_gcm()
                                                  : EVP_aes_256_gcm();
  uint32_t before = counts_iv ? 8 : 0;
  uint32_t inner = size + (uint32_t)is_13;
  uint32_t body = before + inner + 16;
  uint8_t nonce[12];
  uint8_t additional[13];
  int additional_size = 5;
  int done = 0;
  uint8_t header[5] = {is_13 ? DATA : type, 3, 3, (uint8_t)(body >> 8), (uint8_t)body};
  memcpy(nonce, s->nonce, sizeof nonce);
  if (!counts_iv) {
    for (int i = 0; i < 8; i++) nonce[4 + i] ^= s->sequence[i];
  }
  memcpy(out, header, sizeof header);
  memcpy(out + 5, s->nonce + 4, before);
  if (is_13) {
    memcpy(additional, header, sizeof header);
  } else {
    memcpy(additional, s->sequence, 8);
    memcpy(additional + 8, header, 3);
    additional[11] = (uint8_t)(size >> 8);
    additional[12] = (uint8_t)size;
    additional_size = 13;
  }
  uint8_t *at = out + 5 + before;
  EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
  int good = EVP_EncryptInit_ex(ctx, cipher, NULL, s->key, nonce) == 1 &&
             EVP_EncryptUpdate(ctx, NULL, &done, additional, additional_size) == 1 &&
             EVP_EncryptUpdate(ctx, at, &done, plain, (int)size) == 1 &&
             (!is_13 || EVP_EncryptUpdate(ctx, at + size, &done, &type, 1) == 1) &&
             EVP_EncryptFinal_ex(ctx, at + inner, &done) == 1 &&
             EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, at + inner) == 1;
  assert(good), (void)good;
  EVP_CIPHER_CTX_free(ctx);
  count_up(s->sequence, 8);
  if (counts_iv) count_up(s->nonce + 4, 8);
  atomic_fetch_add(&ktls_emulation.records, 1);
  return 5 + body;
}

/* ---------------------------------------------------------------- what waits */

/* Gives TCP what it takes. Whoever is told EAGAIN after it has an edge to come: TCP said so. */
static void push_waiting(int fd) {
  struct sender *s = &senders[fd];
  while (s->waiting_size > 0) {
    struct iovec vector = {s->waiting, s->waiting_size};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    ssize_t done = __real_sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (done < 0) done = (ssize_t)s->waiting_size; /* the connection is gone, and so are they */
    s->waiting_size -= (size_t)done;
    memmove(s->waiting, s->waiting + done, s->waiting_size);
  }
  free(s->waiting);
  s->waiting = NULL;
}

/* The kernel's own worker: sends when TCP has room again, whether or not somebody asks. */
static void *push_always(void *nothing) {
  static struct pollfd polls[DESCRIPTORS_MAX];
  pthread_mutex_lock(&lock);
  for (;;) {
    int kept = 0;
    for (int i = 0; i < waiting_count; i++) {
      int fd = waiting_fds[i];
      if (senders[fd].waiting_size > 0) push_waiting(fd);
      if (senders[fd].waiting_size > 0) waiting_fds[kept++] = fd;
    }
    waiting_count = kept;
    if (kept == 0) {
      pthread_cond_wait(&has_waiting, &lock);
      continue;
    }
    for (int i = 0; i < kept; i++) polls[i] = (struct pollfd){waiting_fds[i], POLLOUT, 0};
    pthread_mutex_unlock(&lock);
    poll(polls, (nfds_t)kept, 1);
    pthread_mutex_lock(&lock);
  }
  return nothing;
}

static void wait_for_room(int fd) {
  static int has_worker;
  pthread_t worker;
  if (!has_worker && pthread_create(&worker, NULL, push_always, NULL) == 0) {
    pthread_detach(worker);
    has_worker = 1;
  }
  for (int i = 0; i < waiting_count; i++) {
    if (waiting_fds[i] == fd) return;
  }
  waiting_fds[waiting_count++] = fd;
  pthread_cond_signal(&has_waiting);
}

/* ---------------------------------------------------------------- sendmsg */

/* The type that a control message names; 0 = it is not valid (tls_process_cmsg). */
static uint8_t type_of(const struct msghdr *message) {
  struct msghdr copy = *message;
  const struct cmsghdr *head = CMSG_FIRSTHDR(&copy);
  if (head == NULL) return message->msg_controllen == 0 ? DATA : 0;
  if (head->cmsg_level != SOL_TLS || head->cmsg_type != TLS_SET_RECORD_TYPE) return 0;
  if (head->cmsg_len < CMSG_LEN(1)) return 0;
  atomic_fetch_add(&ktls_emulation.typed, 1);
  return *CMSG_DATA(head);
}

/* The next record's plaintext: up to 2^14 bytes, FRAGMENTS_MAX stretches and `room`, from byte `at`
 * on. Returns its size. */
static uint32_t gather(const struct msghdr *message, size_t at, uint32_t room, uint8_t *out) {
  uint32_t size = 0;
  uint32_t fragments = 0;
  if (room > RECORD_BYTES_MAX) room = RECORD_BYTES_MAX;
  for (size_t i = 0; i < message->msg_iovlen && size < room && fragments < FRAGMENTS_MAX; i++) {
    const struct iovec *v = &message->msg_iov[i];
    if (at >= v->iov_len) {
      at -= v->iov_len;
      continue;
    }
    size_t take = v->iov_len - at < room - size ? v->iov_len - at : room - size;
    memcpy(out + size, (const uint8_t *)v->iov_base + at, take);
    size += (uint32_t)take;
    at = 0;
    fragments++;
  }
  return size;
}

static ssize_t send_records(int fd, const struct msghdr *message, uint8_t type) {
  static uint8_t plain[RECORD_BYTES_MAX];
  struct sender *s = &senders[fd];
  size_t asked = 0;
  size_t taken = 0;
  for (size_t i = 0; i < message->msg_iovlen; i++) asked += message->msg_iov[i].iov_len;
  size_t most = type == DATA && random_below(8) == 0 ? 1 + random_below(40000) : asked;
  if (most > asked) most = asked;
  push_waiting(fd);
  while (taken < most && s->waiting_size == 0) {
    uint32_t size = gather(message, taken, (uint32_t)(most - taken), plain);
    s->waiting = malloc(RECORD_BYTES_MAX + 64);
    if (s->waiting == NULL) break;
    s->waiting_size = make_record(s, type, plain, size, s->waiting);
    taken += size;
    push_waiting(fd);
  }
  if (s->waiting_size > 0) wait_for_room(fd);
  if (taken < asked) atomic_fetch_add(&ktls_emulation.short_sends, 1);
  if (taken > 0) return (ssize_t)taken;
  errno = EAGAIN;
  return -1;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
  pthread_mutex_lock(&lock);
  if (fd < 0 || fd >= DESCRIPTORS_MAX || senders[fd].version == 0) {
    pthread_mutex_unlock(&lock);
    return __real_sendmsg(fd, message, flags);
  }
  ssize_t result = -1;
  uint8_t type = type_of(message);
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (flags & ~(MSG_MORE | MSG_DONTWAIT | MSG_NOSIGNAL)) error = EOPNOTSUPP;
  if (type == 0) error = EINVAL;
  if (error != 0) errno = error;
  else result = send_records(fd, message, type);
  error = errno;
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

/* ---------------------------------------------------------------- setsockopt, close */

/* Returns 0 or an errno (tls_init). */
static int set_protocol(int fd, const void *value, socklen_t size) {
  struct sockaddr_storage peer;
  socklen_t peer_size = sizeof peer;
  atomic_fetch_add(&ktls_emulation.protocols, 1);
  int refused = atomic_load(&ktls_emulation.protocol_error);
  if (refused != 0) return refused;
  if (size < 3 || memcmp(value, "tls", 3) != 0) return ENOENT;
  if (getpeername(fd, (struct sockaddr *)&peer, &peer_size) != 0) return errno;
  if (senders[fd].has_protocol) return EEXIST;
  senders[fd].has_protocol = 1;
  return 0;
}

static void take_key(struct sender *s, const uint8_t *iv, uint32_t iv_size, const uint8_t *key,
                     uint32_t key_size, const uint8_t *salt, const uint8_t *sequence) {
  s->key_bytes = key_size;
  memcpy(s->key, key, key_size);
  memcpy(s->nonce, salt, 12 - iv_size);
  memcpy(s->nonce + 12 - iv_size, iv, iv_size);
  memcpy(s->sequence, sequence, 8);
}

/* Returns 0 or an errno (do_tls_setsockopt_conf). */
static int set_key(int fd, const void *value, socklen_t size) {
  struct sender *s = &senders[fd];
  const struct tls_crypto_info *info = value;
  atomic_fetch_add(&ktls_emulation.keys, 1);
  if (!s->has_protocol) return ENOPROTOOPT;
  if (size < sizeof *info) return EINVAL;
  if (info->version != TLS_1_2_VERSION && info->version != TLS_1_3_VERSION) return EINVAL;
  if (info->cipher_type == atomic_load(&ktls_emulation.cipher_refused)) return EINVAL;
  if (s->version != 0) { /* the next key */
    if (atomic_load(&ktls_emulation.keeps_keys) || s->version != TLS_1_3_VERSION) return EBUSY;
    if (info->version != s->version || info->cipher_type != s->cipher) return EINVAL;
  }
  if (info->cipher_type == TLS_CIPHER_AES_GCM_128) {
    const struct tls12_crypto_info_aes_gcm_128 *o = value;
    if (size != sizeof *o) return EINVAL;
    take_key(s, o->iv, sizeof o->iv, o->key, sizeof o->key, o->salt, o->rec_seq);
  } else if (info->cipher_type == TLS_CIPHER_AES_GCM_256) {
    const struct tls12_crypto_info_aes_gcm_256 *o = value;
    if (size != sizeof *o) return EINVAL;
    take_key(s, o->iv, sizeof o->iv, o->key, sizeof o->key, o->salt, o->rec_seq);
  } else if (info->cipher_type == TLS_CIPHER_CHACHA20_POLY1305) {
    const struct tls12_crypto_info_chacha20_poly1305 *o = value;
    if (size != sizeof *o) return EINVAL;
    take_key(s, o->iv, sizeof o->iv, o->key, sizeof o->key, o->iv, o->rec_seq);
  } else {
    return EINVAL;
  }
  s->cipher = info->cipher_type;
  s->version = info->version;
  int room = 16384; /* so that it is full soon */
  __real_setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
  int is_protocol = level == IPPROTO_TCP && name == TCP_ULP;
  if (!is_protocol && level != SOL_TLS) return __real_setsockopt(fd, level, name, value, size);
  assert(fd >= 0 && fd < DESCRIPTORS_MAX);
  pthread_mutex_lock(&lock);
  int error = is_protocol      ? set_protocol(fd, value, size)
              : name == TLS_TX ? set_key(fd, value, size)
                               : ENOPROTOOPT;
  pthread_mutex_unlock(&lock);
  if (error == 0) return 0;
  errno = error;
  return -1;
}

int __wrap_close(int fd) {
  if (fd < 0 || fd >= DESCRIPTORS_MAX) return __real_close(fd);
  pthread_mutex_lock(&lock);
  push_waiting(fd);
  free(senders[fd].waiting);
  senders[fd] = (struct sender){0};
  int result = __real_close(fd);
  pthread_mutex_unlock(&lock);
  return result;
}
