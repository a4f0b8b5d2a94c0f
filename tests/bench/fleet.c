/* Devices that live through failures: MQTT 3.1.1 with kept sessions and a keepalive of a second,
 * thousands in one thread. Each goes to the next server when its connection ends or says nothing,
 * the first time at once but for some jitter, then with exponential backoff, and notes every
 * message: what is missing, what came twice, and the longest time without any.
 *
 *   fleet devices=2700 topics=10 servers=10.0.0.1:1883,10.0.0.2:1883 [password=TOKEN]
 *
 * Each device subscribes to one of fleet/0, fleet/1, ..., with QoS 1, whose messages are numbers
 * from 1 on, in decimals; it begins at server n % servers. Commands come on stdin, one a line; each
 * is answered with a line of JSON:
 *
 *   state              how many are subscribed, how many got a message in the last second
 *   begin              silences and repetitions are counted from here on
 *   report             these; milliseconds, of each device
 *   lost TOPIC FIRST LAST    of these numbers, what did not come: "number of device"
 *   home               all go to the server that they began with
 *
 * It ends with its stdin. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <ctype.h>
#include <sys/resource.h>

#include "client.h"

#define SERVERS_MAX 16u
/* Of one topic in one run. */
#define NUMBERS_MAX 65536u
#define TICK_MS 5
#define EXAMPLES_MAX 40u
#define PING_AFTER_NS 500000000u
#define SILENCE_MAX_NS 1000000000u
#define CONNECT_MAX_NS 1000000000u
/* A node that lets a device in may have to wait until a dead one's sessions are free. */
#define WELCOME_MAX_NS 3000000000u
#define JITTER_NS 50000000u
#define BACKOFF_MAX_NS 1000000000u
#define HOME_JITTER_NS 1000000000u
#define SERVED_NS 1000000000u
#define PACKET_ROOM 4096u

enum device_state { WAITING = 0, CONNECTING, GREETING, SUBSCRIBING, SUBSCRIBED };

struct device {
  int fd;
  enum device_state state;
  uint32_t number, server, attempt, topic;
  bool was_subscribed;
  uint32_t partial_bytes, partial_capacity;
  uint8_t *partial;
  uint64_t due_ns;   /* WAITING: when it connects; until SUBSCRIBED: when it gives up */
  uint64_t sent_ns;  /* anything was sent [MQTT-3.1.2-23] */
  uint64_t heard_ns; /* anything came */
  uint64_t got_ns;   /* a message came */
  uint64_t silence_ns;
  uint64_t seen[NUMBERS_MAX / 64];
};

static struct {
  struct sockaddr_in servers[SERVERS_MAX];
  uint32_t servers_count, devices_count, topics;
  const char *password, *prefix;
  struct device *devices;
  int epoll_fd;
  uint64_t begin_ns;
  uint64_t repeated, reconnects, malformed;
  uint64_t random;
} fleet = {.devices_count = 100, .topics = 1, .password = "", .prefix = "device"};

/* xorshift64*; the state is never 0. */
static uint64_t random_below(uint64_t bound) {
  fleet.random ^= fleet.random >> 12;
  fleet.random ^= fleet.random << 25;
  fleet.random ^= fleet.random >> 27;
  return (fleet.random * 0x2545f4914f6cdd1du >> 11) % bound;
}

/* ------------------------------------------------------------------ a connection */

static void wait_until(struct device *d, uint64_t due_ns) {
  if (d->state != WAITING) close(d->fd);
  d->state = WAITING;
  d->partial_bytes = 0;
  d->due_ns = due_ns;
}

/* The connection is of no use: the next server, soon. */
static void give_up(struct device *d, uint64_t now_ns) {
  uint32_t doublings = d->attempt < 5 ? d->attempt : 5;
  uint64_t delay_ns = (uint64_t)JITTER_NS << doublings;
  if (delay_ns > BACKOFF_MAX_NS) delay_ns = BACKOFF_MAX_NS;
  d->attempt++;
  d->server = (d->server + 1) % fleet.servers_count;
  fleet.reconnects++;
  wait_until(d, now_ns + random_below(delay_ns));
}

/* Packets of a device are small and few: a socket that does not take one is broken. */
static void send_all(struct device *d, const uint8_t *bytes, size_t size, uint64_t now_ns) {
  d->sent_ns = now_ns;
  if (send(d->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size) give_up(d, now_ns);
}

static void device_connect(struct device *d, uint64_t now_ns) {
  const int on = 1;
  d->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (d->fd < 0) {
    fprintf(stderr, "Cannot open a socket: %s\n", strerror(errno));
    exit(2);
  }
  setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  d->state = CONNECTING;
  d->due_ns = now_ns + CONNECT_MAX_NS;
  const struct sockaddr_in *server = &fleet.servers[d->server];
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = d};
  if ((connect(d->fd, (const struct sockaddr *)server, sizeof *server) && errno != EINPROGRESS) ||
      epoll_ctl(fleet.epoll_fd, EPOLL_CTL_ADD, d->fd, &event)) {
    give_up(d, now_ns);
  }
}

static void device_greet(struct device *d, uint64_t now_ns) {
  uint8_t packet[PACKET_ROOM];
  char id[64];
  bool has_password = fleet.password[0] != 0;
  snprintf(id, sizeof id, "%.32s-%u", fleet.prefix, d->number);
  size_t credentials = has_password ? 2 + 1 + 2 + strlen(fleet.password) : 0;
  uint8_t *end = mqtt_put_head(packet, MQTT_CONNECT, 10 + 2 + strlen(id) + credentials);
  end = mqtt_put_string(end, "MQTT");
  *end++ = 4;                          /* protocol level: 3.1.1 */
  *end++ = has_password ? 0xc0 : 0x00; /* user name, password; the session is kept */
  end = mqtt_put_string(put_u16_big(end, 1), id);
  if (has_password) end = mqtt_put_string(mqtt_put_string(end, "d"), fleet.password);
  d->state = GREETING;
  d->heard_ns = now_ns;
  d->due_ns = now_ns + WELCOME_MAX_NS;
  send_all(d, packet, (size_t)(end - packet), now_ns);
}

static void device_subscribed(struct device *d) {
  d->state = SUBSCRIBED;
  d->was_subscribed = true;
  d->attempt = 0;
}

static void device_welcome(struct device *d, const struct frame *f, uint64_t now_ns) {
  uint8_t packet[64];
  char topic[TOPIC_BYTES_MAX];
  if (f->code) return give_up(d, now_ns);
  if (f->session_present && d->was_subscribed) return device_subscribed(d);
  d->state = SUBSCRIBING;
  snprintf(topic, sizeof topic, "fleet/%u", d->topic);
  send_all(d, packet, mqtt_subscribe(packet, topic, 1), now_ns);
}

static void device_message(struct device *d, const struct frame *f, uint64_t now_ns) {
  uint64_t number = 0;
  for (size_t i = 0; i < f->payload_bytes && isdigit(f->payload[i]); i++)
    number = number * 10 + (uint64_t)(f->payload[i] - '0');
  if (number == 0 || number >= NUMBERS_MAX) {
    fleet.malformed++;
    return;
  }
  uint64_t bit = (uint64_t)1 << number % 64, *word = &d->seen[number / 64];
  if (*word & bit) fleet.repeated++;
  *word |= bit;
  uint64_t since_ns = d->got_ns > fleet.begin_ns ? d->got_ns : fleet.begin_ns;
  if (now_ns - since_ns > d->silence_ns) d->silence_ns = now_ns - since_ns;
  d->got_ns = now_ns;
}

/* Handles every whole packet; bytes used. The connection may be over then. */
static size_t device_consume(struct device *d, const uint8_t *in, size_t size, uint64_t now_ns) {
  static uint8_t acks[READ_BYTES];
  size_t at = 0, ack_bytes = 0;
  while (at < size && d->state != WAITING) {
    struct frame f;
    long used = mqtt_cut(in + at, size - at, &f);
    if (used == 0) break;
    if (used < 0) {
      fleet.malformed++;
      give_up(d, now_ns);
      return size;
    }
    at += (size_t)used;
    if (f.kind == FRAME_WELCOME && d->state == GREETING) device_welcome(d, &f, now_ns);
    else if (f.kind == FRAME_SUBSCRIBED && f.code == 1) device_subscribed(d);
    else if (f.kind == FRAME_MESSAGE) {
      device_message(d, &f, now_ns);
      if (f.qos) ack_bytes += mqtt_ack(acks + ack_bytes, f.packet_id);
    } else if (f.kind != FRAME_PONG) {
      fleet.malformed++;
      give_up(d, now_ns);
    }
  }
  if (ack_bytes > 0 && d->state != WAITING) send_all(d, acks, ack_bytes, now_ns);
  return at;
}

static void device_readable(struct device *d, uint64_t now_ns) {
  static uint8_t room[READ_BYTES];
  while (d->state > CONNECTING) {
    size_t kept = d->partial_bytes;
    ssize_t n = recv(d->fd, room + kept, READ_BYTES - kept, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return give_up(d, now_ns);
    if (kept) memcpy(room, d->partial, kept);
    d->partial_bytes = 0;
    d->heard_ns = now_ns;
    size_t size = kept + (size_t)n, used = device_consume(d, room, size, now_ns);
    if (d->state == WAITING) return;
    keep_bytes(&d->partial, &d->partial_bytes, &d->partial_capacity, room + used, size - used);
  }
}

static void device_event(struct device *d, uint32_t events, uint64_t now_ns) {
  if (d->state == CONNECTING) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error || events & (EPOLLERR | EPOLLHUP)) return give_up(d, now_ns);
    if (events & EPOLLOUT) device_greet(d, now_ns);
    return;
  }
  if (events & ~(uint32_t)EPOLLOUT) device_readable(d, now_ns);
}

/* What is due at this time. */
static void device_tick(struct device *d, uint64_t now_ns) {
  uint8_t packet[2];
  if (d->state == WAITING) {
    if (d->due_ns <= now_ns) device_connect(d, now_ns);
  } else if (d->state < SUBSCRIBED) {
    if (d->due_ns <= now_ns) give_up(d, now_ns);
  } else if (now_ns - d->heard_ns > SILENCE_MAX_NS) {
    give_up(d, now_ns);
  } else if (now_ns - d->sent_ns > PING_AFTER_NS) {
    send_all(d, packet, mqtt_ping(packet), now_ns);
  }
}

/* ------------------------------------------------------------------ commands */

static void say_state(uint64_t now_ns) {
  uint32_t subscribed = 0, served = 0, home = 0;
  for (uint32_t i = 0; i < fleet.devices_count; i++) {
    const struct device *d = &fleet.devices[i];
    if (d->state != SUBSCRIBED) continue;
    subscribed++;
    served += now_ns - d->got_ns < SERVED_NS;
    home += d->server == i % fleet.servers_count;
  }
  printf("{\"subscribed\":%u,\"served\":%u,\"home\":%u}\n", subscribed, served, home);
}

static void begin(uint64_t now_ns) {
  fleet.begin_ns = now_ns;
  fleet.repeated = fleet.reconnects = 0;
  for (uint32_t i = 0; i < fleet.devices_count; i++) fleet.devices[i].silence_ns = 0;
  printf("{}\n");
}

/* One that has got nothing since is silent up to now. */
static void say_report(uint64_t now_ns) {
  printf("{\"repeated\":%llu,\"reconnects\":%llu,\"wrong\":%llu,\"silences_ms\":[",
         (unsigned long long)fleet.repeated, (unsigned long long)fleet.reconnects,
         (unsigned long long)fleet.malformed);
  for (uint32_t i = 0; i < fleet.devices_count; i++) {
    const struct device *d = &fleet.devices[i];
    uint64_t since_ns = d->got_ns > fleet.begin_ns ? d->got_ns : fleet.begin_ns;
    uint64_t silence_ns = now_ns - since_ns > d->silence_ns ? now_ns - since_ns : d->silence_ns;
    printf("%s%llu", i ? "," : "", (unsigned long long)(silence_ns / 1000000u));
  }
  printf("]}\n");
}

static void say_lost(uint32_t topic, uint32_t first, uint32_t last) {
  uint64_t lost = 0;
  printf("{\"examples\":[");
  for (uint32_t i = 0; i < fleet.devices_count; i++) {
    const struct device *d = &fleet.devices[i];
    if (d->topic != topic) continue;
    for (uint32_t number = first; number <= last && number < NUMBERS_MAX; number++) {
      if (d->seen[number / 64] >> number % 64 & 1) continue;
      if (lost++ < EXAMPLES_MAX) printf("%s\"%u of %u\"", lost == 1 ? "" : ",", number, i);
    }
  }
  printf("],\"lost\":%llu}\n", (unsigned long long)lost);
}

static void go_home(uint64_t now_ns) {
  for (uint32_t i = 0; i < fleet.devices_count; i++) {
    struct device *d = &fleet.devices[i];
    uint32_t home = i % fleet.servers_count;
    if (d->server == home && d->state == SUBSCRIBED) continue;
    d->server = home;
    d->attempt = 0;
    wait_until(d, now_ns + random_below(HOME_JITTER_NS));
  }
  printf("{}\n");
}

static void obey(const char *line, uint64_t now_ns) {
  uint32_t topic, first, last;
  if (!strcmp(line, "state")) say_state(now_ns);
  else if (!strcmp(line, "begin")) begin(now_ns);
  else if (!strcmp(line, "report")) say_report(now_ns);
  else if (!strcmp(line, "home")) go_home(now_ns);
  else if (sscanf(line, "lost %u %u %u", &topic, &first, &last) == 3) say_lost(topic, first, last);
  else printf("{\"unknown\":true}\n");
  fflush(stdout);
}

static void read_commands(uint64_t now_ns) {
  static char text[1024];
  static size_t size;
  ssize_t n = read(STDIN_FILENO, text + size, sizeof text - size - 1);
  if (n <= 0) exit(0);
  size += (size_t)n;
  for (char *end; (end = memchr(text, '\n', size));) {
    *end = 0;
    obey(text, now_ns);
    size -= (size_t)(end + 1 - text);
    memmove(text, end + 1, size);
  }
  if (size == sizeof text - 1) exit(2);
}

/* ------------------------------------------------------------------ settings */

static void refuse(const char *argument) {
  fprintf(stderr, "Cannot use \"%s\"\n", argument);
  exit(2);
}

static void read_servers(const char *text) {
  for (const char *at = text; *at;) {
    char host[64];
    unsigned port;
    int used = 0;
    struct sockaddr_in server = {.sin_family = AF_INET};
    if (fleet.servers_count == SERVERS_MAX ||
        sscanf(at, "%63[0-9.]:%u%n", host, &port, &used) != 2 || port > 65535 ||
        inet_pton(AF_INET, host, &server.sin_addr) != 1) {
      refuse(text);
    }
    server.sin_port = htons((uint16_t)port);
    fleet.servers[fleet.servers_count++] = server;
    at += used;
    if (*at == ',') at++;
  }
}

static void read_argument(char *argument) {
  char *value = strchr(argument, '=');
  if (!value) refuse(argument);
  value++;
  if (!strncmp(argument, "devices=", 8)) fleet.devices_count = (uint32_t)strtoul(value, NULL, 10);
  else if (!strncmp(argument, "topics=", 7)) fleet.topics = (uint32_t)strtoul(value, NULL, 10);
  else if (!strncmp(argument, "servers=", 8)) read_servers(value);
  else if (!strncmp(argument, "password=", 9)) fleet.password = value;
  else if (!strncmp(argument, "prefix=", 7)) fleet.prefix = value;
  else refuse(argument);
}

int main(int count, char **arguments) {
  static struct epoll_event events[EVENTS_MAX];
  for (int i = 1; i < count; i++) read_argument(arguments[i]);
  if (!fleet.servers_count || !fleet.devices_count || !fleet.topics) refuse("servers=");
  if (strlen(fleet.password) > PACKET_ROOM - 128) refuse("password=");
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  fleet.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  fleet.devices = allocate(fleet.devices_count, sizeof *fleet.devices);
  uint64_t now_ns = monotonic_ns();
  fleet.random = now_ns | 1;
  struct epoll_event commands = {.events = EPOLLIN};
  if (epoll_ctl(fleet.epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &commands)) return 2;
  for (uint32_t i = 0; i < fleet.devices_count; i++) {
    struct device *d = &fleet.devices[i];
    d->number = i;
    d->server = i % fleet.servers_count;
    /* Devices of a topic are at all servers. */
    d->topic = i / fleet.servers_count % fleet.topics;
    d->due_ns = now_ns + random_below(HOME_JITTER_NS);
  }
  for (uint64_t ticked_ns = 0;;) {
    int n = epoll_wait(fleet.epoll_fd, events, EVENTS_MAX, TICK_MS);
    now_ns = monotonic_ns();
    for (int i = 0; i < n; i++) {
      if (!events[i].data.ptr) read_commands(now_ns);
      else device_event(events[i].data.ptr, events[i].events, now_ns);
    }
    if (now_ns - ticked_ns < TICK_MS * 1000000u) continue;
    ticked_ns = now_ns;
    for (uint32_t i = 0; i < fleet.devices_count; i++) device_tick(&fleet.devices[i], now_ns);
  }
}
