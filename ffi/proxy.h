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

static inline int proxy_trusts(const struct proxy_trust *t, unsigned family,
                               const uint8_t *address) {
  for (uint32_t i = 0; i < t->count; i++) {
    if (proxy_is_in(&t->networks[i], family, address)) return 1;
  }
  return 0;
}

/* What a header said. */
struct proxy_header {
  int32_t size;          /* bytes; 0 = not whole yet; -1 = malformed */
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

/* ---------------------------------------------------------------- version 2 */

enum proxy_v2 {
  PROXY_V2_LOCAL = 0x20, /* version and command: the balancer speaks for itself (health checks) */
  PROXY_V2_PROXY = 0x21,
  PROXY_V2_TCP4 = 0x11, /* family and transport */
  PROXY_V2_TCP6 = 0x21,
  PROXY_V2_UNIX = 3,      /* family, the upper half */
  PROXY_V2_DGRAM = 2,     /* transport, the lower half */
  PROXY_V2_CRC32C = 0x03, /* type of a TLV (section 2.2.3) */
};

/* CRC-32C (RFC 3309), bit by bit: headers are short and few. */
static inline uint32_t proxy_crc32c(uint32_t crc, const uint8_t *bytes, size_t size) {
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return crc;
}

/* Whether the checksum at `at` is that of the whole header, computed with zeroes in its place. */
static inline int proxy_checksum_holds(const uint8_t *bytes, uint32_t size, uint32_t at) {
  static const uint8_t zeroes[4] = {0};
  uint32_t said = (uint32_t)bytes[at] << 24 | (uint32_t)bytes[at + 1] << 16 |
                  (uint32_t)bytes[at + 2] << 8 | bytes[at + 3];
  uint32_t crc = proxy_crc32c(0xffffffffu, bytes, at);
  crc = proxy_crc32c(crc, zeroes, sizeof zeroes);
  crc = proxy_crc32c(crc, bytes + at + 4, size - at - 4);
  return ~crc == said;
}

/* Walks the TLVs in [at, size): they must fill it, and a checksum among them must hold. */
static inline int proxy_check_tlvs(const uint8_t *bytes, uint32_t size, uint32_t at) {
  while (at < size) {
    if (size - at < 3) return -1;
    uint32_t length = (uint32_t)bytes[at + 1] << 8 | bytes[at + 2];
    if (length > size - at - 3) return -1;
    if (bytes[at] == PROXY_V2_CRC32C &&
        (length != 4 || !proxy_checksum_holds(bytes, size, at + 3))) {
      return -1;
    }
    at += 3 + length;
  }
  return 0;
}

/* Bytes that addresses of a family take; 0 = it has none. */
static inline uint32_t proxy_address_bytes(uint8_t family) {
  static const uint8_t sizes[4] = {0, 12, 36, 216};
  return sizes[family >> 4];
}

static inline struct proxy_header proxy_parse_v2(const uint8_t *bytes, uint32_t size) {
  struct proxy_header header = {0};
  if (size < PROXY_V2_HEADER_BYTES) return proxy_unfinished;
  uint8_t family = bytes[13];
  uint32_t length = (uint32_t)bytes[14] << 8 | bytes[15];
  uint32_t whole = PROXY_V2_HEADER_BYTES + length;
  if (bytes[12] != PROXY_V2_LOCAL && bytes[12] != PROXY_V2_PROXY) return proxy_malformed;
  if (whole > PROXY_BYTES_MAX) return proxy_malformed;
  int is_local = bytes[12] == PROXY_V2_LOCAL; /* all that follows is to be discarded */
  if (!is_local && (family >> 4 > PROXY_V2_UNIX || (family & 15) > PROXY_V2_DGRAM ||
                    length < proxy_address_bytes(family))) {
    return proxy_malformed;
  }
  if (size < whole) return proxy_unfinished;
  header.size = (int32_t)whole;
  if (is_local) return header;
  uint32_t tlvs = PROXY_V2_HEADER_BYTES + proxy_address_bytes(family);
  if (proxy_check_tlvs(bytes, whole, tlvs) != 0) return proxy_malformed;
  /* Of other families the device's address is not known: the connection's own is kept. */
  if (family != PROXY_V2_TCP4 && family != PROXY_V2_TCP6) return header;
  uint32_t address_size = family == PROXY_V2_TCP4 ? 4 : 16;
  const uint8_t *port = bytes + PROXY_V2_HEADER_BYTES + 2 * address_size;
  header.source.family = family == PROXY_V2_TCP4 ? 4 : 6;
  header.source.port = (uint16_t)(port[0] << 8 | port[1]);
  memcpy(header.source.address, bytes + PROXY_V2_HEADER_BYTES, address_size);
  return header;
}

/* Reads the header at the start of a connection. */
static inline struct proxy_header proxy_parse(const uint8_t *bytes, uint32_t size) {
  int begins = size == 0 ? -1 : proxy_begins(bytes, size);
  if (begins < 0) return proxy_unfinished;
  if (begins == 0) return proxy_malformed;
  return bytes[0] == 'P' ? proxy_parse_v1(bytes, size) : proxy_parse_v2(bytes, size);
}

#endif
