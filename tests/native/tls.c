/* TLS from both ends: the reactor over real sockets, and OpenSSL's clients and forged records
 * against it, in each of the two ways in which the reactor can hold a connection; or, with
 * `kernel`, where the kernel encrypts. tls [seed [kernel]] */
#define TLS_TICKET_KEY_S 2u /* tickets age while one can watch */
#include "reactor.c"

#include "tls_handshakes.h"
#include "tls_streams.h"

static void streams_of_version(struct streams *s, int version) {
  streams_version(s, version);
  test_sizes(s);
  test_pieces(s);
  test_half_close(s);
  if (version == TLS1_3_VERSION) {
    test_key_updates(s);
    test_forgeries_13(s);
  } else {
    test_forgeries_12(s);
  }
  test_broken_records(s);
  test_tampering(s);
  test_noise(s);
}

static void test_streams(uint32_t flags, uint64_t seed) {
  static struct streams s;
  streams_open(&s, flags, seed);
  struct client c = streams_client(&s);
  CHECK(client_echo(&c, 1, 1), "no echo");
  CHECK(host_stats(&s.host).tls_objects == (flags & LW_TLS_KEEP_OBJECTS), "the other way");
  CHECK(host_stats(&s.host).tls_kernel == (flags & LW_TLS_KERNEL) / LW_TLS_KERNEL, "not so");
  client_close(&c);
  test_suites(&s);
  streams_of_version(&s, TLS1_2_VERSION);
  streams_of_version(&s, TLS1_3_VERSION);
  struct lw_stats stats = host_stats(&s.host);
  for (int i = 0; i < PATIENCE_S * 1000 && stats.connections + stats.tls_objects > 0; i++) {
    usleep(1000); /* one that is told the end holds its object a little longer */
    stats = host_stats(&s.host);
  }
  CHECK(stats.connections == 0 && stats.tls_handshaking == 0 && stats.tls_objects == 0,
        "something is left");
  CHECK(stats.out_queue_bytes == 0, "%lld bytes wait", (long long)stats.out_queue_bytes);
  streams_close(&s);
}

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
  printf("%s, seed %llu\n", lw_backend(), (unsigned long long)seed);
  fflush(stdout);
  if (argc > 2 && strcmp(argv[2], "kernel") == 0) {
    char why[128];
    if (lw_kernel_tls(why, sizeof why) != 0) {
      fprintf(stderr, "skipped: %s\n", why);
      return 77;
    }
    setup_flags = LW_TLS_KERNEL;
    test_streams(LW_TLS_KERNEL, seed);
  } else {
    test_streams(0, seed);
    test_streams(LW_TLS_KEEP_OBJECTS, seed);
  }
  test_alpn();
  test_names();
  test_tickets();
  test_client_certificates(LW_TLS_CLIENT_OPTIONAL);
  test_client_certificates(LW_TLS_CLIENT_REQUIRED);
  test_reload();
  test_garbage();
  test_bound();
  test_too_long();
  unsigned problems = atomic_load(&check_problems);
  if (problems > 0) fprintf(stderr, "%u problems\n", problems);
  return problems > 0;
}
