/* PROXY headers as a table: every one is read whole, at each truncation, and byte by byte; what is
 * not one is refused as soon as that can be known. */
#ifndef LONGWIRE_TESTS_UNIT_PROXY_H
#define LONGWIRE_TESTS_UNIT_PROXY_H

#include "check.h"
#include "proxy.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

struct proxy_case {
  const char *what;
  const char *bytes;
  uint32_t size;
  unsigned family; /* 0 = the connection's own address */
  unsigned port;
  const char *address; /* numeric */
};

#define CASE(what, bytes, ...) \
  { what, bytes, sizeof bytes - 1, __VA_ARGS__ }

static const struct proxy_case proxy_cases[] = {
    CASE("v1 IPv4", "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", 4, 56324, "192.0.2.1"),
    CASE("v1 ends of ranges", "PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", 4, 65535,
         "255.255.255.255"),
    CASE("v1 IPv6", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n", 6, 1, "2001:db8::1"),
    CASE("v1 longest",
         "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
         "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
         6, 65535, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    CASE("v1 unknown", "PROXY UNKNOWN\r\n", 0, 0, "0.0.0.0"),
    CASE("v1 unknown, more", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535 x y\r\n", 0, 0, "0.0.0.0"),
    CASE("v2 local", SIGNATURE "\x20\x00\x00\x00", 0, 0, "0.0.0.0"),
    CASE("v2 local, an address to ignore",
         SIGNATURE "\x20\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04", 0, 0,
         "0.0.0.0"),
    CASE("v2 IPv4", SIGNATURE "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x34\x01\xbb", 4,
         0x1234, "192.0.2.1"),
    CASE("v2 IPv6",
         SIGNATURE "\x21\x21\x00\x24"
                   "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
                   "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02"
                   "\xff\xff\x00\x50",
         6, 65535, "2001:db8::1"),
    CASE("v2 unspecified", SIGNATURE "\x21\x00\x00\x03\x04\x00\x00", 0, 0, "0.0.0.0"),
    CASE("v2 datagrams",
         SIGNATURE "\x21\x12\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04", 0, 0,
         "0.0.0.0"),
    CASE("v2 TLVs",
         SIGNATURE "\x21\x11\x00\x17\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x34\x01\xbb"
                   "\x02\x00\x01h\x04\x00\x00\xee\x00\x01?",
         4, 0x1234, "192.0.2.1"),
};

#undef CASE
#define CASE(what, bytes) \
  { what, bytes, sizeof bytes - 1, 0, 0, NULL }

static const struct proxy_case proxy_bad[] = {
    CASE("nothing of it", "GET / HTTP/1.1\r\n\r\n"),
    CASE("MQTT", "\x10\x0f\0\4MQTT"),
    CASE("lower case", "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
    CASE("two spaces", "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
    CASE("a space at the end", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n"),
    CASE("too few fields", "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n"),
    CASE("too many fields", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n"),
    CASE("no fields", "PROXY \r\n"),
    CASE("another family", "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n"),
    CASE("the other family", "PROXY TCP4 ::1 ::2 1 2\r\n"),
    CASE("a leading zero", "PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n"),
    CASE("a port with a leading zero", "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n"),
    CASE("a port too large", "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n"),
    CASE("a negative port", "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n"),
    CASE("LF alone", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"),
    CASE("CR alone", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx"),
    CASE("NUL inside", "PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n"),
    CASE("a line too long",
         "PROXY UNKNOWN aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"),
    CASE("a line without an end",
         "PROXY UNKNOWN aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    CASE("v2 of version 1", SIGNATURE "\x11\x11\x00\x00"),
    CASE("v2, another command", SIGNATURE "\x22\x11\x00\x00"),
    CASE("v2, another family", SIGNATURE "\x21\x41\x00\x00"),
    CASE("v2, another transport", SIGNATURE "\x21\x13\x00\x0c"),
    CASE("v2, too short for its addresses", SIGNATURE "\x21\x11\x00\x0b"),
    CASE("v2, too long", SIGNATURE "\x21\x11\x0f\xf1"),
    CASE("v2, half a TLV",
         SIGNATURE "\x21\x11\x00\x0e\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x34\x01\xbb\x04\x00"),
    CASE("v2, a TLV that is too long",
         SIGNATURE "\x21\x11\x00\x0f\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x34\x01\xbb\x04\x00\x01"),
    CASE("v2, a wrong checksum",
         SIGNATURE "\x21\x11\x00\x13\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x34\x01\xbb"
                   "\x03\x00\x04\x01\x02\x03\x04"),
    CASE("v2, a short checksum",
         SIGNATURE "\x21\x11\x00\x12\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x34\x01\xbb"
                   "\x03\x00\x03\x01\x02\x03"),
};

#undef CASE

/* A copy of exactly these bytes, so that a sanitizer sees who reads behind them. */
static struct proxy_header parse_copy(const void *bytes, uint32_t size) {
  uint8_t *copy = malloc(size > 0 ? size : 1);
  REQUIRE(copy != NULL, "no memory");
  if (size > 0) memcpy(copy, bytes, size);
  struct proxy_header header = proxy_parse(copy, size);
  free(copy);
  return header;
}

static void check_header(const struct proxy_case *each, const uint8_t *bytes, uint32_t size) {
  uint8_t address[16] = {0};
  struct proxy_header h = parse_copy(bytes, size);
  CHECK(h.size == (int32_t)each->size, "%s: %d bytes", each->what, h.size);
  CHECK(h.source.family == each->family, "%s: family %u", each->what, h.source.family);
  if (each->family == 0) return;
  inet_pton(each->family == 4 ? AF_INET : AF_INET6, each->address, address);
  CHECK(h.source.port == each->port, "%s: port %u", each->what, h.source.port);
  CHECK(memcmp(address, h.source.address, sizeof address) == 0, "%s: address", each->what);
}

/* The example of a checksum is made here: the table cannot hold one without knowing the answer. */
static void unit_proxy_checksum(void) {
  uint8_t bytes[35] = SIGNATURE
      "\x21\x11\x00\x13\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x34\x01\xbb"
      "\x03\x00\x04";
  static const uint8_t digits[9] = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
  /* The check value of CRC-32C in the catalogue of parametrised CRC algorithms. */
  CHECK(~proxy_crc32c(0xffffffffu, digits, 9) == 0xe3069283u, "CRC-32C");
  uint32_t crc = ~proxy_crc32c(0xffffffffu, bytes, sizeof bytes);
  for (int i = 0; i < 4; i++) bytes[31 + i] = (uint8_t)(crc >> (24 - 8 * i));
  struct proxy_case each = {"v2 checksum", NULL, sizeof bytes, 4, 0x1234, "192.0.2.1"};
  check_header(&each, bytes, sizeof bytes);
  for (uint32_t i = 16; i < sizeof bytes; i++) {
    if (i == 28) continue; /* its type: then it is no checksum */
    bytes[i] ^= 1;
    CHECK(parse_copy(bytes, sizeof bytes).size == -1, "byte %u is another", i);
    bytes[i] ^= 1;
  }
}

static void unit_proxy_trust(void) {
  static const struct proxy_trust trust = {.networks = {{4, 8, {10}},
                                                        {4, 32, {192, 0, 2, 7}},
                                                        {4, 12, {172, 16}},
                                                        {6, 64, {0x20, 0x01, 0x0d, 0xb8}}},
                                           .count = 4};
  static const struct {
    unsigned family;
    const char *address;
    int is_trusted;
  } cases[] = {
      {4, "10.0.0.0", 1},       {4, "10.255.255.255", 1},
      {4, "11.0.0.0", 0},       {4, "192.0.2.7", 1},
      {4, "192.0.2.6", 0},      {4, "172.16.0.1", 1},
      {4, "172.31.9.9", 1},     {4, "172.32.0.0", 0},
      {6, "2001:db8::1", 1},    {6, "2001:db8:0:0:ffff::", 1},
      {6, "2001:db8:0:1::", 0}, {6, "a00::", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    uint8_t address[16] = {0};
    inet_pton(cases[i].family == 4 ? AF_INET : AF_INET6, cases[i].address, address);
    CHECK(proxy_trusts(&trust, cases[i].family, address) == cases[i].is_trusted, "%s",
          cases[i].address);
  }
  CHECK(!proxy_trusts(&trust, 0, (const uint8_t *)"\x0a\0\0\0"), "an unknown address");
}

static void unit_proxy(uint64_t seed) {
  for (size_t i = 0; i < sizeof proxy_cases / sizeof proxy_cases[0]; i++) {
    const struct proxy_case *each = &proxy_cases[i];
    uint8_t longer[600];
    for (uint32_t size = 0; size < each->size; size++) {
      CHECK(parse_copy(each->bytes, size).size == 0, "%s: %u bytes", each->what, size);
      /* The other side of the same: nobody who must not send it gets past with less than this. */
      uint32_t least = each->bytes[0] == 'P' ? 6 : 12;
      int begins = size == 0 ? -1 : proxy_begins((const uint8_t *)each->bytes, size);
      CHECK(begins == (size < least ? -1 : 1), "%s: begins with %u", each->what, size);
    }
    memcpy(longer, each->bytes, each->size);
    check_header(each, longer, each->size);
    for (uint32_t k = each->size; k < sizeof longer; k++) longer[k] = (uint8_t)random_u64(&seed);
    check_header(each, longer, sizeof longer); /* what follows is the device's */
  }
  for (size_t i = 0; i < sizeof proxy_bad / sizeof proxy_bad[0]; i++) {
    const struct proxy_case *each = &proxy_bad[i];
    int32_t last = 0;
    for (uint32_t size = 0; size <= each->size && last == 0; size++) {
      last = parse_copy(each->bytes, size).size;
    }
    CHECK(last == -1, "%s: %d", each->what, last);
  }
  unit_proxy_checksum();
  unit_proxy_trust();
}

#endif
