/* The hammer's clients: how each role begins, what it does, and how it must end. */
#ifndef LONGWIRE_TESTS_HAMMER_CLIENT_ROLES_H
#define LONGWIRE_TESTS_HAMMER_CLIENT_ROLES_H

#include "hammer_client.h"

/* ---------------------------------------------------------------- the end */

/* With `resets`, the peer hears RST instead of FIN. */
static void client_close(struct client *c, int resets) {
  struct linger hard = {.l_onoff = 1, .l_linger = 0};
  if (resets) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  close(c->fd);
  c->link = NULL;
}

/* The reactor ended the connection: in order (`is_reset` 0) or not. */
static void client_ended(struct client *c, int is_reset) {
  struct link *l = c->link;
  int was_told = c->saw_last || c->saw_busy;
  if (atomic_load(&hammer_is_abrupt)) return client_close(c, 0);
  if (l->role != ROLE_MUTE && l->role != ROLE_ROGUE) {
    CHECK(was_told, "link %u, role %u: %s without last words", l->number, l->role,
          is_reset ? "reset" : "closed");
  }
  if (link_is_exact(l) && c->saw_last) {
    CHECK(!is_reset, "link %u: reset after the last words", l->number);
  }
  client_close(c, 0);
}

/* ---------------------------------------------------------------- the beginning */

/* Narrow: the kernel takes little for it at either end, so that the reactor's own queue fills. */
static int client_connect(struct client *c, uint16_t port, int is_narrow) {
  struct sockaddr_in from = {.sin_family = AF_INET};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  from.sin_addr.s_addr = htonl(0x7f000001u + random_below(&c->seed, 200 << 8));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(c->fd >= 0, "socket: errno %d", errno);
  int on = 1, receive_bytes = 4096, segment_bytes = 536;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  if (is_narrow) {
    setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment_bytes, sizeof segment_bytes);
  }
  if (bind(c->fd, (struct sockaddr *)&from, sizeof from) == 0 &&
      connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0) {
    return 0;
  }
  close(c->fd);
  return -1;
}

static unsigned client_role(uint64_t *seed) {
  uint32_t dice = random_below(seed, 100);
  if (dice < 35) return ROLE_GOOD;
  if (dice < 55) return ROLE_LEAVER;
  if (dice < 62) return ROLE_BREAKER;
  if (dice < 65) return ROLE_SLEEPER;
  return dice < 70 ? ROLE_MUTE : ROLE_ROGUE;
}

/* A new link in a free place. */
static void client_begin(struct client *c, const uint16_t ports[2]) {
  uint64_t seed = c->seed;
  unsigned role = client_role(&seed);
  struct link *l = link_new(&seed, role);
  memset(c, 0, offsetof(struct client, in));
  c->seed = seed;
  c->link = l;
  int is_narrow = random_chance(&c->seed, role == ROLE_ROGUE ? 60 : 15);
  if (client_connect(c, ports[l->protocol == LW_PROTOCOL_MQTT], is_narrow) != 0) {
    c->link = NULL;
    return;
  }
  c->is_deaf = c->is_stone = is_narrow && role == ROLE_ROGUE && random_chance(&c->seed, 50);
  c->end_ms = clock_ms() + random_below(&c->seed, random_chance(&c->seed, 20) ? 3000 : 400);
  if (role == ROLE_MUTE) {
    static const uint8_t part[2][6] = {{200, 0, 0, 0, 2, 'h'}, {0x10, 200, 1, 'h', 'e', 'l'}};
    client_put(c, part[l->protocol == LW_PROTOCOL_MQTT], random_below(&c->seed, 6));
  } else if (role == ROLE_ROGUE && random_chance(&c->seed, 5)) {
    atomic_store(&l->is_garbled, 1);
    for (int i = 0; i < 200; i++) c->out[c->out_size++] = (uint8_t)random_u64(&c->seed);
  } else {
    client_frame(c, WIRE_HELLO, random_below(&c->seed, 500));
  }
}

/* ---------------------------------------------------------------- what each does */

static void client_beat(struct client *c) {
  static const uint8_t beats[2][5] = {{1, 2, 3, 4, LONGWIRE_HEARTBEAT}, {MQTT_PINGREQ, 0}};
  int is_mqtt = c->link->protocol == LW_PROTOCOL_MQTT;
  client_put(c, beats[is_mqtt], is_mqtt ? 2 : 5);
  c->beats_out++;
}

static void client_talk(struct client *c) {
  for (uint32_t i = random_below(&c->seed, 6); i > 0; i--) {
    uint32_t most = random_chance(&c->seed, 2) ? WIRE_FRAME_BYTES_MAX - 100 : 200;
    client_frame(c, WIRE_FRAME, random_below(&c->seed, most));
  }
  if (random_chance(&c->seed, 20)) client_beat(c);
}

/* What no frame may begin with, and more behind it that nobody may take for one. */
static void client_break(struct client *c) {
  static const uint8_t malformed[5] = {0x30, 0xff, 0xff, 0xff, 0xff};
  static const uint8_t large[2][5] = {{0, 0, 0, 9, 7}, {0x30, 0xff, 0xff, 0xff, 0x7f}};
  int is_mqtt = c->link->protocol == LW_PROTOCOL_MQTT;
  atomic_store(&c->link->is_garbled, 1);
  client_put(c, is_mqtt && random_chance(&c->seed, 50) ? malformed : large[is_mqtt], 5);
  for (int i = 0; i < 20; i++) client_frame(c, WIRE_FRAME, 100);
}

#define TORRENT_BYTES 60000u

/* As many heartbeats as the kernel takes: more than one turn of an I/O thread is for. */
static void client_torrent(struct client *c) {
  uint8_t *beats = malloc(TORRENT_BYTES);
  REQUIRE(beats != NULL, "no memory");
  int is_mqtt = c->link->protocol == LW_PROTOCOL_MQTT;
  static const uint8_t patterns[2][10] = {
      {1, 2, 3, 4, LONGWIRE_HEARTBEAT, 1, 2, 3, 4, LONGWIRE_HEARTBEAT},
      {MQTT_PINGREQ, 0, MQTT_PINGREQ, 0, MQTT_PINGREQ, 0, MQTT_PINGREQ, 0, MQTT_PINGREQ, 0}};
  for (uint32_t i = 0; i < TORRENT_BYTES; i++) beats[i] = patterns[is_mqtt][i % 10];
  for (int i = 0; i < 20 && c->out_size == 0; i++) {
    ssize_t sent = send(c->fd, beats, TORRENT_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) break;
    client_put(c, beats + sent, TORRENT_BYTES - (uint32_t)sent); /* no frame is left half-said */
  }
  free(beats);
}

/* One deed of a rogue; returns 0 when it was the last. */
static int client_misbehave(struct client *c) {
  uint32_t what = random_below(&c->seed, c->is_stone ? 50 : 100);
  if (what < 40) {
    client_talk(c);
  } else if (what < 50) {
    c->is_deaf = c->is_stone || !c->is_deaf;
  } else if (what < 55) {
    for (int i = 0; i < 2000; i++) client_beat(c);
  } else if (what < 60 && c->link->protocol == LW_PROTOCOL_MQTT) {
    client_ack_packet(c, MQTT_PUBREC, (uint16_t)(1 + random_below(&c->seed, 65535)));
  } else if (what < 63) {
    atomic_store(&c->link->is_garbled, 1);
    uint8_t garbage[64];
    for (int i = 0; i < 64; i++) garbage[i] = (uint8_t)random_u64(&c->seed);
    client_put(c, garbage, sizeof garbage);
  } else if (what < 66 && !c->is_half_closed) {
    shutdown(c->fd, SHUT_WR);
    c->is_half_closed = 1;
  } else if (what < 69) {
    if (c->frames_sent > 0) client_torrent(c);
  } else if (what < 75) {
    client_close(c, random_chance(&c->seed, 50));
    return 0;
  }
  return 1;
}

/* The last deed of a role, once its time has come. */
static void client_finish(struct client *c) {
  struct link *l = c->link;
  c->has_ended = 1;
  if (l->role == ROLE_GOOD) {
    atomic_store(&l->frames_total, c->frames_sent);
    client_frame(c, WIRE_BYE, 10);
    /* It counts as a frame, and is the last. */
    c->has_ended = c->frames_sent == atomic_load(&l->frames_total) + 1;
  } else if (l->role == ROLE_LEAVER) {
    atomic_store(&l->frames_total, c->frames_sent);
  } else if (l->role == ROLE_BREAKER) {
    client_break(c);
  }
}

/* Sends some of what is queued, seldom all of it at once. */
static int client_write(struct client *c) {
  uint32_t size = c->out_size;
  if (c->is_half_closed) c->out_size = size = 0;
  if (size == 0) return 1;
  if (random_chance(&c->seed, 30)) size = 1 + random_below(&c->seed, size < 20 ? size : 20);
  ssize_t sent = send(c->fd, c->out, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN || errno == EINTR ? 1 : -1;
  c->out_size -= (uint32_t)sent;
  memmove(c->out, c->out + sent, c->out_size);
  return 1;
}

static void client_speak(struct client *c, uint64_t now_ms) {
  const struct link *l = c->link;
  if (c->saw_last || c->saw_busy || now_ms < c->next_ms) return;
  c->next_ms = now_ms + random_below(&c->seed, 20);
  if (l->role == ROLE_MUTE || l->role == ROLE_SLEEPER) return;
  if (!c->has_ended) client_talk(c);
  if (!c->has_ended && now_ms >= c->end_ms) client_finish(c);
}

/* One step of a connection. */
static void client_step(struct client *c) {
  uint64_t now_ms = clock_ms();
  const struct link *l = c->link;
  if (atomic_load(&hammer_is_ending)) {
    if (l->role == ROLE_ROGUE || l->role == ROLE_MUTE) return client_close(c, 1);
    if (c->end_ms > now_ms) c->end_ms = now_ms;
  }
  if (l->role == ROLE_ROGUE) {
    if (now_ms > c->end_ms + (c->is_stone ? 8000 : 2000)) return client_close(c, 1);
    if (now_ms >= c->next_ms && !client_misbehave(c)) return;
    c->next_ms = now_ms + random_below(&c->seed, 3) + (now_ms < c->next_ms ? 0 : 20);
  }
  client_speak(c, now_ms);
  client_acknowledge(c, now_ms);
  /* What it writes to may be closed already; what it reads says why. */
  int wrote = client_write(c);
  if (l->role == ROLE_LEAVER && c->has_ended && c->out_size == 0 && !c->is_half_closed) {
    shutdown(c->fd, SHUT_WR);
    c->is_half_closed = 1;
  }
  int lives = c->is_deaf ? 1 : client_read(c);
  if (lives <= 0) return client_ended(c, lives < 0);
  if (wrote < 0 && l->role == ROLE_ROGUE) return client_close(c, 0);
  if (l->role != ROLE_ROGUE && now_ms > c->end_ms + PATIENCE_MS) {
    CHECK(0, "link %u, role %u: never ended", l->number, l->role);
    client_close(c, 1);
  }
}

#endif
