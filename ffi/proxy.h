/* The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt, 2.1 and 2.2): a load balancer
 * says in front of a connection whose it is. Pure: bytes in, an address out. Invariant: nobody's
 * word is taken but that of the networks which the operator trusts. */
#ifndef LONGWIRE_PROXY_H
#define LONGWIRE_PROXY_H

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

#include "reactor.h"

#define PROXY_NETWORKS_MAX 64u
/* The longest line of version 1, its CRLF included (section 2.1). */
#define PROXY_LINE_BYTES_MAX 107u
/* Version 2 could have 65,551; addresses, a checksum and what balancers say of TLS need far less.
 * */
#define PROXY_BYTES_MAX 4096u
#define PROXY_V2_HEADER_BYTES 16u

struct proxy_trust {
  struct lw_network networks[PROXY_NETWORKS_MAX];
  uint32_t count;
};

static inline int proxy_is_in(const struct lw_network *n, unsigned family, const uint8_t *address) {
  if (n->family != family) return 0;
  unsigned whole = n->prefix / 8;
  unsigned rest = n->prefix % 8;
  if (memcmp(n->address, address, whole) != 0) return 0;
  return rest == 0 || (n->address[whole] ^ address[whole]) >> (8 - rest) == 0;
}

static inline int proxy_trusts(const struct proxy_trust *t, unsigned family, const uint8_t *address) {
  for (uint32_t i = 0; i < t->count; i++) {
    if (proxy_is_in(&t->networks[i], family, address)) return 1;
  }
  return 0;
}

/* What a header said. */
struct proxy_header {
  int32_t size; /* bytes; 0 = not whole yet; -1 = malformed */
  struct lw_peer source; /* family 0: the connection's own address holds */
};

static const uint8_t proxy_v1_signature[6] = {'P', 'R', 'O', 'X', 'Y', ' '};
static const uint8_t proxy_v2_signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
                                               0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};

static const struct proxy_header proxy_malformed = {.size = -1};
static const struct proxy_header proxy_unfinished = {.size = 0};

/* Whether bytes begin as a header does: 1 = yes, 0 = no, -1 = too few to tell. No first packet of a
 * device begins so: MQTT's is 0x10, TLS's 0x16, and a Longwire frame of that length is refused. */
static inline int proxy_begins(const uint8_t *bytes, uint32_t size) {
  uint32_t v1 = size < sizeof proxy_v1_signature ? size : sizeof proxy_v1_signature;
  uint32_t v2 = size < sizeof proxy_v2_signature ? size : sizeof proxy_v2_signature;
  if (memcmp(bytes, proxy_v1_signature, v1) == 0) return v1 == sizeof proxy_v1_signature ? 1 : -1;
  if (memcmp(bytes, proxy_v2_signature, v2) == 0) return v2 == sizeof proxy_v2_signature ? 1 : -1;
  return 0;
}

/* ---------------------------------------------------------------- version 1 */

/* A port in decimal without leading zeroes, to the end of the text; -1 = it is none. */
static inline int32_t proxy_port(const char *text) {
  size_t size = strlen(text);
  if (size == 0 || size > 5 || (size > 1 && text[0] == '0')) return -1;
  int32_t port = 0;
  for (; *text != 0; text++) {
    if (*text < '0' || *text > '9') return -1;
    port = port * 10 + (*text - '0');
  }
  return port <= 65535 ? port : -1;
}

/* `line` ends where its CRLF was and is cut up: "PROXY TCP4 source destination port port". */
static inline int proxy_read_line(char *line, struct lw_peer *source) {
  char *fields[7];
  unsigned count = 0;
  uint8_t destination[16];
  for (char *at = line; count < 7; at++) {
    fields[count++] = at;
    while (*at != 0 && *at != ' ') at++;
    if (*at == 0) break;
    *at = 0;
  }
  /* Whatever follows UNKNOWN is to be ignored. */
  if (count >= 2 && strcmp(fields[1], "UNKNOWN") == 0) return 0;
  if (count != 6) return -1;
  int is_v4 = strcmp(fields[1], "TCP4") == 0;
  if (!is_v4 && strcmp(fields[1], "TCP6") != 0) return -1;
  int family = is_v4 ? AF_INET : AF_INET6;
  int32_t port = proxy_port(fields[4]);
  if (inet_pton(family, fields[2], source->address) != 1) return -1;
  if (inet_pton(family, fields[3], destination) != 1) return -1;
  if (port < 0 || proxy_port(fields[5]) < 0) return -1;
  source->family = is_v4 ? 4 : 6;
  source->port = (uint16_t)port;
  return 0;
}

static inline struct proxy_header proxy_parse_v1(const uint8_t *bytes, uint32_t size) {
  struct proxy_header header = {0};
  char line[PROXY_LINE_BYTES_MAX + 1];
  uint32_t end = 0;
  while (end < size && end < PROXY_LINE_BYTES_MAX && bytes[end] != '\r') {
    if (bytes[end] == 0 || bytes[end] == '\n') return proxy_malformed;
    end++;
  }
  if (end + 1 >= PROXY_LINE_BYTES_MAX) return proxy_malformed; /* no room for the LF */
  if (end + 1 >= size) return proxy_unfinished;
  if (bytes[end + 1] != '\n') return proxy_malformed;
  memcpy(line, bytes, end);
  line[end] = 0;
  if (proxy_read_line(line, &header.source) != 0) return proxy_malformed;
  header.size = (int32_t)end + 2;
  return header;
}
