/* Kernel TLS where it differs: what the kernel is given for each cipher suite, what becomes of a
 * refusal, and keys that change while a frame is half sent. Linked with ktls/emulation.c; tls.c
 * puts all else over it.
 * tls_kernel [seed] */
#define RECORD_KEY_USES_MAX 64u /* so that keys change while one can watch */
#include "reactor.c"

#include <linux/tls.h>

#include "ktls/emulation.h"
#include "tls_site.h"

/* ------------------------------------------------------------------ what the kernel is given */

/* An AES-GCM struct of linux/tls.h as it has to be. */
#define FILL_GCM(o, suite, d, iv_from)                    \
  do {                                                    \
    memcpy((o).iv, iv_from, sizeof(o).iv);                \
    memcpy((o).key, (d)->key, sizeof(o).key);             \
    memcpy((o).salt, (d)->iv, sizeof(o).salt);            \
    memcpy((o).rec_seq, number, sizeof(o).rec_seq);       \
    (o).info.version = (suite)->is_tls12 ? 0x303 : 0x304; \
    memcpy(wanted, &(o), sizeof(o)), size = sizeof(o);    \
  } while (0)

static void test_keys(uint64_t seed) {
  static const uint8_t number[8] = {0, 0, 0, 1, 2, 3, 4, 5};
  struct record_direction d = {.sequence = 0x102030405};
  for (size_t i = 0; i < sizeof d.key; i++) d.key[i] = (uint8_t)random_u64(&seed);
  for (size_t i = 0; i < sizeof d.iv; i++) d.iv[i] = (uint8_t)random_u64(&seed);
  for (size_t i = 0; i < sizeof record_suites / sizeof record_suites[0]; i++) {
    const struct record_suite *suite = &record_suites[i];
    uint8_t wanted[KERNEL_KEY_BYTES_MAX];
    uint8_t out[KERNEL_KEY_BYTES_MAX];
    size_t size = 0;
    /* TLS 1.2: the explicit nonce; TLS 1.3: what of the iv is not salt. */
    const uint8_t *iv = suite->is_tls12 ? number : d.iv + 4;
    if (suite->cipher == CIPHER_AES_128_GCM) {
      struct tls12_crypto_info_aes_gcm_128 o = {.info.cipher_type = TLS_CIPHER_AES_GCM_128};
      FILL_GCM(o, suite, &d, iv);
    } else if (suite->cipher == CIPHER_AES_256_GCM) {
      struct tls12_crypto_info_aes_gcm_256 o = {.info.cipher_type = TLS_CIPHER_AES_GCM_256};
      FILL_GCM(o, suite, &d, iv);
    } else {
      struct tls12_crypto_info_chacha20_poly1305 o = {.info.cipher_type =
                                                          TLS_CIPHER_CHACHA20_POLY1305};
      FILL_GCM(o, suite, &d, d.iv);
    }
    CHECK(kernel_key(suite, &d, out) == size && memcmp(out, wanted, size) == 0, "suite %x",
          suite->id);
  }
}

/* ------------------------------------------------------------------ refusals */

static struct site site;

/* One I/O thread: what it remembers, it remembers for all. */
static void open_site(void) {
  struct lw_options options = host_options;
  options.thread_count = 1;
  memset(&ktls_emulation, 0, sizeof ktls_emulation);
  site_open(&site, &options, (struct lw_tls_options){.flags = LW_TLS_KERNEL});
}

static uint64_t by_kernel(void) { return host_stats(&site.host).tls_kernel; }

static void test_probe(void) {
  static const struct {
    int error;
    int result;
    const char *why;
  } cases[] = {{0, 0, ""}, {ENOENT, -ENOENT, "modprobe tls"}, {EPERM, -EPERM, "not permitted"}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char why[128];
    atomic_store(&ktls_emulation.protocol_error, cases[i].error);
    CHECK(lw_kernel_tls(why, sizeof why) == cases[i].result, "case %zu", i);
    CHECK(strstr(why, cases[i].why) != NULL, "case %zu: %s", i, why);
  }
}

static void test_no_protocol(void) {
  open_site();
  atomic_store(&ktls_emulation.protocol_error, ENOENT);
  for (int i = 0; i < 5; i++) CHECK(gets_through(&site), "no echo");
  CHECK(atomic_load(&ktls_emulation.protocols) == 1, "it is asked again and again");
  CHECK(by_kernel() == 0, "who then");
  site_close(&site);
  open_site();
  atomic_store(&ktls_emulation.protocol_error, ENOMEM); /* that may pass */
  for (int i = 0; i < 5; i++) CHECK(gets_through(&site), "no echo");
  CHECK(atomic_load(&ktls_emulation.protocols) == 5, "it is not asked again");
  atomic_store(&ktls_emulation.protocol_error, 0);
  CHECK(gets_through(&site) && by_kernel() == 1, "not by the kernel");
  site_close(&site);
}

static void test_no_cipher(void) {
  open_site();
  atomic_store(&ktls_emulation.cipher_refused, TLS_CIPHER_CHACHA20_POLY1305);
  SSL_CTX_set_ciphersuites(site.client, "TLS_CHACHA20_POLY1305_SHA256");
  for (int i = 0; i < 5; i++) CHECK(gets_through(&site), "no echo");
  CHECK(atomic_load(&ktls_emulation.keys) == 1, "it is asked again and again");
  CHECK(by_kernel() == 0, "who then");
  SSL_CTX_set_ciphersuites(site.client, "TLS_AES_256_GCM_SHA384");
  for (int i = 0; i < 5; i++) CHECK(gets_through(&site), "no echo");
  CHECK(by_kernel() == 5, "%llu by the kernel", (unsigned long long)by_kernel());
  site_close(&site);
}

/* ------------------------------------------------------------------ new keys */

/* A kernel that keeps its first key: the first connection that asks for another ends without more
 * ado, because the other side has been told; after that they end in order. */
static void test_kept_key(void) {
  open_site();
  atomic_store(&ktls_emulation.keeps_keys, 1);
  for (int i = 0; i < 3; i++) {
    struct client c = client_open(site.client, site.longwire_port, NULL, NULL);
    REQUIRE(c.ssl != NULL, "no handshake");
    CHECK(client_echo(&c, 100, 1), "no echo");
    CHECK(SSL_key_update(c.ssl, SSL_KEY_UPDATE_REQUESTED) == 1, "cannot ask for a key");
    CHECK(!client_echo(&c, 100, 2), "it goes on");
    await_closed(&site.host, LW_CODE_TLS_REKEY, (uint64_t)i + 1);
    int is_told = (SSL_get_shutdown(c.ssl) & SSL_RECEIVED_SHUTDOWN) != 0;
    CHECK(is_told == (i > 0), "connection %d: told %d", i, is_told);
    ERR_clear_error();
    SSL_set_quiet_shutdown(c.ssl, 1);
    client_close(&c);
  }
  CHECK(atomic_load(&ktls_emulation.keys) == 4, "it is asked again and again");
  site_close(&site);
}

/* Keys are used up, here and in the kernel; those of TLS 1.2 are not changed. */
static void test_used_up(uint32_t flags) {
  for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
    open_site();
    site_use(&site, &site.server, (struct lw_tls_options){.flags = flags});
    SSL_CTX_set_min_proto_version(site.client, version);
    SSL_CTX_set_max_proto_version(site.client, version);
    struct client c = client_open(site.client, site.longwire_port, NULL, NULL);
    REQUIRE(c.ssl != NULL, "no handshake");
    for (uint32_t i = 0; i < 500; i++) CHECK(client_echo(&c, i, i), "echo %u", i);
    unsigned keys = atomic_load(&ktls_emulation.keys);
    int changes = version == TLS1_3_VERSION && flags == LW_TLS_KERNEL;
    CHECK(changes ? keys > 5 : keys == flags / LW_TLS_KERNEL, "%u keys", keys);
    client_close(&c);
    site_close(&site);
  }
}

/* The answer to KeyUpdate leaves between two pieces of a frame; several are answered at once. */
static void test_between_pieces(uint64_t seed) {
  enum { FRAMES = 3, BYTES = 900000 };
  uint8_t *back = malloc(5 + BYTES);
  open_site();
  struct client c = client_open(site.client, site.longwire_port, NULL, NULL);
  REQUIRE(c.ssl != NULL && back != NULL, "no handshake");
  for (uint64_t i = 0; i < FRAMES; i++) {
    uint8_t *frame = frame_make(BYTES, seed + i);
    size_t done;
    CHECK(SSL_write_ex(c.ssl, frame, 5 + BYTES, &done) == 1, "write");
    free(frame);
  }
  for (int i = 0; i < PATIENCE_S * 1000; i++) {
    if (host_stats(&site.host).out_queue_bytes > BYTES) break;
    usleep(1000);
  }
  for (int i = 0; i < 4; i++) {
    SSL_key_update(c.ssl, SSL_KEY_UPDATE_REQUESTED);
    CHECK(SSL_do_handshake(c.ssl) == 1, "cannot ask for a key");
  }
  for (uint64_t i = 0; i < FRAMES; i++) {
    uint8_t *frame = frame_make(BYTES, seed + i);
    CHECK(client_read(&c, back, 5 + BYTES) && memcmp(frame, back, 5 + BYTES) == 0, "frame %d",
          (int)i);
    free(frame);
  }
  CHECK(client_echo(&c, 10, 1), "no echo after");
  CHECK(atomic_load(&ktls_emulation.typed) > 0, "no key was announced");
  CHECK(atomic_load(&ktls_emulation.short_sends) > 0, "all was taken at once");
  client_close(&c);
  site_close(&site);
  free(back);
}

/* The host closes behind its answer: that comes whole, then close_notify. */
static void test_goodbye(void) {
  for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
    open_site();
    SSL_CTX_set_max_proto_version(site.client, version);
    struct client c = client_open(site.client, site.longwire_port, NULL, NULL);
    REQUIRE(c.ssl != NULL, "no handshake");
    atomic_store(&site.host.close_next, 1);
    CHECK(client_echo(&c, 700000, 1), "the answer is cut off");
    uint8_t byte;
    int result = SSL_read(c.ssl, &byte, 1);
    CHECK(result == 0 && SSL_get_error(c.ssl, result) == SSL_ERROR_ZERO_RETURN, "no goodbye");
    await_closed(&site.host, LW_CODE_NORMAL, 1);
    client_close(&c);
    site_close(&site);
  }
}

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
  printf("%s, seed %llu\n", lw_backend(), (unsigned long long)seed);
  fflush(stdout);
  test_keys(seed);
  test_probe();
  test_no_protocol();
  test_no_cipher();
  test_kept_key();
  test_used_up(LW_TLS_KERNEL);
  test_used_up(0);
  test_between_pieces(seed);
  test_goodbye();
  unsigned problems = atomic_load(&check_problems);
  if (problems > 0) fprintf(stderr, "%u problems\n", problems);
  return problems > 0;
}
